//! When it is too much: the quota of the key space, the bytes of writes under way, of the log in memory, of bodies being
//! gathered, of answers that nobody has read yet.
//!
//! Owns: the verdict whether a client's write may be proposed, and the NOSPACE alarm. Touches: nothing; the store's size
//! and the bytes under way come in. Awaits nothing and costs a few comparisons per write and per turn.
//!
//! Must hold:
//! 1. Refusing comes before proposing, and looks at this member alone. What is proposed is applied by every member
//!    whatever its quota, so members with different settings, or at different entries, never differ: the quota decides
//!    what enters the log, not what an entry does. It may be passed by what was under way when it was reached.
//! 2. What makes room is never refused for want of room: deletes, refreshes, and writes that leave a node no larger.
//! 3. The alarm ends by itself, below [`CLEAR_PERCENT`] of the quota; between the two marks it stays as it was.
//! 4. One write, one body, and one answer, is always taken: no setting makes a request impossible that its own limit
//!    allows.
//! 5. Answers pass their ceiling by one answer at most: who asks for a large one while it is reached is refused, and
//!    small ones are never refused, so that nobody who does not read keeps others from reading keys. What writes replace
//!    is told once and not counted before it is rendered.
//!
//! Changes of users, roles and members are never refused here: they are small, one at a time per connection, and an
//! operator's way out.

use std::cell::Cell;
use std::rc::Rc;

use ringd_storage::payload::{KeyWrite, WriteMethod};

use super::connection::OUT_HIGH_BYTES;
use crate::config::Ceilings;
use crate::core::node::Node;
use crate::core::proposals::PROPOSAL_OVERHEAD_BYTES;

/// The alarm ends below so much of the quota: far enough from it that a client which writes and deletes at the edge does
/// not switch it with every request.
const CLEAR_PERCENT: u64 = 95;
/// Input of this size is every connection's own, and its number is the listeners' business: only what is beyond counts.
const INPUT_FREE_BYTES: usize = 64 << 10;
/// Answers of this size likewise: what a connection gathers before it sends.
const ANSWER_FREE_BYTES: usize = OUT_HIGH_BYTES;

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Propose it.
    Admit,
    /// The key space has no room for it: 500, in etcd's words. Delete something, or raise the quota.
    OverQuota,
    /// Too much is under way: 503. Try again in a moment.
    Overload,
}

/// How the alarm changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Raised,
    Cleared,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Pressure {
    ceilings: Ceilings,
    over_quota: Cell<bool>,
    log_is_full: Cell<bool>,
    bodies: Cell<u64>,
    answers: Cell<u64>,
}

impl Pressure {
    /// With these settings, and no alarm.
    #[must_use]
    pub const fn new(ceilings: Ceilings) -> Self {
        Self {
            ceilings,
            over_quota: Cell::new(false),
            log_is_full: Cell::new(false),
            bodies: Cell::new(0),
            answers: Cell::new(0),
        }
    }

    /// Looks at the key space after a turn, and tells the operator when the alarm begins and ends.
    pub fn look_at(&self, store_bytes: u64) {
        let quota = self.ceilings.quota;
        match self.update(store_bytes) {
            None => {}
            Some(Change::Raised) => tracing::warn!(
                store_bytes,
                quota,
                "alarm NOSPACE: the key space exceeds --quota-backend-bytes; writes that add are refused until it is \
                 below {CLEAR_PERCENT} % of it"
            ),
            Some(Change::Cleared) => {
                tracing::info!(store_bytes, quota, "alarm NOSPACE is over; writes are accepted again");
            }
        }
    }

    /// Looks at the log after a turn ([`Node::log_is_full`]), and tells the operator when it begins and ends to be full.
    pub fn look_at_log(&self, is_full: bool, log_bytes: u64) {
        if self.log_is_full.replace(is_full) == is_full {
            return;
        }
        let limit = self.ceilings.log;
        if is_full {
            tracing::warn!(
                log_bytes,
                limit,
                "the log in memory exceeds --ringd-log-bytes and no snapshot lets it go; writes are refused until one does"
            );
        } else {
            tracing::info!(log_bytes, limit, "a snapshot let the log go; writes are accepted again");
        }
    }

    /// Whether the log takes no more: of a leader's entries neither.
    #[must_use]
    pub const fn log_is_full(&self) -> bool {
        self.log_is_full.get()
    }

