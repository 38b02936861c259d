//! Users, roles and permissions of the v2 API: what an auth write does, and who may do what.
//!
//! Owns: the auth state as of the last applied entry, and its rules. Touches: payload types. Knows no password (a hash
//! comes in, verification is the shell's), no HTTP and no store: it only says how many indexes a write takes there.
//!
//! Invariants:
//! 1. The same writes in the same order give the same state, refusals and index steps on every member.
//! 2. A refused write changes no user, role or switch.
//! 3. `version` moves with every change, so that whoever keeps a verdict can tell that it is stale.
//!
//! Source of the rules and texts: etcd 3.4's v2 auth, as observed (`tests/conformance/cases/v2_http/z_auth.json`).

use std::collections::{BTreeMap, BTreeSet};

use ringd_storage::codec::{self, CodecError};
use ringd_storage::payload::{
    AuthRecord, AuthWrite, ItemClass, PermissionRecord, RoleChange, RoleRecord, UserChange, UserRecord,
};
use ringd_storage::snapshot::push_item;

/// The user, and the role, that may do everything.
pub const ROOT: &str = "root";
/// The role of requests without credentials.
pub const GUEST: &str = "guest";
/// The pattern that covers every key.
const EVERYTHING: &str = "/*";
/// etcd's first auth write makes three directories and one key beside what it is about.
const PREPARE_STEPS: u32 = 4;

/// Path patterns: exact, or a prefix when the last character is `*`. `None` was null when it was created, and is shown
/// as null.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// What may be read.
    pub read: Option<Vec<String>>,
    /// What may be written.
    pub write: Option<Vec<String>>,
}

/// What is asked of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// It may change something.
    pub write: bool,
    /// It reaches everything below the key.
    pub recursive: bool,
}

impl Permissions {
    fn everything() -> Self {
        let list = || Some(vec![EVERYTHING.to_owned()]);
        Self { read: list(), write: list() }
    }

    /// Whether some pattern covers `key`.
    #[must_use]
    pub fn allow(&self, key: &[u8], access: Access) -> bool {
        let list = if access.write { &self.write } else { &self.read };
        let matches = if access.recursive { covers_below } else { covers };
        list.iter().flatten().any(|pattern| matches(pattern.as_bytes(), key))
    }

    fn record(&self) -> PermissionRecord<'_> {
        PermissionRecord { read: borrowed(&self.read), write: borrowed(&self.write) }
    }
}

fn borrowed(list: &Option<Vec<String>>) -> Option<Vec<&str>> {
    list.as_ref().map(|list| list.iter().map(String::as_str).collect())
}

fn owned(list: Option<&Vec<&str>>) -> Option<Vec<String>> {
    list.map(|list| list.iter().map(|&text| text.to_owned()).collect())
}

impl From<&PermissionRecord<'_>> for Permissions {
    fn from(record: &PermissionRecord<'_>) -> Self {
        Self { read: owned(record.read.as_ref()), write: owned(record.write.as_ref()) }
    }
}

/// Whether a pattern covers one key: equal, or a prefix when it ends in `*`. An empty pattern covers nothing.
#[must_use]
pub fn covers(pattern: &[u8], key: &[u8]) -> bool {
    match pattern {
        [prefix @ .., b'*'] => key.starts_with(prefix),
        exact => !exact.is_empty() && key == exact,
    }
}

/// Whether a pattern covers a key and all that is below it: only one that ends in `*` can.
#[must_use]
pub fn covers_below(pattern: &[u8], key: &[u8]) -> bool {
    matches!(pattern, [prefix @ .., b'*'] if key.starts_with(prefix))
}

/// A user as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
struct User {
    password_hash: String,
    roles: Option<Vec<String>>,
}

/// What a write achieved, as its answer shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthDone {
    /// Nothing to show.
    Quiet,
    /// A user, as it is now.
    User {
        /// Its name.
        name: String,
        /// Its role names.
        roles: Option<Vec<String>>,
        /// It is new, and the request did not name roles (etcd answers 201 to that only).
        created: bool,
    },
    /// A role, as it is now.
    Role {
        /// Its name.
        name: String,
        /// What it allows.
        permissions: Permissions,
        /// It is new.
        created: bool,
    },
}

