//! From two looks to what is shown: rates, percentiles, shares; as a table of text and as JSON.
//!
//! Owns: what each figure means, and the JSON's shape (README.md, "ringctl top"). Touches: nothing. Always: what is not
//! known is `-` in a table and `null` in JSON, never zero.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::look::{Look, Numbers, Seen};

/// Prefixes that are shown.
const PREFIXES_MAX: usize = 10;

/// The cluster as it is shown.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub members: Vec<Row>,
    /// Prefix and share of the requests, the largest first.
    pub hot: Vec<(String, f64)>,
}

/// A member as it is shown.
#[derive(Clone, Debug, Default)]
pub struct Row {
    pub id: String,
    pub name: String,
    pub client_urls: Vec<String>,
    /// Why it is not reachable.
    pub error: Option<String>,
    /// `leader`, `follower`, `learner`, or `no leader`.
    pub role: Option<&'static str>,
    pub term: Option<f64>,
    pub raft_index: Option<f64>,
    pub applied_index: Option<f64>,
    pub etcd_index: Option<f64>,
    pub ops_per_second: Option<f64>,
    /// Mean of the entries that one turn appended.
    pub batch_entries: Option<f64>,
    /// Seconds.
    pub sync_p50: Option<f64>,
    pub sync_p99: Option<f64>,
    pub watchers: Option<f64>,
    pub connections: Option<f64>,
    pub writes_pending: Option<f64>,
    pub resident_bytes: Option<f64>,
    pub store_bytes: Option<f64>,
    pub quota_bytes: Option<f64>,
    pub no_space: Option<bool>,
}

impl View {
    /// What happened between two looks; without the earlier one there are no rates.
    pub fn between(earlier: Option<&Look>, later: &Look) -> View {
        let before = |seen: &Seen| -> Option<Numbers> {
            let same = earlier?.members.iter().find(|one| one.member.id == seen.member.id)?;
            same.numbers.clone().ok()
        };
        let members = later.members.iter().map(|seen| row(before(seen).as_ref(), seen)).collect();
        let mut counts: BTreeMap<&str, f64> = BTreeMap::new();
        let mut sampled = 0.0;
        for numbers in later.members.iter().filter_map(|seen| seen.numbers.as_ref().ok()) {
            sampled += numbers.sampled;
            for (prefix, count) in &numbers.hot {
                *counts.entry(prefix).or_default() += count;
            }
        }
        let mut hot: Vec<(String, f64)> = counts
            .into_iter()
            .filter(|_| sampled > 0.0)
            .map(|(prefix, count)| (prefix.to_owned(), (count / sampled).min(1.0)))
            .collect();
        hot.sort_by(|a, b| b.1.total_cmp(&a.1));
        hot.truncate(PREFIXES_MAX);
        View { members, hot }
    }

    fn leader(&self) -> Option<&Row> {
        self.members.iter().filter(|row| row.role == Some("leader")).max_by(|a, b| {
            // One that was cut off may not know yet that there is another.
            a.term.unwrap_or(0.0).total_cmp(&b.term.unwrap_or(0.0))
        })
    }

    /// One line about the whole.
    pub fn headline(&self) -> String {
        let reachable = self.members.iter().filter(|row| row.error.is_none()).count();
        let leader = self.leader().map_or("none", |row| row.label());
        let [raft, etcd] = self.indexes();
        format!(
            "leader {leader} | {reachable} of {} members reached | raft index {} | etcd index {} | {} ops/s",
            self.members.len(),
            whole(raft),
            whole(etcd),
            whole(self.ops_per_second()),
        )
    }

    fn indexes(&self) -> [Option<f64>; 2] {
        let most = |of: fn(&Row) -> Option<f64>| self.members.iter().filter_map(of).reduce(f64::max);
        [most(|row| row.raft_index), most(|row| row.etcd_index)]
    }

    fn ops_per_second(&self) -> Option<f64> {
        self.members.iter().filter_map(|row| row.ops_per_second).reduce(|sum, rate| sum + rate)
    }

