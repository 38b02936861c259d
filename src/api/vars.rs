//! `/debug/vars`: what Go's expvar shows of an etcd, as far as it has a meaning here.
//!
//! Owns: the shape. Knows neither clock nor process: the numbers come in.

use super::json;
use super::stats::push_id;
use crate::core::status::RaftStatus;

/// The answer's `Content-Type`.
pub const CONTENT_TYPE: &str = "application/json; charset=utf-8";

/// Numbers of the process.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// The command line, program first; any bytes.
    pub command_line: Vec<Vec<u8>>,
    /// Limit of open descriptors.
    pub max_fds: u64,
    /// Resident memory, bytes.
    pub resident_bytes: u64,
    /// Address space, bytes.
    pub virtual_bytes: u64,
}

/// The prefixes that are asked for most.
#[derive(Clone, Debug, Default)]
pub struct Hot<'a> {
    /// Requests that were looked at, aged as the counts are.
    pub sampled: u64,
    /// One request in so many is looked at.
    pub sample_every: u32,
    /// First names of keys with their counts, most asked for first.
    pub prefixes: Vec<(&'a [u8], u64)>,
}

/// The body. `memstats` has the members of Go's that say something without a garbage collector: `Alloc` is resident
/// memory, `Sys` the address space.
pub fn render(out: &mut Vec<u8>, process: &Process, hot: &Hot<'_>, raft: &RaftStatus) {
    out.extend_from_slice(b"{\n\"cmdline\": [");
    for (place, word) in process.command_line.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        json::push_string(out, word);
    }
    out.extend_from_slice(b"],\n\"file_descriptor_limit\": ");
    json::push_u64(out, process.max_fds);
    out.extend_from_slice(b",\n\"memstats\": {");
    let memory = [
        ("Alloc", process.resident_bytes),
        ("Sys", process.virtual_bytes),
        ("HeapAlloc", process.resident_bytes),
        ("HeapSys", process.virtual_bytes),
    ];
    for (place, (name, bytes)) in memory.into_iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        json::push_string(out, name.as_bytes());
        out.push(b':');
        json::push_u64(out, bytes);
    }
    out.extend_from_slice(b"},\n\"raft.status\": ");
    render_raft(out, raft);
    out.extend_from_slice(b",\n\"ringd.hot_prefixes\": {\"sampleEvery\":");
    json::push_u64(out, u64::from(hot.sample_every));
    out.extend_from_slice(b",\"sampled\":");
    json::push_u64(out, hot.sampled);
    out.extend_from_slice(b",\"prefixes\":[");
    for (place, (prefix, count)) in hot.prefixes.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"prefix\":");
        json::push_string(out, prefix);
        out.extend_from_slice(b",\"count\":");
        json::push_u64(out, *count);
        out.push(b'}');
    }
    out.extend_from_slice(b"]}\n}\n");
}

fn render_raft(out: &mut Vec<u8>, raft: &RaftStatus) {
    out.extend_from_slice(b"{\"id\":");
    push_id(out, raft.id);
    out.extend_from_slice(b",\"term\":");
    json::push_u64(out, raft.term.get());
    out.extend_from_slice(b",\"vote\":");
    push_id(out, raft.vote);
    out.extend_from_slice(b",\"commit\":");
    json::push_u64(out, raft.committed.get());
    out.extend_from_slice(b",\"lead\":");
    push_id(out, raft.leader);
    out.extend_from_slice(b",\"raftState\":");
    json::push_string(out, raft.role.as_bytes());
    out.extend_from_slice(b",\"applied\":");
    json::push_u64(out, raft.applied.get());
    out.extend_from_slice(b",\"progress\":{");
    for (place, progress) in raft.progress.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        push_id(out, progress.id);
        out.extend_from_slice(b":{\"match\":");
        json::push_u64(out, progress.matched.get());
        out.extend_from_slice(b",\"next\":");
        json::push_u64(out, progress.next.get());
        out.extend_from_slice(b",\"state\":");
        json::push_string(out, progress.state.as_bytes());
        out.push(b'}');
    }
    out.extend_from_slice(b"},\"leadtransferee\":");
    push_id(out, raft.transferee);
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use ringd_storage::ids::{MemberId, RaftIndex, Term};

    use super::*;
    use crate::core::status::Progress;

    #[test]
    fn it_is_json_with_etcds_members() {
        let id = MemberId::new(0x1f);
        let progress =
            vec![Progress { id, matched: RaftIndex::new(8), next: RaftIndex::new(9), state: "StateReplicate" }];
        let raft = RaftStatus {
            id,
            term: Term::new(2),
            vote: id,
            committed: RaftIndex::new(8),
            applied: RaftIndex::new(8),
            leader: id,
            role: "StateLeader",
            transferee: MemberId::default(),
            progress,
        };
        let process =
            Process { command_line: vec![b"ringd".to_vec(), b"--a=\"\xff".to_vec()], max_fds: 9, ..Process::default() };
        let mut out = Vec::new();
        let hot = Hot { sampled: 3, sample_every: 16, prefixes: vec![(b"/a\"", 2), (b"/b", 1)] };
        render(&mut out, &process, &hot, &raft);
        let value: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(value["cmdline"], serde_json::json!(["ringd", "--a=\"\u{fffd}"]));
        assert_eq!(value["file_descriptor_limit"], 9);
        assert_eq!(
            value["ringd.hot_prefixes"],
            serde_json::json!({"sampleEvery": 16, "sampled": 3,
                "prefixes": [{"prefix": "/a\"", "count": 2}, {"prefix": "/b", "count": 1}]})
        );
        assert_eq!(
            value["raft.status"],
            serde_json::json!({"id": "1f", "term": 2, "vote": "1f", "commit": 8, "lead": "1f",
                "raftState": "StateLeader", "applied": 8, "leadtransferee": "0",
                "progress": {"1f": {"match": 8, "next": 9, "state": "StateReplicate"}}})
        );
    }
}
