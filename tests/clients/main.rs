//! Client libraries that were written for etcd, unmodified, against ringd: python-etcd and node-etcd.
//!
//! `python_etcd.py` and `node_etcd.js` hold the checks. They know nothing of ringd: where a real etcd is on PATH the
//! same scripts run against that too, which proves that they check etcd's behaviour and not ours. `install.sh` installs
//! the libraries; a test whose library, interpreter or server is not there prints one line that says so. Nothing is
//! downloaded from here.
//!
//! Must hold: every process started here is ended by its own id, also when a check fails.

#![allow(clippy::disallowed_methods, reason = "a test of real processes measures real time")]

#[path = "../support/mod.rs"]
mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::{Client, Site, free_port, skip};

/// The longest one script may run, on a busy machine too; alone it takes about ten seconds.
const SCRIPT_LIMIT: Duration = Duration::from_secs(300);
/// The longest etcd may take to answer its first request.
const ETCD_START_LIMIT: Duration = Duration::from_secs(60);

/// A client library and the script that uses it.
struct Library {
    /// Its folder below `installed()`; also the name of its script.
    name: &'static str,
    script: &'static str,
    /// Its interpreter, in its folder or on PATH.
    interpreter: &'static str,
    /// What `install.sh` has to have installed.
    wanted: &'static str,
    groups: &'static [&'static str],
}

const PYTHON_ETCD: Library = Library {
    name: "python_etcd",
    script: "python_etcd.py",
    interpreter: "bin/python",
    wanted: include_str!("requirements.txt"),
    groups: &["values", "directories", "conditions", "ttl", "watches", "locks", "elections", "service", "auth"],
};

const NODE_ETCD: Library = Library {
    name: "node_etcd",
    script: "node_etcd.js",
    interpreter: "node",
    wanted: include_str!("package-lock.json"),
    groups: &["values", "directories", "conditions", "ttl", "watches", "elections", "hosts", "service"],
};

/// Where `install.sh` puts the libraries.
fn installed() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients")
}

impl Library {
    /// The script's command line, without its arguments; or why it cannot run.
    fn command(&self) -> Result<Command, String> {
        let folder = installed().join(self.name);
        match fs::read_to_string(folder.join("installed")) {
            Ok(found) if found == self.wanted => {}
            Ok(_) => return Err("other versions are installed; run tests/clients/install.sh".to_owned()),
            Err(_) => {
                let log = fs::read_to_string(folder.with_extension("log")).unwrap_or_default();
                let why = log.lines().last().map(|line| format!(", which said: {line}")).unwrap_or_default();
                return Err(format!("not installed by tests/clients/install.sh{why}"));
            }
        }
        let own = folder.join(self.interpreter);
        let mut command = Command::new(if own.exists() { own.as_path() } else { Path::new(self.interpreter) });
        command.env("NODE_PATH", folder.join("node_modules"));
        // The libraries are old; how the interpreter likes their style is nobody's business here.
        command.env("NODE_OPTIONS", "--no-deprecation").env("PYTHONWARNINGS", "ignore");
        // Proxies are for the outside.
        for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(self.script));
        Ok(command)
    }
}

/// A process that does not outlive its value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a library's script against a server; panics with what it printed if a check fails.
fn run(mut command: Command, port: u16, groups: &[&str]) {
    let output = tempfile::NamedTempFile::new().expect("an output file");
    let handle = || output.reopen().expect("an output file");
    command.arg(format!("http://127.0.0.1:{port}")).args(groups);
    command.stdin(Stdio::null()).stdout(handle()).stderr(handle());
    let mut process = Process(command.spawn().expect("the interpreter starts"));
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = process.0.try_wait().expect("a child") {
            break status;
        }
        let said = || fs::read_to_string(output.path()).unwrap_or_default();
        assert!(begun.elapsed() < SCRIPT_LIMIT, "the script did not end:\n{}", said());
        std::thread::sleep(Duration::from_millis(20));
    };
    let said = fs::read_to_string(output.path()).expect("what it printed");
    assert!(status.success(), "{command:?} ended with {status}:\n{said}");
    // A script that checks nothing must not pass.
    for group in groups {
        assert!(said.lines().any(|line| line.starts_with(&format!("ok {group}/"))), "no check of {group}:\n{said}");
    }
}

