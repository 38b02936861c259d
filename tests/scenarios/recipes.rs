//! Each recipe does what the README says it does, and fails as it says it fails.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::{Stage, has, read, wait_until};

#[test]
fn discovery_follows_who_is_alive() {
    if !has("curl", "discovery_follows_who_is_alive") {
        return;
    }
    let stage = Stage::new();
    let list = stage.path("backends.cfg");
    let null = stage.path("null");
    let ttl = [("TTL", "3")];
    let follow = ["follow", "web", list.to_str().expect("a plain path")];
    let _follower = stage.start("discovery.sh", &follow, &[], &null);
    let one = stage.start("discovery.sh", &["register", "web", "one", "10.0.0.1:80"], &ttl, &null);
    let two = stage.start("discovery.sh", &["register", "web", "two", "10.0.0.2:80"], &ttl, &null);
    let line = |name: &str, host: u8| format!("    server {name} 10.0.0.{host}:80 check\n");
    let (first, second) = (line("one", 1), line("two", 2));
    wait_until("both are listed", || read(&list) == format!("backend web\n{first}{second}"));
    // Heartbeats are refreshes: the deadline moves, the key stays the one that was created.
    let state = || {
        let json: serde_json::Value =
            serde_json::from_slice(&stage.ctl(&["-o", "json", "get", "/services/web/one"]).stdout).ok()?;
        let node = &json["node"];
        Some((node["createdIndex"].as_u64()?, node["expiration"].as_str()?.to_owned()))
    };
    wait_until("a heartbeat moved the deadline", || {
        let before = state();
        thread::sleep(Duration::from_secs(2)); // longer than a heartbeat takes to come
        before.zip(state()).is_some_and(|(before, after)| before.0 == after.0 && before.1 < after.1)
    });
    one.signal(Signal::KILL);
    wait_until("the dead one is gone", || read(&list) == format!("backend web\n{second}"));
    two.terminate();
    wait_until("the stopped one is gone", || read(&list) == "backend web\n");
}

#[test]
fn subscribers_get_every_message_in_order() {
    let stage = Stage::new();
    let start = stage.run("pubsub.sh", &["position", "news"], &[]);
    for message in ["first", "a  b\\c $d", "-x"] {
        stage.run("pubsub.sh", &["publish", "news", message], &[]);
    }
    let (old, new) = (stage.path("old"), stage.path("new"));
    let _old = stage.start("pubsub.sh", &["subscribe", "news", start.trim()], &[], &old);
    let _new = stage.start("pubsub.sh", &["subscribe", "news"], &[], &new);
    wait_until("the old messages came", || read(&old) == "first\na  b\\c $d\n-x\n");
    // The second one subscribes to what is to come; it is there once a message of ours reaches it.
    wait_until("the second subscriber listens", || {
        stage.run("pubsub.sh", &["publish", "news", "hello"], &[]);
        read(&new).contains("hello")
    });
    stage.run("pubsub.sh", &["publish", "news", "last"], &[]);
    wait_until("both got the last one", || [&old, &new].iter().all(|file| read(file).ends_with("hello\nlast\n")));
    assert!(!read(&new).contains("first"));
}

/// A backend that answers every request with its name, until it is told to stop.
fn backend(name: &'static str) -> (u16, impl FnOnce()) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        for stream in listener.incoming() {
            if stopped.try_recv().is_ok() {
                return;
            }
            let mut stream = stream.expect("a connection");
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).expect("a request") > 0);
            let answer =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{name}", name.len());
            stream.write_all(answer.as_bytes()).expect("the client reads");
        }
    });
    (port, move || {
        stop.send(()).expect("the backend listens");
        // It looks at the channel when somebody connects.
        std::net::TcpStream::connect(("127.0.0.1", port)).expect("the backend listens");
        thread.join().expect("the backend ends");
    })
}

#[test]
fn requests_go_round_and_pass_over_the_dead() {
    if !has("curl", "requests_go_round_and_pass_over_the_dead") {
        return;
    }
    let stage = Stage::new();
    let turn = stage.path("turn");
    let env = [("TURN", turn.to_str().expect("a plain path")), ("PATIENCE", "60")];
    let ask = || stage.run("balance.sh", &["web", "/"], &env);
    let ((one, stop_one), (two, stop_two)) = (backend("one"), backend("two"));
    for (name, port) in [("a", one), ("b", two)] {
        let address = format!("127.0.0.1:{port}");
        assert!(stage.ctl(&["set", &format!("/services/web/{name}"), &address]).status.success());
    }
    assert_eq!([ask(), ask(), ask(), ask()], ["one", "two", "one", "two"]);
    stop_one();
    assert_eq!([ask(), ask()], ["two", "two"], "the dead one is still registered");
    stop_two();
    let out = stage.path("out");
    assert!(!stage.start("balance.sh", &["web", "/"], &env, &out).wait().success());
}

#[test]
fn workers_meet_and_hear_of_changes() {
    let stage = Stage::new();
    let (out, seen) = (stage.path("out"), stage.path("seen"));
    let reaction = "echo \"$VALUE\" >>seen";
    let _worker = stage.start("coordination.sh", &["on-change", "/config/app", "sh", "-c", reaction], &[], &out);
    for value in ["one", "two"] {
        assert!(stage.ctl(&["set", "/config/app", value]).status.success());
        wait_until("the worker has seen it", || read(&seen).ends_with(&format!("{value}\n")));
    }
    let arrive = |worker: &str| stage.start("coordination.sh", &["barrier", "b", "3", worker], &[], &out);
    let (mut first, mut second) = (arrive("one"), arrive("two"));
    wait_until("two have arrived", || stage.ctl(&["ls", "/barriers/b/arrived"]).stdout.lines() == 2);
    assert!(!first.ended() && !second.ended(), "they wait for the third");
    for worker in [arrive("three"), first, second] {
        assert!(worker.wait().success());
    }
}

