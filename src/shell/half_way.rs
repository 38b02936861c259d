//! Whether a panic left a change half made.
//!
//! Owns: one flag. Touches: nothing. Must hold: it is set while a change is made and, after a panic in one, for ever. A
//! panic in a connection's task ends that connection and not the node, but a node that was just being changed can no
//! longer be believed: it would go on to vote and to acknowledge.

use std::cell::Cell;

/// See the module documentation.
#[derive(Debug, Default)]
pub struct HalfWay(Cell<bool>);

impl HalfWay {
    /// Makes a change.
    pub fn during<T>(&self, change: impl FnOnce() -> T) -> T {
        let before = self.0.replace(true);
        let made = change();
        self.0.set(before);
        made
    }

    /// Whether one was left half made.
    #[must_use]
    pub const fn is_left(&self) -> bool {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    use super::*;

    #[test]
    fn a_change_that_panics_is_remembered_and_a_later_one_does_not_hide_it() {
        let half_way = HalfWay::default();
        assert_eq!(half_way.during(|| half_way.during(|| 7)), 7);
        assert!(!half_way.is_left());
        let ended = catch_unwind(AssertUnwindSafe(|| half_way.during(|| resume_unwind(Box::new(())))));
        assert!(ended.is_err() && half_way.is_left());
        half_way.during(|| ());
        assert!(half_way.is_left());
    }
}
