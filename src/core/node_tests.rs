//! Nodes against each other without a network, a disk or a clock: who waits for what.
//!
//! A `Cluster` carries messages and syncs one by one, so that a test can hold any of them back.

use std::collections::{BTreeMap, VecDeque};

use ringd_storage::ids::{ClusterId, EtcdIndex, MemberId, RaftIndex, Term, UnixNanos};
use ringd_storage::payload::{AuthWrite, ItemClass, KeyWrite, UserChange, WriteMethod};

use super::auth::{Auth, AuthDone, AuthRefusal};
use super::entries::MessageType;
use super::event::{Answer, ClientToken, Effects, Input, Notice, Outcome, ProposalFailure, SnapshotDone};
use super::forced::append_alone;
use super::install::State;
use super::membership::{Member, MemberChange, MemberRefusal, bootstrap_log};
use super::node::{Node, NodeConfig, NodeStart};
use super::raft_log::RaftLog;
use super::replica::{Append, PeerMessage, ReadyNumber, entry_from_record};
use super::store::{Loader, StoreOptions};
use ringd_storage::record::{Entry, HardState, Record};

mod handed_on;
mod handovers;
mod installs;
mod log;
mod members;

use members::newcomer;

const MILLI: u64 = 1_000_000;
const ROOM: Input<'static> = Input::Room { for_writes: true, for_expiry: true };
const NO_ROOM: Input<'static> = Input::Room { for_writes: false, for_expiry: false };

/// What one member has on disk, and what it wrote without a sync.
#[derive(Default, Clone)]
struct Disk {
    entries: Vec<Entry>,
    hard_state: HardState,
    unsynced: VecDeque<ReadyNumber>,
}

impl Disk {
    fn append(&mut self, append: &Append) {
        for record in append.records() {
            match record {
                Record::Entry(entry) => {
                    self.entries.retain(|kept| kept.index < entry.index);
                    self.entries.push(entry.into());
                }
                Record::HardState(state) => self.hard_state = state,
                Record::SnapshotMarker { .. } => unreachable!("nodes do not write markers"),
            }
        }
        self.unsynced.push_back(append.ready);
    }
}

struct Cluster {
    nodes: Vec<Node>,
    disks: Vec<Disk>,
    mail: VecDeque<PeerMessage>,
    effects: Vec<Effects>,
    now: UnixNanos,
    /// Members whose syncs do not complete.
    slow: Vec<usize>,
    /// Members no message reaches or leaves.
    cut: Vec<usize>,
    /// Snapshots offered to a follower; none is delivered here.
    snapshots: usize,
}

fn members(count: u64) -> Vec<Member> {
    (1..=count)
        .map(|id| Member {
            id: MemberId::new(id),
            name: format!("n{id}"),
            peer_urls: vec![format!("http://127.0.0.1:{id}")],
            client_urls: vec![format!("http://127.0.0.1:1{id}")],
        })
        .collect()
}

fn config(id: u64) -> NodeConfig {
    NodeConfig {
        id: MemberId::new(id),
        cluster: ClusterId::new(99),
        name: format!("n{id}"),
        client_urls: vec![format!("http://127.0.0.1:1{id}")],
        election_ticks: 10,
        request_timeout_ticks: 70,
        snapshot_entries: 1_000_000,
        snapshot_bytes: 1 << 20,
        catch_up_entries: 10,
        lagging_bytes: 16384,
        log_bytes: 65536,
        strict_reconfig_check: true,
        cluster_version: "3.4.0",
        seed: 7,
    }
}

fn start(config: NodeConfig, disk: &Disk, now: UnixNanos) -> Node {
    start_as(config, disk, now, false)
}

