//! The hooks that a kernel may lack, and what an agent can do there that it can't elsewhere.

/// A hook that not every kernel has, or has turned on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// `cgroup/connect_unix`.
    ConnectUnix,
    /// A classifier on the host's end of an agent's veth.
    Perimeter,
    /// The LSM programs.
    Lsm,
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ConnectUnix, Self::Perimeter, Self::Lsm];

    /// What it is called in the configuration and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ConnectUnix => "connect-unix",
            Self::Perimeter => "perimeter",
            Self::Lsm => "lsm",
        }
    }

    /// The hook of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.name() == name)
    }

    /// What the host has to have for it.
    #[must_use]
    pub fn needs(self) -> &'static str {
        match self {
            Self::ConnectUnix => "Linux 6.7 with type information (BTF)",
            Self::Perimeter => {
                "Linux 6.6, or before it CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS"
            }
            Self::Lsm => "a kernel with CONFIG_BPF_LSM=y, started with `bpf` in its lsm= list",
        }
    }

    /// What isn't closed without it.
    #[must_use]
    pub fn consequence(self) -> &'static str {
        match self {
            Self::ConnectUnix => {
                "an agent that sees the unix socket of a database, or Weir's, can connect to it: \
                 mount none into its file system"
            }
            Self::Perimeter => {
                "packet sockets, TUN devices and sockets handed in from outside reach the database, \
                 and what egress doesn't permit, from an agent's own namespace if that has a route: \
                 give it none, and no CAP_NET_RAW or CAP_NET_ADMIN"
            }
            Self::Lsm => {
                "AF_PACKET, AF_VSOCK, AF_SMC and AF_XDP sockets can be made with the capabilities \
                 that they take, and a link to a database's unix socket hides its name: give \
                 agents no CAP_NET_RAW or CAP_BPF, and mount no such socket"
            }
        }
    }
}

/// A hook that this host lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The hook.
    pub hook: Hook,
    /// Why it isn't there.
    pub why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hook_is_found_by_its_name() {
        for hook in Hook::ALL {
            assert_eq!(Hook::named(hook.name()), Some(hook));
        }
        assert_eq!(Hook::named("connect_unix"), None);
    }
}
