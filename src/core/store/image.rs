//! One state of one node, as one shared, immutable run of bytes.
//!
//! Owns: the layout of an image in memory. The tree holds the current image of each node; events, the history and a
//! running capture hold clones of the same allocation. A change makes a new image, never edits one.
//!
//! ```text
//! flags u8 | path length u16 | modified u64 | [created u64] | [deadline u64 | expiry seq u64] | path | value
//! ```
//!
//! `created` is left out when it equals `modified`, as it does after every plain set.
//!
//! Always holds: an image is only ever made by [`ImageParts::build`], so its offsets are inside its bytes.

use std::rc::Rc;

use ringd_storage::ids::{EtcdIndex, UnixNanos};

const FLAG_DIR: u8 = 1;
const FLAG_DEADLINE: u8 = 2;
const FLAG_CREATED: u8 = 4;
const PATH_LEN_AT: usize = 1;
const MODIFIED_AT: usize = 3;
const OPTIONAL_AT: usize = 11;
const WORD_BYTES: usize = 8;
const HEADER_BYTES_MAX: usize = OPTIONAL_AT + 3 * WORD_BYTES;

/// The longest path a node may have. Above what a request line may carry (4096 bytes in etcd) plus the 21 bytes of an
/// in-order name; it bounds what one request can create, since every implied parent stores its own path.
pub const PATH_BYTES_MAX: usize = 8192;
const _: () = assert!(PATH_BYTES_MAX <= u16::MAX as usize);

/// When a node expires, and its place among nodes that expire at the same instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Deadline {
    pub(super) at: UnixNanos,
    pub(super) seq: u64,
}

/// A node's state. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Image(Rc<[u8]>);

/// What an image is made of.
#[derive(Clone, Copy)]
pub(super) struct ImageParts<'a> {
    pub(super) path: &'a [u8],
    /// `None` is a directory.
    pub(super) value: Option<&'a [u8]>,
    pub(super) created: EtcdIndex,
    pub(super) modified: EtcdIndex,
    pub(super) deadline: Option<Deadline>,
}

impl ImageParts<'_> {
    /// Lays the parts out; `scratch` is working space whose contents do not matter.
    ///
    /// # Panics
    /// When the path is longer than [`PATH_BYTES_MAX`]; every way in checks it first.
    pub(super) fn build(&self, scratch: &mut Vec<u8>) -> Image {
        assert!(self.path.len() <= PATH_BYTES_MAX, "image: path of {} bytes", self.path.len());
        let value = self.value.unwrap_or_default();
        let mut flags = 0;
        if self.value.is_none() {
            flags |= FLAG_DIR;
        }
        if self.deadline.is_some() {
            flags |= FLAG_DEADLINE;
        }
        if self.created != self.modified {
            flags |= FLAG_CREATED;
        }
        scratch.clear();
        scratch.reserve(HEADER_BYTES_MAX + self.path.len() + value.len());
        scratch.push(flags);
        scratch.extend_from_slice(&(self.path.len() as u16).to_le_bytes());
        scratch.extend_from_slice(&self.modified.get().to_le_bytes());
        if self.created != self.modified {
            scratch.extend_from_slice(&self.created.get().to_le_bytes());
        }
        if let Some(deadline) = self.deadline {
            scratch.extend_from_slice(&deadline.at.get().to_le_bytes());
            scratch.extend_from_slice(&deadline.seq.to_le_bytes());
        }
        scratch.extend_from_slice(self.path);
        scratch.extend_from_slice(value);
        Image(Rc::from(scratch.as_slice()))
    }
}

impl Image {
    /// The image of no node, for vacant slots.
    pub(super) fn vacant() -> Self {
        ImageParts { path: b"", value: None, created: EtcdIndex::ZERO, modified: EtcdIndex::ZERO, deadline: None }
            .build(&mut Vec::new())
    }

    pub(super) fn parts(&self) -> ImageParts<'_> {
        ImageParts {
            path: self.path(),
            value: self.value(),
            created: self.created(),
            modified: self.modified(),
            deadline: self.deadline(),
        }
    }

    #[inline]
    pub(super) fn path(&self) -> &[u8] {
        let body = self.body_at();
        let len = usize::from(u16::from_le_bytes([self.0[PATH_LEN_AT], self.0[PATH_LEN_AT + 1]]));
        &self.0[body..body + len]
    }

    /// `None` for a directory.
    #[inline]
    pub(super) fn value(&self) -> Option<&[u8]> {
        if self.is_dir() {
            return None;
        }
        let len = usize::from(u16::from_le_bytes([self.0[PATH_LEN_AT], self.0[PATH_LEN_AT + 1]]));
        Some(&self.0[self.body_at() + len..])
    }

    #[inline]
    pub(super) fn is_dir(&self) -> bool {
        self.has(FLAG_DIR)
    }

    pub(super) fn created(&self) -> EtcdIndex {
        EtcdIndex::new(self.word(if self.has(FLAG_CREATED) { OPTIONAL_AT } else { MODIFIED_AT }))
    }

    pub(super) fn modified(&self) -> EtcdIndex {
        EtcdIndex::new(self.word(MODIFIED_AT))
    }

    #[inline]
    pub(super) fn deadline(&self) -> Option<Deadline> {
        self.has(FLAG_DEADLINE).then(|| {
            let at = self.deadline_at();
            Deadline { at: UnixNanos::new(self.word(at)), seq: self.word(at + WORD_BYTES) }
        })
    }

    /// Bytes this image keeps alive, without the allocator's share.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether both are the same allocation.
    pub(super) fn same(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    #[inline]
    fn has(&self, flag: u8) -> bool {
        self.0[0] & flag != 0
    }

    #[inline]
    fn deadline_at(&self) -> usize {
        OPTIONAL_AT + if self.has(FLAG_CREATED) { WORD_BYTES } else { 0 }
    }

    #[inline]
    fn body_at(&self) -> usize {
        self.deadline_at() + if self.has(FLAG_DEADLINE) { 2 * WORD_BYTES } else { 0 }
    }

    fn word(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + WORD_BYTES].try_into().expect("a word"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_comes_back() {
        for value in [None, Some(&b""[..]), Some(b"v\0x")] {
            for deadline in [None, Some(Deadline { at: UnixNanos::new(5), seq: 9 })] {
                for created in [EtcdIndex::new(3), EtcdIndex::new(u64::MAX)] {
                    let parts =
                        ImageParts { path: b"/a/b", value, created, modified: EtcdIndex::new(u64::MAX), deadline };
                    let image = parts.build(&mut Vec::new());
                    assert_eq!(image.path(), b"/a/b");
                    assert_eq!(image.value(), value);
                    assert_eq!(image.is_dir(), value.is_none());
                    assert_eq!((image.created(), image.modified()), (parts.created, parts.modified));
                    assert_eq!(image.deadline(), deadline);
                    assert!(image.parts().build(&mut Vec::new()) == image);
                }
            }
        }
    }
}
