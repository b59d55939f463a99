//! The way to the database: dial, TLS, log in with Weir's own credential.
