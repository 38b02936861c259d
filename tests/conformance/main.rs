//! Runs the project's copy of the v2 conformance cases against the `ringd` and `ringctl` binaries.
//!
//! Owns: the test functions, and which cases run where. Touches: server processes of its own on loopback.
//! Always: a server runs one case at a time (cases compare index numbers), several servers share the work, and a case
//! is either run or named in `waiting.txt`. `README.md` in this folder says how to run one case.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test of real processes measures real time")]

mod cases;
mod context;
mod ctl;
mod http;
mod matching;
mod server;
mod steps;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use cases::{Case, GROUPS};
use server::{Profile, Programs, Servers};

/// Servers that share the cases of one group; most cases wait (for disks, TTLs, watches) rather than work.
const SERVERS: usize = 4;

/// How often a case that depends on the time is run at most: a machine that was busy elsewhere fails it by chance, a
/// defect fails it each time.
const RUNS_MAX: usize = 3;

/// Members of a cluster.
const MEMBERS: usize = 3;

/// One line to the terminal, past the test harness's capture.
fn say(line: &str) {
    // Nothing is lost for the verdict if there is no terminal to write to.
    writeln!(std::io::stderr(), "conformance: {line}").ok();
}

fn setting(name: &str) -> Option<String> {
    std::env::var(format!("RINGD_CONFORMANCE_{name}")).ok().filter(|v| !v.is_empty())
}

fn is_named(path: &Path, name: &str) -> bool {
    path.file_name().is_some_and(|n| n == name)
}

/// The programs under test; `with_ctl` builds the client if none is given.
fn programs(with_ctl: bool) -> Programs {
    let server = setting("SERVER").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_ringd")), PathBuf::from);
    let server_flags = if is_named(&server, "etcd") { vec!["--enable-v2".to_owned()] } else { Vec::new() };
    let ctl = match setting("CTL") {
        Some(path) => path.into(),
        None if with_ctl => support::tool("ringctl"),
        None => PathBuf::new(),
    };
    Programs { server, server_flags, ctl }
}

/// What became of the cases of a group.
#[derive(Default)]
struct Tally {
    passed: usize,
    waiting: usize,
    skipped: usize,
    /// Reports by position in the group.
    failures: BTreeMap<usize, String>,
}

fn run_group(group: &str) {
    let (_, kind, files) = GROUPS.iter().find(|g| g.0 == group).expect("the test names a group");
    let only = setting("ONLY");
    let waiting = if setting("ALL").is_some() || only.is_some() { Vec::new() } else { cases::waiting() };
    let mut tally = Tally::default();
    let mut jobs: BTreeMap<Profile, Vec<(usize, Case)>> = BTreeMap::new();
    let reference_ctl = setting("CTL").is_some_and(|p| is_named(Path::new(&p), "etcdctl"));
    for (i, case) in files.iter().flat_map(|f| cases::load(kind, f)).enumerate() {
        if only.as_ref().is_some_and(|list| !list.split(',').any(|glob| cases::matches(glob, &case.name))) {
            continue;
        }
        if waiting.iter().any(|w| cases::matches(&w.glob, &case.name)) {
            tally.waiting += 1;
        } else if reference_ctl && case.needs().any(|n| n == "documented") {
            tally.skipped += 1; // written from the documentation, which the reference client does not follow there
        } else {
            match case.profile() {
                Ok(profile) => jobs.entry(profile).or_default().push((i, case)),
                Err(why) => drop(tally.failures.insert(i, why)),
            }
        }
    }
    let started = Instant::now();
    if !jobs.is_empty() {
        let programs = programs(*kind == "v2_ctl");
        let tally = Mutex::new(&mut tally);
        thread::scope(|scope| {
            for (profile, jobs) in jobs {
                let (programs, tally) = (&programs, &tally);
                scope.spawn(move || run_jobs(programs, (profile, 0), &jobs, tally));
            }
        });
    }
    report(group, started, tally);
}

/// Runs the cases of a kind that suit any server against the members of clusters of three: each case against one of
/// them, or against the one that `RINGD_CONFORMANCE_MEMBER` names, or with `all` against each.
fn run_on_members(kind: &str) {
    let only = setting("ONLY");
    let waiting = if setting("ALL").is_some() || only.is_some() { Vec::new() } else { cases::waiting() };
    let chosen = setting("MEMBER");
    let takes = |member: usize, place: usize| match chosen.as_deref() {
        Some("all") => true,
        Some(number) => number.parse() == Ok(member),
        None => place % MEMBERS == member,
    };
    let files = GROUPS.iter().filter(|group| group.1 == kind).flat_map(|group| group.2);
    let suits = |case: &Case| case.needs().all(|need| need == "cluster3" || need == "default-cors");
    let cases = files.flat_map(|file| cases::load(kind, file)).filter(suits).enumerate().filter(|(_, case)| {
        only.as_ref().is_none_or(|list| list.split(',').any(|glob| cases::matches(glob, &case.name)))
            && !waiting.iter().any(|w| cases::matches(&w.glob, &case.name))
    });
    let mut jobs: [Vec<(usize, Case)>; MEMBERS] = Default::default();
    for (place, case) in cases {
        for (member, jobs) in jobs.iter_mut().enumerate().filter(|(member, _)| takes(*member, place)) {
            jobs.push((place * MEMBERS + member, case.clone()));
        }
    }
    let (started, mut tally) = (Instant::now(), Tally::default());
    let programs = programs(kind == "v2_ctl");
    let shared = Mutex::new(&mut tally);
    thread::scope(|scope| {
        for (member, jobs) in jobs.iter().enumerate().filter(|(_, jobs)| !jobs.is_empty()) {
            let (programs, shared) = (&programs, &shared);
            scope.spawn(move || run_jobs(programs, (Profile::Cluster, member), jobs, shared));
        }
    });
    report(&format!("{kind} on members"), started, tally);
}

