//! Members come, go, and leave only when the others can do without them.

use ringd_storage::codec;

use super::*;
use crate::core::entries::{ChangeAction, change_entry, first_append};

pub(super) fn newcomer(id: u64) -> Member {
    Member {
        id: MemberId::new(id),
        name: String::new(),
        peer_urls: vec![format!("http://127.0.0.1:{id}")],
        client_urls: Vec::new(),
    }
}

impl Cluster {
    /// Three members that have started, and room for messages to two more that never will.
    pub(super) fn of_three() -> Self {
        let mut cluster = Self::led(3);
        cluster.cut = vec![3, 4];
        cluster.tick(3);
        cluster
    }

    pub(super) fn change(&mut self, node: usize, seq: u32, change: MemberChange) {
        self.input(node, Input::Members { token: token(seq), change });
    }

    pub(super) fn member_answers(&mut self, node: usize) -> Vec<(u32, Result<(), MemberRefusal>)> {
        let answers = self.answers(node).into_iter();
        answers
            .map(|answer| match answer.outcome {
                Outcome::Members(result) => (answer.token.seq, result),
                _ => panic!("a change of membership ends as one"),
            })
            .collect()
    }
}

#[test]
fn members_are_added_updated_and_removed_for_good() {
    let mut cluster = Cluster::of_three();
    let before = cluster.nodes[0].store().index().get();
    cluster.change(0, 1, MemberChange::Add(newcomer(4)));
    cluster.settle();
    assert_eq!(cluster.member_answers(0), [(1, Ok(()))]);
    cluster.tick(2);
    for node in 0..3 {
        assert_eq!(cluster.nodes[node].members().get(MemberId::new(4)), Some(&newcomer(4)));
    }
    let update = || MemberChange::Update { id: MemberId::new(4), peer_urls: vec!["http://127.0.0.1:44".to_owned()] };
    cluster.change(0, 2, update());
    cluster.settle();
    assert_eq!(cluster.member_answers(0), [(2, Ok(()))]);
    assert_eq!(cluster.nodes[0].members().get(MemberId::new(4)).unwrap().peer_urls, ["http://127.0.0.1:44"]);
    cluster.change(0, 3, MemberChange::Remove(MemberId::new(4)));
    cluster.settle();
    assert_eq!(cluster.member_answers(0), [(3, Ok(()))]);
    assert_eq!(cluster.nodes[0].store().index().get(), before + 4, "one, one, and two for a removal");
    cluster.change(0, 4, MemberChange::Remove(MemberId::new(4)));
    cluster.change(0, 5, update());
    cluster.change(0, 6, MemberChange::Remove(MemberId::new(99)));
    cluster.settle();
    let mut answers = cluster.member_answers(0);
    answers.sort_by_key(|answer| answer.0);
    let (removed, unknown) = (Err(MemberRefusal::IdRemoved), Err(MemberRefusal::IdNotFound));
    assert_eq!(answers, [(4, removed), (5, removed), (6, unknown)]);
    let (items, _) = capture(&mut cluster.nodes[0]);
    assert!(items.contains_key(&[&[ItemClass::RemovedMember as u8][..], &4u64.to_be_bytes()].concat()));
}

#[test]
fn changes_asked_for_at_once_happen_one_after_the_other() {
    let mut cluster = Cluster::of_three();
    cluster.change(0, 1, MemberChange::Add(newcomer(4)));
    cluster.change(0, 2, MemberChange::Add(newcomer(4)));
    cluster.change(0, 3, MemberChange::Remove(MemberId::new(4)));
    cluster.put(0, 4, "/a", "1", None);
    cluster.settle();
    cluster.tick(2);
    let answers = cluster.answers(0);
    let seqs: Vec<u32> = answers.iter().map(|answer| answer.token.seq).collect();
    assert_eq!(answers.len(), 4, "each is answered once: {seqs:?}");
    for answer in answers {
        match (answer.token.seq, answer.outcome) {
            (1 | 3, Outcome::Members(Ok(())))
            | (2, Outcome::Members(Err(MemberRefusal::IdExists)))
            | (4, Outcome::Event(_)) => {}
            (seq, _) => panic!("the wrong answer for {seq}"),
        }
    }
    assert_eq!(cluster.nodes[0].members().len(), 3);
}

#[test]
fn a_follower_can_change_the_members() {
    let mut cluster = Cluster::of_three();
    cluster.change(1, 1, MemberChange::Add(newcomer(4)));
    cluster.settle();
    cluster.tick(2);
    assert_eq!(cluster.member_answers(1), [(1, Ok(()))]);
    assert_eq!(cluster.nodes[2].members().len(), 4);
}

