//! Members, proxies and real etcds as processes on loopback, each with ports and a directory of its own.
//!
//! Must hold: every wait has an end; what is started is killed when dropped.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::{Answer, Client, Server, free_port};
pub use crate::support::{PATIENCE, etcd_program, wait_for};

/// Where a process lives.
pub struct Home {
    pub name: String,
    pub client: u16,
    pub peer: u16,
    pub dir: PathBuf,
}

/// Waits for a line in a process' log.
pub fn wait_for_line(server: &Server, line: &str) {
    wait_for(&format!("{line:?} in {}", server.stderr()), || server.stderr().contains(line).then_some(()));
}

impl Home {
    pub fn new(name: &str, scratch: &Path) -> Self {
        Self { name: name.to_owned(), client: free_port(), peer: free_port(), dir: scratch.join(name) }
    }

    pub fn client_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    pub fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer)
    }

    fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        for name in std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("ETCD_")) {
            command.env_remove(name);
        }
        command.args(["--name", &self.name, "--data-dir"]).arg(&self.dir);
        let client = self.client_url();
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &self.peer_url(), "--initial-advertise-peer-urls", &self.peer_url()]);
        command.args(args);
        command
    }

    /// Starts a ringd here, member or proxy.
    pub fn ringd(&self, args: &[&str]) -> Server {
        Server::spawn(self.command(Path::new(env!("CARGO_BIN_EXE_ringd")), args))
    }

    /// Starts a real etcd here.
    pub fn etcd(&self, program: &Path, args: &[&str]) -> Server {
        let mut command = self.command(program, args);
        command.arg("--enable-v2");
        Server::spawn(command)
    }

    /// One request.
    pub fn request(&self, method: &str, path: &str, form: &str) -> Option<Answer> {
        Client::connect(SocketAddr::from(([127, 0, 0, 1], self.client)), Duration::from_secs(15))
            .ok()?
            .request(method, path, form)
            .ok()
    }

    /// One request that must be answered.
    pub fn ask(&self, method: &str, path: &str, form: &str) -> Answer {
        self.request(method, path, form).unwrap_or_else(|| panic!("{method} {path} of {}: no answer", self.name))
    }

    /// Waits until clients are served, by a quorum.
    pub fn wait_until_served(&self, server: &Server) {
        wait_for(&format!("{} to serve", self.name), || {
            let served = self.request("GET", "/v2/keys/?quorum=true", "").filter(|answer| answer.status == 200);
            assert!(served.is_some() || !server.has_ended(), "{} ended: {}", self.name, server.stderr());
            served
        });
    }

    /// A client of its own.
    pub fn connect(&self) -> Client {
        Client::open(self.client).expect("a connection")
    }
}
