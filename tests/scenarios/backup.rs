//! `ringctl backup`: what it copies from a node under load, and what an interrupted one leaves.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::RINGCTL;
use crate::support::{Client, Site};

fn backup(args: &[&str], from: &Path, to: &Path) -> Output {
    let mut command = Command::new(&*RINGCTL);
    command.args(["backup", "--data-dir"]).arg(from).arg("--backup-dir").arg(to).args(args);
    command.env_remove("ETCDCTL_API").output().expect("ringctl runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn ids(client: &mut Client) -> (String, String) {
    let answer = client.request("GET", "/v2/members", "").expect("an answer");
    let cluster = answer.header("x-etcd-cluster-id").expect("the header").to_owned();
    let members = answer.json()["members"].as_array().expect("a list").clone();
    assert_eq!(members.len(), 1, "one member");
    assert_eq!(members[0]["name"], "default");
    (cluster, members[0]["id"].as_str().expect("an id").to_owned())
}

/// Ends the load when the test does, however it does: a scope waits for its threads.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_backup_under_load_holds_everything_answered_before_it() {
    const VALUE_BYTES: usize = 4096;
    let mut site = Site::new();
    // Snapshots and backups meet.
    site.extra = vec!["--snapshot-count".to_owned(), "300".to_owned()];
    let _server = site.start();
    let old = ids(&mut Client::open(site.client_port).expect("it listens"));
    let (answered, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let targets = tempfile::tempdir().expect("a scratch directory");
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            let mut client = Client::open(site.client_port).expect("it listens");
            let value = "x".repeat(VALUE_BYTES);
            for n in 1.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let form = format!("value={n}.{value}");
                let answer = client.request("PUT", &format!("/v2/keys/load/{n}"), &form).expect("an answer");
                assert_eq!(answer.status, 201);
                answered.store(n, Ordering::Release);
            }
        });
        for (round, least) in [50, 700, 1400].into_iter().enumerate() {
            // Patience for each write, however many are needed.
            while answered.load(Ordering::Acquire) < least {
                let sofar = answered.load(Ordering::Acquire);
                crate::wait_until("more was written", || answered.load(Ordering::Acquire) > sofar);
            }
            let before = answered.load(Ordering::Acquire);
            let target = targets.path().join(round.to_string());
            let done = backup(&[], &site.data_dir, &target);
            assert!(done.status.success(), "{}", stderr(&done));
            check_prefix(&target, before, &old);
        }
    });
}

/// The backup starts, and holds the keys 1 to some number of at least `before`, each with the index it had.
fn check_prefix(target: &Path, before: u64, old: &(String, String)) {
    let mut site = Site::at(target);
    site.extra = vec!["--force-new-cluster".to_owned()];
    let _server = site.start();
    let mut client = Client::open(site.client_port).expect("it listens");
    let new = ids(&mut client);
    assert!(new.0 != old.0 && new.1 != old.1, "ids are renewed: {new:?}");
    let answer = client.request("GET", "/v2/keys/load", "").expect("an answer");
    let json = answer.json();
    let nodes = json["node"]["nodes"].as_array().expect("a directory");
    let mut found: Vec<(u64, u64)> = nodes
        .iter()
        .map(|node| {
            let key = node["key"].as_str().and_then(|key| key.rsplit('/').next()).expect("a key");
            let value = node["value"].as_str().and_then(|value| value.split('.').next()).expect("a value");
            assert_eq!(key, value);
            (key.parse().expect("a number"), node["modifiedIndex"].as_u64().expect("an index"))
        })
        .collect();
    found.sort_unstable();
    assert!(found.len() as u64 >= before, "{} keys of {before} that were answered", found.len());
    let first = found[0].1;
    let wanted: Vec<(u64, u64)> = (1..=found.len() as u64).map(|n| (n, first + n - 1)).collect();
    assert_eq!(found, wanted, "a prefix of what was written");
    let answer = client.request("PUT", "/v2/keys/after", "value=1").expect("an answer");
    assert_eq!(answer.status, 201, "it takes writes");
    // The member has first published where clients reach it now.
    assert_eq!(answer.etcd_index(), found.last().expect("not empty").1 + 2, "indexes go on");
}

