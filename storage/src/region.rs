//! The bytes of a segment, mapped from a file or held in memory. All `unsafe` of this crate is here.
//!
//! May touch: `mmap`, `madvise`. Must not: know frames, segments or directories.
//!
//! Invariants:
//! 1. A region is mapped only after `fstat` has shown that the file holds all of it, and nothing in this crate ever
//!    truncates a mapped file; what outsiders do to it is SIGBUS, which the program's handler turns into a message.
//! 2. Stores go through raw pointers only. No Rust reference to mapped bytes ever exists, because the kernel (a staged
//!    write through the ring) may change neighbouring bytes at any time.
//! 3. Nothing reads the map: recovery uses `pread`, the node keeps its own copy of what it still needs.
//!
//! Not here: syncing (the driver submits `fdatasync` for the file), and `msync`, which measures slower.
#![allow(unsafe_code)] // The one file that may: a shared mapping has no safe interface.

use std::fs::File;
use std::io;

use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};

/// Bytes of one segment that can be stored into.
pub trait Region: Send + std::fmt::Debug {
    /// How many bytes there are.
    fn len_bytes(&self) -> u64;

    /// Copies `bytes` to `offset`.
    ///
    /// # Panics
    /// When they do not fit: the caller has checked.
    fn store(&mut self, offset: u64, bytes: &[u8]);

    /// Makes the pages of `from..to` present, so that a later store does not wait for the disk.
    ///
    /// # Errors
    /// The device's error when a page cannot be read (a store there would be SIGBUS).
    fn prefault(&mut self, from: u64, to: u64) -> io::Result<()>;

    /// Gives the pages of `from..to` back to the kernel. Their content stays, dirty or not; only this process's
    /// claim on the memory ends.
    fn release(&mut self, from: u64, to: u64);
}

/// A file mapped whole and shared.
#[derive(Debug)]
pub struct MappedRegion {
    map: MmapRaw,
}

impl MappedRegion {
    /// Maps the first `bytes` of `file`, without making any page present.
    ///
    /// # Errors
    /// `InvalidData` when the file is not exactly `bytes` long; whatever `fstat` and `mmap` answer.
    pub fn map(file: &File, bytes: u64) -> io::Result<Self> {
        let found = file.metadata()?.len();
        if found != bytes || bytes == 0 {
            let what = format!("expected a segment of {bytes} bytes, the file has {found}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let len = usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let map = MmapOptions::new().len(len).map_raw(file)?;
        // Frames go in once, front to back; fault-around beyond what prefault asks for would only cost memory.
        map.advise(Advice::Random)?;
        Ok(Self { map })
    }
}

impl Region for MappedRegion {
    fn len_bytes(&self) -> u64 {
        self.map.len() as u64
    }

    fn store(&mut self, offset: u64, bytes: &[u8]) {
        let start = usize::try_from(offset).expect("offsets inside a map fit usize");
        let end = start.checked_add(bytes.len()).expect("no overflow inside a map");
        assert!(end <= self.map.len(), "a store past the end of the map");
        // SAFETY: `start..end` lies inside the live mapping (asserted above); `bytes` is an ordinary slice that cannot
        // overlap it, because no reference to mapped memory is ever made; `&mut self` excludes other stores from here.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.map.as_mut_ptr().add(start), bytes.len()) };
    }

    fn prefault(&mut self, from: u64, to: u64) -> io::Result<()> {
        let to = to.min(self.len_bytes());
        if from >= to {
            return Ok(());
        }
        match self.map.advise_range(Advice::PopulateRead, from as usize, (to - from) as usize) {
            // Before Linux 5.14 there is no such advice: pages fault in one by one, slower but right.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            result => result,
        }
    }

    fn release(&mut self, from: u64, to: u64) {
        let to = to.min(self.len_bytes());
        if from >= to {
            return;
        }
        // SAFETY: DONTNEED on a shared file mapping drops page-table entries only; dirty pages stay in the page cache
        // and a later access faults the same bytes in again. No reference to these bytes exists (invariant 2).
        let advised =
            unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, from as usize, (to - from) as usize) };
        // A refusal costs memory, nothing else; there is nobody who could act on it.
        drop(advised);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn stores_reach_the_file_and_survive_a_release() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(16384).unwrap();
        let mut region = MappedRegion::map(&file, 16384).unwrap();
        region.prefault(0, 1 << 20).unwrap();
        region.store(4090, b"across a page");
        region.release(0, 8192);
        let mut read = [0u8; 13];
        file.read_exact_at(&mut read, 4090).unwrap();
        assert_eq!(&read, b"across a page");
    }

    #[test]
    fn a_file_of_another_size_is_not_mapped() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8191).unwrap();
        assert_eq!(MappedRegion::map(&file, 8192).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    #[should_panic(expected = "past the end")]
    fn a_store_past_the_end_is_our_own_mistake() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        MappedRegion::map(&file, 4096).unwrap().store(4090, b"too long");
    }
}
