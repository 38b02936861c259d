//! The configuration file: YAML with the names of the flags as keys.
//!
//! Owns: which keys mean which flag, and messages that name file, line, key and remedy. May touch: the table, Go's
//! value syntax and the YAML crate; the text comes in as an argument.
//!
//! Must always hold: foreign bytes give settings or an error, never a panic; each flag is set at most once; a key
//! without a value sets nothing, as in etcd's sample file.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::Notice;
use super::flags::{self, Flag, Group, Kind};
use super::gather::{Setting, Source};
use super::go_flags;

/// The largest file that is read; etcd's sample, with all its comments, has 4 KiB.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// Sections of etcd's files, and what stands before their keys to make them a flag. The first that is one counts.
const SECTIONS: &[(&str, &[&str])] =
    &[("client-transport-security", &["", "client-"]), ("peer-transport-security", &["peer-", "peer-cert-"])];
/// Older names of keys.
const RENAMED: &[(&str, &str)] = &[("log-output", "log-outputs")];

/// What a file gives.
#[derive(Debug, Default)]
pub struct Found {
    /// Settings, in the file's order.
    pub settings: Vec<Setting>,
    /// Keys that mean nothing.
    pub notices: Vec<Notice>,
}

/// A value, with numbers and truth values in the text that a flag would have.
#[derive(Debug)]
enum Node {
    Nothing,
    Text(String),
    Bool(bool),
    Number(String),
    List(Vec<Node>),
    Section(Section),
}

/// Keys with values, in the file's order.
#[derive(Debug)]
struct Section(Vec<(String, Spanned<Node>)>);

/// Reads a file. `path` is for the messages.
///
/// # Errors
/// `PATH:LINE: "KEY": what is wrong; what to write instead`.
pub fn read(text: &str, path: &str) -> Result<Found, String> {
    let mut found = Found::default();
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("{path}: is larger than {FILE_BYTES_MAX} bytes; a configuration file is YAML"));
    }
    let root: Node = serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map_or_else(String::new, |at| format!(":{}", at.line()));
        let why = error.without_snippet().to_string();
        let why = why.lines().next().unwrap_or_default();
        format!("{path}{line}: is not proper YAML: {why}; write one \"key: value\" per line")
    })?;
    match root {
        Node::Nothing => {}
        Node::Section(root) => walk(root, None, path, &mut found)?,
        _ => return Err(format!("{path}: holds no keys; write one \"key: value\" per line")),
    }
    Ok(found)
}

fn walk(section: Section, within: Option<usize>, path: &str, found: &mut Found) -> Result<(), String> {
    for (key, node) in section.0 {
        let line = node.referenced.line();
        let at = format!("{path}:{line}: {key:?}");
        // etcd takes keys in any case; flags of some tools write `_`.
        let name = key.to_ascii_lowercase().replace('_', "-");
        let opened = SECTIONS.iter().position(|(known, _)| *known == name);
        match (opened, within, node.value) {
            (_, _, Node::Nothing) => {}
            (Some(_), None, Node::Section(inner)) => walk(inner, opened, path, found)?,
            (Some(_), None, _) => {
                return Err(format!(
                    "{at}: is a section; put its keys below it, indented, such as \"  cert-file: PATH\""
                ));
            }
            (_, _, value) => match flag_of(&name, within) {
                None => {
                    let text =
                        format!("{at}: unknown key is ignored; \"ringd --help\" lists the flags, which are the keys");
                    found.notices.push(Notice::Warn(text));
                }
                Some(flag) => {
                    let value = text_of(value, flag).map_err(|why| format!("{at}: {why}"))?;
                    if value.is_empty() {
                        continue;
                    }
                    go_flags::check(flag.kind, &value)
                        .map_err(|why| format!("{at}: invalid value {value:?}: {why}; {}", remedy(flag)))?;
                    if let Some(other) = found.settings.iter().find(|other| other.name == flag.name) {
                        let Source::File(other) = other.source else { continue };
                        return Err(format!("{at}: is set in line {other} already; remove one of the two"));
                    }
                    found.settings.push(Setting { name: flag.name, value, source: Source::File(line) });
                }
            },
        }
    }
    Ok(())
}

