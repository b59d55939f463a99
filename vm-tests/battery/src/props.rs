//! Things that stand outside of a container while an attack runs.
