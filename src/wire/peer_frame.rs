//! Frames between members: raft messages batched per turn, probes of a stream's life, pieces of a snapshot.
//!
//! Owns: how the bytes of a peer stream are cut and checked, and what of a raft message the shell may know. Touches:
//! slices, raft's message type and its protobuf codec; no I/O, no clock.
//!
//! A frame is a header of [`FRAME_HEADER_BYTES`] (little-endian: length of the payload u32, CRC-32 of kind and payload
//! u32, kind u8, three zero bytes) and the payload. A payload of messages is a row of (length u32, protobuf
//! `eraftpb.Message`).
//!
//! Must always hold:
//! 1. Any bytes give frames, a wish for more, or a [`FrameError`]; never a panic, and no memory beyond the frame's size.
//! 2. protobuf sees only bytes whose checksum holds and that contain no groups: protobuf 2.28 recurses without bound on
//!    nested groups (RUSTSEC-2024-0437), and raft's messages have none.
//! 3. What was cut into frames in any way reads back as the same messages in the same order.

use bytes::{Buf as _, Bytes, BytesMut};
use protobuf::Message as _;
use raft::eraftpb::{EntryType, Message, MessageType};
use ringd_storage::ids::{MemberId, RaftIndex, Term};

use crate::core::replica::PeerMessage;

/// The version of frames and handshake; members that speak different ones refuse each other.
pub const PROTOCOL_VERSION: u32 = 1;
/// Length, checksum, kind, padding.
pub const FRAME_HEADER_BYTES: usize = 12;
/// The longest payload that is accepted: a raft message carries at most 1 MiB of entries or one entry, and the largest
/// request body is a fraction of this.
pub const FRAME_BYTES_MAX: usize = 64 << 20;
/// A frame that has grown to this is ended and another begun, so that a receiver need not wait for a whole burst.
const FRAME_BYTES_AIM: usize = 1 << 20;
/// Before a message.
const MESSAGE_HEADER_BYTES: usize = 4;
/// How deep raft's message types nest: message, snapshot, metadata, configuration.
const DEPTH_MAX: u32 = 4;

const KIND_MESSAGES: u8 = 1;
const KIND_PING: u8 = 2;
const KIND_PONG: u8 = 3;
const KIND_CHUNK: u8 = 4;
const KIND_STORED: u8 = 5;

/// Why a stream cannot go on. The sender is broken, or the bytes are: close and connect again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than anything a member sends.
    #[error("a frame of {0} bytes; the most is {FRAME_BYTES_MAX}")]
    TooLong(usize),
    /// The bytes were damaged on their way.
    #[error("the checksum of a frame does not match")]
    Crc,
    /// The checksum holds, but the content does not fit its kind.
    #[error("a frame breaks the layout: {0}")]
    Layout(&'static str),
}

/// A message that no frame can hold. It is not sent; raft lives with lost messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a raft message of {0} bytes fits into no frame")]
pub struct MessageTooLong(pub usize);

/// One frame.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// Raft messages of one turn or a part of it.
    Messages(Vec<PeerMessage>),
    /// Answer with a pong of the same number.
    Ping(u64),
    /// The answer.
    Pong(u64),
    /// A piece of a snapshot file.
    Chunk(Bytes),
    /// The snapshot was received, checked and made durable (true), or not.
    Stored(bool),
}

/// What of a message matters on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Entries, or the commit index, up to this entry.
    Append {
        /// The last entry it carries or follows.
        last: RaftIndex,
    },
    /// The answer to an append.
    AppendResponse {
        /// The last entry it tells of.
        upto: RaftIndex,
    },
    /// A snapshot's description; its file travels beside.
    Snapshot {
        /// The last entry the snapshot covers.
        index: RaftIndex,
        /// Its term.
        term: Term,
    },
    /// A forwarded proposal.
    Proposal,
    /// Anything else.
    Other,
}

/// Who gets a message.
#[must_use]
pub fn addressee(message: &PeerMessage) -> MemberId {
    MemberId::new(message.to)
}

/// Who sent a message.
#[must_use]
pub fn sender(message: &PeerMessage) -> MemberId {
    MemberId::new(message.from)
}

