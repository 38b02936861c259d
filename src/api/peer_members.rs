//! `/members` of peer URLs: how members tell a newcomer who is in the cluster.
//!
//! Owns: the shape of the list, etcd's: an array, ids as numbers, what is empty left out. Touches: the member table.
//! Must hold: any bytes give a list or a message; what is rendered reads back.

use ringd_storage::ids::MemberId;
use serde_json::Value;

use super::json;
use crate::core::membership::{Member, Membership};

/// The body of the answer.
pub fn render(out: &mut Vec<u8>, members: &Membership) {
    out.push(b'[');
    for (place, member) in members.iter().enumerate() {
        out.extend_from_slice(if place > 0 { b",{\"id\":" } else { b"{\"id\":" });
        json::push_u64(out, member.id.get());
        out.extend_from_slice(b",\"peerURLs\":");
        push_list(out, &member.peer_urls);
        if !member.name.is_empty() {
            out.extend_from_slice(b",\"name\":");
            json::push_string(out, member.name.as_bytes());
        }
        if !member.client_urls.is_empty() {
            out.extend_from_slice(b",\"clientURLs\":");
            push_list(out, &member.client_urls);
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"]\n");
}

fn push_list(out: &mut Vec<u8>, texts: &[String]) {
    out.push(b'[');
    for (place, text) in texts.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        json::push_string(out, text.as_bytes());
    }
    out.push(b']');
}

/// Reads such a list; real etcd members' as well.
///
/// # Errors
/// What is wrong with it.
pub fn parse(body: &[u8]) -> Result<Vec<Member>, String> {
    let list: Vec<Value> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let texts = |value: Option<&Value>| match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(texts)) => {
            let owned = texts.iter().map(|text| text.as_str().map(str::to_owned));
            owned.collect::<Option<Vec<_>>>().ok_or("a URL is no text")
        }
        Some(_) => Err("URLs are no list"),
    };
    let member = |value: &Value| -> Result<Member, &str> {
        Ok(Member {
            id: MemberId::new(value.get("id").and_then(Value::as_u64).ok_or("a member has no id")?),
            name: value.get("name").and_then(Value::as_str).unwrap_or_default().to_owned(),
            peer_urls: texts(value.get("peerURLs"))?,
            client_urls: texts(value.get("clientURLs"))?,
        })
    };
    list.iter().map(|value| member(value).map_err(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_reads_back_and_looks_like_etcds() {
        let mut members = Membership::default();
        let urls = |port: u16| vec![format!("http://127.0.0.1:{port}")];
        let one = Member { id: MemberId::new(7), name: "m0".to_owned(), peer_urls: urls(1), client_urls: urls(2) };
        let two =
            Member { id: MemberId::new(u64::MAX), name: String::new(), peer_urls: urls(3), client_urls: Vec::new() };
        assert!(members.put(one.clone()) && members.put(two.clone()));
        let mut out = Vec::new();
        render(&mut out, &members);
        assert_eq!(
            String::from_utf8(out.clone()).unwrap(),
            "[{\"id\":7,\"peerURLs\":[\"http://127.0.0.1:1\"],\"name\":\"m0\",\"clientURLs\":[\"http://127.0.0.1:2\"]},\
             {\"id\":18446744073709551615,\"peerURLs\":[\"http://127.0.0.1:3\"]}]\n"
        );
        assert_eq!(parse(&out), Ok(vec![one, two]));
        for bad in ["", "{}", "[{}]", "[{\"id\":-1}]", "[{\"id\":1,\"peerURLs\":[1]}]", "[{\"id\":1,\"peerURLs\":1}]"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
