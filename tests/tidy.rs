//! Rules of the house that the compiler does not know: which room may name which, where `unsafe` may stand, what every
//! file owes its reader.
//!
//! A small lexer drops comments and literals, so that only code counts, and expands `use` trees; the rules are the
//! tables below. `rejects` holds an example for each rule that it must refuse.

use std::fs;
use std::path::Path;

/// Which of our own paths a room may name, besides its own. The room of a file is the first of these whose prefix
/// its path has. A path is allowed if one of these is a prefix of it, segment by segment.
const ROOMS: &[(&str, &str, &[&str])] = &[
    (
        "shell",
        "src/shell/",
        &["ringd::api", "ringd::wire", "ringd::core", "ringd::config", "ringd::metrics", "ringd_storage"],
    ),
    ("api", "src/api/", &["ringd::core", "ringd::metrics", "ringd_storage::ids", "ringd_storage::payload"]),
    ("wire", "src/wire/", &["ringd::core", "ringd::api::method", "ringd_storage::ids", "ringd_storage::payload"]),
    ("core", "src/core/", &["ringd_storage"]),
    ("config", "src/config", &["ringd::wire::http_request"]),
    ("metrics", "src/metrics", &[]),
    // The programs' roots: they put the rooms together.
    ("", "src/", &["ringd", "ringd_storage"]),
    ("ringd_storage", "storage/", &[]),
    ("ringd_client", "tools/client/", &[]),
    ("", "tools/", &["ringd_storage", "ringd_client"]),
    ("", "benches/", &["ringd", "ringd_storage", "ringd_client"]),
    ("", "tests/", &["ringd", "ringd_storage", "ringd_client"]),
];

/// Crates that only some files may name, and why.
const CRATES: &[(&str, &[&str], &str)] = &[
    ("glommio", &["src/shell/", "tests/", "benches/"], "only the shell waits"),
    (
        "raft",
        &[
            "src/core/entries.rs",
            "src/core/node_tests.rs",
            "src/core/replica.rs",
            "src/core/raft_log.rs",
            "src/core/node.rs",
            "src/core/machine.rs",
            "src/wire/peer_frame.rs",
        ],
        "raft-rs can be replaced while few files know it",
    ),
    ("protobuf", &["src/core/entries.rs", "src/wire/peer_frame.rs"], "only checked bytes reach protobuf"),
    ("httparse", &["src/wire/", "tests/", "benches/", "tools/"], "bytes are parsed in wire"),
    ("tokio", &["src/shell/srv.rs"], "one executor; a resolver's thread ends with its look-ups"),
    ("hickory_resolver", &["src/shell/srv.rs"], "names are looked up on threads of their own"),
    ("prometheus", &["src/metrics"], "counting must not depend on how it is shown"),
    ("tracing_subscriber", &["src/logging"], "only the program decides where the log goes"),
    ("tracing_appender", &["src/logging"], "only the program decides where the log goes"),
    ("serde_saphyr", &["src/config/file.rs"], "files are read in one place"),
    ("clap", &["src/config", "benches/", "tools/", "tests/sim/src/main.rs"], "flags are read in config"),
    ("pprof", &["src/shell/profile.rs"], "samples are taken in one place, on a thread of their own"),
    ("flate2", &["src/shell/profile.rs", "tests/"], "only profiles are packed"),
    ("sd_notify", &["src/shell/supervisor.rs"], "systemd is told in one place"),
    ("bincode", &["storage/src/codec.rs"], "one module, so that it can be replaced"),
];

