//! Request target to endpoint, by Go's rules: the path is decoded, cleaned, and redirected when cleaning changed it.
//!
//! Owns: the list of endpoints and the methods each allows.
//!
//! Always holds: any bytes are routed or refused, never a panic; a target whose path needs no decoding and no cleaning
//! is routed without copying.

use super::method::Method;
use super::params::decode_percent;

/// Where a request goes. Paths and names are decoded; any bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// `/v2/keys...`: the key's clean absolute path, `/` for the root.
    Keys(&'a [u8]),
    /// `/v2/members`, `/v2/members/`.
    Members,
    /// `/v2/members/leader`; for methods other than GET, `leader` is an id like any other.
    MembersLeader,
    /// `/v2/members/ID`: what stands for the id.
    Member(&'a [u8]),
    /// `/members` of a peer URL; no target of a client URL leads here.
    PeerMembers,
    /// `/v2/machines`.
    Machines,
    /// `/v2/stats/self`.
    StatsSelf,
    /// `/v2/stats/store`.
    StatsStore,
    /// `/v2/stats/leader`.
    StatsLeader,
    /// `/v2/auth/enable`.
    AuthEnable,
    /// `/v2/auth/users`, `/v2/auth/users/`.
    AuthUsers,
    /// `/v2/auth/users/NAME`.
    AuthUser(&'a [u8]),
    /// `/v2/auth/roles`, `/v2/auth/roles/`.
    AuthRoles,
    /// `/v2/auth/roles/NAME`.
    AuthRole(&'a [u8]),
    /// `/version`.
    Version,
    /// `/health`.
    Health,
    /// `/livez`, or `/livez/NAME` with the name of a check; empty without.
    Livez(&'a [u8]),
    /// `/readyz`, or `/readyz/NAME`.
    Readyz(&'a [u8]),
    /// `/metrics`.
    Metrics,
    /// `/debug/pprof/...`: what follows.
    Pprof(&'a [u8]),
    /// `/debug/vars`.
    DebugVars,
    /// `/config/local/log`.
    LocalLog,
    /// 301 with this `Location`; nothing is executed, whatever the method.
    Redirect(Vec<u8>),
    /// 404, `404 page not found\n`, text/plain.
    NotFound,
    /// 400: the target is not a URL path; Go closes the connection.
    BadTarget,
}

/// A routed target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routed<'a> {
    /// The endpoint.
    pub route: Route<'a>,
    /// The raw query, without the question mark; empty when there is none.
    pub query: &'a [u8],
}

/// Whether an endpoint takes a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodVerdict {
    /// It does.
    Allowed,
    /// 405, `Method Not Allowed\n`, text/plain, with this `Allow` header if there is one.
    NotAllowed {
        /// The header's value.
        allow: Option<&'static str>,
    },
}

impl Route<'_> {
    /// Whether the endpoint takes `method`. OPTIONS is answered before this (see [`Method::Options`]).
    #[must_use]
    pub fn check_method(&self, method: Method) -> MethodVerdict {
        use Method::{Delete, Get, Head, Post, Put};
        let (allowed, allow): (&[Method], _) = match self {
            Self::Keys(_) => (&[Head, Get, Put, Post, Delete], "HEAD,GET,PUT,POST,DELETE"),
            Self::Members => {
                if matches!(method, Put | Delete) {
                    return MethodVerdict::NotAllowed { allow: None };
                }
                (&[Get, Post], "GET,POST,DELETE,PUT")
            }
            Self::MembersLeader | Self::Member(_) => (&[Get, Post, Delete, Put], "GET,POST,DELETE,PUT"),
            Self::Machines => (&[Get, Head], "GET,HEAD"),
            Self::PeerMembers
            | Self::StatsSelf
            | Self::StatsStore
            | Self::StatsLeader
            | Self::DebugVars
            | Self::Version
            | Self::Health
            | Self::Livez(_)
            | Self::Readyz(_)
            | Self::AuthUsers
            | Self::AuthRoles => (&[Get], "GET"),
            Self::AuthEnable | Self::AuthUser(_) | Self::AuthRole(_) => (&[Get, Put, Delete], "GET,PUT,DELETE"),
            Self::LocalLog => (&[Put], "PUT"),
            Self::Metrics | Self::Pprof(_) | Self::Redirect(_) | Self::NotFound | Self::BadTarget => {
                return MethodVerdict::Allowed;
            }
        };
        if allowed.contains(&method) {
            MethodVerdict::Allowed
        } else {
            MethodVerdict::NotAllowed { allow: Some(allow) }
        }
    }
}

/// Routes the target of a request line. `decoded` is working space; it is only used when the path has escapes.
#[must_use]
pub fn route<'a>(target: &'a [u8], decoded: &'a mut Vec<u8>) -> Routed<'a> {
    if is_plain(target) {
        return Routed { route: endpoint(target), query: b"" };
    }
    let bad = Routed { route: Route::BadTarget, query: b"" };
    if target.iter().any(|&byte| byte < 0x20 || byte == 0x7f) {
        return bad;
    }
    let rest = if target.starts_with(b"/") {
        target
    } else {
        match strip_authority(target) {
            Some(rest) => rest,
            None => return bad,
        }
    };
    let cut = rest.iter().position(|&byte| byte == b'?').unwrap_or(rest.len());
    let (raw_path, query) = (&rest[..cut], rest.get(cut + 1..).unwrap_or_default());
    if needs_no_work(raw_path) {
        return Routed { route: endpoint(raw_path), query };
    }
    decoded.clear();
    if decode_percent(raw_path, false, decoded).is_err() {
        return bad;
    }
    let cleaned = clean(decoded);
    let route = if cleaned == *decoded { endpoint(decoded) } else { Route::Redirect(location(&cleaned, query)) };
    Routed { route, query }
}

/// Whether a target is a path and nothing else, as most are: no query, no escape, nothing to clean, nothing forbidden.
/// One pass that never branches on a byte, so that it becomes vector code, where the general way takes three.
#[inline]
fn is_plain(target: &[u8]) -> bool {
    let Some((b'/', rest)) = target.split_first() else { return false };
    let special = |special: bool, (&before, &byte): (&u8, &u8)| {
        special
            | (byte < 0x20)
            | (byte == 0x7f)
            | (byte == b'%')
            | (byte == b'?')
            | ((before == b'/') & ((byte == b'/') | (byte == b'.')))
    };
    !target.iter().zip(rest).fold(false, special)
}

/// The absolute form of a target (`http://host/path`): what follows the authority.
fn strip_authority(target: &[u8]) -> Option<&[u8]> {
    let colon = target.iter().position(|&byte| byte == b':')?;
    let (scheme, rest) = target.split_at(colon);
    let is_scheme = scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte));
    let rest = rest.strip_prefix(b"://").filter(|_| is_scheme)?;
    let end = rest.iter().position(|&byte| byte == b'/' || byte == b'?').unwrap_or(rest.len());
    Some(&rest[end..])
}

/// Whether a path holds no escape, and no component that cleaning could remove.
fn needs_no_work(path: &[u8]) -> bool {
    let mut after_slash = false;
    for &byte in path {
        if byte == b'%' || (after_slash && (byte == b'/' || byte == b'.')) {
            return false;
        }
        after_slash = byte == b'/';
    }
    path.starts_with(b"/")
}

/// Go's `path.Clean` of a rooted path, keeping one trailing slash, as its request router does.
fn clean(path: &[u8]) -> Vec<u8> {
    let mut cleaned = Vec::with_capacity(path.len() + 1);
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                let parent = cleaned.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                cleaned.truncate(parent);
            }
            _ => {
                cleaned.push(b'/');
                cleaned.extend_from_slice(name);
            }
        }
    }
    if cleaned.is_empty() || path.ends_with(b"/") {
        cleaned.push(b'/');
    }
    cleaned
}

