//! `ringwal verify`: recovery's own verdict, from recovery's own code, and the checksums of every snapshot.

use std::io::Write;
use std::path::Path;

use ringd_storage::datadir::ReadOnlyDirs;
use ringd_storage::format::PAGE_BYTES;
use ringd_storage::fs::FsMedium;
use ringd_storage::medium::{Access, Medium};
use ringd_storage::recover::{Inspection, inspect};
use ringd_storage::scan::{Next, SegmentReader};
use ringd_storage::snapshot::{self, SnapshotError, SnapshotReader};
use ringd_storage::verdict::Refusal;
use ringd_storage::walk::WalkError;
use serde_json::{Value, json};

use crate::source::Source;
use crate::{Failure, Outcome};

/// A live node renames, recycles and writes while we look; a verdict that comes back every time is real.
pub const LIVE_TRIES: u32 = 5;

/// One thing that is wrong.
struct Finding {
    file: String,
    offset: u64,
    verdict: String,
    remedy: &'static str,
}

const SNAPSHOT_REMEDY: &str = "remove the file when a newer or older good snapshot is there (recovery falls back by \
                               itself); else let this member rejoin, or restore a backup";
const SEGMENT_REMEDY: &str = "verify the whole directory: only that tells whether recovery needs this place";

impl From<&Refusal> for Finding {
    fn from(refusal: &Refusal) -> Self {
        Self {
            file: refusal.file.clone(),
            offset: refusal.offset,
            verdict: format!(
                "refused: {} (WAL index {}, raft index {})",
                refusal.reason, refusal.wal_index, refusal.raft_index
            ),
            remedy: refusal.reason.remedy(),
        }
    }
}

impl From<SnapshotError> for Finding {
    fn from(error: SnapshotError) -> Self {
        let verdict = error.fault.to_string();
        Self { file: error.file, offset: error.offset, verdict, remedy: SNAPSHOT_REMEDY }
    }
}

/// Reports on `path`.
pub fn run(path: &Path, json: bool, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let mut findings = Vec::new();
    let mut notes = Vec::new();
    match Source::find(path)? {
        Source::Directory(found) => directory(&found, &mut findings, &mut notes)?,
        Source::Segment(medium, name) => segment(&medium, &name, &mut findings, &mut notes),
        Source::Snapshot(medium, name) => findings.extend(whole_snapshot(&medium, &name).err()),
    }
    if json {
        let finding =
            |f: &Finding| json!({"file": f.file, "offset": f.offset, "verdict": f.verdict, "remedy": f.remedy});
        let findings: Vec<Value> = findings.iter().map(finding).collect();
        writeln!(out, "{}", json!({"ok": findings.is_empty(), "findings": findings, "notes": notes}))?;
    } else {
        for finding in &findings {
            writeln!(
                out,
                "file:    {}\noffset:  {}\nverdict: {}\nremedy:  {}\n",
                finding.file, finding.offset, finding.verdict, finding.remedy
            )?;
        }
        for note in &notes {
            writeln!(out, "note: {note}")?;
        }
        if findings.is_empty() {
            writeln!(out, "ok")?;
        }
    }
    Ok(if findings.is_empty() { Outcome::Fine } else { Outcome::Damaged })
}

/// Recovery's verdict on a directory that may be live.
pub fn inspect_patiently(found: &ReadOnlyDirs) -> Result<Inspection, WalkError> {
    let mut tries = if found.live { LIVE_TRIES } else { 1 };
    loop {
        let result = match &found.snap {
            Some(snap) => inspect(&found.wal, snap),
            // No snapshot directory in sight. The WAL directory serves, since it holds no snapshot names: a log from
            // its beginning can be judged without snapshots.
            None => inspect(&found.wal, &found.wal),
        };
        tries -= 1;
        if result.is_ok() || tries == 0 {
            return result;
        }
    }
}

