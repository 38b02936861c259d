//! Linearizability of one key, after Wing and Gong with Lowe's memory of states already tried.
//!
//! A key is a register of unique values. An operation that never ended may have happened at any time after it began, or
//! never. Must hold: a history is accepted only if some order of its operations explains every answer and respects
//! real time.

use std::collections::{BTreeMap, BTreeSet};

use super::Verdict;

/// A value's number; every write has its own.
pub type Value = u64;

/// What was asked, and what the answer says it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A read that saw this.
    Read(Option<Value>),
    /// A write without condition; what it replaced.
    Set(Value, Option<Value>),
    /// A write that wants nothing there, and found nothing.
    Create(Value),
    /// A write that wanted and found a value.
    Swap(Value, Value),
    /// A write that found something and does not say what.
    Replace(Value),
    /// A removal of something that does not say what.
    RemoveAny,
    /// A removal, and what it removed.
    Remove(Value),
    /// A removal that found nothing.
    Missed,
    /// A condition that failed: wanted, found.
    Unequal(Value, Value),
    /// A set whose answer nobody got.
    MaybeSet(Value),
    /// A create whose answer nobody got.
    MaybeCreate(Value),
    /// A swap whose answer nobody got: wanted, new.
    MaybeSwap(Value, Value),
    /// A removal whose answer nobody got; with the condition it had.
    MaybeRemove(Option<Value>),
}

/// An operation in time. `ended` is `u64::MAX` for one that never ended.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// When it began.
    pub begun: u64,
    /// When it ended.
    pub ended: u64,
    /// What it was.
    pub op: Op,
}

impl Op {
    /// The state after it, if it fits the state before. What nobody knows fits everything: when it could not have had
    /// an effect it had none.
    fn after(self, state: Option<Value>) -> Option<Option<Value>> {
        let then = |fits: bool, next| fits.then_some(next);
        match self {
            Self::Read(saw) => then(saw == state, state),
            Self::Set(value, before) => then(before == state, Some(value)),
            Self::Create(value) => then(state.is_none(), Some(value)),
            Self::Swap(wanted, value) => then(state == Some(wanted), Some(value)),
            Self::Replace(value) => then(state.is_some(), Some(value)),
            Self::RemoveAny => then(state.is_some(), None),
            Self::Remove(found) => then(state == Some(found), None),
            Self::Missed => then(state.is_none(), state),
            Self::Unequal(wanted, found) => then(state == Some(found) && wanted != found, state),
            Self::MaybeSet(value) => Some(Some(value)),
            Self::MaybeCreate(value) => Some(if state.is_none() { Some(value) } else { state }),
            Self::MaybeSwap(wanted, value) => Some(if state == Some(wanted) { Some(value) } else { state }),
            Self::MaybeRemove(wanted) => Some(if wanted.is_none() || wanted == state { None } else { state }),
        }
    }

    fn is_open(self) -> bool {
        matches!(self, Self::MaybeSet(_) | Self::MaybeCreate(_) | Self::MaybeSwap(..) | Self::MaybeRemove(_))
    }

    fn writes(self) -> Option<Value> {
        match self {
            Self::MaybeSet(value) | Self::MaybeCreate(value) | Self::MaybeSwap(_, value) => Some(value),
            _ => None,
        }
    }

    fn saw(self) -> Option<Value> {
        match self {
            Self::Read(saw) | Self::Set(_, saw) => saw,
            Self::Swap(saw, _) | Self::Remove(saw) | Self::Unequal(_, saw) => Some(saw),
            _ => None,
        }
    }
}

/// Steps after which a search is given up: such a history proves nothing either way. Histories here need a few
/// thousand.
const STEPS_MAX: u64 = 4_000_000;

