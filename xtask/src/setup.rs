//! Installs on a bare Debian or Ubuntu, with only cargo and apt, what the other tasks need. Looks
//! first: on a machine that has everything it only says so.

use std::collections::HashSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use xtask::steps::cargo;

use crate::ebpf::{Compiler, find_program};

/// Something that must be on the machine.
struct Requirement {
    name: &'static str,
    needed_by: &'static str,
    check: Check,
    install: Install,
}

/// How to see that it is there.
enum Check {
    /// All of these Debian packages are installed.
    Packages,
    /// A program is on the PATH or in cargo's.
    Program(&'static str),
    /// A compiler that can build for BPF.
    BpfCompiler,
    /// Any version, where bindgen looks for it.
    Libclang,
    /// What was installed into this directory of the cache is this same list.
    Cached(&'static str),
}

/// How to get it.
enum Install {
    Apt(&'static [&'static str]),
    /// Arguments of `cargo install`.
    Cargo(&'static [&'static str]),
    BpfLinker,
    RustupComponents(&'static [&'static str]),
    /// Packages from PyPI, into a virtual environment of the cache.
    Python(&'static [&'static str]),
    /// Packages from npm, into the cache.
    Node(&'static [&'static str]),
}

/// LLVM 22 is that of Debian's rustc-web 1.96, and bpf-linker has to have the compiler's.
const BPF_PACKAGES: &[&str] = &[
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "llvm-22-dev",
    "clang-22",
    "libclang-22-dev",
    "libpolly-22-dev",
];

pub(crate) const LLVM: &str = "/usr/lib/llvm-22";

/// In the order of installation: later ones use earlier ones.
const REQUIREMENTS: &[Requirement] = &[
    Requirement {
        name: "C compiler",
        needed_by: "build",
        check: Check::Packages,
        install: Install::Apt(&["build-essential", "pkg-config"]),
    },
    Requirement {
        name: "libclang",
        needed_by: "build",
        check: Check::Libclang,
        install: Install::Apt(&["libclang-dev"]),
    },
    Requirement {
        name: "Rust for eBPF",
        needed_by: "ebpf",
        check: Check::BpfCompiler,
        install: Install::Apt(BPF_PACKAGES),
    },
    Requirement {
        name: "PostgreSQL and pgbouncer",
        needed_by: "test, bench, demo",
        check: Check::Packages,
        install: Install::Apt(&["postgresql", "postgresql-contrib", "pgbouncer"]),
    },
    Requirement {
        name: "namespace and disk tools and Python",
        needed_by: "test, bench, demo",
        check: Check::Packages,
        install: Install::Apt(&["iproute2", "mount", "e2fsprogs", "python3", "python3-venv"]),
    },
    Requirement {
        name: "container runtimes",
        needed_by: "test",
        check: Check::Packages,
        install: Install::Apt(&["containerd", "runc", "podman", "busybox-static"]),
    },
    Requirement {
        name: "Node.js",
        needed_by: "test",
        check: Check::Program("node"),
        install: Install::Apt(&["nodejs"]),
    },
    Requirement {
        name: "npm",
        needed_by: "test",
        check: Check::Program("npm"),
        install: Install::Apt(&["npm"]),
    },
    Requirement {
        name: "bpf-linker",
        needed_by: "ebpf",
        check: Check::Program("bpf-linker"),
        install: Install::BpfLinker,
    },
    Requirement {
        name: "rustfmt",
        needed_by: "lint",
        check: Check::Program("cargo-fmt"),
        install: Install::RustupComponents(&["rustfmt"]),
    },
    Requirement {
        name: "clippy",
        needed_by: "lint",
        check: Check::Program("cargo-clippy"),
        install: Install::RustupComponents(&["clippy"]),
    },
    Requirement {
        name: "cargo-deny",
        needed_by: "lint",
        check: Check::Program("cargo-deny"),
        install: Install::Cargo(&["cargo-deny", "--locked"]),
    },
    Requirement {
        name: "cargo-fuzz",
        needed_by: "fuzz",
        check: Check::Program("cargo-fuzz"),
        install: Install::Cargo(&["cargo-fuzz", "--locked"]),
    },
    Requirement {
        name: "Python drivers",
        needed_by: "test",
        check: Check::Cached("python"),
        install: Install::Python(&["psycopg[binary]~=3.2", "asyncpg~=0.30", "pg8000~=1.31"]),
    },
    Requirement {
        name: "node-postgres",
        needed_by: "test",
        check: Check::Cached("node"),
        install: Install::Node(&["pg@8"]),
    },
];

