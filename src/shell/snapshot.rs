//! Snapshots: captured in slices between turns, sorted, written and published by a blocking thread.
//!
//! Owns: the snapshot directory and its retention. Must hold: the marker is appended only after the file is published;
//! older snapshots and segments go only when the marker is durable; segments only up to the oldest snapshot kept; a
//! failed snapshot changes nothing but a log line.

use std::rc::Rc;
use std::time::Duration;

use glommio::timer::Timer;
use ringd_storage::format::{Identity, SnapshotMarker};
use ringd_storage::fs::FsMedium;
use ringd_storage::ids::Term;
use ringd_storage::snapshot::{PublishStep, SnapshotError, SnapshotMeta, SnapshotWriter, retain};

use super::clock;
use super::driver::{Hub, die};
use crate::core::event::{Input, SnapshotDone};
use crate::metrics::{Step, nanos};

/// One slice of a capture: at about 1 GB/s of encoding this is well under 100 µs of the loop.
const SLICE_BYTES: usize = 32 << 10;
/// How often to look whether a marker is durable; nobody waits for it but the recycler.
const MARKER_POLL: Duration = Duration::from_millis(5);

/// Runs snapshots as the node begins them.
pub async fn run(hub: Rc<Hub>, directory: FsMedium, identity: Identity, keep: usize) {
    loop {
        hub.snapshot_work.wait().await;
        if let Some(index) = hub.installed.take() {
            // The WAL named it durably before it was installed; whatever its term is, no other one goes up to its entry.
            retire(&hub, &directory, keep, SnapshotMarker { index, term: Term::new(u64::MAX) }).await;
        }
        if !hub.node.borrow().capturing() {
            continue;
        }
        let begun = clock::monotonic();
        let (chunks, done) = capture(&hub).await;
        let meta = SnapshotMeta {
            identity,
            marker: SnapshotMarker { index: done.index, term: done.term },
            etcd_index: done.etcd_index,
            voters: done.voters.clone(),
            learners: done.learners.clone(),
            items: 0,
            created: clock::now(),
        };
        let medium = directory.clone();
        let written = glommio::executor().spawn_blocking(move || write(meta, chunks, medium)).await;
        match written {
            Ok((name, bytes, synced_in)) => {
                hub.metrics.snapshot_sync.observe(nanos(synced_in));
                hub.metrics.snapshot.observe(nanos(begun.elapsed()));
                let milliseconds = begun.elapsed().as_millis();
                tracing::info!(file = name, bytes, milliseconds, "saved snapshot at index {}", done.index);
                // Recovery uses only snapshots the log knows of: what the new one replaces may go only when the marker
                // is as durable as the file.
                let marker = SnapshotMarker { index: done.index, term: done.term };
                let appended = hub.disk.append_snapshot_marker(marker).unwrap_or_else(|error| die(&error.to_string()));
                while hub.disk.durable() < appended {
                    Timer::new(MARKER_POLL).await;
                }
                hub.input(Input::SnapshotStored { index: done.index });
                retire(&hub, &directory, keep, marker).await;
            }
            Err(error) => {
                tracing::error!("{error}; the write-ahead log keeps everything, and a later snapshot is tried");
                hub.input(Input::SnapshotFailed);
            }
        }
    }
}

/// Removes what a snapshot, whose marker is durable, replaces.
async fn retire(hub: &Hub, directory: &FsMedium, keep: usize, newest: SnapshotMarker) {
    let medium = directory.clone();
    match glommio::executor().spawn_blocking(move || retain(&medium, keep, newest)).await {
        Ok(Some(oldest)) => hub.disk.retire(oldest.index.next()),
        Ok(None) => {}
        Err(error) => tracing::warn!("cannot remove old snapshots: {error}"),
    }
}

/// Takes slices until the capture is complete, letting other tasks run in between.
async fn capture(hub: &Rc<Hub>) -> (Vec<Vec<u8>>, SnapshotDone) {
    let mut chunks = Vec::new();
    loop {
        let mut chunk = Vec::with_capacity(SLICE_BYTES + (SLICE_BYTES >> 2));
        let begun = clock::monotonic();
        let done = hub.node.borrow_mut().capture_slice(&mut chunk, SLICE_BYTES);
        chunk.shrink_to_fit();
        hub.metrics.step(Step::Capture, begun.elapsed());
        chunks.push(chunk);
        if let Some(done) = done {
            return (chunks, done);
        }
        glommio::executor().yield_now().await;
    }
}

/// Blocking: sorts, writes and publishes. Answers with the name, the bytes, and how long the file's sync took.
fn write(meta: SnapshotMeta, chunks: Vec<Vec<u8>>, medium: FsMedium) -> Result<(String, u64, Duration), SnapshotError> {
    let mut writer = SnapshotWriter::new(meta);
    for chunk in chunks {
        writer.push_chunk(chunk);
    }
    let (mut last, mut synced_in) = (clock::monotonic(), Duration::ZERO);
    let (name, bytes) = writer.publish_observed(medium, &mut || {}, &mut |step| {
        let took = std::mem::replace(&mut last, clock::monotonic()).elapsed();
        if step == PublishStep::SyncFile {
            synced_in = took;
        }
    })?;
    Ok((name, bytes, synced_in))
}
