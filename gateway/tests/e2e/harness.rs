//! The ground the other tests stand on: what a world is without Weir.

use std::fs;

use anyhow::Result;
use xtask::world::{Network, World};

#[test]
fn the_database_answers_from_outside_and_its_agents_have_no_route_to_it() -> Result<()> {
    let world = World::new()?;
    let agent = world.agent("coder", Network::OnlyLo)?;

    let outside = world
        .outside("psql")
        .args(["-X", "-At", "-c", "SELECT ssn FROM customers WHERE id = 1"])
        .output()?;
    assert_eq!(
        String::from_utf8_lossy(&outside.stdout).trim(),
        "123-45-6789"
    );

    let inside = agent.psql("SELECT 1")?;
    assert!(
        inside.stderr.contains("Network is unreachable"),
        "{inside:?}"
    );
    Ok(())
}

#[test]
fn an_agent_has_its_own_cgroup_and_no_capability() -> Result<()> {
    let world = World::new()?;
    let agent = world.agent("coder", Network::Host)?;

    let seen = agent.run("cat", &["/proc/self/cgroup", "/proc/self/status"])?;
    assert!(seen.stdout.contains(".slice/coder-0"), "{seen:?}");
    assert!(
        seen.stdout.contains("CapBnd:\t0000000000000000"),
        "{seen:?}"
    );
    assert!(
        seen.stdout.contains("CapEff:\t0000000000000000"),
        "{seen:?}"
    );
    Ok(())
}

#[test]
fn a_world_leaves_no_process_and_no_cgroup_behind() -> Result<()> {
    let world = World::new()?;
    let agent = world.agent("coder", Network::OnlyLo)?;
    let sleeper = agent.start("sleep", &["600"])?;
    let dir = world.dir().to_path_buf();
    let processes = [sleeper.pid(), world.postgres().pid()];
    let cgroup = agent.run("cat", &["/proc/self/cgroup"])?.stdout;
    drop((sleeper, agent, world));

    assert!(!dir.exists());
    for pid in processes {
        assert!(
            !fs::exists(format!("/proc/{pid}"))?,
            "process {pid} is still there"
        );
    }
    let name = cgroup
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .unwrap_or_default();
    let mounts = fs::read_to_string("/proc/mounts")?;
    let root = mounts
        .lines()
        .find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    let root = root
        .and_then(|line| line.split(' ').nth(1))
        .unwrap_or_default();
    let slice = name.split('/').next().unwrap_or_default();
    assert!(slice.ends_with(".slice"), "{cgroup}");
    assert!(
        !fs::exists(format!("{root}/{slice}"))?,
        "{slice} is still there"
    );
    Ok(())
}
