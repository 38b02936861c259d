//! What operators and their programs read of a running node: start-up lines, `/metrics`, statistics, the log level.
//!
//! Starts servers of its own on loopback. The shapes that etcd has are checked by the conformance cases; here is what
//! has to agree with what the node did.

#![allow(clippy::disallowed_methods, reason = "a test of real processes measures real time")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[path = "service/monitors.rs"]
mod monitors;
#[path = "service/profiles.rs"]
mod profiles;
#[path = "service/supervision.rs"]
mod supervision;
#[path = "support/mod.rs"]
mod support;

use support::{Client, Server, Site};

const STOP_LIMIT: Duration = Duration::from_secs(20);
const SIGTERM: i32 = 15;

fn get(site: &Site, path: &str) -> support::Answer {
    Client::open(site.client_port).and_then(|mut client| client.request("GET", path, "")).expect("an answer")
}

fn set_level(site: &Site, level: &str) -> u16 {
    let body = format!("{{\"Level\":\"{level}\"}}");
    let mut client = Client::open(site.client_port).expect("a connection");
    client.request("PUT", "/config/local/log", &body).expect("an answer").status
}

/// Every sample by its name with labels; checks the text's own rules on the way.
fn samples(site: &Site) -> BTreeMap<String, f64> {
    let text = String::from_utf8(get(site, "/metrics").body).expect("UTF-8");
    let mut types = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut samples = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            assert!(helped.insert(rest.split(' ').next().expect("a name").to_owned()), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("name and type");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
        } else {
            let (name, value) = line.rsplit_once(' ').expect("name and value");
            let bare = name.split('{').next().expect("a name");
            let declared = types.get(bare).map(String::as_str);
            let of_histogram = ["_bucket", "_sum", "_count"].iter().any(|suffix| {
                bare.strip_suffix(suffix).and_then(|family| types.get(family)).is_some_and(|kind| kind == "histogram")
            });
            assert!(declared.is_some_and(|kind| kind != "histogram") || of_histogram, "not declared: {line}");
            let value: f64 = value.parse().expect("a number");
            assert!(samples.insert(name.to_owned(), value).is_none(), "twice: {line}");
        }
    }
    assert!(types.keys().all(|name| helped.contains(name)), "every metric has a help");
    samples
}

/// Ends it by SIGTERM and returns its log.
fn stop(mut server: Server) -> String {
    server.signal(SIGTERM);
    server.wait(STOP_LIMIT);
    server.stderr()
}

#[test]
fn a_start_says_what_harnesses_wait_for() {
    let site = Site::new();
    let log = stop(site.start());
    let url = format!("http://127.0.0.1:{}", site.client_port);
    let published = log.lines().find(|line| line.contains("published")).expect("a line about publication");
    assert!(published.contains("Name:default") && published.contains(&url), "{published}");
    for phrase in ["enabled capabilities for version 3.4", "ready to serve client requests", "stopped"] {
        assert!(log.contains(phrase), "{phrase}: {log}");
    }
}

#[test]
fn an_addition_that_would_cost_the_quorum_says_so_in_the_log() {
    let site = Site::new();
    let server = site.start();
    let add = |port: u16| {
        let body = format!("{{\"peerURLs\":[\"http://127.0.0.1:{port}\"]}}");
        let mut client = Client::open(site.client_port).expect("a connection");
        let request = format!(
            "POST /v2/members HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        client.send(request.as_bytes()).expect("it is sent");
        client.receive(false).expect("an answer").status
    };
    assert_eq!(add(1), 201, "a cluster of one grows");
    assert_eq!(add(2), 500, "the second member has not started");
    // Lines are written by a thread of their own, a moment later; a stop waits for it.
    let log = stop(server);
    let sentence = "re-configuration failed due to not enough started members";
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains(sentence)), "{log}");
}

