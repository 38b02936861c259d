//! Many connections, many watchers, many deadlines: what they cost, and what everybody else notices of them.
//!
//! Owns: what is measured. Touches: a ringd process with a core of its own, a directory for its data, loopback sockets.
//! Always: a figure about "the others" comes from a client that does nothing else; what the machine does not allow
//! (descriptors) is said in the table instead of measured smaller in silence.
//!
//! `cargo bench --bench scale` prints Markdown for RESULTS.md; `-- --help` shows the options.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

mod clients;
#[path = "../end_to_end/servers.rs"]
#[allow(dead_code, reason = "the parts about etcd are the other benchmark's")]
mod servers;
#[path = "../end_to_end/table.rs"]
#[allow(dead_code, reason = "ratios are the other benchmark's")]
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use clients::{Client, Dribble, PER_ADDRESS, Probe, quantile, request, within};
use servers::{Programs, Server, pin};
use table::{Goal, Table, median, number};

type Error = Box<dyn std::error::Error>;

/// Watchers that shall be parked.
const WATCHERS: usize = 50_000;
/// Watchers of the one key that is written.
const FAN_OUT: usize = 10_000;
/// Keys that expire in the same second.
const EXPIRING: usize = 100_000;
/// Connections that do nothing.
const IDLE: usize = 10_000;
/// Clients that send a byte a second.
pub const DRIBBLING: usize = 1000;
/// Descriptors of a process that are not clients: files, rings, the probes.
const DESCRIPTORS_ASIDE: usize = 200;
/// Connections of the load whose rate is compared, one request under way on each.
const LOAD: usize = 32;
/// Rounds of which the median is taken.
pub const ROUNDS: usize = 9;
const LOAD_TIME: Duration = Duration::from_millis(1000);
const PROBE_TIME: Duration = Duration::from_millis(500);
/// What can be measured, in this order.
const PARTS: [&str; 3] = ["watchers", "expiry", "idle"];

