//! A local event with one waiter: set many times, seen once.
//!
//! Owns: a flag and a waker. Must hold: a `notify` between two `wait`s is never lost, and costs nothing when nobody
//! waits.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// The event.
#[derive(Debug, Default)]
pub struct Notify {
    set: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Notify {
    /// Sets the event and wakes the waiter.
    pub fn notify(&self) {
        if !self.set.replace(true)
            && let Some(waker) = self.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }

    /// Waits until the event is set, and clears it.
    pub async fn wait(&self) {
        poll_fn(|context| {
            if self.set.replace(false) {
                return Poll::Ready(());
            }
            let mut waker = self.waker.borrow_mut();
            // A task that waits for bytes comes here with the same waker again and again.
            if !waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
                *waker = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// Whether the event is set; clears it.
    pub fn take(&self) -> bool {
        self.set.replace(false)
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, or};

    use super::*;

    #[test]
    fn a_notification_before_the_wait_is_kept() {
        let event = Notify::default();
        event.notify();
        event.notify();
        block_on(event.wait());
        let second = block_on(or(
            async {
                event.wait().await;
                true
            },
            async { false },
        ));
        assert!(!second, "two notifications before a wait are one");
    }
}
