//! Root file systems for guests, and the plainest of them: an initramfs with the battery as its
//! process 1, Weir, PostgreSQL, a few programs, the libraries of all of them, and the kernel's modules.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;
use xtask::cache;

use super::kernel::Files;

/// Programs of the host that the world and the attackers call.
pub(super) const PROGRAMS: [&str; 12] = [
    "/bin/sh",
    "/bin/cat",
    "/bin/cp",
    "/bin/sleep",
    "/usr/bin/timeout",
    "/usr/bin/nsenter",
    "/usr/bin/setpriv",
    "/bin/ip",
    "/usr/sbin/nft",
    "/usr/sbin/tc",
    "/usr/bin/id",
    "/bin/mount",
];
/// PostgreSQL's, which on Debian are behind a Perl script in /usr/bin.
const POSTGRES: [&str; 3] = ["postgres", "psql", "pg_isready"];
/// What attackers and Weir need of a kernel that may have it as a module. The battery fails where
/// one is neither a module nor built in.
const MODULES: [&str; 17] = [
    "veth",
    "macvlan",
    "tun",
    "bridge",
    "sctp",
    "smc",
    "vsock",
    "vsock_loopback",
    "nf_tables",
    "nft_chain_nat",
    "nft_nat",
    "nft_redir",
    "nft_masq",
    "sch_ingress",
    "cls_bpf",
    "udp_diag",
    "tcp_diag",
];

/// An initramfs for `files` that runs the scenarios of `filter`.
pub(super) fn make(files: &Files, filter: &[String]) -> Result<PathBuf> {
    let folder = cache::target().join("vm");
    fs::create_dir_all(&folder)?;
    let root = TempDir::with_prefix_in("root-", &folder)?;
    let tree = Tree(root.path().to_owned());
    tree.skeleton()?;
    tree.programs(&PROGRAMS)?;
    tree.built(&["weir", "battery"])?;
    symlink("usr/bin/battery", tree.at("init"))?;
    tree.postgres()?;
    tree.modules(files, &[])?;
    fs::write(tree.at("etc/battery/filter"), filter.join("\n"))?;
    let image = folder.join(format!("{}.cpio", files.release));
    tree.pack(&image)?;
    Ok(image)
}

/// An initramfs that only switches the machine off.
pub(super) fn probe() -> Result<PathBuf> {
    let folder = cache::target().join("vm");
    fs::create_dir_all(&folder)?;
    let root = TempDir::with_prefix_in("probe-", &folder)?;
    let tree = Tree(root.path().to_owned());
    fs::create_dir_all(tree.at("bin"))?;
    fs::copy("/bin/busybox", tree.at("bin/busybox"))?;
    let init = tree.at("init");
    fs::write(&init, "#!/bin/busybox sh\n/bin/busybox poweroff -f\n")?;
    executable(&init)?;
    let image = folder.join("probe.cpio");
    tree.pack(&image)?;
    Ok(image)
}

/// A root file system in the making.
pub(super) struct Tree(pub(super) PathBuf);

impl Tree {
    /// Where `path`, absolute in the guest, is here.
    pub(super) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The folders and links of a system that has nothing yet, and what every system has.
    pub(super) fn skeleton(&self) -> Result<()> {
        for folder in ["bin", "sbin", "lib", "lib64"] {
            fs::create_dir_all(self.at("usr").join(folder))?;
            symlink(format!("usr/{folder}"), self.at(folder))?;
        }
        self.folders()
    }

    /// The folders and files that every system has.
    pub(super) fn folders(&self) -> Result<()> {
        for folder in [
            "proc",
            "sys",
            "dev",
            "tmp",
            "run",
            "root",
            "etc/battery",
            "var/tmp",
            "var/cache/battery",
        ] {
            fs::create_dir_all(self.at(folder))?;
        }
        for (file, text) in [
            ("etc/passwd", accounts("/etc/passwd")?),
            ("etc/group", accounts("/etc/group")?),
            ("etc/hosts", "127.0.0.1 localhost\n".to_owned()),
            (
                "etc/nsswitch.conf",
                "passwd: files\ngroup: files\nhosts: files\n".to_owned(),
            ),
        ] {
            fs::write(self.at(file), text)?;
        }
        Ok(())
    }