/// Paths that deterministic rooms never name. A file named `tests.rs` or `*_tests.rs` may.
const PURE: &[&str] = &["src/core/", "src/api/", "src/wire/", "src/config"];
const IMPURE: &[(&str, &str)] = &[
    ("std::time::Instant", "time comes in as an argument"),
    ("std::time::SystemTime", "time comes in as an argument"),
    ("Instant::now", "time comes in as an argument"),
    ("SystemTime::now", "time comes in as an argument"),
    ("std::collections::HashMap", "its order differs from run to run; use hashbrown with a fixed seed"),
    ("std::collections::HashSet", "its order differs from run to run; use hashbrown with a fixed seed"),
    ("std::collections::hash_map", "its order differs from run to run; use hashbrown with a fixed seed"),
    ("std::hash::RandomState", "randomness comes in as an argument"),
    ("rand", "randomness comes in as an argument"),
    ("std::fs", "the shell and storage touch files"),
    ("std::net::TcpStream", "the shell touches sockets"),
    ("std::net::TcpListener", "the shell touches sockets"),
    ("std::thread", "one node is one thread"),
    ("std::env", "the environment comes in as an argument"),
    ("std::process", "only main ends the process"),
];

/// The files that may contain `unsafe`.
const UNSAFE: &[&str] = &["storage/src/region.rs", "src/shell/raw.rs", "src/ring_seam.rs"];
/// Beyond this a file holds more than one idea.
const LINES_MAX: usize = 800;
/// Top-level folders; `target` and data dirs are not tracked.
const FOLDERS: &[&str] = &["src", "storage", "tools", "benches", "tests", "target", "fuzz-artifacts"];

#[derive(Debug, PartialEq)]
enum Token {
    Word(String),
    Sep,
    Mark(char),
}

/// Code without comments and literals, as words, `::` and single marks.
fn lex(text: &str) -> Vec<(usize, Token)> {
    let chars: Vec<char> = text.chars().collect();
    let (mut at, mut line, mut out) = (0, 1, Vec::new());
    let starts = |at: usize, what: &str| what.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c));
    let skip_to = |from: usize, to: usize, line: &mut usize| {
        *line += chars[from..to.min(chars.len())].iter().filter(|&&c| c == '\n').count();
        to
    };
    while at < chars.len() {
        let c = chars[at];
        if starts(at, "//") {
            let end = chars[at..].iter().position(|&c| c == '\n').map_or(chars.len(), |n| at + n);
            at = skip_to(at, end, &mut line);
        } else if starts(at, "/*") {
            let (mut depth, mut end) = (1, at + 2);
            while depth > 0 && end < chars.len() {
                if starts(end, "/*") {
                    depth += 1;
                    end += 2;
                } else if starts(end, "*/") {
                    depth -= 1;
                    end += 2;
                } else {
                    end += 1;
                }
            }
            at = skip_to(at, end, &mut line);
        } else if let Some(end) = raw_string_end(&chars, at) {
            at = skip_to(at, end, &mut line);
        } else if c == '"' {
            let mut end = at + 1;
            while end < chars.len() && chars[end] != '"' {
                end += if chars[end] == '\\' { 2 } else { 1 };
            }
            at = skip_to(at, end + 1, &mut line);
        } else if c == '\'' && chars.get(at + 1) == Some(&'\\') {
            let end = chars[at + 3..].iter().position(|&c| c == '\'').map_or(chars.len(), |n| at + 3 + n + 1);
            at = skip_to(at, end, &mut line);
        } else if c == '\'' && chars.get(at + 2) == Some(&'\'') {
            at += 3;
        } else if c.is_alphabetic() || c == '_' {
            let end =
                chars[at..].iter().position(|c| !c.is_alphanumeric() && *c != '_').map_or(chars.len(), |n| at + n);
            out.push((line, Token::Word(chars[at..end].iter().collect())));
            at = end;
        } else if starts(at, "::") {
            out.push((line, Token::Sep));
            at += 2;
        } else {
            if c == '\n' {
                line += 1;
            } else if !c.is_whitespace() {
                out.push((line, Token::Mark(c)));
            }
            at += 1;
        }
    }
    out
}

/// The end of the raw string that starts at `at`, if one does.
fn raw_string_end(chars: &[char], at: usize) -> Option<usize> {
    let mut open = at;
    if chars.get(open) == Some(&'b') {
        open += 1;
    }
    if chars.get(open) != Some(&'r') || (at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_')) {
        return None;
    }
    let hashes = chars[open + 1..].iter().take_while(|&&c| c == '#').count();
    let body = open + 1 + hashes;
    if chars.get(body) != Some(&'"') {
        return None;
    }
    let closes =
        |end: usize| chars[end] == '"' && chars[end + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes;
    (body + 1..chars.len()).find(|&end| closes(end)).map(|end| end + 1 + hashes)
}

/// Every path in the code with its line, `use` trees expanded: `use a::{b, c::d}` gives `a::b` and `a::c::d`.
fn paths(tokens: &[(usize, Token)]) -> Vec<(usize, Vec<String>)> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at].1 {
            Token::Word(_) => at = path(tokens, at, &[], &mut out),
            _ => at += 1,
        }
    }
    out
}