#[test]
fn metrics_count_what_happens() {
    let site = Site::new();
    let server = site.start();
    let before = samples(&site);
    let mut client = Client::open(site.client_port).expect("a connection");
    for round in 0..3 {
        assert!(client.request("PUT", "/v2/keys/a", &format!("value={round}")).expect("an answer").status < 300);
    }
    assert_eq!(client.request("GET", "/v2/keys/a", "").expect("an answer").status, 200);
    assert_eq!(client.request("GET", "/v2/keys/a?quorum=true", "").expect("an answer").status, 200);
    assert_eq!(client.request("GET", "/v2/keys/none", "").expect("an answer").status, 404);
    assert_eq!(client.request("DELETE", "/v2/keys/none", "").expect("an answer").status, 404);
    assert_eq!(get(&site, "/health").json()["health"], "true");
    let after = samples(&site);
    let grown = |name: &str| after.get(name).unwrap_or(&0.0) - before.get(name).unwrap_or(&0.0);
    for (name, by) in [
        ("etcd_http_received_total{method=\"PUT\"}", 3.0),
        ("etcd_http_received_total{method=\"GET\"}", 2.0),
        ("etcd_http_received_total{method=\"QGET\"}", 1.0),
        ("etcd_http_failed_total{code=\"404\",method=\"GET\"}", 1.0),
        ("etcd_http_failed_total{code=\"404\",method=\"DELETE\"}", 1.0),
        ("etcd_http_successful_duration_seconds_count{method=\"PUT\"}", 3.0),
        ("etcd_http_successful_duration_seconds_count{method=\"GET\"}", 1.0),
        ("etcd_http_successful_duration_seconds_count{method=\"QGET\"}", 1.0),
        ("etcd_debugging_store_writes_total{action=\"set\"}", 3.0),
        ("etcd_debugging_store_writes_failed_total{action=\"delete\"}", 1.0),
        ("etcd_server_health_success", 1.0),
        ("etcd_server_proposals_failed_total", 0.0),
        ("ringd_store_nodes", 1.0),
        ("ringd_store_index", 3.0),
    ] {
        assert!((grown(name) - by).abs() < 0.5, "{name} grew by {}, not {by}", grown(name));
    }
    for name in [
        "etcd_disk_wal_fsync_duration_seconds_count",
        "etcd_disk_wal_write_bytes_total",
        "etcd_network_client_grpc_received_bytes_total",
        "etcd_network_client_grpc_sent_bytes_total",
        "ringd_sync_duration_seconds_count",
        "ringd_batch_entries_count",
        "ringd_loop_stall_seconds_count",
        "ringd_connections_accepted_total",
    ] {
        assert!(grown(name) > 0.0, "{name} did not grow");
    }
    for name in ["process_resident_memory_bytes", "process_max_fds", "ringd_ready_seconds", "ringd_connections"] {
        assert!(after[name] > 0.0, "{name}");
    }
    let longest = after["ringd_loop_stall_longest_seconds{step=\"turn\"}"];
    assert!(longest > 0.0 && longest <= after["ringd_loop_stall_recent_seconds"] + 1e-9, "{longest}");
    for (name, value) in [
        ("etcd_server_has_leader", 1.0),
        ("etcd_server_is_leader", 1.0),
        ("etcd_server_is_learner", 0.0),
        ("etcd_server_leader_changes_seen_total", 1.0),
        ("etcd_server_version{server_version=\"3.4.23\"}", 1.0),
        ("etcd_cluster_version{cluster_version=\"3.4\"}", 1.0),
    ] {
        assert!(after.get(name).is_some_and(|found| (found - value).abs() < 0.5), "{name}: {:?}", after.get(name));
    }
    drop(server);
}

#[test]
fn the_log_level_changes_while_it_runs() {
    let site = Site::new();
    let server = site.start();
    assert_eq!(set_level(&site, "ERROR"), 204);
    assert_eq!(set_level(&site, "LOUD"), 400);
    let quiet = stop(server);
    assert!(quiet.contains("ready to serve") && !quiet.contains("stopped"), "{quiet}");

    let server = site.start();
    assert_eq!(set_level(&site, "critical"), 204);
    assert_eq!(set_level(&site, "debug"), 204);
    let loud = stop(server);
    assert!(loud.contains("log level is Debug") && loud.contains("stopped"), "{loud}");
}

#[test]
fn a_peer_listener_answers_without_browsers_lines() {
    let site = Site::new();
    let server = site.start();
    let mut peer = Client::open(site.peer_port).expect("a connection");
    let health = peer.request("GET", "/health", "").expect("an answer");
    assert_eq!((health.status, health.header("access-control-allow-origin")), (200, None));
    assert_eq!(peer.request("GET", "/metrics", "").expect("an answer").status, 200);
    let members = peer.request("GET", "/members", "").expect("an answer");
    assert_eq!((members.status, members.json()[0]["name"].as_str()), (200, Some("default")));
    assert_eq!(peer.request("GET", "/v2/keys/", "").expect("an answer").status, 404);
    assert_eq!(get(&site, "/health").header("access-control-allow-origin"), Some("*"));
    drop(server);
}

#[test]
fn a_health_check_may_ask_this_member_alone() {
    let site = Site::new();
    let server = site.start();
    for query in ["", "?serializable=true", "?exclude=NOSPACE"] {
        let health = get(&site, &format!("/health{query}"));
        assert_eq!((health.status, &health.body[..]), (200, &b"{\"health\":\"true\"}"[..]), "{query}");
    }
    drop(server);
}
