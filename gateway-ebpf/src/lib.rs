//! Types shared by Weir's eBPF programs and its daemon.
#![no_std]
