//! What members tell of the cluster while and after it changes: latencies of followers, and why a request was given up.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, wait_for};
use crate::support::Answer;
use crate::{CONTINUE, SOME, STOP, json_request, three};

/// Writes so many times through `member`.
fn write(cluster: &Cluster, member: usize, times: u64) {
    for number in 0..times {
        let written = cluster.request(member, "PUT", &format!("/v2/keys/{}", number % 10), "value=1");
        let written = written.expect("an answer");
        assert!(matches!(written.status, 200 | 201), "{written:?}");
    }
}

#[test]
fn the_leader_tells_how_fast_and_how_often_followers_answer() {
    let tries = 5;
    let told = (0..tries).find_map(|_| tells_of_its_followers(three(&[])));
    assert!(told.is_some(), "in {tries} tries no leader led to the end");
}

/// `None` when another came to lead meanwhile.
fn tells_of_its_followers(mut cluster: Cluster) -> Option<()> {
    let leader = cluster.leader();
    let number = r"[0-9]+(\.[0-9]+)?(e-?[0-9]+)?";
    // Names and their order are etcd 3.4's.
    let follower = format!(
        r#""[0-9a-f]+":\{{"latency":\{{"current":{number},"average":{number},"standardDeviation":{number},"minimum":{number},"maximum":{number}\}},"counts":\{{"fail":[0-9]+,"success":[0-9]+\}}\}}"#
    );
    let shape = format!(r#"^\{{"leader":"[0-9a-f]+","followers":\{{{follower},{follower}\}}\}}$"#);
    let shape = regex::Regex::new(&shape).expect("a pattern");
    let look = |cluster: &Cluster| {
        let answer = cluster.request(leader, "GET", "/v2/stats/leader", "").expect("an answer");
        let text = String::from_utf8(answer.body.clone()).expect("text");
        if answer.status == 403 {
            return None;
        }
        assert!(answer.status == 200 && shape.is_match(&text), "{text}");
        Some(answer.json())
    };
    let successes =
        |told: &serde_json::Value, id: &str| told["followers"][id]["counts"]["success"].as_u64().expect("n");
    write(&cluster, leader, SOME);
    let first = look(&cluster)?;
    assert_eq!(first["leader"].as_str(), cluster.member_id(leader, &cluster.nodes[leader].name).as_deref());
    let others: Vec<usize> = (0..3).filter(|&member| member != leader).collect();
    let ids: Vec<String> =
        others.iter().map(|&member| cluster.member_id(leader, &cluster.nodes[member].name).expect("an id")).collect();
    for id in &ids {
        let latency = &first["followers"][id]["latency"];
        let milliseconds = |name: &str| latency[name].as_f64().unwrap_or_else(|| panic!("{id}: {first}"));
        let [current, average, least, most] = ["current", "average", "minimum", "maximum"].map(milliseconds);
        let deviation = milliseconds("standardDeviation");
        assert!(0.0 < least && least <= average && average <= most, "{first}");
        assert!(least <= current && current <= most, "{first}");
        assert!((0.0..=most - least).contains(&deviation), "{first}");
        // No append of a test on one machine takes longer than the test may wait for anything.
        assert!(most < 60_000.0, "{first}");
    }
    // Every follower's own count grows with what it acknowledges.
    write(&cluster, leader, SOME);
    for id in &ids {
        wait_for("its count to grow", || match look(&cluster) {
            Some(told) => (successes(&told, id) > successes(&first, id)).then_some(Some(())),
            None => Some(None),
        })?;
    }
    // Of one that is gone, failures are counted, and of no other.
    let fails =
        |told: &serde_json::Value, id: &str| told["followers"][id]["counts"]["fail"].as_u64().expect("a number");
    let before = look(&cluster)?;
    cluster.kill(others[0]);
    wait_for("failures to be counted", || {
        write(&cluster, leader, 10);
        match look(&cluster) {
            Some(told) => (fails(&told, &ids[0]) > fails(&before, &ids[0])).then_some(Some(())),
            None => Some(None),
        }
    })?;
    let after = look(&cluster)?;
    assert!(successes(&after, &ids[1]) > successes(&before, &ids[1]), "{before} {after}");
    assert_eq!(fails(&after, &ids[1]), fails(&before, &ids[1]), "{before} {after}");
    Some(())
}

#[test]
fn a_change_that_would_cost_the_quorum_is_refused_and_says_why() {
    let mut cluster = three(&[]);
    let leader = cluster.leader();
    let (gone, left) = ((leader + 1) % 3, (leader + 2) % 3);
    let [gone_id, left_id] =
        [gone, left].map(|member| cluster.member_id(leader, &cluster.nodes[member].name).expect("an id"));
    cluster.kill(gone);
    // Until its absence is noticed, adding a member would not be refused.
    wait_for("its absence to be noticed", || {
        let is_noticed = |member: usize| cluster.log(member).contains(&format!("peer {gone_id} became inactive"));
        (is_noticed(leader) && is_noticed(left)).then_some(())
    });
    let why = "etcdserver: unhealthy cluster: this change of members could cost the quorum while ";
    for asked in [leader, left] {
        let body = r#"{"peerURLs":["http://127.0.0.1:9"]}"#;
        let added = json_request(&cluster, asked, "POST", "/v2/members", body).expect("an answer");
        let removed = cluster.request(asked, "DELETE", &format!("/v2/members/{left_id}"), "").expect("an answer");
        for refused in [added, removed] {
            // The body is etcd's, which says nothing.
            assert_eq!((refused.status, refused.json()["message"].as_str()), (500, Some("Internal Server Error")));
            // Just after the start, others have not been connected for five seconds either.
            let told = refused.header("x-ringd-reason").expect("a reason").to_owned();
            assert!(told.starts_with(why) && told.contains(&gone_id), "{told}");
            let line = format!("{told}, rejecting the change of members");
            wait_for(&line, || cluster.log(asked).contains(&line).then_some(()));
        }
    }
    // Nobody joined, and whoever is gone may be removed: that costs nothing.
    let members = || cluster.request(leader, "GET", "/v2/members", "").expect("an answer").json();
    assert_eq!(members()["members"].as_array().map(Vec::len), Some(3));
    wait_for("the member to be removed", || {
        let answer = cluster.request(left, "DELETE", &format!("/v2/members/{gone_id}"), "")?;
        matches!(answer.status, 204 | 410).then_some(())
    });
    wait_for("two to be left", || (members()["members"].as_array().map(Vec::len) == Some(2)).then_some(()));
}

/// Two election timeouts: a leader blames its predecessor for what arrived within them before it was elected.
const BLAMED: Duration = Duration::from_secs(2);
const PLAIN: &str = "etcdserver: request timed out";
const LEADER_FAILURE: &str = "etcdserver: request timed out, possibly due to previous leader failure";

fn cause(answer: &Answer) -> String {
    assert_eq!(answer.status, 500, "{answer:?}");
    let told = answer.json();
    assert_eq!((told["errorCode"].as_u64(), told["index"].as_u64()), (Some(300), Some(0)), "{told}");
    told["cause"].as_str().expect("a cause").to_owned()
}

/// Stops the leader, forwards a write to it from each follower, and ends it. What they answer: the next leader first;
/// `None` when a write came too late to be lost, or the election took too long to be sure that it is blamed.
fn lose_forwards(cluster: &mut Cluster) -> Option<[String; 2]> {
    let leader = cluster.leader();
    let others: Vec<usize> = (0..3).filter(|&member| member != leader).collect();
    cluster.signal(leader, STOP);
    let begun = Instant::now();
    let shared = &*cluster;
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let asked: Vec<_> = others
            .iter()
            .map(|&member| {
                scope.spawn(move || {
                    shared.request(member, "PUT", &format!("/v2/keys/lost/{member}"), "value=1").expect("an answer")
                })
            })
            .collect();
        let next = wait_for("another to lead", || others.iter().copied().find(|&member| shared.says_it_leads(member)));
        let elected = begun.elapsed();
        let mut answers: Vec<Answer> = asked.into_iter().map(|asked| asked.join().expect("a client")).collect();
        if next == others[1] {
            answers.swap(0, 1);
        }
        let is_lost = answers.iter().all(|answer| answer.status == 500);
        (is_lost && elected < BLAMED).then_some(answers)
    })
    .unwrap_or_default();
    cluster.signal(leader, CONTINUE);
    cluster.wait_until_served(leader);
    cluster.wait_until_equal();
    let [led, followed] = <[Answer; 2]>::try_from(answers).ok()?;
    Some([cause(&led), cause(&followed)])
}

#[test]
fn a_write_that_was_lost_with_its_leader_is_given_up_with_etcds_words() {
    let mut cluster = three(&[]);
    let tries = 20;
    for _ in 0..tries {
        // etcd 3.4.23 says the same two sentences in the same places: only the member that was elected knows when.
        if let Some(told) = lose_forwards(&mut cluster) {
            assert_eq!(told, [LEADER_FAILURE, PLAIN]);
            return;
        }
    }
    panic!("in {tries} tries no election ended within {BLAMED:?}");
}
