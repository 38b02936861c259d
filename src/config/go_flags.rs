//! Go's command-line grammar and value syntax, over clap.
//!
//! Owns: argv to `(flag, value)` pairs, the clap command built from the table, and the messages Go's `flag` package
//! gives. May touch: the flag table and clap; no environment.
//!
//! Must always hold: `-x`, `--x`, `-x=v` and `--x v` mean the same; a bool takes a value only after `=`; the last of
//! several equal flags counts; parsing stops at the first word that is no flag, and such a word is an error.

use clap::builder::{Arg, ArgAction, Command};

use super::flags::{FLAGS, Flag, Kind, find};
use super::url::Url;

/// Values given on the command line.
#[derive(Debug)]
pub struct Given {
    matches: clap::ArgMatches,
}

impl Given {
    /// The value of a flag that was given.
    #[must_use]
    pub fn get(&self, flag: &Flag) -> Option<&str> {
        self.matches.get_one::<String>(flag.name).map(String::as_str)
    }
}

/// Why a command line cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub enum Problem {
    /// Go's message; the usage goes with it and the exit code is 2.
    Flag(String),
    /// A word that is not a flag; etcd exits with 1.
    Word(String),
}

/// The command, for help and for parsing. Every flag of the table is an option that takes one value.
#[must_use]
pub fn command() -> Command {
    let args = FLAGS.iter().map(|flag| {
        let shown = if flag.default.is_empty() { String::new() } else { format!(" [default: {}]", flag.default) };
        let note = match flag.status {
            super::flags::Status::Effective => String::new(),
            super::flags::Status::NoEffect(_) => " (no effect)".to_owned(),
            super::flags::Status::Refused(..) => " (not supported)".to_owned(),
        };
        Arg::new(flag.name)
            .long(flag.name)
            .help(format!("{}{shown}{note}", flag.help))
            .help_heading(flag.group.heading())
            .action(ArgAction::Set)
            .overrides_with(flag.name)
            .allow_hyphen_values(true)
            .value_name(match flag.kind {
                Kind::Bool => "BOOL",
                Kind::Uint => "NUMBER",
                Kind::Urls => "URLS",
                Kind::Text | Kind::Choice(_) => "TEXT",
            })
    });
    Command::new("ringd")
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .override_usage("ringd [flags]")
        .about(
            "etcd's v2 API on one io_uring thread. Every flag --a-b has a variable ETCD_A_B (--ringd-a-b: RINGD_A_B).",
        )
        .args(args)
}

/// Reads a command line without the program's name.
///
/// # Errors
/// `Problem`, with the text that etcd would print.
pub fn parse(args: Vec<String>) -> Result<Given, Problem> {
    let words = normalise(args)?;
    // Every word is now `--known=value`, so clap has nothing left to refuse; should it, its own words are shown.
    let matches = command().try_get_matches_from(words).map_err(|error| Problem::Flag(error.to_string()))?;
    for flag in FLAGS {
        let Some(value) = matches.get_one::<String>(flag.name) else { continue };
        check(flag.kind, value).map_err(|why| {
            Problem::Flag(match flag.kind {
                Kind::Bool => format!("invalid boolean value {value:?} for -{}: {why}", flag.name),
                _ => format!("invalid value {value:?} for flag -{}: {why}", flag.name),
            })
        })?;
    }
    Ok(Given { matches })
}

/// `-name value`, `--flag` and the like to `--name=value`, `--flag=true`.
fn normalise(args: Vec<String>) -> Result<Vec<String>, Problem> {
    let mut words = Vec::with_capacity(args.len());
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            return args.next().map_or(Ok(words), |word| Err(Problem::Word(word)));
        }
        let Some(body) = arg.strip_prefix('-').filter(|body| !body.is_empty()) else {
            return Err(Problem::Word(arg));
        };
        let body = body.strip_prefix('-').unwrap_or(body);
        if body.is_empty() || body.starts_with(['-', '=']) {
            return Err(Problem::Flag(format!("bad flag syntax: {arg}")));
        }
        let (name, value) = body.split_once('=').map_or((body, None), |(name, value)| (name, Some(value.to_owned())));
        let name = if name == "h" { "help" } else { name };
        let Some(flag) = find(name) else {
            return Err(Problem::Flag(format!("flag provided but not defined: -{name}")));
        };
        let value = match value {
            Some(value) => value,
            None if flag.kind == Kind::Bool => "true".to_owned(),
            None => args.next().ok_or_else(|| Problem::Flag(format!("flag needs an argument: -{name}")))?,
        };
        words.push(format!("--{name}={value}"));
    }
    Ok(words)
}

/// Whether `value` is of `kind`; the error is the tail of Go's message.
///
/// # Errors
/// `parse error`, `value out of range`, `invalid value`, or what is wrong with a URL.
pub fn check(kind: Kind, value: &str) -> Result<(), String> {
    match kind {
        Kind::Text => Ok(()),
        Kind::Bool => parse_bool(value).map(drop),
        Kind::Uint => parse_uint(value).map(drop),
        Kind::Urls => Url::parse_list(value).map(drop),
        Kind::Choice(choices) if choices.contains(&value) => Ok(()),
        Kind::Choice(_) => Err("invalid value".to_owned()),
    }
}

/// Go's `strconv.ParseBool`.
///
/// # Errors
/// `parse error`.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err("parse error".to_owned()),
    }
}

/// Go's `strconv.ParseUint(text, 0, 64)`: prefixes `0x`, `0o`, `0b`, `0`, and `_` between digits.
///
/// # Errors
/// `parse error` or `value out of range`.
pub fn parse_uint(text: &str) -> Result<u64, String> {
    let bad = || "parse error".to_owned();
    let lower = text.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, &lower[..]),
    };
    // An underscore may follow a prefix, never begin a number, end one, or stand twice.
    if lower.starts_with('_') || digits.ends_with('_') || digits.contains("__") {
        return Err(bad());
    }
    let digits = digits.replace('_', "");
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(bad());
    }
    u64::from_str_radix(&digits, radix).map_err(|_| "value out of range".to_owned())
}
