//! What a proxy counts; etcd's names.
//!
//! Owns: the counters by method and status. Must hold: labels are few: methods nobody knows are one, and statuses have
//! three digits.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use prometheus::proto::{Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};

use super::table::{counter, histogram};
use super::{HTTP_BOUNDS, Histogram, nanos};

/// Label values of methods; the last is for all others.
const METHODS: [&str; 7] = ["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OTHER"];

/// Why a request was dropped; etcd's label values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dropped {
    /// There was nobody to ask.
    ZeroEndpoints,
    /// One member could not be asked.
    FailedSending,
    /// None of the members answered.
    FailedGetting,
}

impl Dropped {
    const fn label(self) -> &'static str {
        match self {
            Self::ZeroEndpoints => "zero_endpoints",
            Self::FailedSending => "failed_sending_request",
            Self::FailedGetting => "failed_getting_response",
        }
    }
}

type Counts<K> = RefCell<BTreeMap<K, u64>>;

/// A proxy's counters.
#[derive(Debug, Default)]
pub struct ProxyMetrics {
    requests: Counts<&'static str>,
    handled: Counts<(u16, &'static str)>,
    dropped: Counts<(&'static str, Dropped)>,
    durations: RefCell<BTreeMap<&'static str, Histogram>>,
}

fn label(method: &[u8]) -> &'static str {
    let (other, known) = METHODS.split_last().expect("not empty");
    known.iter().find(|name| name.as_bytes() == method).unwrap_or(other)
}

fn bump<K: Ord>(counts: &Counts<K>, key: K) {
    *counts.borrow_mut().entry(key).or_default() += 1;
}

impl ProxyMetrics {
    /// A request arrived.
    pub fn arrived(&self, method: &[u8]) {
        bump(&self.requests, label(method));
    }

    /// A member's answer begins.
    pub fn handled(&self, method: &[u8], status: u16, took: Duration) {
        let method = label(method);
        bump(&self.handled, (status, method));
        let mut durations = self.durations.borrow_mut();
        durations.entry(method).or_insert_with(|| Histogram::of_seconds(&HTTP_BOUNDS)).observe(nanos(took));
    }

    /// A request was not passed on, or not answered.
    pub fn dropped(&self, method: &[u8], why: Dropped) {
        bump(&self.dropped, (label(method), why));
    }

    /// The text of `/metrics`.
    ///
    /// # Panics
    /// When a family is broken (a test renders them).
    pub fn render(&self, out: &mut Vec<u8>) {
        #[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are doubles")]
        fn samples<K>(counts: &Counts<K>, labels: impl Fn(&K) -> Vec<(&'static str, String)>) -> Vec<Metric> {
            counts.borrow().iter().map(|(key, count)| counter((labels(key), *count as f64))).collect()
        }
        let method = |name: &str| ("method", name.to_owned());
        let shapes = self.durations.borrow();
        let families = [
            (
                "etcd_proxy_dropped_total",
                "Counter of requests dropped on the proxy.",
                MetricType::COUNTER,
                samples(&self.dropped, |(name, why)| vec![method(name), ("proxying_error", why.label().to_owned())]),
            ),
            (
                "etcd_proxy_handled_total",
                "Counter of requests fully handled (by authoratitave servers)",
                MetricType::COUNTER,
                samples(&self.handled, |(code, name)| vec![("code", code.to_string()), method(name)]),
            ),
            (
                "etcd_proxy_handling_duration_seconds",
                "Bucketed histogram of handling time of successful events (non-watches), by method (GET/PUT etc.).",
                MetricType::HISTOGRAM,
                shapes.iter().map(|(name, shape)| histogram(vec![method(name)], shape)).collect(),
            ),
            (
                "etcd_proxy_requests_total",
                "Counter requests incoming by method.",
                MetricType::COUNTER,
                samples(&self.requests, |name| vec![method(name)]),
            ),
        ];
        let families = families.map(|(name, help, kind, samples)| {
            let mut family = MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            family.set_field_type(kind);
            family.set_metric(samples);
            family
        });
        let shown: Vec<MetricFamily> = families.into_iter().filter(|family| !family.get_metric().is_empty()).collect();
        TextEncoder::new().encode(&shown, out).expect("every family has a name and samples, and memory takes all");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_etcds() {
        let metrics = ProxyMetrics::default();
        let text = |metrics: &ProxyMetrics| {
            let mut out = Vec::new();
            metrics.render(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(&metrics), "");
        metrics.arrived(b"GET");
        metrics.arrived(b"BREW");
        metrics.handled(b"GET", 200, Duration::from_millis(3));
        metrics.dropped(b"PUT", Dropped::ZeroEndpoints);
        let text = text(&metrics);
        for line in [
            "etcd_proxy_requests_total{method=\"GET\"} 1\n",
            "etcd_proxy_requests_total{method=\"OTHER\"} 1\n",
            "etcd_proxy_handled_total{code=\"200\",method=\"GET\"} 1\n",
            "etcd_proxy_dropped_total{method=\"PUT\",proxying_error=\"zero_endpoints\"} 1\n",
            "etcd_proxy_handling_duration_seconds_bucket{method=\"GET\",le=\"0.004\"} 1\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }
}
