//! The endpoints about the node itself: statistics, metrics, variables, the log level; health and profiles are next door.
//!
//! Owns: which numbers go where. Touches: the hub's state, `api` and `metrics` for how answers look. Awaits nothing.

use super::clock;
use super::driver::Hub;
use super::health::Probe;
use super::observe;
use super::process;
use super::respond::{Dispatch, Reply, Responder};
use crate::api::admin;
use crate::api::route::Route;
use crate::api::{stats, vars};
use crate::config::LogLevel;
use crate::metrics::{self, SAMPLE_EVERY};
use crate::wire::http_body::Request;
use crate::wire::http_reply::{JSON, ReplyHead, append_reply, append_reply_bytes};

impl Responder {
    /// Answers one of these endpoints, whose method was checked; `None` when the route is none of them.
    pub(super) fn admin(
        &self,
        hub: &Hub,
        out: &mut Vec<u8>,
        request: &Request<'_>,
        (route, query): (&Route<'_>, &[u8]),
        reply: Reply,
    ) -> Option<Dispatch> {
        let date = self.date(clock::now());
        let head = self.head(200, reply, &date);
        let json = ReplyHead { content_type: JSON, ..head };
        let node = hub.node.borrow();
        match route {
            Route::StatsSelf => {
                let config = node.config();
                let told = stats::SelfStats {
                    name: &config.name,
                    id: config.id,
                    leads: node.is_leader(),
                    started: hub.begun.1,
                    leader: node.leader(),
                    leads_since: hub.leads_since.get(),
                    appends_received: hub.metrics.appends_received.get(),
                    appends_sent: hub.metrics.appends_sent.get(),
                };
                append_reply(out, &json, |out| stats::render_self(out, &told, clock::now()));
            }
            Route::StatsStore => {
                let store = node.store();
                append_reply(out, &json, |out| stats::render_store(out, store.stats(), store.watcher_count()));
            }
            Route::StatsLeader if node.is_leader() => {
                let peers = hub.metrics.peers.borrow();
                let followers = peers.iter().map(|peer| (peer.id.as_str(), *peer.latency.borrow()));
                append_reply(out, &json, |out| stats::render_leader(out, node.leader(), followers));
            }
            Route::StatsLeader => {
                let head = ReplyHead { status: 403, ..json };
                append_reply(out, &head, |out| admin::render_message(out, stats::NOT_LEADER));
            }
            Route::Health => return Some(self.probe_health(hub, out, query, reply)),
            Route::Livez(name) => return self.probe(hub, out, (Probe::Live, name), query, reply),
            Route::Readyz(name) => return self.probe(hub, out, (Probe::Ready, name), query, reply),
            Route::Pprof(rest) if hub.profiler.is_enabled() => return self.pprof(hub, out, rest, query, reply),
            Route::Metrics => {
                let head = ReplyHead { content_type: metrics::CONTENT_TYPE, ..head };
                append_reply(out, &head, |out| metrics::render(out, &hub.metrics, &observe::scrape(hub)));
            }
            Route::DebugVars => {
                let now = process::read(0);
                let process = vars::Process {
                    command_line: std::env::args_os().map(std::os::unix::ffi::OsStringExt::into_vec).collect(),
                    max_fds: now.max_fds,
                    resident_bytes: now.resident_bytes,
                    virtual_bytes: now.virtual_bytes,
                };
                let head = ReplyHead { content_type: vars::CONTENT_TYPE, ..head };
                // Names of keys are for those who may read keys; nobody is asked for a password here.
                let hot = &hub.metrics.hot;
                let ranking = if node.auth().is_enabled() { Vec::new() } else { hot.ranking() };
                let hot = vars::Hot {
                    sampled: hot.samples(),
                    sample_every: SAMPLE_EVERY,
                    prefixes: ranking.iter().map(|hot| (hot.prefix.as_slice(), hot.count)).collect(),
                };
                append_reply(out, &head, |out| vars::render(out, &process, &hot, &node.raft_status()));
            }
            Route::LocalLog => match admin::parse_log_level(request.body.unwrap_or_default()) {
                Ok(level) => {
                    let level = log_level(level);
                    (hub.services.set_log_level)(level);
                    tracing::info!("log level is {level:?}");
                    append_reply_bytes(out, &ReplyHead { status: 204, ..head }, b"");
                }
                Err(message) => {
                    let head = ReplyHead { status: 400, ..json };
                    append_reply(out, &head, |out| admin::render_message(out, &message));
                }
            },
            _ => return None,
        }
        Some(Dispatch::Answered)
    }
}

/// The nearest of our levels: what is asked for is always shown.
fn log_level(level: admin::LogLevel) -> LogLevel {
    match level {
        admin::LogLevel::Critical | admin::LogLevel::Error => LogLevel::Error,
        admin::LogLevel::Warning | admin::LogLevel::Notice => LogLevel::Warn,
        admin::LogLevel::Info => LogLevel::Info,
        admin::LogLevel::Debug | admin::LogLevel::Trace => LogLevel::Debug,
    }
}

/// Whether the NOSPACE alarm is on here: writes that add are refused, for the key space exceeds its quota or the disk
/// of the log is full.
#[must_use]
pub fn has_no_space(hub: &Hub) -> bool {
    hub.pressure.is_over_quota() || hub.disk.is_full()
}
