//! A disk that fills up ends sessions and refuses new ones; what was recorded stays sound.
//!
//! On a real file system that is really full: needs root, for a tmpfs in a mount namespace of its
//! own.
#![cfg(feature = "e2e")]
#![allow(
    clippy::unwrap_used,
    reason = "a test, also outside of its #[test] functions"
)]

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tokio::runtime::{Builder, Runtime};
use weir::record::{
    Durability, Entry, Error, Recorder, SessionId, SessionOpen, Settings, Tail, Verification,
    verify,
};

/// From now on, mounts are for this thread, and the threads that it starts, alone.
fn own_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
}

/// Mounts a tmpfs of 80 MiB.
fn small_disk(at: &Path) {
    own_mounts();
    mount(
        Some("tmpfs"),
        at,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=80m"),
    )
    .unwrap();
}

/// Mounts an ext4 of 100 MiB that is in the file `image`.
fn small_ext4(image: &Path, at: &Path) {
    own_mounts();
    File::create(image).unwrap().set_len(100 << 20).unwrap();
    let run = |program: &str, args: &[&OsStr]| {
        let done = Command::new(program).args(args).output().unwrap();
        assert!(done.status.success(), "{program}: {done:?}");
    };
    run("mkfs.ext4", &["-q".as_ref(), image.as_ref()]);
    let args: [&OsStr; 4] = ["-o".as_ref(), "loop".as_ref(), image.as_ref(), at.as_ref()];
    run("mount", &args);
}

fn open(id: SessionId) -> SessionOpen {
    SessionOpen {
        id,
        at: 1,
        agent: "coder".into(),
        groups: Vec::new(),
        datastore: "appdb".into(),
        destination: "10.0.3.7:5432".into(),
        cgroup: "weir-agents.slice/coder-1".into(),
        container: None,
        pid: 4711,
        uid: 1000,
        comm: "psql".into(),
        exe: None,
        claimed_user: "postgres".into(),
        database: "app".into(),
        parameters: Vec::new(),
        client_tls: None,
        upstream: None,
        policy: String::new(),
        weir: String::new(),
    }
}

/// Records into `dir`, with its index on another disk; and what runs its commits.
fn recorder(dir: &Path, index: &Path) -> (Recorder, Runtime) {
    let settings = Settings {
        dir: dir.to_owned(),
        durability: Durability::Os,
        index: index.join("index.db"),
    };
    let runtime = Builder::new_current_thread().build().unwrap();
    (Recorder::open(&settings).unwrap(), runtime)
}

/// Fills the disk to its last byte; what it returns holds the space.
fn fill(dir: &Path) -> File {
    let mut file = File::create(dir.join("filler")).unwrap();
    let block = [1; 4096];
    while file.write_all(&block).is_ok() {}
    file
}

fn noise(n: usize) -> Vec<u8> {
    // Does not compress.
    (0..n as u64)
        .map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}

#[test]
fn a_full_disk_ends_the_session_and_refuses_new_ones_until_there_is_room() {
    let disk = tempfile::tempdir().unwrap();
    small_disk(disk.path());
    let dir = disk.path().join("journal");
    let index = tempfile::tempdir().unwrap();
    let (recorder, runtime) = recorder(&dir, index.path());
    let id = SessionId::now();
    let mut journal = recorder.session(&open(id)).unwrap();
    journal.append(&Entry::Text {
        id: 1,
        sql: b"select 1",
    });
    let _ = runtime.block_on(journal.commit()).unwrap();

    fill(disk.path());
    assert!(matches!(recorder.check_writable(), Err(Error::Full { .. })));
    assert!(matches!(
        recorder.session(&open(SessionId::now())),
        Err(Error::Full { .. })
    ));
    journal.append(&Entry::Rows {
        statement: 1,
        columns: 0,
        frames: &noise(50_000),
    });
    let failed = runtime.block_on(journal.commit());
    assert!(
        matches!(failed, Err(Error::Io { doing: "write", .. })),
        "{failed:?}"
    );
    assert!(matches!(
        runtime.block_on(journal.commit()),
        Err(Error::Dead)
    ));
    drop(journal);

    // Cut back to its last whole record.
    let found = verify(&id.path_in(&dir)).unwrap();
    assert_eq!(found.records, 2);
    assert_eq!(found.end, Verification::Cut { tail: Tail::Whole });
    std::fs::remove_file(disk.path().join("filler")).unwrap();
    recorder.check_writable().unwrap();
    let journal = recorder.session(&open(SessionId::now())).unwrap();
    runtime
        .block_on(journal.close(2, weir::record::CloseReason::Drained))
        .unwrap();
}

/// Its journal has room that was got beforehand: that has to be room indeed, since what the kernel can't
/// put on the disk when it is copied kills the daemon.
#[test]
fn a_busy_session_goes_on_as_far_as_its_room_and_ends_with_all_that_it_recorded() {
    let place = tempfile::tempdir().unwrap();
    let disk = place.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    small_ext4(&place.path().join("image"), &disk);
    let dir = disk.join("journal");
    let (recorder, runtime) = recorder(&dir, place.path());
    let id = SessionId::now();
    let mut journal = recorder.session(&open(id)).unwrap();
    let sql = noise(100);
    let mut commit = || {
        journal.append(&Entry::Text { id: 1, sql: &sql });
        runtime.block_on(journal.commit()).map(drop)
    };
    let mut recorded = 0;
    for _ in 0..100 {
        commit().unwrap();
        recorded += 1;
    }
    fill(&disk);
    let room = recorded;
    let failed = loop {
        match commit() {
            Ok(()) => recorded += 1,
            Err(failed) => break failed,
        }
    };
    assert!(recorded > room + 100, "{recorded}: it wasn't mapped");
    assert!(
        matches!(failed, Error::Io { doing: "write", .. }),
        "{failed:?}"
    );
    drop(journal);
    // On the disk, and not only in memory.
    nix::unistd::syncfs(File::open(&disk).unwrap()).unwrap();
    let found = verify(&id.path_in(&dir)).unwrap();
    assert_eq!(found.records, 1 + recorded);
    assert_eq!(found.end, Verification::Cut { tail: Tail::Whole });
}
