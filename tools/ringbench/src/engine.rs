//! The load generator: one thread, one epoll, one request under way per connection.
//!
//! Owns: the connections and the measurement. Touches: sockets to the target, `/proc` for the server's CPU time.
//! Always: latency runs from the write of a request to the last byte of its answer; only 2xx answers count as
//! completed; a connection that breaks or stalls is counted as an error and replaced.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Registry, Token};

use crate::process;
use crate::progress::Progress;
use crate::response::{Scan, scan};
use crate::rng::Rng;
use crate::stream::{Secure, Stream};
use crate::template::Template;

/// A request without an answer for this long is an error.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How often stalled connections are looked for.
const STALL_CHECK: Duration = Duration::from_secs(1);
/// Longest sleep without an event: the end and the progress line must not come much later than they are due.
const SLEEP_MAX: Duration = Duration::from_millis(50);
/// Room for an ordinary answer; grows for larger ones.
const BUFFER: usize = 4096;
/// Reconnecting more often than this means that the server is gone.
const MAX_RECONNECTS: u64 = 10_000;
/// Latencies are kept to 3 digits up to this many nanoseconds.
const MAX_LATENCY_NS: u64 = 60_000_000_000;

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("cannot find {host}: {why}")]
    UnknownHost { host: String, why: String },
    #[error("cannot connect to {address}: {source} (is the server running there?)")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("{0}")]
    Tls(String),
    #[error("cannot wait for sockets: {0}")]
    Poll(io::Error),
    #[error("the server at {address} keeps closing connections ({errors})")]
    ServerGone { address: SocketAddr, errors: String },
    #[error("writing the key space failed ({errors}); reads would miss")]
    FillFailed { errors: String },
    #[error("no request was answered with 2xx ({errors})")]
    NothingCompleted { errors: String },
    #[error("there is no process {pid} to read the CPU time of")]
    NoSuchProcess { pid: u32 },
}

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub enum Stop {
    /// Random keys for `warmup` uncounted and `duration` counted.
    After { warmup: Duration, duration: Duration },
    /// Every key of the key space once, in order.
    EachKeyOnce,
}

/// What to do.
pub struct Plan {
    pub template: Template,
    pub address: SocketAddr,
    /// `None` for plain HTTP.
    pub secure: Option<Secure>,
    /// Each request on a connection of its own.
    pub new_connections: bool,
    /// Requests per second of all connections together; `None` for as many as are answered.
    pub rate: Option<f64>,
    pub clients: usize,
    pub seed: u64,
    pub stop: Stop,
    /// Ask for events again and again instead of sleeping until there are some.
    pub spin: bool,
    pub server_pid: Option<u32>,
    pub label: &'static str,
}

/// Everything that did not end in a 2xx answer.
#[derive(Clone, Debug, Default)]
pub struct Errors {
    pub by_status: BTreeMap<u16, u64>,
    /// Broken connections and answers that are no HTTP.
    pub connection: u64,
    pub timeout: u64,
}

impl Errors {
    pub fn total(&self) -> u64 {
        self.by_status.values().sum::<u64>() + self.connection + self.timeout
    }

    /// `2 x 404, 1 x timeout`, or `none`.
    pub fn summary(&self) -> String {
        let statuses = self.by_status.iter().map(|(status, n)| format!("{n} x {status}"));
        let others = [(self.connection, "connection"), (self.timeout, "timeout")];
        let others = others.iter().filter(|(n, _)| *n > 0).map(|(n, name)| format!("{n} x {name}"));
        let all: Vec<String> = statuses.chain(others).collect();
        if all.is_empty() { "none".into() } else { all.join(", ") }
    }
}

/// What came out.
#[derive(Debug)]
pub struct Measured {
    /// Answers with 2xx.
    pub completed: u64,
    pub elapsed: Duration,
    /// Nanoseconds.
    pub latency: Histogram<u64>,
    pub errors: Errors,
    /// CPU time of the server during the measurement.
    pub server_cpu: Option<Duration>,
}

struct Connection {
    stream: Stream,
    /// The answer as far as it has been read.
    buffer: Vec<u8>,
    filled: usize,
    /// What a full socket buffer has left unwritten.
    unsent: Vec<u8>,
    sent_at: Instant,
    /// A request is under way.
    busy: bool,
}

enum Next {
    Keep,
    /// It broke, or the server ended it.
    Replace,
    /// It has served the one request it was for.
    Done,
}

