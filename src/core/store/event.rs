//! What happened to a node, as watchers and answers see it.
//!
//! Owns: actions and their names, and the view of a node inside an event.
//!
//! Always holds: an event's index is the store index its change produced, and no two events share one.

use ringd_storage::ids::{EtcdIndex, UnixNanos};

use super::image::Image;

/// The kind of change. The numbers are stored in snapshots (`EventRecord::action`): append, never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Action {
    /// PUT without conditions.
    Set = 1,
    /// PUT with `prevExist=false`, and POST.
    Create = 2,
    /// PUT with `prevExist=true`.
    Update = 3,
    /// PUT with `prevValue` or `prevIndex`.
    CompareAndSwap = 4,
    /// DELETE.
    Delete = 5,
    /// DELETE with `prevValue` or `prevIndex`.
    CompareAndDelete = 6,
    /// A deadline passed.
    Expire = 7,
    /// The node's own records (a member published, a cluster version); no client sees it.
    Bookkeeping = 8,
}

impl Action {
    /// The name in `{"action": ...}`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Create => "create",
            Self::Update => "update",
            Self::CompareAndSwap => "compareAndSwap",
            Self::Delete => "delete",
            Self::CompareAndDelete => "compareAndDelete",
            Self::Expire => "expire",
            Self::Bookkeeping => "bookkeeping",
        }
    }

    /// Whether the node is gone afterwards. Such an event shows no value and no deadline in its node.
    #[must_use]
    pub const fn removes(self) -> bool {
        matches!(self, Self::Delete | Self::CompareAndDelete | Self::Expire)
    }

    pub(super) const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Set,
            2 => Self::Create,
            3 => Self::Update,
            4 => Self::CompareAndSwap,
            5 => Self::Delete,
            6 => Self::CompareAndDelete,
            7 => Self::Expire,
            8 => Self::Bookkeeping,
            _ => return None,
        })
    }
}

/// One change. Shared by the answer, the history and every watcher it wakes.
pub struct Event {
    /// The store index of the change; the node's `modifiedIndex`.
    pub index: EtcdIndex,
    /// The clock of the change; `ttl` in answers is counted from here.
    pub at: UnixNanos,
    /// What was done.
    pub action: Action,
    /// Takes a place in history, matches no watcher (refreshes and bookkeeping).
    pub silent: bool,
    /// After the change; for a removal the same image as `prev`, of which only path, kind and `created` are shown.
    pub(super) node: Image,
    pub(super) prev: Option<Image>,
}

/// A node as an event shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeView<'a> {
    /// The full path.
    pub key: &'a [u8],
    /// `None` for directories, and for what a removal left.
    pub value: Option<&'a [u8]>,
    /// A directory.
    pub dir: bool,
    /// `createdIndex`.
    pub created: EtcdIndex,
    /// `modifiedIndex`.
    pub modified: EtcdIndex,
    /// The deadline, if it has one.
    pub expires_at: Option<UnixNanos>,
}

impl<'a> NodeView<'a> {
    pub(super) fn of(image: &'a Image) -> Self {
        Self {
            key: image.path(),
            value: image.value(),
            dir: image.is_dir(),
            created: image.created(),
            modified: image.modified(),
            expires_at: image.deadline().map(|deadline| deadline.at),
        }
    }
}

impl Event {
    /// The path the event is about.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.node.path()
    }

    /// `node` of the answer.
    #[must_use]
    pub fn node(&self) -> NodeView<'_> {
        let view = NodeView::of(&self.node);
        if self.action.removes() {
            return NodeView { value: None, expires_at: None, modified: self.index, ..view };
        }
        view
    }

    /// `prevNode` of the answer.
    #[must_use]
    pub fn prev(&self) -> Option<NodeView<'_>> {
        self.prev.as_ref().map(NodeView::of)
    }

    /// Whether it made a node where none was: HTTP 201 instead of 200.
    #[must_use]
    pub fn is_created(&self) -> bool {
        self.action == Action::Create || (self.action == Action::Set && self.prev.is_none())
    }

    /// Bytes the event keeps alive in a history, at most: the tree may hold the same images.
    #[must_use]
    pub fn weight(&self) -> usize {
        let prev = self.prev.as_ref().filter(|prev| !prev.same(&self.node)).map_or(0, Image::len);
        size_of::<Self>() + self.node.len() + prev
    }
}
