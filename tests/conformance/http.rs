//! The HTTP/1.1 the cases speak: requests sent byte for byte as a case writes them, answers read whole or left open.
//!
//! Owns: sockets to the server under test. Touches: loopback only. Always: a request that cannot be answered ends in
//! an error within its timeout, and a watch left open is shut down by `Watch::close` or when it is dropped.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// Answers of the cases have about ten headers.
const MAX_HEADERS: usize = 64;
const READ_CHUNK: usize = 64 * 1024;

/// A request, ready to be sent.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Path and query, sent as they are.
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Option<Vec<u8>>,
}

/// A complete answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    /// Names as sent; the first of several equal ones counts.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// The body as text; bytes that are not UTF-8 show as `\xNN`.
    pub fn text(&self) -> String {
        readable(&self.body)
    }
}

/// Bytes as text, with `\xNN` for what is not UTF-8.
pub fn readable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|b| text.push_str(&format!("\\x{b:02x}")));
    }
    text
}

/// One connection; requests on it follow each other.
pub struct Connection {
    stream: TcpStream,
    host_port: String,
    /// Read but not yet used.
    pending: Vec<u8>,
}

enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

impl Connection {
    pub fn open(host_port: &str, timeout: Duration) -> io::Result<Connection> {
        let address = host_port.parse().map_err(|_| io::Error::other(format!("not an address: {host_port}")))?;
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, host_port: host_port.to_owned(), pending: Vec::new() })
    }

    /// Sends `request`. A server may answer and hang up before it has read a large body: that is no error here.
    pub fn send(&mut self, request: &Request) -> io::Result<()> {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", request.method, request.path, self.host_port);
        for (name, value) in &request.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let has_length = request.headers.iter().any(|(k, _)| k.eq_ignore_ascii_case("content-length"));
        let length = match &request.body {
            Some(body) => Some(body.len()),
            None => matches!(request.method.as_str(), "PUT" | "POST").then_some(0),
        };
        if let Some(length) = length.filter(|_| !has_length) {
            head.push_str(&format!("Content-Length: {length}\r\n"));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(request.body.as_deref().unwrap_or_default());
        match self.stream.write_all(&bytes) {
            Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(()),
            other => other,
        }
    }

    /// Reads one whole answer to a request made with `method`.
    pub fn receive(&mut self, method: &str) -> io::Result<Answer> {
        let (mut answer, framing) = self.head(method)?;
        self.body(framing, |bytes| answer.body.extend_from_slice(bytes))?;
        Ok(answer)
    }

    fn fill(&mut self) -> io::Result<usize> {
        let start = self.pending.len();
        self.pending.resize(start + READ_CHUNK, 0);
        let read = self.stream.read(&mut self.pending[start..]);
        self.pending.truncate(start + *read.as_ref().unwrap_or(&0));
        read
    }

    fn fill_more(&mut self) -> io::Result<()> {
        match self.fill()? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
            _ => Ok(()),
        }
    }

    fn head(&mut self, method: &str) -> io::Result<(Answer, Framing)> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut parsed = httparse::Response::new(&mut headers);
            let outcome = parsed.parse(&self.pending).map_err(|e| io::Error::other(format!("bad answer: {e}")))?;
            let httparse::Status::Complete(used) = outcome else {
                self.fill_more()?;
                continue;
            };
            let status = parsed.code.unwrap_or(0);
            let headers = parsed.headers.iter().map(|h| (h.name.to_owned(), readable(h.value))).collect();
            let answer = Answer { status, headers, body: Vec::new() };
            self.pending.drain(..used);
            if (100..200).contains(&status) {
                continue;
            }
            let chunked = answer.header("Transfer-Encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"));
            let length = answer.header("Content-Length").and_then(|v| v.parse().ok());
            let framing = match length {
                _ if method == "HEAD" || status == 204 || status == 304 => Framing::Length(0),
                _ if chunked => Framing::Chunked,
                Some(length) => Framing::Length(length),
                None => Framing::UntilClose,
            };
            return Ok((answer, framing));
        }
    }

    fn body(&mut self, framing: Framing, mut sink: impl FnMut(&[u8])) -> io::Result<()> {
        match framing {
            Framing::Length(length) => self.exactly(length, &mut sink),
            Framing::UntilClose => loop {
                sink(&self.pending);
                self.pending.clear();
                if self.fill()? == 0 {
                    return Ok(());
                }
            },
            Framing::Chunked => loop {
                let line = self.line()?;
                let digits = line.split(';').next().unwrap_or("").trim();
                let size = usize::from_str_radix(digits, 16)
                    .map_err(|_| io::Error::other(format!("bad chunk size {line:?}")))?;
                if size == 0 {
                    while !self.line()?.is_empty() {}
                    return Ok(());
                }
                self.exactly(size, &mut sink)?;
                self.line()?;
            },
        }
    }

    fn exactly(&mut self, mut length: usize, sink: &mut impl FnMut(&[u8])) -> io::Result<()> {
        while length > 0 {
            if self.pending.is_empty() {
                self.fill_more()?;
            }
            let take = length.min(self.pending.len());
            sink(&self.pending[..take]);
            self.pending.drain(..take);
            length -= take;
        }
        Ok(())
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.pending.windows(2).position(|w| w == b"\r\n") {
                let line = readable(&self.pending[..end]);
                self.pending.drain(..end + 2);
                return Ok(line);
            }
            self.fill_more()?;
        }
    }
}

