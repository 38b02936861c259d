//! `/v2/members` and `/v2/machines`: who is in the cluster.
//!
//! Owns: the shape of member requests and answers. Touches: the member table. What makes a good peer URL is told by
//! the caller (flags are read by the same rules); whether a change is allowed is decided in `core`.

use ringd_storage::ids::{MemberId, UnixNanos};

use super::go_json::{self, Value};
use super::json;
use crate::core::membership::{self, Member, MemberChange, MemberRefusal, Membership};

const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// What etcd says of any failure that has no answer of its own.
pub const INTERNAL: &str = "Internal Server Error";

/// A request to these endpoints that is refused before anything is proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The HTTP status.
    pub status: u16,
    /// `message` of the body.
    pub message: String,
}

/// The member id behind `/v2/members/`: hexadecimal, as Go parses it.
///
/// # Errors
/// The 404 that an unparsable id gets.
pub fn parse_id(text: &[u8]) -> Result<MemberId, Refused> {
    let digits = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    digits
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .map(MemberId::new)
        .ok_or_else(|| Refused { status: 404, message: format!("No such member: {}", String::from_utf8_lossy(text)) })
}

/// Reads the body of a POST or PUT. `check_url` gives a peer URL's stored form, or etcd's words against it.
///
/// # Errors
/// 415 for a type other than JSON, 400 with Go's or etcd's words for the rest.
pub fn parse_peer_urls(
    content_type: Option<&[u8]>,
    body: &[u8],
    check_url: impl Fn(&str) -> Result<String, String>,
) -> Result<Vec<String>, Refused> {
    let given = String::from_utf8_lossy(content_type.unwrap_or_default()).into_owned();
    let kind = match given.split_once(';') {
        Some((kind, _)) => kind.to_lowercase().trim().to_owned(),
        None => given,
    };
    if kind != "application/json" {
        return Err(Refused { status: 415, message: format!("Bad Content-Type {kind}, accept application/json") });
    }
    let bad = |message: String| Refused { status: 400, message };
    let value = go_json::parse(body).map_err(bad)?;
    let mut urls = Vec::new();
    for url in url_texts(&value).map_err(bad)? {
        urls.push(check_url(url).map_err(bad)?);
    }
    if urls.is_empty() {
        return Err(bad("no valid URLs given".to_owned()));
    }
    urls.sort_unstable();
    Ok(urls)
}

/// The texts of `peerURLs`, or Go's complaint about a value of another type.
fn url_texts(value: &Value) -> Result<Vec<&str>, String> {
    let cannot = |value: &Value, into: &str| format!("json: cannot unmarshal {} into Go {into}", value.kind());
    let list = go_json::member(value, "peerURLs")
        .map_err(|_| cannot(value, "value of type struct { PeerURLs []string \"json:\\\"peerURLs\\\"\" }"))?;
    let items = match list {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(cannot(other, "struct field .peerURLs of type []string")),
    };
    items
        .iter()
        .map(|item| match item {
            Value::Text(text) => Ok(text.as_str()),
            Value::Null => Ok(""),
            other => Err(cannot(other, "struct field .peerURLs of type string")),
        })
        .collect()
}

/// A member that is to be added: etcd derives its id from its URLs and the second it was asked for.
#[must_use]
pub fn new_member(peer_urls: Vec<String>, now: UnixNanos) -> Member {
    let id = membership::member_id(&peer_urls, &(now.get() / NANOS_PER_SECOND).to_string());
    Member { id, name: String::new(), peer_urls, client_urls: Vec::new() }
}

/// The answer to a change that went through.
#[must_use]
pub const fn change_status(change: &MemberChange) -> u16 {
    if matches!(change, MemberChange::Add(_)) { 201 } else { 204 }
}

/// Appends its body; there is none for 204.
pub fn render_changed(out: &mut Vec<u8>, change: &MemberChange) {
    if let MemberChange::Add(member) = change {
        render_one(out, member);
    }
}

/// The answer to a change that was refused.
#[must_use]
pub fn change_refused(change: &MemberChange, refusal: MemberRefusal) -> Refused {
    use MemberRefusal::{IdExists, IdNotFound, IdRemoved, PeerUrlExists};
    let (status, message) = match (change, refusal) {
        (MemberChange::Add(_), IdExists) | (MemberChange::Add(_) | MemberChange::Update { .. }, PeerUrlExists) => {
            (409, refusal.to_string())
        }
        (MemberChange::Update { id, .. } | MemberChange::Remove(id), IdNotFound) => {
            (404, format!("No such member: {id}"))
        }
        (MemberChange::Remove(id), IdRemoved) => (410, format!("Member permanently removed: {id}")),
        _ => (500, INTERNAL.to_owned()),
    };
    Refused { status, message }
}

/// Appends one member object, in etcd's order of members.
fn push_member(out: &mut Vec<u8>, member: &Member) {
    out.extend_from_slice(b"{\"id\":");
    json::push_string(out, member.id.to_string().as_bytes());
    out.extend_from_slice(b",\"name\":");
    json::push_string(out, member.name.as_bytes());
    out.extend_from_slice(b",\"peerURLs\":");
    push_urls(out, &member.peer_urls);
    out.extend_from_slice(b",\"clientURLs\":");
    push_urls(out, &member.client_urls);
    out.push(b'}');
}

fn push_urls(out: &mut Vec<u8>, urls: &[String]) {
    out.push(b'[');
    for (place, url) in urls.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        json::push_string(out, url.as_bytes());
    }
    out.push(b']');
}

