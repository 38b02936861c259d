//! Requests and answers that pass through a proxy: heads without what concerns one connection only.
//!
//! Owns: which headers travel. Touches: slices. Must hold: a forwarded head is as well formed as the one that came, and
//! its body is framed by one header only.

/// Headers of one hop (RFC 9110, section 7.6.1), and `Expect`, which the proxy has answered.
const HOP: [&str; 9] = [
    "Connection",
    "Keep-Alive",
    "Proxy-Authenticate",
    "Proxy-Authorization",
    "Proxy-Connection",
    "Te",
    "Trailer",
    "Upgrade",
    "Expect",
];

/// Appends a request: `head` up to and with its blank line, for `client`, with a body of known length. The connection
/// to the server ends with the answer.
pub fn append_request(out: &mut Vec<u8>, head: &[u8], client: &str, body: &[u8]) {
    let mut forwarded = client.to_owned();
    for (place, line) in lines(head).enumerate() {
        let name = name_of(line);
        if place > 0 && (is_hop(name) || is(name, "Content-Length") || is(name, "Transfer-Encoding")) {
            continue;
        }
        if place > 0 && is(name, "X-Forwarded-For") {
            let earlier = String::from_utf8_lossy(&line[name.len() + 1..]).trim().to_owned();
            forwarded = format!("{earlier}, {forwarded}");
            continue;
        }
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(
        format!("X-Forwarded-For: {forwarded}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len())
            .as_bytes(),
    );
    out.extend_from_slice(body);
}

/// Appends an answer's head; its body follows as it comes. `keep_alive` says whether the client may send another
/// request.
pub fn append_answer(out: &mut Vec<u8>, head: &[u8], keep_alive: bool) {
    for (place, line) in lines(head).enumerate() {
        if place == 0 || !is_hop(name_of(line)) {
            out.extend_from_slice(line);
            out.extend_from_slice(b"\r\n");
        }
    }
    out.extend_from_slice(if keep_alive { b"\r\n" } else { b"Connection: close\r\n\r\n" });
}

fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    head.split(|&byte| byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.is_empty())
}

fn name_of(line: &[u8]) -> &[u8] {
    &line[..line.iter().position(|&byte| byte == b':').unwrap_or(line.len())]
}

fn is(name: &[u8], known: &str) -> bool {
    name.eq_ignore_ascii_case(known.as_bytes())
}

fn is_hop(name: &[u8]) -> bool {
    HOP.iter().any(|known| is(name, known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_keep_what_is_meant_for_the_server() {
        let head = b"PUT /v2/keys/a?x=1 HTTP/1.1\r\nHost: h:1\r\nconnection: keep-alive\r\nAuthorization: Basic x\r\n\
            Transfer-Encoding: chunked\r\nX-Forwarded-For: 9.9.9.9\r\nExpect: 100-continue\r\n\r\n";
        let mut out = Vec::new();
        append_request(&mut out, head, "1.2.3.4", b"value=1");
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "PUT /v2/keys/a?x=1 HTTP/1.1\r\nHost: h:1\r\nAuthorization: Basic x\r\n\
             X-Forwarded-For: 9.9.9.9, 1.2.3.4\r\nConnection: close\r\nContent-Length: 7\r\n\r\nvalue=1"
        );
    }

    #[test]
    fn answers_keep_their_framing() {
        let head = b"HTTP/1.1 200 OK\r\nX-Etcd-Index: 7\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
        let mut out = Vec::new();
        append_answer(&mut out, head, true);
        assert_eq!(out, b"HTTP/1.1 200 OK\r\nX-Etcd-Index: 7\r\nTransfer-Encoding: chunked\r\n\r\n");
        out.clear();
        append_answer(&mut out, head, false);
        assert!(out.ends_with(b"chunked\r\nConnection: close\r\n\r\n"));
    }
}