    /// The table of `--once`.
    pub fn text(&self) -> String {
        let rows: Vec<Vec<String>> = std::iter::once(HEADER.map(str::to_owned).to_vec())
            .chain(self.members.iter().map(|row| row.cells().to_vec()))
            .collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..HEADER.len()).map(width).collect();
        let mut text = format!("{}\n\n", self.headline());
        for row in &rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        for row in &self.members {
            if let Some(error) = &row.error {
                text.push_str(&format!("{}: {error}\n", row.label()));
            }
        }
        if !self.hot.is_empty() {
            text.push_str("\nPREFIX  SHARE\n");
            for (prefix, share) in &self.hot {
                text.push_str(&format!("{prefix}  {}\n", percent(*share)));
            }
        }
        text
    }

    /// The object of `--once --json`.
    pub fn json(&self) -> Value {
        let [raft, etcd] = self.indexes();
        let hot: Vec<Value> =
            self.hot.iter().map(|(prefix, share)| json!({"prefix": prefix, "share": share})).collect();
        json!({
            "leader": self.leader().map(|row| &row.id),
            "raftIndex": count(raft),
            "etcdIndex": count(etcd),
            "opsPerSecond": self.ops_per_second(),
            "members": self.members.iter().map(Row::json).collect::<Vec<_>>(),
            "hotPrefixes": hot,
        })
    }
}

/// The columns of the table.
pub const HEADER: [&str; 12] =
    ["MEMBER", "ROLE", "TERM", "RAFT", "ETCD", "OPS/S", "BATCH", "SYNC P50", "SYNC P99", "WATCHERS", "STORE", "RSS"];

impl Row {
    /// Its name, or its id while it has none.
    pub fn label(&self) -> &str {
        if self.name.is_empty() { &self.id } else { &self.name }
    }

    /// What stands under [`HEADER`].
    pub fn cells(&self) -> [String; HEADER.len()] {
        let role = match (&self.error, self.no_space) {
            (Some(_), _) => "unreachable".to_owned(),
            (None, Some(true)) => format!("{} NOSPACE", self.role.unwrap_or("-")),
            _ => self.role.unwrap_or("-").to_owned(),
        };
        [
            self.label().to_owned(),
            role,
            whole(self.term),
            whole(self.raft_index),
            whole(self.etcd_index),
            whole(self.ops_per_second),
            self.batch_entries.map_or_else(unknown, |mean| format!("{mean:.1}")),
            micros(self.sync_p50),
            micros(self.sync_p99),
            whole(self.watchers),
            size(self.store_bytes),
            size(self.resident_bytes),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "id": self.id,
            "name": self.name,
            "clientURLs": self.client_urls,
            "reachable": self.error.is_none(),
            "error": self.error,
            "role": self.role,
            "raftTerm": count(self.term),
            "raftIndex": count(self.raft_index),
            "appliedIndex": count(self.applied_index),
            "etcdIndex": count(self.etcd_index),
            "opsPerSecond": self.ops_per_second,
            "batchEntries": self.batch_entries,
            "syncP50Seconds": self.sync_p50,
            "syncP99Seconds": self.sync_p99,
            "watchers": count(self.watchers),
            "connections": count(self.connections),
            "writesPending": count(self.writes_pending),
            "residentBytes": count(self.resident_bytes),
            "storeBytes": count(self.store_bytes),
            "quotaBytes": count(self.quota_bytes),
            "noSpace": self.no_space,
        })
    }
}

