//! The calls on `/v2/auth`: users, roles, and whether they count.
//!
//! Owns: their requests, in the bytes etcd's client sends, and the reading of their answers. Touches: sockets through
//! `client`. Always: passwords appear in request bodies only.

use serde::{Deserialize, Serialize};

use crate::client::{Call, Client};
use crate::encode::escape_path;
use crate::error::ClientError;
use crate::http::Answer;
use crate::members::{read, refusal};

const JSON: &str = "application/json";
const ENABLE: &str = "/v2/auth/enable";

/// A user with the names of its roles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub roles: Vec<String>,
}

/// Path patterns a role may read and write.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Permissions {
    #[serde(default)]
    pub read: Option<Vec<String>>,
    #[serde(default)]
    pub write: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
struct KeyPermissions {
    kv: Permissions,
}

/// A role and what it allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    pub name: String,
    pub permissions: Permissions,
}

#[derive(Serialize, Deserialize)]
struct RoleBody {
    role: String,
    #[serde(default)]
    permissions: KeyPermissions,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    grant: Option<KeyPermissions>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoke: Option<KeyPermissions>,
}

/// The order of the members is that of etcd's client, whose requests `--debug` shows.
#[derive(Serialize, Default)]
struct UserBody<'a> {
    user: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    password: &'a str,
    roles: Option<&'a [String]>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    grant: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    revoke: &'a [String],
}

fn user_target(name: &str) -> String {
    format!("/v2/auth/users/{}", escape_path(name))
}

fn role_target(name: &str) -> String {
    format!("/v2/auth/roles/{}", escape_path(name))
}

fn json<T: Serialize>(body: &T) -> Option<(&'static str, String)> {
    Some((JSON, serde_json::to_string(body).expect("names and lists are plain data")))
}

/// Success is 200 or 201; anything else carries the server's words.
fn done(answer: Answer) -> Result<Answer, ClientError> {
    match answer.status {
        200 | 201 => Ok(answer),
        _ => Err(refusal(&answer)),
    }
}

impl Client {
    fn auth(
        &mut self,
        method: &str,
        target: String,
        body: Option<(&'static str, String)>,
    ) -> Result<Answer, ClientError> {
        // Not one of these calls does harm when it is made twice: at worst the second is refused.
        done(self.call(&Call { method, target, body, repeatable: true, waits: false })?)
    }

    pub fn enable_auth(&mut self) -> Result<(), ClientError> {
        self.auth("PUT", ENABLE.into(), None).map(drop)
    }

    pub fn disable_auth(&mut self) -> Result<(), ClientError> {
        self.auth("DELETE", ENABLE.into(), None).map(drop)
    }

    /// The names of all users.
    pub fn users(&mut self) -> Result<Vec<String>, ClientError> {
        #[derive(Deserialize)]
        struct Entry {
            user: String,
        }
        #[derive(Deserialize)]
        struct List {
            users: Option<Vec<Entry>>,
        }
        let answer = self.auth("GET", "/v2/auth/users".into(), None)?;
        let list: List = read(&answer)?;
        Ok(list.users.unwrap_or_default().into_iter().map(|entry| entry.user).collect())
    }

    pub fn user(&mut self, name: &str) -> Result<User, ClientError> {
        #[derive(Deserialize)]
        struct Held {
            role: String,
        }
        #[derive(Deserialize)]
        struct Body {
            user: String,
            roles: Option<Vec<Held>>,
        }
        let answer = self.auth("GET", user_target(name), None)?;
        let body: Body = read(&answer)?;
        Ok(User { name: body.user, roles: body.roles.unwrap_or_default().into_iter().map(|r| r.role).collect() })
    }

    /// Creates a user; one that exists gets the password.
    pub fn put_user(&mut self, name: &str, password: &str) -> Result<(), ClientError> {
        let body = UserBody { user: name, password, ..UserBody::default() };
        self.auth("PUT", user_target(name), json(&body)).map(drop)
    }

    pub fn remove_user(&mut self, name: &str) -> Result<(), ClientError> {
        self.auth("DELETE", user_target(name), None).map(drop)
    }

    pub fn grant_roles(&mut self, name: &str, roles: &[String]) -> Result<(), ClientError> {
        let body = UserBody { user: name, grant: roles, ..UserBody::default() };
        self.auth("PUT", user_target(name), json(&body)).map(drop)
    }

    pub fn revoke_roles(&mut self, name: &str, roles: &[String]) -> Result<(), ClientError> {
        let body = UserBody { user: name, revoke: roles, ..UserBody::default() };
        self.auth("PUT", user_target(name), json(&body)).map(drop)
    }

    /// The names of all roles. Its refusals carry the status only, as etcd's client reports them.
    pub fn roles(&mut self) -> Result<Vec<String>, ClientError> {
        #[derive(Deserialize)]
        struct Entry {
            role: String,
        }
        #[derive(Deserialize)]
        struct List {
            roles: Option<Vec<Entry>>,
        }
        let answer = self.call(&Call::get("/v2/auth/roles"))?;
        match answer.status {
            200 => {
                let list: List = read(&answer)?;
                Ok(list.roles.unwrap_or_default().into_iter().map(|entry| entry.role).collect())
            }
            status => Err(ClientError::UnexpectedStatus { status }),
        }
    }

    pub fn role(&mut self, name: &str) -> Result<Role, ClientError> {
        let answer = self.auth("GET", role_target(name), None)?;
        let body: RoleBody = read(&answer)?;
        Ok(Role { name: body.role, permissions: body.permissions.kv })
    }

    pub fn add_role(&mut self, name: &str) -> Result<(), ClientError> {
        self.put_role(name, None, None)
    }

    pub fn remove_role(&mut self, name: &str) -> Result<(), ClientError> {
        self.auth("DELETE", role_target(name), None).map(drop)
    }

    pub fn grant_permissions(&mut self, name: &str, permissions: Permissions) -> Result<(), ClientError> {
        self.put_role(name, Some(permissions), None)
    }

    pub fn revoke_permissions(&mut self, name: &str, permissions: Permissions) -> Result<(), ClientError> {
        self.put_role(name, None, Some(permissions))
    }

    fn put_role(
        &mut self,
        name: &str,
        grant: Option<Permissions>,
        revoke: Option<Permissions>,
    ) -> Result<(), ClientError> {
        let wrap = |permissions: Option<Permissions>| permissions.map(|kv| KeyPermissions { kv });
        let permissions = KeyPermissions::default();
        let body = RoleBody { role: name.to_owned(), permissions, grant: wrap(grant), revoke: wrap(revoke) };
        self.auth("PUT", role_target(name), json(&body)).map(drop)
    }
}
