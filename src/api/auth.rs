//! `/v2/auth/*` and credentials: requests to auth writes, the auth state to JSON.
//!
//! Owns: the shapes of auth requests and answers, and the reading of HTTP Basic credentials. What a write does, and
//! who may do what, is decided in `core/auth.rs`. Passwords pass through here on their way to being hashed; nothing
//! here keeps or prints one.
//!
//! Always holds: a request that was refused here is never proposed; any bytes are read or refused, never a panic.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use ringd_storage::payload::{AuthWrite, PermissionRecord, RoleChange, RoleRecord, UserChange};

use super::go_json::{self, Value, WrongType};
use super::json;
use crate::core::auth::{Auth, AuthDone, AuthRefusal, Permissions};

/// What an unauthorised request is told, with 401 and without a cluster id; keys say it as the cause of error 110.
pub const INSUFFICIENT: &str = "Insufficient credentials";
/// 400, without a cluster id: the path has more components than a name.
pub const INVALID_PATH: &str = "Invalid path";

/// Go's decoder does not look at the bits that fill up the last character.
const LENIENT: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// Whom a request says it comes from.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub user: String,
    /// The password, any bytes.
    pub password: Vec<u8>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Reads an `Authorization` header: `Basic`, in any case, and base64 of `user:password`. `None` when it is anything
/// else.
#[must_use]
pub fn basic_credentials(header: &[u8]) -> Option<Credentials> {
    const PREFIX: &[u8] = b"basic ";
    let (prefix, encoded) = header.split_at_checked(PREFIX.len())?;
    if !prefix.eq_ignore_ascii_case(PREFIX) {
        return None;
    }
    let decoded = LENIENT.decode(encoded).ok()?;
    let colon = decoded.iter().position(|&byte| byte == b':')?;
    // Names come out of JSON, so no user has one that is not UTF-8.
    let user = std::str::from_utf8(&decoded[..colon]).ok()?.to_owned();
    Some(Credentials { user, password: decoded[colon + 1..].to_vec() })
}

/// What permissions of a key are asked about: etcd takes what stands behind `/v2/keys` as it came, so that a trailing
/// slash counts and the bare prefix is an empty key. `raw_path` is the escaped path of the request, `key` its key.
#[must_use]
pub fn permission_key<'a>(raw_path: &[u8], key: &'a [u8]) -> Cow<'a, [u8]> {
    let end = &raw_path[raw_path.len().saturating_sub(3)..];
    let has_slash = raw_path.ends_with(b"/") || end.eq_ignore_ascii_case(b"%2f");
    match (key, has_slash) {
        (b"/", false) => Cow::Borrowed(b""),
        (b"/", true) | (_, false) => Cow::Borrowed(key),
        (_, true) => Cow::Owned([key, b"/"].concat()),
    }
}

/// A well-formed `PUT /v2/auth/users/NAME`.
#[derive(Clone, PartialEq, Eq)]
pub struct UserRequest {
    name: String,
    /// Empty when the request has none.
    pub password: String,
    roles: Option<Vec<String>>,
    grant: Vec<String>,
    revoke: Vec<String>,
}

impl std::fmt::Debug for UserRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserRequest").field("name", &self.name).finish_non_exhaustive()
    }
}

impl UserRequest {
    /// The command, with the hash of its password if it has one.
    #[must_use]
    pub fn write<'a>(&'a self, password_hash: Option<&'a str>) -> AuthWrite<'a> {
        AuthWrite::PutUser(UserChange {
            name: &self.name,
            password_hash,
            roles: self.roles.as_ref().map(|roles| borrowed(roles)),
            grant: borrowed(&self.grant),
            revoke: borrowed(&self.revoke),
        })
    }
}

fn borrowed(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

fn owned(list: Option<Vec<&str>>) -> Option<Vec<String>> {
    list.map(|list| list.into_iter().map(str::to_owned).collect())
}

const INVALID_JSON: &str = "Invalid JSON in request body.";

/// Reads a PUT of a user; `name` is the one in the path. The content type does not matter.
///
/// # Errors
/// The message of a 400.
pub fn parse_user(name: &[u8], body: &[u8]) -> Result<UserRequest, &'static str> {
    let value = go_json::parse_first(body).map_err(|_| INVALID_JSON)?;
    let request = read_user(&value).map_err(|WrongType| INVALID_JSON)?;
    if request.name.as_bytes() != name {
        return Err("User JSON name does not match the name in the URL");
    }
    let moves_roles = !request.grant.is_empty() || !request.revoke.is_empty();
    if moves_roles && request.roles.as_ref().is_some_and(|roles| !roles.is_empty()) {
        return Err("User JSON contains both roles and grant/revoke");
    }
    Ok(request)
}

