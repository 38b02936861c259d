//! Answers of other servers: the head, the framing of the body, and its bytes as they arrive.
//!
//! Owns: what of an answer's head decides anything, and `AnswerBody`, which takes the framing off. May touch: httparse,
//! slices, the chunk decoder; no I/O, no clock.
//!
//! Must always hold:
//! - Any bytes give a head, a wish for more, or an error; never a panic.
//! - A body that arrives in pieces gives the bytes it gives as a whole, and nothing behind its end is touched.
//! - What could be cut in two ways (RFC 9112, section 6.3) is an error, not a guess.

use super::http_body::{BodyError, ChunkDecoder, ChunkProgress};

/// The longest head of an answer; etcd's are a few hundred bytes.
pub const HEAD_BYTES_MAX: usize = 64 << 10;
/// Headers of one answer.
pub const HEADERS_MAX: usize = 100;

/// An answer that cannot be used. The connection is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// No HTTP/1.
    #[error("malformed HTTP response")]
    Malformed,
    /// A longer head, or more headers, than any server of ours sends.
    #[error("the head of the response is too large")]
    HeadTooLarge,
    /// Lengths that contradict each other, or a coding that is not `chunked`.
    #[error("the length of the response is not clear")]
    Framing,
    /// The chunks are broken.
    #[error("{0}")]
    Body(#[from] BodyError),
}

/// Where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes, maybe none.
    Length(u64),
    /// After the last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// What a head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerHead {
    /// The status code.
    pub status: u16,
    /// The body. No body has the length 0.
    pub framing: Framing,
    /// The length that was announced, also for HEAD and 304, where no body follows.
    pub length: Option<u64>,
    /// Whether the connection can serve another request.
    pub keep_alive: bool,
    /// `X-Etcd-Index`.
    pub etcd_index: Option<u64>,
    /// Where the body begins.
    pub head_bytes: usize,
}

/// Reads the head at the start of `bytes`; `None` until it is complete. `to_head` is whether HEAD was asked.
///
/// # Errors
/// [`AnswerError`].
pub fn parse_head(bytes: &[u8], to_head: bool) -> Result<Option<AnswerHead>, AnswerError> {
    let window = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let mut slots = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut slots);
    let head_bytes = match response.parse(window) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) if bytes.len() >= HEAD_BYTES_MAX => return Err(AnswerError::HeadTooLarge),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(AnswerError::HeadTooLarge),
        Err(_) => return Err(AnswerError::Malformed),
    };
    let (Some(status), Some(minor)) = (response.code, response.version) else { return Err(AnswerError::Malformed) };
    let mut length: Option<u64> = None;
    let mut chunked = false;
    let (mut close, mut keep) = (false, false);
    let mut etcd_index = None;
    for header in response.headers.iter() {
        let value = header.value.trim_ascii();
        if header.name.eq_ignore_ascii_case("content-length") {
            let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            let parsed = digits.and_then(|text| text.parse().ok()).ok_or(AnswerError::Framing)?;
            if length.is_some_and(|before| before != parsed) {
                return Err(AnswerError::Framing);
            }
            length = Some(parsed);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(AnswerError::Framing);
            }
            chunked = true;
        } else if header.name.eq_ignore_ascii_case("connection") {
            for token in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                close |= token.eq_ignore_ascii_case(b"close");
                keep |= token.eq_ignore_ascii_case(b"keep-alive");
            }
        } else if header.name.eq_ignore_ascii_case("x-etcd-index") {
            etcd_index = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        }
    }
    let framing = match (chunked, length) {
        _ if to_head || status < 200 || status == 204 || status == 304 => Framing::Length(0),
        (true, Some(_)) => return Err(AnswerError::Framing),
        (true, None) => Framing::Chunked,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::UntilClose,
    };
    let keep_alive = framing != Framing::UntilClose && !close && (minor == 1 || keep);
    Ok(Some(AnswerHead { status, framing, length, keep_alive, etcd_index, head_bytes }))
}

/// A body on its way.
#[derive(Debug)]
pub struct AnswerBody {
    state: State,
}

#[derive(Debug)]
enum State {
    Left(u64),
    Chunks(Box<ChunkDecoder>),
    Endless,
    Done,
}

