//! What becomes of Weir when somebody removes its pins.

use std::fs;
use std::path::Path;

use crate::stage::{Daemon, Stage, V4};
use crate::{SERVER, wait_until};

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn pins_that_are_removed_free_nobody_and_are_there_again_for_the_next_daemon() {
    let stage = Stage::new();
    stage.ip(&["address", "add", "10.77.0.1/32", "dev", "lo"]);
    let _server = stage.server(SERVER, "10.77.0.1", "5432");
    let daemon = Daemon::start(&stage, &[V4]);
    let _stays = stage.agent("import time; time.sleep(60)", &[]);
    let attempt = || stage.attempt("AF_INET", "10.77.0.1", "5432", "tcp");
    assert_eq!(attempt(), "weir");

    let pins = stage.pins.join("layout-4");
    let before = names(&pins);
    fs::remove_dir_all(&pins).unwrap();
    assert_eq!(attempt(), "weir");
    wait_until(|| names(&pins) == before);

    daemon.die();
    assert_eq!(attempt(), "ECONNREFUSED");
    let _next = Daemon::resume(&stage);
    wait_until(|| attempt() == "weir");
}
