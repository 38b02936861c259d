//! Fixed requests and answers, with etcd's verdict and etcd's bytes. What must hold for every byte sequence (pieces
//! equal the whole, requests are cut where they end) is in `tests/fuzz`.

use proptest::prelude::*;

use super::http_body::{BodyError, CHUNK_LINE_BYTES_MAX, ChunkDecoder, ChunkProgress, Next, RequestReader};
use super::http_reply::{
    HttpDate, JSON, ReplyHead, TEXT, append_reply, append_reply_bytes, begin_stream, cors_block, http_date,
};
use super::http_request::{BodyKind, Head, Limits, Parsed, RequestError, parse_head};

const LIMITS: Limits = Limits { header_bytes_max: 1024, headers_max: 16, body_bytes_max: 4096 };

fn head(bytes: &[u8]) -> Head<'_> {
    match parse_head(bytes, &LIMITS) {
        Ok(Parsed::Head(head)) => head,
        other => panic!("{other:?} for {:?}", String::from_utf8_lossy(bytes)),
    }
}

fn refusal(bytes: &[u8]) -> RequestError {
    match parse_head(bytes, &LIMITS) {
        Err(error) => error,
        other => panic!("{other:?} for {:?}", String::from_utf8_lossy(bytes)),
    }
}

#[test]
fn a_typical_get() {
    let bytes = b"GET /v2/keys/a%20b?wait=true HTTP/1.1\r\nHost: x:2379\r\nAccept: */*\r\nOrigin: http://o\r\nAuthorization: Basic eA==\r\n\r\nrest";
    let got = head(bytes);
    assert_eq!(got.method, b"GET");
    assert_eq!(got.target, b"/v2/keys/a%20b?wait=true");
    assert_eq!(got.path, b"/v2/keys/a%20b");
    assert_eq!(got.query, Some(&b"wait=true"[..]));
    assert_eq!(got.http_minor, 1);
    assert_eq!(got.host, Some(&b"x:2379"[..]));
    assert_eq!(got.origin, Some(&b"http://o"[..]));
    assert_eq!(got.authorization, Some(&b"Basic eA=="[..]));
    assert_eq!((got.body, got.keep_alive, got.expect_continue), (BodyKind::None, true, false));
    assert_eq!(got.head_len, bytes.len() - 4);
}

#[test]
fn bodies_are_framed_by_their_headers() {
    let kind = |headers: &str| head(format!("PUT /k HTTP/1.1\r\nHost: a\r\n{headers}\r\n").as_bytes()).body;
    assert_eq!(kind(""), BodyKind::None);
    assert_eq!(kind("content-length: 0\r\n"), BodyKind::None);
    assert_eq!(kind("Content-Length:  17 \r\n"), BodyKind::Length(17));
    assert_eq!(kind("Content-Length: 9223372036854775807\r\n"), BodyKind::Length(i64::MAX as u64));
    assert_eq!(kind("Transfer-Encoding: Chunked\r\n"), BodyKind::Chunked);
}

