//! The commands on keys.
//!
//! Owns: what each of them asks for and prints. Touches: the cluster, standard input for values.
//! Always: arguments are checked after the client has been made, so that an unreachable cluster is reported first.

use std::io::Read;

use ringd_client::{Client, ClientError, Condition, GetOptions, Node, Response, SetOptions};

use crate::{Exit, Invocation, Outcome, connect, exec_watch, output};

const SIMPLE: &str = "simple";

impl Invocation {
    fn client(&self) -> Result<Client, Exit> {
        connect::client(&self.globals)
    }

    fn format(&self) -> &str {
        self.globals.text("output").unwrap_or(SIMPLE)
    }

    fn key(&self) -> Result<&str, Exit> {
        self.args.first().map(String::as_str).ok_or_else(|| output::refuse("key required"))
    }

    /// The second argument, or else all of standard input, which must not be empty then.
    fn value(&self) -> Result<String, Exit> {
        if let Some(value) = self.args.get(1) {
            return Ok(value.clone());
        }
        let mut bytes = Vec::new();
        match std::io::stdin().lock().read_to_end(&mut bytes) {
            Ok(_) if !bytes.is_empty() => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            _ => Err(output::refuse("value required")),
        }
    }

    /// Nothing and less than nothing mean: no time to live.
    fn ttl(&self) -> Option<u64> {
        u64::try_from(self.flags.int("ttl")).ok().filter(|ttl| *ttl > 0)
    }

    fn condition(&self, value_flag: &str, index_flag: &str) -> Condition {
        let value = self.flags.text(value_flag).unwrap_or("").to_owned();
        Condition { value, index: self.flags.uint(index_flag), exists: None }
    }

    /// Prints the answer; a directory says nothing in the simple format.
    fn show(&self, answer: Result<Response, ClientError>, directories: bool) -> Outcome {
        let response = answer.map_err(|e| output::error(&e, Exit::Server))?;
        let is_dir = response.node.as_ref().is_some_and(|n| n.dir);
        if directories || !is_dir || self.format() != SIMPLE {
            output::response(&response, self.format());
        }
        Ok(())
    }
}

pub fn set(call: &Invocation) -> Outcome {
    let mut client = call.client()?;
    let condition = call.condition("swap-with-value", "swap-with-index");
    let options = SetOptions { condition, ttl: call.ttl(), dir: false };
    let answer = client.set(call.key()?, &call.value()?, &options);
    call.show(answer, true)
}

pub fn mk(call: &Invocation) -> Outcome {
    let mut client = call.client()?;
    let (key, value) = (call.key()?, call.value()?);
    let answer = if call.flags.is_set("in-order") {
        client.create_in_order(key, &value, call.ttl())
    } else {
        let condition = Condition { exists: Some(false), ..Condition::default() };
        client.set(key, &value, &SetOptions { condition, ttl: call.ttl(), dir: false })
    };
    call.show(answer, true)
}

pub fn update(call: &Invocation) -> Outcome {
    let mut client = call.client()?;
    let condition = Condition { exists: Some(true), ..Condition::default() };
    let options = SetOptions { condition, ttl: call.ttl(), dir: false };
    let answer = client.set(call.key()?, &call.value()?, &options);
    call.show(answer, true)
}

pub fn mkdir(call: &Invocation) -> Outcome {
    directory(call, Some(false))
}

pub fn setdir(call: &Invocation) -> Outcome {
    directory(call, None)
}

pub fn updatedir(call: &Invocation) -> Outcome {
    directory(call, Some(true))
}

/// Directory commands print nothing in the simple format, also when the key turns out to be a file.
fn directory(call: &Invocation, exists: Option<bool>) -> Outcome {
    let mut client = call.client()?;
    let condition = Condition { exists, ..Condition::default() };
    let options = SetOptions { condition, ttl: call.ttl(), dir: true };
    let response = client.set(call.key()?, "", &options).map_err(|e| output::error(&e, Exit::Server))?;
    if call.format() != SIMPLE {
        output::response(&response, call.format());
    }
    Ok(())
}

pub fn rm(call: &Invocation) -> Outcome {
    let mut client = call.client()?;
    let condition = call.condition("with-value", "with-index");
    let (dir, recursive) = (call.flags.is_set("dir"), call.flags.is_set("recursive"));
    let answer = client.delete(call.key()?, &condition, dir, recursive);
    call.show(answer, false)
}

pub fn rmdir(call: &Invocation) -> Outcome {
    let mut client = call.client()?;
    let answer = client.delete(call.key()?, &Condition::default(), true, false);
    call.show(answer, false)
}

pub fn get(call: &Invocation) -> Outcome {
    let mut client = call.client()?;
    let options =
        GetOptions { recursive: false, sorted: call.flags.is_set("sort"), quorum: call.flags.is_set("quorum") };
    let response = client.get(call.key()?, options).map_err(|e| output::error(&e, Exit::Server))?;
    if let Some(node) = response.node.as_ref().filter(|n| n.dir) {
        eprintln!("{}: is a directory", node.key);
        return Err(Exit::BadArguments);
    }
    output::response(&response, call.format());
    Ok(())
}

pub fn ls(call: &Invocation) -> Outcome {
    let mut client = call.client()?;
    let options = GetOptions {
        recursive: call.flags.is_set("recursive"),
        sorted: call.flags.is_set("sort"),
        quorum: call.flags.is_set("quorum"),
    };
    let key = call.args.first().map_or("/", String::as_str);
    let response = client.get(key, options).map_err(|e| output::error(&e, Exit::Server))?;
    if call.format() != SIMPLE {
        output::response(&response, call.format());
        return Ok(());
    }
    let mut text = String::new();
    if let Some(node) = &response.node {
        if !node.dir {
            text.push_str(&format!("{}\n", node.key));
        }
        node.nodes.iter().for_each(|child| list(child, call.flags.is_set("p"), &mut text));
    }
    output::print(&text);
    Ok(())
}

/// A node and everything below it, parents first.
fn list(node: &Node, mark_directories: bool, text: &mut String) {
    text.push_str(&node.key);
    if node.dir && mark_directories {
        text.push('/');
    }
    text.push('\n');
    node.nodes.iter().for_each(|child| list(child, mark_directories, text));
}

pub fn watch(call: &Invocation) -> Outcome {
    exec_watch::interrupt_is_success()?;
    let mut client = call.client()?;
    let recursive = call.flags.is_set("recursive");
    let mut watch = client.watch(call.key()?, call.flags.uint("after-index"), recursive);
    loop {
        let response = watch.next_event().map_err(|e| output::error(&e, Exit::Server))?;
        let Some(node) = response.node.as_ref().filter(|n| !n.dir) else { continue };
        if recursive {
            output::print(&format!("[{}] {}\n", response.action, node.key));
        }
        output::response(&response, call.format());
        if !call.flags.is_set("forever") {
            return Ok(());
        }
    }
}
