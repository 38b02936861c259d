//! Answers to bytes: status line, headers, Date, and the framing of what follows.
//!
//! Owns: the order and spelling of every response header, Content-Length, chunk framing, HTTP dates. May touch:
//! byte slices and `itoa`; no I/O, no clock (the date comes in rendered), no allocation beyond the output buffer.
//!
//! Must always hold:
//! - Everything is appended to the caller's buffer, so that all ready answers of a connection leave in one write.
//! - Headers come in the order in which Go's server sends them (sorted by name, then Date, then the framing headers):
//!   clients that print or hash raw answers see what etcd sent, with `Server` added.
//! - A body's length is known before its head is sent; only a `Stream` is chunked (or ends with the connection, for
//!   HTTP/1.0).
//!
//! Header values are written as given: callers pass nothing that came from a client without escaping it.

/// Sent before the final answer when a client waits with its body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The whole answer to a request that does not come to its end in time (RFC 9110, section 15.5.9); the connection is
/// closed after it.
pub const REQUEST_TIMEOUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Connection: close\r\n\r\n408 Request Timeout";

/// The whole answer to a connection beyond the limit, given without reading a request; the connection is closed after it.
pub const TOO_MANY_CONNECTIONS: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    Content-Type: text/plain; charset=utf-8\r\nRetry-After: 1\r\nConnection: close\r\n\r\n\
    503 Service Unavailable: too many connections (see --ringd-connections-max)\n";

/// The whole answer to a request whose body is not taken, because too many are being gathered; in etcd's form, and the
/// connection is closed after it.
pub const TOO_MANY_BODIES: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    Content-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n\r\n\
    {\"errorCode\":300,\"message\":\"Raft Internal Error\",\"cause\":\"etcdserver: too many requests\",\"index\":0}\n";

/// The `Server` header's value. etcd sends none; ours tells an operator what answers on an etcd port.
pub const SERVER: &str = concat!("ringd/", env!("CARGO_PKG_VERSION"));

/// `Content-Type` of keys, members, stats, auth and version answers.
pub const JSON: &str = "application/json";
/// `Content-Type` of plain texts and error pages.
pub const TEXT: &str = "text/plain; charset=utf-8";
/// `Content-Type` of Go's redirect page.
pub const HTML: &str = "text/html; charset=utf-8";

/// Digits a Content-Length is expected to have, if the caller knows no better: most bodies hold 100 to 999 bytes. Others
/// are moved to fit.
pub const LENGTH_DIGITS: usize = 3;
/// Of a buffer that a body was only measured in, so much stays for the next answers.
const HEAD_KEEP_BYTES: usize = 64 << 10;
/// Hex digits a chunk size is expected to have (16 to 255 bytes).
const CHUNK_DIGITS: usize = 2;

/// A rendered HTTP date, `Sun, 06 Nov 1994 08:49:37 GMT`.
pub type HttpDate = [u8; 29];

/// Everything in an answer's head. `..ReplyHead::new(..)` leaves out what an answer does not have.
#[derive(Clone, Copy, Debug)]
pub struct ReplyHead<'a> {
    /// HTTP status code.
    pub status: u16,
    /// The request's minor version; the answer speaks the same.
    pub http_minor: u8,
    /// Whether the connection stays open after this answer.
    pub keep_alive: bool,
    /// The request was HEAD: same head, no body.
    pub head_only: bool,
    /// Whole header lines from `cors_block`, or empty.
    pub cors: &'a [u8],
    /// `Allow`, on 405.
    pub allow: Option<&'a str>,
    /// `Content-Type`; empty for none.
    pub content_type: &'a str,
    /// `Location`, on redirects.
    pub location: Option<&'a [u8]>,
    /// `WWW-Authenticate`, on 401.
    pub www_authenticate: Option<&'a str>,
    /// `X-Content-Type-Options: nosniff`, which Go's `http.Error` and 404 page carry.
    pub nosniff: bool,
    /// `X-Ringd-Reason`: a sentence for people where etcd's body must not have one. It holds no line break.
    pub reason: Option<&'a str>,
    /// `X-Etcd-Cluster-Id`, already in hex.
    pub cluster_id: Option<&'a str>,
    /// `X-Etcd-Index`.
    pub etcd_index: Option<u64>,
    /// `X-Raft-Index` and `X-Raft-Term`.
    pub raft: Option<(u64, u64)>,
    /// Digits that the length of the body is expected to have. With any other the body is moved once, which takes its time
    /// where it is large; the answer is the same.
    pub length_digits: usize,
    /// `Date`, rendered at most once per second by whoever owns the clock.
    pub date: &'a HttpDate,
}

