//! Faults: when each comes, what it does, and how long it lasts.
//!
//! Must hold: what a cluster cannot survive by design never happens: at most one member at a time may forget what it
//! promised, members change one at a time, and neither while the other is under way.

use ringd_storage::ids::MemberId;

use crate::event::{Event, HostId};
use crate::host::Host;
use crate::profile::{KINDS, Kind};
use crate::time::{MILLI, Nanos, SECOND};
use crate::world::World;

/// Power cuts in a million that take every host at once.
const BLACKOUT_PPM: u32 = 250_000;
/// Damaged members in a million that come back while the leader cannot be reached, where there are partitions: then what
/// they have forgotten counts.
const DESERTED_PPM: u32 = 600_000;

/// Damage done to a stopped host.
pub struct Damage {
    /// What and where.
    pub text: String,
    /// A start must refuse, or note that something was cut.
    pub must_show: bool,
}

/// What ails one host.
#[derive(Default)]
pub struct Trouble {
    /// Effects until it dies, and whether power goes with it.
    pub doom: Option<(u32, bool)>,
    /// Syncs are slow until then.
    pub slow_until: Nanos,
    /// By this factor.
    pub slow_by: u64,
    /// The sync under way ends no earlier.
    pub stuck_until: Nanos,
    /// The next step of a sync fails.
    pub sync_fails: bool,
    /// What was damaged since it stopped.
    pub damaged: Option<Damage>,
    /// It refuses to start until it is replaced.
    pub refused: bool,
    /// Its member was removed.
    pub gone: bool,
    /// Nobody starts it but the operator or a script.
    pub held: bool,
    /// Heartbeat intervals since it started.
    pub ticks: u64,
    /// The applied entry of its last digest.
    pub digested: u64,
}

impl Trouble {
    /// Whether it must not be started.
    #[must_use]
    pub fn parked(&self) -> bool {
        self.refused || self.gone || self.held
    }

    pub(crate) fn reset_for_start(&mut self) {
        self.doom = None;
        self.sync_fails = false;
        self.ticks = 0;
        self.digested = 0;
    }
}

impl World {
    pub(crate) fn plan_fault(&mut self, kind: Kind) {
        let mean = self.profile.wait(kind);
        if mean > 0 && self.healing.is_none() {
            let wait = self.fault_rng(kind).wait(mean);
            // The first seconds belong to the cluster's beginning, which has its own troubles through messages.
            let at = self.now.max(SECOND) + wait;
            self.queue.plan(at, Event::Fault(kind.place() as u8));
        }
    }

    /// One fault of a kind, and the next one planned.
    pub(crate) fn fault(&mut self, kind: Kind) {
        if self.healing.is_some() {
            return;
        }
        self.plan_fault(kind);
        let hosts = self.hosts.len() as u64;
        let host = self.fault_rng(kind).below(hosts) as HostId;
        let at = usize::from(host);
        let lasts = self.fault_rng(kind).range(100 * MILLI, 6 * SECOND);
        let until = self.now + lasts;
        match kind {
            Kind::Reorder => {
                self.net.mix(host, until);
                self.count(kind);
            }
            Kind::OneWay => {
                let other = self.fault_rng(kind).below(hosts) as HostId;
                if other != host {
                    let cut = self.net.begin_cut();
                    self.net.sever(host, other, cut);
                    self.queue.plan(until, Event::Mend(host, other, cut));
                    self.note(host, format_args!("no longer reaches host {other}"));
                    self.count(kind);
                }
            }
            Kind::Partition => {
                let side = self.fault_rng(kind).below(1 << hosts);
                self.partition(side, until);
                self.count(kind);
            }
            Kind::PowerCut if self.fault_rng(kind).chance(BLACKOUT_PPM) => {
                self.count(kind);
                for host in 0..self.hosts.len() as HostId {
                    self.crash(host, true);
                }
            }
            Kind::Kill | Kind::PowerCut => {
                if self.hosts[at].process.is_some() {
                    let effects = self.fault_rng(kind).below(60) as u32;
                    self.trouble[at].doom = Some((effects, kind == Kind::PowerCut));
                    self.count(kind);
                }
            }
            Kind::SlowSync => {
                let by = self.fault_rng(kind).range(3, 40);
                let trouble = &mut self.trouble[at];
                (trouble.slow_until, trouble.slow_by) = (until, by);
                self.count(kind);
            }
            Kind::StuckSync => {
                self.trouble[at].stuck_until = until;
                self.count(kind);
            }
            Kind::SyncError => self.trouble[at].sync_fails = true,
            Kind::NoSpace => {
                self.hosts[at].disk.limit(Some(0));
                self.note(host, format_args!("its disk is full"));
                self.queue.plan(until, Event::Room(host));
                self.count(kind);
            }
            Kind::ClockJump => {
                let jump = self.fault_rng(kind).below(8 * SECOND) as i64 - 4 * SECOND as i64;
                self.hosts[at].clock_offset += jump;
                // Offsets may add up, so the bound grows by the whole jump.
                self.clock_differ += jump.unsigned_abs();
                self.note(host, format_args!("its clock jumps by {} ms", jump / MILLI as i64));
                self.count(kind);
            }
            Kind::BitFlip | Kind::LostWrite | Kind::DiskReplaced => self.damage(host, kind),
            Kind::Membership => {
                let adds = self.fault_rng(kind).chance(500_000);
                if self.change_members(host, adds) {
                    self.count(kind);
                }
            }
            Kind::Loss | Kind::Delay | Kind::Duplicate | Kind::ClockSkew | Kind::SnapshotBreak => {}
        }
    }

