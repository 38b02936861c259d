//! The same keys under new ids, with one member.
//!
//! Owns: what becomes of every entry and item that names a member. Touches: the target's files. Always: the order and
//! number of index steps stay, so that every key keeps its indexes; the target has one voter, the new member, which
//! takes over name and URLs of the one the backup was taken from.

use indicatif::ProgressBar;
use ringd_storage::conf_change;
use ringd_storage::datadir::DataDir;
use ringd_storage::format::{Identity, PAGE_BYTES, SEGMENT_BYTES, align_page};
use ringd_storage::fs::FsMedium;
use ringd_storage::ids::{ClusterId, MemberId, RaftIndex, UnixNanos};
use ringd_storage::payload::{Command, ItemClass, MemberRecord, Proposal, ProposalId};
use ringd_storage::record::{Entry, EntryKind, EntryRef, HardState};
use ringd_storage::snapshot::{SnapshotMeta, SnapshotWriter, push_item};
use ringd_storage::wal::{AppendError, Wal, WalOptions};
use ringd_storage::{ENTRY_OVERHEAD_BYTES, codec, prepare, recover};

use super::BackupError;
use super::gather::Cut;
use crate::terminal;

/// Entries are collected into frames of about this size.
const FRAME_BYTES: u64 = 256 << 10;
/// Snapshot items are handed to the writer in pieces of about this size.
const CHUNK_BYTES: usize = 1 << 20;
/// Room for headers and page breaks beside the entries, in a log of one segment.
const SLACK_BYTES: u64 = 1 << 20;

/// What was written.
pub struct Written {
    pub identity: Identity,
    /// The last entry, or the snapshot's when none follows it.
    pub last: RaftIndex,
    entries: usize,
}

/// The one member, as the source knew it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Own {
    name: String,
    peer_urls: Vec<String>,
    client_urls: Vec<String>,
}

impl Own {
    fn learn(&mut self, record: &MemberRecord<'_>, with_peers: bool) {
        let owned = |urls: &[&str]| urls.iter().map(|&url| url.to_owned()).collect();
        if !record.name.is_empty() {
            self.name = record.name.to_owned();
            self.client_urls = owned(&record.client_urls);
        }
        if with_peers {
            self.peer_urls = owned(&record.peer_urls);
        }
    }

    fn record(&self, id: MemberId) -> MemberRecord<'_> {
        MemberRecord {
            id,
            name: &self.name,
            peer_urls: self.peer_urls.iter().map(String::as_str).collect(),
            client_urls: self.client_urls.iter().map(String::as_str).collect(),
        }
    }
}

fn random() -> Result<u64, BackupError> {
    let mut bytes = [0; 8];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    got.map_err(|e| BackupError::Log(format!("no random numbers: {e}")))?;
    // Zero means nobody.
    Ok(u64::from_ne_bytes(bytes).max(1))
}

/// Writes `cut` into the empty directory `target`.
pub fn write(cut: &Cut, target: &DataDir) -> Result<Written, BackupError> {
    let identity = Identity { cluster: ClusterId::new(random()?), member: MemberId::new(random()?) };
    let own = find_own(cut)?;
    let bytes = cut.snapshot.as_ref().map_or(0, |snapshot| snapshot.bytes());
    let bytes = bytes + cut.entries.iter().map(entry_bytes).sum::<u64>();
    let bar = terminal::progress(bytes, "copying", true);
    let meta = match &cut.snapshot {
        None => None,
        Some(_) => Some(copy_snapshot(cut, identity, &own, target.snap(), &bar)?),
    };
    let entries = cut.entries.iter().map(|entry| renew(entry, identity.member, &own));
    let entries = entries.collect::<Result<Vec<Entry>, BackupError>>()?;
    let last = write_log(&entries, meta.as_ref(), cut, identity, target.wal(), &bar)?;
    bar.finish_and_clear();
    Ok(Written { identity, last, entries: entries.len() })
}

/// Reads the target back as a start would.
pub fn verify(written: &Written, target: &DataDir) -> Result<(), BackupError> {
    let read = recover::inspect(target.wal(), target.snap())?;
    let found = (read.last, read.entries, read.hard_state.commit);
    let wanted = (written.last, written.entries, written.last);
    if found == wanted {
        return Ok(());
    }
    Err(BackupError::Differs(format!("last entry, number of entries and commit are {found:?} instead of {wanted:?}")))
}

