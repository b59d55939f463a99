//! What a StartupMessage may ask for.
//!
//! Everything is an allow-list: a parameter goes upstream only if it can't change how the server
//! reads statements or whom it takes the session for. The user's name is a claim; it is recorded
//! and replaced.

use crate::judge;
use crate::wire::Startup;

/// What the session opens with upstream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Claimed, and never used.
    pub(super) user: String,
    pub(super) database: String,
    /// For the server's start-up.
    pub(super) parameters: Vec<(String, String)>,
    /// The client named a search path of its own.
    pub(super) sets_search_path: bool,
    /// Protocol options that Weir doesn't know; the client is told so.
    pub(super) unknown_options: Vec<String>,
}

/// Why a session doesn't open, for the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) sqlstate: &'static str,
    pub(super) message: String,
}

fn refuse<T>(sqlstate: &'static str, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal {
        sqlstate,
        message: message.into(),
    })
}

/// Checks a StartupMessage against the databases that may be named (all, if there are none).
pub(super) fn check(startup: &Startup, databases: &[String]) -> Result<Wanted, Refusal> {
    let Some(user) = startup.parameter("user").filter(|u| !u.is_empty()) else {
        return refuse("28000", "no user name in the start-up message");
    };
    let database = startup
        .parameter("database")
        .filter(|d| !d.is_empty())
        .unwrap_or(user);
    if !databases.is_empty() && !databases.iter().any(|d| d == database) {
        return refuse(
            "3D000",
            format!("database \"{database}\" is not offered to agents"),
        );
    }
    let mut wanted = Wanted {
        user: user.to_owned(),
        database: database.to_owned(),
        parameters: Vec::new(),
        sets_search_path: false,
        unknown_options: Vec::new(),
    };
    for (name, value) in &startup.parameters {
        wanted.take(name, value)?;
    }
    Ok(wanted)
}

impl Wanted {
    fn take(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        match name {
            "user" | "database" => Ok(()),
            "replication" if matches!(value, "false" | "off" | "no" | "0") => Ok(()),
            "replication" => refuse("28000", "replication connections are refused"),
            "client_encoding" if is_utf8(value) => Ok(()),
            "client_encoding" => refuse(
                "22023",
                "client_encoding must be UTF8: Weir reads every statement as UTF-8",
            ),
            "options" => self.take_command_line(value),
            _ if name.starts_with("_pq_.") => {
                self.unknown_options.push(name.to_owned());
                Ok(())
            }
            _ => self.take_setting(name, value),
        }
    }

    /// `-c name=value` and `--name=value`, as libpq passes PGOPTIONS; a backslash escapes a space.
    fn take_command_line(&mut self, options: &str) -> Result<(), Refusal> {
        let mut words = split_options(options).into_iter();
        while let Some(word) = words.next() {
            let setting = match word.strip_prefix("--") {
                Some(setting) => Some(setting.to_owned()),
                None => match word.strip_prefix("-c") {
                    Some("") => words.next(),
                    other => other.map(str::to_owned),
                },
            };
            let Some((name, value)) = setting.as_deref().and_then(|s| s.split_once('=')) else {
                return refuse(
                    "22023",
                    "only -c name=value is understood in start-up options",
                );
            };
            self.take_setting(&name.replace('-', "_"), value)?;
        }
        Ok(())
    }

    fn take_setting(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        let folded = name.to_ascii_lowercase();
        if folded == "client_encoding" {
            return self.take("client_encoding", value);
        }
        if !judge::is_harmless_setting(&folded) {
            return refuse(
                "22023",
                format!("the start-up option \"{name}\" is not on Weir's allow-list"),
            );
        }
        self.sets_search_path |= folded == "search_path";
        self.parameters.push((name.to_owned(), value.to_owned()));
        Ok(())
    }
}

fn is_utf8(encoding: &str) -> bool {
    let letters: String = encoding
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_lowercase();
    matches!(letters.as_str(), "utf8" | "unicode")
}

fn split_options(options: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut chars = options.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => word.extend(chars.next()),
            c if c.is_ascii_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ProtocolVersion;

    fn startup(parameters: &[(&str, &str)]) -> Startup {
        Startup {
            version: ProtocolVersion { major: 3, minor: 0 },
            parameters: parameters
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect(),
        }
    }

    fn checked(extra: &[(&str, &str)]) -> Result<Wanted, Refusal> {
        let all = [&[("user", "agent"), ("database", "app")], extra].concat();
        check(&startup(&all), &["app".to_owned()])
    }

    #[test]
    fn only_offered_databases_open() {
        assert!(checked(&[]).is_ok());
        let other = check(
            &startup(&[("user", "a"), ("database", "b")]),
            &["app".to_owned()],
        );
        assert_eq!(other.map_err(|r| r.sqlstate), Err("3D000"));
        let unnamed = check(&startup(&[("user", "app")]), &["app".to_owned()]);
        assert_eq!(unnamed.map(|w| w.database), Ok("app".to_owned()));
    }

    #[test]
    fn replication_is_refused() {
        assert_eq!(
            checked(&[("replication", "database")]).map_err(|r| r.sqlstate),
            Err("28000")
        );
        assert_eq!(
            checked(&[("replication", "true")]).map_err(|r| r.sqlstate),
            Err("28000")
        );
        assert!(checked(&[("replication", "false")]).is_ok());
    }

    #[test]
    fn every_spelling_of_utf8_is_taken_and_no_other_encoding() {
        for spelling in ["UTF8", "utf-8", "'utf-8'", "UNICODE"] {
            assert!(
                checked(&[("client_encoding", spelling)]).is_ok(),
                "{spelling}"
            );
        }
        for other in ["SQL_ASCII", "LATIN1", "SJIS", ""] {
            assert!(checked(&[("client_encoding", other)]).is_err(), "{other}");
        }
    }

    #[test]
    fn settings_on_which_judging_rests_are_refused_in_every_spelling() {
        for options in [
            "-c standard_conforming_strings=off",
            "-cstandard_conforming_strings=off",
            "--standard-conforming-strings=off",
            "-c  Standard_Conforming_Strings=off",
            "-c role=postgres",
            "-c session_replication_role=replica",
            "-c client_encoding=LATIN1",
            "-d 5",
            "-W 3",
        ] {
            assert!(checked(&[("options", options)]).is_err(), "{options}");
        }
        assert!(checked(&[("standard_conforming_strings", "off")]).is_err());
        assert!(checked(&[("Role", "postgres")]).is_err());
    }

    #[test]
    fn harmless_settings_go_upstream() {
        let wanted = checked(&[
            ("application_name", "psql"),
            ("options", r"-c statement_timeout=5s -c search_path=a\ b"),
        ])
        .expect("harmless");
        assert!(wanted.sets_search_path);
        assert_eq!(
            wanted.parameters,
            [
                ("application_name".to_owned(), "psql".to_owned()),
                ("statement_timeout".to_owned(), "5s".to_owned()),
                ("search_path".to_owned(), "a b".to_owned()),
            ]
        );
    }
}
