//! Clusters of real processes that are killed, paused, cut apart, restarted, grown and shrunk under load.
//!
//! Each scenario ends with the same checks (`load.rs`): no acknowledged write is lost, all trees are equal, and every
//! `quorum=true` read can be explained by one order of all writes. Members live in network namespaces where these are
//! permitted, else on loopback, where what needs cuts says that it is skipped.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test of real processes measures real time")]

mod cluster;
#[path = "../support/disk.rs"]
mod disk;
mod linear;
mod load;
mod names;
mod net;
mod snapshots;
#[path = "../support/mod.rs"]
mod support;
mod told;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use cluster::{Cluster, PATIENCE, wait_for};
use load::Load;
use support::{snapshot_indexes, snapshots_beyond};

const STOP: i32 = 19;
const CONTINUE: i32 = 18;
/// Writes that show that the cluster works.
const SOME: u64 = 100;

fn clients(cluster: &Cluster) -> Vec<SocketAddr> {
    cluster.nodes.iter().map(|node| node.client).collect()
}

fn three(flags: &[&str]) -> Cluster {
    let mut cluster = Cluster::new(3, flags);
    cluster.found(&[0, 1, 2]);
    cluster
}

#[test]
fn a_killed_leader_is_replaced_and_comes_back() {
    let mut cluster = three(&[]);
    let load = Load::start(clients(&cluster));
    for _ in 0..3 {
        load.wait_for_writes(SOME);
        let leader = cluster.leader();
        cluster.kill(leader);
        load.wait_for_writes(SOME);
        cluster.restart(leader);
        cluster.wait_until_served(leader);
    }
    load.finish_and_check(&cluster);
}

/// Waits until one of these members says that it leads.
fn wait_until_one_leads(cluster: &Cluster, members: &[usize]) {
    wait_for("the others to elect", || {
        let told = |member| cluster.request(member, "GET", "/v2/stats/self", "").map(|answer| answer.json());
        members.iter().find(|&&member| told(member).is_some_and(|told| told["state"] == "StateLeader")).copied()
    });
}

#[test]
fn a_paused_leader_is_replaced_and_follows_when_it_goes_on() {
    let cluster = three(&[]);
    let load = Load::start(clients(&cluster));
    load.wait_for_writes(SOME);
    let leader = cluster.leader();
    cluster.signal(leader, STOP);
    wait_until_one_leads(&cluster, &[(leader + 1) % 3, (leader + 2) % 3]);
    load.wait_for_writes(SOME);
    // It wakes up believing that it leads: what it then answers is checked against everybody else's answers.
    cluster.signal(leader, CONTINUE);
    load.wait_for_writes(SOME);
    cluster.wait_until_served(leader);
    load.finish_and_check(&cluster);
}

#[test]
fn a_paused_follower_catches_up_by_snapshot() {
    // What the leader keeps behind its snapshot for those who are slow; this one is slower.
    const KEPT: u64 = 5000;
    const INTERVAL: u64 = 500;
    let mut cluster = three(&[&format!("--snapshot-count={INTERVAL}")]);
    let load = Load::start(clients(&cluster));
    load.wait_for_writes(SOME);
    let follower = (cluster.leader() + 1) % 3;
    // It has snapshots of its own, and takes none from here on: what it installs replaces them.
    while snapshot_indexes(&cluster.log(follower)).next().is_none() {
        load.wait_for_writes(SOME);
    }
    cluster.stop(follower);
    let initial = cluster.initial(&[follower]);
    cluster.spawn(follower, &initial, &["--snapshot-count=100000000", "--max-snapshots=1"]);
    cluster.wait_until_served(follower);
    cluster.signal(follower, STOP);
    // A leader keeps what members lack that it has heard of within two election timeouts.
    std::thread::sleep(Duration::from_secs(3));
    let leader = cluster.leader();
    let known = snapshot_indexes(&cluster.log(leader)).last().unwrap_or_default() + 2 * INTERVAL;
    // Patience for each few writes, however many are needed.
    let mut written = 0;
    while snapshots_beyond(&cluster.log(leader), known + KEPT) < 2 {
        load.wait_for_writes(SOME);
        written += SOME;
        assert!(written < 20 * KEPT, "what the follower lacks is not forgotten: {}", cluster.log(leader));
    }
    cluster.signal(follower, CONTINUE);
    wait_for("the snapshot to be installed", || {
        cluster.log(follower).contains("read the snapshot from the leader").then_some(())
    });
    wait_for("the snapshots before it to be removed", || (cluster.snapshots(follower) == 1).then_some(()));
    load.wait_for_writes(SOME);
    load.finish_and_check(&cluster);
}

