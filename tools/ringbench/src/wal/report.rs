//! The table, the JSON object and the sentence at the end.
//!
//! Owns: what the figures are called and what is concluded from them. Touches: nothing. Always: the conclusion is
//! about the way a node writes: mapped, into zero-filled segments.

use std::fmt::Write;
use std::path::Path;

use ringd_storage::writer::FileState;
use serde_json::{Value, json};

use super::measure::{Floor, Samples};
use super::writers::WriterKind;
use super::{GROUPS, Group, Row, STATES};

/// No device makes a write durable in less; only memory does.
const IMPLAUSIBLE_US: f64 = 8.0;
/// A p99 above this multiple of the median is worth a warning.
const UNSTEADY: f64 = 10.0;

pub struct Report<'a> {
    pub dir: &'a Path,
    pub rounds: usize,
    pub floor: &'a Floor,
    pub rows: &'a [Row],
}

fn state_name(state: FileState) -> &'static str {
    match state {
        FileState::ZeroFilled => "zero-filled",
        FileState::Recycled => "recycled",
        FileState::Allocated => "allocated",
    }
}

fn group_name(group: Group) -> String {
    let size = if group.record_bytes >= 1024 {
        format!("{} KiB", group.record_bytes / 1024)
    } else {
        format!("{} B", group.record_bytes)
    };
    format!("{size} x {}", group.records)
}

fn p50(samples: &Samples) -> f64 {
    samples.quantile_us(0.5)
}

fn p99(samples: &Samples) -> f64 {
    samples.quantile_us(0.99)
}

impl Report<'_> {
    fn floor_name(&self) -> &'static str {
        if self.floor.direct {
            "4 KiB O_DIRECT write + fdatasync"
        } else {
            "4 KiB cached write + fdatasync (no direct I/O here)"
        }
    }

    /// The floor's median in the rounds of this row's group.
    fn floor_p50(&self, row: &Row) -> f64 {
        let group = GROUPS.iter().position(|group| *group == row.group).expect("rows are of these groups");
        p50(&self.floor.samples[group]).max(f64::MIN_POSITIVE)
    }

    fn ratio(&self, row: &Row) -> f64 {
        p50(&row.samples) / self.floor_p50(row)
    }

    fn sync_ratio(&self, row: &Row) -> f64 {
        p50(&row.syncs) / self.floor_p50(row)
    }

    fn find(&self, group: Group, state: FileState) -> Option<&Row> {
        self.rows.iter().find(|r| r.group == group && r.state == state && r.writer == WriterKind::Mapped)
    }

    /// What a node on this disk can expect, in one sentence.
    fn verdict(&self) -> String {
        let (Some(one), Some(many)) = (self.find(GROUPS[0], STATES[0]), self.find(GROUPS[3], STATES[0])) else {
            return "Nothing was measured.".into();
        };
        let (lone, slow, full) = (p50(&one.samples), p99(&one.samples), p50(&many.samples));
        let lone_rate = 1e6 / lone.max(f64::MIN_POSITIVE);
        let full_rate = 1e6 * many.group.records as f64 / full.max(f64::MIN_POSITIVE);
        let mut text = format!(
            "A node here can expect to make a lone small write durable in {lone:.0} µs ({lone_rate:.0}/s one after the \
             other, one in a hundred over {slow:.0} µs) and about {full_rate:.0} writes/s of 1 KiB from {} clients, \
             at {:.2} times the raw floor of the disk",
            many.group.records,
            self.ratio(one)
        );
        if self.floor_p50(one) < IMPLAUSIBLE_US {
            text.push_str("; but no disk is this fast, so what is written here will not survive a power cut");
        } else if slow > UNSTEADY * lone {
            text.push_str("; the slow syncs say that something else is using this disk");
        }
        text.push('.');
        text
    }

    /// `floor`, `rows` and `summary`; all times in microseconds.
    pub fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "record_bytes": row.group.record_bytes,
                    "records": row.group.records,
                    "file": state_name(row.state),
                    "writer": row.writer.name(),
                    "p50_us": p50(&row.samples),
                    "p99_us": p99(&row.samples),
                    "over_floor": self.ratio(row),
                    "sync_p50_us": p50(&row.syncs),
                    "sync_over_floor": self.sync_ratio(row),
                })
            })
            .collect();
        let one = self.find(GROUPS[0], STATES[0]);
        let floor = Samples::merged(&self.floor.samples);
        json!({
            "dir": self.dir.display().to_string(),
            "rounds": self.rounds,
            "floor": {
                "what": self.floor_name(),
                "p50_us": p50(&floor),
                "p99_us": p99(&floor),
            },
            "rows": rows,
            "summary": {
                "append_and_sync_p50_us": one.map(|r| p50(&r.samples)),
                "append_and_sync_ratio": one.map(|r| self.ratio(r)),
                "sync_p50_us": one.map(|r| p50(&r.syncs)),
                "floor_p50_us": one.map(|r| self.floor_p50(r)),
                "ratio": one.map(|r| self.sync_ratio(r)),
                "verdict": self.verdict(),
            },
        })
    }

    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| writeln!(out, "{text}").expect("writing to a String cannot fail");
        line(format!("{}: {} interleaved rounds", self.dir.display(), self.rounds));
        let floor = Samples::merged(&self.floor.samples);
        line(format!("raw floor, {}: p50 {:.0} µs, p99 {:.0} µs\n", self.floor_name(), p50(&floor), p99(&floor)));
        let row = |a: &str, b: &str, c: &str, d: &str, e: &str, f: &str, g: &str| {
            format!("{a:<13} {b:<12} {c:<19} {d:>8} {e:>8} {f:>8} {g:>12}")
        };
        line(row("group", "file", "writer", "p50 µs", "p99 µs", "x floor", "sync x floor"));
        for group in GROUPS {
            for r in self.rows.iter().filter(|r| r.group == group) {
                let (p50, p99) = (format!("{:.0}", p50(&r.samples)), format!("{:.0}", p99(&r.samples)));
                let (over, sync) = (format!("{:.2}", self.ratio(r)), format!("{:.2}", self.sync_ratio(r)));
                line(row(&group_name(group), state_name(r.state), r.writer.name(), &p50, &p99, &over, &sync));
            }
        }
        line(format!("\n{}", self.verdict()));
        out
    }
}
