//! `ringwal` against directories made by the storage crate: whole, live, torn, damaged, and plain garbage.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ringd_storage::codec;
use ringd_storage::datadir::DataDir;
use ringd_storage::format::{Identity, SnapshotMarker};
use ringd_storage::fs::FsMedium;
use ringd_storage::ids::{ClusterId, EtcdIndex, MemberId, RaftIndex, Term, UnixNanos};
use ringd_storage::payload::{
    Command as Replicated, KeyWrite, MemberRecord, NodeRecord, Proposal, ProposalId, WriteMethod,
};
use ringd_storage::record::{Entry, EntryKind, HardState};
use ringd_storage::snapshot::{SnapshotMeta, SnapshotWriter, push_item};
use ringd_storage::wal::{Wal, WalOptions};
use serde_json::Value;

const IDENTITY: Identity = Identity { cluster: ClusterId::new(0xc0ffee), member: MemberId::new(0xabcd) };
const AT: UnixNanos = UnixNanos::new(1_700_000_000_000_000_000);

fn ringwal(args: &[&str], path: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringwal")).args(args).arg(path).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap() + &String::from_utf8_lossy(&output.stderr)
}

fn json_lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn write<'a>(path: &'a [u8], value: &'a [u8]) -> KeyWrite<'a> {
    KeyWrite {
        method: WriteMethod::Put,
        path,
        value,
        dir: false,
        recursive: false,
        refresh: false,
        prev_exist: None,
        prev_value: None,
        prev_index: EtcdIndex::ZERO,
        expires_at: None,
    }
}

fn proposal(command: Replicated<'_>) -> Vec<u8> {
    let id = ProposalId { origin: IDENTITY.member, seq: 7 };
    let mut data = Vec::new();
    Proposal { id, at: AT, command }.encode_into(&mut data);
    data
}

fn entry(index: u64, kind: EntryKind, data: Vec<u8>) -> Entry {
    Entry { term: Term::new(2), index: RaftIndex::new(index), kind, data, context: Vec::new() }
}

struct Made {
    root: tempfile::TempDir,
    data: DataDir,
    wal: Wal<FsMedium>,
}

impl Made {
    fn path(&self) -> &Path {
        self.root.path()
    }

    fn append(&mut self, entries: &[Entry]) {
        let mut frame = self.wal.begin();
        entries.iter().for_each(|entry| frame.push_entry(&entry.as_ref()));
        frame.finish().unwrap();
    }

    fn sync(&mut self) {
        let ticket = self.wal.begin_sync().unwrap().unwrap();
        ticket.run().unwrap();
        self.wal.finish_sync(ticket);
    }

    fn segment(&self) -> PathBuf {
        let mut found: Vec<_> = std::fs::read_dir(self.data.wal().path()).unwrap().map(|e| e.unwrap().path()).collect();
        found.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
        found.sort();
        found.remove(0)
    }
}

fn make() -> Made {
    let root = tempfile::tempdir().unwrap();
    let data = DataDir::open(root.path(), None).unwrap();
    let options = WalOptions { segment_bytes: 256 << 10, spares: 1, epoch_seed: 5 };
    let wal = Wal::create(data.wal().clone(), IDENTITY, options).unwrap();
    Made { root, data, wal }
}

