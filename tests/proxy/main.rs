//! Proxies of real processes: in front of ringd and of a real etcd, while members die, come, and misbehave.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test of real processes measures real time")]

mod fake;
#[path = "../support/process.rs"]
mod process;
#[path = "../support/mod.rs"]
mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use fake::{Fake, Manner};
use process::{Home, PATIENCE, etcd_program, wait_for, wait_for_line};
use support::{Server, skip};

/// A cluster that runs.
struct Backing {
    homes: Vec<Home>,
    servers: Vec<Option<Server>>,
}

impl Backing {
    fn homes(names: &[&str], scratch: &Path) -> (Vec<Home>, String) {
        let homes: Vec<Home> = names.iter().map(|name| Home::new(name, scratch)).collect();
        let initial: Vec<String> = homes.iter().map(|home| format!("{}={}", home.name, home.peer_url())).collect();
        (homes, initial.join(","))
    }

    fn begun(homes: Vec<Home>, servers: Vec<Server>) -> Self {
        homes.iter().zip(&servers).for_each(|(home, server)| home.wait_until_served(server));
        Self { homes, servers: servers.into_iter().map(Some).collect() }
    }

    fn ringd(names: &[&str], scratch: &Path) -> Self {
        let (homes, initial) = Self::homes(names, scratch);
        let servers = homes.iter().map(|home| home.ringd(&["--initial-cluster", &initial])).collect();
        Self::begun(homes, servers)
    }

    fn etcd(names: &[&str], scratch: &Path) -> Option<Self> {
        let program = etcd_program()?;
        let (homes, initial) = Self::homes(names, scratch);
        let servers = homes.iter().map(|home| home.etcd(&program, &["--initial-cluster", &initial])).collect();
        Some(Self::begun(homes, servers))
    }

    fn initial(&self) -> String {
        let pairs = self.homes.iter().map(|home| format!("{}={}", home.name, home.peer_url()));
        pairs.collect::<Vec<_>>().join(",")
    }

    fn kill(&mut self, place: usize) {
        self.servers[place].take().expect("it runs").kill();
    }
}

/// A proxy that serves.
fn proxy(name: &str, scratch: &Path, initial: &str, flags: &[&str]) -> (Home, Server) {
    let home = Home::new(name, scratch);
    let server = home.ringd(&[&["--initial-cluster", initial, "--proxy", "on"][..], flags].concat());
    wait_for_line(&server, "v2 proxy started listening");
    // On a busy machine the members may have been too slow for its first question.
    wait_for("the proxy to know its members", || (!endpoints(&home).is_empty()).then_some(()));
    (home, server)
}

/// What the proxy says of its endpoints.
fn endpoints(home: &Home) -> Vec<String> {
    let told = home.ask("GET", "/v2/config/local/proxy", "").json();
    told["endpoints"].as_array().expect("a list").iter().filter_map(|url| url.as_str().map(str::to_owned)).collect()
}

