//! What a task of the slice may ask of the kernel beside its sockets, where BPF LSM is on; and that
//! one has begun to run a program.

use aya_ebpf::{
    helpers::generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id},
    macros::{lsm, raw_tracepoint},
    programs::{LsmContext, RawTracePointContext},
};

use super::policy;
use crate::maps::{self, SLICE};

const ALLOW: i32 = 0;
const EPERM: i32 = 1;

const AF_UNIX: i32 = 1;
const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;
const AF_NETLINK: i32 = 16;
const AF_ALG: i32 = 38;

/// How deep below the root the slice may be.
const MAX_SLICE_LEVEL: i32 = 16;

/// Whether the current task is below the slice.
#[inline(always)]
pub(super) fn is_agent() -> bool {
    let slice = SLICE.load();
    for level in 1..MAX_SLICE_LEVEL {
        // SAFETY: a helper without pointers; it gives 0 for a level that doesn't exist.
        let ancestor = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if ancestor == slice {
            return true;
        }
        if ancestor == 0 {
            break;
        }
    }
    false
}

/// An agent's program starts: the daemon gets the time until its first connect to open a listener.
#[raw_tracepoint]
pub(crate) fn sched_process_exec(_: RawTracePointContext) -> i32 {
    if is_agent() {
        maps::report_namespace();
        // SAFETY: a helper without arguments.
        policy::meet(unsafe { bpf_get_current_cgroup_id() });
    }
    0
}

/// Families whose sockets leave the host by other ways than the cgroup hooks see: AF_PACKET, AF_SMC,
/// AF_VSOCK, AF_XDP and all that come. (`cgroup/sock_create` only sees the internet's.)
#[lsm(hook = "socket_create")]
pub(crate) fn lsm_socket_create(ctx: LsmContext) -> i32 {
    let family: i32 = ctx.arg(0);
    let by_kernel: i32 = ctx.arg(3);
    match family {
        AF_UNIX | AF_INET | AF_INET6 | AF_NETLINK | AF_ALG => ALLOW,
        _ if by_kernel == 0 && is_agent() => -EPERM,
        _ => ALLOW,
    }
}

/// No agent has programs, maps or links of its own, whatever its capabilities.
#[lsm(hook = "bpf")]
pub(crate) fn lsm_bpf(_: LsmContext) -> i32 {
    if is_agent() { -EPERM } else { ALLOW }
}