    /// Programs of the host, with busybox for what is left.
    pub(super) fn programs(&self, programs: &[&str]) -> Result<()> {
        let mut needed = BTreeSet::new();
        for program in programs {
            self.copy(Path::new(program))?;
            needed.extend(libraries(Path::new(program))?);
        }
        fs::copy("/bin/busybox", self.at("usr/bin/busybox"))?;
        // In the place of another, whose tables need another program.
        let modprobe = self.at("usr/sbin/modprobe");
        match fs::remove_file(&modprobe) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => symlink("/usr/bin/busybox", modprobe)?,
        }
        // What the C library loads by name.
        needed.insert("/lib/x86_64-linux-gnu/libnss_files.so.2".into());
        needed.iter().try_for_each(|library| self.copy(library))
    }

    /// Programs that were built here.
    pub(super) fn built(&self, names: &[&str]) -> Result<()> {
        let mut needed = BTreeSet::new();
        for name in names {
            let built = cache::target().join("debug").join(name);
            let place = self.at(format!("usr/bin/{name}"));
            run(Command::new("strip").arg("-o").arg(&place).arg(&built))?;
            needed.extend(libraries(&built)?);
        }
        needed.iter().try_for_each(|library| self.copy(library))
    }

    /// PostgreSQL's client, as the agents have it.
    pub(super) fn client(&self) -> Result<()> {
        let program = newest("/usr/lib/postgresql")?.join("bin/psql");
        self.copy(&program)?;
        symlink(&program, self.at("usr/bin/psql"))?;
        libraries(&program)?
            .iter()
            .try_for_each(|library| self.copy(library))
    }

    pub(super) fn postgres(&self) -> Result<()> {
        let home = newest("/usr/lib/postgresql")?;
        let version = home.file_name().context("a version")?.to_owned();
        let mut needed = BTreeSet::new();
        for name in POSTGRES {
            let program = home.join("bin").join(name);
            self.copy(&program)?;
            needed.extend(libraries(&program)?);
            if name != "postgres" {
                symlink(&program, self.at(format!("usr/bin/{name}")))?;
            }
        }
        for name in ["plpgsql.so", "dict_snowball.so"] {
            self.copy(&home.join("lib").join(name))?;
        }
        needed.iter().try_for_each(|library| self.copy(library))?;
        self.tree(&Path::new("/usr/share/postgresql").join(version))?;
        self.copy(Path::new("/usr/share/zoneinfo/UTC"))?;
        self.copy(Path::new("/usr/share/zoneinfo/Etc/UTC"))?;
        self.tree(Path::new("/usr/lib/locale/C.utf8"))?;
        // Making the data directory takes the guest a minute, and us a moment.
        let template = battery_template()?;
        let place = self.at("var/cache/battery/world");
        run(Command::new("cp").arg("-a").arg(&template).arg(place))
    }

    /// The kernel's modules that attackers and Weir need, and `more`.
    pub(super) fn modules(&self, files: &Files, more: &[&'static str]) -> Result<()> {
        let place = self.at("usr/lib/modules").join(&files.release);
        let kernel = place.join("kernel");
        fs::create_dir_all(&kernel)?;
        let built_in = fs::read_to_string(files.modules.join("modules.builtin"))?;
        let known = Modules::read(&files.modules)?;
        let is_module = |name: &&str| !built_in.lines().any(|line| module_name(line) == **name);
        let wanted: Vec<_> = MODULES
            .iter()
            .chain(more)
            .copied()
            .filter(is_module)
            .collect();
        let mut open: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
        let mut done = BTreeSet::new();
        while let Some(name) = open.pop() {
            if done.insert(name.clone()) {
                let file = kernel.join(format!("{name}.ko"));
                known.unpack(&name, &file)?;
                open.extend(depends(&fs::read(file)?));
            }
        }
        for file in ["modules.builtin", "modules.order"] {
            fs::copy(files.modules.join(file), place.join(file))?;
        }
        let mut depmod = Command::new("busybox");
        run(depmod
            .args(["depmod", "-b"])
            .arg(&self.0)
            .arg(&files.release))?;
        fs::write(self.at("etc/battery/modules"), wanted.join("\n"))?;
        Ok(())
    }

    /// Copies a file to the same place, links followed, unless there is one.
    fn copy(&self, file: &Path) -> Result<()> {
        let place = self.at(file);
        if place.exists() {
            return Ok(());
        }
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(file, &place).with_context(|| format!("{} is needed", file.display()))?;
        Ok(())
    }

    /// Copies a folder with all that is in it.
    fn tree(&self, folder: &Path) -> Result<()> {
        let place = self.at(folder);
        let parent = place.parent().context("a folder has a parent")?;
        fs::create_dir_all(parent)?;
        run(Command::new("cp").arg("-aL").arg(folder).arg(parent))
    }

    /// Packs all of it into an initramfs.
    pub(super) fn pack(&self, image: &Path) -> Result<()> {
        let mut cpio = Command::new("cpio")
            .args(["--quiet", "-o", "-H", "newc", "-0"])
            .current_dir(&self.0)
            .stdin(Stdio::piped())
            .stdout(File::create(image)?)
            .spawn()
            .context("could not run cpio")?;
        let mut names = Vec::new();
        list(&self.0, Path::new("."), &mut names)?;
        if let Some(mut stdin) = cpio.stdin.take() {
            stdin.write_all(&names)?;
        }
        let status = cpio.wait()?;
        ensure!(status.success(), "cpio ended with {status}");
        Ok(())
    }
}

