//! What tests with real processes share: a server on free loopback ports, and a plain HTTP client.
//!
//! Must hold: a server is ended by its own id, also when the test fails; every wait has an end.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// The longest a server may take to answer its first request, also in a debug build on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);
/// The longest one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);
/// A log that did not grow for so long has been written as far as it goes.
const LOG_PAUSE: Duration = Duration::from_millis(40);
/// A log that never rests is read as it is.
const LOG_LOOKS: u32 = 5;

/// Where test servers listen: below the range from which the kernel takes the ports of outgoing connections, one of
/// which would otherwise sooner or later sit on a port that a killed server wants back.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// A port nobody listened on a moment ago, and that this process does not give out again soon.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let width = PORTS.end - PORTS.start;
    // Test binaries that run side by side begin at different places.
    let offset = (std::process::id() * 257 % u32::from(width)) as u16;
    (0..width)
        .map(|_| PORTS.start + (NEXT.fetch_add(1, Ordering::Relaxed) % width + offset) % width)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port on loopback")
}

/// The longest that anything may take which must happen at all, far beyond what a slow machine needs.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(30);

/// Waits until `ready` gives something.
pub fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(LOOK);
    }
}

/// Of how many snapshots a member has logged that they cover more than the entries up to `index`. Two are sure that the
/// log was cut behind the first of them.
pub fn snapshots_beyond(log: &str, index: u64) -> usize {
    snapshot_indexes(log).filter(|&covered| covered > index).count()
}

/// The entries up to which a member has logged that its snapshots go.
pub fn snapshot_indexes(log: &str) -> impl Iterator<Item = u64> {
    let told = log.split("saved snapshot at index ").skip(1);
    told.filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
}

/// Says that a test did not run, and why. Written past the test harness, which would swallow it.
pub fn skip(test: &str, why: &str) {
    let _ = writeln!(io::stderr(), "skipped {test}: {why}");
}

/// A real etcd, where one is installed that speaks v2 with the words of the one that tests were written from.
pub fn etcd_program() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    let etcd = std::env::split_paths(&paths).map(|dir| dir.join("etcd")).find(|file| file.is_file())?;
    let version = Command::new(&etcd).arg("--version").output().ok()?.stdout;
    String::from_utf8_lossy(&version).contains("etcd Version: 3.4.").then_some(etcd)
}

/// A program of another package of the workspace, which cargo does not build for a test: built here, with the profile
/// of this one. Answers where it is.
pub fn tool(package: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_BIN_EXE_ringd")).parent().expect("a program lies in a directory");
    let target_dir = dir.parent().expect("cargo's layout: TARGET_DIR/PROFILE/ringd");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--package", package, "--target-dir"]).arg(target_dir);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    if dir.file_name().is_some_and(|profile| profile == "release") {
        cargo.arg("--release");
    }
    let built = cargo.status().unwrap_or_else(|e| panic!("cannot run cargo to build {package}: {e}"));
    assert!(built.success(), "building {package} failed: {built}");
    dir.join(package)
}

/// Where and how a server runs; it can be started again and again on the same data.
pub struct Site {
    pub data_dir: PathBuf,
    pub client_port: u16,
    pub peer_port: u16,
    pub extra: Vec<String>,
    _scratch: Option<tempfile::TempDir>,
}

impl Site {
    /// A fresh data directory and ports.
    pub fn new() -> Self {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        Self {
            data_dir: scratch.path().join("data"),
            client_port: free_port(),
            peer_port: free_port(),
            extra: Vec::new(),
            _scratch: Some(scratch),
        }
    }

    /// A site whose data lies in a directory of the caller's.
    pub fn at(data_dir: &Path) -> Self {
        let mut site = Self::new();
        site.data_dir = data_dir.to_owned();
        site
    }

