//! Auth and membership requests: who may ask, what is proposed, how it is answered.
//!
//! Owns: the order of checks at `/v2/auth/*` and of the changing methods at `/v2/members`, and the permission check of
//! keys. Touches: `api` for what requests mean, the hub's node for applied state. Awaits nothing: what must be awaited
//! (a bcrypt, the WAL) is returned as a [`Dispatch`], and the request is dispatched again.
//!
//! Must hold: with auth on, nothing is proposed or shown before the sender's right to it was checked.

use super::clock;
use super::connection::{Conn, Form};
use super::credentials::{Sender, VerifyPlan};
use super::disk::Admission;
use super::driver::Hub;
use super::respond::{Dispatch, Reply, Responder};
use crate::api::auth::{self, INSUFFICIENT, INVALID_PATH};
use crate::api::keys::KeysRequest;
use crate::api::members::{self, INTERNAL, Refused};
use crate::api::method::Method;
use crate::api::route::{MethodVerdict, Route};
use crate::config::url::Url;
use crate::core::auth::{Access, AuthRefusal};
use crate::core::event::{Input, Outcome};
use crate::core::membership::{MemberChange, MemberRefusal};
use crate::wire::http_body::Request;
use crate::wire::http_reply::{JSON, ReplyHead, TEXT, append_reply, append_reply_bytes};

/// Whether a request may go on.
#[derive(Debug)]
pub enum Right {
    /// It may.
    Granted,
    /// It may not.
    Denied,
    /// A password must be verified first.
    Ask(VerifyPlan),
}

/// What of an endpoint is open to everybody.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Nothing,
    Reads,
}

/// Whether these routes are answered here.
#[must_use]
pub fn is_managed(route: &Route<'_>, method: Method) -> bool {
    match route {
        Route::AuthEnable | Route::AuthUsers | Route::AuthUser(_) | Route::AuthRoles | Route::AuthRole(_) => true,
        Route::Members | Route::MembersLeader | Route::Member(_) => {
            matches!(method, Method::Put | Method::Post | Method::Delete)
        }
        _ => false,
    }
}

/// Whether the sender may do this to the key space. Call it only while auth is on.
#[must_use]
pub fn right_to_key(
    hub: &Hub,
    conn: &Conn,
    request: &Request<'_>,
    method: Method,
    path: &[u8],
    asked: &KeysRequest<'_>,
) -> Right {
    let recursive = match asked {
        KeysRequest::Get { recursive, .. } | KeysRequest::Watch { recursive, .. } => *recursive,
        KeysRequest::Write { write, .. } => write.recursive,
    };
    let access = Access { write: !matches!(method, Method::Get | Method::Head), recursive };
    let key = auth::permission_key(request.head.path, path);
    let node = hub.node.borrow();
    let allowed = match hub.credentials.sender(node.auth(), conn, request.head.authorization) {
        Sender::Guest => node.auth().allows(None, &key, access),
        Sender::User(user) => node.auth().allows(Some(&user), &key, access),
        Sender::Refused => false,
        Sender::Unknown(plan) => return Right::Ask(plan),
    };
    if allowed { Right::Granted } else { Right::Denied }
}

fn right_to_manage(hub: &Hub, conn: &Conn, request: &Request<'_>, method: Method, open: Open) -> Right {
    let node = hub.node.borrow();
    if !node.auth().is_enabled() || (open == Open::Reads && matches!(method, Method::Get | Method::Head)) {
        return Right::Granted;
    }
    match hub.credentials.sender(node.auth(), conn, request.head.authorization) {
        Sender::User(user) if node.auth().is_root(&user) => Right::Granted,
        Sender::Guest | Sender::User(_) | Sender::Refused => Right::Denied,
        Sender::Unknown(plan) => Right::Ask(plan),
    }
}

