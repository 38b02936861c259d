//! From a parsed request to an answer or a plan: which endpoint, which headers, which body.
//!
//! Owns: what every answer repeats (CORS block, cluster id, date) and the decoding scratch. Touches: `api` for what
//! requests mean, `wire` for how answers look, the hub's node for applied state. Awaits nothing.
//!
//! Must hold: a plain GET is answered here, from applied state, without an allocation that outlives it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use ringd_storage::ids::{ClusterId, EtcdIndex, UnixNanos};

use super::clock::{self, DateHeader};
use super::connection::{Audience, Conn, Form, OUT_HIGH_BYTES};
use super::cors::{CorsChoice, CorsLayer};
use super::credentials::{HashPlan, VerifyPlan};
use super::disk::Admission;
use super::driver::Hub;
use super::health::Report;
use super::manage::{self, Right};
use super::pressure::{self, Verdict};
use super::profile::ProfilePlan;
use crate::api::auth::INSUFFICIENT;
use crate::api::error::{ApiError, ErrorCode, render_error};
use crate::api::keys::{self, Extent, KeysRequest};
use crate::api::late::Late;
use crate::api::method::Method;
use crate::api::params;
use crate::api::route::{MethodVerdict, Route, Routed, route};
use crate::api::{admin, members, peer_members};
use crate::config::Cors;
use crate::core::event::{Outcome, ProposalFailure};
use crate::core::node::Node;
use crate::core::store::{Event, StoreError, WatchRequest};
use crate::metrics::{self, Kind, Metrics};
use crate::wire::http_body::Request;
use crate::wire::http_reply::{
    HTML, HttpDate, JSON, LENGTH_DIGITS, ReplyHead, Stream, TEXT, append_prepared, append_reply, append_reply_bytes,
    begin_stream, prepare_head,
};
use crate::wire::http_request::RequestError;
use crate::wire::peer_handshake::is_handshake;

/// How a request wants its answer.
#[derive(Clone, Copy, Debug)]
pub struct Reply {
    /// HTTP/1.`minor`.
    pub http_minor: u8,
    /// Whether another request may follow.
    pub keep_alive: bool,
    /// HEAD: no body.
    pub head_only: bool,
    /// What a browser is told.
    pub cors: CorsChoice,
    /// Under what the request is counted, once it was understood.
    pub kind: Option<Kind>,
    /// When it was at hand.
    pub begun: Instant,
}

/// A read that needs a round of the cluster first.
#[derive(Debug)]
pub struct GetPlan {
    what: Asked,
    /// How to answer.
    pub reply: Reply,
}

#[derive(Debug)]
enum Asked {
    /// A key.
    Key { path: Vec<u8>, recursive: bool, sorted: bool },
    /// Whether there is a quorum at all.
    Health,
    /// The same, as one of the checks of `/readyz`.
    Ready(Report),
}

/// A health check waits this long for its quorum, as in etcd.
const HEALTH_PATIENCE: Duration = Duration::from_secs(1);

impl GetPlan {
    /// A health check.
    #[must_use]
    pub const fn health(reply: Reply) -> Self {
        Self { what: Asked::Health, reply }
    }

    /// A readiness check, with what this member found by itself.
    #[must_use]
    pub const fn ready(report: Report, reply: Reply) -> Self {
        Self { what: Asked::Ready(report), reply }
    }

    /// How long the client's request waits, if not as long as the cluster takes to say no.
    #[must_use]
    pub const fn patience(&self) -> Option<Duration> {
        match self.what {
            Asked::Key { .. } => None,
            Asked::Health | Asked::Ready(_) => Some(HEALTH_PATIENCE),
        }
    }
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
        WatchRequest { path: &self.path, recursive: self.recursive, stream: self.stream, wait_index: self.wait_index }
    }
}