/// A directory with every kind of record and a snapshot.
fn make_rich() -> Made {
    let mut made = make();
    let record =
        MemberRecord { id: MemberId::new(300), name: "m1", peer_urls: vec!["http://p:1"], client_urls: vec![] };
    let mut context = Vec::new();
    codec::encode_into(&record, &mut context);
    // eraftpb.ConfChange: type AddNode, node 300, context.
    let mut change = vec![16, 0, 24, 0xac, 2, 34, context.len() as u8];
    change.extend_from_slice(&context);
    let conditions = KeyWrite {
        prev_exist: Some(true),
        prev_value: Some(b"old"),
        prev_index: EtcdIndex::new(9),
        expires_at: Some(AT.plus_seconds(30)),
        ..write(b"/b", b"\xff\x00z")
    };
    let delete = KeyWrite { method: WriteMethod::Delete, recursive: true, dir: true, ..write(b"/b", b"") };
    made.append(&[
        entry(1, EntryKind::Normal, Vec::new()),
        entry(2, EntryKind::ConfChange, change),
        entry(3, EntryKind::Normal, proposal(Replicated::Keys(write(b"/a b", b"one\ntwo")))),
        entry(4, EntryKind::Normal, proposal(Replicated::Keys(conditions))),
    ]);
    made.sync();
    made.append(&[
        entry(5, EntryKind::Normal, proposal(Replicated::Keys(delete))),
        entry(6, EntryKind::Normal, proposal(Replicated::Expire { limit: 100 })),
        entry(7, EntryKind::Normal, proposal(Replicated::Publish(record))),
        entry(8, EntryKind::Normal, proposal(Replicated::ClusterVersion("2.3.0"))),
        entry(9, EntryKind::Normal, b"\x09garbage".to_vec()),
    ]);
    made.sync();
    let marker = SnapshotMarker { index: RaftIndex::new(4), term: Term::new(2) };
    let meta = SnapshotMeta {
        identity: IDENTITY,
        marker,
        etcd_index: EtcdIndex::new(2),
        voters: vec![IDENTITY.member],
        learners: Vec::new(),
        items: 0,
        created: AT,
    };
    let mut writer = SnapshotWriter::new(meta);
    let mut chunk = Vec::new();
    let node = NodeRecord {
        created: EtcdIndex::new(1),
        modified: EtcdIndex::new(2),
        expires_at: None,
        expiry_seq: 0,
        value: Some(b"one\ntwo"),
    };
    push_item(&mut chunk, &[&[3], b"/a b"], |out| codec::encode_into(&node, out));
    push_item(&mut chunk, &[&[9], b"later"], |out| out.push(1));
    writer.push_chunk(chunk);
    writer.publish(made.data.snap().clone(), &mut || {}).unwrap();
    let mut frame = made.wal.begin();
    frame.push_snapshot_taken(marker);
    frame.push_hard_state(&HardState { term: Term::new(2), vote: IDENTITY.member, commit: RaftIndex::new(9) });
    frame.finish().unwrap();
    made.sync();
    made
}

