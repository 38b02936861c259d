//! Refusals as clients see them: etcd's code, message, cause and index, and the HTTP status that goes with the code.
//!
//! Owns: the table of codes. `docs` of the numbers: etcd's v2 error codes, as observed.

use ringd_storage::ids::EtcdIndex;

use super::json;
use crate::core::store::{StoreError, StoreErrorCode};

/// etcd's error codes that this server gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
#[expect(missing_docs, reason = "the messages below say it")]
pub enum ErrorCode {
    KeyNotFound = 100,
    CompareFailed = 101,
    NotFile = 102,
    NotDirectory = 104,
    NodeExists = 105,
    RootReadOnly = 107,
    DirectoryNotEmpty = 108,
    Unauthorized = 110,
    PrevValueRequired = 201,
    TtlNotANumber = 202,
    IndexNotANumber = 203,
    InvalidField = 209,
    InvalidForm = 210,
    RefreshValue = 211,
    RefreshTtlRequired = 212,
    RaftInternal = 300,
    EventIndexCleared = 401,
}

impl ErrorCode {
    /// `message` of the body.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::KeyNotFound => "Key not found",
            Self::CompareFailed => "Compare failed",
            Self::NotFile => "Not a file",
            Self::NotDirectory => "Not a directory",
            Self::NodeExists => "Key already exists",
            Self::RootReadOnly => "Root is read only",
            Self::DirectoryNotEmpty => "Directory not empty",
            Self::Unauthorized => "The request requires user authentication",
            Self::PrevValueRequired => "PrevValue is Required in POST form",
            Self::TtlNotANumber => "The given TTL in POST form is not a number",
            Self::IndexNotANumber => "The given index in POST form is not a number",
            Self::InvalidField => "Invalid field",
            Self::InvalidForm => "Invalid POST form",
            Self::RefreshValue => "Value provided on refresh",
            Self::RefreshTtlRequired => "A TTL must be provided on refresh",
            Self::RaftInternal => "Raft Internal Error",
            Self::EventIndexCleared => "The event in requested index is outdated and cleared",
        }
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::KeyNotFound => 404,
            Self::NotFile | Self::DirectoryNotEmpty => 403,
            Self::CompareFailed | Self::NodeExists => 412,
            Self::Unauthorized => 401,
            Self::RaftInternal => 500,
            _ => 400,
        }
    }
}

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {} ({})", *code as u16, code.message(), String::from_utf8_lossy(cause))]
pub struct ApiError {
    /// Code, and with it message and status.
    pub code: ErrorCode,
    /// Any bytes; left out of the body when empty.
    pub cause: Vec<u8>,
    /// `index` of the body and `X-Etcd-Index`; zero for refusals of the request itself.
    pub index: EtcdIndex,
    /// Nothing is wrong with the request: it is too much at this moment, and the status says so (503).
    pub is_overload: bool,
}

impl ApiError {
    /// A refusal of the request itself, before any store was asked.
    #[must_use]
    pub fn request(code: ErrorCode, cause: impl Into<Vec<u8>>) -> Self {
        Self { code, cause: cause.into(), index: EtcdIndex::ZERO, is_overload: false }
    }

    /// The body is above [`super::params::FORM_BYTES_MAX`]; for whoever stops reading it there.
    #[must_use]
    pub fn form_too_large() -> Self {
        Self::request(ErrorCode::InvalidForm, "http: POST too large")
    }

    /// More is under way than this member takes. etcd's words for a gap between commit and apply that is too large.
    #[must_use]
    pub fn too_many_requests() -> Self {
        Self { is_overload: true, ..Self::request(ErrorCode::RaftInternal, "etcdserver: too many requests") }
    }

    /// The quota is used up. etcd's words for a v3 write; v2 has no code of its own for it.
    #[must_use]
    pub fn space_exceeded() -> Self {
        Self::request(ErrorCode::RaftInternal, "etcdserver: mvcc: database space exceeded")
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(&self) -> u16 {
        if self.is_overload { 503 } else { self.code.status() }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let code = match error.code {
            StoreErrorCode::KeyNotFound => ErrorCode::KeyNotFound,
            StoreErrorCode::CompareFailed => ErrorCode::CompareFailed,
            StoreErrorCode::NotFile => ErrorCode::NotFile,
            StoreErrorCode::NotDirectory => ErrorCode::NotDirectory,
            StoreErrorCode::NodeExists => ErrorCode::NodeExists,
            StoreErrorCode::RootReadOnly => ErrorCode::RootReadOnly,
            StoreErrorCode::DirectoryNotEmpty => ErrorCode::DirectoryNotEmpty,
            StoreErrorCode::InvalidPath => ErrorCode::InvalidField,
            StoreErrorCode::IndexCleared => ErrorCode::EventIndexCleared,
        };
        Self { code, cause: error.cause, index: error.index, is_overload: false }
    }
}

/// Appends the body: members in etcd's order, a newline at the end.
pub fn render_error(out: &mut Vec<u8>, error: &ApiError) {
    out.extend_from_slice(b"{\"errorCode\":");
    json::push_u64(out, error.code as u64);
    out.extend_from_slice(b",\"message\":");
    json::push_string(out, error.code.message().as_bytes());
    if !error.cause.is_empty() {
        out.extend_from_slice(b",\"cause\":");
        json::push_string(out, &error.cause);
    }
    out.extend_from_slice(b",\"index\":");
    json::push_u64(out, error.index.get());
    out.extend_from_slice(b"}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_cause_is_left_out() {
        let mut out = Vec::new();
        let mut error = ApiError { index: EtcdIndex::new(7), ..ApiError::request(ErrorCode::NotFile, Vec::new()) };
        render_error(&mut out, &error);
        assert_eq!(out, b"{\"errorCode\":102,\"message\":\"Not a file\",\"index\":7}\n");
        out.clear();
        error.cause = b"/a<".to_vec();
        render_error(&mut out, &error);
        assert_eq!(out, b"{\"errorCode\":102,\"message\":\"Not a file\",\"cause\":\"/a\\u003c\",\"index\":7}\n");
    }
}
