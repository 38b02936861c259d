//! A cluster of three under five times the load it can carry, for a minute: memory, elections, readers, recovery.
//!
//! Owns: what is measured. Touches: member processes, a directory for their data, loopback sockets. Always: what the
//! cluster can carry is measured first, with the same requests from the same program.
//!
//! `cargo bench --bench overload` prints Markdown for RESULTS.md; `-- --help` shows the options.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

#[path = "../../tests/pressure/flood.rs"]
mod flood;
#[path = "../cluster/members.rs"]
#[allow(dead_code, reason = "killing members is the other benchmark's")]
mod members;
#[path = "../end_to_end/table.rs"]
#[allow(dead_code, reason = "ratios are the other benchmark's")]
mod table;

use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;

use flood::{Flood, Load, overload, quantile};
use members::{Cluster, MEMBERS, Program};
use table::{Goal, Table, number};

type Error = Box<dyn std::error::Error>;

const RECOVERY_PATIENCE: Duration = Duration::from_secs(10);
const MIB: f64 = 1024.0 * 1024.0;

#[derive(Clone, Debug, Parser)]
#[command(name = "overload")]
struct Options {
    /// Seconds under load
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Seconds to find out what the cluster carries
    #[arg(long, default_value_t = 5.0)]
    calibrate: f64,
    /// So many times what it carries
    #[arg(long, default_value_t = 5.0)]
    times: f64,
    /// Bytes per value, each a run of its own
    #[arg(long, value_delimiter = ',', default_values_t = [128, 16384])]
    value_bytes: Vec<usize>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if !options.bench {
        println!("overload: nothing to do; it measures when run by `cargo bench --bench overload`");
        return ExitCode::SUCCESS;
    }
    match measure(&options) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("overload: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Result<String, Error> {
    let mut table = Table::new(&["value bytes", "what", "figure", "goal"]);
    for &value_bytes in &options.value_bytes {
        run(options, value_bytes, &mut table)?;
    }
    let title = format!(
        "## Overload\n\nThree members on this machine, {} times what their leader carries, {} s for each size of value.",
        options.times, options.seconds
    );
    Ok(format!("{title}\n\n{}", table.markdown()))
}

fn run(options: &Options, value_bytes: usize, table: &mut Table) -> Result<(), Error> {
    let path = std::env::var_os("RINGD_BIN").map_or_else(|| env!("CARGO_BIN_EXE_ringd").into(), Into::into);
    let dir = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    let cluster = Cluster::start(&Program { name: "ringd", path, flags: Vec::new() }, dir.path())?;
    let leader = cluster.leader()?;
    let to = cluster.client(leader);
    let members: Vec<_> = (0..MEMBERS).map(|number| cluster.client(number)).collect();
    let closed = Load { to, connections: 64, value_bytes, depth: 4, rate: f64::INFINITY };
    let flood = Flood::start(closed);
    thread::sleep(Duration::from_secs_f64(options.calibrate));
    let carried = flood.stop()?;
    let carried = carried.accepted as f64 / carried.seconds;
    let load = Load { connections: 256, depth: usize::MAX, rate: carried * options.times, ..closed };
    let time = Duration::from_secs_f64(options.seconds);
    let figures = overload(load, cluster.pid(leader)?, &members, time, RECOVERY_PATIENCE)?;
    let tally = figures.tally;
    let per_second = |count: u64| count as f64 / tally.seconds;
    let elections: f64 = figures.terms.1.iter().zip(&figures.terms.0).map(|(after, before)| after - before).sum();
    let worst = figures.gets.iter().copied().fold(f64::NAN, f64::max);
    let rows: [(&str, f64, usize, &str, Goal); 13] = [
        ("carried before", carried, 0, "PUT/s", Goal::None),
        ("offered", per_second(tally.sent + tally.withheld), 0, "PUT/s", Goal::None),
        ("… of these kept back by their sockets", per_second(tally.withheld), 0, "PUT/s", Goal::None),
        ("accepted", per_second(tally.accepted), 0, "PUT/s", Goal::None),
        ("answered 503", per_second(tally.refused), 0, "PUT/s", Goal::None),
        ("answered otherwise, or cut off", (tally.other + tally.broken) as f64, 0, "", Goal::AtMost(0.0)),
        ("resident memory before", figures.resident_before / MIB, 0, "MiB", Goal::None),
        ("resident memory, largest", figures.resident / MIB, 0, "MiB", Goal::AtMost(1024.0)),
        ("elections", elections, 0, "", Goal::AtMost(0.0)),
        ("heartbeats of the leader more than 100 ms late", figures.late_heartbeats, 0, "", Goal::None),
        ("GET beside it, p99", quantile(&figures.gets, 0.99), 1, "ms", Goal::None),
        ("GET beside it, longest", worst, 1, "ms", Goal::None),
        (
            "PUT at most twice as long as before, after",
            figures.recovered_after.map_or(f64::NAN, |after| after.as_secs_f64() * 1e3),
            0,
            "ms",
            Goal::AtMost(1000.0),
        ),
    ];
    for (what, value, digits, unit, goal) in rows {
        let value = Some(value).filter(|value| !value.is_nan());
        table.row(vec![
            value_bytes.to_string(),
            what.to_owned(),
            format!("{} {unit}", number(value, digits)),
            goal.verdict(value),
        ]);
    }
    Ok(())
}
