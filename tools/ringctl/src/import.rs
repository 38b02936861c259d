//! `import`: keys out of a snapshot into a cluster, over the API.
//!
//! Owns: the reading of the snapshots it knows, and the clients that write. Touches: one file, the cluster. Always:
//! hidden keys are left out unless their space is named; keys without their directories' TTL; the first write that
//! fails ends it, and what was written before stays.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use ringd_client::{Client, ClientError, SetOptions};
use ringd_storage::fs::FsMedium;
use ringd_storage::payload::{ItemClass, NodeRecord};
use ringd_storage::snapshot::{SnapshotError, SnapshotReader};
use serde_json::Value;

use crate::{Exit, Invocation, Outcome, connect, output, terminal};

/// What etcdctl makes of a time to live that would end too soon after the import, in seconds.
const TTL_MIN: i64 = 300;
/// Each client is a thread with a connection; more than this only make the server queue.
const CLIENTS_MAX: i64 = 256;
const CLIENTS_DEFAULT: i64 = 10;
const TEMPORARY_SUFFIX: &str = ".snap";

/// One file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    key: String,
    value: String,
    /// Seconds left when the snapshot was read, negative when it is over; `None` for ever.
    ttl: Option<i64>,
}

/// A snapshot that cannot be read.
#[derive(Debug, thiserror::Error)]
enum ImportError {
    #[error("it is neither JSON nor a snapshot of ringd: {0}")]
    Unknown(String),
    #[error("its JSON has neither \"Root\" (a store) nor \"node\" (an answer)")]
    Shape,
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("an item cannot be decoded: {0}")]
    Item(String),
}

pub fn run(call: &Invocation) -> Outcome {
    let Some(path) = call.flags.text("snap") else {
        return Err(output::say("no snapshot file provided (use --snap)"));
    };
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(_) => return Err(output::say(&format!("cannot read snapshot file {path}"))),
    };
    let all = read(Path::new(path), &bytes)
        .map_err(|e| output::say(&format!("cannot recover the snapshot file {path}: {e}")))?;
    let mut items = Vec::new();
    for item in all {
        let hidden = call.flags.list("hidden").iter().any(|space| is_below(&item.key, space));
        if hidden || !is_hidden(&item.key) {
            items.push(item);
        }
    }
    let clients = match call.flags.int("c") {
        0 => CLIENTS_DEFAULT,
        given => given.clamp(1, CLIENTS_MAX),
    };
    let first = connect::client(&call.globals)?;
    let mut clients: Vec<Client> = (1..clients).map(|_| first.sibling()).collect();
    clients.push(first);
    let written = write(clients, &items)?;
    output::print(&format!("finished importing {written} keys\n"));
    Ok(())
}

/// Whether a part of the key begins with an underscore.
fn is_hidden(key: &str) -> bool {
    key.split('/').any(|part| part.starts_with('_'))
}