/// What became of a request.
#[derive(Debug)]
pub enum Dispatch {
    /// The answer is rendered.
    Answered,
    /// A write is on its way; its answer will be rendered when it is applied.
    Proposed,
    /// The same, and nothing else of this connection may begin before.
    ProposedAlone,
    /// Nothing was done: verify this password, then dispatch the request again.
    Verify(VerifyPlan),
    /// Nothing was done: hash this password, then dispatch the request again.
    Hash(HashPlan),
    /// Nothing was done: this request must wait for the writes before it, then be dispatched again.
    BehindWrites,
    /// Wait for events.
    Watch(WatchPlan),
    /// Ask the cluster, then read.
    LinearGet(GetPlan),
    /// Take a profile of the processor's time.
    Profile(ProfilePlan),
    /// Nothing was done: the WAL has room for this write in a moment; dispatch it again then.
    AwaitRoom,
    /// Nothing was done: clients are not served yet; dispatch it again when they are.
    AwaitReady,
    /// Another member begins a stream with this request.
    PeerStream,
    /// The answer is rendered and the connection cannot go on.
    Close,
}

/// The common headers of the last answer to a GET. Between two writes, and within a second, they are those of the next.
#[derive(Debug, Default)]
struct GetHead {
    told: Option<Told>,
    bytes: Vec<u8>,
}

/// Everything in those headers that changes from answer to answer.
#[derive(Debug, PartialEq)]
struct Told {
    http_minor: u8,
    cors: CorsChoice,
    index: Option<u64>,
    raft: Option<(u64, u64)>,
    date: HttpDate,
}

impl GetHead {
    /// The bytes for `head`, which is one of a successful GET, with the lines of `cors`.
    fn renew(&mut self, head: &ReplyHead<'_>, cors: CorsChoice) -> &[u8] {
        let ReplyHead { http_minor, etcd_index: index, raft, date, .. } = *head;
        let told = Some(Told { http_minor, cors, index, raft, date: *date });
        if self.told != told {
            self.told = told;
            self.bytes.clear();
            prepare_head(&mut self.bytes, head);
        }
        &self.bytes
    }
}

/// Renders answers.
#[derive(Debug)]
pub struct Responder {
    cors: CorsLayer,
    metrics: Rc<Metrics>,
    cluster_id: String,
    date: DateHeader,
    get_head: RefCell<GetHead>,
    /// What the length of a directory is expected to take in its answer's head: as much as the last large one's.
    dir_length_digits: Cell<usize>,
    /// Working space for decoding a path, and for decoding parameters.
    path_scratch: RefCell<Vec<u8>>,
    params_scratch: RefCell<Vec<u8>>,
}

/// Working space larger than this is given back after use: one huge form must not stay for ever.
const SCRATCH_KEEP_BYTES: usize = 64 << 10;
/// A body that is moved to make room for its length costs something from this size on.
const LARGE_BODY_BYTES: usize = 1 << 20;

