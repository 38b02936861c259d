//! Whether a history of a register is linearizable.
//!
//! Every value is written once, so each read names its write, and Gibbons and Korach ("Testing Shared Memories", 1997)
//! decide in n log n: the operations of one value span a *zone*, from the first of their ends to the last of their
//! begins. A zone whose first end comes before its last begin is *forward*: the register surely held the value all that
//! time. Otherwise it is *backward*: some single moment in it will do. The history is linearizable if and only if no
//! read ends before its write begins, no two forward zones overlap, and no backward zone lies within a forward one.

use std::collections::BTreeMap;

/// Moments are nanoseconds on one clock.
pub type Moment = u64;

/// What a client did, and between which moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    /// What was written or read; `None` is a register that was never written.
    pub value: Option<u64>,
    pub is_write: bool,
    pub begin: Moment,
    /// `Moment::MAX` when no answer came: a write that may happen at any later time, or never.
    pub end: Moment,
}

#[derive(Clone, Copy, Debug)]
struct Zone {
    value: Option<u64>,
    written: Option<(Moment, Moment)>,
    first_end: Moment,
    last_begin: Moment,
    first_read_end: Moment,
    reads: usize,
}

/// Checks the history of one register that begins unwritten.
///
/// # Errors
/// What cannot be explained.
pub fn check(history: &[Op]) -> Result<(), String> {
    let mut zones: BTreeMap<Option<u64>, Zone> = BTreeMap::new();
    for op in history {
        let empty = Zone {
            value: op.value,
            written: None,
            first_end: Moment::MAX,
            last_begin: 0,
            first_read_end: Moment::MAX,
            reads: 0,
        };
        let zone = zones.entry(op.value).or_insert(empty);
        zone.first_end = zone.first_end.min(op.end);
        zone.last_begin = zone.last_begin.max(op.begin);
        if op.is_write {
            assert!(zone.written.replace((op.begin, op.end)).is_none(), "the value {:?} was written twice", op.value);
        } else {
            zone.reads += 1;
            zone.first_read_end = zone.first_read_end.min(op.end);
        }
    }
    if let Some(unwritten) = zones.get_mut(&None) {
        // As if written before everything.
        unwritten.written = Some((0, 0));
        unwritten.first_end = 0;
    }
    // A write without an answer that nobody saw may never have happened.
    let zones: Vec<Zone> = zones
        .into_values()
        .filter(|zone| zone.reads > 0 || zone.written.is_some_and(|(_, end)| end < Moment::MAX))
        .collect();
    for zone in &zones {
        match zone.written {
            None => return Err(format!("{:?} was read and never written", zone.value)),
            Some((begin, _)) if zone.first_read_end < begin => {
                return Err(format!("{:?} was read before it was written", zone.value));
            }
            Some(_) => {}
        }
    }
    let mut forward: Vec<&Zone> = zones.iter().filter(|zone| zone.first_end < zone.last_begin).collect();
    forward.sort_by_key(|zone| zone.first_end);
    for pair in forward.windows(2) {
        if pair[1].first_end < pair[0].last_begin {
            return Err(format!("{:?} and {:?} were both held at once", pair[0].value, pair[1].value));
        }
    }
    for zone in zones.iter().filter(|zone| zone.first_end >= zone.last_begin) {
        // The last forward zone that begins before this one is the only one that can hold it: they do not overlap.
        let before = forward.partition_point(|held| held.first_end < zone.last_begin);
        if let Some(held) = before.checked_sub(1).map(|place| forward[place])
            && zone.first_end < held.last_begin
        {
            return Err(format!("{:?} was written and gone while {:?} was held", zone.value, held.value));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(value: u64, begin: Moment, end: Moment) -> Op {
        Op { value: Some(value), is_write: true, begin, end }
    }

    fn read(value: u64, begin: Moment, end: Moment) -> Op {
        Op { value: Some(value), is_write: false, begin, end }
    }

    const NEVER: Moment = Moment::MAX;

    #[test]
    fn explains_what_can_be_explained() {
        for history in [
            vec![],
            vec![Op { value: None, is_write: false, begin: 1, end: 2 }, write(1, 1, 5), read(1, 3, 4)],
            vec![write(1, 1, 2), read(1, 3, 4), write(2, 5, 6), read(2, 7, 8)],
            // Concurrent writes in either order.
            vec![write(1, 1, 10), write(2, 2, 9), read(2, 11, 12)],
            vec![write(1, 1, 10), write(2, 2, 9), read(1, 11, 12)],
            // A write without an answer that took effect late, and one that never did.
            vec![write(1, 1, 2), write(2, 3, NEVER), read(1, 4, 5), read(2, 6, 7), write(3, 8, NEVER)],
            // A read that began before the next write ended.
            vec![write(1, 1, 2), write(2, 3, 8), read(2, 4, 5), read(2, 6, 7)],
        ] {
            assert_eq!(check(&history), Ok(()), "{history:?}");
        }
    }

    #[test]
    fn refuses_what_cannot() {
        for (history, why) in [
            (vec![read(9, 1, 2)], "never written"),
            (vec![read(1, 1, 2), write(1, 3, 4)], "before it was written"),
            // A stale read: 2 was acknowledged before the read of 1 began.
            (vec![write(1, 1, 2), write(2, 3, 4), read(1, 5, 6)], "gone while"),
            // A lost write: acknowledged, and the register says it was never written.
            (vec![write(1, 1, 2), Op { value: None, is_write: false, begin: 3, end: 4 }], "gone while"),
            // Two readers disagree about the order.
            (vec![write(1, 1, 9), write(2, 1, 9), read(1, 2, 3), read(2, 4, 5), read(1, 6, 7)], "gone while"),
            (
                vec![write(1, 1, 2), write(2, 1, 20), read(1, 3, 4), read(2, 5, 6), read(1, 7, 8), read(2, 9, 10)],
                "held at once",
            ),
            // Seen once, then not: a write without an answer cannot be undone.
            (vec![write(1, 1, 2), write(2, 3, NEVER), read(2, 4, 5), read(1, 6, 7)], "gone while"),
        ] {
            let told = check(&history).unwrap_err();
            assert!(told.contains(why), "{history:?}: {told}");
        }
    }
}
