//! A node's state out of a snapshot's items: at start from its own, later from a leader's.
//!
//! Owns: which item belongs to which part of the state. Items are foreign bytes: each earns an error, never a panic.
//! Must hold: what [`State`] yields is what [`super::node::Node::force_snapshot`] wrote, part by part.

use ringd_storage::codec;
use ringd_storage::ids::MemberId;
use ringd_storage::payload::{ItemClass, MemberRecord};

use super::auth::Auth;
use super::membership::{Member, Membership};
use super::store::{Loader, Store, StoreOptions};

/// The replicated state, whole.
pub struct State {
    /// The v2 key space.
    pub store: Store,
    /// Who is in the cluster, and who was.
    pub members: Membership,
    /// Users, roles and their switch.
    pub auth: Auth,
}

impl State {
    /// What a cluster begins with.
    #[must_use]
    pub fn empty(options: &StoreOptions) -> Self {
        Self { store: Store::new(options), members: Membership::default(), auth: Auth::default() }
    }
}

/// Takes a snapshot's items one by one, in key order.
pub struct StateLoader {
    store: Loader,
    members: Membership,
    auth: Auth,
}

impl StateLoader {
    /// Begins with nothing.
    #[must_use]
    pub fn new(options: &StoreOptions) -> Self {
        Self { store: Loader::new(options), members: Membership::default(), auth: Auth::default() }
    }

    /// Takes the next item.
    ///
    /// # Errors
    /// A sentence when the item is damaged or out of order. The loader is of no use then.
    pub fn item(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        if self.store.item(key, value).map_err(|error| error.to_string())? {
            return Ok(());
        }
        if key.first() == Some(&(ItemClass::Member as u8)) {
            let record: MemberRecord<'_> = codec::decode(value).map_err(|error| error.to_string())?;
            self.members.put(Member::from(record));
        } else if let [class, id @ ..] = key
            && *class == ItemClass::RemovedMember as u8
        {
            let id = id.try_into().map_err(|_| "the id of a removed member has 8 bytes".to_owned())?;
            self.members.restore_removed(MemberId::new(u64::from_be_bytes(id)));
        } else {
            self.auth.read_item(key, value).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// The finished state.
    ///
    /// # Errors
    /// A sentence when the items were not a whole state.
    pub fn finish(self) -> Result<State, String> {
        let store = self.store.finish().map_err(|error| error.to_string())?;
        Ok(State { store, members: self.members, auth: self.auth })
    }
}