#[test]
fn a_leader_cut_off_from_all_is_replaced_and_follows_when_it_is_back() {
    let cluster = three(&[]);
    if !cluster.net.can_cut() {
        support::skip("a full partition", "it needs network namespaces");
        return;
    }
    let load = Load::start(clients(&cluster));
    load.wait_for_writes(SOME);
    let leader = cluster.leader();
    let others: Vec<usize> = (0..3).filter(|&member| member != leader).collect();
    for &other in &others {
        cluster.net.cut(leader, other);
        cluster.net.cut(other, leader);
    }
    wait_until_one_leads(&cluster, &others);
    // Clients of the minority get an answer, and not a wrong one.
    let refused = cluster.request(leader, "PUT", "/v2/keys/minority", "value=1").expect("an answer");
    assert_eq!(refused.status, 500, "{refused:?}");
    assert_eq!(cluster.request(leader, "GET", "/health", "").expect("an answer").status, 503);
    let local = cluster.request(leader, "GET", "/v2/keys/", "").expect("an answer");
    assert_eq!(local.status, 200, "plain reads go on");
    load.wait_for_writes(SOME);
    for &other in &others {
        cluster.net.join(leader, other);
        cluster.net.join(other, leader);
    }
    load.wait_for_writes(SOME);
    cluster.wait_until_served(leader);
    load.finish_and_check(&cluster);
}

#[test]
fn a_leader_that_one_follower_cannot_hear_goes_on_leading() {
    let cluster = three(&[]);
    if !cluster.net.can_cut() {
        support::skip("an asymmetric partition", "it needs network namespaces");
        return;
    }
    let load = Load::start(clients(&cluster));
    load.wait_for_writes(SOME);
    let leader = cluster.leader();
    let deaf = (leader + 1) % 3;
    // One direction only: the follower's packets arrive, nothing comes back to it.
    cluster.net.cut(leader, deaf);
    load.wait_for_writes(10 * SOME);
    cluster.net.join(leader, deaf);
    load.wait_for_writes(SOME);
    // And a follower that hears everybody and whom nobody hears.
    let mute = (cluster.leader() + 1) % 3;
    let others: Vec<usize> = (0..3).filter(|&member| member != mute).collect();
    others.iter().for_each(|&other| cluster.net.cut(mute, other));
    load.wait_for_writes(10 * SOME);
    others.iter().for_each(|&other| cluster.net.join(mute, other));
    load.wait_for_writes(SOME);
    cluster.wait_until_served(mute);
    load.finish_and_check(&cluster);
}

