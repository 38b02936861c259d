//! Why a call failed; the variants differ where the caller's next step differs.
//!
//! Owns: the error texts, which are those of etcd's client so that scripts which look at them go on working.
//! Touches: nothing. Always: an `Api` error was decided by a server, all others say nothing about the keys.

use std::fmt;

use serde::Deserialize;

/// A refusal by the keys API.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ApiError {
    pub error_code: u32,
    pub message: String,
    pub cause: String,
    /// The store's index when it refused; 0 when the request never reached the store.
    pub index: u64,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({}) [{}]", self.error_code, self.message, self.cause, self.index)
    }
}

/// What went wrong with one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("dial tcp {address}: {why}")]
    Dial { address: String, why: String },
    #[error("dial tcp: lookup {host}: no such host")]
    Lookup { host: String },
    #[error("client: endpoint {endpoint} exceeded header timeout")]
    HeaderTimeout { endpoint: String },
    #[error("unsupported protocol scheme {scheme:?}")]
    Scheme { scheme: String },
    #[error("{why}")]
    Broken { endpoint: String, why: String },
    #[error("client: etcd member {endpoint} has no leader")]
    NoLeader {
        endpoint: String,
        /// What the server said beside that, which etcd's client has no words for.
        reason: Option<String>,
    },
    #[error("client: etcd member {endpoint} returns server error [{status}]")]
    ServerError { endpoint: String, status: u16 },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The server refused the request.
    #[error("{0}")]
    Api(ApiError),
    /// No endpoint gave an answer; one failure per endpoint tried, each on a line of its own.
    #[error("client: etcd cluster is unavailable or misconfigured{}", numbered(.0))]
    Unavailable(Vec<Failure>),
    /// The caller's deadline passed.
    #[error("context deadline exceeded")]
    Deadline,
    /// The members API refused the request, with its message.
    #[error("{0}")]
    Refused(String),
    /// The server answered with something that is not this API.
    #[error("unexpected status code {status}")]
    UnexpectedStatus { status: u16 },
    #[error("client: response is invalid json. The endpoint is probably not valid etcd cluster endpoint")]
    InvalidJson,
    #[error("client: no endpoints available")]
    NoEndpoints,
}

impl ClientError {
    /// Whether no endpoint could even be connected to, or time was up.
    #[must_use]
    pub fn is_connection_error(&self) -> bool {
        let unconnected = |f: &Failure| matches!(f, Failure::Dial { .. } | Failure::Lookup { .. });
        match self {
            ClientError::Unavailable(failures) => failures.iter().all(unconnected),
            other => *other == ClientError::Deadline,
        }
    }

    /// One line per endpoint tried, for `Unavailable`.
    pub fn detail(&self) -> Option<String> {
        match self {
            ClientError::Unavailable(failures) => {
                Some(failures.iter().enumerate().map(|(i, f)| format!("error #{i}: {f}\n")).collect())
            }
            _ => None,
        }
    }
}

fn numbered(failures: &[Failure]) -> String {
    failures.iter().enumerate().map(|(i, f)| format!("; error #{i}: {f}\n")).collect()
}
