//! A cluster of three under more than it can carry, in short; `benches/overload` is the long form with figures.

use std::time::Duration;

use crate::cluster::Cluster;
use crate::flood::{Load, overload, quantile};
use crate::support::Server;

const TIME: Duration = Duration::from_secs(8);
const RECOVERY_PATIENCE: Duration = Duration::from_secs(60);
/// What is kept of the log in memory is bounded by its own settings; the rest is buffers.
const RESIDENT_MAX: f64 = 768.0 * 1024.0 * 1024.0;

#[test]
fn a_leader_under_several_times_its_load_keeps_its_term_its_memory_and_its_readers() {
    // Machines that run tests are slow and busy: an election must be the server's fault, not theirs.
    let flags = ["--election-timeout", "5000", "--snapshot-count", "2000", "--ringd-writes-pending-bytes", "2097152"];
    let mut cluster = Cluster::new(3, &flags);
    cluster.found(&[0, 1, 2]);
    let leader = cluster.leader();
    let members: Vec<_> = cluster.nodes.iter().map(|node| node.client).collect();
    let pid = cluster.nodes[leader].server.as_ref().map(Server::pid).expect("it runs");
    // As much as it takes, from many who do not wait for answers.
    let load = Load { to: members[leader], connections: 64, value_bytes: 16 << 10, depth: 1000, rate: f64::INFINITY };
    let figures = overload(load, pid, &members, TIME, RECOVERY_PATIENCE).expect("it goes on answering");
    let tally = figures.tally;
    eprintln!(
        "overload: {tally:?}; GET p50 {:.1} ms, p99 {:.1} ms; RSS {:.0} MiB, then {:.0} of {:.0} at most; late heartbeats {}; \
         PUT {:.2} ms before, back after {:?}",
        quantile(&figures.gets, 0.5),
        quantile(&figures.gets, 0.99),
        figures.resident_before / 1048576.0,
        figures.resident / 1048576.0,
        RESIDENT_MAX / 1048576.0,
        figures.late_heartbeats,
        figures.put_before,
        figures.recovered_after,
    );
    let log = || cluster.log(leader);
    // A leader whose disk was slow hands over, as it should; then the term is another one.
    let handed_over = || (0..3).any(|member| cluster.log(member).contains("handing leadership over"));
    assert!(figures.terms.0 == figures.terms.1 || handed_over(), "no election: {}", log());
    assert!(tally.accepted > 0 && tally.refused > 0, "{tally:?}: {}", log());
    assert_eq!((tally.other, tally.broken), (0, 0), "{tally:?}: {}", log());
    assert!(figures.resident < RESIDENT_MAX, "{}", figures.resident);
    assert!(!figures.gets.is_empty());
    assert!(figures.recovered_after.is_some(), "writes are as quick as before: {}", log());
    let kept = cluster.request(leader, "GET", "/v2/keys/flood/0?quorum=true", "").expect("an answer");
    assert_eq!(kept.status, 200);
}
