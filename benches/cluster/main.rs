//! Three members on one machine: what a replicated write costs, how long a dead leader is missed, what the others
//! notice of a follower that catches up. ringd and a real etcd in turns, where both can be measured.
//!
//! Owns: what is measured. Touches: member processes, a directory for their data, loopback sockets. Always: the same
//! load from the same program on both, one after the other in every round.
//!
//! `cargo bench --bench cluster` takes about six minutes and prints Markdown for RESULTS.md; `-- --help` shows options.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

mod members;
#[path = "../end_to_end/ringbench.rs"]
mod ringbench;
#[path = "../end_to_end/table.rs"]
#[allow(dead_code, reason = "some goals are the other benchmark's")]
mod table;

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::Value;

use members::{Cluster, MEMBERS, Program, request};
use table::{Goal, Table, median, number, ratio};

type Error = Box<dyn std::error::Error>;

const CLIENTS: u64 = 64;
const KEYS: u64 = 10_000;
/// The default of both programs.
const ELECTION_MS: f64 = 1000.0;
/// Between two attempts to write while there is no leader.
const ATTEMPT_PERIOD: Duration = Duration::from_millis(10);
/// No leader by then: the cluster has failed.
const FAILOVER_LIMIT: Duration = Duration::from_secs(30);
/// Entries a follower misses before it comes back.
const MISSED: u64 = 1_000_000;
const MISSED_QUICK: u64 = 20_000;
/// The p99 is taken of slices so long, of each time as many or more, and the worst slice of each time is compared.
const SLICE_SECONDS: f64 = 1.0;
const BEFORE: usize = 5;
/// What a follower logs that got one.
const BY_SNAPSHOT: &str = "read the snapshot from the leader";
/// A follower that needs longer never catches up.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(120);
/// What can be measured, in this order.
const PARTS: [&str; 3] = ["put", "failover", "catchup"];

#[derive(Clone, Debug, Parser)]
#[command(name = "cluster")]
struct Options {
    /// Only these parts
    #[arg(long, value_delimiter = ',', value_parser = PARTS)]
    only: Vec<String>,
    /// Rounds of which the median is taken
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of one measurement
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Leaders killed
    #[arg(long, default_value_t = 20)]
    kills: usize,
    /// Fewer of everything: to see that it works
    #[arg(long)]
    quick: bool,
    /// Also write the result to this file
    #[arg(long)]
    out: Option<PathBuf>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    if !options.bench {
        println!("cluster: nothing to do; it measures when run by `cargo bench --bench cluster`");
        return ExitCode::SUCCESS;
    }
    if options.quick {
        (options.rounds, options.seconds, options.kills) = (1, 0.5, 2);
    }
    let result = measure(&options).and_then(|text| {
        print!("{text}");
        options.out.as_ref().map_or(Ok(()), |path| Ok(std::fs::write(path, &text)?))
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cluster: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What every part needs.
struct Bench<'a> {
    options: &'a Options,
    ringbench: PathBuf,
    ringd: Program,
    etcd: Option<Program>,
    dir: PathBuf,
}

fn measure(options: &Options) -> Result<String, Error> {
    let dir = tempfile::Builder::new().prefix("cluster-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let ringd = std::env::var_os("RINGD_BIN").map_or_else(|| env!("CARGO_BIN_EXE_ringd").into(), PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let etcd = std::env::split_paths(&path).map(|dir| dir.join("etcd")).find(|program| program.is_file());
    let bench = Bench {
        options,
        ringbench: ringbench::build()?,
        ringd: Program { name: "ringd", path: ringd, flags: Vec::new() },
        etcd: etcd.map(|path| Program { name: "etcd", path, flags: vec!["--enable-v2".to_owned()] }),
        dir: dir.path().to_owned(),
    };
    let mut out = "# Three members on one machine\n\nAll members and the load share its cores.\n".to_owned();
    if bench.etcd.is_none() {
        out.push_str("\netcd is not on PATH: only ringd is measured.\n");
    }
    for part in PARTS.iter().filter(|part| options.only.is_empty() || options.only.iter().any(|only| only == *part)) {
        eprintln!("cluster: {part}");
        out.push_str(&match *part {
            "put" => bench.put()?,
            "failover" => bench.failover()?,
            _ => bench.catch_up()?,
        });
    }
    Ok(out)
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    rate: f64,
    cpu_us: f64,
    p50_us: f64,
    p99_us: f64,
}

impl Bench<'_> {
    fn programs(&self) -> Vec<Program> {
        [Some(&self.ringd), self.etcd.as_ref()].into_iter().flatten().cloned().collect()
    }

    fn load(&self, cluster: &Cluster, member: usize, keys: u64, seconds: f64) -> Result<Sample, Error> {
        let before = cluster.cpu()?;
        let mut command = Command::new(&self.ringbench);
        command.args(["put", "--json", "--warmup", "0s", "--target", &format!("http://{}", cluster.client(member))]);
        command.args(["--clients", &CLIENTS.to_string(), "--key-space", &keys.to_string()]);
        command.args(["--duration", &format!("{seconds}s")]).stdin(Stdio::null());
        let output = command.output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().into());
        }
        let spent = cluster.cpu()?.saturating_sub(before);
        let report: Value = serde_json::from_slice(&output.stdout)?;
        let figure = |value: &Value| value.as_f64().ok_or("ringbench lacks a figure");
        if figure(&report["errors"]["total"])? > 0.0 {
            return Err(format!("requests failed: {}", report["errors"]).into());
        }
        Ok(Sample {
            rate: figure(&report["requests_per_second"])?,
            cpu_us: spent.as_secs_f64() * 1e6 / figure(&report["requests"])?,
            p50_us: figure(&report["latency_us"]["p50"])?,
            p99_us: figure(&report["latency_us"]["p99"])?,
        })
    }

