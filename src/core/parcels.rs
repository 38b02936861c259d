//! Cuts messages between members to a size that every receiver can take, and to what it does not have.
//!
//! raft-rs limits what one append carries, and then joins the appends of a turn for one follower without a limit; a
//! follower far behind would get tens of megabytes in one message, which fits neither a peer frame nor, all or nothing,
//! the rest of a segment of its log.
//!
//! Must hold: the parts, taken in order, do to a log what the whole would; none carries more than the limit unless it is
//! a single entry.

use super::entries::{Entry, Message};
use super::replica::{room_for, room_for_entry};

/// One message carries at most this much of a log: large enough to fill a batch, small enough to resend.
pub const MESSAGE_BYTES_MAX: u64 = 1 << 20;

/// Moves `messages` to the end of `out`, the large ones in parts.
pub fn pack(messages: &mut Vec<Message>, out: &mut Vec<Message>) {
    for message in messages.drain(..) {
        if room_for(&message) <= MESSAGE_BYTES_MAX {
            out.push(message);
        } else {
            cut(message, MESSAGE_BYTES_MAX, out);
        }
    }
}

/// Appends `message` to `out` in parts that carry at most `limit` bytes of a log each, or a single entry.
pub fn cut(mut message: Message, limit: u64, out: &mut Vec<Message>) {
    let entries = message.take_entries();
    let (mut part, mut bytes) = (Vec::new(), 0);
    for entry in entries {
        let more = room_for_entry(&entry);
        if !part.is_empty() && bytes + more > limit {
            out.push(part_of(&mut message, std::mem::take(&mut part)));
            bytes = 0;
        }
        bytes += more;
        part.push(entry);
    }
    out.push(part_of(&mut message, part));
}

/// A message with these entries; `message` then stands behind them. Proposals have no place in a log yet, and no term.
fn part_of(message: &mut Message, entries: Vec<Entry>) -> Message {
    let last = entries.last().map(|entry| (entry.index, entry.term));
    let mut part = message.clone();
    part.set_entries(entries.into());
    (message.index, message.log_term) = last.unwrap_or((message.index, message.log_term));
    part
}

/// Takes from the front of an append what its receiver has committed, up to `committed`, if there is more behind it.
/// raft-rs takes nothing of an append that begins before that, and everything sent behind it would then leave a gap.
pub fn skip(message: &mut Message, committed: u64) {
    let known = committed.saturating_sub(message.index);
    if known == 0 || known >= message.entries.len() as u64 {
        return;
    }
    let mut entries = message.take_entries().into_vec();
    let rest = entries.split_off(known as usize);
    let last = entries.last().expect("one at least is known");
    (message.index, message.log_term) = (last.index, last.term);
    message.set_entries(rest.into());
}

#[cfg(test)]
mod tests {
    use super::super::entries::MessageType;
    use super::*;

    fn entry(index: u64, term: u64, bytes: usize) -> Entry {
        Entry { index, term, data: vec![7; bytes].into(), ..Entry::default() }
    }

    fn message(kind: MessageType, entries: Vec<Entry>) -> Message {
        let mut message = Message { index: 4, log_term: 2, term: 3, to: 9, from: 1, commit: 7, ..Message::default() };
        message.set_msg_type(kind);
        message.set_entries(entries.into());
        message
    }

    #[test]
    fn the_parts_of_an_append_follow_each_other_and_carry_the_same() {
        let third = MESSAGE_BYTES_MAX as usize / 3;
        let sizes = [third, third, third, 10, 3 * third + 500, 10, third];
        let entries: Vec<Entry> = (5..).zip(sizes).map(|(index, bytes)| entry(index, 2 + index % 2, bytes)).collect();
        let whole = message(MessageType::MsgAppend, entries.clone());
        let mut out = Vec::new();
        pack(&mut vec![whole.clone()], &mut out);
        assert!(out.len() > 2);
        let (mut index, mut log_term) = (whole.index, whole.log_term);
        for part in &out {
            assert_eq!((part.index, part.log_term), (index, log_term));
            assert_eq!((part.term, part.to, part.from, part.commit), (3, 9, 1, 7));
            assert_eq!(part.get_msg_type(), MessageType::MsgAppend);
            assert!(room_for(part) <= MESSAGE_BYTES_MAX || part.entries.len() == 1);
            let last = part.entries.last().expect("no part is empty");
            (index, log_term) = (last.index, last.term);
        }
        let carried: Vec<Entry> = out.iter().flat_map(|part| part.entries.iter().cloned()).collect();
        assert_eq!(carried, entries);
    }

    #[test]
    fn what_is_skipped_is_the_front_of_an_append_and_never_all_of_it() {
        let whole = message(MessageType::MsgAppend, (5..9).map(|index| entry(index, 2 + index % 2, 1)).collect());
        for (committed, first) in [(0, 5), (4, 5), (5, 6), (7, 8), (8, 5), (20, 5)] {
            let mut message = whole.clone();
            skip(&mut message, committed);
            assert_eq!(
                message.entries.iter().map(|entry| entry.index).collect::<Vec<_>>(),
                (first..9).collect::<Vec<_>>()
            );
            let before = if first == 5 { (4, 2) } else { (first - 1, 2 + (first - 1) % 2) };
            assert_eq!((message.index, message.log_term), before, "committed up to {committed}");
        }
    }

    #[test]
    fn what_is_small_stays_as_it_is_and_in_its_place() {
        let small = message(MessageType::MsgAppend, vec![entry(5, 2, 10), entry(6, 2, 10)]);
        let beat = message(MessageType::MsgHeartbeat, Vec::new());
        let mut out = vec![beat.clone()];
        pack(&mut vec![small.clone(), beat.clone()], &mut out);
        assert_eq!(out, [beat.clone(), small, beat]);
    }

    #[test]
    fn forwarded_proposals_are_cut_too() {
        let half = MESSAGE_BYTES_MAX as usize / 2;
        let whole = message(MessageType::MsgPropose, (0..5).map(|_| entry(0, 0, half)).collect());
        let mut out = Vec::new();
        pack(&mut vec![Message { index: 0, log_term: 0, ..whole }], &mut out);
        assert_eq!(out.iter().map(|part| part.entries.len()).collect::<Vec<_>>(), [1, 1, 1, 1, 1]);
        assert!(out.iter().all(|part| (part.index, part.log_term) == (0, 0)));
    }
}
