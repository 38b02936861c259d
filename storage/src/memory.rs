//! A [`Medium`] in memory that can crash: tests and the simulator run the real WAL code on it.
//!
//! The faults it offers, by zone (a contract; nothing else ever goes wrong here):
//! - file bytes: at a crash every 512-byte sector written since the last sync shows any one of the states it has been
//!   in since then, independently of all others ([`MemoryMedium::crash`]);
//! - names: any subset of the creations, renames and removals since the last `sync_dir` survives, each whole;
//! - syncs: the next sync can be told to fail ([`MemoryMedium::fail_next_sync`]);
//! - space: a capacity makes `allocate` and `write_at` answer ENOSPC, leaving a partial file;
//! - rot: single bits can be flipped ([`MemoryMedium::flip_bit`]).
//!
//! Not modelled: a file's length is durable at once (storage never believes a length it has not synced).

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::format::SECTOR_BYTES;
use crate::medium::{Access, Medium, StoredFile};
use crate::region::Region;

/// A directory in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryMedium {
    dir: Arc<Mutex<Directory>>,
}

#[derive(Debug, Default)]
struct Directory {
    names: BTreeMap<String, MemoryFile>,
    durable: BTreeMap<String, MemoryFile>,
    changes: Vec<NameChange>,
    faults: Arc<Mutex<Faults>>,
}

#[derive(Debug, Default)]
struct Faults {
    sync_failures: u32,
    capacity_bytes: Option<u64>,
    used_bytes: u64,
}

#[derive(Clone, Debug)]
enum NameChange {
    Create(String, MemoryFile),
    Rename(String, String, MemoryFile),
    Remove(String),
}

/// What a crash asks about: how many of `changes` (in the order they were made) reached the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surviving<'a> {
    /// The stores since the last sync that touched one sector; answer `0..=stores`.
    Sector {
        /// The file's name, or empty when it has none any more.
        file: &'a str,
        /// Where the sector begins.
        offset: u64,
        /// How many stores touched it.
        stores: u32,
    },
    /// One unsynced change of a name; answer 0 (lost) or 1 (kept).
    Name(&'a str),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}

impl MemoryMedium {
    /// An empty directory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What is on disk after a power cut now. `survive` decides for every sector and name with unsynced changes; its
    /// answers are capped. This medium itself stays as it is.
    pub fn crash(&self, survive: &mut dyn FnMut(Surviving<'_>) -> u32) -> Self {
        let dir = lock(&self.dir);
        let mut names = dir.durable.clone();
        for change in &dir.changes {
            let (NameChange::Create(name, _) | NameChange::Rename(_, name, _) | NameChange::Remove(name)) = change;
            if survive(Surviving::Name(name)) == 0 {
                continue;
            }
            match change.clone() {
                NameChange::Create(name, file) => drop(names.insert(name, file)),
                NameChange::Rename(from, to, file) => {
                    names.remove(&from);
                    names.insert(to, file);
                }
                NameChange::Remove(name) => drop(names.remove(&name)),
            }
        }
        let faults = Arc::new(Mutex::new(Faults::default()));
        let survivors: BTreeMap<_, _> = names
            .into_iter()
            .map(|(name, file)| {
                let image = file.surviving_image(&name, survive);
                (name, MemoryFile::holding(image, &faults))
            })
            .collect();
        let after = Directory { names: survivors.clone(), durable: survivors, changes: Vec::new(), faults };
        Self { dir: Arc::new(Mutex::new(after)) }
    }

    /// The next `failures` calls of `sync_data` or `sync_dir` answer EIO and sync nothing.
    pub fn fail_next_sync(&self, failures: u32) {
        lock(&lock(&self.dir).faults).sync_failures = failures;
    }

    /// Limits the bytes of all files together; `None` lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        lock(&lock(&self.dir).faults).capacity_bytes = bytes;
    }

    /// Flips one bit of a file, durably and unnoticed. Answers whether there is such a byte.
    pub fn flip_bit(&self, name: &str, offset: u64, bit: u8) -> bool {
        let dir = lock(&self.dir);
        let Some(file) = dir.names.get(name) else { return false };
        let mut inode = lock(&file.inode);
        let at = offset as usize;
        if at >= inode.cached.len() {
            return false;
        }
        inode.cached[at] ^= 1 << (bit % 8);
        let byte = inode.cached[at];
        inode.durable[at] = byte;
        true
    }

    /// What a file holds now, unsynced stores included.
    #[must_use]
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let dir = lock(&self.dir);
        dir.names.get(name).map(|file| lock(&file.inode).cached.clone())
    }

    /// Puts a durable file there, as a fixture.
    pub fn put_file(&self, name: &str, bytes: Vec<u8>) {
        let mut dir = lock(&self.dir);
        let file = MemoryFile::holding(bytes, &dir.faults);
        dir.names.insert(name.to_owned(), file.clone());
        dir.durable.insert(name.to_owned(), file);
    }
}

fn missing(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {name}"))
}

