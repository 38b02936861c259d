//! The commands on users, roles, and whether they count.
//!
//! Owns: their texts, which are etcdctl's. Touches: the cluster, the terminal for passwords. Always: arguments are
//! checked before the cluster is asked; every failure ends with code 1 and the server's own words.

use ringd_client::{Client, Permissions};

use crate::{Exit, Invocation, Outcome, connect, output, terminal};

const NEW_PASSWORD: &str = "New password: ";

fn client(call: &Invocation) -> Result<Client, Exit> {
    connect::client(&call.globals)
}

/// The only argument.
fn one<'a>(call: &'a Invocation, missing: &str) -> Result<&'a str, Exit> {
    match call.args.as_slice() {
        [name] => Ok(name),
        _ => Err(output::say(missing)),
    }
}

fn user(call: &Invocation) -> Result<&str, Exit> {
    one(call, "Please provide a username")
}

fn role(call: &Invocation) -> Result<&str, Exit> {
    one(call, "Please provide a role name")
}

fn done(text: &str) -> Outcome {
    output::print(&format!("{text}\n"));
    Ok(())
}

fn names(list: &[String]) -> Outcome {
    output::print(&list.iter().map(|name| format!("{name}\n")).collect::<String>());
    Ok(())
}

pub fn user_add(call: &Invocation) -> Outcome {
    let user = user(call)?;
    let mut client = client(call)?;
    let (name, password) = match user.split_once(':') {
        Some((name, password)) => (name, password.to_owned()),
        None => (user, terminal::password(NEW_PASSWORD)?),
    };
    client.put_user(name, &password).map_err(|e| output::say(&e))?;
    done(&format!("User {name} created"))
}

pub fn user_get(call: &Invocation) -> Outcome {
    let name = user(call)?;
    let found = client(call)?.user(name).map_err(|e| output::say(&e))?;
    let roles: String = found.roles.iter().map(|role| format!(" {role}")).collect();
    done(&format!("User: {}\nRoles: {roles}", found.name))
}

pub fn user_list(call: &Invocation) -> Outcome {
    output::no_arguments(call)?;
    names(&client(call)?.users().map_err(|e| output::say(&e))?)
}

pub fn user_remove(call: &Invocation) -> Outcome {
    let name = user(call)?;
    client(call)?.remove_user(name).map_err(|e| output::say(&e))?;
    done(&format!("User {name} removed"))
}

/// etcdctl takes the whole text as one role; a list therefore names a role with commas in it.
fn roles(call: &Invocation) -> Result<Vec<String>, Exit> {
    let given = call.flags.text("roles").ok_or_else(|| output::say("No roles specified; please use `--roles`"))?;
    Ok(vec![given.to_owned()])
}

pub fn user_grant(call: &Invocation) -> Outcome {
    let roles = roles(call)?;
    let name = user(call)?;
    client(call)?.grant_roles(name, &roles).map_err(|e| output::say(&e))?;
    done(&format!("User {name} updated"))
}

pub fn user_revoke(call: &Invocation) -> Outcome {
    let roles = roles(call)?;
    let name = user(call)?;
    client(call)?.revoke_roles(name, &roles).map_err(|e| output::say(&e))?;
    done(&format!("User {name} updated"))
}

pub fn user_passwd(call: &Invocation) -> Outcome {
    let name = user(call)?;
    let mut client = client(call)?;
    let password = terminal::password(NEW_PASSWORD)?;
    client.put_user(name, &password).map_err(|e| output::say(&e))?;
    done("Password updated")
}

pub fn role_add(call: &Invocation) -> Outcome {
    let name = role(call)?;
    let mut client = client(call)?;
    // A role that cannot be read is taken to be missing; the server has the last word.
    if client.role(name).is_ok() {
        return Err(output::say(&format!("Role {name} already exists")));
    }
    client.add_role(name).map_err(|e| output::say(&e))?;
    done(&format!("Role {name} created"))
}

pub fn role_get(call: &Invocation) -> Outcome {
    let name = role(call)?;
    let found = client(call)?.role(name).map_err(|e| output::say(&e))?;
    let mut text = format!("Role: {}\n", found.name);
    for (title, patterns) in [("KV Read:", &found.permissions.read), ("KV Write:", &found.permissions.write)] {
        text.push_str(title);
        text.push('\n');
        patterns.iter().flatten().for_each(|pattern| text.push_str(&format!("\t{pattern}\n")));
    }
    output::print(&text);
    Ok(())
}

pub fn role_list(call: &Invocation) -> Outcome {
    output::no_arguments(call)?;
    names(&client(call)?.roles().map_err(|e| output::say(&e))?)
}

pub fn role_remove(call: &Invocation) -> Outcome {
    let name = role(call)?;
    client(call)?.remove_role(name).map_err(|e| output::say(&e))?;
    done(&format!("Role {name} removed"))
}

/// What `--path` with exactly one of the three access flags means.
fn permissions(call: &Invocation) -> Result<Permissions, Exit> {
    let path = call.flags.text("path").ok_or_else(|| output::say("No path specified; please use `--path`"))?;
    if !path.starts_with('/') {
        return Err(output::say(&format!("Not canonical path; please use `--path=/{path}`")));
    }
    let list = || Some(vec![path.to_owned()]);
    match ["read", "write", "readwrite"].map(|name| call.flags.is_set(name)) {
        [true, false, false] => Ok(Permissions { read: list(), write: None }),
        [false, true, false] => Ok(Permissions { read: None, write: list() }),
        [false, false, true] => Ok(Permissions { read: list(), write: list() }),
        _ => Err(output::say("Please specify exactly one of --read, --write or --readwrite")),
    }
}

pub fn role_grant(call: &Invocation) -> Outcome {
    let permissions = permissions(call)?;
    let name = role(call)?;
    let mut client = client(call)?;
    client.role(name).and_then(|_| client.grant_permissions(name, permissions)).map_err(|e| output::say(&e))?;
    done(&format!("Role {name} updated"))
}

pub fn role_revoke(call: &Invocation) -> Outcome {
    let permissions = permissions(call)?;
    let name = role(call)?;
    let mut client = client(call)?;
    client.role(name).and_then(|_| client.revoke_permissions(name, permissions)).map_err(|e| output::say(&e))?;
    done(&format!("Role {name} updated"))
}

pub fn enable(call: &Invocation) -> Outcome {
    output::no_arguments(call)?;
    client(call)?.enable_auth().map_err(|e| output::say(&e))?;
    done("Authentication Enabled")
}

pub fn disable(call: &Invocation) -> Outcome {
    output::no_arguments(call)?;
    client(call)?.disable_auth().map_err(|e| output::say(&e))?;
    done("Authentication Disabled")
}
