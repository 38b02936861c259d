//! More writes than a server can carry, offered whether it answers or not, and what everybody else notices meanwhile.
//!
//! Owns: the load, the probes beside it, and the figures. Touches: loopback sockets and `/proc`. Shared by the test and
//! by `benches/overload`. Must hold: the load has a rate of its own (a request that finds its connection blocked waits
//! in a bounded queue, and what does not fit there counts as withheld); every wait has an end.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Bytes that may wait for one blocked connection.
const QUEUE_BYTES_MAX: usize = 256 << 10;
/// Keys that are written: the store must not grow while it is measured.
const KEYS: u64 = 1000;
/// Between two rounds over the connections: the generator shares its core with other members.
const PAUSE: Duration = Duration::from_micros(500);
/// Between two requests of a probe: it shall see stalls, not be load.
const PROBE_PAUSE: Duration = Duration::from_millis(2);
/// Between two looks at the memory.
const LOOK: Duration = Duration::from_millis(100);
/// The longest one answer of a probe may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// What is offered.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub to: SocketAddr,
    pub connections: usize,
    pub value_bytes: usize,
    /// Requests without an answer per connection.
    pub depth: usize,
    /// Requests per second; as many as are taken, if infinite.
    pub rate: f64,
}

/// What became of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub sent: u64,
    /// Answered 200 or 201.
    pub accepted: u64,
    /// Answered 503.
    pub refused: u64,
    /// Answered otherwise.
    pub other: u64,
    /// Connections that broke.
    pub broken: u64,
    /// Due, and not even queued: their connections were blocked.
    pub withheld: u64,
    pub seconds: f64,
}

struct Lane {
    stream: TcpStream,
    out: VecDeque<u8>,
    /// The end of what was read, in which a status line may have begun.
    tail: Vec<u8>,
    waiting: usize,
}

fn open(to: SocketAddr) -> io::Result<Lane> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(Lane { stream, out: VecDeque::new(), tail: Vec::new(), waiting: 0 })
}

fn request(method: &str, key: &str, form: &str) -> Vec<u8> {
    format!(
        "{method} /v2/keys{key} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n\r\n{form}",
        form.len()
    )
    .into_bytes()
}