fn everything_passes_through(backing: &Backing, scratch: &Path) {
    let monitors = support::free_port();
    let metrics_url = format!("http://127.0.0.1:{monitors}");
    let (home, server) = proxy("proxy", scratch, &backing.initial(), &["--listen-metrics-urls", &metrics_url]);
    assert!(server.stderr().contains("proxy: this proxy supports v2 API only!"));
    // etcd 3.4.23's proxy opens none either, but does not say so.
    wait_for_line(&server, "proxy: --listen-metrics-urls has no effect");
    assert!(TcpStream::connect(("127.0.0.1", monitors)).is_err());
    assert!(!home.dir.join("member").exists());
    let file = std::fs::read_to_string(home.dir.join("proxy/cluster")).expect("etcd's file");
    assert_eq!(file, format!("{{\"PeerURLs\":[\"{}\"]}}", backing.homes[0].peer_url()));
    assert_eq!(endpoints(&home), [backing.homes[0].client_url()]);

    let made = home.ask("PUT", "/v2/keys/a", "value=1");
    assert_eq!((made.status, made.json()["node"]["value"].as_str()), (201, Some("1")));
    assert!(made.etcd_index() > 0);
    let origins = made.head.lines().filter(|line| line.starts_with("Access-Control-Allow-Origin:")).count();
    assert_eq!(origins, 1, "{}", made.head);
    assert_eq!(home.ask("GET", "/v2/keys/a?quorum=true", "").json()["node"]["value"], "1");
    assert_eq!(backing.homes[0].ask("GET", "/v2/keys/a", "").json()["node"]["value"], "1");
    assert_eq!(home.ask("PUT", "/v2/keys/a?prevValue=2", "value=3").status, 412);
    assert_eq!(home.ask("GET", "/v2/keys/none", "").status, 404);
    assert_eq!(home.ask("DELETE", "/v2/keys/a", "").status, 200);
    assert_eq!(home.ask("GET", "/version", "").json()["etcdserver"], "3.4.23");
    assert_eq!(home.ask("GET", "/health", "").json()["health"], "true");
    assert_eq!(home.ask("OPTIONS", "/v2/keys/a", "").status, 200);
    let refused = home.ask("POST", "/v2/config/local/proxy", "");
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET")));
    let head = home.connect().request("HEAD", "/v2/keys/", "");
    assert_eq!(head.expect("an answer").status, 200);

    // A value that takes many reads, and answers in the order of pipelined requests.
    let big = "x".repeat(700_000);
    assert_eq!(home.ask("PUT", "/v2/keys/big", &format!("value={big}")).status, 201);
    assert_eq!(home.ask("GET", "/v2/keys/big", "").json()["node"]["value"], big.as_str());
    let mut client = home.connect();
    let one = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    client.send([one("/v2/keys/big"), one("/v2/keys/none"), one("/version")].concat().as_bytes()).expect("sent");
    let statuses: Vec<u16> = (0..3).map(|_| client.receive(false).expect("an answer").status).collect();
    assert_eq!(statuses, [200, 404, 200]);

    let metrics = String::from_utf8(home.ask("GET", "/metrics", "").body).expect("text");
    assert!(metrics.contains("etcd_proxy_requests_total{method=\"PUT\"} 3\n"), "{metrics}");
    assert!(metrics.contains("etcd_proxy_handled_total{code=\"412\",method=\"PUT\"} 1\n"), "{metrics}");
    server.kill();
}

fn watches_stream_through(backing: &Backing, scratch: &Path) {
    let (home, server) = proxy("watcher", scratch, &backing.initial(), &[]);
    let watchers = || {
        let text = String::from_utf8(backing.homes[0].ask("GET", "/metrics", "").body).expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix("etcd_debugging_store_watchers "))?;
        line.parse::<u64>().ok()
    };
    let put = |value: u64| {
        let made = backing.homes[0].ask("PUT", "/v2/keys/w", &format!("value={value}"));
        assert!(made.status < 300, "{made:?}");
    };
    // A long poll whose key changes at the member.
    let mut poll = home.connect();
    poll.send(b"GET /v2/keys/w?wait=true HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    wait_for("the watcher", || (watchers() == Some(1)).then_some(()));
    put(1);
    assert_eq!(poll.receive(false).expect("an event").json()["node"]["value"], "1");
    assert_eq!(poll.request("GET", "/v2/keys/w", "").expect("the connection goes on").json()["node"]["value"], "1");
    // A stream: each event arrives by itself.
    let mut stream = TcpStream::connect(("127.0.0.1", home.client)).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream.write_all(b"GET /v2/keys/w?wait=true&stream=true HTTP/1.0\r\n\r\n").expect("sent");
    wait_for("the watcher", || (watchers() == Some(1)).then_some(()));
    let mut seen = String::new();
    for value in 2..=4 {
        put(value);
        let mark = format!("\"node\":{{\"key\":\"/w\",\"value\":\"{value}\"");
        while !seen.contains(&mark) {
            let mut chunk = [0; 4096];
            let read = stream.read(&mut chunk).expect("an event in time");
            assert!(read > 0, "the stream ended: {seen}");
            seen.push_str(&String::from_utf8_lossy(&chunk[..read]));
        }
    }
    assert!(seen.starts_with("HTTP/1.0 200 OK\r\n") && !seen.to_ascii_lowercase().contains("chunked"), "{seen}");
    // Who leaves is gone at the member too.
    drop(stream);
    wait_for("the watcher to be gone", || (watchers() == Some(0)).then_some(()));
    server.kill();
}

