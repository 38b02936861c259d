//! What is printed about an answer or an error.
//!
//! Owns: the formats `simple`, `extended` and `json`. Touches: standard output and standard error.
//! Always: a reader that has gone away ends the program quietly, as it would any other filter.

use std::io::{self, Write};

use ringd_client::{ClientError, Failure, Node, Response};

use crate::terminal::{Paint, paint_error};
use crate::{Exit, Invocation, terminal};

/// Prints `text` to standard output.
pub fn print(text: &str) {
    let mut out = io::stdout().lock();
    if let Err(e) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        if e.kind() == io::ErrorKind::BrokenPipe {
            std::process::exit(0);
        }
        eprintln!("ringctl: cannot write to standard output: {e}");
        std::process::exit(Exit::BadArguments as i32);
    }
}

/// Reports `error` and gives back `exit`.
pub fn error(error: &ClientError, exit: Exit) -> Exit {
    eprintln!("{}  {error}", paint_error("Error:", Paint::Bad));
    if let Some(detail) = error.detail() {
        eprintln!("{detail}");
    }
    hint_at(error);
    exit
}

fn hint_at(error: &ClientError) {
    if let (true, Some(hint)) = (terminal::person_reads_errors(), hint(error)) {
        eprintln!("{hint}");
    }
}

/// What a person can do next. Scripts compare the text before it, so they never see this.
fn hint(error: &ClientError) -> Option<&str> {
    match error {
        ClientError::Unavailable(failures) if failures.iter().any(|failure| reason(failure).is_some()) => {
            failures.iter().find_map(reason)
        }
        ClientError::Unavailable(failures) if failures.iter().all(|f| matches!(f, Failure::Lookup { .. })) => {
            Some("Check the host names given with --endpoints (or ETCDCTL_ENDPOINTS).")
        }
        ClientError::Unavailable(failures) if failures.iter().any(|f| matches!(f, Failure::NoLeader { .. })) => {
            Some("The cluster has no leader: see which members run with `ringctl cluster-health`.")
        }
        ClientError::Unavailable(_) => Some(
            "No endpoint answered. Is the server running, and is --endpoints (or ETCDCTL_ENDPOINTS) its client URL?\n\
             A member that publishes another URL than the one given needs --no-sync.",
        ),
        ClientError::Deadline => Some("No answer in time: --timeout and --total-timeout say how long to wait."),
        _ => None,
    }
}

/// What a server said that etcd's client has no words for.
fn reason(failure: &Failure) -> Option<&str> {
    match failure {
        Failure::NoLeader { reason, .. } => reason.as_deref(),
        _ => None,
    }
}

/// [`say`], with a hint at what to do about `error`.
pub fn say_failed(why: &(impl std::fmt::Display + ?Sized), error: &ClientError) -> Exit {
    let exit = say(why);
    hint_at(error);
    exit
}

/// Says why, without `Error:`, as the commands on members, users and roles do.
pub fn say(why: &(impl std::fmt::Display + ?Sized)) -> Exit {
    eprintln!("{why}");
    Exit::BadArguments
}

/// Refuses arguments of a command that takes none.
pub fn no_arguments(call: &Invocation) -> Result<(), Exit> {
    if call.args.is_empty() { Ok(()) } else { Err(say("No arguments accepted")) }
}

/// A refusal made on this side.
pub fn refuse(why: &str) -> Exit {
    eprintln!("{}  {why}", paint_error("Error:", Paint::Bad));
    Exit::BadArguments
}

/// Prints one answer in `format`.
pub fn response(response: &Response, format: &str) {
    let empty = Node::default();
    let node = response.node.as_ref().unwrap_or(&empty);
    match format {
        "simple" if response.action == "delete" => {
            print(&format!("PrevNode.Value: {}\n", response.prev_node.as_ref().map_or("", |n| &n.value)));
        }
        "simple" => print(&format!("{}\n", node.value)),
        "extended" => {
            let mut text = format!(
                "Key: {}\nCreated-Index: {}\nModified-Index: {}\n",
                node.key, node.created_index, node.modified_index
            );
            if let Some(prev) = &response.prev_node {
                text.push_str(&format!("PrevNode.Value: {}\n", prev.value));
            }
            text.push_str(&format!("TTL: {}\nIndex: {}\n", node.ttl, response.index));
            if response.action != "delete" {
                text.push_str(&format!("\n{}\n", node.value));
            }
            print(&text);
        }
        "json" => {
            let text = serde_json::to_string(response).expect("a response is plain data");
            print(&format!("{}\n", escape_html(&text)));
        }
        other => eprintln!("Unsupported output format: {other}"),
    }
}

/// Go's encoder writes these characters, which can only stand inside texts, as escapes.
fn escape_html(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            other => out.push(other),
        }
    }
    out
}
