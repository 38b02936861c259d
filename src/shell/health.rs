//! The named checks behind `/health`, `/livez` and `/readyz`.
//!
//! Owns: which checks there are and who asks them ([`CHECKS`] is the one list: a new reason to be unwell is a row there).
//! Touches: the hub's state. Awaits nothing: a check that asks the cluster becomes a plan, as a linearizable read does.

use super::admin::has_no_space;
use super::clock;
use super::driver::Hub;
use super::respond::{Dispatch, GetPlan, Reply, Responder};
use crate::api::admin;
use crate::api::health::{Finding, Query, render};
use crate::metrics;
use crate::wire::http_reply::{ReplyHead, TEXT, append_reply_bytes};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `/health`: etcd's alarms; the leader and the quorum are asked for beside them.
    Health,
    /// `/livez`: whether a restart would help.
    Live,
    /// `/readyz`: whether requests should come here.
    Ready,
}

/// One reason to be unwell that this member sees by itself.
struct Check {
    /// What `?exclude=` and `/livez/NAME` call it; etcd's name where etcd has it.
    name: &'static str,
    asked_by: &'static [Probe],
    /// Finds nothing, or says what is wrong.
    run: fn(&Hub) -> Result<(), &'static str>,
}

/// Every check that needs nobody else, in the order of the answers.
const CHECKS: &[Check] = &[
    Check { name: "NOSPACE", asked_by: &[Probe::Health], run: has_space },
    // Recovery refuses damage before anything is served, and a member that meets some later ends itself.
    Check { name: "data_corruption", asked_by: &[Probe::Ready], run: |_| Ok(()) },
    Check { name: "serializable_read", asked_by: &[Probe::Live], run: |_| Ok(()) },
    Check { name: "serializable_read", asked_by: &[Probe::Ready], run: serves },
    Check { name: "non_learner", asked_by: &[Probe::Ready], run: votes },
];

/// The check of `/readyz` that asks the cluster.
const LINEARIZABLE: &str = "linearizable_read";

fn has_space(hub: &Hub) -> Result<(), &'static str> {
    if has_no_space(hub) { Err("the key space exceeds its quota, or the log's disk is full") } else { Ok(()) }
}

fn serves(hub: &Hub) -> Result<(), &'static str> {
    match () {
        () if hub.is_stopping() => Err("the server is stopping"),
        () if !hub.is_ready() => Err("clients are not served yet"),
        () => Ok(()),
    }
}

fn votes(hub: &Hub) -> Result<(), &'static str> {
    if hub.node.borrow().is_learner() { Err("this member is a learner") } else { Ok(()) }
}

/// What an answer of `/livez` or `/readyz` will say, apart from the cluster's part.
#[derive(Debug)]
pub struct Report {
    findings: Vec<Finding>,
    verbose: bool,
}

/// Runs the checks of a probe: all but the excluded ones, or the one that is named.
fn run(hub: &Hub, probe: Probe, chosen: impl Fn(&str) -> bool) -> Vec<Finding> {
    let of_probe = CHECKS.iter().filter(|check| check.asked_by.contains(&probe) && chosen(check.name));
    of_probe.map(|check| (check.name, (check.run)(hub).map_err(str::to_owned))).collect()
}

impl Responder {
    /// Answers `/health`, or asks the cluster first.
    pub(super) fn probe_health(&self, hub: &Hub, out: &mut Vec<u8>, query: &[u8], reply: Reply) -> Dispatch {
        let query = Query(query);
        let is_well = |finding: &Finding| finding.1.is_ok();
        let well = run(hub, Probe::Health, |name| !query.excludes(name)).iter().all(is_well);
        if well && !query.is_serializable() && hub.node.borrow().has_leader() {
            return Dispatch::LinearGet(GetPlan::health(reply));
        }
        self.health(hub, out, well && query.is_serializable(), reply);
        Dispatch::Answered
    }

    /// Answers `/livez`, `/readyz` (`name` is empty then) or one check of theirs, or asks the cluster first. `None` when
    /// there is no such check.
    pub(super) fn probe(
        &self,
        hub: &Hub,
        out: &mut Vec<u8>,
        (probe, name): (Probe, &[u8]),
        query: &[u8],
        reply: Reply,
    ) -> Option<Dispatch> {
        let query = Query(query);
        // A check that is asked by its name is not excluded, as in etcd.
        let chosen = |check: &str| if name.is_empty() { !query.excludes(check) } else { check.as_bytes() == name };
        let findings = run(hub, probe, chosen);
        let asks_cluster = probe == Probe::Ready && chosen(LINEARIZABLE);
        if !name.is_empty() && findings.is_empty() && !asks_cluster {
            return None;
        }
        let report = Report { findings, verbose: query.is_verbose() };
        if asks_cluster {
            return Some(Dispatch::LinearGet(GetPlan::ready(report, reply)));
        }
        self.report(out, &report, None, reply);
        Some(Dispatch::Answered)
    }

    /// The answer of `/livez` and `/readyz`; `linearizable` is what became of the cluster's part, if it was asked.
    pub(super) fn report(&self, out: &mut Vec<u8>, report: &Report, linearizable: Option<bool>, reply: Reply) {
        let mut findings = report.findings.clone();
        if let Some(confirmed) = linearizable {
            let why = || "no quorum answered in time".to_owned();
            findings.push((LINEARIZABLE, confirmed.then_some(()).ok_or_else(why)));
        }
        let (status, body) = render(&findings, report.verbose);
        let date = self.date(clock::now());
        let head = ReplyHead { content_type: TEXT, nosniff: true, ..self.head(status, reply, &date) };
        append_reply_bytes(out, &head, &body);
    }

    /// The answer of `/health`.
    pub(super) fn health(&self, hub: &Hub, out: &mut Vec<u8>, healthy: bool, reply: Reply) {
        let counter = if healthy { &hub.metrics.health_success } else { &hub.metrics.health_failures };
        metrics::add(counter, 1);
        let date = self.date(clock::now());
        // The failure goes through Go's `http.Error`.
        let status = if healthy { 200 } else { 503 };
        let head = ReplyHead { content_type: TEXT, nosniff: !healthy, ..self.head(status, reply, &date) };
        append_reply_bytes(out, &head, admin::health(healthy));
    }
}