    fn update(&self, store_bytes: u64) -> Option<Change> {
        let quota = self.ceilings.quota;
        if self.over_quota.get() {
            let clear = u64::try_from(u128::from(quota) * u128::from(CLEAR_PERCENT) / 100).unwrap_or(u64::MAX);
            if store_bytes < clear {
                self.over_quota.set(false);
                return Some(Change::Cleared);
            }
        } else if store_bytes > quota {
            self.over_quota.set(true);
            return Some(Change::Raised);
        }
        None
    }

    /// Whether a client's write may be proposed now.
    #[inline]
    #[must_use]
    pub fn judge(&self, node: &Node, write: &KeyWrite<'_>) -> Verdict {
        let under_way = node.write_bytes_outstanding();
        if self.over_quota.get() && !makes_no_larger(node, write) {
            Verdict::OverQuota
        } else if self.log_is_full.get() || under_way > 0 && under_way + cost(write) > self.ceilings.writes_pending {
            Verdict::Overload
        } else {
            Verdict::Admit
        }
    }

    /// A connection's input holds, or is about to hold, `now` bytes; `counted` is what this counted of it before. False
    /// when it must not: nothing changed then.
    pub fn hold(&self, counted: &Cell<usize>, now: usize) -> bool {
        let wanted = if now > INPUT_FREE_BYTES { now } else { 0 };
        let before = counted.get();
        if wanted == before {
            return true;
        }
        let others = self.bodies.get() - before as u64;
        if wanted > before && others > 0 && others + wanted as u64 > self.ceilings.bodies {
            return false;
        }
        self.bodies.set(others + wanted as u64);
        counted.set(wanted);
        true
    }

    /// A connection's input is gone.
    pub fn let_go(&self, counted: &Cell<usize>) {
        self.bodies.set(self.bodies.get() - counted.take() as u64);
    }

    /// How many bytes the body of a GET that begins now may have.
    #[inline]
    #[must_use]
    pub fn answer_bytes_max(&self) -> usize {
        if self.answers.get() < self.ceilings.answers { usize::MAX } else { ANSWER_FREE_BYTES }
    }

    /// `now` bytes of answers wait for a connection's client; `counted` is what this counted of them before.
    pub fn hold_answers(&self, counted: &Cell<usize>, now: usize) {
        let wanted = now.saturating_sub(ANSWER_FREE_BYTES);
        let before = counted.replace(wanted);
        if wanted != before {
            self.answers.set(self.answers.get() - before as u64 + wanted as u64);
        }
    }

    /// A connection's answers were sent, or are nobody's any more.
    pub fn let_go_answers(&self, counted: &Cell<usize>) {
        self.hold_answers(counted, 0);
    }

    /// Whether the key space exceeds its quota: the NOSPACE alarm.
    #[must_use]
    pub const fn is_over_quota(&self) -> bool {
        self.over_quota.get()
    }

    /// Bytes of large bodies that are held.
    #[must_use]
    pub const fn bodies_bytes(&self) -> u64 {
        self.bodies.get()
    }

    /// Bytes of large answers that wait for their clients.
    #[must_use]
    pub const fn answers_bytes(&self) -> u64 {
        self.answers.get()
    }

    /// The settings.
    #[must_use]
    pub const fn ceilings(&self) -> &Ceilings {
        &self.ceilings
    }
}

/// What is counted of one buffer; it is given back with it.
#[derive(Debug)]
pub struct Held {
    pressure: Rc<Pressure>,
    counted: Cell<usize>,
}

impl Held {
    /// For a buffer that is empty.
    #[must_use]
    pub fn new(pressure: &Rc<Pressure>) -> Self {
        Self { pressure: Rc::clone(pressure), counted: Cell::new(0) }
    }

    /// The buffer holds, or is about to hold, `now` bytes. False when it must not.
    pub fn hold(&self, now: usize) -> bool {
        self.pressure.hold(&self.counted, now)
    }

    /// Bytes that are counted.
    #[must_use]
    pub const fn counted(&self) -> usize {
        self.counted.get()
    }

