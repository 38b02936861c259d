//! Snapshots that a leader offers while an earlier one is on its way to become the state.

use super::*;
use crate::core::event::Install;
use crate::core::raft_log::conf_state;

/// A leader's offer of a snapshot to member 3, as it reaches the node when the file is there.
fn offer(done: &SnapshotDone) -> PeerMessage {
    let mut message = PeerMessage { from: 1, to: 3, term: done.term.get(), ..PeerMessage::default() };
    message.set_msg_type(MessageType::MsgSnapshot);
    let meta = message.mut_snapshot().mut_metadata();
    (meta.index, meta.term) = (done.index.get(), done.term.get());
    meta.set_conf_state(conf_state(&done.voters, &[]));
    message
}

/// Twenty puts, and a snapshot after them.
fn snapshot(cluster: &mut Cluster, from: u32) -> (BTreeMap<Vec<u8>, Vec<u8>>, SnapshotDone) {
    for seq in from..from + 20 {
        cluster.put(0, seq, &format!("/k{seq}"), "v", None);
    }
    cluster.settle();
    let taken = capture(&mut cluster.nodes[0]);
    cluster.input(0, Input::SnapshotStored { index: taken.1.index });
    cluster.settle();
    taken
}

/// Gives the node an input and tells what it is to install then, and the last append it made.
fn turn(node: &mut Node, now: UnixNanos, input: Input<'_>) -> (Option<Install>, Option<ReadyNumber>) {
    node.handle(input, now);
    let mut effects = Effects::default();
    node.poll(now, &mut effects);
    assert_eq!(effects.fatal, None);
    (effects.install, effects.appends.last().map(|append| append.ready))
}

#[test]
fn a_newer_snapshot_voids_the_one_being_loaded() {
    let mut cluster = Cluster::led(3);
    let (older, first) = snapshot(&mut cluster, 0);
    let (newer, second) = snapshot(&mut cluster, 20);
    let now = cluster.now;
    let mut disk = Disk::default();
    disk.append(&bootstrap_log(&members(3)));
    let mut node = start(config(3), &disk, now);
    let (install, ready) = turn(&mut node, now, Input::Peer(offer(&first)));
    assert_eq!(install, None, "the WAL does not name it yet");
    let (install, _) = turn(&mut node, now, Input::Persisted { upto: ready.expect("a marker") });
    let void = install.expect("now it does");
    let mut items = older.iter();
    let (key, value) = items.next().expect("an item");
    assert!(node.install_item(void, key, value).unwrap());
    let (install, ready) = turn(&mut node, now, Input::Peer(offer(&second)));
    assert_eq!(install, None);
    let (key, value) = items.next().expect("another one");
    assert!(!node.install_item(void, key, value).unwrap(), "a newer one was accepted");
    assert!(!node.install_done(void).unwrap());
    let (install, _) = turn(&mut node, now, Input::Persisted { upto: ready.expect("a marker") });
    let install = install.expect("the newer one");
    assert_eq!(install.index, second.index);
    for (key, value) in &newer {
        assert!(node.install_item(install, key, value).unwrap());
    }
    let verdicts = node.auth().version();
    assert!(node.install_done(install).unwrap());
    turn(&mut node, now, Input::Tick);
    assert_eq!(node.applied(), second.index);
    assert_ne!(node.auth().version(), verdicts, "what was found about passwords before is void");
    assert_eq!(node.store().get(b"/k39").unwrap().value(), Some(&b"v"[..]));
}