fn read_user(value: &Value) -> Result<UserRequest, WrongType> {
    Ok(UserRequest {
        name: go_json::text(value, "user")?.to_owned(),
        password: go_json::text(value, "password")?.to_owned(),
        roles: owned(go_json::texts(value, "roles")?),
        grant: owned(go_json::texts(value, "grant")?).unwrap_or_default(),
        revoke: owned(go_json::texts(value, "revoke")?).unwrap_or_default(),
    })
}

/// A well-formed `PUT /v2/auth/roles/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleRequest {
    name: String,
    permissions: Permissions,
    grant: Option<Permissions>,
    revoke: Option<Permissions>,
}

fn is_empty(permissions: &Permissions) -> bool {
    permissions.read.iter().chain(&permissions.write).all(Vec::is_empty)
}

fn record(permissions: &Permissions) -> PermissionRecord<'_> {
    PermissionRecord {
        read: permissions.read.as_ref().map(|list| borrowed(list)),
        write: permissions.write.as_ref().map(|list| borrowed(list)),
    }
}

impl RoleRequest {
    fn updates(&self) -> bool {
        [&self.grant, &self.revoke].into_iter().flatten().any(|permissions| !is_empty(permissions))
    }

    /// The command.
    #[must_use]
    pub fn write(&self) -> AuthWrite<'_> {
        if self.updates() {
            AuthWrite::UpdateRole(RoleChange {
                name: &self.name,
                grant: self.grant.as_ref().map(record),
                revoke: self.revoke.as_ref().map(record),
            })
        } else {
            AuthWrite::CreateRole(RoleRecord { name: &self.name, permissions: record(&self.permissions) })
        }
    }
}

/// Reads a PUT of a role; `name` is the one in the path. The content type does not matter.
///
/// # Errors
/// The message of a 400.
pub fn parse_role(name: &[u8], body: &[u8]) -> Result<RoleRequest, &'static str> {
    let value = go_json::parse_first(body).map_err(|_| INVALID_JSON)?;
    let request = read_role(&value).map_err(|WrongType| INVALID_JSON)?;
    if request.name.as_bytes() != name {
        return Err("Role JSON name does not match the name in the URL");
    }
    if request.updates() && !is_empty(&request.permissions) {
        return Err("Role JSON contains both permissions and grant/revoke");
    }
    Ok(request)
}

fn read_role(value: &Value) -> Result<RoleRequest, WrongType> {
    let optional = |name| go_json::member(value, name)?.map(read_permissions).transpose();
    Ok(RoleRequest {
        name: go_json::text(value, "role")?.to_owned(),
        permissions: optional("permissions")?.unwrap_or_default(),
        grant: optional("grant")?,
        revoke: optional("revoke")?,
    })
}

fn read_permissions(value: &Value) -> Result<Permissions, WrongType> {
    let kv = go_json::member(value, "kv")?.unwrap_or(&Value::Null);
    Ok(Permissions { read: owned(go_json::texts(kv, "read")?), write: owned(go_json::texts(kv, "write")?) })
}

/// The HTTP status of a refusal.
#[must_use]
pub const fn refusal_status(refusal: &AuthRefusal) -> u16 {
    match refusal {
        AuthRefusal::AlreadyEnabled
        | AuthRefusal::AlreadyDisabled
        | AuthRefusal::NoRootUser
        | AuthRefusal::UserExists(_)
        | AuthRefusal::DuplicateRole { .. }
        | AuthRefusal::UngrantedRole { .. }
        | AuthRefusal::RoleExists(_)
        | AuthRefusal::DuplicatePermission { .. } => 409,
        AuthRefusal::NoUser(_)
        | AuthRefusal::NoUserToDelete(_)
        | AuthRefusal::NoRole(_)
        | AuthRefusal::NoRoleToDelete(_) => 404,
        AuthRefusal::RootUserNeeded | AuthRefusal::RootRole => 403,
        AuthRefusal::EmptyPassword(_) | AuthRefusal::UserUnchanged | AuthRefusal::RoleUnchanged => 400,
    }
}

/// The HTTP status of a success.
#[must_use]
pub const fn done_status(done: &AuthDone) -> u16 {
    match done {
        AuthDone::User { created: true, .. } | AuthDone::Role { created: true, .. } => 201,
        AuthDone::Quiet | AuthDone::User { .. } | AuthDone::Role { .. } => 200,
    }
}

/// Appends the body of a success; nothing for some.
pub fn render_done(out: &mut Vec<u8>, done: &AuthDone) {
    match done {
        AuthDone::Quiet => {}
        AuthDone::User { name, roles, .. } => {
            out.extend_from_slice(b"{\"user\":");
            json::push_string(out, name.as_bytes());
            out.extend_from_slice(b",\"roles\":");
            push_texts(out, roles.as_deref());
            out.extend_from_slice(b"}\n");
        }
        AuthDone::Role { name, permissions, .. } => {
            push_role(out, name, permissions);
            out.push(b'\n');
        }
    }
}

