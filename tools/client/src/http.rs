//! One HTTP/1.1 connection.
//!
//! Owns: a socket and the bytes read from it. Touches: that socket. Always: no read or write lasts past its deadline;
//! heads and bodies have limits, so that a broken server cannot make us use all memory.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::endpoint::Endpoint;
use crate::error::Failure;
use crate::tls::{self, Tls, TlsStream};

const MAX_HEADERS: usize = 64;
/// Largest head of an answer that is accepted.
const MAX_HEAD: usize = 64 * 1024;
/// Largest body that is accepted: a listing of several million keys.
const MAX_BODY: usize = 1 << 30;
const READ_CHUNK: usize = 16 * 1024;

/// How long to wait for one request.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For connecting, and for the head of the answer; `None` for a request that is meant to wait.
    pub per_request: Option<Duration>,
    /// For everything together.
    pub deadline: Option<Instant>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub etcd_index: u64,
    /// `X-Ringd-Reason`: what ringd says where etcd's body says nothing.
    pub reason: Option<String>,
    pub body: Vec<u8>,
}

/// Why an exchange failed, and whether the server may have acted on the request.
#[derive(Debug)]
pub enum Trouble {
    Failed { failure: Failure, may_have_acted: bool },
    DeadlinePassed,
}

/// Bytes to and from a server, in the clear or not.
#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Secure(Box<TlsStream>),
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Secure(stream) => &stream.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(buffer),
            Stream::Secure(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(bytes),
            Stream::Secure(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.flush(),
            Stream::Secure(stream) => stream.flush(),
        }
    }
}

#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    endpoint: Endpoint,
    pending: Vec<u8>,
    /// An answer has been read on it before.
    reused: bool,
}

enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

struct Head {
    status: u16,
    etcd_index: u64,
    reason: Option<String>,
    framing: Framing,
    closes: bool,
}

/// A system error the way Go words it: without the capital letter and the number.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "i/o timeout".into(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".into(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
        io::ErrorKind::ConnectionReset => "read: connection reset by peer".into(),
        _ => tls::words(error),
    }
}

impl Limits {
    /// The time left for the next step; an error when there is none.
    fn left(&self, per_request: Option<Duration>) -> Result<Option<Duration>, Trouble> {
        let until_deadline = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if until_deadline.is_some_and(|left| left.is_zero()) {
            return Err(Trouble::DeadlinePassed);
        }
        Ok([per_request, until_deadline].into_iter().flatten().min())
    }
}

/// The handshake of a fresh connection, each step of which may take `step_timeout`.
fn shake_hands(
    endpoint: &Endpoint,
    tls: &Tls,
    socket: TcpStream,
    step_timeout: Duration,
    limits: Limits,
) -> Result<TlsStream, Trouble> {
    let broken = |why: String| {
        let failure = Failure::Broken { endpoint: endpoint.to_string(), why };
        Trouble::Failed { failure, may_have_acted: false }
    };
    let mut stream = tls.begin(&endpoint.host, socket).map_err(&broken)?;
    while stream.conn.is_handshaking() {
        let timeout = limits.left(Some(step_timeout))?;
        let timed = stream.sock.set_read_timeout(timeout).and_then(|()| stream.sock.set_write_timeout(timeout));
        timed.map_err(|e| broken(plain(&e)))?;
        if let Err(e) = tls::step(&mut stream) {
            if e.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            limits.left(None)?;
            return Err(match e.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => broken("TLS handshake timeout".into()),
                _ => broken(tls::words(&e)),
            });
        }
    }
    Ok(stream)
}

