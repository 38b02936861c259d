//! The operations: which one a write means, what it checks, in which order, and what it does.
//!
//! The rules are etcd's, as observed (see the conformance cases); oddities that look like mistakes are marked *etcd*.
//!
//! Always holds: every check comes before the first change.

use std::rc::Rc;

use ringd_storage::ids::{EtcdIndex, UnixNanos};
use ringd_storage::payload::{KeyWrite, WriteMethod};

use super::Store;
use super::error::{StoreError, StoreErrorCode};
use super::event::{Action, Event};
use super::expiry::Expiry;
use super::image::{Image, ImageParts, PATH_BYTES_MAX};
use super::stats::Counter;
use super::tree::ROOT;
use super::watch::Fired;

/// Working space above this is given back after use: one large value must not be kept forever.
const SCRATCH_KEEP_BYTES: usize = 64 << 10;

/// Digits of an in-order name.
const IN_ORDER_DIGITS: usize = 20;

/// What a write makes of a node.
#[derive(Clone, Copy)]
struct NewNode<'a> {
    /// `None` is a directory.
    value: Option<&'a [u8]>,
    expires_at: Option<UnixNanos>,
}

impl Store {
    /// Applies one client write, made at `at`; tells the watchers it concerns through `fired`.
    ///
    /// # Errors
    /// etcd's refusal; nothing has changed then, also no parent directory was made.
    pub fn apply(
        &mut self,
        write: &KeyWrite<'_>,
        at: UnixNanos,
        fired: &mut Vec<Fired>,
    ) -> Result<Rc<Event>, StoreError> {
        let conditional =
            write.prev_index != EtcdIndex::ZERO || write.prev_value.is_some_and(|value| !value.is_empty());
        let (result, success, failure) = match (write.method, write.prev_exist) {
            (WriteMethod::Put, Some(false)) => {
                (self.create(write, at, fired), Counter::CreateSuccess, Counter::CreateFail)
            }
            (WriteMethod::Put, Some(true)) if !conditional => {
                (self.update(write, at, fired), Counter::UpdateSuccess, Counter::UpdateFail)
            }
            (WriteMethod::Put, _) if conditional => {
                (self.compare_and_swap(write, at, fired), Counter::CompareAndSwapSuccess, Counter::CompareAndSwapFail)
            }
            (WriteMethod::Put, _) => (self.set(write, at, fired), Counter::SetsSuccess, Counter::SetsFail),
            (WriteMethod::Post, _) => {
                (self.create_in_order(write, at, fired), Counter::CreateSuccess, Counter::CreateFail)
            }
            (WriteMethod::Delete, _) if conditional => (
                self.compare_and_delete(write, at, fired),
                Counter::CompareAndDeleteSuccess,
                Counter::CompareAndDeleteFail,
            ),
            (WriteMethod::Delete, _) => (self.delete(write, at, fired), Counter::DeleteSuccess, Counter::DeleteFail),
        };
        match &result {
            Ok(_) => self.stats.count(success),
            Err(error) => {
                self.stats.count(counted_as(error.code, success, failure));
                // etcd: a creation that finds a file in the way counts as a failed set too.
                if success == Counter::CreateSuccess && error.code == StoreErrorCode::NotDirectory {
                    self.stats.count(Counter::SetsFail);
                }
            }
        }
        if self.scratch.capacity() > SCRATCH_KEEP_BYTES {
            self.scratch = Vec::new();
        }
        result
    }

    /// Expires nodes whose deadline is at or before `upto`, at most `limit` of them, in (deadline, order set) order. A
    /// directory goes with all below it, as one event. Returns how many events there were.
    pub fn expire(&mut self, upto: UnixNanos, limit: u32, fired: &mut Vec<Fired>) -> u32 {
        let mut expired = 0;
        while expired < limit {
            match self.expiry.first() {
                Some((deadline, id)) if deadline.at <= upto => {
                    self.remove(id, Action::Expire, upto, fired);
                    self.stats.count(Counter::ExpireCount);
                    expired += 1;
                }
                _ => break,
            }
        }
        expired
    }

    /// Takes one index and one place in history for a bookkeeping write outside the key space. No watcher sees it.
    pub fn bump(&mut self, at: UnixNanos) {
        let node = self.tree.image(ROOT).clone();
        self.commit(Action::Bookkeeping, true, at, node, None, &mut Vec::new());
    }

    fn set(&mut self, write: &KeyWrite<'_>, at: UnixNanos, fired: &mut Vec<Fired>) -> Result<Rc<Event>, StoreError> {
        self.refuse_root(write.path)?;
        let new = NewNode { value: (!write.dir).then_some(write.value), expires_at: write.expires_at };
        let Some(id) = self.tree.find(write.path) else {
            if write.refresh {
                return Err(self.miss(write.path));
            }
            let node = self.add(write.path, new)?;
            return Ok(self.commit(Action::Set, false, at, node, None, fired));
        };
        if self.tree.is_dir(id) {
            return Err(self.error(StoreErrorCode::NotFile, write.path));
        }
        let index = self.index.next();
        let old = self.tree.image(id).clone();
        let value = if write.refresh { old.value() } else { Some(write.value) };
        let value = if write.dir { None } else { value };
        let (node, prev) = self.put(id, NewNode { value, ..new }, index, index);
        Ok(self.commit(Action::Set, write.refresh, at, node, Some(prev), fired))
    }