/// The body of `GET /v2/auth/enable`.
pub fn render_enabled(out: &mut Vec<u8>, auth: &Auth) {
    let body: &[u8] = if auth.is_enabled() { b"{\"enabled\":true}\n" } else { b"{\"enabled\":false}\n" };
    out.extend_from_slice(body);
}

/// The body of `GET /v2/auth/users`. Roles that do not exist are passed over.
pub fn render_users(out: &mut Vec<u8>, auth: &Auth) {
    out.extend_from_slice(b"{\"users\":");
    let mut separator = b'[';
    for name in auth.user_names() {
        out.push(separator);
        separator = b',';
        let held = auth.roles_of(name).unwrap_or_default();
        let roles: Vec<_> = held.iter().filter_map(|role| Some((role, auth.role(role).ok()?))).collect();
        push_user(out, name, &roles);
    }
    out.extend_from_slice(if separator == b'[' { b"null}\n" } else { b"]}\n" });
}

/// The body of `GET /v2/auth/users/NAME`.
///
/// # Errors
/// [`AuthRefusal::NoUser`], or [`AuthRefusal::NoRole`] when the user holds a role that does not exist; nothing was
/// appended then.
pub fn render_user(out: &mut Vec<u8>, auth: &Auth, name: &str) -> Result<(), AuthRefusal> {
    let held = auth.roles_of(name)?;
    let roles: Vec<_> = held.iter().map(|role| Ok((role, auth.role(role)?))).collect::<Result<_, AuthRefusal>>()?;
    push_user(out, name, &roles);
    out.push(b'\n');
    Ok(())
}

/// The body of `GET /v2/auth/roles`.
pub fn render_roles(out: &mut Vec<u8>, auth: &Auth) {
    out.extend_from_slice(b"{\"roles\":[");
    let mut first = true;
    for name in auth.role_names() {
        if let Ok(permissions) = auth.role(name) {
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            push_role(out, name, &permissions);
        }
    }
    out.extend_from_slice(b"]}\n");
}

/// The body of `GET /v2/auth/roles/NAME`.
///
/// # Errors
/// [`AuthRefusal::NoRole`]; nothing was appended then.
pub fn render_role(out: &mut Vec<u8>, auth: &Auth, name: &str) -> Result<(), AuthRefusal> {
    push_role(out, name, &auth.role(name)?);
    out.push(b'\n');
    Ok(())
}

fn push_user(out: &mut Vec<u8>, name: &str, roles: &[(&String, Permissions)]) {
    out.extend_from_slice(b"{\"user\":");
    json::push_string(out, name.as_bytes());
    for (place, (role, permissions)) in roles.iter().enumerate() {
        out.extend_from_slice(if place == 0 { b",\"roles\":[" } else { b"," });
        push_role(out, role, permissions);
    }
    out.extend_from_slice(if roles.is_empty() { b"}" } else { b"]}" });
}

fn push_role(out: &mut Vec<u8>, name: &str, permissions: &Permissions) {
    out.extend_from_slice(b"{\"role\":");
    json::push_string(out, name.as_bytes());
    out.extend_from_slice(b",\"permissions\":{\"kv\":{\"read\":");
    push_texts(out, permissions.read.as_deref());
    out.extend_from_slice(b",\"write\":");
    push_texts(out, permissions.write.as_deref());
    out.extend_from_slice(b"}}}");
}