#[test]
fn without_a_quorum_every_member_says_so_and_still_reads() {
    let cluster = three(&[]);
    if !cluster.net.can_cut() {
        support::skip("members that are all alone", "it needs network namespaces");
        return;
    }
    let load = Load::start(clients(&cluster));
    load.wait_for_writes(SOME);
    let metric = |member: usize, name: &str| {
        let text = String::from_utf8(cluster.request(member, "GET", "/metrics", "")?.body).expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix(name).map(|rest| rest.trim().to_owned()))?;
        line.parse::<u64>().ok()
    };
    let health = |member: usize| {
        let answer = cluster.request(member, "GET", "/health", "")?;
        Some((answer.status, answer.json()["health"].as_str().expect("a word").to_owned()))
    };
    for member in 0..3 {
        wait_for("a member to be healthy", || (health(member) == Some((200, "true".to_owned()))).then_some(()));
        wait_for("a member to know a leader", || (metric(member, "etcd_server_has_leader") == Some(1)).then_some(()));
    }
    let pairs = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)];
    pairs.iter().for_each(|&(from, to)| cluster.net.cut(from, to));
    for member in 0..3 {
        wait_for("a member to miss the leader", || {
            (metric(member, "etcd_server_has_leader") == Some(0) && metric(member, "etcd_server_is_leader") == Some(0))
                .then_some(())
        });
        assert_eq!(health(member), Some((503, "false".to_owned())), "m{member}");
        assert_eq!(cluster.request(member, "GET", "/v2/keys/", "").expect("an answer").status, 200);
        assert_eq!(cluster.request(member, "GET", "/v2/stats/leader", "").expect("an answer").status, 403);
        let failures = metric(member, "etcd_server_health_failures");
        assert!(failures > Some(0), "m{member} counted {failures:?} failures");
    }
    // All at once: each waits for its time limit.
    std::thread::scope(|scope| {
        let asked = [("PUT", "/v2/keys/alone"), ("GET", "/v2/keys/?quorum=true")];
        for (member, (method, path)) in (0..3).flat_map(|member| asked.map(|asked| (member, asked))) {
            let cluster = &cluster;
            scope.spawn(move || {
                let refused = cluster.request(member, method, path, "value=1").expect("an answer");
                assert_eq!(refused.status, 500, "{refused:?}");
            });
        }
    });
    pairs.iter().for_each(|&(from, to)| cluster.net.join(from, to));
    (0..3).for_each(|member| cluster.wait_until_served(member));
    for member in 0..3 {
        wait_for("a member to find the leader", || (metric(member, "etcd_server_has_leader") == Some(1)).then_some(()));
    }
    load.wait_for_writes(SOME);
    load.finish_and_check(&cluster);
}

#[test]
fn a_follower_whose_disk_takes_less_than_it_is_sent_lives_and_catches_up() {
    /// Room for one segment of the log, which holds 64 MiB, not for a second.
    const SMALL_MIB: usize = 80;
    /// More than one segment holds, and less than makes the leader write a snapshot.
    const WRITES: usize = 75;
    const WRITE_BYTES: usize = 1 << 20;
    /// It has taken that many of them at least.
    const SOME_BIG: u64 = 30;
    let test = "a_follower_whose_disk_takes_less_than_it_is_sent_lives_and_catches_up";
    let mut cluster = Cluster::new(3, &[]);
    if !cluster.net.can_cut() {
        return support::skip(test, "it needs namespaces");
    }
    let dir = cluster.nodes[2].data_dir.clone();
    std::fs::create_dir(&dir).expect("a directory");
    let dir = disk::text(&dir).to_owned();
    cluster.nodes[2].prelude = format!("mount -t tmpfs -o size={SMALL_MIB}m tmpfs '{dir}'");
    cluster.found(&[0, 1, 2]);
    // What it misses is sent at once when it goes on.
    cluster.signal(2, STOP);
    // Writes that are not forwarded are quicker.
    let leader = wait_for("a leader", || (0..2).find(|&member| cluster.says_it_leads(member)));
    let value = format!("value={}", "x".repeat(WRITE_BYTES));
    for number in 0..WRITES {
        wait_for("a write without the follower", || {
            let written = cluster.request(leader, "PUT", &format!("/v2/keys/big/{}", number % 8), &value)?;
            (written.status < 300).then_some(())
        });
    }
    cluster.signal(2, CONTINUE);
    let index = |member| Some(cluster.request(member, "GET", "/v2/keys/", "")?.etcd_index());
    let behind = || {
        let log = cluster.log(2);
        assert!(!cluster.nodes[2].server.as_ref().expect("it runs").has_ended(), "the follower died: {log}");
        index(2).expect("it reads from what it has")
    };
    // It takes what it has room for, and then nothing for a while in which the leader sends again and again.
    let ahead = index(leader).expect("the leader answers");
    let mut last = behind();
    wait_for("the follower to stand still", || {
        std::thread::sleep(Duration::from_secs(1));
        let before = std::mem::replace(&mut last, behind());
        (before == last && before > SOME_BIG).then_some(())
    });
    assert!(last < ahead, "{SMALL_MIB} MiB held {WRITES} MiB");
    assert!(cluster.log(2).contains("writes are refused before the WAL runs out of room"), "{}", cluster.log(2));
    let metrics = cluster.request(2, "GET", "/metrics", "").expect("an answer").body;
    let received: f64 = String::from_utf8_lossy(&metrics)
        .lines()
        .filter(|line| line.starts_with("etcd_network_peer_received_bytes_total{"))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum();
    assert!(received < (10 * WRITES * WRITE_BYTES) as f64, "{WRITES} MiB took {received} bytes so far");
    let pid = cluster.nodes[2].server.as_ref().expect("it runs").pid().to_string();
    let grow = ["-t", &pid, "-m", "mount", "-o", &format!("remount,size={}m", 4 * SMALL_MIB), &dir];
    disk::run("nsenter", &grow).expect("a disk that grows");
    cluster.wait_until_equal();
    assert!(cluster.log(2).contains("there is space for the WAL again"), "{}", cluster.log(2));
    cluster.wait_until_served(2);
}

