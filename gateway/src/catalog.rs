//! What the upstream catalog says about relations, columns and functions, as one immutable snapshot.
