//! The log: forms, places, levels, the words operators look for, and a reader that does not read.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Answer, Client, Server, Site, skip};

/// The longest that anything may take which must happen at all.
const PATIENCE: Duration = Duration::from_secs(90);
const SIGHUP: i32 = 1;
const SIGTERM: i32 = 15;
const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;
/// More lines than a pipe (64 KiB) and the queue of an output (4096 lines) hold together.
const LINES: usize = 8000;
/// Requests sent before their answers are read.
const PIPELINE: usize = 100;

pub fn get(site: &Site, path: &str) -> Answer {
    Client::open(site.client_port).and_then(|mut client| client.request("GET", path, "")).expect("an answer")
}

fn set_level(site: &Site, level: &str) {
    let body = format!("{{\"Level\":\"{level}\"}}");
    let mut client = Client::open(site.client_port).expect("a connection");
    assert_eq!(client.request("PUT", "/config/local/log", &body).expect("an answer").status, 204);
}

fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !ready() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn stop(mut server: Server) -> String {
    server.signal(SIGTERM);
    server.wait(PATIENCE);
    server.stderr()
}

#[test]
fn zap_is_json_with_etcds_names_in_every_place() {
    let mut site = Site::new();
    let scratch = tempfile::tempdir().expect("a directory");
    let file = scratch.path().join("ringd.log");
    site.extra = vec!["--logger=zap".into(), format!("--log-outputs=stderr,{}", file.display())];
    let log = stop(site.start());
    assert_eq!(std::fs::read_to_string(&file).expect("a log file"), log, "all places get the same");
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect();
    let form = regex::Regex::new(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$").expect("a pattern");
    for line in &lines {
        let keys: Vec<&String> = line.as_object().expect("an object").keys().collect();
        assert_eq!(keys[..4], ["level", "ts", "caller", "msg"], "{line}");
        assert!(form.is_match(line["ts"].as_str().expect("text")), "{line}");
        assert!(["debug", "info", "warn", "error"].contains(&line["level"].as_str().expect("text")), "{line}");
    }
    let ready = lines.iter().find(|line| line["msg"] == "ready to serve client requests").expect("it was ready");
    assert!(ready["milliseconds"].is_number() && ready["level"] == "info", "{ready}");
    let caller = ready["caller"].as_str().expect("text");
    assert!(caller.starts_with("shell/start.rs:"), "{caller}");
}

#[test]
fn capnslog_is_etcds_old_form() {
    let mut site = Site::new();
    site.extra = vec!["--logger=capnslog".into()];
    let log = stop(site.start());
    let form = regex::Regex::new(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6} [DIWE] \| \w+: .").expect("a pattern");
    assert!(log.lines().count() > 3 && log.lines().all(|line| form.is_match(line)), "{log}");
    assert!(log.contains(" I | start: ready to serve client requests milliseconds="), "{log}");
}

#[test]
fn packages_have_levels_until_one_is_set_for_all() {
    let mut site = Site::new();
    site.extra = vec!["--log-package-levels=*=ERROR,embed=INFO,nope=DEBUG".into()];
    let server = site.start();
    wait_for("the start", || server.stderr().contains("ready to serve"));
    assert!(!server.stderr().contains("became leader"), "{}", server.stderr());
    set_level(&site, "ERROR");
    assert!(!stop(server).contains("stopped"));

    let mut odd = Site::new();
    odd.extra = vec!["--log-package-levels=foo".into()];
    let log = stop(odd.start());
    let words =
        "couldn't parse log level string: oddly structured `pkg=level` option: foo, continuing with default levels";
    assert!(log.contains(words) && log.contains("became leader"), "{log}");
}

#[test]
fn a_file_that_was_moved_away_is_opened_again() {
    let mut site = Site::new();
    let scratch = tempfile::tempdir().expect("a directory");
    let (file, moved) = (scratch.path().join("log"), scratch.path().join("log.1"));
    site.extra = vec![format!("--log-outputs={}", file.display())];
    let server = site.start();
    wait_for("the first lines", || std::fs::read_to_string(&file).is_ok_and(|text| text.contains("ready to serve")));
    std::fs::rename(&file, &moved).expect("moved");
    server.signal(SIGHUP);
    // A signal is not waited for; the flag may be set a moment later.
    wait_for("lines in the new file", || {
        set_level(&site, "INFO");
        std::fs::read_to_string(&file).is_ok_and(|text| text.contains("log level is Info"))
    });
    assert_eq!(stop(server), "", "nothing goes to stderr");
    let rest = std::fs::read_to_string(&file).expect("the new file");
    assert!(rest.ends_with("stopped\n"), "{rest}");
    assert!(!std::fs::read_to_string(&moved).expect("the old file").contains("stopped"));
}

#[test]
fn a_place_that_cannot_be_opened_ends_the_start() {
    let mut site = Site::new();
    site.extra = vec!["--log-outputs=/nowhere/log".into()];
    let mut server = site.spawn();
    assert_eq!(server.wait(PATIENCE).code(), Some(1));
    assert!(server.stderr().contains("cannot log to /nowhere/log"), "{}", server.stderr());
    if !std::path::Path::new("/run/systemd/journal/socket").exists() {
        skip("a_place_that_cannot_be_opened_ends_the_start (journald)", "there is no journald");
        site.extra = vec!["--log-outputs=systemd/journal".into()];
        let mut server = site.spawn();
        assert_eq!(server.wait(PATIENCE).code(), Some(1));
        assert!(server.stderr().contains("cannot log to journald"), "{}", server.stderr());
    }
}

/// A child that is ended whatever happens.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server whose stderr is a pipe, with so many lines logged that neither the pipe nor the queue holds them.
fn choked(site: &Site) -> Ended {
    let mut command: Command = site.command();
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let child = Ended(child.expect("ringd starts"));
    wait_for("the server", || {
        Client::open(site.client_port)
            .and_then(|mut client| client.request("GET", "/v2/keys/", ""))
            .is_ok_and(|answer| answer.status == 200)
    });
    let body = "{\"Level\":\"DEBUG\"}";
    let request = format!("PUT /config/local/log HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        .repeat(PIPELINE);
    let mut client = Client::open(site.client_port).expect("a connection");
    for _ in 0..LINES / PIPELINE {
        client.send(request.as_bytes()).expect("it is sent");
        for _ in 0..PIPELINE {
            assert_eq!(client.receive(false).expect("an answer").status, 204);
        }
    }
    child
}

fn lost(site: &Site) -> f64 {
    let text = String::from_utf8(get(site, "/metrics").body).expect("UTF-8");
    let line = text.lines().find_map(|line| line.strip_prefix("ringd_log_lines_lost_total "));
    line.and_then(|value| value.parse().ok()).expect("the metric")
}

#[test]
fn nobody_reads_the_log_and_the_server_serves_on() {
    let site = Site::new();
    let mut server = choked(&site);
    let begun = Instant::now();
    let mut client = Client::open(site.client_port).expect("a connection");
    for round in 0..20 {
        assert!(client.request("PUT", "/v2/keys/a", &format!("value={round}")).expect("an answer").status < 300);
    }
    assert!(begun.elapsed() < PATIENCE);
    let missing = lost(&site);
    assert!(missing > 0.0, "lines were lost");
    // Somebody reads again: what was kept comes first, then how much was lost.
    let mut pipe = server.0.stderr.take().expect("a pipe");
    let (sender, lines) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let (mut text, mut chunk) = (Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = pipe.read(&mut chunk) {
            text.extend(&chunk[..read]);
            let _ = sender.send(String::from_utf8_lossy(&text).into_owned());
        }
    });
    // More may be lost before somebody reads again.
    let told = |text: &str| {
        let (before, _) = text.rsplit_once(" log lines were lost in all")?;
        before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse::<f64>().ok()
    };
    let mut text = String::new();
    wait_for("the loss to be told", || {
        text = lines.try_iter().last().unwrap_or(std::mem::take(&mut text));
        told(&text).is_some_and(|lost| lost >= missing)
    });
    assert!(text.contains("ready to serve client requests") || text.contains("became leader"), "the beginning is kept");
    drop(server);
    reader.join().expect("the reader ends with the server");
}

#[test]
fn nobody_reads_the_log_and_the_server_stops_all_the_same() {
    let site = Site::new();
    let mut server = choked(&site);
    let signal = rustix::process::Signal::from_named_raw(SIGTERM).expect("a signal");
    rustix::process::kill_process(rustix::process::Pid::from_child(&server.0), signal).expect("kill");
    wait_for("the end", || server.0.try_wait().expect("a child").is_some());
}

/// A process that is stopped for a while looks to itself as if the disk, the turn or the timer had taken so long:
/// which of them depends on where it was stopped, so it is done until each was met.
#[test]
fn what_operators_look_for_is_said_with_its_figures() {
    let mut site = Site::new();
    site.extra = vec!["--logger=zap".into()];
    let server = site.start();
    let port = site.client_port;
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let done = std::sync::Arc::clone(&done);
            std::thread::spawn(move || {
                let Ok(mut client) = Client::open(port) else { return };
                let form = "PUT /v2/keys/w HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                            Content-Length: 7\r\n\r\nvalue=1"
                    .replace("/w", &format!("/{writer}"))
                    .repeat(PIPELINE);
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    if client.send(form.as_bytes()).is_err() || (0..PIPELINE).any(|_| client.receive(false).is_err()) {
                        return;
                    }
                }
            })
        })
        .collect();
    let wanted = [
        ("slow fdatasync", &["took", "expected-duration"][..]),
        ("apply request took too long", &["took", "expected-duration", "entries"]),
        (
            "leader failed to send out heartbeat on time; took too long, leader is overloaded likely from slow disk",
            &["heartbeat-interval", "expected-duration", "exceeded-duration"],
        ),
    ];
    let begun = Instant::now();
    let mut pause = 0;
    loop {
        let log = server.stderr();
        let lines: Vec<serde_json::Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let is_said = |(phrase, figures): &(&str, &[&str])| {
            lines.iter().any(|line| line["msg"] == *phrase && figures.iter().all(|figure| !line[*figure].is_null()))
        };
        if wanted.iter().all(is_said) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "not everything was said: {log}");
        server.signal(SIGSTOP);
        std::thread::sleep(Duration::from_millis(1100));
        server.signal(SIGCONT);
        pause = (pause + 17) % 100;
        std::thread::sleep(Duration::from_millis(50 + pause));
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    writers.into_iter().for_each(|writer| writer.join().expect("a writer ends"));
    drop(server);
}
