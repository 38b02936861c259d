//! One record or snapshot item as a JSON object; the text form is made from the same object, so both say the same.

use ringd_storage::codec::{self, CodecError};
use ringd_storage::conf_change::{self, ConfChange};
use ringd_storage::ids::{EtcdIndex, UnixNanos};
use ringd_storage::payload::{
    AuthRecord, AuthWrite, Command, EventNode, EventRecord, ItemClass, KeyWrite, MemberRecord, NodeRecord,
    PermissionRecord, Proposal, RoleRecord, StoreRecord, UserRecord, WriteMethod,
};
use ringd_storage::record::{EntryKind, EntryRef, Record};
use serde_json::{Map, Value, json};

use crate::text::{escape, hex, instant, put_bytes};

type Object = Map<String, Value>;

fn put(object: &mut Object, name: &str, value: impl Into<Value>) {
    object.insert(name.to_owned(), value.into());
}

/// What a record says.
pub fn record(record: &Record<'_>) -> Object {
    let mut object = Object::new();
    match record {
        Record::Entry(found) => entry(&mut object, found),
        Record::HardState(state) => {
            put(&mut object, "type", "hardstate");
            put(&mut object, "term", state.term.get());
            put(&mut object, "vote", state.vote.to_string());
            put(&mut object, "commit", state.commit.get());
        }
        Record::SnapshotMarker { marker, replaces_log } => {
            put(&mut object, "type", "snapshot");
            put(&mut object, "term", marker.term.get());
            put(&mut object, "index", marker.index.get());
            put(&mut object, "replacesLog", *replaces_log);
        }
    }
    object
}

fn entry(object: &mut Object, entry: &EntryRef<'_>) {
    let is_normal = entry.kind == EntryKind::Normal;
    put(object, "type", if is_normal { "entry" } else { "confchange" });
    put(object, "term", entry.term.get());
    put(object, "index", entry.index.get());
    match entry.kind {
        EntryKind::Normal if entry.data.is_empty() => put(object, "command", "empty"),
        EntryKind::Normal => match Proposal::decode(entry.data) {
            Ok(found) => proposal(object, &found),
            Err(error) => undecodable(object, entry.data, &error.to_string()),
        },
        EntryKind::ConfChange => change(object, entry, conf_change::decode_v1(entry.data)),
        EntryKind::ConfChangeV2 => change(object, entry, conf_change::decode_v2(entry.data)),
    }
}

fn undecodable(object: &mut Object, data: &[u8], error: &str) {
    put(object, "command", "unknown");
    put(object, "error", error);
    put(object, "data_hex", hex(data));
}

fn change(object: &mut Object, entry: &EntryRef<'_>, change: Option<ConfChange<'_>>) {
    let Some(change) = change else {
        return undecodable(object, entry.data, "not a membership change");
    };
    put(object, "command", "members");
    let named = |c: &conf_change::Change| json!({"change": c.kind_name(), "member": format!("{:x}", c.node)});
    match change.changes.as_slice() {
        [only] => {
            put(object, "change", only.kind_name());
            put(object, "member", format!("{:x}", only.node));
        }
        several => put(object, "changes", several.iter().map(named).collect::<Vec<_>>()),
    }
    let context = change.context;
    match codec::decode::<MemberRecord<'_>>(context) {
        Ok(record) => member(object, &record),
        Err(_) if context.is_empty() => {}
        Err(_) => put(object, "context_hex", hex(context)),
    }
}

fn member(object: &mut Object, record: &MemberRecord<'_>) {
    put(object, "id", record.id.to_string());
    put(object, "name", record.name);
    put(object, "peerURLs", record.peer_urls.clone());
    put(object, "clientURLs", record.client_urls.clone());
}

fn proposal(object: &mut Object, proposal: &Proposal<'_>) {
    match &proposal.command {
        Command::Keys(write) => keys(object, write, proposal.at),
        Command::Expire { limit } => {
            put(object, "command", "expire");
            put(object, "limit", *limit);
        }
        Command::Publish(record) => {
            put(object, "command", "publish");
            member(object, record);
        }
        Command::ClusterVersion(version) => {
            put(object, "command", "cluster-version");
            put(object, "version", *version);
        }
        Command::Auth(write) => auth(object, write),
        Command::UpdateMember(record) => {
            put(object, "command", "update-member");
            put(object, "id", record.id.to_string());
            put(object, "peerURLs", record.peer_urls.clone());
        }
    }
    put(object, "at", instant(proposal.at));
    put(object, "origin", proposal.id.origin.to_string());
    put(object, "seq", proposal.id.seq);
}

