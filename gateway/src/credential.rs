//! Secrets: where they come from, and that they go nowhere.
