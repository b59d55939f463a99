//! Masking of result columns.