/// What kind of message it is.
#[must_use]
pub fn classify(message: &PeerMessage) -> Class {
    match message.get_msg_type() {
        MessageType::MsgAppend => {
            Class::Append { last: RaftIndex::new(message.index.saturating_add(message.entries.len() as u64)) }
        }
        MessageType::MsgAppendResponse => Class::AppendResponse { upto: RaftIndex::new(message.index) },
        MessageType::MsgSnapshot => {
            let meta = message.get_snapshot().get_metadata();
            Class::Snapshot { index: RaftIndex::new(meta.index), term: Term::new(meta.term) }
        }
        MessageType::MsgPropose => Class::Proposal,
        _ => Class::Other,
    }
}

/// Bytes on their way to one member, frames whole but for the last, which is open until [`Outbox::seal`].
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    /// Where the open frame begins.
    open: Option<usize>,
}

impl Outbox {
    /// Adds a message to the open frame, or begins one.
    ///
    /// # Errors
    /// [`MessageTooLong`]; nothing was added then.
    pub fn push(&mut self, message: &PeerMessage) -> Result<(), MessageTooLong> {
        let bytes = message.compute_size() as usize;
        if bytes + MESSAGE_HEADER_BYTES > FRAME_BYTES_MAX {
            return Err(MessageTooLong(bytes));
        }
        if let Some(start) = self.open
            && self.bytes.len() - start + bytes > FRAME_BYTES_AIM
        {
            self.seal();
        }
        if self.open.is_none() {
            self.open = Some(self.bytes.len());
            begin_frame(&mut self.bytes, KIND_MESSAGES);
        }
        self.bytes.extend_from_slice(&u32::try_from(bytes).expect("checked above").to_le_bytes());
        message.write_to_vec(&mut self.bytes).expect("a raft message always encodes into memory");
        Ok(())
    }

    /// Asks the other side for a sign of life.
    pub fn ping(&mut self, number: u64) {
        self.seal();
        append_number(&mut self.bytes, KIND_PING, number);
    }

    /// Ends the open frame; what was pushed may leave.
    pub fn seal(&mut self) {
        if let Some(start) = self.open.take() {
            end_frame(&mut self.bytes, start);
        }
    }

    /// Swaps all sealed bytes with `sent`, whose memory is used again.
    pub fn take(&mut self, sent: &mut Vec<u8>) {
        self.seal();
        sent.clear();
        std::mem::swap(&mut self.bytes, sent);
    }

    /// Bytes that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.bytes = Vec::new();
        self.open = None;
    }
}

/// Appends the answer to a ping.
pub fn append_pong(out: &mut Vec<u8>, number: u64) {
    append_number(out, KIND_PONG, number);
}

/// Appends what became of a snapshot.
pub fn append_stored(out: &mut Vec<u8>, ok: bool) {
    let start = out.len();
    begin_frame(out, KIND_STORED);
    out.push(u8::from(ok));
    end_frame(out, start);
}

/// Appends a piece of a snapshot file; `fill` adds its bytes.
///
/// # Errors
/// What `fill` answered; `out` is unusable then.
pub fn append_chunk<E>(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
    let start = out.len();
    begin_frame(out, KIND_CHUNK);
    fill(out)?;
    end_frame(out, start);
    Ok(())
}

fn append_number(out: &mut Vec<u8>, kind: u8, number: u64) {
    let start = out.len();
    begin_frame(out, kind);
    out.extend_from_slice(&number.to_le_bytes());
    end_frame(out, start);
}

fn begin_frame(out: &mut Vec<u8>, kind: u8) {
    out.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, kind, 0, 0, 0]);
}

fn end_frame(out: &mut [u8], start: usize) {
    let length = out.len() - start - FRAME_HEADER_BYTES;
    assert!(length <= FRAME_BYTES_MAX, "a frame of our own is too long");
    let crc = crc32fast::hash(&out[start + 8..]);
    out[start..start + 4].copy_from_slice(&u32::try_from(length).expect("checked above").to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// Takes the next whole frame off `buffer`; `None` until there is one.
///
/// # Errors
/// [`FrameError`]: nothing behind it can be trusted.
pub fn next_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some(header) = buffer.first_chunk::<FRAME_HEADER_BYTES>() else { return Ok(None) };
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let (length, crc, kind) = (word(0) as usize, word(4), header[8]);
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong(length));
    }
    let total = FRAME_HEADER_BYTES + length;
    if buffer.len() < total {
        return Ok(None);
    }
    if crc32fast::hash(&buffer[8..total]) != crc {
        return Err(FrameError::Crc);
    }
    if header[9..] != [0; 3] {
        return Err(FrameError::Layout("padding"));
    }
    let mut payload = buffer.split_to(total).freeze();
    payload.advance(FRAME_HEADER_BYTES);
    let number = |payload: &Bytes| {
        <[u8; 8]>::try_from(payload.as_ref()).map(u64::from_le_bytes).map_err(|_| FrameError::Layout("number"))
    };
    let frame = match kind {
        KIND_MESSAGES => Frame::Messages(messages(payload)?),
        KIND_PING => Frame::Ping(number(&payload)?),
        KIND_PONG => Frame::Pong(number(&payload)?),
        KIND_CHUNK => Frame::Chunk(payload),
        KIND_STORED => match payload.as_ref() {
            [0] => Frame::Stored(false),
            [1] => Frame::Stored(true),
            _ => return Err(FrameError::Layout("verdict")),
        },
        _ => return Err(FrameError::Layout("unknown kind")),
    };
    Ok(Some(frame))
}