/// Reads the path that starts at `at` behind `prefix`; returns where it ends.
fn path(tokens: &[(usize, Token)], mut at: usize, prefix: &[String], out: &mut Vec<(usize, Vec<String>)>) -> usize {
    let line = tokens[at].0;
    let mut segments = prefix.to_vec();
    while let Some((_, Token::Word(word))) = tokens.get(at) {
        segments.push(word.clone());
        at += 1;
        match (tokens.get(at).map(|t| &t.1), tokens.get(at + 1).map(|t| &t.1)) {
            (Some(Token::Sep), Some(Token::Word(_))) => at += 1,
            (Some(Token::Sep), Some(Token::Mark('{'))) => {
                at += 2;
                while let Some((_, token)) = tokens.get(at) {
                    match token {
                        Token::Word(_) => at = path(tokens, at, &segments, out),
                        Token::Mark('}') => return at + 1,
                        _ => at += 1,
                    }
                }
                return at;
            }
            _ => break,
        }
    }
    out.push((line, segments));
    at
}

/// The path as seen from outside its crate: `crate` and `super` replaced. None for paths that are not ours to judge.
fn absolute(file: &str, segments: &[String]) -> Vec<String> {
    let (krate, inner) = match file {
        _ if file.starts_with("src/") => ("ringd", &file[4..]),
        _ if file.starts_with("storage/src/") => ("ringd_storage", &file[12..]),
        _ => ("", ""),
    };
    let mut module: Vec<String> = inner.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main")) {
        module.pop();
    }
    module.insert(0, krate.to_owned());
    let supers = segments.iter().take_while(|s| *s == "super").count();
    match segments[0].as_str() {
        "crate" => [&[krate.to_owned()], &segments[1..]].concat(),
        "super" => [&module[..module.len().saturating_sub(supers)], &segments[supers..]].concat(),
        _ => segments.to_vec(),
    }
}

fn starts_with(path: &[String], prefix: &str) -> bool {
    let prefix: Vec<&str> = prefix.split("::").collect();
    path.len() >= prefix.len() && path.iter().zip(&prefix).all(|(a, b)| a == b)
}