#[test]
fn a_rolling_restart_loses_nothing() {
    let mut cluster = three(&["--snapshot-count=300"]);
    let load = Load::start(clients(&cluster));
    for member in [0, 1, 2, 0] {
        load.wait_for_writes(SOME);
        cluster.stop(member);
        load.wait_for_writes(SOME);
        cluster.restart(member);
        cluster.wait_until_served(member);
    }
    load.finish_and_check(&cluster);
}

#[test]
fn power_loss_of_all_members_loses_nothing() {
    let mut cluster = three(&["--snapshot-count=300"]);
    let load = Load::start(clients(&cluster));
    for _ in 0..2 {
        load.wait_for_writes(5 * SOME);
        cluster.running().into_iter().for_each(|member| cluster.signal(member, STOP));
        cluster.running().into_iter().for_each(|member| cluster.kill(member));
        (0..3).for_each(|member| cluster.restart(member));
        (0..3).for_each(|member| cluster.wait_until_served(member));
    }
    load.finish_and_check(&cluster);
}

/// Adds `member` through `asked`, starts it, and waits until it serves.
fn grow(cluster: &mut Cluster, asked: usize, member: usize) {
    let body = format!("{{\"peerURLs\":[\"{}\"]}}", cluster.nodes[member].peer_url);
    wait_for("the member to be added", || {
        let answer = json_request(cluster, asked, "POST", "/v2/members", &body)?;
        // Until everybody has been connected for a while, and after an earlier change: ask again.
        assert!(matches!(answer.status, 201 | 409 | 500 | 503), "{answer:?}");
        matches!(answer.status, 201 | 409).then_some(())
    });
    let mut members = cluster.running();
    members.push(member);
    let initial = cluster.initial(&members);
    cluster.spawn(member, &initial, &["--initial-cluster-state=existing"]);
    cluster.wait_until_served(member);
}

fn json_request(cluster: &Cluster, asked: usize, method: &str, path: &str, body: &str) -> Option<support::Answer> {
    let mut client = support::Client::connect(cluster.nodes[asked].client, PATIENCE).ok()?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    client.send(request.as_bytes()).ok()?;
    client.receive(false).ok()
}

#[test]
fn a_cluster_grows_from_one_to_five_and_shrinks_again() {
    let mut cluster = Cluster::new(5, &["--snapshot-count=300"]);
    cluster.found(&[0]);
    let load = Load::start(vec![cluster.nodes[0].client]);
    load.wait_for_writes(5 * SOME);
    for member in 1..5 {
        grow(&mut cluster, 0, member);
        load.wait_for_writes(SOME);
        cluster.wait_until_served(member);
    }
    for member in (1..5).rev() {
        let id = cluster.member_id(0, &cluster.nodes[member].name).expect("a member");
        wait_for("the member to be removed", || {
            let answer = cluster.request(0, "DELETE", &format!("/v2/members/{id}"), "")?;
            assert!(matches!(answer.status, 204 | 410 | 404 | 500 | 503), "{answer:?}");
            matches!(answer.status, 204 | 410).then_some(())
        });
        let mut gone = cluster.nodes[member].server.take().expect("it runs");
        gone.wait(PATIENCE);
        assert!(
            gone.stderr().contains("the member has been permanently removed from the cluster"),
            "{}",
            gone.stderr()
        );
        load.wait_for_writes(SOME);
    }
    load.finish_and_check(&cluster);
}

