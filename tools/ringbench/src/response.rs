//! Finds where an answer ends and what its status is.
//!
//! Owns: nothing. Touches: nothing. Always: bytes of a server are foreign, so anything that is not a complete answer
//! is either `Incomplete` or an error, never a panic.

/// Answers of a v2 server carry about ten headers.
const MAX_HEADERS: usize = 48;

/// One complete answer at the start of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Bytes of head and body together.
    pub length: usize,
    /// The server will close the connection after it.
    pub closes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    Complete(Answer),
    Incomplete,
    /// Not HTTP/1.1, or framed in a way that has no end.
    Bad,
}

enum Framing {
    Length(usize),
    Chunked,
    Unframed,
}

/// Looks for one complete answer at the start of `bytes`.
pub fn scan(bytes: &[u8]) -> Scan {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let head = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Scan::Incomplete,
        Err(_) => return Scan::Bad,
    };
    let Some(status) = parsed.code else { return Scan::Bad };
    let mut closes = parsed.version == Some(0);
    let mut framing = if status == 204 || status == 304 { Framing::Length(0) } else { Framing::Unframed };
    for header in parsed.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            let digits = std::str::from_utf8(header.value).ok().and_then(|s| s.trim().parse().ok());
            let Some(length) = digits else { return Scan::Bad };
            framing = Framing::Length(length);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            framing = Framing::Chunked;
        } else if header.name.eq_ignore_ascii_case("connection") && header.value.eq_ignore_ascii_case(b"close") {
            closes = true;
        }
    }
    let body = match framing {
        Framing::Length(length) => Some(length),
        Framing::Chunked => match chunked_length(&bytes[head..]) {
            Ok(length) => length,
            Err(()) => return Scan::Bad,
        },
        Framing::Unframed => return Scan::Bad,
    };
    match body.and_then(|body| head.checked_add(body)) {
        Some(length) if length <= bytes.len() => Scan::Complete(Answer { status, length, closes }),
        _ => Scan::Incomplete,
    }
}

/// Bytes a complete chunked body takes, with its trailer; `None` if it is not complete yet.
fn chunked_length(bytes: &[u8]) -> Result<Option<usize>, ()> {
    let mut at = 0;
    loop {
        match httparse::parse_chunk_size(&bytes[at..]) {
            Ok(httparse::Status::Complete((line, 0))) => {
                at += line;
                loop {
                    let Some(end) = bytes[at..].windows(2).position(|w| w == b"\r\n") else { return Ok(None) };
                    at += end + 2;
                    if end == 0 {
                        return Ok(Some(at));
                    }
                }
            }
            Ok(httparse::Status::Complete((line, size))) => {
                let size = usize::try_from(size).map_err(|_| ())?;
                at = at.checked_add(line).and_then(|n| n.checked_add(size)).and_then(|n| n.checked_add(2)).ok_or(())?;
                if at > bytes.len() {
                    return Ok(None);
                }
            }
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(bytes: &[u8]) -> Option<Answer> {
        match scan(bytes) {
            Scan::Complete(answer) => Some(answer),
            _ => None,
        }
    }

    #[test]
    fn every_strict_prefix_is_incomplete() {
        for whole in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"[..],
            b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            b"HTTP/1.1 404 X\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nT: v\r\n\r\n",
        ] {
            for end in 0..whole.len() {
                assert_eq!(scan(&whole[..end]), Scan::Incomplete, "{end} of {:?}", String::from_utf8_lossy(whole));
            }
            assert_eq!(complete(whole).map(|a| a.length), Some(whole.len()));
            let mut two = whole.to_vec();
            two.extend_from_slice(whole);
            assert_eq!(complete(&two).map(|a| a.length), Some(whole.len()));
        }
    }

    #[test]
    fn status_and_close_are_seen() {
        let answer = complete(b"HTTP/1.1 503 X\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(answer.map(|a| (a.status, a.closes)), Some((503, true)));
        assert_eq!(complete(b"HTTP/1.1 204 X\r\n\r\n").map(|a| a.status), Some(204));
    }

    #[test]
    fn what_is_not_an_answer_is_refused() {
        for bad in [
            &b"SSH-2.0-x\r\n"[..],
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ] {
            assert_eq!(scan(bad), Scan::Bad);
        }
    }
}
