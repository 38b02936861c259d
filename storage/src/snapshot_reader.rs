//! Reading a snapshot: footer first, then block by block. Memory is bounded by the footer and one block.
//!
//! May touch: one file, by `pread`. Every byte is untrusted; every error names file and offset.

use crate::medium::{Access, Medium, StoredFile};
use crate::snapshot::{
    BLOCK_HEADER_BYTES, INDEX_ENTRY_BYTES, ITEM_HEADER_BYTES, SNAPSHOT_MAGIC, SNAPSHOT_VERSION, SnapshotError,
    SnapshotFault, SnapshotMeta, TRAILER_BYTES, block_crc,
};

/// Where a block is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct BlockPlace {
    offset: u64,
    length: u32,
    items: u32,
    first_key: Vec<u8>,
}

/// An open snapshot whose footer has been verified.
#[derive(Debug)]
pub struct SnapshotReader<F: StoredFile> {
    file: F,
    path: String,
    meta: SnapshotMeta,
    blocks: Vec<BlockPlace>,
    bytes: u64,
}

fn word32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn word64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

impl<F: StoredFile> SnapshotReader<F> {
    /// Opens the snapshot `name` and verifies its footer.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn open<M: Medium<File = F>>(medium: &M, name: &str) -> Result<Self, SnapshotError> {
        let path = medium.path_of(name);
        let mut at = 0;
        Self::read_footer(medium, name, &path, &mut at).map_err(|fault| SnapshotError { file: path, offset: at, fault })
    }

    fn read_footer<M: Medium<File = F>>(
        medium: &M,
        name: &str,
        path: &str,
        at: &mut u64,
    ) -> Result<Self, SnapshotFault> {
        let file = medium.open(name, Access::Read)?;
        let bytes = file.len_bytes()?;
        *at = bytes.checked_sub(TRAILER_BYTES as u64).ok_or(SnapshotFault::Magic)?;
        let trailer = crate::medium::read_vec(&file, *at, TRAILER_BYTES)?;
        if trailer.len() != TRAILER_BYTES || trailer[24..] != SNAPSHOT_MAGIC {
            return Err(SnapshotFault::Magic);
        }
        match word32(&trailer, 20) {
            SNAPSHOT_VERSION => {}
            version => return Err(SnapshotFault::Version(version)),
        }
        let (footer_at, footer_length) = (word64(&trailer, 0), word64(&trailer, 8));
        if footer_at.checked_add(footer_length) != Some(*at) {
            return Err(SnapshotFault::Layout("trailer"));
        }
        *at = footer_at;
        let mut footer = crate::medium::read_vec(&file, footer_at, footer_length as usize)?;
        footer.extend_from_slice(&trailer[..16]);
        if crc32fast::hash(&footer) != word32(&trailer, 16) {
            return Err(SnapshotFault::Crc("footer"));
        }
        footer.truncate(footer.len() - 16);
        let (meta, blocks) = decode_footer(&footer, footer_at).ok_or(SnapshotFault::Layout("footer"))?;
        Ok(Self { file, path: path.to_owned(), meta, blocks, bytes })
    }

    /// What it is of.
    #[must_use]
    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// The file's length.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many blocks there are.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Reads block `number` into `buffer` (whose memory is reused) and verifies its checksum.
    ///
    /// # Errors
    /// [`SnapshotError`].
    ///
    /// # Panics
    /// When there is no such block.
    pub fn read_block<'b>(&self, number: usize, buffer: &'b mut Vec<u8>) -> Result<Items<'b>, SnapshotError> {
        let place = &self.blocks[number];
        let fail = |fault| SnapshotError { file: self.path.clone(), offset: place.offset, fault };
        buffer.resize(place.length as usize, 0);
        let read = self.file.read_at(buffer, place.offset).map_err(|e| fail(e.into()))?;
        if read != buffer.len() || block_crc(place.offset, buffer) != word32(buffer, 0) {
            return Err(fail(SnapshotFault::Crc("block")));
        }
        let length = word32(buffer, 4) as usize;
        if length != buffer.len() - BLOCK_HEADER_BYTES || word32(buffer, 8) != place.items || word32(buffer, 12) != 0 {
            return Err(fail(SnapshotFault::Layout("block header")));
        }
        let items = Items { rest: &buffer[BLOCK_HEADER_BYTES..], left: place.items };
        if items.clone().next().is_none_or(|first| first.is_none_or(|(key, _)| key != place.first_key)) {
            return Err(fail(SnapshotFault::Layout("block's first key")));
        }
        Ok(items)
    }

    /// Hands every item (key, value) to `visit`, in ascending order of keys.
    ///
    /// # Errors
    /// [`SnapshotError`], or the first error of `visit`.
    pub fn for_each<E: From<SnapshotError>>(
        &self,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut buffer = Vec::new();
        for number in 0..self.blocks.len() {
            let place = &self.blocks[number];
            let next_block = self.blocks.get(number + 1).map(|next| next.first_key.as_slice());
            let fail = |fault| SnapshotError { file: self.path.clone(), offset: place.offset, fault };
            let mut last: Option<&[u8]> = None;
            for item in self.read_block(number, &mut buffer)? {
                let (key, value) = item.ok_or_else(|| fail(SnapshotFault::Layout("block")))?;
                if last.is_some_and(|last| last >= key) {
                    return Err(fail(SnapshotFault::Layout("order of keys")).into());
                }
                last = Some(key);
                visit(key, value)?;
            }
            if last.zip(next_block).is_some_and(|(last, next)| last >= next) {
                return Err(fail(SnapshotFault::Layout("order of blocks")).into());
            }
        }
        Ok(())
    }
}

