//! A snapshot of the store, written in slices while the store goes on changing.
//!
//! Owns: the order and framing of what is written. Pre-images are kept by `tree.rs` and `history.rs`, which see the
//! changes.
//!
//! An item is `u32 key length | u32 value length | key | value`, little-endian; keys begin with an [`ItemClass`] byte.
//! Items come unsorted (nodes in slot order); the storage crate sorts them.
//!
//! Always holds: what is written is exactly the store at [`Store::capture_begin`], whatever was applied since. The root
//! is not written: every store has the same.

use ringd_storage::codec;
use ringd_storage::ids::EtcdIndex;
use ringd_storage::payload::{EventNode, EventRecord, ItemClass, NodeRecord, StoreRecord};
use serde::Serialize;

use super::Store;
use super::event::{Event, NodeView};
use super::image::Image;

/// What reading a slot costs, in bytes of the slice's budget, so that vacant slots count too.
const SLOT_COST_BYTES: usize = 64;

/// A capture in progress.
pub(super) struct Capture {
    stage: Stage,
    index: EtcdIndex,
    cluster_version: String,
    stats: Vec<u64>,
    expiry_seq: u64,
}

enum Stage {
    Store,
    History,
    Nodes,
}

impl Store {
    /// Freezes what the following slices will write. Costs no more than a few allocations.
    ///
    /// # Panics
    /// When a capture is running already.
    pub fn capture_begin(&mut self) {
        assert!(self.capture.is_none(), "store: one capture at a time");
        self.capture = Some(Capture {
            stage: Stage::Store,
            index: self.index,
            cluster_version: self.cluster_version.clone(),
            stats: self.stats.replicated(),
            expiry_seq: self.expiry.next_seq(),
        });
        self.history.begin_capture();
        self.tree.begin_preimages();
    }

    /// Whether a capture has begun and not ended.
    #[must_use]
    pub const fn is_capturing(&self) -> bool {
        self.capture.is_some()
    }

    /// Appends items to `out` until about `budget_bytes` are written (one item more at most). False when that was the
    /// last of them and the capture has ended.
    ///
    /// # Panics
    /// When no capture is running.
    pub fn capture_slice(&mut self, out: &mut Vec<u8>, budget_bytes: usize) -> bool {
        let limit = out.len().saturating_add(budget_bytes);
        let mut visited_bytes = 0;
        let capture = self.capture.as_mut().expect("store: a capture is running");
        loop {
            match capture.stage {
                Stage::Store => {
                    let record = StoreRecord {
                        index: capture.index,
                        cluster_version: &capture.cluster_version,
                        stats: std::mem::take(&mut capture.stats),
                        expiry_seq: capture.expiry_seq,
                    };
                    push_item(out, ItemClass::Store, &[], &record);
                    capture.stage = Stage::History;
                }
                Stage::History => match self.history.next_captured() {
                    Some(event) => push_event(out, &event),
                    None => {
                        self.history.end_capture();
                        capture.stage = Stage::Nodes;
                    }
                },
                Stage::Nodes => match self.tree.next_preimage() {
                    Some(image) => {
                        visited_bytes += SLOT_COST_BYTES;
                        if let Some(image) = image.filter(|image| image.path() != b"/") {
                            push_node(out, &image);
                        }
                    }
                    None => {
                        self.capture_end();
                        return false;
                    }
                },
            }
            if out.len() + visited_bytes >= limit {
                return true;
            }
        }
    }

    /// Gives a running capture up and forgets what was saved for it. Nothing happens when none is running.
    pub fn capture_end(&mut self) {
        self.capture = None;
        self.history.end_capture();
        self.tree.preimages = None;
    }
}

fn push_node(out: &mut Vec<u8>, image: &Image) {
    let deadline = image.deadline();
    let record = NodeRecord {
        created: image.created(),
        modified: image.modified(),
        expires_at: deadline.map(|deadline| deadline.at),
        expiry_seq: deadline.map_or(0, |deadline| deadline.seq),
        value: image.value(),
    };
    push_item(out, ItemClass::Node, image.path(), &record);
}

fn push_event(out: &mut Vec<u8>, event: &Event) {
    let record = EventRecord {
        index: event.index,
        action: event.action as u8,
        silent: event.silent,
        node: event_node(event.node()),
        prev: event.prev().map(event_node),
        at: event.at,
    };
    push_item(out, ItemClass::Event, &event.index.get().to_be_bytes(), &record);
}

fn event_node(view: NodeView<'_>) -> EventNode<'_> {
    EventNode {
        path: view.key,
        dir: view.dir,
        value: view.value,
        created: view.created,
        modified: view.modified,
        expires_at: view.expires_at,
    }
}

fn push_item<T: Serialize>(out: &mut Vec<u8>, class: ItemClass, rest: &[u8], value: &T) {
    let key_len = u32::try_from(1 + rest.len()).expect("keys are short");
    out.extend_from_slice(&key_len.to_le_bytes());
    let value_len_at = out.len();
    out.extend_from_slice(&[0; 4]);
    out.push(class as u8);
    out.extend_from_slice(rest);
    let value_at = out.len();
    codec::encode_into(value, out);
    let value_len = u32::try_from(out.len() - value_at).expect("values are bounded by the request limit");
    out[value_len_at..value_len_at + 4].copy_from_slice(&value_len.to_le_bytes());
}
