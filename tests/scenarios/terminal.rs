//! `ringctl` at a terminal and in a script, and `import`.

use std::io::{Read, Write};
use std::process::{Output, Stdio};

use crate::{PATIENT_RINGCTL, Stage, has};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs the client with a terminal for all its streams and answers everything that came there.
fn at_terminal(stage: &Stage, arguments: &str, env: &[(&str, &str)]) -> String {
    // `script` gives its command a terminal of its own, whose size a real one would have.
    let line = format!("stty cols 80 rows 24; exec {} {arguments}", PATIENT_RINGCTL);
    let mut command = stage.prepare("script".as_ref(), &["-qec", &line, "/dev/null"], &[("TERM", "xterm")]);
    let output = command.env_remove("NO_COLOR").envs(env.iter().copied()).output().expect("script runs");
    text(&output.stdout)
}

const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";

#[test]
fn colour_bars_and_hints_are_for_people() {
    if !has("script", "colour_bars_and_hints_are_for_people") {
        return;
    }
    let stage = Stage::new();
    let healthy = format!("{GREEN}cluster is healthy");
    assert!(at_terminal(&stage, "cluster-health", &[]).contains(&healthy));
    for env in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let shown = at_terminal(&stage, "cluster-health", &[env]);
        assert!(shown.contains("cluster is healthy") && !shown.contains('\x1b'), "{env:?}: {shown:?}");
    }
    let refused = at_terminal(&stage, "--endpoints http://127.0.0.1:1 get /a", &[]);
    assert!(refused.contains(RED) && refused.contains("No endpoint answered."), "{refused:?}");
    // The server's own words, where etcd's say nothing.
    let members = text(&stage.ctl(&["member", "list"]).stdout);
    let id = members.split(':').next().expect("an id");
    let short = "re-configuration failed due to not enough started members";
    let refused = at_terminal(&stage, &format!("member remove {id}"), &[]);
    assert!(refused.contains("has no leader") && refused.contains(short), "{refused:?}");
    let refused = text(&stage.ctl(&["member", "remove", id]).stderr);
    assert!(refused.contains("has no leader") && !refused.contains(short), "{refused}");
    let data = stage.site.data_dir.display();
    let copied = at_terminal(&stage, &format!("backup --data-dir {data} --backup-dir copy"), &[]);
    assert!(copied.contains("copying"), "a bar: {copied:?}");

    // The same in a script.
    let plain = stage.ctl(&["cluster-health"]);
    assert!(!text(&plain.stdout).contains('\x1b'));
    let refused = stage.ctl(&["--endpoints", "http://127.0.0.1:1", "get", "/a"]);
    assert!(!text(&refused.stderr).contains("No endpoint answered."), "{}", text(&refused.stderr));
    let copied = stage.ctl(&["backup", "--data-dir", &data.to_string(), "--backup-dir", "copy2"]);
    assert!(copied.status.success() && !text(&copied.stderr).contains("copying"));
}

