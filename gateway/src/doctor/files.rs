//! What the daemon keeps in files: where they are or will be, and whether that works.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access, geteuid};

use super::{Check, chain};
use crate::record;
use crate::tls::{Authority, CERTIFICATE_FILE};

/// The directory of the journals.
pub(super) fn journal(dir: &Path) -> Check {
    let fix = "free some space, give the daemon the directory, or set state_dir in [paths]";
    directory("journal", dir, fix, |there| {
        record::check_writable(there)
            .map_err(|e| (chain(&e), matches!(e, record::Error::Full { .. })))
    })
}

/// The directory of the control socket.
pub(super) fn run_dir(dir: &Path) -> Check {
    let fix = "give the daemon the directory, or set run_dir in [paths]";
    directory("run directory", dir, fix, |there| {
        access(there, AccessFlags::W_OK | AccessFlags::X_OK)
            .map_err(|e| (format!("can't write in {}: {e}", there.display()), false))
    })
}

/// A directory may not be there before the first start: then its nearest parent is looked at.
/// `writable` says what is wrong, and whether it would be for root too.
fn directory(
    name: &str,
    dir: &Path,
    fix: &str,
    writable: impl Fn(&Path) -> Result<(), (String, bool)>,
) -> Check {
    let there = match nearest(dir) {
        Ok(there) => there,
        Err(e) if e.kind() == ErrorKind::PermissionDenied => return unseen(name, dir),
        Err(e) => return Check::fail(name, e.to_string(), fix),
    };
    match writable(&there) {
        Ok(()) if there == dir => Check::ok(name, format!("{} can be written", dir.display())),
        Ok(()) => Check::ok(name, format!("{} will be made", dir.display())),
        Err((_, false)) if !geteuid().is_root() => unseen(name, dir),
        Err((what, _)) => Check::fail(name, what, fix),
    }
}

/// The daemon is root; this may be somebody else.
fn unseen(name: &str, dir: &Path) -> Check {
    let found = format!("{} can't be seen by this user", dir.display());
    Check::warn(name, found, "run weir doctor as root")
}

/// The directory, or the nearest one above it that is there.
fn nearest(dir: &Path) -> io::Result<PathBuf> {
    for place in dir.ancestors() {
        match std::fs::metadata(place) {
            Ok(found) if found.is_dir() => return Ok(place.to_owned()),
            Ok(_) => return Err(no_directory(place)),
            // A link that leads nowhere is in the way too.
            Err(_) if place.is_symlink() => return Err(no_directory(place)),
            // Below something that is no directory: that one comes.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(PathBuf::from("/"))
}

fn no_directory(place: &Path) -> io::Error {
    let what = format!("{} is no directory", place.display());
    io::Error::new(ErrorKind::NotADirectory, what)
}

/// The directory of the certificate authority.
pub(super) fn authority(dir: &Path) -> Check {
    let name = "certificate authority";
    match std::fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let found = format!("none yet; the daemon makes one in {}", dir.display());
            return Check::ok(name, found);
        }
        Err(e) if e.kind() == ErrorKind::PermissionDenied => return unseen(name, dir),
        _ => {}
    }
    match Authority::open(dir) {
        Ok(_) => {
            let file = dir.join(CERTIFICATE_FILE);
            Check::ok(name, file.display().to_string())
        }
        Err(e) => {
            let fix = "restore the directory from a backup, or remove it to have a new authority \
                       made (agents that verify then need the new ca.pem)";
            Check::fail(name, chain(&e), fix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn a_journal_is_looked_at_where_it_is_or_will_be() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(journal(dir.path()).status, Status::Ok);
        let later = journal(&dir.path().join("a/b"));
        assert_eq!(later.status, Status::Ok);
        assert!(
            later.detail.ends_with("a/b will be made"),
            "{}",
            later.detail
        );
        // Full to root; others may not write there in any case.
        let expected = if geteuid().is_root() {
            Status::Fail
        } else {
            Status::Warn
        };
        assert_eq!(journal(Path::new("/proc/nothing")).status, expected);
    }

    #[test]
    fn a_file_where_a_directory_should_be_is_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("weir");
        std::fs::write(&file, "").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/nonexistent/weir", &link).unwrap();
        for place in [&file, &file.join("journal"), &link.join("journal")] {
            for check in [journal(place), run_dir(place)] {
                assert_eq!(check.status, Status::Fail, "{check:?}");
                assert!(check.detail.ends_with("is no directory"), "{check:?}");
            }
        }
    }

    #[test]
    fn a_run_directory_is_looked_at_where_it_is_or_will_be() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(run_dir(dir.path()).status, Status::Ok);
        let later = run_dir(&dir.path().join("run/weir"));
        assert!(later.detail.ends_with("will be made"), "{later:?}");
    }

    #[test]
    fn an_authority_is_fine_before_the_first_start_and_not_when_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca");
        assert_eq!(authority(&ca).status, Status::Ok);
        Authority::open_or_create(&ca).unwrap();
        assert_eq!(authority(&ca).status, Status::Ok);
        std::fs::write(ca.join(CERTIFICATE_FILE), "x").unwrap();
        let check = authority(&ca);
        assert_eq!(check.status, Status::Fail);
        assert!(check.fix.is_some());
    }

    #[test]
    fn what_another_user_has_closed_is_not_said_to_be_missing() {
        use std::os::unix::fs::PermissionsExt;
        if geteuid().is_root() {
            // Nothing is closed to root: what is said then is asked of directly.
            let check = unseen("certificate authority", Path::new("/var/lib/weir/ca"));
            assert_eq!(check.status, Status::Warn);
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("weir");
        std::fs::create_dir(&state).unwrap();
        std::fs::set_permissions(&state, PermissionsExt::from_mode(0o000)).unwrap();
        for check in [
            authority(&state.join("ca")),
            journal(&state.join("journal")),
        ] {
            assert_eq!(check.status, Status::Warn, "{check:?}");
            assert!(check.detail.contains("can't be seen"), "{check:?}");
        }
    }
}
