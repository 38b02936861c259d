//! TLS: what a GET costs under it, what a new connection with certificates on both sides costs, and what others notice of
//! new connections. ringd and a real etcd in turns.
//!
//! Owns: what is measured. Touches: server processes, a directory for their data and certificates. Always: both servers
//! show and ask for the same P-256 certificates and are measured by the same load generator within the same round; every
//! new connection is a full handshake.
//!
//! `cargo bench --bench tls` prints Markdown for RESULTS.md; `-- --help` shows the options.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

#[path = "../../tests/tls/authority.rs"]
#[allow(dead_code, reason = "the tests need more certificates")]
mod authority;
#[path = "../end_to_end/ringbench.rs"]
mod ringbench;
#[path = "../end_to_end/servers.rs"]
#[allow(dead_code, reason = "the other benchmark starts more kinds of servers")]
mod servers;
#[path = "../end_to_end/table.rs"]
#[allow(dead_code, reason = "some goals are the other benchmark's")]
mod table;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};

use clap::Parser;
use serde_json::Value;

use authority::Files;
use servers::{Program, Programs, Server, pin};
use table::{Goal, Table, median, number, ratio, times};

type Error = Box<dyn std::error::Error>;

const KEYS: u64 = 10_000;
/// Connections of the GET load.
const CLIENTS: u64 = 64;
/// Connections that are made at the same time.
const MAKING: u64 = 16;
/// Connections made per second beside a steady load.
const NEW_PER_SECOND: u64 = 200;
/// The steady load: a fifth of what one core of ringd answers.
const STEADY_PER_SECOND: u64 = 10_000;
/// What can be measured, in this order.
const PARTS: [&str; 2] = ["costs", "beside"];
/// Share of the measuring time that is run before measuring.
const WARMUP_SHARE: f64 = 0.2;

#[derive(Clone, Debug, Parser)]
#[command(name = "tls")]
struct Options {
    /// One short round: to see that everything works
    #[arg(long)]
    quick: bool,
    /// Rounds of which the median is taken
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds per measurement
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Only these parts
    #[arg(long, value_delimiter = ',', value_parser = PARTS)]
    only: Vec<String>,
    /// The load generator [default: built with this profile]
    #[arg(long)]
    ringbench: Option<PathBuf>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    if !options.bench {
        println!("tls: nothing to do; it measures when run by `cargo bench --bench tls`");
        return ExitCode::SUCCESS;
    }
    if options.quick {
        (options.rounds, options.seconds) = (1, 0.5);
    }
    match measure(&options) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("tls: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One server with a secure listener beside the plain one.
struct Secured {
    server: Server,
    port: u16,
}

/// One measurement, times in microseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    per_second: f64,
    cpu_us: f64,
    p50: f64,
    p99: f64,
    /// The loop's longest stall, milliseconds; ringd's only.
    stall_ms: f64,
}

struct Bench<'a> {
    options: &'a Options,
    programs: Programs,
    ringbench: PathBuf,
    files: Files,
    dir: PathBuf,
}

