//! All scenarios, the most dangerous first. Each is a file of its own.

use crate::scenario::Scenario;

macro_rules! scenarios {
    ($($module:ident)*) => {
        $(mod $module;)*
        /// In the order in which they run.
        pub(crate) const ALL: &[Scenario] = &[$($module::SCENARIO),*];
    };
}

scenarios! {
    tcp_v4 tcp_v6 tcp_mapped newcomer local_addresses
    mptcp_v4 mptcp_v6 mptcp_mapped mptcp_subflow
    msg_fastopen mptcp_fastopen fastopen_connect
    uring_connect uring_sqpoll uring_mptcp
    unspec_reconnect governed_reconnect nonblocking
    source_bind bind_device transparent mark addrform repair
    source_route_v4 source_route_v6
    raw_v4 raw_v6 packet packet_qdisc packet_host newcomer_packet created_packet
    xdp tun tap
    dnat dnat_of_redirect redirect_to_listener dial_listener
    udp udplite sctp smc vsock
    unix_path unix_symlink unix_abstract weir_socket
    handed_connected handed_inside made_before connected_before
    leave_slice own_cgroup_mount nested_namespaces rewrite_back
    inbound simultaneous_open
    unlisted_port split_startup split_unlisted fastopen_unlisted hidden_unlisted relay relay_packet relay_tun dns_tunnel
    steal_descriptor ptrace exhaust_origins port_reuse
    pinned_maps delete_pins detach
    perimeter_required packet_required
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::ALL;
    use crate::{kernel::Kernel, scenario::Expect};

    /// The gaps in the README's table, with its other words.
    const README: &str = include_str!("../../README.md");

    fn gaps() -> BTreeSet<&'static str> {
        let kernels = [(6, 1), (6, 12)]
            .into_iter()
            .flat_map(|version| [true, false].map(|lsm| Kernel::complete(version, lsm)));
        let cases = || ALL.iter().flat_map(|scenario| scenario.cases);
        let expected = kernels.flat_map(|kernel| {
            cases()
                .map(|case| (case.expect)(&kernel))
                .collect::<Vec<_>>()
        });
        let gaps = expected.filter_map(|expect| match expect {
            Expect::Gap(name) => Some(name),
            _ => None,
        });
        gaps.collect()
    }

    #[test]
    fn the_readme_names_every_gap_and_no_other() {
        let named: BTreeSet<_> = README
            .lines()
            .skip_while(|line| *line != "| gap | state in which it is open | closed by |")
            .skip(2)
            .map_while(|line| line.strip_prefix("| ")?.split(" | ").next())
            .collect();
        assert_eq!(named, gaps());
    }

    #[test]
    fn names_are_unique_and_each_scenario_has_its_states() {
        let names: BTreeSet<_> = ALL.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), ALL.len());
        for scenario in ALL {
            let states: BTreeSet<_> = scenario.cases.iter().map(|case| case.state()).collect();
            assert_eq!(states.len(), scenario.cases.len(), "{}", scenario.name);
            assert!(!states.is_empty(), "{}", scenario.name);
        }
    }

    #[test]
    fn nothing_is_absent_on_a_complete_kernel() {
        let kernel = Kernel::complete((6, 1), true);
        for case in ALL.iter().flat_map(|scenario| scenario.cases) {
            assert_ne!((case.expect)(&kernel), Expect::Absent);
        }
    }
}
