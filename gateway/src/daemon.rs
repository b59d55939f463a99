//! Bringing the parts up, and down.
