//! `/v2/members` and `/v2/machines`: who is in the cluster.
//!
//! Owns: the shape of member answers. Touches: the member table. Changes of membership are not here yet.

use super::json;
use crate::core::membership::{Member, Membership};

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

/// The body of `GET /v2/machines`: all client URLs, without a newline.
pub fn render_machines(out: &mut Vec<u8>, members: &Membership) {
    let mut first = true;
    for url in members.iter().flat_map(|member| &member.client_urls) {
        if !std::mem::take(&mut first) {
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(url.as_bytes());
    }
}

/// The body of a refusal by these endpoints.
pub fn render_message(out: &mut Vec<u8>, message: &str) {
    out.extend_from_slice(b"{\"message\":");
    json::push_string(out, message.as_bytes());
    out.extend_from_slice(b"}\n");
}
