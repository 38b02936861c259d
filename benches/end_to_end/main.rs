//! Runs ringd and a real etcd in turns on this machine and prints Markdown tables of the ratios.
//!
//! Owns: what is measured, in which order. Touches: server processes, a directory for their data, block device
//! counters. Always: both servers are measured by the same load generator within the same round, one after the other;
//! a figure is the median of the rounds; ringd has one core, etcd all of them.
//!
//! `cargo bench --bench end_to_end` runs everything; `-- --help` shows the options.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

mod constant;
mod load;
mod machine;
/// The server binary's seam, so that the constant server's rings are set up as ringd's are.
#[path = "../../src/ring_seam.rs"]
mod ring_seam;
mod ringbench;
mod servers;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use load::{Load, Sample};
use servers::{Programs, Server};
use table::{Goal, Table, median, ratio};

type Error = Box<dyn std::error::Error>;

/// Bytes per value in every measurement.
pub const VALUE_SIZE: u64 = 128;
const CONNECTIONS: [u64; 3] = [1, 64, 256];
const KEY_SPACES: [u64; 2] = [1, 10_000];
/// Keys of the cold start.
const COLD_KEYS: u64 = 1_000_000;
const COLD_KEYS_QUICK: u64 = 50_000;
/// What can be measured, in this order.
const PARTS: [&str; 7] = ["get", "put", "constant", "auth", "flushes", "sync", "cold"];
/// Hidden argument with which this program runs as the constant-answer server.
const CONSTANT_SERVER: &str = "--constant-server";

#[derive(Clone, Debug, Parser)]
#[command(name = "end_to_end")]
struct Options {
    /// One short round with fewer keys: to see that everything works
    #[arg(long)]
    quick: bool,
    /// Rounds of which the median is taken
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds per measurement
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Only these parts
    #[arg(long, value_delimiter = ',', value_parser = PARTS)]
    only: Vec<String>,
    /// Also write the result to this file
    #[arg(long)]
    out: Option<PathBuf>,
    /// Where the servers keep their data [default: cargo's directory for temporary files]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The core ringd is pinned to [default: the last]
    #[arg(long)]
    core: Option<usize>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|p| p == part)
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let [_, flag, port] = args.as_slice()
        && flag == CONSTANT_SERVER
    {
        return constant::serve(port);
    }
    let mut options = Options::parse_from(args);
    if !options.bench {
        println!("end_to_end: nothing to do; it measures when run by `cargo bench --bench end_to_end`");
        return ExitCode::SUCCESS;
    }
    if options.quick {
        (options.rounds, options.seconds) = (1, 0.5);
    }
    match measure(&options) {
        Ok(text) => finish(&options, &text),
        Err(error) => {
            eprintln!("end_to_end: {error}");
            ExitCode::FAILURE
        }
    }
}

