//! From a parsed request to an answer or a plan: which endpoint, which headers, which body.
//!
//! Owns: what every answer repeats (CORS block, cluster id, date) and the decoding scratch. Touches: `api` for what
//! requests mean, `wire` for how answers look, the hub's node for applied state. Awaits nothing.
//!
//! Must hold: a plain GET is answered here, from applied state, without an allocation that outlives it.

use std::cell::RefCell;

use ringd_storage::ids::{ClusterId, EtcdIndex};

use super::clock::{self, DateHeader};
use super::connection::Conn;
use super::driver::Hub;
use crate::api::error::ApiError;
use crate::api::keys::{self, KeysRequest, Scratch};
use crate::api::method::Method;
use crate::api::route::{Route, route};
use crate::api::{members, version};
use crate::core::event::{Outcome, ProposalFailure};
use crate::core::node::Node;
use crate::core::store::{Event, StoreError, WatchRequest};
use crate::wire::http_body::Request;
use crate::wire::http_reply::{HTML, JSON, ReplyHead, Stream, TEXT, append_reply, append_reply_bytes, begin_stream,
    cors_block};

/// How a request wants its answer.
#[derive(Clone, Copy, Debug)]
pub struct Reply {
    /// HTTP/1.`minor`.
    pub http_minor: u8,
    /// Whether another request may follow.
    pub keep_alive: bool,
    /// HEAD: no body.
    pub head_only: bool,
}

/// A read that needs a round of the cluster first.
#[derive(Debug)]
pub struct GetPlan {
    path: Vec<u8>,
    recursive: bool,
    sorted: bool,
    /// How to answer.
    pub reply: Reply,
}

/// A watch to begin.
#[derive(Debug)]
pub struct WatchPlan {
    path: Vec<u8>,
    recursive: bool,
    /// More than one event.
    pub stream: bool,
    wait_index: EtcdIndex,
    /// How to answer.
    pub reply: Reply,
}

impl WatchPlan {
    /// What the store is asked.
    #[must_use]
    pub fn request(&self) -> WatchRequest<'_> {
        WatchRequest {
            path: &self.path,
            recursive: self.recursive,
            stream: self.stream,
            wait_index: self.wait_index,
        }
    }
}

/// What became of a request.
#[derive(Debug)]
pub enum Dispatch {
    /// The answer is rendered.
    Answered,
    /// A write is on its way; its answer will be rendered when it is applied.
    Proposed,
    /// Nothing was done: this request must wait for the writes before it, then be dispatched again.
    BehindWrites,
    /// Wait for events.
    Watch(WatchPlan),
    /// Ask the cluster, then read.
    LinearGet(GetPlan),
}

/// Renders answers.
#[derive(Debug)]
pub struct Responder {
    cors: Vec<u8>,
    cluster_id: String,
    date: DateHeader,
    scratch: RefCell<Scratch>,
}

impl Responder {
    /// For a node of this cluster.
    #[must_use]
    pub fn new(cluster: ClusterId) -> Self {
        Self {
            cors: cors_block("*"),
            cluster_id: cluster.to_string(),
            date: DateHeader::default(),
            scratch: RefCell::default(),
        }
    }

    /// Routes one request. Writes are proposed; reads that need no waiting are answered, unless an earlier write of
    /// the same connection is still awaited.
    pub fn dispatch(
        &self,
        hub: &Hub,
        conn: &Conn,
        request: &Request<'_>,
        keep_alive: bool,
        behind_writes: bool,
    ) -> Dispatch {
        let head = &request.head;
        let method = Method::from_bytes(head.method);
        let reply = Reply { http_minor: head.http_minor, keep_alive, head_only: method == Method::Head };
        let route = route(head.method, head.path, head.query);
        if let Route::Keys(raw_path) = route {
            return self.keys(hub, conn, request, method, raw_path, reply, behind_writes);
        }
        if behind_writes {
            return Dispatch::BehindWrites;
        }
        let out = &mut *conn.out();
        self.other(hub, out, method, &route, reply);
        Dispatch::Answered
    }

    #[expect(clippy::too_many_arguments, reason = "one caller; a struct would only rename them")]
    fn keys(
        &self,
        hub: &Hub,
        conn: &Conn,
        request: &Request<'_>,
        method: Method,
        raw_path: &[u8],
        reply: Reply,
        behind_writes: bool,
    ) -> Dispatch {
        let now = clock::now();
        let mut scratch = self.scratch.borrow_mut();
        let head = &request.head;
        let body = request.body.map_err(|error| error.cause());
        let parsed = keys::parse(
            method,
            raw_path,
            head.query.unwrap_or_default(),
            head.content_type,
            body,
            now,
            &mut scratch,
        );
        if behind_writes && !matches!(parsed, Ok(KeysRequest::Write { .. })) {
            return Dispatch::BehindWrites;
        }
        match parsed {
            Ok(KeysRequest::Get { path, recursive, sorted, quorum: false }) => {
                let node = hub.node.borrow();
                self.get(&mut conn.out(), &node, path, recursive, sorted, reply);
                Dispatch::Answered
            }
            Ok(KeysRequest::Get { path, recursive, sorted, quorum: true }) => {
                Dispatch::LinearGet(GetPlan { path: path.to_vec(), recursive, sorted, reply })
            }
            Ok(KeysRequest::Watch { path, recursive, stream, wait_index }) => {
                Dispatch::Watch(WatchPlan { path: path.to_vec(), recursive, stream, wait_index, reply })
            }
            Ok(KeysRequest::Write { write, no_value_on_success }) => {
                let token = conn.expect_write(no_value_on_success, reply);
                hub.propose(token, write);
                Dispatch::Proposed
            }
            Err(error) => {
                self.error(&mut conn.out(), &error, reply);
                Dispatch::Answered
            }
        }
    }

