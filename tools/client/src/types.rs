//! The answers of the v2 keys and members API as values.
//!
//! Owns: their JSON shapes. Touches: nothing. Always: members the server leaves out become empty, false or zero, and
//! unknown members are ignored.

use serde::{Deserialize, Serialize, Serializer};

/// The answer to a request on `/v2/keys`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Response {
    /// `get`, `set`, `create`, `update`, `delete`, `expire`, `compareAndSwap` or `compareAndDelete`.
    pub action: String,
    pub node: Option<Node>,
    #[serde(rename = "prevNode", default)]
    pub prev_node: Option<Node>,
    /// The `X-Etcd-Index` header of the answer.
    #[serde(skip)]
    pub index: u64,
}

/// A file or a directory.
///
/// Serialises the way etcd's own client library does: `value` always, `nodes` null when there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Node {
    /// Empty for the root.
    pub key: String,
    #[serde(skip_serializing_if = "is_false")]
    pub dir: bool,
    pub value: String,
    #[serde(serialize_with = "null_when_empty")]
    pub nodes: Vec<Node>,
    pub created_index: u64,
    pub modified_index: u64,
    /// RFC 3339, as the server wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiration: Option<String>,
    /// Seconds left; 0 without a time to live.
    #[serde(skip_serializing_if = "is_zero")]
    pub ttl: i64,
}

fn is_false(b: &bool) -> bool {
    !b
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

fn null_when_empty<S: Serializer>(nodes: &[Node], serializer: S) -> Result<S::Ok, S::Error> {
    if nodes.is_empty() { serializer.serialize_none() } else { serializer.collect_seq(nodes) }
}

/// A member of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Member {
    /// Hexadecimal, without leading zeros.
    pub id: String,
    /// Empty while it has never started.
    pub name: String,
    #[serde(rename = "peerURLs")]
    pub peer_urls: Vec<String>,
    #[serde(rename = "clientURLs")]
    pub client_urls: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_reads_what_servers_send_and_writes_what_the_go_client_writes() {
        let sent = r#"{"action":"set","node":{"key":"/a","value":"1","modifiedIndex":7,"createdIndex":7,"x":0}}"#;
        let response: Response = serde_json::from_str(sent).expect("a valid answer");
        assert_eq!(
            serde_json::to_string(&response).expect("plain data"),
            r#"{"action":"set","node":{"key":"/a","value":"1","nodes":null,"createdIndex":7,"modifiedIndex":7},"prevNode":null}"#
        );
    }

    #[test]
    fn directories_ttl_and_children_survive_a_round_trip() {
        let text = r#"{"key":"/d","dir":true,"value":"","nodes":[{"key":"/d/a","value":"1","nodes":null,"createdIndex":1,"modifiedIndex":2,"expiration":"2020-01-01T00:00:00Z","ttl":3}],"createdIndex":1,"modifiedIndex":1}"#;
        let tolerant = text.replace("\"nodes\":null,", "");
        let node: Node = serde_json::from_str(&tolerant).expect("a valid node");
        assert_eq!(serde_json::to_string(&node).expect("plain data"), text);
    }
}
