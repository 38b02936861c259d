//! Slots in chunks: ids are `u32`, growth never copies, freed slots are reused.
//!
//! Owns: placement of nodes, watchers and watched paths. Knows nothing of what a slot means.
//!
//! Always holds:
//! 1. A slot never moves: a chunk is allocated once at its full capacity.
//! 2. An id stays below [`ID_LIMIT`], so callers may use the ids above it as markers.
//! 3. The next free slot depends only on the order of calls, so equal histories give equal ids.

/// Slots per chunk: small enough that a new chunk is no stall, large enough that the chunk list stays in cache.
const CHUNK_SLOTS: usize = 1 << CHUNK_BITS;
const CHUNK_BITS: u32 = 11;

/// Ids at and above this one are never given out.
pub(super) const ID_LIMIT: u32 = u32::MAX - 15;

/// A growing set of `T` with stable `u32` ids.
pub(super) struct Slab<T> {
    chunks: Vec<Vec<T>>,
    slots: u32,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(super) const fn new() -> Self {
        Self { chunks: Vec::new(), slots: 0, free: Vec::new() }
    }

    /// Slots ever used; every id given out so far is below it.
    pub(super) const fn slots(&self) -> u32 {
        self.slots
    }

    /// Slots in use.
    pub(super) fn live(&self) -> usize {
        self.slots as usize - self.free.len()
    }

    /// The id the next [`Slab::insert`] will use.
    pub(super) fn next_id(&self) -> u32 {
        self.free.last().copied().unwrap_or(self.slots)
    }

    /// Stores `value` and returns its id.
    ///
    /// # Panics
    /// When all ids are in use (more than four billion slots).
    pub(super) fn insert(&mut self, value: T) -> u32 {
        if let Some(id) = self.free.pop() {
            self[id] = value;
            return id;
        }
        let id = self.slots;
        assert!(id < ID_LIMIT, "slab: out of ids");
        if (id as usize).is_multiple_of(CHUNK_SLOTS) {
            self.chunks.push(Vec::with_capacity(CHUNK_SLOTS));
        }
        self.chunks.last_mut().expect("a chunk was just pushed").push(value);
        self.slots += 1;
        id
    }

    /// Drops the last chunk with everything in it, for a slab that goes; false when there was none. Ids in it are void.
    pub(super) fn drop_chunk(&mut self) -> bool {
        self.chunks.pop().is_some()
    }

    /// Puts `vacant` in the slot, marks it free, and returns what was there. The caller owns the id until now.
    pub(super) fn remove(&mut self, id: u32, vacant: T) -> T {
        let old = std::mem::replace(&mut self[id], vacant);
        self.free.push(id);
        old
    }
}

impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;

    #[inline]
    fn index(&self, id: u32) -> &T {
        &self.chunks[(id >> CHUNK_BITS) as usize][id as usize & (CHUNK_SLOTS - 1)]
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, id: u32) -> &mut T {
        &mut self.chunks[(id >> CHUNK_BITS) as usize][id as usize & (CHUNK_SLOTS - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_slots_are_reused_before_new_ones() {
        let mut slab = Slab::new();
        for n in 0..CHUNK_SLOTS as u32 + 3 {
            assert_eq!(slab.next_id(), n);
            assert_eq!(slab.insert(n), n);
        }
        assert_eq!(slab.remove(5, 0), 5);
        assert_eq!(slab.live(), CHUNK_SLOTS + 2);
        assert_eq!(slab.next_id(), 5);
        assert_eq!(slab.insert(77), 5);
        assert_eq!(slab[5], 77);
        assert_eq!(slab.slots(), CHUNK_SLOTS as u32 + 3);
    }
}