#[test]
fn what_could_be_cut_in_two_places_is_refused() {
    let status = |headers: &str| {
        let error = refusal(format!("PUT /k HTTP/1.1\r\nHost: a\r\n{headers}\r\n").as_bytes());
        (error.status(), matches!(error, RequestError::Malformed(_)))
    };
    for bad in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 9223372036854775808\r\n",
        "Content-Length: 99999999999999999999999\r\n",
        "Content-Length: \r\n",
        "Host: a\r\n",
        "X: a\nY: b\r\n",
    ] {
        assert_eq!(status(bad), (400, true), "{bad:?}");
    }
    for unknown in [
        "gzip",
        "identity",
        "gzip, chunked",
        "chunked, chunked",
        "chunked\r\nTransfer-Encoding: chunked",
        "xchunked",
        "",
    ] {
        assert_eq!(status(&format!("Transfer-Encoding: {unknown}\r\n")).0, 501, "{unknown:?}");
    }
    for (bad, error) in [
        ("X-A: b\r\n c\r\n", RequestError::InvalidHeaderName),
        ("X-A : b\r\n", RequestError::InvalidHeaderName),
        ("X(A: b\r\n", RequestError::InvalidHeaderName),
        ("X\r\n", RequestError::InvalidHeaderName),
        (": b\r\n", RequestError::InvalidHeaderName),
        ("X: a\0b\r\n", RequestError::InvalidHeaderValue),
        ("X: a\rb\r\n", RequestError::InvalidHeaderValue),
        ("Expect: 200-ok\r\n", RequestError::ExpectationFailed),
    ] {
        assert_eq!(refusal(format!("PUT /k HTTP/1.1\r\nHost: a\r\n{bad}\r\n").as_bytes()), error, "{bad:?}");
    }
    assert_eq!(refusal(b"PUT /k HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").status(), 400);
    assert_eq!(refusal(b"GET /k HTTP/1.1\nHost: a\n\n").status(), 400);
    assert_eq!(refusal(b"GET /k HTTP/1.1\r\nHost: a\r\n\n").status(), 400);
    assert_eq!(refusal(b"\r\nGET /k HTTP/1.1\r\nHost: a\r\n\r\n").status(), 400);
}

#[test]
fn request_lines_get_gos_verdict() {
    for (line, status) in [
        ("GET  /k HTTP/1.1", 400),
        ("GET /k y HTTP/1.1", 400),
        ("GET /k", 400),
        ("G(T /k HTTP/1.1", 400),
        ("GET /k HTXP/1.1", 400),
        ("GET /k http/1.1", 400),
        ("GET /k HTTP/1.10", 400),
        ("GET /k HTTP/2.0", 505),
        ("GET /k HTTP/0.9", 505),
        ("GET /\x01 HTTP/1.1", 400),
        ("GET /%zz HTTP/1.1", 400),
        ("GET /%4 HTTP/1.1", 400),
        ("GET /% HTTP/1.1", 400),
        ("GET k HTTP/1.1", 400),
        ("GET * HTTP/1.1", 400),
        ("GET ftp://h/k HTTP/1.1", 400),
    ] {
        assert_eq!(refusal(format!("{line}\r\nHost: a\r\n\r\n").as_bytes()).status(), status, "{line:?}");
    }
    assert_eq!(refusal(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), RequestError::Http2Preface);
    assert_eq!(parse_head(b"PRI * HTTP/2.", &LIMITS), Ok(Parsed::NeedMore));
    assert_eq!(refusal(b"GET /k HTTP/1.1\r\n\r\n"), RequestError::MissingHost);
    assert_eq!(refusal(b"GET /k HTTP/1.1\r\nHost: a b\r\n\r\n"), RequestError::MalformedHost);
    assert_eq!(head(b"GET /k HTTP/1.1\r\nHost:\r\n\r\n").host, Some(&b""[..]));
    assert_eq!(head(b"GET /k HTTP/1.0\r\n\r\n").host, None);
}