    fn create(&mut self, write: &KeyWrite<'_>, at: UnixNanos, fired: &mut Vec<Fired>) -> Result<Rc<Event>, StoreError> {
        self.refuse_root(write.path)?;
        if self.tree.find(write.path).is_some() {
            return Err(self.error(StoreErrorCode::NodeExists, write.path));
        }
        let new = NewNode { value: (!write.dir).then_some(write.value), expires_at: write.expires_at };
        let node = self.add(write.path, new)?;
        // etcd: a refresh that creates is told to watchers like any other creation.
        Ok(self.commit(Action::Create, false, at, node, None, fired))
    }

    fn create_in_order(
        &mut self,
        write: &KeyWrite<'_>,
        at: UnixNanos,
        fired: &mut Vec<Fired>,
    ) -> Result<Rc<Event>, StoreError> {
        let dir = if write.path == b"/" { b"" } else { write.path };
        let mut path = Vec::with_capacity(dir.len() + 1 + IN_ORDER_DIGITS);
        path.extend_from_slice(dir);
        path.extend_from_slice(format!("/{:0width$}", self.index.next(), width = IN_ORDER_DIGITS).as_bytes());
        self.create(&KeyWrite { path: &path, ..write.clone() }, at, fired)
    }

    fn update(&mut self, write: &KeyWrite<'_>, at: UnixNanos, fired: &mut Vec<Fired>) -> Result<Rc<Event>, StoreError> {
        self.refuse_root(write.path)?;
        let id = self.find(write.path)?;
        let index = self.index.next();
        let old = self.tree.image(id).clone();
        if self.tree.is_dir(id) {
            if !write.value.is_empty() {
                return Err(self.error(StoreErrorCode::NotFile, write.path));
            }
            // etcd: only the deadline of a directory changes; the event shows a new modifiedIndex, the stored
            // directory keeps its old one.
            let new = NewNode { value: None, expires_at: write.expires_at };
            let (stored, prev) = self.put(id, new, old.created(), old.modified());
            let shown = ImageParts { modified: index, ..stored.parts() }.build(&mut self.scratch);
            return Ok(self.commit(Action::Update, write.refresh, at, shown, Some(prev), fired));
        }
        let value = if write.refresh { old.value() } else { Some(write.value) };
        let (node, prev) = self.put(id, NewNode { value, expires_at: write.expires_at }, old.created(), index);
        Ok(self.commit(Action::Update, write.refresh, at, node, Some(prev), fired))
    }

    fn compare_and_swap(
        &mut self,
        write: &KeyWrite<'_>,
        at: UnixNanos,
        fired: &mut Vec<Fired>,
    ) -> Result<Rc<Event>, StoreError> {
        self.refuse_root(write.path)?;
        let id = self.find(write.path)?;
        self.compare(id, write)?;
        let index = self.index.next();
        let old = self.tree.image(id).clone();
        let value = if write.refresh { old.value() } else { Some(write.value) };
        let (node, prev) = self.put(id, NewNode { value, expires_at: write.expires_at }, old.created(), index);
        Ok(self.commit(Action::CompareAndSwap, write.refresh, at, node, Some(prev), fired))
    }

    fn delete(&mut self, write: &KeyWrite<'_>, at: UnixNanos, fired: &mut Vec<Fired>) -> Result<Rc<Event>, StoreError> {
        self.refuse_root(write.path)?;
        let id = self.find(write.path)?;
        if self.tree.is_dir(id) {
            if !write.dir && !write.recursive {
                return Err(self.error(StoreErrorCode::NotFile, write.path));
            }
            if !write.recursive && self.tree.has_children(id) {
                return Err(self.error(StoreErrorCode::DirectoryNotEmpty, write.path));
            }
        }
        Ok(self.remove(id, Action::Delete, at, fired))
    }

    fn compare_and_delete(
        &mut self,
        write: &KeyWrite<'_>,
        at: UnixNanos,
        fired: &mut Vec<Fired>,
    ) -> Result<Rc<Event>, StoreError> {
        let id = self.find(write.path)?;
        self.compare(id, write)?;
        Ok(self.remove(id, Action::CompareAndDelete, at, fired))
    }

