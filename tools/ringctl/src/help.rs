//! Help texts, made from the table.
//!
//! Owns: their layout, which is etcdctl's. Touches: nothing. Always: every command and flag of the table appears.

use std::fmt::Write;

use crate::flags::{Flag, HELP, Kind};
use crate::table::{Action, COMMANDS, Command, GLOBAL_FLAGS};

pub const NAME: &str = "ringctl";
/// What the program is, in one line.
pub const ABOUT: &str = "A simple command line client for ringd and etcd.";

pub fn version() -> String {
    format!("{NAME} version: {}\nAPI version: 2\n", env!("CARGO_PKG_VERSION"))
}

/// `NAME`, `USAGE`, `COMMANDS` and `GLOBAL OPTIONS` of the program.
pub fn program() -> String {
    let mut out = format!(
        "NAME:\n   {NAME} - {ABOUT}\n\n\
         USAGE:\n   {NAME} [global options] command [command options] [arguments...]\n\n\
         VERSION:\n   {}\n\nCOMMANDS:\n",
        env!("CARGO_PKG_VERSION")
    );
    let mut rows: Vec<(String, String)> = COMMANDS.iter().map(|c| (c.name.into(), c.summary.into())).collect();
    rows.push(("help, h".into(), "Shows a list of commands or help for one command".into()));
    columns(&mut out, &rows);
    out.push_str("\nGLOBAL OPTIONS:\n");
    columns(&mut out, &GLOBAL_FLAGS.iter().map(row).collect::<Vec<_>>());
    out
}

/// The help of `command`, which lies below the commands `parents`.
pub fn command(parents: &[&str], command: &Command) -> String {
    let path = [NAME].iter().chain(parents).chain([&command.name]).copied().collect::<Vec<_>>().join(" ");
    let mut out = format!("NAME:\n   {path} - {}\n\nUSAGE:\n   {path}", command.summary);
    if let Action::Group(inner) = &command.action {
        out.push_str(" command [command options] [arguments...]\n\nCOMMANDS:\n");
        columns(&mut out, &inner.iter().map(|c| (c.name.into(), c.summary.into())).collect::<Vec<_>>());
        out.push_str("\nOPTIONS:\n");
        columns(&mut out, &[row(&HELP)]);
        return out;
    }
    if !command.flags.is_empty() {
        out.push_str(" [command options]");
    }
    for part in [" ", command.arguments].iter().filter(|_| !command.arguments.is_empty()) {
        out.push_str(part);
    }
    out.push('\n');
    if !command.description.is_empty() {
        write!(out, "\nDESCRIPTION:\n   {}\n", command.description).expect("writing to a String cannot fail");
    }
    if !command.flags.is_empty() {
        out.push_str("\nOPTIONS:\n");
        columns(&mut out, &command.flags.iter().map(row).collect::<Vec<_>>());
    }
    out
}

/// `--name value, -n value` and the description.
fn row(flag: &Flag) -> (String, String) {
    let one = |name: &&str| {
        let dashes = if name.len() == 1 { "-" } else { "--" };
        let value = if flag.kind == Kind::Bool { String::new() } else { format!(" {}", flag.placeholder) };
        format!("{dashes}{name}{value}")
    };
    let names = flag.names.iter().map(one).collect::<Vec<_>>().join(", ");
    let default = if flag.default.is_empty() { String::new() } else { format!(" (default: {})", flag.default) };
    (names, format!("{}{default}", flag.help))
}

fn columns(out: &mut String, rows: &[(String, String)]) {
    let width = rows.iter().map(|(left, _)| left.chars().count()).max().unwrap_or(0);
    for (left, right) in rows {
        writeln!(out, "   {left:width$}  {right}").expect("writing to a String cannot fail");
    }
}
