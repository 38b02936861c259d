//! HTTP/1.1 bytes to request heads.
//!
//! Owns: where one request's head ends, which headers matter, how its body is framed, and the answer to a head that
//! no handler shall ever see. May touch: `httparse`, `memchr` and slices; no I/O, no clock, no allocation. `http_body` owns the
//! bytes after the head.
//!
//! Must always hold:
//! - Any bytes give a head, a wish for more bytes, or a `RequestError`; never a panic.
//! - A head that arrives in pieces gives exactly what it gives when it arrives whole.
//! - What two HTTP implementations could cut in different places is refused, never guessed: both lengths, repeated
//!   lengths, folded headers, bare line feeds, `Transfer-Encoding` on 1.0.
//!
//! The texts and status lines are those of Go's net/http as etcd 3.4.23 sends them. Stricter than Go on purpose: Go
//! takes bare LF, folded headers, an empty `Content-Length`, equal repeated lengths and a length beside chunked.

use std::mem::MaybeUninit;

/// Slots for headers on the stack; `Limits::headers_max` cannot exceed it. 128 slots are 4 KiB, uninitialised.
pub const HEADERS_CAPACITY: usize = 128;

/// What one request may cost. Each is a setting; the defaults are the numbers below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Request line and headers, in bytes.
    pub header_bytes_max: usize,
    /// Number of headers, at most `HEADERS_CAPACITY`.
    pub headers_max: usize,
    /// Body, in bytes after decoding; a longer one is reported as `BodyError::TooLarge`.
    pub body_bytes_max: u64,
}

impl Limits {
    /// 64 KiB. etcd takes 1 MiB after a first line of at most 4 KiB, but a v2 key of even 10 KiB is unheard of, and
    /// every connection may hold this much before anything is known about it.
    pub const HEADER_BYTES_MAX: usize = 64 << 10;
    /// 100 headers: clients of etcd send under ten, a chain of proxies may add twenty.
    pub const HEADERS_MAX: usize = 100;
    /// 10 MiB, the most that Go's `ParseForm`, and so etcd, reads of a form.
    pub const BODY_BYTES_MAX: u64 = 10 << 20;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes_max: Self::HEADER_BYTES_MAX,
            headers_max: Self::HEADERS_MAX,
            body_bytes_max: Self::BODY_BYTES_MAX,
        }
    }
}

/// How the bytes after the head are framed (RFC 9112, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// No body: neither header was sent, or the length was 0.
    None,
    /// Exactly so many bytes, at least one.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// One request's head. Every slice points into the buffer that was parsed; header values are trimmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// The method as sent; any token.
    pub method: &'a [u8],
    /// The request target as sent.
    pub target: &'a [u8],
    /// The target's path, still escaped, every `%` followed by two hex digits. Starts with `/`, or is `*` (OPTIONS).
    pub path: &'a [u8],
    /// What follows the first `?`, unchecked.
    pub query: Option<&'a [u8]>,
    /// 0 or 1, of `HTTP/1.x`.
    pub http_minor: u8,
    /// `Host`; present on 1.1, possibly empty.
    pub host: Option<&'a [u8]>,
    /// `Content-Type`, the first one.
    pub content_type: Option<&'a [u8]>,
    /// `Authorization`, the first one.
    pub authorization: Option<&'a [u8]>,
    /// `Origin`, the first one.
    pub origin: Option<&'a [u8]>,
    /// `Upgrade`, given only when `Connection` names it too.
    pub upgrade: Option<&'a [u8]>,
    /// The client holds its body back until it reads `100 Continue` (1.1 only, and only with a body).
    pub expect_continue: bool,
    /// Whether the connection outlives this request, as far as the client is concerned.
    pub keep_alive: bool,
    /// Framing of the body.
    pub body: BodyKind,
    /// Bytes of this head, the blank line included: where the body begins.
    pub head_len: usize,
}

/// What `parse_head` makes of the bytes so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A complete head.
    Head(Head<'a>),
    /// No blank line yet; nothing wrong so far.
    NeedMore,
}

