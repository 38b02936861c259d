//! Bodies: chunked decoding in place, and the cutting of a connection's bytes into whole requests.
//!
//! Owns: `ChunkDecoder` and `RequestReader`. May touch: `http_request` and slices; no I/O, no clock, no allocation.
//!
//! Must always hold:
//! - Decoding never writes past what it has read, and never touches bytes after the body: they are the next request.
//! - Pieces give the same body, the same end and the same error as the whole.
//! - A sender pays for framing: bytes that are not data are bounded by the data they carry plus a constant.

use super::http_request::{BodyKind, Head, Limits, Parsed, RequestError, parse_head, worth_parsing};

/// One chunk-size line with its extensions, without CRLF (Go's `maxLineLength`).
pub const CHUNK_LINE_BYTES_MAX: usize = 4096;
/// All trailer lines of one body together; nobody reads them.
pub const TRAILER_BYTES_MAX: usize = 8 << 10;
/// Framing bytes a body may carry beyond 16 per chunk and one per data byte (the allowance of newer Go releases).
pub const CHUNK_OVERHEAD_MAX: usize = 16 << 10;
/// Hex digits of a chunk size; 16 would already be 2^64.
const CHUNK_SIZE_DIGITS_MAX: u32 = 16;

/// Why a body cannot be used. The request still gets an answer from the API (etcd: error 210 for a form, nothing for
/// a body it ignores), then the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Longer than `Limits::body_bytes_max`.
    #[error("http: POST too large")]
    TooLarge,
    /// A chunk size that is not hexadecimal.
    #[error("invalid byte in chunk length")]
    BadChunkLength,
    /// A chunk size of more than 16 digits.
    #[error("http chunk length too large")]
    ChunkLengthTooLarge,
    /// Chunk data not followed by CRLF, or a line ended by a bare LF.
    #[error("malformed chunked encoding")]
    Malformed,
    /// A chunk-size line or the trailer beyond its limit.
    #[error("header line too long")]
    LineTooLong,
    /// More framing than data can justify.
    #[error("http: chunked encoding contains too much non-data")]
    TooMuchFraming,
    /// The client closed its side inside the body. The shell reports this one; only it sees the end of a stream.
    #[error("unexpected EOF")]
    UnexpectedEof,
}

impl BodyError {
    /// Go's text for it, which etcd gives as the cause of error 210.
    #[must_use]
    pub const fn cause(self) -> &'static str {
        match self {
            Self::TooLarge => "http: POST too large",
            Self::BadChunkLength => "invalid byte in chunk length",
            Self::ChunkLengthTooLarge => "http chunk length too large",
            Self::Malformed => "malformed chunked encoding",
            Self::LineTooLong => "header line too long",
            Self::TooMuchFraming => "http: chunked encoding contains too much non-data",
            Self::UnexpectedEof => "unexpected EOF",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkState {
    /// In the hex digits: value and digits so far.
    Size {
        size: u64,
        digits: u32,
    },
    /// After the digits, before the CR: blanks or an extension.
    Extension {
        size: u64,
    },
    /// Saw the CR of the size line.
    SizeLf {
        size: u64,
    },
    /// Inside chunk data.
    Data {
        left: u64,
    },
    /// Expecting the CR, then the LF, after chunk data.
    DataCr,
    DataLf,
    /// In the trailer; `line` bytes of the current line so far.
    Trailer {
        line: usize,
    },
    /// Saw a CR in the trailer.
    TrailerLf {
        line: usize,
    },
    /// The body is complete.
    Done,
}

/// What the decoder knows after looking at all bytes it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkProgress {
    /// The body goes on.
    NeedMore,
    /// `body_len` decoded bytes lie at the front; the encoded body took `consumed` bytes of the buffer.
    Done { body_len: usize, consumed: usize },
}

/// A chunked body decoded inside the buffer it arrives in (RFC 9112, section 7.1).
#[derive(Clone, Debug)]
pub struct ChunkDecoder {
    state: ChunkState,
    /// Offset of the first byte not yet looked at.
    read: usize,
    /// Decoded bytes at the front of the buffer.
    write: usize,
    /// Bytes of the current size line, then of the trailer.
    line: usize,
    /// Framing not yet paid for by data.
    overhead: usize,
    body_bytes_max: u64,
}

impl ChunkDecoder {
    /// A decoder at the start of a body that may hold `body_bytes_max` bytes.
    #[must_use]
    pub fn new(body_bytes_max: u64) -> Self {
        Self { state: ChunkState::Size { size: 0, digits: 0 }, read: 0, write: 0, line: 0, overhead: 0, body_bytes_max }
    }