/// For the battery on the kernel that runs here.
const BATTERY: &[Requirement] = &[Requirement {
    name: "nftables",
    needed_by: "vm-test",
    check: Check::Packages,
    install: Install::Apt(&["nftables"]),
}];

/// For the battery on other kernels.
const MACHINES: &[Requirement] = &[Requirement {
    name: "QEMU and what its guests are made with",
    needed_by: "vm-test",
    check: Check::Packages,
    install: Install::Apt(&[
        "qemu-system-x86",
        "busybox-static",
        "cpio",
        "xz-utils",
        "binutils",
        "nftables",
        "e2fsprogs",
    ]),
}];

/// What lays a release out.
const RELEASE: &[Requirement] = &[Requirement {
    name: "BOLT",
    needed_by: "release, bench",
    check: Check::Packages,
    install: Install::Apt(&["bolt-22"]),
}];

/// Installs what is missing.
pub(crate) fn run() -> Result<()> {
    install(REQUIREMENTS)
}

/// Installs what a release needs as well.
pub(crate) fn release() -> Result<()> {
    run()?;
    install(RELEASE)
}

/// Installs what the battery needs besides: `machines` if it runs on other kernels too.
pub(crate) fn battery(machines: bool) -> Result<()> {
    install(BATTERY)?;
    if machines {
        install(MACHINES)?;
    }
    Ok(())
}

fn install(requirements: &[Requirement]) -> Result<()> {
    let installed = installed_packages()?;
    let missing: Vec<_> = requirements
        .iter()
        .filter(|r| !r.is_there(&installed))
        .collect();
    if missing.is_empty() {
        println!("setup: everything is there");
        return Ok(());
    }
    apt(&missing, &installed)?;
    for requirement in missing {
        if !matches!(requirement.install, Install::Apt(_)) {
            println!(
                "setup: {} (for {})",
                requirement.name, requirement.needed_by
            );
            let failed = || format!("{} could not be installed", requirement.name);
            requirement.install().with_context(failed)?;
        }
    }
    println!("setup: done");
    Ok(())
}

/// Where packages of Python (`python/`, a virtual environment) and Node.js (`node/node_modules`) are.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| Some(env::home_dir()?.join(".cache")));
    Ok(base
        .context("neither XDG_CACHE_HOME nor HOME is set")?
        .join("weir"))
}

impl Requirement {
    fn is_there(&self, installed: &HashSet<String>) -> bool {
        match (&self.check, &self.install) {
            (Check::Program(name), _) => find_program(name).is_some(),
            (Check::BpfCompiler, _) => Compiler::find().is_ok(),
            (Check::Libclang, _) => installed.iter().any(|name| is_libclang(name)),
            (Check::Packages, Install::Apt(packages)) => {
                packages.iter().all(|package| installed.contains(*package))
            }
            (Check::Cached(place), Install::Python(list) | Install::Node(list)) => {
                is_cached(place, list)
            }
            (Check::Packages | Check::Cached(_), _) => false,
        }
    }

    fn install(&self) -> Result<()> {
        match &self.install {
            Install::Apt(_) => Ok(()),
            Install::Cargo(arguments) => run_command(cargo().arg("install").args(*arguments)),
            Install::BpfLinker => bpf_linker(),
            Install::RustupComponents(names) => run_command(
                Command::new("rustup")
                    .args(["component", "add"])
                    .args(*names),
            ),
            Install::Python(list) => python(list),
            Install::Node(list) => node(list),
        }
    }
}

