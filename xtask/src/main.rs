//! `cargo xtask`: the one front door for people who develop Weir.

fn main() {}
