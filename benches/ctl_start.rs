//! How long a command line client takes for one `get` on loopback, from its start to its exit.
//!
//! Owns: the processes it starts. Touches: a server of its own on loopback, a temporary directory. Always: ringctl and
//! etcdctl run in turns, so that both meet the same machine; the rows are for `RESULTS.md`.

#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]

#[path = "../tests/support/mod.rs"]
mod support;
#[path = "end_to_end/table.rs"]
#[allow(dead_code, reason = "another benchmark's table, of which this one uses a part")]
mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use table::{Goal, Table, median, number};

/// Runs of each client; the median then moves by a few percent from call to call.
const RUNS: usize = 200;
/// Runs that fill caches and count for nothing.
const WARM_UP: usize = 10;
/// What a `get` of ringctl may take.
const GOAL_MS: f64 = 10.0;

struct Client {
    name: String,
    path: PathBuf,
    flags: &'static [&'static str],
    times_ms: Vec<f64>,
}

impl Client {
    fn new(path: &Path, flags: &'static [&'static str]) -> Client {
        let program = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let name = [program.as_str()].iter().chain(flags).chain([&"get"]).copied().collect::<Vec<_>>().join(" ");
        Client { name: format!("`{name}`"), path: path.to_owned(), flags, times_ms: Vec::new() }
    }

    fn run(&mut self, endpoint: &str) {
        let mut command = Command::new(&self.path);
        command.args(["--endpoints", endpoint]).args(self.flags).args(["get", "/bench"]).env("ETCDCTL_API", "2");
        let begun = Instant::now();
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().expect("the client runs");
        self.times_ms.push(begun.elapsed().as_secs_f64() * 1000.0);
        assert_eq!(output.stdout, b"value\n", "{} answers", self.name);
    }
}

fn main() {
    let ringctl = support::tool("ringctl");
    let search = std::env::var_os("PATH").unwrap_or_default();
    let etcdctl = std::env::split_paths(&search).map(|dir| dir.join("etcdctl")).find(|path| path.is_file());
    let site = support::Site::new();
    let _server = site.start();
    let endpoint = format!("http://127.0.0.1:{}", site.client_port);
    let mut connection = support::Client::open(site.client_port).expect("it listens");
    assert_eq!(connection.request("PUT", "/v2/keys/bench", "value=value").expect("an answer").status, 201);
    let mut clients = Vec::new();
    for path in [Some(&ringctl), etcdctl.as_ref()].into_iter().flatten() {
        clients.push(Client::new(path, &[]));
        clients.push(Client::new(path, &["--no-sync"]));
    }
    for run in 0..RUNS + WARM_UP {
        for client in &mut clients {
            client.run(&endpoint);
            if run + 1 == WARM_UP {
                client.times_ms.clear();
            }
        }
    }
    let mut table = Table::new(&["command", "median ms", "p99 ms", "goal"]);
    for client in &mut clients {
        client.times_ms.sort_by(f64::total_cmp);
        let middle = median(client.times_ms.clone());
        let high = client.times_ms.get(client.times_ms.len() * 99 / 100).copied();
        let goal = if client.path == ringctl { Goal::AtMost(GOAL_MS) } else { Goal::None };
        table.row(vec![client.name.clone(), number(middle, 2), number(high, 2), goal.verdict(middle)]);
    }
    println!("# Start of the command line client\n");
    println!(
        "`cargo bench --bench ctl_start`: one `get` from ringd on loopback, start to exit, {RUNS} runs in turns.\n"
    );
    println!("{}", table.markdown());
    if etcdctl.is_none() {
        println!("etcdctl is not installed here.");
    }
}
