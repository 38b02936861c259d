//! Heads on their way through a proxy: a client's request for a member, a member's answer for the client.
//!
//! Owns: which headers end at the proxy, and which it adds; the rules are those of etcd 3.4's v2 proxy. May touch:
//! httparse and byte slices; no I/O.
//!
//! Must always hold: the framing of what is sent is written here and never copied; the proxy's own CORS lines replace
//! the member's, so that a browser sees each once (etcd sends both).

use super::http_answer::{AnswerHead, Framing, HEADERS_MAX};
use super::http_reply::Stream;
use super::http_request::{HEADERS_CAPACITY, Head};

/// Headers of one connection only; etcd's list, its `Trailers` included.
const SINGLE_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailers",
    "transfer-encoding",
    "upgrade",
];
/// The proxy holds the whole body before it sends any of it, so nobody need wait for a permission.
const ENDS_HERE: [&str; 2] = ["content-length", "expect"];
const FORWARDED_FOR: &str = "X-Forwarded-For";

/// What does not parse though it did a moment ago, or has too many headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a head that cannot be passed on")]
pub struct NotForwardable;

fn is_one_of(name: &str, names: &[&str]) -> bool {
    names.iter().any(|other| name.eq_ignore_ascii_case(other))
}

fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends the head of a request for a member. `raw` is the client's head as it came and `head` what was read of it;
/// `body_len` is the whole body's; `client` is the client's address, if it has one; `host` is for clients that name none.
///
/// # Errors
/// [`NotForwardable`].
pub fn append_request(
    out: &mut Vec<u8>,
    raw: &[u8],
    head: &Head<'_>,
    body_len: usize,
    client: Option<&str>,
    host: &str,
) -> Result<(), NotForwardable> {
    let mut slots = [httparse::EMPTY_HEADER; HEADERS_CAPACITY];
    let mut request = httparse::Request::new(&mut slots);
    if !matches!(request.parse(raw), Ok(httparse::Status::Complete(_))) {
        return Err(NotForwardable);
    }
    out.extend_from_slice(head.method);
    out.push(b' ');
    out.extend_from_slice(head.path);
    if let Some(query) = head.query {
        out.push(b'?');
        out.extend_from_slice(query);
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    if head.host.is_none() {
        line(out, "Host", host.as_bytes());
    }
    let mut forwarded_for = Vec::new();
    for header in request.headers.iter() {
        if client.is_some() && header.name.eq_ignore_ascii_case(FORWARDED_FOR) {
            forwarded_for.extend_from_slice(header.value);
            forwarded_for.extend_from_slice(b", ");
        } else if !is_one_of(header.name, &SINGLE_HOP) && !is_one_of(header.name, &ENDS_HERE) {
            line(out, header.name, header.value);
        }
    }
    if let Some(client) = client {
        forwarded_for.extend_from_slice(client.as_bytes());
        line(out, FORWARDED_FOR, &forwarded_for);
    }
    if body_len > 0 || matches!(head.method, b"PUT" | b"POST" | b"PATCH") {
        line(out, "Content-Length", itoa::Buffer::new().format(body_len).as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// How a client gets an answer.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// It speaks HTTP/1.`http_minor`.
    pub http_minor: u8,
    /// Whether it may ask again on this connection.
    pub keep_alive: bool,
    /// The proxy's own CORS lines for it.
    pub cors: &'a [u8],
}

/// How the body of an answer is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// As it is; its length was told, or there is none.
    Plain,
    /// In parts.
    Parts(Stream),
}

impl Passage {
    /// Whether the connection must end with this answer.
    #[must_use]
    pub const fn must_close(self, client: &Client<'_>) -> bool {
        match self {
            Self::Plain => !client.keep_alive,
            Self::Parts(stream) => stream.must_close(),
        }
    }
}

/// Appends the head of a member's answer for a client. `raw` is the head as it came.
///
/// # Errors
/// [`NotForwardable`].
pub fn append_answer(
    out: &mut Vec<u8>,
    raw: &[u8],
    head: &AnswerHead,
    client: &Client<'_>,
) -> Result<Passage, NotForwardable> {
    let mut slots = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut slots);
    if !matches!(response.parse(raw), Ok(httparse::Status::Complete(_))) {
        return Err(NotForwardable);
    }
    out.extend_from_slice(if client.http_minor == 0 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(itoa::Buffer::new().format(head.status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(response.reason.unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(client.cors);
    for header in response.headers.iter() {
        let ends_here = is_one_of(header.name, &SINGLE_HOP)
            || is_one_of(header.name, &ENDS_HERE)
            || header.name.get(..21).is_some_and(|start| start.eq_ignore_ascii_case("access-control-allow-"));
        if !ends_here {
            line(out, header.name, header.value);
        }
    }
    let passage = match (head.framing, head.length) {
        (Framing::Length(_), length) => {
            if let Some(length) = length {
                line(out, "Content-Length", itoa::Buffer::new().format(length).as_bytes());
            }
            Passage::Plain
        }
        (Framing::Chunked | Framing::UntilClose, _) => Passage::Parts(Stream::of(client.http_minor, client.keep_alive)),
    };
    match (client.http_minor, passage.must_close(client)) {
        (0, false) => line(out, "Connection", b"keep-alive"),
        (1.., true) => line(out, "Connection", b"close"),
        _ => {}
    }
    if let Passage::Parts(stream) = passage
        && stream.is_chunked()
    {
        line(out, "Transfer-Encoding", b"chunked");
    }
    out.extend_from_slice(b"\r\n");
    Ok(passage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::http_answer;
    use crate::wire::http_request::{Limits, Parsed, parse_head};

    fn request(raw: &str, body_len: usize, client: Option<&str>) -> String {
        let Ok(Parsed::Head(head)) = parse_head(raw.as_bytes(), &Limits::default()) else { panic!("{raw}") };
        let mut out = Vec::new();
        append_request(&mut out, raw.as_bytes(), &head, body_len, client, "member:1").unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_request_loses_what_is_the_connections_and_says_for_whom_it_is() {
        assert_eq!(
            request(
                "PUT http://x/v2/keys/a?b=c HTTP/1.1\r\nHost: p:1\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\n\
                 Te: trailers\r\nKeep-Alive: 5\r\nX-Forwarded-For: 9.9.9.9\r\nUpgrade: foo\r\n\
                 Proxy-Authorization: b\r\nAuthorization: c\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n",
                7,
                Some("127.0.0.1")
            ),
            "PUT /v2/keys/a?b=c HTTP/1.1\r\nHost: p:1\r\nX-Mine: 1\r\nAuthorization: c\r\n\
             X-Forwarded-For: 9.9.9.9, 127.0.0.1\r\nContent-Length: 7\r\n\r\n"
        );
        assert_eq!(request("GET / HTTP/1.0\r\n\r\n", 0, None), "GET / HTTP/1.1\r\nHost: member:1\r\n\r\n");
        assert!(request("POST / HTTP/1.1\r\nHost: a\r\n\r\n", 0, None).contains("Content-Length: 0\r\n"));
    }

    fn answer(raw: &str, client: &Client<'_>, to_head: bool) -> (String, Passage) {
        let head = http_answer::parse_head(raw.as_bytes(), to_head).unwrap().unwrap();
        let mut out = Vec::new();
        let passage = append_answer(&mut out, raw.as_bytes(), &head, client).unwrap();
        (String::from_utf8(out).unwrap(), passage)
    }

    #[test]
    fn an_answer_is_framed_anew() {
        let modern = Client { http_minor: 1, keep_alive: true, cors: b"Access-Control-Allow-Origin: *\r\n" };
        let old = Client { http_minor: 0, keep_alive: true, cors: b"" };
        let plain = "HTTP/1.1 201 Created\r\nAccess-Control-Allow-Origin: up\r\nKeep-Alive: x\r\nX-Etcd-Index: 4\r\n\
                     Connection: close\r\nContent-Length: 2\r\n\r\n";
        assert_eq!(
            answer(plain, &modern, false),
            (
                "HTTP/1.1 201 Created\r\nAccess-Control-Allow-Origin: *\r\nX-Etcd-Index: 4\r\nContent-Length: 2\r\n\r\n"
                    .to_owned(),
                Passage::Plain
            )
        );
        let (text, passage) = answer(plain, &old, true);
        assert!(
            text.starts_with("HTTP/1.0 201 Created\r\nX-Etcd") && text.contains("Connection: keep-alive"),
            "{text}"
        );
        assert!(!passage.must_close(&old));
        let stream = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (text, passage) = answer(stream, &modern, false);
        assert_eq!(
            text,
            format!("HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nTransfer-Encoding: chunked\r\n\r\n")
        );
        assert!(!passage.must_close(&modern));
        let (text, passage) = answer(stream, &old, false);
        assert_eq!(text, "HTTP/1.0 200 OK\r\n\r\n");
        assert!(passage.must_close(&old));
        let (text, passage) = answer("HTTP/1.1 200 OK\r\n\r\n", &Client { keep_alive: false, ..modern }, false);
        assert!(text.ends_with("Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"), "{text}");
        assert!(matches!(passage, Passage::Parts(_)));
    }
}
