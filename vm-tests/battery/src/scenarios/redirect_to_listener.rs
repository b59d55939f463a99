//! REDIRECT in the attacker's namespace (NET_ADMIN): a decoy's packets are led to Weir's own listener,
//! so that a connection arrives there whose origin Weir doesn't know. It is closed without a word.

use anyhow::Result;

use crate::{
    attack::{Outcome, Target, dial},
    scenario::{Caps, Case, Place, Scenario, blocked},
    scenarios::{dial_listener, dnat::nft},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "redirect-to-listener",
    "redirects a decoy to Weir's listener, past the hook that knows its port",
    attack,
    &[Case::new(Place::Bridge, Caps::And(&["net_admin"]), blocked)],
)
.no_control("there is no listener where nothing is governed");

fn attack(target: &Target) -> Result<Outcome> {
    let port = dial_listener::port(target)?;
    nft(&format!(
        "table ip battery {{ chain out {{ type nat hook output priority -100; \
         ip daddr 10.99.1.1 tcp dport 9999 redirect to :{port}; }}\n}}"
    ))?;
    let decoy = "10.99.1.1:9999".parse()?;
    Ok(dial::ask(dial::socket(decoy, libc::IPPROTO_TCP)?, decoy))
}