impl Connection {
    /// Connects to `endpoint`, whose host name may have several addresses.
    pub fn open(
        endpoint: &Endpoint,
        tls: &Tls,
        connect_timeout: Duration,
        limits: Limits,
    ) -> Result<Connection, Trouble> {
        let failed = |failure| Trouble::Failed { failure, may_have_acted: false };
        if !matches!(endpoint.scheme.as_str(), "http" | "https") {
            let scheme = endpoint.scheme.clone();
            return Err(failed(Failure::Scheme { scheme }));
        }
        limits.left(None)?;
        let lookup = || failed(Failure::Lookup { host: endpoint.host.clone() });
        let addresses = (endpoint.host.as_str(), endpoint.port).to_socket_addrs().map_err(|_| lookup())?;
        let mut last = lookup();
        for address in addresses {
            let timeout = limits.left(Some(connect_timeout))?.unwrap_or(connect_timeout);
            match TcpStream::connect_timeout(&address, timeout) {
                Ok(socket) => {
                    // Without it a small request can wait for an acknowledgement; failing to set it harms nothing.
                    socket.set_nodelay(true).ok();
                    let stream = match endpoint.scheme.as_str() {
                        "https" => {
                            Stream::Secure(Box::new(shake_hands(endpoint, tls, socket, connect_timeout, limits)?))
                        }
                        _ => Stream::Plain(socket),
                    };
                    return Ok(Connection { stream, endpoint: endpoint.clone(), pending: Vec::new(), reused: false });
                }
                Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                    last = failed(Failure::HeaderTimeout { endpoint: endpoint.to_string() });
                }
                Err(e) => last = failed(Failure::Dial { address: address.to_string(), why: plain(&e) }),
            }
        }
        limits.left(None)?;
        Err(last)
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether this connection has been used before, so that its breaking may mean no more than an idle timeout.
    pub fn reused(&self) -> bool {
        self.reused
    }

    /// Sends `request` (complete bytes) and reads the answer. `Ok((answer, true))`: the connection can be used again.
    pub fn exchange(&mut self, request: &[u8], limits: Limits) -> Result<(Answer, bool), Trouble> {
        self.pending.clear();
        let timeout = limits.left(limits.per_request)?;
        let sent = self.send(request, timeout);
        sent.map_err(|e| self.broken(&e, true))?;
        let head = self.head(limits)?;
        let mut body = Vec::new();
        let keeps = self.body(&head.framing, &mut body, limits)? && !head.closes;
        self.reused = true;
        Ok((Answer { status: head.status, etcd_index: head.etcd_index, reason: head.reason, body }, keeps))
    }

    fn send(&mut self, request: &[u8], timeout: Option<Duration>) -> io::Result<()> {
        self.stream.socket().set_write_timeout(timeout)?;
        self.stream.write_all(request)?;
        self.stream.flush()
    }

    fn broken(&self, error: &io::Error, may_have_acted: bool) -> Trouble {
        let failure = Failure::Broken { endpoint: self.endpoint.to_string(), why: plain(error) };
        Trouble::Failed { failure, may_have_acted }
    }

    fn foreign(&self, why: &str) -> Trouble {
        let failure = Failure::Broken { endpoint: self.endpoint.to_string(), why: why.to_owned() };
        Trouble::Failed { failure, may_have_acted: true }
    }