fn push_texts(out: &mut Vec<u8>, texts: Option<&[String]>) {
    let Some(texts) = texts else {
        out.extend_from_slice(b"null");
        return;
    };
    out.push(b'[');
    for (place, text) in texts.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        json::push_string(out, text.as_bytes());
    }
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_basic_and_nothing_else() {
        let read = |header: &str| basic_credentials(header.as_bytes()).map(|c| (c.user, c.password));
        assert_eq!(read("Basic cm9vdDpycHc="), Some(("root".to_owned(), b"rpw".to_vec())));
        assert_eq!(read("bASIC cm9vdDpyOnc="), Some(("root".to_owned(), b"r:w".to_vec())));
        assert_eq!(read("Basic cm9vdDpycHd="), Some(("root".to_owned(), b"rpw".to_vec())), "filling bits");
        for bad in
            ["", "Basic", "Basic ", "Basic !!!", "Bearer abc", "Basic cm9vdA==", "Basic cm9vdDpycHc", "Basic /zo="]
        {
            assert_eq!(read(bad), None, "{bad}");
        }
        let shown = format!("{:?}", basic_credentials(b"Basic cm9vdDpycHc=").unwrap());
        assert!(!shown.contains("rpw") && !shown.contains("112"), "a password is never printed: {shown}");
    }

    #[test]
    fn a_trailing_slash_counts_for_permissions() {
        let key = |raw: &str, key: &str| String::from_utf8(permission_key(raw.as_bytes(), key.as_bytes()).into_owned());
        assert_eq!(key("/v2/keys", "/").unwrap(), "");
        assert_eq!(key("/v2/keys/", "/").unwrap(), "/");
        assert_eq!(key("/v2/keys/a", "/a").unwrap(), "/a");
        assert_eq!(key("/v2/keys/a/", "/a").unwrap(), "/a/");
        assert_eq!(key("/v2/keys/a%2F", "/a").unwrap(), "/a/");
        assert_eq!(key("", "/").unwrap(), "");
    }

    #[test]
    fn users_are_read_as_etcd_reads_them() {
        let request = parse_user(b"al", br#"{"user":"al","password":"p","roles":["r"],"other":1} trailing"#).unwrap();
        assert_eq!(request.password, "p");
        let AuthWrite::PutUser(change) = request.write(Some("$2a")) else { panic!("a user") };
        assert_eq!((change.password_hash, change.roles), (Some("$2a"), Some(vec!["r"])));
        for (body, message) in [
            ("", INVALID_JSON),
            ("{bad", INVALID_JSON),
            (r#"{"user":"al","roles":"r"}"#, INVALID_JSON),
            (r#"{"user":1}"#, INVALID_JSON),
            ("[]", INVALID_JSON),
            ("null", "User JSON name does not match the name in the URL"),
            (r#"{"user":"bob"}"#, "User JSON name does not match the name in the URL"),
            (r#"{"user":"al","roles":["a"],"grant":["b"]}"#, "User JSON contains both roles and grant/revoke"),
        ] {
            assert_eq!(parse_user(b"al", body.as_bytes()).unwrap_err(), message, "{body}");
        }
        assert!(parse_user(b"al", br#"{"user":"al","roles":[],"grant":["b"]}"#).is_ok());
    }

    #[test]
    fn roles_are_created_or_updated() {
        let read = |body: &str| parse_role(b"r", body.as_bytes());
        let created = read(r#"{"role":"r","permissions":{"kv":{"read":["/a"]}},"grant":{"kv":{"read":[]}}}"#).unwrap();
        let AuthWrite::CreateRole(role) = created.write() else { panic!("a new role") };
        assert_eq!(role.permissions, PermissionRecord { read: Some(vec!["/a"]), write: None });
        let updated = read(r#"{"role":"r","revoke":{"kv":{"write":["/a"]}}}"#).unwrap();
        let AuthWrite::UpdateRole(change) = updated.write() else { panic!("an update") };
        assert_eq!(change.grant, None);
        assert_eq!(change.revoke, Some(PermissionRecord { read: None, write: Some(vec!["/a"]) }));
        assert_eq!(read(r#"{"role":"x"}"#).unwrap_err(), "Role JSON name does not match the name in the URL");
        assert_eq!(read(r#"{"role":"r","permissions":[]}"#).unwrap_err(), INVALID_JSON);
        let both = r#"{"role":"r","permissions":{"kv":{"read":["/a"]}},"grant":{"kv":{"read":["/b"]}}}"#;
        assert_eq!(read(both).unwrap_err(), "Role JSON contains both permissions and grant/revoke");
    }

    #[test]
    fn answers_look_like_etcds() {
        let text = |render: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            render(&mut out);
            String::from_utf8(out).unwrap()
        };
        let mut auth = Auth::default();
        assert_eq!(text(&|out| render_users(out, &auth)), "{\"users\":null}\n");
        let user = parse_user(b"al", br#"{"user":"al","password":"p","roles":["none"]}"#).unwrap();
        let done = auth.apply(&user.write(Some("h"))).outcome.unwrap();
        assert_eq!(
            (done_status(&done), text(&|out| render_done(out, &done))),
            (200, "{\"user\":\"al\",\"roles\":[\"none\"]}\n".to_owned())
        );
        assert_eq!(text(&|out| render_users(out, &auth)), "{\"users\":[{\"user\":\"al\"}]}\n");
        let mut out = Vec::new();
        let refusal = render_user(&mut out, &auth, "al").unwrap_err();
        assert_eq!((refusal_status(&refusal), refusal.to_string().as_str()), (404, "auth: Role none does not exist."));
        assert!(out.is_empty());
        let root = "{\"role\":\"root\",\"permissions\":{\"kv\":{\"read\":[\"/*\"],\"write\":[\"/*\"]}}}";
        assert_eq!(text(&|out| render_roles(out, &auth)), format!("{{\"roles\":[{root}]}}\n"));
        assert_eq!(text(&|out| render_role(out, &auth, "root").unwrap()), format!("{root}\n"));
        assert_eq!(text(&|out| render_enabled(out, &auth)), "{\"enabled\":false}\n");
    }
}
