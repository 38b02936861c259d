//! `ringctl top`: its table and its JSON about a node and a cluster, and the terminal it gives back.

use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::Cluster;
use crate::{PATIENT_RINGCTL, RINGCTL, Stage, has, read};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

#[test]
fn a_node_is_described_as_a_table_and_as_json() {
    let stage = Stage::new();
    for n in 0..64 {
        assert!(stage.ctl(&["set", &format!("/jobs/{n}"), "value"]).status.success());
    }
    let told = json(&stage.ctl(&["top", "--once", "--json"]));
    let member = &told["members"][0];
    assert_eq!(
        (&told["leader"], &member["role"], &member["reachable"]),
        (&member["id"], &"leader".into(), &true.into())
    );
    assert_eq!((&member["name"], &member["error"]), (&"default".into(), &serde_json::Value::Null));
    assert_eq!(member["clientURLs"], serde_json::json!([stage.endpoint()]));
    let number = |name: &str| member[name].as_u64().unwrap_or_else(|| panic!("{name}: {told:#}"));
    assert!(number("etcdIndex") >= 64 && number("raftIndex") >= number("appliedIndex"), "{told:#}");
    assert!(number("storeBytes") > 64 && number("residentBytes") > 1 << 20, "{told:#}");
    assert_eq!((number("quotaBytes"), number("watchers"), &member["noSpace"]), (2 << 30, 0, &false.into()));
    assert!(member["opsPerSecond"].is_number() && told["etcdIndex"] == member["etcdIndex"], "{told:#}");
    assert_eq!(told["hotPrefixes"][0]["prefix"], "/jobs", "{told:#}");

    let table = stage.ctl(&["top", "--once"]);
    let table = text(&table.stdout);
    assert!(table.starts_with("leader default | 1 of 1 members reached | "), "{table}");
    for word in ["MEMBER", "SYNC P99", "default ", "leader", "\n/jobs  "] {
        assert!(table.contains(word), "{word}: {table}");
    }
    assert!(!table.contains('\u{1b}'), "{table}");

    // Without a terminal, and without anybody who answers.
    let refused = stage.ctl(&["top"]);
    assert!(text(&refused.stderr).contains("use --once") && refused.status.code() == Some(1), "{refused:?}");
    assert_eq!(stage.ctl(&["top", "--json"]).status.code(), Some(1));
    let nobody = stage.ctl(&["--endpoints", "http://127.0.0.1:1", "top", "--once"]);
    assert_eq!(nobody.status.code(), Some(2), "{nobody:?}");
}

#[test]
fn a_member_that_is_dead_is_shown_as_such() {
    let mut cluster = Cluster::new(3, &[]);
    cluster.found(&[0, 1, 2]);
    let endpoints: Vec<String> = cluster.nodes.iter().map(|node| format!("http://{}", node.client)).collect();
    let leader = cluster.leader();
    let dead = (leader + 1) % 3;
    cluster.nodes[dead].server.take().expect("it runs").kill();
    let top = |arguments: &[&str]| {
        let mut command = Command::new(PATIENT_RINGCTL);
        command
            .env("RINGCTL_PROGRAM", &*RINGCTL)
            .env_remove("ETCDCTL_API")
            .args(["--endpoints", &endpoints.join(","), "top", "--once"])
            .args(arguments);
        command.output().expect("ringctl runs")
    };
    let told = json(&top(&["--json"]));
    let members = told["members"].as_array().expect("members");
    assert_eq!(members.len(), 3);
    for (place, member) in members.iter().enumerate() {
        assert_eq!(member["name"], format!("m{place}"), "by name: {told:#}");
        assert_eq!(member["reachable"], place != dead, "{told:#}");
        assert_eq!(member["raftIndex"].is_null(), place == dead, "{told:#}");
        assert_eq!(member["error"].is_string(), place == dead, "{told:#}");
    }
    assert!(told["leader"].is_string() && told["raftIndex"].as_u64() > Some(0), "{told:#}");
    let table = text(&top(&[]).stdout);
    assert!(table.contains("| 2 of 3 members reached |"), "{table}");
    let line = table.lines().find(|line| line.starts_with(&format!("m{dead} "))).unwrap_or_else(|| panic!("{table}"));
    assert!(line.contains("unreachable"), "{table}");
}

const ALTERNATE_BEGINS: &str = "\x1b[?1049h";
const ALTERNATE_ENDS: &str = "\x1b[?1049l";

/// Runs a shell line at a terminal; once the view is drawn, types `keys`, or without any sends SIGTERM to the process
/// whose id the line has left in `top.pid`. Everything that came to the terminal.
fn at_terminal(stage: &Stage, line: &str, keys: Option<&str>) -> String {
    // What is blank is not drawn, so only single words can be looked for.
    let line = format!("stty cols 120 rows 30; {line}; stty -a; echo the end");
    let mut command = stage.prepare("script".as_ref(), &["-qec", &line, "/dev/null"], &[("TERM", "xterm")]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script runs");
    let (mut shown, mut out) = (Vec::new(), child.stdout.take().expect("piped"));
    let (mut typed, mut chunk) = (false, [0; 4096]);
    loop {
        match out.read(&mut chunk).expect("a pipe") {
            0 => break,
            read => shown.extend_from_slice(&chunk[..read]),
        }
        if !typed && text(&shown).contains("hottest") {
            typed = true;
            let Some(keys) = keys else {
                let id = read(&stage.path("top.pid")).trim().parse().expect("a process id");
                kill_process(Pid::from_raw(id).expect("a process id"), Signal::TERM).expect("it runs");
                continue;
            };
            child.stdin.as_mut().expect("piped").write_all(keys.as_bytes()).expect("a pipe");
        }
    }
    child.wait().expect("it ends");
    text(&shown)
}

#[test]
fn the_terminal_is_given_back_after_a_key_and_after_a_signal() {
    if !has("script", "the_terminal_is_given_back_after_a_key_and_after_a_signal") {
        return;
    }
    let stage = Stage::new();
    let line = format!("timeout --foreground --signal KILL 60 sh -c 'echo $$ >top.pid; exec {PATIENT_RINGCTL} top'");
    for keys in [Some("q"), Some("\x1b[B\x1b[A\x03"), None] {
        let shown = at_terminal(&stage, &line, keys);
        let (_, rest) = shown.split_once(ALTERNATE_BEGINS).unwrap_or_else(|| panic!("{line}: {shown:?}"));
        let (view, after) = rest.split_once(ALTERNATE_ENDS).unwrap_or_else(|| panic!("{line}: {shown:?}"));
        assert!(view.contains("members"), "{view:?}");
        assert!(after.contains(" icanon") && after.contains(" echo ") && after.contains("the end"), "{after:?}");
        assert!(after.contains("\x1b[?25h") || rest.contains("\x1b[?25h"), "the cursor is shown again: {shown:?}");
    }
}