fn report(group: &str, started: Instant, tally: Tally) {
    let Tally { passed, waiting, skipped, failures } = tally;
    let took = started.elapsed().as_secs_f64();
    let skipped =
        if skipped > 0 { format!(", {skipped} skipped (the reference client cannot)") } else { String::new() };
    let failed = failures.len();
    say(&format!("{group}: {passed} passed, {failed} failed, {waiting} wait for later work{skipped} ({took:.0} s)"));
    let reports: Vec<String> = failures.into_values().collect();
    assert!(reports.is_empty(), "{} cases failed\n\n{}\n", reports.len(), reports.join("\n\n"));
}

/// Runs `jobs`, sharing them among servers of `profile`.
fn run_jobs(
    programs: &Programs,
    (profile, member): (Profile, usize),
    jobs: &[(usize, Case)],
    tally: &Mutex<&mut Tally>,
) {
    let workers = match profile {
        Profile::Plain => setting("SERVERS").and_then(|v| v.parse().ok()).unwrap_or(SERVERS).clamp(1, jobs.len()),
        Profile::Cors | Profile::Cluster | Profile::Disposable => 1,
    };
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| run_worker(programs, (profile, member), jobs, &next, tally));
        }
    });
}

/// Why a case failed, with its report.
enum Failure {
    /// No server started.
    NoServer(String),
    /// The server ended.
    Server(String),
    /// A step was not as it should be.
    Case(String),
}

/// Runs a case once, on the running servers or on new ones; leaves those that the next run may use.
fn run_once(
    programs: &Programs,
    (profile, member): (Profile, usize),
    servers: &mut Option<Servers>,
    case: &Case,
) -> Result<(), Failure> {
    let mut running =
        servers.take().map_or_else(|| Servers::start(programs, profile, member), Ok).map_err(Failure::NoServer)?;
    let outcome = steps::run_case(&running.target, &case.content);
    match running.ended() {
        Some(why) => return Err(Failure::Server(format!("{}\n  {why}", outcome.err().unwrap_or_default()))),
        None if profile == Profile::Disposable => drop(running),
        None => *servers = Some(running),
    }
    outcome.map_err(Failure::Case)
}

fn run_worker(
    programs: &Programs,
    (profile, member): (Profile, usize),
    jobs: &[(usize, Case)],
    next: &AtomicUsize,
    tally: &Mutex<&mut Tally>,
) {
    let verbose = setting("VERBOSE").is_some();
    let mut servers: Option<Servers> = None;
    while let Some((position, case)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
        let started = Instant::now();
        let mut runs = 1;
        let outcome = loop {
            match run_once(programs, (profile, member), &mut servers, case) {
                Err(Failure::Case(report)) if case.is_timed() && runs < RUNS_MAX => {
                    say(&format!("{} failed in run {runs} of {RUNS_MAX} and runs again\n{report}", case.name));
                    runs += 1;
                }
                outcome => break outcome,
            }
        };
        if matches!(outcome, Err(Failure::NoServer(_))) {
            // A server that does not start will not start for the next case either: give the rest up.
            next.store(jobs.len(), Ordering::Relaxed);
        }
        if verbose {
            let word = if outcome.is_ok() { "ok  " } else { "FAIL" };
            say(&format!("{word} {} ({:.1} s)", case.name, started.elapsed().as_secs_f64()));
        }
        let mut tally = tally.lock().expect("no panic while holding it");
        match outcome {
            Ok(()) => tally.passed += 1,
            Err(Failure::NoServer(why) | Failure::Server(why) | Failure::Case(why)) => {
                drop(tally.failures.insert(*position, format!("FAIL {}\n{why}", case.name)));
            }
        }
    }
}

#[test]
fn v2_http_keys() {
    run_group("v2_http_keys");
}

#[test]
fn v2_http_ttl() {
    run_group("v2_http_ttl");
}

#[test]
fn v2_http_watch() {
    run_group("v2_http_watch");
}

#[test]
fn v2_http_sequences() {
    run_group("v2_http_sequences");
}

#[test]
fn v2_http_service() {
    run_group("v2_http_service");
}

#[test]
fn v2_ctl() {
    run_group("v2_ctl");
}

#[test]
fn v2_http_on_members() {
    run_on_members("v2_http");
}

#[test]
fn v2_ctl_on_members() {
    run_on_members("v2_ctl");
}
