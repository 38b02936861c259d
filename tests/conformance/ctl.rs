//! Runs the command line client of a case and collects what it wrote.
//!
//! Owns: the client's processes. Touches: anonymous temporary files for their output. Always: a process started here
//! has ended or is killed before its case is over; output goes to files, so no pipe can fill up and block it.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::context::Context;
use crate::http::readable;
use crate::matching::Mismatch;

/// How often a running process is asked whether it has ended.
const POLL: Duration = Duration::from_millis(2);
/// Time limits of the client, which by itself has little patience with a server on a busy machine. Not for cases that
/// give one of their own, or that meet the limits because they have made their server unable to answer.
const PATIENT: [&str; 4] = ["--timeout", "30s", "--total-timeout", "60s"];

/// A client process that has been started.
pub struct Running {
    child: Child,
    stdout: File,
    stderr: File,
}

/// What an ended process left.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code, or minus the signal that ended it.
    pub code: i64,
    pub stdout: String,
    pub stderr: String,
}

/// The arguments of a step: with `raw` as they stand, otherwise patiently, with the endpoint of the server under test.
///
/// A server whose member list cannot be read, or a cluster whose members may lag behind each other, is used
/// without the sync: every command then stays on the given endpoint.
pub fn arguments(ctx: &Context, argv: &[String], raw: bool) -> Vec<String> {
    let own = argv.iter().map(|a| ctx.expand(a));
    if raw {
        return own.collect();
    }
    let sync = ctx.target.members == Some(1) || argv.iter().any(|a| a == "--no-sync");
    let mut all = if sync { Vec::new() } else { vec!["--no-sync".to_owned()] };
    if ctx.target.answers && !argv.iter().any(|a| a.contains("timeout")) {
        all.extend(PATIENT.map(str::to_owned));
    }
    all.extend(["--endpoints".to_owned(), ctx.target.base_url.clone()]);
    all.extend(own);
    all
}

impl Running {
    /// Starts the client with `stdin` (empty: an input that ends at once).
    pub fn start(ctx: &Context, args: &[String], env: &[(String, String)], stdin: &str) -> Result<Running, Mismatch> {
        let broken = |what: &str, e: std::io::Error| Mismatch(format!("cannot {what}: {e}"));
        let file = || tempfile::tempfile().map_err(|e| broken("make a temporary file", e));
        let (stdout, stderr, mut input) = (file()?, file()?, file()?);
        let share = |f: &File| f.try_clone().map_err(|e| broken("share a temporary file", e));
        input.write_all(stdin.as_bytes()).and_then(|()| input.rewind()).map_err(|e| broken("write the input", e))?;
        let child = Command::new(&ctx.target.ctl)
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()))
            .env("HOME", &ctx.tmp)
            .env("ETCDCTL_API", "2")
            .envs(env.iter().map(|(k, v)| (k, ctx.expand(v))))
            .current_dir(&ctx.tmp)
            .stdin(if stdin.is_empty() { Stdio::null() } else { Stdio::from(input) })
            .stdout(share(&stdout)?)
            .stderr(share(&stderr)?)
            .spawn()
            .map_err(|e| broken(&format!("run {}", ctx.target.ctl.display()), e))?;
        Ok(Running { child, stdout, stderr })
    }

    fn poll(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Lets it run for `time`; an error if it must not end meanwhile but does.
    pub fn run_for(&mut self, time: Duration, must_run: bool) -> Result<(), Mismatch> {
        thread::sleep(time);
        match self.poll() {
            Some(status) if must_run => {
                let (out, err) = self.output();
                Err(Mismatch(format!("ended by itself with {status}; stdout {out:?} stderr {err:?}")))
            }
            _ => Ok(()),
        }
    }

    pub fn interrupt(&mut self) {
        if self.poll().is_none()
            && let Some(pid) = Pid::from_raw(self.child.id().cast_signed())
        {
            // It may end between the question and the signal: then there is nobody to interrupt.
            kill_process(pid, Signal::INT).ok();
        }
    }

    /// Waits for the end, at most `limit`.
    pub fn finish(mut self, limit: Duration) -> Result<Outcome, Mismatch> {
        let until = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.poll() {
                break status;
            }
            if Instant::now() > until {
                let (out, err) = self.output();
                return Err(Mismatch(format!("still running after {limit:?}; stdout {out:?} stderr {err:?}")));
            }
            thread::sleep(POLL);
        };
        let (stdout, stderr) = self.output();
        let signal = std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or(0);
        Ok(Outcome { code: i64::from(status.code().unwrap_or(-signal)), stdout, stderr })
    }

    fn output(&mut self) -> (String, String) {
        let text = |file: &mut File| {
            let mut bytes = Vec::new();
            match file.rewind().and_then(|()| file.read_to_end(&mut bytes)) {
                Ok(_) => readable(&bytes),
                Err(e) => format!("<cannot read the output back: {e}>"),
            }
        };
        (text(&mut self.stdout), text(&mut self.stderr))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.poll().is_none() {
            // Killing fails only for a process that has just ended, and waiting for one of our own cannot fail then.
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}