/// The error of a device that lost a write.
fn device_error() -> io::Error {
    io::Error::from(rustix::io::Errno::IO)
}

impl Medium for MemoryMedium {
    type File = MemoryFile;
    type Region = MemoryRegion;

    fn path_of(&self, name: &str) -> String {
        format!("memory/{name}")
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.dir).names.keys().cloned().collect())
    }

    fn open(&self, name: &str, _access: Access) -> io::Result<MemoryFile> {
        lock(&self.dir).names.get(name).cloned().ok_or_else(|| missing(name))
    }

    fn create(&self, name: &str) -> io::Result<MemoryFile> {
        let mut dir = lock(&self.dir);
        if dir.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = MemoryFile::holding(Vec::new(), &dir.faults);
        dir.names.insert(name.to_owned(), file.clone());
        dir.changes.push(NameChange::Create(name.to_owned(), file.clone()));
        Ok(file)
    }

    fn map(&self, file: &MemoryFile, bytes: u64) -> io::Result<MemoryRegion> {
        if file.len_bytes()? != bytes {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(MemoryRegion { file: file.clone(), len: bytes })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut dir = lock(&self.dir);
        let file = dir.names.remove(from).ok_or_else(|| missing(from))?;
        dir.names.insert(to.to_owned(), file.clone());
        dir.changes.push(NameChange::Rename(from.to_owned(), to.to_owned(), file));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut dir = lock(&self.dir);
        let file = dir.names.remove(name).ok_or_else(|| missing(name))?;
        let freed = lock(&file.inode).cached.len() as u64;
        let faults = Arc::clone(&dir.faults);
        let mut faults = lock(&faults);
        faults.used_bytes = faults.used_bytes.saturating_sub(freed);
        dir.changes.push(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn same_file(&self, one: &str, other: &str) -> io::Result<bool> {
        let dir = lock(&self.dir);
        let inode = |name: &str| dir.names.get(name).map(|file| Arc::clone(&file.inode)).ok_or_else(|| missing(name));
        Ok(Arc::ptr_eq(&inode(one)?, &inode(other)?))
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut dir = lock(&self.dir);
        if lock(&dir.faults).sync_fails() {
            return Err(device_error());
        }
        dir.durable = dir.names.clone();
        dir.changes.clear();
        Ok(())
    }
}

impl Faults {
    fn sync_fails(&mut self) -> bool {
        let fails = self.sync_failures > 0;
        self.sync_failures = self.sync_failures.saturating_sub(1);
        fails
    }

    /// How many of `wanted` further bytes fit, counting them as used.
    fn take_space(&mut self, wanted: u64) -> u64 {
        let free = self.capacity_bytes.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used_bytes));
        let taken = wanted.min(free);
        self.used_bytes += taken;
        taken
    }
}

/// A file in memory. Clones share it.
#[derive(Clone, Debug)]
pub struct MemoryFile {
    inode: Arc<Mutex<Inode>>,
    faults: Arc<Mutex<Faults>>,
}

#[derive(Debug)]
struct Inode {
    /// What a read shows.
    cached: Vec<u8>,
    /// What the disk surely holds; as long as `cached`.
    durable: Vec<u8>,
    /// Every store since the last sync, in order.
    stores: Vec<Store>,
}

#[derive(Debug)]
struct Store {
    offset: usize,
    bytes: Vec<u8>,
}

impl MemoryFile {
    fn holding(bytes: Vec<u8>, faults: &Arc<Mutex<Faults>>) -> Self {
        lock(faults).used_bytes += bytes.len() as u64;
        let inode = Inode { durable: bytes.clone(), cached: bytes, stores: Vec::new() };
        Self { inode: Arc::new(Mutex::new(inode)), faults: Arc::clone(faults) }
    }

    /// How many stores wait for a sync. A simulator notes it when a sync begins, and gives it to
    /// [`MemoryFile::sync_stores`] when the sync completes.
    #[must_use]
    pub fn stores_pending(&self) -> usize {
        lock(&self.inode).stores.len()
    }

    /// Makes the first `count` pending stores durable.
    pub fn sync_stores(&self, count: usize) {
        let mut inode = lock(&self.inode);
        let count = count.min(inode.stores.len());
        let done: Vec<Store> = inode.stores.drain(..count).collect();
        for store in done {
            inode.durable[store.offset..store.offset + store.bytes.len()].copy_from_slice(&store.bytes);
        }
    }

    fn grow(&self, inode: &mut Inode, bytes: usize) -> io::Result<()> {
        if bytes <= inode.cached.len() {
            return Ok(());
        }
        let wanted = bytes - inode.cached.len();
        let taken = lock(&self.faults).take_space(wanted as u64) as usize;
        let len = inode.cached.len() + taken;
        inode.cached.resize(len, 0);
        inode.durable.resize(len, 0);
        if taken < wanted { Err(io::Error::from(rustix::io::Errno::NOSPC)) } else { Ok(()) }
    }

