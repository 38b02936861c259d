//! What `/metrics` shows: one row per metric, in the order of the text.
//!
//! Owns: names, types, helps and labels. Touches: the cells, and the numbers read at a scrape. Must hold: every row
//! has samples at every scrape, but for labels that were never counted; names are unique and ascend.

use std::cell::Cell;

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::{Histogram, KIND_NAMES, Metrics, PeerMetrics, STEP_NAMES};

/// The store's own counters, success and failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation; they are etcd's")]
pub struct StoreCounts {
    pub gets: (u64, u64),
    pub sets: (u64, u64),
    pub deletes: (u64, u64),
    pub updates: (u64, u64),
    pub creates: (u64, u64),
    pub swaps: (u64, u64),
    pub compared_deletes: (u64, u64),
    pub expired: u64,
}

/// What is read when somebody scrapes, because it is known elsewhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scrape {
    /// This member's id, in hex.
    pub member: String,
    /// The agreed API level without its last part (`3.4`), empty before there is one.
    pub cluster_version: String,
    /// The release whose API is spoken.
    pub etcd_version: &'static str,
    /// ringd's own version.
    pub ringd_version: &'static str,
    /// Whether a leader is known.
    pub has_leader: bool,
    /// Whether this member leads.
    pub is_leader: bool,
    /// Whether this member has no vote.
    pub is_learner: bool,
    /// The last committed entry.
    pub committed: u64,
    /// The last applied entry.
    pub applied: u64,
    /// The raft term.
    pub term: u64,
    /// Writes that wait for their outcome.
    pub pending: u64,
    /// `X-Etcd-Index`.
    pub etcd_index: u64,
    /// Nodes in the key space.
    pub nodes: u64,
    /// What the raft log takes in memory.
    pub log_bytes: u64,
    /// Parked watchers.
    pub watchers: u64,
    /// Counters of the store.
    pub store: StoreCounts,
    /// Open connections.
    pub connections: u64,
    /// Bytes sent to clients.
    pub sent_bytes: u64,
    /// Syncs of the WAL.
    pub syncs: u64,
    /// Bytes appended to the WAL since the start.
    pub wal_bytes: u64,
    /// Lines of the log that nobody took in time.
    pub log_lines_lost: u64,
    /// Whether writes are refused for want of space on the disk.
    pub disk_full: bool,
    /// Bytes of the key space, as the quota counts them.
    pub store_bytes: u64,
    /// The quota.
    pub quota_bytes: u64,
    /// Whether the NOSPACE alarm is on.
    pub over_quota: bool,
    /// Bytes of writes under way.
    pub writes_pending_bytes: u64,
    /// Bytes of large bodies held.
    pub bodies_bytes: u64,
    /// Bytes of large answers held.
    pub answers_bytes: u64,
    /// Bytes of events that wait for slow watchers.
    pub mailbox_bytes: u64,
    /// CPU time of the process, seconds.
    pub cpu_seconds: f64,
    /// Resident memory, bytes.
    pub resident_bytes: u64,
    /// Address space, bytes.
    pub virtual_bytes: u64,
    /// Limit of the address space, bytes.
    pub virtual_max_bytes: f64,
    /// Open descriptors.
    pub open_fds: u64,
    /// Limit of descriptors.
    pub max_fds: u64,
    /// When the process started, seconds since 1970.
    pub start_seconds: f64,
}

