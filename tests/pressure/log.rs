//! A log that cannot be let go, for snapshots fail: it is kept within a limit, and goes on when they succeed.

use std::fs;

use crate::flood::metric;
use crate::support::{Client, wait_for};
use crate::{TOO_MANY, assert_refused, metrics, put, site, status};

const SNAPSHOT_COUNT: u64 = 500;
const LOG_BYTES: f64 = 500_000.0;

#[test]
fn the_log_stays_within_its_limit_while_snapshots_fail() {
    let count = SNAPSHOT_COUNT.to_string();
    let site = site(&["--snapshot-count", &count, "--ringd-log-bytes", "500000"]);
    let server = site.start();
    let mut client = Client::open(site.client_port).expect("connect");
    let term = metric(&metrics(&mut client), "ringd_raft_term") as u64;
    // A directory that has the name of a snapshot's temporary file is in its way, whoever runs this.
    let snapshots = site.data_dir.join("member/snap");
    let obstacles: Vec<_> = (SNAPSHOT_COUNT / 2..2 * SNAPSHOT_COUNT)
        .map(|index| snapshots.join(format!("{term:016x}-{index:016x}.snap.tmp")))
        .collect();
    for obstacle in &obstacles {
        fs::create_dir(obstacle).expect("a directory");
    }
    let form = format!("value={}", "x".repeat(2000));
    let refused = (0..2 * SNAPSHOT_COUNT).find_map(|key| {
        let answer = put(&mut client, &format!("/k/{key}"), &form);
        (answer.status != 201).then_some((key, answer))
    });
    let (accepted, answer) = refused.expect("a write is refused once a snapshot has failed");
    assert_refused(&answer, 503, TOO_MANY);
    assert!((SNAPSHOT_COUNT / 2..=SNAPSHOT_COUNT + 10).contains(&accepted), "{accepted}");
    wait_for("the operator is told", || server.stderr().contains("exceeds --ringd-log-bytes").then_some(()));
    assert_eq!(status(&mut client, "/v2/keys/k/0?quorum=true"), 200, "reads go on");
    let text = metrics(&mut client);
    assert!(metric(&text, "ringd_log_bytes") > LOG_BYTES);
    assert!(metric(&text, "ringd_writes_refused_total{reason=\"overload\"}") >= 1.0);

    for obstacle in &obstacles {
        fs::remove_dir(obstacle).expect("an empty directory");
    }
    wait_for("a write is taken again", || (put(&mut client, "/again", "value=1").status < 300).then_some(()));
    assert!(server.stderr().contains("a snapshot let the log go"), "{}", server.stderr());
}