#[derive(Clone, Debug, Parser)]
#[command(name = "scale")]
struct Options {
    /// Only these parts
    #[arg(long, value_delimiter = ',', value_parser = PARTS)]
    only: Vec<String>,
    /// Also write the result to this file
    #[arg(long)]
    out: Option<PathBuf>,
    /// The core ringd is pinned to [default: the last]
    #[arg(long)]
    core: Option<usize>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if !options.bench {
        println!("scale: nothing to do; it measures when run by `cargo bench --bench scale`");
        return ExitCode::SUCCESS;
    }
    let result = measure(&options).and_then(|text| {
        print!("{text}");
        options.out.as_ref().map_or(Ok(()), |path| Ok(std::fs::write(path, &text)?))
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scale: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Result<String, Error> {
    let programs = Programs::find(options.core)?;
    pin(std::process::id(), &programs.other_cores())?;
    let most = raise_descriptor_limit();
    let mut table = Table::new(&["what", "figure", "goal"]);
    let wants = |part: &str| options.only.is_empty() || options.only.iter().any(|p| p == part);
    if wants("watchers") {
        watchers(&programs, most, &mut table)?;
    }
    if wants("expiry") {
        expiry(&programs, &mut table)?;
    }
    if wants("idle") {
        idle(&programs, most, &mut table)?;
    }
    Ok(format!("## Scale\n\nOne ringd on core {}, clients on the others.\n\n{}", programs.core, table.markdown()))
}

/// Connections this machine allows one process.
fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let limit = limit.maximum.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
    limit.saturating_sub(DESCRIPTORS_ASIDE)
}

fn start(programs: &Programs) -> Result<(Server, tempfile::TempDir), Error> {
    let dir = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    let server = Server::start(&programs.ringd, &dir.path().join("data"))?;
    Ok((server, dir))
}

fn line(table: &mut Table, what: &str, value: Option<f64>, digits: usize, unit: &str, goal: Goal) {
    let figure = format!("{} {unit}", number(value, digits));
    table.row(vec![what.to_owned(), figure, goal.verdict(value)]);
}

/// Parks watchers, weighs them, and wakes many of them with one write.
fn watchers(programs: &Programs, most: usize, table: &mut Table) -> Result<(), Error> {
    let wanted = WATCHERS.min(most);
    let (server, _dir) = start(programs)?;
    let mut writer = Client::open(server.address, 0)?;
    writer.put("/probe", "value=1")?;
    writer.answer()?;
    let before = server.resident_bytes()?;
    let before_descriptors = descriptors(&server)?;
    let mut parked = Vec::with_capacity(wanted);
    for watcher in 0..wanted {
        let mut client = Client::open(server.address, watcher)?;
        client.get(&watched(watcher))?;
        parked.push(client);
    }
    for client in &mut parked {
        let (status, _) = client.head()?;
        assert_eq!(status, 200, "a watch begins");
    }
    let each = (server.resident_bytes()? - before) / wanted as f64;
    let allowed = if wanted < WATCHERS { format!(" (this machine allows no {WATCHERS})") } else { String::new() };
    line(
        table,
        &format!("memory per parked watcher, {wanted} parked{allowed}"),
        Some(each),
        0,
        "B",
        Goal::AtMost(4096.0),
    );

    let many = FAN_OUT.min(wanted);
    for writes in [false, true] {
        let (mut worst, mut middle, mut calm, mut all) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let probe = Probe::start(server.address, writes)?;
            let begun = Instant::now();
            thread::sleep(Duration::from_millis(300));
            let written = Instant::now();
            writer.put("/fan/out", "value=1")?;
            // Watchers are told in the order they came; what reaches the others waits in their sockets.
            parked[many - 1].event()?;
            let told = Instant::now();
            writer.answer()?;
            thread::sleep(Duration::from_millis(20));
            let taken = probe.stop()?;
            calm.extend(within(&taken, begun, written - Duration::from_millis(20)).last().copied());
            let latencies = within(&taken, written, told);
            worst.extend(latencies.last().copied());
            middle.extend(quantile(&latencies, 0.5));
            all.push((told - written).as_secs_f64() * 1e3);
            for client in &mut parked[..many - 1] {
                client.event()?;
            }
            for (watcher, client) in parked[..many].iter_mut().enumerate() {
                client.get(&watched(watcher))?;
                client.head()?;
            }
        }
        let kind = if writes { "PUT" } else { "GET" };
        let max = worst.iter().copied().reduce(f64::max).map(|micros| micros / 1e3);
        line(
            table,
            &format!("one write reaches {many} watchers, others send {kind}: until the last is told"),
            median(all),
            1,
            "ms",
            Goal::None,
        );
        line(
            table,
            &format!("… longest {kind} of another client meanwhile, worst of {ROUNDS} rounds"),
            max,
            2,
            "ms",
            Goal::AtMost(20.0),
        );
        line(table, &format!("… median {kind} meanwhile"), median(middle), 0, "µs", Goal::None);
        line(
            table,
            &format!("… longest {kind} without a fan-out"),
            median(calm).map(|micros| micros / 1e3),
            2,
            "ms",
            Goal::None,
        );
    }

    let leaving = Instant::now();
    drop(parked);
    wait_for_descriptors(&server, before_descriptors)?;
    line(
        table,
        &format!("{wanted} watching clients leave: until the last is forgotten"),
        Some(leaving.elapsed().as_secs_f64() * 1e3),
        0,
        "ms",
        Goal::None,
    );
    server.stop()
}

fn watched(watcher: usize) -> String {
    if watcher < FAN_OUT { "/fan?wait=true&recursive=true".to_owned() } else { format!("/service/{watcher}?wait=true") }
}

/// Lets many keys expire in one second.
fn expiry(programs: &Programs, table: &mut Table) -> Result<(), Error> {
    // Below the writes of one connection that the server lets wait for the disk.
    const BATCH: usize = 250;
    // Connections that write side by side: what one has under way shares its syncs with the others.
    const LANES: usize = 16;
    const _: () = assert!(EXPIRING.is_multiple_of(LANES * BATCH), "every round is whole");
    // Written over some seconds, each with a TTL that ends in the same one.
    const LIFE_SECONDS: u64 = 20;
    let mut programs = programs.clone();
    programs.ringd.flags.extend(["--ringd-history-events", "200000", "--ringd-history-bytes", "1000000000"]);
    let (server, _dir) = start(&programs)?;
    let lanes: Result<Vec<Client>, Error> = (0..LANES).map(|_| Client::open(server.address, 0)).collect();
    let mut lanes = lanes?;
    let begun = Instant::now();
    for round in 0..EXPIRING / (LANES * BATCH) {
        let elapsed = begun.elapsed().as_secs();
        if elapsed + 2 > LIFE_SECONDS {
            return Err("the keys cannot be written in time on this machine".into());
        }
        let form = format!("value=x&ttl={}", LIFE_SECONDS - elapsed);
        for (lane, client) in lanes.iter_mut().enumerate() {
            let first = (round * LANES + lane) * BATCH;
            let keys = first..first + BATCH;
            let requests: String = keys.map(|key| request("PUT", &format!("/t/{key}"), &form)).collect();
            client.send(requests.as_bytes())?;
        }
        for client in &mut lanes {
            for _ in 0..BATCH {
                assert_eq!(client.answer()?, 201, "a key is created");
            }
        }
    }
    let mut writer = lanes.pop().ok_or("no connection")?;
    drop(lanes);
    writer.put("/probe", "value=1")?;
    let before = writer.index()?;
    let mut watcher = Client::open(server.address, 0)?;
    watcher.get("/t?wait=true&recursive=true")?;
    watcher.head()?;
    let probe = Probe::start(server.address, false)?;
    let calm = Instant::now();
    watcher.event()?;
    let first = Instant::now();
    while writer.get("/probe").and_then(|()| writer.index())? < before + EXPIRING as u64 {
        thread::sleep(Duration::from_millis(5));
    }
    let last = Instant::now();
    let taken = probe.stop()?;
    let mut events = Vec::with_capacity(EXPIRING);
    for batch in 0..EXPIRING / BATCH {
        let indexes = (0..BATCH).map(|place| before + 1 + (batch * BATCH + place) as u64);
        let watches =
            indexes.map(|index| request("GET", &format!("/t?wait=true&recursive=true&waitIndex={index}"), ""));
        writer.send(watches.collect::<String>().as_bytes())?;
        for _ in 0..BATCH {
            events.extend(expirations(&writer.event()?)?);
        }
    }
    let in_order = events.iter().zip(events.iter().skip(1)).all(|(a, b)| a.0 + 1 == b.0 && a.1 <= b.1);
    let figure = format!("{} of {EXPIRING}, {}", events.len(), if in_order { "in order" } else { "out of order" });
    let verdict = if in_order && events.len() == EXPIRING { "all, in order met" } else { "all, in order **missed**" };
    table.row(vec!["expiry events in the history".to_owned(), figure, verdict.to_owned()]);
    let took = (last - first).as_secs_f64() * 1e3;
    line(table, &format!("{EXPIRING} keys expire: from the first event to the last"), Some(took), 0, "ms", Goal::None);
    let stall = |from, to| within(&taken, from, to).last().map(|micros| micros / 1e3);
    line(table, "… longest GET of another client meanwhile", stall(first, last), 2, "ms", Goal::AtMost(5.0));
    line(table, "… median GET meanwhile", quantile(&within(&taken, first, last), 0.5), 0, "µs", Goal::None);
    line(table, "… longest GET in the seconds before", stall(calm, first), 2, "ms", Goal::None);
    server.stop()
}

/// Index and deadline of each expiry event in a stream; a deadline as a text that sorts as the time does.
fn expirations(stream: &[u8]) -> Result<Vec<(u64, String)>, Error> {
    let lines = stream.split(|&byte| byte == b'\n').filter(|line| line.starts_with(b"{"));
    lines
        .map(|line| {
            let event: serde_json::Value = serde_json::from_slice(line)?;
            assert_eq!(event["action"], "expire");
            let index = event["node"]["modifiedIndex"].as_u64().ok_or("an index")?;
            let at = event["prevNode"]["expiration"].as_str().ok_or("a deadline")?.trim_end_matches('Z');
            let (seconds, fraction) = at.split_once('.').unwrap_or((at, ""));
            Ok((index, format!("{seconds}.{fraction:0<9}")))
        })
        .collect()
}

/// User and system time of the server so far, in microseconds.
fn cpu_micros(server: &Server) -> Result<f64, Error> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid()))?;
    // The name, in parentheses, may hold spaces; utime and stime are fields 14 and 15 of the whole line.
    let fields = stat.rsplit_once(')').ok_or("no process name")?.1.split_ascii_whitespace();
    let ticks: f64 = fields.skip(11).take(2).map(|field| field.parse::<f64>().unwrap_or(f64::NAN)).sum();
    Ok(ticks * 1e6 / rustix::param::clock_ticks_per_second() as f64)
}