fn row(before: Option<&Numbers>, seen: &Seen) -> Row {
    let member = &seen.member;
    let mut row = Row {
        id: member.id.clone(),
        name: member.name.clone(),
        client_urls: member.client_urls.clone(),
        ..Row::default()
    };
    let now = match &seen.numbers {
        Ok(now) => now,
        Err(why) => {
            row.error = Some(why.clone());
            return row;
        }
    };
    let is = |name| now.get(name).map(|value| value > 0.0);
    row.role = match (is("etcd_server_is_leader"), is("etcd_server_is_learner"), is("etcd_server_has_leader")) {
        (Some(true), ..) => Some("leader"),
        (_, Some(true), _) => Some("learner"),
        (_, _, Some(false)) => Some("no leader"),
        (Some(false), ..) => Some("follower"),
        _ => None,
    };
    row.term = now.get("ringd_raft_term");
    row.raft_index = now.get("etcd_server_proposals_committed_total");
    row.applied_index = now.get("etcd_server_proposals_applied_total");
    row.etcd_index = now.get("ringd_store_index");
    row.watchers = now.get("etcd_debugging_store_watchers");
    row.connections = now.get("ringd_connections");
    row.writes_pending = now.get("etcd_server_proposals_pending");
    row.resident_bytes = now.get("process_resident_memory_bytes");
    row.store_bytes = now.get("etcd_mvcc_db_total_size_in_bytes");
    row.quota_bytes = now.get("etcd_server_quota_backend_bytes");
    row.no_space = is("ringd_alarm_nospace");
    let Some(before) = before else { return row };
    // A counter that is smaller than before belongs to another process.
    let grown = |of: &dyn Fn(&Numbers) -> Option<f64>| {
        let more = of(now)? - of(before).unwrap_or(0.0);
        Some(more).filter(|more| *more >= 0.0)
    };
    let seconds = now.at.saturating_duration_since(before.at).as_secs_f64();
    let requests = grown(&|numbers| Some(numbers.sum("etcd_http_received_total").unwrap_or(0.0)));
    row.ops_per_second = requests.filter(|_| seconds > 0.0).map(|requests| requests / seconds);
    let batches = grown(&|numbers| numbers.get("ringd_batch_entries_count")).filter(|count| *count > 0.0);
    let entries = grown(&|numbers| numbers.get("ringd_batch_entries_sum"));
    row.batch_entries = entries.zip(batches).map(|(entries, batches)| entries / batches);
    let syncs = ["ringd_sync_duration_seconds", "etcd_disk_wal_fsync_duration_seconds"]
        .into_iter()
        .find(|name| !now.buckets(name).is_empty());
    if let Some(name) = syncs {
        let (later, earlier) = (now.buckets(name), before.buckets(name));
        let delta: Vec<(f64, f64)> = later
            .iter()
            .enumerate()
            .map(|(place, (bound, count))| (*bound, count - earlier.get(place).map_or(0.0, |(_, before)| *before)))
            .collect();
        row.sync_p50 = quantile(&delta, 0.5);
        row.sync_p99 = quantile(&delta, 0.99);
    }
    row
}

/// As Prometheus' `histogram_quantile`: linear within a bucket; what lies in the last, open one is its lower bound.
fn quantile(buckets: &[(f64, f64)], share: f64) -> Option<f64> {
    let all = buckets.last()?.1;
    if all <= 0.0 {
        return None;
    }
    let rank = all * share;
    let place = buckets.iter().position(|(_, count)| *count >= rank)?;
    let (low, below) = if place == 0 { (0.0, 0.0) } else { buckets[place - 1] };
    let (high, upto) = buckets[place];
    if high.is_infinite() || upto <= below {
        return Some(low);
    }
    Some(low + (high - low) * (rank - below) / (upto - below))
}

/// A number that has no fraction, for JSON.
fn count(value: Option<f64>) -> Option<u64> {
    value.map(|value| value as u64)
}

fn unknown() -> String {
    "-".to_owned()
}

fn whole(value: Option<f64>) -> String {
    value.map_or_else(unknown, |value| format!("{value:.0}"))
}

fn micros(seconds: Option<f64>) -> String {
    seconds.map_or_else(unknown, |seconds| match seconds * 1e6 {
        micros if micros < 1e4 => format!("{micros:.0} us"),
        micros => format!("{:.1} ms", micros / 1e3),
    })
}

fn size(bytes: Option<f64>) -> String {
    bytes.map_or_else(unknown, |bytes| match bytes / 1024.0 {
        kib if kib < 1024.0 => format!("{kib:.0} KiB"),
        kib if kib < 1024.0 * 1024.0 => format!("{:.1} MiB", kib / 1024.0),
        kib => format!("{:.1} GiB", kib / 1024.0 / 1024.0),
    })
}

/// A share of the whole.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
pub mod tests {
    use std::time::{Duration, Instant};

    use ringd_client::Member;

    use super::*;

