//! Members that find each other by a token of a discovery service, ringd's or a real etcd's, or by a domain's SRV records;
//! and what becomes of those who come too late or ask for nonsense.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test of real processes measures real time")]

mod dns;
#[path = "../support/process.rs"]
mod process;
#[path = "../support/mod.rs"]
mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;

use process::{Home, PATIENCE, etcd_program, wait_for, wait_for_line};
use support::{Server, skip};

/// A discovery service that runs.
struct Service {
    home: Home,
    _server: Server,
}

impl Service {
    fn ringd(scratch: &Path) -> Self {
        let home = Home::new("service", scratch);
        let server = home.ringd(&["--initial-cluster", &format!("service={}", home.peer_url())]);
        home.wait_until_served(&server);
        Self { home, _server: server }
    }

    fn etcd(scratch: &Path) -> Option<Self> {
        let program = etcd_program()?;
        let home = Home::new("service", scratch);
        let server = home.etcd(&program, &["--initial-cluster", &format!("service={}", home.peer_url())]);
        home.wait_until_served(&server);
        Some(Self { home, _server: server })
    }

    /// A fresh token for a cluster of `size`.
    fn token(&self, name: &str, size: &str) -> String {
        let path = format!("/v2/keys/_etcd/registry/{name}");
        let made = self.home.ask("PUT", &format!("{path}/_config/size"), &format!("value={size}"));
        assert_eq!(made.status, 201, "{made:?}");
        format!("{}{path}", self.home.client_url())
    }
}

/// Ends by itself with this exit code; its log.
fn ended(mut server: Server, code: i32) -> String {
    let status = server.wait(PATIENCE);
    assert_eq!(status.code(), Some(code), "{}", server.stderr());
    server.stderr()
}

fn a_cluster_is_found_by(service: &Service, scratch: &Path) {
    let token = service.token("three", "3");
    let homes: Vec<Home> = ["a", "b", "c"].iter().map(|name| Home::new(name, scratch)).collect();
    let mut servers: Vec<Server> = homes.iter().map(|home| home.ringd(&["--discovery", &token])).collect();
    for (home, server) in homes.iter().zip(&servers) {
        home.wait_until_served(server);
        assert!(server.stderr().contains("discovery: found self "), "{}", server.stderr());
        assert!(server.stderr().contains("discovery: found 3 needed peer(s)"), "{}", server.stderr());
    }
    assert_eq!(homes[0].ask("PUT", "/v2/keys/a", "value=1").status, 201);
    assert_eq!(homes[2].ask("GET", "/v2/keys/a?quorum=true", "").json()["node"]["value"], "1");
    let members = homes[1].ask("GET", "/v2/members", "").json();
    let ids: Vec<&str> =
        members["members"].as_array().expect("a list").iter().filter_map(|m| m["id"].as_str()).collect();
    let listed = service.home.ask("GET", "/v2/keys/_etcd/registry/three", "").json();
    let registered = listed["node"]["nodes"].as_array().expect("a list");
    assert_eq!(registered.len(), 3);
    for node in registered {
        let id = node["key"].as_str().expect("a key").rsplit('/').next().expect("a name");
        assert!(ids.contains(&id), "{id} is not one of {ids:?}");
    }

    // Too late: a proxy of the three, also after a restart without flags about it.
    let late = Home::new("late", scratch);
    let server = late.ringd(&["--discovery", &token]);
    late.wait_until_served(&server);
    assert!(server.stderr().contains("discovery cluster full, falling back to proxy"), "{}", server.stderr());
    assert_eq!(late.ask("GET", "/v2/keys/a", "").json()["node"]["value"], "1");
    assert!(!late.dir.join("member").exists(), "a proxy keeps no log");
    server.kill();
    let server = late.ringd(&[]);
    late.wait_until_served(&server);
    assert!(server.stderr().contains("from cluster file"), "{}", server.stderr());
    assert_eq!(late.ask("GET", "/v2/keys/a", "").json()["node"]["value"], "1");

    // Too late, and told to exit.
    let exits = Home::new("exits", scratch).ringd(&["--discovery", &token, "--discovery-fallback", "exit"]);
    assert!(ended(exits, 1).contains("failed to join discovery cluster (discovery: cluster is full)"));

    // A member that comes back does not ask the service again.
    servers.remove(0).kill();
    let server = homes[0].ringd(&["--discovery", &token]);
    homes[0].wait_until_served(&server);
    assert!(server.stderr().contains("discovery token ignored since a cluster has already been initialized"));
    server.kill();
    // One that comes back without its data is refused, for it would forget what it promised.
    std::fs::remove_dir_all(&homes[0].dir).expect("a directory");
    let log = ended(homes[0].ringd(&["--discovery", &token]), 1);
    assert!(log.contains("has previously registered with discovery service token"), "{log}");
    assert!(!homes[0].dir.join("member").exists());
}