/// Checks one key's history. `begin` is the value before it.
///
/// # Errors
/// When no order explains it.
pub fn check(calls: &[Call]) -> Verdict {
    // An open write whose value nobody ever saw need not have happened: every answer names the value it found, so had
    // it come between two answers, one of them would show it, or the next write replaced it unseen, and then it makes
    // no difference. Open removals and swaps may be needed and stay, and so may all where an answer hides what it found.
    let hides = calls.iter().any(|call| matches!(call.op, Op::Replace(_) | Op::RemoveAny));
    let seen: BTreeSet<Value> = calls
        .iter()
        .flat_map(|call| {
            call.op.saw().into_iter().chain(match call.op {
                Op::MaybeSwap(wanted, _) => Some(wanted),
                Op::MaybeRemove(wanted) => wanted,
                _ => None,
            })
        })
        .collect();
    let mut calls: Vec<Call> = calls
        .iter()
        .copied()
        .filter(|call| hides || call.op.writes().is_none_or(|value| seen.contains(&value)))
        .collect();
    calls.sort_by_key(|call| (call.begun, call.ended));
    let mut search =
        Search { calls: &calls, done: vec![0; calls.len().div_ceil(64)], tried: BTreeSet::new(), steps: 0 };
    let mut required = calls.iter().filter(|call| !call.op.is_open()).count();
    if search.explain(None, 0, &mut required) || search.steps >= STEPS_MAX {
        return Ok(());
    }
    Err(format!("no order explains {} operations: {}", calls.len(), summary(&calls)))
}

/// The first and last operations, for a reader.
fn summary(calls: &[Call]) -> String {
    let shown: Vec<String> = calls.iter().rev().take(12).rev().map(|call| format!("{call:?}")).collect();
    shown.join("; ")
}

struct Search<'a> {
    calls: &'a [Call],
    done: Vec<u64>,
    tried: BTreeSet<(Vec<u64>, Option<Value>)>,
    steps: u64,
}

impl Search<'_> {
    fn is_done(&self, at: usize) -> bool {
        self.done[at / 64] & (1 << (at % 64)) != 0
    }

    fn flip(&mut self, at: usize) {
        self.done[at / 64] ^= 1 << (at % 64);
    }

    /// Whether the operations that are not done can follow `state`. All before `first` are done.
    fn explain(&mut self, state: Option<Value>, first: usize, required: &mut usize) -> bool {
        // An explicit stack: histories are longer than a thread's stack is deep.
        let mut stack: Vec<(usize, Option<Value>, usize, usize)> = Vec::new();
        let (mut state, mut first, mut next) = (state, first, first);
        loop {
            if *required == 0 {
                return true;
            }
            self.steps += 1;
            if self.steps >= STEPS_MAX {
                return false;
            }
            while first < self.calls.len() && self.is_done(first) {
                first += 1;
            }
            // Whatever begins after the earliest end of a pending operation comes after that one.
            let mut horizon = u64::MAX;
            let mut chosen = None;
            for at in first..self.calls.len() {
                if self.calls[at].begun > horizon {
                    break;
                }
                if self.is_done(at) {
                    continue;
                }
                horizon = horizon.min(self.calls[at].ended);
                if at >= next
                    && let Some(after) = self.calls[at].op.after(state)
                    && !(self.calls[at].op.is_open() && after == state)
                {
                    self.flip(at);
                    if self.tried.insert((self.done.clone(), after)) {
                        chosen = Some((at, after));
                        break;
                    }
                    self.flip(at);
                }
            }
            // The loop above may stop early, before a later operation's end lowered the horizon below the choice's
            // beginning; ends only matter for operations that begin later, which are sorted behind.
            if let Some((at, after)) = chosen {
                *required -= usize::from(!self.calls[at].op.is_open());
                stack.push((at, state, first, at + 1));
                state = after;
                next = first;
                continue;
            }
            let Some((at, before, from, resume)) = stack.pop() else { return false };
            self.flip(at);
            *required += usize::from(!self.calls[at].op.is_open());
            (state, first, next) = (before, from, resume);
        }
    }
}

/// The histories of all keys.
#[derive(Default)]
pub struct Histories {
    keys: BTreeMap<u16, Vec<Call>>,
}

impl Histories {
    /// Adds an operation on a key.
    pub fn push(&mut self, key: u16, call: Call) {
        self.keys.entry(key).or_default().push(call);
    }

