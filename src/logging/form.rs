//! How a line looks, for those who read etcd's log by machine.
//!
//! Owns: etcd's names and letters. The plain form is tracing's own.

use std::fmt::{self, Write as _};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Lines as etcd 3.4 writes them with `--logger zap`.
pub struct Json;

/// Lines as etcd up to 3.4 writes them by default.
pub struct Capnslog;

/// Characters of `2026-01-02T03:04:05.678`, at which zap's time ends.
const MILLISECONDS: usize = 23;

impl<S: Subscriber + for<'a> LookupSpan<'a>, N: for<'a> FormatFields<'a> + 'static> FormatEvent<S, N> for Json {
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let stamp = stamp()?;
        writeln!(out, "{}", json_line(event.metadata(), &stamp, fields))
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>, N: for<'a> FormatFields<'a> + 'static> FormatEvent<S, N> for Capnslog {
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let stamp = stamp()?.replace('T', " ");
        let metadata = event.metadata();
        let package = metadata.target().rsplit("::").next().unwrap_or_default();
        write!(out, "{} {} | {package}: {}", stamp.trim_end_matches('Z'), letter(*metadata.level()), fields.message)?;
        for (name, value) in &fields.others {
            match value {
                Value::String(text) => write!(out, " {name}={text}")?,
                other => write!(out, " {name}={other}")?,
            }
        }
        writeln!(out)
    }
}

/// The loss of lines, told in their own form by the thread that writes them.
#[must_use]
pub fn loss_line(format: ringd::config::log::LogFormat, lost: u64) -> String {
    use ringd::config::log::LogFormat;
    let stamp = stamp().unwrap_or_default();
    let text = format!("{lost} log lines were lost in all: this output did not take them in time");
    match format {
        LogFormat::Text => format!("{stamp}  WARN {text}\n"),
        LogFormat::Capnslog => format!("{} W | log: {text}\n", stamp.replace('T', " ").trim_end_matches('Z')),
        LogFormat::Json => {
            let line = serde_json::json!({
                "level": "warn", "ts": milliseconds(&stamp), "msg": "log lines were lost", "lost": lost
            });
            format!("{line}\n")
        }
    }
}

/// `2026-01-02T03:04:05.678901Z`.
fn stamp() -> Result<String, fmt::Error> {
    let mut text = String::new();
    SystemTime.format_time(&mut Writer::new(&mut text))?;
    Ok(text)
}

fn milliseconds(stamp: &str) -> String {
    format!("{}Z", stamp.get(..MILLISECONDS).unwrap_or(stamp))
}

fn json_line(metadata: &Metadata<'_>, stamp: &str, fields: Fields) -> Value {
    let mut line = Map::new();
    line.insert("level".to_owned(), metadata.level().as_str().to_ascii_lowercase().into());
    line.insert("ts".to_owned(), milliseconds(stamp).into());
    if let Some((file, number)) = metadata.file().zip(metadata.line()) {
        let file = file.rsplit_once("src/").map_or(file, |(_, file)| file);
        line.insert("caller".to_owned(), format!("{file}:{number}").into());
    }
    line.insert("msg".to_owned(), fields.message.into());
    for (name, value) in fields.others {
        line.entry(name).or_insert(value);
    }
    Value::Object(line)
}

fn letter(level: Level) -> char {
    match level {
        Level::ERROR => 'E',
        Level::WARN => 'W',
        Level::INFO => 'I',
        _ => 'D',
    }
}

/// An event's message, and what else it carries.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(String, Value)>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            ("message", other) => self.message = other.to_string(),
            (name, value) => self.others.push((name.to_owned(), value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        // Writing to a string fails only if the value refuses to be shown.
        let _ = write!(text, "{value:?}");
        self.add(field, text.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    // Milliseconds of a `Duration`, for one.
    fn record_u128(&mut self, field: &Field, value: u128) {
        self.add(field, u64::try_from(value).unwrap_or(u64::MAX).into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }
}