impl<'a> ReplyHead<'a> {
    /// A head with nothing but a status, for an HTTP/1.1 connection that stays open.
    #[must_use]
    pub const fn new(status: u16, date: &'a HttpDate) -> Self {
        Self {
            status,
            http_minor: 1,
            keep_alive: true,
            head_only: false,
            cors: b"",
            allow: None,
            content_type: "",
            location: None,
            www_authenticate: None,
            nosniff: false,
            reason: None,
            cluster_id: None,
            etcd_index: None,
            raft: None,
            length_digits: LENGTH_DIGITS,
            date,
        }
    }
}

/// Header lines a CORS-permitted answer carries; `origin` is `*` or the echoed origin. Rendered once per origin.
#[must_use]
pub fn cors_block(origin: &str) -> Vec<u8> {
    let mut block = Vec::with_capacity(192);
    block.extend_from_slice(b"Access-Control-Allow-Headers: accept, content-type, authorization\r\n");
    block.extend_from_slice(b"Access-Control-Allow-Methods: POST, GET, OPTIONS, PUT, DELETE\r\n");
    line(&mut block, "Access-Control-Allow-Origin: ", origin.as_bytes());
    block
}

/// Appends a whole answer. `body` appends the body's bytes and nothing else; it is called once, also for HEAD, whose
/// answer tells the length but leaves the bytes out.
pub fn append_reply(out: &mut Vec<u8>, head: &ReplyHead<'_>, body: impl FnOnce(&mut Vec<u8>)) {
    append_common(out, head);
    append_framed(out, head, body);
}

/// The bytes every answer with this head begins with, for [`append_prepared`]. `keep_alive` and `head_only` are not in
/// them.
pub fn prepare_head(out: &mut Vec<u8>, head: &ReplyHead<'_>) {
    append_common(out, head);
}

/// [`append_reply`] with what [`prepare_head`] made of the same head: one copy instead of a dozen.
pub fn append_prepared(out: &mut Vec<u8>, prepared: &[u8], head: &ReplyHead<'_>, body: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(prepared);
    append_framed(out, head, body);
}

/// What follows the common headers: the framing, the end of the head, the body.
fn append_framed(out: &mut Vec<u8>, head: &ReplyHead<'_>, body: impl FnOnce(&mut Vec<u8>)) {
    if is_bodiless(head.status) {
        append_end(out, head);
        return;
    }
    out.extend_from_slice(b"Content-Length: ");
    let length_at = out.len();
    if head.length_digits == LENGTH_DIGITS {
        // Nearly every answer; its few bytes are stored without a call.
        out.extend_from_slice(&[b'0'; LENGTH_DIGITS]);
    } else {
        out.resize(length_at + head.length_digits, b'0');
    }
    out.extend_from_slice(b"\r\n");
    append_end(out, head);
    let body_at = out.len();
    body(out);
    assert!(out.len() >= body_at, "a body renderer shortened the buffer");
    let body_len = out.len() - body_at;
    if head.head_only {
        out.truncate(body_at);
        // What was rendered only to be measured may have been huge.
        out.shrink_to(HEAD_KEEP_BYTES);
    }
    let mut digits = itoa::Buffer::new();
    fit(out, length_at, head.length_digits, digits.format(body_len).as_bytes());
}

/// Appends a whole answer whose body is at hand.
pub fn append_reply_bytes(out: &mut Vec<u8>, head: &ReplyHead<'_>, body: &[u8]) {
    append_common(out, head);
    if is_bodiless(head.status) {
        append_end(out, head);
        return;
    }
    number_line(out, "Content-Length: ", body.len() as u64);
    append_end(out, head);
    if !head.head_only {
        out.extend_from_slice(body);
    }
}

/// Appends the head of an answer whose body comes in parts, over time (watches). The caller must close the
/// connection after `Stream::finish` when `Stream::must_close`.
#[must_use]
pub fn begin_stream(out: &mut Vec<u8>, head: &ReplyHead<'_>) -> Stream {
    append_common(out, head);
    let chunked = head.http_minor > 0;
    if chunked {
        append_connection(out, head);
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
    } else {
        // HTTP/1.0 has no chunks: the end of the connection ends the body.
        out.extend_from_slice(b"\r\n");
    }
    Stream::of(head.http_minor, head.keep_alive)
}

