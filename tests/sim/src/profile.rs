//! What may go wrong in one run: swarm testing gives each seed kinds that never happen and kinds that happen often.
//!
//! Owns: the list of fault kinds, and the profile a seed draws. Must hold: a profile is a function of its seed; turning
//! a kind off changes no other kind's draws.

use crate::rng::Rng;
use crate::time::{MICRO, MILLI, Nanos, SECOND};

/// A kind of fault. The order is that of [`KINDS`]; streams of chance are numbered by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A message is lost.
    Loss,
    /// A message is late, and overtaken by later ones.
    Delay,
    /// A message arrives twice.
    Duplicate,
    /// Messages of a link overtake each other for a while.
    Reorder,
    /// One host no longer reaches another, which still reaches it.
    OneWay,
    /// The hosts fall into two groups that do not reach each other.
    Partition,
    /// A process ends at once; the kernel keeps what it wrote.
    Kill,
    /// A host loses power: of what was not synced any subset survives.
    PowerCut,
    /// Syncs take many times as long for a while.
    SlowSync,
    /// One sync hangs for seconds.
    StuckSync,
    /// A sync answers EIO; its bytes are lost in part.
    SyncError,
    /// The disk is full for a while.
    NoSpace,
    /// A bit turns on a disk at rest.
    BitFlip,
    /// A synced sector of a stopped host's log holds what was there before.
    LostWrite,
    /// Clocks differ by a constant and a rate.
    ClockSkew,
    /// A clock jumps.
    ClockJump,
    /// A transfer of a snapshot breaks off, or the host dies while it writes one.
    SnapshotBreak,
    /// Members are added and removed.
    Membership,
    /// A host comes back with an empty disk.
    DiskReplaced,
}

/// All kinds.
pub const KINDS: [Kind; 19] = [
    Kind::Loss,
    Kind::Delay,
    Kind::Duplicate,
    Kind::Reorder,
    Kind::OneWay,
    Kind::Partition,
    Kind::Kill,
    Kind::PowerCut,
    Kind::SlowSync,
    Kind::StuckSync,
    Kind::SyncError,
    Kind::NoSpace,
    Kind::BitFlip,
    Kind::LostWrite,
    Kind::ClockSkew,
    Kind::ClockJump,
    Kind::SnapshotBreak,
    Kind::Membership,
    Kind::DiskReplaced,
];

impl Kind {
    /// Its place in [`KINDS`].
    #[must_use]
    pub const fn place(self) -> usize {
        self as usize
    }

    /// Its name in reports and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Delay => "delay",
            Self::Duplicate => "duplicate",
            Self::Reorder => "reorder",
            Self::OneWay => "one-way",
            Self::Partition => "partition",
            Self::Kill => "kill",
            Self::PowerCut => "power-cut",
            Self::SlowSync => "slow-sync",
            Self::StuckSync => "stuck-sync",
            Self::SyncError => "sync-error",
            Self::NoSpace => "no-space",
            Self::BitFlip => "bit-flip",
            Self::LostWrite => "lost-write",
            Self::ClockSkew => "clock-skew",
            Self::ClockJump => "clock-jump",
            Self::SnapshotBreak => "snapshot-break",
            Self::Membership => "membership",
            Self::DiskReplaced => "disk-replaced",
        }
    }

    /// The kind of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        KINDS.into_iter().find(|kind| kind.name() == name)
    }

    /// Mean time between two of them where the kind is on; `None` for kinds that are drawn per message or once.
    const fn mean_wait(self) -> Option<Nanos> {
        Some(match self {
            Self::Loss | Self::Delay | Self::Duplicate | Self::ClockSkew | Self::SnapshotBreak => return None,
            Self::Reorder => 6 * SECOND,
            Self::OneWay | Self::Partition => 8 * SECOND,
            Self::Kill | Self::PowerCut => 7 * SECOND,
            Self::SlowSync | Self::StuckSync => 8 * SECOND,
            Self::SyncError | Self::NoSpace | Self::ClockJump => 12 * SECOND,
            Self::BitFlip | Self::LostWrite | Self::Membership => 15 * SECOND,
            Self::DiskReplaced => 25 * SECOND,
        })
    }
}

/// Kinds that are turned off from outside.
pub type Off = u32;

/// One run's conditions.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Members at the start: 1, 3 or 5.
    pub members: u8,
    /// Clients that read and write.
    pub clients: u16,
    /// Clients that watch.
    pub watchers: u16,
    /// A client's mean pause between two requests.
    pub think: Nanos,
    /// Mean wait between two faults of a kind; zero is never.
    pub waits: [Nanos; KINDS.len()],
    /// Messages in a million that are lost, late, doubled.
    pub loss_ppm: u32,
    /// See `loss_ppm`.
    pub delay_ppm: u32,
    /// See `loss_ppm`.
    pub duplicate_ppm: u32,
    /// Transfers of snapshots in a million that break.
    pub snapshot_break_ppm: u32,
    /// Clocks differ by at most this much.
    pub skew: Nanos,
    /// A message's least and usual time on its way.
    pub latency: (Nanos, Nanos),
    /// A sync's usual time.
    pub sync: Nanos,
    /// The most a turn waits for company; zero lets every input have its own.
    pub turn_wait: Nanos,
    /// `--snapshot-count`.
    pub snapshot_entries: u64,
    /// Entries kept in memory behind a snapshot.
    pub catch_up_entries: u64,
    /// Bytes the log may have and still keep what followers lack.
    pub lagging_bytes: u64,
    /// Events kept for watchers.
    pub history_events: usize,
    /// How long faults happen.
    pub faulty: Nanos,
    /// Most bytes a value has.
    pub value_bytes: u64,
    /// Size of WAL segments.
    pub segment_bytes: u64,
}