fn directory(found: &ReadOnlyDirs, findings: &mut Vec<Finding>, notes: &mut Vec<String>) -> Result<(), Failure> {
    match inspect_patiently(found) {
        Ok(inspection) => {
            notes.push(summary(&inspection));
            if let Some(cut) = &inspection.walk.end.torn {
                let what = if found.live { "is still being written" } else { "will be cut at the next start" };
                notes.push(format!(
                    "{} offset {}: frame {} is not whole ({} bytes) and {what}; it was never acknowledged",
                    cut.file, cut.offset, cut.wal_index, cut.bytes
                ));
            }
            if !inspection.walk.leftovers.is_empty() {
                notes.push(format!("{} retired segments wait for removal", inspection.walk.leftovers.len()));
            }
        }
        Err(WalkError::Refused(refusal)) => findings.push((&*refusal).into()),
        Err(error) => return Err(Failure::Message(error.to_string())),
    }
    if let Some(snap) = &found.snap {
        let listed =
            snapshot::list(snap).map_err(|error| Failure::Message(format!("{}: {error}", snap.path().display())))?;
        for (_, name) in listed {
            findings.extend(whole_snapshot(snap, &name).err());
        }
    }
    if found.live {
        notes.push("a node is running on this directory".to_owned());
    }
    Ok(())
}

fn summary(inspection: &Inspection) -> String {
    let snapshot = inspection.snapshot.as_ref().map_or_else(
        || "without a snapshot".to_owned(),
        |(meta, name)| format!("on snapshot {name} (raft index {})", meta.marker.index),
    );
    format!(
        "{} segments, {} frames, log up to raft index {}, {} entries {snapshot}",
        inspection.stats.segments, inspection.stats.frames, inspection.last, inspection.entries
    )
}

/// Footer, every block, every item's place.
fn whole_snapshot(medium: &FsMedium, name: &str) -> Result<(), Finding> {
    let read = SnapshotReader::open(medium, name).and_then(|reader| reader.for_each(|_, _| Ok::<_, SnapshotError>(())));
    read.map_err(Finding::from)
}

/// One segment by itself: what its own frames tell.
fn segment(medium: &FsMedium, name: &str, findings: &mut Vec<Finding>, notes: &mut Vec<String>) {
    let file = medium.path_of(name);
    let finding = |offset, verdict: String| Finding { file: file.clone(), offset, verdict, remedy: SEGMENT_REMEDY };
    let opened = medium.open(name, Access::Read).map_err(|error| error.to_string());
    let mut reader = match opened.and_then(|file| SegmentReader::open(file).map_err(|error| error.to_string())) {
        Ok(reader) => reader,
        Err(error) => return findings.push(finding(0, error)),
    };
    let (mut cursor, mut crc) = (PAGE_BYTES, reader.header_crc());
    let mut expect = reader.header().first_wal_index;
    let mut frames = 0u64;
    loop {
        match reader.next(cursor, expect, crc) {
            Err(error) => return findings.push(finding(cursor, error.to_string())),
            Ok(Next::Other(at, frame)) => {
                let what = format!("refused: WAL index {} where {expect} belongs", frame.wal_index);
                return findings.push(finding(at, what));
            }
            Ok(Next::Frame(at, frame)) => {
                let bad = match reader.records(at, &frame) {
                    Err(error) => Some(error.to_string()),
                    Ok(mut records) => records.find_map(|record| record.err()).map(|error| error.to_string()),
                };
                if let Some(error) = bad {
                    return findings.push(finding(at, error));
                }
                (cursor, crc, expect) = (at + frame.total_bytes(), frame.crc, expect.next());
                frames += 1;
            }
            Ok(Next::Absent { torn }) => {
                let at = torn.unwrap_or(cursor);
                match reader.rest(cursor) {
                    Err(error) => findings.push(finding(cursor, error.to_string())),
                    Ok(rest) if rest.voucher.is_some_and(|(_, frame)| frame.durable >= expect) => {
                        findings.push(finding(
                            at,
                            format!("refused: frame {expect} is damaged, and a later frame says that it was synced"),
                        ))
                    }
                    Ok(rest) if torn.is_some() || rest.this_epoch => {
                        notes.push(format!("offset {at}: frame {expect} is not whole; fine at the end of a tail"));
                    }
                    Ok(_) => {}
                }
                notes.push(format!("{frames} frames up to offset {cursor}; the next would be {expect}"));
                return;
            }
        }
    }
}