#[test]
fn targets_lose_scheme_and_authority() {
    let split = |target: &str| {
        let bytes = format!("OPTIONS {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let got = head(bytes.as_bytes());
        (got.path.to_vec(), got.query.map(<[u8]>::to_vec))
    };
    assert_eq!(split("/a?b?c"), (b"/a".to_vec(), Some(b"b?c".to_vec())));
    assert_eq!(split("/a?"), (b"/a".to_vec(), Some(Vec::new())));
    assert_eq!(split("/a?%zz"), (b"/a".to_vec(), Some(b"%zz".to_vec())));
    assert_eq!(split("/a#b"), (b"/a#b".to_vec(), None));
    assert_eq!(split("*"), (b"*".to_vec(), None));
    assert_eq!(split("http://h:1/v2?q"), (b"/v2".to_vec(), Some(b"q".to_vec())));
    assert_eq!(split("HTTPS://h?q"), (b"/".to_vec(), Some(b"q".to_vec())));
    assert_eq!(split("http://h"), (b"/".to_vec(), None));
}

#[test]
fn connections_close_when_asked() {
    let keep = |version: &str, value: &str| {
        head(format!("GET / HTTP/{version}\r\nHost: a\r\n{value}\r\n").as_bytes()).keep_alive
    };
    assert!(keep("1.1", ""));
    assert!(keep("1.1", "Connection: keep-alive\r\n"));
    assert!(!keep("1.1", "Connection: foo, Close\r\n"));
    assert!(!keep("1.1", "Connection: keep-alive\r\nConnection: close\r\n"));
    assert!(!keep("1.0", ""));
    assert!(keep("1.0", "Connection: foo,Keep-Alive\r\n"));
    let upgrade = |headers: &str| {
        head(format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n").as_bytes()).upgrade.map(<[u8]>::to_vec)
    };
    assert_eq!(upgrade("Upgrade: x\r\n"), None);
    assert_eq!(upgrade("Upgrade: x\r\nConnection: Upgrade\r\n"), Some(b"x".to_vec()));
}

#[test]
fn limits_are_met_at_the_byte() {
    let fill = LIMITS.header_bytes_max - "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
    let exact = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(fill));
    assert_eq!(head(exact.as_bytes()).head_len, LIMITS.header_bytes_max);
    let over = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(fill + 1));
    assert_eq!(refusal(over.as_bytes()), RequestError::HeaderTooLarge);
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(LIMITS.headers_max - 1));
    assert_eq!(head(many.as_bytes()).head_len, many.len());
    let too_many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(LIMITS.headers_max));
    assert_eq!(refusal(too_many.as_bytes()), RequestError::HeaderTooLarge);
}

#[test]
fn refusals_read_as_gos_do() {
    let reply = |error: RequestError| String::from_utf8(error.reply().to_vec()).unwrap();
    assert_eq!(
        reply(RequestError::MissingHost),
        "HTTP/1.1 400 Bad Request: missing required Host header\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Connection: close\r\n\r\n400 Bad Request: missing required Host header"
    );
    assert_eq!(
        reply(RequestError::UnsupportedTransferEncoding),
        "HTTP/1.1 501 Not Implemented\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n\
         Unsupported transfer encoding"
    );
    for error in [
        RequestError::Malformed(""),
        RequestError::MalformedHost,
        RequestError::InvalidHeaderName,
        RequestError::InvalidHeaderValue,
        RequestError::HeaderTooLarge,
        RequestError::ExpectationFailed,
        RequestError::UnsupportedVersion,
        RequestError::Http2Preface,
    ] {
        assert!(reply(error).starts_with(&format!("HTTP/1.1 {} ", error.status())), "{error:?}");
        assert!(reply(error).contains("\r\nConnection: close\r\n"), "{error:?}");
    }
}

#[test]
fn a_waiting_client_is_told_to_continue_once() {
    for (framing, rest) in
        [("Content-Length: 3", &b"abc"[..]), ("Transfer-Encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n")]
    {
        let head = format!("PUT /k HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\n{framing}\r\n\r\n");
        let mut buf = head.clone().into_bytes();
        let mut reader = RequestReader::new();
        assert!(matches!(reader.next(&buf, &LIMITS), Next::NeedMore { send_continue: true, .. }), "{framing}");
        assert!(matches!(reader.next(&buf, &LIMITS), Next::NeedMore { send_continue: false, .. }), "{framing}");
        buf.extend_from_slice(&rest[..1]);
        if matches!(reader.next(&buf, &LIMITS), Next::Decode) {
            reader.decode(&mut buf);
        }
        assert!(matches!(reader.next(&buf, &LIMITS), Next::NeedMore { send_continue: false, .. }), "{framing}");
        assert!(reader.is_inside_body());
        buf.extend_from_slice(&rest[1..]);
        if matches!(reader.next(&buf, &LIMITS), Next::Decode) {
            reader.decode(&mut buf);
        }
        let Next::Request(request) = reader.next(&buf, &LIMITS) else { panic!("{framing}") };
        assert_eq!(request.body, Ok(&b"abc"[..]));
        assert_eq!(reader.served(), head.len() + rest.len());
    }
    // Nobody waits on 1.0, or without a body.
    assert!(!head(b"PUT /k HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n").expect_continue);
    assert!(!head(b"PUT /k HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n").expect_continue);
}

