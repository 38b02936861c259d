//! Listeners for metrics and health, and the probes on every port.

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::{Answer, Client, Server, Site, free_port};

/// The longest that anything may take which must happen at all.
const PATIENCE: Duration = Duration::from_secs(60);

fn ask(port: u16, path: &str) -> Answer {
    Client::open(port).and_then(|mut client| client.request("GET", path, "")).expect("an answer")
}

fn text(answer: &Answer) -> String {
    String::from_utf8(answer.body.clone()).expect("UTF-8")
}

/// A site with two listeners for monitors.
fn watched() -> (Site, [u16; 2]) {
    let mut site = Site::new();
    let ports = [free_port(), free_port()];
    site.extra.push(format!("--listen-metrics-urls=http://127.0.0.1:{},http://127.0.0.1:{}", ports[0], ports[1]));
    (site, ports)
}

#[test]
fn a_monitors_port_serves_metrics_and_health_only() {
    let (site, ports) = watched();
    let server = site.start();
    for port in ports {
        assert!(text(&ask(port, "/metrics")).contains("etcd_server_has_leader 1\n"));
        let health = ask(port, "/health");
        assert_eq!((health.status, text(&health).as_str()), (200, "{\"health\":\"true\"}"));
        assert_eq!(health.header("access-control-allow-origin"), None);
        for path in ["/livez", "/readyz"] {
            assert_eq!((ask(port, path).status, text(&ask(port, path)).as_str()), (200, "ok\n"), "{path}");
        }
        for path in ["/v2/keys/", "/version", "/members", "/debug/vars", "/v2/stats/self", "/debug/pprof/", "/"] {
            assert_eq!(ask(port, path).status, 404, "{path}");
        }
    }
    assert!(server.stderr().contains("listening for metrics on"), "{}", server.stderr());
}

#[test]
fn probes_answer_as_etcd_does_on_every_port() {
    let (site, [monitors, _]) = watched();
    let server = site.start();
    for port in [site.client_port, site.peer_port, monitors] {
        for (path, expected) in [
            ("/livez", "ok\n"),
            ("/livez?verbose", "[+]serializable_read ok\nok\n"),
            ("/livez/serializable_read", "ok\n"),
            ("/livez?verbose&exclude=serializable_read", "ok\n"),
            ("/readyz", "ok\n"),
            (
                "/readyz?verbose",
                "[+]data_corruption ok\n[+]serializable_read ok\n[+]non_learner ok\n[+]linearizable_read ok\nok\n",
            ),
            (
                "/readyz?verbose=&exclude=linearizable_read&exclude=data_corruption",
                "[+]serializable_read ok\n[+]non_learner ok\nok\n",
            ),
            ("/readyz/linearizable_read?verbose", "[+]linearizable_read ok\nok\n"),
        ] {
            let answer = ask(port, path);
            assert_eq!((answer.status, text(&answer).as_str()), (200, expected), "{path}");
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        }
        for path in ["/livez/linearizable_read", "/livez/nothing", "/livez/", "/readyz/NOSPACE"] {
            assert_eq!(ask(port, path).status, 404, "{path}");
        }
        let mut client = Client::open(port).expect("a connection");
        let refused = client.request("PUT", "/livez", "").expect("an answer");
        assert_eq!((refused.status, refused.header("allow")), (405, Some("GET")));
    }
    drop(server);
}

/// One of two members: it starts, and there is no quorum until the other does.
#[test]
fn without_a_quorum_it_lives_and_is_not_ready() {
    let (site, [monitors, _]) = watched();
    let mut command = site.command();
    let peer = format!("default=http://127.0.0.1:{}", site.peer_port);
    command.arg(format!("--initial-cluster={peer},other=http://127.0.0.1:{}", free_port()));
    let server = Server::spawn(command);
    let begun = std::time::Instant::now();
    let livez = loop {
        let address = SocketAddr::from(([127, 0, 0, 1], monitors));
        if let Ok(answer) = Client::connect(address, PATIENCE).and_then(|mut c| c.request("GET", "/livez", "")) {
            break answer;
        }
        assert!(begun.elapsed() < PATIENCE, "{}", server.stderr());
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!((livez.status, text(&livez).as_str()), (200, "ok\n"));
    let readyz = ask(monitors, "/readyz");
    let told = text(&readyz);
    assert_eq!(readyz.status, 503, "{told}");
    assert!(told.contains("[+]data_corruption ok\n"), "{told}");
    assert!(told.contains("[-]serializable_read failed: clients are not served yet\n"), "{told}");
    assert!(told.ends_with("[-]linearizable_read failed: no quorum answered in time\n\n"), "{told}");
    assert_eq!(ask(monitors, "/health").status, 503);
    assert_eq!(ask(monitors, "/health?serializable=true").status, 200);
}

#[test]
fn a_secure_monitors_port_speaks_no_plain_http() {
    let mut site = Site::new();
    let port = free_port();
    site.extra.extend(["--auto-tls".to_owned(), format!("--listen-metrics-urls=https://127.0.0.1:{port}")]);
    let server = site.start();
    let mut client = Client::open(port).expect("a connection");
    client.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("it is sent");
    let refused = client.receive(false).expect("an answer");
    assert_eq!(refused.status, 400, "{}", server.stderr());
}

#[test]
fn a_secure_monitors_port_needs_a_certificate() {
    let mut site = Site::new();
    let url = format!("https://127.0.0.1:{}", free_port());
    site.extra.push(format!("--listen-metrics-urls={url}"));
    let mut server = site.spawn();
    assert_eq!(server.wait(PATIENCE).code(), Some(1));
    assert!(server.stderr().contains(&format!("cannot listen on TLS for {url}")), "{}", server.stderr());
}
