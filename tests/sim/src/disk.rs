//! One host's disk: the WAL's directory and the snapshots' directory, both in memory, and what befalls them.
//!
//! Owns: the contents while no process runs. What each zone may suffer, and nothing else:
//!
//! | zone | may suffer |
//! |---|---|
//! | bytes not synced | at a power cut each 512-byte sector shows any state it was in since its last sync, each by chance |
//! | names not synced | at a power cut any subset of creations, renames and removals since the last directory sync survives |
//! | bytes of a sync that failed | as at a power cut: the kernel has dropped the dirty pages, the disk has some of them |
//! | synced WAL bytes, at rest | one bit turns; or one sector of a frame in the newest segment holds zeros again (a write the disk acknowledged and dropped). The log's last sector keeps what it has, and in a recycled segment the one in which the last frame begins: a last frame that vanishes without a trace is indistinguishable from one that was never written, for any log, and without its header the rest of it cannot be told from what the file held in its earlier life |
//! | synced snapshot bytes, at rest | one bit turns |
//! | free space | ends for a while; the partial file of a failed allocation stays |
//! | the whole disk | is replaced by an empty one |
//! | a segment's or snapshot's length | nothing: the medium makes lengths durable at once |
//!
//! Bits, lost writes and replaced disks hit at most one member at a time, and the next only after that one has caught up
//! again: raft can lose what a quorum has forgotten. While one member is so hit, no other one tears its log's end: each
//! of the two would wait for the other's voice before it votes (`gate.rs`), and a member whose disk is refused has none.

use ringd_storage::format::{FrameHeader, SEGMENT_FLAG_ZEROED, SegmentHeader};
use ringd_storage::medium::Medium;
use ringd_storage::memory::{MemoryMedium, Surviving};
use ringd_storage::record::Records;
use ringd_storage::verdict::Reason;
use ringd_storage::walk::{Visitor, walk};

use crate::rng::Rng;

/// The sector of the disk model.
const SECTOR_BYTES: usize = 512;
/// Bits turn in the last so many bytes of the log as often as in all others: about one frame.
const TAIL_BYTES: u64 = 200;

/// Where the frames of the newest segment lie.
#[derive(Default)]
struct Frames {
    ranges: Vec<(usize, usize)>,
    is_recycled: bool,
}

impl Visitor for Frames {
    fn segment(&mut self, _path: &str, header: &SegmentHeader, _bytes: u64) {
        *self = Self { ranges: Vec::new(), is_recycled: header.flags & SEGMENT_FLAG_ZEROED == 0 };
    }

    fn frame(&mut self, offset: u64, frame: &FrameHeader, _records: Records<'_>) -> Result<(), Reason> {
        self.ranges.push((offset as usize, (offset + frame.total_bytes()) as usize));
        Ok(())
    }
}

/// See the module documentation.
#[derive(Default)]
pub struct Disk {
    /// `wal/`.
    pub wal: MemoryMedium,
    /// `snap/`.
    pub snap: MemoryMedium,
}

impl Disk {
    /// Power is lost now. `everything` and `nothing` survive are as likely as a mixture.
    pub fn power_cut(&mut self, rng: &mut Rng) {
        let style = rng.below(4);
        let mut survive = |what: Surviving<'_>| match (style, what) {
            (0, _) => 0,
            (1, _) => u32::MAX,
            (_, Surviving::Sector { stores, .. }) => rng.below(u64::from(stores) + 1) as u32,
            (_, Surviving::Name(_)) => rng.below(2) as u32,
        };
        self.keep(&mut survive);
    }

    /// Power is lost now, and `survive` says what the disk holds.
    pub fn keep(&mut self, survive: &mut dyn FnMut(Surviving<'_>) -> u32) {
        self.wal = self.wal.crash(survive);
        self.snap = self.snap.crash(survive);
    }

    fn segments(&self) -> Vec<String> {
        let names = self.wal.list().expect("memory lists");
        names.into_iter().filter(|name| name.ends_with(".wal")).collect()
    }

    /// Turns one bit of the written part of a segment or of a snapshot, often near the end of the log, where it is cut and
    /// not refused. Answers what and where.
    pub fn flip(&mut self, rng: &mut Rng) -> Option<String> {
        let snapshots: Vec<String> =
            self.snap.list().expect("memory lists").into_iter().filter(|name| name.ends_with(".snap")).collect();
        let in_snapshot = !snapshots.is_empty() && rng.chance(300_000);
        let (medium, names) = if in_snapshot { (&self.snap, snapshots) } else { (&self.wal, self.segments()) };
        if names.is_empty() {
            return None;
        }
        let in_tail = !in_snapshot && rng.chance(500_000);
        let name = if in_tail { names.last()? } else { rng.pick(&names) };
        let bytes = medium.contents(name)?;
        let written = bytes.iter().rposition(|byte| *byte != 0)? as u64 + 1;
        let from = if in_tail { written.saturating_sub(TAIL_BYTES) } else { 0 };
        let (offset, bit) = (rng.range(from, written), rng.below(8) as u8);
        medium.flip_bit(name, offset, bit).then(|| format!("{name} offset {offset} bit {bit}"))
    }

    /// Zeroes one sector of the newest segment that holds bytes of a frame; see the table for those that stay whole.
    /// Answers where; `None` when there is none.
    pub fn lose_sector(&mut self, rng: &mut Rng) -> Option<String> {
        let name = self.segments().pop()?;
        let mut bytes = self.wal.contents(&name)?;
        let mut frames = Frames::default();
        walk(&self.wal, &mut frames).ok()?;
        let (last_begin, end) = *frames.ranges.last()?;
        let last_written = end - 1 - bytes[..end].iter().rev().position(|byte| *byte != 0)?;
        let holds_something = |sector: usize| {
            let (begin, end) = (sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES);
            let of_sector =
                |(from, to): &(usize, usize)| bytes[begin.max(*from)..end.min(*to).max(begin.max(*from))].iter();
            frames.ranges.iter().any(|range| of_sector(range).any(|byte| *byte != 0))
        };
        let stays = |sector: usize| {
            sector == last_written / SECTOR_BYTES || frames.is_recycled && sector == last_begin / SECTOR_BYTES
        };
        let first = frames.ranges[0].0 / SECTOR_BYTES;
        let sectors: Vec<usize> =
            (first..last_written / SECTOR_BYTES).filter(|sector| holds_something(*sector) && !stays(*sector)).collect();
        if sectors.is_empty() {
            return None;
        }
        let sector = *rng.pick(&sectors);
        bytes[sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES].fill(0);
        self.wal.put_file(&name, bytes);
        Some(format!("{name} sector {sector}"))
    }

    /// The newest segment.
    #[must_use]
    pub fn newest_segment(&self) -> Option<String> {
        self.segments().pop()
    }

    /// Turns a bit in every snapshot, or only in the newest one.
    pub fn damage_snapshots(&self, only_newest: bool) {
        let names = self.snap.list().expect("memory lists");
        let skipped = if only_newest { names.len().saturating_sub(1) } else { 0 };
        for name in &names[skipped..] {
            self.snap.flip_bit(name, 20, 0);
        }
    }

    /// An empty disk takes its place.
    pub fn replace(&mut self) {
        *self = Self::default();
    }

    /// Limits what the WAL's directory takes from now on to `bytes` more than nothing; `None` lifts the limit.
    pub fn limit(&mut self, bytes: Option<u64>) {
        self.wal.set_capacity(bytes);
        self.snap.set_capacity(bytes);
    }
}