fn decode(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, BodyError> {
    let mut body = bytes.to_vec();
    Ok(match ChunkDecoder::new(LIMITS.body_bytes_max).advance(&mut body)? {
        ChunkProgress::NeedMore => None,
        ChunkProgress::Done { body_len, consumed } => {
            assert_eq!(&body[consumed..], &bytes[consumed..], "the decoder touched bytes after the body");
            Some((body[..body_len].to_vec(), consumed))
        }
    })
}

#[test]
fn chunks_give_gos_errors() {
    assert_eq!(
        decode(b"3;ext=\"1\"\r\nval\r\n4 \r\nue=2\r\n0\r\nTrail: x\r\n\r\nGET"),
        Ok(Some((b"value=2".to_vec(), 41)))
    );
    assert_eq!(decode(b"0\r\n\r\n"), Ok(Some((Vec::new(), 5))));
    assert_eq!(decode(b"00A\r\n0123456789\r\n000\r\n\r\n").map(|done| done.map(|(body, _)| body.len())), Ok(Some(10)));
    assert_eq!(decode(b"3\r\nva"), Ok(None));
    for (bad, error) in [
        (&b"zz\r\n"[..], BodyError::BadChunkLength),
        (b"\r\n", BodyError::BadChunkLength),
        (b";x\r\n", BodyError::BadChunkLength),
        (b" 3\r\n", BodyError::BadChunkLength),
        (b"-3\r\n", BodyError::BadChunkLength),
        (b"0x3\r\n", BodyError::BadChunkLength),
        (b"3\n", BodyError::BadChunkLength),
        (b"3;a\nb", BodyError::Malformed),
        (b"3\r\nvalXX", BodyError::Malformed),
        (b"3\r\nval\n", BodyError::Malformed),
        (b"3\rx", BodyError::Malformed),
        (b"0\r\nT: x\n", BodyError::Malformed),
        (b"0\r\nT: x\rx", BodyError::Malformed),
        (b"ffffffffffffffff\r\n", BodyError::TooLarge),
        (b"00000000000000001\r\n", BodyError::ChunkLengthTooLarge),
        (b"1001\r\n", BodyError::TooLarge),
        (b"1\r\na\r\n1000\r\n", BodyError::TooLarge),
    ] {
        assert_eq!(decode(bad), Err(error), "{:?}", String::from_utf8_lossy(bad));
    }
    let long = |n: usize| [b"1;".to_vec(), vec![b'x'; n - 2], b"\r\na\r\n0\r\n\r\n".to_vec()].concat();
    assert!(matches!(decode(&long(CHUNK_LINE_BYTES_MAX)), Ok(Some(_))));
    assert_eq!(decode(&long(CHUNK_LINE_BYTES_MAX + 1)), Err(BodyError::LineTooLong));
    assert_eq!(decode(&[b"0\r\n".to_vec(), vec![b'x'; 10_000]].concat()), Err(BodyError::LineTooLong));
    let wasteful = [b"1;".to_vec(), vec![b'x'; 4000], b"\r\na\r\n".to_vec()].concat().repeat(5);
    assert_eq!(decode(&wasteful), Err(BodyError::TooMuchFraming));
    assert_eq!(decode(&b"1\r\na\r\n".repeat(4000)), Ok(None), "small chunks alone are no abuse");
}

const DATE: &HttpDate = b"Sun, 06 Nov 1994 08:49:37 GMT";

#[test]
fn an_answer_reads_as_etcds_does() {
    let cors = cors_block("*");
    let head = ReplyHead {
        cors: &cors,
        content_type: JSON,
        cluster_id: Some("534a021c215e0774"),
        etcd_index: Some(4),
        raft: Some((5, 2)),
        ..ReplyHead::new(200, DATE)
    };
    let expected = |connection: &str, version: &str| {
        format!(
            "HTTP/{version} 200 OK\r\nAccess-Control-Allow-Headers: accept, content-type, authorization\r\n\
             Access-Control-Allow-Methods: POST, GET, OPTIONS, PUT, DELETE\r\nAccess-Control-Allow-Origin: *\r\n\
             Content-Type: application/json\r\nServer: ringd/{}\r\nX-Etcd-Cluster-Id: 534a021c215e0774\r\n\
             X-Etcd-Index: 4\r\nX-Raft-Index: 5\r\nX-Raft-Term: 2\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             Content-Length: 11\r\n{connection}\r\nhello world",
            env!("CARGO_PKG_VERSION")
        )
    };
    let render = |head: ReplyHead<'_>| {
        let (mut rendered, mut copied) = (b"before".to_vec(), b"before".to_vec());
        append_reply(&mut rendered, &head, |out| out.extend_from_slice(b"hello world"));
        append_reply_bytes(&mut copied, &head, b"hello world");
        assert_eq!(rendered, copied);
        String::from_utf8(rendered[6..].to_vec()).unwrap()
    };
    assert_eq!(render(head), expected("", "1.1"));
    assert_eq!(render(ReplyHead { keep_alive: false, ..head }), expected("Connection: close\r\n", "1.1"));
    assert_eq!(render(ReplyHead { http_minor: 0, ..head }), expected("Connection: keep-alive\r\n", "1.0"));
    assert_eq!(render(ReplyHead { http_minor: 0, keep_alive: false, ..head }), expected("", "1.0"));
    let whole = expected("", "1.1");
    assert_eq!(render(ReplyHead { head_only: true, ..head }), whole[..whole.len() - "hello world".len()]);
}