impl Responder {
    /// For a node of this cluster.
    #[must_use]
    pub fn new(cluster: ClusterId, cors: &Cors, metrics: Rc<Metrics>) -> Self {
        Self {
            cors: CorsLayer::new(cors),
            metrics,
            cluster_id: cluster.to_string(),
            date: DateHeader::default(),
            get_head: RefCell::default(),
            dir_length_digits: Cell::new(LENGTH_DIGITS),
            path_scratch: RefCell::default(),
            params_scratch: RefCell::default(),
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
        let reply = Reply {
            http_minor: head.http_minor,
            keep_alive,
            head_only: method == Method::Head,
            // Members and monitors are no browsers; etcd's other ports send no such lines either.
            cors: if conn.audience() != Audience::Clients { CorsChoice::NONE } else { self.cors.choose(head.origin) },
            kind: None,
            begun: hub.taking_since.get(),
        };
        if conn.is_peer() && is_handshake(request.head.path, request.head.upgrade) {
            return Dispatch::PeerStream;
        }
        let mut decoded = self.path_scratch.borrow_mut();
        let Routed { route, query } = route(head.target, &mut decoded);
        let route = match route {
            Route::Health | Route::Livez(_) | Route::Readyz(_) | Route::Metrics => route,
            Route::BadTarget | Route::Redirect(_) => route,
            _ if conn.audience() == Audience::Monitors => Route::NotFound,
            Route::Version => route,
            Route::NotFound if conn.is_peer() && request.head.path == b"/members" => Route::PeerMembers,
            _ if conn.is_peer() => Route::NotFound,
            // A slow start is worth a profile too.
            Route::Pprof(_) => route,
            _ if !hub.is_ready() => return Dispatch::AwaitReady,
            _ => route,
        };
        match route {
            Route::Keys(path) if route.check_method(method) == MethodVerdict::Allowed => {
                self.keys(hub, conn, request, (method, path, query), reply, behind_writes)
            }
            _ if behind_writes => Dispatch::BehindWrites,
            Route::BadTarget if method != Method::Options => {
                conn.out().extend_from_slice(RequestError::Malformed("target").reply());
                Dispatch::Close
            }
            _ if method != Method::Options && manage::is_managed(&route, method) => {
                self.manage(hub, conn, request, (method, &route), reply)
            }
            _ => {
                let mut out = conn.out();
                if method != Method::Options
                    && route.check_method(method) == MethodVerdict::Allowed
                    && let Some(dispatch) = self.admin(hub, &mut out, request, (&route, query), reply)
                {
                    return dispatch;
                }
                self.other(hub, &mut out, method, &route, reply);
                Dispatch::Answered
            }
        }
    }

    fn keys(
        &self,
        hub: &Hub,
        conn: &Conn,
        request: &Request<'_>,
        (method, path, query): (Method, &[u8], &[u8]),
        reply: Reply,
        behind_writes: bool,
    ) -> Dispatch {
        let now = hub.wall(reply.begun);
        let mut scratch = self.params_scratch.borrow_mut();
        let content_type = request.head.content_type;
        let body = match request.body {
            Ok(body) => Ok(body),
            Err(error) if matches!(method, Method::Put | Method::Post) => match params::is_form(content_type) {
                Ok(true) => Err(ApiError::request(ErrorCode::InvalidForm, error.cause())),
                // Nobody reads a body that is no form; a broken type is reported by `parse`.
                Ok(false) | Err(_) => Ok(&b""[..]),
            },
            Err(_) => Ok(&b""[..]),
        };
        let parsed = body.and_then(|body| keys::parse(method, path, query, content_type, body, now, &mut scratch));
        if let Ok(asked) = &parsed
            && hub.node.borrow().auth().is_enabled()
        {
            match manage::right_to_key(hub, conn, request, method, path, asked) {
                Right::Granted => {}
                Right::Denied if behind_writes => return Dispatch::BehindWrites,
                Right::Denied => {
                    let denied = ApiError::request(ErrorCode::Unauthorized, INSUFFICIENT);
                    self.error(&mut conn.out(), &denied, reply);
                    return Dispatch::Answered;
                }
                Right::Ask(plan) => return Dispatch::Verify(plan),
            }
        }
        self.metrics.hot.see(path);
        let kind = parsed.as_ref().ok().map(|request| kind(method, request));
        let reply = Reply { kind, ..reply };
        let dispatch = match parsed {
            Ok(KeysRequest::Write { write, no_value_on_success }) => {
                let echo = pressure::echo_bytes(&hub.node.borrow(), &write);
                let verdict = if echo > hub.pressure.answer_bytes_max() {
                    Verdict::Overload
                } else {
                    hub.pressure.judge(&hub.node.borrow(), &write)
                };
                let bytes = write.path.len() + write.value.len() + write.prev_value.map_or(0, <[u8]>::len);
                let refusal = match verdict {
                    Verdict::Admit => match hub.disk.admit(bytes) {
                        Admission::Yes => {
                            self.count_received(reply);
                            let token = conn.expect_write(Form::Keys { no_value: no_value_on_success }, reply);
                            hub.propose(token, write);
                            if echo > OUT_HIGH_BYTES {
                                hub.pressure.hold_answers(conn.out_held(), echo);
                                return Dispatch::ProposedAlone;
                            }
                            return Dispatch::Proposed;
                        }
                        Admission::Later => return Dispatch::AwaitRoom,
                        Admission::Full => no_space(),
                    },
                    Verdict::OverQuota => ApiError::space_exceeded(),
                    Verdict::Overload => ApiError::too_many_requests(),
                };
                if behind_writes {
                    return Dispatch::BehindWrites;
                }
                self.metrics.write_refused(verdict == Verdict::OverQuota, verdict == Verdict::Overload);
                self.count_received(reply);
                self.error(&mut conn.out(), &refusal, reply);
                Dispatch::Answered
            }
            _ if behind_writes => Dispatch::BehindWrites,
            Ok(KeysRequest::Get { path, recursive, sorted, quorum: false }) => {
                self.count_received(reply);
                self.get(hub, &mut conn.out(), path, (recursive, sorted), now, reply);
                Dispatch::Answered
            }
            Ok(KeysRequest::Get { path, recursive, sorted, quorum: true }) => {
                self.count_received(reply);
                Dispatch::LinearGet(GetPlan { what: Asked::Key { path: path.to_vec(), recursive, sorted }, reply })
            }
            Ok(KeysRequest::Watch { path, recursive, stream, wait_index }) => {
                self.count_received(reply);
                Dispatch::Watch(WatchPlan { path: path.to_vec(), recursive, stream, wait_index, reply })
            }
            Err(error) => {
                self.error(&mut conn.out(), &error, reply);
                Dispatch::Answered
            }
        };
        if scratch.capacity() > SCRATCH_KEEP_BYTES {
            *scratch = Vec::new();
        }
        dispatch
    }

    /// The `Date` header now.
    pub(super) fn date(&self, now: UnixNanos) -> HttpDate {
        self.date.at(now)
    }

    /// `X-Etcd-Cluster-Id`.
    pub(super) fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    pub(super) fn head<'a>(&'a self, status: u16, reply: Reply, date: &'a HttpDate) -> ReplyHead<'a> {
        ReplyHead {
            http_minor: reply.http_minor,
            keep_alive: reply.keep_alive,
            head_only: reply.head_only,
            cors: self.cors.lines(reply.cors),
            ..ReplyHead::new(status, date)
        }
    }

    fn keys_head<'a>(
        &'a self,
        status: u16,
        reply: Reply,
        index: EtcdIndex,
        raft: Option<(u64, u64)>,
        date: &'a HttpDate,
    ) -> ReplyHead<'a> {
        ReplyHead {
            content_type: JSON,
            cluster_id: Some(&self.cluster_id),
            etcd_index: Some(index.get()),
            raft,
            ..self.head(status, reply, date)
        }
    }

    fn get(
        &self,
        hub: &Hub,
        out: &mut Vec<u8>,
        path: &[u8],
        (recursive, sorted): (bool, bool),
        now: UnixNanos,
        reply: Reply,
    ) {
        let node = &*hub.node.borrow();
        let found = node.store().get(path);
        if recursive {
            let (successes, failures) = &self.metrics.recursive_reads;
            metrics::add(if found.is_ok() { successes } else { failures }, 1);
        }
        match found {
            Ok(found) => {
                let date = self.date.at(now);
                let mut head = self.keys_head(200, reply, node.store().index(), Some(raft_position(node)), &date);
                if found.is_dir() {
                    head.length_digits = self.dir_length_digits.get();
                }
                let mut prepared = self.get_head.borrow_mut();
                let begin = out.len();
                let extent = Extent { recursive, sorted, bytes_max: hub.pressure.answer_bytes_max() };
                let (mut is_whole, mut bytes) = (false, 0);
                append_prepared(out, prepared.renew(&head, reply.cors), &head, |out| {
                    let begin = out.len();
                    is_whole = keys::render_get(out, &found, extent, now);
                    bytes = out.len() - begin;
                });
                if bytes >= LARGE_BODY_BYTES && found.is_dir() {
                    self.dir_length_digits.set(bytes.ilog10() as usize + 1);
                }
                if !is_whole {
                    out.truncate(begin);
                    self.refuse_answer(out, reply);
                    return;
                }
                match reply.kind {
                    Some(Kind::Get) => self.metrics.get_served(),
                    Some(kind) => self.metrics.served(kind, reply.begun.elapsed()),
                    None => {}
                }
            }
            Err(error) => self.store_error(out, &error, reply),
        }
    }

    /// Answers a read whose round has ended.
    pub fn linear_get(&self, out: &mut Vec<u8>, hub: &Hub, plan: &GetPlan, confirmed: bool) {
        match &plan.what {
            Asked::Key { path, recursive, sorted } if confirmed => {
                self.get(hub, out, path, (*recursive, *sorted), clock::now(), plan.reply);
            }
            Asked::Key { .. } => self.error(out, &late(hub, plan.reply.begun).error(), plan.reply),
            Asked::Health => self.health(hub, out, confirmed, plan.reply),
            Asked::Ready(report) => self.report(out, report, Some(confirmed), plan.reply),
        }
    }

    /// Answers a write.
    pub fn outcome(&self, out: &mut Vec<u8>, hub: &Hub, outcome: &Outcome, form: &Form, reply: Reply) {
        let Form::Keys { no_value } = *form else { return self.managed(out, form, outcome, reply) };
        match outcome {
            Outcome::Event(event) => {
                let date = self.date.at(clock::now());
                if let Some(kind) = reply.kind {
                    self.metrics.served(kind, hub.settling_since.get().duration_since(reply.begun));
                }
                let raft = hub.raft_position.get();
                let head = self.keys_head(keys::event_status(event), reply, event.index, Some(raft), &date);
                append_reply(out, &head, |out| keys::render_event(out, event, no_value));
            }
            Outcome::Refused(error) => self.store_error(out, error, reply),
            Outcome::Failed(ProposalFailure::Timeout) => self.error(out, &late(hub, reply.begun).error(), reply),
            Outcome::Failed(ProposalFailure::NotProposed) => self.error(out, &no_leader(), reply),
            Outcome::Failed(ProposalFailure::NoSpace) => self.error(out, &no_space(), reply),
            Outcome::Auth(_) | Outcome::Members(_) => unreachable!("a write to keys ends as one"),
        }
    }

    /// The store refused a write, a read or a watch.
    pub fn store_error(&self, out: &mut Vec<u8>, error: &StoreError, reply: Reply) {
        self.error(out, &ApiError::from(error.clone()), reply);
    }

    /// Too many large answers wait for their clients already.
    pub(super) fn refuse_answer(&self, out: &mut Vec<u8>, reply: Reply) {
        metrics::add(&self.metrics.answers_refused, 1);
        self.error(out, &ApiError::too_many_requests(), reply);
    }

    fn count_received(&self, reply: Reply) {
        if let Some(kind) = reply.kind {
            self.metrics.received(kind);
        }
    }

    fn error(&self, out: &mut Vec<u8>, error: &ApiError, reply: Reply) {
        if let Some(kind) = reply.kind {
            self.metrics.failed(kind, error.status());
        }
        let date = self.date.at(clock::now());
        let head = self.keys_head(error.status(), reply, error.index, None, &date);
        append_reply(out, &head, |out| render_error(out, error));
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

    /// Every endpoint but the keys.
    pub(super) fn other(&self, hub: &Hub, out: &mut Vec<u8>, method: Method, route: &Route<'_>, reply: Reply) {
        let date = self.date.at(clock::now());
        if method == Method::Options {
            append_reply_bytes(out, &self.head(200, reply, &date), b"");
            return;
        }
        if let MethodVerdict::NotAllowed { allow } = route.check_method(method) {
            let head = ReplyHead { allow, content_type: TEXT, nosniff: true, ..self.head(405, reply, &date) };
            append_reply_bytes(out, &head, b"Method Not Allowed\n");
            return;
        }
        let node = hub.node.borrow();
        let json = ReplyHead { content_type: JSON, ..self.head(200, reply, &date) };
        let of_cluster = ReplyHead { cluster_id: Some(&self.cluster_id), ..json };
        match route {
            Route::Members if method == Method::Get => {
                append_reply(out, &of_cluster, |out| members::render_list(out, node.members()));
            }
            Route::PeerMembers => {
                append_reply(out, &of_cluster, |out| peer_members::render(out, node.members()));
            }
            Route::MembersLeader if method == Method::Get => match node.members().get(node.leader()) {
                Some(leader) => append_reply(out, &of_cluster, |out| members::render_one(out, leader)),
                None => {
                    let head = ReplyHead { status: 503, ..of_cluster };
                    append_reply(out, &head, |out| members::render_message(out, "During election"));
                }
            },
            Route::Member(_) if method == Method::Get => {
                let head = ReplyHead { status: 404, ..of_cluster };
                append_reply(out, &head, |out| members::render_message(out, "Not found"));
            }
            Route::Machines => {
                let head = ReplyHead { content_type: TEXT, ..self.head(200, reply, &date) };
                append_reply(out, &head, |out| members::render_machines(out, node.members()));
            }
            Route::Version => {
                append_reply(out, &json, |out| admin::render_version(out, node.cluster_version()));
            }
            Route::Redirect(location) => {
                let mut head = ReplyHead { location: Some(location), ..self.head(301, reply, &date) };
                if matches!(method, Method::Get | Method::Head) {
                    head.content_type = HTML;
                    append_reply(out, &head, |out| moved_page(out, location));
                } else {
                    append_reply_bytes(out, &head, b"");
                }
            }
            _ => {
                let head = ReplyHead { content_type: TEXT, nosniff: true, ..self.head(404, reply, &date) };
                append_reply_bytes(out, &head, b"404 page not found\n");
            }
        }
    }
}