fn entry_bytes(entry: &Entry) -> u64 {
    (entry.data.len() + entry.context.len()) as u64 + ENTRY_OVERHEAD_BYTES
}

/// The newest name and URLs of the source's own member.
fn find_own(cut: &Cut) -> Result<Own, BackupError> {
    let id = cut.identity.member;
    let mut own = Own::default();
    if let Some(snapshot) = &cut.snapshot {
        snapshot.for_each(|key, value| -> Result<(), BackupError> {
            if key.first() == Some(&(ItemClass::Member as u8)) {
                let record: MemberRecord<'_> =
                    codec::decode(value).map_err(|e| BackupError::Differs(format!("a member record: {e}")))?;
                if record.id == id {
                    own.learn(&record, true);
                }
            }
            Ok(())
        })?;
    }
    for entry in &cut.entries {
        match read(entry)? {
            Meaning::Change(change) if !change.context.is_empty() => {
                let record: MemberRecord<'_> = codec::decode(change.context).map_err(|e| foreign(entry, &e))?;
                if record.id == id {
                    own.learn(&record, true);
                }
            }
            Meaning::Proposal(Proposal { command: Command::Publish(record), .. }) if record.id == id => {
                own.learn(&record, false);
            }
            Meaning::Proposal(Proposal { command: Command::UpdateMember(record), .. }) if record.id == id => {
                own.peer_urls = record.peer_urls.iter().map(|&url| url.to_owned()).collect();
            }
            _ => {}
        }
    }
    Ok(own)
}

enum Meaning<'a> {
    Nothing,
    Proposal(Proposal<'a>),
    Change(conf_change::ConfChange<'a>),
}

fn foreign(entry: &Entry, why: &dyn std::fmt::Display) -> BackupError {
    BackupError::Entry { index: entry.index.get(), why: format!("cannot be read: {why}") }
}

fn read(entry: &Entry) -> Result<Meaning<'_>, BackupError> {
    let change = match entry.kind {
        EntryKind::Normal if entry.data.is_empty() => return Ok(Meaning::Nothing),
        EntryKind::Normal => {
            return Proposal::decode(&entry.data).map(Meaning::Proposal).map_err(|e| foreign(entry, &e));
        }
        EntryKind::ConfChange => conf_change::decode_v1(&entry.data),
        EntryKind::ConfChangeV2 => conf_change::decode_v2(&entry.data),
    };
    change.map(Meaning::Change).ok_or_else(|| foreign(entry, &"a malformed membership change"))
}

/// The entry for the target. What concerns keys stays as it is. The first entry of all makes the new member the only
/// voter; what else concerned members takes the same number of index steps and changes nothing.
fn renew(entry: &Entry, new: MemberId, own: &Own) -> Result<Entry, BackupError> {
    let with = |kind, data| Entry { kind, data, context: Vec::new(), ..entry.clone() };
    let publish = || {
        let proposal = Proposal {
            id: ProposalId { origin: new, seq: entry.index.get() },
            at: UnixNanos::ZERO,
            command: Command::Publish(own.record(new)),
        };
        let mut data = Vec::new();
        proposal.encode_into(&mut data);
        with(EntryKind::Normal, data)
    };
    let first = entry.index == RaftIndex::ZERO.next();
    match read(entry)? {
        Meaning::Change(_) if first => {
            let mut context = Vec::new();
            // As a bootstrap writes it: the name comes with the first publication.
            let unstarted = MemberRecord { name: "", client_urls: Vec::new(), ..own.record(new) };
            codec::encode_into(&unstarted, &mut context);
            Ok(with(EntryKind::ConfChange, conf_change::encode_add(new.get(), &context)))
        }
        _ if first => {
            Err(BackupError::Entry { index: entry.index.get(), why: "is not the one a cluster begins with".to_owned() })
        }
        // A removal takes two steps; here it removes somebody who is no member.
        Meaning::Change(change) if change.changes.iter().all(|c| c.kind == REMOVE) => {
            Ok(with(entry.kind, entry.data.clone()))
        }
        Meaning::Change(_) => Ok(publish()),
        Meaning::Proposal(Proposal { command: Command::Publish(_) | Command::UpdateMember(_), .. }) => Ok(publish()),
        Meaning::Nothing | Meaning::Proposal(_) => Ok(entry.clone()),
    }
}

