//! Handing leadership over: before a stop, and when this node's disk stalls.
//!
//! Owns: when to try, and when to stop trying. Touches: the replica. Must hold: a stop hears exactly one
//! [`Notice::NotLeading`] per request, also when nobody can take over; because of its disk a leader hands over only to a
//! member whose disk has shown that it is quicker.

use super::event::Notice;
use super::replica::Replica;

/// A leader whose sync lasts longer hands over: its own clients wait for its disk, and with two followers that are no
/// slower nobody else needs it. Half of the default election timeout; healthy disks answer within a tenth of it.
const DISK_STALL_MS: u64 = 500;
/// For so many ticks of the stall a follower must have had on disk what this node has not. Under overload, and on
/// machines that share a disk, all syncs are slow and one of them ends first by chance: a new leader would be no better.
const QUICKER_TICKS: u32 = 3;

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Handover {
    /// Since when a stop waits.
    stop_since: Option<u64>,
    stalled_ms: u64,
    /// In so many looks at the present stall a follower was ahead of this node's disk.
    quicker_ticks: u32,
    /// How long it had lasted at the last look.
    looked_ms: u64,
    /// The earliest tick of the next try because of the disk.
    next_try: u64,
}

impl Handover {
    /// The node is about to stop.
    pub fn stop(&mut self, tick: u64) {
        self.stop_since = Some(tick);
    }

    /// A sync has lasted so long.
    pub fn disk_stalled(&mut self, for_ms: u64) {
        self.stalled_ms = for_ms;
    }

    /// Does what is due. A try that did not end within an election timeout was given up by raft, and is made again.
    pub fn advance(&mut self, replica: &mut Replica, tick: u64, election_ticks: u64, notices: &mut Vec<Notice>) {
        if let Some(since) = self.stop_since {
            let is_over = !replica.is_leader() || !replica.has_other_voters();
            let is_late = tick.saturating_sub(since) > election_ticks;
            if is_over || is_late {
                self.stop_since = None;
                notices.push(Notice::NotLeading);
            } else if !replica.is_transferring()
                && let Some(to) = replica.furthest_voter()
            {
                replica.transfer_leadership_to(to);
            }
        }
        self.consider_disk(replica, tick, election_ticks, notices);
    }

    fn consider_disk(&mut self, replica: &mut Replica, tick: u64, election_ticks: u64, notices: &mut Vec<Notice>) {
        let stalled_ms = std::mem::take(&mut self.stalled_ms);
        if stalled_ms == 0 || !replica.is_leader() {
            return;
        }
        let goes_on = std::mem::replace(&mut self.looked_ms, stalled_ms) < stalled_ms;
        let quicker = replica.quicker_voter();
        self.quicker_ticks = match quicker {
            Some(_) if goes_on => self.quicker_ticks.saturating_add(1),
            Some(_) => 1,
            None => 0,
        };
        if stalled_ms >= DISK_STALL_MS
            && self.quicker_ticks >= QUICKER_TICKS
            && tick >= self.next_try
            && !replica.is_transferring()
            && let Some(to) = quicker
        {
            self.next_try = tick + 2 * election_ticks;
            replica.transfer_leadership_to(to);
            notices.push(Notice::HandingOver { to, stalled_ms });
        }
    }
}
