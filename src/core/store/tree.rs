//! Nodes: where they are, how they hang together, and what they hold.
//!
//! Owns: node slots, sibling links, the path index, and the pre-images of a running capture. Knows no operations and
//! no error codes; `ops.rs` decides what may be done.
//!
//! Always holds:
//! 1. The root exists, is a directory, and has id [`ROOT`].
//! 2. A node is in the path index exactly once, under its image's path, and its parent has the path above it.
//! 3. Only directories have children; the children of one directory form one doubly linked list, newest first.
//! 4. While a capture runs, the first change of a slot it has yet to read saves what the slot held before.
//! 5. Nothing here recurses: depth costs no stack.

use hashbrown::HashMap;
use ringd_storage::ids::EtcdIndex;

use super::image::{Image, ImageParts};
use super::path_index::PathIndex;
use super::slab::{ID_LIMIT, Slab};

/// The id of the root directory.
pub(super) const ROOT: u32 = 0;
/// No such node.
const NONE: u32 = u32::MAX;
/// In `first_child`: this is a file.
const FILE: u32 = u32::MAX - 1;
const _: () = assert!(FILE > ID_LIMIT && NONE > ID_LIMIT);

/// One slot, 32 bytes: two to a cache line.
struct Node {
    image: Image,
    parent: u32,
    first_child: u32,
    next: u32,
    prev: u32,
}

const _: () = assert!(size_of::<Node>() == 32);

/// What a node costs beside its image: its slot, the two counters of the shared image, and its place in the path index
/// at the usual fill.
pub(super) const NODE_OVERHEAD_BYTES: u64 = 32 + 16 + 12;

/// Why a path has no node.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Miss {
    /// The deepest node on the way that exists.
    pub(super) deepest: u32,
    /// Length of that node's path inside the asked path; zero for the root.
    pub(super) deepest_len: usize,
    /// Length of the first path on the way that does not exist.
    pub(super) missing_len: usize,
}

/// What slots held when a capture began, for those that changed before it read them.
pub(super) struct Preimages {
    /// Slots below have been read.
    pub(super) cursor: u32,
    /// Slots from here on were added later.
    pub(super) limit: u32,
    /// `None`: the slot was vacant.
    saved: HashMap<u32, Option<Image>, foldhash::fast::FixedState>,
}

/// See the module documentation.
pub(super) struct Tree {
    nodes: Slab<Node>,
    index: PathIndex,
    vacant: Image,
    /// Images and overhead of all nodes but the root.
    bytes: u64,
    pub(super) preimages: Option<Preimages>,
}

impl Tree {
    pub(super) fn new(seed: u64) -> Self {
        let mut tree = Self {
            nodes: Slab::new(),
            index: PathIndex::new(seed),
            vacant: Image::vacant(),
            bytes: 0,
            preimages: None,
        };
        let root =
            ImageParts { path: b"/", value: None, created: EtcdIndex::ZERO, modified: EtcdIndex::ZERO, deadline: None };
        let image = root.build(&mut Vec::new());
        let hash = tree.index.hash(b"/");
        let id = tree.nodes.insert(Node { image, parent: NONE, first_child: NONE, next: NONE, prev: NONE });
        assert_eq!(id, ROOT, "the first slot is the root");
        tree.index.insert(hash, id);
        tree
    }

    /// Nodes that exist, without the root.
    pub(super) fn len(&self) -> usize {
        self.nodes.live() - 1
    }

    /// What they cost in memory: images and [`NODE_OVERHEAD_BYTES`] each.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The node at `path`.
    #[inline]
    pub(super) fn find(&self, path: &[u8]) -> Option<u32> {
        self.index.find(self.index.hash(path), |id| self.nodes[id].image.path() == path)
    }

    #[inline]
    pub(super) fn image(&self, id: u32) -> &Image {
        &self.nodes[id].image
    }

    #[inline]
    pub(super) fn is_dir(&self, id: u32) -> bool {
        self.nodes[id].first_child != FILE
    }

    pub(super) fn has_children(&self, id: u32) -> bool {
        self.nodes[id].first_child < ID_LIMIT
    }

    /// The first child of a directory; none for a file.
    pub(super) fn first_child(&self, id: u32) -> Option<u32> {
        Some(self.nodes[id].first_child).filter(|&child| child < ID_LIMIT)
    }

    /// The next node in the same directory.
    pub(super) fn next_sibling(&self, id: u32) -> Option<u32> {
        Some(self.nodes[id].next).filter(|&next| next != NONE)
    }

    /// Explains why `find(path)` finds nothing. The parent is tried first, since it mostly exists; then halving, which
    /// works because a node's ancestors all exist. Any bytes are allowed.
    pub(super) fn miss(&self, path: &[u8]) -> Miss {
        let mut miss = Miss { deepest: ROOT, deepest_len: 0, missing_len: path.len() };
        let mut candidate = path.iter().rposition(|&byte| byte == b'/').filter(|&at| at > 0);
        while let Some(at) = candidate {
            match self.find(&path[..at]) {
                Some(id) => (miss.deepest, miss.deepest_len) = (id, at),
                None => miss.missing_len = at,
            }
            let (low, high) = (miss.deepest_len + 1, miss.missing_len);
            if low >= high {
                break;
            }
            let middle = low + (high - low) / 2;
            let slash = |&byte: &u8| byte == b'/';
            candidate = path[low..middle]
                .iter()
                .rposition(slash)
                .map(|found| low + found)
                .or_else(|| path[middle..high].iter().position(slash).map(|found| middle + found));
        }
        miss
    }

