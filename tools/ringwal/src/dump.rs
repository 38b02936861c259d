//! `ringwal dump`: every record of every frame in order, and past damage as far as frames can be found.

use std::io::Write;
use std::path::Path;

use ringd_storage::format::{FrameHeader, PAGE_BYTES, SEGMENT_FLAG_ZEROED};
use ringd_storage::fs::{FsFile, FsMedium};
use ringd_storage::ids::WalIndex;
use ringd_storage::medium::{Access, Medium};
use ringd_storage::record::Record;
use ringd_storage::scan::{Next, SegmentReader};
use ringd_storage::snapshot::SnapshotReader;
use serde_json::{Map, Value};

use crate::source::{Source, segment_files};
use crate::{Failure, Outcome, describe};

/// Which entries are wanted.
#[derive(Debug)]
pub struct Filter {
    /// From this raft index on.
    pub from: Option<u64>,
    /// Up to this raft index.
    pub to: Option<u64>,
}

impl Filter {
    fn wants(&self, record: &Record<'_>) -> bool {
        let is_open = self.from.is_none() && self.to.is_none();
        match record {
            Record::Entry(entry) => {
                let index = entry.index.get();
                self.from.is_none_or(|from| index >= from) && self.to.is_none_or(|to| index <= to)
            }
            _ => is_open,
        }
    }
}

struct Printer<'a> {
    out: &'a mut dyn Write,
    json: bool,
    outcome: Outcome,
}

impl Printer<'_> {
    fn print(&mut self, object: Map<String, Value>) -> Result<(), Failure> {
        if self.json {
            writeln!(self.out, "{}", Value::Object(object))?;
        } else {
            writeln!(self.out, "{}", describe::line(&object))?;
        }
        Ok(())
    }

    fn damage(&mut self, file: &str, offset: u64, what: &str) -> Result<(), Failure> {
        self.outcome = Outcome::Damaged;
        self.note("damage", file, offset, what)
    }

    fn note(&mut self, kind: &str, file: &str, offset: u64, what: &str) -> Result<(), Failure> {
        let mut object = Map::new();
        object.insert("type".into(), kind.into());
        object.insert("file".into(), file.into());
        object.insert("offset".into(), offset.into());
        object.insert("error".into(), what.into());
        self.print(object)
    }
}

/// Prints what `path` holds.
pub fn run(path: &Path, json: bool, filter: &Filter, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let mut printer = Printer { out, json, outcome: Outcome::Fine };
    match Source::find(path)? {
        Source::Snapshot(medium, name) => snapshot(&medium, &name, &mut printer)?,
        Source::Segment(medium, name) => segment(&medium, &name, filter, &mut printer)?,
        Source::Directory(found) => {
            let (segments, _) = segment_files(&found.wal)?;
            if segments.is_empty() {
                return Err(Failure::Message(format!("{} holds no WAL segment", found.wal.path().display())));
            }
            for name in segments {
                segment(&found.wal, &name, filter, &mut printer)?;
            }
        }
    }
    Ok(printer.outcome)
}

fn segment(medium: &FsMedium, name: &str, filter: &Filter, printer: &mut Printer<'_>) -> Result<(), Failure> {
    let path = medium.path_of(name);
    let opened = medium.open(name, Access::Read).map_err(|error| error.to_string());
    let mut reader = match opened.and_then(|file| SegmentReader::open(file).map_err(|error| error.to_string())) {
        Ok(reader) => reader,
        Err(error) => return printer.damage(&path, 0, &error),
    };
    let (mut cursor, mut crc) = (PAGE_BYTES, reader.header_crc());
    let mut expect = reader.header().first_wal_index;
    loop {
        let next = match reader.next(cursor, expect, crc) {
            Ok(next) => next,
            Err(error) => return printer.damage(&path, cursor, &error.to_string()),
        };
        let (at, frame) = match next {
            Next::Frame(at, frame) => (at, frame),
            Next::Other(at, frame) => {
                let what = format!("WAL index {} where {expect} belongs", frame.wal_index);
                printer.damage(&path, at, &what)?;
                (at, frame)
            }
            Next::Absent { torn } => match after_hole(&mut reader, cursor, expect, torn, &path, printer)? {
                Some(found) => found,
                None => return Ok(()),
            },
        };
        records(&mut reader, name, at, &frame, filter, printer)?;
        cursor = at + frame.total_bytes();
        crc = frame.crc;
        expect = WalIndex::new(frame.wal_index.get().saturating_add(1));
    }
}

/// Where reading goes on after a place without a valid frame; says what the place is when anything was begun there.
fn after_hole(
    reader: &mut SegmentReader<FsFile>,
    cursor: u64,
    expect: WalIndex,
    torn: Option<u64>,
    path: &str,
    printer: &mut Printer<'_>,
) -> Result<Option<(u64, FrameHeader)>, Failure> {
    let read = reader.rest(cursor).and_then(|rest| Ok((rest, reader.find(cursor)?)));
    let (rest, found) = match read {
        Ok(read) => read,
        Err(error) => {
            printer.damage(path, cursor, &error.to_string())?;
            return Ok(None);
        }
    };
    let zeroed = reader.header().flags & SEGMENT_FLAG_ZEROED != 0;
    let vouched = rest.voucher.is_some_and(|(_, frame)| frame.durable >= expect);
    if vouched {
        let what = format!("frame {expect} is damaged although a later frame says that it was synced");
        printer.damage(path, torn.unwrap_or(cursor), &what)?;
    } else if torn.is_some() || rest.this_epoch || (zeroed && rest.nonzero_end > cursor) {
        let what = format!("frame {expect} is not whole (never acknowledged, or still being written)");
        printer.note("torn", path, torn.unwrap_or(cursor), &what)?;
    }
    Ok(found)
}

fn records(
    reader: &mut SegmentReader<FsFile>,
    name: &str,
    at: u64,
    frame: &FrameHeader,
    filter: &Filter,
    printer: &mut Printer<'_>,
) -> Result<(), Failure> {
    let records = match reader.records(at, frame) {
        Ok(records) => records,
        Err(error) => return printer.damage(name, at, &error.to_string()),
    };
    for record in records {
        match record {
            Ok(record) if filter.wants(&record) => {
                let mut object = describe::record(&record);
                object.insert("wal".into(), frame.wal_index.get().into());
                object.insert("file".into(), name.into());
                object.insert("offset".into(), at.into());
                printer.print(object)?;
            }
            Ok(_) => {}
            Err(error) => printer.damage(name, at, &error.to_string())?,
        }
    }
    Ok(())
}

fn snapshot(medium: &FsMedium, name: &str, printer: &mut Printer<'_>) -> Result<(), Failure> {
    let reader = match SnapshotReader::open(medium, name) {
        Ok(reader) => reader,
        Err(error) => return printer.damage(&error.file, error.offset, &error.fault.to_string()),
    };
    let mut buffer = Vec::new();
    for number in 0..reader.blocks() {
        match reader.read_block(number, &mut buffer) {
            // One bad block hides only its own items.
            Err(error) => printer.damage(&error.file, error.offset, &error.fault.to_string())?,
            Ok(items) => {
                for item in items {
                    match item {
                        Some((key, value)) => printer.print(describe::item(key, value))?,
                        None => printer.damage(&medium.path_of(name), number as u64, "the block breaks the layout")?,
                    }
                }
            }
        }
    }
    Ok(())
}
