//! Answers that nobody reads: what they may hold, who is refused for it, and who is not.

use crate::flood::metric;
use crate::support::{Client, wait_for};
use crate::{TOO_MANY, assert_refused, metrics, put, site, status};

/// More than the sockets of both sides take between them.
const TREE_BYTES: usize = 2 * VALUE_BYTES;
const VALUE_BYTES: usize = 9 << 20;
const TREE: &str = "/v2/keys/big?recursive=true";

#[test]
fn answers_that_nobody_reads_share_a_ceiling() {
    let site = site(&["--ringd-answers-bytes", "1000000"]);
    let _server = site.start();
    let mut reader = Client::open(site.client_port).expect("connect");
    let value = format!("value={}", "x".repeat(VALUE_BYTES));
    for number in 0..TREE_BYTES / VALUE_BYTES {
        assert_eq!(put(&mut reader, &format!("/big/{number}"), &value).status, 201);
    }
    assert_eq!(put(&mut reader, "/small/key", "value=1").status, 201);
    let mut watcher = Client::open(site.client_port).expect("connect");
    watcher.send(b"GET /v2/keys/watched?wait=true HTTP/1.1\r\nHost: x\r\n\r\n").expect("send");
    wait_for("the watcher", || (metric(&metrics(&mut reader), "etcd_debugging_store_watchers") == 1.0).then_some(()));

    // One that is larger than the ceiling is answered when nobody holds anything.
    let mut idler = Client::open(site.client_port).expect("connect");
    idler.send(format!("GET {TREE} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).expect("send");
    wait_for("the answer is held", || {
        (metric(&metrics(&mut reader), "ringd_answers_bytes") > (TREE_BYTES - (1 << 20)) as f64).then_some(())
    });
    let (linear, past) = (format!("{TREE}&quorum=true"), "/v2/keys/big?wait=true&recursive=true&waitIndex=1");
    let refused = [("GET", TREE), ("GET", &linear), ("GET", "/v2/keys/big/0"), ("GET", past)];
    for (method, target) in refused {
        assert_refused(&reader.request(method, target, "").expect("an answer"), 503, TOO_MANY);
    }
    assert_eq!(reader.request("HEAD", TREE, "").expect("an answer").status, 503);
    for small in ["/v2/keys/small?recursive=true", "/v2/keys/small/key", "/v2/keys/small/key?quorum=true"] {
        assert_eq!(status(&mut reader, small), 200, "small answers are free");
    }
    assert_eq!(metric(&metrics(&mut reader), "ringd_answers_refused_total"), 5.0);
    // Those who watch already get what they wait for, later.
    assert_eq!(put(&mut reader, "/watched", &value).status, 201);
    wait_for("the event waits", || {
        (metric(&metrics(&mut reader), "ringd_watch_waiting_bytes") > VALUE_BYTES as f64).then_some(())
    });

    // What is held comes back with the connection.
    drop(idler);
    wait_for("the bytes come back", || (metric(&metrics(&mut reader), "ringd_answers_bytes") == 0.0).then_some(()));
    let event = watcher.receive(false).expect("an event");
    assert_eq!((event.status, event.body.len() / VALUE_BYTES), (200, 1));
    // A connection's own answers are sent one after the other, so that they are not in each other's way.
    let pipelined: String = [TREE, TREE, &linear, &linear]
        .iter()
        .map(|target| format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"))
        .collect();
    reader.send(pipelined.as_bytes()).expect("send");
    for place in 0..4 {
        let answer = reader.receive(false).expect("an answer");
        assert_eq!(answer.status, 200, "{place}");
        assert!(answer.body.len() > TREE_BYTES, "{place}");
    }
    let text = metrics(&mut reader);
    let counted = ("ringd_answers_bytes", "ringd_answers_refused_total");
    assert_eq!((metric(&text, counted.0), metric(&text, counted.1)), (0.0, 5.0));
}

#[test]
fn answers_to_writes_that_tell_a_large_value_are_gathered_one_at_a_time() {
    const WRITES: usize = 16;
    const VALUE_BYTES: usize = 3 << 20;
    let site = site(&[]);
    let _server = site.start();
    let mut reader = Client::open(site.client_port).expect("connect");
    let value = format!("value={}", "x".repeat(VALUE_BYTES));
    assert_eq!(put(&mut reader, "/lock", &value).status, 201);
    let mut idler = Client::open(site.client_port).expect("connect");
    let refresh =
        "PUT /v2/keys/lock?refresh=true&prevExist=true&ttl=1000 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    idler.send(refresh.repeat(WRITES).as_bytes()).expect("send");
    let held = wait_for("answers are held", || {
        let index = reader.request("HEAD", "/v2/keys/lock", "").expect("an answer").etcd_index();
        let held = metric(&metrics(&mut reader), "ringd_answers_bytes");
        // The sockets take some; what is held then stays.
        let again = reader.request("HEAD", "/v2/keys/lock", "").expect("an answer").etcd_index();
        (held > 0.0 && index == again).then_some(held)
    });
    assert!(held < (3 * VALUE_BYTES) as f64, "the value, and the same once more as the previous one: {held}");
    for place in 0..WRITES {
        let answer = idler.receive(false).expect("an answer");
        assert_eq!((answer.status, answer.body.len() / VALUE_BYTES), (200, 2), "{place}");
    }
    assert_eq!(metric(&metrics(&mut reader), "ringd_answers_bytes"), 0.0);
}
