//! What storage reads from disk: any bytes are read or refused, and what is read says the same when it is read again.
//!
//! The checksums are made to hold: what lies behind them is tried, as a writer with a fault or of another version would
//! leave it. Damage that checksums show is `storage/tests/formats.rs`.

use std::cell::LazyCell;

use ringd_storage::format::{FRAME_HEADER_BYTES, Identity, PAGE_BYTES, frame_crc, frame_header};
use ringd_storage::ids::{ClusterId, MemberId};
use ringd_storage::medium::{Access, Medium};
use ringd_storage::memory::MemoryMedium;
use ringd_storage::payload::{PAYLOAD_VERSION, Proposal};
use ringd_storage::record::Entry;
use ringd_storage::recover::recover;
use ringd_storage::scan::SegmentReader;
use ringd_storage::snapshot::{BLOCK_HEADER_BYTES, SnapshotError, SnapshotReader, TRAILER_BYTES, verify};
use ringd_storage::wal::{Wal, WalOptions};

use crate::run;

/// A header page and one page of frames.
const SEGMENT_BYTES: u64 = 2 * PAGE_BYTES;
const OPTIONS: WalOptions = WalOptions { segment_bytes: SEGMENT_BYTES, spares: 1, epoch_seed: 42 };

/// Integers that lie, in the widths that records, blocks and payloads have.
const WORDS: &[&[u8]] = &[
    b"\x00\x00\x00\x00",
    b"\x01\x00\x00\x00\x00\x00\x00\x00",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xfe\xff\xff\xff\xff\xff\xff\xff",
    b"\x01\x00\x00\x00",
    b"\x02\x00\x00\x00\x18\x00\x00\x00",
    b"\x03\x01\x00\x00\x10\x00\x00\x00",
    b"\xfb\xff\xff",
    b"\xfc\xff\xff\xff\xff",
    b"\xfd\xff\xff\xff\xff\xff\xff\xff\xff",
    b"/a",
];

/// A WAL of one segment without frames: its name, its bytes, its epoch and the checksum of its header.
struct Begun {
    name: String,
    bytes: Vec<u8>,
    epoch: u64,
    header_crc: u32,
}

fn begin() -> Begun {
    let disk = MemoryMedium::new();
    let identity = Identity { cluster: ClusterId::new(7), member: MemberId::new(9) };
    drop(Wal::create(disk.clone(), identity, OPTIONS).unwrap());
    let name = disk.list().unwrap().remove(0);
    let reader = SegmentReader::open(disk.open(&name, Access::Read).unwrap()).unwrap();
    let (epoch, header_crc) = (reader.header().epoch, reader.header_crc());
    Begun { bytes: disk.contents(&name).unwrap(), name, epoch, header_crc }
}

/// A disk with one frame: the first byte says how many records there are, the others are the records.
fn with_frame(begun: &Begun, input: &[u8]) -> MemoryMedium {
    let (count, body) = input.split_first().unwrap_or((&0, &[]));
    let body = &body[..body.len().min((PAGE_BYTES - FRAME_HEADER_BYTES) as usize)];
    let mut frame = vec![0; (FRAME_HEADER_BYTES as usize + body.len()).next_multiple_of(8)];
    frame[FRAME_HEADER_BYTES as usize..][..body.len()].copy_from_slice(body);
    let words = [(frame_header::EPOCH, begun.epoch), (frame_header::WAL_INDEX, 1), (frame_header::FIRST_RAFT, 1)];
    for (field, word) in words {
        frame[field.offset..][..8].copy_from_slice(&word.to_le_bytes());
    }
    let words = [
        (frame_header::LENGTH, body.len() as u32),
        (frame_header::PREV_CRC, begun.header_crc),
        (frame_header::RECORDS, u32::from(*count)),
    ];
    for (field, word) in words {
        frame[field.offset..][..4].copy_from_slice(&word.to_le_bytes());
    }
    let crc = frame_crc(begun.epoch, PAGE_BYTES, &frame);
    frame[..4].copy_from_slice(&crc.to_le_bytes());
    let mut bytes = begun.bytes.clone();
    bytes[PAGE_BYTES as usize..][..frame.len()].copy_from_slice(&frame);
    let disk = MemoryMedium::new();
    disk.put_file(&begun.name, bytes);
    disk
}

fn recovered(disk: &MemoryMedium) -> Option<Vec<Entry>> {
    let found = recover(disk.clone(), &MemoryMedium::new(), OPTIONS).ok()?;
    assert!(found.entries.iter().zip(found.entries.iter().skip(1)).all(|(a, b)| a.index.next() == b.index));
    let last = found.entries.last().map_or(0, |entry| entry.index.get());
    assert!(found.hard_state.commit.get() <= last, "commits {} of {last}", found.hard_state.commit);
    Some(found.entries)
}

#[test]
fn wal_frames() {
    let begun = LazyCell::new(begin);
    run("records", WORDS, |input, _| {
        let disk = with_frame(&begun, input);
        if let Some(entries) = recovered(&disk) {
            assert_eq!(recovered(&disk), Some(entries));
        }
    });
}

/// Makes the checksums of a snapshot's footer, and of a first block that begins the file, hold.
fn repair(bytes: &mut [u8]) {
    let Some(trailer) = bytes.len().checked_sub(TRAILER_BYTES) else { return };
    let word = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let footer = word(bytes, trailer);
    if footer <= trailer as u64 {
        let length = (trailer as u64 - footer).to_le_bytes();
        bytes[trailer + 8..trailer + 16].copy_from_slice(&length);
        let crc = crc32fast::hash(&bytes[footer as usize..trailer + 16]);
        bytes[trailer + 16..trailer + 20].copy_from_slice(&crc.to_le_bytes());
    }
    let Some(length) = bytes.get(4..8) else { return };
    let end = BLOCK_HEADER_BYTES.saturating_add(u32::from_le_bytes(length.try_into().unwrap()) as usize);
    if let Some(block) = bytes.get_mut(4..end) {
        let crc = crc32fast::hash(block);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
    }
}

fn read_snapshot(bytes: Vec<u8>) {
    let disk = MemoryMedium::new();
    disk.put_file("x.snap", bytes);
    let Ok(reader) = SnapshotReader::open(&disk, "x.snap") else {
        assert!(verify(&disk, "x.snap").is_err());
        return;
    };
    let (mut items, mut last) = (0, Vec::new());
    let read = reader.for_each(|key, _| {
        assert!(items == 0 || last.as_slice() < key, "keys ascend");
        last = key.to_vec();
        items += 1;
        Ok::<(), SnapshotError>(())
    });
    assert_eq!(read.is_ok(), verify(&disk, "x.snap").is_ok());
    assert!(read.is_err() || items == reader.meta().items);
}

#[test]
fn snapshot_blocks() {
    run("snapshot", WORDS, |input, _| {
        read_snapshot(input.to_vec());
        let mut repaired = input.to_vec();
        repair(&mut repaired);
        read_snapshot(repaired);
    });
}

#[test]
fn commands() {
    run("command", WORDS, |input, _| {
        // With the version this ringd writes, and with whatever the input begins with.
        for bytes in [input.to_vec(), [&[PAYLOAD_VERSION], input].concat()] {
            if let Ok(proposal) = Proposal::decode(&bytes) {
                let mut again = Vec::new();
                proposal.encode_into(&mut again);
                assert_eq!(Proposal::decode(&again).unwrap(), proposal);
            }
        }
    });
}