    /// Decodes what has arrived since the last call. `body` starts at the body's first byte and holds everything
    /// received since, decoded bytes included; only its end may grow between calls.
    ///
    /// # Errors
    /// `BodyError`; the decoder must not be used again.
    pub fn advance(&mut self, body: &mut [u8]) -> Result<ChunkProgress, BodyError> {
        assert!(self.read <= body.len(), "the buffer of a chunked body shrank");
        while self.state != ChunkState::Done && self.read < body.len() {
            if let ChunkState::Data { left } = self.state {
                self.copy_data(body, left);
            } else {
                let byte = body[self.read];
                self.read += 1;
                self.state = self.step(byte)?;
            }
        }
        Ok(if self.state == ChunkState::Done {
            ChunkProgress::Done { body_len: self.write, consumed: self.read }
        } else {
            ChunkProgress::NeedMore
        })
    }

    /// Bytes `start..end` of the buffer are framing that was read and may be cut out by the owner of the buffer,
    /// who then calls `compacted`. Keeps a body of tiny chunks from holding six times its size.
    #[must_use]
    pub fn slack(&self) -> std::ops::Range<usize> {
        self.write..self.read
    }

    /// The owner has removed `slack()` from the buffer.
    pub fn compacted(&mut self) {
        self.read = self.write;
    }

    /// The owner has passed the decoded bytes on, and has removed them and the framing that was read behind them:
    /// everything before `slack().end`. Whoever does so gives no limit for the whole body.
    pub fn passed_on(&mut self) {
        (self.read, self.write) = (0, 0);
    }

    fn copy_data(&mut self, body: &mut [u8], left: u64) {
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(body.len() - self.read);
        body.copy_within(self.read..self.read + here, self.write);
        self.read += here;
        self.write += here;
        let left = left - here as u64;
        self.state = if left == 0 { ChunkState::DataCr } else { ChunkState::Data { left } };
    }

    /// One framing byte.
    fn step(&mut self, byte: u8) -> Result<ChunkState, BodyError> {
        Ok(match self.state {
            ChunkState::Size { size, digits } => {
                self.count_line_byte(CHUNK_LINE_BYTES_MAX)?;
                match (char::from(byte).to_digit(16), byte) {
                    (Some(_), _) if digits == CHUNK_SIZE_DIGITS_MAX => return Err(BodyError::ChunkLengthTooLarge),
                    (Some(digit), _) => ChunkState::Size { size: size << 4 | u64::from(digit), digits: digits + 1 },
                    _ if digits == 0 => return Err(BodyError::BadChunkLength),
                    (None, b'\r') => ChunkState::SizeLf { size },
                    (None, b';' | b' ' | b'\t') => ChunkState::Extension { size },
                    _ => return Err(BodyError::BadChunkLength),
                }
            }
            ChunkState::Extension { size } => {
                self.count_line_byte(CHUNK_LINE_BYTES_MAX)?;
                match byte {
                    b'\r' => ChunkState::SizeLf { size },
                    b'\n' => return Err(BodyError::Malformed),
                    _ => ChunkState::Extension { size },
                }
            }
            ChunkState::SizeLf { size } if byte == b'\n' => self.begin_chunk(size)?,
            ChunkState::DataCr if byte == b'\r' => ChunkState::DataLf,
            ChunkState::DataLf if byte == b'\n' => ChunkState::Size { size: 0, digits: 0 },
            ChunkState::Trailer { line } => {
                self.count_line_byte(TRAILER_BYTES_MAX)?;
                match byte {
                    b'\r' => ChunkState::TrailerLf { line },
                    b'\n' => return Err(BodyError::Malformed),
                    _ => ChunkState::Trailer { line: line + 1 },
                }
            }
            ChunkState::TrailerLf { line: 0 } if byte == b'\n' => ChunkState::Done,
            ChunkState::TrailerLf { .. } if byte == b'\n' => ChunkState::Trailer { line: 0 },
            ChunkState::SizeLf { .. }
            | ChunkState::DataCr
            | ChunkState::DataLf
            | ChunkState::TrailerLf { .. }
            | ChunkState::Data { .. }
            | ChunkState::Done => return Err(BodyError::Malformed),
        })
    }