/// Why a write was refused, or a question has no answer. The texts are etcd's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum AuthRefusal {
    #[error("auth: already enabled")]
    AlreadyEnabled,
    #[error("auth: already disabled")]
    AlreadyDisabled,
    #[error("auth: No root user available, please create one")]
    NoRootUser,
    #[error("auth: Cannot create user {0} with an empty password")]
    EmptyPassword(String),
    #[error("auth: User {0} already exists.")]
    UserExists(String),
    #[error("auth: User {0} does not exist.")]
    NoUser(String),
    /// The same, as only a removal words it.
    #[error("auth: User {0} does not exist")]
    NoUserToDelete(String),
    #[error("auth: Cannot delete root user while auth is enabled.")]
    RootUserNeeded,
    #[error("auth: Granting duplicate role {role} for user {user}")]
    DuplicateRole { role: String, user: String },
    #[error("auth: Revoking ungranted role {role} for user {user}")]
    UngrantedRole { role: String, user: String },
    #[error("auth: User not updated. Use grant/revoke/password to update the user.")]
    UserUnchanged,
    #[error("auth: Cannot modify role {ROOT}: is root role.")]
    RootRole,
    #[error("auth: Role {0} already exists.")]
    RoleExists(String),
    #[error("auth: Role {0} does not exist.")]
    NoRole(String),
    /// The same, as only a removal words it.
    #[error("auth: Role {0} doesn't exist.")]
    NoRoleToDelete(String),
    #[error("auth: Granting duplicate {kind} permission {pattern}")]
    DuplicatePermission { kind: &'static str, pattern: String },
    #[error("auth: Role not updated. Use grant/revoke to update the role.")]
    RoleUnchanged,
}

/// How a write ended, and how many indexes of the store it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The answer.
    pub outcome: Result<AuthDone, AuthRefusal>,
    /// Steps of the store's index; a refused write may take [`PREPARE_STEPS`] too, as in etcd.
    pub steps: u32,
}

/// The auth state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Auth {
    enabled: bool,
    prepared: bool,
    users: BTreeMap<String, User>,
    roles: BTreeMap<String, Permissions>,
    version: u64,
}

impl Auth {
    /// Whether credentials count.
    #[inline]
    #[must_use]
    pub const fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Moves with every change. Local to this process.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Takes the place of what this node had: a change like any other to whoever keeps verdicts.
    pub const fn succeed(&mut self, old: &Self) {
        self.version = old.version + 1;
    }

    /// Applies one replicated write.
    pub fn apply(&mut self, write: &AuthWrite<'_>) -> Applied {
        let mut steps = 0;
        let outcome = match write {
            AuthWrite::Enable => self.enable(&mut steps),
            AuthWrite::Disable => self.disable(&mut steps),
            AuthWrite::PutUser(change) => self.put_user(change, &mut steps),
            AuthWrite::DeleteUser(name) => self.delete_user(name, &mut steps),
            AuthWrite::CreateRole(role) => self.create_role(role, &mut steps),
            AuthWrite::UpdateRole(change) => self.update_role(change, &mut steps),
            AuthWrite::DeleteRole(name) => self.delete_role(name, &mut steps),
        };
        self.version += 1;
        Applied { outcome, steps }
    }

    /// The first write that reaches etcd's store finds its directories missing.
    fn prepare(&mut self, steps: &mut u32) {
        if !self.prepared {
            self.prepared = true;
            *steps += PREPARE_STEPS;
        }
    }

    fn enable(&mut self, steps: &mut u32) -> Result<AuthDone, AuthRefusal> {
        if self.enabled {
            return Err(AuthRefusal::AlreadyEnabled);
        }
        if !self.users.contains_key(ROOT) {
            return Err(AuthRefusal::NoRootUser);
        }
        self.prepare(steps);
        if !self.roles.contains_key(GUEST) {
            self.roles.insert(GUEST.to_owned(), Permissions::everything());
            *steps += 1;
        }
        self.enabled = true;
        *steps += 1;
        Ok(AuthDone::Quiet)
    }

    fn disable(&mut self, steps: &mut u32) -> Result<AuthDone, AuthRefusal> {
        if !self.enabled {
            return Err(AuthRefusal::AlreadyDisabled);
        }
        self.prepare(steps);
        self.enabled = false;
        *steps += 1;
        Ok(AuthDone::Quiet)
    }

    /// etcd takes roles to mean a new user, grant and revoke an existing one, and looks itself when it is neither.
    fn put_user(&mut self, change: &UserChange<'_>, steps: &mut u32) -> Result<AuthDone, AuthRefusal> {
        let moves_roles = !change.grant.is_empty() || !change.revoke.is_empty();
        let names_roles = change.roles.as_ref().is_some_and(|roles| !roles.is_empty());
        if !moves_roles && (names_roles || !self.users.contains_key(change.name)) {
            self.create_user(change, steps)?;
            return Ok(AuthDone::User {
                name: change.name.to_owned(),
                roles: self.users[change.name].roles.clone(),
                created: !names_roles,
            });
        }
        self.update_user(change, steps)
    }

    fn create_user(&mut self, change: &UserChange<'_>, steps: &mut u32) -> Result<(), AuthRefusal> {
        let name = change.name.to_owned();
        let Some(hash) = change.password_hash else { return Err(AuthRefusal::EmptyPassword(name)) };
        self.prepare(steps);
        if self.users.contains_key(&name) {
            return Err(AuthRefusal::UserExists(name));
        }
        let roles = with_root_role(&name, owned(change.roles.as_ref()));
        self.users.insert(name, User { password_hash: hash.to_owned(), roles });
        *steps += 1;
        Ok(())
    }