/// Server time per request of [`LOAD`] connections, their requests per second, and the 99th percentile of a probe.
/// Times are in microseconds.
fn load(server: &Server) -> Result<[f64; 3], Error> {
    let clients: Result<Vec<Client>, Error> = (0..LOAD).map(|_| Client::open(server.address, 0)).collect();
    let mut clients = clients?;
    let get = request("GET", "/probe", "");
    let (begun, mut answers, cpu) = (Instant::now(), 0, cpu_micros(server)?);
    while begun.elapsed() < LOAD_TIME {
        for client in &mut clients {
            client.send(get.as_bytes())?;
        }
        for client in &mut clients {
            client.answer()?;
            answers += 1;
        }
    }
    let rate = f64::from(answers) / begun.elapsed().as_secs_f64();
    let cost = (cpu_micros(server)? - cpu) / f64::from(answers);
    drop(clients);
    let probe = Probe::start(server.address, false)?;
    let begun = Instant::now();
    thread::sleep(PROBE_TIME);
    let latencies = within(&probe.stop()?, begun, Instant::now());
    Ok([cost, rate, quantile(&latencies, 0.99).ok_or("the probe got no answer")?])
}

/// Compares a load without and with connections that do nothing, or next to nothing. Each ratio is one round's, of two
/// measurements that follow one another; its median is told.
fn idle(programs: &Programs, most: usize, table: &mut Table) -> Result<(), Error> {
    let idle = IDLE.min(most - DRIBBLING);
    let (server, _dir) = start(programs)?;
    // Of each round and each company of the load: its cost, its rate, its tail.
    let mut rounds: Vec<[[f64; 3]; 4]> = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        let before = descriptors(&server)?;
        let alone = load(&server)?;
        let mut quiet = Vec::with_capacity(idle);
        for number in 0..idle {
            let mut client = Client::open(server.address, (round + 1) * PER_ADDRESS + number)?;
            client.get("/probe")?;
            client.answer()?;
            quiet.push(client);
        }
        let beside_idle = load(&server)?;
        let aside = Dribble::start_aside()?;
        let shared = load(&server)?;
        aside.stop()?;
        let dribble = Dribble::start(server.address)?;
        let beside_both = load(&server)?;
        dribble.stop()?;
        rounds.push([alone, beside_idle, shared, beside_both]);
        drop(quiet);
        wait_for_descriptors(&server, before)?;
    }
    // What each is compared with: the same load in the same company but for what is asked about.
    let sides = [
        (0, format!("{LOAD} connections alone"), None),
        (1, format!("the same beside {idle} idle connections"), Some((0, "the load alone"))),
        (2, format!("the same, and its core shared with {DRIBBLING} that send a byte a second to nobody"), None),
        (
            3,
            format!("the same beside {idle} idle and {DRIBBLING} that send a byte a second"),
            Some((2, "bytes to nobody")),
        ),
    ];
    for (side, name, other) in sides {
        let of = |figure: usize| median(rounds.iter().map(|round| round[side][figure]).collect());
        line(table, &format!("{name}: server time per GET"), of(0), 1, "µs", Goal::None);
        line(table, "… GET/s (bound by the one client thread)", of(1), 0, "", Goal::None);
        line(table, "… 99th percentile of a lone client's GET", of(2), 0, "µs", Goal::None);
        if let Some((other, told)) = other {
            let share =
                |figure: usize| median(rounds.iter().map(|round| round[side][figure] / round[other][figure]).collect());
            line(table, &format!("… server time compared with {told}"), share(0), 2, "of it", Goal::AtMost(1.1));
            line(table, &format!("… GET/s compared with {told}"), share(1), 2, "of it", Goal::AtLeast(0.9));
            line(table, &format!("… 99th percentile compared with {told}"), share(2), 2, "of it", Goal::None);
        }
    }
    server.stop()
}

/// Descriptors the server has open.
fn descriptors(server: &Server) -> Result<usize, Error> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", server.pid()))?.count())
}

/// Waits until the server has no more descriptors than that.
fn wait_for_descriptors(server: &Server, most: usize) -> Result<(), Error> {
    let begun = Instant::now();
    while descriptors(server)? > most {
        thread::sleep(Duration::from_millis(1));
        if begun.elapsed() > Duration::from_secs(60) {
            return Err("the server keeps the connections of clients that have left".into());
        }
    }
    Ok(())
}
