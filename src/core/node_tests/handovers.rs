//! Leadership is handed over before a stop, and by a leader whose disk stalls to one whose disk does not.

use super::*;

#[test]
fn a_stop_hands_leadership_over_and_a_single_member_has_nobody_to_wait_for() {
    let mut cluster = Cluster::led(3);
    cluster.tick(3);
    cluster.input(0, Input::TransferLeadership);
    cluster.tick(2);
    assert!(!cluster.nodes[0].is_leader() && cluster.nodes[0].has_leader());
    assert!(cluster.effects[0].notices.contains(&Notice::NotLeading));
    let mut alone = Cluster::led(1);
    alone.input(0, Input::TransferLeadership);
    alone.settle();
    assert!(alone.effects[0].notices.contains(&Notice::NotLeading));
}

/// A sync of node 0 is looked at with each of some ticks.
fn stall(cluster: &mut Cluster, for_ms: std::ops::RangeInclusive<u64>) {
    for for_ms in for_ms.step_by(100) {
        cluster.input(0, Input::DiskStalled { for_ms });
        cluster.tick(1);
    }
}

#[test]
fn a_leader_whose_disk_stalls_hands_over_to_one_whose_does_not() {
    let mut cluster = Cluster::led(3);
    cluster.tick(3);
    cluster.slow = vec![0];
    cluster.put(0, 1, "/a", "1", None);
    cluster.settle();
    stall(&mut cluster, 100..=400);
    assert!(cluster.nodes[0].is_leader(), "a slow sync is no stall");
    stall(&mut cluster, 500..=600);
    let leader = (1..3).find(|node| cluster.nodes[*node].is_leader()).expect("another leads");
    cluster.put(leader, 2, "/a", "2", None);
    cluster.settle();
    assert_eq!(cluster.answers(leader).len(), 1, "the slow disk holds nobody up");
}

#[test]
fn a_leader_whose_followers_disks_stall_as_well_stays() {
    let mut cluster = Cluster::led(3);
    cluster.tick(3);
    cluster.slow = vec![0, 1, 2];
    cluster.put(0, 1, "/a", "1", None);
    cluster.settle();
    stall(&mut cluster, 100..=900);
    // One of them ends first, and then the others: nobody is quicker.
    cluster.slow = vec![0, 2];
    stall(&mut cluster, 1000..=1100);
    assert!(cluster.nodes[0].is_leader());
    cluster.slow.clear();
    cluster.settle();
    assert_eq!(cluster.answers(0).len(), 1);
    // The next stall is looked at anew.
    cluster.slow = vec![0];
    cluster.put(0, 2, "/a", "2", None);
    cluster.settle();
    stall(&mut cluster, 600..=700);
    assert!(cluster.nodes[0].is_leader());
    stall(&mut cluster, 800..=900);
    assert!(!cluster.nodes[0].is_leader());
}

#[test]
fn followers_with_slow_disks_are_not_taken_for_dead() {
    let mut cluster = Cluster::led(3);
    cluster.tick(3);
    let term = cluster.nodes[0].term();
    cluster.slow = vec![1, 2];
    // Entries and heartbeats arrive together and apart, for several election timeouts.
    for round in 0..50 {
        cluster.put(0, round, "/a", "1", None);
        cluster.tick(1);
    }
    assert!(cluster.nodes[0].is_leader(), "it hears that its followers hear it");
    assert_eq!(cluster.nodes[0].term(), term);
    assert!(cluster.answers(0).is_empty(), "nothing is answered without a quorum on disk");
    cluster.slow.clear();
    cluster.settle();
    assert_eq!(cluster.answers(0).len(), 50);
}