fn finish(options: &Options, text: &str) -> ExitCode {
    print!("{text}");
    match options.out.as_ref().map(|path| (path, std::fs::write(path, text))) {
        Some((path, Err(error))) => {
            eprintln!("end_to_end: cannot write {}: {error}", path.display());
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Everything a part of the measurement needs.
struct Bench<'a> {
    options: &'a Options,
    programs: Programs,
    load: Load,
    /// Holds the data directories.
    dir: PathBuf,
}

fn measure(options: &Options) -> Result<String, Error> {
    let programs = Programs::find(options.core)?;
    let load = Load { ringbench: ringbench::build()?, seconds: options.seconds, cores: programs.other_cores() };
    let parent = options.dir.clone().unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
    std::fs::create_dir_all(&parent)?;
    let dir = tempfile::Builder::new().prefix("end-to-end-").tempdir_in(&parent)?;
    let bench = Bench { options, programs, load, dir: dir.path().to_owned() };
    let mut out = machine::describe(&bench.dir, &bench.programs, options.rounds, options.seconds)?;
    if bench.programs.etcd.is_none() {
        let line = "etcd is not on PATH: the comparison is skipped, only ringd is measured";
        eprintln!("end_to_end: {line}");
        out.push_str(&format!("\n{line}.\n"));
    }
    for part in PARTS {
        if options.wants(part) {
            eprintln!("end_to_end: {part}");
            out.push_str(&bench.part(part)?);
        }
    }
    Ok(out)
}

/// The measured samples of both sides, one per round.
#[derive(Default)]
struct Pair {
    ringd: Vec<Sample>,
    etcd: Vec<Sample>,
}

impl Pair {
    fn figures(&self, figure: impl Fn(&Sample) -> f64) -> (Option<f64>, Option<f64>) {
        let of = |samples: &[Sample]| median(samples.iter().map(&figure).collect());
        (of(&self.ringd), of(&self.etcd))
    }
}

impl Bench<'_> {
    fn part(&self, name: &str) -> Result<String, Error> {
        match name {
            "constant" => self.constant(),
            "auth" => self.auth(),
            "flushes" => self.flushes(),
            "sync" => self.sync(),
            "cold" => self.cold(),
            command => self.throughput(command),
        }
    }

    fn start_both(&self, part: &str) -> Result<(Server, Option<Server>), Error> {
        let ringd = Server::start(&self.programs.ringd, &self.dir.join(format!("{part}-ringd")))?;
        let etcd = match &self.programs.etcd {
            Some(program) => Some(Server::start(program, &self.dir.join(format!("{part}-etcd")))?),
            None => None,
        };
        Ok((ringd, etcd))
    }

    /// Measures `command` on both servers, once per round, the first one first in even rounds only.
    fn rounds(
        &self,
        both: &(Server, Option<Server>),
        round: usize,
        pair: &mut Pair,
        run: impl Fn(&Server) -> Result<Sample, Error>,
    ) -> Result<(), Error> {
        let (ringd, etcd) = both;
        if round.is_multiple_of(2) {
            pair.ringd.push(run(ringd)?);
        }
        if let Some(etcd) = etcd {
            pair.etcd.push(run(etcd)?);
        }
        if !round.is_multiple_of(2) {
            pair.ringd.push(run(ringd)?);
        }
        Ok(())
    }

    /// Requests per second and CPU per request, for each number of connections and keys.
    fn throughput(&self, command: &str) -> Result<String, Error> {
        let both = self.start_both(command)?;
        for server in [Some(&both.0), both.1.as_ref()].into_iter().flatten() {
            self.load.fill(server, KEY_SPACES[KEY_SPACES.len() - 1])?;
        }
        let cells: Vec<(u64, u64)> = KEY_SPACES.iter().flat_map(|k| CONNECTIONS.map(|c| (c, *k))).collect();
        let mut pairs: Vec<Pair> = cells.iter().map(|_| Pair::default()).collect();
        for round in 0..self.options.rounds {
            for ((connections, keys), pair) in cells.iter().zip(&mut pairs) {
                self.rounds(&both, round, pair, |server| self.load.run(server, command, *connections, *keys))?;
            }
        }
        let mut table = Table::new(&[
            "connections",
            "keys",
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
        for ((connections, keys), pair) in cells.iter().zip(&pairs) {
            let rate = pair.figures(|s| s.requests_per_second);
            let cpu = pair.figures(|s| s.cpu_us);
            let (rate_goal, cpu_goal) = goals(command, *connections);
            let (p50, p99) = (pair.figures(|s| s.p50_us), pair.figures(|s| s.p99_us));
            let latency = |p50: Option<f64>, p99: Option<f64>| match (p50, p99) {
                (Some(p50), Some(p99)) => format!("{p50:.0} / {p99:.0}"),
                _ => "-".to_owned(),
            };
            table.row(vec![
                connections.to_string(),
                keys.to_string(),
                table::number(rate.0, 0),
                table::number(rate.1, 0),
                table::times(ratio(rate.0, rate.1)),
                rate_goal.verdict(ratio(rate.0, rate.1)),
                table::number(cpu.0, 1),
                table::number(cpu.1, 1),
                table::times(ratio(cpu.0, cpu.1)),
                cpu_goal.verdict(ratio(cpu.0, cpu.1)),
                latency(p50.0, p99.0),
                latency(p50.1, p99.1),
            ]);
        }
        let title = if command == "put" { "PUT, durable" } else { "GET" };
        Ok(format!("\n## {title}\n\n{}{}", table.markdown(), load::error_note(&pairs_errors(&pairs))))
    }

    /// GET against a server that does nothing but parse the request, on the same executor and the same core.
    fn constant(&self) -> Result<String, Error> {
        const CLIENTS: u64 = 64;
        let ringd = Server::start(&self.programs.ringd, &self.dir.join("constant-ringd"))?;
        self.load.fill(&ringd, KEY_SPACES[KEY_SPACES.len() - 1])?;
        let bytes = ringd.answer_bytes(VALUE_SIZE)?;
        let equal = Server::start_constant(&self.programs, CONSTANT_SERVER, Some(bytes))?;
        let small = Server::start_constant(&self.programs, CONSTANT_SERVER, None)?;
        let servers = [&ringd, &equal, &small];
        let mut samples: [Vec<Sample>; 3] = Default::default();
        for _ in 0..self.options.rounds {
            for (server, samples) in servers.iter().zip(&mut samples) {
                samples.push(self.load.run_awake(server, "get", CLIENTS, 10_000)?);
            }
        }
        let figure = |samples: &[Sample], f: fn(&Sample) -> f64| median(samples.iter().map(f).collect());
        let rates = [0, 1, 2].map(|at: usize| figure(&samples[at], |s| s.requests_per_second));
        let cpu = [0, 1, 2].map(|at: usize| figure(&samples[at], |s| s.cpu_us));
        let names = [
            format!("ringd, {bytes} B per answer"),
            format!("constant answer of {bytes} B"),
            "constant answer of 100 B beside a short head".to_owned(),
        ];
        let mut table = Table::new(&["server", "GET/s, 64 connections", "CPU µs per request"]);
        for ((name, rate), cpu) in names.into_iter().zip(rates).zip(cpu) {
            table.row(vec![name, table::number(rate, 0), table::number(cpu, 1)]);
        }
        let share = ratio(rates[0], rates[1]);
        let verdict = Goal::AtLeast(0.85).verdict(share);
        Ok(format!(
            "\n## Against a constant answer on the same executor\n\n{}\nringd over the constant answer of its own size: \
             {} (goal {verdict}); over the short one: {}. The generator never \
             sleeps here, so that neither server pays for waking it.\n",
            table.markdown(),
            table::times(share),
            table::times(ratio(rates[0], rates[2]))
        ))
    }

    /// GET of a user beside GET without auth, on two servers with the same keys.
    fn auth(&self) -> Result<String, Error> {
        const CLIENTS: u64 = 64;
        const USER: &str = "reader:secret";
        let open = Server::start(&self.programs.ringd, &self.dir.join("auth-open"))?;
        let guarded = Server::start(&self.programs.ringd, &self.dir.join("auth-guarded"))?;
        for server in [&open, &guarded] {
            self.load.fill(server, KEY_SPACES[KEY_SPACES.len() - 1])?;
        }
        let read = r#"{"role":"readers","permissions":{"kv":{"read":["/*"],"write":[]}}}"#;
        guarded.put("/v2/auth/users/root", r#"{"user":"root","password":"root"}"#)?;
        guarded.put("/v2/auth/roles/readers", read)?;
        guarded.put("/v2/auth/users/reader", r#"{"user":"reader","password":"secret","roles":["readers"]}"#)?;
        guarded.put("/v2/auth/enable", "")?;
        let mut samples: [Vec<Sample>; 2] = Default::default();
        for _ in 0..self.options.rounds {
            samples[0].push(self.load.run_awake(&open, "get", CLIENTS, 10_000)?);
            samples[1].push(self.load.run_as(&guarded, USER, CLIENTS, 10_000)?);
        }
        let mut table = Table::new(&["server", "GET/s, 64 connections", "CPU µs per request"]);
        let rates = [0, 1].map(|at: usize| median(samples[at].iter().map(|s| s.requests_per_second).collect()));
        for (at, name) in ["auth off", "auth on, a user with one role"].into_iter().enumerate() {
            let cpu = median(samples[at].iter().map(|s| s.cpu_us).collect());
            table.row(vec![name.to_owned(), table::number(rates[at], 0), table::number(cpu, 1)]);
        }
        let share = ratio(rates[1], rates[0]);
        Ok(format!(
            "\n## GET with a password\n\n{}\nwith auth over without: {} (goal {}).\n",
            table.markdown(),
            table::times(share),
            Goal::AtLeast(0.8).verdict(share)
        ))
    }

    /// Flushes of the block device per acknowledged write.
    fn flushes(&self) -> Result<String, Error> {
        let Some(device) = machine::Device::of(&self.dir)? else {
            return Ok("\n## Disk flushes per PUT\n\nskipped: the file system is not on one block device\n".into());
        };
        let both = self.start_both("flushes")?;
        let mut table = Table::new(&["connections", "ringd flushes/PUT", "etcd flushes/PUT", "goal for ringd"]);
        for (connections, goal) in [(1, Goal::Within(0.95, 1.1)), (64, Goal::Below(0.1))] {
            let mut pair = Pair::default();
            for round in 0..self.options.rounds {
                self.rounds(&both, round, &mut pair, |server| {
                    let before = device.flushes()?;
                    let sample = self.load.run_uncounted(server, "put", connections, 10_000)?;
                    let flushes = device.flushes()?.saturating_sub(before);
                    Ok(Sample { flushes_per_request: flushes as f64 / sample.requests.max(1.0), ..sample })
                })?;
            }
            let (ringd, etcd) = pair.figures(|s| s.flushes_per_request);
            let cells = [table::number(ringd, 3), table::number(etcd, 3), goal.verdict(ringd)];
            table.row([vec![connections.to_string()], cells.to_vec()].concat());
        }
        let source = format!("Flush requests completed by `{}`; other writers of the disk count too.", device.name);
        Ok(format!("\n## Disk flushes per PUT\n\n{}\n{source}\n", table.markdown()))
    }

    /// The sync of a small batch against the raw floor of the disk, from `ringbench wal`.
    fn sync(&self) -> Result<String, Error> {
        let title = "\n## Sync against the raw floor\n\n";
        match self.load.sync_over_floor(&self.dir, self.options.quick) {
            Ok(figures) => {
                let verdict = Goal::AtMost(1.1).verdict(Some(figures.ratio));
                Ok(format!(
                    "{title}Sync of a 128 B append: p50 {:.0} µs; raw 4 KiB O_DIRECT write + fdatasync, interleaved: \
                     p50 {:.0} µs; ratio {:.2} (goal {verdict}). With the append itself: {:.0} µs.\n",
                    figures.sync_us, figures.floor_us, figures.ratio, figures.with_append_us
                ))
            }
            Err(error) => Ok(format!("{title}skipped: {error}\n")),
        }
    }

    /// Restart with many keys: time to the first answer, and memory over data.
    fn cold(&self) -> Result<String, Error> {
        let keys = if self.options.quick { COLD_KEYS_QUICK } else { COLD_KEYS };
        let mut table = Table::new(&["server", "first answer s", "RSS MB", "RSS / data"]);
        let data = (keys * VALUE_SIZE) as f64;
        let mut met = String::new();
        let servers = [("ringd", Some(&self.programs.ringd)), ("etcd", self.programs.etcd.as_ref())];
        for (name, program) in servers.into_iter().filter_map(|(name, program)| Some((name, program?))) {
            let dir = self.dir.join(format!("cold-{name}"));
            let server = Server::start(program, &dir)?;
            self.load.fill(&server, keys)?;
            server.stop()?;
            let mut seconds = Vec::new();
            let mut memory = 0.0;
            for _ in 0..self.options.rounds.min(3) {
                let server = Server::start(program, &dir)?;
                seconds.push(server.answered_after.as_secs_f64());
                memory = server.resident_bytes()?;
                server.stop()?;
            }
            let seconds = median(seconds);
            if name == "ringd" {
                let (time, space) =
                    (Goal::AtMost(1.0).verdict(seconds), Goal::AtMost(3.0).verdict(Some(memory / data)));
                met = format!("\nGoals for ringd with 1M keys: first answer {time}; RSS / data {space}\n");
            }
            let memory = [format!("{:.0}", memory / 1e6), format!("{:.2}", memory / data)];
            table.row([vec![name.to_owned(), table::number(seconds, 2)], memory.to_vec()].concat());
            // The data of one server shall not stay in the page cache while the other is measured.
            std::fs::remove_dir_all(&dir)?;
        }
        let title = format!("\n## Cold start with {keys} keys of {VALUE_SIZE} B\n\n");
        Ok(format!("{title}{}{met}\nThe page cache is warm; data counts value bytes only.\n", table.markdown()))
    }
}

fn pairs_errors(pairs: &[Pair]) -> Vec<f64> {
    pairs.iter().flat_map(|p| p.ringd.iter().chain(&p.etcd)).map(|s| s.errors).collect()
}

/// The figures to reach, as ratios to etcd: requests per second, CPU per request.
fn goals(command: &str, connections: u64) -> (Goal, Goal) {
    match (command, connections) {
        ("get", 64) => (Goal::AtLeast(2.0), Goal::AtMost(0.45)),
        ("put", 1) => (Goal::AtLeast(1.1), Goal::None),
        ("put", 64) => (Goal::AtLeast(2.2), Goal::AtMost(0.3)),
        ("put", 256) => (Goal::AtLeast(2.8), Goal::AtMost(0.3)),
        _ => (Goal::None, Goal::None),
    }
}
