//! One client of a proxy: its requests go to a member each, the answers come back as they are.
//!
//! Owns: the exchange. Must hold: a request is sent to another member only if the first gave no answer at all; an answer
//! that is cut short ends the client's connection, so that it cannot be taken for a whole one; a client that leaves ends
//! what was begun for it.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use futures_lite::future::{or, poll_fn};
use futures_lite::{AsyncRead as _, AsyncWrite as _};
use glommio::net::TcpStream;

use super::proxy::Proxy;
use super::{clock, dial};
use crate::config::ProxyMode;
use crate::config::url::Url;
use crate::wire::http_body::{Next, RequestReader};
use crate::wire::http_forward::{append_answer, append_request};
use crate::wire::http_reply::{CONTINUE, JSON, ReplyHead, TEXT, append_reply_bytes};
use crate::wire::peer_handshake::Answer;

/// Pipelined bytes that may wait behind a request under way.
const INPUT_MAX: usize = 64 << 10;
/// One piece of an answer on its way.
const PIECE_BYTES: usize = 16 << 10;
/// Where a proxy tells of its endpoints, as in etcd.
const CONFIG_PATH: &[u8] = b"/v2/config/local/proxy";

/// A request on its way: everything the members need of it.
struct Ask {
    bytes: Vec<u8>,
    http_minor: u8,
    head_only: bool,
    keep_alive: bool,
}

/// Serves a client until either side ends.
pub async fn serve(proxy: &Rc<Proxy>, mut client: TcpStream, address: &str) {
    let _ = client.set_nodelay(true);
    if let Err(error) = exchange(proxy, &mut client, address).await {
        tracing::debug!(%error, "proxy: connection ended");
    }
}

async fn exchange(proxy: &Proxy, client: &mut TcpStream, address: &str) -> io::Result<()> {
    let (mut reader, mut input) = (RequestReader::new(), Vec::new());
    let idle = proxy.config.timeouts.idle.map(|seconds| std::time::Duration::from_secs(seconds.get().into()));
    loop {
        match reader.next(&input, &proxy.config.limits) {
            Next::Decode => reader.decode(&mut input),
            Next::Refuse(error) => return dial::send(client, error.reply()).await,
            Next::NeedMore { send_continue, .. } => {
                if send_continue {
                    dial::send(client, CONTINUE).await?;
                }
                let more = dial::receive(client, &mut input);
                let read = match idle {
                    Some(limit) => dial::limited(limit, more).await?,
                    None => more.await?,
                };
                if read == 0 {
                    return Ok(());
                }
            }
            Next::Request(request) => {
                let head = &request.head;
                let own = local_answer(proxy, head.path, head.method);
                let ask = request.body.map(|body| {
                    let mut bytes = Vec::new();
                    append_request(&mut bytes, &input[..head.head_len], address, body);
                    let head_only = head.method == b"HEAD";
                    Ask { bytes, http_minor: head.http_minor, head_only, keep_alive: request.keep_alive }
                });
                let (minor, keep_alive) = (head.http_minor, request.keep_alive);
                let served = reader.served();
                input.drain(..served);
                let keeps = match (own, ask) {
                    (Some((status, kind, body)), _) => {
                        say(proxy, client, (status, kind, &body), (minor, keep_alive)).await?;
                        keep_alive
                    }
                    (None, Ok(ask)) => forward(proxy, client, &mut input, &ask).await?,
                    (None, Err(_)) => {
                        let body = message("failed to read request body");
                        say(proxy, client, (500, JSON, &body), (minor, false)).await?;
                        false
                    }
                };
                if !keeps {
                    return Ok(());
                }
            }
        }
    }
}

fn message(text: &str) -> Vec<u8> {
    serde_json::json!({ "message": format!("httpproxy: {text}") }).to_string().into_bytes()
}

/// What the proxy answers by itself.
fn local_answer(proxy: &Proxy, path: &[u8], method: &[u8]) -> Option<(u16, &'static str, Vec<u8>)> {
    if proxy.config.proxy.mode == ProxyMode::ReadOnly && method != b"GET" {
        return Some((501, "", Vec::new()));
    }
    if path != CONFIG_PATH {
        return None;
    }
    if method != b"GET" {
        return Some((405, TEXT, b"Method Not Allowed\n".to_vec()));
    }
    let urls: Vec<String> = proxy.available().iter().map(ToString::to_string).collect();
    let mut body = serde_json::json!({ "endpoints": urls }).to_string().into_bytes();
    body.push(b'\n');
    Some((200, TEXT, body))
}

