//! The request parser and the request reader: pieces equal the whole, nothing is cut in two possible places, requests
//! end where they end.

use proptest::prelude::*;
use ringd::wire::http_body::{BodyError, Next, RequestReader};
use ringd::wire::http_request::{BodyKind, Head, Limits, Parsed, RequestError, parse_head};

use crate::chunked::encode;
use crate::{corpus, run};

/// Small, so that inputs reach them.
pub const LIMITS: Limits = Limits { header_bytes_max: 1024, headers_max: 16, body_bytes_max: 4096 };

const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b" ",
    b":",
    b"Content-Length: 5\r\n",
    b"content-length:\t05\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"transfer-encoding:chunked ,\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: close\r\n",
    b"Host: b\r\n",
    b"GET /x HTTP/1.1\r\n",
    b" HTTP/1.0\r\n",
    b"%",
    b"?",
    b"0\r\n\r\n",
    b"5\r\nabcde\r\n",
    b"\xff",
    b"\0",
];

/// One request as a test can compare it: no borrows.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Request { method: Vec<u8>, target: Vec<u8>, body: Result<Vec<u8>, BodyError>, keep_alive: bool },
    Refused(RequestError),
}

/// Runs a reader over `pieces`, as a connection would, with or without cutting spent chunk framing out. Gives what it
/// saw and how many bytes are left over on a connection that stays open.
fn read_all(pieces: &[&[u8]], compact: bool) -> (Vec<Seen>, usize) {
    let mut reader = RequestReader::new();
    let mut buf = Vec::new();
    let mut seen = Vec::new();
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            let next = reader.next(&buf, &LIMITS);
            let consumed = match next {
                Next::NeedMore { .. } => break,
                Next::Decode => {
                    reader.decode(&mut buf);
                    if compact {
                        buf.drain(reader.slack());
                        reader.compacted();
                    }
                    continue;
                }
                Next::Refuse(error) => {
                    seen.push(Seen::Refused(error));
                    return (seen, 0);
                }
                Next::Request(request) => {
                    check_head(&request.head, &buf);
                    assert_eq!(reader.next(&buf, &LIMITS), next, "a request that was not served comes again");
                    seen.push(Seen::Request {
                        method: request.head.method.to_vec(),
                        target: request.head.target.to_vec(),
                        body: request.body.map(<[u8]>::to_vec),
                        keep_alive: request.keep_alive,
                    });
                    let (head_len, keep_alive) = (request.head.head_len, request.keep_alive);
                    let consumed = reader.served();
                    assert!(consumed >= head_len && consumed <= buf.len());
                    if !keep_alive {
                        return (seen, 0);
                    }
                    consumed
                }
            };
            buf.drain(..consumed);
        }
    }
    (seen, buf.len())
}

/// A second, naive reading of an accepted head: it may hold nothing that another implementation could read otherwise.
fn check_head(head: &Head<'_>, buf: &[u8]) {
    let raw = &buf[..head.head_len];
    assert!(raw.ends_with(b"\r\n\r\n"));
    let text = String::from_utf8_lossy(raw).to_ascii_lowercase();
    let lines: Vec<&str> = text[..text.len() - 4].split("\r\n").collect();
    assert!(lines.iter().all(|line| !line.contains(['\r', '\n', '\0'])), "stray line end");
    assert!(lines[1..].iter().all(|line| !line.starts_with([' ', '\t', ':'])), "folded or nameless header");
    let values = |name: &str| {
        lines[1..]
            .iter()
            .filter_map(|line| line.split_once(':'))
            .filter(|(found, _)| *found == name)
            .map(|(_, value)| value.trim_matches([' ', '\t']).to_owned())
            .collect::<Vec<_>>()
    };
    let (lengths, codings, hosts) = (values("content-length"), values("transfer-encoding"), values("host"));
    let body = match (&lengths[..], &codings[..]) {
        ([], []) => BodyKind::None,
        ([length], []) => match length.parse().unwrap() {
            0 => BodyKind::None,
            length => BodyKind::Length(length),
        },
        ([], [coding]) if coding == "chunked" && head.http_minor == 1 => BodyKind::Chunked,
        other => panic!("accepted {other:?}"),
    };
    assert_eq!(head.body, body);
    assert!(hosts.len() <= 1 && (head.http_minor == 0 || hosts.len() == 1));
    assert!(head.path.first() == Some(&b'/') || head.path == b"*");
    assert_eq!(raw.splitn(3, |&byte| byte == b' ').nth(1), Some(head.target));
}