fn flag_of(name: &str, within: Option<usize>) -> Option<&'static Flag> {
    let name = RENAMED.iter().find(|(old, _)| *old == name).map_or(name, |(_, new)| new);
    let found = match within {
        None => flags::find(name),
        Some(section) => SECTIONS[section]
            .1
            .iter()
            .find_map(|prefix| flags::find(&format!("{prefix}{name}")).filter(|flag| flag.group == Group::Security)),
    };
    found.filter(|flag| flag.group != Group::About)
}

/// The text a flag would have been given.
fn text_of(node: Node, flag: &Flag) -> Result<String, String> {
    let is_text = matches!(flag.kind, Kind::Text | Kind::Urls | Kind::Choice(_));
    match node {
        Node::Nothing => Ok(String::new()),
        // Go's YAML is 1.1, where these are truth values.
        Node::Text(text) if flag.kind == Kind::Bool => Ok(match text.to_ascii_lowercase().as_str() {
            "yes" | "on" | "y" => "true".to_owned(),
            "no" | "off" | "n" => "false".to_owned(),
            _ => text,
        }),
        Node::Text(text) => Ok(text),
        Node::Number(_) | Node::Bool(_) if is_text => {
            Err("must be text, and YAML takes this for a number or a truth value; put it in quotes".to_owned())
        }
        Node::Number(text) => Ok(text),
        Node::Bool(value) => Ok(value.to_string()),
        Node::List(items) if is_text => {
            let items = items.into_iter().map(|item| text_of(item, flag)).collect::<Result<Vec<_>, _>>()?;
            Ok(items.join(","))
        }
        Node::List(_) => Err(format!("is a list; {}", remedy(flag))),
        Node::Section(_) => Err(format!("is a section of keys; {}", remedy(flag))),
    }
}

