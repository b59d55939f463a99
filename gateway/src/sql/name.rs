//! Names as the server sees them: folded and truncated by the server's own scanner.

use std::fmt;

use pg_raw_parse::{Node, list::NodeList, nodes::RangeVar};

/// The name of a relation, function or other object; compare byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// The schema, where the statement names one.
    pub schema: Option<Box<str>>,
    /// The last part of the name.
    pub name: Box<str>,
}

impl Name {
    /// A name without a schema.
    pub fn bare(name: &str) -> Name {
        Name {
            schema: None,
            name: name.into(),
        }
    }

    /// A name in a schema.
    pub fn qualified(schema: &str, name: &str) -> Name {
        Name {
            schema: Some(schema.into()),
            name: name.into(),
        }
    }

    /// A leading database name may only be the current database: the server refuses any other.
    pub(super) fn of(relation: &RangeVar) -> Name {
        Name {
            schema: relation.schemaname().map(Into::into),
            name: relation.relname().unwrap_or_default().into(),
        }
    }

    /// From a list of strings, `[[catalog.]schema.]name`; `None` where it isn't one.
    pub(super) fn from_parts(parts: &NodeList) -> Option<Name> {
        let mut words = Vec::with_capacity(2);
        for part in parts {
            match part {
                Node::String(s) => words.push(s.sval().unwrap_or_default()),
                _ => return None,
            }
        }
        let name = words.pop()?;
        Some(Name {
            schema: words.pop().map(Into::into),
            name: name.into(),
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{schema}.")?;
        }
        f.write_str(&self.name)
    }
}