fn only_reads_pass(backing: &Backing, scratch: &Path) {
    let (home, server) = proxy("readonly", scratch, &backing.initial(), &["--proxy", "readonly"]);
    for method in ["PUT", "POST", "DELETE", "OPTIONS", "HEAD"] {
        let refused = home.connect().request(method, "/v2/keys/ro", "").expect("an answer");
        assert_eq!((refused.status, refused.body.len()), (501, 0), "{method}");
    }
    assert_eq!(home.ask("GET", "/v2/keys/?quorum=true", "").status, 200);
    assert_eq!(home.ask("GET", "/v2/config/local/proxy", "").status, 200);
    assert_eq!(backing.homes[0].ask("GET", "/v2/keys/ro", "").status, 404);
    server.kill();
}

#[test]
fn a_proxy_of_ringd() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let backing = Backing::ringd(&["m"], scratch.path());
    everything_passes_through(&backing, scratch.path());
    watches_stream_through(&backing, scratch.path());
    only_reads_pass(&backing, scratch.path());
}

#[test]
fn a_proxy_of_etcd() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let Some(backing) = Backing::etcd(&["m"], scratch.path()) else {
        skip("a proxy in front of etcd", "there is no etcd 3.4 in PATH");
        return;
    };
    everything_passes_through(&backing, scratch.path());
    watches_stream_through(&backing, scratch.path());
    only_reads_pass(&backing, scratch.path());
}

#[test]
fn an_etcd_is_a_proxy_of_ringd() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let Some(program) = etcd_program() else {
        skip("etcd as a proxy in front of ringd", "there is no etcd 3.4 in PATH");
        return;
    };
    let backing = Backing::ringd(&["a", "b"], scratch.path());
    let home = Home::new("etcd", scratch.path());
    let server = home.etcd(&program, &["--proxy", "on", "--initial-cluster", &backing.initial()]);
    home.wait_until_served(&server);
    assert_eq!(home.ask("PUT", "/v2/keys/a", "value=1").status, 201);
    assert_eq!(endpoints(&home).len(), 2);
    // Its directory is one of ours: a ringd goes on where it stopped.
    server.kill();
    let server = home.ringd(&[]);
    home.wait_until_served(&server);
    assert!(server.stderr().contains("from cluster file"), "{}", server.stderr());
    assert_eq!(home.ask("GET", "/v2/keys/a?quorum=true", "").json()["node"]["value"], "1");
}

#[test]
fn the_next_member_is_asked_when_the_first_dies() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let mut backing = Backing::ringd(&["a", "b", "c"], scratch.path());
    let flags = ["--proxy-failure-wait", "600000"];
    let (home, server) = proxy("proxy", scratch.path(), &backing.initial(), &flags);
    let mut client = home.connect();
    assert_eq!(client.request("PUT", "/v2/keys/a", "value=1").expect("an answer").status, 201);
    let first = endpoints(&home).remove(0);
    let place = backing.homes.iter().position(|home| home.client_url() == first).expect("a member");
    backing.kill(place);
    // The same client, on the same connection; the cluster itself may need an election.
    wait_for("a write without the first member", || {
        let answer = client.request("PUT", "/v2/keys/a", "value=2").expect("the proxy answers");
        (answer.status < 300).then_some(())
    });
    wait_for_line(&server, &format!("marked endpoint {first} unavailable"));
    let left = endpoints(&home);
    assert!(left.len() == 2 && !left.contains(&first), "{left:?}");
    assert_eq!(home.ask("GET", "/v2/keys/a?quorum=true", "").json()["node"]["value"], "2");
}

#[test]
fn an_endpoint_comes_back_after_its_wait() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let mut backing = Backing::ringd(&["m"], scratch.path());
    let flags = ["--proxy-failure-wait", "400"];
    let (home, server) = proxy("proxy", scratch.path(), &backing.initial(), &flags);
    backing.kill(0);
    let refused = home.ask("GET", "/v2/keys/", "");
    assert_eq!(refused.status, 502);
    assert_eq!(refused.json()["message"], "httpproxy: unable to get response from 1 endpoint(s)");
    let member = backing.homes[0].ringd(&[]);
    backing.homes[0].wait_until_served(&member);
    wait_for("the endpoint to be back", || {
        home.request("GET", "/v2/keys/?quorum=true", "").filter(|answer| answer.status == 200)
    });
    wait_for_line(&server, "available, to retest connectivity");
}

