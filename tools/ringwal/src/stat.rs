//! `ringwal stat`: counts. What is damaged is counted as far as it can be read, and named.

use std::io::Write;
use std::path::Path;

use ringd_storage::format::{PAGE_BYTES, WAL_VERSION};
use ringd_storage::fs::FsMedium;
use ringd_storage::medium::{Access, Medium, StoredFile};
use ringd_storage::record::Record;
use ringd_storage::scan::{Next, SegmentReader};
use ringd_storage::snapshot::{self, SNAPSHOT_VERSION, SnapshotReader};
use serde_json::{Map, Value, json};

use crate::source::{Source, segment_files};
use crate::text::instant;
use crate::{Failure, Outcome};

/// Counts over some segments.
#[derive(Debug, Default)]
struct Counts {
    segments: u64,
    file_bytes: u64,
    frames: u64,
    frame_bytes: u64,
    records: u64,
    entries: u64,
    raft: Option<(u64, u64)>,
    wal: Option<(u64, u64)>,
    terms: Option<(u64, u64)>,
    damaged: Vec<String>,
}

fn widen(range: &mut Option<(u64, u64)>, value: u64) {
    let (low, high) = range.unwrap_or((value, value));
    *range = Some((low.min(value), high.max(value)));
}

fn range(range: Option<(u64, u64)>) -> Value {
    range.map_or(Value::Null, |(low, high)| json!([low, high]))
}

/// Prints the counts of `path`.
pub fn run(path: &Path, json: bool, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let mut object = Map::new();
    let mut counts = Counts::default();
    match Source::find(path)? {
        Source::Snapshot(medium, name) => {
            object.insert("snapshots".into(), json!([snapshot_value(&medium, &name, &mut counts.damaged)]));
        }
        Source::Segment(medium, name) => segment(&medium, &name, &mut counts),
        Source::Directory(found) => {
            let (segments, spares) = segment_files(&found.wal)?;
            segments.iter().for_each(|name| segment(&found.wal, name, &mut counts));
            object.insert("spares".into(), spares.len().into());
            object.insert("live".into(), found.live.into());
            if let Some(snap) = &found.snap {
                let listed = snapshot::list(snap)
                    .map_err(|error| Failure::Message(format!("{}: {error}", snap.path().display())))?;
                let values = listed.iter().map(|(_, name)| snapshot_value(snap, name, &mut counts.damaged));
                object.insert("snapshots".into(), values.collect());
            }
        }
    }
    let version = json!({"wal": WAL_VERSION, "snapshot": SNAPSHOT_VERSION});
    let fields = [
        ("segments", counts.segments.into()),
        ("fileBytes", counts.file_bytes.into()),
        ("frames", counts.frames.into()),
        ("frameBytes", counts.frame_bytes.into()),
        ("records", counts.records.into()),
        ("entries", counts.entries.into()),
        ("raftIndex", range(counts.raft)),
        ("walIndex", range(counts.wal)),
        ("terms", range(counts.terms)),
        ("formatVersions", version),
        ("damaged", counts.damaged.clone().into()),
    ];
    fields.into_iter().for_each(|(name, value)| drop(object.insert(name.to_owned(), value)));
    if json {
        writeln!(out, "{}", Value::Object(object))?;
    } else {
        text(&object, out)?;
    }
    Ok(if counts.damaged.is_empty() { Outcome::Fine } else { Outcome::Damaged })
}

fn text(object: &Map<String, Value>, out: &mut dyn Write) -> std::io::Result<()> {
    let width = object.keys().map(String::len).max().unwrap_or(0) + 1;
    for (name, value) in object {
        match value {
            Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_string()) => {
                writeln!(out, "{name:width$} {}", items.len())?;
                for item in items {
                    writeln!(out, "{:width$} {}", "", item.as_str().map_or_else(|| item.to_string(), str::to_owned))?;
                }
            }
            Value::Array(items) if name == "snapshots" || name == "damaged" => {
                writeln!(out, "{name:width$} {}", items.len())?;
            }
            Value::Array(items) => {
                let ends: Vec<String> = items.iter().map(Value::to_string).collect();
                writeln!(out, "{name:width$} {}", ends.join(" to "))?;
            }
            Value::Null => writeln!(out, "{name:width$} none")?,
            other => writeln!(out, "{name:width$} {other}")?,
        }
    }
    Ok(())
}

fn segment(medium: &FsMedium, name: &str, counts: &mut Counts) {
    counts.segments += 1;
    if let Err(error) = count(medium, name, counts) {
        counts.damaged.push(format!("{}: {error}", medium.path_of(name)));
    }
}

fn count(medium: &FsMedium, name: &str, counts: &mut Counts) -> Result<(), String> {
    let file = medium.open(name, Access::Read).map_err(|error| error.to_string())?;
    counts.file_bytes += file.len_bytes().unwrap_or(0);
    let mut reader = SegmentReader::open(file).map_err(|error| error.to_string())?;
    let (mut cursor, mut crc) = (PAGE_BYTES, reader.header_crc());
    let mut expect = reader.header().first_wal_index;
    loop {
        match reader.next(cursor, expect, crc).map_err(|error| format!("offset {cursor}: {error}"))? {
            Next::Frame(at, frame) => {
                counts.frames += 1;
                counts.frame_bytes += frame.total_bytes();
                widen(&mut counts.wal, frame.wal_index.get());
                for record in reader.records(at, &frame).map_err(|error| format!("offset {at}: {error}"))? {
                    counts.records += 1;
                    if let Record::Entry(entry) = record.map_err(|error| format!("offset {at}: {error}"))? {
                        counts.entries += 1;
                        widen(&mut counts.raft, entry.index.get());
                        widen(&mut counts.terms, entry.term.get());
                    }
                }
                (cursor, crc, expect) = (at + frame.total_bytes(), frame.crc, expect.next());
            }
            Next::Other(at, frame) => {
                return Err(format!("offset {at}: WAL index {} where {expect} belongs", frame.wal_index));
            }
            Next::Absent { torn } => {
                let rest = reader.rest(cursor).map_err(|error| format!("offset {cursor}: {error}"))?;
                let vouched = rest.voucher.is_some_and(|(_, frame)| frame.durable >= expect);
                let at = torn.unwrap_or(cursor);
                return if vouched { Err(format!("offset {at}: frame {expect} is damaged")) } else { Ok(()) };
            }
        }
    }
}

fn snapshot_value(medium: &FsMedium, name: &str, damaged: &mut Vec<String>) -> Value {
    match SnapshotReader::open(medium, name) {
        Ok(reader) => {
            let meta = reader.meta();
            json!({
                "name": name,
                "bytes": reader.bytes(),
                "raftIndex": meta.marker.index.get(),
                "term": meta.marker.term.get(),
                "etcdIndex": meta.etcd_index.get(),
                "items": meta.items,
                "blocks": reader.blocks(),
                "voters": meta.voters.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "learners": meta.learners.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "created": instant(meta.created),
            })
        }
        Err(error) => {
            damaged.push(error.to_string());
            json!({"name": name, "error": error.fault.to_string()})
        }
    }
}
