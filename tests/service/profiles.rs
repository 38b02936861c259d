//! Profiles of a running server.

use std::io::Read as _;
use std::time::{Duration, Instant};

use crate::support::{Client, Site};

/// Go's words for a second profile.
const BUSY: &[u8] = b"Could not enable CPU profiling: cpu profiling already in use\n";
/// Samples come with processor time, of which a loaded machine may give little: that often it is asked again.
const TRIES: usize = 5;

#[test]
fn profiles_are_served_when_asked_for() {
    let site = Site::new();
    let server = site.start();
    let mut client = Client::open(site.client_port).expect("a connection");
    for path in ["/debug/pprof/", "/debug/pprof/profile?seconds=1", "/debug/pprof/cmdline"] {
        assert_eq!(client.request("GET", path, "").expect("an answer").status, 404, "{path}");
    }
    drop(server);
}

/// Keeps the server busy while one profile is taken.
fn profile(site: &Site, query: &str) -> (u16, Vec<u8>) {
    let mut asking = Client::open(site.client_port).expect("a connection");
    asking
        .send(format!("GET /debug/pprof/profile?{query} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
        .expect("it is sent");
    let profiled = std::thread::spawn(move || asking.receive(false).expect("an answer"));
    let mut client = Client::open(site.client_port).expect("a connection");
    let mut served = 0;
    while !profiled.is_finished() {
        assert_eq!(client.request("GET", "/v2/keys/", "").expect("an answer").status, 200);
        assert_eq!(client.request("PUT", "/v2/keys/a", "value=1").expect("an answer").status / 100, 2);
        served += 1;
    }
    assert!(served > 0, "the loop went on");
    let answer = profiled.join().expect("a profile");
    (answer.status, answer.body)
}

#[test]
fn a_profile_names_what_the_server_does() {
    let mut site = Site::new();
    site.extra.push("--enable-pprof".to_owned());
    let server = site.start();
    let mut client = Client::open(site.client_port).expect("a connection");
    let index = client.request("GET", "/debug/pprof/", "").expect("an answer");
    assert!(index.status == 200 && String::from_utf8_lossy(&index.body).contains("profile?seconds="));
    let words = client.request("GET", "/debug/pprof/cmdline", "").expect("an answer").body;
    assert!(words.split(|&byte| byte == 0).any(|word| word == b"--enable-pprof"));
    assert_eq!(client.request("GET", "/debug/pprof/heap", "").expect("an answer").status, 404);
    assert_eq!(client.request("GET", "/debug/pprof/profile?seconds=301", "").expect("an answer").status, 400);

    let folded = (0..TRIES).find_map(|_| {
        let (status, body) = profile(&site, "seconds=1&debug=1");
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        let text = String::from_utf8(body).expect("UTF-8");
        text.contains("ringd::shell::").then_some(text)
    });
    let folded = folded.expect("the server's own functions are named");
    assert!(folded.lines().all(|line| line.rsplit(' ').next().is_some_and(|count| count.parse::<u64>().is_ok())));

    let (status, packed) = profile(&site, "seconds=1");
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&packed));
    let mut raw = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut raw).expect("it is packed as Go packs it");
    let contains = |what: &[u8]| raw.windows(what.len()).any(|window| window == what);
    assert!(contains(b"nanoseconds") && contains(b"samples"), "a profile has units");
    drop(server);
}

#[test]
fn one_profile_at_a_time_and_none_outlives_its_client() {
    let mut site = Site::new();
    site.extra.push("--enable-pprof".to_owned());
    let server = site.start();
    let request = b"GET /debug/pprof/profile?seconds=300 HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut first = Client::open(site.client_port).expect("a connection");
    first.send(request).expect("it is sent");
    let begun = Instant::now();
    while !server.stderr().contains("taking a profile") {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", server.stderr());
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut second = Client::open(site.client_port).expect("a connection");
    let refused = second.request("GET", "/debug/pprof/profile?seconds=1", "").expect("an answer");
    assert_eq!((refused.status, &refused.body[..]), (500, BUSY));
    drop(first);
    let begun = Instant::now();
    while second.request("GET", "/debug/pprof/profile?seconds=1", "").expect("an answer").status != 200 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", server.stderr());
    }
}

/// A stop does not wait for a profile.
#[test]
fn a_stop_ends_a_profile() {
    let mut site = Site::new();
    site.extra.push("--enable-pprof".to_owned());
    let mut server = site.start();
    let mut client = Client::open(site.client_port).expect("a connection");
    client.send(b"GET /debug/pprof/profile?seconds=300 HTTP/1.1\r\nHost: x\r\n\r\n").expect("it is sent");
    while !server.stderr().contains("taking a profile") {
        assert!(!server.has_ended());
        std::thread::sleep(Duration::from_millis(10));
    }
    server.signal(15);
    server.wait(Duration::from_secs(60));
    assert!(server.stderr().contains("stopped"), "{}", server.stderr());
}