fn start_as(config: NodeConfig, disk: &Disk, now: UnixNanos, may_have_forgotten: bool) -> Node {
    let entries = disk.entries.iter().map(|entry| entry_from_record(entry.as_ref())).collect();
    let log = RaftLog::recovered(&disk.hard_state, &[], &[], RaftIndex::ZERO, Term::ZERO, entries);
    let start = NodeStart {
        log,
        applied: RaftIndex::ZERO,
        applied_term: Term::ZERO,
        state: State::empty(&StoreOptions::default()),
        store_options: StoreOptions::default(),
        now,
        may_have_forgotten,
    };
    Node::new(config, start).unwrap()
}

impl Cluster {
    fn new(count: u64) -> Self {
        let members = members(count);
        let now = UnixNanos::new(1_700_000_000_000 * MILLI);
        let mut disk = Disk::default();
        disk.append(&bootstrap_log(&members));
        disk.unsynced.clear();
        let nodes = (1..=count).map(|id| start(config(id), &disk, now)).collect();
        Self {
            nodes,
            disks: vec![disk; count as usize],
            mail: VecDeque::new(),
            effects: (0..count).map(|_| Effects::default()).collect(),
            now,
            slow: Vec::new(),
            cut: Vec::new(),
            snapshots: 0,
        }
    }

    /// A cluster that has elected node 0.
    fn led(count: u64) -> Self {
        let mut cluster = Self::new(count);
        cluster.settle();
        cluster.input(0, Input::Campaign);
        cluster.settle();
        assert!(cluster.nodes[0].is_leader());
        cluster
    }

    fn input(&mut self, node: usize, input: Input<'_>) {
        self.nodes[node].handle(input, self.now);
    }

    fn poll(&mut self, node: usize) {
        let effects = &mut self.effects[node];
        self.nodes[node].poll(self.now, effects);
        assert_eq!(effects.fatal, None);
        for append in effects.appends.drain(..) {
            self.disks[node].append(&append);
        }
        self.mail.extend(effects.messages.drain(..));
    }