    fn head<'a>(&'a self, status: u16, reply: Reply, date: &'a [u8; 29]) -> ReplyHead<'a> {
        ReplyHead {
            http_minor: reply.http_minor,
            keep_alive: reply.keep_alive,
            head_only: reply.head_only,
            cors: &self.cors,
            ..ReplyHead::new(status, date)
        }
    }

    fn keys_head<'a>(
        &'a self,
        status: u16,
        reply: Reply,
        index: EtcdIndex,
        raft: Option<(u64, u64)>,
        date: &'a [u8; 29],
    ) -> ReplyHead<'a> {
        ReplyHead {
            content_type: JSON,
            cluster_id: Some(&self.cluster_id),
            etcd_index: Some(index.get()),
            raft,
            ..self.head(status, reply, date)
        }
    }

    fn get(&self, out: &mut Vec<u8>, node: &Node, path: &[u8], recursive: bool, sorted: bool, reply: Reply) {
        let now = clock::now();
        match node.store().get(path) {
            Ok(found) => {
                let date = self.date.at(now);
                let head = self.keys_head(200, reply, node.store().index(), Some(raft_position(node)), &date);
                append_reply(out, &head, |out| keys::render_get(out, &found, recursive, sorted, now));
            }
            Err(error) => self.store_error(out, &error, reply),
        }
    }

    /// Answers a read whose round has ended.
    pub fn linear_get(&self, out: &mut Vec<u8>, hub: &Hub, plan: &GetPlan, confirmed: bool) {
        if confirmed {
            self.get(out, &hub.node.borrow(), &plan.path, plan.recursive, plan.sorted, plan.reply);
        } else {
            self.error(out, &failure(ProposalFailure::Timeout), plan.reply);
        }
    }

    /// Answers a write.
    pub fn outcome(&self, out: &mut Vec<u8>, hub: &Hub, outcome: &Outcome, no_value: bool, reply: Reply) {
        match outcome {
            Outcome::Event(event) => {
                let date = self.date.at(clock::now());
                let raft = hub.raft_position.get();
                let head = self.keys_head(keys::event_status(event), reply, event.index, Some(raft), &date);
                append_reply(out, &head, |out| keys::render_event(out, event, no_value));
            }
            Outcome::Refused(error) => self.store_error(out, error, reply),
            Outcome::Failed(reason) => self.error(out, &failure(*reason), reply),
        }
    }

    fn store_error(&self, out: &mut Vec<u8>, error: &StoreError, reply: Reply) {
        self.error(out, &ApiError::from(error.clone()), reply);
    }

    fn error(&self, out: &mut Vec<u8>, error: &ApiError, reply: Reply) {
        let date = self.date.at(clock::now());
        let head = self.keys_head(error.status, reply, error.index, None, &date);
        append_reply(out, &head, |out| keys::render_error(out, error));
    }

    /// The history no longer reaches back to the index asked for.
    pub fn watch_refused(&self, out: &mut Vec<u8>, error: &StoreError, reply: Reply) {
        self.store_error(out, error, reply);
    }

    /// The head of a watch's answer; its events follow, each when it happens.
    pub fn watch_begins(&self, out: &mut Vec<u8>, hub: &Hub, reply: Reply) -> Stream {
        let node = hub.node.borrow();
        let date = self.date.at(clock::now());
        begin_stream(out, &self.keys_head(200, reply, node.store().index(), Some(raft_position(&node)), &date))
    }

    /// One event of a watch.
    pub fn watch_event(&self, out: &mut Vec<u8>, event: &Event) {
        keys::render_event(out, event, false);
    }

    fn other(&self, hub: &Hub, out: &mut Vec<u8>, method: Method, route: &Route<'_>, reply: Reply) {
        let date = self.date.at(clock::now());
        let _ = (hub, method, route, HTML, TEXT, members::MARK, version::MARK);
        let head = self.head(404, reply, &date);
        append_reply_bytes(out, &head, b"");
    }
}

/// `X-Raft-Index` and `X-Raft-Term`.
#[must_use]
pub fn raft_position(node: &Node) -> (u64, u64) {
    (node.committed().get(), node.term().get())
}

fn failure(reason: ProposalFailure) -> ApiError {
    let cause = match reason {
        ProposalFailure::Timeout => "etcdserver: request timed out",
        ProposalFailure::NotProposed => "etcdserver: no leader",
        ProposalFailure::NoSpace => {
            "etcdserver: no space left on the device of the write-ahead log; free some, writes then resume by themselves"
        }
    };
    ApiError::raft_internal(cause)
}