struct Engine<'a> {
    plan: &'a Plan,
    template: Template,
    rng: Rng,
    measured: Measured,
    reconnects: u64,
    /// Keys handed out so far, when each is used once.
    handed_out: usize,
    finished: usize,
    /// No request is sent any more.
    closing: bool,
    pace: Option<Pace>,
}

/// When requests are due, and which connections have none under way.
struct Pace {
    next: Instant,
    interval: Duration,
    idle: Vec<usize>,
}

/// Carries out `plan`.
pub fn run(plan: &Plan) -> Result<Measured, BenchError> {
    let mut poll = Poll::new().map_err(BenchError::Poll)?;
    let mut events = Events::with_capacity(1024);
    let start = Instant::now();
    let mut engine = Engine {
        plan,
        template: plan.template.clone(),
        rng: Rng::new(plan.seed),
        measured: fresh(start.elapsed()),
        reconnects: 0,
        handed_out: 0,
        finished: 0,
        closing: false,
        pace: plan.rate.map(|rate| Pace {
            next: start,
            interval: Duration::from_secs_f64(1.0 / rate),
            idle: Vec::new(),
        }),
    };
    // The first connection is made the slow way: an unreachable server is reported as such, not as n broken ones.
    drop(connect_once(plan.address)?);
    let clients = match plan.stop {
        Stop::After { .. } => plan.clients,
        Stop::EachKeyOnce => plan.clients.min(plan.template.keys()),
    };
    let mut connections = Vec::with_capacity(clients);
    for i in 0..clients {
        connections.push(open(poll.registry(), plan, i)?);
    }
    let (warmup, duration) = match plan.stop {
        Stop::After { warmup, duration } => (warmup, duration),
        Stop::EachKeyOnce => (Duration::ZERO, Duration::MAX),
    };
    let mut progress = Progress::new(plan.label, start);
    let mut measuring_since: Option<Instant> = None;
    let mut cpu_before = None;
    let mut next_check = start + STALL_CHECK;
    match &mut engine.pace {
        Some(pace) => pace.idle.extend(0..clients),
        None => connections.iter_mut().for_each(|connection| engine.send(connection, start)),
    }
    loop {
        let now = Instant::now();
        if measuring_since.is_none() && now.duration_since(start) >= warmup {
            cpu_before = match plan.server_pid {
                Some(pid) => Some(process::cpu_time(pid).ok_or(BenchError::NoSuchProcess { pid })?),
                None => None,
            };
            engine.measured = fresh(Duration::ZERO);
            measuring_since = Some(Instant::now());
        }
        let elapsed = measuring_since.map(|since| now.saturating_duration_since(since));
        let over = match plan.stop {
            Stop::After { .. } => elapsed.is_some_and(|e| e >= duration),
            Stop::EachKeyOnce => engine.finished >= plan.template.keys(),
        };
        if over {
            let cpu_after = plan.server_pid.and_then(process::cpu_time);
            engine.measured.server_cpu = cpu_after.zip(cpu_before).map(|(after, before)| after.saturating_sub(before));
            engine.measured.elapsed = elapsed.unwrap_or_default();
            return Ok(engine.measured);
        }
        let share = match plan.stop {
            Stop::After { .. } => now.duration_since(start).as_secs_f64() / (warmup + duration).as_secs_f64(),
            Stop::EachKeyOnce => engine.finished as f64 / plan.template.keys() as f64,
        };
        progress.at(now, share, || format!("{} requests", engine.measured.completed));
        let sleep = engine.begin_due(poll.registry(), &mut connections, now)?;
        match poll.poll(&mut events, Some(if plan.spin { Duration::ZERO } else { sleep })) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(BenchError::Poll(e)),
            _ => {}
        }
        for event in &events {
            let index = event.token().0;
            let connection = &mut connections[index];
            let was_busy = connection.busy;
            match engine.serve(connection, event.is_writable(), event.is_readable()) {
                Next::Replace => engine.replace(poll.registry(), connection, index)?,
                Next::Done if plan.rate.is_none() => {
                    engine.renew(poll.registry(), connection, index, Instant::now())?
                }
                Next::Keep | Next::Done => {}
            }
            engine.rest(connection, was_busy, index);
        }
        if now >= next_check {
            next_check = now + STALL_CHECK;
            for (index, connection) in connections.iter_mut().enumerate() {
                if connection.busy && now.saturating_duration_since(connection.sent_at) > REQUEST_TIMEOUT {
                    engine.measured.errors.timeout += 1;
                    engine.finished += 1;
                    engine.replace(poll.registry(), connection, index)?;
                    engine.rest(connection, true, index);
                }
            }
        }
    }
}