    /// Runs until nothing moves any more.
    fn settle(&mut self) {
        loop {
            for node in 0..self.nodes.len() {
                self.poll(node);
            }
            let mut moved = false;
            for node in 0..self.nodes.len() {
                if self.slow.contains(&node) {
                    continue;
                }
                let upto = self.disks[node].unsynced.drain(..).next_back();
                if let Some(upto) = upto {
                    self.input(node, Input::Persisted { upto });
                    moved = true;
                }
            }
            while let Some(message) = self.mail.pop_front() {
                let (from, to) = (message.from as usize - 1, message.to as usize - 1);
                if message.get_msg_type() == MessageType::MsgSnapshot {
                    self.snapshots += 1;
                    continue;
                }
                if !self.cut.contains(&from) && !self.cut.contains(&to) {
                    self.input(to, Input::Peer(message));
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn tick(&mut self, times: usize) {
        for _ in 0..times {
            self.now = UnixNanos::new(self.now.get() + 100 * MILLI);
            for node in 0..self.nodes.len() {
                self.input(node, Input::Tick);
            }
            self.settle();
        }
    }

    fn put(&mut self, node: usize, seq: u32, path: &str, value: &str, expires_at: Option<UnixNanos>) {
        let write = KeyWrite {
            method: WriteMethod::Put,
            path: path.as_bytes(),
            value: value.as_bytes(),
            dir: false,
            recursive: false,
            refresh: false,
            prev_exist: None,
            prev_value: None,
            prev_index: EtcdIndex::ZERO,
            expires_at,
        };
        self.input(node, Input::Propose { token: token(seq), write });
    }

    fn answers(&mut self, node: usize) -> Vec<Answer> {
        std::mem::take(&mut self.effects[node].answers)
    }

    fn value(&self, node: usize, path: &str) -> Option<String> {
        let found = self.nodes[node].store().get(path.as_bytes()).ok()?;
        Some(String::from_utf8_lossy(found.value().unwrap_or_default()).into_owned())
    }
}

fn token(seq: u32) -> ClientToken {
    ClientToken { slot: 1, generation: 1, seq }
}

#[test]
fn a_single_member_answers_only_after_its_sync() {
    let mut cluster = Cluster::led(1);
    cluster.slow.push(0);
    cluster.put(0, 1, "/a", "1", None);
    cluster.settle();
    assert!(cluster.answers(0).is_empty(), "answered before the sync");
    assert_eq!(cluster.value(0, "/a"), None, "applied before the sync");
    cluster.slow.clear();
    cluster.settle();
    let answers = cluster.answers(0);
    assert!(matches!(&answers[..], [Answer { outcome: Outcome::Event(_), .. }]));
    assert_eq!(cluster.value(0, "/a").as_deref(), Some("1"));
}

#[test]
fn a_fresh_single_member_has_used_three_indexes_as_etcd_has() {
    let mut cluster = Cluster::led(1);
    cluster.tick(1);
    assert_eq!(cluster.nodes[0].store().index(), EtcdIndex::new(3));
    assert!(cluster.effects[0].notices.contains(&Notice::Published));
    assert_eq!(cluster.nodes[0].cluster_version(), "3.4.0");
}

#[test]
fn a_turns_proposals_are_one_append_and_answered_in_order() {
    let mut cluster = Cluster::led(1);
    cluster.settle();
    for seq in 0..50 {
        cluster.put(0, seq, &format!("/k{seq}"), "v", None);
    }
    cluster.nodes[0].poll(cluster.now, &mut cluster.effects[0]);
    let appends: Vec<Append> = cluster.effects[0].appends.drain(..).collect();
    assert_eq!(appends.iter().map(Append::entry_count).collect::<Vec<_>>(), [50]);
    cluster.disks[0].append(&appends[0]);
    cluster.settle();
    let seqs: Vec<u32> = cluster.answers(0).iter().map(|answer| answer.token.seq).collect();
    assert_eq!(seqs, (0..50).collect::<Vec<_>>());
}

#[test]
fn a_write_needs_a_quorum_on_disk() {
    let mut cluster = Cluster::led(3);
    cluster.slow = vec![1, 2];
    cluster.put(0, 1, "/a", "1", None);
    cluster.settle();
    assert!(cluster.answers(0).is_empty(), "two of three have not synced");
    cluster.slow = vec![2];
    cluster.settle();
    assert_eq!(cluster.answers(0).len(), 1);
    cluster.slow.clear();
    cluster.tick(1);
    assert_eq!(cluster.value(1, "/a").as_deref(), Some("1"));
    assert_eq!(cluster.value(2, "/a").as_deref(), Some("1"));
}

#[test]
fn a_follower_forwards_and_answers_its_own_client() {
    let mut cluster = Cluster::led(3);
    cluster.put(1, 9, "/f", "x", None);
    cluster.settle();
    cluster.tick(1);
    let answers = cluster.answers(1);
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].token, token(9));
    assert!(cluster.answers(0).is_empty(), "the leader has no client");
}

#[test]
fn without_a_quorum_writes_and_linearizable_reads_time_out() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![1, 2];
    cluster.put(0, 1, "/a", "1", None);
    cluster.input(0, Input::LinearRead { token: token(2) });
    cluster.tick(80);
    let answers = cluster.answers(0);
    assert!(matches!(&answers[..], [Answer { outcome: Outcome::Failed(ProposalFailure::Timeout), .. }]));
    assert_eq!(cluster.effects[0].reads_failed, [token(2)]);
    assert!(cluster.effects[0].reads_ready.is_empty());
}

#[test]
fn a_linearizable_read_is_confirmed_on_any_member() {
    let mut cluster = Cluster::led(3);
    cluster.put(0, 1, "/a", "1", None);
    cluster.settle();
    for node in 0..3 {
        cluster.input(node, Input::LinearRead { token: token(5) });
        cluster.tick(1);
        assert_eq!(std::mem::take(&mut cluster.effects[node].reads_ready), [token(5)]);
        assert_eq!(cluster.value(node, "/a").as_deref(), Some("1"), "member {node} read an old state");
    }
}

#[test]
fn a_new_leader_takes_over_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::led(3);
    cluster.put(0, 1, "/a", "1", None);
    cluster.settle();
    assert_eq!(cluster.answers(0).len(), 1);
    cluster.cut = vec![0];
    cluster.tick(40);
    let leader = (1..3).find(|node| cluster.nodes[*node].is_leader()).expect("a new leader");
    assert_eq!(cluster.value(leader, "/a").as_deref(), Some("1"));
    cluster.put(leader, 2, "/b", "2", None);
    cluster.settle();
    assert_eq!(cluster.answers(leader).len(), 1);
    cluster.cut.clear();
    cluster.tick(5);
    assert_eq!(cluster.value(0, "/b").as_deref(), Some("2"));
    assert!(!cluster.nodes[0].is_leader());
}

