//! What happened, by index: every answer and every event that anybody was shown must tell one story.
//!
//! Must hold: an index has one event, whoever shows it, before and after any crash; an acknowledged write is one of
//! them; at the end every member's keys are what the events say; indexes that a client sees never go back.

use std::collections::BTreeMap;

use super::{Verdict, digest};

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The key's path.
    pub key: Box<[u8]>,
    /// The action's name.
    pub action: &'static str,
    /// The digest of the value, zero when the event shows none.
    pub value: u64,
    /// The key is gone afterwards.
    pub removes: bool,
    /// When the key was created.
    pub created: u64,
}

impl Fact {
    /// The digest of a value.
    #[must_use]
    pub fn value_digest(value: Option<&[u8]>) -> u64 {
        value.map_or(0, |value| digest(&[value]))
    }
}

/// See the module documentation.
#[derive(Default)]
pub struct Facts {
    events: BTreeMap<u64, Fact>,
    /// The highest index acknowledged per (host, client).
    shown: BTreeMap<(u8, u16), u64>,
}

impl Facts {
    /// Somebody shows the event of an index.
    ///
    /// # Errors
    /// When somebody else showed another one.
    pub fn show(&mut self, index: u64, fact: Fact) -> Verdict {
        match self.events.get(&index) {
            None => {
                self.events.insert(index, fact);
                Ok(())
            }
            Some(known) if *known == fact => Ok(()),
            Some(known) => Err(format!("index {index} has two events: {known:?} and {fact:?}")),
        }
    }

    /// A host answers a client from a state of this index.
    ///
    /// # Errors
    /// When it has answered the same client from a later one.
    pub fn answer(&mut self, host: u8, client: u16, index: u64) -> Verdict {
        let last = self.shown.entry((host, client)).or_default();
        if index < *last {
            return Err(format!("host {host} showed client {client} index {index} after {last}"));
        }
        *last = index;
        Ok(())
    }

    /// A host has another disk: it is another host.
    pub fn forget_host(&mut self, host: u8) {
        self.shown.retain(|(of, _), _| *of != host);
    }

    /// A local read saw a key.
    ///
    /// # Errors
    /// When the event of that index says otherwise.
    pub fn saw(&self, key: &[u8], modified: u64, value: &[u8]) -> Verdict {
        match self.events.get(&modified) {
            Some(fact) if *fact.key != *key || fact.value != digest(&[value]) || fact.removes => {
                Err(format!("a read of {} shows index {modified}, which is {fact:?}", String::from_utf8_lossy(key)))
            }
            // Refreshes are shown to nobody.
            _ => Ok(()),
        }
    }

    /// The events, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Fact)> {
        self.events.iter().map(|(index, fact)| (*index, fact))
    }

    /// Compares a member's keys (path, modified index, digest of the value) below `prefix` with what the events say.
    ///
    /// # Errors
    /// The first difference.
    pub fn compare(&self, prefix: &[u8], found: &BTreeMap<Vec<u8>, (u64, u64)>) -> Verdict {
        let mut expected: BTreeMap<&[u8], (u64, u64)> = BTreeMap::new();
        for (index, fact) in self.iter().filter(|(_, fact)| fact.key.starts_with(prefix)) {
            if fact.removes {
                expected.remove(&*fact.key);
            } else {
                expected.insert(&fact.key, (index, fact.value));
            }
        }
        let shown = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
        for (key, said) in &expected {
            match found.get(*key) {
                Some(is) if is == said => {}
                is => return Err(format!("{} should be {said:?} (index, value) and is {is:?}", shown(key))),
            }
        }
        match found.keys().find(|key| !expected.contains_key(key.as_slice())) {
            Some(key) => Err(format!("{} is there and should not be", shown(key))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(key: &str, value: &str) -> Fact {
        let value = Fact::value_digest(Some(value.as_bytes()));
        Fact { key: key.as_bytes().into(), action: "set", value, removes: false, created: 1 }
    }

    #[test]
    fn one_story_passes() {
        let mut facts = Facts::default();
        facts.show(5, set("/k/a", "1")).unwrap();
        facts.show(5, set("/k/a", "1")).unwrap();
        facts.show(7, Fact { removes: true, ..set("/k/b", "") }).unwrap();
        facts.answer(1, 1, 5).unwrap();
        facts.answer(1, 1, 5).unwrap();
        facts.answer(2, 1, 3).unwrap();
        facts.saw(b"/k/a", 5, b"1").unwrap();
        let found = BTreeMap::from([(b"/k/a".to_vec(), (5, Fact::value_digest(Some(b"1"))))]);
        facts.compare(b"/k/", &found).unwrap();
    }

    #[test]
    fn other_stories_are_rejected() {
        let mut facts = Facts::default();
        facts.show(5, set("/k/a", "1")).unwrap();
        facts.answer(1, 1, 5).unwrap();
        assert!(facts.show(5, set("/k/a", "2")).is_err(), "another value");
        assert!(facts.show(5, set("/k/b", "1")).is_err(), "another key");
        assert!(facts.answer(1, 1, 4).is_err(), "an index that goes back");
        assert!(facts.saw(b"/k/a", 5, b"2").is_err(), "a read of another value");
        assert!(facts.compare(b"/k/", &BTreeMap::new()).is_err(), "a lost write");
        let older = BTreeMap::from([(b"/k/a".to_vec(), (4, Fact::value_digest(Some(b"1"))))]);
        assert!(facts.compare(b"/k/", &older).is_err(), "an older write");
        let value = Fact::value_digest(Some(b"1"));
        let more = BTreeMap::from([(b"/k/a".to_vec(), (5, value)), (b"/k/z".to_vec(), (4, value))]);
        assert!(facts.compare(b"/k/", &more).is_err(), "a key from nowhere");
    }
}