    /// Cuts every link between the hosts whose bit in `side` is set and the others.
    pub fn partition(&mut self, side: u64, until: Nanos) {
        let cut = self.net.begin_cut();
        let hosts = self.hosts.len() as HostId;
        for from in 0..hosts {
            for to in 0..hosts {
                if from != to && (side >> from & 1) != (side >> to & 1) {
                    self.net.sever(from, to, cut);
                    self.queue.plan(until, Event::Mend(from, to, cut));
                }
            }
        }
        self.note(0, format_args!("partition {side:b}"));
    }

    /// Whether a member may now forget something: every other one is whole, and there are enough of them.
    ///
    /// All of them must serve: before that a cluster may not yet be told from one that begins (`gate.rs`, rule 2).
    /// All of them must run: one that is down may come back with a cut tail, and then it waits for the voice of every
    /// other member (`gate.rs`), which a member that is gone for good does not have.
    fn may_forget(&self) -> bool {
        let members = self.trouble.iter().filter(|trouble| !trouble.gone).count();
        let whole = |at: usize| {
            let remembers = |process: &crate::host::Process| process.published && !process.node.may_have_forgotten();
            self.trouble[at].gone
                || !self.trouble[at].refused
                    && self.trouble[at].damaged.is_none()
                    && self.hosts[at].process.as_ref().is_some_and(remembers)
        };
        members >= 3 && self.amnesic.is_none() && self.operator.is_idle() && (0..self.hosts.len()).all(whole)
    }

    fn damage(&mut self, host: HostId, kind: Kind) {
        let at = usize::from(host);
        if !self.may_forget() || self.trouble[at].gone || !self.cluster_is_even() {
            return;
        }
        let leader = self.leader().filter(|leader| *leader != host);
        self.kill(host);
        let mut rng = self.fault_rng(kind).clone();
        let disk = &mut self.hosts[at].disk;
        let text = match kind {
            Kind::BitFlip => disk.flip(&mut rng),
            Kind::LostWrite => disk.lose_sector(&mut rng),
            _ => {
                disk.replace();
                self.checks.facts.forget_host(host);
                Some("a new disk".to_owned())
            }
        };
        *self.fault_rng(kind) = rng;
        let down = self.fault_rng(kind).range(200 * MILLI, 3 * SECOND);
        self.queue.plan(self.now + down, Event::Start(host));
        let Some(text) = text else { return };
        self.note(host, format_args!("damaged: {text}"));
        self.count(kind);
        let deserts = self.fault_rng(kind).chance(DESERTED_PPM);
        let lasts = self.fault_rng(kind).range(2 * SECOND, 6 * SECOND);
        if let Some(leader) = leader.filter(|_| deserts && self.profile.wait(Kind::Partition) > 0) {
            self.partition(1 << leader, self.now + down + lasts);
            self.count(Kind::Partition);
        }
        // A turned bit may lie where nobody looks again: behind the end, in an old snapshot.
        self.trouble[at].damaged = Some(Damage { text, must_show: kind == Kind::LostWrite });
        self.amnesic = Some(host);
    }