#[test]
fn a_password_that_is_typed_is_not_shown() {
    let stage = Stage::new();
    let line = format!("printf 'secret\\n' | {} user add alice", PATIENT_RINGCTL);
    let added = stage.prepare("sh".as_ref(), &["-c", &line], &[]).output().expect("sh runs");
    assert_eq!(text(&added.stdout), "New password: \nUser alice created\n");
    if !has("script", "a_password_that_is_typed_is_not_shown") {
        return;
    }
    let line = format!("{} user passwd alice", PATIENT_RINGCTL);
    let mut command = stage.prepare("script".as_ref(), &["-qec", &line, "/dev/null"], &[]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script runs");
    let (mut shown, mut out) = (Vec::new(), child.stdout.take().expect("piped"));
    let mut typed = false;
    let mut chunk = [0; 256];
    loop {
        match out.read(&mut chunk).expect("a pipe") {
            0 => break,
            read => shown.extend_from_slice(&chunk[..read]),
        }
        if !typed && text(&shown).contains("New password: ") {
            typed = true;
            child.stdin.as_mut().expect("piped").write_all(b"another\n").expect("a pipe");
        }
    }
    child.wait().expect("it ends");
    let shown = text(&shown);
    assert!(shown.contains("Password updated") && !shown.contains("another"), "{shown:?}");
}

fn import(stage: &Stage, arguments: &[&str]) -> Output {
    stage.ctl(&[&["import"], arguments].concat())
}

#[test]
fn what_one_cluster_answered_is_imported_into_another() {
    let (from, to) = (Stage::new(), Stage::new());
    for n in 0..300 {
        let key = format!("/d{}/k {n}", n % 7);
        assert!(from.ctl(&["set", &key, &format!("value {n}")]).status.success());
    }
    assert!(from.ctl(&["set", "--ttl", "100", "/short", "1"]).status.success());
    assert!(from.ctl(&["set", "/_hidden/a", "1"]).status.success());
    let whole = from.ctl(&["-o", "json", "ls", "--recursive", "/"]).stdout;
    std::fs::write(to.path("snap.json"), whole).expect("a scratch file");
    let done = import(&to, &["--snap", "snap.json", "-c", "4"]);
    assert_eq!(text(&done.stdout), "finished importing 301 keys\n", "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains("extending key /short's ttl to 300 seconds"));
    let sorted = |stage: &Stage| text(&stage.ctl(&["ls", "--recursive", "--sort", "/"]).stdout);
    assert_eq!(sorted(&from), sorted(&to));
    assert_eq!(text(&to.ctl(&["get", "/d2/k 16"]).stdout), "value 16\n");

    // Hidden keys come when they are asked for.
    let store = br#"{"Root":{"Path":"/","Children":{"_hidden":{"Path":"/_hidden","Children":{"a":{"Path":"/_hidden/a",
        "Value":"2","ExpireTime":"0001-01-01T00:00:00Z"}}}}}}"#;
    std::fs::write(to.path("store.json"), store).expect("a scratch file");
    assert_eq!(text(&import(&to, &["--snap", "store.json"]).stdout), "finished importing 0 keys\n");
    let hidden = import(&to, &["--snap", "store.json", "--hidden", "/_hidden"]);
    assert_eq!(text(&hidden.stdout), "finished importing 1 keys\n");
    assert_eq!(text(&to.ctl(&["get", "/_hidden/a"]).stdout), "2\n");

    for (arguments, why) in [
        (&[][..], "no snapshot file provided (use --snap)\n"),
        (&["--snap", "nowhere"][..], "cannot read snapshot file nowhere\n"),
    ] {
        let refused = import(&to, arguments);
        assert_eq!((refused.status.code(), text(&refused.stderr).as_str()), (Some(1), why));
    }
}

#[test]
fn a_snapshot_of_a_server_is_imported() {
    let mut from = crate::Site::new();
    from.extra = vec!["--snapshot-count".to_owned(), "20".to_owned()];
    let server = from.start();
    let mut client = crate::support::Client::open(from.client_port).expect("it listens");
    for n in 0..100 {
        assert_eq!(client.request("PUT", &format!("/v2/keys/k{n}"), "value=1").expect("an answer").status, 201);
    }
    let snaps = from.data_dir.join("member/snap");
    let newest = || {
        let names = std::fs::read_dir(&snaps).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
        names.filter(|path| path.extension().is_some_and(|e| e == "snap")).max()
    };
    crate::wait_until("there is a snapshot", || newest().is_some());
    drop(server);
    let to = Stage::new();
    let done = import(&to, &["--snap", &newest().expect("it was there").display().to_string()]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert_eq!(text(&to.ctl(&["get", "/k3"]).stdout), "1\n");
}

#[test]
fn shells_accept_their_completions() {
    let stage = Stage::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = stage.ctl(&["completion", shell]);
        assert!(script.status.success() && !script.stdout.is_empty(), "{shell}");
        if !has(shell, &format!("shells_accept_their_completions ({shell})")) {
            continue;
        }
        std::fs::write(stage.path(shell), &script.stdout).expect("a scratch file");
        let checked = stage.prepare(shell.as_ref(), &["-n", shell], &[]).output().expect("the shell runs");
        assert!(checked.status.success(), "{shell}: {}", text(&checked.stderr));
    }
    assert_eq!(stage.ctl(&["completion", "csh"]).status.code(), Some(1));
    let refused = stage.prepare(PATIENT_RINGCTL.as_ref(), &["get", "/a"], &[]).env("ETCDCTL_API", "3").output();
    let refused = refused.expect("ringctl runs");
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("ETCDCTL_API=3 is not available"), "{}", text(&refused.stderr));
}
