//! A server that answers every request with the same bytes: the most the executor and the parser can give.
//!
//! Owns: its connections. Touches: one loopback port. Always: one thread, glommio and httparse, as in ringd, and no
//! work besides; it runs until it is killed.

use std::process::ExitCode;
use std::time::Duration;

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream};
use glommio::spawn_local;

/// Bytes of the body: about those of a small v2 answer.
const BODY: usize = 100;
const MAX_HEADERS: usize = 32;
/// ringd's default.
const SPIN_BEFORE_PARK: Duration = Duration::from_micros(20);

pub fn serve(port: &str) -> ExitCode {
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
                Ok(stream) => spawn_local(answer(stream)).detach(),
                Err(_) => return ExitCode::FAILURE,
            };
        }
    })
}

async fn answer(mut stream: TcpStream) {
    // Small answers must not wait for an acknowledgement; without it the figures would only be lower.
    stream.set_nodelay(true).ok();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {BODY}\r\n\r\n");
    let mut one = head.into_bytes();
    one.resize(one.len() + BODY, b'x');
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
