//! A server that answers every request with the same bytes: the most the executor and the parser can give.
//!
//! Owns: its connections. Touches: one loopback port. Always: one thread, glommio and httparse, as in ringd, and no
//! work besides; it runs until it is killed.

use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream};
use glommio::spawn_local;

/// Bytes of the body unless a size for the whole answer is asked for.
const BODY: usize = 100;
const MAX_HEADERS: usize = 32;
/// ringd's default.
const SPIN_BEFORE_PARK: Duration = Duration::from_micros(20);

/// `place` is a port, or `PORT:BYTES` for answers of so many bytes in all.
pub fn serve(place: &str) -> ExitCode {
    let (port, bytes) = place.split_once(':').map_or((place, None), |(port, bytes)| (port, bytes.parse().ok()));
    let one: Rc<[u8]> = constant_answer(bytes).into();
    let executor = match ringd::shell::executor::build(SPIN_BEFORE_PARK) {
        Ok(executor) => executor,
        Err(error) => {
            eprintln!("end_to_end: cannot start the executor: {error}");
            return ExitCode::FAILURE;
        }
    };
    executor.run(async move {
        let listener = match TcpListener::bind(format!("127.0.0.1:{port}")) {
            Ok(listener) => listener,
            Err(error) => {
                eprintln!("end_to_end: cannot listen: {error}");
                return ExitCode::FAILURE;
            }
        };
        loop {
            match listener.accept().await {
                Ok(stream) => spawn_local(answer(stream, Rc::clone(&one))).detach(),
                Err(_) => return ExitCode::FAILURE,
            };
        }
    })
}

fn constant_answer(bytes: Option<usize>) -> Vec<u8> {
    let head = |body: usize| {
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {body}\r\n\r\n").into_bytes()
    };
    // The length's own digits count too; three of them are right for every answer of a sensible size.
    let body = bytes.map_or(BODY, |bytes| bytes.saturating_sub(head(100).len()));
    let mut answer = head(body);
    answer.resize(answer.len() + body, b'x');
    answer
}

async fn answer(mut stream: TcpStream, one: Rc<[u8]>) {
    // Small answers must not wait for an acknowledgement; without it the figures would only be lower.
    stream.set_nodelay(true).ok();
    let (mut buffer, mut filled) = (vec![0u8; 16 * 1024], 0);
    let mut reply = Vec::new();
    while let Ok(read @ 1..) = stream.read(&mut buffer[filled..]).await {
        filled += read;
        let mut used = 0;
        reply.clear();
        while let Some(length) = request_length(&buffer[used..filled]) {
            used += length;
            reply.extend_from_slice(&one);
        }
        buffer.copy_within(used..filled, 0);
        filled -= used;
        if filled == buffer.len() || (!reply.is_empty() && stream.write_all(&reply).await.is_err()) {
            return;
        }
    }
}

/// Bytes of the complete request (without a body) at the start of `bytes`.
fn request_length(bytes: &[u8]) -> Option<usize> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => {
            let declared = request.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
            let body = declared.and_then(|h| std::str::from_utf8(h.value).ok()).and_then(|v| v.parse::<usize>().ok());
            length.checked_add(body.unwrap_or(0)).filter(|total| *total <= bytes.len())
        }
        _ => None,
    }
}
