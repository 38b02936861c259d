//! Plain HTTP questions to other servers, whole answers: for what happens seldom.
//!
//! Owns: one exchange on one connection. Must hold: an answer larger than its limit is refused; no time is limited here,
//! callers do that.

use std::io;

use futures_lite::{AsyncRead, AsyncWrite};

use super::dial;
use super::tls_files::Side;
use crate::config::url::Url;
use crate::wire::http_answer::{AnswerBody, AnswerHead, parse_head};

/// The largest answer; a list of members or of registrations is a few kilobytes.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Asks `GET path` on a connection of its own.
///
/// # Errors
/// The resolver's, the kernel's, `InvalidData` for what is no HTTP or too large, or when TLS says no, `UnexpectedEof`.
pub async fn get(tls: &Side, url: &Url, path: &str) -> io::Result<(AnswerHead, Vec<u8>)> {
    let mut stream = dial::reach(tls, url).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", url.host_port());
    exchange(&mut stream, request.as_bytes()).await
}

/// Sends a whole request, which is not HEAD, and reads the whole answer.
///
/// # Errors
/// As [`get`], but for the resolver.
pub async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    request: &[u8],
) -> io::Result<(AnswerHead, Vec<u8>)> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    dial::send(stream, request).await?;
    let mut bytes = Vec::new();
    let head = loop {
        match parse_head(&bytes, false).map_err(|error| invalid(error.to_string()))? {
            // Some say first that they are about to answer.
            Some(head) if head.status < 200 => drop(bytes.drain(..head.head_bytes)),
            Some(head) => break head,
            None if dial::receive(stream, &mut bytes).await? == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            None => {}
        }
    };
    bytes.drain(..head.head_bytes);
    let (mut body, mut whole) = (AnswerBody::new(head.framing), Vec::new());
    loop {
        body.advance(&mut bytes, |part| whole.extend_from_slice(part)).map_err(|error| invalid(error.to_string()))?;
        if body.is_done() {
            return Ok((head, whole));
        }
        if whole.len() > BODY_BYTES_MAX {
            return Err(invalid("the answer is too long".to_owned()));
        }
        if dial::receive(stream, &mut bytes).await? == 0 && !body.end() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
