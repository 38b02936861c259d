//! Links between hosts: every ordered pair has its own state.
//!
//! Owns: what is cut, how late messages are, and in which order they arrive. A link keeps its order, as a stream does,
//! unless it is told to mix. A message that a link loses is lost alone; streams lose what follows as well, which the
//! cut of a link shows. Forwarded proposals never arrive twice: a stream does not double, and the protocol does not ask
//! again.

use std::rc::Rc;

use ringd::core::entries::{is_forwarded_proposal, snapshot_named};
use ringd::core::event::{Input, Install, Standing};
use ringd::core::parcels::cut;
use ringd::core::replica::{MessageType, PeerMessage, room_for};
use ringd_storage::format::SnapshotMarker;
use ringd_storage::ids::MemberId;

use crate::event::{Event, HostId, Transfer};
use crate::profile::Kind;
use crate::rng::Rng;
use crate::time::{MILLI, Nanos, SECOND};
use crate::world::{HOSTS_MAX, World};

/// The core sends up to 1 MiB of entries at once, a 64th of a segment; segments here are smaller than that, and a
/// message that fits into none would never be taken.
const MESSAGES_PER_SEGMENT: u64 = 16;

#[derive(Clone, Copy, Default)]
struct Link {
    /// Which cut severs it; zero for none.
    cut: u32,
    /// The last arrival planned.
    last: Nanos,
    mixed_until: Nanos,
}

/// See the module documentation.
pub struct Net {
    links: [[Link; HOSTS_MAX]; HOSTS_MAX],
    cuts: u32,
    rng: Rng,
}

impl Net {
    /// All links whole.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { links: [[Link::default(); HOSTS_MAX]; HOSTS_MAX], cuts: 0, rng: Rng::new(seed, 3) }
    }

    fn link(&mut self, from: HostId, to: HostId) -> &mut Link {
        &mut self.links[usize::from(from)][usize::from(to)]
    }

    /// Whether messages get from one to the other.
    #[must_use]
    pub fn is_cut(&self, from: HostId, to: HostId) -> bool {
        self.links[usize::from(from)][usize::from(to)].cut != 0
    }

    /// Begins a cut; links are added to it with [`Net::sever`].
    pub fn begin_cut(&mut self) -> u32 {
        self.cuts += 1;
        self.cuts
    }

    /// Severs a link.
    pub fn sever(&mut self, from: HostId, to: HostId, cut: u32) {
        self.link(from, to).cut = cut;
    }

    /// Makes a link whole if this cut severs it.
    pub fn mend(&mut self, from: HostId, to: HostId, cut: u32) {
        let link = self.link(from, to);
        if link.cut == cut {
            link.cut = 0;
        }
    }

    /// Makes all links whole and orderly.
    pub fn heal(&mut self) {
        self.links.iter_mut().flatten().for_each(|link| {
            link.cut = 0;
            link.mixed_until = 0;
        });
    }

    /// Lets the messages of a host overtake each other.
    pub fn mix(&mut self, host: HostId, until: Nanos) {
        self.links[usize::from(host)].iter_mut().for_each(|link| link.mixed_until = until);
    }
}

impl World {
    /// When something sent now arrives.
    fn arrival(&mut self, from: HostId, to: HostId) -> Nanos {
        let (least, usual) = self.profile.latency;
        let takes = least + self.net.rng.below(usual);
        let late = self.profile.delay_ppm;
        let late = if self.healing.is_none() && self.fault_rng(Kind::Delay).chance(late) {
            self.count(Kind::Delay);
            Some(self.fault_rng(Kind::Delay).wait(300 * MILLI))
        } else {
            None
        };
        let now = self.now;
        let link = self.net.link(from, to);
        if let Some(late) = late {
            return now + takes + late;
        }
        if link.mixed_until > now {
            return now + takes * 10;
        }
        link.last = (now + takes).max(link.last);
        link.last
    }

