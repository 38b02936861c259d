//! Why a store operation was refused.
//!
//! Always holds: a refused operation changed nothing, and the error says so by carrying the unchanged index.

use ringd_storage::ids::EtcdIndex;

/// etcd's error code. The numbers are part of the HTTP API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum StoreErrorCode {
    /// The path, or a directory on the way to it, does not exist.
    KeyNotFound = 100,
    /// `prevValue` or `prevIndex` does not match.
    CompareFailed = 101,
    /// The operation wants a file and found a directory.
    NotFile = 102,
    /// A file is in the way.
    NotDirectory = 104,
    /// `prevExist=false`, and it exists.
    NodeExists = 105,
    /// The root cannot be changed.
    RootReadOnly = 107,
    /// A directory with children, deleted without `recursive`.
    DirectoryNotEmpty = 108,
    /// The path is not a clean absolute path of bounded length. The HTTP layer never produces one.
    InvalidPath = 209,
    /// The history no longer reaches back to the index asked for.
    IndexCleared = 401,
}

/// A refused operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code:?} ({}) at index {index}", String::from_utf8_lossy(cause))]
pub struct StoreError {
    /// What kind.
    pub code: StoreErrorCode,
    /// etcd's `cause`: mostly a path, so any bytes. Empty when etcd gives none.
    pub cause: Vec<u8>,
    /// The store index when it was refused.
    pub index: EtcdIndex,
}