    fn update_user(&mut self, change: &UserChange<'_>, steps: &mut u32) -> Result<AuthDone, AuthRefusal> {
        let name = change.name.to_owned();
        let Some(old) = self.users.get(&name) else { return Err(AuthRefusal::NoUser(name)) };
        let old_roles = with_root_role(&name, old.roles.clone());
        let mut roles: BTreeSet<String> = old_roles.iter().flatten().cloned().collect();
        for &role in &change.grant {
            if !roles.insert(role.to_owned()) {
                return Err(AuthRefusal::DuplicateRole { role: role.to_owned(), user: name });
            }
        }
        for &role in &change.revoke {
            if !roles.remove(role) {
                return Err(AuthRefusal::UngrantedRole { role: role.to_owned(), user: name });
            }
        }
        let roles: Option<Vec<String>> = Some(roles.into_iter().collect());
        let password_hash = change.password_hash.unwrap_or(&old.password_hash).to_owned();
        if roles == old_roles && password_hash == old.password_hash {
            return Err(AuthRefusal::UserUnchanged);
        }
        self.prepare(steps);
        self.users.insert(name.clone(), User { password_hash, roles: roles.clone() });
        *steps += 1;
        Ok(AuthDone::User { name, roles, created: false })
    }

    fn delete_user(&mut self, name: &str, steps: &mut u32) -> Result<AuthDone, AuthRefusal> {
        if self.enabled && name == ROOT {
            return Err(AuthRefusal::RootUserNeeded);
        }
        self.prepare(steps);
        self.users.remove(name).ok_or_else(|| AuthRefusal::NoUserToDelete(name.to_owned()))?;
        *steps += 1;
        Ok(AuthDone::Quiet)
    }

    fn create_role(&mut self, role: &RoleRecord<'_>, steps: &mut u32) -> Result<AuthDone, AuthRefusal> {
        let name = role.name.to_owned();
        if name == ROOT {
            return Err(AuthRefusal::RootRole);
        }
        self.prepare(steps);
        if self.roles.contains_key(&name) {
            return Err(AuthRefusal::RoleExists(name));
        }
        let permissions = Permissions::from(&role.permissions);
        self.roles.insert(name.clone(), permissions.clone());
        *steps += 1;
        Ok(AuthDone::Role { name, permissions, created: true })
    }

    fn update_role(&mut self, change: &RoleChange<'_>, steps: &mut u32) -> Result<AuthDone, AuthRefusal> {
        let name = change.name.to_owned();
        if name == ROOT {
            return Err(AuthRefusal::RootRole);
        }
        let Some(old) = self.roles.get(&name) else { return Err(AuthRefusal::NoRole(name)) };
        let mut new = old.clone();
        if let Some(grant) = &change.grant {
            new.read = Some(granted("read", old.read.as_deref(), grant.read.as_deref())?);
            new.write = Some(granted("write", old.write.as_deref(), grant.write.as_deref())?);
        }
        if let Some(revoke) = &change.revoke {
            new.read = Some(revoked(new.read.as_deref(), revoke.read.as_deref()));
            new.write = Some(revoked(new.write.as_deref(), revoke.write.as_deref()));
        }
        if new == *old {
            return Err(AuthRefusal::RoleUnchanged);
        }
        self.prepare(steps);
        self.roles.insert(name.clone(), new.clone());
        *steps += 1;
        Ok(AuthDone::Role { name, permissions: new, created: false })
    }

    fn delete_role(&mut self, name: &str, steps: &mut u32) -> Result<AuthDone, AuthRefusal> {
        if name == ROOT {
            return Err(AuthRefusal::RootRole);
        }
        self.prepare(steps);
        self.roles.remove(name).ok_or_else(|| AuthRefusal::NoRoleToDelete(name.to_owned()))?;
        *steps += 1;
        Ok(AuthDone::Quiet)
    }

    /// What a role allows; `root` always exists.
    ///
    /// # Errors
    /// [`AuthRefusal::NoRole`].
    pub fn role(&self, name: &str) -> Result<Permissions, AuthRefusal> {
        if name == ROOT {
            return Ok(Permissions::everything());
        }
        self.roles.get(name).cloned().ok_or_else(|| AuthRefusal::NoRole(name.to_owned()))
    }

    /// A user's role names; user root always has the role root.
    ///
    /// # Errors
    /// [`AuthRefusal::NoUser`].
    pub fn roles_of(&self, user: &str) -> Result<Vec<String>, AuthRefusal> {
        let found = self.users.get(user).ok_or_else(|| AuthRefusal::NoUser(user.to_owned()))?;
        Ok(with_root_role(user, found.roles.clone()).unwrap_or_default())
    }

