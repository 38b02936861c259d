//! Snapshot files: names, layout, and what is kept. Writing is in `snapshot_writer`, reading in `snapshot_reader`.
//!
//! Bytes: `FORMAT.md`, "Snapshot". Golden file: `testdata/snapshot_v1.snap`.
//!
//! Invariants:
//! 1. A `.snap` name belongs only to a complete, synced file; until then it ends in `.tmp`. A snapshot never changes.
//! 2. Every byte is covered by a checksum: blocks by their own (seeded by their offset), footer and trailer by the
//!    trailer's.
//! 3. Keys are strictly ascending over the whole file.

use std::io;

use crate::format::{Field, Identity, SnapshotMarker, TEMPORARY_SUFFIX, parse_hex_pair};
use crate::ids::{ClusterId, EtcdIndex, MemberId, RaftIndex, Term, UnixNanos};
use crate::medium::Medium;
pub use crate::snapshot_reader::{Items, SnapshotReader, verify};
pub use crate::snapshot_writer::{PUBLISH_STEPS, Publish, PublishStep, SnapshotWriter, push_item};

/// The version of the snapshot layout.
pub const SNAPSHOT_VERSION: u32 = 1;
/// Last bytes of a snapshot.
pub const SNAPSHOT_MAGIC: [u8; 8] = *b"RINGDSNP";
/// A block with its header is at most this long, unless it holds one single item that is longer.
pub const BLOCK_BYTES: usize = 64 << 10;
/// Bytes before a block's items.
pub const BLOCK_HEADER_BYTES: usize = 16;
/// Bytes before an item's key: two lengths.
pub const ITEM_HEADER_BYTES: usize = 8;
/// Bytes of the trailer, which ends the file.
pub const TRAILER_BYTES: usize = 32;
/// Bytes of the meta data that begins the footer, before the lists of members.
pub const META_FIXED_BYTES: usize = 72;
/// Bytes of a footer's entry for one block, before the block's first key.
pub const INDEX_ENTRY_BYTES: usize = 20;

const fn field(name: &'static str, offset: usize, bytes: usize) -> Field {
    Field { name, offset, bytes }
}

/// The block header.
pub const BLOCK_HEADER_FIELDS: &[Field] =
    &[field("crc", 0, 4), field("length", 4, 4), field("items", 8, 4), field("reserved", 12, 4)];
/// The fixed part of the meta data.
pub const META_FIELDS: &[Field] = &[
    field("cluster", 0, 8),
    field("member", 8, 8),
    field("raft_index", 16, 8),
    field("term", 24, 8),
    field("etcd_index", 32, 8),
    field("items", 40, 8),
    field("created", 48, 8),
    field("blocks", 56, 8),
    field("voters", 64, 4),
    field("learners", 68, 4),
];
/// One block's entry in the footer.
pub const INDEX_FIELDS: &[Field] =
    &[field("offset", 0, 8), field("length", 8, 4), field("items", 12, 4), field("first_key_length", 16, 4)];
/// The trailer.
pub const TRAILER_FIELDS: &[Field] = &[
    field("footer_offset", 0, 8),
    field("footer_length", 8, 8),
    field("footer_crc", 16, 4),
    field("version", 20, 4),
    field("magic", 24, 8),
];

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// Who wrote it.
    pub identity: Identity,
    /// The last raft entry it contains, and that entry's term.
    pub marker: SnapshotMarker,
    /// The store's index then.
    pub etcd_index: EtcdIndex,
    /// Members with a vote after that entry.
    pub voters: Vec<MemberId>,
    /// Members without one.
    pub learners: Vec<MemberId>,
    /// How many items it holds; the writer counts them.
    pub items: u64,
    /// The writer's clock.
    pub created: UnixNanos,
}

impl SnapshotMeta {
    /// The file's name: `<term>-<index>.snap`, both as 16 hex digits so that names sort.
    #[must_use]
    pub fn file_name(&self) -> String {
        snapshot_name(self.marker)
    }

    /// Appends the meta data as the footer begins with it.
    pub(crate) fn encode_into(&self, blocks: u64, out: &mut Vec<u8>) {
        let words = [
            self.identity.cluster.get(),
            self.identity.member.get(),
            self.marker.index.get(),
            self.marker.term.get(),
            self.etcd_index.get(),
            self.items,
            self.created.get(),
            blocks,
        ];
        words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
        for list in [&self.voters, &self.learners] {
            out.extend_from_slice(&(u32::try_from(list.len()).expect("a cluster is small")).to_le_bytes());
        }
        for id in self.voters.iter().chain(&self.learners) {
            out.extend_from_slice(&id.get().to_le_bytes());
        }
    }