    /// Hangs a new node under `parent`. The caller has made sure that its path is below `parent` and not taken.
    pub(super) fn insert(&mut self, parent: u32, image: Image) -> u32 {
        assert!(self.is_dir(parent), "tree: a file has no children");
        let hash = self.index.hash(image.path());
        let first_child = if image.is_dir() { NONE } else { FILE };
        self.preserve(self.nodes.next_id(), true);
        self.bytes += cost(&image);
        let next = self.nodes[parent].first_child;
        let id = self.nodes.insert(Node { image, parent, first_child, next, prev: NONE });
        if next != NONE {
            self.nodes[next].prev = id;
        }
        self.nodes[parent].first_child = id;
        self.index.insert(hash, id);
        id
    }

    /// Gives a node without children a new image with the same path; returns the old one.
    pub(super) fn replace(&mut self, id: u32, image: Image) -> Image {
        self.preserve(id, false);
        let node = &mut self.nodes[id];
        debug_assert!(node.image.path() == image.path(), "a node keeps its path");
        if image.is_dir() != (node.first_child != FILE) {
            assert!(node.first_child >= ID_LIMIT, "tree: a directory with children stays one");
            node.first_child = if image.is_dir() { NONE } else { FILE };
        }
        self.bytes = self.bytes + cost(&image) - cost(&node.image);
        std::mem::replace(&mut node.image, image)
    }

    /// Removes a node and all below it, children before parents; tells `removed` each image that goes.
    pub(super) fn remove(&mut self, top: u32, mut removed: impl FnMut(&Image)) {
        assert_ne!(top, ROOT, "tree: the root stays");
        let Node { parent, next, prev, .. } = self.nodes[top];
        if next != NONE {
            self.nodes[next].prev = prev;
        }
        if prev != NONE {
            self.nodes[prev].next = next;
        } else {
            self.nodes[parent].first_child = next;
        }
        let mut at = top;
        loop {
            while let Some(child) = self.first_child(at) {
                at = child;
            }
            let Node { parent, next, .. } = self.nodes[at];
            self.free(at, &mut removed);
            if at == top {
                break;
            }
            self.nodes[parent].first_child = next;
            at = parent;
        }
    }

    /// Drops some thousand nodes of a tree that goes; false when there was none. Nothing else may be called afterwards.
    pub(super) fn drop_chunk(&mut self) -> bool {
        self.nodes.drop_chunk()
    }

    /// Starts saving pre-images, for a capture that reads slots in order.
    pub(super) fn begin_preimages(&mut self) {
        let saved = HashMap::with_hasher(foldhash::fast::FixedState::with_seed(0));
        self.preimages = Some(Preimages { cursor: 0, limit: self.nodes.slots(), saved });
    }

    /// What the next slot held when the capture began: `None` at the end, `Some(None)` for a vacant slot.
    pub(super) fn next_preimage(&mut self) -> Option<Option<Image>> {
        let pre = self.preimages.as_mut().expect("a capture is running");
        if pre.cursor == pre.limit {
            return None;
        }
        let slot = pre.cursor;
        pre.cursor += 1;
        let current = || Some(self.nodes[slot].image.clone()).filter(|image| !image.same(&self.vacant));
        Some(pre.saved.remove(&slot).unwrap_or_else(current))
    }

    fn free(&mut self, id: u32, removed: &mut impl FnMut(&Image)) {
        self.preserve(id, false);
        let vacant = Node { image: self.vacant.clone(), parent: NONE, first_child: FILE, next: NONE, prev: NONE };
        let hash = self.index.hash(self.nodes[id].image.path());
        self.index.remove(hash, id);
        let node = self.nodes.remove(id, vacant);
        self.bytes -= cost(&node.image);
        removed(&node.image);
    }

    /// Called before slot `id` changes.
    #[inline]
    fn preserve(&mut self, id: u32, is_vacant: bool) {
        if let Some(pre) = &mut self.preimages
            && (pre.cursor..pre.limit).contains(&id)
        {
            let nodes = &self.nodes;
            pre.saved.entry(id).or_insert_with(|| (!is_vacant).then(|| nodes[id].image.clone()));
        }
    }
}

fn cost(image: &Image) -> u64 {
    image.len() as u64 + NODE_OVERHEAD_BYTES
}

#[cfg(test)]
impl Tree {
    /// Walks everything and checks invariants 1 to 3; returns the ids found, the root first.
    pub(super) fn check(&self) -> Vec<u32> {
        assert!(self.is_dir(ROOT) && self.image(ROOT).path() == b"/" && self.nodes[ROOT].parent == NONE);
        let mut seen = vec![ROOT];
        let mut at = 0;
        while at < seen.len() {
            let dir = seen[at];
            at += 1;
            let mut prev = NONE;
            let mut child = self.first_child(dir);
            while let Some(id) = child {
                let node = &self.nodes[id];
                assert_eq!((node.parent, node.prev), (dir, prev));
                assert_eq!(node.image.is_dir(), self.is_dir(id));
                let path = node.image.path();
                let cut = path.iter().rposition(|&byte| byte == b'/').unwrap();
                let parent_path = if cut == 0 { b"/" } else { &path[..cut] };
                assert_eq!(self.image(dir).path(), parent_path);
                assert_eq!(self.find(path), Some(id));
                seen.push(id);
                prev = id;
                child = self.next_sibling(id);
            }
        }
        assert_eq!(seen.len(), self.nodes.live());
        assert_eq!(seen.len(), self.index.len());
        assert_eq!(self.bytes, seen[1..].iter().map(|&id| cost(self.image(id))).sum::<u64>());
        seen
    }
}