#[test]
fn a_member_that_joins_becomes_an_endpoint() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let backing = Backing::ringd(&["a"], scratch.path());
    let flags = ["--proxy-refresh-interval", "200"];
    let (home, server) = proxy("proxy", scratch.path(), &backing.initial(), &flags);
    let joiner = Home::new("b", scratch.path());
    let body = format!("{{\"peerURLs\":[\"{}\"]}}", joiner.peer_url());
    let mut client = backing.homes[0].connect();
    let request = format!(
        "POST /v2/members HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    client.send(request.as_bytes()).expect("sent");
    assert_eq!(client.receive(false).expect("an answer").status, 201);
    let initial = format!("{},b={}", backing.initial(), joiner.peer_url());
    let joined = joiner.ringd(&["--initial-cluster", &initial, "--initial-cluster-state", "existing"]);
    joiner.wait_until_served(&joined);
    wait_for("both endpoints", || {
        let mut found = endpoints(&home);
        found.sort();
        let mut wanted = vec![backing.homes[0].client_url(), joiner.client_url()];
        wanted.sort();
        (found == wanted).then_some(())
    });
    let file = wait_for("both in the file", || {
        let file = std::fs::read_to_string(home.dir.join("proxy/cluster")).expect("the file");
        file.contains(&joiner.peer_url()).then_some(file)
    });
    assert!(file.contains(&backing.homes[0].peer_url()), "{file}");
    wait_for_line(&server, "proxy: updated peer urls in cluster file from");
}

#[test]
fn a_proxy_starts_from_its_file_while_the_members_are_down() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let mut backing = Backing::ringd(&["m"], scratch.path());
    let (home, first) = proxy("proxy", scratch.path(), &backing.initial(), &[]);
    assert_eq!(home.ask("PUT", "/v2/keys/a", "value=1").status, 201);
    first.kill();
    backing.kill(0);
    // Neither --proxy nor the cluster's URLs are given: the directory and its file tell.
    let second = home.ringd(&["--initial-cluster", "x=http://127.0.0.1:1"]);
    wait_for_line(&second, "v2 proxy started listening");
    assert!(second.stderr().contains("as proxy before, starting as etcd proxy"), "{}", second.stderr());
    assert!(second.stderr().contains("could not retrieve cluster information from the given URLs"));
    let refused = home.ask("GET", "/v2/keys/a", "");
    assert_eq!(refused.status, 503);
    assert_eq!(refused.body, b"{\"message\":\"httpproxy: zero endpoints currently available\"}");
    assert_eq!(home.ask("GET", "/v2/config/local/proxy", "").body, b"{\"endpoints\":[]}\n");
    let _member = backing.homes[0].ringd(&[]);
    wait_for("the member to be found", || home.request("GET", "/v2/keys/a", "").filter(|answer| answer.status == 200));
    let mut second = second;
    second.signal(15);
    second.wait(PATIENCE);
}

#[test]
fn a_directory_of_both_kinds_is_refused() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let home = Home::new("both", scratch.path());
    std::fs::create_dir_all(home.dir.join("member")).expect("a directory");
    std::fs::create_dir_all(home.dir.join("proxy")).expect("a directory");
    let mut server = home.ringd(&[]);
    assert_eq!(server.wait(PATIENCE).code(), Some(1));
    assert!(server.stderr().contains("invalid datadir. Both member and proxy directories exist."));
}

#[test]
fn a_write_is_never_sent_twice_and_a_read_is() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    // Two members that hang up on every request; whichever is asked first.
    let other = Fake::start(Manner::HangUp, &[]);
    let fake = Fake::start(Manner::HangUp, &[other.url()]);
    let initial = format!("x={}", fake.url());
    let flags = ["--proxy-failure-wait", "1"];
    let (home, _server) = proxy("proxy", scratch.path(), &initial, &flags);
    assert_eq!(home.ask("GET", "/v2/keys/read", "").status, 502);
    wait_for("both to be asked for a read", || (fake.heard().len() == 1 && other.heard().len() == 1).then_some(()));
    wait_for("both to be back", || (endpoints(&home).len() == 2).then_some(()));
    let written = home.ask("POST", "/v2/keys/write", "value=1");
    assert_eq!(written.status, 502);
    let heard = [fake.heard(), other.heard()].concat();
    let writes: Vec<&String> = heard.iter().filter(|request| request.starts_with("POST ")).collect();
    assert_eq!(writes.len(), 1, "{heard:?}");
    assert!(writes[0].contains("X-Forwarded-For: 127.0.0.1\r\n") && writes[0].contains("Host: x\r\n"), "{}", writes[0]);
}

