//! Watchers see every event once and in order, or are told that history is gone.
//!
//! etcd gives a stream on a key the removal of that key twice (`ops.rs` says so too); that is its way of once.
//!
//! Must hold: what a watcher was given between two indexes is exactly what happened there to what it watches; a 401
//! comes only when the index asked for lies before the events that are kept.

use super::Verdict;
use super::facts::Facts;

/// One unbroken stretch of watching: every event from `from` to the last one given is owed.
#[derive(Clone, Debug)]
pub struct Stretch {
    /// What is watched.
    pub path: Vec<u8>,
    /// Keys below it, too.
    pub recursive: bool,
    /// More than one event per request.
    pub stream: bool,
    /// The first index of interest.
    pub from: u64,
    /// The events given, by index.
    pub given: Vec<u64>,
    /// Everything up to here was asked for, given or not.
    pub upto: u64,
}

impl Stretch {
    fn matches(&self, key: &[u8]) -> bool {
        let below =
            self.path == b"/" || key.strip_prefix(self.path.as_slice()).is_some_and(|rest| rest.starts_with(b"/"));
        key == self.path || self.recursive && below
    }

    /// Compares with what happened.
    ///
    /// # Errors
    /// The first event that is missing, doubled, out of order or invented.
    pub fn check(&self, facts: &Facts) -> Verdict {
        let upto = self.given.last().copied().unwrap_or(0).max(self.upto);
        let happened: Vec<u64> = facts
            .iter()
            .filter(|(index, fact)| (self.from..=upto).contains(index) && self.matches(&fact.key))
            .flat_map(|(index, fact)| {
                let times = if self.stream && fact.removes && *fact.key == *self.path { 2 } else { 1 };
                std::iter::repeat_n(index, times)
            })
            .collect();
        if happened == self.given {
            return Ok(());
        }
        let at = happened.iter().zip(&self.given).take_while(|(a, b)| a == b).count();
        Err(format!(
            "a watcher of {} from {} was given {:?} where {:?} happened (its event number {at})",
            String::from_utf8_lossy(&self.path),
            self.from,
            self.given.get(at),
            happened.get(at)
        ))
    }
}

/// A watcher was told that `wanted` is gone from a history that ends at `index` and keeps `kept` events.
///
/// # Errors
/// When it must still have been there.
pub fn check_cleared(wanted: u64, index: u64, kept: u64) -> Verdict {
    if wanted + kept <= index {
        return Ok(());
    }
    Err(format!("a watcher was refused index {wanted} at index {index}, though {kept} events are kept"))
}

#[cfg(test)]
mod tests {
    use super::super::facts::Fact;
    use super::*;

    fn facts() -> Facts {
        let mut facts = Facts::default();
        for (index, key) in [(4, "/k/a"), (5, "/k/b"), (7, "/k/a"), (9, "/x")] {
            let fact = Fact { key: key.as_bytes().into(), action: "set", value: 0, removes: false, created: 1 };
            facts.show(index, fact).unwrap();
        }
        facts
    }

    fn stretch(path: &str, recursive: bool, from: u64, given: &[u64], upto: u64) -> Stretch {
        Stretch { path: path.as_bytes().to_vec(), recursive, stream: false, from, given: given.to_vec(), upto }
    }

    #[test]
    fn whole_stretches_pass() {
        for good in [
            stretch("/k", true, 1, &[4, 5, 7], 9),
            stretch("/", true, 5, &[5, 7, 9], 9),
            stretch("/k/a", false, 1, &[4, 7], 9),
            stretch("/k/a", false, 5, &[7], 0),
            stretch("/k", false, 1, &[], 9),
        ] {
            good.check(&facts()).unwrap();
        }
        check_cleared(5, 15, 10).unwrap();
    }

    #[test]
    fn broken_stretches_are_rejected() {
        for (why, bad) in [
            ("a lost event", stretch("/k", true, 1, &[4, 7], 7)),
            ("a doubled event", stretch("/k", true, 1, &[4, 5, 5, 7], 7)),
            ("a wrong order", stretch("/k", true, 1, &[5, 4, 7], 7)),
            ("another's event", stretch("/k/a", false, 1, &[4, 5, 7], 7)),
            ("an invented event", stretch("/k", true, 1, &[4, 5, 6, 7], 7)),
            ("a lost end", stretch("/k", true, 1, &[4, 5], 9)),
        ] {
            assert!(bad.check(&facts()).is_err(), "{why} was not noticed");
        }
        assert!(check_cleared(6, 15, 10).is_err(), "a refusal of what is kept");
    }
}
