//! TLS as clients and members meet it: who is let in, who is refused and in which words, and what changes while it runs.
//!
//! Must hold: every certificate is made by the test; every refusal is looked for in the log, so that a refusal for
//! another reason does not count.
#![allow(clippy::disallowed_methods, reason = "tests measure real time")]

mod authority;
mod members;
mod proxy;
mod raw;
mod readme;
mod refusals;
mod service;
#[path = "../support/mod.rs"]
mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use authority::{Files, Wanted};
use ringd_client::{Client, GetOptions, Options, SetOptions, Tls};
use support::{Server, Site, free_port};

/// The longest that anything may take which must happen at all.
const PATIENCE: Duration = Duration::from_secs(90);

fn wait_for<T>(what: impl Fn() -> String, mut ready: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {}", what());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A member with TLS listeners: client URLs `https` (and `http` on another port), flags as given.
struct Member {
    server: Server,
    secure: u16,
    plain: u16,
    site: Site,
}

fn member(flags: &[String]) -> Member {
    let mut site = Site::new();
    let (secure, plain) = (free_port(), site.client_port);
    // The last of two flags counts.
    site.extra = vec!["--listen-client-urls".to_owned()];
    site.extra.push(format!("http://127.0.0.1:{plain},https://127.0.0.1:{secure}"));
    site.extra.extend(flags.iter().cloned());
    Member { server: site.start(), secure, plain, site }
}

fn certificate_flags(files: &Files, prefix: &str, name: &str) -> Vec<String> {
    let text = |ending: &str| files.text(&format!("{name}.{ending}"));
    vec![format!("--{prefix}cert-file={}", text("crt")), format!("--{prefix}key-file={}", text("key"))]
}

fn mutual_flags(files: &Files, prefix: &str, name: &str) -> Vec<String> {
    let mut flags = certificate_flags(files, prefix, name);
    flags.push(format!("--{prefix}client-cert-auth"));
    flags.push(format!("--{prefix}trusted-ca-file={}", files.text("ca.crt")));
    flags.push(format!("--{}crl-file={}", if prefix.is_empty() { "client-" } else { prefix }, files.text("crl.pem")));
    flags
}

fn tls(files: &Files, identity: Option<&str>, ca: &str) -> Tls {
    let path = |ending: &str| identity.map(|name| files.path(&format!("{name}.{ending}")));
    Tls::load(path("crt").as_deref(), path("key").as_deref(), Some(&files.path(ca))).expect("readable files")
}

fn client(port: u16, tls: Tls) -> Client {
    let patient = Duration::from_secs(20);
    let options = Options { request_timeout: patient, total_timeout: Some(patient), credentials: None, tls };
    Client::new(vec![format!("https://127.0.0.1:{port}").parse().expect("an endpoint")], options)
}

#[test]
fn clients_with_good_certificates_are_served() {
    let files = Files::new();
    let member = member(&mutual_flags(&files, "", "good"));
    let mut good = client(member.secure, tls(&files, Some("good"), "ca.crt"));
    let large = "x".repeat(300_000);
    for round in 0..3 {
        good.set("/a", &format!("{round}{large}"), &SetOptions::default()).expect("a good certificate");
        let got = good.get("/a", GetOptions::default()).expect("on the same connection");
        assert_eq!(got.node.map(|node| node.value), Some(format!("{round}{large}")));
    }
}

#[test]
fn http_and_https_are_served_side_by_side_and_plain_http_on_a_tls_port_is_told_so() {
    let files = Files::new();
    let member = member(&certificate_flags(&files, "", "good"));
    let mut secure = client(member.secure, tls(&files, None, "ca.crt"));
    secure.set("/a", "1", &SetOptions::default()).expect("no certificate is asked for");
    let mut plain = support::Client::open(member.plain).expect("the plain listener");
    assert_eq!(plain.request("GET", "/v2/keys/a", "").expect("an answer").json()["node"]["value"], "1");

    let mut wrong = TcpStream::connect(("127.0.0.1", member.secure)).expect("the TLS listener");
    wrong.write_all(b"GET /v2/keys/a HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    let mut answer = String::new();
    wrong.read_to_string(&mut answer).expect("an answer, then the end");
    assert!(answer.starts_with("HTTP/1.0 400 Bad Request\r\n"), "{answer}");
    assert!(answer.ends_with("Client sent an HTTP request to an HTTPS server.\n"), "{answer}");
    let words = "first record does not look like a TLS handshake";
    wait_for(|| member.server.stderr(), || member.server.stderr().contains(words).then_some(()));
}

#[test]
fn one_port_may_speak_both() {
    let files = Files::new();
    let mut site = Site::new();
    let port = site.client_port;
    site.extra = certificate_flags(&files, "", "good");
    site.extra.push(format!("--listen-client-urls=http://127.0.0.1:{port},https://127.0.0.1:{port}"));
    let _server = site.start();
    client(port, tls(&files, None, "ca.crt")).set("/a", "1", &SetOptions::default()).expect("TLS");
    let mut plain = support::Client::open(port).expect("the same port");
    assert_eq!(plain.request("GET", "/v2/keys/a", "").expect("an answer").status, 200);
}

#[test]
fn certificates_and_revocations_are_read_again_while_clients_are_served() {
    let files = Files::new();
    files.ours.issue(&files.path("changing"), &Wanted { serial: 20, ..Wanted::default() });
    let mut flags = mutual_flags(&files, "", "changing");
    flags.push("--log-level=info".to_owned());
    let member = member(&flags);
    let mut lasting = client(member.secure, tls(&files, Some("good"), "ca.crt"));
    lasting.set("/a", "1", &SetOptions::default()).expect("the first certificate");
    // A certificate without its key changes nothing.
    std::fs::write(files.path("changing.crt"), std::fs::read(files.path("good.crt")).unwrap()).unwrap();
    wait_for(|| member.server.stderr(), || member.server.stderr().contains("the old ones stay").then_some(()));
    client(member.secure, tls(&files, Some("good"), "ca.crt")).get("/a", GetOptions::default()).expect("the old one");
    // Another authority's certificate: who believes only the first no longer connects, who is connected stays.
    let next = authority::Authority::new("next");
    next.publish(&files.path("next-ca.crt"));
    next.issue(&files.path("changing"), &Wanted::default());
    wait_for(
        || format!("the next certificate: {}", member.server.stderr()),
        || {
            lasting.get("/a", GetOptions::default()).expect("service goes on");
            client(member.secure, tls(&files, Some("good"), "next-ca.crt")).get("/a", GetOptions::default()).ok()
        },
    );
    files.ours.revoke(&files.path("crl.pem"), &[1, 3]);
    wait_for(
        || format!("the revocation: {}", member.server.stderr()),
        || client(member.secure, tls(&files, Some("good"), "next-ca.crt")).get("/a", GetOptions::default()).err(),
    );
    let words = "transport: certificate serial 01 revoked";
    wait_for(|| member.server.stderr(), || member.server.stderr().contains(words).then_some(()));
}

#[test]
fn a_certificate_of_its_own_making_is_kept() {
    let member = member(&["--auto-tls".to_owned()]);
    let made = member.site.data_dir.join("fixtures/client/cert.pem");
    let tls = Tls::load(None, None, Some(&made)).expect("the certificate that was made");
    client(member.secure, tls).set("/a", "1", &SetOptions::default()).expect("it is for 127.0.0.1");
}

#[test]
fn the_common_name_is_the_user_where_certificates_are_asked_for() {
    let files = Files::new();
    files.ours.issue(&files.path("writer"), &Wanted { cn: "writer", serial: 30, ..Wanted::default() });
    files.ours.issue(&files.path("root"), &Wanted { cn: "root", serial: 31, ..Wanted::default() });
    let member = member(&mutual_flags(&files, "", "good"));
    let mut plain = support::Client::open(member.plain).expect("the plain listener");
    let mut ask = |method: &str, path: &str, body: &str| {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic cm9vdDpy\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        plain.send(head.as_bytes()).expect("sent");
        plain.receive(false).expect("an answer").status
    };
    assert_eq!(ask("PUT", "/v2/auth/users/root", r#"{"user":"root","password":"r"}"#), 201);
    let role = r#"{"role":"w","permissions":{"kv":{"read":["/w/*"],"write":["/w/*"]}}}"#;
    let status = ask("PUT", "/v2/auth/roles/w", role);
    assert!(status == 200 || status == 201, "{status}");
    let status = ask("PUT", "/v2/auth/users/writer", r#"{"user":"writer","password":"x","roles":["w"]}"#);
    assert!(status == 200 || status == 201, "{status}");
    assert_eq!(ask("PUT", "/v2/auth/enable", ""), 200);
    assert_eq!(ask("DELETE", "/v2/auth/roles/guest", ""), 200);
    let set = |name: &str, key: &str| {
        client(member.secure, tls(&files, Some(name), "ca.crt")).set(key, "1", &SetOptions::default())
    };
    set("writer", "/w/a").expect("the writer's own");
    assert!(set("writer", "/b").is_err(), "not the writer's");
    set("root", "/b").expect("root may do all");
    assert!(set("good", "/w/a").is_err(), "no user has this name");
}

/// Three members over `https` peer URLs, each with flags of its own.
fn cluster_of(flags: impl Fn(usize) -> Vec<String>) -> Vec<(Site, Server)> {
    let sites: Vec<Site> = (0..3).map(|_| Site::new()).collect();
    let peer = |site: &Site| format!("https://127.0.0.1:{}", site.peer_port);
    let initial: Vec<_> = sites.iter().enumerate().map(|(n, site)| format!("m{n}={}", peer(site))).collect();
    let started = sites.into_iter().enumerate().map(|(n, mut site)| {
        site.extra = flags(n);
        site.extra.extend([format!("--name=m{n}"), format!("--initial-cluster={}", initial.join(","))]);
        site.extra.extend([
            format!("--listen-peer-urls={}", peer(&site)),
            format!("--initial-advertise-peer-urls={}", peer(&site)),
        ]);
        let server = site.spawn();
        (site, server)
    });
    started.collect()
}

/// Three members; each shows the certificate named for it.
fn cluster(files: &Files, names: [&str; 3], rules: &[String]) -> Vec<(Site, Server)> {
    cluster_of(|n| [mutual_flags(files, "peer-", names[n]), rules.to_vec()].concat())
}

fn logs(members: &[(Site, Server)]) -> String {
    members.iter().map(|(_, server)| server.stderr()).collect::<Vec<_>>().join("\n---\n")
}

fn put(site: &Site) -> Option<()> {
    // A member that is kept out does not answer; the others do so soon, or when they are asked again.
    let address = ([127, 0, 0, 1], site.client_port).into();
    let mut client = support::Client::connect(address, Duration::from_secs(3)).ok()?;
    let status = client.request("PUT", "/v2/keys/a", "value=1").ok()?.status;
    (status == 200 || status == 201).then_some(())
}

#[test]
fn members_with_good_certificates_make_a_cluster() {
    let files = Files::new();
    let rules = ["--peer-cert-allowed-cn=ringd".to_owned()];
    let members = cluster(&files, ["good", "good", "good"], &rules);
    for (site, _) in &members {
        wait_for(|| logs(&members), || put(site));
    }
}