    /// Moves what is counted to a successor, for the buffer goes there; this one begins anew.
    #[must_use]
    pub fn hand_over(&self) -> Self {
        Self { pressure: Rc::clone(&self.pressure), counted: Cell::new(self.counted.take()) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.pressure.let_go(&self.counted);
    }
}

/// About how many bytes the answer to a write may hold of a value that the request did not bring and leaves where it is:
/// so often that few requests can ask for any number of bytes. Other writes tell a value once, when they replace it.
#[inline]
#[must_use]
pub fn echo_bytes(node: &Node, write: &KeyWrite<'_>) -> usize {
    if write.refresh || write.prev_value.is_some() { 2 * node.store().value_bytes(write.path) } else { 0 }
}

fn cost(write: &KeyWrite<'_>) -> u64 {
    let prev = write.prev_value.map_or(0, <[u8]>::len);
    (write.path.len() + write.value.len() + prev + PROPOSAL_OVERHEAD_BYTES) as u64
}

/// As far as the applied state tells; a write that is under way may change it.
fn makes_no_larger(node: &Node, write: &KeyWrite<'_>) -> bool {
    match write.method {
        WriteMethod::Delete => true,
        // The value stays; without a node it is an error anyway.
        WriteMethod::Put => write.refresh || node.store().holds_room_for(write.path, write.value.len()),
        WriteMethod::Post => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pressure(quota: u64, large: u64) -> Pressure {
        Pressure::new(Ceilings { quota, writes_pending: 1, log: large, bodies: large, answers: large })
    }

    #[test]
    fn the_alarm_has_two_marks() {
        let pressure = pressure(1000, 1);
        assert_eq!(pressure.update(1000), None);
        assert_eq!(pressure.update(1001), Some(Change::Raised));
        for between in [2000, 1000, 951, 950] {
            assert_eq!(pressure.update(between), None, "{between}");
            assert!(pressure.is_over_quota());
        }
        assert_eq!(pressure.update(949), Some(Change::Cleared));
        assert_eq!(pressure.update(1000), None);
        assert!(!pressure.is_over_quota());
    }

    #[test]
    fn the_largest_quota_does_not_overflow() {
        let pressure = pressure(u64::MAX, 1);
        assert_eq!(pressure.update(u64::MAX), None);
    }

    #[test]
    fn what_is_held_goes_with_its_buffer() {
        let pressure = Rc::new(pressure(1, 1 << 20));
        let (first, other) = (Held::new(&pressure), Held::new(&pressure));
        assert!(first.hold(700 << 10) && !other.hold(700 << 10));
        let second = first.hand_over();
        assert_eq!((first.counted(), second.counted(), pressure.bodies_bytes()), (0, 700 << 10, 700 << 10));
        assert!(first.hold(100 << 10));
        drop(second);
        assert_eq!(pressure.bodies_bytes(), 100 << 10);
        drop((first, other));
        assert_eq!(pressure.bodies_bytes(), 0);
    }

    #[test]
    fn bodies_share_a_ceiling_small_ones_are_free_and_one_is_always_taken() {
        let pressure = pressure(1, 1 << 20);
        let [first, second, third] = [const { Cell::new(0) }; 3];
        assert!(pressure.hold(&first, 10 << 20), "alone, it may be larger than the ceiling");
        assert!(!pressure.hold(&second, 100 << 10));
        assert!(pressure.hold(&third, INPUT_FREE_BYTES));
        assert_eq!((second.get(), third.get(), pressure.bodies_bytes()), (0, 0, 10 << 20));
        assert!(pressure.hold(&first, 0));
        assert!(pressure.hold(&second, 600 << 10) && !pressure.hold(&third, 600 << 10));
        assert!(pressure.hold(&second, 300 << 10) && pressure.hold(&third, 600 << 10));
        assert!(!pressure.hold(&third, 800 << 10), "what grows beyond it is refused as well");
        pressure.let_go(&second);
        pressure.let_go(&third);
        assert_eq!(pressure.bodies_bytes(), 0);
    }

    #[test]
    fn answers_share_a_ceiling_that_one_may_pass_and_small_ones_are_free() {
        let pressure = pressure(1, 1 << 20);
        let [first, second, third] = [const { Cell::new(0) }; 3];
        pressure.hold_answers(&first, ANSWER_FREE_BYTES);
        assert_eq!((pressure.answers_bytes(), pressure.answer_bytes_max()), (0, usize::MAX));
        pressure.hold_answers(&first, ANSWER_FREE_BYTES + (900 << 10));
        assert_eq!((pressure.answers_bytes(), pressure.answer_bytes_max()), (900 << 10, usize::MAX));
        pressure.hold_answers(&second, 10 << 20);
        assert_eq!(pressure.answer_bytes_max(), ANSWER_FREE_BYTES);
        pressure.hold_answers(&third, 70 << 10);
        assert_eq!(pressure.answers_bytes(), (900 << 10) + (10 << 20) - ANSWER_FREE_BYTES as u64 + (6 << 10));
        pressure.let_go_answers(&second);
        assert_eq!((second.get(), pressure.answer_bytes_max()), (0, usize::MAX));
        pressure.let_go_answers(&first);
        pressure.let_go_answers(&third);
        assert_eq!(pressure.answers_bytes(), 0);
    }
}
