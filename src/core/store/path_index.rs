//! Full path to id in one probe, however many paths there are.
//!
//! Owns: hashing and placement. It stores no paths: the caller says whether an id has the path it looks for.
//!
//! Entries are eight bytes, in shards of linearly probed slots, so a lookup touches one cache line of the index (a
//! table with separate tags touches two, and far from cache each costs as much as everything else in a lookup).
//!
//! Always holds:
//! 1. Every path hashes alike in one process (the seed is fixed at construction); no answer depends on the seed.
//! 2. Growth is local: one shard is rebuilt, about a thousand entries at a million paths, without reading a path; no insert stalls the loop.
//! 3. An entry lies at its home slot or after it, with no vacant slot between.
//! 4. Iteration order is never used, there is no way to iterate.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;

/// At one million paths a shard holds about a thousand entries; rebuilding it takes some twenty microseconds.
const SHARDS: usize = 1024;
/// Resolution of the hash-to-shard table, which at 8 KiB stays near.
const SHARD_MAP_LEN: usize = 4096;
const SHARD_MAP_BITS: u32 = 12;
/// A shard grows when more than 4 of 5 slots are taken: a hit then reads 3 slots on average, a miss 13.
const FILL_MAX: (usize, usize) = (4, 5);
/// Slots of a shard's first table: one cache line.
const SHARD_SLOTS_MIN: usize = 8;
/// In `Slot::id`: nothing here.
const VACANT: u32 = u32::MAX;

/// One entry: 32 bits of the path's hash (so growing never touches the path) and the id.
#[derive(Clone, Copy)]
struct Slot {
    hash: u32,
    id: u32,
}

/// The hash of one path, under one index's seed: the low half places it in its shard, the high half picks the shard.
#[derive(Clone, Copy)]
pub(super) struct PathHash(u64);

#[derive(Default)]
struct Shard {
    slots: Box<[Slot]>,
    taken: usize,
}

/// See the module documentation.
pub(super) struct PathIndex {
    state: FixedState,
    shards: Vec<Shard>,
    shard_of: Box<[u16; SHARD_MAP_LEN]>,
}

impl PathIndex {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            state: FixedState::with_seed(seed),
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            shard_of: staggered_shards(),
        }
    }

    /// Hashes `path` for the calls below.
    #[inline]
    pub(super) fn hash(&self, path: &[u8]) -> PathHash {
        let mut hasher = self.state.build_hasher();
        hasher.write(path);
        PathHash(hasher.finish())
    }

    /// The id for which `is_it` holds, among those whose path has this hash.
    #[inline]
    pub(super) fn find(&self, hash: PathHash, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let shard = &self.shards[self.shard(hash)];
        shard.probe(hash.0 as u32, |slot| is_it(slot.id)).map(|at| shard.slots[at].id)
    }

    /// Adds an id whose path has this hash. The caller has made sure that the path is not in the index.
    pub(super) fn insert(&mut self, hash: PathHash, id: u32) {
        assert_ne!(id, VACANT, "path index: a reserved id");
        let shard = self.shard(hash);
        self.shards[shard].insert(Slot { hash: hash.0 as u32, id });
    }

    /// Takes an id out.
    ///
    /// # Panics
    /// When it is not there: whoever inserted it lost track.
    pub(super) fn remove(&mut self, hash: PathHash, id: u32) {
        let shard = self.shard(hash);
        let shard = &mut self.shards[shard];
        let at = shard.probe(hash.0 as u32, |slot| slot.id == id).expect("path index: an id that is there");
        shard.remove(at);
    }

    /// Entries in all shards; for the invariant checks of tests.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.taken).sum()
    }

    #[inline]
    fn shard(&self, hash: PathHash) -> usize {
        usize::from(self.shard_of[(hash.0 >> (64 - SHARD_MAP_BITS)) as usize])
    }
}

