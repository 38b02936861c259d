//! `/v2/stats/self`, `/v2/stats/leader`, `/v2/stats/store`: etcd's statistics as JSON.
//!
//! Owns: the shape of these answers, and durations as Go prints them. Touches: the store's counters. Knows no clock.

use ringd_storage::ids::{MemberId, UnixNanos};

use super::json;
use crate::core::store::{COUNTER_NAMES, Stats};
use crate::metrics::Latency;

/// What `/v2/stats/leader` says on a member that does not lead.
pub const NOT_LEADER: &str = "not current leader";

/// What a member knows of itself.
#[derive(Clone, Copy, Debug)]
pub struct SelfStats<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its id.
    pub id: MemberId,
    /// Whether it leads.
    pub leads: bool,
    /// When it started.
    pub started: UnixNanos,
    /// The leader, zero when none is known.
    pub leader: MemberId,
    /// Since when that one leads, as far as this member saw.
    pub leads_since: UnixNanos,
    /// Append requests from leaders.
    pub appends_received: u64,
    /// Append requests to followers.
    pub appends_sent: u64,
}

/// The body of `/v2/stats/self`, without a newline.
pub fn render_self(out: &mut Vec<u8>, stats: &SelfStats<'_>, now: UnixNanos) {
    out.extend_from_slice(b"{\"name\":");
    json::push_string(out, stats.name.as_bytes());
    out.extend_from_slice(b",\"id\":");
    push_id(out, stats.id);
    out.extend_from_slice(b",\"state\":");
    out.extend_from_slice(if stats.leads { b"\"StateLeader\"" } else { b"\"StateFollower\"" });
    out.extend_from_slice(b",\"startTime\":");
    json::push_time(out, stats.started);
    out.extend_from_slice(b",\"leaderInfo\":{\"leader\":");
    push_id(out, stats.leader);
    out.extend_from_slice(b",\"uptime\":\"");
    push_duration(out, now.nanos_since(stats.leads_since));
    out.extend_from_slice(b"\",\"startTime\":");
    json::push_time(out, stats.leads_since);
    out.extend_from_slice(b"},\"recvAppendRequestCnt\":");
    json::push_u64(out, stats.appends_received);
    out.extend_from_slice(b",\"sendAppendRequestCnt\":");
    json::push_u64(out, stats.appends_sent);
    out.push(b'}');
}

/// The body of `/v2/stats/leader` on a leader, without a newline: how its followers' appends went, by their ids. A
/// leader that is alone has none to tell of.
pub fn render_leader<'a>(out: &mut Vec<u8>, leader: MemberId, followers: impl Iterator<Item = (&'a str, Latency)>) {
    out.extend_from_slice(b"{\"leader\":");
    push_id(out, leader);
    out.extend_from_slice(b",\"followers\":{");
    for (place, (id, latency)) in followers.enumerate() {
        if place > 0 {
            out.push(b',');
        }
        json::push_string(out, id.as_bytes());
        out.extend_from_slice(
            format!(
                ":{{\"latency\":{{\"current\":{},\"average\":{},\"standardDeviation\":{},\"minimum\":{},\"maximum\":{}}},\
                 \"counts\":{{\"fail\":{},\"success\":{}}}}}",
                latency.current,
                latency.average,
                latency.deviation,
                latency.minimum,
                latency.maximum,
                latency.fail,
                latency.success
            )
            .as_bytes(),
        );
    }
    out.extend_from_slice(b"}}");
}

/// The body of `/v2/stats/store`, without a newline.
pub fn render_store(out: &mut Vec<u8>, stats: &Stats, watchers: usize) {
    out.push(b'{');
    for (name, value) in COUNTER_NAMES.iter().copied().zip(stats.values()).chain([("watchers", watchers as u64)]) {
        if out.last() != Some(&b'{') {
            out.push(b',');
        }
        json::push_string(out, name.as_bytes());
        out.push(b':');
        json::push_u64(out, value);
    }
    out.push(b'}');
}

/// An id as JSON: hex in quotes.
pub(super) fn push_id(out: &mut Vec<u8>, id: MemberId) {
    out.extend_from_slice(format!("\"{id}\"").as_bytes());
}