#[test]
fn a_member_that_was_away_when_it_was_removed_is_told() {
    let mut cluster = three(&[]);
    let leader = cluster.leader();
    let away = (leader + 1) % 3;
    let id = cluster.member_id(leader, &cluster.nodes[away].name).expect("a member");
    cluster.kill(away);
    wait_for("the member to be removed", || {
        let answer = cluster.request(leader, "DELETE", &format!("/v2/members/{id}"), "")?;
        matches!(answer.status, 204 | 410).then_some(())
    });
    cluster.restart(away);
    let mut server = cluster.nodes[away].server.take().expect("it runs");
    server.wait(PATIENCE);
    assert!(
        server.stderr().contains("the member has been permanently removed from the cluster"),
        "{}",
        server.stderr()
    );
}

#[test]
fn a_member_that_lost_its_disk_does_not_found_the_cluster_again() {
    let mut cluster = three(&[]);
    let initial = cluster.initial(&[0, 1, 2]);
    let lost = cluster.leader();
    cluster.request(lost, "PUT", "/v2/keys/a", "value=1").expect("an answer");
    cluster.kill(lost);
    std::fs::remove_dir_all(&cluster.nodes[lost].data_dir).expect("a data directory");
    // The others can tell of the cluster once they have a leader.
    cluster.leader();
    cluster.spawn(lost, &initial, &[]);
    let mut server = cluster.nodes[lost].server.take().expect("it runs");
    let status = server.wait(PATIENCE);
    assert_eq!(status.code(), Some(1));
    assert!(server.stderr().contains("has already been bootstrapped"), "{}", server.stderr());
    let left = cluster.leader();
    assert_eq!(cluster.request(left, "GET", "/v2/keys/a?quorum=true", "").expect("an answer").status, 200);
}

#[test]
fn the_last_member_can_be_made_a_cluster_of_its_own() {
    let mut cluster = three(&[]);
    let answer = cluster.request(0, "PUT", "/v2/keys/a", "value=1").expect("an answer");
    assert_eq!(answer.status, 201);
    cluster.wait_until_equal();
    (0..3).for_each(|member| cluster.kill(member));
    let initial = cluster.initial(&[0, 1, 2]);
    cluster.spawn(2, &initial, &["--force-new-cluster"]);
    cluster.wait_until_served(2);
    assert!(cluster.log(2).contains("forcing restart of member"), "{}", cluster.log(2));
    assert_eq!(cluster.request(2, "GET", "/v2/keys/a?quorum=true", "").expect("an answer").status, 200);
    let members = cluster.request(2, "GET", "/v2/members", "").expect("an answer").json();
    assert_eq!(members["members"].as_array().map(Vec::len), Some(1), "{members}");
    cluster.stop(2);
    cluster.restart(2);
    cluster.wait_until_served(2);
    assert_eq!(cluster.request(2, "PUT", "/v2/keys/b", "value=1").expect("an answer").status, 201);
}

#[test]
fn a_member_that_waits_for_its_cluster_says_so_and_serves_what_it_can() {
    let mut cluster = Cluster::new(3, &[]);
    let initial = cluster.initial(&[0, 1, 2]);
    cluster.spawn(0, &initial, &[]);
    let version = wait_for("the version", || cluster.request(0, "GET", "/version", ""));
    assert_eq!(version.json()["etcdcluster"], "not_decided");
    let health = cluster.request(0, "GET", "/health", "").expect("an answer");
    assert_eq!((health.status, &health.body[..]), (503, &b"{\"health\":\"false\"}\n"[..]));
    wait_for("it to say why", || cluster.log(0).contains("waiting for the cluster").then_some(()));
    cluster.spawn(1, &initial, &[]);
    cluster.wait_until_served(0);
    cluster.wait_until_served(1);
}