    fn surviving_image(&self, name: &str, survive: &mut dyn FnMut(Surviving<'_>) -> u32) -> Vec<u8> {
        let inode = lock(&self.inode);
        let mut image = inode.durable.clone();
        let sector = SECTOR_BYTES as usize;
        let mut touched: BTreeMap<usize, Vec<&Store>> = BTreeMap::new();
        for store in inode.stores.iter().filter(|store| !store.bytes.is_empty()) {
            for at in store.offset / sector..=(store.offset + store.bytes.len() - 1) / sector {
                touched.entry(at).or_default().push(store);
            }
        }
        for (number, stores) in touched {
            let (from, to) = (number * sector, ((number + 1) * sector).min(image.len()));
            let count = stores.len() as u32;
            let kept = survive(Surviving::Sector { file: name, offset: from as u64, stores: count }).min(count);
            for store in &stores[..kept as usize] {
                let (first, last) = (store.offset.max(from), (store.offset + store.bytes.len()).min(to));
                image[first..last].copy_from_slice(&store.bytes[first - store.offset..last - store.offset]);
            }
        }
        image
    }
}

impl StoredFile for MemoryFile {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(lock(&self.inode).cached.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let inode = lock(&self.inode);
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(inode.cached.len());
        let count = buffer.len().min(inode.cached.len() - start);
        buffer[..count].copy_from_slice(&inode.cached[start..start + count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut inode = lock(&self.inode);
        let start = offset as usize;
        self.grow(&mut inode, start + bytes.len())?;
        inode.cached[start..start + bytes.len()].copy_from_slice(bytes);
        inode.stores.push(Store { offset: start, bytes: bytes.to_vec() });
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.grow(&mut lock(&self.inode), bytes as usize)
    }

    fn truncate(&self) -> io::Result<()> {
        let mut inode = lock(&self.inode);
        let mut faults = lock(&self.faults);
        faults.used_bytes = faults.used_bytes.saturating_sub(inode.cached.len() as u64);
        *inode = Inode { cached: Vec::new(), durable: Vec::new(), stores: Vec::new() };
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        if lock(&self.faults).sync_fails() {
            return Err(device_error());
        }
        self.sync_stores(usize::MAX);
        Ok(())
    }

    fn expect_random_reads(&self) {}

    fn forget_cache(&self) {}
}

/// A mapped [`MemoryFile`].
#[derive(Debug)]
pub struct MemoryRegion {
    file: MemoryFile,
    len: u64,
}

impl Region for MemoryRegion {
    fn len_bytes(&self) -> u64 {
        self.len
    }

    fn store(&mut self, offset: u64, bytes: &[u8]) {
        assert!(offset + bytes.len() as u64 <= self.len, "a store past the end of the map");
        self.file.write_at(bytes, offset).expect("a store inside the file needs no space");
    }

    fn prefault(&mut self, _from: u64, _to: u64) -> io::Result<()> {
        Ok(())
    }

    fn release(&mut self, _from: u64, _to: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_keeps_what_was_synced_and_what_it_is_told_to() {
        let medium = MemoryMedium::new();
        let file = medium.create("a").unwrap();
        file.allocate(2048).unwrap();
        file.write_at(&[1; 2048], 0).unwrap();
        file.sync_data().unwrap();
        medium.sync_dir().unwrap();
        let mut region = medium.map(&file, 2048).unwrap();
        region.store(500, &[2; 24]); // sectors 0 and 1
        region.store(510, &[3; 4]);
        medium.rename("a", "b").unwrap();

        let nothing = medium.crash(&mut |_| 0);
        assert_eq!(nothing.contents("a").unwrap(), vec![1; 2048]);
        assert_eq!(nothing.contents("b"), None);

        let torn = medium.crash(&mut |what| match what {
            Surviving::Sector { offset: 0, stores, .. } => stores,
            Surviving::Sector { .. } => 1,
            Surviving::Name(_) => 1,
        });
        assert_eq!(torn.contents("a"), None);
        let image = torn.contents("b").unwrap();
        assert_eq!(image[508..526], [2, 2, 3, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1]);
        assert_eq!(medium.contents("b").unwrap()[510..514], [3; 4], "the crash is an image, not an event");
    }

    #[test]
    fn a_full_disk_leaves_a_partial_file_and_frees_it_again() {
        let medium = MemoryMedium::new();
        medium.set_capacity(Some(1000));
        let file = medium.create("a").unwrap();
        let error = file.allocate(4096).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::NOSPC.raw_os_error()));
        assert_eq!(file.len_bytes().unwrap(), 1000);
        file.truncate().unwrap();
        file.allocate(1000).unwrap();
    }

    #[test]
    fn a_sync_that_fails_syncs_nothing() {
        let medium = MemoryMedium::new();
        let file = medium.create("a").unwrap();
        medium.sync_dir().unwrap();
        file.write_at(b"x", 0).unwrap();
        medium.fail_next_sync(1);
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
        assert_eq!(medium.crash(&mut |_| 0).contents("a").unwrap(), vec![0]);
        file.sync_data().unwrap();
        assert_eq!(medium.crash(&mut |_| 0).contents("a").unwrap(), b"x");
    }
}
