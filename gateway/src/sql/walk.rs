//! The walk over one statement's tree: what every part of it shares.
//!
//! The walk is an explicit match over the kinds of node. A kind that isn't listed where it occurs
//! makes the statement `Unknown`, with the kind's name as the reason: a grammar that grows never
//! opens a hole. Depth is bounded, so that the stack is: left-deep chains of operators and set
//! operations, the only ones that real statements nest deeply, are walked by loops. Work is bounded
//! by the statement's length, so that time and memory are.

use std::{
    collections::{HashMap, HashSet},
    fmt::{self, Write},
    hash::Hash,
    rc::Rc,
};

use pg_raw_parse::{Node, list::NodeList, nodes::RangeVar};

use super::{
    ColumnUse, Effect, Name, ObjectKind, Shape, Touch,
    columns::NodeId,
    failure::{Failure, FailureKind},
};

/// The deepest nesting that is walked. A level costs under 4 KiB of stack in a debug build and
/// much less in a release, of the 2 MiB that a thread has.
pub(super) const MAX_DEPTH: usize = 300;

/// The work that a byte of a statement may make: steps of the walk, and things that it finds. The
/// densest text, `SELECT * FROM a,a,a FOR UPDATE`, makes three; so what makes more than this is an
/// error of the walk, one part of the tree walked for each of another.
const WORK_PER_BYTE: usize = 8;
/// The work that the shortest statement may make.
const WORK_AT_LEAST: usize = 256;

/// The names of common table expressions that are in scope.
#[derive(Default)]
pub(super) struct Scope {
    /// Innermost last.
    by_name: HashMap<Box<str>, Vec<Rc<Outputs>>>,
    order: Vec<Box<str>>,
}

impl Scope {
    pub(super) fn find(&self, name: &str) -> Option<Rc<Outputs>> {
        self.by_name.get(name)?.last().cloned()
    }

    pub(super) fn enter(&mut self, name: &str, outputs: Outputs) {
        let meanings = self.by_name.entry(name.into()).or_default();
        meanings.push(Rc::new(outputs));
        self.order.push(name.into());
    }

    /// Says what the innermost CTE of a name gives out, once it is known.
    pub(super) fn complete(&mut self, name: &str, outputs: Outputs) {
        if let Some(last) = self.by_name.get_mut(name).and_then(|m| m.last_mut()) {
            *last = Rc::new(outputs);
        }
    }

    /// A mark for [`Scope::leave`].
    pub(super) fn mark(&self) -> usize {
        self.order.len()
    }

    /// Forgets what was entered since the mark.
    pub(super) fn leave(&mut self, mark: usize) {
        for name in self.order.drain(mark..) {
            if let Some(meanings) = self.by_name.get_mut(&name) {
                meanings.pop();
            }
        }
    }
}

/// What a query gives out: its node, and its columns for as long as their positions are known.
pub(super) struct Outputs {
    pub(super) query: NodeId,
    /// Up to the first `*`; `None`: a computed value, whose inputs are uses already.
    pub(super) columns: Vec<Option<NodeId>>,
    /// All positions are known.
    pub(super) complete: bool,
}

impl Outputs {
    /// The node of the output at a position, counted from 0. A position that isn't known is the
    /// whole query.
    pub(super) fn at(&self, position: usize) -> Option<NodeId> {
        match self.columns.get(position) {
            Some(node) => *node,
            None if self.complete => None,
            None => Some(self.query),
        }
    }
}

/// What the walk has found so far.
#[derive(Default)]
pub(super) struct Walk {
    pub(super) touches: Vec<Touch>,
    pub(super) functions: Vec<Name>,
    pub(super) attributes: Vec<Box<str>>,
    pub(super) settings: Vec<Box<str>>,
    pub(super) columns: ColumnUse,
    pub(super) shape: Shape,
    pub(super) unknown: Option<Box<str>>,
    pub(super) scope: Scope,
    /// How many columns were referred to so far.
    pub(super) column_references: usize,
    /// Inside an EXPLAIN that doesn't execute: whatever is touched is only read.
    pub(super) only_planned: bool,
    /// How many touches so far read a relation.
    pub(super) relations_read: usize,
    /// Which of them no FOR UPDATE has locked yet, by position.
    pub(super) unlocked: Vec<usize>,
    depth: usize,
    steps: usize,
    /// The most work that the statement's length allows.
    work_most: usize,
}

