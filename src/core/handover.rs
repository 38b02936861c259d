//! Handing leadership over: before a stop, and when this node's disk stalls.
//!
//! Owns: when to try, and when to stop trying. Touches: the replica. Must hold: a stop hears exactly one
//! [`Notice::NotLeading`] per request, also when nobody can take over.

use super::event::Notice;
use super::replica::Replica;

/// A leader whose sync lasts longer hands over: its own clients wait for its disk, and with two followers that are no
/// slower nobody else needs it. Half of the default election timeout; healthy disks answer within a tenth of it.
const DISK_STALL_MS: u64 = 500;

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Handover {
    /// Since when a stop waits.
    stop_since: Option<u64>,
    stalled_ms: u64,
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
            } else if !replica.is_transferring() {
                replica.transfer_leadership();
            }
        }
        let stalled_ms = std::mem::take(&mut self.stalled_ms);
        if stalled_ms >= DISK_STALL_MS && tick >= self.next_try && replica.is_leader() && !replica.is_transferring() {
            self.next_try = tick + 2 * election_ticks;
            if let Some(to) = replica.transfer_leadership() {
                notices.push(Notice::HandingOver { to, stalled_ms });
            }
        }
    }
}
