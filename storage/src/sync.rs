//! What a sync consists of, as data: the WAL lends out steps, its driver performs them on a ring or a helper thread.
//!
//! Invariants:
//! 1. Steps are performed in order, each after the one before has succeeded, and none is ever retried.
//! 2. A segment's new name comes after its own sync and after the sync of the segment before it (see `segment`).

use std::io;
use std::sync::Arc;

use crate::ids::{SegmentSeq, WalIndex};
use crate::medium::{Medium, StoredFile};

/// One thing to do for a sync. Steps are done in order, each after the one before has succeeded.
#[derive(Debug)]
pub enum SyncStep<M: Medium> {
    /// Write a staged batch; all of it.
    Write {
        /// Where to.
        file: M::File,
        /// The file's path, for messages.
        path: Arc<str>,
        /// Offset in it.
        offset: u64,
        /// The frame.
        bytes: Vec<u8>,
    },
    /// `fdatasync`.
    SyncData {
        /// Of which file.
        file: M::File,
        /// The file's path, for messages.
        path: Arc<str>,
    },
    /// Give a synced segment its name: rename, then fsync of the directory. Blocks; rare (once per segment).
    Publish {
        /// The directory.
        medium: M,
        /// The spare's name.
        from: String,
        /// The segment's name.
        to: String,
    },
}

/// A step of a sync failed. The node stops: see invariant 4 of [`crate::wal`].
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot {what} {file}: {source}; the WAL on disk is intact up to the last acknowledged write: check the disk, then start again"
)]
pub struct SyncError {
    /// The step.
    pub what: &'static str,
    /// The file.
    pub file: String,
    /// The reason.
    #[source]
    pub source: io::Error,
}

impl<M: Medium> SyncStep<M> {
    /// Performs the step, blocking.
    ///
    /// # Errors
    /// [`SyncError`] naming the file. Never retry a step.
    pub fn run(&self) -> Result<(), SyncError> {
        self.attempt().map_err(|source| self.failed(source))
    }

    fn attempt(&self) -> io::Result<()> {
        match self {
            Self::Write { file, offset, bytes, .. } => file.write_at(bytes, *offset),
            Self::SyncData { file, .. } => file.sync_data(),
            Self::Publish { medium, from, to } => {
                medium.rename(from, to)?;
                medium.sync_dir()
            }
        }
    }

    /// The error for a step that was performed elsewhere (on the ring) and failed with `source`.
    #[must_use]
    pub fn failed(&self, source: io::Error) -> SyncError {
        let (what, file) = match self {
            Self::Write { path, .. } => ("write", path.to_string()),
            Self::SyncData { path, .. } => ("sync", path.to_string()),
            Self::Publish { medium, to, .. } => ("publish", medium.path_of(to)),
        };
        SyncError { what, file, source }
    }
}

/// A sync that is under way. Bring it back with [`crate::wal::Wal::finish_sync`], or report [`crate::wal::Wal::poison`].
#[derive(Debug)]
#[must_use = "a ticket that is dropped blocks every later sync"]
pub struct SyncTicket<M: Medium> {
    pub(crate) upto: WalIndex,
    pub(crate) tail: SegmentSeq,
    pub(crate) tail_offset: u64,
    pub(crate) steps: Vec<SyncStep<M>>,
}

impl<M: Medium> SyncTicket<M> {
    /// The last frame this sync makes durable.
    #[must_use]
    pub fn upto(&self) -> WalIndex {
        self.upto
    }

    /// What to do, in order.
    #[must_use]
    pub fn steps(&self) -> &[SyncStep<M>] {
        &self.steps
    }

    /// The file, when all there is to do is one `fdatasync`: nearly always.
    #[must_use]
    pub fn only_sync(&self) -> Option<&M::File> {
        match self.steps.as_slice() {
            [SyncStep::SyncData { file, .. }] => Some(file),
            _ => None,
        }
    }

    /// Performs all steps, blocking.
    ///
    /// # Errors
    /// The first step's error; later steps are not tried.
    pub fn run(&self) -> Result<(), SyncError> {
        self.steps.iter().try_for_each(SyncStep::run)
    }
}