    fn seen(id: &str, numbers: Result<Numbers, String>) -> Seen {
        let member = Member { id: id.into(), name: format!("m-{id}"), ..Member::default() };
        Seen { member, numbers }
    }

    fn metrics(requests: u64, leads: u64) -> String {
        format!(
            "etcd_server_is_leader {leads}\netcd_server_has_leader 1\netcd_server_is_learner 0\nringd_raft_term 7\n\
             etcd_server_proposals_committed_total {requests}\nringd_store_index {requests}\n\
             etcd_http_received_total{{method=\"GET\"}} {requests}\netcd_http_received_total{{method=\"PUT\"}} 5\n\
             ringd_batch_entries_count {}\nringd_batch_entries_sum {requests}\n\
             ringd_sync_duration_seconds_bucket{{le=\"0.0001\"}} 10\n\
             ringd_sync_duration_seconds_bucket{{le=\"0.0002\"}} {}\n\
             ringd_sync_duration_seconds_bucket{{le=\"+Inf\"}} {}\nringd_alarm_nospace 0\n",
            requests / 10,
            10 + requests,
            10 + requests
        )
    }

    /// Two members, one of which answers.
    pub fn sample() -> View {
        let (then, vars) =
            (Instant::now(), br#"{"ringd.hot_prefixes":{"sampled":4,"prefixes":[{"prefix":"/jobs","count":3}]}}"#);
        let later = then + Duration::from_secs(2);
        let dead = || seen("b", Err("connection refused".into()));
        let earlier = Look { members: vec![seen("a", Ok(Numbers::parse(then, &metrics(100, 1), vars))), dead()] };
        let now = Look { members: vec![seen("a", Ok(Numbers::parse(later, &metrics(300, 1), vars))), dead()] };
        View::between(Some(&earlier), &now)
    }

    #[test]
    fn rates_and_percentiles_are_of_the_time_between() {
        let view = sample();
        let row = &view.members[0];
        assert_eq!((row.ops_per_second, row.batch_entries, row.role), (Some(100.0), Some(10.0), Some("leader")));
        let (p50, p99) = (row.sync_p50.expect("syncs"), row.sync_p99.expect("syncs"));
        assert!((p50 - 0.00015).abs() < 1e-9 && (p99 - 0.000199).abs() < 1e-9, "{p50} {p99}");
        assert_eq!(view.hot, [("/jobs".to_owned(), 0.75)]);
        assert_eq!(view.leader().map(Row::label), Some("m-a"));
        assert_eq!(view.members[1].cells()[1], "unreachable");
    }

    #[test]
    fn a_process_that_was_started_again_has_no_rates_yet() {
        let then = Instant::now();
        let look = |requests, at| Look { members: vec![seen("a", Ok(Numbers::parse(at, &metrics(requests, 0), b"")))] };
        let view = View::between(Some(&look(300, then)), &look(100, then + Duration::from_secs(1)));
        let row = &view.members[0];
        assert_eq!((row.ops_per_second, row.batch_entries, row.sync_p50), (None, None, None));
        assert_eq!(row.role, Some("follower"));
        assert!(view.leader().is_none() && view.text().starts_with("leader none"));
    }

    #[test]
    fn a_quantile_lies_within_its_bucket() {
        let buckets = [(1.0, 0.0), (2.0, 50.0), (f64::INFINITY, 100.0)];
        assert_eq!(quantile(&buckets, 0.25), Some(1.5));
        assert_eq!(quantile(&buckets, 0.99), Some(2.0), "beyond the last bound");
        assert_eq!(quantile(&[(1.0, 0.0), (f64::INFINITY, 0.0)], 0.5), None);
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn what_is_not_known_is_null() {
        let json = sample().json();
        assert_eq!((&json["members"][1]["reachable"], &json["members"][1]["raftIndex"]), (&json!(false), &Value::Null));
        assert_eq!(
            (&json["leader"], &json["raftIndex"], &json["opsPerSecond"]),
            (&json!("a"), &json!(300), &json!(100.0))
        );
        assert_eq!(json["hotPrefixes"], json!([{"prefix": "/jobs", "share": 0.75}]));
    }
}
