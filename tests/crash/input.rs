//! Bad input: every client gets an answer or is dropped, and nobody else notices.

use std::time::Duration;

use super::support::{Client, Site};

#[test]
fn garbage_is_refused_and_disturbs_nobody() {
    let site = Site::new();
    let _server = site.start();
    let mut good = Client::open(site.client_port).expect("connect");
    let huge_header = format!("GET /v2/keys/ HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(200 << 10));
    let many_headers = format!("GET /v2/keys/ HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(5000));
    let cases: [(&[u8], &[u16]); 9] = [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", &[400]),
        (b"GET\r\n\r\n", &[400]),
        (b"GET /v2/keys/ HTTP/9.9\r\nHost: x\r\n\r\n", &[505]),
        (b"GET /v2/keys/ HTTP/1.1\r\n\r\n", &[400]),
        (b"PUT /v2/keys/a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", &[400]),
        (b"PUT /v2/keys/a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", &[400]),
        (b"PUT /v2/keys/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", &[501]),
        (huge_header.as_bytes(), &[431, 400]),
        (many_headers.as_bytes(), &[431]),
    ];
    for (bytes, statuses) in cases {
        let mut bad = Client::open(site.client_port).expect("connect");
        // The server may answer and close before everything is sent.
        let _ = bad.send(bytes);
        let answer = bad.receive(false);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        match answer {
            Ok(answer) => assert!(statuses.contains(&answer.status), "{shown:?} got {}", answer.status),
            // A reset after the answer was sent can take the answer with it.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{shown:?}: {error}"),
        }
        assert_eq!(good.request("GET", "/v2/keys/", "").expect("the good client").status, 200);
    }
}

#[test]
fn a_form_beyond_the_limit_gets_etcds_answer_although_it_is_still_being_sent() {
    let site = Site::new();
    let _server = site.start();
    let mut client = Client::open(site.client_port).expect("connect");
    let form = format!("value={}", "x".repeat(12 << 20));
    let answer = client.request("PUT", "/v2/keys/huge", &form).expect("an answer");
    assert_eq!(answer.status, 400);
    let error = answer.json();
    assert_eq!((&error["errorCode"], &error["cause"]), (&210.into(), &"http: POST too large".into()));
    let mut other = Client::open(site.client_port).expect("connect");
    assert_eq!(other.request("GET", "/v2/keys/huge", "").expect("read").status, 404);
}

#[test]
fn methods_and_paths_without_meaning_get_etcds_answers() {
    let site = Site::new();
    let _server = site.start();
    let mut client = Client::open(site.client_port).expect("connect");
    for (method, path, status) in [
        ("PATCH", "/v2/keys/a", 405),
        ("GET", "/v2", 404),
        ("GET", "/v2/keysfoo", 404),
        ("GET", "/v2/keys//a", 301),
        ("OPTIONS", "/nowhere", 200),
        ("PUT", "/v2/keys/a?prevExist=maybe", 400),
        ("GET", "/v2/keys/none", 404),
    ] {
        assert_eq!(client.request(method, path, "").expect("an answer").status, status, "{method} {path}");
    }
}

#[test]
fn slow_and_half_requests_do_not_hold_up_others() {
    let site = Site::new();
    let _server = site.start();
    let mut slow: Vec<Client> = (0..100).map(|_| Client::open(site.client_port).expect("connect")).collect();
    let mut good = Client::open(site.client_port).expect("connect");
    let request = b"PUT /v2/keys/slow HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n\
        Content-Length: 7\r\n\r\nvalue=1";
    for byte in request.chunks(1) {
        for client in &mut slow {
            client.send(byte).expect("send");
        }
        assert_eq!(good.request("PUT", "/v2/keys/good", "value=1").expect("write").status / 100, 2);
    }
    for client in &mut slow {
        assert_eq!(client.receive(false).expect("the slow answer").status / 100, 2);
    }
}

#[test]
fn a_truncated_request_changes_nothing() {
    let site = Site::new();
    let _server = site.start();
    let mut half = Client::open(site.client_port).expect("connect");
    half.send(
        b"PUT /v2/keys/half HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n\
        Content-Length: 100\r\n\r\nvalue=1",
    )
    .expect("send");
    drop(half);
    std::thread::sleep(Duration::from_millis(50));
    let mut client = Client::open(site.client_port).expect("connect");
    assert_eq!(client.request("GET", "/v2/keys/half", "").expect("read").status, 404);
}

#[test]
fn pipelined_requests_are_answered_in_order_and_a_read_sees_the_write_before_it() {
    let site = Site::new();
    let _server = site.start();
    let mut client = Client::open(site.client_port).expect("connect");
    let mut bytes = Vec::new();
    for number in 0..200 {
        let form = format!("value={number}");
        bytes.extend_from_slice(
            format!(
                "PUT /v2/keys/p HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                 Content-Length: {}\r\n\r\n{form}GET /v2/keys/p HTTP/1.1\r\nHost: x\r\n\r\n",
                form.len()
            )
            .as_bytes(),
        );
    }
    client.send(&bytes).expect("send");
    for number in 0..200 {
        for action in ["set", "get"] {
            let answer = client.receive(false).expect("an answer").json();
            assert_eq!(answer["action"], action);
            assert_eq!(answer["node"]["value"], number.to_string());
        }
    }
}

#[test]
fn a_body_that_waits_for_continue_and_a_chunked_one_are_taken() {
    let site = Site::new();
    let _server = site.start();
    let mut client = Client::open(site.client_port).expect("connect");
    let head = "PUT /v2/keys/c HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n";
    client.send(format!("{head}Expect: 100-continue\r\nContent-Length: 7\r\n\r\n").as_bytes()).expect("send");
    assert_eq!(client.receive(false).expect("continue").status, 100);
    client.send(b"value=1").expect("send");
    assert_eq!(client.receive(false).expect("an answer").status, 201);
    client
        .send(format!("{head}Transfer-Encoding: chunked\r\n\r\n4\r\nvalu\r\n3\r\ne=2\r\n0\r\n\r\n").as_bytes())
        .expect("send");
    assert_eq!(client.receive(false).expect("an answer").json()["node"]["value"], "2");
    let read = client.request("HEAD", "/v2/keys/c", "").expect("head");
    assert_eq!(read.status, 200);
    assert!(read.body.is_empty());
}

#[test]
fn a_watcher_that_leaves_is_forgotten_and_one_that_stays_is_told() {
    let site = Site::new();
    let _server = site.start();
    let mut leaver = Client::open(site.client_port).expect("connect");
    leaver.send(b"GET /v2/keys/w?wait=true HTTP/1.1\r\nHost: x\r\n\r\n").expect("send");
    drop(leaver);
    let mut watcher = Client::open(site.client_port).expect("connect");
    watcher.send(b"GET /v2/keys/w?wait=true HTTP/1.1\r\nHost: x\r\n\r\n").expect("send");
    std::thread::sleep(Duration::from_millis(100));
    let mut writer = Client::open(site.client_port).expect("connect");
    writer.request("PUT", "/v2/keys/w", "value=told").expect("write");
    let told = watcher.receive(false).expect("the event");
    assert_eq!(told.json()["node"]["value"], "told");
    // The connection goes on after a one-shot watch.
    assert_eq!(watcher.request("GET", "/v2/keys/w", "").expect("read").status, 200);
}
