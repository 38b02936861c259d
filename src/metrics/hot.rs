//! Which prefixes are asked for most: a space-saving sketch over the first names of keys.
//!
//! Owns: a fixed number of counters. A name that has none takes over the smallest (Metwally, Agrawal, El Abbadi,
//! "Efficient Computation of Frequent and Top-k Elements in Data Streams", 2005), so that every name with more than one
//! of [`SLOTS`] of all samples is among them, and counts are too high by the smallest at most.
//!
//! Must hold: one request in [`SAMPLE_EVERY`] is looked at, the others cost one addition; memory is fixed; after
//! [`HALVE_AFTER`] samples everything is halved, so that what counts is the recent past, without a clock.

use std::cell::{Cell, RefCell};

/// Names that are counted.
pub const SLOTS: usize = 32;
/// One request in so many is counted.
pub const SAMPLE_EVERY: u32 = 16;
/// A name is told by so many bytes of it at most.
const NAME_BYTES_MAX: usize = 64;
/// About four million requests: minutes under load.
const HALVE_AFTER: u64 = 1 << 18;

/// A prefix and how often it was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hot {
    /// `/` and the first name of the key, cut if it is very long.
    pub prefix: Vec<u8>,
    /// Samples, aged.
    pub count: u64,
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct HotPrefixes {
    requests: Cell<u32>,
    slots: RefCell<Vec<Hot>>,
    samples: Cell<u64>,
}

impl HotPrefixes {
    /// A request to the key at `path` (absolute).
    #[inline]
    pub fn see(&self, path: &[u8]) {
        let requests = self.requests.get();
        self.requests.set(requests.wrapping_add(1));
        if requests.is_multiple_of(SAMPLE_EVERY) {
            self.sample(path);
        }
    }

    #[cold]
    fn sample(&self, path: &[u8]) {
        let end = path.iter().skip(1).position(|&byte| byte == b'/').map_or(path.len(), |at| at + 1);
        let prefix = &path[..end.min(NAME_BYTES_MAX)];
        let mut slots = self.slots.borrow_mut();
        if self.samples.get() >= HALVE_AFTER {
            slots.iter_mut().for_each(|slot| slot.count /= 2);
            self.samples.set(self.samples.get() / 2);
        }
        self.samples.set(self.samples.get() + 1);
        if let Some(slot) = slots.iter_mut().find(|slot| slot.prefix == prefix) {
            slot.count += 1;
        } else if slots.len() < SLOTS {
            slots.push(Hot { prefix: prefix.to_owned(), count: 1 });
        } else {
            let least = slots.iter_mut().min_by_key(|slot| slot.count).expect("there are slots");
            least.prefix.clear();
            least.prefix.extend_from_slice(prefix);
            least.count += 1;
        }
    }

    /// All samples, aged like the counts.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.samples.get()
    }

    /// The prefixes, most asked for first.
    #[must_use]
    pub fn ranking(&self) -> Vec<Hot> {
        let mut ranking = self.slots.borrow().clone();
        ranking.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.prefix.cmp(&b.prefix)));
        ranking
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn see(hot: &HotPrefixes, path: &str, times: u32) {
        (0..times * SAMPLE_EVERY).for_each(|_| hot.see(path.as_bytes()));
    }

    #[test]
    fn what_is_asked_for_most_comes_first_among_any_number_of_others() {
        let hot = HotPrefixes::default();
        for round in 0..1000 {
            see(&hot, &format!("/rare{round}/x"), 1);
            see(&hot, "/often/a/b", 2);
            see(&hot, "/sometimes", 1);
        }
        let ranking = hot.ranking();
        assert_eq!(ranking.len(), SLOTS);
        assert_eq!((ranking[0].prefix.as_slice(), ranking[1].prefix.as_slice()), (&b"/often"[..], &b"/sometimes"[..]));
        assert!((2000..2100).contains(&ranking[0].count), "{}", ranking[0].count);
        assert_eq!(hot.samples(), 4000);
    }

    #[test]
    fn the_past_fades() {
        let hot = HotPrefixes::default();
        see(&hot, "/old", HALVE_AFTER as u32);
        see(&hot, "/new", HALVE_AFTER as u32 - 1);
        assert_eq!(hot.ranking()[0].prefix, b"/new");
        assert!(hot.samples() <= HALVE_AFTER);
    }

    #[test]
    fn names_are_cut_and_the_root_has_one() {
        let hot = HotPrefixes::default();
        see(&hot, "/", 1);
        see(&hot, &format!("/{}", "n".repeat(1000)), 2);
        let ranking = hot.ranking();
        assert_eq!((ranking[0].prefix.len(), ranking[1].prefix.as_slice()), (NAME_BYTES_MAX, &b"/"[..]));
    }
}
