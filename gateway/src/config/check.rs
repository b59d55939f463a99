//! From what is written to what can be run on. All errors are collected, not only the first.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;

use super::raw::{self, Later};
use super::{Config, Egress, Journal, Paths};
use crate::capture;
use crate::policy::{Diagnostic, did_you_mean};
use crate::record::Durability;
use crate::session::Results;

mod agents;
mod datastores;

/// A name that makes both a file name and a metric's label without quoting.
const NAME_RULE: &str = "names are 1 to 63 letters, digits, '-' and '_'";

type Text = Spanned<String>;

/// Reads and checks `text`.
pub(super) fn check(file: &Path, text: &str) -> Result<Config, Vec<Diagnostic>> {
    let name = file.display().to_string();
    let raw = toml::from_str::<raw::File>(text).map_err(|e| vec![syntax(&name, text, &e)])?;
    let mut check = Check {
        file: name,
        text,
        found: Vec::new(),
    };
    let config = check.file(file, &raw);
    match config {
        Some(config) if check.found.is_empty() => Ok(config),
        _ => {
            check.found.sort_by_key(|d| (d.line, d.column));
            Err(check.found)
        }
    }
}

/// What toml or serde found. Their messages list the known keys; the nearest one is what people
/// want to hear.
fn syntax(file: &str, text: &str, error: &toml::de::Error) -> Diagnostic {
    let at = error.span().unwrap_or(0..0);
    let message = error.message();
    let mut quoted = message.split('`').skip(1).step_by(2);
    let (key, known) = (quoted.next(), quoted);
    let unknown = message.starts_with("unknown field");
    match key {
        Some(key) if unknown => {
            let known: Vec<&str> = known.collect();
            let help = did_you_mean(key, known.iter().copied())
                .map(|near| format!("did you mean `{near}`?"))
                .unwrap_or_else(|| format!("known here: {}", known.join(", ")));
            Diagnostic::error(file, text, at, format!("unknown key `{key}`")).help(help)
        }
        Some(key) if message.starts_with("missing field") => {
            Diagnostic::error(file, text, at, format!("key `{key}` is missing"))
        }
        _ => Diagnostic::error(file, text, at, message.trim().replace('\n', ": ")),
    }
}

struct Check<'a> {
    file: String,
    text: &'a str,
    found: Vec<Diagnostic>,
}