#[test]
fn a_lost_leader_is_replaced_within_one_and_a_half_election_timeouts() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let mut cluster = Cluster::new(3);
        for (place, node) in cluster.nodes.iter_mut().enumerate() {
            *node = start(NodeConfig { seed, ..config(place as u64 + 1) }, &cluster.disks[place], cluster.now);
        }
        cluster.settle();
        cluster.input(0, Input::Campaign);
        cluster.settle();
        cluster.tick(3);
        cluster.cut = vec![0];
        // Members do not tick at the same moment.
        let order = if seed % 2 == 0 { [1, 2] } else { [2, 1] };
        let mut ticks = 0;
        while order.iter().all(|node| !cluster.nodes[*node].is_leader()) {
            ticks += 1;
            assert!(ticks < 15, "seed {seed}: nobody leads after {ticks} ticks");
            for node in order {
                cluster.input(node, Input::Tick);
                cluster.settle();
            }
        }
        assert!(ticks > 10, "seed {seed}: a leader that may still be there was given up");
        seen.insert(ticks);
    }
    assert!(seen.len() > 1, "elections are not drawn at random: each began after {seen:?} ticks");
}

#[test]
fn a_member_that_was_cut_off_deposes_nobody_when_it_is_back() {
    let mut cluster = Cluster::led(3);
    cluster.tick(3);
    let term = cluster.nodes[0].term();
    cluster.cut = vec![2];
    cluster.tick(100);
    assert!(!cluster.nodes[2].has_leader(), "it misses its leader");
    cluster.cut.clear();
    cluster.tick(30);
    assert!(cluster.nodes[0].is_leader());
    // Whoever asks for votes only after most would give them (raft thesis, 9.6) begins no term in vain.
    assert!(cluster.nodes.iter().all(|node| node.term() == term && node.leader() == MemberId::new(1)));
}

#[test]
fn a_leader_that_no_quorum_answers_steps_down() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![1, 2];
    cluster.tick(21);
    assert!(!cluster.nodes[0].is_leader(), "after two election timeouts at most");
}

#[test]
fn nothing_expires_without_room_and_everything_once_it_is_back() {
    let mut cluster = Cluster::led(1);
    let deadline = cluster.now.plus_seconds(1);
    cluster.put(0, 1, "/t", "v", Some(deadline));
    cluster.settle();
    let before = cluster.nodes[0].applied();
    cluster.input(0, NO_ROOM);
    cluster.tick(30);
    assert_eq!(cluster.nodes[0].applied(), before, "an expiry used up what is kept for raft");
    assert!(cluster.value(0, "/t").is_some());
    cluster.input(0, ROOM);
    cluster.tick(6);
    assert_eq!(cluster.value(0, "/t"), None);
}