    /// Checks all keys.
    ///
    /// # Errors
    /// The first key whose history nothing explains.
    pub fn check(&self) -> Verdict {
        self.keys.iter().try_for_each(|(key, calls)| {
            check(calls).map_err(|problem| format!("key {key} is not linearizable: {problem}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: u64 = u64::MAX;

    fn call(begun: u64, ended: u64, op: Op) -> Call {
        Call { begun, ended, op }
    }

    #[test]
    fn good_histories_pass() {
        let good: &[&[Call]] = &[
            &[call(1, 3, Op::Set(5, None)), call(4, 6, Op::Read(Some(5))), call(2, 9, Op::Set(6, Some(5)))],
            &[call(1, NEVER, Op::MaybeSet(5)), call(9, 10, Op::Read(None)), call(11, 12, Op::Read(Some(5)))],
            &[call(1, 9, Op::Set(5, None)), call(2, 3, Op::Read(None)), call(2, 4, Op::Read(Some(5)))],
            &[
                call(1, 2, Op::Create(1)),
                call(3, NEVER, Op::MaybeRemove(None)),
                call(5, 6, Op::Read(Some(1))),
                call(7, 8, Op::Missed),
            ],
            &[call(1, 2, Op::Set(1, None)), call(3, NEVER, Op::MaybeSwap(1, 2)), call(4, 5, Op::Unequal(1, 2))],
            &[
                call(1, 10, Op::Set(1, Some(2))),
                call(1, 10, Op::Set(2, Some(3))),
                call(1, 10, Op::Set(3, None)),
                call(11, 12, Op::Read(Some(1))),
            ],
        ];
        for history in good {
            check(history).unwrap();
        }
    }

    #[test]
    fn bad_histories_are_rejected() {
        let bad: &[(&str, &[Call])] = &[
            (
                "a stale read",
                &[call(1, 2, Op::Set(1, None)), call(3, 4, Op::Set(2, Some(1))), call(5, 6, Op::Read(Some(1)))],
            ),
            ("a lost write", &[call(1, 2, Op::Set(1, None)), call(3, 4, Op::Read(None))]),
            ("a value from nowhere", &[call(1, 2, Op::Read(Some(9)))]),
            ("a value from the future", &[call(1, 2, Op::Read(Some(1))), call(3, 4, Op::Set(1, None))]),
            (
                "reads that go back",
                &[call(1, NEVER, Op::MaybeSet(1)), call(2, 3, Op::Read(Some(1))), call(4, 5, Op::Read(None))],
            ),
            (
                "two swaps of one value",
                &[call(1, 2, Op::Set(1, None)), call(3, 9, Op::Swap(1, 2)), call(3, 9, Op::Swap(1, 3))],
            ),
            ("two creates", &[call(1, 2, Op::Create(1)), call(3, 4, Op::Create(2))]),
            (
                "a write that happened twice",
                &[
                    call(1, 2, Op::Set(1, None)),
                    call(3, 4, Op::Set(2, Some(1))),
                    call(5, 6, Op::Read(Some(2))),
                    call(7, 8, Op::Set(3, Some(1))),
                ],
            ),
            (
                "a removal that left it",
                &[call(1, 2, Op::Set(1, None)), call(3, 4, Op::Remove(1)), call(5, 6, Op::Read(Some(1)))],
            ),
        ];
        for (name, history) in bad {
            assert!(check(history).is_err(), "{name} was not noticed");
        }
    }

    #[test]
    fn a_long_history_with_open_ends_is_quick() {
        let mut calls = Vec::new();
        for at in 0..400u64 {
            let before = (at > 0).then(|| at - 1);
            calls.push(call(at * 10, at * 10 + 25, Op::Set(at, before)));
            calls.push(call(at * 10, NEVER, Op::MaybeSet(10_000 + at)));
            calls.push(call(at * 10, NEVER, Op::MaybeSwap(at + 50_000, 20_000 + at)));
        }
        check(&calls).unwrap();
        calls.push(call(9000, 9001, Op::Read(Some(3))));
        assert!(check(&calls).is_err());
    }
}