fn remedy(flag: &Flag) -> String {
    match flag.kind {
        Kind::Text => "write text, in quotes if it has a colon".to_owned(),
        Kind::Bool => "write true or false".to_owned(),
        Kind::Uint if flag.default.is_empty() => "write a whole number".to_owned(),
        Kind::Uint => format!("write a whole number, such as {}", flag.default),
        Kind::Urls => "write SCHEME://HOST:PORT, several of them with commas".to_owned(),
        Kind::Choice(choices) => format!("write one of {}", choices.join(", ")),
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("keys, text, a number, true or false, or a list of them")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Nothing)
    }

    fn visit_none<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Nothing)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value.to_string()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Number(value.to_string()))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut section = Vec::new();
        while let Some(key) = entries.next_key::<String>()? {
            section.push((key, entries.next_value()?));
        }
        Ok(Node::Section(Section(section)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(text: &str) -> Vec<(&'static str, String, u64)> {
        let found = read(text, "f.yml").unwrap_or_else(|error| panic!("{text}: {error}"));
        let line = |source| match source {
            Source::File(line) => line,
            other => panic!("{other:?} in a file"),
        };
        found.settings.into_iter().map(|setting| (setting.name, setting.value, line(setting.source))).collect()
    }

    #[test]
    fn keys_are_flags_in_either_spelling_and_in_sections() {
        let text = "name: a\nlisten_client_urls: [http://127.0.0.1:1, 'http://127.0.0.1:2']\nSnapshot-Count: 7\n\
                    data-dir:\nwal-dir: ''\nlog-output: stdout\nenable-v2: yes\n\
                    client-transport-security:\n  cert-file: /c\n  crl-file: /r\n  client-cert-auth: true\n\
                    peer-transport-security:\n  cert_file: /p\n  allowed-cn: x\n  client-cert-auth: false\n";
        let expected = [
            ("name", "a", 1),
            ("listen-client-urls", "http://127.0.0.1:1,http://127.0.0.1:2", 2),
            ("snapshot-count", "7", 3),
            ("log-outputs", "stdout", 6),
            ("enable-v2", "true", 7),
            ("cert-file", "/c", 9),
            ("client-crl-file", "/r", 10),
            ("client-cert-auth", "true", 11),
            ("peer-cert-file", "/p", 13),
            ("peer-cert-allowed-cn", "x", 14),
            ("peer-client-cert-auth", "false", 15),
        ];
        assert_eq!(found(text), expected.map(|(name, value, line)| (name, value.to_owned(), line)));
        assert_eq!(found(""), []);
        assert_eq!(found("# nothing\n---\n"), []);
    }

    #[test]
    fn errors_name_file_line_key_and_remedy() {
        for (text, parts) in [
            ("name: a\nheartbeat-interval: abc\n", &["f.yml:2: \"heartbeat-interval\"", "\"abc\"", "such as 100"][..]),
            ("\n\nproxy: sometimes\n", &["f.yml:3: \"proxy\"", "write one of off, readonly, on"]),
            ("listen-peer-urls: foo\n", &["f.yml:1: \"listen-peer-urls\"", "URL scheme must be", "SCHEME://HOST:PORT"]),
            ("name: 12\n", &["f.yml:1: \"name\"", "put it in quotes"]),
            ("name:\n  a: b\n", &["\"name\"", "is a section of keys"]),
            ("max-wals: [1, 2]\n", &["f.yml:1: \"max-wals\"", "is a list"]),
            ("client-transport-security: yes\n", &["f.yml:1: \"client-transport-security\"", "indented"]),
            ("wal-dir: /a\nname: b\nwal_dir: /c\n", &["f.yml:3: \"wal_dir\"", "in line 1"]),
            ("name: [\n", &["f.yml:", "is not proper YAML"]),
            ("a: b: c\n", &["f.yml:1", "is not proper YAML"]),
            ("just words\n", &["f.yml", "holds no keys"]),
        ] {
            let error = read(text, "f.yml").expect_err(text);
            assert!(parts.iter().all(|part| error.contains(part)) && !error.contains('\n'), "{text:?}: {error}");
        }
    }

    #[test]
    fn unknown_keys_are_told_with_their_line() {
        let found = read("name: a\nlisten-client-url: x\nhelp: true\npeer-transport-security:\n  name: b\n", "f.yml");
        let notices = found.expect("only warnings").notices;
        let lines = ["f.yml:2: \"listen-client-url\"", "f.yml:3: \"help\"", "f.yml:5: \"name\""];
        assert_eq!(notices.len(), lines.len(), "{notices:?}");
        for (notice, line) in notices.iter().zip(lines) {
            assert!(matches!(notice, Notice::Warn(text) if text.starts_with(line)), "{notice:?}");
        }
    }

    #[test]
    fn a_file_that_doubles_itself_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for at in 1..10 {
            let items = vec![format!("*a{}", at - 1); 10].join(", ");
            let _ = fmt::Write::write_fmt(&mut text, format_args!("a{at}: &a{at} [{items}]\n"));
        }
        assert!(read(&text, "f.yml").is_err());
        assert!(read(&"[".repeat(100_000), "f.yml").is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn any_text_gives_settings_or_an_error(text in "([a-z-]{1,8}|name|wal-dir|max-wals|[:\\[\\]{}'\",#&*!|>%@\\n\\t -]|\\PC){0,60}") {
            if let Ok(found) = read(&text, "f.yml") {
                for setting in found.settings {
                    let flag = flags::find(setting.name).expect("a flag");
                    prop_assert_eq!(go_flags::check(flag.kind, &setting.value), Ok(()));
                }
            }
        }
    }
}