trait Lines {
    fn lines(&self) -> usize;
}

impl Lines for Vec<u8> {
    fn lines(&self) -> usize {
        self.iter().filter(|&&byte| byte == b'\n').count()
    }
}

#[test]
fn a_lock_lets_one_in_at_a_time() {
    let stage = Stage::new();
    let (out, counter) = (stage.path("out"), stage.path("counter"));
    std::fs::write(&counter, "0\n").expect("a scratch file");
    // Read, wait, write: without the lock, increments get lost.
    let increment = "n=$(cat counter); sleep 0.1; echo $((n + 1)) >counter";
    let holders: Vec<_> = (0..4).map(|_| stage.start("lock.sh", &["l", "sh", "-c", increment], &[], &out)).collect();
    for holder in holders {
        assert!(holder.wait().success());
    }
    assert_eq!(read(&counter), "4\n");
    assert!(!stage.start("lock.sh", &["l", "sh", "-c", "exit 7"], &[], &out).wait().success(), "the command's own end");
    assert!(!stage.ctl(&["get", "/locks/l"]).status.success(), "and the lock is free again");
}

#[test]
fn a_fencing_token_stops_a_holder_that_slept_too_long() {
    if !has("flock", "a_fencing_token_stops_a_holder_that_slept_too_long") {
        return;
    }
    let stage = Stage::new();
    let (out, data) = (stage.path("out"), stage.path("data"));
    let write = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios/fenced_write.sh");
    let ttl = [("TTL", "3")];
    // The first holder is stopped in the middle of its work, as a long pause of its machine would.
    let work = format!(
        "sh {write} data early; touch working; while [ ! -e go ]; do sleep 0.1; done; sh {write} data late; echo $? >verdict"
    );
    let first = stage.start("lock.sh", &["l", "sh", "-c", &work], &ttl, &out);
    wait_until("the first holder works", || stage.path("working").exists());
    first.signal(Signal::STOP);
    // The second gets the lock once that of the first has expired.
    let second = stage.start("lock.sh", &["l", "sh", write, "data", "second"], &ttl, &out);
    assert!(second.wait().success());
    std::fs::write(stage.path("go"), "").expect("a scratch file");
    first.signal(Signal::CONT);
    first.wait();
    // It was stopped by its keeper before it wrote, or it wrote too late and was refused; never in between.
    assert!(["", "1\n"].contains(&read(&stage.path("verdict")).as_str()));
    assert_eq!(read(&data), "early\nsecond\n");
}

#[test]
fn every_item_of_a_queue_reaches_one_consumer() {
    const ITEMS: usize = 12;
    let stage = Stage::new();
    let early: Vec<_> =
        ["e0", "e1"].iter().map(|out| stage.start("queue.sh", &["pop", "q"], &[], &stage.path(out))).collect();
    for item in 0..ITEMS {
        stage.run("queue.sh", &["push", "q", &format!("item {item}")], &[]);
    }
    for consumer in early {
        assert!(consumer.wait().success());
    }
    let next = stage.run("queue.sh", &["pop", "q"], &[]);
    assert_eq!(next, "item 2\n", "first in, first out");
    let outs: Vec<_> = (0..ITEMS - 3).map(|n| stage.path(&format!("c{n}"))).collect();
    let rest: Vec<_> = outs.iter().map(|out| stage.start("queue.sh", &["pop", "q"], &[], out)).collect();
    for consumer in rest {
        assert!(consumer.wait().success());
    }
    let mut got: Vec<String> = outs.iter().map(|out| read(out)).collect();
    got.extend(["e0", "e1"].map(|out| read(&stage.path(out))));
    got.push(next);
    got.sort();
    let mut wanted: Vec<String> = (0..ITEMS).map(|item| format!("item {item}\n")).collect();
    wanted.sort();
    assert_eq!(got, wanted);
}

#[test]
fn a_leader_hands_over_and_a_dead_one_is_replaced() {
    let stage = Stage::new();
    let out = stage.path("out");
    let campaign = |name: &str, ttl: &str| {
        let work = format!("echo {name} $LEADER_TERM >>led; exec sleep 1000");
        stage.start("leader.sh", &["e", name, "sh", "-c", &work], &[("TTL", ttl)], &out)
    };
    let leader = || String::from_utf8_lossy(&stage.ctl(&["get", "/elections/e"]).stdout).trim().to_owned();
    let one = campaign("one", "600");
    // A leader that ends before its work has begun leaves no line.
    let has_worked = |name: &str| read(&stage.path("led")).contains(name);
    wait_until("the first leads", || leader() == "one" && has_worked("one"));
    let two = campaign("two", "3");
    one.terminate();
    assert!(one.wait().success());
    // Not by expiry: the office of the first would last for ten minutes.
    wait_until("the second leads", || leader() == "two" && has_worked("two"));
    let _three = campaign("three", "3");
    two.signal(Signal::KILL);
    wait_until("the third leads", || leader() == "three" && has_worked("three"));
    let led = read(&stage.path("led"));
    let terms: Vec<u64> =
        led.lines().map(|line| line.split(' ').nth(1).and_then(|t| t.parse().ok()).expect(line)).collect();
    assert!(terms.is_sorted_by(|a, b| a < b), "terms grow: {led}");
    let (first, since) = (led.lines().next().unwrap_or(""), terms[0]);
    assert!(first.starts_with("one ") && since > 0, "{led}");
}
