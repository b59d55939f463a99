//! Finds the eBPF object that `cargo xtask ebpf` built, for `capture` to embed.

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");
    let object = target_dir().join("ebpf/weir.o");
    println!("cargo::rerun-if-changed={}", object.display());
    if object.is_file() {
        println!("cargo::rustc-env=WEIR_EBPF_OBJECT={}", object.display());
    } else {
        println!(
            "cargo::error={} is missing: run `cargo xtask ebpf` once, it builds the eBPF programs that weir embeds",
            object.display()
        );
    }
}

/// The workspace's target directory, as `cargo xtask ebpf` finds it too.
fn target_dir() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    workspace.join(target)
}