/// A head that cannot be served. The connection is closed after the answer: where the next request would begin is
/// not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// 400; the text says why, for the log. The client sees Go's bare `400 Bad Request`.
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    /// 400: HTTP/1.1 without `Host`.
    #[error("missing required Host header")]
    MissingHost,
    /// 400: a byte in `Host` that no host has.
    #[error("malformed Host header")]
    MalformedHost,
    /// 400: a header line without a proper name, or a folded one.
    #[error("invalid header name")]
    InvalidHeaderName,
    /// 400: a control byte in a header value.
    #[error("invalid header value")]
    InvalidHeaderValue,
    /// 431: more headers, or more header bytes, than the limits allow.
    #[error("request header too large")]
    HeaderTooLarge,
    /// 417: an expectation other than `100-continue`.
    #[error("expectation failed")]
    ExpectationFailed,
    /// 501: a transfer coding other than a single `chunked`.
    #[error("unsupported transfer encoding")]
    UnsupportedTransferEncoding,
    /// 505: neither HTTP/1.0 nor 1.1.
    #[error("unsupported protocol version")]
    UnsupportedVersion,
    /// 505: the client speaks HTTP/2 from the first byte (RFC 9113, section 3.4).
    #[error("HTTP/2 connection preface")]
    Http2Preface,
}

impl RequestError {
    /// The HTTP status of the answer.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed(_)
            | Self::MissingHost
            | Self::MalformedHost
            | Self::InvalidHeaderName
            | Self::InvalidHeaderValue => 400,
            Self::ExpectationFailed => 417,
            Self::HeaderTooLarge => 431,
            Self::UnsupportedTransferEncoding => 501,
            Self::UnsupportedVersion | Self::Http2Preface => 505,
        }
    }

    /// The whole answer, head and body, byte for byte as Go's server writes it (bar the Date in its 417).
    #[must_use]
    pub const fn reply(self) -> &'static [u8] {
        macro_rules! plain {
            ($status:literal, $body:literal) => {
                concat!(
                    "HTTP/1.1 ",
                    $status,
                    "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n",
                    $body
                )
                .as_bytes()
            };
            ($both:literal) => {
                plain!($both, $both)
            };
        }
        match self {
            Self::Malformed(_) => plain!("400 Bad Request"),
            Self::MissingHost => plain!("400 Bad Request: missing required Host header"),
            Self::MalformedHost => plain!("400 Bad Request: malformed Host header"),
            Self::InvalidHeaderName => plain!("400 Bad Request: invalid header name"),
            Self::InvalidHeaderValue => plain!("400 Bad Request: invalid header value"),
            Self::ExpectationFailed => {
                b"HTTP/1.1 417 Expectation Failed\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            }
            Self::HeaderTooLarge => plain!("431 Request Header Fields Too Large"),
            Self::UnsupportedTransferEncoding => plain!("501 Not Implemented", "Unsupported transfer encoding"),
            Self::UnsupportedVersion | Self::Http2Preface => {
                plain!("505 HTTP Version Not Supported: unsupported protocol version")
            }
        }
    }
}

/// Whether the bytes after the first `seen` can change `parse_head`'s answer: a line has ended or the limit is
/// reached. Keeps a client that sends one byte at a time from having its head parsed once per byte.
#[must_use]
pub fn worth_parsing(buf: &[u8], seen: usize, limits: &Limits) -> bool {
    let Some(new) = buf.get(seen..).filter(|new| !new.is_empty()) else { return false };
    seen == 0 || buf.len() >= limits.header_bytes_max || new.contains(&b'\n')
}

/// Parses the head at the start of `buf`, which may hold less than a head, or more than one request.
///
/// # Errors
/// `RequestError` as soon as the bytes cannot become a head that may be served.
pub fn parse_head<'a>(buf: &'a [u8], limits: &Limits) -> Result<Parsed<'a>, RequestError> {
    // Bytes past the limit are not looked at, so that pieces and whole meet the limit at the same byte.
    let full = buf.len() >= limits.header_bytes_max;
    parse_window(if full { &buf[..limits.header_bytes_max] } else { buf }, limits, full)
}