impl AnswerBody {
    /// Before its first byte.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Left(length),
            Framing::Chunked => State::Chunks(Box::new(ChunkDecoder::new(u64::MAX))),
            Framing::UntilClose => State::Endless,
        };
        Self { state }
    }

    /// Whether it is complete.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Takes what `buffer` holds of the body and gives it to `take` without its framing. What is left in `buffer`
    /// follows the body.
    ///
    /// # Errors
    /// [`AnswerError::Body`]; the body must not be used again.
    pub fn advance(&mut self, buffer: &mut Vec<u8>, mut take: impl FnMut(&[u8])) -> Result<(), AnswerError> {
        match &mut self.state {
            State::Done => {}
            State::Endless => {
                take(buffer);
                buffer.clear();
            }
            State::Left(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                take(&buffer[..here]);
                buffer.drain(..here);
                *left -= here as u64;
                if *left == 0 {
                    self.state = State::Done;
                }
            }
            State::Chunks(decoder) => match decoder.advance(buffer)? {
                ChunkProgress::NeedMore => {
                    let read = decoder.slack();
                    take(&buffer[..read.start]);
                    buffer.drain(..read.end);
                    decoder.passed_on();
                }
                ChunkProgress::Done { body_len, consumed } => {
                    take(&buffer[..body_len]);
                    buffer.drain(..consumed);
                    self.state = State::Done;
                }
            },
        }
        Ok(())
    }

    /// The connection has ended. Whether the body is complete now.
    pub fn end(&mut self) -> bool {
        if matches!(self.state, State::Endless) {
            self.state = State::Done;
        }
        self.is_done()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(text: &str) -> Result<Option<AnswerHead>, AnswerError> {
        parse_head(text.as_bytes(), false)
    }

    #[test]
    fn framing_is_read_and_never_guessed() {
        let framing =
            |headers: &str| head(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n")).map(|head| head.unwrap().framing);
        assert_eq!(framing("Content-Length: 12\r\n"), Ok(Framing::Length(12)));
        assert_eq!(framing("Content-Length: 12\r\nContent-Length: 12\r\n"), Ok(Framing::Length(12)));
        assert_eq!(framing("Transfer-Encoding: Chunked\r\n"), Ok(Framing::Chunked));
        assert_eq!(framing(""), Ok(Framing::UntilClose));
        for bad in [
            "Content-Length: 1\r\nContent-Length: 2\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Content-Length: +1\r\n",
            "Content-Length:\r\n",
            "Content-Length: 99999999999999999999\r\n",
        ] {
            assert_eq!(framing(bad), Err(AnswerError::Framing), "{bad}");
        }
        assert_eq!(head("HTTP/1.1 200 OK\r\nX: y\r\n"), Ok(None));
        assert_eq!(head("SSH-2.0\r\n\r\n"), Err(AnswerError::Malformed));
        assert_eq!(
            head(&format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(HEAD_BYTES_MAX))),
            Err(AnswerError::HeadTooLarge)
        );
    }

    #[test]
    fn connections_are_kept_when_both_sides_can() {
        let keep = |text: &str| head(text).unwrap().unwrap().keep_alive;
        assert!(keep("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"));
        assert!(!keep("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: x, Close\r\n\r\n"));
        assert!(!keep("HTTP/1.1 200 OK\r\n\r\n"));
        assert!(!keep("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n"));
        assert!(keep("HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n"));
    }

    #[test]
    fn answers_without_a_body_have_none() {
        let asked =
            parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nX-Etcd-Index: 7\r\n\r\n", true).unwrap().unwrap();
        assert_eq!((asked.framing, asked.length, asked.etcd_index), (Framing::Length(0), Some(9), Some(7)));
        for status in ["100 Continue", "204 No Content", "304 Not Modified"] {
            assert_eq!(head(&format!("HTTP/1.1 {status}\r\n\r\n")).unwrap().unwrap().framing, Framing::Length(0));
        }
    }

    proptest! {
        #[test]
        fn pieces_give_the_body_and_leave_what_follows(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..30), 0..6),
            cuts in proptest::collection::vec(1_usize..9, 1..80),
            chunked: bool,
        ) {
            let body = parts.concat();
            let mut sent = Vec::new();
            if chunked {
                for part in &parts {
                    sent.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                    sent.extend_from_slice(part);
                    sent.extend_from_slice(b"\r\n");
                }
                sent.extend_from_slice(b"0\r\n\r\n");
            } else {
                sent.extend_from_slice(&body);
            }
            sent.extend_from_slice(b"next");
            let framing = if chunked { Framing::Chunked } else { Framing::Length(body.len() as u64) };
            let mut answer = AnswerBody::new(framing);
            let (mut got, mut buffer, mut at) = (Vec::new(), Vec::new(), 0);
            for cut in cuts.iter().cycle() {
                let end = (at + cut).min(sent.len());
                buffer.extend_from_slice(&sent[at..end]);
                at = end;
                answer.advance(&mut buffer, |part| got.extend_from_slice(part)).unwrap();
                if at == sent.len() {
                    break;
                }
            }
            prop_assert!(answer.is_done() && answer.end());
            prop_assert_eq!(got, body);
            prop_assert_eq!(buffer, b"next");
        }

        #[test]
        fn any_bytes_are_an_answer_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..80), to_head: bool) {
            let _ = parse_head(&bytes, to_head);
            let with_start = [b"HTTP/1.1 200 OK\r\n".as_slice(), &bytes].concat();
            let _ = parse_head(&with_start, to_head);
            let mut body = AnswerBody::new(Framing::Chunked);
            let _ = body.advance(&mut bytes.clone(), |_| ());
        }
    }
}
