//! Runs the scenarios one after the other, each state of each with its control.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::{
    attack::{self, Outcome},
    container::{Contained, Parcel},
    judge::{self, Seen},
    kernel::Kernel,
    report,
    scenario::{Case, Control, Expect, Scenario},
    scenarios,
    stage::{Demands, Prop, Stage},
};

pub(crate) fn run(weir: &Path, filters: &[String]) -> Result<()> {
    let chosen: Vec<_> = scenarios::ALL
        .iter()
        .filter(|s| filters.is_empty() || filters.iter().any(|f| s.name.contains(f.as_str())))
        .collect();
    ensure!(
        !chosen.is_empty(),
        "no scenario's name contains {filters:?}"
    );
    let kernel = Kernel::running()?;
    let cases = tries(&chosen, &kernel);
    report::begin(&kernel.release, cases.len());
    let mut failed = 0;
    let mut kept: Option<Stage> = None;
    for Try {
        scenario,
        case,
        is_first,
        demands,
    } in &cases
    {
        let start = Instant::now();
        let fitting = kept.take_if(|stage: &mut Stage| stage.demands == *demands);
        // Two at once would have the same addresses on this machine.
        drop(kept.take());
        let stage = match fitting {
            Some(stage) => stage,
            None => Stage::new(weir, &kernel, *demands)?,
        };
        let expect = (case.expect)(&kernel);
        // An emulated machine is slow, and has the host's run before it: there each attack is
        // shown to work in one state.
        let shown = *is_first || !attack::is_slow();
        let seen = tried(&stage, scenario, case, expect, shown)
            .unwrap_or_else(|error| Seen::Broken(format!("{error:#}")));
        failed += usize::from(!seen.is(expect));
        let name = format!("{} {}", scenario.name, case.state());
        report::case(&name, expect, &seen, start.elapsed());
        if !scenario.ruins_stage || seen == Seen::Governed {
            kept = Some(stage);
        }
    }
    report::end(failed);
    let all = cases.len();
    ensure!(failed == 0, "{failed} of {all} are not as they should be");
    Ok(())
}

/// One state of one scenario.
struct Try {
    scenario: &'static Scenario,
    case: &'static Case,
    is_first: bool,
    demands: Demands,
}

/// What is to be tried on a kernel. Cases for which Weir is set up the same way stand together: its
/// start takes longer than most of them.
fn tries(chosen: &[&'static Scenario], kernel: &Kernel) -> Vec<Try> {
    // A kernel that has everything but BPF LSM has its like with it beside it.
    let is_tried = |case: &&Case| !kernel.lacks_lsm_alone() || case.depends_on_lsm(kernel);
    let mut tries: Vec<_> = chosen
        .iter()
        .flat_map(|scenario| {
            let cases = scenario.cases.iter().filter(is_tried);
            cases.enumerate().map(|(number, case)| Try {
                scenario,
                case,
                is_first: number == 0,
                demands: Demands {
                    perimeter: scenario.perimeter_required,
                    egress: case.egress,
                },
            })
        })
        .collect();
    tries.sort_by_key(|this| this.demands);
    tries
}

/// One state of one scenario, its control first.
fn tried(
    stage: &Stage,
    scenario: &Scenario,
    case: &Case,
    expect: Expect,
    shown: bool,
) -> Result<Seen> {
    if shown && matches!(scenario.control, Control::ReachesDatabase) {
        let seen = attempt(stage, scenario, case, false)?;
        match seen {
            Seen::Bypass(_) => {}
            Seen::Absent(_) if expect == Expect::Absent => return Ok(seen),
            _ => {
                let (word, detail) = (seen.word(), seen.detail());
                return Ok(Seen::Broken(format!("its control was {word}: {detail}")));
            }
        }
    }
    attempt(stage, scenario, case, true)
}

/// Lets the attacker try, as an agent or as nobody's.
fn attempt(stage: &Stage, scenario: &Scenario, case: &Case, governed: bool) -> Result<Seen> {
    let prop = scenario
        .prop
        .map_or_else(|| Ok(Prop::default()), |make| make(stage))?;
    let agent = stage.container(case.place, governed && !scenario.starts_outside)?;
    let mut variables = vec![
        ("BATTERY_COUNT", agent.count().to_string()),
        ("BATTERY_PLACE", format!("{:?}", case.place)),
    ];
    if governed && !scenario.starts_outside {
        variables.push(("BATTERY_AGENT", "1".to_owned()));
    }
    if attack::is_slow() {
        variables.push(("BATTERY_SLOW", "1".to_owned()));
    }
    variables.extend(prop.variables.iter().cloned());
    let parcel = Parcel {
        place: case.place,
        caps: if governed {
            case.caps
        } else {
            case.caps.of_control()
        }
        .names(),
        mounted: prop.mounted.clone(),
        tun: prop.tun,
        host_pids: case.host_pids,
        created: if scenario.created_first {
            attack::patience() / 8
        } else {
            Duration::ZERO
        },
        variables,
    };
    let mut before = stage.world.postgres().log().len();
    let mut contained = Contained::start(agent, scenario.name, &parcel)?;
    let outcome = loop {
        let line = contained.line()?;
        if line == "ready" {
            if let Some(meanwhile) = scenario.meanwhile
                && (governed || !scenario.starts_outside)
            {
                meanwhile(stage, &contained)?;
                if scenario.starts_outside {
                    // What it did as nobody's agent was its right.
                    before = stage.world.postgres().log().len();
                }
            }
            contained.go_on();
        } else {
            break Outcome::parse(&line)?;
        }
    };
    let agent = contained.end()?;
    if !governed {
        // Nobody asks whether this one got a connection: it has to have the word.
        return Ok(Seen::of(&outcome, ""));
    }
    let judged = Seen::of(&outcome, &judge::settled(stage.world.postgres(), before));
    drop((agent, prop));
    Ok(judged)
}
