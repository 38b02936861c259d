//! `ringctl`: etcdctl's v2 commands with its outputs, streams and exit codes.
//!
//! Owns: the way from the arguments to a command, and the exit code. Touches: the terminal, the cluster through
//! `ringd-client`. Always: results go to standard output, everything else to standard error; what a script can observe
//! of etcdctl (text, stream, code) is the same here.

mod auth;
mod backup;
mod completion;
mod connect;
mod discover;
mod exec_watch;
mod flags;
mod help;
mod import;
mod keys;
mod member;
mod output;
mod table;
mod terminal;
mod top;

use std::process::ExitCode;

use flags::{FlagError, Values};
use table::{Action, COMMANDS, Command, GLOBAL_FLAGS};

/// Why the program ends without success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Bad usage, or a refusal made on this side.
    BadArguments = 1,
    /// The cluster could not be reached for the first sync.
    NoConnection = 2,
    /// A command or help topic that does not exist.
    NoTopic = 3,
    /// The server refused, or no endpoint answered the command itself.
    Server = 4,
    /// A member of the cluster is not healthy.
    NotHealthy = 5,
}

/// What a command is given.
pub struct Invocation {
    pub globals: Values,
    pub flags: Values,
    pub args: Vec<String>,
}

type Outcome = Result<(), Exit>;

/// Which of etcd's APIs is asked for; the same variable as etcdctl's.
const API_VARIABLE: &str = "ETCDCTL_API";

fn main() -> ExitCode {
    if let Some(refusal) = std::env::var_os(API_VARIABLE).and_then(|api| refused_api(&api.to_string_lossy())) {
        eprintln!("{refusal}");
        return ExitCode::from(Exit::BadArguments as u8);
    }
    let args: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => ExitCode::from(exit as u8),
    }
}

/// Why this program does not speak the API asked for; nothing for API 2.
fn refused_api(api: &str) -> Option<String> {
    match api {
        "" | "2" => None,
        "3" => Some(format!(
            "ringctl: {API_VARIABLE}=3 is not available in this version, which speaks API 2 only; \
             unset {API_VARIABLE} or set it to 2, or use etcd's own etcdctl with a server that has API 3"
        )),
        other => Some(format!("unsupported API version {other}")),
    }
}

fn run(args: &[String]) -> Outcome {
    let (globals, rest) = flags::parse(GLOBAL_FLAGS, args).map_err(|error| {
        output::print(&format!("Incorrect Usage. {error}\n\n{}", help::program()));
        fail(&error)
    })?;
    if globals.is_set("version") {
        output::print(&help::version());
        return Ok(());
    }
    let Some((name, rest)) = rest.split_first().filter(|_| !globals.is_set("help")) else {
        output::print(&help::program());
        return Ok(());
    };
    if matches!(name.as_str(), "help" | "h") {
        return match rest.first() {
            None => {
                output::print(&help::program());
                Ok(())
            }
            Some(topic) => table::find(COMMANDS, topic)
                .map(|command| output::print(&help::command(&[], command)))
                .ok_or_else(|| unknown(topic)),
        };
    }
    let command = table::find(COMMANDS, name).ok_or_else(|| unknown(name))?;
    dispatch(&mut Vec::new(), command, globals, rest)
}

/// Parses the flags of `command` (below `parents`) and carries it out.
fn dispatch(parents: &mut Vec<&'static str>, command: &'static Command, globals: Values, args: &[String]) -> Outcome {
    let parsed = match command.action {
        // What follows the name of an inner command belongs to that command.
        Action::Group(_) => flags::parse(command.flags, args),
        Action::Run(_) => flags::parse_reordered(command.flags, args),
    };
    let (flags, args) = parsed.map_err(|error| {
        output::print(&format!("Incorrect Usage: {error}\n\n{}", help::command(parents, command)));
        fail(&error)
    })?;
    if flags.is_set("help") {
        output::print(&help::command(parents, command));
        return Ok(());
    }
    match command.action {
        Action::Run(function) => function(&Invocation { globals, flags, args }),
        Action::Group(commands) => match args.split_first() {
            None => {
                output::print(&help::command(parents, command));
                Ok(())
            }
            Some((name, rest)) if matches!(name.as_str(), "help" | "h") => {
                let topic = rest.first().map(|topic| table::find(commands, topic).ok_or_else(|| unknown(topic)));
                let text = match topic.transpose()? {
                    None => help::command(parents, command),
                    Some(inner) => {
                        parents.push(command.name);
                        help::command(parents, inner)
                    }
                };
                output::print(&text);
                Ok(())
            }
            Some((name, rest)) => {
                let inner = table::find(commands, name).ok_or_else(|| unknown(name))?;
                parents.push(command.name);
                dispatch(parents, inner, globals, rest)
            }
        },
    }
}

fn fail(error: &FlagError) -> Exit {
    eprintln!("{error}");
    Exit::BadArguments
}

fn unknown(topic: &str) -> Exit {
    eprintln!("No help topic for '{topic}'");
    Exit::NoTopic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_3_is_refused_with_a_way_out() {
        assert!(refused_api("").is_none() && refused_api("2").is_none());
        assert!(refused_api("3").is_some_and(|text| text.contains("not available") && text.contains("set it to 2")));
        assert_eq!(refused_api("5").as_deref(), Some("unsupported API version 5"));
    }
}
