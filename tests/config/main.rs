//! Settings and the log, as operators meet them: real processes, and beside them a real etcd where one is installed.
//!
//! Must hold: nothing listens but on free loopback ports; `--check-config` writes nothing, which is looked for.
#![allow(clippy::disallowed_methods, reason = "tests measure real time")]

#[path = "../tls/authority.rs"]
#[allow(dead_code, reason = "shared with tests/tls, which uses all of it")]
mod authority;
mod log;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use authority::Files;
use ringd::config::flags::{self, FLAGS, Group, Status};
use support::{Server, Site, skip};

/// `etcd --help` of 3.4.23, its lines that begin with a flag.
const ETCD_FLAGS: &str = include_str!("etcd-flags.txt");
/// Flags whose default differs, and why that cannot surprise.
const OTHER_DEFAULTS: &[(&str, &str)] = &[
    ("data-dir", "the default is the same, made of the name"),
    ("initial-cluster", "the default is the same, made of the name and the advertised URL"),
    ("enable-v2", "the v2 API is what there is"),
    ("logger", "etcd's forms are there by name"),
];

/// What a run to its end gives.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs a program in `dir` with nothing but these variables for it.
fn run(program: &str, dir: &Path, args: &[&str], variables: &[(&str, &str)]) -> Ran {
    let mut command = Command::new(program);
    for name in std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("ETCD_")) {
        command.env_remove(name);
    }
    let output = command.args(args).envs(variables.iter().copied()).current_dir(dir).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn ringd(dir: &Path, args: &[&str], variables: &[(&str, &str)]) -> Ran {
    run(env!("CARGO_BIN_EXE_ringd"), dir, args, variables)
}

fn etcd_is_there(test: &str) -> bool {
    let is_there = support::etcd_program().is_some();
    if !is_there {
        skip(test, "there is no etcd 3.4 on PATH");
    }
    is_there
}

/// Name and default of each line of the list.
fn etcd_flags(list: &str) -> BTreeMap<&str, &str> {
    let lines = list.lines().map(str::trim).filter_map(|line| line.strip_prefix("--"));
    lines
        .map(|line| line.split_once(' ').unwrap_or((line, "")))
        .map(|(name, value)| (name, value.trim_matches('\'')))
        .collect()
}

#[test]
fn every_flag_of_etcd_works_or_says_why_not() {
    let listed = etcd_flags(ETCD_FLAGS);
    assert!(listed.len() >= 80, "the list is whole: {}", listed.len());
    let scratch = tempfile::tempdir().expect("a directory");
    for (name, default) in &listed {
        let flag = flags::find(name).unwrap_or_else(|| panic!("--{name} is not in the table"));
        assert_eq!(flag.variable(), Some(format!("ETCD_{}", name.to_uppercase().replace('-', "_"))));
        let shown = if *name == "data-dir" { "" } else { flag.default };
        let differs = OTHER_DEFAULTS.iter().any(|(known, _)| known == name);
        assert!(differs || shown == *default, "--{name}: {shown:?} and etcd's {default:?}");
        if let Status::NoEffect(reason) | Status::Refused(_, reason) = flag.status {
            assert!(reason.len() > 10, "--{name} says why: {reason}");
        }
    }
    // Not in etcd's help, but read.
    for name in
        ["enable-grpc-gateway", "unsafe-no-fsync", "experimental-enable-lease-checkpoint-persist", "config-file"]
    {
        assert!(flags::find(name).is_some(), "{name}");
    }
    if etcd_is_there("every_flag_of_etcd_works_or_says_why_not") {
        let help = run("etcd", scratch.path(), &["--help"], &[]);
        assert_eq!(etcd_flags(&(help.out + &help.err)), listed, "tests/config/etcd-flags.txt is etcd's list");
    }
}

/// The line that says why, without time and package, and with one name for both programs.
fn complaint(told: &Ran) -> String {
    let all = format!("{}\n{}", told.err, told.out);
    let lines = || all.lines().filter(|line| !line.is_empty() && !line.starts_with("[WARNING]"));
    let line = lines().find(|line| line.contains(" E | ") || line.contains(" C | ")).or_else(|| lines().next());
    let line = line.unwrap_or_default();
    let text = line.split_once(" | ").and_then(|(_, rest)| rest.split_once(": ")).map_or(line, |(_, text)| text);
    text.replace("etcd --help", "ringd --help")
}