impl Lane {
    fn write(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match self.stream.write(self.out.as_slices().0) {
                Ok(sent) => drop(self.out.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Values hold nothing that looks like a status line, so that answers need no more reading than this.
    fn read(&mut self, chunk: &mut [u8], tally: &mut Tally) -> io::Result<()> {
        const MARK: &[u8] = b"HTTP/1.1 ";
        const LINE: usize = MARK.len() + 3;
        loop {
            let read = match self.stream.read(chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.tail.extend_from_slice(&chunk[..read]);
            let mut at = 0;
            while let Some(found) = memchr::memmem::find(&self.tail[at..], MARK).map(|found| at + found) {
                let Some(status) = self.tail.get(found + MARK.len()..found + LINE) else { break };
                match status {
                    b"200" | b"201" => tally.accepted += 1,
                    b"503" => tally.refused += 1,
                    _ => tally.other += 1,
                }
                self.waiting = self.waiting.saturating_sub(1);
                at = found + LINE;
            }
            let keep = (self.tail.len() - at).min(LINE - 1);
            self.tail.drain(..self.tail.len() - keep);
        }
    }
}

/// A load until it is told to stop.
pub struct Flood {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Tally>>,
}

impl Flood {
    pub fn start(load: Load) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        Self { stop, thread: thread::spawn(move || flood(load, &stopped)) }
    }

    pub fn stop(self) -> io::Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the load does not panic")
    }
}

fn flood(load: Load, stop: &AtomicBool) -> io::Result<Tally> {
    let lanes: io::Result<Vec<Lane>> = (0..load.connections).map(|_| open(load.to)).collect();
    let mut lanes = lanes?;
    let form = format!("value={}", "x".repeat(load.value_bytes));
    let requests: Vec<Vec<u8>> = (0..KEYS).map(|key| request("PUT", &format!("/flood/{key}"), &form)).collect();
    let (mut tally, begun, mut offered) = (Tally::default(), Instant::now(), 0u64);
    let mut chunk = vec![0; 256 << 10];
    while !stop.load(Ordering::Relaxed) {
        let due = if load.rate.is_finite() {
            ((begun.elapsed().as_secs_f64() * load.rate) as u64).saturating_sub(offered)
        } else {
            u64::MAX
        };
        let share = due.div_ceil(lanes.len() as u64);
        let mut left = due;
        for lane in &mut lanes {
            let mut mine = share.min(left);
            while mine > 0 && lane.waiting < load.depth && lane.out.len() < QUEUE_BYTES_MAX {
                lane.out.extend(&requests[(tally.sent % KEYS) as usize]);
                lane.waiting += 1;
                tally.sent += 1;
                (mine, left) = (mine - 1, left - 1);
            }
            if lane.write().and_then(|()| lane.read(&mut chunk, &mut tally)).is_err() {
                tally.broken += 1;
                *lane = open(load.to)?;
            }
        }
        if load.rate.is_finite() {
            offered += due;
            tally.withheld += left;
        }
        thread::sleep(PAUSE);
    }
    tally.seconds = begun.elapsed().as_secs_f64();
    Ok(tally)
}

/// One request after another on a connection of its own, timed.
pub struct Probe {
    stream: TcpStream,
    request: Vec<u8>,
}

impl Probe {
    pub fn open(to: SocketAddr, method: &str, form: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        Ok(Self { stream, request: request(method, "/probe", form) })
    }

    /// Milliseconds to the answer, and its status.
    pub fn ask(&mut self) -> io::Result<(f64, u16)> {
        let begun = Instant::now();
        self.stream.write_all(&self.request)?;
        let mut answer = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => answer.extend_from_slice(&chunk[..read]),
                // A process that was stopped for a while finds its waits interrupted.
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            let Some(end) = memchr::memmem::find(&answer, b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
            let length: usize = length.ok_or(ErrorKind::InvalidData)?;
            if answer.len() >= end + 4 + length {
                let status = head.get(9..12).and_then(|code| code.parse().ok()).ok_or(ErrorKind::InvalidData)?;
                return Ok((begun.elapsed().as_secs_f64() * 1e3, status));
            }
        }
    }
}

/// The answer to a GET, as text.
pub fn fetch(to: SocketAddr, target: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The value of a metric of one member; `NaN` when it has none.
pub fn metric(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(f64::NAN)
}

/// The value below which so much of the values lie.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
        .get(((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}

/// Resident memory of a process, bytes.
pub fn resident(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| kib * 1024.0)
}

/// What an overload run showed. Times in milliseconds, memory in bytes.
#[derive(Debug)]
pub struct Figures {
    pub tally: Tally,
    /// Largest resident memory of the member under load, and the one before.
    pub resident: f64,
    pub resident_before: f64,
    /// Terms of all members before and after.
    pub terms: (Vec<f64>, Vec<f64>),
    /// Ticks of the leader that were late.
    pub late_heartbeats: f64,
    /// GETs beside the load, in their order.
    pub gets: Vec<f64>,
    /// Median of PUTs before the load.
    pub put_before: f64,
    /// From the end of the load to the first PUT that took at most twice as long as those before.
    pub recovered_after: Option<Duration>,
}

/// Loads a leader for so long and looks on; `members` are all of the cluster.
pub fn overload(
    load: Load,
    pid: u32,
    members: &[SocketAddr],
    time: Duration,
    patience: Duration,
) -> io::Result<Figures> {
    const WARM: usize = 200;
    let terms = || -> io::Result<Vec<f64>> {
        members.iter().map(|&member| Ok(metric(&fetch(member, "/metrics")?, "ringd_raft_term"))).collect()
    };
    let late =
        || Ok::<f64, io::Error>(metric(&fetch(load.to, "/metrics")?, "etcd_server_heartbeat_send_failures_total"));
    let mut put = Probe::open(load.to, "PUT", "value=1")?;
    let mut before = Vec::new();
    for _ in 0..WARM {
        before.push(put.ask()?.0);
    }
    let put_before = quantile(&before, 0.5);
    let (terms_before, late_before, resident_before) = (terms()?, late()?, resident(pid));
    let mut get = Probe::open(load.to, "GET", "")?;
    let flood = Flood::start(load);
    let begun = Instant::now();
    let (mut gets, mut most, mut looked) = (Vec::new(), resident_before, begun);
    while begun.elapsed() < time {
        gets.push(get.ask()?.0);
        if looked.elapsed() >= LOOK {
            looked = Instant::now();
            most = most.max(resident(pid));
        }
        thread::sleep(PROBE_PAUSE);
    }
    // Its connections are closed with it: what they still had to say is nobody's.
    let tally = flood.stop()?;
    let ended = Instant::now();
    let recovered_after = loop {
        let (took, status) = put.ask()?;
        if took <= 2.0 * put_before && status < 300 {
            break Some(ended.elapsed());
        }
        if ended.elapsed() > patience {
            break None;
        }
    };
    let late_heartbeats = late()? - late_before;
    Ok(Figures {
        tally,
        resident: most,
        resident_before,
        terms: (terms_before, terms()?),
        late_heartbeats,
        gets,
        put_before,
        recovered_after,
    })
}
