//! The guest that boots systemd and runs agents as podman containers: a disk with the packages'
//! root file system, Weir, PostgreSQL, the battery as a unit, and the files of the agents' image.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use tempfile::TempDir;
use xtask::cache;

use super::{
    image::{self, Modules, PROGRAMS, Tree, run},
    kernel::Files,
    packages,
};

/// What the guest boots from.
pub(super) struct Disk {
    /// The kernel's first root, which mounts the disk.
    pub(super) initrd: PathBuf,
    /// The disk.
    pub(super) image: PathBuf,
}

/// What podman's storage and networks need of the kernel, beside what attackers do.
const MODULES: [&str; 9] = [
    "overlay",
    "nft_compat",
    "nft_ct",
    "xt_comment",
    "xt_MASQUERADE",
    "xt_conntrack",
    "xt_mark",
    "xt_addrtype",
    "xt_nat",
];
/// What agents have in their image beside psql and the battery.
const AGENTS: [&str; 6] = [
    "/bin/sh",
    "/bin/cat",
    "/bin/sleep",
    "/bin/ip",
    "/usr/sbin/nft",
    "/usr/bin/id",
];
/// Units that a guest of one hour has no use for.
const MASKED: [&str; 16] = [
    "systemd-udevd.service",
    "systemd-udev-trigger.service",
    "systemd-journal-flush.service",
    "systemd-update-utmp.service",
    "systemd-random-seed.service",
    "systemd-machine-id-commit.service",
    "systemd-firstboot.service",
    "systemd-remount-fs.service",
    "systemd-sysusers.service",
    "systemd-tmpfiles-clean.timer",
    "podman-auto-update.timer",
    "proc-sys-fs-binfmt_misc.automount",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
];
const TARGET: &str = "\
[Unit]
Requires=basic.target battery.service
After=basic.target
AllowIsolate=yes
";
const BATTERY: &str = "\
[Unit]
After=basic.target dbus.socket
Wants=dbus.socket
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=exec
ExecStart=/usr/bin/battery podman
Environment=HOME=/root LANG=C.UTF-8 CARGO_TARGET_DIR=/var/cache/battery BATTERY_SLOW=1
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
";
/// As Docker gives them; Debian's podman has fewer.
const CONTAINERS: &str = r#"
[containers]
default_capabilities = [
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD",
    "NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
]
log_driver = "none"

[engine]
cgroup_manager = "systemd"
events_logger = "none"
runtime = "crun"

[network]
network_backend = "netavark"
"#;
const POLICY: &str = r#"{ "default": [{ "type": "insecureAcceptAnything" }] }"#;
const INIT: &str = "\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox insmod /virtio_blk.ko
/bin/busybox mount -t ext4 -o rw,noatime /dev/vda /new
for place in tmp var/tmp var/lib/containers; do
    /bin/busybox mkdir -p /new/$place
    /bin/busybox mount -t tmpfs tmpfs /new/$place
done
exec /bin/busybox switch_root /new /sbin/init
";

/// A disk for `files` on which the scenarios of `filter` run.
pub(super) fn make(files: &Files, filter: &[String]) -> Result<Disk> {
    let folder = cache::target().join("vm");
    fs::create_dir_all(&folder)?;
    let work = TempDir::with_prefix_in("systemd-", &folder)?;
    let tree = Tree(work.path().join("root"));
    run(Command::new("cp")
        .arg("-a")
        .arg("--reflink=auto")
        .arg(packages::root()?)
        .arg(&tree.0))?;
    host(&tree, files, filter)?;
    agents(&Tree(tree.at("srv/agent")))?;
    let image = folder.join("systemd.ext4");
    disk(&tree.0, &image)?;
    let initrd = folder.join("systemd.cpio");
    first_root(&Tree(work.path().join("initrd")), files, &initrd)?;
    Ok(Disk { initrd, image })
}

/// The machine on which agents run.
fn host(tree: &Tree, files: &Files, filter: &[String]) -> Result<()> {
    tree.folders()?;
    tree.programs(&PROGRAMS)?;
    tree.built(&["weir", "battery"])?;
    tree.postgres()?;
    tree.modules(files, &MODULES)?;
    let bus = "messagebus:x:100:100::/nonexistent:/usr/sbin/nologin\n";
    let groups = "messagebus:x:100:\nadm:x:4:\ntty:x:5:\nutmp:x:43:\nsystemd-journal:x:101:\n";
    append(&tree.at("etc/passwd"), bus)?;
    append(&tree.at("etc/group"), groups)?;
    for name in ["iptables", "ip6tables", "iptables-save", "iptables-restore"] {
        let place = tree.at("usr/sbin").join(name);
        symlink("xtables-nft-multi", place)?;
    }
    fs::create_dir_all(tree.at("etc/containers"))?;
    fs::create_dir_all(tree.at("etc/systemd/system"))?;
    for (file, text) in [
        ("etc/battery/filter", filter.join("\n").as_str()),
        ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("etc/fstab", ""),
        ("etc/containers/containers.conf", CONTAINERS),
        ("etc/containers/policy.json", POLICY),
        ("etc/systemd/system/battery.target", TARGET),
        ("etc/systemd/system/battery.service", BATTERY),
    ] {
        fs::write(tree.at(file), text)?;
    }
    for unit in ["weir.service", "weir-agents.slice"] {
        let from = cache::root().join("gateway/systemd").join(unit);
        fs::copy(from, tree.at("etc/systemd/system").join(unit))?;
    }
    for unit in MASKED {
        symlink("/dev/null", tree.at("etc/systemd/system").join(unit))?;
    }
    symlink(
        "battery.target",
        tree.at("etc/systemd/system/default.target"),
    )?;
    run(Command::new("ldconfig").arg("-r").arg(&tree.0))
}

/// The agents' image, which podman imports there.
fn agents(tree: &Tree) -> Result<()> {
    fs::create_dir_all(&tree.0)?;
    tree.skeleton()?;
    tree.programs(&AGENTS)?;
    tree.built(&["battery"])?;
    tree.client()
}

/// Packs a tree as a file system. What isn't written takes no room.
fn disk(tree: &Path, image: &Path) -> Result<()> {
    const SIZE: u64 = 2 << 30;
    fs::File::create(image)?.set_len(SIZE)?;
    run(Command::new("mkfs.ext4")
        .args(["-q", "-F", "-O", "^has_journal", "-d"])
        .arg(tree)
        .arg(image))
}

/// The driver of the disk is a module.
fn first_root(tree: &Tree, files: &Files, to: &Path) -> Result<()> {
    for folder in ["bin", "dev", "new"] {
        fs::create_dir_all(tree.at(folder))?;
    }
    fs::copy("/bin/busybox", tree.at("bin/busybox"))?;
    Modules::read(&files.modules)?.unpack("virtio_blk", &tree.at("virtio_blk.ko"))?;
    fs::write(tree.at("init"), INIT)?;
    image::executable(&tree.at("init"))?;
    tree.pack(to)
}

fn append(file: &Path, more: &str) -> Result<()> {
    let text = fs::read_to_string(file)?;
    Ok(fs::write(file, text + more)?)
}