#[test]
fn members_meet_on_unix_sockets_and_do_without_one_whose_name_is_not_known_yet() {
    let mut cluster = Cluster::new(3, &[]);
    for (member, name) in ["m0:1", "m1:1"].into_iter().enumerate() {
        cluster.nodes[member].peer_url = format!("unix://{name}");
    }
    cluster.nodes[2].peer_url = "http://m2.invalid:1".to_owned();
    let initial = cluster.initial(&[0, 1, 2]);
    cluster.spawn(0, &initial, &[]);
    cluster.spawn(1, &initial, &[]);
    cluster.wait_until_served(0);
    cluster.wait_until_served(1);
    for member in [0, 1] {
        let answer = cluster.request(member, "PUT", "/v2/keys/a", "value=1").expect("an answer");
        assert!(matches!(answer.status, 200 | 201));
    }
    cluster.nodes.truncate(2);
    cluster.wait_until_equal();
}

#[test]
fn members_of_another_cluster_are_refused_and_both_say_so() {
    let mut cluster = Cluster::new(3, &[]);
    let initial = cluster.initial(&[0, 1, 2]);
    cluster.spawn(0, &initial, &[]);
    cluster.spawn(1, &initial, &[]);
    cluster.wait_until_served(0);
    cluster.spawn(2, &initial, &["--initial-cluster-token=another"]);
    let both = r"cluster ID mismatch( \(got [0-9a-f]+ want [0-9a-f]+\)|: peer\[[0-9a-f]+\]=[0-9a-f]+, local=[0-9a-f]+)";
    let both = regex::Regex::new(both).expect("a pattern");
    for member in 0..3 {
        wait_for(&format!("m{member} to say so"), || both.is_match(&cluster.log(member)).then_some(()));
    }
    assert_eq!(cluster.request(0, "PUT", "/v2/keys/a", "value=1").expect("an answer").status, 201);
}

#[test]
fn writes_go_anywhere_and_every_member_tells_the_same_of_the_cluster() {
    let cluster = three(&[]);
    for member in 0..3 {
        let written = cluster.request(member, "PUT", &format!("/v2/keys/{member}"), "value=1").expect("an answer");
        assert_eq!(written.status, 201);
        assert!(written.header("x-raft-index").is_some() && written.header("x-raft-term").is_some());
        let read = cluster.request(member, "GET", &format!("/v2/keys/{member}"), "").expect("an answer");
        assert_eq!(read.status, 200, "a member reads what it has acknowledged");
        wait_for("a member to be healthy", || {
            (cluster.request(member, "GET", "/health", "").expect("an answer").status == 200).then_some(())
        });
    }
    let all = |path: &str| -> Vec<Vec<u8>> {
        (0..3).map(|member| cluster.request(member, "GET", path, "").expect("an answer").body).collect()
    };
    for path in ["/v2/members", "/v2/members/leader", "/v2/machines", "/version"] {
        wait_for(path, || all(path).windows(2).all(|pair| pair[0] == pair[1]).then_some(()));
    }
    // On a busy machine another may lead by now, or soon.
    let leader = wait_for("the leader, and nobody else, to tell of two followers", || {
        let leader = cluster.leader();
        let stats = |member| cluster.request(member, "GET", "/v2/stats/leader", "").expect("an answer");
        let told = stats(leader);
        let others = [(leader + 1) % 3, (leader + 2) % 3];
        if told.status != 200 || others.into_iter().any(|member| stats(member).status != 403) {
            return None;
        }
        let told = told.json();
        let followers = told["followers"].as_object().expect("followers");
        assert_eq!(followers.len(), 2);
        followers.values().all(|follower| follower["counts"]["success"].as_u64() > Some(0)).then_some(leader)
    });
    let told = |member: usize| cluster.request(member, "GET", "/v2/stats/self", "").expect("an answer").json();
    assert!(told(leader)["sendAppendRequestCnt"].as_u64() > Some(0));
    assert!(told((leader + 1) % 3)["recvAppendRequestCnt"].as_u64() > Some(0));
    let metrics = cluster.request(leader, "GET", "/metrics", "").expect("an answer");
    let text = String::from_utf8(metrics.body).expect("text");
    assert_eq!(text.matches("etcd_network_active_peers{").count(), 2, "{text}");
}

