//! A [`Medium`] on a real directory.
//!
//! May touch: the files of one directory, by names relative to its open descriptor, so that a renamed or replaced
//! parent cannot redirect a write. Must not: decide anything; every call is one or two system calls.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, AtFlags, CWD, FallocateFlags, Mode, OFlags};

use crate::medium::{Access, Medium, StoredFile};
use crate::region::MappedRegion;

/// One directory of the file system, open.
#[derive(Clone, Debug)]
pub struct FsMedium {
    inner: Arc<OpenDir>,
}

#[derive(Debug)]
struct OpenDir {
    path: PathBuf,
    fd: OwnedFd,
}

impl FsMedium {
    /// Opens an existing directory.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory` and the like.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        Ok(Self { inner: Arc::new(OpenDir { path: path.to_path_buf(), fd }) })
    }

    /// Where the directory is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Opens an existing file for direct I/O. Never map a file that is open like this.
    pub(crate) fn open_direct(&self, name: &str) -> io::Result<FsFile> {
        self.open_flags(name, OFlags::RDWR | OFlags::DIRECT)
    }

    fn dir(&self) -> BorrowedFd<'_> {
        self.inner.fd.as_fd()
    }

    fn open_flags(&self, name: &str, flags: OFlags) -> io::Result<FsFile> {
        let fd = rustix::fs::openat(self.dir(), name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::from(0o600))?;
        Ok(FsFile(Arc::new(File::from(fd))))
    }
}

impl Medium for FsMedium {
    type File = FsFile;
    type Region = MappedRegion;

    fn path_of(&self, name: &str) -> String {
        self.inner.path.join(name).display().to_string()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(self.dir())? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn open(&self, name: &str, access: Access) -> io::Result<FsFile> {
        self.open_flags(
            name,
            match access {
                Access::Read => OFlags::RDONLY,
                Access::ReadWrite => OFlags::RDWR,
            },
        )
    }

    fn create(&self, name: &str) -> io::Result<FsFile> {
        self.open_flags(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    fn map(&self, file: &FsFile, bytes: u64) -> io::Result<MappedRegion> {
        MappedRegion::map(&file.0, bytes)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(self.dir(), from, self.dir(), to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(self.dir(), name, AtFlags::empty())?)
    }

    fn same_file(&self, one: &str, other: &str) -> io::Result<bool> {
        let one = rustix::fs::statat(self.dir(), one, AtFlags::SYMLINK_NOFOLLOW)?;
        let other = rustix::fs::statat(self.dir(), other, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(self.dir())?)
    }
}

/// One open file of a directory.
#[derive(Clone, Debug)]
pub struct FsFile(Arc<File>);

impl FsFile {
    /// Wraps a file that is open already.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self(Arc::new(file))
    }
}

/// For the ring: submit the write or the `fdatasync` on this descriptor, and keep the [`FsFile`] until it is done.
impl AsFd for FsFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl StoredFile for FsFile {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match FileExt::read_at(&*self.0, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        // A signal may interrupt a large allocation.
        let allocate = || rustix::fs::fallocate(&*self.0, FallocateFlags::empty(), 0, bytes);
        Ok(rustix::io::retry_on_intr(allocate)?)
    }

    fn truncate(&self) -> io::Result<()> {
        self.0.set_len(0)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn expect_random_reads(&self) {
        // Advice only: a file system that refuses it serves reads all the same.
        let _ = rustix::fs::fadvise(&*self.0, 0, None, Advice::Random);
    }

    fn forget_cache(&self) {
        let _ = rustix::fs::fadvise(&*self.0, 0, None, Advice::DontNeed);
    }
}