#[test]
fn many_deadlines_wait_for_room_between_two_entries() {
    let mut cluster = Cluster::led(1);
    let deadline = cluster.now.plus_seconds(1);
    for seq in 0..2500 {
        cluster.put(0, seq, &format!("/t{seq}"), "v", Some(deadline));
    }
    cluster.settle();
    let before = cluster.nodes[0].store().index().get();
    cluster.slow = vec![0];
    cluster.tick(15);
    // A full disk is noticed after the first entry was appended, or a segment is being prepared.
    cluster.input(0, Input::Room { for_writes: true, for_expiry: false });
    cluster.slow.clear();
    cluster.settle();
    cluster.tick(30);
    assert_eq!(cluster.nodes[0].store().index().get(), before + 1000, "only what was appended before");
    cluster.input(0, ROOM);
    cluster.tick(6);
    assert_eq!(cluster.nodes[0].store().index().get(), before + 2500);
}

#[test]
fn without_room_writes_are_refused_and_reads_go_on() {
    let mut cluster = Cluster::led(1);
    cluster.put(0, 1, "/a", "1", None);
    cluster.settle();
    cluster.answers(0);
    cluster.input(0, NO_ROOM);
    cluster.put(0, 2, "/a", "2", None);
    cluster.settle();
    let answers = cluster.answers(0);
    assert!(matches!(&answers[..], [Answer { outcome: Outcome::Failed(ProposalFailure::NoSpace), .. }]));
    assert_eq!(cluster.value(0, "/a").as_deref(), Some("1"));
    cluster.input(0, ROOM);
    cluster.put(0, 3, "/a", "3", None);
    cluster.settle();
    assert_eq!(cluster.value(0, "/a").as_deref(), Some("3"));
}

#[test]
fn many_deadlines_expire_in_bounded_entries_and_never_early() {
    let mut cluster = Cluster::led(1);
    let deadline = cluster.now.plus_seconds(2);
    for seq in 0..2500 {
        cluster.put(0, seq, &format!("/t{seq}"), "v", Some(deadline));
    }
    cluster.settle();
    let before = cluster.nodes[0].store().index().get();
    while cluster.now.get() + 100 * MILLI < deadline.get() {
        cluster.tick(1);
        assert_eq!(cluster.nodes[0].store().index().get(), before, "expired early");
    }
    let applied = cluster.nodes[0].applied();
    cluster.tick(6);
    assert_eq!(cluster.nodes[0].store().index().get(), before + 2500);
    assert_eq!(cluster.nodes[0].applied().steps_since(applied), 3, "1000, 1000 and 500 in one entry each");
}

#[test]
fn a_restart_from_log_and_from_snapshot_gives_the_same_state() {
    let mut cluster = Cluster::led(1);
    for seq in 0..100 {
        cluster.put(0, seq, &format!("/d{}/k{seq}", seq % 7), &format!("v{seq}"), None);
    }
    cluster.settle();
    // A clean stop writes the hard state that no append has carried.
    if let Some(append) = cluster.nodes[0].take_pending_hard_state() {
        cluster.disks[0].append(&append);
    }
    let mut from_log = start(config(1), &cluster.disks[0], cluster.now);
    let mut effects = Effects::default();
    from_log.poll(cluster.now, &mut effects);
    assert_eq!(capture(&mut from_log), capture(&mut cluster.nodes[0]));
}

#[test]
fn a_restarted_member_is_ready_only_when_everything_acknowledged_is_applied_again() {
    let mut cluster = Cluster::led(1);
    cluster.put(0, 1, "/a", "1", None);
    cluster.settle();
    assert_eq!(cluster.answers(0).len(), 1, "acknowledged");
    // Killed: the commit index of the last write was in no append.
    let mut again = start(config(1), &cluster.disks[0], cluster.now);
    let mut effects = Effects::default();
    again.poll(cluster.now, &mut effects);
    again.handle(Input::Campaign, cluster.now);
    again.poll(cluster.now, &mut effects);
    assert!(again.store().get(b"/a").is_err(), "the last write's commit is not known yet");
    assert!(!effects.notices.contains(&Notice::Published), "ready too early");
    let upto = effects.appends.last().expect("the new term's entry").ready;
    again.handle(Input::Persisted { upto }, cluster.now);
    again.poll(cluster.now, &mut effects);
    assert!(effects.notices.contains(&Notice::Published));
    assert!(again.store().get(b"/a").is_ok());
}