async fn say(
    proxy: &Proxy,
    client: &mut TcpStream,
    (status, content_type, body): (u16, &'static str, &[u8]),
    (http_minor, keep_alive): (u8, bool),
) -> io::Result<()> {
    let mut out = Vec::new();
    let date = proxy.date.at(clock::now());
    let allow = (status == 405).then_some("GET");
    let head = ReplyHead { http_minor, keep_alive, content_type, allow, ..ReplyHead::new(status, &date) };
    append_reply_bytes(&mut out, &head, body);
    dial::send(client, &out).await
}

/// Sends a request to the first member that answers, and its answer to the client. Whether another request may follow.
async fn forward(proxy: &Proxy, client: &mut TcpStream, input: &mut Vec<u8>, ask: &Ask) -> io::Result<bool> {
    let endpoints = proxy.available();
    let own = (ask.http_minor, ask.keep_alive);
    if endpoints.is_empty() {
        let body = message("zero endpoints currently available");
        say(proxy, client, (503, JSON, &body), own).await?;
        return Ok(ask.keep_alive);
    }
    for url in &endpoints {
        // A client that leaves while a member thinks (a watch) must not hold the member's connection.
        let asked = async { Some(ask_member(proxy, url, ask).await) };
        let left = async {
            watch_client(client, input).await;
            None
        };
        match or(asked, left).await {
            None => return Ok(false),
            Some(Ok((mut member, answer, bytes))) => {
                return pass(client, input, (&mut member, &answer, bytes), ask).await;
            }
            Some(Err(error)) => {
                tracing::warn!("proxy: failed to direct request to {url}: {error}");
                proxy.failed(url);
            }
        }
    }
    let body = message(&format!("unable to get response from {} endpoint(s)", endpoints.len()));
    say(proxy, client, (502, JSON, &body), own).await?;
    Ok(ask.keep_alive)
}

/// Ends when the client has left; keeps what it sends meanwhile, up to a limit.
async fn watch_client(client: &mut TcpStream, input: &mut Vec<u8>) {
    while input.len() < INPUT_MAX {
        if !matches!(dial::receive(client, input).await, Ok(1..)) {
            return;
        }
    }
    std::future::pending::<()>().await;
}

async fn ask_member(proxy: &Proxy, url: &Url, ask: &Ask) -> io::Result<(TcpStream, Answer, Vec<u8>)> {
    let timeouts = &proxy.config.proxy;
    let mut member = dial::limited(timeouts.dial, dial::connect(url)).await?;
    let send = dial::send(&mut member, &ask.bytes);
    match timeouts.write {
        Some(limit) => dial::limited(limit, send).await?,
        None => send.await?,
    }
    let mut bytes = Vec::new();
    let head = dial::answer(&mut member, &mut bytes);
    let answer = match timeouts.read {
        Some(limit) => dial::limited(limit, head).await?,
        None => head.await?,
    };
    Ok((member, answer, bytes))
}

/// Passes an answer on until the member ends it.
async fn pass(
    client: &mut TcpStream,
    input: &mut Vec<u8>,
    (member, answer, bytes): (&mut TcpStream, &Answer, Vec<u8>),
    ask: &Ask,
) -> io::Result<bool> {
    let bodiless = ask.head_only || matches!(answer.status, 204 | 304);
    let framed = bodiless || answer.length.is_some() || answer.chunked;
    let keep_alive = ask.keep_alive && framed;
    let (head, body) = bytes.split_at(answer.head_bytes);
    let (mut out, mut sent) = (Vec::new(), 0);
    append_answer(&mut out, head, keep_alive);
    out.extend_from_slice(body);
    let mut passed = body.len() as u64;
    let mut tail: Vec<u8> = body[body.len().saturating_sub(5)..].to_vec();
    let (mut piece, mut ended) = (vec![0; PIECE_BYTES], false);
    poll_fn(|context| {
        loop {
            if sent < out.len() {
                match Pin::new(&mut *client).poll_write(context, &out[sent..]) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(more)) => sent += more,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => break,
                }
            } else if ended {
                return Poll::Ready(Ok(()));
            } else {
                match Pin::new(&mut *member).poll_read(context, &mut piece) {
                    Poll::Ready(Ok(read)) => {
                        ended = read == 0;
                        out.clear();
                        sent = 0;
                        out.extend_from_slice(&piece[..read]);
                        passed += read as u64;
                        tail.extend_from_slice(&piece[..read]);
                        tail.drain(..tail.len().saturating_sub(5));
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => break,
                }
            }
        }
        while input.len() < INPUT_MAX {
            let before = input.len();
            input.resize(before + 1024, 0);
            let read = Pin::new(&mut *client).poll_read(context, &mut input[before..]);
            input.truncate(before + if let Poll::Ready(Ok(read)) = read { read } else { 0 });
            match read {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        Poll::Pending
    })
    .await?;
    let is_whole = bodiless || answer.length == Some(passed) || (answer.chunked && tail == b"0\r\n\r\n");
    Ok(keep_alive && is_whole)
}
