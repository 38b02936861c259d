//! What is read when somebody asks how the node does.
//!
//! Owns: gathering. Touches: the hub's node, disk and connections, and the kernel's numbers. Awaits nothing. Must hold:
//! a gathering costs the same whatever the number of keys, watchers and connections.

use super::driver::Hub;
use super::process;
use crate::api::admin::ETCD_SERVER_VERSION;
use crate::core::store::{Counter, Stats};
use crate::metrics::{Scrape, StoreCounts};

/// Everything `/metrics` shows beside the counters.
#[must_use]
pub fn scrape(hub: &Hub) -> Scrape {
    let node = hub.node.borrow();
    let store = node.store();
    let connections = hub.connections.borrow().len() as u64;
    let process = process::read(hub.fds_at_start + connections);
    let version = node.cluster_version();
    #[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are doubles")]
    let start_seconds = hub.begun.1.get() as f64 / 1e9;
    Scrape {
        member: node.config().id.to_string(),
        cluster_version: version.rsplit_once('.').map_or(version, |(level, _)| level).to_owned(),
        etcd_version: ETCD_SERVER_VERSION,
        ringd_version: env!("CARGO_PKG_VERSION"),
        has_leader: node.has_leader(),
        is_leader: node.is_leader(),
        is_learner: node.is_learner(),
        committed: node.committed().get(),
        applied: node.applied().get(),
        term: node.term().get(),
        pending: node.writes_outstanding() as u64,
        etcd_index: store.index().get(),
        nodes: store.nodes() as u64,
        log_bytes: node.log_memory(),
        watchers: store.watcher_count() as u64,
        store: counts(store.stats()),
        connections,
        sent_bytes: hub.connections.borrow().sent_bytes.get(),
        syncs: hub.disk.syncs.get(),
        wal_bytes: hub.disk.appended_bytes.get(),
        disk_full: hub.disk.is_full(),
        store_bytes: store.bytes(),
        quota_bytes: hub.pressure.ceilings().quota,
        over_quota: hub.pressure.is_over_quota(),
        writes_pending_bytes: node.write_bytes_outstanding(),
        bodies_bytes: hub.pressure.bodies_bytes(),
        answers_bytes: hub.pressure.answers_bytes(),
        mailbox_bytes: hub.connections.borrow().mailbox_bytes.get(),
        cpu_seconds: process.cpu_seconds,
        resident_bytes: process.resident_bytes,
        virtual_bytes: process.virtual_bytes,
        virtual_max_bytes: process.virtual_max_bytes,
        open_fds: process.open_fds,
        max_fds: process.max_fds,
        start_seconds,
        log_lines_lost: (hub.services.lost_log_lines)(),
    }
}

fn counts(stats: &Stats) -> StoreCounts {
    let pair = |success, fail| (stats.get(success), stats.get(fail));
    StoreCounts {
        gets: pair(Counter::GetsSuccess, Counter::GetsFail),
        sets: pair(Counter::SetsSuccess, Counter::SetsFail),
        deletes: pair(Counter::DeleteSuccess, Counter::DeleteFail),
        updates: pair(Counter::UpdateSuccess, Counter::UpdateFail),
        creates: pair(Counter::CreateSuccess, Counter::CreateFail),
        swaps: pair(Counter::CompareAndSwapSuccess, Counter::CompareAndSwapFail),
        compared_deletes: pair(Counter::CompareAndDeleteSuccess, Counter::CompareAndDeleteFail),
        expired: stats.get(Counter::ExpireCount),
    }
}