fn messages(mut payload: Bytes) -> Result<Vec<PeerMessage>, FrameError> {
    let mut messages = Vec::new();
    while !payload.is_empty() {
        if payload.len() < MESSAGE_HEADER_BYTES {
            return Err(FrameError::Layout("message length"));
        }
        let length = payload.get_u32_le() as usize;
        if length > payload.len() {
            return Err(FrameError::Layout("message length"));
        }
        messages.push(message(&payload.split_to(length))?);
    }
    Ok(messages)
}

/// Reads one message whose bytes are checked first. Entries share the frame's memory.
fn message(bytes: &Bytes) -> Result<Message, FrameError> {
    check_fields(bytes, DEPTH_MAX, &MESSAGE)?;
    let message: Message =
        Message::parse_from_carllerche_bytes(bytes).map_err(|_| FrameError::Layout("raft message"))?;
    // The data of a membership change is protobuf as well; it is read when the entry is applied.
    for entry in &message.entries {
        if entry.get_entry_type() != EntryType::EntryNormal {
            check_fields(&entry.data, DEPTH_MAX, &CHANGE)?;
        }
    }
    Ok(message)
}

/// Which fields of a message type hold messages, by field number.
struct Nested(&'static [(u64, &'static Nested)]);

const FLAT: Nested = Nested(&[]);
const METADATA: Nested = Nested(&[(1, &FLAT)]);
const SNAPSHOT: Nested = Nested(&[(2, &METADATA)]);
/// `eraftpb.Message`: entries, snapshot.
const MESSAGE: Nested = Nested(&[(7, &FLAT), (9, &SNAPSHOT)]);
/// `ConfChange` and `ConfChangeV2`: changes. (Field 2 of the former is a number and never looked into.)
const CHANGE: Nested = Nested(&[(2, &FLAT)]);