    /// `prevValue` and `prevIndex` against the node; it must be a file.
    fn compare(&self, id: u32, write: &KeyWrite<'_>) -> Result<(), StoreError> {
        let image = self.tree.image(id);
        let Some(value) = image.value() else {
            // etcd: its root is not called `/` inside, and the cause comes out empty.
            let cause = if id == ROOT { b"" } else { write.path };
            return Err(self.error(StoreErrorCode::NotFile, cause));
        };
        let asked = write.prev_value.unwrap_or_default();
        let value_fits = asked.is_empty() || asked == value;
        let index_fits = write.prev_index == EtcdIndex::ZERO || write.prev_index == image.modified();
        let mut cause = Vec::new();
        if !value_fits {
            cause = [b"[", asked, b" != ", value, b"]"].concat();
        }
        if !index_fits {
            if !cause.is_empty() {
                cause.push(b' ');
            }
            cause.extend_from_slice(format!("[{} != {}]", write.prev_index, image.modified()).as_bytes());
        }
        if cause.is_empty() { Ok(()) } else { Err(self.error(StoreErrorCode::CompareFailed, &cause)) }
    }

    fn refuse_root(&self, path: &[u8]) -> Result<(), StoreError> {
        if path == b"/" { Err(self.error(StoreErrorCode::RootReadOnly, b"/")) } else { Ok(()) }
    }

    /// Makes a node at a path that has none, and the directories above it. The index has not moved yet.
    fn add(&mut self, path: &[u8], new: NewNode<'_>) -> Result<Image, StoreError> {
        if !is_clean(path) {
            return Err(self.error(StoreErrorCode::InvalidPath, b"path"));
        }
        let index = self.index.next();
        let miss = self.tree.miss(path);
        if !self.tree.is_dir(miss.deepest) {
            return Err(self.error(StoreErrorCode::NotDirectory, &path[..miss.deepest_len]));
        }
        let mut parent = miss.deepest;
        for end in (miss.deepest_len + 1..path.len()).filter(|&at| path[at] == b'/') {
            let dir = ImageParts { path: &path[..end], value: None, created: index, modified: index, deadline: None };
            parent = self.tree.insert(parent, dir.build(&mut self.scratch));
        }
        let deadline = new.expires_at.map(|at| self.expiry.deadline(at));
        let parts = ImageParts { path, value: new.value, created: index, modified: index, deadline };
        let image = parts.build(&mut self.scratch);
        let id = self.tree.insert(parent, image.clone());
        if let Some(deadline) = deadline {
            self.expiry.insert(deadline, id);
        }
        Ok(image)
    }

    /// Replaces what a node holds; returns the new image and the old.
    fn put(&mut self, id: u32, new: NewNode<'_>, created: EtcdIndex, modified: EtcdIndex) -> (Image, Image) {
        let deadline = new.expires_at.map(|at| self.expiry.deadline(at));
        let path = self.tree.image(id).path();
        let image = ImageParts { path, value: new.value, created, modified, deadline }.build(&mut self.scratch);
        let old = self.tree.replace(id, image.clone());
        if let Some(deadline) = old.deadline() {
            self.expiry.remove(deadline);
        }
        if let Some(deadline) = deadline {
            self.expiry.insert(deadline, id);
        }
        (image, old)
    }

    /// Removes a node and all below it. Watchers on every removed path are told first, children before parents, then
    /// those on the node and above it: a stream on the node itself hears of it twice (etcd).
    fn remove(&mut self, id: u32, action: Action, at: UnixNanos, fired: &mut Vec<Fired>) -> Rc<Event> {
        let node = self.tree.image(id).clone();
        let index = self.index.next();
        let event = Rc::new(Event { index, at, action, silent: false, prev: Some(node.clone()), node });
        let (expiry, hub): (&mut Expiry, _) = (&mut self.expiry, &mut self.hub);
        self.tree.remove(id, |image| {
            if let Some(deadline) = image.deadline() {
                expiry.remove(deadline);
            }
            hub.notify_at(image.path(), &event, true, fired);
        });
        self.publish(&event, fired);
        event
    }

    fn commit(
        &mut self,
        action: Action,
        silent: bool,
        at: UnixNanos,
        node: Image,
        prev: Option<Image>,
        fired: &mut Vec<Fired>,
    ) -> Rc<Event> {
        let event = Rc::new(Event { index: self.index.next(), at, action, silent, node, prev });
        self.publish(&event, fired);
        event
    }

    fn publish(&mut self, event: &Rc<Event>, fired: &mut Vec<Fired>) {
        self.index = event.index;
        self.history.push(Rc::clone(event));
        if !event.silent {
            self.hub.notify(event, fired);
        }
    }
}

/// Where a refusal counts. etcd: some checks count a refusal as success.
fn counted_as(code: StoreErrorCode, success: Counter, failure: Counter) -> Counter {
    use StoreErrorCode::{CompareFailed, NotFile, RootReadOnly};
    match (success, code) {
        (Counter::CompareAndDeleteSuccess, CompareFailed | NotFile)
        | (Counter::UpdateSuccess, NotFile | RootReadOnly)
        | (Counter::CompareAndSwapSuccess | Counter::DeleteSuccess, RootReadOnly) => success,
        _ => failure,
    }
}

/// Absolute, without empty components, of bounded length. (`.` and `..` are names like any other here.)
pub(super) fn is_clean(path: &[u8]) -> bool {
    path.len() > 1
        && path.len() <= PATH_BYTES_MAX
        && path.starts_with(b"/")
        && !path.ends_with(b"/")
        && !path.windows(2).any(|pair| pair == b"//")
}
