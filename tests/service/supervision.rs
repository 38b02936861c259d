//! What the server tells systemd, read from a socket of the test's own.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use crate::support::{Server, Site, free_port, wait_for};

/// The longest that anything may take which must happen at all.
const PATIENCE: Duration = Duration::from_secs(60);
/// Two seconds: a word that it lives is due every second.
const WATCHDOG_USEC: &str = "2000000";
const SIGTERM: i32 = 15;

/// A server that is told of a supervisor.
fn supervised(site: &Site, watchdog: bool) -> (Server, UnixDatagram, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let mut command = site.command();
    command.env("NOTIFY_SOCKET", &path).env_remove("WATCHDOG_PID").env_remove("WATCHDOG_USEC");
    if watchdog {
        command.env("WATCHDOG_USEC", WATCHDOG_USEC);
    }
    (Server::spawn(command), socket, dir)
}

/// Waits for a message with this line; what came before it.
fn until(socket: &UnixDatagram, line: &str) -> Vec<String> {
    let begun = Instant::now();
    let mut before = Vec::new();
    loop {
        assert!(begun.elapsed() < PATIENCE, "no {line} but {before:?}");
        let mut bytes = [0; 4096];
        let length = socket.recv(&mut bytes).unwrap_or_else(|error| panic!("no {line} but {before:?}: {error}"));
        let message = String::from_utf8_lossy(&bytes[..length]).into_owned();
        if message.lines().any(|found| found == line) {
            return before;
        }
        before.push(message);
    }
}

#[test]
fn it_is_ready_when_it_serves_and_says_that_it_lives_and_that_it_stops() {
    let site = Site::new();
    let (mut server, socket, _dir) = supervised(&site, true);
    let before = until(&socket, "READY=1");
    wait_for("the line that says so", || server.stderr().contains("ready to serve client requests").then_some(()));
    assert!(before.iter().any(|message| message.contains("EXTEND_TIMEOUT_USEC=")), "{before:?}");
    for _ in 0..2 {
        until(&socket, "WATCHDOG=1");
    }
    // A loop that hangs says nothing: a stopped process stands in for one.
    server.signal(19);
    socket.set_nonblocking(true).expect("a mode");
    while socket.recv(&mut [0; 4096]).is_ok() {}
    socket.set_nonblocking(false).expect("a mode");
    socket.set_read_timeout(Some(Duration::from_secs(3))).expect("a limit");
    assert!(socket.recv(&mut [0; 4096]).is_err(), "it is the process itself that says that it lives");
    socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
    server.signal(18);
    until(&socket, "WATCHDOG=1");
    server.signal(SIGTERM);
    until(&socket, "STOPPING=1");
    server.wait(PATIENCE);
}

#[test]
fn one_that_waits_for_its_cluster_is_not_ready_and_asks_for_time() {
    let mut site = Site::new();
    let peer = format!("default=http://127.0.0.1:{}", site.peer_port);
    site.extra.push(format!("--initial-cluster={peer},other=http://127.0.0.1:{}", free_port()));
    let (server, socket, _dir) = supervised(&site, false);
    let before = until(&socket, "STATUS=waiting for the cluster");
    assert!(!before.iter().any(|message| message.contains("READY=1")), "{before:?}");
    drop(server);
}
