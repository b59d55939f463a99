//! Patterns for cgroup paths and for names: `*` stands for any characters.

use std::fmt;

/// A pattern for cgroup paths: components by `/`, in which `*` stands for any characters.
///
/// It matches a cgroup and all that are below it.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern(Box<[Box<str>]>);

/// Why a text is no [`Pattern`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// Nothing in it.
    #[error("the pattern is empty")]
    Empty,
    /// `a//b`, `.` or `..`: no cgroup's path has those.
    #[error("the pattern has an empty component, . or ..")]
    Component,
}

impl Pattern {
    /// Reads a pattern; a slash at its ends is ignored.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let text = text.strip_prefix('/').unwrap_or(text);
        let text = text.strip_suffix('/').unwrap_or(text);
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.split('/').any(|c| matches!(c, "" | "." | "..")) {
            return Err(PatternError::Component);
        }
        Ok(Self(text.split('/').map(Box::from).collect()))
    }

    /// Whether `path` or a parent of it matches.
    pub fn covers(&self, path: &str) -> bool {
        let mut components = path.trim_matches('/').split('/');
        self.0
            .iter()
            .all(|glob| components.next().is_some_and(|c| glob_matches(glob, c)))
    }

    /// Whether any cgroup at or below `slice` (a path, no pattern) could match.
    pub fn reaches(&self, slice: &str) -> bool {
        let components = slice.trim_matches('/').split('/');
        self.0
            .iter()
            .zip(components)
            .all(|(glob, c)| glob_matches(glob, c))
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({self})")
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("/"))
    }
}

/// Whether `text` matches `glob`, in which `*` stands for any run of characters, none included.
/// Linear in memory and at worst quadratic in time; both sides are short.
pub(super) fn glob_matches(glob: &str, text: &str) -> bool {
    let mut parts = glob.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stars_stay_within_their_component() {
        let matches = |glob: &str, path: &str| Pattern::new(glob).unwrap().covers(path);
        assert!(matches("a/*/c", "a/b/c"));
        assert!(!matches("a/*c", "a/b/c"));
        assert!(matches("a*b*c", "axxbyyc"));
        assert!(matches("a*b*c", "abc"));
        assert!(!matches("a*b*c", "ac"));
        assert!(!matches("a*a", "a"), "one character can't be both ends");
        assert!(matches("*", "anything"));
    }

    #[test]
    fn patterns_that_match_no_path_are_refused() {
        for bad in ["", "/", "a//b", "a/../b", "./a"] {
            assert!(Pattern::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_pattern_reaches_a_slice_it_could_match_in() {
        let reaches = |p: &str, slice: &str| Pattern::new(p).unwrap().reaches(slice);
        assert!(reaches("weir-agents.slice/coder-*", "weir-agents.slice"));
        assert!(reaches("weir-*", "weir-agents.slice"));
        assert!(reaches("a", "a/b"));
        assert!(!reaches("system.slice/x", "weir-agents.slice"));
        assert!(!reaches("a/c", "a/b"));
    }

    proptest! {
        #[test]
        fn a_star_matches_whatever_replaces_it(
            a in "[a-z-]{0,6}", b in "[a-z-]{0,6}", filled in "[a-z.-]{0,8}",
        ) {
            let component = format!("x{a}{filled}{b}");
            let glob = format!("x{a}*{b}");
            prop_assert!(glob_matches(&glob, &component));
        }

        #[test]
        fn no_path_or_pattern_panics(pattern in "\\PC{0,20}", path in "\\PC{0,40}") {
            if let Ok(pattern) = Pattern::new(&pattern) {
                pattern.covers(&path);
                pattern.reaches(&path);
            }
        }
    }
}