/// Walks the fields of a protobuf message: no groups, no length beyond its message, no nesting beyond the types'.
fn check_fields(mut bytes: &[u8], depth: u32, nested: &Nested) -> Result<(), FrameError> {
    const BAD: FrameError = FrameError::Layout("protobuf field");
    while !bytes.is_empty() {
        let key = varint(&mut bytes).ok_or(BAD)?;
        match key & 7 {
            0 => drop(varint(&mut bytes).ok_or(BAD)?),
            1 => drop(take(&mut bytes, 8).ok_or(BAD)?),
            2 => {
                let length = varint(&mut bytes).ok_or(BAD)?;
                let field = usize::try_from(length).ok().and_then(|length| take(&mut bytes, length)).ok_or(BAD)?;
                if let Some((_, inner)) = nested.0.iter().find(|(number, _)| *number == key >> 3) {
                    check_fields(field, depth.checked_sub(1).ok_or(BAD)?, inner)?;
                }
            }
            5 => drop(take(&mut bytes, 4).ok_or(BAD)?),
            _ => return Err(FrameError::Layout("protobuf group")),
        }
    }
    Ok(())
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::Entry;

    use super::*;

    fn append(index: u64, sizes: &[usize]) -> Message {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgAppend);
        message.to = 2;
        message.from = 1;
        message.index = index;
        for (place, &size) in sizes.iter().enumerate() {
            let data = vec![place as u8; size].into();
            message.entries.push(Entry { term: 3, index: index + 1 + place as u64, data, ..Entry::default() });
        }
        message
    }

    fn read_all(bytes: &[u8]) -> Result<Vec<Frame>, FrameError> {
        let mut buffer = BytesMut::from(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = next_frame(&mut buffer)? {
            frames.push(frame);
        }
        assert!(buffer.is_empty(), "bytes are left");
        Ok(frames)
    }

    #[test]
    fn a_turn_is_one_frame_and_a_burst_is_several() {
        let mut outbox = Outbox::default();
        let sent = [append(1, &[10, 20]), append(9, &[]), append(3, &[5])];
        sent.iter().for_each(|message| outbox.push(message).unwrap());
        outbox.seal();
        outbox.ping(7);
        let mut bytes = Vec::new();
        outbox.take(&mut bytes);
        assert!(outbox.is_empty());
        assert_eq!(read_all(&bytes).unwrap(), [Frame::Messages(sent.to_vec()), Frame::Ping(7)]);
        let large = append(1, &[FRAME_BYTES_AIM]);
        (0..3).for_each(|_| outbox.push(&large).unwrap());
        outbox.take(&mut bytes);
        assert_eq!(read_all(&bytes).unwrap().len(), 3);
    }

    #[test]
    fn answers_and_chunks_read_back() {
        let mut out = Vec::new();
        append_pong(&mut out, 1 << 40);
        append_stored(&mut out, true);
        append_chunk(&mut out, |out| {
            out.extend_from_slice(b"piece");
            Ok::<(), ()>(())
        })
        .unwrap();
        let expected = [Frame::Pong(1 << 40), Frame::Stored(true), Frame::Chunk(Bytes::from_static(b"piece"))];
        assert_eq!(read_all(&out).unwrap(), expected);
    }

    #[test]
    fn messages_are_classified() {
        let message = append(7, &[1, 1]);
        assert_eq!(classify(&message), Class::Append { last: RaftIndex::new(9) });
        assert_eq!((addressee(&message), sender(&message)), (MemberId::new(2), MemberId::new(1)));
        let mut snapshot = Message::default();
        snapshot.set_msg_type(MessageType::MsgSnapshot);
        snapshot.mut_snapshot().mut_metadata().index = 5;
        snapshot.mut_snapshot().mut_metadata().term = 2;
        assert_eq!(classify(&snapshot), Class::Snapshot { index: RaftIndex::new(5), term: Term::new(2) });
    }

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        begin_frame(&mut out, kind);
        out.extend_from_slice(payload);
        end_frame(&mut out, 0);
        out
    }

    #[test]
    fn damage_and_lies_are_refused() {
        let mut long = frame(KIND_PING, &[0; 8]);
        long[0..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(read_all(&long), Err(FrameError::TooLong(u32::MAX as usize)));
        let mut flipped = frame(KIND_PING, &[0; 8]);
        *flipped.last_mut().unwrap() ^= 1;
        assert_eq!(read_all(&flipped), Err(FrameError::Crc));
        assert_eq!(read_all(&frame(KIND_PING, &[0; 7])), Err(FrameError::Layout("number")));
        assert_eq!(read_all(&frame(9, &[])), Err(FrameError::Layout("unknown kind")));
        assert_eq!(read_all(&frame(KIND_MESSAGES, &[1, 0, 0])), Err(FrameError::Layout("message length")));
        assert_eq!(read_all(&frame(KIND_MESSAGES, &[9, 0, 0, 0, 8])), Err(FrameError::Layout("message length")));
    }

    #[test]
    fn groups_never_reach_protobuf_however_deep_they_lie() {
        let bomb = |field: u8| vec![field << 3 | 3; 100_000];
        let wrapped = |bytes: &[u8]| {
            let mut payload = u32::try_from(bytes.len()).unwrap().to_le_bytes().to_vec();
            payload.extend_from_slice(bytes);
            read_all(&frame(KIND_MESSAGES, &payload))
        };
        assert_eq!(wrapped(&bomb(15)), Err(FrameError::Layout("protobuf group")));
        let mut bytes = vec![7 << 3 | 2];
        let group = bomb(9);
        let mut length = group.len();
        while length >= 0x80 {
            bytes.push(length as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend_from_slice(&group);
        assert_eq!(wrapped(&bytes), Err(FrameError::Layout("protobuf group")));
        let mut change = append(1, &[0]);
        change.entries[0].set_entry_type(EntryType::EntryConfChange);
        change.entries[0].data = bomb(3).into();
        assert_eq!(wrapped(&change.write_to_bytes().unwrap()), Err(FrameError::Layout("protobuf group")));
    }
}