/// A duration as Go's `Duration.String` prints it: `1h2m3.5s`, `2.5ms`, `0s`. `µ` is U+00B5.
pub fn push_duration(out: &mut Vec<u8>, nanos: u64) {
    const SECOND: u64 = 1_000_000_000;
    if nanos >= SECOND {
        let minutes = nanos / SECOND / 60;
        if minutes >= 60 {
            json::push_u64(out, minutes / 60);
            out.push(b'h');
        }
        if minutes > 0 {
            json::push_u64(out, minutes % 60);
            out.push(b'm');
        }
        push_fraction(out, nanos % (60 * SECOND), SECOND);
        out.push(b's');
        return;
    }
    let (unit, name) = match nanos {
        0 => (1, "s"),
        1..1_000 => (1, "ns"),
        1_000..1_000_000 => (1_000, "\u{b5}s"),
        _ => (1_000_000, "ms"),
    };
    push_fraction(out, nanos, unit);
    out.extend_from_slice(name.as_bytes());
}

/// `value / unit`, with as many decimals as it has. `unit` is a power of ten.
fn push_fraction(out: &mut Vec<u8>, value: u64, unit: u64) {
    json::push_u64(out, value / unit);
    let mut rest = value % unit;
    if rest > 0 {
        out.push(b'.');
    }
    let mut place = unit;
    while rest > 0 {
        place /= 10;
        out.push(b'0' + u8::try_from(rest / place).expect("a digit"));
        rest %= place;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::store::{Store, StoreOptions};

    #[test]
    fn durations_are_gos() {
        for (nanos, expected) in [
            (0, "0s"),
            (1, "1ns"),
            (999, "999ns"),
            (1_000, "1\u{b5}s"),
            (1_500, "1.5\u{b5}s"),
            (1_000_000, "1ms"),
            (2_034_500, "2.0345ms"),
            (1_000_000_000, "1s"),
            (2_522_327_109, "2.522327109s"),
            (59_999_999_999, "59.999999999s"),
            (60_000_000_000, "1m0s"),
            (3_600_000_000_000, "1h0m0s"),
            (3_723_500_000_000, "1h2m3.5s"),
            (360_000_000_000_001, "100h0m0.000000001s"),
            (u64::MAX, "5124095h34m33.709551615s"),
        ] {
            let mut out = Vec::new();
            push_duration(&mut out, nanos);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{nanos}");
        }
    }

    #[test]
    fn shapes_are_etcds() {
        let id = MemberId::new(0x80a6_1a31_8c14_f133);
        let stats = SelfStats {
            name: "default",
            id,
            leads: true,
            started: UnixNanos::new(1_795_351_273_164_855_892),
            leader: id,
            leads_since: UnixNanos::new(1_795_351_273_767_247_420),
            appends_received: 0,
            appends_sent: 7,
        };
        let mut out = Vec::new();
        render_self(&mut out, &stats, UnixNanos::new(1_795_351_276_289_574_529));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"name\":\"default\",\"id\":\"80a61a318c14f133\",\"state\":\"StateLeader\",\
             \"startTime\":\"2026-11-22T12:41:13.164855892Z\",\"leaderInfo\":{\"leader\":\"80a61a318c14f133\",\
             \"uptime\":\"2.522327109s\",\"startTime\":\"2026-11-22T12:41:13.76724742Z\"},\
             \"recvAppendRequestCnt\":0,\"sendAppendRequestCnt\":7}"
        );
        let mut out = Vec::new();
        render_leader(&mut out, id, std::iter::empty());
        assert_eq!(out, b"{\"leader\":\"80a61a318c14f133\",\"followers\":{}}");
        let mut latency = Latency::default();
        latency.succeed(0.5);
        latency.succeed(1.5);
        let mut out = Vec::new();
        render_leader(&mut out, id, [("7", Latency::default()), ("ab", latency)].into_iter());
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"leader\":\"80a61a318c14f133\",\"followers\":{\"7\":{\"latency\":{\"current\":0,\"average\":0,\
             \"standardDeviation\":0,\"minimum\":9223372036854776000,\"maximum\":0},\"counts\":{\"fail\":0,\"success\":0}},\
             \"ab\":{\"latency\":{\"current\":1.5,\"average\":1,\"standardDeviation\":0.5,\"minimum\":0.5,\"maximum\":1.5},\
             \"counts\":{\"fail\":0,\"success\":2}}}}"
        );
        let mut out = Vec::new();
        render_store(&mut out, Store::new(&StoreOptions::default()).stats(), 3);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("{\"getsSuccess\":0,\"getsFail\":0,") && text.ends_with(",\"watchers\":3}"), "{text}");
    }
}