    /// The command line.
    pub fn command(&self) -> Command {
        let client = format!("http://127.0.0.1:{}", self.client_port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringd"));
        for name in std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("ETCD_")) {
            command.env_remove(name);
        }
        command.args(["--name", "default", "--data-dir"]).arg(&self.data_dir);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}")]);
        command.args(&self.extra);
        command
    }

    /// Starts a server and waits until it answers.
    pub fn start(&self) -> Server {
        self.started(self.spawn())
    }

    /// Waits until a server on this site's ports answers.
    pub fn started(&self, mut server: Server) -> Server {
        let begun = Instant::now();
        loop {
            if let Ok(mut client) = Client::open(self.client_port)
                && client.request("GET", "/v2/keys/", "").is_ok_and(|answer| answer.status == 200)
            {
                return server;
            }
            if let Some(status) = server.child.try_wait().expect("a child") {
                panic!("the server ended at start with {status}: {}", server.stderr());
            }
            assert!(begun.elapsed() < START_LIMIT, "the server did not answer in time: {}", server.stderr());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts a server without waiting.
    pub fn spawn(&self) -> Server {
        Server::spawn(self.command())
    }
}

/// A running server; killed when dropped.
pub struct Server {
    pub child: Child,
    log: tempfile::NamedTempFile,
}

impl Server {
    /// Runs a command line of ringd.
    pub fn spawn(mut command: Command) -> Self {
        let log = tempfile::NamedTempFile::new().expect("a log file");
        let stderr = log.reopen().expect("a log file");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn();
        Self { child: child.expect("ringd starts"), log }
    }

    /// Everything it has logged. While it lives, lines are written by a thread of its own, a moment after what they
    /// tell of: that moment is waited for.
    pub fn stderr(&self) -> String {
        let read = || std::fs::read_to_string(self.log.path()).unwrap_or_default();
        let mut log = read();
        for _ in 0..LOG_LOOKS {
            if self.has_ended() {
                return read();
            }
            std::thread::sleep(LOG_PAUSE);
            let before = log.len();
            log = read();
            if log.len() == before {
                break;
            }
        }
        log
    }

    /// `kill -9`, and wait until it is gone.
    pub fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&self) -> bool {
        std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))
            .map_or(true, |stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by number.
    pub fn signal(&self, signal: i32) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let signal = rustix::process::Signal::from_named_raw(signal).expect("a signal");
        rustix::process::kill_process(pid, signal).expect("kill");
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(begun.elapsed() < limit, "the server did not end in time: {}", self.stderr());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// `X-Etcd-Index`.
    pub fn etcd_index(&self) -> u64 {
        self.header("x-etcd-index").and_then(|value| value.parse().ok()).expect("X-Etcd-Index")
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }
}

/// A keep-alive connection.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects to a loopback port.
    pub fn open(port: u16) -> io::Result<Self> {
        Self::connect(SocketAddr::from(([127, 0, 0, 1], port)), REQUEST_LIMIT)
    }

    /// Connects anywhere; neither that nor an answer may take longer than `limit`.
    pub fn connect(address: SocketAddr, limit: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, limit)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Sends a request with a form body and reads the answer.
    pub fn request(&mut self, method: &str, path: &str, form: &str) -> io::Result<Answer> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {}\r\n\r\n{form}",
            form.len()
        );
        self.send(head.as_bytes())?;
        self.receive(method == "HEAD")
    }

    /// Sends raw bytes.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// What has arrived and was not taken as an answer.
    pub fn take_buffer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut chunk = [0; 64 << 10];
        let read = loop {
            // A process that was stopped for a while finds its waits interrupted.
            match self.stream.read(&mut chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.buffer.extend_from_slice(&chunk[..read]);
        Ok(())
    }

    fn take(&mut self, bytes: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < bytes {
            self.fill()?;
        }
        let rest = self.buffer.split_off(bytes);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    fn take_line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.take(at + 2)?;
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            self.fill()?;
        }
    }

    /// Reads one answer, chunked or with a length.
    pub fn receive(&mut self, head_only: bool) -> io::Result<Answer> {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.fill()?;
        };
        let head = String::from_utf8_lossy(&self.take(end)?).into_owned();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        let mut answer = Answer { status, head, body: Vec::new() };
        if head_only || status == 204 || status == 100 {
            return Ok(answer);
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = usize::from_str_radix(&self.take_line()?, 16).map_err(|_| io::ErrorKind::InvalidData)?;
                let chunk = self.take(size + 2)?;
                answer.body.extend_from_slice(&chunk[..size]);
                if size == 0 {
                    return Ok(answer);
                }
            }
        }
        let length = answer.header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
        answer.body = self.take(length)?;
        Ok(answer)
    }

    /// Whether the server has closed the connection (waits for it).
    pub fn is_closed(&mut self) -> bool {
        matches!(self.fill(), Err(error) if error.kind() == io::ErrorKind::UnexpectedEof
            || error.kind() == io::ErrorKind::ConnectionReset)
    }
}
