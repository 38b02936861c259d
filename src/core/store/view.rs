//! Reading the tree without copying it.
//!
//! Always holds: a [`NodeRef`] borrows the store, so what it shows cannot change while it exists.

use ringd_storage::ids::{EtcdIndex, UnixNanos};

use super::event::NodeView;
use super::tree::{ROOT, Tree};

/// One node, as it is now.
#[derive(Clone, Copy)]
pub struct NodeRef<'s> {
    tree: &'s Tree,
    id: u32,
}

impl<'s> NodeRef<'s> {
    pub(super) const fn new(tree: &'s Tree, id: u32) -> Self {
        Self { tree, id }
    }

    /// The full path; `/` for the root.
    #[must_use]
    pub fn key(&self) -> &'s [u8] {
        self.tree.image(self.id).path()
    }

    /// The value; `None` for a directory.
    #[must_use]
    pub fn value(&self) -> Option<&'s [u8]> {
        self.tree.image(self.id).value()
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.tree.is_dir(self.id)
    }

    /// Whether it is the root, which answers show without key and indexes.
    #[must_use]
    pub const fn is_root(&self) -> bool {
        self.id == ROOT
    }

    /// Whether its name begins with `_`, which keeps it out of listings.
    #[must_use]
    pub fn is_hidden(&self) -> bool {
        let path = self.key();
        let name = path.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
        path.get(name) == Some(&b'_')
    }

    /// `createdIndex`; zero for the root.
    #[must_use]
    pub fn created(&self) -> EtcdIndex {
        self.tree.image(self.id).created()
    }

    /// `modifiedIndex`; zero for the root.
    #[must_use]
    pub fn modified(&self) -> EtcdIndex {
        self.tree.image(self.id).modified()
    }

    /// The deadline, if it has one of its own.
    #[must_use]
    pub fn expires_at(&self) -> Option<UnixNanos> {
        self.tree.image(self.id).deadline().map(|deadline| deadline.at)
    }

    /// Everything an answer shows of the node itself.
    #[must_use]
    pub fn view(&self) -> NodeView<'s> {
        NodeView::of(self.tree.image(self.id))
    }

    /// The children, hidden ones too, in no particular order. None for a file.
    #[must_use]
    pub fn children(&self) -> Children<'s> {
        Children { tree: self.tree, next: self.tree.first_child(self.id) }
    }

    /// The children, hidden ones too, by name.
    #[must_use]
    pub fn sorted_children(&self) -> Vec<NodeRef<'s>> {
        let mut children: Vec<_> = self.children().collect();
        children.sort_unstable_by_key(NodeRef::key);
        children
    }
}

/// Iterates the children of one directory.
#[derive(Clone)]
pub struct Children<'s> {
    tree: &'s Tree,
    next: Option<u32>,
}

impl<'s> Iterator for Children<'s> {
    type Item = NodeRef<'s>;

    fn next(&mut self) -> Option<NodeRef<'s>> {
        let id = self.next?;
        self.next = self.tree.next_sibling(id);
        Some(NodeRef::new(self.tree, id))
    }
}
