//! When it is too much, against real processes: the quota, writes and bodies beyond what is taken, listeners that are
//! full, and a cluster under several times the load it can carry.
//!
//! Nothing here asserts how fast something is, only that it goes on, and what is refused how.

#![allow(clippy::disallowed_methods, reason = "a test of real processes waits in real time")]

mod answers;
#[path = "../cluster/cluster.rs"]
#[allow(dead_code, reason = "the cluster's own tests use all of it")]
mod cluster;
mod flood;
mod log;
#[path = "../cluster/net.rs"]
#[allow(dead_code, reason = "nobody is cut off here")]
mod net;
mod overload;
#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use flood::metric;
use support::{Answer, Client, Server, Site, wait_for};

/// The longest the server may take to notice something.
const PATIENCE: Duration = Duration::from_secs(60);

fn site(flags: &[&str]) -> Site {
    let mut site = Site::new();
    site.extra = flags.iter().map(|&flag| flag.to_owned()).collect();
    site
}

fn put(client: &mut Client, key: &str, form: &str) -> Answer {
    client.request("PUT", &format!("/v2/keys{key}"), form).expect("an answer")
}

fn status(client: &mut Client, target: &str) -> u16 {
    client.request("GET", target, "").expect("an answer").status
}

fn metrics(client: &mut Client) -> String {
    String::from_utf8(client.request("GET", "/metrics", "").expect("an answer").body).expect("text")
}

fn assert_refused(answer: &Answer, status: u16, cause: &str) {
    assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(&answer.body));
    let body = answer.json();
    assert_eq!((body["errorCode"].as_u64(), body["cause"].as_str()), (Some(300), Some(cause)));
}

const SPACE_EXCEEDED: &str = "etcdserver: mvcc: database space exceeded";
const TOO_MANY: &str = "etcdserver: too many requests";

#[test]
fn beyond_the_quota_only_what_adds_is_refused_until_there_is_room_again() {
    const KEYS: usize = 100;
    // Each key costs its value, a name, and less than 200 bytes beside.
    let site = site(&["--quota-backend-bytes", "40000"]);
    let server = site.start();
    let mut client = Client::open(site.client_port).expect("connect");
    let kilobyte = format!("value={}", "x".repeat(1000));
    let refused = (0..KEYS).find(|key| {
        let answer = put(&mut client, &format!("/q/{key}"), &kilobyte);
        answer.status != 201 && {
            assert_refused(&answer, 500, SPACE_EXCEEDED);
            true
        }
    });
    let refused = refused.expect("a write is refused before a hundred kilobytes");
    assert!((30..40).contains(&refused), "{refused}");
    let text = metrics(&mut client);
    assert_eq!(metric(&text, "etcd_server_quota_backend_bytes"), 40_000.0);
    assert!(metric(&text, "etcd_mvcc_db_total_size_in_bytes") > 40_000.0);
    assert_eq!(metric(&text, "ringd_alarm_nospace"), 1.0);
    assert!(metric(&text, "ringd_writes_refused_total{reason=\"quota\"}") >= 1.0);
    assert_eq!(status(&mut client, "/health"), 503);
    assert_eq!(status(&mut client, "/health?exclude=NOSPACE"), 200);

    // Reads, and writes that make nothing larger.
    assert_eq!(status(&mut client, "/v2/keys/q/0"), 200);
    assert_eq!(put(&mut client, "/q/0", "value=small").status, 200);
    assert_refused(&put(&mut client, "/q/0", &kilobyte), 500, SPACE_EXCEEDED);
    assert_eq!(put(&mut client, "/q/1", "ttl=1000&refresh=true&prevExist=true").status, 200);
    let swapped = put(&mut client, "/q/0?prevValue=small", "value=other");
    assert_eq!(swapped.status, 200, "a lock that is kept alive: {}", String::from_utf8_lossy(&swapped.body));
    let posted = client.request("POST", "/v2/keys/q", "value=1").expect("an answer");
    assert_refused(&posted, 500, SPACE_EXCEEDED);

    // Up to 95 % of the quota it stays as it is.
    assert_eq!(client.request("DELETE", "/v2/keys/q/2", "").expect("an answer").status, 200);
    assert_refused(&put(&mut client, "/q/new", "value=1"), 500, SPACE_EXCEEDED);
    assert_eq!(client.request("DELETE", "/v2/keys/q/3", "").expect("an answer").status, 200);
    assert_eq!(client.request("DELETE", "/v2/keys/q/4", "").expect("an answer").status, 200);
    assert_eq!(put(&mut client, "/q/new", "value=1").status, 201);
    assert_eq!((status(&mut client, "/health"), metric(&metrics(&mut client), "ringd_alarm_nospace")), (200, 0.0));
    let over = "alarm NOSPACE is over";
    let log = wait_for(over, || Some(server.stderr()).filter(|log| log.contains(over)));
    assert_eq!((log.matches("alarm NOSPACE:").count(), log.matches(over).count()), (1, 1), "{log}");
}