fn fresh(elapsed: Duration) -> Measured {
    let latency = Histogram::new_with_bounds(1, MAX_LATENCY_NS, 3).expect("constant bounds are valid");
    Measured { completed: 0, elapsed, latency, errors: Errors::default(), server_cpu: None }
}

fn connect_once(address: SocketAddr) -> Result<std::net::TcpStream, BenchError> {
    std::net::TcpStream::connect_timeout(&address, REQUEST_TIMEOUT)
        .map_err(|source| BenchError::Connect { address, source })
}

fn open(registry: &Registry, plan: &Plan, index: usize) -> Result<Connection, BenchError> {
    let address = plan.address;
    let failed = |source| BenchError::Connect { address, source };
    let mut stream = Stream::new(connect_once(address)?, plan.secure.as_ref()).map_err(failed)?;
    registry.register(stream.socket(), Token(index), Interest::READABLE | Interest::WRITABLE).map_err(failed)?;
    let buffer = vec![0; BUFFER];
    Ok(Connection { stream, buffer, filled: 0, unsent: Vec::new(), sent_at: Instant::now(), busy: false })
}

impl Engine<'_> {
    /// Sends the requests that are due, as far as connections are free; how long there is nothing to do.
    fn begin_due(
        &mut self,
        registry: &Registry,
        connections: &mut [Connection],
        now: Instant,
    ) -> Result<Duration, BenchError> {
        loop {
            let Some(pace) = &mut self.pace else { return Ok(SLEEP_MAX) };
            if pace.next > now {
                return Ok(SLEEP_MAX.min(pace.next - now));
            }
            let Some(index) = pace.idle.pop() else { return Ok(SLEEP_MAX) };
            pace.next += pace.interval;
            let connection = &mut connections[index];
            if self.plan.new_connections {
                self.renew(registry, connection, index, now)?;
            } else {
                self.send(connection, now);
            }
        }
    }

    /// A connection whose request is over is free for the next one that is due.
    fn rest(&mut self, connection: &Connection, was_busy: bool, index: usize) {
        if let Some(pace) = &mut self.pace
            && was_busy
            && !connection.busy
        {
            pace.idle.push(index);
        }
    }

    /// Writes the next request, if there is one.
    fn send(&mut self, connection: &mut Connection, now: Instant) {
        let key = match self.plan.stop {
            Stop::After { .. } => self.rng.below(self.template.keys()),
            Stop::EachKeyOnce => {
                self.closing = self.handed_out >= self.template.keys();
                self.handed_out += 1;
                self.handed_out - 1
            }
        };
        connection.busy = !self.closing;
        if self.closing {
            return;
        }
        connection.sent_at = now;
        let request = self.template.request(key);
        // A full or a broken socket: the rest is tried again when it turns writable, and fails there if it must.
        let written = connection.stream.write(request).unwrap_or(0);
        connection.unsent.clear();
        connection.unsent.extend_from_slice(&request[written..]);
    }

    /// Handles one event of a connection.
    fn serve(&mut self, connection: &mut Connection, writable: bool, readable: bool) -> Next {
        if connection.stream.stir().is_err() {
            return self.broken(connection);
        }
        if writable && !connection.unsent.is_empty() {
            match connection.stream.write(&connection.unsent) {
                Ok(written) => drop(connection.unsent.drain(..written)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return self.broken(connection),
            }
        }
        if !readable {
            return Next::Keep;
        }
        loop {
            if connection.filled == connection.buffer.len() {
                connection.buffer.resize(2 * connection.filled, 0);
            }
            let room = connection.buffer.len() - connection.filled;
            let read = match connection.stream.read(&mut connection.buffer[connection.filled..]) {
                Ok(0) => return self.broken(connection),
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Next::Keep,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return self.broken(connection),
            };
            connection.filled += read;
            match scan(&connection.buffer[..connection.filled]) {
                Scan::Incomplete => {}
                Scan::Bad => return self.broken(connection),
                Scan::Complete(answer) if connection.busy && answer.length == connection.filled => {
                    let now = Instant::now();
                    self.count(answer.status, now.saturating_duration_since(connection.sent_at));
                    connection.filled = 0;
                    connection.busy = false;
                    if self.plan.new_connections {
                        return Next::Done;
                    }
                    if answer.closes {
                        return Next::Replace;
                    }
                    if self.pace.is_none() {
                        self.send(connection, now);
                    }
                }
                Scan::Complete(_) => return self.broken(connection), // an answer nobody asked for
            }
            if read < room && connection.stream.short_read_empties() {
                // A short read has emptied the socket, so the next arrival raises a new edge: no second read needed.
                return Next::Keep;
            }
        }
    }

    fn count(&mut self, status: u16, latency: Duration) {
        self.finished += 1;
        if (200..300).contains(&status) {
            self.measured.completed += 1;
            let nanos = u64::try_from(latency.as_nanos()).unwrap_or(MAX_LATENCY_NS).clamp(1, MAX_LATENCY_NS);
            self.measured.latency.record(nanos).expect("the value was clamped to the bounds");
        } else {
            *self.measured.errors.by_status.entry(status).or_default() += 1;
        }
    }

    fn broken(&mut self, connection: &Connection) -> Next {
        if connection.busy {
            self.measured.errors.connection += 1;
            self.finished += 1;
        }
        Next::Replace
    }

    fn replace(&mut self, registry: &Registry, connection: &mut Connection, index: usize) -> Result<(), BenchError> {
        self.reconnects += 1;
        if self.reconnects > MAX_RECONNECTS {
            let errors = self.measured.errors.summary();
            return Err(BenchError::ServerGone { address: self.plan.address, errors });
        }
        if self.pace.is_some() {
            self.reopen(registry, connection, index)
        } else {
            self.renew(registry, connection, index, Instant::now())
        }
    }

    fn reopen(&mut self, registry: &Registry, connection: &mut Connection, index: usize) -> Result<(), BenchError> {
        // Closing the old socket takes it out of the epoll as well; an error here changes nothing.
        registry.deregister(connection.stream.socket()).ok();
        *connection = open(registry, self.plan, index)?;
        Ok(())
    }

    /// Sends the next request on a fresh connection.
    fn renew(
        &mut self,
        registry: &Registry,
        connection: &mut Connection,
        index: usize,
        since: Instant,
    ) -> Result<(), BenchError> {
        self.reopen(registry, connection, index)?;
        self.send(connection, since);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::template::{Kind, Shape};

    /// Answers every request on every connection with `answer`; hangs up after `per_connection` of them.
    fn serve(answer: &'static [u8], per_connection: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || {
                    let (mut stream, mut request) = (stream, [0; 4096]);
                    for _ in 0..per_connection {
                        // Requests of these tests fit one read.
                        match stream.read(&mut request) {
                            Ok(1..) if stream.write_all(answer).is_ok() => {}
                            _ => return,
                        }
                    }
                });
            }
        });
        address
    }

    fn each_key_once(address: SocketAddr, keys: usize) -> Result<Measured, BenchError> {
        let template = Template::new(&Shape {
            kind: Kind::Get,
            host: "h:1",
            user: None,
            prefix: "/p",
            keys,
            value_size: 1,
            seed: 1,
        });
        run(&Plan {
            template,
            address,
            secure: None,
            new_connections: false,
            rate: None,
            clients: 3,
            seed: 1,
            stop: Stop::EachKeyOnce,
            spin: false,
            server_pid: None,
            label: "test",
        })
    }

    #[test]
    fn every_key_is_asked_for_once() {
        let address = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", usize::MAX);
        let measured = each_key_once(address, 100).expect("answered");
        assert_eq!((measured.completed, measured.errors.total(), measured.latency.len()), (100, 0, 100));
    }

    #[test]
    fn refusals_are_counted_by_status() {
        let address = serve(b"HTTP/1.1 404 X\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", usize::MAX);
        let measured = each_key_once(address, 10).expect("answered");
        assert_eq!((measured.completed, measured.errors.summary()), (0, "10 x 404".into()));
    }

    #[test]
    fn connections_that_break_are_replaced() {
        let address = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 5);
        let measured = each_key_once(address, 50).expect("answered");
        // A key whose request broke counts as done; nothing hangs and nothing is lost from the sum.
        assert_eq!(measured.completed + measured.errors.total(), 50);
        let polite = serve(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", 1);
        let measured = each_key_once(polite, 20).expect("answered");
        assert_eq!((measured.completed, measured.errors.total()), (20, 0));
    }

    #[test]
    fn what_is_not_http_is_an_error() {
        let address = serve(b"SSH-2.0-x\r\n\r\n", usize::MAX);
        let measured = each_key_once(address, 7).expect("the run ends");
        assert_eq!((measured.completed, measured.errors.connection), (0, 7));
    }
}