fn parse_window<'a>(window: &'a [u8], limits: &Limits, full: bool) -> Result<Parsed<'a>, RequestError> {
    // httparse skips blank lines before a request; Go refuses them.
    if matches!(window.first(), Some(b'\r' | b'\n')) {
        return Err(RequestError::Malformed("blank line before the request"));
    }
    let mut slots = [const { MaybeUninit::uninit() }; HEADERS_CAPACITY];
    let slots = &mut slots[..limits.headers_max.min(HEADERS_CAPACITY)];
    let mut request = httparse::Request::new(&mut []);
    let head_len = match request.parse_with_uninit_headers(window, slots) {
        Ok(httparse::Status::Complete(head_len)) => head_len,
        Ok(httparse::Status::Partial) if full => return Err(RequestError::HeaderTooLarge),
        Ok(httparse::Status::Partial) => return Ok(Parsed::NeedMore),
        // Only complete lines are judged, as in Go: pieces that end inside a line must not know more than the whole.
        Err(error) if full || window.ends_with(b"\n") => return Err(explain(window, error)),
        Err(_) => {
            let lines = window.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
            return parse_window(&window[..lines], limits, false);
        }
    };
    let raw = &window[..head_len];
    // httparse takes bare line feeds too, but no CR without its LF: as many CRs as lines means CRLF everywhere.
    if count(raw, b'\r') != request.headers.len() + 2 {
        return Err(RequestError::Malformed("line feed without carriage return"));
    }
    let (Some(method), Some(target), Some(http_minor)) = (request.method, request.path, request.version) else {
        return Err(RequestError::Malformed("request line"));
    };
    interpret(method.as_bytes(), target.as_bytes(), http_minor, request.headers, head_len).map(Parsed::Head)
}

/// Turns httparse's refusal into ours.
fn explain(window: &[u8], error: httparse::Error) -> RequestError {
    match error {
        httparse::Error::TooManyHeaders => RequestError::HeaderTooLarge,
        httparse::Error::HeaderName => RequestError::InvalidHeaderName,
        httparse::Error::HeaderValue => RequestError::InvalidHeaderValue,
        httparse::Error::Version => match window.iter().position(|&b| b == b'\n') {
            Some(end) => judge_version(&window[..end]),
            None => RequestError::HeaderTooLarge,
        },
        _ => RequestError::Malformed("request line"),
    }
}

/// `line` is a request line without its line feed whose version httparse refused.
fn judge_version(line: &[u8]) -> RequestError {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line == b"PRI * HTTP/2.0" {
        return RequestError::Http2Preface;
    }
    let version = line.splitn(3, |&b| b == b' ').nth(2).unwrap_or_default();
    match version {
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            RequestError::UnsupportedVersion
        }
        _ => RequestError::Malformed("request line"),
    }
}

/// How often `byte` occurs. Counted in bytes per block, so that the compiler uses whole vector registers: a plain
/// count took ten times as long and a third of a parse.
fn count(bytes: &[u8], byte: u8) -> usize {
    const BLOCK: usize = 128;
    bytes.chunks(BLOCK).map(|block| usize::from(block.iter().map(|&b| u8::from(b == byte)).sum::<u8>())).sum()
}

/// Reads the headers that decide something and checks that they agree with each other.
fn interpret<'a>(
    method: &'a [u8],
    target: &'a [u8],
    http_minor: u8,
    headers: &[httparse::Header<'a>],
    head_len: usize,
) -> Result<Head<'a>, RequestError> {
    let (path, query) = split_target(method, target)?;
    let mut head = Head {
        method,
        target,
        path,
        query,
        http_minor,
        host: None,
        content_type: None,
        authorization: None,
        origin: None,
        upgrade: None,
        expect_continue: false,
        keep_alive: http_minor == 1,
        body: BodyKind::None,
        head_len,
    };
    let mut length = None;
    let mut codings = 0_u32;
    let mut is_chunked = true;
    let mut connection = Connection::default();
    let mut upgrade = None;
    let mut expect = None;
    for header in headers {
        let (name, value) = (header.name, header.value);
        // Lengths first: most headers are told apart by one comparison.
        match name.len() {
            4 if is(name, "host") && head.host.replace(value).is_some() => {
                return Err(RequestError::Malformed("more than one Host"));
            }
            6 if is(name, "origin") => _ = head.origin.get_or_insert(value),
            6 if is(name, "expect") => _ = expect.get_or_insert(value),
            7 if is(name, "upgrade") => _ = upgrade.get_or_insert(value),
            10 if is(name, "connection") => connection.add(value),
            12 if is(name, "content-type") => _ = head.content_type.get_or_insert(value),
            13 if is(name, "authorization") => _ = head.authorization.get_or_insert(value),
            14 if is(name, "content-length") && length.replace(parse_length(value)?).is_some() => {
                return Err(RequestError::Malformed("more than one Content-Length"));
            }
            17 if is(name, "transfer-encoding") => {
                codings += 1;
                is_chunked &= value.eq_ignore_ascii_case(b"chunked");
            }
            _ => {}
        }
    }
    head.body = match (codings, length) {
        (0, None | Some(0)) => BodyKind::None,
        (0, Some(n)) => BodyKind::Length(n),
        (_, Some(_)) => return Err(RequestError::Malformed("both Content-Length and Transfer-Encoding")),
        _ if http_minor == 0 => return Err(RequestError::Malformed("Transfer-Encoding on HTTP/1.0")),
        (1, None) if is_chunked => BodyKind::Chunked,
        _ => return Err(RequestError::UnsupportedTransferEncoding),
    };
    match head.host {
        None if http_minor == 1 => return Err(RequestError::MissingHost),
        Some(host) if !host.iter().all(|&b| HOST_BYTES[usize::from(b)]) => return Err(RequestError::MalformedHost),
        _ => {}
    }
    match expect {
        None => {}
        Some(value) if value.eq_ignore_ascii_case(b"100-continue") => {
            head.expect_continue = http_minor == 1 && head.body != BodyKind::None;
        }
        Some(_) => return Err(RequestError::ExpectationFailed),
    }
    head.keep_alive = !connection.close && (http_minor == 1 || connection.keep_alive);
    head.upgrade = if connection.upgrade { upgrade } else { None };
    Ok(head)
}