#[test]
fn a_silent_member_is_given_up_after_the_read_timeout() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let fake = Fake::start(Manner::Silence, &[]);
    let flags = ["--proxy-read-timeout", "300", "--proxy-failure-wait", "600000"];
    let (home, server) = proxy("proxy", scratch.path(), &format!("x={}", fake.url()), &flags);
    assert_eq!(home.ask("GET", "/v2/keys/", "").status, 502);
    wait_for_line(&server, "failed to direct request to");
    assert_eq!(home.ask("GET", "/v2/keys/", "").status, 503, "it is set aside");
}

#[test]
fn a_member_that_takes_nothing_is_given_up_after_the_write_timeout() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let fake = Fake::start(Manner::Deaf, &[]);
    let flags = ["--proxy-write-timeout", "300"];
    let (home, server) = proxy("proxy", scratch.path(), &format!("x={}", fake.url()), &flags);
    // More than both sockets' buffers hold, less than the largest form.
    let refused = home.ask("PUT", "/v2/keys/a", &format!("value={}", "x".repeat(9 << 20)));
    assert_eq!(refused.status, 502, "{}", server.stderr());
    wait_for("the head to be read", || (fake.heard().len() == 1).then_some(()));
}

#[test]
fn a_member_that_cannot_be_reached_is_given_up_after_the_dial_timeout() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    // A socket whose queue is full drops who wants to connect.
    let full = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None);
    let full = full.expect("a socket");
    rustix::net::bind(&full, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    rustix::net::listen(&full, 0).expect("a listener");
    let address = rustix::net::getsockname(&full).expect("an address");
    let address = SocketAddr::try_from(address).expect("an IP address");
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        queued.push(stream);
        assert!(queued.len() < 1000, "the queue never fills");
    }
    let other = format!("http://{address}");
    let fake =
        Fake::start(Manner::Say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), std::slice::from_ref(&other));
    let flags = ["--proxy-dial-timeout", "2000", "--proxy-failure-wait", "600000", "--proxy-refresh-interval", "100"];
    let (home, server) = proxy("proxy", scratch.path(), &format!("x={}", fake.url()), &flags);
    // Whichever is asked first, the one that answers is found; in the end the other was tried.
    wait_for("the unreachable one to be set aside", || {
        assert_eq!(home.ask("POST", "/v2/keys/a", "value=1").status, 200, "{}", server.stderr());
        server.stderr().contains(&format!("marked endpoint {other} unavailable")).then_some(())
    });
}