impl Shard {
    /// The slot with this hash for which `is_it` holds.
    #[inline]
    fn probe(&self, hash: u32, mut is_it: impl FnMut(Slot) -> bool) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let mut at = home(hash, self.slots.len());
        loop {
            let slot = self.slots[at];
            if slot.id == VACANT {
                return None;
            }
            if slot.hash == hash && is_it(slot) {
                return Some(at);
            }
            at = after(at, self.slots.len());
        }
    }

    fn insert(&mut self, slot: Slot) {
        if (self.taken + 1) * FILL_MAX.1 > self.slots.len() * FILL_MAX.0 {
            self.grow();
        }
        self.place(slot);
        self.taken += 1;
    }

    fn place(&mut self, slot: Slot) {
        let mut at = home(slot.hash, self.slots.len());
        while self.slots[at].id != VACANT {
            at = after(at, self.slots.len());
        }
        self.slots[at] = slot;
    }

    /// Grows by a quarter: shards are small, so rebuilding often is cheaper than the memory of growing by doubling.
    fn grow(&mut self) {
        let len = (self.slots.len() + self.slots.len() / 4).max(SHARD_SLOTS_MIN);
        let vacant = vec![Slot { hash: 0, id: VACANT }; len].into_boxed_slice();
        let old = std::mem::replace(&mut self.slots, vacant);
        for slot in old.iter().filter(|slot| slot.id != VACANT) {
            self.place(*slot);
        }
    }

    /// Empties a slot, and moves later entries up that would no longer be found from their home.
    fn remove(&mut self, mut hole: usize) {
        let len = self.slots.len();
        let mut at = hole;
        loop {
            at = after(at, len);
            let slot = self.slots[at];
            if slot.id == VACANT {
                break;
            }
            let distance = |from: usize, to: usize| if to >= from { to - from } else { to + len - from };
            if distance(home(slot.hash, len), at) >= distance(hole, at) {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole].id = VACANT;
        self.taken -= 1;
    }
}

/// Where a hash belongs among `len` slots: proportional to its size, so any `len` does.
#[inline]
fn home(hash: u32, len: usize) -> usize {
    ((u64::from(hash) * len as u64) >> 32) as usize
}

#[inline]
fn after(at: usize, len: usize) -> usize {
    if at + 1 == len { 0 } else { at + 1 }
}

/// Shards get unequal shares of the hash space, from 1 to 2 in equal ratios. With equal shares all would grow at the
/// same key count; staggered, growth is spread out evenly and the index stays near its mean fill at every size.
fn staggered_shards() -> Box<[u16; SHARD_MAP_LEN]> {
    let mut map = Box::new([0; SHARD_MAP_LEN]);
    for (place, shard) in map.iter_mut().enumerate() {
        let share = (1.0 + place as f64 / SHARD_MAP_LEN as f64).log2();
        *shard = (share * SHARDS as f64).min(SHARDS as f64 - 1.0) as u16;
    }
    map
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn finds_what_was_inserted_and_nothing_else() {
        let paths: Vec<String> = (0..10_000).map(|n| format!("/k/{n}")).collect();
        let mut index = PathIndex::new(7);
        let find =
            |index: &PathIndex, path: &str| index.find(index.hash(path.as_bytes()), |id| paths[id as usize] == path);
        for (id, path) in paths.iter().enumerate() {
            assert_eq!(find(&index, path), None);
            index.insert(index.hash(path.as_bytes()), id as u32);
        }
        for (id, path) in paths.iter().enumerate() {
            assert_eq!(find(&index, path), Some(id as u32));
        }
        for (id, path) in paths.iter().enumerate().step_by(2) {
            index.remove(index.hash(path.as_bytes()), id as u32);
            assert_eq!(find(&index, path), None);
        }
        assert_eq!(index.len(), paths.len() / 2);
    }

    #[test]
    fn shares_run_from_one_to_two() {
        let map = staggered_shards();
        let share = |shard: usize| map.iter().filter(|&&s| usize::from(s) == shard).count();
        assert!((0..SHARDS).all(|shard| (2..=6).contains(&share(shard))));
        let shares = |shards: std::ops::Range<usize>| shards.map(share).sum::<usize>();
        assert!((360..=380).contains(&shares(0..128)) && (670..=720).contains(&shares(SHARDS - 128..SHARDS)));
    }

    proptest! {
        /// Few hashes, near both ends, so that entries crowd and wrap around.
        #[test]
        fn a_shard_agrees_with_a_map(steps in proptest::collection::vec((any::<bool>(), 0..6_u32, 0..40_u32), 0..200)) {
            let mut shard = Shard::default();
            let mut map = BTreeMap::new();
            for (insert, hash, id) in steps {
                let hash = hash.wrapping_sub(3).wrapping_mul(1 << 28);
                match (insert, map.contains_key(&id)) {
                    (true, false) => {
                        shard.insert(Slot { hash, id });
                        map.insert(id, hash);
                    }
                    (false, true) => {
                        let at = shard.probe(map[&id], |slot| slot.id == id).expect("an entry");
                        shard.remove(at);
                        map.remove(&id);
                    }
                    _ => {}
                }
                prop_assert_eq!(shard.taken, map.len());
                for (id, hash) in &map {
                    prop_assert!(shard.probe(*hash, |slot| slot.id == *id).is_some());
                }
            }
        }
    }
}
