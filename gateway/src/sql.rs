//! What a statement does: PostgreSQL's own grammar is the authority.
//! Stand-in: only the types of the contract, replaced on merge.

use std::{ops::Range, str::FromStr};

use serde::{Deserialize, Serialize};

macro_rules! effects {
    ($($variant:ident $name:literal,)*) => {
        /// One way in which a statement acts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[expect(missing_docs, reason = "stand-in")]
        pub enum Effect { $($variant,)* }
        impl Effect {
            /// All effects.
            pub const ALL: &'static [Effect] = &[$(Effect::$variant,)*];
            /// The name in policies.
            pub fn as_str(self) -> &'static str {
                match self { $(Effect::$variant => $name,)* }
            }
        }
        impl FromStr for Effect {
            type Err = ();
            fn from_str(s: &str) -> Result<Self, ()> {
                match s { $($name => Ok(Effect::$variant),)* _ => Err(()) }
            }
        }
    };
}
effects! {
    Read "read", Insert "insert", Update "update", Delete "delete", Truncate "truncate", Ddl "ddl",
    Privilege "privilege", Session "session", Transaction "transaction", Maintenance "maintenance",
    Lock "lock", Notify "notify", Procedural "procedural", BulkLoad "bulk_load",
    BulkExport "bulk_export", UnsafeIo "unsafe_io", Unknown "unknown",
}

/// A name as the server folds it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "stand-in")]
pub struct Name {
    pub schema: Option<Box<str>>,
    pub name: Box<str>,
}

/// What a name names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "stand-in")]
pub enum ObjectKind {
    Relation,
    Function,
    Other,
}

/// One effect on one object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "stand-in")]
pub struct Touch {
    pub effect: Effect,
    pub kind: ObjectKind,
    pub object: Option<Name>,
    pub has_where: Option<bool>,
}

/// Direction of a COPY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "stand-in")]
pub enum CopyDirection {
    In,
    Out,
}

/// What an EXPLAIN asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "stand-in")]
pub struct Explain {
    pub analyze: bool,
    pub verbose: bool,
}

/// Facts about a statement.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "stand-in")]
pub struct Shape {
    pub copy: Option<CopyDirection>,
    pub explain: Option<Explain>,
    pub derives: bool,
}

/// Use of columns.
#[derive(Clone, Debug, Default)]
pub struct ColumnUse;
impl ColumnUse {
    /// First forbidden use.
    pub fn forbidden_use(
        &self,
        _masked: &dyn Fn(&Name) -> Option<Vec<Box<str>>>,
    ) -> Option<Box<str>> {
        None
    }
}

/// One statement.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "stand-in")]
pub struct Statement {
    pub span: Range<usize>,
    pub tag: &'static str,
    pub touches: Vec<Touch>,
    pub functions: Vec<Name>,
    pub columns: ColumnUse,
    pub settings: Vec<Box<str>>,
    pub shape: Shape,
}

/// Why a text could not be analysed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "stand-in")]
pub enum FailureKind {
    Syntax,
    Internal,
}

/// Why a text could not be analysed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "stand-in")]
pub struct Failure {
    pub kind: FailureKind,
    pub position: Option<usize>,
}
impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("stand-in")
    }
}

/// What a text does.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "stand-in")]
pub struct Analysis {
    pub statements: Vec<Statement>,
    pub failure: Option<Failure>,
}

/// Analyses a text.
pub fn analyse(text: &str) -> Analysis {
    let touch = Touch {
        effect: Effect::Unknown,
        kind: ObjectKind::Other,
        object: None,
        has_where: None,
    };
    let statement = Statement {
        span: 0..text.len(),
        tag: "UNKNOWN",
        touches: vec![touch],
        functions: Vec::new(),
        columns: ColumnUse,
        settings: Vec::new(),
        shape: Shape::default(),
    };
    Analysis {
        statements: vec![statement],
        failure: Some(Failure {
            kind: FailureKind::Internal,
            position: None,
        }),
    }
}