    /// Reads the meta data; answers it, the number of blocks, and the bytes after it.
    pub(crate) fn decode(footer: &[u8]) -> Option<(Self, u64, &[u8])> {
        let (fixed, mut rest) = footer.split_at_checked(META_FIXED_BYTES)?;
        let word = |at: usize| u64::from_le_bytes(fixed[at..at + 8].try_into().expect("eight bytes"));
        let count = |at: usize| u32::from_le_bytes(fixed[at..at + 4].try_into().expect("four bytes")) as usize;
        let mut members = |count: usize| -> Option<Vec<MemberId>> {
            let (ids, after) = rest.split_at_checked(count.checked_mul(8)?)?;
            rest = after;
            let ids = ids.chunks_exact(8);
            Some(ids.map(|id| MemberId::new(u64::from_le_bytes(id.try_into().expect("eight bytes")))).collect())
        };
        let voters = members(count(64))?;
        let learners = members(count(68))?;
        let meta = Self {
            identity: Identity { cluster: ClusterId::new(word(0)), member: MemberId::new(word(8)) },
            marker: SnapshotMarker { index: RaftIndex::new(word(16)), term: Term::new(word(24)) },
            etcd_index: EtcdIndex::new(word(32)),
            voters,
            learners,
            items: word(40),
            created: UnixNanos::new(word(48)),
        };
        Some((meta, word(56), rest))
    }
}

/// Why a file is not a usable snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFault {
    /// Another kind of file, or one that was cut.
    #[error("it does not end like a snapshot")]
    Magic,
    /// A newer ringd wrote it.
    #[error("snapshot format version {0} is unknown; this build reads version {SNAPSHOT_VERSION}")]
    Version(u32),
    /// Damaged.
    #[error("the checksum of the {0} does not match")]
    Crc(&'static str),
    /// The checksum holds, but a length or an order does not.
    #[error("the {0} breaks the layout")]
    Layout(&'static str),
    /// The disk cannot read or write it.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A snapshot that cannot be used, and where.
#[derive(Debug, thiserror::Error)]
#[error("snapshot {file} at offset {offset}: {fault}")]
pub struct SnapshotError {
    /// Path of the file.
    pub file: String,
    /// Where in it.
    pub offset: u64,
    /// What is wrong.
    pub fault: SnapshotFault,
}

/// The name of a snapshot file.
#[must_use]
pub fn snapshot_name(marker: SnapshotMarker) -> String {
    format!("{:016x}-{:016x}.snap", marker.term.get(), marker.index.get())
}

/// Reads a name made by [`snapshot_name`].
#[must_use]
pub fn parse_snapshot_name(name: &str) -> Option<SnapshotMarker> {
    let (term, index) = parse_hex_pair(name, ".snap")?;
    Some(SnapshotMarker { index: RaftIndex::new(index), term: Term::new(term) })
}

/// The snapshots of a directory by name alone, oldest first.
///
/// # Errors
/// Whatever the directory answers.
pub fn list<M: Medium>(medium: &M) -> io::Result<Vec<(SnapshotMarker, String)>> {
    let named = |name: String| Some((parse_snapshot_name(&name)?, name));
    let mut found: Vec<_> = medium.list()?.into_iter().filter_map(named).collect();
    found.sort();
    Ok(found)
}

/// Removes the oldest snapshots until `max_snapshots` are left (at least one) of those up to `newest`, whose marker is
/// durable. Later ones have just come from a leader: without a marker recovery cannot use them, so they neither count
/// nor go. Answers the oldest kept one: the WAL must keep everything after its entry. Blocks.
///
/// # Errors
/// Whatever the directory answers.
pub fn retain<M: Medium>(
    medium: &M,
    max_snapshots: usize,
    newest: SnapshotMarker,
) -> io::Result<Option<SnapshotMarker>> {
    let mut found = list(medium)?;
    found.retain(|(marker, _)| *marker <= newest);
    let surplus = found.len().saturating_sub(max_snapshots.max(1));
    for (_, name) in &found[..surplus] {
        medium.remove(name)?;
    }
    if surplus > 0 {
        medium.sync_dir()?;
    }
    Ok(found.get(surplus).map(|(marker, _)| *marker))
}

/// Removes what unfinished publications left. Only the holder of the directory lock may.
///
/// # Errors
/// Whatever the directory answers.
pub fn remove_leftovers<M: Medium>(medium: &M) -> io::Result<()> {
    let mut removed = false;
    for name in medium.list()? {
        if name.strip_suffix(TEMPORARY_SUFFIX).is_some_and(|whole| parse_snapshot_name(whole).is_some()) {
            medium.remove(&name)?;
            removed = true;
        }
    }
    if removed { medium.sync_dir() } else { Ok(()) }
}

/// The checksum of a block at `offset`; `block` begins with its header, whose first four bytes do not count.
pub(crate) fn block_crc(offset: u64, block: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial((offset as u32) ^ ((offset >> 32) as u32));
    hasher.update(&block[4..]);
    hasher.finalize()
}
