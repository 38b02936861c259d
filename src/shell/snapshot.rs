//! Snapshots: captured in slices between turns, sorted, written and published on a thread of their own.
//!
//! Owns: the snapshot directory and its retention. Must hold: the marker is appended only after the file is published;
//! segments are retired only up to the oldest snapshot kept; a failed snapshot changes nothing but a log line.

use std::rc::Rc;

use ringd_storage::format::{Identity, SnapshotMarker};
use ringd_storage::fs::FsMedium;
use ringd_storage::snapshot::{SnapshotError, SnapshotMeta, SnapshotWriter, retain};

use super::clock;
use super::driver::{Hub, die};
use crate::core::event::{Input, SnapshotDone};
use crate::metrics::{Step, nanos};

/// One slice of a capture: at about 1 GB/s of encoding this is well under 100 µs of the loop.
const SLICE_BYTES: usize = 32 << 10;

/// Runs snapshots as the node begins them.
pub async fn run(hub: Rc<Hub>, directory: FsMedium, identity: Identity, keep: usize) {
    loop {
        hub.capture_begun.wait().await;
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
        let written = glommio::executor().spawn_blocking(move || write(meta, chunks, &medium, keep)).await;
        match written {
            Ok(Written { name, bytes, oldest_kept }) => {
                hub.metrics.snapshot.observe(nanos(begun.elapsed()));
                let milliseconds = begun.elapsed().as_millis();
                tracing::info!(file = name, bytes, milliseconds, "saved snapshot at index {}", done.index);
                // The marker first: recovery uses only snapshots the log knows of.
                let marker = SnapshotMarker { index: done.index, term: done.term };
                if let Err(error) = hub.disk.append_snapshot_marker(marker) {
                    die(&error.to_string());
                }
                hub.input(Input::SnapshotStored { index: done.index });
                if let Some(oldest) = oldest_kept {
                    hub.disk.retire(oldest.index.next());
                }
            }
            Err(error) => {
                tracing::error!("{error}; the write-ahead log keeps everything, and a later snapshot is tried");
                hub.input(Input::SnapshotFailed);
            }
        }
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

struct Written {
    name: String,
    bytes: u64,
    oldest_kept: Option<SnapshotMarker>,
}

/// Blocking: sorts, writes, publishes, and removes what is beyond `keep`.
fn write(meta: SnapshotMeta, chunks: Vec<Vec<u8>>, medium: &FsMedium, keep: usize) -> Result<Written, SnapshotError> {
    let mut writer = SnapshotWriter::new(meta);
    for chunk in chunks {
        writer.push_chunk(chunk);
    }
    let (name, bytes) = writer.publish(medium.clone(), &mut || {})?;
    let oldest_kept = retain(medium, keep).unwrap_or_else(|error| {
        tracing::warn!("cannot remove old snapshots: {error}");
        None
    });
    Ok(Written { name, bytes, oldest_kept })
}
