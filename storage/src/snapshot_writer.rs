//! Writing a snapshot: unsorted items in, one published file out. Runs on a helper thread; owns all it needs.
//!
//! May touch: one file, then its directory. Must not: share anything with the loop (it is `Send`, without locks).
//!
//! Invariants:
//! 1. The steps of [`PUBLISH_STEPS`] happen in that order, each after the one before has succeeded. A crash between
//!    any two leaves either no snapshot of that name or a complete one.
//! 2. Keys are unique (asserted: the store made them).
//! 3. The disk is never flooded: what is written is synced every [`SYNC_EVERY_BYTES`].

use std::io;

use crate::format::TEMPORARY_SUFFIX;
use crate::medium::{Medium, StoredFile};
use crate::mutation::{self, Mutation};
use crate::snapshot::{
    BLOCK_BYTES, BLOCK_HEADER_BYTES, ITEM_HEADER_BYTES, SNAPSHOT_MAGIC, SNAPSHOT_VERSION, SnapshotError, SnapshotFault,
    SnapshotMeta, TRAILER_BYTES, block_crc,
};

/// How much is written between two syncs, so that the WAL's syncs never queue behind a whole snapshot.
pub const SYNC_EVERY_BYTES: u64 = 4 << 20;

/// Appends one item to a chunk for [`SnapshotWriter::push_chunk`]. The key is the concatenation of `key_parts`;
/// `value` appends the value.
///
/// # Panics
/// When key or value exceed 4 GiB.
pub fn push_item(chunk: &mut Vec<u8>, key_parts: &[&[u8]], value: impl FnOnce(&mut Vec<u8>)) {
    let start = chunk.len();
    chunk.extend_from_slice(&[0; ITEM_HEADER_BYTES]);
    key_parts.iter().for_each(|part| chunk.extend_from_slice(part));
    let key_end = chunk.len();
    value(chunk);
    assert!(chunk.len() >= key_end, "a value only appends");
    let lengths = [key_end - start - ITEM_HEADER_BYTES, chunk.len() - key_end];
    for (at, length) in lengths.into_iter().enumerate() {
        let length = u32::try_from(length).expect("keys and values are far below 4 GiB");
        chunk[start + 4 * at..start + 4 * at + 4].copy_from_slice(&length.to_le_bytes());
    }
}

/// One item in the chunks: which chunk, where, and how long key and value are.
#[derive(Clone, Copy, Debug)]
struct Place {
    chunk: u32,
    key_length: u32,
    offset: u64,
    value_length: u32,
}

/// Collects items.
#[derive(Debug)]
pub struct SnapshotWriter {
    meta: SnapshotMeta,
    chunks: Vec<Vec<u8>>,
}

impl SnapshotWriter {
    /// A snapshot of what `meta` says; its `items` is counted here.
    #[must_use]
    pub fn new(meta: SnapshotMeta) -> Self {
        Self { meta, chunks: Vec::new() }
    }

    /// Adds items made by [`push_item`], in any order.
    pub fn push_chunk(&mut self, chunk: Vec<u8>) {
        self.chunks.push(chunk);
    }

    /// Sorts the items. What remains is to take the steps.
    ///
    /// # Panics
    /// When two items have one key, or a chunk was not made by [`push_item`].
    #[must_use]
    pub fn into_publish<M: Medium>(mut self, medium: M) -> Publish<M> {
        let mut places = Vec::new();
        for (number, chunk) in self.chunks.iter().enumerate() {
            let chunk_number = u32::try_from(number).expect("chunks are large");
            let mut offset = 0;
            while offset < chunk.len() {
                let length = |at: usize| u32::from_le_bytes(chunk[at..at + 4].try_into().expect("four bytes"));
                let (key_length, value_length) = (length(offset), length(offset + 4));
                places.push(Place { chunk: chunk_number, key_length, offset: offset as u64, value_length });
                offset += ITEM_HEADER_BYTES + key_length as usize + value_length as usize;
                assert!(offset <= chunk.len(), "a chunk that push_item did not make");
            }
        }
        let chunks = &self.chunks;
        places.sort_unstable_by(|a, b| key(chunks, a).cmp(key(chunks, b)));
        assert!(places.is_sorted_by(|a, b| key(chunks, a) < key(chunks, b)), "two snapshot items with one key");
        self.meta.items = places.len() as u64;
        let name = self.meta.file_name();
        Publish { medium, name, meta: self.meta, chunks: self.chunks, places, file: None, bytes: 0, done: 0 }
    }

    /// Sorts, writes and publishes, calling `pace` after every block. Answers name and size.
    ///
    /// # Errors
    /// [`SnapshotError`]; the temporary file is removed.
    ///
    /// # Panics
    /// As [`SnapshotWriter::into_publish`].
    pub fn publish<M: Medium>(self, medium: M, pace: &mut dyn FnMut()) -> Result<(String, u64), SnapshotError> {
        self.publish_observed(medium, pace, &mut |_| {})
    }

    /// [`Self::publish`]; `after` is told of every step when it is done.
    ///
    /// # Errors
    /// As for `publish`.
    pub fn publish_observed<M: Medium>(
        self,
        medium: M,
        pace: &mut dyn FnMut(),
        after: &mut dyn FnMut(PublishStep),
    ) -> Result<(String, u64), SnapshotError> {
        let mut publish = self.into_publish(medium);
        loop {
            match publish.step(pace) {
                Ok(Some(step)) => after(step),
                Ok(None) => return Ok((publish.name, publish.bytes)),
                Err(error) => {
                    publish.abandon();
                    return Err(error);
                }
            }
        }
    }
}