impl Check<'_> {
    fn file(&mut self, path: &Path, raw: &raw::File) -> Option<Config> {
        for later in [
            &raw.state,
            &raw.export,
            &raw.approval,
            &raw.grants,
            &raw.web,
        ] {
            self.later(later);
        }
        let capture = self.capture(&raw.capture);
        let paths = self.paths(&raw.paths);
        let journal = self.journal(&raw.journal);
        let datastores = self.datastores(&raw.datastore);
        let runtimes = self.runtimes(&raw.runtimes);
        let agents = self.agents(&raw.agent, capture.as_ref());
        let egress = self.egress(&raw.agent);
        let governed = egress.values().any(|egress| *egress != Egress::Open);
        Some(Config {
            file: path.to_owned(),
            capture: capture::Settings {
                governed,
                ..capture?
            },
            paths: paths?,
            journal: journal?,
            datastores,
            runtimes: runtimes?,
            agents,
            egress,
        })
    }

    fn capture(&mut self, raw: &raw::Capture) -> Option<capture::Settings> {
        let slice = match &raw.slice {
            None => Some(PathBuf::from(super::DEFAULT_SLICE)),
            Some(slice) => self.slice(slice),
        };
        let pin_dir = self.path_or(raw.pin_dir.as_ref(), super::DEFAULT_PIN_DIR);
        let cgroup_root = match &raw.cgroup_root {
            None => Some(None),
            Some(root) => self.path(root).map(Some),
        };
        let require: Option<Vec<capture::Hook>> =
            raw.require.iter().map(|name| self.hook(name)).collect();
        Some(capture::Settings {
            slice: slice?,
            pin_dir: pin_dir?,
            cgroup_root: cgroup_root?,
            require: require?,
            governed: false,
        })
    }

    fn hook(&mut self, name: &Text) -> Option<capture::Hook> {
        let known = capture::Hook::ALL.map(capture::Hook::name);
        capture::Hook::named(name.get_ref()).or_else(|| self.unknown(name, name.get_ref(), &known))
    }

    fn runtimes(&mut self, raw: &raw::Runtimes) -> Option<crate::agents::Settings> {
        let usual = crate::agents::Settings::default();
        let mut path = |path: &Option<Text>, usual: PathBuf| match path {
            None => Some(usual),
            Some(path) => self.path(path),
        };
        let docker = path(&raw.docker, usual.docker);
        let podman = path(&raw.podman, usual.podman);
        let containerd = path(&raw.containerd, usual.containerd);
        let crio = path(&raw.crio, usual.crio);
        let kubelet = path(&raw.kubelet, usual.kubelet);
        Some(crate::agents::Settings {
            docker: docker?,
            podman: podman?,
            containerd: containerd?,
            crio: crio?,
            kubelet: kubelet?,
        })
    }

    fn slice(&mut self, slice: &Text) -> Option<PathBuf> {
        let text = slice.get_ref();
        if text.starts_with('/') {
            return self.error(slice, "the slice must be relative to the cgroup2 mount").help(
                "the root itself can't be captured: Weir's own connections would come back to it",
            );
        }
        if text.split('/').any(|c| matches!(c, "" | "." | "..")) || text.contains(['*', '\0']) {
            return self
                .error(slice, "the slice must be the path of one cgroup")
                .none();
        }
        Some(PathBuf::from(text))
    }

    fn paths(&mut self, raw: &raw::Paths) -> Option<Paths> {
        let state_dir = self.path_or(raw.state_dir.as_ref(), "/var/lib/weir");
        let run_dir = self.path_or(raw.run_dir.as_ref(), "/run/weir");
        let policies = self.path_or(raw.policies.as_ref(), "/etc/weir/policies");
        Some(Paths {
            state_dir: state_dir?,
            run_dir: run_dir?,
            policies: policies?,
        })
    }

    fn journal(&mut self, raw: &raw::Journal) -> Option<Journal> {
        self.later(&raw.retention);
        let durability = self.choice(
            raw.durability.as_ref(),
            &[("os", Durability::Os), ("disk", Durability::Disk)],
        );
        let results = self.choice(
            raw.results.as_ref(),
            &[
                ("full", Results::Full),
                ("digest", Results::Digest),
                ("none", Results::None),
            ],
        );
        Some(Journal {
            durability: durability?,
            results: results?,
        })
    }

    fn name(&mut self, name: &Text) -> Option<Arc<str>> {
        let text = name.get_ref();
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if (1..=63).contains(&text.len()) && text.bytes().all(good) {
            return Some(text.as_str().into());
        }
        self.error(name, format!("{text:?} can't be a name"))
            .help(NAME_RULE)
    }

    fn path_or(&mut self, path: Option<&Text>, default: &str) -> Option<PathBuf> {
        path.map_or_else(|| Some(PathBuf::from(default)), |path| self.path(path))
    }

    fn path(&mut self, path: &Text) -> Option<PathBuf> {
        let text = path.get_ref();
        if text.starts_with('/') && !text.contains('\0') {
            return Some(PathBuf::from(text));
        }
        let help = "the daemon has no working directory to start from";
        self.error(path, format!("path {text:?} must be absolute"))
            .help(help)
    }

    fn choice<T: Copy + Default>(
        &mut self,
        text: Option<&Text>,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let Some(text) = text else {
            return Some(T::default());
        };
        match choices.iter().find(|(name, _)| name == text.get_ref()) {
            Some((_, value)) => Some(*value),
            None => {
                let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
                self.unknown(text, text.get_ref(), &names)
            }
        }
    }

    fn unknown<T>(&mut self, at: &Text, value: &str, known: &[&str]) -> Option<T> {
        let help = match did_you_mean(value, known.iter().copied()) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("one of {}", known.join(", ")),
        };
        self.error(at, format!("unknown value {value:?}"))
            .help(help)
    }

    fn later(&mut self, later: &Later) {
        if let Some(value) = later {
            let message = "this setting is not in this version yet";
            let help = "remove it: ignored, it would promise what isn't there";
            self.error_at(value.span(), message).help::<()>(help);
        }
    }

    fn error(&mut self, at: &Text, message: impl Into<String>) -> Found<'_> {
        self.error_at(at.span(), message)
    }

    fn error_at(&mut self, at: Range<usize>, message: impl Into<String>) -> Found<'_> {
        self.found
            .push(Diagnostic::error(&self.file, self.text, at, message.into()));
        Found(&mut self.found)
    }
}

/// The error that was just found: lets a check end in `return self.error(…).help(…)`.
struct Found<'a>(&'a mut Vec<Diagnostic>);

impl Found<'_> {
    fn help<T>(self, help: impl Into<String>) -> Option<T> {
        if let Some(last) = self.0.pop() {
            self.0.push(last.help(help));
        }
        None
    }

    fn none<T>(self) -> Option<T> {
        None
    }
}

#[cfg(test)]
mod tests;
