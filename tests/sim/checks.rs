//! What must hold of a run, judged from outside: from what clients were told and what members show.
//!
//! Owns: the history of operations. Knows nothing of nodes, logs or networks.
//!
//! A key's versions are its `modifiedIndex` values. They make linearizability cheap to check: an answered write names
//! its version, a read the version it saw; ordered by version (a write before the reads of it), the operations on a key
//! must respect real time, and a version must always come with the value its write gave it. Values are unique.

use std::collections::BTreeMap;

/// What an operation came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nobody knows: the client was told to try again later, or its member died.
    Unknown,
    /// A write that certainly did not happen.
    Refused,
    /// The write became this version.
    Wrote(u64),
    /// The read saw this version and value; zero and nothing for a missing key.
    Saw(u64, Option<String>),
}

/// One operation of a client.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Which key.
    pub key: u32,
    /// What a write wrote; `None` for a read.
    pub wrote: Option<String>,
    /// When it began.
    pub begun: u64,
    /// When it ended; never for an unknown one.
    pub ended: Option<u64>,
    /// How.
    pub ending: Ending,
}

/// Checks all operations of a run.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn linearizable(operations: &[Operation]) -> Result<(), String> {
    let mut by_key: BTreeMap<u32, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        by_key.entry(operation.key).or_default().push(operation);
    }
    by_key
        .into_iter()
        .try_for_each(|(key, operations)| one_key(&operations).map_err(|problem| format!("key {key}: {problem}")))
}

fn one_key(operations: &[&Operation]) -> Result<(), String> {
    let mut values: BTreeMap<u64, &str> = BTreeMap::new();
    let attempted = |value: &str| operations.iter().find(|one| one.wrote.as_deref() == Some(value));
    for operation in operations {
        let (version, value) = match &operation.ending {
            Ending::Wrote(version) => (*version, operation.wrote.as_deref().unwrap_or_default()),
            Ending::Saw(0, None) | Ending::Unknown | Ending::Refused => continue,
            Ending::Saw(version, value) => {
                let value = value.as_deref().unwrap_or_default();
                match attempted(value) {
                    None => return Err(format!("value {value} was read and never written")),
                    Some(write) if write.ending == Ending::Refused => {
                        return Err(format!("value {value} was refused and is there"));
                    }
                    Some(write) if operation.ended.is_some_and(|ended| ended < write.begun) => {
                        return Err(format!("value {value} was read before it was written"));
                    }
                    Some(write) if !matches!(write.ending, Ending::Unknown | Ending::Wrote(_)) => {
                        return Err(format!("value {value} has no write"));
                    }
                    Some(write) if matches!(write.ending, Ending::Wrote(other) if other != *version) => {
                        return Err(format!("value {value} has two versions"));
                    }
                    Some(_) => {}
                }
                (*version, value)
            }
        };
        if values.insert(version, value).is_some_and(|known| known != value) {
            return Err(format!("version {version} has two values"));
        }
    }
    // Swept in order of time: when an operation begins, everything that ended before bounds its version from below.
    let mut marks: Vec<(u64, bool, u64, bool)> = Vec::new();
    for operation in operations {
        let (version, writes) = match operation.ending {
            Ending::Wrote(version) => (version, true),
            Ending::Saw(version, _) => (version, false),
            Ending::Unknown | Ending::Refused => continue,
        };
        marks.push((operation.begun, false, version, writes));
        if let Some(ended) = operation.ended {
            marks.push((ended, true, version, writes));
        }
    }
    // At one instant beginnings come first: operations that touch count as concurrent.
    marks.sort_unstable();
    let mut settled = 0;
    for (at, ends, version, writes) in marks {
        if ends {
            settled = settled.max(version);
        } else if version < settled || (writes && version == settled && settled != 0) {
            return Err(format!("at {at} an operation with version {version} began after {settled} was settled"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(begun: u64, ended: u64, value: &str, version: u64) -> Operation {
        let wrote = Some(value.to_owned());
        Operation { key: 1, wrote, begun, ended: Some(ended), ending: Ending::Wrote(version) }
    }

    fn read(begun: u64, ended: u64, version: u64, value: Option<&str>) -> Operation {
        let ending = Ending::Saw(version, value.map(str::to_owned));
        Operation { key: 1, wrote: None, begun, ended: Some(ended), ending }
    }

    fn unknown(begun: u64, value: &str) -> Operation {
        Operation { key: 1, wrote: Some(value.to_owned()), begun, ended: None, ending: Ending::Unknown }
    }

    #[test]
    fn good_histories_pass() {
        linearizable(&[write(1, 3, "a", 5), read(4, 6, 5, Some("a")), write(2, 9, "b", 6), read(5, 8, 6, Some("b"))])
            .unwrap();
        linearizable(&[unknown(1, "a"), read(9, 10, 0, None), read(11, 12, 7, Some("a"))]).unwrap();
        linearizable(&[write(1, 9, "a", 5), read(2, 3, 0, None), read(2, 4, 5, Some("a"))]).unwrap();
    }

    #[test]
    fn bad_histories_are_rejected() {
        let bad: &[(&str, &[Operation])] = &[
            ("a stale read", &[write(1, 2, "a", 5), write(3, 4, "b", 6), read(5, 6, 5, Some("a"))]),
            ("a lost write", &[write(1, 2, "a", 5), read(3, 4, 0, None)]),
            ("an order against time", &[write(1, 2, "a", 7), write(3, 4, "b", 6)]),
            ("a value from nowhere", &[read(1, 2, 5, Some("x"))]),
            ("two values of a version", &[write(1, 9, "a", 5), write(1, 9, "b", 5)]),
            ("two versions of a value", &[write(1, 9, "a", 5), read(1, 9, 6, Some("a"))]),
            ("a read from the future", &[read(1, 2, 5, Some("a")), unknown(3, "a")]),
            ("reads that go back", &[unknown(1, "a"), read(2, 3, 7, Some("a")), read(4, 5, 0, None)]),
            (
                "a refused write that is there",
                &[Operation { ending: Ending::Refused, ..unknown(1, "a") }, read(2, 3, 7, Some("a"))],
            ),
        ];
        for (name, history) in bad {
            assert!(linearizable(history).is_err(), "{name} was not noticed");
        }
    }
}
