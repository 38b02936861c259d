//! `/version`, `/health` and `/config/local/log`.
//!
//! Owns: the etcd level whose API is spoken. ringd's own version is in `ringd --version` and the `Server` header.

use super::json;

/// What `/version` says as `etcdserver`: the release whose v2 API the conformance cases were recorded from.
pub const ETCD_SERVER_VERSION: &str = "3.4.23";
/// The level members agree on, said as `etcdcluster` from then on.
pub const ETCD_CLUSTER_VERSION: &str = "3.4.0";
/// What `etcdcluster` says before they have.
const NOT_DECIDED: &str = "not_decided";

/// The body of `/version`, without a newline. `cluster` is empty before the cluster agreed.
pub fn render_version(out: &mut Vec<u8>, cluster: &str) {
    out.extend_from_slice(b"{\"etcdserver\":");
    json::push_string(out, ETCD_SERVER_VERSION.as_bytes());
    out.extend_from_slice(b",\"etcdcluster\":");
    json::push_string(out, if cluster.is_empty() { NOT_DECIDED } else { cluster }.as_bytes());
    out.push(b'}');
}

/// The body of `/health`; only the failure ends with a newline.
#[must_use]
pub const fn health(healthy: bool) -> &'static [u8] {
    if healthy { b"{\"health\":\"true\"}" } else { b"{\"health\":\"false\"}\n" }
}

/// Log levels under the names that `/config/local/log` knows, most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation; they are etcd's")]
pub enum LogLevel {
    Critical,
    Error,
    Warning,
    Notice,
    Info,
    Debug,
    Trace,
}

/// Reads the body of `PUT /config/local/log`: `{"Level":"INFO"}`. As in Go, member names match in any case, the last
/// one counts, and what follows the object is ignored; the level may be a name in any case, its first letter, or its
/// number.
///
/// # Errors
/// The message of etcd's 400.
pub fn parse_log_level(body: &[u8]) -> Result<LogLevel, String> {
    use serde_json::Value;
    const NOT_JSON: &str = "Invalid json body";
    let first = serde_json::Deserializer::from_slice(body).into_iter::<Value>().next();
    let members = match first {
        Some(Ok(Value::Object(members))) => members,
        Some(Ok(Value::Null)) => serde_json::Map::new(),
        _ => return Err(NOT_JSON.to_owned()),
    };
    let mut name = "";
    for (_, value) in members.iter().filter(|(key, _)| key.eq_ignore_ascii_case("level")) {
        match value {
            Value::String(text) => name = text,
            Value::Null => {}
            _ => return Err(NOT_JSON.to_owned()),
        }
    }
    match name.to_ascii_uppercase().as_str() {
        "CRITICAL" | "C" => Ok(LogLevel::Critical),
        "ERROR" | "E" | "0" => Ok(LogLevel::Error),
        "WARNING" | "W" | "1" => Ok(LogLevel::Warning),
        "NOTICE" | "N" | "2" => Ok(LogLevel::Notice),
        "INFO" | "I" | "3" => Ok(LogLevel::Info),
        "DEBUG" | "D" | "4" => Ok(LogLevel::Debug),
        "TRACE" | "T" | "5" => Ok(LogLevel::Trace),
        _ => Err(format!("Invalid log level {name}")),
    }
}

/// The body of a refusal by these endpoints, without a newline.
pub fn render_message(out: &mut Vec<u8>, message: &str) {
    out.extend_from_slice(b"{\"message\":");
    json::push_string(out, message.as_bytes());
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_as_etcd_reads_them() {
        for (body, expected) in [
            ("{\"Level\":\"INFO\"}", Ok(LogLevel::Info)),
            ("{\"level\":\"debug\",\"x\":1} junk", Ok(LogLevel::Debug)),
            ("{\"Level\":\"W\"}", Ok(LogLevel::Warning)),
            ("{\"Level\":\"WARN\"}", Err("Invalid log level WARN")),
            ("{\"Level\":\"Nope\"}", Err("Invalid log level Nope")),
            ("{}", Err("Invalid log level ")),
            ("null", Err("Invalid log level ")),
            ("{\"Level\":3}", Err("Invalid json body")),
            ("[]", Err("Invalid json body")),
            ("{bad", Err("Invalid json body")),
            ("", Err("Invalid json body")),
            ("\u{0}", Err("Invalid json body")),
        ] {
            assert_eq!(parse_log_level(body.as_bytes()), expected.map_err(str::to_owned), "{body}");
        }
    }
}
