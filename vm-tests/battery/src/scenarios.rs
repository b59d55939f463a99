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
    tcp_v4 tcp_v6 tcp_mapped
    mptcp_v4 mptcp_v6 mptcp_mapped
    msg_fastopen mptcp_fastopen fastopen_connect
    uring_connect uring_sqpoll uring_mptcp
    unspec_reconnect governed_reconnect nonblocking
    source_bind bind_device transparent mark addrform repair
}
