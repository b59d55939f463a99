//! The protocol of a connection, from its first bytes.
