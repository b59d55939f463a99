//! PostgreSQL's frames and messages, bounded.
