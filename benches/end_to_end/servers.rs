//! The servers under measurement.
//!
//! Owns: their processes, ports and cores. Touches: data directories below the one it is given, `/proc`.
//! Always: a server started here is gone when its value is; ringd runs on one core from its first thread on.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::Error;

const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// How often a starting server is asked; bounds the error of the time to the first answer.
const POLL: Duration = Duration::from_millis(2);

/// One server program and how it is run.
#[derive(Clone, Debug)]
pub struct Program {
    pub path: PathBuf,
    pub flags: Vec<&'static str>,
    /// `None`: free on all cores.
    core: Option<usize>,
}

#[derive(Clone, Debug)]
pub struct Programs {
    pub ringd: Program,
    pub etcd: Option<Program>,
    /// The core ringd runs on.
    pub core: usize,
}

fn flags_of(path: &Path) -> Vec<&'static str> {
    if path.file_name().is_some_and(|n| n == "etcd") { vec!["--enable-v2"] } else { Vec::new() }
}

impl Programs {
    /// ringd is the one of this build, or what `RINGD_BIN` names; etcd is looked for on PATH.
    pub fn find(core: Option<usize>) -> Result<Programs, Error> {
        let cores = thread::available_parallelism()?.get();
        let core = core.unwrap_or(cores - 1);
        if core >= cores {
            return Err(format!("there is no core {core}: this machine has {cores}").into());
        }
        let ringd = std::env::var_os("RINGD_BIN").map_or_else(|| env!("CARGO_BIN_EXE_ringd").into(), PathBuf::from);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let etcd = std::env::split_paths(&path).map(|dir| dir.join("etcd")).find(|p| p.is_file());
        let program = |path: PathBuf, core| Program { flags: flags_of(&path), path, core };
        Ok(Programs { ringd: program(ringd, Some(core)), etcd: etcd.map(|p| program(p, None)), core })
    }

    /// Every core but ringd's; all of them if there is only one.
    pub fn other_cores(&self) -> Vec<usize> {
        let all = 0..thread::available_parallelism().map_or(1, |n| n.get());
        let others: Vec<usize> = all.filter(|c| *c != self.core).collect();
        if others.is_empty() { vec![self.core] } else { others }
    }
}

pub struct Server {
    child: Child,
    pub address: SocketAddr,
    /// From the start of the process to its first answer.
    pub answered_after: Duration,
    /// It has a core of its own, which the load should keep off.
    pub pinned: bool,
}

fn free_ports() -> Result<[u16; 2], Error> {
    let (a, b) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    Ok([a.local_addr()?.port(), b.local_addr()?.port()])
}

/// Restricts `pid` to `cores`.
pub fn pin(pid: u32, cores: &[usize]) -> Result<(), Error> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    sched_setaffinity(Pid::from_raw(pid.cast_signed()), &set)?;
    Ok(())
}

impl Server {
    /// Starts `program` with its data in `dir`, which may hold data already, and waits for its first answer.
    pub fn start(program: &Program, dir: &Path) -> Result<Server, Error> {
        let [client, _] = free_ports()?;
        Server::start_at(program, dir, client)
    }

