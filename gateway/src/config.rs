//! weir.toml: what a person wrote, and what the daemon works with.
