//! A small blocking client for etcd's v2 API, shared by the tools.
//!
//! Owns: the HTTP/1.1 it speaks, one kept-alive connection, TLS, the typed answers. Touches: TCP sockets, and the
//! certificate files it is told of; no threads, no globals. Always: a call ends by its deadline; what a server sends is foreign, so it becomes a
//! value or an error and never a panic; a write that may have reached a server is not sent to a second one.

mod auth;
mod client;
mod encode;
mod endpoint;
mod error;
mod http;
mod members;
mod tls;
mod types;

pub use auth::{Permissions, Role, User};
pub use client::{Client, Condition, GetOptions, Options, SetOptions, Watch};
pub use encode::{base64, clean_key};
pub use endpoint::{BadEndpoint, Endpoint};
pub use error::{ApiError, ClientError, Failure};
pub use tls::{Tls, TlsError};
pub use types::{Member, Node, Response};
