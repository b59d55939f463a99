//! Analyses of texts seen before. Clients send few distinct texts many times, or texts that differ
//! in numbers only (`alike`); an analysis depends on nothing but its text, so that one cache serves
//! all sessions of a thread and never needs to be told that something changed.

use std::{borrow::Cow, collections::HashMap, rc::Rc};

use super::{Analysis, alike, analyse};

/// A bounded map from text to analysis. Two generations: when the young one is full it becomes
/// the old one, and what was old and not asked for since is dropped. So what is in use stays, and
/// nothing is ever sorted.
#[derive(Debug, Default)]
pub struct Cache {
    young: HashMap<Box<str>, Rc<Analysis>>,
    old: HashMap<Box<str>, Rc<Analysis>>,
    young_bytes: usize,
}

impl Cache {
    /// Entries of one generation.
    const ENTRIES: usize = 512;
    /// Weight of one generation, in bytes: 512 ordinary statements take a quarter of it.
    const BYTES: usize = 2 << 20;
    /// An analysis that weighs more is not kept: it would push out many others.
    const HEAVIEST: usize = Self::BYTES / 8;
    /// Longer texts are seldom sent twice, and are not kept.
    const LONGEST: usize = 16 << 10;

    /// The analysis of a text.
    pub fn analyse(&mut self, text: &str) -> Rc<Analysis> {
        if text.len() > Self::LONGEST {
            return Rc::new(analyse(text));
        }
        let mut key = alike::representative(text);
        if let Some(found) = self.young.get(&*key) {
            return Rc::clone(found);
        }
        if let Some((key, found)) = self.old.remove_entry(&*key) {
            self.keep(key, Rc::clone(&found));
            return found;
        }
        let found = Rc::new(analyse(text));
        if quotes_its_text(&found) {
            key = Cow::Borrowed(text);
        }
        self.keep(key.into(), Rc::clone(&found));
        found
    }

    fn keep(&mut self, text: Box<str>, analysis: Rc<Analysis>) {
        let weight = text.len() + analysis.weight();
        if weight > Self::HEAVIEST {
            return;
        }
        if self.young.len() >= Self::ENTRIES || self.young_bytes + weight > Self::BYTES {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += weight;
        self.young.insert(text, analysis);
    }
}

/// Whether an analysis may hold words of its text: those of an error.
fn quotes_its_text(analysis: &Analysis) -> bool {
    analysis.failure.is_some() || analysis.statements.iter().any(|s| s.unknown.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_is_analysed_once() {
        let mut cache = Cache::default();
        let first = cache.analyse("SELECT 1");
        assert!(Rc::ptr_eq(&first, &cache.analyse("SELECT 1")));
        assert!(!Rc::ptr_eq(&first, &cache.analyse("SELECT 2")));
    }

    #[test]
    fn texts_that_differ_in_a_compared_number_are_analysed_once() {
        let mut cache = Cache::default();
        let first = cache.analyse("SELECT a FROM t WHERE id = 417");
        let like = |text| (text, Rc::ptr_eq(&first, &cache.analyse(text)));
        let asked: Vec<_> = [
            "SELECT a FROM t WHERE id = 500",
            "SELECT a FROM t WHERE id = 5000",
            "SELECT b FROM t WHERE id = 417",
        ]
        .map(like)
        .into();
        assert_eq!(
            asked.iter().map(|a| a.1).collect::<Vec<_>>(),
            [true, false, false]
        );
    }

    #[test]
    fn an_error_speaks_of_its_own_text() {
        let mut cache = Cache::default();
        let message = |a: Rc<Analysis>| a.failure.as_ref().map(ToString::to_string);
        let first = message(cache.analyse("SELECT a FROM t WHERE id = 417 418"));
        let second = message(cache.analyse("SELECT a FROM t WHERE id = 500 501"));
        assert!(first.is_some());
        assert_ne!(first, second);
    }

    #[test]
    fn it_stays_bounded_and_keeps_what_is_in_use() {
        let mut cache = Cache::default();
        let used = cache.analyse("SELECT 'used'");
        for i in 0..3 * Cache::ENTRIES {
            cache.analyse(&format!("SELECT {i}"));
            assert!(Rc::ptr_eq(&used, &cache.analyse("SELECT 'used'")));
        }
        assert!(cache.young.len() + cache.old.len() <= 2 * Cache::ENTRIES);
        let padding = "x".repeat(Cache::LONGEST / 2);
        for i in 0..100 {
            cache.analyse(&format!("SELECT '{padding}{i}'"));
        }
        assert!(held(&cache) <= 2 * Cache::BYTES);
    }

    fn held(cache: &Cache) -> usize {
        let entries = cache.young.iter().chain(&cache.old);
        entries.map(|(text, a)| text.len() + a.weight()).sum()
    }

    #[test]
    fn an_analysis_weighs_what_it_holds() {
        let analysed = |text: &str| text.len() + analyse(text).weight();
        let padded = format!("SELECT '{}'", "x".repeat(2000));
        let names = format!("SELECT {}", vec!["a"; 1000].join(","));
        assert!(analysed(&padded) < 2 * padded.len() + 1000);
        assert!(analysed(&names) > 50 * names.len());

        let mut cache = Cache::default();
        for i in 0..100 {
            cache.analyse(&format!("{names},{i}"));
            assert!(held(&cache) <= 2 * Cache::BYTES);
        }
        assert!(cache.young.len() + cache.old.len() < 40);
        let heavy = format!("SELECT {}", vec!["a"; 5000].join(","));
        let kept = cache.young.len();
        cache.analyse(&heavy);
        assert_eq!(cache.young.len(), kept);
    }

    #[test]
    fn long_texts_are_not_kept() {
        let mut cache = Cache::default();
        let text = format!("SELECT '{}'", "x".repeat(Cache::LONGEST));
        cache.analyse(&text);
        assert!(cache.young.is_empty());
    }
}