    /// The size line is complete: checks the limits before a byte of data is taken.
    fn begin_chunk(&mut self, size: u64) -> Result<ChunkState, BodyError> {
        // `line` counted the CR; its LF and the CRLF after the data are three more.
        let framing = self.line + 3;
        self.line = 0;
        if size == 0 {
            return Ok(ChunkState::Trailer { line: 0 });
        }
        let body_len = size.checked_add(self.write as u64).ok_or(BodyError::TooLarge)?;
        if body_len > self.body_bytes_max {
            return Err(BodyError::TooLarge);
        }
        let paid = usize::try_from(size).unwrap_or(usize::MAX).saturating_add(16);
        self.overhead = (self.overhead + framing).saturating_sub(paid);
        if self.overhead > CHUNK_OVERHEAD_MAX {
            return Err(BodyError::TooMuchFraming);
        }
        Ok(ChunkState::Data { left: size })
    }

    fn count_line_byte(&mut self, max: usize) -> Result<(), BodyError> {
        self.line += 1;
        // The CR of a line of the greatest length is byte max + 1.
        if self.line > max + 1 { Err(BodyError::LineTooLong) } else { Ok(()) }
    }
}

/// One whole request at the front of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The head.
    pub head: Head<'a>,
    /// The decoded body, empty when there is none, or why it cannot be had.
    pub body: Result<&'a [u8], BodyError>,
    /// Whether another request may follow; false after a body error, whatever the client asked for.
    pub keep_alive: bool,
}

/// What to do next with a connection's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// Serve this one, then drop the bytes that `served` names and call again. Until `served` is called, `next` gives
    /// the same request again: the caller may have to wait before it can be served.
    Request(Request<'a>),
    /// Read more bytes behind those at hand.
    NeedMore {
        /// Send `100 Continue` first (`http_reply::CONTINUE`). Said once per request.
        send_continue: bool,
        /// Bytes the buffer will hold when the request is complete, if that is known.
        total: Option<usize>,
    },
    /// Call `decode` with the same bytes, then `next` again.
    Decode,
    /// Send `error.reply()` and close.
    Refuse(RequestError),
}

/// Cuts one connection's bytes into requests. Holds what is known of a request that is not complete yet, so that a
/// body that arrives in many pieces costs no more than its bytes.
#[derive(Debug, Default)]
pub struct RequestReader {
    stage: Stage,
    /// Length of the request that `next` gave and that is not served yet; 0 when there is none.
    ready: usize,
}

#[derive(Debug)]
enum Stage {
    /// The first `seen` bytes hold no complete head.
    Head { seen: usize },
    /// Waiting for a body of known length; all of the request is `total` bytes.
    Length { total: usize },
    /// Decoding a chunked body that starts at `head_len`.
    Chunked { head_len: usize, decoder: ChunkDecoder, fresh: usize },
    /// A chunked body has ended, with its decoded length and its encoded one, or failed.
    Decoded { end: Result<(usize, usize), BodyError> },
}

impl Default for Stage {
    fn default() -> Self {
        Self::Head { seen: 0 }
    }
}

impl RequestReader {
    /// A reader at the start of a connection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a request has begun but is not complete: the moment for a slow-request timeout, not an idle one.
    #[must_use]
    pub fn is_inside_request(&self, buf: &[u8]) -> bool {
        !buf.is_empty() || !matches!(self.stage, Stage::Head { .. })
    }

    /// Whether the head has been seen and the body is awaited.
    #[must_use]
    pub fn is_inside_body(&self) -> bool {
        !matches!(self.stage, Stage::Head { .. })
    }

    /// Takes note that the request `next` gave last has been served, and says how many bytes it took: the next
    /// request begins behind them. A decoded body lies where its chunks lay, so a request cannot be read twice after
    /// this. Panics when there is no such request.
    pub fn served(&mut self) -> usize {
        assert!(self.ready > 0, "no request was given");
        self.stage = Stage::default();
        std::mem::take(&mut self.ready)
    }