fn item<'a>(chunks: &'a [Vec<u8>], place: &Place) -> &'a [u8] {
    let start = place.offset as usize;
    let bytes = ITEM_HEADER_BYTES + place.key_length as usize + place.value_length as usize;
    &chunks[place.chunk as usize][start..start + bytes]
}

fn key<'a>(chunks: &'a [Vec<u8>], place: &Place) -> &'a [u8] {
    &item(chunks, place)[ITEM_HEADER_BYTES..][..place.key_length as usize]
}

/// What happens to publish a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishStep {
    /// Create the temporary file, replacing a leftover.
    Create,
    /// Write blocks, footer and trailer.
    Write,
    /// `fdatasync` the file.
    SyncFile,
    /// Give it its name.
    Rename,
    /// `fsync` the directory.
    SyncDirectory,
}

/// The order of the steps. The WAL marker comes after the last one.
pub const PUBLISH_STEPS: [PublishStep; 5] =
    [PublishStep::Create, PublishStep::Write, PublishStep::SyncFile, PublishStep::Rename, PublishStep::SyncDirectory];

/// A sorted snapshot on its way to the disk.
#[derive(Debug)]
pub struct Publish<M: Medium> {
    medium: M,
    name: String,
    meta: SnapshotMeta,
    chunks: Vec<Vec<u8>>,
    places: Vec<Place>,
    file: Option<M::File>,
    bytes: u64,
    done: usize,
}

impl<M: Medium> Publish<M> {
    /// The file's name once it is published.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes the next step and answers which one it was; `None` when the snapshot is published.
    ///
    /// # Errors
    /// [`SnapshotError`]; the snapshot is not published, and the temporary file may remain.
    pub fn step(&mut self, pace: &mut dyn FnMut()) -> Result<Option<PublishStep>, SnapshotError> {
        let Some(&step) = PUBLISH_STEPS.get(self.done) else { return Ok(None) };
        self.attempt(step, pace).map_err(|source| SnapshotError {
            file: self.medium.path_of(&self.temporary()),
            offset: self.bytes,
            fault: SnapshotFault::Io(source),
        })?;
        self.done += 1;
        Ok(Some(step))
    }

    fn temporary(&self) -> String {
        format!("{}{TEMPORARY_SUFFIX}", self.name)
    }

    fn attempt(&mut self, step: PublishStep, pace: &mut dyn FnMut()) -> io::Result<()> {
        match step {
            PublishStep::Create => {
                let temporary = self.temporary();
                match self.medium.remove(&temporary) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => self.file = Some(self.medium.create(&temporary)?),
                }
                Ok(())
            }
            PublishStep::Write => {
                let file = self.file.clone().expect("created in the step before");
                self.write(&file, pace)?;
                // The items are on their way; their memory is not needed for the rest.
                self.chunks = Vec::new();
                self.places = Vec::new();
                Ok(())
            }
            PublishStep::SyncFile if mutation::is_on(Mutation::NameBeforeSync) => Ok(()),
            PublishStep::SyncFile => self.file.as_ref().expect("created two steps before").sync_data(),
            PublishStep::Rename => self.medium.rename(&self.temporary(), &self.name),
            PublishStep::SyncDirectory => self.medium.sync_dir(),
        }
    }

    fn write(&mut self, file: &M::File, pace: &mut dyn FnMut()) -> io::Result<()> {
        let mut index = Vec::new();
        let mut blocks = 0;
        let mut unsynced = 0;
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        let mut rest = self.places.as_slice();
        while let Some(first) = rest.first() {
            block.clear();
            block.resize(BLOCK_HEADER_BYTES, 0);
            let mut items = 0usize;
            for place in rest {
                let bytes = item(&self.chunks, place);
                if items > 0 && block.len() + bytes.len() > BLOCK_BYTES {
                    break;
                }
                block.extend_from_slice(bytes);
                items += 1;
            }
            let length = u32::try_from(block.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
            block[4..8].copy_from_slice(&(length - BLOCK_HEADER_BYTES as u32).to_le_bytes());
            block[8..12].copy_from_slice(&(items as u32).to_le_bytes());
            let crc = block_crc(self.bytes, &block);
            block[..4].copy_from_slice(&crc.to_le_bytes());
            file.write_at(&block, self.bytes)?;
            let first_key = key(&self.chunks, first);
            index.extend_from_slice(&self.bytes.to_le_bytes());
            for word in [length, items as u32, first.key_length] {
                index.extend_from_slice(&word.to_le_bytes());
            }
            index.extend_from_slice(first_key);
            self.bytes += u64::from(length);
            unsynced += u64::from(length);
            blocks += 1;
            rest = &rest[items..];
            if unsynced >= SYNC_EVERY_BYTES {
                file.sync_data()?;
                unsynced = 0;
            }
            pace();
        }
        let mut footer = Vec::with_capacity(index.len() + 256);
        self.meta.encode_into(blocks, &mut footer);
        footer.extend_from_slice(&index);
        let length = footer.len() as u64;
        footer.extend_from_slice(&self.bytes.to_le_bytes());
        footer.extend_from_slice(&length.to_le_bytes());
        let crc = crc32fast::hash(&footer);
        footer.extend_from_slice(&crc.to_le_bytes());
        footer.extend_from_slice(&SNAPSHOT_VERSION.to_le_bytes());
        footer.extend_from_slice(&SNAPSHOT_MAGIC);
        assert_eq!(footer.len() as u64, length + TRAILER_BYTES as u64, "the trailer has its documented size");
        file.write_at(&footer, self.bytes)?;
        self.bytes += footer.len() as u64;
        Ok(())
    }

    /// Removes the temporary file after an error. A file that cannot be removed is removed at the next start.
    fn abandon(&self) {
        drop(self.medium.remove(&self.temporary()));
    }
}
