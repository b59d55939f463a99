//! weir.toml as it is written: the closed schema, every value with its place in the file.
//!
//! Nothing is checked here but the shape. Keys that a later version will know are listed as
//! [`Later`], so that they are refused by name and not as misspellings.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

/// A key that isn't in this version yet.
pub(super) type Later = Option<Spanned<toml::Value>>;
type Text = Spanned<String>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) capture: Capture,
    #[serde(default)]
    pub(super) paths: Paths,
    #[serde(default)]
    pub(super) journal: Journal,
    #[serde(default)]
    pub(super) runtimes: Runtimes,
    #[serde(default)]
    pub(super) datastore: BTreeMap<Text, Datastore>,
    #[serde(default)]
    pub(super) agent: BTreeMap<Text, Agent>,
    pub(super) state: Later,
    pub(super) export: Later,
    pub(super) approval: Later,
    pub(super) grants: Later,
    pub(super) web: Later,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Capture {
    pub(super) slice: Option<Text>,
    pub(super) pin_dir: Option<Text>,
    pub(super) cgroup_root: Option<Text>,
    #[serde(default)]
    pub(super) require: Vec<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Paths {
    pub(super) state_dir: Option<Text>,
    pub(super) run_dir: Option<Text>,
    pub(super) policies: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Journal {
    pub(super) durability: Option<Text>,
    pub(super) results: Option<Text>,
    pub(super) retention: Later,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Runtimes {
    pub(super) docker: Option<Text>,
    pub(super) podman: Option<Text>,
    pub(super) containerd: Option<Text>,
    pub(super) crio: Option<Text>,
    pub(super) kubelet: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Datastore {
    pub(super) protocol: Text,
    pub(super) hosts: Spanned<Vec<Text>>,
    pub(super) tls: Spanned<Tls>,
    pub(super) databases: Spanned<Vec<Text>>,
    pub(super) login: Login,
    pub(super) client_tls: Option<Text>,
    pub(super) on_detect: Option<Text>,
    pub(super) connect_timeout: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    pub(super) mode: Text,
    pub(super) ca: Option<Text>,
    pub(super) server_name: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    pub(super) user: Text,
    pub(super) password: Spanned<Password>,
    #[serde(default)]
    pub(super) allow_auth: Vec<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Password {
    pub(super) credential: Option<Text>,
    pub(super) file: Option<Text>,
    pub(super) env: Option<Text>,
    pub(super) command: Option<Spanned<Vec<Text>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Agent {
    #[serde(rename = "match")]
    pub(super) matches: Spanned<Match>,
    #[serde(default)]
    pub(super) groups: Vec<Text>,
    pub(super) preflight: Option<Text>,
    pub(super) egress: Option<Spanned<Egress>>,
    pub(super) identity: Later,
    pub(super) login: Later,
}

/// A word or a list.
#[derive(Debug)]
pub(super) enum Egress {
    Word(String),
    List(Vec<Text>),
}

// By hand: an untagged enum would lose the places of the list's parts.
impl<'de> Deserialize<'de> for Egress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordOrList;

        impl<'de> Visitor<'de> for WordOrList {
            type Value = Egress;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"open\", \"none\" or a list of what may be reached")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Egress, E> {
                Ok(Egress::Word(word.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Egress, A::Error> {
                let mut list = Vec::new();
                while let Some(part) = parts.next_element()? {
                    list.push(part);
                }
                Ok(Egress::List(list))
            }
        }

        deserializer.deserialize_any(WordOrList)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Match {
    pub(super) cgroup: Option<Text>,
    pub(super) unit: Option<Text>,
    pub(super) user: Option<Spanned<u32>>,
    pub(super) container: Option<Text>,
    #[serde(default)]
    pub(super) label: BTreeMap<Text, Text>,
    pub(super) kubernetes: Option<Spanned<Kubernetes>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kubernetes {
    pub(super) namespace: Text,
    pub(super) service_account: Option<Text>,
    #[serde(default)]
    pub(super) labels: BTreeMap<Text, Text>,
}