    /// Looks at `buf`, which starts at the first byte of a request and is never cut except by what `served` and
    /// `slack` say.
    pub fn next<'a>(&mut self, buf: &'a [u8], limits: &Limits) -> Next<'a> {
        match &self.stage {
            Stage::Head { seen } => {
                if !worth_parsing(buf, *seen, limits) {
                    self.stage = Stage::Head { seen: buf.len() };
                    return Next::NeedMore { send_continue: false, total: None };
                }
            }
            Stage::Length { total } if buf.len() < *total => {
                return Next::NeedMore { send_continue: false, total: Some(*total) };
            }
            Stage::Chunked { fresh, .. } if buf.len() == *fresh => {
                return Next::NeedMore { send_continue: false, total: None };
            }
            Stage::Chunked { .. } => return Next::Decode,
            Stage::Length { .. } | Stage::Decoded { .. } => {}
        }
        match parse_head(buf, limits) {
            Ok(Parsed::Head(head)) => self.after_head(buf, head, limits),
            Ok(Parsed::NeedMore) => {
                self.stage = Stage::Head { seen: buf.len() };
                Next::NeedMore { send_continue: false, total: None }
            }
            Err(error) => Next::Refuse(error),
        }
    }

    /// Decodes the chunked body that `Next::Decode` announced, inside `buf`.
    pub fn decode(&mut self, buf: &mut [u8]) {
        let Stage::Chunked { head_len, decoder, fresh } = &mut self.stage else { return };
        let head_len = *head_len;
        *fresh = buf.len();
        match decoder.advance(&mut buf[head_len..]) {
            Ok(ChunkProgress::NeedMore) => {}
            Ok(ChunkProgress::Done { body_len, consumed }) => {
                self.stage = Stage::Decoded { end: Ok((body_len, consumed)) };
            }
            Err(error) => self.stage = Stage::Decoded { end: Err(error) },
        }
    }

    /// Bytes of the request's buffer that are spent chunk framing; the caller may cut them out of the buffer and must then
    /// call `compacted`. Empty unless a chunked body is being read.
    #[must_use]
    pub fn slack(&self) -> std::ops::Range<usize> {
        match &self.stage {
            Stage::Chunked { head_len, decoder, .. } => {
                let slack = decoder.slack();
                head_len + slack.start..head_len + slack.end
            }
            _ => 0..0,
        }
    }

    /// The caller has removed the bytes `slack()` named.
    pub fn compacted(&mut self) {
        if let Stage::Chunked { decoder, fresh, .. } = &mut self.stage {
            let slack = decoder.slack();
            *fresh -= slack.len();
            decoder.compacted();
        }
    }

    fn after_head<'a>(&mut self, buf: &'a [u8], head: Head<'a>, limits: &Limits) -> Next<'a> {
        let known = matches!(self.stage, Stage::Length { .. });
        let start = head.head_len;
        match head.body {
            BodyKind::None => self.complete(head, Ok(&[]), start),
            BodyKind::Length(length) if length > limits.body_bytes_max => {
                self.complete(head, Err(BodyError::TooLarge), buf.len())
            }
            BodyKind::Length(length) => {
                let Some(total) = usize::try_from(length).ok().and_then(|n| n.checked_add(start)) else {
                    return self.complete(head, Err(BodyError::TooLarge), buf.len());
                };
                match buf.get(start..total) {
                    Some(body) => self.complete(head, Ok(body), total),
                    None => {
                        self.stage = Stage::Length { total };
                        Next::NeedMore { send_continue: head.expect_continue && !known, total: Some(total) }
                    }
                }
            }
            BodyKind::Chunked => match self.stage {
                Stage::Decoded { end: Ok((body_len, consumed)) } => {
                    self.complete(head, Ok(&buf[start..start + body_len]), start + consumed)
                }
                Stage::Decoded { end: Err(error) } => self.complete(head, Err(error), buf.len()),
                _ => {
                    let decoder = ChunkDecoder::new(limits.body_bytes_max);
                    self.stage = Stage::Chunked { head_len: start, decoder, fresh: start };
                    if buf.len() == start {
                        return Next::NeedMore { send_continue: head.expect_continue, total: None };
                    }
                    Next::Decode
                }
            },
        }
    }

    fn complete<'a>(&mut self, head: Head<'a>, body: Result<&'a [u8], BodyError>, len: usize) -> Next<'a> {
        self.ready = len;
        Next::Request(Request { head, body, keep_alive: head.keep_alive && body.is_ok() })
    }
}