#[test]
fn three_members_meet_at_a_ringd() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    a_cluster_is_found_by(&Service::ringd(scratch.path()), scratch.path());
}

#[test]
fn three_members_meet_at_an_etcd() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    match Service::etcd(scratch.path()) {
        Some(service) => a_cluster_is_found_by(&service, scratch.path()),
        None => skip("discovery at an etcd", "there is no etcd 3.4 in PATH"),
    }
}

#[test]
fn two_etcds_meet_at_a_ringd() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let Some(program) = etcd_program() else {
        skip("etcds that meet at a ringd", "there is no etcd 3.4 in PATH");
        return;
    };
    let service = Service::ringd(scratch.path());
    let token = service.token("etcds", "2");
    let homes: Vec<Home> = ["a", "b"].iter().map(|name| Home::new(name, scratch.path())).collect();
    let servers: Vec<Server> = homes.iter().map(|home| home.etcd(&program, &["--discovery", &token])).collect();
    homes.iter().zip(&servers).for_each(|(home, server)| home.wait_until_served(server));
    // One of ours that comes too late becomes a proxy of theirs.
    let late = Home::new("late", scratch.path());
    let server = late.ringd(&["--discovery", &token]);
    late.wait_until_served(&server);
    assert_eq!(late.ask("PUT", "/v2/keys/a", "value=1").status, 201);
    assert_eq!(homes[1].ask("GET", "/v2/keys/a?quorum=true", "").json()["node"]["value"], "1");
}

#[test]
fn tokens_that_lead_nowhere_end_the_process_with_etcds_words() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let service = Service::ringd(scratch.path());
    let refused = |name: &str, token: &str, extra: &[&str], text: &str| {
        let home = Home::new(name, scratch.path());
        let log = ended(home.ringd(&[&["--discovery", token], extra].concat()), 1);
        assert!(log.contains(text), "{text}: {log}");
        assert!(!home.dir.join("member").exists(), "nothing is kept of a failed discovery");
    };
    let nosuch = format!("{}/v2/keys/nosuch", service.home.client_url());
    refused("nosuch", &nosuch, &[], "failed to join discovery cluster (100: Key not found (/nosuch)");
    refused("bad", &service.token("bad", "x"), &[], "(discovery: size key is bad)");
    let no_keys = format!("{}/tok", service.home.client_url());
    refused("page", &no_keys, &[], "(discovery: bad discovery endpoint)");
    let one = service.token("one", "2");
    let existing = ["--initial-cluster-state", "existing"];
    refused("existing", &one, &existing, "discovery URL should not be set when joining existing initial cluster");
    let other = service.home.ask("PUT", "/v2/keys/_etcd/registry/one/abc", "value=double=http://127.0.0.1:9");
    assert_eq!(other.status, 201);
    refused("double", &one, &[], "member with duplicated name has registered");
    let garbled = service.token("garbled", "2");
    let other = service.home.ask("PUT", "/v2/keys/_etcd/registry/garbled/abc", "value=nourl");
    assert_eq!(other.status, 201);
    refused("urls", &garbled, &[], "(discovery: invalid URL)");
}

