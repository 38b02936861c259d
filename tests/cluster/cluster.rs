//! A cluster of real processes: started, killed, stopped, looked at.
//!
//! Must hold: every wait has an end far beyond what a slow machine needs, and says what it waited for.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::net::Net;
use crate::support::{Answer, Client, Server, free_port};
pub use crate::support::{PATIENCE, wait_for};

/// One request of the test itself.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);

pub struct Node {
    pub name: String,
    pub client: SocketAddr,
    pub peer_url: String,
    /// Where it listens for the others, if that is not what it tells them.
    pub listen_peer: Option<String>,
    /// Shell commands that run before it, with mounts that only it sees. Needs namespaces.
    pub prelude: String,
    pub data_dir: PathBuf,
    pub server: Option<Server>,
}

pub struct Cluster {
    pub net: Net,
    pub nodes: Vec<Node>,
    pub flags: Vec<String>,
    pub scratch: tempfile::TempDir,
}

impl Cluster {
    /// Room for so many members; none runs yet.
    pub fn new(members: usize, flags: &[&str]) -> Self {
        let net = Net::new(members);
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let nodes = (0..members)
            .map(|member| {
                let ip = net.address(member);
                Node {
                    name: format!("m{member}"),
                    client: SocketAddr::new(ip, free_port()),
                    peer_url: format!("http://{}", SocketAddr::new(ip, free_port())),
                    listen_peer: None,
                    prelude: String::new(),
                    data_dir: scratch.path().join(format!("m{member}")),
                    server: None,
                }
            })
            .collect();
        Self { net, nodes, flags: flags.iter().map(|&flag| flag.to_owned()).collect(), scratch }
    }

    /// `NAME=URL,...` of these members.
    pub fn initial(&self, members: &[usize]) -> String {
        let pairs =
            members.iter().map(|&member| format!("{}={}", self.nodes[member].name, self.nodes[member].peer_url));
        pairs.collect::<Vec<_>>().join(",")
    }

    /// Starts a member without waiting.
    pub fn spawn(&mut self, member: usize, initial: &str, extra: &[&str]) {
        let node = &self.nodes[member];
        let client = format!("http://{}", node.client);
        let mut command = self.net.command(member, &node.prelude, env!("CARGO_BIN_EXE_ringd"));
        for name in std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("ETCD_")) {
            command.env_remove(name);
        }
        // Socket files of unix URLs lie in the working directory.
        command.current_dir(self.scratch.path());
        command.args(["--name", &node.name, "--data-dir"]).arg(&node.data_dir);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        let listen_peer = node.listen_peer.as_ref().unwrap_or(&node.peer_url);
        command.args(["--listen-peer-urls", listen_peer, "--initial-advertise-peer-urls", &node.peer_url]);
        command.args(["--initial-cluster", initial]).args(&self.flags).args(extra);
        self.nodes[member].server = Some(Server::spawn(command));
    }

    /// Starts a new cluster of these members, and waits until each serves clients.
    pub fn found(&mut self, members: &[usize]) {
        let initial = self.initial(members);
        members.iter().for_each(|&member| self.spawn(member, &initial, &[]));
        members.iter().for_each(|&member| self.wait_until_served(member));
    }

    /// Starts a member that has run before. Its flags must not matter.
    pub fn restart(&mut self, member: usize) {
        let initial = self.initial(&[member]);
        self.spawn(member, &initial, &[]);
    }

    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&member| self.nodes[member].server.is_some()).collect()
    }

    /// What a member has logged since its last start.
    pub fn log(&self, member: usize) -> String {
        self.nodes[member].server.as_ref().map(Server::stderr).unwrap_or_default()
    }

    /// One request to one member.
    pub fn request(&self, member: usize, method: &str, path: &str, form: &str) -> Option<Answer> {
        Client::connect(self.nodes[member].client, REQUEST_LIMIT).ok()?.request(method, path, form).ok()
    }

    pub fn wait_until_served(&self, member: usize) {
        wait_for(&format!("m{member} to serve; it logged: {}", self.log(member)), || {
            self.request(member, "GET", "/v2/keys/?quorum=true", "").filter(|answer| answer.status == 200)
        });
    }

    /// Whether a member takes itself for the leader.
    pub fn says_it_leads(&self, member: usize) -> bool {
        let told = self.request(member, "GET", "/v2/stats/self", "");
        told.is_some_and(|answer| answer.status == 200 && answer.json()["state"] == "StateLeader")
    }

    /// The member that leads and knows it.
    pub fn leader(&self) -> usize {
        wait_for("a leader", || {
            self.running().into_iter().find(|&member| {
                self.says_it_leads(member)
                    && self
                        .request(member, "GET", "/v2/keys/?quorum=true", "")
                        .is_some_and(|answer| answer.status == 200)
            })
        })
    }

    /// How many snapshots a member keeps.
    pub fn snapshots(&self, member: usize) -> usize {
        let directory = self.nodes[member].data_dir.join("member/snap");
        let files = std::fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
        let name = |file: std::io::Result<std::fs::DirEntry>| file.expect("a file").file_name();
        files.map(name).filter(|name| name.to_string_lossy().ends_with(".snap")).count()
    }

    /// `kill -9`.
    pub fn kill(&mut self, member: usize) {
        self.nodes[member].server.take().expect("it runs").kill();
    }

    /// `kill -TERM`, and waits for the end.
    pub fn stop(&mut self, member: usize) {
        let mut server = self.nodes[member].server.take().expect("it runs");
        server.signal(15);
        server.wait(PATIENCE);
    }

    /// Sends a signal.
    pub fn signal(&self, member: usize, signal: i32) {
        self.nodes[member].server.as_ref().expect("it runs").signal(signal);
    }

    /// Waits until all running members show the same tree at the same index.
    pub fn wait_until_equal(&self) {
        let look = |member| {
            let answer = self.request(member, "GET", "/v2/keys/?recursive=true&sorted=true", "")?;
            (answer.status == 200).then(|| (answer.etcd_index(), answer.body))
        };
        let members = self.running();
        wait_for("all trees to be equal", || {
            let first = look(members[0])?;
            members.iter().all(|&member| look(member).as_ref() == Some(&first)).then_some(())
        });
    }

    /// The members as one of them sees them: id by name.
    pub fn member_id(&self, asked: usize, name: &str) -> Option<String> {
        let answer = self.request(asked, "GET", "/v2/members", "")?;
        let members = answer.json();
        let found = members["members"].as_array()?.iter().find(|member| member["name"] == name)?;
        Some(found["id"].as_str()?.to_owned())
    }
}