/// Everything wrong with one file: `path:line: what`.
fn check(file: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut report = |line: usize, what: String| wrong.push(format!("{file}:{line}: {what}"));
    if !text.starts_with("//!") {
        report(1, "a file begins with a //! header: what it owns, what it may touch, what must hold".to_owned());
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        report(lines, format!("{lines} lines; the most is {LINES_MAX}"));
    }
    let tokens = lex(text);
    for (line, token) in &tokens {
        if matches!(token, Token::Word(word) if word == "unsafe") && !UNSAFE.contains(&file) {
            report(*line, format!("unsafe outside {UNSAFE:?}"));
        }
        let pure = PURE.iter().any(|room| file.starts_with(room)) || file.starts_with("storage/src/");
        if pure && matches!(token, Token::Word(word) if word == "async" || word == "await") {
            report(*line, "only the shell waits".to_owned());
        }
    }
    for window in tokens.windows(2) {
        if let [(line, Token::Word(word)), (_, Token::Mark('!'))] = window
            && matches!(word.as_str(), "todo" | "unimplemented" | "dbg")
        {
            report(*line, format!("{word}!"));
        }
    }
    let is_test = file.ends_with("/tests.rs") || file.ends_with("_tests.rs");
    let room = ROOMS.iter().find(|(_, prefix, _)| file.starts_with(prefix));
    for (line, segments) in paths(&tokens) {
        let path = absolute(file, &segments);
        let shown = path.join("::");
        if let Some((name, _, allowed)) = room {
            let ours = matches!(path[0].as_str(), "ringd" | "ringd_storage" | "ringd_client") && path.len() > 1;
            let own = path[0] == *name || (path[0] == "ringd" && path[1..].first().is_some_and(|first| first == name));
            // `crate::X` of a type that lives at the crate's root is nobody's room.
            let known =
                path[0] != "ringd" || ROOMS.iter().any(|(room, ..)| path.get(1).is_some_and(|first| first == room));
            if ours && known && !own && !allowed.iter().any(|prefix| starts_with(&path, prefix)) {
                report(line, format!("{} may not name {shown}", if name.is_empty() { file } else { name }));
            }
        }
        for (krate, files, why) in CRATES {
            if path[0] == *krate && path.len() > 1 && !files.iter().any(|prefix| file.starts_with(prefix)) {
                report(line, format!("{shown}: {why}"));
            }
        }
        if PURE.iter().any(|room| file.starts_with(room)) && !is_test {
            for (banned, why) in IMPURE {
                if path.len() > 1 && starts_with(&path, banned) {
                    report(line, format!("{shown}: {why}"));
                }
            }
        }
    }
    wrong
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every .rs file of the workspace, relative to its root, in name order.
fn rust_files() -> Vec<String> {
    fn walk(folder: &Path, out: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                out.push(path.strip_prefix(root()).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    let mut out = Vec::new();
    for folder in ["src", "storage", "tools", "benches", "tests"] {
        if root().join(folder).is_dir() {
            walk(&root().join(folder), &mut out);
        }
    }
    out.sort();
    assert!(out.iter().any(|file| file == "src/lib.rs"), "the walk found nothing");
    out
}

#[test]
fn the_workspace_keeps_the_rules() {
    let wrong: Vec<String> =
        rust_files().iter().flat_map(|file| check(file, &fs::read_to_string(root().join(file)).unwrap())).collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn top_level_folders_are_the_designs() {
    let extra: Vec<String> = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.') && !name.ends_with(".etcd") && !FOLDERS.contains(&name.as_str()))
        .collect();
    assert!(extra.is_empty(), "folders outside {FOLDERS:?}: {extra:?}");
}

#[test]
fn rules_name_files_inside_rooms() {
    // Not that they exist: `peer_frame.rs` comes with the cluster.
    for file in UNSAFE {
        assert!(file.ends_with(".rs") && ROOMS.iter().any(|(_, prefix, _)| file.starts_with(prefix)), "{file}");
    }
    for (_, files, _) in CRATES {
        for file in *files {
            assert!(ROOMS.iter().any(|(_, prefix, _)| file.starts_with(prefix)), "{file}");
        }
    }
}

#[test]
fn rejects_what_it_must() {
    for (file, code, why) in [
        ("src/core/node.rs", "use crate::wire::http_reply;", "core may not name ringd::wire::http_reply"),
        ("src/core/store/tree.rs", "use super::super::super::api::keys;", "core may not name ringd::api::keys"),
        ("src/core/mod.rs", "fn f() { super::shell::run() }", "core may not name ringd::shell::run"),
        ("src/api/keys.rs", "use crate::{core::store, wire::x};", "api may not name ringd::wire::x"),
        ("src/api/keys.rs", "use ringd_storage::{ids::Term, wal::Wal};", "api may not name ringd_storage::wal::Wal"),
        ("src/wire/peer_frame.rs", "fn f(x: crate::api::keys::Y) {}", "wire may not name ringd::api::keys::Y"),
        ("src/config.rs", "use crate::shell::executor;", "config may not name ringd::shell::executor"),
        ("storage/src/wal.rs", "use ringd::core;", "ringd_storage may not name ringd::core"),
        ("tools/ringwal/src/main.rs", "use ringd::shell::disk;", "may not name ringd::shell::disk"),
        ("tools/client/src/lib.rs", "use ringd_storage::ids;", "ringd_client may not name ringd_storage::ids"),
        ("src/core/node.rs", "use glommio::Task;", "only the shell waits"),
        ("src/core/node.rs", "async fn f() {}", "only the shell waits"),
        ("storage/src/wal.rs", "fn f() { x.await }", "only the shell waits"),
        ("src/shell/driver.rs", "use raft::RawNode;", "raft-rs can be replaced"),
        ("src/core/event.rs", "use protobuf::Message;", "only checked bytes"),
        ("src/shell/driver.rs", "fn f() { httparse::parse() }", "bytes are parsed in wire"),
        ("src/shell/driver.rs", "use tokio::net::TcpStream;", "one executor"),
        ("src/shell/dial.rs", "use hickory_resolver::Resolver;", "threads of their own"),
        ("src/core/command.rs", "fn f() { bincode::decode() }", "one module"),
        ("src/core/node.rs", "use std::collections::{BTreeMap, HashMap};", "order differs"),
        ("src/core/node.rs", "use std::time::{Duration, Instant};", "time comes in"),
        ("src/api/keys.rs", "fn f() { Instant::now() }", "time comes in"),
        ("src/core/node.rs", "fn f() { rand::random::<u8>() }", "randomness comes in"),
        ("src/wire/x.rs", "use std::fs;\nfn f() { fs::read() }", "touch files"),
        ("src/shell/driver.rs", "fn f() { unsafe { g() } }", "unsafe outside"),
        ("tools/ringwal/src/main.rs", "unsafe impl Send for X {}", "unsafe outside"),
        ("src/api/keys.rs", "fn f() { todo!() }", "todo!"),
    ] {
        let wrong = check(file, &format!("//! Header.\n{code}\n"));
        assert!(wrong.iter().any(|text| text.contains(why)), "{file}: {code}: {wrong:?}");
    }
    assert!(check("src/api/keys.rs", "fn f() {}\n")[0].contains("header"));
    assert!(check("src/api/keys.rs", &format!("//! x\n{}", "\n".repeat(LINES_MAX)))[0].contains("the most is"));
}

#[test]
fn accepts_what_is_right() {
    for (file, code) in [
        ("src/core/node.rs", "// use crate::wire::x; unsafe\n/* glommio::Task /* nested */ unsafe */"),
        ("src/core/node.rs", "const A: &str = \"unsafe crate::wire::x\"; const B: &str = r#\"unsafe \" todo!()\"#;"),
        ("src/core/node.rs", "fn f<'a>(x: &'a u8) { g('\\'', '\"', b'u') } use raft::RawNode;"),
        ("src/core/node.rs", "use ringd_storage::wal::Wal; use super::store::Store; use crate::core::event;"),
        ("src/core/store/tests.rs", "use std::collections::HashMap;"),
        ("src/core/node.rs", "use hashbrown::HashMap; use std::time::Duration; fn f(now: Instant) {}"),
        ("src/shell/driver.rs", "use crate::{api, core::node, wire}; use ringd_storage::wal; use glommio::Task;"),
        ("src/api/keys.rs", "use crate::core::store; use ringd_storage::ids::EtcdIndex; use super::error::E;"),
        (
            "src/wire/peer_frame.rs",
            "use crate::api::method::Method; use raft::eraftpb::Message; use crate::core::event;",
        ),
        ("src/main.rs", "use ringd::shell; fn main() { ringd::config::x() }"),
        ("storage/src/region.rs", "fn f() { unsafe { g() } }"),
        ("tools/ringwal/src/main.rs", "use ringd_storage::scan; use std::time::Instant; use clap::Parser;"),
        ("tests/crash/main.rs", "use ringd::config::Config; use std::fs;"),
    ] {
        assert_eq!(check(file, &format!("//! Header.\n{code}\n")), [] as [String; 0], "{file}: {code}");
    }
}

#[test]
fn lines_are_counted_through_literals() {
    let wrong = check(
        "src/api/keys.rs",
        "//! x\nconst A: &str = \"a\nb\";\n/*\n*/\nconst B: &str = r\"\n\";\nunsafe fn f() {}\n",
    );
    assert_eq!(wrong.len(), 1);
    assert!(wrong[0].starts_with("src/api/keys.rs:8: unsafe"), "{wrong:?}");
}