    /// [`Server::start`] with plain clients on this port.
    pub fn start_at(program: &Program, dir: &Path, client: u16) -> Result<Server, Error> {
        let [peer, _] = free_ports()?;
        let url = |port| format!("http://127.0.0.1:{port}");
        let mut command = Command::new(&program.path);
        command.args(["--name", "default", "--data-dir"]).arg(dir);
        command.args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)]);
        command.args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)]);
        command.args(["--initial-cluster", &format!("default={}", url(peer))]).args(&program.flags);
        let log = dir.with_extension("log");
        Server::launch(command, client, program.core, &log)
    }

    /// This program itself, answering everything with the same bytes, on ringd's core.
    pub fn start_constant(programs: &crate::Programs, flag: &str, bytes: Option<usize>) -> Result<Server, Error> {
        let [port, _] = free_ports()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(flag).arg(bytes.map_or(port.to_string(), |bytes| format!("{port}:{bytes}")));
        Server::launch(command, port, Some(programs.core), Path::new("/dev/null"))
    }

    /// Bytes of the whole answer to a GET of a value of so many bytes.
    pub fn answer_bytes(&self, value_size: u64) -> Result<usize, Error> {
        use std::io::{Read, Write};
        const CLOSE: &str = "Connection: close\r\n";
        let value = format!("value={}", "v".repeat(value_size as usize));
        let ask = |request: String| -> Result<usize, Error> {
            let mut stream = std::net::TcpStream::connect(self.address)?;
            stream.write_all(request.as_bytes())?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(answer.len())
        };
        let form = "Content-Type: application/x-www-form-urlencoded";
        ask(format!(
            "PUT /v2/keys/bench/size HTTP/1.1\r\nHost: x\r\n{CLOSE}{form}\r\nContent-Length: {}\r\n\r\n{value}",
            value.len()
        ))?;
        let answer = ask(format!("GET /v2/keys/bench/size HTTP/1.1\r\nHost: x\r\n{CLOSE}\r\n"))?;
        Ok(answer.saturating_sub(CLOSE.len()))
    }

    /// Sends a JSON document, and insists on success.
    pub fn put(&self, path: &str, document: &str) -> Result<(), Error> {
        let mut stream = TcpStream::connect(self.address)?;
        let length = document.len();
        write!(
            stream,
            "PUT {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{document}"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if answer.starts_with("HTTP/1.1 2") { Ok(()) } else { Err(format!("PUT {path}: {answer}").into()) }
    }

    fn launch(mut command: Command, port: u16, core: Option<usize>, log: &Path) -> Result<Server, Error> {
        for (key, _) in std::env::vars_os().filter(|(k, _)| k.to_string_lossy().starts_with("ETCD_")) {
            command.env_remove(key);
        }
        let output = fs::OpenOptions::new().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let started = Instant::now();
        let child = command.spawn()?;
        let mut server = Server { child, address, answered_after: Duration::ZERO, pinned: core.is_some() };
        if let Some(core) = core {
            // Threads inherit it; the process has only just been loaded, so there is no other thread yet.
            pin(server.pid(), &[core])?;
        }
        while !answers(address) {
            if let Some(status) = server.child.try_wait()? {
                return Err(format!("{command:?} ended with {status}; its output is in {}", log.display()).into());
            }
            if started.elapsed() > START_LIMIT {
                return Err(format!("{command:?} does not answer; its output is in {}", log.display()).into());
            }
            thread::sleep(POLL);
        }
        server.answered_after = started.elapsed();
        Ok(server)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn resident_bytes(&self) -> Result<f64, Error> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).ok_or("no VmRSS")?;
        let kilobytes: f64 = line.split_ascii_whitespace().nth(1).ok_or("no VmRSS")?.parse()?;
        Ok(kilobytes * 1024.0)
    }

    /// Ends the server in the orderly way.
    pub fn stop(mut self) -> Result<(), Error> {
        if let Some(pid) = Pid::from_raw(self.pid().cast_signed()) {
            kill_process(pid, Signal::TERM)?;
        }
        let asked = Instant::now();
        while self.child.try_wait()?.is_none() {
            if asked.elapsed() > STOP_LIMIT {
                return Err("a server did not stop when it was asked to".into());
            }
            thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only when it has ended already; it is reaped either way.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Whether a read of the key space's root is answered with 200.
fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /v2/keys/ringbench-start HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        // The key does not exist, so a server that serves says 404; one that is still starting says 5xx or nothing.
        Ok(head.starts_with(b"HTTP/1.1 ") && !head.starts_with(b"HTTP/1.1 5"))
    };
    ask().unwrap_or(false)
}
