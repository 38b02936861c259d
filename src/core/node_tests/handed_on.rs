//! Writes that come while leadership is being handed over: raft drops proposals then, ringd does not.

use super::*;
use crate::core::entries::is_forwarded_proposal;
use crate::core::replica::ENTRY_ROOM_BYTES;

/// Writes through every member while node 0 hands over, and lets `meanwhile` happen before anything is delivered.
fn write_everywhere(cluster: &mut Cluster, meanwhile: impl FnOnce(&mut Cluster)) {
    cluster.input(0, Input::TransferLeadership);
    cluster.poll(0);
    for node in 0..3 {
        cluster.put(node, 1, &format!("/{node}"), "x", None);
        cluster.poll(node);
    }
    meanwhile(cluster);
}

fn answered(cluster: &mut Cluster) -> usize {
    let is_event = |answer: &Answer| matches!(answer.outcome, Outcome::Event(_));
    (0..3).map(|node| cluster.answers(node).iter().filter(|answer| is_event(answer)).count()).sum()
}

#[test]
fn writes_go_on_to_the_next_leader() {
    let mut cluster = Cluster::led(3);
    cluster.tick(3);
    write_everywhere(&mut cluster, |_| ());
    cluster.settle();
    cluster.tick(2);
    assert!(!cluster.nodes[0].is_leader() && cluster.nodes[0].has_leader());
    assert_eq!(answered(&mut cluster), 3);
}

#[test]
fn writes_that_reach_the_old_leader_late_go_on_too() {
    let mut cluster = Cluster::led(3);
    cluster.tick(3);
    let mut late = VecDeque::new();
    write_everywhere(&mut cluster, |cluster| {
        late = cluster.mail.iter().filter(|message| is_forwarded_proposal(message)).cloned().collect();
        cluster.mail.retain(|message| !is_forwarded_proposal(message));
    });
    cluster.settle();
    assert!(!cluster.nodes[0].is_leader());
    assert_eq!(late.len(), 2, "two followers forward");
    cluster.mail = late;
    cluster.settle();
    cluster.tick(2);
    assert_eq!(answered(&mut cluster), 3);
}

#[test]
fn a_hand_over_that_fails_keeps_the_writes() {
    let mut cluster = Cluster::led(3);
    cluster.tick(3);
    // Nobody hears that it should take over.
    write_everywhere(&mut cluster, |cluster| cluster.mail.retain(is_forwarded_proposal));
    cluster.settle();
    assert!(cluster.nodes[0].queued_bytes() > 3 * ENTRY_ROOM_BYTES, "the log's room for all three is spoken for");
    cluster.tick(15);
    assert_eq!(answered(&mut cluster), 3);
    assert_eq!(cluster.nodes[0].queued_bytes(), 0);
}