/// The path as Go writes it into a URL, and the query as it came, but for bytes a header may not carry.
fn location(path: &[u8], query: &[u8]) -> Vec<u8> {
    let mut location = Vec::with_capacity(path.len() + query.len() + 1);
    for &byte in path {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte) {
            location.push(byte);
        } else {
            location.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    if !query.is_empty() {
        location.push(b'?');
        for &byte in query {
            if byte < 0x80 {
                location.push(byte);
            } else {
                location.extend_from_slice(format!("%{byte:02x}").as_bytes());
            }
        }
    }
    location
}

/// The endpoint of a clean, decoded path.
fn endpoint(path: &[u8]) -> Route<'_> {
    if let Some(rest) = path.strip_prefix(b"/v2/keys") {
        return match rest {
            b"" | b"/" => Route::Keys(b"/"),
            [b'/', .., b'/'] => Route::Keys(&rest[..rest.len() - 1]),
            [b'/', ..] => Route::Keys(rest),
            _ => Route::NotFound,
        };
    }
    match path {
        b"/v2/members" | b"/v2/members/" => Route::Members,
        b"/v2/members/leader" => Route::MembersLeader,
        b"/v2/machines" => Route::Machines,
        b"/v2/stats/self" => Route::StatsSelf,
        b"/v2/stats/store" => Route::StatsStore,
        b"/v2/stats/leader" => Route::StatsLeader,
        b"/v2/auth/enable" => Route::AuthEnable,
        b"/v2/auth/users" | b"/v2/auth/users/" => Route::AuthUsers,
        b"/v2/auth/roles" | b"/v2/auth/roles/" => Route::AuthRoles,
        b"/version" => Route::Version,
        b"/health" => Route::Health,
        b"/livez" => Route::Livez(b""),
        b"/readyz" => Route::Readyz(b""),
        b"/metrics" => Route::Metrics,
        b"/debug/vars" => Route::DebugVars,
        b"/config/local/log" => Route::LocalLog,
        _ => {
            if let Some(id) = path.strip_prefix(b"/v2/members/") {
                Route::Member(id)
            } else if let Some(name) = path.strip_prefix(b"/v2/auth/users/") {
                Route::AuthUser(name)
            } else if let Some(name) = path.strip_prefix(b"/v2/auth/roles/") {
                Route::AuthRole(name)
            } else if let Some(rest) = path.strip_prefix(b"/debug/pprof/") {
                Route::Pprof(rest)
            } else if let Some(name @ [_, ..]) = path.strip_prefix(b"/livez/") {
                Route::Livez(name)
            } else if let Some(name @ [_, ..]) = path.strip_prefix(b"/readyz/") {
                Route::Readyz(name)
            } else {
                Route::NotFound
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn routed(target: &str) -> String {
        let mut decoded = Vec::new();
        let Routed { route, query } = route(target.as_bytes(), &mut decoded);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match route {
            Route::Keys(path) => format!("keys {} ? {}", text(path), text(query)),
            Route::Redirect(location) => format!("to {}", text(&location)),
            Route::Member(id) => format!("member {}", text(id)),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn keys_are_decoded_and_lose_one_trailing_slash() {
        for (target, expected) in [
            ("/v2/keys", "keys / ? "),
            ("/v2/keys/", "keys / ? "),
            ("/v2/keys?a=1", "keys / ? a=1"),
            ("/v2/keys/a/b/", "keys /a/b ? "),
            ("/v2/keys/a+b%20c?x=%20?y", "keys /a+b c ? x=%20?y"),
            ("/v2/keys/a%2Fb", "keys /a/b ? "),
            ("/v2/keys/a..b/.../.x", "keys /a..b/.../.x ? "),
            ("/v2/%6Beys/a#b", "keys /a#b ? "),
            ("http://host:1/v2/keys/a?b", "keys /a ? b"),
        ] {
            assert_eq!(routed(target), expected, "{target}");
        }
    }

    #[test]
    fn unclean_paths_are_redirected() {
        for (target, expected) in [
            ("/v2/keys/a//b?recursive=true", "to /v2/keys/a/b?recursive=true"),
            ("//v2/keys/x", "to /v2/keys/x"),
            ("/v2/keys/..", "to /v2"),
            ("/v2/keys/../../../version", "to /version"),
            ("/v2/keys/q//", "to /v2/keys/q/"),
            ("/v2/keys/a/.", "to /v2/keys/a"),
            ("/v2/keys/a/%2e%2e/b", "to /v2/keys/b"),
            ("/v2/keys/a%2F%2Fb!é%3F", "to /v2/keys/a/b%21%C3%A9%3F"),
            ("/..", "to /"),
            ("http://host", "to /"),
        ] {
            assert_eq!(routed(target), expected, "{target}");
        }
    }

    #[test]
    fn other_targets() {
        for (target, expected) in [
            ("/", "NotFound"),
            ("/v2", "NotFound"),
            ("/v2/keysfoo", "NotFound"),
            ("/version/", "NotFound"),
            ("/v2/stats/store/", "NotFound"),
            ("/version", "Version"),
            ("/livez", "Livez([])"),
            ("/livez/", "NotFound"),
            ("/readyz/ab", "Readyz([97, 98])"),
            ("/debug/pprof", "NotFound"),
            ("/debug/pprof/", "Pprof([])"),
            ("/v2/members/", "Members"),
            ("/v2/members/leader", "MembersLeader"),
            ("/v2/members/1f/x", "member 1f/x"),
            ("/v2/keys/%zz", "BadTarget"),
            ("/v2/keys/%2", "BadTarget"),
            ("v2/keys", "BadTarget"),
            ("*", "BadTarget"),
            ("", "BadTarget"),
            ("/v2/keys/a\x7f", "BadTarget"),
        ] {
            assert_eq!(routed(target), expected, "{target}");
        }
    }

    #[test]
    fn methods_are_checked_per_endpoint() {
        use MethodVerdict::{Allowed, NotAllowed};
        assert_eq!(Route::Keys(b"/").check_method(Method::Head), Allowed);
        let allow = Some("HEAD,GET,PUT,POST,DELETE");
        assert_eq!(Route::Keys(b"/").check_method(Method::Other), NotAllowed { allow });
        assert_eq!(Route::Members.check_method(Method::Delete), NotAllowed { allow: None });
        assert_eq!(Route::Member(b"1").check_method(Method::Delete), Allowed);
        assert_eq!(Route::Metrics.check_method(Method::Put), Allowed);
        assert_eq!(Route::Version.check_method(Method::Head), NotAllowed { allow: Some("GET") });
    }

    proptest! {
        /// Whatever is not redirected is clean, and following a redirect leads to a target that is not redirected.
        #[test]
        fn a_redirect_leads_somewhere_else_once(path in "(/(v2|keys|\\.|\\.\\.|a|%2e|%2F|%25|é|_x| )?){0,6}(\\?[a-z%]*)?") {
            let mut decoded = Vec::new();
            if let Route::Redirect(location) = route(path.as_bytes(), &mut decoded).route {
                let mut again = Vec::new();
                let next = route(&location, &mut again).route;
                prop_assert!(!matches!(next, Route::Redirect(_) | Route::BadTarget), "{path} -> {next:?}");
            }
        }

        /// The way for plain targets is a short cut, not another rule: an empty query leads past it.
        #[test]
        fn plain_targets_are_routed_as_all_are(target in "/(v2|keys|members|stats|a|[.]|_x|/){0,6}") {
            let (mut decoded, mut again) = (Vec::new(), Vec::new());
            let with_query = format!("{target}?");
            let general = route(with_query.as_bytes(), &mut again).route;
            prop_assert_eq!(route(target.as_bytes(), &mut decoded).route, general);
        }

        #[test]
        fn any_bytes_are_routed(target in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut decoded = Vec::new();
            let routed = route(&target, &mut decoded);
            if let Route::Keys(path) = routed.route {
                prop_assert!(path.starts_with(b"/") && (path == b"/" || !path.ends_with(b"/")));
            }
        }
    }
}
