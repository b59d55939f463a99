//! The perimeter is required, and the attacker has a packet socket on an interface without a host's end.
//! That Weir serves nobody there stops no frame of the attacker's own.

use crate::{
    scenario::{Caps, Case, Place, Scenario},
    scenarios::packet::{self, without_perimeter},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "packet-required",
    "the same where the perimeter is required, and there can be none",
    packet::attack,
    &[Case::new(Place::Macvlan, Caps::Docker, without_perimeter)],
)
.perimeter_required();