/// Hashes are secrets: that one is there is all that is shown.
fn auth(object: &mut Object, write: &AuthWrite<'_>) {
    match write {
        AuthWrite::Enable => put(object, "command", "auth-enable"),
        AuthWrite::Disable => put(object, "command", "auth-disable"),
        AuthWrite::PutUser(change) => {
            put(object, "command", "auth-put-user");
            put(object, "user", change.name);
            put(object, "password", change.password_hash.is_some());
            put(object, "roles", change.roles.clone());
            put(object, "grant", change.grant.clone());
            put(object, "revoke", change.revoke.clone());
        }
        AuthWrite::DeleteUser(name) => {
            put(object, "command", "auth-delete-user");
            put(object, "user", *name);
        }
        AuthWrite::CreateRole(role) => {
            put(object, "command", "auth-create-role");
            put(object, "role", role.name);
            permissions(object, "", &role.permissions);
        }
        AuthWrite::UpdateRole(change) => {
            put(object, "command", "auth-update-role");
            put(object, "role", change.name);
            for (prefix, changed) in [("grant-", &change.grant), ("revoke-", &change.revoke)] {
                if let Some(changed) = changed {
                    permissions(object, prefix, changed);
                }
            }
        }
        AuthWrite::DeleteRole(name) => {
            put(object, "command", "auth-delete-role");
            put(object, "role", *name);
        }
    }
}

fn permissions(object: &mut Object, prefix: &str, permissions: &PermissionRecord<'_>) {
    put(object, &format!("{prefix}read"), permissions.read.clone());
    put(object, &format!("{prefix}write"), permissions.write.clone());
}

fn keys(object: &mut Object, write: &KeyWrite<'_>, at: UnixNanos) {
    put(object, "command", "keys");
    let method = match write.method {
        WriteMethod::Put => "PUT",
        WriteMethod::Post => "POST",
        WriteMethod::Delete => "DELETE",
    };
    put(object, "method", method);
    put_bytes(object, "path", write.path);
    if write.method != WriteMethod::Delete && !write.dir {
        put_bytes(object, "value", write.value);
    }
    for (name, on) in [("dir", write.dir), ("recursive", write.recursive), ("refresh", write.refresh)] {
        if on {
            put(object, name, true);
        }
    }
    if let Some(exist) = write.prev_exist {
        put(object, "prevExist", exist);
    }
    if let Some(value) = write.prev_value {
        put_bytes(object, "prevValue", value);
    }
    if write.prev_index != EtcdIndex::ZERO {
        put(object, "prevIndex", write.prev_index.get());
    }
    if let Some(deadline) = write.expires_at {
        // Whole seconds, rounded up, as etcd counts a TTL.
        put(object, "ttl", deadline.nanos_since(at).div_ceil(1_000_000_000));
        put(object, "expiration", instant(deadline));
    }
}

