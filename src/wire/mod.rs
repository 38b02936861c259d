//! Bytes to requests and back; pure codecs.

pub mod forward;
pub mod http_answer;
pub mod http_body;
pub mod http_reply;
pub mod http_request;
pub mod peer_frame;
pub mod peer_handshake;

#[cfg(test)]
mod http_tests;
