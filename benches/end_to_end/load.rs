//! Runs the load generator and reads its report.
//!
//! Owns: how `ringbench` is called. Touches: the server it is pointed at. Always: the generator keeps off a core that
//! belongs to the server.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::servers::{Server, pin};
use crate::{Error, VALUE_SIZE};

/// Share of the measuring time that is run before measuring.
const WARMUP_SHARE: f64 = 0.2;
/// Connections that fill a key space.
const FILL_CLIENTS: u64 = 256;

pub struct Load {
    pub ringbench: PathBuf,
    pub seconds: f64,
    /// Where the generator runs while a pinned server is measured.
    pub cores: Vec<usize>,
}

/// One measurement.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    pub requests: f64,
    pub requests_per_second: f64,
    pub cpu_us: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub errors: f64,
    pub flushes_per_request: f64,
}

/// From `ringbench wal`.
pub struct SyncFigures {
    pub sync_us: f64,
    /// The copy into the map, with its page fault, and the sync.
    pub with_append_us: f64,
    pub floor_us: f64,
    pub ratio: f64,
}

/// A line for the report if any request failed.
pub fn error_note(errors: &[f64]) -> String {
    let total: f64 = errors.iter().sum();
    if total == 0.0 { String::new() } else { format!("\n**{total} requests failed.**\n") }
}

impl Load {
    /// Measures `put` or `get`; for `get` the keys must be there.
    pub fn run(&self, server: &Server, command: &str, clients: u64, keys: u64) -> Result<Sample, Error> {
        self.measure(server, &[command, "--no-fill"], clients, keys, self.seconds, self.seconds * WARMUP_SHARE)
    }

    /// [`Load::run`] with a generator that never sleeps. A server that answers a little faster keeps an ordinary one
    /// awake and is spared the wake-ups that a slower one pays for: that would be measured too.
    pub fn run_awake(&self, server: &Server, command: &str, clients: u64, keys: u64) -> Result<Sample, Error> {
        let command = [command, "--no-fill", "--spin"];
        self.measure(server, &command, clients, keys, self.seconds, self.seconds * WARMUP_SHARE)
    }

    /// [`Load::run_awake`] as a user, `NAME:PASSWORD`.
    pub fn run_as(&self, server: &Server, user: &str, clients: u64, keys: u64) -> Result<Sample, Error> {
        let command = ["get", "--no-fill", "--spin", "--user", user];
        self.measure(server, &command, clients, keys, self.seconds, self.seconds * WARMUP_SHARE)
    }

    /// Without a warm-up, so that every request is in the report.
    pub fn run_uncounted(&self, server: &Server, command: &str, clients: u64, keys: u64) -> Result<Sample, Error> {
        self.measure(server, &[command, "--no-fill"], clients, keys, self.seconds, 0.0)
    }

    /// Writes each of `keys` keys once.
    pub fn fill(&self, server: &Server, keys: u64) -> Result<(), Error> {
        self.measure(server, &["get"], FILL_CLIENTS, keys, 0.1, 0.0).map(drop)
    }

    fn measure(
        &self,
        server: &Server,
        command: &[&str],
        clients: u64,
        keys: u64,
        seconds: f64,
        warmup: f64,
    ) -> Result<Sample, Error> {
        let report = self.call(server.pinned, &|ringbench| {
            ringbench.args(command).arg("--target").arg(format!("http://{}", server.address));
            for (flag, value) in [("--clients", clients), ("--key-space", keys), ("--value-size", VALUE_SIZE)] {
                ringbench.arg(flag).arg(value.to_string());
            }
            ringbench.arg("--duration").arg(format!("{seconds}s")).arg("--warmup").arg(format!("{warmup}s"));
            ringbench.arg("--server-pid").arg(server.pid().to_string());
        })?;
        let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
        Ok(Sample {
            requests: number(&report["requests"]),
            requests_per_second: number(&report["requests_per_second"]),
            cpu_us: number(&report["server_cpu_us_per_request"]),
            p50_us: number(&report["latency_us"]["p50"]),
            p99_us: number(&report["latency_us"]["p99"]),
            errors: number(&report["errors"]["total"]),
            flushes_per_request: 0.0,
        })
    }

    /// The p50 of syncing 128 B through the default writer, over the raw floor measured in the same rounds.
    pub fn sync_over_floor(&self, dir: &Path, quick: bool) -> Result<SyncFigures, Error> {
        let report = self.call(false, &|ringbench| {
            ringbench.arg("wal").arg(dir);
            if quick {
                ringbench.arg("--quick");
            }
        })?;
        let summary = &report["summary"];
        let figure = |name: &str| summary[name].as_f64().ok_or(format!("ringbench wal does not report {name}"));
        Ok(SyncFigures {
            sync_us: figure("sync_p50_us")?,
            with_append_us: figure("append_and_sync_p50_us")?,
            floor_us: figure("floor_p50_us")?,
            ratio: figure("ratio")?,
        })
    }

    fn call(&self, keep_off: bool, arguments: &dyn Fn(&mut Command)) -> Result<Value, Error> {
        let mut command = Command::new(&self.ringbench);
        arguments(&mut command);
        command.arg("--json").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn()?;
        if keep_off {
            pin(child.id(), &self.cores)?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}