/// The names of all Debian packages on this machine.
fn installed_packages() -> Result<HashSet<String>> {
    let output = Command::new("dpkg-query")
        .args(["-W", "-f=${db:Status-Status} ${Package}\n"])
        .output()
        .context("there is no dpkg-query: this task knows Debian and Ubuntu")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let installed = text
        .lines()
        .filter_map(|line| line.strip_prefix("installed "));
    Ok(installed.map(str::to_owned).collect())
}

/// `libclang-dev` or one of a version, such as `libclang-22-dev`.
fn is_libclang(package: &str) -> bool {
    let version = package
        .strip_prefix("libclang-")
        .and_then(|rest| rest.strip_suffix("dev"));
    version.is_some_and(|version| {
        version
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'-')
    })
}

/// Runs as root. Keeps PostgreSQL and pgbouncer from being started by their installation: tests start
/// their own.
const APT: &str = r#"
set -e
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends "$@"
"#;

/// Installs the Debian packages of all requirements at once.
fn apt(missing: &[&Requirement], installed: &HashSet<String>) -> Result<()> {
    let mut packages = Vec::new();
    for requirement in missing {
        if let Install::Apt(list) = requirement.install {
            println!(
                "setup: {} (for {})",
                requirement.name, requirement.needed_by
            );
            packages.extend(list.iter().filter(|package| !installed.contains(**package)));
        }
    }
    if packages.is_empty() {
        return Ok(());
    }
    let root = nix::unistd::geteuid().is_root();
    if !root && find_program("sudo").is_none() {
        let list: Vec<&str> = packages.into_iter().copied().collect();
        bail!(
            "run this as root first: apt-get install --no-install-recommends {}",
            list.join(" ")
        );
    }
    let mut command = Command::new(if root { "sh" } else { "sudo" });
    if !root {
        command.arg("sh");
    }
    run_command(command.args(["-c", APT, "apt"]).args(packages)).context(
        "apt-get failed (where a release has no rustc-web, run `rustup toolchain install nightly \
         --component rust-src` and `cargo install bpf-linker`, then this again)",
    )
}

fn bpf_linker() -> Result<()> {
    let mut command = cargo();
    command.args(["install", "bpf-linker", "--version", "0.13.0"]);
    if Path::new(LLVM).exists() {
        let path = env::var_os("PATH").unwrap_or_default();
        let bin = PathBuf::from(LLVM).join("bin");
        command
            .args(["--no-default-features", "--features", "llvm-22"])
            .env("LLVM_PREFIX", LLVM)
            .env("LLVM_SYS_221_PREFIX", LLVM)
            .env(
                "PATH",
                env::join_paths([bin].into_iter().chain(env::split_paths(&path)))?,
            );
    }
    run_command(&mut command)
}

fn python(list: &[&str]) -> Result<()> {
    let place = cache()?.join("python");
    run_command(Command::new("python3").args(["-m", "venv"]).arg(&place))?;
    let mut pip = Command::new(place.join("bin/pip"));
    run_command(
        pip.args(["install", "--quiet", "--disable-pip-version-check"])
            .args(list),
    )?;
    remember(&place, list)
}

fn node(list: &[&str]) -> Result<()> {
    let place = cache()?.join("node");
    fs::create_dir_all(&place)?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--prefix"])
        .arg(&place);
    run_command(npm.args(list))?;
    remember(&place, list)
}

/// Notes what a directory of the cache has, once it is whole.
fn remember(place: &Path, list: &[&str]) -> Result<()> {
    Ok(fs::write(place.join("installed"), list.join("\n"))?)
}

fn is_cached(place: &str, list: &[&str]) -> bool {
    let note = cache().map(|cache| cache.join(place).join("installed"));
    note.is_ok_and(|note| fs::read_to_string(note).is_ok_and(|text| text == list.join("\n")))
}

fn run_command(command: &mut Command) -> Result<()> {
    let program = command.get_program().display().to_string();
    let status = command
        .status()
        .with_context(|| format!("{program} can't be run"))?;
    if !status.success() {
        bail!("{program} ended with {status}");
    }
    Ok(())
}
