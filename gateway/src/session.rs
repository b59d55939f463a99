//! One session, from Origin to digest.