#[test]
fn an_error_page_reads_as_gos_does() {
    let mut out = Vec::new();
    let head = ReplyHead {
        allow: Some("GET"),
        content_type: TEXT,
        location: Some(b"/x"),
        www_authenticate: Some("Basic"),
        nosniff: true,
        reason: Some("so it is"),
        ..ReplyHead::new(405, DATE)
    };
    append_reply(&mut out, &head, |out| out.extend_from_slice(b"Method Not Allowed\n"));
    let server = concat!("Server: ringd/", env!("CARGO_PKG_VERSION"), "\r\n");
    assert_eq!(
        String::from_utf8(out).unwrap(),
        format!(
            "HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Location: /x\r\n{server}Www-Authenticate: Basic\r\nX-Content-Type-Options: nosniff\r\n\
             X-Ringd-Reason: so it is\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 19\r\n\r\nMethod Not Allowed\n"
        )
    );
    let mut out = Vec::new();
    append_reply(&mut out, &ReplyHead::new(204, DATE), |out| out.extend_from_slice(b"never"));
    assert!(out.ends_with(b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n"));
    let mut out = Vec::new();
    append_reply(&mut out, &ReplyHead::new(299, DATE), |_| ());
    assert!(out.starts_with(b"HTTP/1.1 299 status code 299\r\n"));
}

#[test]
fn a_stream_is_chunked_or_ends_with_the_connection() {
    let mut out = Vec::new();
    let stream = begin_stream(&mut out, &ReplyHead::new(200, DATE));
    assert!(out.ends_with(b"GMT\r\nTransfer-Encoding: chunked\r\n\r\n"));
    assert!(!stream.must_close());
    out.clear();
    stream.append(&mut out, |out| out.extend_from_slice(&[b'x'; 84]));
    stream.append(&mut out, |_| ());
    stream.append(&mut out, |out| out.extend_from_slice(&[b'y'; 5]));
    stream.append(&mut out, |out| out.extend_from_slice(&[b'z'; 0x1000]));
    stream.finish(&mut out);
    let text = String::from_utf8(out.clone()).unwrap();
    assert!(text.starts_with("54\r\nxxx") && text.contains("x\r\n5\r\nyyyyy\r\n1000\r\nzz"), "{text}");
    assert_eq!(decode(&out.clone()).err(), Some(BodyError::TooLarge));
    let mut decoder = ChunkDecoder::new(1 << 20);
    assert_eq!(
        decoder.advance(&mut out.clone()),
        Ok(ChunkProgress::Done { body_len: 84 + 5 + 0x1000, consumed: out.len() })
    );

    let mut out = Vec::new();
    let stream = begin_stream(&mut out, &ReplyHead { http_minor: 0, keep_alive: true, ..ReplyHead::new(200, DATE) });
    assert!(out.ends_with(b"GMT\r\n\r\n"));
    assert!(stream.must_close());
    stream.append(&mut out, |out| out.extend_from_slice(b"event"));
    stream.finish(&mut out);
    assert!(out.ends_with(b"GMT\r\n\r\nevent"));

    let mut out = Vec::new();
    let stream = begin_stream(&mut out, &ReplyHead { keep_alive: false, ..ReplyHead::new(200, DATE) });
    assert!(out.ends_with(b"GMT\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"));
    assert!(stream.must_close());
}

#[test]
fn dates_are_right_at_the_edges() {
    let date = |seconds| {
        let mut out = [0; 29];
        http_date(seconds, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    };
    assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
    assert_eq!(date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
    assert_eq!(date(951_782_399), "Mon, 28 Feb 2000 23:59:59 GMT");
    assert_eq!(date(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
    assert_eq!(date(1_709_164_800), "Thu, 29 Feb 2024 00:00:00 GMT");
    assert_eq!(date(4_107_542_400), "Mon, 01 Mar 2100 00:00:00 GMT");
    assert_eq!(date(253_402_300_799), "Fri, 31 Dec 9999 23:59:59 GMT");
    assert_eq!(date(u64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
}

proptest! {
    #[test]
    fn an_answer_is_framed_by_its_length(len in 0..20_000_usize, minor in 0..2_u8, length_digits in 0..12_usize) {
        let head = ReplyHead { http_minor: minor, length_digits, ..ReplyHead::new(200, DATE) };
        let (mut out, mut begin) = (Vec::new(), 0);
        append_reply(&mut out, &head, |out| {
            begin = out.len();
            out.extend(std::iter::repeat_n(b'b', len));
        });
        if len.to_string().len() == length_digits {
            prop_assert_eq!(out.len(), begin + len, "what was expected is not moved");
        }
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        prop_assert_eq!(body, "b".repeat(len));
        let wanted = format!("\r\nContent-Length: {len}");
        prop_assert!(head.contains(&format!("{wanted}\r\n")) || head.ends_with(&wanted), "{}", head);
    }

    #[test]
    fn dates_agree_with_counting_days(days in 0..2_000_000_u64, second in 0..86_400_u64) {
        let mut out = [0; 29];
        http_date(days * 86_400 + second, &mut out);
        let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let (mut year, mut left) = (1970, days);
        while left >= 365 + u64::from(leap(year)) {
            left -= 365 + u64::from(leap(year));
            year += 1;
        }
        let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let mut month = 0;
        while left >= lengths[month] {
            left -= lengths[month];
            month += 1;
        }
        let names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let weekdays = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
        let expected = format!(
            "{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT",
            weekdays[(days % 7) as usize], left + 1, names[month], year, second / 3600, second / 60 % 60, second % 60
        );
        prop_assert_eq!(std::str::from_utf8(&out).unwrap(), expected);
    }
}