    /// Durable writes through the leader and through a follower.
    fn put(&self) -> Result<String, Error> {
        let mut clusters = Vec::new();
        for program in self.programs() {
            clusters.push(Cluster::start(&program, &self.dir.join(format!("put-{}", program.name)))?);
        }
        // By side (ringd, etcd), then by whom is asked (the leader, a follower).
        let mut taken: [[Vec<Sample>; 2]; 2] = Default::default();
        for round in 0..self.options.rounds {
            for turn in 0..clusters.len() {
                let side = (turn + round) % clusters.len();
                let leader = clusters[side].leader()?;
                for (through, member) in [leader, (leader + 1) % MEMBERS].into_iter().enumerate() {
                    let sample = self.load(&clusters[side], member, KEYS, self.options.seconds)?;
                    taken[side][through].push(sample);
                }
            }
        }
        let mut table = Table::new(&[
            "PUT through",
            "ringd req/s",
            "etcd req/s",
            "ratio",
            "goal",
            "ringd CPU µs",
            "etcd CPU µs",
            "ratio",
            "goal",
            "ringd p50/p99 µs",
            "etcd p50/p99 µs",
        ]);
        for (through, name) in ["the leader", "a follower"].into_iter().enumerate() {
            let of =
                |side: usize, figure: fn(&Sample) -> f64| median(taken[side][through].iter().map(figure).collect());
            let both = |figure: fn(&Sample) -> f64| (of(0, figure), of(1, figure));
            let (rate, cpu) = (both(|s| s.rate), both(|s| s.cpu_us));
            let (p50, p99) = (both(|s| s.p50_us), both(|s| s.p99_us));
            let (more, less) = (ratio(rate.0, rate.1), ratio(cpu.0, cpu.1));
            let is_goal = through == 0;
            table.row(vec![
                format!("{name}, {CLIENTS} connections"),
                number(rate.0, 0),
                number(rate.1, 0),
                table::times(more),
                if is_goal { Goal::AtLeast(2.0).verdict(more) } else { String::new() },
                number(cpu.0, 1),
                number(cpu.1, 1),
                table::times(less),
                if is_goal { Goal::AtMost(0.4).verdict(less) } else { String::new() },
                format!("{} / {}", number(p50.0, 0), number(p99.0, 0)),
                format!("{} / {}", number(p50.1, 0), number(p99.1, 0)),
            ]);
        }
        Ok(format!("\n## Replicated PUT, durable\n\nCPU is that of all three members.\n\n{}", table.markdown()))
    }

    /// From the death of a leader to the first write that succeeds.
    fn failover(&self) -> Result<String, Error> {
        let mut clusters = Vec::new();
        for program in self.programs() {
            clusters.push(Cluster::start(&program, &self.dir.join(format!("failover-{}", program.name)))?);
        }
        let mut missed = vec![Vec::new(); clusters.len()];
        for round in 0..self.options.kills {
            for turn in 0..clusters.len() {
                let side = (turn + round) % clusters.len();
                let cluster = &mut clusters[side];
                let leader = cluster.leader()?;
                let survivors = [cluster.client((leader + 1) % MEMBERS), cluster.client((leader + 2) % MEMBERS)];
                cluster.kill(leader)?;
                missed[side].push(first_write(survivors)?.as_secs_f64() * 1e3);
                cluster.launch(leader)?;
                wait_until_level(cluster, leader, CATCH_UP_LIMIT)?;
            }
        }
        let mut table = Table::new(&["program", "kills", "median ms", "worst ms", "goal"]);
        for (program, missed) in self.programs().into_iter().zip(missed) {
            let (kills, worst) = (missed.len().to_string(), missed.iter().copied().reduce(f64::max));
            let middle = median(missed);
            let goal = if program.name == "ringd" { Goal::AtMost(1.5 * ELECTION_MS) } else { Goal::None };
            table.row(vec![program.name.to_owned(), kills, number(middle, 0), number(worst, 0), goal.verdict(middle)]);
        }
        let text =
            "From `kill -9` of the leader to the first write that a survivor acknowledges; election timeout 1000 ms.";
        Ok(format!("\n## Leader killed\n\n{text}\n\n{}", table.markdown()))
    }

