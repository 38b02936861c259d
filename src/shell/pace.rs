//! How long a connection may take for what it is doing, and the sweeper that looks once a second.
//!
//! Owns: what each connection is waiting for and since when, and the verdict that it took too long. Touches: the hub's
//! connections, to wake those that are overdue; what follows from a verdict is `connection.rs`'s business.
//!
//! Invariants:
//! 1. Nobody is overdue before the whole limit has passed; the answer may come up to two seconds later. Requests cost no
//!    timer and no look at the clock.
//! 2. A connection whose request is being served, or that waits for events, is never overdue: the node owes it an
//!    answer, not the other way round.
//! 3. The sweeper looks at [`SLICE`] connections at most before it lets others run.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use glommio::timer::Timer;

use super::driver::Hub;
use crate::config::Timeouts;

/// Between two looks: the unit in which limits are counted.
const STEP: Duration = Duration::from_secs(1);
/// Connections looked at in one go; each may be a cache miss, so this is well below a millisecond.
const SLICE: usize = 1024;

/// What a connection is waiting for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// The first byte of a request.
    Idle,
    /// The rest of a head.
    Head,
    /// The rest of a body.
    Body,
    /// The client, to take what was sent.
    Writing,
    /// Us. New connections begin here, so that whatever they wait for first begins when they do.
    #[default]
    Served,
}

/// Where a connection stands.
#[derive(Debug, Default)]
pub struct Pace {
    phase: Cell<Phase>,
    /// The sweeper's second in which the phase began, or last made progress.
    since: Cell<u32>,
    overdue: Cell<bool>,
    /// Who waits for the client to take bytes.
    writer: RefCell<Option<Waker>>,
}

impl Pace {
    /// Enters a phase, or stays in it: bytes that arrive one by one do not make a head's time longer.
    pub fn enter(&self, phase: Phase, second: u32) {
        if self.phase.replace(phase) != phase {
            self.since.set(second);
            self.overdue.set(false);
        }
    }

    /// A request is complete and is served now.
    pub fn serve(&self) {
        self.phase.set(Phase::Served);
        self.overdue.set(false);
    }

    /// What it is waiting for.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// The phase that took too long, if one did.
    #[must_use]
    pub fn overdue(&self) -> Option<Phase> {
        self.overdue.get().then(|| self.phase.get())
    }

    /// The client takes no bytes at this moment. True when it took none for too long; else `waker` is called then.
    pub fn blocked(&self, second: u32, waker: &Waker) -> bool {
        self.enter(Phase::Writing, second);
        if self.overdue.get() {
            return true;
        }
        *self.writer.borrow_mut() = Some(waker.clone());
        false
    }

    /// The client took some bytes after it had been blocked.
    pub fn unblocked(&self, second: u32) {
        self.since.set(second);
        self.overdue.set(false);
    }

    /// Judges; true when the connection is overdue from now on.
    fn judge(&self, timeouts: &Timeouts, second: u32) -> bool {
        let limit = match self.phase.get() {
            Phase::Idle => timeouts.idle,
            Phase::Head => timeouts.head,
            Phase::Body => timeouts.body,
            Phase::Writing => timeouts.write,
            Phase::Served => None,
        };
        // The phase began somewhere within its first second, which therefore does not count.
        let overdue = limit.is_some_and(|limit| second.wrapping_sub(self.since.get()) > limit.get());
        overdue && !self.overdue.replace(true)
    }

    fn wake_writer(&self) {
        if let Some(waker) = self.writer.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// Looks at every connection once a second, until the process ends.
pub async fn sweep(hub: Rc<Hub>, timeouts: Timeouts) {
    loop {
        Timer::new(STEP).await;
        hub.second.set(hub.second.get().wrapping_add(1));
        let mut slot = 0;
        loop {
            let end = hub.connections.borrow().slots().min(slot + SLICE);
            for slot in slot..end {
                let conn = hub.connections.borrow().at(slot).cloned();
                if let Some(conn) = conn
                    && conn.pace.judge(&timeouts, hub.second.get())
                {
                    conn.pace.wake_writer();
                    conn.poke();
                }
            }
            if end == slot {
                break;
            }
            slot = end;
            glommio::yield_if_needed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const TIMEOUTS: Timeouts =
        Timeouts { idle: NonZeroU32::new(10), head: NonZeroU32::new(2), body: NonZeroU32::new(3), write: None };

    #[test]
    fn a_head_that_comes_byte_by_byte_is_overdue_after_its_whole_time_and_once() {
        let pace = Pace::default();
        pace.enter(Phase::Head, 5);
        for second in 5..=7 {
            pace.enter(Phase::Head, second);
            assert!(!pace.judge(&TIMEOUTS, second), "{second}");
        }
        assert!(pace.judge(&TIMEOUTS, 8));
        assert_eq!(pace.overdue(), Some(Phase::Head));
        assert!(!pace.judge(&TIMEOUTS, 9), "said once");
        pace.enter(Phase::Body, 9);
        assert_eq!(pace.overdue(), None, "the body has its own time");
        assert!(!pace.judge(&TIMEOUTS, 12));
        assert!(pace.judge(&TIMEOUTS, 13));
    }

    #[test]
    fn who_is_served_or_has_no_limit_is_never_overdue() {
        let pace = Pace::default();
        pace.serve();
        assert!(!pace.judge(&TIMEOUTS, 1_000_000));
        pace.enter(Phase::Writing, 0);
        assert!(!pace.judge(&TIMEOUTS, 1_000_000));
        pace.enter(Phase::Idle, 20);
        assert!(!pace.judge(&TIMEOUTS, 30));
        assert!(pace.judge(&TIMEOUTS, 31));
        pace.serve();
        assert_eq!(pace.overdue(), None);
    }

    #[test]
    fn seconds_may_wrap() {
        let pace = Pace::default();
        pace.enter(Phase::Head, u32::MAX);
        assert!(!pace.judge(&TIMEOUTS, 1));
        assert!(pace.judge(&TIMEOUTS, 2));
    }

    #[test]
    fn a_client_that_takes_bytes_now_and_then_is_not_overdue() {
        let timeouts = Timeouts { write: NonZeroU32::new(2), ..TIMEOUTS };
        let pace = Pace::default();
        let waker = Waker::noop();
        assert!(!pace.blocked(0, waker));
        assert!(!pace.judge(&timeouts, 2));
        pace.unblocked(2);
        assert!(!pace.judge(&timeouts, 4));
        assert!(pace.judge(&timeouts, 5));
        assert!(pace.blocked(5, waker));
    }
}
