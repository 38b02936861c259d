//! Clusters of three processes on this machine, ringd's or etcd's.
//!
//! Owns: the processes, their ports and data. Touches: directories below the one it is given, `/proc`, loopback.
//! Always: every process started here is gone when its cluster is; both programs get the same flags.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Error;

pub const MEMBERS: usize = 3;
/// A cluster that has no leader by then has failed.
const START_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// A program and the flags that only it takes.
#[derive(Clone, Debug)]
pub struct Program {
    pub name: &'static str,
    pub path: PathBuf,
    pub flags: Vec<String>,
}

struct Member {
    command: Box<dyn Fn() -> Command>,
    client: SocketAddr,
    child: Option<Child>,
    log: PathBuf,
}

pub struct Cluster {
    members: Vec<Member>,
}

/// Status and body of one request, on a connection of its own.
pub fn request(
    to: SocketAddr,
    method: &str,
    target: &str,
    form: &str,
    limit: Duration,
) -> Result<(u16, String), Error> {
    let mut stream = TcpStream::connect_timeout(&to, limit)?;
    stream.set_read_timeout(Some(limit))?;
    let length = form.len();
    write!(
        stream,
        "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{form}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.get(9..12).and_then(|code| code.parse().ok()).ok_or("no status line")?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

impl Cluster {
    /// Starts three members in `dir` and waits until they have a leader.
    pub fn start(program: &Program, dir: &Path) -> Result<Cluster, Error> {
        std::fs::create_dir_all(dir)?;
        let ports = || -> Result<Vec<u16>, Error> {
            let held: Result<Vec<_>, _> = (0..MEMBERS).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
            Ok(held?.iter().map(|held| held.local_addr().map(|at| at.port())).collect::<Result<_, _>>()?)
        };
        let (clients, peers) = (ports()?, ports()?);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let initial: Vec<String> = peers.iter().enumerate().map(|(n, port)| format!("m{n}={}", url(*port))).collect();
        let initial = initial.join(",");
        let mut cluster = Cluster { members: Vec::new() };
        for number in 0..MEMBERS {
            let (program, data) = (program.clone(), dir.join(format!("m{number}")));
            let (client, peer, initial) = (url(clients[number]), url(peers[number]), initial.clone());
            let log = dir.join(format!("m{number}.log"));
            let command = move || {
                let mut command = Command::new(&program.path);
                command.args(["--name", &format!("m{number}"), "--data-dir"]).arg(&data);
                command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
                command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
                command.args(["--initial-cluster", &initial]).args(&program.flags).stdin(Stdio::null());
                for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("ETCD_")) {
                    command.env_remove(key);
                }
                command
            };
            let client = SocketAddr::from(([127, 0, 0, 1], clients[number]));
            cluster.members.push(Member { command: Box::new(command), client, child: None, log });
        }
        for number in 0..MEMBERS {
            cluster.launch(number)?;
        }
        cluster.leader()?;
        Ok(cluster)
    }

    /// Starts one member, again or for the first time.
    pub fn launch(&mut self, number: usize) -> Result<(), Error> {
        let member = &mut self.members[number];
        let output = std::fs::OpenOptions::new().create(true).append(true).open(&member.log)?;
        let mut command = (member.command)();
        command.stdout(output.try_clone()?).stderr(output);
        member.child = Some(command.spawn()?);
        Ok(())
    }

    pub fn client(&self, number: usize) -> SocketAddr {
        self.members[number].client
    }

    pub fn pid(&self, number: usize) -> Result<u32, Error> {
        Ok(self.members[number].child.as_ref().ok_or("the member does not run")?.id())
    }

    fn is_running(&self, number: usize) -> bool {
        self.members[number].child.is_some()
    }

    /// The member that says it leads. Waits until there is one, and a write through it succeeds.
    pub fn leader(&self) -> Result<usize, Error> {
        let begun = Instant::now();
        while begun.elapsed() < START_LIMIT {
            for number in (0..MEMBERS).filter(|number| self.is_running(*number)) {
                let limit = Duration::from_secs(2);
                let asked = request(self.client(number), "GET", "/v2/stats/self", "", limit);
                if asked.is_ok_and(|(_, body)| body.contains("\"StateLeader\""))
                    && request(self.client(number), "PUT", "/v2/keys/ready", "value=1", limit)
                        .is_ok_and(|(status, _)| status < 300)
                {
                    return Ok(number);
                }
            }
            std::thread::sleep(POLL);
        }
        Err("the cluster found no leader; its logs are beside its data".into())
    }

    /// Ends one member without a word.
    pub fn kill(&mut self, number: usize) -> Result<(), Error> {
        if let Some(mut child) = self.members[number].child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// What a member has logged, of all its runs.
    pub fn log(&self, number: usize) -> Result<String, Error> {
        Ok(std::fs::read_to_string(&self.members[number].log)?)
    }

    /// The store's index as a member has it.
    pub fn index(&self, number: usize) -> Option<u64> {
        let asked = request(self.client(number), "GET", "/v2/keys/ready", "", Duration::from_secs(2));
        let body: serde_json::Value = serde_json::from_str(&asked.ok()?.1).ok()?;
        body["node"]["modifiedIndex"].as_u64()
    }

    /// User and system time of all members so far.
    pub fn cpu(&self) -> Result<Duration, Error> {
        (0..MEMBERS).filter(|number| self.is_running(*number)).map(|number| cpu_of(self.pid(number)?)).sum()
    }
}

fn cpu_of(pid: u32) -> Result<Duration, Error> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold spaces; utime and stime are fields 14 and 15 of the whole line.
    let fields = stat.rsplit_once(')').ok_or("no process name")?.1.split_ascii_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.members.iter_mut().filter_map(|member| member.child.as_mut()) {
            if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
                // Fails only for one that has ended already.
                kill_process(pid, Signal::KILL).ok();
            }
            child.wait().ok();
        }
    }
}
