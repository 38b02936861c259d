//! What is printed when a measurement is over.
//!
//! Owns: the text and the JSON form of a result. Touches: nothing. Always: latencies in microseconds; rates count 2xx
//! answers only.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::cli::LoadOptions;
use crate::engine::Measured;
use crate::template::Kind;

/// The points of the latency distribution that are reported.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

pub struct Report<'a> {
    pub kind: Kind,
    pub options: &'a LoadOptions,
    pub measured: &'a Measured,
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1000.0
}

impl Report<'_> {
    fn rate(&self) -> f64 {
        self.measured.completed as f64 / self.measured.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    fn cpu_per_request(&self) -> Option<f64> {
        let completed = self.measured.completed.max(1) as f64;
        self.measured.server_cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / completed)
    }

    /// One object; `latency_us` and `server_cpu_us_per_request` in microseconds, the latter null without `--server-pid`.
    pub fn json(&self) -> Value {
        let Measured { completed, elapsed, latency, errors, .. } = self.measured;
        let mut points = json!({"mean": latency.mean() / 1000.0});
        for (name, q) in QUANTILES {
            points[name] = json!(micros(latency.value_at_quantile(q)));
        }
        points["max"] = json!(micros(latency.max()));
        json!({
            "command": self.kind.name(),
            "target": self.options.target.to_string(),
            "clients": self.options.clients,
            "key_space": self.options.key_space,
            "value_size": self.options.value_size,
            "seed": self.options.seed,
            "seconds": elapsed.as_secs_f64(),
            "requests": completed,
            "requests_per_second": self.rate(),
            "latency_us": points,
            "errors": {
                "total": errors.total(),
                "by_status": errors.by_status,
                "connection": errors.connection,
                "timeout": errors.timeout,
            },
            "server_cpu_us_per_request": self.cpu_per_request(),
        })
    }

    pub fn text(&self) -> String {
        let Measured { completed, elapsed, latency, errors, .. } = self.measured;
        let LoadOptions { target, clients, key_space, value_size, .. } = self.options;
        let mut out = String::new();
        let mut line = |text: String| writeln!(out, "{text}").expect("writing to a String cannot fail");
        let (kind, seconds) = (self.kind.name(), elapsed.as_secs_f64());
        line(format!("{kind} {target}: {clients} clients, {key_space} keys, {value_size} B values, {seconds:.1} s"));
        line(format!("requests     {completed}"));
        line(format!("requests/s   {:.0}", self.rate()));
        let points = QUANTILES.map(|(name, q)| format!("{name} {:.0}", micros(latency.value_at_quantile(q))));
        line(format!("latency µs   {}  max {:.0}", points.join("  "), micros(latency.max())));
        line(format!("errors       {}", errors.summary()));
        if let Some(cpu) = self.cpu_per_request() {
            line(format!("server CPU   {cpu:.1} µs per request"));
        }
        out
    }
}