#[test]
fn a_follower_restarted_within_the_term_asks_before_it_serves() {
    let mut cluster = Cluster::led(3);
    cluster.put(1, 1, "/a", "1", None);
    cluster.settle();
    cluster.tick(1);
    assert_eq!(cluster.answers(1).len(), 1, "acknowledged by the follower");
    cluster.nodes[1] = start(config(2), &cluster.disks[1].clone(), cluster.now);
    cluster.effects[1] = Effects::default();
    cluster.poll(1);
    // A heartbeat arrives; whatever the follower asks is on the way.
    cluster.input(0, Input::Tick);
    cluster.poll(0);
    while let Some(message) = cluster.mail.pop_front() {
        if message.to == 2 {
            cluster.input(1, Input::Peer(message));
        }
    }
    cluster.poll(1);
    assert!(!cluster.effects[1].notices.contains(&Notice::Published), "it may have shown more before");
    cluster.tick(2);
    assert!(cluster.effects[1].notices.contains(&Notice::Published));
    assert!(cluster.effects[1].reads_ready.is_empty(), "its own question is nobody else's");
}

/// A store's items, sorted as storage sorts them.
fn capture(node: &mut Node) -> (BTreeMap<Vec<u8>, Vec<u8>>, SnapshotDone) {
    node.force_snapshot(&mut Effects::default());
    let mut bytes = Vec::new();
    let done = loop {
        if let Some(done) = node.capture_slice(&mut bytes, 1000) {
            break done;
        }
    };
    let mut items = BTreeMap::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap()) as usize;
        let (key, value) = (word(0), word(4));
        items.insert(rest[8..8 + key].to_vec(), rest[8 + key..8 + key + value].to_vec());
        rest = &rest[8 + key + value..];
    }
    (items, done)
}

#[test]
fn a_snapshot_lets_the_log_go_and_loads_again() {
    let mut cluster = Cluster::led(1);
    for seq in 0..100 {
        cluster.put(0, seq, &format!("/k{seq}"), "v", None);
    }
    cluster.settle();
    let (items, done) = capture(&mut cluster.nodes[0]);
    cluster.input(0, Input::SnapshotStored { index: done.index });
    cluster.settle();
    assert_eq!(done.voters, [MemberId::new(1)]);
    assert!(items.keys().any(|key| key[0] == ItemClass::Member as u8), "members are in the snapshot");
    let mut loader = Loader::new(&StoreOptions::default());
    for (key, value) in &items {
        loader.item(key, value).unwrap();
    }
    let loaded = loader.finish().unwrap();
    assert_eq!(loaded.index(), cluster.nodes[0].store().index());
    assert_eq!(loaded.get(b"/k42").unwrap().value(), Some(&b"v"[..]));
}

/// Whether node 2 of three, cut off for `puts` writes while the leader makes a snapshot, gets what it lacks from the log.
fn catches_up_from_the_log(puts: u32) -> bool {
    let mut cluster = Cluster::led(3);
    cluster.cut.push(2);
    for seq in 0..puts {
        cluster.put(0, seq, "/k", &format!("{seq:0100}"), None);
        cluster.settle();
    }
    let (_, done) = capture(&mut cluster.nodes[0]);
    cluster.input(0, Input::SnapshotStored { index: done.index });
    cluster.settle();
    cluster.cut.clear();
    cluster.tick(2);
    let level = cluster.value(2, "/k") == Some(format!("{:0100}", puts - 1));
    assert_eq!(level, cluster.snapshots == 0);
    level
}

#[test]
fn what_a_follower_in_touch_lacks_is_kept_within_a_limit() {
    assert!(config(1).catch_up_entries < 30);
    assert!(catches_up_from_the_log(30), "it must not need a snapshot");
    assert!(!catches_up_from_the_log(300), "memory is not its to use");
}

