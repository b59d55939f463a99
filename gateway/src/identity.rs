//! Which agent a process is, from what the kernel says about it.