/// What an item of a snapshot says.
pub fn item(key: &[u8], value: &[u8]) -> Object {
    let mut object = Object::new();
    let (class, rest) = key.split_first().map_or((0, key), |(class, rest)| (*class, rest));
    let decoded = if class == ItemClass::Store as u8 {
        codec::decode(value).map(|record| store(&mut object, &record))
    } else if class == ItemClass::Member as u8 {
        codec::decode(value).map(|record| {
            put(&mut object, "type", "member");
            member(&mut object, &record);
        })
    } else if class == ItemClass::Node as u8 {
        codec::decode(value).map(|record| node(&mut object, rest, &record))
    } else if class == ItemClass::Event as u8 {
        codec::decode(value).map(|record| event(&mut object, &record))
    } else if class == ItemClass::RemovedMember as u8 {
        put(&mut object, "type", "removed-member");
        put(
            &mut object,
            "member",
            rest.try_into().map_or_else(|_| hex(rest), |id| format!("{:x}", u64::from_be_bytes(id))),
        );
        Ok(())
    } else if class == ItemClass::Auth as u8 {
        codec::decode(value).map(|record: AuthRecord| {
            put(&mut object, "type", "auth");
            put(&mut object, "enabled", record.enabled);
            put(&mut object, "prepared", record.prepared);
        })
    } else if class == ItemClass::User as u8 {
        codec::decode(value).map(|record: UserRecord<'_>| {
            put(&mut object, "type", "user");
            put(&mut object, "user", record.name);
            put(&mut object, "password", !record.password_hash.is_empty());
            put(&mut object, "roles", record.roles);
        })
    } else if class == ItemClass::Role as u8 {
        codec::decode(value).map(|record: RoleRecord<'_>| {
            put(&mut object, "type", "role");
            put(&mut object, "role", record.name);
            permissions(&mut object, "", &record.permissions);
        })
    } else {
        put(&mut object, "type", "unknown");
        put(&mut object, "key_hex", hex(key));
        put(&mut object, "data_hex", hex(value));
        Ok(())
    };
    if let Err(error) = decoded {
        malformed(&mut object, key, value, &error);
    }
    object
}

fn malformed(object: &mut Object, key: &[u8], value: &[u8], error: &CodecError) {
    put(object, "type", "unknown");
    put(object, "key_hex", hex(key));
    put(object, "error", error.to_string());
    put(object, "data_hex", hex(value));
}

fn store(object: &mut Object, record: &StoreRecord<'_>) {
    put(object, "type", "store");
    put(object, "etcdIndex", record.index.get());
    put(object, "clusterVersion", record.cluster_version);
    put(object, "stats", record.stats.clone());
    put(object, "expirySeq", record.expiry_seq);
}

fn node(object: &mut Object, path: &[u8], record: &NodeRecord<'_>) {
    put(object, "type", "node");
    put_bytes(object, "path", path);
    match record.value {
        Some(value) => put_bytes(object, "value", value),
        None => put(object, "dir", true),
    }
    put(object, "createdIndex", record.created.get());
    put(object, "modifiedIndex", record.modified.get());
    if let Some(deadline) = record.expires_at {
        put(object, "expiration", instant(deadline));
    }
}

fn event(object: &mut Object, record: &EventRecord<'_>) {
    let shown = |node: &EventNode<'_>| {
        let mut object = Object::new();
        put_bytes(&mut object, "path", node.path);
        if node.dir {
            put(&mut object, "dir", true);
        }
        if let Some(value) = node.value {
            put_bytes(&mut object, "value", value);
        }
        put(&mut object, "createdIndex", node.created.get());
        put(&mut object, "modifiedIndex", node.modified.get());
        if let Some(deadline) = node.expires_at {
            put(&mut object, "expiration", instant(deadline));
        }
        object
    };
    put(object, "type", "event");
    put(object, "etcdIndex", record.index.get());
    put(object, "action", record.action);
    put(object, "silent", record.silent);
    put(object, "at", instant(record.at));
    put(object, "node", shown(&record.node));
    if let Some(prev) = &record.prev {
        put(object, "prevNode", shown(prev));
    }
}

/// The object as one line of text: `type name=value ...`, strings quoted where they hold more than a word.
pub fn line(object: &Object) -> String {
    let mut words = Vec::with_capacity(object.len());
    for (name, value) in object {
        // Bytes that are not UTF-8 are shown from their exact form.
        if name.strip_suffix("_hex").is_some_and(|base| object.contains_key(base)) {
            continue;
        }
        let exact = object.get(&format!("{name}_hex")).and_then(Value::as_str).and_then(unhex);
        words.push(match (value, exact) {
            (_, Some(bytes)) => format!("{name}={}", escape(&bytes, true)),
            (Value::String(text), _) if name == "type" => text.clone(),
            (Value::String(text), _) if matches!(name.as_str(), "value" | "prevValue" | "error" | "path" | "name") => {
                format!("{name}={}", escape(text.as_bytes(), true))
            }
            (Value::String(text), _) => format!("{name}={}", escape(text.as_bytes(), false)),
            (other, _) => format!("{name}={other}"),
        });
    }
    words.join(" ")
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks_exact(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}