#[test]
fn a_member_added_to_one_costs_the_quorum_and_changes_time_out() {
    let mut cluster = Cluster::led(1);
    cluster.cut = vec![1];
    cluster.tick(1);
    cluster.change(0, 1, MemberChange::Add(newcomer(2)));
    cluster.settle();
    assert_eq!(cluster.member_answers(0), [(1, Ok(()))]);
    cluster.put(0, 2, "/a", "1", None);
    cluster.change(0, 3, MemberChange::Remove(MemberId::new(2)));
    cluster.change(0, 4, MemberChange::Remove(MemberId::new(2)));
    cluster.tick(80);
    let answers = cluster.answers(0);
    assert_eq!(answers.len(), 3);
    for answer in &answers {
        assert!(matches!(answer.outcome, Outcome::Failed(ProposalFailure::Timeout)), "{:?}", answer.token);
    }
    assert_eq!(cluster.nodes[0].leader(), MemberId::default(), "nobody leads without a quorum");
    cluster.change(0, 5, MemberChange::Add(newcomer(3)));
    cluster.tick(80);
    assert_eq!(cluster.answers(0).len(), 1, "a change that never began is given up, too");
}

#[test]
fn the_strict_check_can_be_switched_off() {
    let mut cluster = Cluster::new(1);
    let config = NodeConfig { strict_reconfig_check: false, ..config(1) };
    cluster.nodes[0] = start(config, &cluster.disks[0], cluster.now);
    cluster.settle();
    cluster.input(0, Input::Campaign);
    cluster.settle();
    cluster.cut = vec![1, 2];
    let double = |id| Member { peer_urls: vec!["http://127.0.0.1:1".to_owned()], ..newcomer(id) };
    cluster.change(0, 1, MemberChange::Add(double(2)));
    cluster.settle();
    assert_eq!(cluster.member_answers(0), [(1, Err(MemberRefusal::PeerUrlExists))]);
    let mut strict = Cluster::led(1);
    strict.change(0, 1, MemberChange::Remove(MemberId::new(1)));
    strict.settle();
    assert_eq!(strict.member_answers(0), [(1, Err(MemberRefusal::NotEnoughStarted))]);
}

impl Cluster {
    /// Streams between all members that are not cut off: each tells each how it stands.
    fn meet(&mut self) {
        for from in 0..self.nodes.len() {
            for to in 0..self.nodes.len() {
                if from != to && !self.cut.contains(&from) && !self.cut.contains(&to) {
                    let member = MemberId::new(from as u64 + 1);
                    let standing = self.nodes[from].standing(MemberId::new(to as u64 + 1));
                    self.input(to, Input::PeerStanding { member, standing });
                }
            }
        }
        self.settle();
    }

    /// The leader (0) removes itself: member 1 holds the entry and is gone before it hears that it is committed, and
    /// member 2 has never heard of it.
    fn leader_removed_alone() -> Self {
        let mut cluster = Self::led(3);
        cluster.tick(3);
        (cluster.cut, cluster.slow) = (vec![2], vec![0]);
        cluster.change(0, 1, MemberChange::Remove(MemberId::new(1)));
        cluster.settle();
        assert!(cluster.member_answers(0).is_empty(), "it has not synced");
        (cluster.cut, cluster.slow) = (vec![1, 2], Vec::new());
        cluster.settle();
        assert_eq!(cluster.member_answers(0), [(1, Ok(()))]);
        assert!(cluster.effects[0].notices.contains(&Notice::Removed));
        cluster
    }
}

#[test]
fn a_removed_leader_stays_until_the_others_can_do_without_it() {
    let mut cluster = Cluster::leader_removed_alone();
    cluster.tick(40);
    cluster.meet();
    assert!(!cluster.effects[0].notices.contains(&Notice::MayLeave), "nobody else knows of the removal");
    // Both come back, one with a cut tail.
    for (place, forgot) in [(1, false), (2, true)] {
        cluster.nodes[place] = start_as(config(place as u64 + 1), &cluster.disks[place].clone(), cluster.now, forgot);
        cluster.effects[place] = Effects::default();
    }
    cluster.cut.clear();
    for _ in 0..40 {
        cluster.tick(1);
        cluster.meet();
    }
    assert!(cluster.effects[0].notices.contains(&Notice::MayLeave), "both know of the removal");
    cluster.cut = vec![0];
    cluster.put(1, 2, "/a", "1", None);
    cluster.tick(3);
    assert_eq!(cluster.answers(1).len(), 1, "the two who stay go on alone");
}