#[test]
fn any_bytes_are_read_alike_in_pieces_and_whole() {
    run("http", WORDS, |input, rng| {
        let whole = read_all(&[input], false);
        let mut pieces = Vec::new();
        let mut rest = input;
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(1 + rng.below(rest.len()));
            pieces.push(piece);
            rest = tail;
        }
        assert_eq!(read_all(&pieces, false), whole);
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        assert_eq!(read_all(&bytes, false), whole);
        // Cutting framing out changes what is left over, never what was read.
        assert_eq!(read_all(&bytes, true).0, whole.0);
    });
}

#[test]
fn corpus_files_get_the_verdict_in_their_name() {
    for (name, bytes) in corpus("http") {
        let verdict = match parse_head(&bytes, &LIMITS) {
            Ok(Parsed::Head(_)) => "ok".to_owned(),
            Ok(Parsed::NeedMore) => "more".to_owned(),
            Err(error) => error.status().to_string(),
        };
        assert_eq!(Some(verdict.as_str()), name.split('-').next(), "corpus/http/{name}");
    }
}

#[test]
fn a_body_beyond_the_limit_ends_the_connection() {
    let fits = format!("PUT /k HTTP/1.1\r\nHost: a\r\nContent-Length: 4096\r\n\r\n{}", "x".repeat(4096));
    let (seen, rest) = read_all(&[fits.as_bytes()], false);
    assert!(matches!(&seen[..], [Seen::Request { body: Ok(body), keep_alive: true, .. }] if body.len() == 4096));
    assert_eq!(rest, 0);
    for over in ["Content-Length: 4097\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n1001\r\n"] {
        let (seen, _) = read_all(&[format!("PUT /k HTTP/1.1\r\nHost: a\r\n{over}").as_bytes()], false);
        assert!(
            matches!(seen[..], [Seen::Request { body: Err(BodyError::TooLarge), keep_alive: false, .. }]),
            "{over:?}: {seen:?}"
        );
    }
}

/// A request that parses, and how it must read.
fn valid_request() -> impl Strategy<Value = (Vec<u8>, Seen)> {
    let body = proptest::collection::vec(any::<u8>(), 0..300);
    let chunk_sizes = proptest::collection::vec(1..40_usize, 1..8);
    ("(GET|PUT|POST|DELETE|HEAD|FROB)", "/[a-z%/?=&]{0,30}", body, chunk_sizes, 0..3_u8, "[a-z]{0,9}").prop_map(
        |(method, target, mut body, sizes, framing, extra)| {
            let target = target.replace('%', "%2F");
            let mut bytes = format!("{method} {target} HTTP/1.1\r\nHost: h\r\nX-{extra}: {extra}\r\n").into_bytes();
            match framing {
                0 => {
                    body.clear();
                    bytes.extend_from_slice(b"\r\n");
                }
                1 => {
                    bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
                    bytes.extend_from_slice(&body);
                }
                _ => {
                    bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                    bytes.extend_from_slice(&encode(&body, &sizes));
                }
            }
            let seen = Seen::Request {
                method: method.into_bytes(),
                target: target.into_bytes(),
                body: Ok(body),
                keep_alive: true,
            };
            (bytes, seen)
        },
    )
}

proptest! {
    #[test]
    fn noise_is_answered(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let whole = read_all(&[&bytes], false);
        prop_assert_eq!(read_all(&bytes.chunks(7).collect::<Vec<_>>(), true).0, whole.0);
    }

    #[test]
    fn pipelined_requests_are_cut_where_they_end(
        requests in proptest::collection::vec(valid_request(), 1..5),
        piece in 1..200_usize,
        tail in 0..20_usize,
    ) {
        let mut bytes = requests.iter().flat_map(|(bytes, _)| bytes.clone()).collect::<Vec<u8>>();
        bytes.extend_from_slice(&b"GET /unfinished HTTP"[..tail]);
        let expected: Vec<Seen> = requests.into_iter().map(|(_, seen)| seen).collect();
        for compact in [false, true] {
            let (seen, left) = read_all(&bytes.chunks(piece).collect::<Vec<_>>(), compact);
            prop_assert_eq!(&seen, &expected);
            prop_assert_eq!(left, tail);
        }
    }
}