/// The names of everything below a folder, each ended by a zero.
fn list(root: &Path, inside: &Path, names: &mut Vec<u8>) -> io::Result<()> {
    names.extend(inside.as_os_str().as_encoded_bytes());
    names.push(0);
    for entry in fs::read_dir(root.join(inside))? {
        let entry = entry?;
        let inside = inside.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list(root, &inside, names)?;
        } else {
            names.extend(inside.as_os_str().as_encoded_bytes());
            names.push(0);
        }
    }
    Ok(())
}

/// A kernel's modules by name, from the paths of their files.
pub(super) struct Modules(Vec<PathBuf>);

impl Modules {
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let mut names = Vec::new();
        list(folder, Path::new("kernel"), &mut names)?;
        let names = String::from_utf8(names)?;
        let files = names.split('\0').filter(|name| name.contains(".ko"));
        Ok(Self(files.map(|name| folder.join(name)).collect()))
    }

    /// Writes the module `name` to `to`.
    pub(super) fn unpack(&self, name: &str, to: &Path) -> Result<()> {
        let named = |file: &&PathBuf| module_name(&file.to_string_lossy()) == name;
        let Some(file) = self.0.iter().find(named) else {
            bail!("the kernel has no module {name}, and the battery needs it");
        };
        if file.extension().is_some_and(|extension| extension == "xz") {
            let mut unpack = Command::new("xz");
            return run(unpack.arg("-dc").arg(file).stdout(File::create(to)?));
        }
        fs::copy(file, to)?;
        Ok(())
    }
}

/// The modules that a module needs, from the `depends=` of its information.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let at = module.windows(KEY.len()).position(|part| part == KEY);
    let rest = at.map_or(&[][..], |at| &module[at + KEY.len()..]);
    let list = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    let list = String::from_utf8_lossy(list);
    let names = list.split(',').filter(|name| !name.is_empty());
    names.map(|name| name.replace('-', "_")).collect()
}

/// `nf_tables` of `kernel/net/netfilter/nf-tables.ko.xz`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// The lines of root and PostgreSQL's user.
fn accounts(file: &str) -> Result<String> {
    let text = fs::read_to_string(file)?;
    let kept = text
        .lines()
        .filter(|line| line.starts_with("root:") || line.starts_with("postgres:"));
    Ok(kept.map(|line| format!("{line}\n")).collect())
}

/// The shared libraries that a program is linked with, and the one that loads them.
fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").arg(program).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(!text.contains("not found"), "{}: {text}", program.display());
    let paths = text.lines().filter_map(|line| {
        let path = line.split_whitespace().find(|word| word.starts_with('/'))?;
        Some(PathBuf::from(path))
    });
    Ok(paths.collect())
}

/// The database's template, made natively if it isn't there yet.
fn battery_template() -> Result<PathBuf> {
    let battery = cache::target().join("debug/battery");
    let output = Command::new(battery).arg("prepare").output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "the database's template: {}",
        error.trim()
    );
    Ok(String::from_utf8(output.stdout)?.trim_end().into())
}

/// The entry of a folder of versions with the highest number.
fn newest(folder: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder)
        .with_context(|| folder.to_owned())?
        .flatten();
    let numbered = entries.filter_map(|entry| {
        let number: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((number, entry.path()))
    });
    let (_, path) = numbered
        .max()
        .with_context(|| format!("{folder} is empty"))?;
    Ok(path)
}

pub(super) fn executable(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

pub(super) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("could not run {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_says_what_it_needs() {
        let module = b"ELF..\0license=GPL\0depends=udp_tunnel,ip6-udp-tunnel\0name=sctp\0";
        assert_eq!(depends(module), ["udp_tunnel", "ip6_udp_tunnel"]);
        assert!(depends(b"\0depends=\0name=x\0").is_empty());
        assert!(depends(b"nothing").is_empty());
    }

    #[test]
    fn a_modules_name_is_its_files() {
        assert_eq!(module_name("kernel/net/nf-tables.ko.xz"), "nf_tables");
        assert_eq!(module_name("kernel/drivers/net/veth.ko"), "veth");
    }
}
