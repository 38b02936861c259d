//! What storage needs from a directory of files, as traits: the same WAL code runs on a file system
//! ([`crate::fs::FsMedium`]) and on memory that can crash ([`crate::memory::MemoryMedium`]).
//!
//! Invariants every implementation keeps:
//! 1. A store or write is durable only after `sync_data` of its file has answered `Ok`; a created, renamed or removed
//!    name only after `sync_dir`. Before that a crash may keep any subset of them.
//! 2. A rename replaces atomically: after a crash the name is the old file or the new one.
//! 3. A read sees every earlier store, also one made through a region of the same file.

use std::io;

use crate::region::Region;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Inspection and recovery's first look: nothing can be changed.
    Read,
    /// The owner of the directory lock.
    ReadWrite,
}

/// One directory.
pub trait Medium: Clone + Send + std::fmt::Debug + 'static {
    /// An open file.
    type File: StoredFile;
    /// A mapped file.
    type Region: Region;

    /// `name` as a reader of messages knows it: the full path.
    fn path_of(&self, name: &str) -> String;

    /// The names in the directory, sorted. Names that are not UTF-8 are not ours and are left out.
    ///
    /// # Errors
    /// Whatever the directory answers.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens an existing file.
    ///
    /// # Errors
    /// `NotFound` and whatever else the directory answers.
    fn open(&self, name: &str, access: Access) -> io::Result<Self::File>;

    /// Creates a file that must not exist yet, empty, readable by its owner only.
    ///
    /// # Errors
    /// `AlreadyExists` and whatever else the directory answers.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Maps a file of exactly `bytes`.
    ///
    /// # Errors
    /// `InvalidData` for another size; `OutOfMemory` and the like.
    fn map(&self, file: &Self::File, bytes: u64) -> io::Result<Self::Region>;

    /// Renames a file, replacing what has the new name.
    ///
    /// # Errors
    /// Whatever the directory answers.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name.
    ///
    /// # Errors
    /// Whatever the directory answers.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Whether two names are one file. On a file system without a journal, a crash during a rename can leave both.
    ///
    /// # Errors
    /// Whatever the directory answers.
    fn same_file(&self, one: &str, other: &str) -> io::Result<bool>;

    /// Makes all earlier changes of names durable. This needs a full `fsync`: on a journaled ext4, `fdatasync` of a
    /// directory does not wait for a rename.
    ///
    /// # Errors
    /// Whatever the device answers; never retry.
    fn sync_dir(&self) -> io::Result<()>;
}

/// One open file. Clones share the file.
pub trait StoredFile: Clone + Send + std::fmt::Debug + 'static {
    /// Its length.
    ///
    /// # Errors
    /// Whatever `fstat` answers.
    fn len_bytes(&self) -> io::Result<u64>;

    /// Reads until `buffer` is full or the file ends; answers how much it read.
    ///
    /// # Errors
    /// The device's error, such as EIO.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// The device's error, such as ENOSPC or EIO.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes the file `bytes` long with real blocks behind every byte; bytes not written yet read as zero.
    ///
    /// # Errors
    /// ENOSPC; the file may have grown part of the way.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// Cuts the file to nothing. Never call it on a mapped file.
    ///
    /// # Errors
    /// Whatever the file answers.
    fn truncate(&self) -> io::Result<()>;

    /// Makes all earlier writes and stores durable.
    ///
    /// # Errors
    /// The device's error. Never retry: the pages are marked clean though the disk does not hold them.
    fn sync_data(&self) -> io::Result<()>;

    /// Says that reads will come in large steps and must not build large folios: appends into large folios flush up
    /// to 1 MiB for one stored byte.
    fn expect_random_reads(&self);

    /// Forgets clean cached pages, so that the next read sees what the disk holds. After a failed sync the cache
    /// shows bytes that never arrived.
    fn forget_cache(&self);
}

/// Reads exactly `bytes` at `offset`, or fewer when the file ends earlier.
pub(crate) fn read_vec<F: StoredFile>(file: &F, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0u8; bytes];
    let read = file.read_at(&mut buffer, offset)?;
    buffer.truncate(read);
    Ok(buffer)
}