/// Why a change of members may not even be proposed (`--strict-reconfig-check`): what the members say, or the streams to
/// them.
fn reconfigure_refusal(hub: &Hub, change: &MemberChange) -> Option<String> {
    let node = hub.node.borrow();
    let config = node.config();
    if !config.strict_reconfig_check {
        return None;
    }
    if let Err(refusal) = node.members().check_quorum(change) {
        return Some(refusal.to_string());
    }
    let missing = hub.peers.check_health(node.members(), config.id, change).err()?;
    let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
    Some(format!(
        "etcdserver: unhealthy cluster: this change of members could cost the quorum while {} has not been connected for \
         five seconds",
        missing.join(", ")
    ))
}

impl Responder {
    /// Answers or proposes a request for which [`is_managed`] holds. Nothing may be awaited by its connection.
    pub(super) fn manage(
        &self,
        hub: &Hub,
        conn: &Conn,
        request: &Request<'_>,
        (method, route): (Method, &Route<'_>),
        reply: Reply,
    ) -> Dispatch {
        // One trailing slash is ignored.
        let name = |name: &'_ [u8]| -> usize { name.len() - usize::from(name.ends_with(b"/")) };
        if let Route::AuthUser(path) | Route::AuthRole(path) = route
            && path[..name(path)].contains(&b'/')
        {
            return self.say(conn, 400, INVALID_PATH, None, reply);
        }
        if matches!(route.check_method(method), MethodVerdict::NotAllowed { allow: Some(_) }) {
            self.other(hub, &mut conn.out(), method, route, reply);
            return Dispatch::Answered;
        }
        let open = match route {
            Route::AuthUsers | Route::AuthUser(_) | Route::AuthRoles | Route::AuthRole(_) => Open::Nothing,
            _ => Open::Reads,
        };
        match right_to_manage(hub, conn, request, method, open) {
            Right::Granted => {}
            Right::Denied => return self.say(conn, 401, INSUFFICIENT, None, reply),
            Right::Ask(plan) => return Dispatch::Verify(plan),
        }
        match route {
            Route::AuthUser(path) => self.user(hub, conn, request, (method, &path[..name(path)]), reply),
            Route::AuthRole(path) => self.role(hub, conn, request, (method, &path[..name(path)]), reply),
            Route::AuthEnable | Route::AuthUsers | Route::AuthRoles => self.auth(hub, conn, (method, route), reply),
            Route::Member(id) => self.members(hub, conn, request, (method, id), reply),
            Route::MembersLeader => self.members(hub, conn, request, (method, b"leader"), reply),
            _ => self.members(hub, conn, request, (method, b""), reply),
        }
    }

    /// A message, in the shape all these endpoints share.
    fn say(&self, conn: &Conn, status: u16, message: &str, cluster_id: Option<&str>, reply: Reply) -> Dispatch {
        self.append_message(&mut conn.out(), status, message, cluster_id, reply);
        Dispatch::Answered
    }

    fn append_message(&self, out: &mut Vec<u8>, status: u16, message: &str, cluster_id: Option<&str>, reply: Reply) {
        let date = self.date(clock::now());
        let head = ReplyHead { content_type: JSON, cluster_id, ..self.head(status, reply, &date) };
        append_reply(out, &head, |out| members::render_message(out, message));
    }

    /// Refuses a change of members that could cost the quorum: etcd's answer, which says nothing, with the reason in a
    /// header and in the log.
    fn reject(&self, out: &mut Vec<u8>, why: &str, reply: Reply) {
        tracing::warn!("{why}, rejecting the change of members");
        let (date, cluster_id) = (self.date(clock::now()), Some(self.cluster_id()));
        let head = ReplyHead { content_type: JSON, cluster_id, reason: Some(why), ..self.head(500, reply, &date) };
        append_reply(out, &head, |out| members::render_message(out, INTERNAL));
    }

    fn refuse(&self, conn: &Conn, refused: &Refused, reply: Reply) -> Dispatch {
        self.say(conn, refused.status, &refused.message, Some(self.cluster_id()), reply)
    }

    fn show(&self, conn: &Conn, reply: Reply, body: impl FnOnce(&mut Vec<u8>)) -> Dispatch {
        let date = self.date(clock::now());
        let head =
            ReplyHead { content_type: JSON, cluster_id: Some(self.cluster_id()), ..self.head(200, reply, &date) };
        append_reply(&mut conn.out(), &head, body);
        Dispatch::Answered
    }

    fn show_or_refuse(
        &self,
        conn: &Conn,
        reply: Reply,
        body: impl FnOnce(&mut Vec<u8>) -> Result<(), AuthRefusal>,
    ) -> Dispatch {
        let mut rendered = Vec::new();
        match body(&mut rendered) {
            Ok(()) => self.show(conn, reply, |out| out.extend_from_slice(&rendered)),
            Err(refusal) => {
                let refused = Refused { status: auth::refusal_status(&refusal), message: refusal.to_string() };
                self.refuse(conn, &refused, reply)
            }
        }
    }

    fn auth(&self, hub: &Hub, conn: &Conn, (method, route): (Method, &Route<'_>), reply: Reply) -> Dispatch {
        use ringd_storage::payload::AuthWrite;
        let node = hub.node.borrow();
        match (route, method) {
            (Route::AuthUsers, _) => self.show(conn, reply, |out| auth::render_users(out, node.auth())),
            (Route::AuthRoles, _) => self.show(conn, reply, |out| auth::render_roles(out, node.auth())),
            (_, Method::Put | Method::Delete) => {
                drop(node);
                let write = if method == Method::Put { AuthWrite::Enable } else { AuthWrite::Disable };
                self.propose(hub, conn, Form::Auth, 0, reply, |token| Input::Auth { token, write })
            }
            _ => self.show(conn, reply, |out| auth::render_enabled(out, node.auth())),
        }
    }

    fn user(
        &self,
        hub: &Hub,
        conn: &Conn,
        request: &Request<'_>,
        (method, name): (Method, &[u8]),
        reply: Reply,
    ) -> Dispatch {
        use ringd_storage::payload::AuthWrite;
        let text = String::from_utf8_lossy(name);
        match method {
            Method::Put => {
                let body = request.body.unwrap_or_default();
                let user = match auth::parse_user(name, body) {
                    Ok(user) => user,
                    Err(message) => return self.say(conn, 400, message, Some(self.cluster_id()), reply),
                };
                let hash = if user.password.is_empty() {
                    None
                } else {
                    match hub.credentials.hash_of(conn, &user.password) {
                        Ok(hash) => Some(hash),
                        Err(plan) => return Dispatch::Hash(plan),
                    }
                };
                let write = user.write(hash.as_deref());
                let dispatch =
                    self.propose(hub, conn, Form::Auth, body.len(), reply, |token| Input::Auth { token, write });
                if matches!(dispatch, Dispatch::ProposedAlone) {
                    conn.findings().forget_hash();
                }
                dispatch
            }
            Method::Delete => {
                let write = AuthWrite::DeleteUser(&text);
                self.propose(hub, conn, Form::Auth, text.len(), reply, |token| Input::Auth { token, write })
            }
            _ => self.show_or_refuse(conn, reply, |out| auth::render_user(out, hub.node.borrow().auth(), &text)),
        }
    }

    fn role(
        &self,
        hub: &Hub,
        conn: &Conn,
        request: &Request<'_>,
        (method, name): (Method, &[u8]),
        reply: Reply,
    ) -> Dispatch {
        use ringd_storage::payload::AuthWrite;
        let text = String::from_utf8_lossy(name);
        match method {
            Method::Put => {
                let body = request.body.unwrap_or_default();
                let role = match auth::parse_role(name, body) {
                    Ok(role) => role,
                    Err(message) => return self.say(conn, 400, message, Some(self.cluster_id()), reply),
                };
                let write = role.write();
                self.propose(hub, conn, Form::Auth, body.len(), reply, |token| Input::Auth { token, write })
            }
            Method::Delete => {
                let write = AuthWrite::DeleteRole(&text);
                self.propose(hub, conn, Form::Auth, text.len(), reply, |token| Input::Auth { token, write })
            }
            _ => self.show_or_refuse(conn, reply, |out| auth::render_role(out, hub.node.borrow().auth(), &text)),
        }
    }

    fn members(
        &self,
        hub: &Hub,
        conn: &Conn,
        request: &Request<'_>,
        (method, id): (Method, &[u8]),
        reply: Reply,
    ) -> Dispatch {
        if method != Method::Post && id.is_empty() {
            let date = self.date(clock::now());
            let head = ReplyHead {
                content_type: TEXT,
                nosniff: true,
                cluster_id: Some(self.cluster_id()),
                ..self.head(405, reply, &date)
            };
            append_reply_bytes(&mut conn.out(), &head, b"Method Not Allowed\n");
            return Dispatch::Answered;
        }
        let body = request.body.unwrap_or_default();
        let check_url = |url: &str| Url::parse(url).map(|url| url.as_str().to_owned());
        let peer_urls = || members::parse_peer_urls(request.head.content_type, body, check_url);
        let change = match method {
            Method::Post => peer_urls().map(|urls| MemberChange::Add(members::new_member(urls, clock::now()))),
            Method::Put => {
                members::parse_id(id).and_then(|id| peer_urls().map(|peer_urls| MemberChange::Update { id, peer_urls }))
            }
            _ => members::parse_id(id).map(MemberChange::Remove),
        };
        match change {
            Ok(change) => {
                if let Some(why) = reconfigure_refusal(hub, &change) {
                    self.reject(&mut conn.out(), &why, reply);
                    return Dispatch::Answered;
                }
                let form = Form::Members(Box::new(change.clone()));
                self.propose(hub, conn, form, body.len(), reply, |token| Input::Members { token, change })
            }
            Err(refused) => self.refuse(conn, &refused, reply),
        }
    }

    /// Proposes when the WAL has room. Nothing else of this connection begins before the answer: it may depend on who
    /// the users are.
    fn propose<'w>(
        &self,
        hub: &Hub,
        conn: &Conn,
        form: Form,
        bytes: usize,
        reply: Reply,
        input: impl FnOnce(crate::core::event::ClientToken) -> Input<'w>,
    ) -> Dispatch {
        match hub.disk.admit(bytes) {
            Admission::Yes => {
                hub.input(input(conn.expect_write(form, reply)));
                Dispatch::ProposedAlone
            }
            Admission::Later => Dispatch::AwaitRoom,
            Admission::Full => self.say(conn, 500, INTERNAL, Some(self.cluster_id()), reply),
        }
    }

    /// Answers a change of the auth state or the membership.
    pub(super) fn managed(&self, out: &mut Vec<u8>, form: &Form, outcome: &Outcome, reply: Reply) {
        let date = self.date(clock::now());
        let cluster_id = Some(self.cluster_id());
        let (status, message) = match (form, outcome) {
            (Form::Auth, Outcome::Auth(Ok(done))) => {
                let status = auth::done_status(done);
                let head = ReplyHead { content_type: JSON, cluster_id, ..self.head(status, reply, &date) };
                append_reply(out, &head, |out| auth::render_done(out, done));
                return;
            }
            (Form::Members(change), Outcome::Members(Ok(()))) => {
                let status = members::change_status(change);
                let content_type = if status == 204 { "" } else { JSON };
                let head = ReplyHead { content_type, cluster_id, ..self.head(status, reply, &date) };
                append_reply(out, &head, |out| members::render_changed(out, change));
                return;
            }
            (Form::Auth, Outcome::Auth(Err(refusal))) => (auth::refusal_status(refusal), refusal.to_string()),
            (Form::Members(change), Outcome::Members(Err(refusal))) => {
                if *refusal == MemberRefusal::NotEnoughStarted {
                    return self.reject(out, &refusal.to_string(), reply);
                }
                let Refused { status, message } = members::change_refused(change, *refusal);
                (status, message)
            }
            // No quorum in time, no leader, no space: etcd says no more than this here.
            _ => (500, INTERNAL.to_owned()),
        };
        self.append_message(out, status, &message, cluster_id, reply);
    }
}
