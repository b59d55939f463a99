//! What loading the programs costs.

use std::collections::BTreeMap;

use crate::stage::{Daemon, Stage, V4};

/// Instructions that the verifier may walk through for a program: some 10 ms.
const LIMIT: u32 = 50_000;

/// While it does, nobody has a database: a choice in a loop doubles what it walks through, for each of
/// some turns.
#[test]
fn the_verifier_walks_no_program_for_long() {
    let stage = Stage::new();
    let _daemon = Daemon::start(&stage, &[V4]);
    let walked: BTreeMap<String, u32> = aya::programs::loaded_programs()
        // Others' go meanwhile.
        .filter_map(Result::ok)
        .filter_map(|program| {
            let name = program.name_as_str()?.to_owned();
            Some((name, program.verified_instruction_count()?))
        })
        .collect();
    for name in ["connect4", "connect6", "egress", "ingress"] {
        assert!(walked.contains_key(name), "{name} isn't loaded");
    }
    // The last isn't on kernels before 6.7.
    for name in ["connect4", "connect6", "egress", "ingress", "connect_unix"] {
        let count = walked.get(name).copied().unwrap_or(0);
        assert!(count < LIMIT, "{name}: {count}");
    }
}
