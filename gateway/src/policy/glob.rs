//! Patterns for names: text in which `*` stands for any number of characters.
//!
//! Names are compared as the server folds them, byte for byte. There is no escape: a name that
//! contains a literal `*` can only be matched by a pattern with `*` in its place.

/// A compiled pattern for one part of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Glob {
    /// `*`: every name.
    Any,
    /// No `*` in it: exactly this name.
    Exact(Box<str>),
    /// The literal parts between the `*`s, the first and last possibly empty.
    Parts(Box<[Box<str>]>),
}

impl Glob {
    /// Compiles a pattern. Every text is one.
    pub fn new(pattern: &str) -> Glob {
        if !pattern.contains('*') {
            return Glob::Exact(pattern.into());
        }
        if pattern.bytes().all(|b| b == b'*') {
            return Glob::Any;
        }
        Glob::Parts(pattern.split('*').map(Into::into).collect())
    }

    /// Whether `name` is one of the names that the pattern stands for.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Glob::Any => true,
            Glob::Exact(exact) => **exact == *name,
            Glob::Parts(parts) => match_parts(parts, name),
        }
    }

    /// Whether the pattern names exactly one name.
    pub fn is_exact(&self) -> bool {
        matches!(self, Glob::Exact(_))
    }
}

/// Leftmost matching of each inner part is enough: if any placement fits, the leftmost one does.
fn match_parts(parts: &[Box<str>], name: &str) -> bool {
    let [first, inner @ .., last] = parts else {
        return false;
    };
    let Some(mut rest) = name.strip_prefix(&**first) else {
        return false;
    };
    for part in inner {
        let Some(at) = rest.find(&**part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(&**last)
}

impl std::fmt::Display for Glob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Glob::Any => f.write_str("*"),
            Glob::Exact(exact) => f.write_str(exact),
            Glob::Parts(parts) => f.write_str(&parts.join("*")),
        }
    }
}

/// A pattern for objects: `schema.name`, each part a [`Glob`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectPattern {
    /// The part before the first dot.
    pub schema: Glob,
    /// The part after it, which may itself contain dots.
    pub name: Glob,
}

impl ObjectPattern {
    /// Compiles `schema.name`; `None` where a part is missing or empty.
    pub fn new(pattern: &str) -> Option<ObjectPattern> {
        let (schema, name) = pattern.split_once('.')?;
        if schema.is_empty() || name.is_empty() {
            return None;
        }
        Some(ObjectPattern {
            schema: Glob::new(schema),
            name: Glob::new(name),
        })
    }

    /// Whether the pattern covers this object.
    pub fn matches(&self, schema: &str, name: &str) -> bool {
        self.schema.matches(schema) && self.name.matches(name)
    }

    /// Whether the pattern names one object and no other.
    pub fn is_exact(&self) -> bool {
        self.schema.is_exact() && self.name.is_exact()
    }
}

impl std::fmt::Display for ObjectPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_stands_for_any_run_of_characters_and_nothing_else_is_special() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("**", "x", true),
            ("ab", "ab", true),
            ("ab", "abc", false),
            ("a*", "a", true),
            ("a*", "ba", false),
            ("*a", "ba", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "a__b__b_c", true),
            ("a*b*c", "a__c", false),
            ("*x*", "x", true),
            ("a.b", "axb", false),
            ("a?", "ab", false),
            ("é*", "éa", true),
        ] {
            assert_eq!(
                Glob::new(pattern).matches(name),
                expected,
                "{pattern} on {name}"
            );
        }
    }

    #[test]
    fn an_object_pattern_needs_both_parts() {
        assert!(ObjectPattern::new("customers").is_none());
        assert!(ObjectPattern::new(".customers").is_none());
        assert!(ObjectPattern::new("public.").is_none());
        let dotted = ObjectPattern::new("public.a.b").unwrap();
        assert!(dotted.matches("public", "a.b"));
        assert_eq!(dotted.to_string(), "public.a.b");
    }

    fn slow(pattern: &[char], name: &[char]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some(('*', rest)), _) => {
                slow(rest, name) || name.split_first().is_some_and(|(_, n)| slow(pattern, n))
            }
            (Some((p, ps)), Some((n, ns))) => p == n && slow(ps, ns),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_definition(pattern in "[ab*]{0,6}", name in "[ab]{0,8}") {
            let p: Vec<char> = pattern.chars().collect();
            let n: Vec<char> = name.chars().collect();
            prop_assert_eq!(Glob::new(&pattern).matches(&name), slow(&p, &n));
        }
    }
}