#[test]
fn few_large_writes_begin_a_snapshot_too() {
    let mut cluster = Cluster::led(1);
    let large = "v".repeat(100 << 10);
    for seq in 0..20 {
        cluster.put(0, seq, "/k", &large, None);
        cluster.settle();
        let begun = cluster.effects[0].notices.iter().any(|notice| matches!(notice, Notice::SnapshotBegins { .. }));
        assert_eq!(begun, seq >= 10, "after {} of 1024 KiB", (seq + 1) * 100);
        assert_eq!(cluster.nodes[0].capturing(), begun);
    }
    let mut bytes = Vec::new();
    let done = loop {
        if let Some(done) = cluster.nodes[0].capture_slice(&mut bytes, 1 << 20) {
            break done;
        }
    };
    cluster.input(0, Input::SnapshotStored { index: done.index });
    cluster.settle();
    assert!(!cluster.nodes[0].capturing(), "counted anew from the snapshot's beginning");
    for seq in 20..22 {
        cluster.put(0, seq, "/k", &large, None);
        cluster.settle();
    }
    assert!(cluster.nodes[0].capturing());
}

#[test]
fn auth_writes_are_replicated_answered_and_survive_a_restart() {
    let mut cluster = Cluster::led(1);
    cluster.tick(1);
    let before = cluster.nodes[0].store().index().get();
    let root = || UserChange { name: "root", password_hash: Some("h"), roles: None, grant: vec![], revoke: vec![] };
    cluster.input(0, Input::Auth { token: token(1), write: AuthWrite::PutUser(root()) });
    cluster.input(0, Input::Auth { token: token(2), write: AuthWrite::Enable });
    cluster.input(0, Input::Auth { token: token(3), write: AuthWrite::Enable });
    cluster.settle();
    let answers = cluster.answers(0);
    assert_eq!(answers.len(), 3);
    assert!(matches!(&answers[0].outcome, Outcome::Auth(Ok(AuthDone::User { created: true, .. }))));
    assert!(matches!(&answers[1].outcome, Outcome::Auth(Ok(AuthDone::Quiet))));
    assert!(matches!(&answers[2].outcome, Outcome::Auth(Err(AuthRefusal::AlreadyEnabled))));
    assert_eq!(cluster.nodes[0].store().index().get(), before + 4 + 1 + 2);
    if let Some(append) = cluster.nodes[0].take_pending_hard_state() {
        cluster.disks[0].append(&append);
    }
    let mut again = start(config(1), &cluster.disks[0], cluster.now);
    again.poll(cluster.now, &mut Effects::default());
    assert!(again.auth().is_enabled());
    assert_eq!(again.auth(), cluster.nodes[0].auth());
    let (items, _) = capture(&mut again);
    let mut restored = Auth::default();
    let taken = items.iter().filter(|(key, value)| restored.read_item(key, value).unwrap()).count();
    assert_eq!(taken, 3, "the switch, user root and role guest");
    assert!(restored.is_enabled() && restored.is_root("root"));
}

#[test]
fn a_forced_new_cluster_keeps_the_data_and_loses_the_others() {
    let mut cluster = Cluster::of_three();
    cluster.put(0, 1, "/a", "1", None);
    cluster.settle();
    cluster.tick(2);
    let mut disk = cluster.disks[2].clone();
    if let Some(append) = cluster.nodes[2].take_pending_hard_state() {
        disk.append(&append);
    }
    let append = append_alone(MemberId::new(3), &[], &[], &disk.entries, &disk.hard_state).unwrap();
    disk.append(&append);
    let mut alone = start(config(3), &disk, cluster.now);
    let mut effects = Effects::default();
    alone.poll(cluster.now, &mut effects);
    assert!(alone.is_only_voter() && alone.members().len() == 1);
    alone.handle(Input::Campaign, cluster.now);
    alone.poll(cluster.now, &mut effects);
    assert!(alone.is_leader());
    assert_eq!(alone.store().get(b"/a").unwrap().value(), Some(&b"1"[..]));
    assert_eq!(alone.members().removed().collect::<Vec<_>>(), [MemberId::new(1), MemberId::new(2)]);
}