fn against_ringd(test: &str, library: &Library) {
    let command = match library.command() {
        Ok(command) => command,
        Err(why) => return skip(test, &why),
    };
    let site = Site::new();
    let _server = site.start();
    run(command, site.client_port, library.groups);
}

fn against_etcd(test: &str, library: &Library) {
    let command = match library.command() {
        Ok(command) => command,
        Err(why) => return skip(test, &why),
    };
    let scratch = tempfile::tempdir().expect("a scratch directory");
    match start_etcd(scratch.path()) {
        Ok((_etcd, port)) => run(command, port, library.groups),
        Err(why) => skip(test, &why),
    }
}

/// Starts the etcd on PATH, if it is one that speaks v2; `Err` says why there is none.
fn start_etcd(scratch: &Path) -> Result<(Process, u16), String> {
    let version = Command::new("etcd").arg("--version").output().map_err(|_| "no etcd on PATH".to_owned())?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let version = version.lines().next().unwrap_or_default();
    if !version.contains(" 3.4.") {
        return Err(format!("the scripts tell of etcd 3.4, not of {version:?}"));
    }
    let (port, peer_port) = (free_port(), free_port());
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
    let log_path = scratch.join("log");
    let log = File::create(&log_path).expect("a log file");
    let mut command = Command::new("etcd");
    for name in std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("ETCD_")) {
        command.env_remove(name);
    }
    command.args(["--enable-v2", "--name", "default", "--data-dir"]).arg(scratch.join("data"));
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("default={peer}")]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let mut process = Process(command.spawn().expect("etcd starts"));
    let begun = Instant::now();
    loop {
        let answers = |mut client: Client| client.request("GET", "/v2/keys/", "").is_ok_and(|a| a.status == 200);
        if Client::open(port).is_ok_and(answers) {
            return Ok((process, port));
        }
        let ended = process.0.try_wait().expect("a child");
        let late = begun.elapsed() > ETCD_START_LIMIT;
        assert!(ended.is_none() && !late, "etcd: {}", fs::read_to_string(&log_path).unwrap_or_default());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn python_etcd_works_against_ringd() {
    against_ringd("python_etcd_works_against_ringd", &PYTHON_ETCD);
}

#[test]
fn node_etcd_works_against_ringd() {
    against_ringd("node_etcd_works_against_ringd", &NODE_ETCD);
}

#[test]
fn the_checks_of_python_etcd_are_true_of_etcd() {
    against_etcd("the_checks_of_python_etcd_are_true_of_etcd", &PYTHON_ETCD);
}

#[test]
fn the_checks_of_node_etcd_are_true_of_etcd() {
    against_etcd("the_checks_of_node_etcd_are_true_of_etcd", &NODE_ETCD);
}

#[test]
fn scripts_and_groups_agree() {
    // A group that a script has and no list names would never run.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    for (library, mark) in [(PYTHON_ETCD, "@check(\""), (NODE_ETCD, "GROUPS.")] {
        let script = fs::read_to_string(folder.join(library.script)).expect("the script");
        let mut found: Vec<&str> = script
            .lines()
            .filter_map(|line| line.strip_prefix(mark))
            .map(|rest| rest.split(['"', ' ']).next().unwrap_or_default())
            .collect();
        found.dedup();
        assert_eq!(found, library.groups, "{}", library.script);
    }
}

#[test]
fn the_lock_file_names_no_registry() {
    // Which registry serves the packages is the machine's affair; what they are, their hashes say.
    let lock: serde_json::Value = serde_json::from_str(NODE_ETCD.wanted).expect("JSON");
    let packages = lock["packages"].as_object().expect("packages");
    assert!(packages.len() > 1);
    for (name, package) in packages.iter().filter(|(name, _)| !name.is_empty()) {
        assert!(package["resolved"].is_null(), "{name}: install with omit-lockfile-registry-resolved=true");
        assert!(package["integrity"].is_string(), "{name} has no hash");
    }
}
