//! Builds the eBPF programs to `<target>/ebpf/weir.o`, where `gateway/build.rs` expects them.
//!
//! The BPF target has no precompiled `core`, so this takes a compiler with the library's source:
//! Debian's own, or rustup's nightly. The gateway itself is built with neither.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use xtask::cache;

/// Debian's compiler, which `cargo xtask setup` installs (rustc-web, cargo-web, rust-web-src).
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

const TARGET: &str = "bpfel-unknown-none";

/// Builds the programs. Cheap if nothing has changed; the object is only touched if it differs, so
/// that the gateway isn't built again either.
pub(crate) fn run() -> Result<()> {
    let compiler = Compiler::find()?;
    if find_program("bpf-linker").is_none() {
        bail!("bpf-linker is missing: run `cargo xtask setup`, or `cargo install bpf-linker`");
    }
    let build_dir = target_dir().join("ebpf-build");
    let status = compiler
        .cargo()
        .args(["build", "--quiet", "--release", "--package", "gateway-ebpf"])
        .args([
            "--bin",
            "weir-ebpf",
            "--target",
            TARGET,
            "-Z",
            "build-std=core",
        ])
        .arg("--target-dir")
        .arg(&build_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags())
        .env("PATH", path_with_cargo_bin()?)
        .current_dir(workspace())
        .status()
        .context("cargo can't be run")?;
    if !status.success() {
        bail!("the eBPF programs don't build");
    }
    let built = build_dir.join(TARGET).join("release/weir-ebpf");
    cache::install(&built, &target_dir().join("ebpf/weir.o"))
}

/// A Rust compiler that can build `core`.
pub(crate) enum Compiler {
    /// Debian's, allowed to use unstable options.
    Debian,
    /// rustup's nightly.
    Nightly,
}

impl Compiler {
    /// Looks for one, Debian's first: its LLVM is the one that setup builds bpf-linker with.
    ///
    /// # Errors
    /// If there is none, with what to do.
    pub(crate) fn find() -> Result<Self> {
        if Path::new(DEBIAN_CARGO).exists() && has_core(Command::new(DEBIAN_RUSTC)) {
            return Ok(Self::Debian);
        }
        let mut nightly = Command::new("rustup");
        nightly.args(["run", "nightly", "rustc"]);
        if has_core(nightly) {
            return Ok(Self::Nightly);
        }
        bail!(
            "no Rust compiler with the source of `core`: run `cargo xtask setup`, or \
             `rustup toolchain install nightly --component rust-src`"
        )
    }

    /// Its cargo, with nothing left of the toolchain that runs xtask.
    fn cargo(&self) -> Command {
        let mut command = match self {
            Self::Debian => {
                let mut command = Command::new(DEBIAN_CARGO);
                command
                    .env("RUSTC", DEBIAN_RUSTC)
                    .env("RUSTC_BOOTSTRAP", "1");
                command
            }
            Self::Nightly => {
                let mut command = Command::new("rustup");
                command
                    .args(["run", "nightly", "cargo"])
                    .env_remove("RUSTC");
                command
            }
        };
        for variable in [
            "RUSTUP_TOOLCHAIN",
            "RUSTFLAGS",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
        ] {
            command.env_remove(variable);
        }
        command
    }
}

/// Whether a compiler exists, and the source of `core` beside it.
fn has_core(mut rustc: Command) -> bool {
    let output = rustc
        .args(["--print", "sysroot"])
        .stderr(Stdio::null())
        .output();
    output.is_ok_and(|output| {
        let sysroot = String::from_utf8_lossy(&output.stdout);
        let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
        output.status.success() && library.exists()
    })
}

/// BTF for the maps' types and the verifier's messages, and the host's `pt_regs` for aya.
fn rustflags() -> String {
    [
        format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
    ]
    .join("\x1f")
}

/// The workspace's root.
pub(crate) fn workspace() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// The workspace's target directory, as `gateway/build.rs` finds it too.
fn target_dir() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    workspace().join(target)
}

/// Where `cargo install` puts programs.
fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(env::home_dir()?.join(".cargo")))?;
    Some(home.join("bin"))
}

/// Finds a program on the PATH or where `cargo install` puts it.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places = env::split_paths(&path)
        .chain(cargo_bin())
        .map(|place| place.join(name));
    places.find(|place| place.is_file())
}

fn path_with_cargo_bin() -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    Ok(env::join_paths(env::split_paths(&path).chain(cargo_bin()))?)
}
