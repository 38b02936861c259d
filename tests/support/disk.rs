//! A disk that this test serves itself: an ext4 on a loop device whose backing file is FUSE's, so that the test knows
//! which sectors were flushed, may take the power away and keep any version of the others, and may make flushes slow.
//! Needs root, /dev/fuse, losetup, mkfs.ext4 and mount.
//!
//! What a power cut may do: every sector that was written since the last flush keeps its flushed content or any one of the
//! versions written since, each sector for itself. What it may not: touch a sector that was flushed. From the moment of
//! the cut on, writes and flushes fail, so that nothing the node says afterwards can be true by accident.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};

/// What a disk writes whole.
const SECTOR: usize = 512;
/// Two WAL segments of 64 MiB, snapshots, and the file system's own.
const IMAGE_BYTES: usize = 208 << 20;
/// Attributes are fixed, the kernel may keep them.
const KEEP: Duration = Duration::from_secs(3600);
/// How often a flush under way looks whether it is over.
const LOOK: Duration = Duration::from_millis(5);
const FILE: INodeNo = INodeNo(2);
const FILE_NAME: &str = "disk";

/// Runs a program to its end; what it printed, or what it complained of.
pub fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// A path as a word of a command line.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// The disk.
pub struct Platter {
    /// What reads see.
    current: Vec<u8>,
    /// What a power cut cannot take away.
    flushed: Vec<u8>,
    /// Versions of each sector since the last flush, by sector number.
    unflushed: BTreeMap<usize, Vec<[u8; SECTOR]>>,
    is_dead: bool,
    /// Flushes so far.
    pub flushes: u64,
    /// How long each flush takes; the disk does nothing else meanwhile.
    pub flush_time: Duration,
}

pub type Shared = Arc<Mutex<Platter>>;

pub fn lock(platter: &Shared) -> MutexGuard<'_, Platter> {
    platter.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Platter {
    fn new() -> Self {
        let empty = || vec![0; IMAGE_BYTES];
        Self {
            current: empty(),
            flushed: empty(),
            unflushed: BTreeMap::new(),
            is_dead: false,
            flushes: 0,
            flush_time: Duration::ZERO,
        }
    }

    fn write(&mut self, at: usize, data: &[u8]) {
        self.current[at..at + data.len()].copy_from_slice(data);
        for sector in at / SECTOR..(at + data.len()).div_ceil(SECTOR) {
            let version = self.current[sector * SECTOR..][..SECTOR].try_into().expect("a sector");
            self.unflushed.entry(sector).or_default().push(version);
        }
    }

    fn flush(&mut self) {
        for sector in std::mem::take(&mut self.unflushed).into_keys() {
            let range = sector * SECTOR..(sector + 1) * SECTOR;
            self.flushed[range.clone()].copy_from_slice(&self.current[range]);
        }
        self.flushes += 1;
    }

    /// The power goes; returns how many sectors lost their last version.
    pub fn cut(&mut self, random: &mut impl FnMut(usize) -> usize) -> usize {
        let mut lost = 0;
        for (sector, versions) in std::mem::take(&mut self.unflushed) {
            // Often none of them or the last: that is what caches do. Now and then one in between.
            let kept = match random(5) {
                0 | 1 => 0,
                2 | 3 => versions.len(),
                _ => random(versions.len() + 1),
            };
            lost += usize::from(kept < versions.len());
            if let Some(survivor) = kept.checked_sub(1).map(|at| versions[at]) {
                self.flushed[sector * SECTOR..][..SECTOR].copy_from_slice(&survivor);
            }
        }
        self.is_dead = true;
        lost
    }

    fn power_on(&mut self) {
        self.current.copy_from_slice(&self.flushed);
        self.is_dead = false;
    }
}

/// A file system with one file, the disk.
struct Served(Shared);

