//! A store from the items of a snapshot.
//!
//! Owns: what a snapshot must satisfy to become a store. Items are foreign bytes: each earns an error, never a panic.
//!
//! Always holds: a store that was loaded behaves as the one that was captured, history and expiry order included.

use std::rc::Rc;

use ringd_storage::codec::{self, CodecError};
use ringd_storage::ids::EtcdIndex;
use ringd_storage::mutation::{self, Mutation};
use ringd_storage::payload::{EventNode, EventRecord, ItemClass, NodeRecord, StoreRecord};

use super::event::{Action, Event};
use super::image::{Deadline, Image, ImageParts, PATH_BYTES_MAX};
use super::tree::ROOT;
use super::{Store, StoreOptions};

/// Items that do not make a store.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A record does not decode.
    #[error("snapshot item {}: {source}", String::from_utf8_lossy(key))]
    Record {
        /// The item's key.
        key: Vec<u8>,
        /// What is wrong with its value.
        source: CodecError,
    },
    /// Records that decode, but contradict each other or are out of order.
    #[error("snapshot item {}: {reason}", String::from_utf8_lossy(key))]
    Inconsistent {
        /// The item's key.
        key: Vec<u8>,
        /// What was expected.
        reason: &'static str,
    },
    /// There was no store record at all.
    #[error("snapshot holds no store record")]
    NoStoreRecord,
}

/// Takes a snapshot's items one by one, in key order.
pub struct Loader {
    store: Store,
    has_store_record: bool,
    /// The directory of the last node and its path's length: in key order the next node mostly shares it.
    parent: (u32, Vec<u8>),
}

impl Store {
    /// Builds a store from items in key order (so parents precede children). Items that are not the store's are
    /// skipped.
    ///
    /// # Errors
    /// [`LoadError`] when the items do not describe a store.
    pub fn load<'i>(
        options: &StoreOptions,
        items: impl IntoIterator<Item = (&'i [u8], &'i [u8])>,
    ) -> Result<Self, LoadError> {
        let mut loader = Loader::new(options);
        for (key, value) in items {
            loader.item(key, value)?;
        }
        loader.finish()
    }
}

impl Loader {
    /// Begins with an empty store.
    #[must_use]
    pub fn new(options: &StoreOptions) -> Self {
        Self { store: Store::new(options), has_store_record: false, parent: (ROOT, b"/".to_vec()) }
    }

