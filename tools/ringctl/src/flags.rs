//! Flags the way Go's flag package and the cli library of etcdctl read them.
//!
//! Owns: the syntax and its error texts. Touches: nothing. Always: one and two dashes mean the same; a flag the table
//! does not know is an error; `--` ends the flags.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Text,
    Int,
    Uint,
    Time,
    /// A text that may be given several times.
    List,
}

#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// The first one is what the program calls it.
    pub names: &'static [&'static str],
    pub kind: Kind,
    pub help: &'static str,
    /// What help shows in place of the value.
    pub placeholder: &'static str,
    /// What help shows as the default; empty for none.
    pub default: &'static str,
    /// The environment variable that stands in for it; empty for none.
    pub variable: &'static str,
}

impl Flag {
    pub const fn with_variable(self, variable: &'static str) -> Flag {
        Flag { variable, ..self }
    }

    pub const fn with_default(self, default: &'static str) -> Flag {
        Flag { default, ..self }
    }
}

/// The flag every command has.
pub const HELP: Flag =
    Flag { names: &["help", "h"], kind: Kind::Bool, help: "show help", placeholder: "", default: "", variable: "" };

/// A command line that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlagError {
    NotDefined(String),
    NeedsArgument(String),
    BadSyntax(String),
    Invalid { value: String, flag: String, why: &'static str },
    InvalidBool { value: String, flag: String },
}

impl fmt::Display for FlagError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FlagError::NotDefined(flag) => write!(f, "flag provided but not defined: -{flag}"),
            FlagError::NeedsArgument(flag) => write!(f, "flag needs an argument: -{flag}"),
            FlagError::BadSyntax(arg) => write!(f, "bad flag syntax: {arg}"),
            FlagError::Invalid { value, flag, why } => write!(f, "invalid value {value:?} for flag -{flag}: {why}"),
            FlagError::InvalidBool { value, flag } => {
                write!(f, "invalid boolean value {value:?} for -{flag}: parse error")
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Bool(bool),
    Text(String),
    Int(i64),
    Uint(u64),
    /// `None`: negative, which is over before it begins.
    Time(Option<Duration>),
    List(Vec<String>),
}

/// The flags that were given, by their first names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values(BTreeMap<&'static str, Value>);

impl Values {
    pub fn is_set(&self, name: &str) -> bool {
        self.0.get(name) == Some(&Value::Bool(true))
    }

    /// The text of a flag, unless it was not given or is empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.0.get(name) {
            Some(Value::Text(text)) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// Every text of a flag that may be repeated.
    pub fn list(&self, name: &str) -> &[String] {
        if let Some(Value::List(texts)) = self.0.get(name) { texts } else { &[] }
    }

    /// 0 if it was not given.
    pub fn int(&self, name: &str) -> i64 {
        if let Some(Value::Int(n)) = self.0.get(name) { *n } else { 0 }
    }

    /// 0 if it was not given.
    pub fn uint(&self, name: &str) -> u64 {
        if let Some(Value::Uint(n)) = self.0.get(name) { *n } else { 0 }
    }

    pub fn time(&self, name: &str, default: Duration) -> Duration {
        if let Some(Value::Time(time)) = self.0.get(name) { time.unwrap_or(Duration::ZERO) } else { default }
    }
}

