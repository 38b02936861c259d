//! The case files, and the list of those that wait for something that is not built yet.
//!
//! Owns: `cases/**.json` and `waiting.txt` as they are read. Touches: nothing else. Always: every case belongs to
//! exactly one group of `GROUPS`, and every line of the waiting list matches at least one case.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::server::Profile;

/// The test functions and the case files each of them runs.
pub const GROUPS: &[(&str, &str, &[&str])] = &[
    (
        "v2_http_keys",
        "v2_http",
        &[
            "index",
            "keys_badparams",
            "keys_basic",
            "keys_cond_delete",
            "keys_cond_more",
            "keys_cond_put",
            "keys_dirs",
            "keys_hidden",
            "keys_inorder",
            "keys_methods",
            "keys_paths",
        ],
    ),
    ("v2_http_ttl", "v2_http", &["keys_ttl"]),
    ("v2_http_watch", "v2_http", &["watch", "watch_history"]),
    ("v2_http_sequences", "v2_http", &["sequences"]),
    ("v2_http_service", "v2_http", &["cors", "members", "misc", "stats", "z_auth", "zz_disposable"]),
    (
        "v2_ctl",
        "v2_ctl",
        &[
            "backup",
            "execwatch",
            "get",
            "global",
            "help",
            "ls",
            "member",
            "mk",
            "mkdir",
            "rm",
            "sequences",
            "set",
            "update",
            "watch",
            "z_auth",
            "zz_disposable",
        ],
    ),
];

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// `v2_http/GROUP/NAME` or `v2_ctl/GROUP/NAME`.
    pub name: String,
    pub content: Value,
}

/// A line of the waiting list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// `*` stands for any text.
    pub glob: String,
    /// What the cases wait for.
    pub reason: String,
}

pub fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance")
}

impl Case {
    pub fn needs(&self) -> impl Iterator<Item = &str> {
        self.content["needs"].as_array().into_iter().flatten().filter_map(Value::as_str)
    }

    /// Whether it waits for a moment, or compares what time is left: then a slow machine may fail it.
    pub fn is_timed(&self) -> bool {
        const WORDS: [&str; 5] =
            [r#""do":"start""#, r#""do":"ctl_start""#, r#""do":"sleep""#, r#""interrupt_after":"#, "ttl"];
        let steps = self.content["steps"].to_string();
        WORDS.iter().any(|word| steps.contains(word))
    }

    /// The server the case has to run on; the error names a need that is unknown.
    pub fn profile(&self) -> Result<Profile, String> {
        self.needs().try_fold(Profile::Plain, |profile, need| match need {
            "cors" => Ok(Profile::Cors),
            "cluster3" => Ok(Profile::Cluster),
            "disposable" => Ok(Profile::Disposable),
            "single" | "default-cors" | "data-dir" | "documented" => Ok(profile),
            other => Err(format!("  {} needs {other:?}, which is unknown", self.name)),
        })
    }
}

/// The cases of one file.
pub fn load(kind: &str, file: &str) -> Vec<Case> {
    let path = home().join(format!("cases/{kind}/{file}.json"));
    let bytes = fs::read(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    let content: Value = serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let cases = content["cases"].as_array().unwrap_or_else(|| panic!("{}: no cases", path.display()));
    let named = |case: &Value| format!("{kind}/{}", case["name"].as_str().unwrap_or("?"));
    cases.iter().map(|case| Case { name: named(case), content: case.clone() }).collect()
}

/// The waiting list: `GLOB  # REASON` per line.
pub fn waiting() -> Vec<Waiting> {
    let path = home().join("waiting.txt");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    let entry = |line: &str| {
        let (glob, reason) = line.split_once('#')?;
        let entry = Waiting { glob: glob.trim().to_owned(), reason: reason.trim().to_owned() };
        (!entry.glob.is_empty() && !entry.reason.is_empty()).then_some(entry)
    };
    let lines = text.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#'));
    lines.map(|l| entry(l).unwrap_or_else(|| panic!("waiting.txt: not `GLOB  # REASON`: {l}"))).collect()
}

/// Whether `name` is `glob`, in which `*` stands for any text.
pub fn matches(glob: &str, name: &str) -> bool {
    match glob.split_once('*') {
        None => glob == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len()).filter(|i| rest.is_char_boundary(*i)).any(|i| matches(tail, &rest[i..]))
        }),
    }
}

fn all_cases() -> Vec<Case> {
    GROUPS.iter().flat_map(|(_, kind, files)| files.iter().flat_map(|f| load(kind, f))).collect()
}

#[test]
fn every_case_file_belongs_to_one_group() {
    for kind in ["v2_http", "v2_ctl"] {
        let listing = fs::read_dir(home().join("cases").join(kind)).expect("the cases are part of the project");
        let mut present: Vec<String> = listing
            .map(|e| e.expect("readable directory").file_name().to_string_lossy().trim_end_matches(".json").to_owned())
            .collect();
        let mut run: Vec<&str> = GROUPS.iter().filter(|g| g.1 == kind).flat_map(|g| g.2.iter().copied()).collect();
        present.sort();
        run.sort_unstable();
        assert_eq!(present, run);
    }
}

#[test]
fn names_are_unique_and_needs_are_known() {
    let mut names: Vec<String> = Vec::new();
    for case in all_cases() {
        case.profile().unwrap_or_else(|why| panic!("{why}"));
        names.push(case.name);
    }
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
}

/// The README's table says exactly what `waiting.txt` says: same globs, same reasons, and how many cases each hides.
#[test]
fn the_readme_lists_what_waits() {
    let cases = all_cases();
    let list = waiting();
    let wanted: Vec<String> = list
        .iter()
        .enumerate()
        .map(|(i, entry)| {
            let first = |c: &&Case| list.iter().position(|w| matches(&w.glob, &c.name)) == Some(i);
            let count = cases.iter().filter(first).count();
            assert!(count > 0, "waiting.txt: {} matches no case that no earlier line matches", entry.glob);
            format!("| `{}` | {count} | {} |", entry.glob, entry.reason)
        })
        .collect();
    let readme = fs::read_to_string(home().join("README.md")).expect("README.md is part of the project");
    let found: Vec<&str> = readme.lines().filter(|l| l.starts_with("| `v2_")).collect();
    assert_eq!(found, wanted, "the table in tests/conformance/README.md must be:\n{}\n", wanted.join("\n"));
}

#[test]
fn few_cases_depend_on_the_time() {
    let cases = all_cases();
    let timed = cases.iter().filter(|case| case.is_timed()).count();
    assert!(timed > 0 && timed < cases.len() / 3, "{timed} of {}", cases.len());
}

#[test]
fn globs_match_as_a_shell_would() {
    assert!(matches("v2_http/watch/*", "v2_http/watch/set"));
    assert!(matches("*/stream_*", "v2_http/watch/stream_three"));
    assert!(!matches("v2_http/watch/*", "v2_http/watch_history/x"));
    assert!(!matches("v2_http/watch", "v2_http/watch/x"));
}
