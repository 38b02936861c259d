//! Installing a snapshot that came from the leader: its items go into the node in slices between turns.
//!
//! Owns: reading the file. Touches: the hub's node. Must hold: the loop is kept no longer than a slice, and is free for a
//! multiple of that after it; a newer install replaces one under way; an item that cannot be read ends the process, for
//! the log names this snapshot already.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use glommio::timer::Timer;
use ringd_storage::format::SnapshotMarker;
use ringd_storage::fs::{FsFile, FsMedium};
use ringd_storage::snapshot::{SnapshotError, SnapshotReader, snapshot_name};

use super::clock;
use super::driver::{Hub, die};
use crate::core::event::Install;
use crate::metrics::Step;

/// Between two slices of freeing what was replaced: nobody waits for it.
const DISCARD_PAUSE: Duration = Duration::from_millis(1);
/// Items handed over in one go; at a few microseconds each this stays below a millisecond.
const SLICE_ITEMS: usize = 128;
/// After a slice the member rests for so many times as long. Nobody waits for it, and members may share cores: at full
/// speed an installation doubled the p99 of writes through a leader on the same two cores, at a fifth it does not show.
const REST: u32 = 4;

/// Installs what the node asks for.
pub async fn run(hub: Rc<Hub>, directory: FsMedium) {
    loop {
        hub.install_wanted.wait().await;
        while let Some(install) = hub.install.take() {
            if let Err(message) = load(&hub, &directory, install).await {
                die(&message);
            }
        }
    }
}

async fn load(hub: &Rc<Hub>, directory: &FsMedium, install: Install) -> Result<(), String> {
    let begun = clock::monotonic();
    let name = snapshot_name(SnapshotMarker { index: install.index, term: install.term });
    let medium = directory.clone();
    let opened = glommio::executor().spawn_blocking(move || SnapshotReader::open(&medium, &name)).await;
    let reader = Arc::new(opened.map_err(|error| error.to_string())?);
    for number in 0..reader.blocks() {
        let reader = Arc::clone(&reader);
        let read = glommio::executor().spawn_blocking(move || read_block(&reader, number)).await;
        let mut items = read.map_err(|error| error.to_string())?.into_iter();
        while items.len() > 0 {
            let begun = clock::monotonic();
            {
                let mut node = hub.node.borrow_mut();
                for (key, value) in items.by_ref().take(SLICE_ITEMS) {
                    if !node.install_item(install, &key, &value)? {
                        return Ok(());
                    }
                }
            }
            let spent = begun.elapsed();
            hub.metrics.step(Step::Install, spent);
            Timer::new(spent * REST).await;
        }
    }
    if hub.node.borrow_mut().install_done(install)? {
        let milliseconds = begun.elapsed().as_millis();
        tracing::info!(index = %install.index, milliseconds, "read the snapshot from the leader");
        hub.turn();
        discard(hub).await;
    }
    Ok(())
}

/// Frees the store that was replaced, slice by slice.
async fn discard(hub: &Rc<Hub>) {
    loop {
        let begun = clock::monotonic();
        let more = hub.node.borrow_mut().discard_slice();
        hub.metrics.step(Step::Install, begun.elapsed());
        if !more {
            return;
        }
        // While it is still being captured, nothing can be freed; the capture's slices run between these.
        Timer::new(DISCARD_PAUSE).await;
    }
}

/// One item's key and value.
type Item = (Vec<u8>, Vec<u8>);

/// Blocking: the items of one block.
fn read_block(reader: &SnapshotReader<FsFile>, number: usize) -> Result<Vec<Item>, SnapshotError> {
    let mut buffer = Vec::new();
    let items = reader.read_block(number, &mut buffer)?;
    // The file was checked when it came; what breaks the layout now ends the block, and the node notices what is missing.
    Ok(items.map_while(|item| item.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect())
}