#[test]
fn a_dump_shows_what_every_command_does() {
    let made = make_rich();
    let output = ringwal(&["dump"], made.path());
    assert!(output.status.success(), "{}", text(&output));
    let text = text(&output);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 11, "{text}");
    assert!(lines[0].starts_with("entry term=2 index=1 command=empty"), "{}", lines[0]);
    for part in ["confchange", "change=add", "member=12c", "name=\"m1\"", "http://p:1"] {
        assert!(lines[1].contains(part), "{part}: {}", lines[1]);
    }
    assert!(lines[2].contains(r#"method=PUT path="/a b" value="one\ntwo""#), "{}", lines[2]);
    let conditions =
        r#"value="\xff\x00z" prevExist=true prevValue="old" prevIndex=9 ttl=30 expiration=2023-11-14T22:13:50Z"#;
    assert!(lines[3].contains(conditions), "{}", lines[3]);
    assert!(lines[4].contains(r#"method=DELETE path="/b" dir=true recursive=true"#), "{}", lines[4]);
    assert!(lines[8].contains("command=unknown") && lines[8].contains("version 9 is unknown"), "{}", lines[8]);
    assert!(lines[9].starts_with("snapshot term=2 index=4"), "{}", lines[9]);
    assert!(lines[10].starts_with("hardstate term=2 vote=abcd commit=9"), "{}", lines[10]);
}

#[test]
fn json_has_one_object_per_line_and_keeps_every_byte() {
    let made = make_rich();
    let lines = json_lines(&ringwal(&["dump", "--json"], made.path()));
    assert_eq!(lines.len(), 11);
    let put = &lines[3];
    assert_eq!((put["type"].as_str(), put["term"].as_u64(), put["index"].as_u64()), (Some("entry"), Some(2), Some(4)));
    assert_eq!((put["method"].as_str(), put["path"].as_str()), (Some("PUT"), Some("/b")));
    assert_eq!(put["value_hex"], "ff007a");
    assert_eq!(
        (put["prevExist"].as_bool(), put["prevIndex"].as_u64(), put["ttl"].as_u64()),
        (Some(true), Some(9), Some(30))
    );
    assert_eq!(put["prevValue"], "old");
    assert_eq!(lines[1]["peerURLs"][0], "http://p:1");
    let filtered = json_lines(&ringwal(&["dump", "--json", "--from", "3", "--to", "4"], made.path()));
    assert_eq!(filtered, lines[2..4]);
    let member = made.path().join("member");
    for same in [member.clone(), member.join("wal"), made.segment()] {
        assert_eq!(json_lines(&ringwal(&["dump", "--json"], &same)), lines, "{}", same.display());
    }
    let snapshot = std::fs::read_dir(member.join("snap")).unwrap().next().unwrap().unwrap().path();
    let items = json_lines(&ringwal(&["dump", "--json"], &snapshot));
    assert_eq!((items[0]["type"].as_str(), items[0]["path"].as_str()), (Some("node"), Some("/a b")));
    assert_eq!((items[1]["type"].as_str(), items[1]["data_hex"].as_str()), (Some("unknown"), Some("01")));
}

#[test]
fn a_live_directory_with_a_torn_tail_is_fine() {
    let mut made = make_rich();
    made.append(&[entry(10, EntryKind::Normal, vec![1; 5000])]);
    let file = std::fs::OpenOptions::new().write(true).open(made.segment()).unwrap();
    file.write_all_at(&[0; 512], 8192).unwrap();
    let output = ringwal(&["verify"], made.path());
    let report = text(&output);
    assert!(output.status.success(), "{report}");
    assert!(report.contains("still being written") && report.contains("a node is running"), "{report}");
    assert!(report.contains("on snapshot"), "{report}");
    let before = std::fs::read(made.segment()).unwrap();
    let dumped = text(&ringwal(&["dump"], made.path()));
    assert!(dumped.lines().last().unwrap().starts_with("torn "), "{dumped}");
    assert_eq!(std::fs::read(made.segment()).unwrap(), before, "looking changes nothing");
}

#[test]
fn damage_is_reported_with_file_offset_verdict_and_remedy() {
    let made = make_rich();
    let (path, segment) = (made.path().to_owned(), made.segment());
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&segment).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 4096 + 60).unwrap();
    file.write_all_at(&[byte[0] ^ 4], 4096 + 60).unwrap();
    for target in [&path, &segment] {
        let output = ringwal(&["verify"], target);
        let report = text(&output);
        assert_eq!(output.status.code(), Some(1), "{report}");
        let name = segment.file_name().unwrap().to_str().unwrap();
        for part in [name, "offset:  4096", "verdict: refused", "remedy:"] {
            assert!(report.contains(part), "{part}: {report}");
        }
    }
    let output = ringwal(&["verify", "--json"], &path);
    assert_eq!(json_lines(&output)[0]["findings"][0]["offset"], 4096);
    let output = ringwal(&["dump", "--json"], &path);
    assert_eq!(output.status.code(), Some(1));
    let lines = json_lines(&output);
    assert_eq!((lines[0]["type"].as_str(), lines[0]["offset"].as_u64()), (Some("damage"), Some(4096)));
    assert_eq!(lines[1]["index"], 5, "what follows the damage is still shown");
    let output = ringwal(&["stat"], &path);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
}

#[test]
fn a_damaged_snapshot_is_a_finding_though_recovery_could_do_without_it() {
    let made = make_rich();
    let snapshot = std::fs::read_dir(made.path().join("member/snap")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&snapshot).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&snapshot, bytes).unwrap();
    let output = ringwal(&["verify"], made.path());
    let report = text(&output);
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(report.contains(".snap") && report.contains("checksum of the block"), "{report}");
}