fn find(flags: &'static [Flag], name: &str) -> Option<&'static Flag> {
    flags.iter().chain([&HELP]).find(|f| f.names.contains(&name))
}

/// The name in an argument that looks like a flag, without dashes and without `=value`.
fn name_of(arg: &str) -> Option<&str> {
    let name = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-'))?;
    let name = name.split('=').next().unwrap_or("");
    (!name.is_empty()).then_some(name)
}

/// Moves the flags a command knows, each with the argument after it, before everything else. What follows `--` is
/// taken as it stands, also when it looks like a flag.
pub fn parse_reordered(flags: &'static [Flag], args: &[String]) -> Result<(Values, Vec<String>), FlagError> {
    let (mut first, mut rest, mut plain) = (Vec::new(), Vec::new(), &[][..]);
    // The kind of the flag whose value the next argument may be.
    let mut pending = None;
    for (i, arg) in args.iter().enumerate() {
        let known = name_of(arg).and_then(|name| find(flags, name));
        if let Some(flag) = known {
            pending = (!arg.contains('=')).then_some(flag.kind);
            first.push(arg.clone());
        } else if arg == "--" && pending.is_none_or(|kind| kind == Kind::Bool) {
            plain = &args[i + 1..];
            break;
        } else if pending.take().is_some() {
            first.push(arg.clone());
        } else {
            rest.push(arg.clone());
        }
    }
    first.extend(rest);
    let (values, mut args) = parse(flags, &first)?;
    args.extend_from_slice(plain);
    Ok((values, args))
}

/// Reads flags up to the first argument that is none; returns them and what is left.
pub fn parse(flags: &'static [Flag], args: &[String]) -> Result<(Values, Vec<String>), FlagError> {
    let mut values = Values::default();
    let mut at = 0;
    while let Some(arg) = args.get(at) {
        if arg == "--" {
            at += 1;
            break;
        }
        let Some(body) = arg.strip_prefix('-').filter(|b| !b.is_empty()) else { break };
        at += 1;
        let body = body.strip_prefix('-').unwrap_or(body);
        if body.starts_with(['-', '=']) {
            return Err(FlagError::BadSyntax(arg.clone()));
        }
        let (name, inline) = body.split_once('=').map_or((body, None), |(name, value)| (name, Some(value)));
        let flag = find(flags, name).ok_or_else(|| FlagError::NotDefined(name.to_owned()))?;
        let value = match (flag.kind, inline) {
            (Kind::Bool, None) => Value::Bool(true),
            (_, Some(value)) => read(flag.kind, name, value)?,
            (_, None) => {
                let value = args.get(at).ok_or_else(|| FlagError::NeedsArgument(name.to_owned()))?;
                at += 1;
                read(flag.kind, name, value)?
            }
        };
        match (values.0.get_mut(flag.names[0]), value) {
            (Some(Value::List(earlier)), Value::List(more)) => earlier.extend(more),
            (_, value) => drop(values.0.insert(flag.names[0], value)),
        }
    }
    Ok((values, args[at..].to_vec()))
}

fn read(kind: Kind, name: &str, text: &str) -> Result<Value, FlagError> {
    let invalid = |why| FlagError::Invalid { value: text.to_owned(), flag: name.to_owned(), why };
    match kind {
        Kind::Text => Ok(Value::Text(text.to_owned())),
        Kind::List => Ok(Value::List(vec![text.to_owned()])),
        Kind::Bool => match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => Err(FlagError::InvalidBool { value: text.to_owned(), flag: name.to_owned() }),
        },
        Kind::Int => {
            let (negative, digits) = match text.strip_prefix('-') {
                Some(digits) => (true, digits),
                None => (false, text.strip_prefix('+').unwrap_or(text)),
            };
            let size = read_uint(digits).map_err(invalid)?;
            let signed = if negative { 0i64.checked_sub_unsigned(size) } else { 0i64.checked_add_unsigned(size) };
            signed.map(Value::Int).ok_or_else(|| invalid(OUT_OF_RANGE))
        }
        Kind::Uint => read_uint(text).map(Value::Uint).map_err(invalid),
        Kind::Time => read_time(text).map(Value::Time).ok_or_else(|| invalid(PARSE_ERROR)),
    }
}

const PARSE_ERROR: &str = "parse error";
const OUT_OF_RANGE: &str = "value out of range";

/// Decimal, or with Go's prefixes 0x, 0o, 0b and 0.
fn read_uint(text: &str) -> Result<u64, &'static str> {
    let lower = text.to_ascii_lowercase();
    let prefixed = |prefix| lower.strip_prefix(prefix).filter(|rest: &&str| !rest.is_empty());
    let (radix, digits) = [("0x", 16), ("0b", 2), ("0o", 8), ("0", 8)]
        .into_iter()
        .find_map(|(prefix, radix)| prefixed(prefix).map(|digits| (radix, digits)))
        .unwrap_or((10, lower.as_str()));
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(PARSE_ERROR);
    }
    u64::from_str_radix(digits, radix).map_err(|_| OUT_OF_RANGE)
}

