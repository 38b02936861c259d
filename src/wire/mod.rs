//! Bytes to requests and back; pure codecs.

pub mod http_body;
pub mod http_reply;
pub mod http_request;

#[cfg(test)]
mod http_tests;