#[test]
fn an_answer_that_breaks_off_breaks_off_for_the_client() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    for (name, said) in [
        ("length", &b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"[..]),
        ("chunks", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        ("garbled", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    ] {
        let fake = Fake::start(Manner::Say(said), &[]);
        let (home, _server) = proxy(name, scratch.path(), &format!("x={}", fake.url()), &[]);
        let mut client = home.connect();
        client.send(b"GET /v2/keys/ HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
        assert!(client.receive(false).is_err(), "{name}: half an answer passed for a whole one");
    }
    // What ends with its connection is whole.
    let fake = Fake::start(Manner::Say(b"HTTP/1.1 200 OK\r\n\r\nall of it"), &[]);
    let (home, _server) = proxy("endless", scratch.path(), &format!("x={}", fake.url()), &[]);
    assert_eq!(home.ask("GET", "/v2/keys/", "").body, b"all of it");
    // What is no HTTP counts as no answer.
    let fake = Fake::start(Manner::Say(b"SSH-2.0-x\r\n\r\n"), &[]);
    let (home, _server) = proxy("nohttp", scratch.path(), &format!("x={}", fake.url()), &[]);
    assert_eq!(home.ask("GET", "/v2/keys/", "").status, 502);
}

#[test]
fn bad_requests_are_refused_by_the_proxy_itself() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let fake = Fake::start(Manner::HangUp, &[]);
    let flags = ["--ringd-request-body-max", "100", "--ringd-header-timeout", "1", "--ringd-connections-max", "3"];
    let (home, _server) = proxy("proxy", scratch.path(), &format!("x={}", fake.url()), &flags);
    assert_eq!(home.ask("PUT", "/v2/keys/a", &format!("value={}", "x".repeat(200))).status, 500);
    let mut garbage = home.connect();
    garbage.send(b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n").expect("sent");
    assert_eq!(garbage.receive(true).expect("an answer").status, 400);
    let mut slow = home.connect();
    slow.send(b"GET / HT").expect("sent");
    assert_eq!(slow.receive(true).expect("an answer").status, 408);
    drop((garbage, slow));
    wait_for("a connection beyond the limit to be refused", || {
        let clients: Vec<_> = (0..5).map(|_| home.connect()).collect();
        clients
            .into_iter()
            .any(|mut client| client.receive(true).is_ok_and(|answer| answer.status == 503))
            .then_some(())
    });
    assert!(fake.heard().is_empty(), "{:?}", fake.heard());
}

#[test]
fn a_client_that_leaves_behind_much_input_is_noticed() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let fake = Fake::start(Manner::Silence, &[]);
    let flags = ["--ringd-connections-max", "1"];
    let (home, server) = proxy("proxy", scratch.path(), &format!("x={}", fake.url()), &flags);
    let mut client = home.connect();
    client.send(b"GET /v2/keys/w?wait=true HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    wait_for("the watch at the member", || (fake.heard().len() == 1).then_some(()));
    client.send(&b"GET /v2/keys/w HTTP/1.1\r\nHost: x\r\n\r\n".repeat(5000)).expect("sent");
    drop(client);
    wait_for("its place to be free", || {
        home.request("GET", "/v2/config/local/proxy", "").filter(|answer| answer.status == 200)
    });
    assert!(server.stderr().contains("was let go"), "{}", server.stderr());
    assert_eq!(fake.heard().len(), 1);
}

#[test]
fn large_bodies_share_a_ceiling() {
    const BODY_BYTES: usize = 700_000;
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let backing = Backing::ringd(&["m"], scratch.path());
    let (home, server) = proxy("proxy", scratch.path(), &backing.initial(), &["--ringd-bodies-bytes", "1000000"]);
    let form = format!("value={}", "x".repeat(BODY_BYTES));
    // Who may go on is told so, after its body was counted.
    let begin = || {
        let mut client = home.connect();
        let head = format!(
            "PUT /v2/keys/big HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Expect: 100-continue\r\nContent-Length: {}\r\n\r\n",
            form.len()
        );
        client.send(head.as_bytes()).expect("sent");
        let status = client.receive(true).expect("an answer").status;
        (client, status)
    };
    let (mut first, status) = begin();
    assert_eq!(status, 100);
    let (mut second, status) = begin();
    assert_eq!(status, 503);
    while !second.is_closed() {}
    let refusal = String::from_utf8(second.take_buffer()).expect("text");
    assert!(refusal.contains("etcdserver: too many requests"), "{refusal}");
    wait_for_line(&server, "a large body was refused: see --ringd-bodies-bytes");
    assert_eq!(home.ask("PUT", "/v2/keys/small", "value=1").status, 201, "small bodies are free");
    first.send(form.as_bytes()).expect("sent");
    assert_eq!(first.receive(false).expect("an answer").status, 201);
    assert_eq!(home.ask("GET", "/v2/keys/big", "").json()["node"]["value"].as_str(), Some(&form["value=".len()..]));
    // What was passed on is given back, though its client stays.
    let (third, status) = begin();
    assert_eq!(status, 100);
    drop(third);
    wait_for("what a client held that left", || (begin().1 == 100).then_some(()));
    assert_eq!(first.request("GET", "/v2/keys/small", "").expect("an answer").status, 200);

    // Parts of any size, and a request right behind them.
    let parts: String = form.as_bytes().chunks(9973).fold(String::new(), |parts, part| {
        parts + &format!("{:x}\r\n{}\r\n", part.len(), String::from_utf8_lossy(part))
    });
    let both = format!(
        "PUT /v2/keys/parts HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Transfer-Encoding: chunked\r\n\r\n{parts}0\r\n\r\nGET /v2/keys/parts HTTP/1.1\r\nHost: x\r\n\r\n"
    );
    wait_for("a body in parts to be taken", || {
        let mut client = home.connect();
        // Who is refused may find the connection closed.
        client.send(both.as_bytes()).ok()?;
        let made = client.receive(false).ok().filter(|answer| answer.status < 300)?;
        assert_eq!(made.status, 201);
        let read = client.receive(false).expect("an answer").json();
        assert_eq!(read["node"]["value"].as_str(), Some(&form["value=".len()..]));
        Some(())
    });
}