    /// A follower that was away for very many writes comes back under load, by snapshot.
    fn catch_up(&self) -> Result<String, Error> {
        let missed = if self.options.quick { MISSED_QUICK } else { MISSED };
        // One of these many; the leader then keeps a few thousand entries behind its snapshot, so the follower needs it.
        let flags = vec!["--snapshot-count".to_owned(), (missed / 10).to_string()];
        let program = Program { flags, ..self.ringd.clone() };
        let mut cluster = Cluster::start(&program, &self.dir.join("catchup"))?;
        let leader = cluster.leader()?;
        let follower = (leader + 1) % MEMBERS;
        let load = |cluster: &Cluster, seconds: f64| self.load(cluster, leader, missed, seconds);
        let mut healthy = Vec::new();
        for _ in 0..BEFORE {
            healthy.push(load(&cluster, SLICE_SECONDS)?);
        }
        cluster.kill(follower)?;
        let begin = ready_index(&cluster, leader)?;
        while ready_index(&cluster, leader)? - begin < missed {
            load(&cluster, self.options.seconds)?;
        }
        let behind = ready_index(&cluster, leader)? - begin;
        let mut before = Vec::new();
        for _ in 0..BEFORE {
            before.push(load(&cluster, SLICE_SECONDS)?);
        }
        let came_back = Instant::now();
        cluster.launch(follower)?;
        let mut during = Vec::new();
        let caught_up = loop {
            let target = ready_index(&cluster, leader)?;
            during.push(load(&cluster, SLICE_SECONDS)?);
            if cluster.index(follower).is_some_and(|index| index >= target) {
                break came_back.elapsed();
            }
            if came_back.elapsed() > CATCH_UP_LIMIT {
                return Err("the follower does not catch up".into());
            }
        };
        if !cluster.log(follower)?.contains(BY_SNAPSHOT) {
            return Err("the follower caught up without a snapshot: nothing was measured".into());
        }
        let worst = |samples: &[Sample]| samples.iter().map(|sample| sample.p99_us).reduce(f64::max);
        for (what, samples) in [("healthy", &healthy), ("two", &before), ("during", &during)] {
            let p99s: Vec<String> = samples.iter().map(|sample| format!("{:.0}", sample.p99_us)).collect();
            eprintln!("cluster: p99 per slice, {what}: {} µs", p99s.join(" "));
        }
        let (meanwhile, healthy, before) = (worst(&during), worst(&healthy), worst(&before));
        let mut table = Table::new(&["what", "figure", "goal"]);
        let mut line = |what: &str, figure: String, goal: String| table.row(vec![what.to_owned(), figure, goal]);
        line("entries missed, on as many random keys", behind.to_string(), String::new());
        line(
            "level again after (start of the process included)",
            format!("{} s", number(Some(caught_up.as_secs_f64()), 1)),
            String::new(),
        );
        line("the leader's PUT p99 meanwhile, worst second", format!("{} µs", number(meanwhile, 0)), String::new());
        for (what, calm) in [("with two members, just before", before), ("with all three, before that", healthy)] {
            let slower = ratio(meanwhile, calm);
            let figure = format!("{} µs, so {} meanwhile", number(calm, 0), table::times(slower));
            line(&format!("… {what}"), figure, Goal::AtMost(2.0).verdict(slower));
        }
        Ok(format!("\n## A follower far behind\n\n{}", table.markdown()))
    }
}

/// Writes, and tells the index of the write.
fn ready_index(cluster: &Cluster, member: usize) -> Result<u64, Error> {
    request(cluster.client(member), "PUT", "/v2/keys/ready", "value=1", Duration::from_secs(10))?;
    cluster.index(member).ok_or_else(|| "the member does not answer".into())
}

fn wait_until_level(cluster: &Cluster, member: usize, limit: Duration) -> Result<(), Error> {
    let begun = Instant::now();
    let target = ready_index(cluster, cluster.leader()?)?;
    while cluster.index(member).is_none_or(|index| index < target) {
        if begun.elapsed() > limit {
            return Err("a restarted member does not catch up".into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Tries to write to both survivors again and again, each attempt on a connection of its own: one that was begun while
/// there was no leader may wait long or be refused.
fn first_write(survivors: [std::net::SocketAddr; 2]) -> Result<Duration, Error> {
    let begun = Instant::now();
    let (tell, told) = mpsc::channel();
    let mut attempt = 0;
    loop {
        let (to, tell) = (survivors[attempt % 2], tell.clone());
        attempt += 1;
        thread::spawn(move || {
            let written = request(to, "PUT", "/v2/keys/failover", "value=1", FAILOVER_LIMIT);
            if written.is_ok_and(|(status, _)| status < 300) {
                // Nobody listens any more after the first.
                let _ = tell.send(Instant::now());
            }
        });
        match told.recv_timeout(ATTEMPT_PERIOD) {
            Ok(when) => return Ok(when - begun),
            Err(RecvTimeoutError::Timeout) if begun.elapsed() < FAILOVER_LIMIT => {}
            Err(_) => return Err("no survivor took a write".into()),
        }
    }
}
