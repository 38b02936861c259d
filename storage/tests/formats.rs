//! `FORMAT.md` against the constants, and golden files byte for byte.
//!
//! `RINGD_WRITE_GOLDEN=1 cargo test -p ringd-storage --test formats` writes the golden files anew. Do that only for a
//! new format version; golden files of old versions are never rewritten.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{IDENTITY, entry, options, recover_memory, sync};
use proptest::prelude::*;
use ringd_storage::codec;
use ringd_storage::format::{self, Field, SnapshotMarker, frame_header, segment_header};
use ringd_storage::ids::{EtcdIndex, MemberId, RaftIndex, Term, UnixNanos, WalIndex};
use ringd_storage::medium::{Access, Medium};
use ringd_storage::memory::MemoryMedium;
use ringd_storage::payload::{
    AuthRecord, AuthWrite, Command, EventRecord, ItemClass, KeyWrite, MemberRecord, NodeRecord, PermissionRecord,
    Proposal, ProposalId, RoleChange, RoleRecord, StoreRecord, UserChange, UserRecord, WriteMethod,
};
use ringd_storage::prepare::prepare_spare;
use ringd_storage::record::{self, EntryKind, EntryRef, HardState};
use ringd_storage::scan::SegmentReader;
use ringd_storage::snapshot::{self, SnapshotError, SnapshotMeta, SnapshotReader, SnapshotWriter, push_item};
use ringd_storage::wal::Wal;