#[test]
fn stat_counts() {
    let made = make_rich();
    let output = ringwal(&["stat", "--json"], made.path());
    let stat = &json_lines(&output)[0];
    assert!(output.status.success(), "{stat}");
    for (name, expected) in [("segments", 1), ("frames", 3), ("records", 11), ("entries", 9), ("spares", 0)] {
        assert_eq!(stat[name], expected, "{name}");
    }
    assert_eq!((stat["raftIndex"][1].as_u64(), stat["terms"][0].as_u64()), (Some(9), Some(2)));
    assert_eq!((stat["snapshots"][0]["items"].as_u64(), stat["live"].as_bool()), (Some(2), Some(true)));
    let words = text(&ringwal(&["stat"], made.path()));
    assert!(words.contains("raftIndex") && words.contains("1 to 9"), "{words}");
}

#[test]
fn garbage_is_an_answer_never_a_panic() {
    let root = tempfile::tempdir().unwrap();
    let mut garbage = vec![0u8; 20_000];
    let mut state = 1u32;
    for byte in &mut garbage {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    std::fs::create_dir(root.path().join("wal")).unwrap();
    for (name, bytes) in [
        ("empty", &[][..]),
        ("short.wal", &garbage[..100]),
        ("garbage", &garbage[..]),
        ("garbage.snap", &garbage[..]),
        ("empty.snap", &[][..]),
        ("wal/0000000000000001-0000000000000001.wal", &garbage[..]),
    ] {
        std::fs::write(root.path().join(name), bytes).unwrap();
        for command in ["dump", "verify", "stat"] {
            let output = ringwal(&[command], &root.path().join(name));
            assert_eq!(output.status.code(), Some(1), "{command} {name}: {}", text(&output));
            assert!(!text(&output).contains("panicked"), "{command} {name}");
        }
    }
    for command in ["dump", "verify", "stat"] {
        assert_eq!(ringwal(&[command], root.path()).status.code(), Some(1), "{command}");
        let missing = ringwal(&[command], &root.path().join("missing"));
        assert_eq!(missing.status.code(), Some(2));
        assert!(text(&missing).contains("missing"));
    }
}

/// Flips bytes all over a real segment and a real snapshot: whatever is damaged, there is an answer.
#[test]
fn no_single_damaged_byte_makes_it_panic() {
    let made = make_rich();
    let segment = std::fs::read(made.segment()).unwrap();
    let end = segment.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("0000000000000001-0000000000000001.wal");
    for at in (0..200).chain(4096..end).step_by(97) {
        let mut damaged = segment.clone();
        damaged[at] ^= 0xff;
        std::fs::write(&path, damaged).unwrap();
        for command in ["dump", "verify"] {
            let code = ringwal(&[command], &path).status.code();
            assert!(matches!(code, Some(0 | 1)), "{command} byte {at}: {code:?}");
        }
    }
}

#[test]
fn a_reader_that_leaves_is_not_an_error() {
    let mut made = make();
    for index in 1..=300 {
        made.append(&[entry(index, EntryKind::Normal, proposal(Replicated::Keys(write(b"/k", &[b'v'; 300]))))]);
    }
    made.sync();
    let mut child = Command::new(env!("CARGO_BIN_EXE_ringwal"))
        .arg("dump")
        .arg(made.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::with_capacity(64, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.starts_with("entry"), "{first}");
    let mut complaints = String::new();
    child.stderr.take().unwrap().read_to_string(&mut complaints).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(complaints, "");
}
