//! Starts servers for the cases and stops them again.
//!
//! Owns: server processes, their ports and data directories. Touches: temporary directories, loopback.
//! Always: a server started here is killed and its data removed when its value is dropped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::context::Target;
use crate::steps::{current_index, member_count};
use crate::support::free_port;

/// A server that has not answered by then is given up.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Another process may take a port between our asking for a free one and the server's binding it.
const START_ATTEMPTS: usize = 3;
/// A member change is refused (strict reconfiguration check) until the members have been connected for five seconds.
const CLUSTER_AGE: Duration = Duration::from_secs(6);
/// The origins the cases that need `cors` were recorded with.
const CORS_FLAG: &str = "--cors=http://a.example:8080,http://b.example:8080";

/// What the server of a case has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// One member, default settings; shared by many cases.
    Plain,
    /// One member with a list of allowed origins.
    Cors,
    /// Three members.
    Cluster,
    /// One member, thrown away after one case.
    Disposable,
}

/// Which program is tested, and with which client.
#[derive(Clone, Debug)]
pub struct Programs {
    pub server: PathBuf,
    /// Flags the server needs besides the usual ones.
    pub server_flags: Vec<String>,
    pub ctl: PathBuf,
}

/// Running servers; dropping them ends them.
pub struct Servers {
    pub target: Target,
    processes: Vec<Child>,
    logs: Vec<PathBuf>,
    dir: TempDir,
}

impl Servers {
    /// Starts what `profile` asks for and waits until it answers with a settled index. The target is member `aim`.
    pub fn start(programs: &Programs, profile: Profile, aim: usize) -> Result<Servers, String> {
        let mut last = String::new();
        for _ in 0..START_ATTEMPTS {
            match Servers::attempt(programs, profile, aim) {
                Ok(servers) => return Ok(servers),
                Err(why) => last = why,
            }
        }
        Err(format!("  cannot start {}: {last}", programs.server.display()))
    }

    fn attempt(programs: &Programs, profile: Profile, aim: usize) -> Result<Servers, String> {
        let members = if profile == Profile::Cluster { 3 } else { 1 };
        let broken = |e: std::io::Error| e.to_string();
        let dir = tempfile::Builder::new().prefix("conformance-").tempdir().map_err(broken)?;
        let ports: Vec<u16> = (0..2 * members).map(|_| free_port()).collect();
        let (client_ports, peer_ports) = ports.split_at(members);
        let name = |i: usize| if members == 1 { "default".to_owned() } else { format!("m{i}") };
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<String> = (0..members).map(|i| format!("{}={}", name(i), url(peer_ports[i]))).collect();
        let target = Target {
            base_url: url(client_ports[aim]),
            host_port: format!("127.0.0.1:{}", client_ports[aim]),
            data_dir: dir.path().join(format!("data{aim}")),
            ctl: programs.ctl.clone(),
            members: None,
            answers: profile != Profile::Disposable,
        };
        let mut servers = Servers { target, processes: Vec::new(), logs: Vec::new(), dir };
        for i in 0..members {
            let log_path = servers.dir.path().join(format!("log{i}"));
            let log = File::create(&log_path).map_err(broken)?;
            let (client, peer) = (url(client_ports[i]), url(peer_ports[i]));
            let mut command = Command::new(&programs.server);
            for (key, _) in std::env::vars_os().filter(|(k, _)| k.to_string_lossy().starts_with("ETCD_")) {
                command.env_remove(key);
            }
            command.args(["--name", &name(i), "--data-dir"]).arg(servers.dir.path().join(format!("data{i}")));
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.args(["--initial-cluster", &cluster.join(",")]).args(&programs.server_flags);
            if profile == Profile::Cors {
                command.arg(CORS_FLAG);
            }
            command.stdin(Stdio::null()).stdout(log.try_clone().map_err(broken)?).stderr(log);
            servers.processes.push(command.spawn().map_err(broken)?);
            servers.logs.push(log_path);
        }
        servers.settle()?;
        if profile == Profile::Cluster {
            thread::sleep(CLUSTER_AGE);
        }
        servers.target.members = member_count(&servers.target.host_port);
        Ok(servers)
    }

    /// Waits for an index that stands still: a new server first writes a few entries of its own.
    fn settle(&mut self) -> Result<(), String> {
        let until = Instant::now() + START_LIMIT;
        let mut last = None;
        while Instant::now() < until {
            if let Some(why) = self.ended() {
                return Err(why);
            }
            let now = current_index(&self.target.host_port).ok();
            if now.is_some() && now == last {
                return Ok(());
            }
            let pause = if now.is_some() { 200 } else { 20 };
            last = now;
            thread::sleep(Duration::from_millis(pause));
        }
        Err(format!("no answer within {START_LIMIT:?}\n{}", self.log_tail()))
    }

    /// Why a server is not running any more, if so.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.processes.iter_mut().find_map(|p| p.try_wait().ok().flatten())?;
        Some(format!("the server ended with {status}\n{}", self.log_tail()))
    }

    fn log_tail(&self) -> String {
        self.logs.iter().map(|path| last_lines(path)).collect::<Vec<_>>().join("\n")
    }
}

fn last_lines(path: &Path) -> String {
    /// Enough to see what a server that gave up said last.
    const LINES: usize = 15;
    let Ok(bytes) = fs::read(path) else { return format!("(no log at {})", path.display()) };
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].iter().map(|l| format!("    | {l}")).collect::<Vec<_>>().join("\n")
}

impl Drop for Servers {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // Killing fails only for a process that has already ended; it is reaped either way.
            process.kill().ok();
            process.wait().ok();
        }
    }
}
