//! What a statement does: PostgreSQL's own grammar is the authority.

/// The name of an object as the server folds it: unquoted parts lower-cased, cut to 63 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// The schema, where the statement gives it.
    pub schema: Option<Box<str>>,
    /// The object's own name.
    pub name: Box<str>,
}