/// Under what a request to the keys is counted.
fn kind(method: Method, request: &KeysRequest<'_>) -> Kind {
    match (request, method) {
        (KeysRequest::Get { quorum: true, .. }, _) => Kind::QuorumGet,
        (_, Method::Put) => Kind::Put,
        (_, Method::Post) => Kind::Post,
        (_, Method::Delete) => Kind::Delete,
        (_, Method::Head) => Kind::Head,
        _ => Kind::Get,
    }
}

/// The page Go sends with a redirect.
fn moved_page(out: &mut Vec<u8>, location: &[u8]) {
    out.extend_from_slice(b"<a href=\"");
    for &byte in location {
        match byte {
            b'&' => out.extend_from_slice(b"&amp;"),
            b'<' => out.extend_from_slice(b"&lt;"),
            b'>' => out.extend_from_slice(b"&gt;"),
            b'"' => out.extend_from_slice(b"&#34;"),
            b'\'' => out.extend_from_slice(b"&#39;"),
            plain => out.push(plain),
        }
    }
    out.extend_from_slice(b"\">Moved Permanently</a>.\n\n");
}

/// `X-Raft-Index` and `X-Raft-Term`.
#[must_use]
pub fn raft_position(node: &Node) -> (u64, u64) {
    (node.committed().get(), node.term().get())
}

fn no_leader() -> ApiError {
    ApiError::request(ErrorCode::RaftInternal, "etcdserver: no leader")
}

fn no_space() -> ApiError {
    let cause = "etcdserver: no space left for the write-ahead log; free some, and writes are accepted again";
    ApiError::request(ErrorCode::RaftInternal, cause)
}

/// A request that arrived at `begun` is given up.
fn late(hub: &Hub, begun: Instant) -> Late {
    let now = clock::monotonic();
    let age = |since: Instant| now.saturating_duration_since(since);
    let node = hub.node.borrow();
    Late {
        age: age(begun),
        elected: hub.elected.get().map(age),
        election_timeout: hub.election_timeout.get(),
        was_connected: hub.peers.were_reached_since(begun, &node),
    }
}
