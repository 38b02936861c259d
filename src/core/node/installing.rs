//! How a leader's snapshot becomes a node's state.
//!
//! Owns: the steps from the first item to the last piece of the store that was replaced. Touches: the node's fields.
//! Must hold: the state changes all at once, when every item was taken (**whole-state**).

use super::super::event::{Ended, Install, Notice};
use super::super::install::State;
use super::super::store::Store;
use super::{Loading, Node};

impl Node {
    /// Takes the next item of a snapshot that [`Effects::install`] named, in the file's order. False when that install
    /// is no longer the current one: stop reading.
    ///
    /// # Errors
    /// A sentence when the item is damaged or out of order: the node must stop.
    pub fn install_item(&mut self, install: Install, key: &[u8], value: &[u8]) -> Result<bool, String> {
        let Some(loading) = self.loading.as_mut().filter(|loading| loading.install == install) else {
            return Ok(false);
        };
        loading.loader.item(key, value)?;
        Ok(true)
    }

    /// All items were taken: the loaded state is the node's now. A [`Node::poll`] must follow, which tells the watchers
    /// and applies what was committed meanwhile. False as in [`Node::install_item`].
    ///
    /// # Errors
    /// A sentence when the items are not a whole state: the node must stop.
    pub fn install_done(&mut self, install: Install) -> Result<bool, String> {
        let Some(Loading { loader, .. }) = self.loading.take_if(|loading| loading.install == install) else {
            return Ok(false);
        };
        let State { store, members, mut auth } = loader.finish()?;
        auth.succeed(&self.machine.auth);
        let mut old = std::mem::replace(&mut self.machine.store, store);
        let mut ended = Vec::new();
        self.machine.store.succeed(&mut old, &mut self.owed.fired, &mut ended);
        self.owed.ended.extend(ended.into_iter().map(|(token, watcher)| Ended { token, watcher }));
        if let Some(capture) = self.capture.as_mut().filter(|capture| !capture.of_retired) {
            capture.of_retired = true;
            self.retired = Some(old);
        } else if self.retired.is_none() {
            self.retired = Some(old);
        }
        self.machine.members = members;
        self.machine.auth = auth;
        self.machine.applied = install.index;
        self.machine.applied_term = install.term;
        self.snapshot_index = install.index;
        self.snapshot_bytes_from = self.machine.applied_bytes;
        self.compact_to = None;
        self.replica.installed(install);
        self.owed.notices.push(Notice::Installed { index: install.index });
        self.owed.notices.push(Notice::MembershipChanged);
        Ok(true)
    }

    /// Frees a part (about 100 µs) of the store that a snapshot has replaced; false when nothing is left of it. Call it
    /// between turns after [`Node::install_done`].
    pub fn discard_slice(&mut self) -> bool {
        if self.capture.as_ref().is_some_and(|capture| capture.of_retired) {
            // It is still being written; the capture's own slices go on.
            return true;
        }
        let more = self.retired.as_mut().is_some_and(Store::drop_slice);
        if !more {
            self.retired = None;
        }
        more
    }

    /// Whether a leader's snapshot is being loaded.
    #[must_use]
    pub fn is_installing(&self) -> bool {
        self.replica.installing().is_some()
    }
}