    /// All user names, sorted.
    pub fn user_names(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(String::as_str)
    }

    /// All role names, sorted, the built-in root among them.
    #[must_use]
    pub fn role_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.roles.keys().map(String::as_str).chain([ROOT]).collect();
        names.sort_unstable();
        names
    }

    /// bcrypt's text for a user's password, when there is such a user.
    #[must_use]
    pub fn password_hash(&self, user: &str) -> Option<&str> {
        self.users.get(user).map(|user| user.password_hash.as_str())
    }

    /// Whether a user (whose password was verified) has the role root.
    #[must_use]
    pub fn is_root(&self, user: &str) -> bool {
        self.users.get(user).is_some_and(|found| user == ROOT || has_role(found, ROOT))
    }

    /// Whether a user (whose password was verified), or a request without credentials, may do this. etcd does not look
    /// at `recursive` for the latter.
    #[must_use]
    pub fn allows(&self, user: Option<&str>, key: &[u8], access: Access) -> bool {
        let Some(name) = user else {
            let guest = Access { recursive: false, ..access };
            return self.roles.get(GUEST).is_some_and(|role| role.allow(key, guest));
        };
        let Some(user) = self.users.get(name) else { return false };
        name == ROOT
            || has_role(user, ROOT)
            || user.roles.iter().flatten().any(|role| self.roles.get(role).is_some_and(|role| role.allow(key, access)))
    }

    /// Appends the state as snapshot items; none when auth was never touched.
    pub fn write_items(&self, out: &mut Vec<u8>) {
        if *self == (Self { version: self.version, ..Self::default() }) {
            return;
        }
        push_item(out, &[&[ItemClass::Auth as u8]], |out| {
            codec::encode_into(&AuthRecord { enabled: self.enabled, prepared: self.prepared }, out);
        });
        for (name, user) in &self.users {
            push_item(out, &[&[ItemClass::User as u8], name.as_bytes()], |out| {
                let roles = borrowed(&user.roles);
                codec::encode_into(&UserRecord { name, password_hash: &user.password_hash, roles }, out);
            });
        }
        for (name, permissions) in &self.roles {
            push_item(out, &[&[ItemClass::Role as u8], name.as_bytes()], |out| {
                codec::encode_into(&RoleRecord { name, permissions: permissions.record() }, out);
            });
        }
    }

    /// Takes a snapshot item; false when its class is not of auth.
    ///
    /// # Errors
    /// [`CodecError`] when it does not decode.
    pub fn read_item(&mut self, key: &[u8], value: &[u8]) -> Result<bool, CodecError> {
        let Some(&class) = key.first() else { return Ok(false) };
        if class == ItemClass::Auth as u8 {
            let record: AuthRecord = codec::decode(value)?;
            (self.enabled, self.prepared) = (record.enabled, record.prepared);
        } else if class == ItemClass::User as u8 {
            let record: UserRecord<'_> = codec::decode(value)?;
            let user = User { password_hash: record.password_hash.to_owned(), roles: owned(record.roles.as_ref()) };
            self.users.insert(record.name.to_owned(), user);
        } else if class == ItemClass::Role as u8 {
            let record: RoleRecord<'_> = codec::decode(value)?;
            self.roles.insert(record.name.to_owned(), Permissions::from(&record.permissions));
        } else {
            return Ok(false);
        }
        Ok(true)
    }
}

fn has_role(user: &User, role: &str) -> bool {
    user.roles.iter().flatten().any(|held| held == role)
}

/// User root has the role root, whatever was stored.
fn with_root_role(name: &str, roles: Option<Vec<String>>) -> Option<Vec<String>> {
    if name != ROOT || roles.iter().flatten().any(|role| role == ROOT) {
        return roles;
    }
    let mut roles = roles.unwrap_or_default();
    roles.push(ROOT.to_owned());
    Some(roles)
}

fn granted(kind: &'static str, old: Option<&[String]>, grant: Option<&[&str]>) -> Result<Vec<String>, AuthRefusal> {
    let mut all: BTreeSet<String> = old.unwrap_or_default().iter().cloned().collect();
    for &pattern in grant.unwrap_or_default() {
        if !all.insert(pattern.to_owned()) {
            return Err(AuthRefusal::DuplicatePermission { kind, pattern: pattern.to_owned() });
        }
    }
    Ok(all.into_iter().collect())
}

/// Patterns that were not granted are passed over.
fn revoked(old: Option<&[String]>, revoke: Option<&[&str]>) -> Vec<String> {
    let mut all: BTreeSet<String> = old.unwrap_or_default().iter().cloned().collect();
    for &pattern in revoke.unwrap_or_default() {
        all.remove(pattern);
    }
    all.into_iter().collect()
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