    /// Reads more into `pending`; 0 at the end of the stream.
    fn fill(&mut self, per_request: Option<Duration>, limits: Limits) -> Result<usize, Trouble> {
        let timeout = limits.left(per_request)?;
        self.stream.socket().set_read_timeout(timeout).map_err(|e| self.broken(&e, true))?;
        let start = self.pending.len();
        self.pending.resize(start + READ_CHUNK, 0);
        loop {
            match self.stream.read(&mut self.pending[start..]) {
                Ok(read) => {
                    self.pending.truncate(start + read);
                    return Ok(read);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.pending.truncate(start);
                    if !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
                        return Err(self.broken(&e, true));
                    }
                    limits.left(None)?;
                    let failure = Failure::HeaderTimeout { endpoint: self.endpoint.to_string() };
                    return Err(Trouble::Failed { failure, may_have_acted: true });
                }
            }
        }
    }

    fn fill_more(&mut self, per_request: Option<Duration>, limits: Limits) -> Result<(), Trouble> {
        match self.fill(per_request, limits)? {
            0 => Err(self.foreign("unexpected EOF")),
            _ => Ok(()),
        }
    }

    fn head(&mut self, limits: Limits) -> Result<Head, Trouble> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut parsed = httparse::Response::new(&mut headers);
            let used = match parsed.parse(&self.pending) {
                Ok(httparse::Status::Complete(used)) => used,
                Ok(httparse::Status::Partial) if self.pending.len() > MAX_HEAD => {
                    return Err(self.foreign("the head of the answer is too large"));
                }
                Ok(httparse::Status::Partial) => {
                    let nothing_yet = self.pending.is_empty();
                    if self.fill(limits.per_request, limits)? == 0 {
                        return Err(self.foreign(if nothing_yet { "EOF" } else { "unexpected EOF" }));
                    }
                    continue;
                }
                Err(e) => return Err(self.foreign(&format!("malformed HTTP response: {e}"))),
            };
            let status = parsed.code.unwrap_or(0);
            let mut head = Head {
                status,
                etcd_index: 0,
                reason: None,
                framing: Framing::UntilClose,
                closes: parsed.version == Some(0),
            };
            for header in parsed.headers.iter() {
                let value = std::str::from_utf8(header.value).unwrap_or("").trim();
                match header.name.to_ascii_lowercase().as_str() {
                    "content-length" => match value.parse() {
                        Ok(length) => head.framing = Framing::Length(length),
                        Err(_) => return Err(self.foreign("malformed HTTP response: bad Content-Length")),
                    },
                    "transfer-encoding" => head.framing = Framing::Chunked,
                    "connection" => head.closes |= value.eq_ignore_ascii_case("close"),
                    "x-ringd-reason" => head.reason = Some(value.to_owned()),
                    "x-etcd-index" => head.etcd_index = value.parse().unwrap_or(0),
                    _ => {}
                }
            }
            self.pending.drain(..used);
            match status {
                100..200 => continue,
                204 | 304 => head.framing = Framing::Length(0),
                _ => {}
            }
            return Ok(head);
        }
    }

    /// Reads a body; `false` if the connection ended with it.
    fn body(&mut self, framing: &Framing, body: &mut Vec<u8>, limits: Limits) -> Result<bool, Trouble> {
        match *framing {
            Framing::Length(length) => self.take(length, body, limits).map(|()| true),
            Framing::UntilClose => loop {
                self.take(self.pending.len(), body, limits)?;
                if self.fill(None, limits)? == 0 {
                    return Ok(false);
                }
            },
            Framing::Chunked => loop {
                let line = self.line(limits)?;
                let digits = line.split(';').next().unwrap_or("").trim();
                let Ok(size) = usize::from_str_radix(digits, 16) else {
                    return Err(self.foreign("malformed chunked encoding"));
                };
                if size == 0 {
                    while !self.line(limits)?.is_empty() {}
                    return Ok(true);
                }
                self.take(size, body, limits)?;
                self.line(limits)?;
            },
        }
    }

    fn take(&mut self, mut length: usize, body: &mut Vec<u8>, limits: Limits) -> Result<(), Trouble> {
        if length > MAX_BODY - body.len().min(MAX_BODY) {
            return Err(self.foreign("the answer is too large"));
        }
        while length > 0 {
            if self.pending.is_empty() {
                self.fill_more(None, limits)?;
            }
            let part = length.min(self.pending.len());
            body.extend(self.pending.drain(..part));
            length -= part;
        }
        Ok(())
    }

    fn line(&mut self, limits: Limits) -> Result<String, Trouble> {
        loop {
            if let Some(end) = self.pending.windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8_lossy(&self.pending[..end]).into_owned();
                self.pending.drain(..end + 2);
                return Ok(line);
            }
            if self.pending.len() > MAX_HEAD {
                return Err(self.foreign("malformed chunked encoding"));
            }
            self.fill_more(None, limits)?;
        }
    }
}