#[test]
fn writes_beyond_those_under_way_get_503_and_reads_go_on() {
    // Two of these writes do not fit side by side.
    let site = site(&["--ringd-writes-pending-bytes", "600000"]);
    let server = site.start();
    let big = format!("value={}", "x".repeat(400 << 10));
    let begun = Instant::now();
    let clients: Vec<_> = (0..8)
        .map(|number| {
            let (big, port) = (big.clone(), site.client_port);
            std::thread::spawn(move || {
                let mut client = Client::open(port).expect("connect");
                loop {
                    let answer = put(&mut client, &format!("/big/{number}"), &big);
                    if answer.status == 503 {
                        assert_refused(&answer, 503, TOO_MANY);
                        return true;
                    }
                    assert!(matches!(answer.status, 200 | 201), "{}", answer.status);
                    if begun.elapsed() > PATIENCE {
                        return false;
                    }
                }
            })
        })
        .collect();
    let mut reader = Client::open(site.client_port).expect("connect");
    while clients.iter().any(|client| !client.is_finished()) {
        assert!(matches!(status(&mut reader, "/v2/keys/big/0"), 200 | 404));
        // The others end when they were refused once; something must be under way for the last.
        let _ = put(&mut reader, "/big/own", &big);
    }
    let refused = clients.into_iter().filter_map(|client| client.join().expect("a client").then_some(())).count();
    assert_eq!(refused, 8, "{}", server.stderr());
    assert_eq!(put(&mut reader, "/big/own", &big).status / 100, 2, "alone it is taken");
    let text = metrics(&mut reader);
    assert!(metric(&text, "ringd_writes_refused_total{reason=\"overload\"}") >= 8.0);
    assert_eq!(metric(&text, "ringd_writes_pending_bytes"), 0.0);
}

#[test]
fn bodies_that_are_gathered_share_a_ceiling() {
    let site = site(&["--ringd-bodies-bytes", "1000000"]);
    let _server = site.start();
    let begin = |client: &mut Client, bytes: usize| {
        let head = format!(
            "PUT /v2/keys/b HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {bytes}\r\n\r\nvalue="
        );
        client.send(head.as_bytes()).expect("send");
    };
    let mut first = Client::open(site.client_port).expect("connect");
    begin(&mut first, 700_006);
    let mut small = Client::open(site.client_port).expect("connect");
    let begun = Instant::now();
    while metric(&metrics(&mut small), "ringd_bodies_bytes") < 700_000.0 {
        assert!(begun.elapsed() < PATIENCE, "the first body is never counted");
    }
    let mut second = Client::open(site.client_port).expect("connect");
    begin(&mut second, 700_006);
    while !second.is_closed() {}
    let refusal = second.take_buffer();
    let refusal = String::from_utf8_lossy(&refusal);
    assert!(refusal.starts_with("HTTP/1.1 503 ") && refusal.contains(TOO_MANY), "{refusal}");
    assert_eq!(put(&mut small, "/small", "value=1").status, 201, "small bodies are free");
    first.send("x".repeat(700_000).as_bytes()).expect("send");
    assert_eq!(first.receive(false).expect("an answer").status, 201);
    assert_eq!(status(&mut first, "/v2/keys/small"), 200);
    let text = metrics(&mut small);
    assert_eq!((metric(&text, "ringd_bodies_bytes"), metric(&text, "ringd_bodies_refused_total")), (0.0, 1.0));
}

#[test]
fn the_body_of_a_watch_is_not_counted_while_it_waits() {
    let site = site(&["--ringd-bodies-bytes", "1000000"]);
    let _server = site.start();
    let mut watcher = Client::open(site.client_port).expect("connect");
    let body = "x".repeat(700_000);
    let watch = format!("GET /v2/keys/w?wait=true HTTP/1.1\r\nHost: x\r\nContent-Length: 700000\r\n\r\n{body}");
    watcher.send(watch.as_bytes()).expect("send");
    let mut other = Client::open(site.client_port).expect("connect");
    let begun = Instant::now();
    while metric(&metrics(&mut other), "etcd_debugging_store_watchers") < 1.0 {
        assert!(begun.elapsed() < PATIENCE, "the watch never begins");
    }
    assert_eq!(metric(&metrics(&mut other), "ringd_bodies_bytes"), 0.0);
    assert_eq!(put(&mut other, "/other", &format!("value={body}")).status, 201);
    assert_eq!(put(&mut other, "/w", "value=1").status, 201);
    assert_eq!(watcher.receive(false).expect("the event").status, 200);
}

#[test]
fn a_request_that_is_larger_than_the_setting_is_refused_by_its_length() {
    let site = site(&["--max-request-bytes", "2000"]);
    let _server = site.start();
    let mut client = Client::open(site.client_port).expect("connect");
    assert_eq!(put(&mut client, "/a", &format!("value={}", "x".repeat(1900))).status, 201);
    let refused = put(&mut client, "/a", &format!("value={}", "x".repeat(2100)));
    let body = refused.json();
    assert_eq!((refused.status, body["errorCode"].as_u64()), (400, Some(210)));
    assert_eq!(body["cause"].as_str(), Some("http: POST too large"));
    let mut next = Client::open(site.client_port).expect("connect");
    assert_eq!(status(&mut next, "/v2/keys/a"), 200);
}

#[test]
fn a_listener_that_is_full_leaves_the_others_alone() {
    let mut site = site(&["--ringd-connections-max", "2"]);
    let other = support::free_port();
    let urls = format!("http://127.0.0.1:{},http://127.0.0.1:{other}", site.client_port);
    site.extra.extend(["--listen-client-urls".to_owned(), urls]);
    let _server: Server = site.start();
    let admitted = |port| {
        let begun = Instant::now();
        loop {
            let mut client = Client::open(port).expect("connect");
            if client.request("GET", "/v2/keys/", "").is_ok_and(|answer| answer.status == 200) {
                return client;
            }
            assert!(begun.elapsed() < PATIENCE, "a place was never free");
        }
    };
    let _full = (admitted(site.client_port), admitted(site.client_port));
    let mut third = Client::open(site.client_port).expect("connect");
    assert!(third.request("GET", "/v2/keys/", "").is_ok_and(|answer| answer.status == 503) || third.is_closed());
    let _others = (admitted(other), admitted(other));
    let mut peer = Client::open(site.peer_port).expect("connect");
    assert_eq!(status(&mut peer, "/members"), 200, "members are let in");
}