#[test]
fn a_removed_leader_whom_nobody_answers_leaves_in_the_end() {
    let mut cluster = Cluster::leader_removed_alone();
    cluster.tick(299);
    assert!(!cluster.effects[0].notices.contains(&Notice::MayLeave));
    cluster.tick(1);
    assert!(cluster.effects[0].notices.contains(&Notice::MayLeave));
}

#[test]
fn a_committed_change_of_members_is_on_disk_before_the_next_entry() {
    let mut cluster = Cluster::of_three();
    cluster.change(0, 1, MemberChange::Remove(MemberId::new(3)));
    cluster.settle();
    cluster.tick(1);
    for place in 0..2 {
        let state = &cluster.disks[place].hard_state;
        assert_eq!(state.commit, cluster.nodes[place].applied(), "member {place} would count on the one that left");
    }
}

#[test]
fn a_single_voter_is_silent_until_its_new_term_is_on_disk() {
    let now = UnixNanos::new(1_700_000_000_000 * MILLI);
    let mut disk = Disk::default();
    disk.append(&bootstrap_log(&members(1)));
    let mut context = Vec::new();
    codec::encode_into(&newcomer(2).record(), &mut context);
    let index = disk.entries.last().expect("the log of a new cluster").index.next();
    let learner = change_entry(index, Term::new(1), MemberId::new(2), ChangeAction::Learner, context);
    disk.append(&first_append(vec![learner], Term::new(1), index));
    let mut node = start(config(1), &disk, now);
    let mut effects = Effects::default();
    node.poll(now, &mut effects);
    node.handle(Input::Campaign, now);
    node.poll(now, &mut effects);
    assert!(node.is_leader() && node.configuration().1 == [MemberId::new(2)]);
    let upto = effects.appends.last().expect("the new term").ready;
    assert!(effects.messages.is_empty(), "its learner would keep what a crash may undo: {:?}", effects.messages);
    node.handle(Input::Persisted { upto }, now);
    node.poll(now, &mut effects);
    let to_learner = |message: &PeerMessage| message.get_msg_type() == MessageType::MsgAppend && message.to == 2;
    assert!(effects.messages.iter().any(to_learner));
}

#[test]
fn messages_that_no_member_sends_are_dropped() {
    let mut cluster = Cluster::led(3);
    cluster.put(0, 1, "/a", "1", None);
    cluster.settle();
    let (term, last) = (cluster.nodes[0].term().get(), cluster.nodes[0].applied().get());
    let beyond = last + 5;
    let message = |kind, from, to, term| {
        let mut message = PeerMessage { from, to, term, index: beyond, commit: beyond, ..PeerMessage::default() };
        message.set_msg_type(kind);
        message
    };
    let mut read = message(MessageType::MsgReadIndexResp, 1, 2, 0);
    read.set_entries(vec![crate::core::entries::Entry::default()].into());
    let forged = [
        message(MessageType::MsgAppend, 1, 2, term),
        message(MessageType::MsgAppend, 1, 2, 0),
        message(MessageType::MsgHeartbeat, 1, 2, term),
        read,
        message(MessageType::MsgAppendResponse, 2, 1, term),
        message(MessageType::MsgAppendResponse, 2, 1, 0),
    ];
    for message in forged {
        let to = message.to as usize - 1;
        cluster.input(to, Input::Peer(message));
        cluster.settle();
    }
    cluster.tick(3);
    cluster.answers(0);
    cluster.put(0, 2, "/b", "2", None);
    cluster.settle();
    assert_eq!(cluster.answers(0).len(), 1, "all is well");
}

#[test]
fn a_member_that_may_have_forgotten_waits_until_older_leaders_have_stepped_down() {
    let now = UnixNanos::new(1_700_000_000_000 * MILLI);
    let mut disk = Disk::default();
    disk.append(&bootstrap_log(&members(3)));
    let mut node = start_as(config(3), &disk, now, true);
    let mut answers_leader = || {
        let mut message = PeerMessage { from: 1, to: 3, term: 5, ..PeerMessage::default() };
        message.set_msg_type(MessageType::MsgHeartbeat);
        node.handle(Input::Peer(message), now);
        let mut effects = Effects::default();
        node.poll(now, &mut effects);
        let answered = !effects.appends.is_empty() || effects.messages.iter().any(|message| message.to == 1);
        node.handle(Input::Tick, now);
        answered
    };
    let ticks = (0..100).take_while(|_| !answers_leader()).count();
    assert_eq!(ticks, 2 * 10 + 1, "election timeouts");
}