/// Reads meta data and index. The blocks must lie end to end from the file's start to the footer.
fn decode_footer(footer: &[u8], footer_at: u64) -> Option<(SnapshotMeta, Vec<BlockPlace>)> {
    let (meta, count, mut rest) = SnapshotMeta::decode(footer)?;
    // Never believe a count before the bytes for it have been seen.
    let mut blocks = Vec::with_capacity((count as usize).min(rest.len() / INDEX_ENTRY_BYTES));
    let (mut offset, mut items) = (0u64, 0u64);
    for _ in 0..count {
        let (fixed, after) = rest.split_at_checked(INDEX_ENTRY_BYTES)?;
        let (first_key, after) = after.split_at_checked(word32(fixed, 16) as usize)?;
        let place = BlockPlace {
            offset: word64(fixed, 0),
            length: word32(fixed, 8),
            items: word32(fixed, 12),
            first_key: first_key.to_vec(),
        };
        if place.offset != offset || (place.length as usize) < BLOCK_HEADER_BYTES || place.items == 0 {
            return None;
        }
        offset = offset.checked_add(u64::from(place.length)).filter(|end| *end <= footer_at)?;
        items += u64::from(place.items);
        blocks.push(place);
        rest = after;
    }
    (rest.is_empty() && offset == footer_at && items == meta.items).then_some((meta, blocks))
}

/// The items of one block. `None` inside means that the block's bytes break the layout; nothing follows it.
#[derive(Clone, Debug)]
pub struct Items<'a> {
    rest: &'a [u8],
    left: u32,
}

impl<'a> Iterator for Items<'a> {
    type Item = Option<(&'a [u8], &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let trailing = !std::mem::take(&mut self.rest).is_empty();
            return trailing.then_some(None);
        }
        self.left -= 1;
        let split = || {
            let (lengths, rest) = self.rest.split_at_checked(ITEM_HEADER_BYTES)?;
            let (key, rest) = rest.split_at_checked(word32(lengths, 0) as usize)?;
            let (value, rest) = rest.split_at_checked(word32(lengths, 4) as usize)?;
            Some((key, value, rest))
        };
        match split() {
            Some((key, value, rest)) => {
                self.rest = rest;
                Some(Some((key, value)))
            }
            None => {
                self.left = 0;
                self.rest = &[];
                Some(None)
            }
        }
    }
}

/// Verifies the footer and every block's checksum; answers what the snapshot is of.
///
/// # Errors
/// [`SnapshotError`].
pub fn verify<M: Medium>(medium: &M, name: &str) -> Result<SnapshotMeta, SnapshotError> {
    let reader = SnapshotReader::open(medium, name)?;
    let mut buffer = Vec::new();
    for number in 0..reader.blocks() {
        reader.read_block(number, &mut buffer)?;
    }
    Ok(reader.meta)
}
