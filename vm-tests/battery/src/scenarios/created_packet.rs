//! The same attack in a container that a runtime has made and not started yet, as `runc create` and `crun
//! create` do: its cgroup, its network and its first process are there, and its program comes a moment
//! later. (Under podman that moment was 100 to 190 ms.) By then Weir has seen the process.

use crate::{
    scenario::{Case, Scenario, blocked},
    scenarios::packet,
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "created-packet",
    "speaks TCP itself over a packet socket at once, in a container that was created before",
    packet::attack,
    &[Case::bridge(blocked)],
)
.created_first()
.at_once();
