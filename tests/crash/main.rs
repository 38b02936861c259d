//! Real processes, killed: what was acknowledged is there afterwards, and the index never moves back.
//!
//! `RINGD_CRASH_ROUNDS` sets how often the server is killed (100 by default).

#![allow(clippy::disallowed_methods, reason = "a test of real processes measures real time")]

mod damage;
#[path = "../support/disk.rs"]
mod disk;
mod faults;
mod input;
mod pauses;
mod power;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use support::{Client, Site};

const WRITERS: usize = 16;

fn rounds() -> u64 {
    std::env::var("RINGD_CRASH_ROUNDS").ok().and_then(|value| value.parse().ok()).unwrap_or(100)
}

/// What one writer knows of its key.
#[derive(Clone, Copy, Default)]
struct Known {
    acknowledged: u64,
    attempted: u64,
}

/// Writes counting values until the server is gone.
fn write_until_killed(port: u16, writer: usize, mut known: Known, highest: &AtomicU64, stop: &AtomicBool) -> Known {
    let Ok(mut client) = Client::open(port) else { return known };
    while !stop.load(Ordering::Relaxed) {
        known.attempted += 1;
        let form = format!("value={}", known.attempted);
        match client.request("PUT", &format!("/v2/keys/crash/w{writer}"), &form) {
            Ok(answer) => {
                assert!(answer.status == 200 || answer.status == 201, "unexpected answer: {answer:?}");
                highest.fetch_max(answer.etcd_index(), Ordering::Relaxed);
                known.acknowledged = known.attempted;
            }
            Err(_) => return known,
        }
    }
    known
}

#[test]
fn kill_nine_loses_no_acknowledged_write_and_never_moves_the_index_back() {
    let mut site = Site::new();
    // Small snapshots, so that kills also fall into captures, publications and recycling.
    site.extra = ["--snapshot-count", "2000", "--max-snapshots", "1"].map(str::to_owned).to_vec();
    let highest = Arc::new(AtomicU64::new(0));
    let mut known = [Known::default(); WRITERS];
    let mut written = 0;
    for round in 0..rounds() {
        let server = site.start();
        let mut reader = Client::open(site.client_port).expect("connect");
        let answer = reader.request("GET", "/v2/keys/", "").expect("read");
        let floor = highest.load(Ordering::Relaxed);
        assert!(answer.etcd_index() >= floor, "round {round}: index {} is below {floor}", answer.etcd_index());
        for (writer, known) in known.iter_mut().enumerate().filter(|(_, known)| known.acknowledged > 0) {
            let answer = reader.request("GET", &format!("/v2/keys/crash/w{writer}"), "").expect("read");
            let value: u64 = answer.json()["node"]["value"].as_str().expect("a value").parse().expect("a number");
            assert!(
                (known.acknowledged..=known.attempted).contains(&value),
                "round {round}: writer {writer} has {value}, acknowledged {}, attempted {}",
                known.acknowledged,
                known.attempted
            );
            // What survived counts as known from now on, acknowledged or not.
            *known = Known { acknowledged: value, attempted: value.max(known.attempted) };
        }
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (known, highest, stop) = (known[writer], Arc::clone(&highest), Arc::clone(&stop));
                let port = site.client_port;
                std::thread::spawn(move || write_until_killed(port, writer, known, &highest, &stop))
            })
            .collect();
        // A different moment in every round, from the first writes to well into a snapshot.
        std::thread::sleep(Duration::from_millis(5 + (round * 37) % 150));
        server.kill();
        stop.store(true, Ordering::Relaxed);
        for (writer, handle) in writers.into_iter().enumerate() {
            let after = handle.join().expect("a writer");
            written += after.acknowledged.saturating_sub(known[writer].acknowledged);
            known[writer] = after;
        }
    }
    assert!(written > 0, "no write was ever acknowledged");
    println!("{} kills, {written} acknowledged writes, none lost", rounds());
}

#[test]
fn a_clean_stop_keeps_everything_and_dies_by_its_signal() {
    use std::os::unix::process::ExitStatusExt;
    for signal in [15, 2] {
        let site = Site::new();
        let mut server = site.start();
        let mut client = Client::open(site.client_port).expect("connect");
        let written = client.request("PUT", "/v2/keys/a", "value=1").expect("write");
        assert_eq!(written.status, 201);
        server.signal(signal);
        let status = server.wait(Duration::from_secs(30));
        assert_eq!(status.signal(), Some(signal), "supervisors see the signal, as with etcd");
        let again = site.start();
        let mut client = Client::open(site.client_port).expect("connect");
        let read = client.request("GET", "/v2/keys/a", "").expect("read");
        assert_eq!(read.json()["node"]["value"], "1");
        assert!(read.etcd_index() >= written.etcd_index());
        drop(again);
    }
}

#[test]
fn a_second_process_on_the_same_data_is_refused_by_name() {
    let site = Site::new();
    let _server = site.start();
    let second = Site::at(&site.data_dir);
    let mut refused = second.spawn();
    let status = refused.wait(Duration::from_secs(30));
    assert_eq!(status.code(), Some(1));
    let said = refused.stderr();
    assert!(said.contains(&site.data_dir.display().to_string()), "the message names the directory: {said}");
}

#[test]
fn a_stop_finishes_the_writes_it_has_taken() {
    let site = Site::new();
    let mut server = site.start();
    let port = site.client_port;
    let highest = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let known: Vec<Known> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (highest, stop) = (&highest, &stop);
                scope.spawn(move || write_until_killed(port, writer, Known::default(), highest, stop))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        server.signal(15);
        server.wait(Duration::from_secs(30));
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().map(|handle| handle.join().expect("a writer")).collect()
    });
    let _again = site.start();
    let mut client = Client::open(port).expect("connect");
    for (writer, known) in known.iter().enumerate() {
        let answer = client.request("GET", &format!("/v2/keys/crash/w{writer}"), "").expect("read");
        if known.acknowledged == 0 && answer.status == 404 {
            continue; // its first write was not answered before the stop
        }
        let value: u64 = answer.json()["node"]["value"].as_str().expect("a value").parse().expect("a number");
        assert!((known.acknowledged..=known.attempted).contains(&value));
    }
}
