//! Everything that can happen next in a world.
//!
//! Owns: the vocabulary. Small on purpose: the heap moves these about, so what is large is boxed.

use std::rc::Rc;

use ringd::core::event::Standing;
use ringd::core::replica::PeerMessage;
use ringd_storage::ids::MemberId;

use crate::client::Reply;

/// A host's place in the world; it keeps it when its member is replaced.
pub type HostId = u8;
/// Counts a host's starts, so that what was planned for an earlier life is dropped.
pub type Life = u32;

/// See the module documentation.
pub enum Event {
    /// A heartbeat interval has passed on a host.
    Tick(HostId, Life),
    /// A host's turn is due.
    Turn(HostId, Life),
    /// The step of a host's sync that is under way has come to its end.
    SyncStep(HostId, Life),
    /// A host's helper thread has made, or failed to make, a spare segment.
    Spare(HostId, Life),
    /// The next slice or step of a host's own snapshot.
    Snapshot(HostId, Life),
    /// The next slice of a host's install of a leader's snapshot.
    Install(HostId, Life),
    /// A message arrives.
    Deliver(HostId, Box<PeerMessage>),
    /// A snapshot's file and the message that names it arrive.
    DeliverSnapshot(HostId, Box<Transfer>),
    /// A sender learns how its snapshot fared.
    SnapshotSent(HostId, Life, MemberId, bool),
    /// A sender learns that a connection broke.
    Unreachable(HostId, Life, MemberId),
    /// A host asks another how it stands: from, to.
    Handshake(HostId, HostId),
    /// The answer: to, of whom, what.
    Standing(HostId, Life, MemberId, Box<Standing>),
    /// A client thinks of something to do.
    Act(u16),
    /// A client's request arrives at its host.
    Request(u16, u32),
    /// An answer arrives at its client.
    Reply(u16, u32, Box<Reply>),
    /// A client waits no longer.
    Impatience(u16, u32),
    /// A watcher (re)connects.
    Watch(u16),
    /// The next fault of a kind, by its place in the list of kinds.
    Fault(u8),
    /// A host is started again.
    Start(HostId),
    /// A severed link is whole again: from, to, and which cut it was.
    Mend(HostId, HostId, u32),
    /// A removed member's process ends.
    Leave(HostId, Life),
    /// A disk has room again.
    Room(HostId),
    /// The operator looks at the cluster.
    Operate,
}

/// A snapshot on its way.
pub struct Transfer {
    /// Who sends, in which life.
    pub from: (HostId, Life),
    /// The `MsgSnapshot`.
    pub message: PeerMessage,
    /// The file's name.
    pub name: String,
    /// Its bytes.
    pub bytes: Rc<Vec<u8>>,
}