pub(super) type Walked = Result<(), Failure>;

impl Walk {
    /// Over a statement of so many bytes.
    pub(super) fn over(bytes: usize) -> Walk {
        Walk {
            work_most: WORK_AT_LEAST + bytes * WORK_PER_BYTE,
            ..Walk::default()
        }
    }

    /// One step of the walk, as long as its work stays in proportion to the statement.
    pub(super) fn step(&mut self) -> Walked {
        self.steps += 1;
        if self.work() > self.work_most {
            return Err(Failure::of(FailureKind::TooMuchWork));
        }
        Ok(())
    }

    pub(super) fn work(&self) -> usize {
        self.steps
            + self.touches.len()
            + self.functions.len()
            + self.attributes.len()
            + self.settings.len()
            + self.columns.size()
    }

    /// Goes one level down.
    pub(super) fn nested<T>(
        &mut self,
        walk: impl FnOnce(&mut Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if self.depth >= MAX_DEPTH {
            return Err(Failure::of(FailureKind::TooDeep));
        }
        self.step()?;
        self.depth += 1;
        let walked = walk(self);
        self.depth -= 1;
        walked
    }

    pub(super) fn touch(&mut self, effect: Effect, kind: ObjectKind, object: Option<Name>) {
        self.push(Touch {
            effect,
            kind,
            object,
            has_where: None,
        });
    }

    pub(super) fn push(&mut self, mut touch: Touch) {
        if self.only_planned && touch.effect != Effect::Unknown {
            touch.effect = Effect::Read;
            touch.has_where = None;
        }
        let reads = touch.effect == Effect::Read && touch.kind == ObjectKind::Relation;
        if reads && touch.object.is_some() {
            self.relations_read += 1;
            self.unlocked.push(self.touches.len());
        }
        self.touches.push(touch);
    }

    /// An effect on no object.
    pub(super) fn effect(&mut self, effect: Effect) {
        self.touch(effect, ObjectKind::Other, None);
    }

    pub(super) fn on_relation(&mut self, effect: Effect, relation: Option<&RangeVar>) {
        self.touch(effect, ObjectKind::Relation, relation.map(Name::of));
    }

    /// Something that isn't listed where it occurs.
    pub(super) fn unlisted(&mut self, node: Node<'_>) {
        let kind = kind_of(node);
        self.unknown_because(&kind);
    }

    pub(super) fn unknown_because(&mut self, reason: &str) {
        self.effect(Effect::Unknown);
        self.columns.set_opaque();
        self.unknown.get_or_insert_with(|| reason.into());
    }

    /// A function, by its qualified name.
    pub(super) fn function(&mut self, name: &NodeList) {
        match Name::from_parts(name) {
            Some(name) => self.functions.push(name),
            None => self.unknown_because("function name"),
        }
    }

    /// An operator. One with an explicit schema can be anyone's function; those of `pg_catalog`
    /// are the built-in ones.
    pub(super) fn operator(&mut self, name: &NodeList) {
        if name.len() < 2 {
            return;
        }
        match Name::from_parts(name) {
            Some(Name {
                schema: Some(schema),
                name,
            }) => {
                if &*schema != "pg_catalog" {
                    let name = format!("operator {schema}.{name}");
                    self.functions.push(Name::qualified(&schema, &name));
                }
            }
            _ => self.unknown_because("operator name"),
        }
    }
}

/// Removes duplicates, keeps the order.
pub(super) fn distinct<T: Eq + Hash + Clone>(mut values: Vec<T>) -> Vec<T> {
    if values.len() > 1 {
        let mut seen = HashSet::with_capacity(values.len());
        values.retain(|v| seen.insert(v.clone()));
    }
    values
}

/// The name of a node's kind. The crate has no function for it; the derived Debug begins with it.
fn kind_of(node: Node<'_>) -> String {
    struct FirstWord(String);
    impl Write for FirstWord {
        fn write_str(&mut self, s: &str) -> fmt::Result {
            let end = s.find(|c: char| !c.is_alphanumeric() && c != '_');
            self.0.push_str(&s[..end.unwrap_or(s.len())]);
            // An error ends the printing, which otherwise would go on to print the whole tree.
            end.map_or(Ok(()), |_| Err(fmt::Error))
        }
    }
    let mut word = FirstWord(String::new());
    let _stopped_early = write!(word, "{node:?}");
    word.0
}