/// One request on a connection of its own.
pub fn once(host_port: &str, request: &Request, timeout: Duration) -> io::Result<Answer> {
    let mut connection = Connection::open(host_port, timeout)?;
    connection.send(request)?;
    connection.receive(&request.method)
}

/// What a background request has produced so far.
#[derive(Default)]
pub struct Progress {
    pub answer: Answer,
    pub got_headers: bool,
    pub done: bool,
    pub error: Option<String>,
}

impl Progress {
    /// The complete lines received so far (an incomplete last one counts once the answer has ended).
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<&[u8]> = self.answer.body.split(|b| *b == b'\n').collect();
        if !self.done || lines.last().is_some_and(|l| l.is_empty()) {
            lines.pop();
        }
        lines.into_iter().map(readable).collect()
    }
}

struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
}

/// A request left running in the background.
pub struct Watch {
    pub stream: bool,
    pub path: String,
    shared: Arc<Shared>,
    socket: TcpStream,
}

impl Watch {
    /// Starts `request` and waits up to `settle` for its headers: from then on the server has it waiting.
    pub fn start(host_port: &str, request: Request, settle: Duration) -> io::Result<Watch> {
        let mut connection = Connection::open(host_port, Duration::from_secs(60))?;
        let socket = connection.stream.try_clone()?;
        let shared = Arc::new(Shared { progress: Mutex::default(), changed: Condvar::new() });
        let (theirs, path) = (Arc::clone(&shared), request.path.clone());
        thread::spawn(move || {
            let outcome = Watch::run(&mut connection, &request, &theirs);
            let mut progress = theirs.progress.lock().expect("no panic while holding it");
            progress.error = outcome.err().map(|e| e.to_string());
            progress.done = true;
            theirs.changed.notify_all();
        });
        let watch = Watch { stream: path.contains("stream=true"), path, shared, socket };
        drop(watch.wait(settle, |p| p.got_headers || p.done));
        // The server registers the watcher just before or just after it sends the headers.
        thread::sleep(Duration::from_millis(50));
        Ok(watch)
    }

    fn run(connection: &mut Connection, request: &Request, shared: &Shared) -> io::Result<()> {
        connection.send(request)?;
        let (answer, framing) = connection.head(&request.method)?;
        let update = |change: &mut dyn FnMut(&mut Progress)| {
            change(&mut shared.progress.lock().expect("no panic while holding it"));
            shared.changed.notify_all();
        };
        update(&mut |p| {
            p.answer = answer.clone();
            p.got_headers = true;
        });
        connection.body(framing, |bytes| update(&mut |p| p.answer.body.extend_from_slice(bytes)))
    }

    /// Waits until `enough` holds, at most `limit`; returns the state either way.
    pub fn wait(&self, limit: Duration, enough: impl Fn(&Progress) -> bool) -> MutexGuard<'_, Progress> {
        let until = Instant::now() + limit;
        let mut progress = self.shared.progress.lock().expect("no panic while holding it");
        while !enough(&progress) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            progress = self.shared.changed.wait_timeout(progress, left).expect("no panic while holding it").0;
        }
        progress
    }

    /// Hangs up and waits for the background thread.
    pub fn close(&self) {
        // A socket the server has already closed cannot be shut down: nothing is left to do then.
        self.socket.shutdown(Shutdown::Both).ok();
        drop(self.wait(Duration::from_secs(2), |p| p.done));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.close();
    }
}