    /// Every member is a voter that has everything committed: nobody's copy is needed who is down or behind.
    pub(crate) fn cluster_is_even(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let Some(process) = &self.hosts[usize::from(leader)].process else { return false };
        let status = process.node.raft_status();
        let members = process.node.members().len();
        let near = |progress: &ringd::core::status::Progress| progress.matched >= status.committed;
        status.progress.len() == members
            && status.progress.iter().filter(|progress| near(progress)).count() > members / 2
            && status.progress.iter().all(|progress| process.node.is_voter(progress.id))
            && self.everybody_knows(&process.node.configuration())
    }

    /// Whether all members have applied the same configuration. One that is lost right after a change may have been
    /// the only one that knew of it, and those who stay wait for it: by design, and etcd does the same.
    fn everybody_knows(&self, configuration: &(Vec<MemberId>, Vec<MemberId>)) -> bool {
        let knows = |host: &Host| host.process.as_ref().is_some_and(|one| one.node.configuration() == *configuration);
        self.hosts.iter().zip(&self.trouble).all(|(host, trouble)| trouble.gone || knows(host))
    }

    /// A process ends at once. What it wrote is in the kernel's hands.
    pub fn kill(&mut self, host: HostId) {
        self.crash(host, false);
        // A crash restarts by itself; whoever kills decides about that.
    }

    /// The host's process ends, with the power or without.
    pub fn crash(&mut self, host: HostId, power: bool) {
        let at = usize::from(host);
        let spared = self.amnesic.is_some_and(|other| other != host);
        if power && !spared {
            let mut rng = self.fault_rng(Kind::PowerCut).clone();
            self.hosts[at].disk.power_cut(&mut rng);
            *self.fault_rng(Kind::PowerCut) = rng;
        }
        self.gone_dark(host, if power { "loses power" } else { "is killed" });
    }

    /// Something about the disk ends the process, as the shell does; it is started again by its supervisor.
    pub(crate) fn stop_for_disk(&mut self, host: HostId, why: &str) {
        let at = usize::from(host);
        self.note(host, format_args!("stops: {why}"));
        // The kernel has dropped what it could not write.
        if self.amnesic.is_none_or(|other| other == host) {
            let mut rng = self.fault_rng(Kind::SyncError).clone();
            self.hosts[at].disk.power_cut(&mut rng);
            *self.fault_rng(Kind::SyncError) = rng;
        }
        self.gone_dark(host, "has stopped");
    }

    fn gone_dark(&mut self, host: HostId, how: &str) {
        let at = usize::from(host);
        if self.hosts[at].process.take().is_none() {
            return;
        }
        self.note(host, format_args!("{how}"));
        self.trouble[at].doom = None;
        self.break_connections(host);
        let down = self.rng.range(50 * MILLI, 4 * SECOND);
        self.queue.plan(self.now + down, Event::Start(host));
    }

    /// Faults end: links, disks and clocks are as they should be, and whoever is down is started.
    pub fn heal(&mut self) {
        self.healing = Some(self.now);
        self.note(0, format_args!("everything heals"));
        self.net.heal();
        for host in 0..self.hosts.len() {
            self.hosts[host].disk.limit(None);
            let trouble = &mut self.trouble[host];
            trouble.doom = None;
            trouble.slow_until = 0;
            trouble.stuck_until = 0;
            trouble.sync_fails = false;
            self.queue.plan(self.now + MILLI, Event::Start(host as HostId));
        }
    }

    /// Names and counts of what happened.
    pub fn fault_counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        KINDS.iter().map(|kind| (kind.name(), self.counts[kind.place()]))
    }
}