/// The framing of a body in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    chunked: bool,
    must_close: bool,
}

impl Stream {
    /// The framing for a client of HTTP/1.`http_minor` whose connection stays open or not, for an answer whose head is
    /// not rendered here.
    #[must_use]
    pub const fn of(http_minor: u8, keep_alive: bool) -> Self {
        let chunked = http_minor > 0;
        Self { chunked, must_close: !chunked || !keep_alive }
    }

    /// Whether the parts are chunks.
    #[must_use]
    pub const fn is_chunked(self) -> bool {
        self.chunked
    }

    /// Whether the connection ends with this answer.
    #[must_use]
    pub const fn must_close(self) -> bool {
        self.must_close
    }

    /// Appends one part, rendered by `part`. An empty part appends nothing, for an empty chunk would end the body.
    pub fn append(self, out: &mut Vec<u8>, part: impl FnOnce(&mut Vec<u8>)) {
        if !self.chunked {
            part(out);
            return;
        }
        let size_at = out.len();
        out.extend_from_slice(&[b'0'; CHUNK_DIGITS]);
        out.extend_from_slice(b"\r\n");
        let part_at = out.len();
        part(out);
        assert!(out.len() >= part_at, "a part renderer shortened the buffer");
        let size = out.len() - part_at;
        if size == 0 {
            out.truncate(size_at);
            return;
        }
        out.extend_from_slice(b"\r\n");
        let mut digits = [0; 16];
        fit(out, size_at, CHUNK_DIGITS, hex(size, &mut digits));
    }

    /// Appends the end of the body.
    pub fn finish(self, out: &mut Vec<u8>) {
        if self.chunked {
            out.extend_from_slice(b"0\r\n\r\n");
        }
    }
}

