//! The recipes in this folder, `ringctl backup`, `import` and `top`, and what a terminal shows, with real processes.
//!
//! Owns: servers on loopback, the scripts' processes. Touches: temporary directories. Always: each script runs in a
//! process group of its own, which is killed as a whole when the test lets it go; every wait has an end, and nothing
//! asserts how long something takes.

#![allow(clippy::disallowed_methods, reason = "a test of real processes waits in real time")]

#[path = "../cluster/cluster.rs"]
#[allow(dead_code, reason = "the cluster's own tests use all of it")]
mod cluster;
#[path = "../cluster/net.rs"]
#[allow(dead_code, reason = "nobody is cut off here")]
mod net;
#[path = "../support/mod.rs"]
mod support;

mod backup;
mod recipes;
mod terminal;
mod top;

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use support::{Server, Site};
use tempfile::TempDir;

/// The longest anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// The client itself, for tests that start it without an environment of their own.
static RINGCTL: LazyLock<PathBuf> = LazyLock::new(|| support::tool("ringctl"));
/// The client with time limits for a busy machine; it finds the client itself in `RINGCTL_PROGRAM`.
const PATIENT_RINGCTL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/patient-ringctl.sh");

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::sleep(POLL);
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// A server, a directory for the scripts' files, and the way to run scripts against the server.
struct Stage {
    site: Site,
    _server: Server,
    dir: TempDir,
}

impl Stage {
    fn new() -> Stage {
        let site = Site::new();
        let server = site.start();
        Stage { site, _server: server, dir: tempfile::tempdir().expect("a scratch directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.site.client_port)
    }

    fn prepare(&self, program: &OsStr, args: &[&str], env: &[(&str, &str)]) -> Command {
        let mut command = Command::new(program);
        command.args(args).env("RINGCTL", PATIENT_RINGCTL).env("RINGCTL_PROGRAM", &*RINGCTL);
        command.env("ETCDCTL_ENDPOINTS", self.endpoint());
        command.env_remove("ETCDCTL_API").envs(env.iter().copied()).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// Runs the client to its end and answers what it printed.
    fn ctl(&self, args: &[&str]) -> Output {
        self.prepare(OsStr::new(PATIENT_RINGCTL), args, &[]).output().expect("ringctl runs")
    }

    /// Starts a script of this folder; its standard output goes to the file `out`, its errors to the test's own.
    fn start(&self, script: &str, args: &[&str], env: &[(&str, &str)], out: &Path) -> Script {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios").join(script);
        let mut command = self.prepare(OsStr::new("sh"), &[], env);
        command.arg(path).args(args).stdout(File::create(out).expect("a scratch file")).process_group(0);
        Script(command.spawn().expect("sh runs"))
    }

    /// Runs a script to its end and answers what it printed.
    fn run(&self, script: &str, args: &[&str], env: &[(&str, &str)]) -> String {
        let out = tempfile::NamedTempFile::new().expect("a scratch file");
        let status = self.start(script, args, env, out.path()).wait();
        assert!(status.success(), "{script} {args:?} ended with {status}");
        read(out.path())
    }
}

/// A running script with everything it started.
struct Script(Child);

impl Script {
    fn signal(&self, signal: Signal) {
        // The group may be gone by now; then there is nobody to signal.
        kill_process_group(Pid::from_child(&self.0), signal).ok();
    }

    /// To the script alone, as a service manager sends it.
    fn terminate(&self) {
        rustix::process::kill_process(Pid::from_child(&self.0), Signal::TERM).ok();
    }

    fn ended(&mut self) -> bool {
        self.0.try_wait().expect("a child").is_some()
    }

    fn wait(mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().expect("a child") {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "a script did not end in time");
            thread::sleep(POLL);
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        // A child of our own that was killed can be waited for.
        self.0.wait().ok();
    }
}

/// Whether a program is there; says that the test is skipped if not.
fn has(program: &str, test: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status();
    let found = found.is_ok_and(|status| status.success());
    if !found {
        support::skip(test, &format!("{program} is not installed"));
    }
    found
}