    /// Sends a node's message.
    pub(crate) fn send(&mut self, from: HostId, message: PeerMessage) {
        self.note_vote(&message);
        let Some(to) = self.host_of(MemberId::new(message.to)) else { return };
        self.mix(message.to ^ message.index << 8 ^ (message.get_msg_type() as u64) << 40);
        if let Some(install) = snapshot_named(&message) {
            self.send_snapshot(from, to, install, message);
            return;
        }
        let limit = self.profile.segment_bytes / MESSAGES_PER_SEGMENT;
        if room_for(&message) <= limit {
            self.send_part(from, to, message);
            return;
        }
        let mut parts = Vec::new();
        cut(message, limit, &mut parts);
        for part in parts {
            self.send_part(from, to, part);
        }
    }

    /// Tells the checks what a message promises.
    fn note_vote(&mut self, message: &PeerMessage) {
        let (from, to, term, index) = (message.from, message.to, message.term, message.index);
        let votes = &mut self.checks.votes;
        let verdict = match message.get_msg_type() {
            MessageType::MsgRequestVote => votes.asks(from, term, (message.log_term, index)),
            MessageType::MsgRequestVoteResponse if !message.reject => votes.votes(from, term, to),
            MessageType::MsgAppendResponse if !message.reject && index > 0 => {
                votes.acknowledges(from, term, index);
                Ok(())
            }
            MessageType::MsgAppend => {
                votes.leads_with(term, message.log_term, index);
                let mut last = message.log_term;
                for entry in
                    message.entries.iter().filter(|entry| std::mem::replace(&mut last, entry.term) != entry.term)
                {
                    votes.leads_with(term, entry.term, entry.index);
                }
                Ok(())
            }
            _ => Ok(()),
        };
        self.judge(verdict);
    }

    fn send_part(&mut self, from: HostId, to: HostId, message: PeerMessage) {
        let (loss, duplicate) = (self.profile.loss_ppm, self.profile.duplicate_ppm);
        let calm = self.healing.is_some();
        if self.net.is_cut(from, to) || !calm && self.fault_rng(Kind::Loss).chance(loss) {
            if !self.net.is_cut(from, to) {
                self.count(Kind::Loss);
            }
            self.sender_may_notice(from, MemberId::new(message.to));
            return;
        }
        if !calm && !is_forwarded_proposal(&message) && self.fault_rng(Kind::Duplicate).chance(duplicate) {
            self.count(Kind::Duplicate);
            let at = self.arrival(from, to) + self.net.rng.below(5 * MILLI);
            self.queue.plan(at, Event::Deliver(from, Box::new(message.clone())));
        }
        let at = self.arrival(from, to);
        self.queue.plan(at, Event::Deliver(from, Box::new(message)));
    }

    fn sender_may_notice(&mut self, from: HostId, member: MemberId) {
        if self.net.rng.chance(100_000) {
            let life = self.hosts[usize::from(from)].life;
            let at = self.now + self.net.rng.range(MILLI, 200 * MILLI);
            self.queue.plan(at, Event::Unreachable(from, life, member));
        }
    }

    pub(crate) fn deliver(&mut self, from: HostId, message: PeerMessage) {
        let member = MemberId::new(message.to);
        let Some(to) = self.host_of(member) else { return };
        if self.net.is_cut(from, to) || self.hosts[usize::from(to)].process.is_none() {
            self.sender_may_notice(from, member);
            return;
        }
        if matches!(message.get_msg_type(), MessageType::MsgAppend | MessageType::MsgSnapshot) {
            self.checks.votes.hears(message.to, message.term);
        }
        let bytes = room_for(&message);
        let host = &mut self.hosts[usize::from(to)];
        let wall = host.clock(self.now);
        if host.process.as_mut().expect("just seen").hear(message, wall) {
            self.plan_turn(to);
        } else {
            self.note(to, format_args!("has no room for {bytes} bytes of entries"));
            self.plan_spare(to);
        }
    }