fn is_below(key: &str, space: &str) -> bool {
    let space = ringd_client::clean_key(space);
    key.strip_prefix(space.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn now_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The files in a snapshot of any known kind, in its order.
fn read(path: &Path, bytes: &[u8]) -> Result<Vec<Item>, ImportError> {
    let mut items = Vec::new();
    if path.extension().is_some_and(|e| e == &TEMPORARY_SUFFIX[1..]) && !bytes.starts_with(b"{") {
        read_ringd(path, &mut items)?;
        return Ok(items);
    }
    let json: Value = serde_json::from_slice(bytes).map_err(|e| ImportError::Unknown(e.to_string()))?;
    if let Some(root) = json.get("Root") {
        stored(root, &mut items);
    } else if let Some(node) = json.get("node") {
        answered(node, &mut items);
    } else {
        return Err(ImportError::Shape);
    }
    Ok(items)
}

fn text(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// A node of a store as etcd saves it: a directory has `Children`, an unset `ExpireTime` is the year 1.
fn stored(node: &Value, items: &mut Vec<Item>) {
    if let Some(children) = node.get("Children").and_then(Value::as_object) {
        children.values().for_each(|child| stored(child, items));
        return;
    }
    let deadline = node.get("ExpireTime").and_then(Value::as_str).and_then(seconds_since_1970).filter(|at| *at > 0);
    let ttl = deadline.map(|at| at - now_seconds());
    items.push(Item { key: text(node, "Path"), value: text(node, "Value"), ttl });
}

/// A node of an answer of the keys API.
fn answered(node: &Value, items: &mut Vec<Item>) {
    if node.get("dir").and_then(Value::as_bool) == Some(true) || node.get("nodes").is_some_and(Value::is_array) {
        node.get("nodes").and_then(Value::as_array).into_iter().flatten().for_each(|child| answered(child, items));
        return;
    }
    let ttl = node.get("ttl").and_then(Value::as_i64).filter(|ttl| *ttl != 0);
    items.push(Item { key: text(node, "key"), value: text(node, "value"), ttl });
}

fn read_ringd(path: &Path, items: &mut Vec<Item>) -> Result<(), ImportError> {
    let unknown = |e: std::io::Error| ImportError::Unknown(e.to_string());
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let medium = FsMedium::open(directory).map_err(unknown)?;
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let reader = SnapshotReader::open(&medium, &name)?;
    reader.for_each(|key, value| {
        let Some(path) = key.strip_prefix(&[ItemClass::Node as u8]) else { return Ok(()) };
        let record: NodeRecord<'_> =
            ringd_storage::codec::decode(value).map_err(|e| ImportError::Item(e.to_string()))?;
        if let Some(value) = record.value {
            let deadline = record.expires_at.map(|at| i64::try_from(at.get() / 1_000_000_000).unwrap_or(i64::MAX));
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            items.push(Item { key: text(path), value: text(value), ttl: deadline.map(|at| at - now_seconds()) });
        }
        Ok(())
    })
}

/// RFC 3339 as Go writes it, cut to the second.
fn seconds_since_1970(time: &str) -> Option<i64> {
    let number = |from: usize, to: usize| time.get(from..to).and_then(|digits| digits.parse::<i64>().ok());
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let zone = time.get(19..)?.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let offset = match zone.split_at_checked(1)? {
        ("Z", "") => 0,
        (sign @ ("+" | "-"), rest) => {
            let (hours, minutes) = rest.split_once(':')?;
            let seconds = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
            if sign == "+" { seconds } else { -seconds }
        }
        _ => return None,
    };
    Some(days_since_1970(year, month, day) * 86400 + hour * 3600 + minute * 60 + second - offset)
}

/// Days of the proleptic Gregorian calendar; years are counted from March, so that leap days come last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

/// Writes `items` with all `clients` at once; answers how many.
fn write(clients: Vec<Client>, items: &[Item]) -> Result<usize, Exit> {
    let bar = terminal::progress(items.len() as u64, "importing", false);
    let next = AtomicUsize::new(0);
    let failure: Mutex<Option<(String, ClientError)>> = Mutex::new(None);
    thread::scope(|scope| {
        for mut client in clients {
            let (bar, next, failure) = (&bar, &next, &failure);
            scope.spawn(move || {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let options = SetOptions { ttl: ttl(item, bar), ..SetOptions::default() };
                    if let Err(error) = client.set(&item.key, &item.value, &options) {
                        next.store(items.len(), Ordering::Relaxed);
                        let mut failure = failure.lock().expect("no panic while it is held");
                        failure.get_or_insert((item.key.clone(), error));
                        return;
                    }
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    match failure.into_inner().expect("no panic while it was held") {
        None => Ok(items.len()),
        Some((key, error)) => {
            eprintln!("failed to copy key {key}");
            Err(output::error(&error, Exit::Server))
        }
    }
}

fn ttl(item: &Item, bar: &indicatif::ProgressBar) -> Option<u64> {
    let ttl = item.ttl?;
    if ttl < TTL_MIN {
        bar.suspend(|| eprintln!("extending key {}'s ttl to {TTL_MIN} seconds", item.key));
    }
    u64::try_from(ttl.max(TTL_MIN)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(items: &[Item]) -> Vec<(&str, &str, bool)> {
        items.iter().map(|item| (item.key.as_str(), item.value.as_str(), item.ttl.is_some())).collect()
    }

    #[test]
    fn a_saved_store_is_read() {
        let json = br#"{"Root":{"Path":"/","Children":{"a":{"Path":"/a","Value":"1","Children":null,
            "ExpireTime":"0001-01-01T00:00:00Z"},"d":{"Path":"/d","Value":"","Children":{"_h":{"Path":"/d/_h",
            "Value":"2","ExpireTime":"2015-01-01T00:00:00.5+01:00"}}},"e":{"Path":"/e","Children":{}}}},"CurrentIndex":9}"#;
        let items = read(Path::new("x"), json).expect("a store");
        assert_eq!(keys(&items), [("/a", "1", false), ("/d/_h", "2", true)]);
        assert!(is_hidden("/d/_h") && !is_hidden("/d/h_"));
        assert!(is_below("/d/_h", "d/") && is_below("/d", "/d") && !is_below("/dd", "/d"));
    }

    #[test]
    fn an_answer_is_read() {
        let json = br#"{"action":"get","node":{"dir":true,"nodes":[{"key":"/a","value":"1","ttl":9},
            {"key":"/e","dir":true},{"key":"/d","dir":true,"nodes":[{"key":"/d/b","value":""}]}]}}"#;
        assert_eq!(keys(&read(Path::new("x"), json).expect("an answer")), [("/a", "1", true), ("/d/b", "", false)]);
    }

    #[test]
    fn what_is_no_snapshot_is_refused() {
        assert!(matches!(read(Path::new("x"), b"{}"), Err(ImportError::Shape)));
        assert!(matches!(read(Path::new("x"), b"\x00\x01"), Err(ImportError::Unknown(_))));
    }

    #[test]
    fn times() {
        for (text, wanted) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-03-01T00:00:01.25Z", Some(951_868_801)),
            ("2024-02-29T12:00:00+02:00", Some(1_709_200_800)),
            ("0001-01-01T00:00:00Z", Some(-62_135_596_800)),
            ("2024-02-29", None),
            ("x", None),
        ] {
            assert_eq!(seconds_since_1970(text), wanted, "{text}");
        }
    }
}
