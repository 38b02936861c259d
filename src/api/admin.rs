//! `/version` and `/health`.
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

/// The body of `/health`, without a newline.
#[must_use]
pub const fn health(healthy: bool) -> &'static [u8] {
    if healthy { b"{\"health\":\"true\"}" } else { b"{\"health\":\"false\"}" }
}