    /// Takes the next item; false when its class is not the store's business.
    ///
    /// # Errors
    /// [`LoadError`] when the item is damaged or out of order. The loader is of no use then.
    pub fn item(&mut self, key: &[u8], value: &[u8]) -> Result<bool, LoadError> {
        let Some((&class, rest)) = key.split_first() else {
            return Err(inconsistent(key, "a key has at least a class"));
        };
        if class == ItemClass::Store as u8 {
            self.store_record(key, decode(key, value)?)?;
        } else if class == ItemClass::Node as u8 {
            self.node(key, rest, &decode(key, value)?)?;
        } else if class == ItemClass::Event as u8 {
            self.event(key, rest, &decode(key, value)?)?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// The finished store.
    ///
    /// # Errors
    /// [`LoadError::NoStoreRecord`], or [`LoadError::Inconsistent`] when the history ends before the index.
    pub fn finish(self) -> Result<Store, LoadError> {
        if !self.has_store_record {
            return Err(LoadError::NoStoreRecord);
        }
        let store = self.store;
        if store.history.newest().unwrap_or_default() != store.index {
            return Err(inconsistent(b"", "the newest event has the store's index"));
        }
        Ok(store)
    }

    fn store_record(&mut self, key: &[u8], record: StoreRecord<'_>) -> Result<(), LoadError> {
        if self.has_store_record || key.len() != 1 {
            return Err(inconsistent(key, "there is one store record"));
        }
        self.has_store_record = true;
        self.store.index = record.index;
        self.store.set_cluster_version(record.cluster_version);
        self.store.stats.restore(&record.stats);
        self.store.expiry.set_next_seq(record.expiry_seq);
        Ok(())
    }

    fn node(&mut self, key: &[u8], path: &[u8], record: &NodeRecord<'_>) -> Result<(), LoadError> {
        if !self.has_store_record {
            return Err(inconsistent(key, "the store record comes first"));
        }
        if !super::ops::is_clean(path) {
            return Err(inconsistent(key, "a path is absolute, clean and bounded"));
        }
        if record.created > record.modified || record.modified > self.store.index {
            return Err(inconsistent(key, "created <= modified <= the store's index"));
        }
        let store = &mut self.store;
        let cut = path.iter().rposition(|&byte| byte == b'/').unwrap_or_default();
        let parent_path = if cut == 0 { b"/" } else { &path[..cut] };
        if self.parent.1 != parent_path {
            let id = store.tree.find(parent_path).filter(|&id| store.tree.is_dir(id));
            self.parent.0 = id.ok_or_else(|| inconsistent(key, "its parent is a directory and precedes it"))?;
            self.parent.1.clear();
            self.parent.1.extend_from_slice(parent_path);
        }
        if store.tree.find(path).is_some() {
            return Err(inconsistent(key, "a path occurs once"));
        }
        let forgets = mutation::is_on(Mutation::ForgetRefresh) && record.modified > record.created;
        let expires_at = record.expires_at.filter(|_| !forgets);
        let deadline = expires_at.map(|at| Deadline { at, seq: record.expiry_seq });
        if let Some(deadline) = deadline
            && (deadline.seq >= store.expiry.next_seq() || store.expiry.contains(deadline))
        {
            return Err(inconsistent(key, "expiry order numbers are unique and below the store's next"));
        }
        let parts =
            ImageParts { path, value: record.value, created: record.created, modified: record.modified, deadline };
        let image = parts.build(&mut store.scratch);
        let id = store.tree.insert(self.parent.0, image);
        if let Some(deadline) = deadline {
            store.expiry.insert(deadline, id);
        }
        Ok(())
    }

    fn event(&mut self, key: &[u8], rest: &[u8], record: &EventRecord<'_>) -> Result<(), LoadError> {
        let store = &mut self.store;
        if rest != record.index.get().to_be_bytes() || record.index > store.index || record.index == EtcdIndex::ZERO {
            return Err(inconsistent(key, "an event's key is its index, which the store has reached"));
        }
        if store.history.newest().is_some_and(|newest| newest.next() != record.index) {
            return Err(inconsistent(key, "events have consecutive indexes"));
        }
        let action = Action::from_number(record.action).ok_or_else(|| inconsistent(key, "an action is known"))?;
        let mut image = |node: &EventNode<'_>| {
            if node.path.is_empty() || node.path.len() > PATH_BYTES_MAX {
                return Err(inconsistent(key, "a path has a bounded length"));
            }
            Ok(event_image(node, &mut store.scratch))
        };
        let prev = record.prev.as_ref().map(&mut image).transpose()?;
        let node = match (&prev, action.removes()) {
            (Some(prev), true) if prev.path() == record.node.path => prev.clone(),
            (_, true) => return Err(inconsistent(key, "a removal has a previous node of the same path")),
            (_, false) => image(&record.node)?,
        };
        let event = Event { index: record.index, at: record.at, action, silent: record.silent, node, prev };
        store.history.push(Rc::new(event));
        Ok(())
    }
}

/// A removal's value-less file cannot come here: its node is its previous node's image.
fn event_image(node: &EventNode<'_>, scratch: &mut Vec<u8>) -> Image {
    let value = if node.dir { None } else { Some(node.value.unwrap_or_default()) };
    let deadline = node.expires_at.map(|at| Deadline { at, seq: 0 });
    ImageParts { path: node.path, value, created: node.created, modified: node.modified, deadline }.build(scratch)
}

fn decode<'v, T: serde::Deserialize<'v>>(key: &[u8], value: &'v [u8]) -> Result<T, LoadError> {
    codec::decode(value).map_err(|source| LoadError::Record { key: key.to_vec(), source })
}

fn inconsistent(key: &[u8], reason: &'static str) -> LoadError {
    LoadError::Inconsistent { key: key.to_vec(), reason }
}