impl Profile {
    /// What a seed draws, without the kinds that are off.
    #[must_use]
    pub fn draw(seed: u64, off: Off) -> Self {
        let mut rng = Rng::new(seed, 1000);
        let mut waits = [0; KINDS.len()];
        let mut on = [false; KINDS.len()];
        for kind in KINDS {
            let mut own = Rng::new(seed, 2000 + kind.place() as u64);
            let drawn = own.chance(450_000);
            on[kind.place()] = drawn && off & (1 << kind.place()) == 0;
            if let Some(mean) = kind.mean_wait().filter(|_| on[kind.place()]) {
                waits[kind.place()] = own.range(mean / 3, mean * 2);
            }
        }
        let is_on = |kind: Kind| on[kind.place()];
        let members = *rng.pick(&[1, 3, 3, 3, 3, 3, 5, 5]);
        let clients = rng.range(2, 7) as u16;
        let watchers = rng.range(1, 4) as u16;
        let think = rng.range(100 * MILLI, 500 * MILLI);
        let loss_ppm = rng.range(2_000, 80_000) as u32;
        let delay_ppm = rng.range(2_000, 80_000) as u32;
        let duplicate_ppm = rng.range(2_000, 50_000) as u32;
        let snapshot_break_ppm = rng.range(100_000, 600_000) as u32;
        let skew = rng.range(MILLI, 3 * SECOND);
        let value_bytes = *rng.pick(&[24, 64, 400, 2000]);
        // Small segments roll and are recycled often; what a follower may have to take in one turn still fits.
        let segment_bytes = if value_bytes < 100 { *rng.pick(&[64 << 10, 256 << 10]) } else { 256 << 10 };
        let entries_max = segment_bytes * 2 / 5 / (value_bytes + 150);
        let least = rng.range(50 * MICRO, 500 * MICRO);
        Self {
            members,
            clients,
            watchers,
            think,
            waits,
            loss_ppm: if is_on(Kind::Loss) { loss_ppm } else { 0 },
            delay_ppm: if is_on(Kind::Delay) { delay_ppm } else { 0 },
            duplicate_ppm: if is_on(Kind::Duplicate) { duplicate_ppm } else { 0 },
            snapshot_break_ppm: if is_on(Kind::SnapshotBreak) { snapshot_break_ppm } else { 0 },
            skew: if is_on(Kind::ClockSkew) { skew } else { 0 },
            latency: (least, rng.range(100 * MICRO, 5 * MILLI)),
            sync: rng.range(200 * MICRO, 4 * MILLI),
            turn_wait: *rng.pick(&[0, 0, 100 * MICRO, MILLI]),
            snapshot_entries: rng.range(20, 400.min(entries_max)),
            catch_up_entries: rng.range(1, 150.min(entries_max / 2)),
            // Mostly none: a snapshot for whoever lags is the path with more to go wrong.
            lagging_bytes: *Rng::new(seed, 1001).pick(&[0, 0, 0, 16 << 10, 64 << 10]),
            history_events: *rng.pick(&[10, 50, 1000]),
            faulty: rng.range(20, 60) * SECOND,
            value_bytes,
            segment_bytes,
        }
    }

    /// A quiet cluster for scripts: nothing goes wrong by itself.
    #[must_use]
    pub fn calm(members: u8) -> Self {
        Self {
            members,
            clients: 0,
            watchers: 0,
            think: SECOND,
            waits: [0; KINDS.len()],
            loss_ppm: 0,
            delay_ppm: 0,
            duplicate_ppm: 0,
            snapshot_break_ppm: 0,
            skew: 0,
            latency: (500 * MICRO, 500 * MICRO),
            sync: MILLI,
            turn_wait: 0,
            snapshot_entries: 10_000,
            catch_up_entries: 5000,
            lagging_bytes: 0,
            history_events: 1000,
            faulty: 0,
            value_bytes: 64,
            segment_bytes: 256 << 10,
        }
    }

    /// Mean wait between two faults of a kind; zero is never.
    #[must_use]
    pub fn wait(&self, kind: Kind) -> Nanos {
        self.waits[kind.place()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_stand_where_they_say() {
        assert!(KINDS.iter().enumerate().all(|(place, kind)| kind.place() == place));
        assert!(KINDS.iter().all(|kind| Kind::named(kind.name()) == Some(*kind)));
    }

    #[test]
    fn turning_one_kind_off_leaves_the_others() {
        for seed in 0..50 {
            let (all, less) = (Profile::draw(seed, 0), Profile::draw(seed, 1 << Kind::PowerCut.place()));
            assert_eq!(less.wait(Kind::PowerCut), 0);
            for kind in KINDS.into_iter().filter(|kind| *kind != Kind::PowerCut) {
                assert_eq!(all.wait(kind), less.wait(kind));
            }
            assert_eq!((all.members, all.loss_ppm, all.sync), (less.members, less.loss_ppm, less.sync));
        }
    }
}
