//! Everything that touches the kernel: eBPF programs, pins, and listeners inside namespaces.
