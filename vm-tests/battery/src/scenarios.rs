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
    raw_v4 raw_v6 packet packet_qdisc packet_host xdp tun tap
    dnat dnat_of_redirect redirect_to_listener dial_listener
    udp udplite sctp smc vsock
    unix_path unix_symlink unix_abstract weir_socket
    handed_connected handed_inside made_before connected_before
    leave_slice own_cgroup_mount nested_namespaces rewrite_back
    inbound simultaneous_open
    unlisted_port split_startup split_unlisted
    steal_descriptor ptrace exhaust_origins port_reuse
    pinned_maps delete_pins detach
}