#[test]
fn the_script_starts_three_members_and_stops_them() {
    // Its ports are fixed, so it runs where nobody else listens.
    let net = net::Net::new(1);
    if !net.can_cut() {
        return support::skip("tools/local-cluster.sh", "it needs network namespaces");
    }
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let mut command = net.command(0, "", concat!(env!("CARGO_MANIFEST_DIR"), "/tools/local-cluster.sh"));
    command.env("RINGD", env!("CARGO_BIN_EXE_ringd")).env("RINGD_LOCAL_DIR", scratch.path());
    let mut script = support::Server::spawn(command);
    let log = |name: &str| std::fs::read_to_string(scratch.path().join(name)).unwrap_or_default();
    let names = ["infra1.log", "infra2.log", "infra3.log"];
    for name in names {
        wait_for(&format!("{name}: {}", log(name)), || log(name).contains("ready to serve client").then_some(()));
    }
    script.signal(15);
    script.wait(PATIENCE);
    for name in names {
        assert!(log(name).contains("stopped"), "{name}: {}", log(name));
    }
}

#[test]
fn a_leader_whose_disk_stalls_hands_over_and_the_cluster_goes_on() {
    // Longer than the test looks, and far beyond what an election would wait for.
    const STALL: Duration = Duration::from_secs(30);
    // Of the others: m0, whose disk is slow, starts first and campaigns long before them.
    const LATER: &str = "--election-timeout=3000";
    let machine = match disk::Machine::new() {
        Ok(machine) => machine,
        Err(why) => return support::skip("a_leader_whose_disk_stalls_hands_over_and_the_cluster_goes_on", &why),
    };
    let mut cluster = Cluster::new(3, &[]);
    cluster.nodes[0].data_dir = machine.mount.join("m0");
    let initial = cluster.initial(&[0, 1, 2]);
    // Who leads remains a matter of chance, so the cluster is started again until m0 does.
    for tries in 0.. {
        assert!(tries < 30, "m0 was never elected");
        cluster.spawn(0, &initial, &[]);
        wait_for("m0 to be there", || cluster.request(0, "GET", "/version", ""));
        [1, 2].into_iter().for_each(|member| cluster.spawn(member, &initial, &[LATER]));
        if cluster.leader() == 0 {
            break;
        }
        (0..3).for_each(|member| cluster.kill(member));
    }
    cluster.running().into_iter().for_each(|member| cluster.wait_until_served(member));
    let write = |number: u64| {
        let written = cluster.request(1, "PUT", &format!("/v2/keys/slow/{number}"), "value=1");
        written.filter(|answer| matches!(answer.status, 200 | 201)).map(|_| Instant::now())
    };
    let before = (0..20).filter_map(write).fold(None, |_, written| Some(written)).expect("writes are taken");
    let stalled = Instant::now();
    disk::lock(&machine.platter).flush_time = STALL;
    let m0 = cluster.member_id(1, "m0").expect("m0 is a member");
    let (mut last, mut longest) = (before, Duration::ZERO);
    // Writes through a follower go on meanwhile: two disks of three are a quorum.
    for number in 20.. {
        if let Some(written) = write(number) {
            longest = longest.max(written - last);
            last = written;
        }
        let told = cluster.request(1, "GET", "/v2/stats/self", "").expect("m1 answers").json();
        let leader = told["leaderInfo"]["leader"].as_str().unwrap_or_default();
        if !leader.is_empty() && leader != m0 && last > before {
            break;
        }
        assert!(before.elapsed() < STALL, "m0 still leads with a disk that stalls; it logged: {}", cluster.log(0));
    }
    let led = stalled.elapsed().as_millis();
    // A write that was lost on the way shows in the gap before the next one.
    let written = (0..10).find_map(|_| write(0)).expect("writes are taken");
    let longest = longest.max(written - last).as_millis();
    println!("another led {led} ms after the leader's disk stalled; the longest gap between writes was {longest} ms");
    wait_for("m0 to say that it handed over", || {
        cluster.log(0).contains("the disk stalls; handing leadership over").then_some(())
    });
    disk::lock(&machine.platter).flush_time = Duration::ZERO;
    cluster.wait_until_equal();
    (0..3).for_each(|member| cluster.kill(member));
}