/// Renders `unix_seconds` as an HTTP date (RFC 9110, section 5.6.7). Years beyond 9999 are clamped to 9999's end.
pub fn http_date(unix_seconds: u64, out: &mut HttpDate) {
    const DAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
    const MONTHS: [&[u8; 3]; 12] =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    const LAST_SECOND_OF_9999: u64 = 253_402_300_799;
    let seconds = unix_seconds.min(LAST_SECOND_OF_9999);
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_from_days(days);
    out[..3].copy_from_slice(DAYS[(days % 7) as usize]);
    out[3..5].copy_from_slice(b", ");
    two_digits(&mut out[5..7], day);
    out[7] = b' ';
    out[8..11].copy_from_slice(MONTHS[(month - 1) as usize]);
    out[11] = b' ';
    two_digits(&mut out[12..14], year / 100);
    two_digits(&mut out[14..16], year % 100);
    out[16] = b' ';
    two_digits(&mut out[17..19], second_of_day / 3600);
    out[19] = b':';
    two_digits(&mut out[20..22], second_of_day / 60 % 60);
    out[22] = b':';
    two_digits(&mut out[23..25], second_of_day % 60);
    out[25..].copy_from_slice(b" GMT");
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar. Years are taken to begin in
/// March, so that the leap day is the last of its year.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    // Days from 0000-03-01 to 1970-01-01.
    let days = days + 719_468;
    let (era, day_of_era) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

fn two_digits(out: &mut [u8], value: u64) {
    out[0] = b'0' + (value / 10 % 10) as u8;
    out[1] = b'0' + (value % 10) as u8;
}

/// Status line and every header up to Date.
fn append_common(out: &mut Vec<u8>, head: &ReplyHead<'_>) {
    out.extend_from_slice(if head.http_minor == 0 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    append_status(out, head.status);
    out.extend_from_slice(head.cors);
    if let Some(allow) = head.allow {
        line(out, "Allow: ", allow.as_bytes());
    }
    match head.content_type {
        "" => {}
        // Nearly every answer; one copy instead of three.
        JSON => out.extend_from_slice(b"Content-Type: application/json\r\n"),
        other => line(out, "Content-Type: ", other.as_bytes()),
    }
    if let Some(location) = head.location {
        line(out, "Location: ", location);
    }
    out.extend_from_slice(concat!("Server: ringd/", env!("CARGO_PKG_VERSION"), "\r\n").as_bytes());
    if let Some(challenge) = head.www_authenticate {
        line(out, "Www-Authenticate: ", challenge.as_bytes());
    }
    if head.nosniff {
        out.extend_from_slice(b"X-Content-Type-Options: nosniff\r\n");
    }
    if let Some(id) = head.cluster_id {
        line(out, "X-Etcd-Cluster-Id: ", id.as_bytes());
    }
    if let Some(index) = head.etcd_index {
        number_line(out, "X-Etcd-Index: ", index);
    }
    if let Some((index, term)) = head.raft {
        number_line(out, "X-Raft-Index: ", index);
        number_line(out, "X-Raft-Term: ", term);
    }
    if let Some(reason) = head.reason {
        line(out, "X-Ringd-Reason: ", reason.as_bytes());
    }
    line(out, "Date: ", head.date);
}

/// `Connection`, where the version's default must be overridden, and the blank line.
fn append_end(out: &mut Vec<u8>, head: &ReplyHead<'_>) {
    append_connection(out, head);
    out.extend_from_slice(b"\r\n");
}

fn append_connection(out: &mut Vec<u8>, head: &ReplyHead<'_>) {
    match (head.http_minor, head.keep_alive) {
        (0, true) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        (0, false) | (_, true) => {}
        (_, false) => out.extend_from_slice(b"Connection: close\r\n"),
    }
}

fn append_status(out: &mut Vec<u8>, status: u16) {
    let known: &[u8] = match status {
        200 => b"200 OK\r\n",
        201 => b"201 Created\r\n",
        204 => b"204 No Content\r\n",
        301 => b"301 Moved Permanently\r\n",
        304 => b"304 Not Modified\r\n",
        307 => b"307 Temporary Redirect\r\n",
        400 => b"400 Bad Request\r\n",
        401 => b"401 Unauthorized\r\n",
        403 => b"403 Forbidden\r\n",
        404 => b"404 Not Found\r\n",
        405 => b"405 Method Not Allowed\r\n",
        408 => b"408 Request Timeout\r\n",
        409 => b"409 Conflict\r\n",
        410 => b"410 Gone\r\n",
        412 => b"412 Precondition Failed\r\n",
        413 => b"413 Request Entity Too Large\r\n",
        415 => b"415 Unsupported Media Type\r\n",
        429 => b"429 Too Many Requests\r\n",
        500 => b"500 Internal Server Error\r\n",
        501 => b"501 Not Implemented\r\n",
        503 => b"503 Service Unavailable\r\n",
        504 => b"504 Gateway Timeout\r\n",
        507 => b"507 Insufficient Storage\r\n",
        other => {
            let mut digits = itoa::Buffer::new();
            out.extend_from_slice(digits.format(other).as_bytes());
            // What Go writes for a code it has no name for.
            out.extend_from_slice(b" status code ");
            out.extend_from_slice(digits.format(other).as_bytes());
            b"\r\n"
        }
    };
    out.extend_from_slice(known);
}

/// Answers that have neither a body nor a length (RFC 9112, section 6.3).
const fn is_bodiless(status: u16) -> bool {
    status < 200 || status == 204 || status == 304
}

fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn number_line(out: &mut Vec<u8>, name: &str, value: u64) {
    let mut digits = itoa::Buffer::new();
    line(out, name, digits.format(value).as_bytes());
}

/// Puts `text` where a gap of `gap` bytes was left at `at`, moving what follows when it does not fit exactly.
fn fit(out: &mut Vec<u8>, at: usize, gap: usize, text: &[u8]) {
    if text.len() > gap {
        let grown = text.len() - gap;
        let end = out.len();
        out.resize(end + grown, 0);
        out.copy_within(at + gap..end, at + text.len());
    } else if text.len() < gap {
        let end = out.len();
        out.copy_within(at + gap..end, at + text.len());
        out.truncate(end - (gap - text.len()));
    }
    out[at..at + text.len()].copy_from_slice(text);
}

/// `value` in lower-case hex without leading zeros, right-aligned in `buffer`.
fn hex(value: usize, buffer: &mut [u8; 16]) -> &[u8] {
    let mut value = value as u64;
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b"0123456789abcdef"[(value % 16) as usize];
        value /= 16;
        if value == 0 {
            return &buffer[at..];
        }
    }
}