fn is(name: &str, lower: &str) -> bool {
    name.eq_ignore_ascii_case(lower)
}

/// The tokens of all `Connection` headers that matter here.
#[derive(Default)]
struct Connection {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
}

impl Connection {
    fn add(&mut self, value: &[u8]) {
        for token in value.split(|&b| b == b',') {
            let token = token.trim_ascii();
            self.close |= token.eq_ignore_ascii_case(b"close");
            self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
            self.upgrade |= token.eq_ignore_ascii_case(b"upgrade");
        }
    }
}

/// A length is digits only (RFC 9112, section 6.3): no sign, no list, not empty; below 2^63 as in Go.
fn parse_length(value: &[u8]) -> Result<u64, RequestError> {
    const BAD: RequestError = RequestError::Malformed("Content-Length");
    if value.is_empty() {
        return Err(BAD);
    }
    let mut length = 0_u64;
    for &byte in value {
        if !byte.is_ascii_digit() {
            return Err(BAD);
        }
        length = length.checked_mul(10).and_then(|n| n.checked_add(u64::from(byte - b'0'))).ok_or(BAD)?;
    }
    if i64::try_from(length).is_err() { Err(BAD) } else { Ok(length) }
}

/// Path and query of a target in origin form, absolute form or, for OPTIONS, `*`. A bad `%` in the path is refused
/// here, as Go does; one in the query is the form decoder's business.
fn split_target<'a>(method: &[u8], target: &'a [u8]) -> Result<(&'a [u8], Option<&'a [u8]>), RequestError> {
    const BAD: RequestError = RequestError::Malformed("request target");
    let local = match target.first() {
        Some(b'/') => target,
        Some(b'*') if target.len() == 1 && method == b"OPTIONS" => return Ok((target, None)),
        _ => strip_authority(target).ok_or(BAD)?,
    };
    let (path, query) = match memchr::memchr(b'?', local) {
        Some(at) => (&local[..at], Some(&local[at + 1..])),
        None => (local, None),
    };
    let mut rest = path;
    while let Some(at) = memchr::memchr(b'%', rest) {
        match rest.get(at + 1..at + 3) {
            Some(hex) if hex.iter().all(u8::is_ascii_hexdigit) => rest = &rest[at + 3..],
            _ => return Err(BAD),
        }
    }
    Ok((if path.is_empty() { b"/" } else { path }, query))
}

/// `http://authority/path?query` without the authority; the `Host` header counts, as in etcd.
fn strip_authority(target: &[u8]) -> Option<&[u8]> {
    let colon = target.windows(3).position(|w| w == b"://")?;
    if !target[..colon].eq_ignore_ascii_case(b"http") && !target[..colon].eq_ignore_ascii_case(b"https") {
        return None;
    }
    let rest = &target[colon + 3..];
    let end = rest.iter().position(|&b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    Some(&rest[end..])
}

/// Bytes that may stand in `Host` (RFC 3986 reg-name, IP literals and ports).
static HOST_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let marks = b"!$%&'()*+,-.:;=[]_~";
    let mut at = 0;
    while at < marks.len() {
        table[marks[at] as usize] = true;
        at += 1;
    }
    table
};