#[test]
fn a_member_of_three_becomes_a_cluster_of_one() {
    const KEYS: u64 = 30;
    let mut sites = [Site::new(), Site::new(), Site::new()];
    let name = |i: usize| format!("m{i}");
    let member = |(i, site): (usize, &Site)| format!("{}=http://127.0.0.1:{}", name(i), site.peer_port);
    let cluster = sites.iter().enumerate().map(member).collect::<Vec<_>>().join(",");
    for (i, site) in sites.iter_mut().enumerate() {
        site.extra = ["--name", &name(i), "--initial-cluster", &cluster].map(str::to_owned).to_vec();
    }
    let _others: Vec<_> = sites[1..].iter().map(Site::spawn).collect();
    let _first = sites[0].start();
    let targets = tempfile::tempdir().expect("a scratch directory");
    for (i, site) in sites.iter().enumerate() {
        crate::wait_until("the member serves", || Client::open(site.client_port).is_ok());
        let mut client = Client::open(site.client_port).expect("it listens");
        for n in 0..KEYS {
            let answer = client.request("PUT", &format!("/v2/keys/{i}/{n}"), "value=1").expect("an answer");
            assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
        }
        // The member that has just answered has it all, although nobody has written down yet that it is committed.
        let target = targets.path().join(name(i));
        let done = backup(&[], &site.data_dir, &target);
        assert!(done.status.success(), "{}", stderr(&done));
        let mut copy = Site::at(&target);
        copy.extra = vec!["--force-new-cluster".to_owned(), "--name".to_owned(), name(i)];
        let _copy = copy.start();
        let mut client = Client::open(copy.client_port).expect("it listens");
        let all = client.request("GET", &format!("/v2/keys/{i}"), "").expect("an answer").json();
        assert_eq!(all["node"]["nodes"].as_array().map(|nodes| nodes.len() as u64), Some(KEYS));
        let members = client.request("GET", "/v2/members", "").expect("an answer").json();
        assert_eq!(members["members"].as_array().map(Vec::len), Some(1), "{members}");
        assert_eq!(members["members"][0]["name"], name(i));
        assert_eq!(client.request("PUT", "/v2/keys/after", "value=1").expect("an answer").status, 201);
    }
}

#[test]
fn a_stopped_directory_with_its_log_elsewhere_is_copied() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let mut site = Site::at(&dir.path().join("data"));
    site.extra = ["--wal-dir", &path("wal"), "--snapshot-count", "50"].map(str::to_owned).to_vec();
    let mut server = site.start();
    let mut client = Client::open(site.client_port).expect("it listens");
    for n in 0..120 {
        assert_eq!(
            client.request("PUT", &format!("/v2/keys/k{n}"), "value=1&ttl=10000").expect("an answer").status,
            201
        );
    }
    drop(client);
    server.signal(15);
    server.wait(crate::PATIENCE);
    let target = dir.path().join("deep/copy");
    let done = backup(&["--wal-dir", &path("wal"), "--backup-wal-dir", &path("copy-wal")], &site.data_dir, &target);
    assert!(done.status.success(), "{}", stderr(&done));
    assert!(!target.join("member/wal").exists());
    let mut copy = Site::at(&target);
    copy.extra = ["--wal-dir", &path("copy-wal")].map(str::to_owned).to_vec();
    let _server = copy.start();
    let mut client = Client::open(copy.client_port).expect("it listens");
    let node = client.request("GET", "/v2/keys/k7", "").expect("an answer").json()["node"].clone();
    assert!(node["ttl"].as_u64().is_some_and(|ttl| ttl > 9000), "{node}");
    let all = client.request("GET", "/v2/keys/", "").expect("an answer").json();
    assert_eq!(all["node"]["nodes"].as_array().map(Vec::len), Some(120));
}

#[test]
fn an_interrupted_backup_leaves_nothing_that_looks_complete() {
    let site = Site::new();
    let _server = site.start();
    let mut client = Client::open(site.client_port).expect("it listens");
    let value = format!("value={}", "y".repeat(100_000));
    for n in 0..50 {
        assert_eq!(client.request("PUT", &format!("/v2/keys/k{n}"), &value).expect("an answer").status, 201);
    }
    let dir = tempfile::tempdir().expect("a scratch directory");
    let target = dir.path().join("copy");
    let mut complete = 0;
    for milliseconds in (0..60).step_by(3) {
        let mut command = Command::new(&*RINGCTL);
        command.args(["backup", "--data-dir"]).arg(&site.data_dir).arg("--backup-dir").arg(&target);
        let mut child = command.env_remove("ETCDCTL_API").stderr(Stdio::null()).spawn().expect("ringctl runs");
        thread::sleep(Duration::from_millis(milliseconds));
        child.kill().expect("a child of ours");
        child.wait().expect("it ends");
        if target.exists() {
            // Whoever finds the name finds all of it: reading it back is what a start would do.
            let again = dir.path().join(format!("again-{milliseconds}"));
            let done = backup(&[], &target, &again);
            assert!(done.status.success(), "{}", stderr(&done));
            complete += 1;
            std::fs::remove_dir_all(&target).expect("ours");
        }
    }
    let done = backup(&[], &site.data_dir, &target);
    assert!(
        done.status.success(),
        "after {complete} complete ones, what others left is no obstacle: {}",
        stderr(&done)
    );
    assert!(!dir.path().join("copy.partial").exists());
}

#[test]
fn a_target_in_use_stays_as_it_is() {
    let site = Site::new();
    let _server = site.start();
    let dir = tempfile::tempdir().expect("a scratch directory");
    std::fs::write(dir.path().join("mine"), "1").expect("a scratch file");
    let refused = backup(&[], &site.data_dir, dir.path());
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("is not empty"), "{}", stderr(&refused));
    assert_eq!(std::fs::read_dir(dir.path()).expect("ours").count(), 1);
    let refused = backup(&[], &dir.path().join("nowhere"), &dir.path().join("copy"));
    assert!(stderr(&refused).contains("nowhere/member/snap: no such file or directory"), "{}", stderr(&refused));
    assert!(!dir.path().join("copy").exists());
}