#[test]
fn refusals_are_etcds() {
    if !etcd_is_there("refusals_are_etcds") {
        return;
    }
    let scratch = tempfile::tempdir().expect("a directory");
    std::fs::write(scratch.path().join("slow.yml"), "heartbeat-interval: 500\n").expect("a file");
    let none: &[(&str, &str)] = &[];
    for (args, variables) in [
        (&["--nope"][..], none),
        (&["--name"], none),
        (&["---name=x"], none),
        (&["extra"], none),
        (&["--heartbeat-interval", "abc"], none),
        (&["--enable-v2=maybe"], none),
        (&["--proxy", "foo"], none),
        (&["--discovery-fallback", "foo"], none),
        (&["--initial-cluster-state", "foo"], none),
        (&["--listen-metrics-urls", "foo"], none),
        (&["--cors", "foo"], none),
        (&["--election-timeout", "400"], none),
        (&["--election-timeout", "60000"], none),
        (&["--heartbeat-interval", "0"], none),
        (&["--listen-client-urls", "http://127.0.0.1:1"], none),
        (&["--listen-peer-urls", "http://foo.bar:1"], none),
        (&["--initial-advertise-peer-urls", "http://:1"], none),
        (&["--initial-cluster", "a=http://127.0.0.1:1", "--discovery", "http://127.0.0.1:1/t"], none),
        (&["--discovery-srv", "example.org", "--discovery", "http://127.0.0.1:1/t"], none),
        (&["--logger", "zap", "--log-outputs", "default,stdout"], none),
        (&["--config-file", "missing.yml"], none),
        (&["--config-file", "slow.yml"], none),
        (&["--name", "x", "--config-file", "slow.yml"], &[("ETCD_NAME", "y")]),
        (&[], &[("ETCD_CONFIG_FILE", "missing.yml"), ("ETCD_HEARTBEAT_INTERVAL", "abc")]),
        (&["--name", "x"], &[("ETCD_NAME", "y")]),
        (&[], &[("ETCD_HEARTBEAT_INTERVAL", "abc")]),
    ] {
        let (ours, theirs) = (ringd(scratch.path(), args, variables), run("etcd", scratch.path(), args, variables));
        assert_eq!(complaint(&ours), complaint(&theirs), "{args:?} {variables:?}");
        assert_eq!(ours.code, theirs.code, "{args:?} {variables:?}");
    }
}

#[test]
fn a_file_takes_the_place_of_flags_and_variables() {
    let site = Site::new();
    let scratch = tempfile::tempdir().expect("a directory");
    let file = scratch.path().join("ringd.yml");
    let (client, peer) = (site.client_port, site.peer_port);
    let text = format!(
        "name: from-file\ndata_dir: {}\nlisten-client-urls: http://127.0.0.1:{client}\nadvertise-client-urls: \
         http://127.0.0.1:{client}\nlisten-peer-urls: http://127.0.0.1:{peer}\ninitial-advertise-peer-urls: \
         http://127.0.0.1:{peer}\ninitial-cluster: from-file=http://127.0.0.1:{peer}\nwal-dir:\nlogger: capnslog\n\
         client-transport-security:\n  cert-file:\n",
        site.data_dir.display()
    );
    std::fs::write(&file, text).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringd"));
    command.env("ETCD_CONFIG_FILE", &file).env("ETCD_NOPE", "1").args(["--name", "from-flag"]);
    let server = site.started(Server::spawn(command));
    let members = log::get(&site, "/v2/members").json();
    assert_eq!(members["members"][0]["name"], "from-file");
    let log = server.stderr();
    let shown = file.display();
    assert!(
        log.contains(&format!(
            "I | ringd: Loading server configuration from {:?}. Other configuration command line flags and environment \
         variables will be ignored if provided.",
            shown.to_string()
        )),
        "{log}"
    );
    assert!(log.contains("W | ringd: ignored beside") && log.contains("--name, ETCD_NOPE"), "{log}");
}

#[test]
fn etcds_sample_file_is_good() {
    let scratch = tempfile::tempdir().expect("a directory");
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/config/etcd.conf.yml");
    let told = ringd(scratch.path(), &["--check-config", "--config-file", sample], &[]);
    assert_eq!((told.code, told.err.as_str()), (Some(0), ""), "{}", told.out);
    for part in ["--name=sample  (file, line 4)", "--logger=zap", "the configuration is good", "sample.etcd"] {
        assert!(told.out.contains(part), "{part}: {}", told.out);
    }
    assert!(!told.out.contains("unknown key"), "{}", told.out);
}

