//! Clients by the thousand: plain blocking sockets, because almost all of them wait.
//!
//! Owns: sockets and what is read from them. Touches: loopback only, from several source addresses, since one has
//! fewer ports than clients are wanted. Always: a read has an end, so a server that hangs is an error.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, bind, connect, ipproto, socket};

use crate::{DRIBBLING, Error, ROUNDS};

/// Connections from one source address: well below the ephemeral ports (28,232 by default). A port that was used is
/// not free for a minute, so rounds use addresses of their own.
pub const PER_ADDRESS: usize = 20_000;
/// The longest a measurement waits for one answer.
const READ_LIMIT: Duration = Duration::from_secs(60);

/// One keep-alive connection.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    /// The `number`th connection to the server.
    pub fn open(server: SocketAddr, number: usize) -> Result<Client, Error> {
        let host = u8::try_from(1 + number / PER_ADDRESS)?;
        let socket = socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::TCP))?;
        bind(&socket, &SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0)))?;
        connect(&socket, &server)?;
        let stream = TcpStream::from(socket);
        assert!(matches!(stream.peer_addr()?.ip(), IpAddr::V4(ip) if ip.is_loopback()), "loopback only");
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_LIMIT))?;
        Ok(Client { stream, buffer: Vec::new() })
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub fn get(&mut self, target: &str) -> io::Result<()> {
        self.send(request("GET", target, "").as_bytes())
    }

    pub fn put(&mut self, key: &str, form: &str) -> io::Result<()> {
        self.send(request("PUT", key, form).as_bytes())
    }

    /// Reads more into the buffer.
    fn fill(&mut self) -> io::Result<()> {
        let mut chunk = [0; 64 << 10];
        match self.stream.read(&mut chunk)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.buffer.extend_from_slice(&chunk[..read]);
                Ok(())
            }
        }
    }

    /// Reads up to and including `mark`.
    fn take_until(&mut self, mark: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.buffer, mark) {
                let rest = self.buffer.split_off(at + mark.len());
                return Ok(std::mem::replace(&mut self.buffer, rest));
            }
            self.fill()?;
        }
    }

    /// Reads a head, and says its status.
    pub fn head(&mut self) -> io::Result<(u16, Vec<u8>)> {
        let head = self.take_until(b"\r\n\r\n")?;
        let status = head.get(9..12).and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
        Ok((status.ok_or(io::ErrorKind::InvalidData)?, head))
    }

    /// Reads an answer with a length, and says its status.
    pub fn answer(&mut self) -> io::Result<u16> {
        let (status, head) = self.head()?;
        self.skip_body(&head).map(|()| status)
    }

    /// Reads an answer with a length, and says its `X-Etcd-Index`.
    pub fn index(&mut self) -> io::Result<u64> {
        let (_, head) = self.head()?;
        self.skip_body(&head)?;
        Ok(number_of(&head, b"X-Etcd-Index: "))
    }

    fn skip_body(&mut self, head: &[u8]) -> io::Result<()> {
        let length = number_of(head, b"Content-Length: ") as usize;
        while self.buffer.len() < length {
            self.fill()?;
        }
        self.buffer.drain(..length);
        Ok(())
    }

    /// Reads the single event of a long poll to the end of its answer.
    pub fn event(&mut self) -> io::Result<Vec<u8>> {
        self.take_until(b"0\r\n\r\n")
    }
}

/// The number behind a header's name; 0 when there is none.
fn number_of(head: &[u8], name: &[u8]) -> u64 {
    let digits = memchr::memmem::find(head, name).map(|at| &head[at + name.len()..]).unwrap_or_default();
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

/// As Go's client sends it.
pub fn request(method: &str, key: &str, form: &str) -> String {
    let body = if form.is_empty() {
        String::new()
    } else {
        format!("Content-Length: {}\r\nContent-Type: application/x-www-form-urlencoded\r\n", form.len())
    };
    format!(
        "{method} /v2/keys{key} HTTP/1.1\r\nHost: 127.0.0.1:2379\r\nUser-Agent: Go-http-client/1.1\r\n{body}\
         Accept-Encoding: gzip\r\n\r\n{form}"
    )
}

/// One request after another, alternating reads and writes, each timed, until it is told to stop.
pub struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Vec<Taken>>>,
}

/// When a request began and how long its answer took.
pub type Taken = (Instant, Duration);

/// Between two requests of a probe: it shall see stalls, not be load.
const PROBE_PAUSE: Duration = Duration::from_micros(200);

impl Probe {
    pub fn start(server: SocketAddr, writes: bool) -> Result<Probe, Error> {
        let mut client = Client::open(server, 0)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut taken = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                if writes {
                    client.put("/probe", "value=1")?;
                } else {
                    client.get("/probe")?;
                }
                client.answer()?;
                taken.push((begun, begun.elapsed()));
                std::thread::sleep(PROBE_PAUSE);
            }
            Ok(taken)
        });
        Ok(Probe { stop, thread })
    }

    /// Ends it, and gives all it has seen.
    pub fn stop(self) -> Result<Vec<Taken>, Error> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.thread.join().map_err(|_| "the probe panicked")??)
    }
}

/// The latencies of the requests that overlap the window, in microseconds, sorted.
pub fn within(taken: &[Taken], from: Instant, to: Instant) -> Vec<f64> {
    let inside = taken.iter().filter(|(begun, took)| *begun <= to && *begun + *took >= from);
    let mut micros: Vec<f64> = inside.map(|(_, took)| took.as_secs_f64() * 1e6).collect();
    micros.sort_by(f64::total_cmp);
    micros
}

/// The value below which `share` of the sorted values lie.
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get(((last as f64) * share).round() as usize).copied()
}

/// Clients that each send a byte of an endless head every second.
pub struct Dribble {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<()>>,
}

impl Dribble {
    /// To the server.
    pub fn start(server: SocketAddr) -> Result<Dribble, Error> {
        let clients: Result<Vec<Client>, Error> =
            (0..DRIBBLING).map(|_| Client::open(server, (ROUNDS + 1) * PER_ADDRESS)).collect();
        Dribble::run(clients?, Vec::new())
    }

    /// To sockets that nobody reads: what these clients themselves cost the clients beside them.
    pub fn start_aside() -> Result<Dribble, Error> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let mut held = Vec::with_capacity(DRIBBLING);
        let open = |_| {
            let client = Client::open(address, (ROUNDS + 1) * PER_ADDRESS)?;
            held.push(listener.accept()?.0);
            Ok(client)
        };
        let clients: Result<Vec<Client>, Error> = (0..DRIBBLING).map(open).collect();
        Dribble::run(clients?, held)
    }

    fn run(mut clients: Vec<Client>, held: Vec<TcpStream>) -> Result<Dribble, Error> {
        for client in &mut clients {
            client.send(b"GET /v2/keys/probe HTTP/1.1\r\nHost: x\r\nX-Slow: ")?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let pause = Duration::from_secs(1) / u32::try_from(DRIBBLING).expect("some thousands");
            for client in (0..DRIBBLING).cycle() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                clients[client].send(b"x")?;
                std::thread::sleep(pause);
            }
            drop(held);
            Ok(())
        });
        Ok(Dribble { stop, thread })
    }

    pub fn stop(self) -> Result<(), Error> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.thread.join().map_err(|_| "a client panicked")??)
    }
}