/// Go's durations: `1h2m3.5s`, `300ms`, `-1s`, `0`. The inner `None` is a negative one.
fn read_time(text: &str) -> Option<Option<Duration>> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(Some(Duration::ZERO));
    }
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let units = [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
        let (unit, seconds) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
    }
    Some((!negative).then_some(total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{COMMANDS, GLOBAL_FLAGS, find as find_command};

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn set(text: &str) -> Result<(Values, Vec<String>), FlagError> {
        parse_reordered(find_command(COMMANDS, "set").expect("set exists").flags, &words(text))
    }

    #[test]
    fn flags_may_follow_arguments_and_keep_their_values() {
        let (values, args) = set("/a 1 --ttl 100").expect("valid");
        assert_eq!((values.int("ttl"), args), (100, words("/a 1")));
        let (values, args) = set("--ttl=5 /a -b").expect("a second word that looks like a flag is an argument");
        assert_eq!((values.int("ttl"), args), (5, words("/a -b")));
        let (_, args) = set("-- /a --ttl").expect("valid");
        assert_eq!(args, words("/a --ttl"));
        let (values, args) = set("--ttl 5 /a -- -5").expect("a value that looks like a flag");
        assert_eq!((values.int("ttl"), args), (5, words("/a -5")));
    }

    #[test]
    fn a_command_after_two_dashes_keeps_its_own_flags() {
        let flags = find_command(COMMANDS, "exec-watch").expect("it exists").flags;
        for text in ["-r /k -- sh -r --after-index", "-r -- /k sh -r --after-index", "/k -r -- sh -r --after-index"] {
            let (values, args) = parse_reordered(flags, &words(text)).expect(text);
            assert!(values.is_set("recursive"), "{text}");
            assert_eq!(args, words("/k sh -r --after-index"), "{text}");
        }
    }

    #[test]
    fn a_repeated_flag_keeps_every_value() {
        let flags = find_command(COMMANDS, "import").expect("it exists").flags;
        let (values, _) = parse_reordered(flags, &words("--hidden /_a --snap x --hidden /_b")).expect("valid");
        assert_eq!(values.list("hidden"), words("/_a /_b"));
    }

    #[test]
    fn errors_read_as_go_writes_them() {
        for (text, message) in [
            ("-b x", "flag provided but not defined: -b"),
            ("--bogus=1 x", "flag provided but not defined: -bogus"),
            ("--ttl", "flag needs an argument: -ttl"),
            ("--ttl abc a", "invalid value \"abc\" for flag -ttl: parse error"),
            (
                "--ttl 99999999999999999999 a",
                "invalid value \"99999999999999999999\" for flag -ttl: value out of range",
            ),
            ("--swap-with-index -1 a", "invalid value \"-1\" for flag -swap-with-index: parse error"),
            ("---x", "bad flag syntax: ---x"),
            ("--help=x", "invalid boolean value \"x\" for -help: parse error"),
        ] {
            assert_eq!(set(text).map_err(|e| e.to_string()), Err(message.to_owned()), "{text}");
        }
    }

    #[test]
    fn global_flags_end_at_the_command() {
        let (values, rest) = parse(GLOBAL_FLAGS, &words("-o json --timeout 1.5s set --ttl 1 a")).expect("valid");
        assert_eq!(values.text("output"), Some("json"));
        assert_eq!(values.time("timeout", Duration::ZERO), Duration::from_millis(1500));
        assert_eq!(rest, words("set --ttl 1 a"));
    }

    #[test]
    fn numbers_and_times() {
        assert_eq!(read_uint("0x10"), Ok(16));
        assert_eq!(read_uint("010"), Ok(8));
        assert_eq!(read_uint("0"), Ok(0));
        assert_eq!(read_uint(""), Err(PARSE_ERROR));
        assert_eq!(read_time("1h2m3s"), Some(Some(Duration::from_secs(3723))));
        assert_eq!(read_time("1ns"), Some(Some(Duration::from_nanos(1))));
        assert_eq!(read_time("-1s"), Some(None));
        assert_eq!(read_time("5"), None);
        assert_eq!(read_time("abc"), None);
    }
}
