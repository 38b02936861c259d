//! The log of a busy cluster: what is forgotten of it, and what followers take of it.

use super::*;
use crate::core::entries::Entry as RaftEntry;

#[test]
fn the_log_does_not_grow_for_as_long_as_a_load_lasts() {
    const PUTS: u32 = 4000;
    let mut cluster = Cluster::led(1);
    let mut round = |_| {
        for seq in 0..PUTS {
            cluster.put(0, seq, "/k", "v", None);
        }
        cluster.disks[0].entries.clear();
        cluster.settle();
        let (_, done) = capture(&mut cluster.nodes[0]);
        cluster.input(0, Input::SnapshotStored { index: done.index });
        cluster.answers(0);
        cluster.nodes[0].log_memory()
    };
    let taken: Vec<u64> = (0..8).map(&mut round).collect();
    assert!(taken[7] < 3 * taken[0], "each turn must forget more than it appends: {taken:?}");
}

#[test]
fn an_append_that_begins_before_the_commit_is_taken_from_there_on() {
    let mut cluster = Cluster::led(3);
    cluster.put(0, 1, "/a", "1", None);
    cluster.settle();
    cluster.tick(1);
    let [.., before, last] = &cluster.disks[1].entries[..] else { panic!("two entries at least") };
    assert_eq!(cluster.nodes[1].committed(), last.index);
    let next = RaftEntry { index: last.index.get() + 1, term: last.term.get(), ..RaftEntry::default() };
    let (from, to) = (1, 2);
    let (index, log_term, term) = (before.index.get(), before.term.get(), cluster.nodes[1].term().get());
    let mut message =
        PeerMessage { from, to, index, log_term, term, commit: last.index.get(), ..PeerMessage::default() };
    message.set_msg_type(MessageType::MsgAppend);
    message.set_entries(vec![entry_from_record(last.as_ref()), next.clone()].into());
    cluster.input(1, Input::Peer(message));
    cluster.poll(1);
    assert_eq!(cluster.disks[1].entries.last().map(|entry| entry.index.get()), Some(next.index));
}

#[test]
fn the_log_takes_no_more_while_snapshots_fail_and_they_are_tried_again() {
    let mut cluster = Cluster::led(1);
    let value = "v".repeat(100 << 10);
    let fill = |cluster: &mut Cluster, seq| {
        cluster.put(0, seq, "/k", &value, None);
        cluster.settle();
    };
    for seq in 0..12 {
        assert!(!cluster.nodes[0].log_is_full(), "nothing fails yet, whatever it takes");
        fill(&mut cluster, seq);
        if cluster.nodes[0].capturing() {
            break;
        }
    }
    assert!(cluster.nodes[0].log_memory() > cluster.nodes[0].config().log_bytes);
    let mut bytes = Vec::new();
    while cluster.nodes[0].capture_slice(&mut bytes, 1 << 20).is_none() {}
    assert!(cluster.nodes[0].log_is_full(), "it is not on disk");
    cluster.input(0, Input::SnapshotFailed);
    cluster.settle();
    assert!(cluster.nodes[0].log_is_full() && !cluster.nodes[0].capturing(), "not at once again");
    let ticks = usize::try_from(cluster.nodes[0].config().request_timeout_ticks).unwrap();
    cluster.tick(ticks);
    assert!(cluster.nodes[0].capturing(), "although nothing was written");
    let done = loop {
        if let Some(done) = cluster.nodes[0].capture_slice(&mut bytes, 1 << 20) {
            break done;
        }
    };
    cluster.input(0, Input::SnapshotStored { index: done.index });
    cluster.settle();
    assert!(!cluster.nodes[0].log_is_full());
    fill(&mut cluster, 20);
    assert!(!cluster.nodes[0].log_is_full());
}