#[test]
fn a_check_finds_what_a_start_would_trip_over_and_writes_nothing() {
    let scratch = tempfile::tempdir().expect("a directory");
    let files = Files::new();
    let dir = scratch.path();
    std::fs::write(dir.join("a-file"), "").expect("a file");
    std::fs::write(dir.join("bad.yml"), "name: x\nsnapshot-count: many\n").expect("a file");
    let before = listing(dir);
    let (cert, key, other) = (files.text("good.crt"), files.text("good.key"), files.text("foreign.crt"));
    let check = |args: &[&str]| ringd(dir, &[&["--check-config"], args].concat(), &[]);

    let good = check(&["--name", "x", "--cert-file", &cert, "--key-file", &key, "--pre-vote"]);
    assert_eq!(good.code, Some(0), "{}{}", good.out, good.err);
    for part in [
        "--name=x  (flag)",
        "x=http://localhost:2380",
        "heartbeat 100 ms, election 1000 ms",
        "warning: --pre-vote has no effect",
        "warning: The scheme of client url",
        "the configuration is good",
    ] {
        assert!(good.out.contains(part), "{part}: {}", good.out);
    }
    let by_variable = ringd(dir, &["--check-config"], &[("ETCD_NAME", "v"), ("ETCD_NOPE", "1")]);
    assert!(by_variable.out.contains("--name=v  (variable)"), "{}", by_variable.out);
    assert!(by_variable.out.contains("warning: unrecognized environment variable ETCD_NOPE=1"), "{}", by_variable.out);

    for (args, error) in [
        (&["--cert-file", "none.crt", "--key-file", &key][..], "open none.crt: no such file or directory"),
        (&["--cert-file", &other, "--key-file", &key], "tls: "),
        (&["--cert-file", &cert, "--key-file", &cert], "failed to find any PEM data in key input"),
        (&["--peer-trusted-ca-file", "a-file"], "failed to find any PEM data"),
        (&["--data-dir", "a-file/x"], "cannot use directory a-file/x"),
        (&["--wal-dir", "a-file"], "cannot use directory a-file: a-file: not a directory"),
        (&["--log-outputs", "none/log"], "cannot log to none/log: none: no such file or directory"),
        (&["--initial-cluster", "b=http://127.0.0.1:1"], "couldn't find local name \"default\""),
    ] {
        let told = check(args);
        assert_eq!(told.code, Some(1), "{args:?}: {}", told.out);
        assert!(told.out.contains(&format!("error: {error}")) || told.out.contains(error), "{args:?}: {}", told.out);
        assert!(told.out.ends_with("the configuration cannot be used\n"), "{}", told.out);
    }
    for (args, code, error) in [
        (&["--nope"][..], 2, "flag provided but not defined: -nope"),
        (&["--config-file", "bad.yml"], 1, "bad.yml:2: \"snapshot-count\": invalid value \"many\""),
        (&["--unsafe-no-fsync"], 1, "--unsafe-no-fsync cannot be"),
    ] {
        let told = check(args);
        assert_eq!(told.code, Some(code), "{args:?}");
        assert!(told.err.contains(error), "{args:?}: {}", told.err);
    }
    assert_eq!(listing(dir), before, "a check writes nothing");
}

#[test]
fn a_check_may_be_made_beside_a_running_member() {
    let site = Site::new();
    let server = site.start();
    let mut command = site.command();
    let told = command.args(["--check-config"]).output().expect("it runs");
    let text = String::from_utf8_lossy(&told.stdout);
    assert!(told.status.success(), "{text}");
    assert!(text.contains("a member that has been started before"), "{text}");
    assert_eq!(log::get(&site, "/health").status, 200);
    drop(server);
}

fn listing(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn the_pages_are_made_of_the_table() {
    let scratch = tempfile::tempdir().expect("a directory");
    let page = ringd(scratch.path(), &["--markdown"], &[]).out;
    let kept = include_str!("../../tools/packaging/CONFIGURATION.md");
    assert!(page == kept, "run `cargo run -- --markdown > tools/packaging/CONFIGURATION.md`");
    let man = ringd(scratch.path(), &["--man"], &[]).out.replace("\\-", "-");
    let bash = ringd(scratch.path(), &["--completion", "bash"], &[]).out;
    for flag in FLAGS {
        assert!(page.contains(&format!("| `--{}` |", flag.name)), "{}", flag.name);
        assert!(man.contains(&format!("--{}", flag.name)), "{} in the manual", flag.name);
        assert!(bash.contains(&format!("--{}", flag.name)), "{} in the completion", flag.name);
        assert!(
            flag.group == Group::About || flag.variable().is_some_and(|name| page.contains(&name)),
            "{}",
            flag.name
        );
    }
    for part in [".TH ringd 1", ".SH EXIT STATUS", ".SH SIGNALS"] {
        assert!(man.contains(part), "{part}");
    }
    for shell in ["zsh", "fish"] {
        assert!(ringd(scratch.path(), &["--completion", shell], &[]).out.contains("listen-client-urls"), "{shell}");
    }
    assert_eq!(ringd(scratch.path(), &["--completion", "csh"], &[]).code, Some(2));
}
