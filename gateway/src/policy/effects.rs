//! A set of effects as one word: cheap to copy, to test and to journal.

use crate::sql::Effect;

/// A set of effects. Bit `n` stands for the effect whose discriminant is `n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EffectSet(u32);

/// Effects that act on something a rule's `objects` can name. The others have nothing that they
/// act on, so that a rule with `objects` could never match them.
const WITH_OBJECTS: [Effect; 13] = [
    Effect::Read,
    Effect::Insert,
    Effect::Update,
    Effect::Delete,
    Effect::Truncate,
    Effect::Ddl,
    Effect::Privilege,
    Effect::Maintenance,
    Effect::Lock,
    Effect::Procedural,
    Effect::BulkLoad,
    Effect::BulkExport,
    // The functions that do it.
    Effect::UnsafeIo,
];

impl EffectSet {
    /// The empty set.
    pub const EMPTY: EffectSet = EffectSet(0);

    /// The same set with `effect` in it.
    #[must_use]
    pub fn with(self, effect: Effect) -> EffectSet {
        EffectSet(self.0 | 1 << effect as u32)
    }

    /// Whether `effect` is in the set.
    pub fn contains(self, effect: Effect) -> bool {
        self.0 & 1 << effect as u32 != 0
    }

    /// Whether there is nothing in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The set as a word, for the journal.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl FromIterator<Effect> for EffectSet {
    fn from_iter<I: IntoIterator<Item = Effect>>(effects: I) -> EffectSet {
        effects.into_iter().fold(EffectSet::EMPTY, EffectSet::with)
    }
}

/// Whether a rule's `objects` can say anything about this effect.
pub fn has_objects(effect: Effect) -> bool {
    WITH_OBJECTS.contains(&effect)
}
