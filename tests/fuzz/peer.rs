//! Frames between members and the handshake before them: any bytes are read or refused, in pieces as in one, and what
//! is read survives being written again.

use bytes::BytesMut;
use proptest::prelude::*;
use ringd::wire::peer_frame::{FRAME_HEADER_BYTES, Frame, FrameError, Outbox, append_chunk, next_frame};
use ringd::wire::peer_handshake::{Purpose, parse_answer, parse_request, render_request};

use crate::run;

/// Pieces of protobuf that mean something in a raft message, and lengths that lie.
const WORDS: &[&[u8]] = &[
    b"\x08\x03",
    b"\x3a",
    b"\x4a",
    b"\x12\x02",
    b"\x22\x00",
    b"\x08\x01",
    b"\x0b",
    b"\x0c",
    b"\xa3\x01",
    b"\xff\xff\xff\xff\x0f",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x04\x00\x00\x00",
    b"\x00\x00\x00\x00",
    b"\xff\xff\xff\xff",
];

/// The payload as a frame of messages, whose checksum holds.
fn framed(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; FRAME_HEADER_BYTES];
    frame[8] = 1;
    frame.extend_from_slice(payload);
    frame[..4].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    let crc = crc32fast::hash(&frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    frame
}

fn read(pieces: &[&[u8]]) -> Result<Vec<Frame>, FrameError> {
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while let Some(frame) = next_frame(&mut buffer)? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

fn check(bytes: &[u8], piece: usize) {
    let whole = read(&[bytes]);
    assert_eq!(read(&bytes.chunks(piece).collect::<Vec<_>>()), whole);
    for frame in whole.into_iter().flatten() {
        if let Frame::Messages(messages) = frame {
            let (mut outbox, mut again) = (Outbox::default(), Vec::new());
            messages.iter().for_each(|message| outbox.push(message).unwrap());
            outbox.take(&mut again);
            let read_again = read(&[&again]).unwrap().into_iter().flat_map(|frame| match frame {
                Frame::Messages(messages) => messages,
                other => panic!("{other:?}"),
            });
            assert_eq!(read_again.collect::<Vec<_>>(), messages);
        }
    }
}

#[test]
fn messages() {
    run("peer", WORDS, |input, rng| check(&framed(input), 1 + rng.below(40)));
}

#[test]
fn frames() {
    // Beginnings of frames whose checksum rarely holds: lengths and kinds are what is tried here.
    run("peer", WORDS, |input, rng| {
        let mut bytes = framed(input);
        let at = rng.below(bytes.len());
        bytes[at] ^= 1 << rng.below(8);
        check(&bytes, 1 + rng.below(40));
        check(input, 1 + rng.below(40));
    });
}

#[test]
fn handshakes() {
    const WORDS: &[&[u8]] =
        &[b"\r\n", b": ", b" ", b",", b"0", b"f", b"\xff", b"X-Raft-To: 1\r\n", b"HTTP/1.1 101 x\r\n"];
    run("handshake", WORDS, |input, _| {
        if let Ok(Some(answer)) = parse_answer(input) {
            assert!(answer.head_bytes <= input.len());
        }
        if let Some(handshake) = parse_request(input) {
            let mut again = Vec::new();
            render_request(&mut again, "h:1", &handshake);
            assert_eq!(parse_request(&again), Some(handshake.clone()));
            assert!(matches!(handshake.purpose, Purpose::Messages | Purpose::Snapshot { .. }));
        }
    });
}

/// A chunk of a snapshot as it travels.
fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let filled = append_chunk(&mut frame, |out| {
        out.extend_from_slice(bytes);
        Ok::<(), ()>(())
    });
    filled.expect("it always succeeds");
    frame
}

proptest! {
    #[test]
    fn a_chunk_with_a_flipped_bit_is_refused_or_never_whole(
        bytes in proptest::collection::vec(any::<u8>(), 1..3000),
        at in any::<proptest::sample::Index>(),
        bit in 0..8_u32,
    ) {
        let mut damaged = chunk(&bytes);
        prop_assert_eq!(read(&[&damaged]), Ok(vec![Frame::Chunk(bytes.into())]));
        let place = at.index(damaged.len());
        damaged[place] ^= 1 << bit;
        // A length that grew waits for bytes that never come, until the transfer has stood still for too long.
        let read = read(&[&damaged]);
        prop_assert!(read.is_err() || place < 4 && read == Ok(vec![]), "{:?}", read);
    }

    #[test]
    fn noise_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..500), piece in 1..50_usize) {
        check(&bytes, piece);
        check(&framed(&bytes), piece);
    }
}