fn measure(options: &Options) -> Result<String, Error> {
    let programs = Programs::find(None)?;
    let ringbench = match &options.ringbench {
        Some(given) => given.clone(),
        None => ringbench::build()?,
    };
    let dir = tempfile::Builder::new().prefix("tls-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let bench = Bench { options, programs, ringbench, files: Files::new(), dir: dir.path().to_owned() };
    let mut text = format!(
        "# TLS\n\n`cargo bench --bench tls`: P-256 certificates on both sides, TLS 1.3, full handshakes, medians of {} \
         interleaved rounds of {} s.\n",
        options.rounds, options.seconds
    );
    if bench.programs.etcd.is_none() {
        text.push_str("\netcd is not on PATH: only ringd is measured.\n");
    }
    let wants = |part: &str| options.only.is_empty() || options.only.iter().any(|wanted| wanted == part);
    if wants(PARTS[0]) {
        text.push_str(&bench.costs()?);
    }
    if wants(PARTS[1]) {
        text.push_str(&bench.beside_new_connections()?);
    }
    Ok(text)
}

impl Bench<'_> {
    fn start(&self, program: &Program, name: &str) -> Result<Secured, Error> {
        let free = || TcpListener::bind("127.0.0.1:0")?.local_addr().map(|address| address.port());
        let (plain, port) = (free()?, free()?);
        let mut program = program.clone();
        // The last of two flags counts. The text lives as long as this program, which is short.
        let flags = [
            format!("--listen-client-urls=http://127.0.0.1:{plain},https://127.0.0.1:{port}"),
            format!("--cert-file={}", self.files.text("good.crt")),
            format!("--key-file={}", self.files.text("good.key")),
            format!("--trusted-ca-file={}", self.files.text("ca.crt")),
            "--client-cert-auth".to_owned(),
        ];
        program.flags.extend(flags.map(|flag| &*flag.leak()));
        let server = Server::start_at(&program, &self.dir.join(name), plain)?;
        let secured = Secured { server, port };
        let target = format!("http://127.0.0.1:{plain}");
        let mut fill = self.generator(&secured, &["get", "--target", &target, "--duration", "50ms"])?;
        fill.wait()?;
        Ok(secured)
    }

    /// Starts the generator, with its output to be read.
    fn generator(&self, at: &Secured, arguments: &[&str]) -> Result<Child, Error> {
        let mut command = Command::new(&self.ringbench);
        command.args(arguments).args(["--key-space", &KEYS.to_string(), "--json"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if at.server.pinned {
            pin(child.id(), &self.programs.other_cores())?;
        }
        Ok(child)
    }

    /// Starts a load over TLS.
    fn load(&self, at: &Secured, clients: u64, more: &[&str]) -> Result<Child, Error> {
        let seconds = self.options.seconds;
        let texts = [
            format!("https://127.0.0.1:{}", at.port),
            clients.to_string(),
            format!("{seconds}s"),
            format!("{}s", seconds * WARMUP_SHARE),
            at.server.pid().to_string(),
            self.files.text("ca.crt"),
            self.files.text("good.crt"),
            self.files.text("good.key"),
        ];
        let flags = ["--target", "--clients", "--duration", "--warmup", "--server-pid", "--cacert", "--cert", "--key"];
        let mut arguments = vec!["get", "--no-fill"];
        flags.iter().zip(&texts).for_each(|(flag, text)| arguments.extend([*flag, text]));
        arguments.extend(more);
        self.generator(at, &arguments)
    }

    fn costs(&self) -> Result<String, Error> {
        let cells: [(u64, &[&str]); 2] = [(CLIENTS, &[]), (MAKING, &["--new-connections"])];
        let mut samples: [[Vec<Sample>; 2]; 2] = Default::default();
        let ringd = self.start(&self.programs.ringd, "costs-ringd")?;
        let etcd = self.programs.etcd.as_ref().map(|etcd| self.start(etcd, "costs-etcd")).transpose()?;
        for round in 0..self.options.rounds {
            for (cell, (clients, more)) in cells.iter().enumerate() {
                let mut order = [Some((0, &ringd)), etcd.as_ref().map(|etcd| (1, etcd))];
                if !round.is_multiple_of(2) {
                    order.reverse();
                }
                for (side, at) in order.into_iter().flatten() {
                    samples[cell][side].push(finished(self.load(at, *clients, more)?)?);
                }
            }
        }
        let mut table = Table::new(&["what", "ringd", "etcd", "ratio", "goal"]);
        let both = |cell: usize, figure: fn(&Sample) -> f64| {
            [0, 1].map(|side: usize| median(samples[cell][side].iter().map(figure).collect()))
        };
        let mut row = |what: &str, [ringd, etcd]: [Option<f64>; 2], over: Option<f64>, goal: Goal| {
            table.row(vec![what.to_owned(), number(ringd, 1), number(etcd, 1), times(over), goal.verdict(over)]);
        };
        let rate = both(0, |sample| sample.per_second);
        row("HTTPS GET/s, keep-alive, 64 connections", rate, ratio(rate[0], rate[1]), Goal::AtLeast(2.0));
        let cpu = both(0, |sample| sample.cpu_us);
        row("… server CPU µs per request", cpu, ratio(cpu[0], cpu[1]), Goal::None);
        let p99 = both(0, |sample| sample.p99);
        row("… p99 µs", p99, ratio(p99[0], p99[1]), Goal::None);
        let rate = both(1, |sample| sample.per_second);
        row("new mTLS connections/s, 16 at a time, one GET each", rate, ratio(rate[0], rate[1]), Goal::None);
        let cpu = both(1, |sample| sample.cpu_us);
        let per_cpu_second = cpu.map(|us| us.map(|us| 1e6 / us));
        let over = ratio(per_cpu_second[0], per_cpu_second[1]);
        row("… per CPU second of the server", per_cpu_second, over, Goal::AtLeast(1.5));
        Ok(format!("\n{}", table.markdown()))
    }

    fn beside_new_connections(&self) -> Result<String, Error> {
        let programs = [("ringd", Some(&self.programs.ringd)), ("etcd", self.programs.etcd.as_ref())];
        let mut table = Table::new(&["server", "beside", "GET/s", "p50 / p99 µs", "longest stall ms"]);
        for (name, program) in programs.into_iter().filter_map(|(name, program)| Some((name, program?))) {
            let mut samples: [Vec<Sample>; 2] = Default::default();
            for round in 0..self.options.rounds {
                for (with, samples) in samples.iter_mut().enumerate() {
                    // A fresh one: its longest stall is this measurement's.
                    let at = self.start(program, &format!("beside-{name}-{round}-{with}"))?;
                    let steady = STEADY_PER_SECOND.to_string();
                    let load = self.load(&at, CLIENTS, &["--rate", &steady])?;
                    let new = NEW_PER_SECOND.to_string();
                    let making = match with {
                        0 => None,
                        _ => Some(self.load(&at, MAKING, &["--new-connections", "--rate", &new])?),
                    };
                    let sample = finished(load)?;
                    if let Some(making) = making {
                        let made = finished(making)?.per_second;
                        if made < 0.9 * NEW_PER_SECOND as f64 {
                            return Err(format!("only {made} connections per second were made").into());
                        }
                    }
                    samples.push(Sample { stall_ms: longest_stall_ms(&at.server)?, ..sample });
                }
            }
            for (with, samples) in samples.iter().enumerate() {
                let of = |figure: fn(&Sample) -> f64| median(samples.iter().map(figure).collect());
                let beside = if with == 0 { "nothing" } else { "200 new mTLS connections/s" };
                table.row(vec![
                    name.to_owned(),
                    beside.to_owned(),
                    number(of(|sample| sample.per_second), 0),
                    format!("{} / {}", number(of(|sample| sample.p50), 0), number(of(|sample| sample.p99), 0)),
                    number(of(|sample| sample.stall_ms).filter(|ms| !ms.is_nan()), 2),
                ]);
            }
        }
        Ok(format!(
            "\nA steady load of {STEADY_PER_SECOND} GET/s under TLS; the longest stall is `ringd_loop_stall_longest_seconds` \
             of a process that did nothing else.\n\n{}",
            table.markdown()
        ))
    }
}

/// What the generator reports.
fn finished(child: Child) -> Result<Sample, Error> {
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err(format!("ringbench: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    if report["errors"]["total"].as_u64() != Some(0) {
        return Err(format!("requests failed: {}", report["errors"]).into());
    }
    Ok(Sample {
        per_second: number(&report["requests_per_second"]),
        cpu_us: number(&report["server_cpu_us_per_request"]),
        p50: number(&report["latency_us"]["p50"]),
        p99: number(&report["latency_us"]["p99"]),
        stall_ms: f64::NAN,
    })
}

/// From the metrics; not a number where there is no such metric.
fn longest_stall_ms(server: &Server) -> Result<f64, Error> {
    let mut stream = TcpStream::connect(server.address)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    // One line per kind of work.
    let lines = text.lines().filter(|line| line.starts_with("ringd_loop_stall_longest_seconds"));
    let seconds = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(seconds.fold(f64::NAN, f64::max) * 1e3)
}
