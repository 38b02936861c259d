//! Clients that are slow, silent, gone or too many, against a real process: each gets its clear answer, and nobody else
//! notices.
//!
//! Nothing here asserts how long something takes, only that it comes, and what else still works.

#![allow(clippy::disallowed_methods, reason = "a test of real processes waits in real time")]

#[path = "../support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use support::{Answer, Client, Server, Site};

/// The longest the server may take to notice something.
const PATIENCE: Duration = Duration::from_secs(20);

fn site(flags: &[&str]) -> Site {
    let mut site = Site::new();
    site.extra = flags.iter().map(|&flag| flag.to_owned()).collect();
    site
}

/// Descriptors the server has open.
fn descriptors(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("a process").count()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn get(client: &mut Client, key: &str) -> Answer {
    client.request("GET", &format!("/v2/keys{key}"), "").expect("an answer")
}

fn put(client: &mut Client, key: &str, value: &str) -> Answer {
    client.request("PUT", &format!("/v2/keys{key}"), &format!("value={value}")).expect("an answer")
}

/// Begins a watch and waits until the server has.
fn watch(port: u16, target: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(format!("GET /v2/keys{target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).expect("send");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("the head");
        head.extend_from_slice(&byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", head.escape_ascii());
    stream
}

/// Reads until the bytes end with `end`.
fn read_until(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 64 << 10];
    while !bytes.ends_with(end) {
        let read = stream.read(&mut chunk).expect("more of the stream");
        assert_ne!(read, 0, "the stream ended early: {}", bytes.escape_ascii());
        bytes.extend_from_slice(&chunk[..read]);
    }
    bytes
}

/// The indexes of a stream's events.
fn indexes(stream: &[u8]) -> Vec<u64> {
    let lines = stream.split(|&byte| byte == b'\n').filter(|line| line.starts_with(b"{"));
    let events = lines.map(|line| serde_json::from_slice::<serde_json::Value>(line.trim_ascii()).expect("an event"));
    events.map(|event| event["node"]["modifiedIndex"].as_u64().expect("an index")).collect()
}

fn assert_consecutive(indexes: &[u64]) {
    assert!(indexes.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{indexes:?}");
}

#[test]
fn a_stream_reader_that_does_not_read_is_dropped_and_delays_nobody() {
    // Some 26 MB of events: more than the kernel buffers for a reader that does not read.
    const WRITES: usize = 800;
    let site = Site::new();
    let _server = site.start();
    let mut slow = watch(site.client_port, "/slow?wait=true&stream=true");
    let mut writer = Client::open(site.client_port).expect("connect");
    let value = "x".repeat(16 << 10);
    for _ in 0..WRITES {
        assert_eq!(put(&mut writer, "/slow", &value).status / 100, 2);
    }
    let seen = indexes(&read_until(&mut slow, b"\r\n0\r\n\r\n"));
    assert!(!seen.is_empty() && seen.len() < WRITES, "{} of {WRITES} events", seen.len());
    assert_consecutive(&seen);
    // The answer had an end, so the connection is good for more.
    slow.write_all(b"GET /v2/keys/none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("send");
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).expect("an answer");
    assert!(rest.starts_with(b"HTTP/1.1 404 "), "{}", rest.escape_ascii());
}

#[test]
fn a_stream_reader_that_reads_is_told_everything_however_much_one_turn_brings() {
    const WRITES: usize = 3000;
    let site = Site::new();
    let _server = site.start();
    let mut reader = watch(site.client_port, "/many?wait=true&stream=true&recursive=true");
    let told = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let last = format!("\"/many/{}\"", WRITES - 1).into_bytes();
        while memchr::memmem::find(&bytes, &last).is_none() || !bytes.ends_with(b"\r\n") {
            bytes.extend(read_until(&mut reader, b"\r\n"));
        }
        indexes(&bytes)
    });
    let mut writer = Client::open(site.client_port).expect("connect");
    let requests: String = (0..WRITES)
        .map(|key| {
            format!(
                "PUT /v2/keys/many/{key} HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\
                 Content-Type: application/x-www-form-urlencoded\r\n\r\nvalue=1"
            )
        })
        .collect();
    writer.send(requests.as_bytes()).expect("send");
    for _ in 0..WRITES {
        assert_eq!(writer.receive(false).expect("an answer").status, 201);
    }
    let seen = told.join().expect("the reader");
    assert_eq!(seen.len(), WRITES);
    assert_consecutive(&seen);
}

#[test]
fn one_write_reaches_every_watcher_and_those_that_left_are_forgotten() {
    let site = Site::new();
    let server = site.start();
    let mut writer = Client::open(site.client_port).expect("connect");
    put(&mut writer, "/d/a", "0");
    let before = descriptors(&server);
    let mut stay: Vec<TcpStream> = (0..300).map(|_| watch(site.client_port, "/d?wait=true&recursive=true")).collect();
    let leave: Vec<TcpStream> = (0..300).map(|_| watch(site.client_port, "/d/a?wait=true&stream=true")).collect();
    assert!(descriptors(&server) >= before + 600);
    drop(leave);
    wait_until("those that left are forgotten", || descriptors(&server) <= before + 300);
    put(&mut writer, "/d/a", "1");
    for stream in &mut stay {
        let event = read_until(stream, b"\r\n0\r\n\r\n");
        assert_eq!(indexes(&event).len(), 1);
    }
    drop(stay);
    wait_until("all are forgotten", || descriptors(&server) <= before);
}

#[test]
fn a_client_that_sends_much_behind_its_watch_and_leaves_is_forgotten() {
    let site = Site::new();
    let _server = site.start();
    let mut other = Client::open(site.client_port).expect("connect");
    let mut watchers = |count: &str| {
        let metrics = other.request("GET", "/metrics", "").expect("the metrics");
        String::from_utf8_lossy(&metrics.body)
            .lines()
            .any(|line| line == format!("etcd_debugging_store_watchers {count}"))
    };
    let mut watcher = watch(site.client_port, "/never?wait=true");
    assert!(watchers("1"));
    let request = "GET /v2/keys/x HTTP/1.1\r\nHost: x\r\n\r\n";
    // It may be over before all of this was sent.
    let _ = watcher.write_all(request.repeat((256 << 10) / request.len()).as_bytes());
    drop(watcher);
    wait_until("it is forgotten", || watchers("0"));
}

#[test]
fn a_head_or_a_body_that_does_not_end_gets_408() {
    let site = site(&["--ringd-header-timeout", "1", "--ringd-body-timeout", "1"]);
    let _server = site.start();
    let mut good = Client::open(site.client_port).expect("connect");
    for half in [
        "GET /v2/keys/ HTTP/1.1\r\nHost: x\r\nX-Sl",
        "PUT /v2/keys/half HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: 100\r\n\r\nvalue=1",
    ] {
        let mut slow = Client::open(site.client_port).expect("connect");
        assert_eq!(get(&mut slow, "/").status, 200);
        slow.send(half.as_bytes()).expect("send");
        let answer = slow.receive(false).expect("an answer");
        assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
        assert!(slow.is_closed());
        assert_eq!(get(&mut good, "/half").status, 404);
    }
}

#[test]
fn silent_connections_are_closed_and_watching_ones_are_not() {
    // Long enough for the one that is used to be used in time.
    let site = site(&["--ringd-idle-timeout", "3", "--ringd-header-timeout", "3"]);
    let _server = site.start();
    let mut watcher = watch(site.client_port, "/w?wait=true");
    let mut used = Client::open(site.client_port).expect("connect");
    let mut unused = Client::open(site.client_port).expect("connect");
    assert_eq!(get(&mut used, "/").status, 200);
    assert!(used.is_closed() && unused.is_closed());
    let mut writer = Client::open(site.client_port).expect("connect");
    put(&mut writer, "/w", "1");
    assert_eq!(indexes(&read_until(&mut watcher, b"\r\n0\r\n\r\n")).len(), 1);
}

#[test]
fn a_client_that_takes_nothing_of_its_answers_is_cut_off() {
    const ANSWERS: usize = 40;
    let site = site(&["--ringd-write-timeout", "1"]);
    let server = site.start();
    let mut good = Client::open(site.client_port).expect("connect");
    let big = "x".repeat(1 << 20);
    assert_eq!(put(&mut good, "/big", &big).status, 201);
    let before = descriptors(&server);
    let mut deaf = Client::open(site.client_port).expect("connect");
    deaf.send("GET /v2/keys/big HTTP/1.1\r\nHost: x\r\n\r\n".repeat(ANSWERS).as_bytes()).expect("send");
    wait_until("it is connected", || descriptors(&server) > before);
    wait_until("it is cut off", || descriptors(&server) <= before);
    let answers = (0..ANSWERS).take_while(|_| deaf.receive(false).is_ok()).count();
    assert!(answers < ANSWERS, "all answers came");
    assert_eq!(get(&mut good, "/big").status, 200);
}

#[test]
fn connections_beyond_the_limit_are_told_so() {
    let site = site(&["--ringd-connections-max", "2"]);
    let _server = site.start();
    // Whoever asked before is still being forgotten.
    let admitted = || {
        let begun = Instant::now();
        loop {
            let mut client = Client::open(site.client_port).expect("connect");
            if client.request("GET", "/v2/keys/", "").is_ok_and(|answer| answer.status == 200) {
                return client;
            }
            assert!(begun.elapsed() < PATIENCE, "a place was never free");
        }
    };
    let (mut first, mut second) = (admitted(), admitted());
    let mut third = Client::open(site.client_port).expect("connect");
    while !third.is_closed() {}
    let refusal = third.take_buffer();
    let refusal = String::from_utf8_lossy(&refusal);
    assert!(refusal.starts_with("HTTP/1.1 503 ") && refusal.contains("too many connections"), "{refusal}");
    assert_eq!((get(&mut first, "/").status, get(&mut second, "/").status), (200, 200));
    drop(first);
    assert_eq!(get(&mut admitted(), "/").status, 200);
}

#[test]
fn the_history_is_as_long_as_its_settings_say() {
    for (flag, kept) in [(["--ringd-history-events", "3"], 3), (["--ringd-history-bytes", "1"], 1)] {
        let site = site(&flag);
        let _server = site.start();
        let mut client = Client::open(site.client_port).expect("connect");
        let indexes: Vec<u64> = (0..5).map(|value| put(&mut client, "/h", &value.to_string()).etcd_index()).collect();
        for (place, index) in indexes.iter().enumerate() {
            let answer = get(&mut client, &format!("/h?wait=true&waitIndex={index}"));
            let error = answer.json()["errorCode"].as_u64();
            let expected = if place + kept < indexes.len() { (400, Some(401)) } else { (200, None) };
            assert_eq!((answer.status, error), expected, "{flag:?}, {place}");
        }
    }
}