fn home() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The rows of the table after `<!-- table: name -->`, cells trimmed.
fn table(name: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(home().join("FORMAT.md")).unwrap();
    let marker = format!("<!-- table: {name} -->\n");
    let (_, after) = text.split_once(&marker).unwrap_or_else(|| panic!("FORMAT.md has no table {name}"));
    let rows = after.lines().take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

fn assert_layout(name: &str, fields: &[Field]) {
    let documented: Vec<(String, usize, usize)> =
        table(name).into_iter().map(|row| (row[0].clone(), row[1].parse().unwrap(), row[2].parse().unwrap())).collect();
    let defined: Vec<_> = fields.iter().map(|field| (field.name.to_owned(), field.offset, field.bytes)).collect();
    assert_eq!(documented, defined, "table {name} of FORMAT.md");
}

#[test]
fn the_tables_say_what_the_code_does() {
    assert_layout("segment_header", segment_header::FIELDS);
    assert_layout("frame_header", frame_header::FIELDS);
    assert_layout("block_header", snapshot::BLOCK_HEADER_FIELDS);
    assert_layout("snapshot_meta", snapshot::META_FIELDS);
    assert_layout("block_index", snapshot::INDEX_FIELDS);
    assert_layout("trailer", snapshot::TRAILER_FIELDS);
    let end = |fields: &[Field]| fields.last().map(|field| field.offset + field.bytes).unwrap();
    assert_eq!(end(snapshot::BLOCK_HEADER_FIELDS), snapshot::BLOCK_HEADER_BYTES);
    assert_eq!(end(snapshot::META_FIELDS), snapshot::META_FIXED_BYTES);
    assert_eq!(end(snapshot::INDEX_FIELDS), snapshot::INDEX_ENTRY_BYTES);
    assert_eq!(end(snapshot::TRAILER_FIELDS), snapshot::TRAILER_BYTES);
    let record_header: usize = table("record_header").iter().map(|row| row[2].parse::<usize>().unwrap()).sum();
    assert_eq!(record_header, record::RECORD_HEADER_BYTES);
}

#[test]
fn the_numbers_of_types_and_classes_are_documented() {
    let documented: Vec<(String, u8, usize)> = table("record_types")
        .into_iter()
        .map(|row| (row[0].clone(), row[1].parse().unwrap(), row[2].parse().unwrap()))
        .collect();
    let defined = [
        ("entry".to_owned(), record::TYPE_ENTRY, record::ENTRY_FIXED_BYTES),
        ("hard state".to_owned(), record::TYPE_HARD_STATE, record::HARD_STATE_BYTES),
        ("snapshot marker".to_owned(), record::TYPE_SNAPSHOT_MARKER, record::SNAPSHOT_MARKER_BYTES),
    ];
    assert_eq!(documented, defined);
    let numbers = |name| -> Vec<(String, u8)> {
        table(name).into_iter().map(|row| (row[0].clone(), row[1].parse().unwrap())).collect()
    };
    let classes = [
        ItemClass::Store,
        ItemClass::Member,
        ItemClass::Node,
        ItemClass::Event,
        ItemClass::RemovedMember,
        ItemClass::Auth,
        ItemClass::User,
        ItemClass::Role,
    ];
    assert_eq!(numbers("item_classes"), classes.map(|class| (format!("{class:?}"), class as u8)));
    // A unit of each command, encoded: the variant's number is the byte after id and clock, which are zero.
    let member = MemberRecord { id: MemberId::new(1), name: "", peer_urls: vec![], client_urls: vec![] };
    let keys = KeyWrite {
        method: WriteMethod::Put,
        path: b"/",
        value: b"",
        dir: false,
        recursive: false,
        refresh: false,
        prev_exist: None,
        prev_value: None,
        prev_index: EtcdIndex::ZERO,
        expires_at: None,
    };
    let commands = [
        ("Keys", Command::Keys(keys)),
        ("Expire", Command::Expire { limit: 1 }),
        ("Publish", Command::Publish(member.clone())),
        ("ClusterVersion", Command::ClusterVersion("")),
        ("Auth", Command::Auth(AuthWrite::Enable)),
        ("UpdateMember", Command::UpdateMember(member)),
    ];
    let encoded: Vec<(String, u8)> = commands
        .into_iter()
        .map(|(name, command)| {
            let id = ProposalId { origin: MemberId::new(0), seq: 0 };
            let mut bytes = Vec::new();
            Proposal { id, at: UnixNanos::ZERO, command }.encode_into(&mut bytes);
            assert_eq!(bytes[..4], [1, 0, 0, 0]);
            (name.to_owned(), bytes[4])
        })
        .collect();
    assert_eq!(numbers("commands"), encoded);
    let user = UserChange { name: "", password_hash: None, roles: None, grant: vec![], revoke: vec![] };
    let writes = [
        ("Enable", AuthWrite::Enable),
        ("Disable", AuthWrite::Disable),
        ("PutUser", AuthWrite::PutUser(user)),
        ("DeleteUser", AuthWrite::DeleteUser("")),
        ("CreateRole", AuthWrite::CreateRole(RoleRecord { name: "", permissions: PermissionRecord::default() })),
        ("UpdateRole", AuthWrite::UpdateRole(RoleChange { name: "", grant: None, revoke: None })),
        ("DeleteRole", AuthWrite::DeleteRole("")),
    ];
    let encoded = writes.map(|(name, write)| {
        let mut bytes = Vec::new();
        codec::encode_into(&write, &mut bytes);
        (name.to_owned(), bytes[0])
    });
    assert_eq!(numbers("auth_writes"), encoded);
}

#[test]
fn auth_payloads_are_encoded_as_documented() {
    let change = UserChange {
        name: "al",
        password_hash: Some("$2"),
        roles: Some(vec!["r"]),
        grant: vec!["a", "b"],
        revoke: vec![],
    };
    let mut bytes = Vec::new();
    codec::encode_into(&AuthWrite::PutUser(change), &mut bytes);
    assert_eq!(bytes, b"\x02\x02al\x01\x02$2\x01\x01\x01r\x02\x01a\x01b\x00");
    let permissions = PermissionRecord { read: Some(vec!["/*"]), write: None };
    bytes.clear();
    codec::encode_into(&RoleRecord { name: "r", permissions }, &mut bytes);
    assert_eq!(bytes, b"\x01r\x01\x01\x02/*\x00");
    bytes.clear();
    codec::encode_into(&AuthRecord { enabled: true, prepared: false }, &mut bytes);
    assert_eq!(bytes, b"\x01\x00");
}

#[test]
fn the_constants_in_the_prose_are_true() {
    let text = std::fs::read_to_string(home().join("FORMAT.md")).unwrap();
    for fact in [
        format!("`{}`", String::from_utf8_lossy(&format::SEGMENT_MAGIC)),
        format!("`{}`", String::from_utf8_lossy(&snapshot::SNAPSHOT_MAGIC)),
        format!("at most {} bytes long", snapshot::BLOCK_BYTES),
        format!("one version byte, now {}", ringd_storage::payload::PAYLOAD_VERSION),
        format!("| WAL | {} |", format::WAL_VERSION),
        format!("| snapshot | {} |", snapshot::SNAPSHOT_VERSION),
        format!("Frames begin at multiples of {}.", format::FRAME_ALIGN_BYTES),
        format!("the next multiple of {}", format::PAGE_BYTES),
        format!("A {}-byte sector", format::SECTOR_BYTES),
        format!("  {}", ringd_storage::datadir::LOCK_NAME),
        format!("`{}<decimal>`", ringd_storage::datadir::LOCK_PREFIX),
        format!("  {} ", ringd_storage::recover::TAIL_CUT_NAME),
    ] {
        assert!(text.contains(&fact), "FORMAT.md does not say {fact:?}");
    }
}

/// Compares with the golden file, or writes it when asked to.
fn assert_golden(name: &str, bytes: &[u8]) {
    let path = home().join("testdata").join(name);
    if std::env::var_os("RINGD_WRITE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
    let golden = read(&path);
    let first = golden.iter().zip(bytes).position(|(a, b)| a != b);
    assert_eq!((golden.len(), first), (bytes.len(), None), "{name} differs (length, first differing offset)");
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

const MARKER: SnapshotMarker = SnapshotMarker { index: RaftIndex::new(2), term: Term::new(1) };
const STATE: HardState = HardState { term: Term::new(2), vote: MemberId::new(0xabcd), commit: RaftIndex::new(3) };

/// Two small segments with every kind of record, a staged-free fresh page, and a chain between them.
fn golden_wal() -> MemoryMedium {
    let mut wal = Wal::create(MemoryMedium::new(), IDENTITY, options(12 << 10)).unwrap();
    wal.add_spare(prepare_spare(wal.medium(), 12 << 10, None, &mut || {}).unwrap());
    let mut frame = wal.begin();
    frame.push_entry(&entry(1, 1, b"").as_ref());
    let context = b"context".as_slice();
    let (term, kind) = (Term::new(1), EntryKind::ConfChange);
    frame.push_entry(&EntryRef { term, index: RaftIndex::new(2), kind, data: b"change", context });
    frame.finish().unwrap();
    let ticket = wal.begin_sync().unwrap().unwrap();
    let mut frame = wal.begin();
    frame.push_entry(&entry(2, 3, &[0x33; 3900]).as_ref());
    frame.push_hard_state(&STATE);
    frame.finish().unwrap();
    ticket.run().unwrap();
    wal.finish_sync(ticket);
    let mut frame = wal.begin();
    frame.push_snapshot_taken(MARKER);
    frame.push_entry(&entry(2, 4, b"rolled into the second segment").as_ref());
    frame.finish().unwrap();
    sync(&mut wal);
    wal.medium().clone()
}

#[test]
fn segments_are_written_as_version_1_always_was() {
    let disk = golden_wal();
    let names: Vec<String> = disk.list().unwrap();
    assert_eq!(names, ["0000000000000001-0000000000000001.wal", "0000000000000002-0000000000000004.wal"]);
    assert_golden("segment_v1_first.wal", &disk.contents(&names[0]).unwrap());
    assert_golden("segment_v1.wal", &disk.contents(&names[1]).unwrap());
}

#[test]
fn segments_of_version_1_are_read() {
    let disk = MemoryMedium::new();
    disk.put_file("0000000000000001-0000000000000001.wal", read(&home().join("testdata/segment_v1_first.wal")));
    disk.put_file("0000000000000002-0000000000000004.wal", read(&home().join("testdata/segment_v1.wal")));
    let recovered = recover_memory(&disk).unwrap();
    assert_eq!(recovered.entries.len(), 4);
    assert_eq!(
        (recovered.entries[1].context.as_slice(), recovered.entries[1].kind),
        (&b"context"[..], EntryKind::ConfChange)
    );
    assert_eq!(recovered.entries[2].data, [0x33; 3900]);
    assert_eq!((recovered.hard_state, recovered.identity), (STATE, IDENTITY));
    assert_eq!(recovered.wal.appended(), WalIndex::new(3));
}

fn golden_snapshot() -> (MemoryMedium, String) {
    let meta = SnapshotMeta {
        identity: IDENTITY,
        marker: MARKER,
        etcd_index: EtcdIndex::new(9),
        voters: vec![MemberId::new(1), MemberId::new(2)],
        learners: vec![MemberId::new(3)],
        items: 0,
        created: UnixNanos::new(1_700_000_000_000_000_000),
    };
    let mut chunk = Vec::new();
    let node = NodeRecord {
        created: EtcdIndex::new(300),
        modified: EtcdIndex::new(70_000),
        expires_at: Some(UnixNanos::new(1_700_000_001_000_000_000)),
        expiry_seq: 1,
        value: Some(b"value"),
    };
    let store = StoreRecord { index: EtcdIndex::new(9), cluster_version: "2.3.0", stats: vec![1, 2], expiry_seq: 2 };
    push_item(&mut chunk, &[&[ItemClass::Node as u8], b"/a/b"], |out| codec::encode_into(&node, out));
    push_item(&mut chunk, &[&[ItemClass::Store as u8]], |out| codec::encode_into(&store, out));
    let mut writer = SnapshotWriter::new(meta);
    writer.push_chunk(chunk);
    let disk = MemoryMedium::new();
    let (name, _) = writer.publish(disk.clone(), &mut || {}).unwrap();
    (disk, name)
}

#[test]
fn snapshots_are_written_as_version_1_always_was() {
    let (disk, name) = golden_snapshot();
    assert_eq!(name, "0000000000000001-0000000000000002.snap");
    assert_golden("snapshot_v1.snap", &disk.contents(&name).unwrap());
}

#[test]
fn snapshots_of_version_1_are_read() {
    let disk = MemoryMedium::new();
    disk.put_file("x.snap", read(&home().join("testdata/snapshot_v1.snap")));
    let reader = SnapshotReader::open(&disk, "x.snap").unwrap();
    assert_eq!((reader.meta().items, reader.meta().learners.as_slice()), (2, &[MemberId::new(3)][..]));
    let mut items = BTreeMap::new();
    let read = reader.for_each(|key, value| {
        items.insert(key.to_vec(), value.to_vec());
        Ok::<_, SnapshotError>(())
    });
    read.unwrap();
    let node: NodeRecord<'_> = codec::decode(&items[&b"\x03/a/b"[..]]).unwrap();
    assert_eq!((node.value, node.modified), (Some(&b"value"[..]), EtcdIndex::new(70_000)));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Every decoder takes untrusted bytes.
    #[test]
    fn no_decoder_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = Proposal::decode(&bytes).is_ok();
        let _ = codec::decode::<StoreRecord<'_>>(&bytes).is_ok();
        let _ = codec::decode::<MemberRecord<'_>>(&bytes).is_ok();
        let _ = codec::decode::<NodeRecord<'_>>(&bytes).is_ok();
        let _ = codec::decode::<EventRecord<'_>>(&bytes).is_ok();
        let _ = codec::decode::<UserRecord<'_>>(&bytes).is_ok();
        let _ = codec::decode::<RoleRecord<'_>>(&bytes).is_ok();
        let _ = codec::decode::<AuthRecord>(&bytes).is_ok();
        let _ = format::SegmentHeader::decode(&bytes).is_ok();
        let disk = MemoryMedium::new();
        disk.put_file("x.snap", bytes);
        prop_assert!(SnapshotReader::open(&disk, "x.snap").is_err());
    }

    /// Damaged real files, checksums repaired by chance or not: an answer, never a panic.
    #[test]
    fn no_damaged_file_panics(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let (disk, name) = golden_snapshot();
        let damage = |mut bytes: Vec<u8>| {
            flips.iter().for_each(|(at, byte)| *at.get_mut(&mut bytes) = *byte);
            bytes.truncate(cut.index(bytes.len()) + 1);
            bytes
        };
        disk.put_file(&name, damage(disk.contents(&name).unwrap()));
        let _ = snapshot::verify(&disk, &name).is_ok();
        let disk = golden_wal();
        let name = disk.list().unwrap().remove(1);
        disk.put_file(&name, damage(disk.contents(&name).unwrap()));
        if let Ok(mut reader) = SegmentReader::open(disk.open(&name, Access::Read).unwrap()) {
            let _ = (reader.next(4096, WalIndex::new(3), 0).is_ok(), reader.rest(4096).is_ok());
        }
        let _ = recover_memory(&disk).is_ok();
    }
}
