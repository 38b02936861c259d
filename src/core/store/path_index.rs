//! Full path to id in one probe, however many paths there are.
//!
//! Owns: hashing and placement. It stores no paths: the caller says whether an id has the path it looks for.
//!
//! Always holds:
//! 1. Every path hashes alike in one process (the seed is fixed at construction); no answer depends on the seed.
//! 2. Growth is local: a shard's rehash moves a few thousand entries and reads no path, so no insert stalls the loop.
//! 3. Iteration order is never used, there is no way to iterate.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// At one million paths a shard holds about four thousand entries; its rehash takes tens of microseconds.
const SHARDS: usize = 256;
/// Resolution of the hash-to-shard table; 4 KiB of bytes stays in the first-level cache.
const SHARD_MAP_LEN: usize = 4096;
const SHARD_MAP_BITS: u32 = 12;

/// One entry: 32 bits of the path's hash (so growing never touches the path) and the id.
struct Slot {
    hash: u32,
    id: u32,
}

/// The hash of one path, under one index's seed.
#[derive(Clone, Copy)]
pub(super) struct PathHash(u64);

/// See the module documentation.
pub(super) struct PathIndex {
    state: FixedState,
    shards: Vec<HashTable<Slot>>,
    shard_of: Box<[u8; SHARD_MAP_LEN]>,
}

impl PathIndex {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            state: FixedState::with_seed(seed),
            shards: (0..SHARDS).map(|_| HashTable::new()).collect(),
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
        let short = hash.0 as u32;
        let shard = &self.shards[self.shard(hash)];
        shard.find(spread(short), |slot| slot.hash == short && is_it(slot.id)).map(|slot| slot.id)
    }

    /// Adds an id whose path has this hash. The caller has made sure that the path is not in the index.
    pub(super) fn insert(&mut self, hash: PathHash, id: u32) {
        let short = hash.0 as u32;
        let shard = self.shard(hash);
        self.shards[shard].insert_unique(spread(short), Slot { hash: short, id }, |slot| spread(slot.hash));
    }

    /// Takes an id out.
    ///
    /// # Panics
    /// When it is not there: whoever inserted it lost track.
    pub(super) fn remove(&mut self, hash: PathHash, id: u32) {
        let short = hash.0 as u32;
        let shard = self.shard(hash);
        match self.shards[shard].entry(spread(short), |slot| slot.id == id, |slot| spread(slot.hash)) {
            Entry::Occupied(entry) => drop(entry.remove()),
            Entry::Vacant(_) => panic!("path index: id {id} is missing"),
        }
    }

    /// Entries in all shards; for the invariant checks of tests.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(HashTable::len).sum()
    }

    #[inline]
    fn shard(&self, hash: PathHash) -> usize {
        usize::from(self.shard_of[(hash.0 >> (64 - SHARD_MAP_BITS)) as usize])
    }
}

/// hashbrown takes its tag from the top bits and the bucket from the low bits; both must vary.
#[inline]
fn spread(short: u32) -> u64 {
    u64::from(short) << 32 | u64::from(short)
}

/// Shards get unequal shares of the hash space, from 1 to 2 in equal ratios. Tables grow by doubling; with equal
/// shares all would grow at the same key count, and memory would jump. Staggered, growth is spread out evenly and the
/// index stays near its mean fill at every size.
fn staggered_shards() -> Box<[u8; SHARD_MAP_LEN]> {
    let mut map = Box::new([0; SHARD_MAP_LEN]);
    for (place, shard) in map.iter_mut().enumerate() {
        let share = (1.0 + place as f64 / SHARD_MAP_LEN as f64).log2();
        *shard = (share * SHARDS as f64).min(SHARDS as f64 - 1.0) as u8;
    }
    map
}

#[cfg(test)]
mod tests {
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
        let share = |shard: u8| map.iter().filter(|&&s| s == shard).count();
        assert_eq!(usize::from(map[SHARD_MAP_LEN - 1]), SHARDS - 1);
        assert!((0..=255).all(|shard| (10..=23).contains(&share(shard))));
        assert!((21..=23).contains(&share(255)) && (10..=12).contains(&share(0)));
    }
}