#[test]
fn a_service_that_comes_late_is_waited_for() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let service = Home::new("service", scratch.path());
    let member = Home::new("m", scratch.path());
    let token = format!("{}/v2/keys/late", service.client_url());
    let waiting = member.ringd(&["--discovery", &token]);
    wait_for_line(&waiting, "discovery: cluster status check: error connecting to");
    let server = service.ringd(&["--initial-cluster", &format!("service={}", service.peer_url())]);
    wait_for("the service", || {
        service.request("PUT", "/v2/keys/late/_config/size", "value=1").filter(|a| a.status < 300)
    });
    member.wait_until_served(&waiting);
    server.kill();
}

#[test]
fn a_stop_signal_ends_the_wait_for_others() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let service = Service::ringd(scratch.path());
    let mut waiting = Home::new("m", scratch.path()).ringd(&["--discovery", &service.token("lonely", "3")]);
    wait_for_line(&waiting, "found 1 peer(s), waiting for 2 more");
    waiting.signal(15);
    waiting.wait(PATIENCE);
}

#[test]
fn a_proxy_on_the_way_is_told_the_whole_url() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("an address");
    let heard = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a head");
            head.push(byte[0]);
        }
        let body = r#"{"errorCode":100,"message":"Key not found","cause":"/tok","index":7}"#;
        let answer = format!("HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).expect("an answer");
        String::from_utf8_lossy(&head).into_owned()
    });
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let flags = ["--discovery", "http://discovery.invalid/v2/keys/tok", "--discovery-proxy", &address.to_string()];
    let log = ended(Home::new("m", scratch.path()).ringd(&flags), 1);
    assert!(log.contains(&format!("using proxy \"http://{address}\"")), "{log}");
    assert!(log.contains("(100: Key not found (/tok) [7])"), "{log}");
    let head = heard.join().expect("the proxy heard something");
    let wanted = "GET http://discovery.invalid:80/v2/keys/tok/_config/size?quorum=true HTTP/1.1\r\nHost: discovery.invalid:80\r\n";
    assert!(head.starts_with(wanted), "{head}");
}

#[test]
fn a_domain_names_its_members() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let homes: Vec<Home> = ["a", "b", "c"].iter().map(|name| Home::new(name, scratch.path())).collect();
    let ports: Vec<u16> = homes.iter().map(|home| home.peer).collect();
    let dns = dns::Dns::start("_etcd-server-blue._tcp.ring.test", "localhost", &ports);
    let server = dns.address.to_string();
    let flags = ["--discovery-srv", "ring.test", "--discovery-srv-name", "blue", "--ringd-dns-server", &server];
    let servers: Vec<Server> = homes.iter().map(|home| home.ringd(&flags)).collect();
    for (home, server) in homes.iter().zip(&servers) {
        home.wait_until_served(server);
        assert!(server.stderr().contains("got bootstrap from DNS for etcd-server at "), "{}", server.stderr());
    }
    assert_eq!(homes[0].ask("PUT", "/v2/keys/a", "value=1").status, 201);
    let members = homes[1].ask("GET", "/v2/members", "").json();
    let mut names: Vec<&str> =
        members["members"].as_array().expect("a list").iter().filter_map(|member| member["name"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b", "c"]);
    // A proxy need not be in the records.
    let proxy = Home::new("proxy", scratch.path());
    let server = proxy.ringd(&[&flags[..], &["--proxy", "on"]].concat());
    proxy.wait_until_served(&server);
    assert_eq!(proxy.ask("GET", "/v2/keys/a?quorum=true", "").json()["node"]["value"], "1");
    // A member must.
    let stranger = ended(Home::new("stranger", scratch.path()).ringd(&flags), 1);
    assert!(stranger.contains("cannot find local etcd member \"stranger\" in SRV records"), "{stranger}");
    let nowhere = ["--discovery-srv", "other.test", "--ringd-dns-server", &dns.address.to_string()];
    let lost = ended(Home::new("lost", scratch.path()).ringd(&nowhere), 1);
    assert!(lost.contains("error querying DNS SRV records for _etcd-server "), "{lost}");
}
