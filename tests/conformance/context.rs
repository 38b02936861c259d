//! What one running case knows: its prefix, its starting index, its saved values; and the templates that use them.
//!
//! Owns: `{P}`-style expansion of texts and JSON values. Touches: nothing outside this process.
//! Always: a template that is not known stays as it is written, so that a typo in a case shows up as a mismatch.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use regex::{Captures, Regex};
use serde_json::Value;

static TEMPLATE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\{(P|EP|EPHOST|BIN|TMP|DATADIR|N|I(?:[+-]\d+)?|Z(?:[+-]\d+)?|V:\w+)\}").expect("constant pattern")
});

/// The server and the client a case runs against.
#[derive(Clone, Debug)]
pub struct Target {
    /// `http://127.0.0.1:PORT`, without a slash at the end.
    pub base_url: String,
    /// `127.0.0.1:PORT`.
    pub host_port: String,
    /// The server's data directory.
    pub data_dir: PathBuf,
    /// The command line client; empty for HTTP cases.
    pub ctl: PathBuf,
    /// How many members `GET /v2/members` shows; `None` when it cannot be read.
    pub members: Option<usize>,
    /// Whether it goes on answering whatever the cases do.
    pub answers: bool,
}

/// One case in progress.
#[derive(Clone, Debug)]
pub struct Context {
    pub target: Target,
    /// Every key of the case lives below it.
    pub prefix: String,
    /// `X-Etcd-Index` when the case began.
    pub base: i64,
    /// Values kept by `save`.
    pub vars: HashMap<String, String>,
    /// The loop counter of `repeat` and `parallel`.
    pub round: Option<usize>,
    /// A directory of the case's own.
    pub tmp: PathBuf,
}

/// A key name no other case uses: letters only, so that no part of it can be mistaken for an index.
pub fn fresh_prefix() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_nanos() as u64;
    let mut x = nanos ^ (u64::from(std::process::id()) << 40) ^ COUNT.fetch_add(1, Ordering::Relaxed).rotate_left(20);
    x = (x ^ (x >> 31)).wrapping_mul(0x9E37_79B9_7F4A_7C15); // spread the low bits: neighbours must not look alike
    let letters = (0..10).map(|i| char::from(b'a' + ((x >> (24 + 4 * i)) & 15) as u8));
    "cK".chars().chain(letters).collect()
}

impl Context {
    /// `text` with every known template replaced.
    pub fn expand(&self, text: &str) -> String {
        TEMPLATE.replace_all(text, |found: &Captures<'_>| self.value_of(&found[1], &found[0])).into_owned()
    }

    fn value_of(&self, name: &str, whole: &str) -> String {
        let offset = |digits: &str| digits.parse::<i64>().unwrap_or(0);
        match name {
            "P" => self.prefix.clone(),
            "EP" => self.target.base_url.clone(),
            "EPHOST" => self.target.host_port.clone(),
            "BIN" => self.target.ctl.display().to_string(),
            "TMP" => self.tmp.display().to_string(),
            "DATADIR" => self.target.data_dir.display().to_string(),
            "N" => self.round.map_or_else(|| whole.to_owned(), |n| n.to_string()),
            _ if name.starts_with('I') => (self.base + offset(&name[1..])).to_string(),
            _ if name.starts_with('Z') => format!("{:020}", self.base + offset(&name[1..])),
            _ => self.vars.get(&name[2..]).cloned().unwrap_or_else(|| format!("<unset {}>", &name[2..])),
        }
    }

    /// `value` with every text and every member name in it expanded.
    pub fn expand_value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.expand(text)),
            Value::Array(items) => Value::Array(items.iter().map(|v| self.expand_value(v)).collect()),
            Value::Object(members) => {
                Value::Object(members.iter().map(|(k, v)| (self.expand(k), self.expand_value(v))).collect())
            }
            other => other.clone(),
        }
    }
}