fn attributes(node: INodeNo) -> FileAttr {
    let is_file = node == FILE;
    let then = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: node,
        size: if is_file { IMAGE_BYTES as u64 } else { 0 },
        blocks: 0,
        atime: then,
        mtime: then,
        ctime: then,
        crtime: then,
        kind: if is_file { FileType::RegularFile } else { FileType::Directory },
        perm: 0o700,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == FILE_NAME {
            reply.entry(&KEEP, &attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&KEEP, &attributes(node));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // The kernel must keep no copy: after a cut it would show what the disk has lost.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let platter = lock(&self.0);
        let from = usize::try_from(offset).unwrap_or(IMAGE_BYTES).min(IMAGE_BYTES);
        let to = (from + size as usize).min(IMAGE_BYTES);
        reply.data(&platter.current[from..to]);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut platter = lock(&self.0);
        let at = usize::try_from(offset).unwrap_or(IMAGE_BYTES);
        if platter.is_dead || at + data.len() > IMAGE_BYTES {
            return reply.error(Errno::EIO);
        }
        platter.write(at, data);
        reply.written(u32::try_from(data.len()).expect("FUSE writes are small"));
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let begun = Instant::now();
        // Looked at again and again: a disk that is well again ends the flush under way.
        while begun.elapsed() < lock(&self.0).flush_time {
            std::thread::sleep(LOOK.min(lock(&self.0).flush_time));
        }
        let mut platter = lock(&self.0);
        if platter.is_dead {
            return reply.error(Errno::EIO);
        }
        platter.flush();
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Closing a file is no flush of a disk.
        reply.ok();
    }
}

/// The disk, served, and the loop device and mount on it while there is power.
pub struct Machine {
    /// The disk.
    pub platter: Shared,
    served: PathBuf,
    /// Where its file system is.
    pub mount: PathBuf,
    device: Option<String>,
    session: Option<BackgroundSession>,
    _scratch: tempfile::TempDir,
}

impl Machine {
    /// A machine with an empty file system, or why there is none.
    pub fn new() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("needs root".to_owned());
        }
        let scratch = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (served, mount) = (scratch.path().join("served"), scratch.path().join("mount"));
        for dir in [&served, &mount] {
            std::fs::create_dir(dir).map_err(|error| error.to_string())?;
        }
        let platter = Arc::new(Mutex::new(Platter::new()));
        let session = fuser::spawn_mount(Served(Arc::clone(&platter)), &served, &Config::default())
            .map_err(|error| format!("FUSE: {error}"))?;
        let mut machine = Self { platter, served, mount, device: None, session: Some(session), _scratch: scratch };
        machine.attach()?;
        run("mkfs.ext4", &["-q", "-F", "-m", "0", machine.device.as_deref().unwrap_or_default()])?;
        machine.mount()?;
        Ok(machine)
    }

    fn attach(&mut self) -> Result<(), String> {
        self.device = Some(run("losetup", &["--find", "--show", text(&self.served.join(FILE_NAME))])?);
        Ok(())
    }

    fn mount(&self) -> Result<(), String> {
        run("mount", &[self.device.as_deref().unwrap_or_default(), text(&self.mount)]).map(drop)
    }

    /// Takes the file system and the device away, whatever state they are in.
    pub fn detach(&mut self) {
        lock(&self.platter).flush_time = Duration::ZERO;
        // A ring that is being taken apart may hold the file system for a moment after its process has ended.
        for _ in 0..100 {
            if run("umount", &[text(&self.mount)]).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        if let Some(device) = self.device.take() {
            let _ = run("losetup", &["--detach", &device]);
        }
    }

    /// The power is back: the file system replays its journal.
    pub fn power_on(&mut self) {
        lock(&self.platter).power_on();
        self.attach().expect("losetup");
        self.mount().expect("the journal is replayed");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.detach();
        if let Some(session) = self.session.take() {
            let _ = session.umount_and_join();
        }
    }
}

#[test]
fn the_disk_of_this_test_forgets_what_was_not_flushed() {
    let mut platter = Platter::new();
    platter.write(0, &[1; 2 * SECTOR]);
    platter.flush();
    platter.write(SECTOR, &[2; SECTOR]);
    platter.write(SECTOR, &[3; SECTOR]);
    assert_eq!(platter.cut(&mut |_| 0), 1, "kept nothing of one sector");
    platter.power_on();
    assert_eq!(platter.current[..2 * SECTOR], [1; 2 * SECTOR]);
    platter.write(SECTOR, &[4; SECTOR]);
    assert_eq!(platter.cut(&mut |_| 2), 0, "kept everything");
    platter.power_on();
    assert_eq!(platter.current[..SECTOR], [1; SECTOR]);
    assert_eq!(platter.current[SECTOR..2 * SECTOR], [4; SECTOR]);
}
