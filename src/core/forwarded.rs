//! What becomes of other members' messages while this member's WAL has no room for what they carry.
//!
//! Owns: the forwarded proposals that wait. Touches: nothing; who asks says what there is room for.
//!
//! Invariants:
//! 1. Entries of a leader that find no room are dropped: it sends them again. Proposals of other members' clients wait,
//!    for nobody would repeat them and each would cost its client the time limit of a request.
//! 2. Proposals enter in the order in which they came: behind one that waits, all wait.
//! 3. At most [`WAITING_MAX`] wait, and none while there is no hope of room.

use std::collections::VecDeque;

use super::entries::is_forwarded_proposal;
use super::replica::{PeerMessage, room_for};

/// Proposals that may wait, of about a megabyte each at most ([`super::parcels::MESSAGE_BYTES_MAX`]): a segment's worth.
const WAITING_MAX: usize = 64;

/// The WAL's side of it: what it has room for at this moment.
pub trait Room {
    /// Whether so many bytes may be appended; counts them when they may. Forwarded proposals share the next append with
    /// the writes of this member's own clients (`beside_own`), a leader's entries do not.
    fn admit(&mut self, bytes: u64, beside_own: bool) -> bool;
    /// Whether the disk is full: there will be no room soon.
    fn is_full(&self) -> bool;
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Forwarded {
    waiting: VecDeque<PeerMessage>,
}

impl Forwarded {
    /// A message has arrived. It is given back if the node may have it now.
    pub fn arrived(&mut self, message: PeerMessage, room: &mut impl Room) -> Option<PeerMessage> {
        let (bytes, is_forwarded) = (room_for(&message), is_forwarded_proposal(&message));
        let in_turn = !is_forwarded || self.waiting.is_empty();
        if bytes == 0 || in_turn && room.admit(bytes, is_forwarded) {
            return Some(message);
        }
        if is_forwarded && self.waiting.len() < WAITING_MAX && !room.is_full() {
            self.waiting.push_back(message);
        }
        None
    }

    /// The next that has waited and may go to the node now; to be asked before each turn until there is none.
    pub fn next(&mut self, room: &mut impl Room) -> Option<PeerMessage> {
        if room.is_full() {
            self.waiting.clear();
        }
        self.waiting.pop_front_if(|message| room.admit(room_for(message), true))
    }
}

#[cfg(test)]
mod tests {
    use super::super::entries::{Entry, MessageType};
    use super::*;

    struct Bytes {
        left: u64,
        full: bool,
    }

    impl Room for Bytes {
        fn admit(&mut self, bytes: u64, _beside_own: bool) -> bool {
            let fits = bytes <= self.left;
            self.left -= if fits { bytes } else { 0 };
            fits
        }

        fn is_full(&self) -> bool {
            self.full
        }
    }

    fn message(kind: MessageType, index: u64, bytes: usize) -> PeerMessage {
        let mut message = PeerMessage::default();
        message.set_msg_type(kind);
        message.index = index;
        if bytes > 0 {
            message.set_entries(vec![Entry { data: vec![7; bytes].into(), ..Entry::default() }].into());
        }
        message
    }

    fn proposal(number: u64, bytes: usize) -> PeerMessage {
        message(MessageType::MsgPropose, number, bytes)
    }

    #[test]
    fn proposals_wait_for_room_in_their_order_and_entries_do_not() {
        let (mut forwarded, mut room) = (Forwarded::default(), Bytes { left: 100, full: false });
        assert!(forwarded.arrived(proposal(1, 1000), &mut room).is_none());
        assert!(forwarded.arrived(proposal(2, 1), &mut room).is_none(), "it would fit, and is not first");
        assert!(forwarded.arrived(message(MessageType::MsgAppend, 3, 1000), &mut room).is_none());
        assert!(forwarded.arrived(message(MessageType::MsgHeartbeat, 4, 0), &mut room).is_some(), "it needs no room");
        assert!(forwarded.next(&mut room).is_none());
        room.left = 10_000;
        let left = std::iter::from_fn(|| forwarded.next(&mut room)).map(|message| message.index);
        assert_eq!(left.collect::<Vec<_>>(), [1, 2]);
        assert!(room.left < 10_000 - 1001, "what they take is counted");
        assert!(forwarded.arrived(proposal(5, 1), &mut room).is_some(), "nobody waits any more");
    }

    #[test]
    fn no_more_wait_than_there_are_places_and_none_for_a_full_disk() {
        let (mut forwarded, mut room) = (Forwarded::default(), Bytes { left: 0, full: false });
        for number in 0..2 * WAITING_MAX as u64 {
            assert!(forwarded.arrived(proposal(number, 1), &mut room).is_none());
        }
        assert_eq!(forwarded.waiting.len(), WAITING_MAX);
        room.full = true;
        assert!(forwarded.next(&mut room).is_none());
        assert!(forwarded.arrived(proposal(0, 1), &mut room).is_none());
        room = Bytes { left: u64::MAX, full: false };
        assert!(forwarded.next(&mut room).is_none(), "they were given up");
    }
}