/// The body of `GET /v2/members`.
pub fn render_list(out: &mut Vec<u8>, members: &Membership) {
    out.extend_from_slice(b"{\"members\":[");
    for (place, member) in members.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        push_member(out, member);
    }
    out.extend_from_slice(b"]}\n");
}

/// The body of `GET /v2/members/leader`.
pub fn render_one(out: &mut Vec<u8>, member: &Member) {
    push_member(out, member);
    out.push(b'\n');
}

/// The body of `GET /v2/machines`: all client URLs, sorted, without a newline.
pub fn render_machines(out: &mut Vec<u8>, members: &Membership) {
    let mut urls: Vec<&str> = members.iter().flat_map(|member| &member.client_urls).map(String::as_str).collect();
    urls.sort_unstable();
    out.extend_from_slice(urls.join(", ").as_bytes());
}

/// The body of a refusal by these endpoints and those of auth; etcd ends it without a newline.
pub fn render_message(out: &mut Vec<u8>, message: &str) {
    out.extend_from_slice(b"{\"message\":");
    json::push_string(out, message.as_bytes());
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content_type: &str, body: &str) -> Result<Vec<String>, (u16, String)> {
        let check = |url: &str| if url == "bad" { Err("bad url".to_owned()) } else { Ok(url.trim().to_owned()) };
        parse_peer_urls(Some(content_type.as_bytes()), body.as_bytes(), check)
            .map_err(|refused| (refused.status, refused.message))
    }

    #[test]
    fn bodies_are_json_with_urls() {
        const TYPE: &str = "application/json";
        let urls = Ok(vec!["http://a:1".to_owned(), "http://b:1".to_owned()]);
        assert_eq!(read(TYPE, r#"{"peerURLs":[" http://b:1","http://a:1"],"name":1}"#), urls);
        assert_eq!(read("Application/JSON ; charset=utf-8", r#"{"PEERurls":["http://a:1"]}"#).unwrap().len(), 1);
        for (content_type, body, status, message) in [
            ("", "{}", 415, "Bad Content-Type , accept application/json"),
            ("Text/Plain", "{}", 415, "Bad Content-Type Text/Plain, accept application/json"),
            (TYPE, "", 400, "unexpected end of JSON input"),
            (TYPE, "{}", 400, "no valid URLs given"),
            (TYPE, "null", 400, "no valid URLs given"),
            (TYPE, r#"{"peerURLs":null}"#, 400, "no valid URLs given"),
            (TYPE, r#"{"peerURLs":["http://a:1","bad"]}"#, 400, "bad url"),
            (
                TYPE,
                r#"{"peerURLs":"x"}"#,
                400,
                "json: cannot unmarshal string into Go struct field .peerURLs of type []string",
            ),
            (
                TYPE,
                r#"{"peerURLs":[1]}"#,
                400,
                "json: cannot unmarshal number into Go struct field .peerURLs of type string",
            ),
            (
                TYPE,
                "[]",
                400,
                "json: cannot unmarshal array into Go value of type struct { PeerURLs []string \"json:\\\"peerURLs\\\"\" }",
            ),
        ] {
            assert_eq!(read(content_type, body), Err((status, message.to_owned())), "{content_type} {body}");
        }
    }

    #[test]
    fn ids_are_hexadecimal() {
        assert_eq!(parse_id(b"0DEADbeef"), Ok(MemberId::new(0xdead_beef)));
        for bad in [&b""[..], b"xyz", b"a/b", b"+1", b"11112222333344445", b"\xff"] {
            let refused = parse_id(bad).unwrap_err();
            assert_eq!(refused.status, 404);
            assert_eq!(refused.message, format!("No such member: {}", String::from_utf8_lossy(bad)));
        }
    }

    #[test]
    fn refusals_have_etcds_status() {
        let id = MemberId::new(0xab);
        let add =
            MemberChange::Add(new_member(vec!["http://a:1".to_owned()], UnixNanos::new(1_700_000_000_999_999_999)));
        let update = MemberChange::Update { id, peer_urls: Vec::new() };
        let remove = MemberChange::Remove(id);
        let all = [
            MemberRefusal::IdExists,
            MemberRefusal::PeerUrlExists,
            MemberRefusal::IdNotFound,
            MemberRefusal::IdRemoved,
            MemberRefusal::NotEnoughStarted,
        ];
        let statuses = |change| all.map(|refusal| change_refused(change, refusal).status);
        assert_eq!(statuses(&add), [409, 409, 500, 500, 500]);
        assert_eq!(statuses(&update), [500, 409, 404, 500, 500]);
        assert_eq!(statuses(&remove), [500, 500, 404, 410, 500]);
        assert_eq!(change_refused(&remove, MemberRefusal::IdRemoved).message, "Member permanently removed: ab");
        assert_eq!([change_status(&add), change_status(&update), change_status(&remove)], [201, 204, 204]);
    }

    #[test]
    fn a_new_members_id_is_of_its_urls_and_second() {
        let urls = || vec!["http://a:1".to_owned()];
        let id = |nanos| new_member(urls(), UnixNanos::new(nanos)).id;
        assert_eq!(id(5_000_000_000), id(5_999_999_999));
        assert_ne!(id(5_000_000_000), id(6_000_000_000));
        assert_eq!(id(5_000_000_000), membership::member_id(&urls(), "5"));
    }
}
