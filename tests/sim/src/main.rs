//! The command line of the simulator.
//!
//! Exit codes: 0 all well, 1 something happened that must never happen, 2 a cluster did not recover in time, 3 the
//! product panicked, 64 wrong usage.
#![allow(clippy::disallowed_methods, reason = "real time decides when to stop, nothing else")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use ringsim::profile::{KINDS, Kind, Off};
use ringsim::run::{Outcome, catch_panics, exit_code, names, run, shrink};
use ringsim::script::play;
use ringsim::time::SECOND;
use ringsim::world::Class;
use serde_json::{Map, Value, json};

/// Runs whole ringd clusters through faults, each from one seed.
#[derive(Parser)]
#[command(name = "ringsim", version)]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Run this seed only.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Print what happens.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    /// Run seeds from --from on for so many minutes.
    #[arg(long)]
    minutes: Option<u64>,
    /// Run seeds from --from on for so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Turn these kinds of faults off, comma-separated.
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
    /// Play these scenario files instead.
    #[arg(long, num_args = 1.., conflicts_with_all = ["seeds", "seed", "minutes", "seconds", "without"])]
    script: Vec<std::path::PathBuf>,
    /// Go on after a failure.
    #[arg(long)]
    keep_going: bool,
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let wrong = error.use_stderr();
            drop(error.print());
            return if wrong { ExitCode::from(64) } else { ExitCode::SUCCESS };
        }
    };
    let mut off: Off = 0;
    for name in &args.without {
        let Some(kind) = Kind::named(name) else {
            let known: Vec<&str> = KINDS.iter().map(|kind| kind.name()).collect();
            eprintln!("{name} is no kind of fault; there are {}", known.join(", "));
            return ExitCode::from(64);
        };
        off |= 1 << kind.place();
    }
    catch_panics();
    if !args.script.is_empty() {
        return scripts(&args.script);
    }
    let begun = Instant::now();
    let limit = match (args.minutes, args.seconds) {
        (None, None) => None,
        (minutes, seconds) => Some(Duration::from_secs(minutes.unwrap_or(0) * 60 + seconds.unwrap_or(0))),
    };
    let mut total = Total::default();
    let mut seed = args.seed.unwrap_or(args.from);
    loop {
        let mut outcome = run(seed, off, args.trace);
        if args.trace && !args.json {
            outcome.trace.iter().for_each(|line| println!("{line}"));
        }
        if let Some(failure) = outcome.failure.clone() {
            report(&outcome, args.seed.is_none());
            total.failed(failure.class);
            if args.seed.is_none() && !args.keep_going {
                total.add(&outcome);
                break;
            }
        }
        outcome.trace.clear();
        total.add(&outcome);
        seed += 1;
        let over = match limit {
            Some(limit) => begun.elapsed() >= limit,
            None => seed >= args.from.saturating_add(args.seeds),
        };
        if args.seed.is_some() || over {
            break;
        }
    }
    let took = begun.elapsed().as_secs_f64();
    if args.json {
        println!("{}", total.json(args.seed.is_some(), took));
    } else {
        total.print(took);
    }
    total.exit_code()
}

/// Plays scenarios; those that do not hold are named.
fn scripts(paths: &[std::path::PathBuf]) -> ExitCode {
    let mut wrong = 0;
    for path in paths {
        let told = std::fs::read_to_string(path).map_err(|error| error.to_string()).and_then(|text| play(&text));
        if let Err(why) = told {
            wrong += 1;
            eprintln!("{}: {why}", path.display());
        }
    }
    println!("{} scenarios, {wrong} do not hold", paths.len());
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn commit() -> String {
    let output = std::process::Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let text = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    text.map_or_else(|| "unknown".to_owned(), |text| String::from_utf8_lossy(&text).trim().to_owned())
}

/// Tells of a failure, and of the least that still shows it.
fn report(outcome: &Outcome, shrinks: bool) {
    let Some(failure) = &outcome.failure else { return };
    let replay = |off: Off| {
        let without = if off == 0 { String::new() } else { format!(" --without {}", names(off)) };
        format!("ringsim --seed {}{without} --trace", outcome.seed)
    };
    eprintln!(
        "seed {} at {:.3} s: {:?}: {}",
        outcome.seed,
        failure.at as f64 / SECOND as f64,
        failure.class,
        failure.what
    );
    eprintln!("  commit {}, replay with: {}", commit(), replay(outcome.off));
    if shrinks {
        let least = shrink(outcome.seed, failure.class, outcome.off);
        if let Some(failure) = &least.failure {
            eprintln!("  shrunk: {}", replay(least.off));
            eprintln!("  which says: {}", failure.what);
        }
    }
}

#[derive(Default)]
struct Total {
    seeds: u64,
    simulated: u64,
    operations: u64,
    acknowledged: u64,
    steps: u64,
    counts: [u64; KINDS.len()],
    failures: [u64; 3],
    trace_hash: u64,
}

impl Total {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.simulated += outcome.simulated;
        self.operations += outcome.operations;
        self.acknowledged += outcome.acknowledged;
        self.steps += outcome.steps;
        self.counts.iter_mut().zip(outcome.counts).for_each(|(sum, count)| *sum += count);
        self.trace_hash = outcome.trace_hash;
    }

    fn failed(&mut self, class: Class) {
        self.failures[class as usize] += 1;
    }

    fn exit_code(&self) -> ExitCode {
        let classes = [Class::Correctness, Class::Liveness, Class::Crash];
        let failed: Vec<Class> = classes.into_iter().filter(|class| self.failures[*class as usize] > 0).collect();
        ExitCode::from(exit_code(&failed))
    }

    fn json(&self, single: bool, took: f64) -> Value {
        let faults: Map<String, Value> =
            KINDS.iter().map(|kind| (kind.name().to_owned(), self.counts[kind.place()].into())).collect();
        let mut all = json!({
            "seeds": self.seeds,
            "simulated_seconds": self.simulated / SECOND,
            "real_seconds": took,
            "speed": self.simulated as f64 / SECOND as f64 / took,
            "operations": self.operations,
            "acknowledged_writes": self.acknowledged,
            "events": self.steps,
            "faults": faults,
            "failures": self.failures.iter().sum::<u64>(),
            "failures_by_class": {
                "correctness": self.failures[0], "liveness": self.failures[1], "crash": self.failures[2],
            },
            "commit": commit(),
        });
        if single {
            all["trace_hash"] = format!("{:016x}", self.trace_hash).into();
        }
        all
    }

    fn print(&self, took: f64) {
        let simulated = self.simulated as f64 / SECOND as f64;
        println!(
            "{} seeds, {simulated:.0} simulated seconds in {took:.1} s ({:.0} per second), {} operations, {} writes \
             acknowledged, {} failures",
            self.seeds,
            simulated / took,
            self.operations,
            self.acknowledged,
            self.failures.iter().sum::<u64>()
        );
        for kind in KINDS {
            println!("  {:>10} {}", self.counts[kind.place()], kind.name());
        }
    }
}