    fn send_snapshot(&mut self, from: HostId, to: HostId, install: Install, message: PeerMessage) {
        let at = usize::from(from);
        let life = self.hosts[at].life;
        let member = MemberId::new(message.to);
        let marker = SnapshotMarker { index: install.index, term: install.term };
        let file = self.hosts[at].read_snapshot(marker);
        let breaks = self.profile.snapshot_break_ppm;
        let breaks = self.healing.is_none() && self.fault_rng(Kind::SnapshotBreak).chance(breaks);
        self.note(from, format_args!("sends snapshot {} to host {to} (breaks: {breaks})", marker.index));
        match file {
            Some((name, bytes)) if !breaks && !self.net.is_cut(from, to) => {
                // The file travels for a while on a stream of its own.
                let arrives = self.arrival(from, to) + self.net.rng.range(MILLI, 300 * MILLI);
                let transfer = Transfer { from: (from, life), message, name, bytes: Rc::new(bytes) };
                self.queue.plan(arrives, Event::DeliverSnapshot(to, Box::new(transfer)));
            }
            _ => {
                if breaks {
                    self.count(Kind::SnapshotBreak);
                }
                let notices = self.now + self.net.rng.range(MILLI, SECOND);
                self.queue.plan(notices, Event::SnapshotSent(from, life, member, false));
            }
        }
    }

    pub(crate) fn deliver_snapshot(&mut self, to: HostId, transfer: Transfer) {
        let Transfer { from: (from, life), message, name, bytes } = transfer;
        let member = MemberId::new(message.to);
        let at = usize::from(to);
        let arrives = !self.net.is_cut(from, to) && self.hosts[at].id == member && self.hosts[at].process.is_some();
        let ok = arrives
            && self.hosts[at].receive_snapshot(&name, &bytes).is_ok()
            && ringd_storage::snapshot::verify(&self.hosts[at].disk.snap, &name).is_ok();
        if ok {
            self.checks.votes.hears(message.to, message.term);
            self.input(to, Input::Peer(message));
        }
        let hears = self.now + self.net.rng.range(MILLI, 20 * MILLI);
        self.queue.plan(hears, Event::SnapshotSent(from, life, member, ok));
    }

    /// A connection from one host to another is made: the one that asked learns how the other stands.
    pub(crate) fn handshake(&mut self, from: HostId, to: HostId) {
        let (asks, answers) = (usize::from(from), usize::from(to));
        if self.net.is_cut(from, to) || self.net.is_cut(to, from) || self.hosts[asks].process.is_none() {
            return;
        }
        let asking = self.hosts[asks].id;
        let Some(process) = &self.hosts[answers].process else { return };
        let standing = process.node.standing(asking);
        let (life, member) = (self.hosts[asks].life, self.hosts[answers].id);
        let at = self.arrival(to, from);
        self.queue.plan(at, Event::Standing(from, life, member, Box::new(standing)));
    }

    pub(crate) fn hear(&mut self, host: HostId, life: u32, member: MemberId, standing: Standing) {
        if !self.lives(host, life) {
            return;
        }
        self.input(host, Input::PeerStanding { member, standing });
    }

    /// Whether some host that can be asked knows a founder with an empty disk as one that has run (`found` in
    /// `shell/bootstrap.rs`).
    pub(crate) fn is_known_founder(&self, host: HostId) -> bool {
        let own = self.hosts[usize::from(host)].id;
        let knows = |other: HostId| {
            let process = self.hosts[usize::from(other)].process.as_ref();
            process.and_then(|process| process.node.members().get(own)).is_some_and(|own| !own.client_urls.is_empty())
        };
        let reaches = |other: HostId| !self.net.is_cut(host, other) && !self.net.is_cut(other, host);
        (0..self.hosts.len() as HostId).any(|other| other != host && reaches(other) && knows(other))
    }

    pub(crate) fn mend(&mut self, from: HostId, to: HostId, cut: u32) {
        self.net.mend(from, to, cut);
    }
}