/// The kind of a change that removes a member.
const REMOVE: u64 = 1;

fn copy_snapshot(
    cut: &Cut,
    identity: Identity,
    own: &Own,
    directory: &FsMedium,
    bar: &ProgressBar,
) -> Result<SnapshotMeta, BackupError> {
    let source = cut.snapshot.as_ref().expect("the caller looked");
    let meta = SnapshotMeta { identity, voters: vec![identity.member], learners: Vec::new(), ..source.meta().clone() };
    let mut writer = SnapshotWriter::new(meta.clone());
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    let id = identity.member.get().to_be_bytes();
    push_item(&mut chunk, &[&[ItemClass::Member as u8], &id], |out| {
        codec::encode_into(&own.record(identity.member), out);
    });
    source.for_each(|key, value| -> Result<(), BackupError> {
        bar.inc((key.len() + value.len()) as u64);
        if key.first() == Some(&(ItemClass::Member as u8)) {
            return Ok(());
        }
        push_item(&mut chunk, &[key], |out| out.extend_from_slice(value));
        if chunk.len() >= CHUNK_BYTES {
            writer.push_chunk(std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK_BYTES)));
        }
        Ok(())
    })?;
    writer.push_chunk(chunk);
    writer.publish(directory.clone(), &mut || {})?;
    Ok(meta)
}

/// Answers the last entry.
fn write_log(
    entries: &[Entry],
    snapshot: Option<&SnapshotMeta>,
    cut: &Cut,
    identity: Identity,
    directory: &FsMedium,
    bar: &ProgressBar,
) -> Result<RaftIndex, BackupError> {
    let last = entries.last().map(|entry| entry.index).or(snapshot.map(|meta| meta.marker.index));
    let last = last.ok_or_else(|| BackupError::Log("the source has neither entries nor a snapshot".to_owned()))?;
    let bytes = entries.iter().map(entry_bytes).sum::<u64>();
    let pages = align_page(bytes + bytes / 8 + SLACK_BYTES);
    let segment_bytes = pages.clamp(2 * PAGE_BYTES, SEGMENT_BYTES);
    let options = WalOptions { segment_bytes, epoch_seed: random()?, ..WalOptions::default() };
    let mut wal = Wal::create(directory.clone(), identity, options)?;
    if let Some(meta) = snapshot {
        append(&mut wal, |frame| frame.push_snapshot_received(meta.marker))?;
        sync(&mut wal)?;
    }
    let mut rest = entries;
    while !rest.is_empty() {
        let mut size = 0;
        let fits = |entry: &&Entry| {
            size += entry_bytes(entry);
            size <= FRAME_BYTES
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let batch: Vec<EntryRef<'_>> = rest[..count].iter().map(Entry::as_ref).collect();
        append(&mut wal, |frame| batch.iter().for_each(|entry| frame.push_entry(entry)))?;
        sync(&mut wal)?;
        bar.inc(rest[..count].iter().map(entry_bytes).sum());
        rest = &rest[count..];
    }
    // Voted for nobody: the new member has never met another.
    let state = HardState { term: cut.term, vote: MemberId::new(0), commit: last };
    append(&mut wal, |frame| frame.push_hard_state(&state))?;
    sync(&mut wal)?;
    Ok(last)
}

type Frame<'a> = ringd_storage::wal::FrameBuilder<'a, FsMedium>;

/// Appends one frame, with another segment when the tail is full.
fn append(wal: &mut Wal<FsMedium>, fill: impl Fn(&mut Frame<'_>)) -> Result<(), BackupError> {
    loop {
        let mut frame = wal.begin();
        fill(&mut frame);
        match frame.finish() {
            Ok(_) => return Ok(()),
            Err(AppendError::NoSpace { .. }) => {
                let directory = wal.medium().clone();
                let spare = prepare::prepare_spare(&directory, wal.options().segment_bytes, None, &mut || {})
                    .map_err(|e| BackupError::Log(e.to_string()))?;
                wal.add_spare(spare);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn sync(wal: &mut Wal<FsMedium>) -> Result<(), BackupError> {
    if let Some(ticket) = wal.begin_sync()? {
        ticket.run()?;
        wal.finish_sync(ticket);
    }
    Ok(())
}
