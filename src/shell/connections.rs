//! Who is connected: the slots, and what a connection holds for as long as it has one.
//!
//! Owns: slots and their generations. Touches: nothing. Must hold: a token of an earlier tenant of a slot finds nobody;
//! slot and counted bytes come back when the connection's task ends, however it ends.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::connection::{Audience, Conn};
use super::pressure::Pressure;

/// The connections, by slot.
#[derive(Default)]
pub struct Connections {
    slots: Vec<Option<Rc<Conn>>>,
    free: Vec<u32>,
    next_generation: u32,
    open: usize,
    /// Bytes that all of them have sent.
    pub sent_bytes: Rc<Cell<u64>>,
    /// Bytes of events that wait in their mailboxes.
    pub mailbox_bytes: Rc<Cell<u64>>,
}

impl Connections {
    /// Gives a new connection a slot.
    pub fn open(&mut self, audience: Audience) -> Rc<Conn> {
        self.next_generation = self.next_generation.wrapping_add(1);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("fewer connections than descriptors")
        });
        let conn = Rc::new(Conn::new(slot, self.next_generation, audience, self));
        self.slots[slot as usize] = Some(Rc::clone(&conn));
        self.open += 1;
        conn
    }

    /// Frees a connection's slot; tokens that still name it find nobody.
    pub fn close(&mut self, conn: &Conn) {
        self.slots[conn.slot() as usize] = None;
        self.free.push(conn.slot());
        self.open -= 1;
    }

    /// The connection in a slot, if it is still the one meant.
    #[must_use]
    pub fn get(&self, slot: u32, generation: u32) -> Option<&Rc<Conn>> {
        self.slots.get(slot as usize)?.as_ref().filter(|conn| conn.generation() == generation)
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open
    }

    /// Whether none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open == 0
    }

    /// Slots there are, taken or free.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Whoever has a slot now.
    #[must_use]
    pub fn at(&self, slot: usize) -> Option<&Rc<Conn>> {
        self.slots.get(slot)?.as_ref()
    }

    /// Everybody.
    pub fn iter(&self) -> impl Iterator<Item = &Rc<Conn>> {
        self.slots.iter().flatten()
    }
}

/// A connection for as long as its task lives.
pub struct Tenancy<'a> {
    connections: &'a RefCell<Connections>,
    pressure: &'a Pressure,
    /// The connection.
    pub conn: Rc<Conn>,
}

impl<'a> Tenancy<'a> {
    /// Gives a new connection a slot.
    pub fn begin(connections: &'a RefCell<Connections>, pressure: &'a Pressure, audience: Audience) -> Self {
        let conn = connections.borrow_mut().open(audience);
        Self { connections, pressure, conn }
    }
}

impl Drop for Tenancy<'_> {
    /// Also when the task panicked: what it had borrowed is given back before this.
    fn drop(&mut self) {
        self.pressure.let_go(self.conn.held());
        self.pressure.let_go_answers(self.conn.out_held());
        self.connections.borrow_mut().close(&self.conn);
    }
}

/// What only one connection may do at a time, while it does it.
pub struct Turn<'a>(&'a Cell<bool>);

impl<'a> Turn<'a> {
    /// Takes the turn, which nobody has.
    pub fn take(taken: &'a Cell<bool>) -> Self {
        assert!(!taken.replace(true), "one at a time");
        Self(taken)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::config::Ceilings;

    #[test]
    fn a_task_that_panics_leaves_neither_slot_nor_bytes_behind() {
        let connections = RefCell::<Connections>::default();
        let ceilings = Ceilings { quota: 1, writes_pending: 1, log: 1, bodies: 1 << 20, answers: 1 << 20 };
        let pressure = Pressure::new(ceilings);
        let mut first = None;
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let tenancy = Tenancy::begin(&connections, &pressure, Audience::Clients);
            first = Some((tenancy.conn.slot(), tenancy.conn.generation()));
            assert!(pressure.hold(tenancy.conn.held(), 900 << 10));
            pressure.hold_answers(tenancy.conn.out_held(), 2 << 20);
            assert_eq!((connections.borrow().len(), pressure.bodies_bytes()), (1, 900 << 10));
            assert!(pressure.answers_bytes() > 1 << 20);
            let _borrowed = tenancy.conn.out();
            // Unlike `panic!`, it says nothing on stderr.
            std::panic::resume_unwind(Box::new(()));
        }));
        assert!(ended.is_err());
        assert!(connections.borrow().is_empty());
        assert_eq!((pressure.bodies_bytes(), pressure.answers_bytes()), (0, 0));
        let (slot, generation) = first.expect("it began");
        let next = Tenancy::begin(&connections, &pressure, Audience::Clients);
        assert_eq!(next.conn.slot(), slot, "the slot is used again");
        assert!(connections.borrow().get(slot, generation).is_none(), "answers to the first find nobody");
    }
}