/// One labelled value.
pub(super) type Sample = (Vec<(&'static str, String)>, f64);

/// Where a row's samples come from.
enum Source {
    /// A number that only grows.
    Count(fn(&Metrics, &Scrape) -> f64),
    /// A number that moves.
    Level(fn(&Metrics, &Scrape) -> f64),
    /// Growing numbers by label.
    Counts(fn(&Metrics, &Scrape) -> Vec<Sample>),
    /// Moving numbers by label.
    Levels(fn(&Metrics, &Scrape) -> Vec<Sample>),
    /// A distribution.
    Shape(fn(&Metrics) -> &Histogram),
    /// Distributions by request kind.
    Shapes(fn(&Metrics) -> Option<&[Histogram; KIND_NAMES.len()]>),
    /// Growing numbers by member; the label is etcd's `From` or `To`.
    PeerCounts(&'static str, fn(&PeerMetrics) -> &Cell<u64>),
    /// Distributions by member.
    PeerShapes(fn(&PeerMetrics) -> &Histogram),
    /// A distribution of something that ringd does not do; etcd's dashboards expect the name.
    Nothing,
}

use Source::{Count, Counts, Level, Levels, Nothing, PeerCounts, PeerShapes, Shape, Shapes};

/// Name, help, source.
type Row = (&'static str, &'static str, Source);

const TABLE: &[Row] = &[
    (
        "etcd_cluster_version",
        "The API level the cluster agreed on, as a label.",
        Levels(
            |_, s| {
                if s.cluster_version.is_empty() { Vec::new() } else { info("cluster_version", &s.cluster_version) }
            },
        ),
    ),
    ("etcd_debugging_store_expires_total", "Keys that expired.", Count(|_, s| float(s.store.expired))),
    (
        "etcd_debugging_store_reads_failed_total",
        "Reads of this member's key space that failed.",
        Counts(|m, s| reads(s.store.gets.1, &m.recursive_reads.1)),
    ),
    (
        "etcd_debugging_store_reads_total",
        "Reads of this member's key space that found their key.",
        Counts(|m, s| reads(s.store.gets.0, &m.recursive_reads.0)),
    ),
    ("etcd_debugging_store_watch_requests_total", "Watches asked for.", Count(|m, _| get(&m.watch_requests))),
    ("etcd_debugging_store_watchers", "Watchers that wait at this moment.", Level(|_, s| float(s.watchers))),
    (
        "etcd_debugging_store_writes_failed_total",
        "Writes that the key space refused.",
        Counts(|_, s| writes(&s.store, |(_, failed)| failed)),
    ),
    (
        "etcd_debugging_store_writes_total",
        "Writes that changed the key space.",
        Counts(|_, s| writes(&s.store, |(done, _)| done)),
    ),
    ("etcd_disk_backend_commit_duration_seconds", "Always empty: ringd has no backend file beside its log.", Nothing),
    ("etcd_disk_wal_fsync_duration_seconds", "Time of a sync of the write-ahead log.", Shape(|m| &m.wal_fsync)),
    ("etcd_disk_wal_write_bytes_total", "Bytes appended to the write-ahead log.", Level(|_, s| float(s.wal_bytes))),
    (
        "etcd_http_failed_total",
        "Understood requests to the keys that ended with an error.",
        Counts(|m, _| {
            let failed = m.failed.borrow();
            failed
                .iter()
                .map(|&(kind, status, count)| (vec![("code", status.to_string()), method(kind as usize)], float(count)))
                .collect()
        }),
    ),
    (
        "etcd_http_received_total",
        "Requests to the keys that were understood.",
        Counts(|m, _| {
            let counted = m.received.iter().enumerate().filter(|(_, count)| count.get() > 0);
            counted.map(|(kind, count)| (vec![method(kind)], get(count))).collect()
        }),
    ),
    (
        "etcd_http_successful_duration_seconds",
        "From a request's arrival to its answer, watches aside.",
        Shapes(|m| Some(&m.served)),
    ),
    (
        "etcd_mvcc_db_total_size_in_bytes",
        "Bytes of the key space that --quota-backend-bytes counts.",
        Level(|_, s| float(s.store_bytes)),
    ),
    (
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "The same: ringd keeps no free pages.",
        Level(|_, s| float(s.store_bytes)),
    ),
    (
        "etcd_network_active_peers",
        "1 if the stream to the member stands, else 0.",
        Levels(|m, s| {
            let peers = m.peers.borrow();
            let labels = |peer: &PeerMetrics| vec![("Local", s.member.clone()), ("Remote", peer.id.clone())];
            peers.iter().map(|peer| (labels(peer), flag(peer.active.get()))).collect()
        }),
    ),
    (
        "etcd_network_client_grpc_received_bytes_total",
        "Bytes received from clients (over HTTP; there is no gRPC yet).",
        Count(|m, _| get(&m.received_bytes)),
    ),
    (
        "etcd_network_client_grpc_sent_bytes_total",
        "Bytes sent to clients (over HTTP; there is no gRPC yet).",
        Count(|_, s| float(s.sent_bytes)),
    ),
    (
        "etcd_network_peer_received_bytes_total",
        "Bytes received from the member.",
        PeerCounts("From", |peer| &peer.received_bytes),
    ),
    (
        "etcd_network_peer_received_failures_total",
        "Streams from the member that could not be read on.",
        PeerCounts("From", |peer| &peer.received_failures),
    ),
    (
        "etcd_network_peer_round_trip_time_seconds",
        "Time from a probe of the stream to the member to its answer.",
        PeerShapes(|peer| &peer.round_trip),
    ),
    ("etcd_network_peer_sent_bytes_total", "Bytes sent to the member.", PeerCounts("To", |peer| &peer.sent_bytes)),
    (
        "etcd_network_peer_sent_failures_total",
        "Messages to the member that were dropped.",
        PeerCounts("To", |peer| &peer.sent_failures),
    ),
    ("etcd_server_has_leader", "1 if a leader is known, else 0.", Level(|_, s| flag(s.has_leader))),
    ("etcd_server_health_failures", "Times that /health said false.", Count(|m, _| get(&m.health_failures))),
    ("etcd_server_health_success", "Times that /health said true.", Count(|m, _| get(&m.health_success))),
    (
        "etcd_server_heartbeat_send_failures_total",
        "Heartbeats of this leader that were late by more than their interval.",
        Count(|m, _| get(&m.late_heartbeats)),
    ),
    ("etcd_server_id", "This member's id in hex, as a label.", Levels(|_, s| info("server_id", &s.member))),
    ("etcd_server_is_leader", "1 if this member leads, else 0.", Level(|_, s| flag(s.is_leader))),
    ("etcd_server_is_learner", "1 if this member has no vote, else 0.", Level(|_, s| flag(s.is_learner))),
    (
        "etcd_server_leader_changes_seen_total",
        "Leaders that this member saw elected.",
        Count(|m, _| get(&m.leader_changes)),
    ),
    ("etcd_server_proposals_applied_total", "The last applied raft entry.", Level(|_, s| float(s.applied))),
    ("etcd_server_proposals_committed_total", "The last committed raft entry.", Level(|_, s| float(s.committed))),
    (
        "etcd_server_proposals_failed_total",
        "Proposals that ended without a result.",
        Count(|m, _| get(&m.proposals_failed)),
    ),
    ("etcd_server_proposals_pending", "Proposals that wait for their commit.", Level(|_, s| float(s.pending))),
    ("etcd_server_quota_backend_bytes", "The quota of the key space.", Level(|_, s| float(s.quota_bytes))),
    (
        "etcd_server_read_indexes_failed_total",
        "Linearizable reads that found no quorum in time.",
        Count(|m, _| get(&m.reads_failed)),
    ),
    (
        "etcd_server_slow_apply_total",
        "Turns of the node that took longer than 100 ms.",
        Count(|m, _| get(&m.slow_applies)),
    ),
    (
        "etcd_server_slow_read_indexes_total",
        "Linearizable reads whose quorum took longer than 500 ms, or did not come.",
        Count(|m, _| get(&m.slow_reads)),
    ),
    (
        "etcd_server_version",
        "The etcd release whose API is spoken, as a label.",
        Levels(|_, s| info("server_version", s.etcd_version)),
    ),
    ("etcd_snap_db_save_total_duration_seconds", "From a snapshot's begin to its publication.", Shape(|m| &m.snapshot)),
    ("etcd_snap_fsync_duration_seconds", "Time of the sync of a snapshot's file.", Shape(|m| &m.snapshot_sync)),
    ("process_cpu_seconds_total", "User and system CPU time, in seconds.", Count(|_, s| s.cpu_seconds)),
    ("process_max_fds", "Limit of open descriptors.", Level(|_, s| float(s.max_fds))),
    ("process_open_fds", "Open descriptors.", Level(|_, s| float(s.open_fds))),
    ("process_resident_memory_bytes", "Resident memory, in bytes.", Level(|_, s| float(s.resident_bytes))),
    ("process_start_time_seconds", "When the process started, in seconds since 1970.", Level(|_, s| s.start_seconds)),
    ("process_virtual_memory_bytes", "Address space in use, in bytes.", Level(|_, s| float(s.virtual_bytes))),
    ("process_virtual_memory_max_bytes", "Limit of the address space, in bytes.", Level(|_, s| s.virtual_max_bytes)),
    ("ringd_alarm_nospace", "1 while the key space exceeds its quota, else 0.", Level(|_, s| flag(s.over_quota))),
    (
        "ringd_answers_bytes",
        "Bytes of large answers that wait for their clients to read them.",
        Level(|_, s| float(s.answers_bytes)),
    ),
    (
        "ringd_answers_refused_total",
        "Reads refused because too many large answers were waiting for their clients.",
        Count(|m, _| get(&m.answers_refused)),
    ),
    ("ringd_batch_entries", "Raft entries that one turn appended.", Shape(|m| &m.batch_entries)),
    ("ringd_bodies_bytes", "Bytes of large request bodies that are gathered.", Level(|_, s| float(s.bodies_bytes))),
    (
        "ringd_bodies_refused_total",
        "Requests refused because too many large bodies were being gathered.",
        Count(|m, _| get(&m.bodies_refused)),
    ),
    ("ringd_connections", "Open connections.", Level(|_, s| float(s.connections))),
    ("ringd_connections_accepted_total", "Connections accepted.", Count(|m, _| get(&m.accepted))),
    (
        "ringd_connections_refused_total",
        "Connections closed on arrival, for the limit was reached.",
        Count(|m, _| get(&m.turned_away)),
    ),
    ("ringd_disk_full", "1 while writes are refused for want of space, else 0.", Level(|_, s| flag(s.disk_full))),
    (
        "ringd_log_bytes",
        "Memory of the entries held for followers and for the next snapshot.",
        Level(|_, s| float(s.log_bytes)),
    ),
    (
        "ringd_log_lines_lost_total",
        "Lines of the log that were lost because an output did not take them in time.",
        Count(|_, s| float(s.log_lines_lost)),
    ),
    (
        "ringd_loop_stall_longest_seconds",
        "The longest that one piece of work kept the loop since the start, by what it was.",
        Levels(|m, _| {
            STEP_NAMES
                .iter()
                .zip(&m.longest)
                .map(|(name, longest)| (vec![("step", (*name).to_owned())], get(longest) / NANOS))
                .collect()
        }),
    ),
    (
        "ringd_loop_stall_recent_seconds",
        "The longest that one piece of work kept the loop in the last 15 to 30 seconds.",
        Level(|m, _| float(m.recent_stall()) / NANOS),
    ),
    (
        "ringd_loop_stall_seconds",
        "How long each piece of work kept the loop: nothing else ran meanwhile.",
        Shape(|m| &m.loop_stall),
    ),
    ("ringd_raft_term", "The raft term.", Level(|_, s| float(s.term))),
    (
        "ringd_ready_seconds",
        "From the start of the process to serving clients.",
        Level(|m, _| get(&m.ready_after) / NANOS),
    ),
    (
        "ringd_recovery_seconds",
        "Time that recovery of the data directory took.",
        Level(|m, _| get(&m.recovery) / NANOS),
    ),
    (
        "ringd_request_duration_seconds",
        "From a request's arrival to its answer, in finer buckets than etcd's; with --metrics extensive.",
        Shapes(|m| m.served_fine.get().map(|shapes| &**shapes)),
    ),
    ("ringd_store_index", "X-Etcd-Index.", Level(|_, s| float(s.etcd_index))),
    ("ringd_store_nodes", "Keys and directories.", Level(|_, s| float(s.nodes))),
    (
        "ringd_sync_duration_seconds",
        "Time of a sync of the write-ahead log, in finer buckets than etcd's.",
        Shape(|m| &m.sync),
    ),
    ("ringd_syncs_total", "Syncs of the write-ahead log.", Count(|_, s| float(s.syncs))),
    ("ringd_version", "ringd's own version, as a label.", Levels(|_, s| info("version", s.ringd_version))),
    (
        "ringd_watch_waiting_bytes",
        "Bytes of events that wait for watchers who are behind, each counted for everyone it waits for.",
        Level(|_, s| float(s.mailbox_bytes)),
    ),
    ("ringd_writes_pending_bytes", "Bytes of writes under way.", Level(|_, s| float(s.writes_pending_bytes))),
    (
        "ringd_writes_refused_total",
        "Writes refused before they were proposed: over the quota, or too much under way.",
        Counts(|m, _| {
            let reason = |name: &str, count| (vec![("reason", name.to_owned())], get(count));
            vec![reason("overload", &m.refused_overload), reason("quota", &m.refused_quota)]
        }),
    ),
];

/// Nanoseconds in a second.
const NANOS: f64 = 1e9;

#[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are doubles")]
fn float(value: u64) -> f64 {
    value as f64
}

fn get(cell: &Cell<u64>) -> f64 {
    float(cell.get())
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn info(name: &'static str, value: &str) -> Vec<Sample> {
    vec![(vec![(name, value.to_owned())], 1.0)]
}

fn method(kind: usize) -> (&'static str, String) {
    ("method", KIND_NAMES[kind].to_owned())
}

fn action(name: &str, count: u64) -> Sample {
    (vec![("action", name.to_owned())], float(count))
}

/// The store counts all reads, the cell the recursive ones among them.
fn reads(all: u64, recursive: &Cell<u64>) -> Vec<Sample> {
    vec![action("get", all.saturating_sub(recursive.get())), action("getRecursive", recursive.get())]
}

fn writes(store: &StoreCounts, of: fn((u64, u64)) -> u64) -> Vec<Sample> {
    vec![
        action("compareAndDelete", of(store.compared_deletes)),
        action("compareAndSwap", of(store.swaps)),
        action("create", of(store.creates)),
        action("delete", of(store.deletes)),
        action("set", of(store.sets)),
        action("update", of(store.updates)),
    ]
}

/// All rows with their samples, for the library's encoder. Rows without any are left out: it refuses them.
pub(super) fn families(metrics: &Metrics, scrape: &Scrape) -> Vec<MetricFamily> {
    let rows = TABLE.iter().map(|(name, help, source)| {
        let (kind, samples) = match source {
            Count(read) => (MetricType::COUNTER, vec![counter((Vec::new(), read(metrics, scrape)))]),
            Level(read) => (MetricType::GAUGE, vec![gauge((Vec::new(), read(metrics, scrape)))]),
            Counts(read) => (MetricType::COUNTER, read(metrics, scrape).into_iter().map(counter).collect()),
            Levels(read) => (MetricType::GAUGE, read(metrics, scrape).into_iter().map(gauge).collect()),
            Shape(read) => (MetricType::HISTOGRAM, vec![histogram(Vec::new(), read(metrics))]),
            Shapes(read) => {
                let counted = read(metrics).into_iter().flatten().enumerate().filter(|(_, shape)| shape.count() > 0);
                let samples = counted.map(|(kind, shape)| histogram(vec![method(kind)], shape));
                (MetricType::HISTOGRAM, samples.collect())
            }
            PeerCounts(label, read) => {
                let peers = metrics.peers.borrow();
                let samples = peers.iter().map(|peer| counter((vec![(*label, peer.id.clone())], get(read(peer)))));
                (MetricType::COUNTER, samples.collect())
            }
            PeerShapes(read) => {
                let peers = metrics.peers.borrow();
                let samples = peers.iter().map(|peer| histogram(vec![("To", peer.id.clone())], read(peer)));
                (MetricType::HISTOGRAM, samples.collect())
            }
            Nothing => {
                (MetricType::HISTOGRAM, vec![histogram(Vec::new(), &Histogram::of_seconds(&super::DISK_BOUNDS))])
            }
        };
        let mut family = MetricFamily::default();
        family.set_name((*name).to_owned());
        family.set_help((*help).to_owned());
        family.set_field_type(kind);
        family.set_metric(samples);
        family
    });
    rows.filter(|family| !family.get_metric().is_empty()).collect()
}

fn labelled(labels: Vec<(&'static str, String)>) -> Metric {
    let pairs = labels.into_iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value);
        pair
    });
    Metric::from_label(pairs.collect())
}

pub(super) fn counter((labels, value): Sample) -> Metric {
    let mut metric = labelled(labels);
    let mut counter = Counter::default();
    counter.set_value(value);
    metric.set_counter(counter);
    metric
}

fn gauge((labels, value): Sample) -> Metric {
    let mut metric = labelled(labels);
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    metric.set_gauge(gauge);
    metric
}

pub(super) fn histogram(labels: Vec<(&'static str, String)>, shape: &Histogram) -> Metric {
    let mut metric = labelled(labels);
    metric.set_histogram(shape.proto());
    metric
}

#[cfg(test)]
pub(super) fn names() -> Vec<&'static str> {
    TABLE.iter().map(|(name, ..)| *name).collect()
}