#[test]
fn a_newcomer_learns_before_it_counts() {
    let mut cluster = Cluster::of_three();
    cluster.change(0, 1, MemberChange::Add(newcomer(4)));
    cluster.settle();
    assert_eq!(cluster.member_answers(0), [(1, Ok(()))]);
    assert_eq!(cluster.nodes[0].configuration().1, [MemberId::new(4)], "listed at once, without a vote");
    cluster.cut = vec![2, 3, 4];
    cluster.put(0, 2, "/a", "1", None);
    cluster.settle();
    assert_eq!(cluster.answers(0).len(), 1, "two of three voters suffice while it has not started");
}

#[test]
fn a_removed_member_is_told_and_a_removed_leader_stops_leading() {
    let mut cluster = Cluster::of_three();
    cluster.change(1, 1, MemberChange::Remove(MemberId::new(1)));
    cluster.settle();
    cluster.tick(2);
    assert!(cluster.effects[0].notices.contains(&Notice::Removed));
    assert!(!cluster.nodes[0].is_leader());
    cluster.tick(15);
    let leader = (1..3).find(|node| cluster.nodes[*node].is_leader()).expect("the others go on");
    assert!(cluster.nodes[leader].standing(MemberId::new(1)).removed_you);
}

#[test]
fn messages_no_member_sends_are_dropped() {
    let mut cluster = Cluster::led(3);
    cluster.put(0, 1, "/a", "1", None);
    cluster.settle();
    let base = || PeerMessage { from: 1, to: 2, term: cluster.nodes[0].term().get(), ..PeerMessage::default() };
    let mut beyond = base();
    beyond.set_msg_type(raft::eraftpb::MessageType::MsgHeartbeat);
    beyond.commit = 1_000_000;
    let mut gap = base();
    gap.set_msg_type(raft::eraftpb::MessageType::MsgAppend);
    gap.set_entries(vec![raft::eraftpb::Entry { index: 900, ..Default::default() }].into());
    let mut nothing = base();
    nothing.set_msg_type(raft::eraftpb::MessageType::MsgSnapshot);
    let mut empty = PeerMessage { to: 1, from: 2, ..PeerMessage::default() };
    empty.set_msg_type(raft::eraftpb::MessageType::MsgPropose);
    let mut read = empty.clone();
    read.set_msg_type(raft::eraftpb::MessageType::MsgReadIndex);
    for (node, message) in [(1, beyond), (1, gap), (1, nothing), (0, empty), (0, read)] {
        cluster.input(node, Input::Peer(message));
        cluster.settle();
    }
    cluster.put(1, 2, "/a", "2", None);
    cluster.settle();
    cluster.tick(1);
    assert_eq!(cluster.value(2, "/a").as_deref(), Some("2"));
}

#[test]
fn a_member_that_may_have_forgotten_votes_only_after_an_entry_of_its_own() {
    let mut cluster = Cluster::led(3);
    cluster.tick(2);
    let disk = cluster.disks[1].clone();
    cluster.nodes[1] = start_as(config(2), &disk, cluster.now, true);
    cluster.poll(1);
    assert!(cluster.nodes[1].may_have_forgotten());
    // The leader is gone, and the other follower's vote is not enough.
    cluster.cut = vec![0];
    cluster.tick(60);
    assert!((1..3).all(|node| !cluster.nodes[node].is_leader()), "elected by a member that may have forgotten");
    cluster.cut.clear();
    cluster.tick(60);
    assert!(cluster.effects[1].notices.contains(&Notice::NoteObsolete));
    cluster.input(1, Input::NoteCleared);
    cluster.settle();
    cluster.cut = vec![0];
    cluster.tick(60);
    assert!((1..3).any(|node| cluster.nodes[node].is_leader()));
}
