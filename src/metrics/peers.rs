//! What is counted per member of the cluster: bytes, failures, round trips, and how long its appends take.
//!
//! Owns: plain cells. Must hold: bumping costs a few additions; nothing here grows.

use std::cell::{Cell, RefCell};

use super::{Histogram, doubling};

/// etcd's buckets for round trips: 0.1 ms to 3.2768 s.
const ROUND_TRIP_BOUNDS: [u64; 16] = doubling(100_000);
/// What etcd shows as the least latency before there is any.
const NO_LATENCY_YET: f64 = 9_223_372_036_854_775_808.0;

/// How long a follower takes to acknowledge appends, as `/v2/stats/leader` tells it. Milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    /// The last one.
    pub current: f64,
    /// The mean.
    pub average: f64,
    /// How far they lie from the mean.
    pub deviation: f64,
    /// The least.
    pub minimum: f64,
    /// The most.
    pub maximum: f64,
    /// Appends that were acknowledged.
    pub success: u64,
    /// Messages that could not be sent.
    pub fail: u64,
    squares: f64,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            current: 0.0,
            average: 0.0,
            deviation: 0.0,
            minimum: NO_LATENCY_YET,
            maximum: 0.0,
            success: 0,
            fail: 0,
            squares: 0.0,
        }
    }
}

impl Latency {
    /// An append was acknowledged after so many milliseconds.
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    pub fn succeed(&mut self, milliseconds: f64) {
        let total = self.average * self.success as f64 + milliseconds;
        self.squares += milliseconds * milliseconds;
        self.success += 1;
        let count = self.success as f64;
        self.current = milliseconds;
        self.average = total / count;
        self.deviation = (self.squares / count - self.average * self.average).max(0.0).sqrt();
        self.minimum = self.minimum.min(milliseconds);
        self.maximum = self.maximum.max(milliseconds);
    }
}

/// The cells of one other member.
#[derive(Debug)]
pub struct PeerMetrics {
    /// Its id, in hex.
    pub id: String,
    /// The stream to it stands.
    pub active: Cell<bool>,
    /// Bytes sent to it.
    pub sent_bytes: Cell<u64>,
    /// Bytes received from it.
    pub received_bytes: Cell<u64>,
    /// Messages to it that were dropped.
    pub sent_failures: Cell<u64>,
    /// Streams from it that broke the layout.
    pub received_failures: Cell<u64>,
    /// Round trips of probes, in nanoseconds.
    pub round_trip: Histogram,
    /// Its appends.
    pub latency: RefCell<Latency>,
}

impl PeerMetrics {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(id: String) -> Self {
        Self {
            id,
            active: Cell::default(),
            sent_bytes: Cell::default(),
            received_bytes: Cell::default(),
            sent_failures: Cell::default(),
            received_failures: Cell::default(),
            round_trip: Histogram::of_seconds(&ROUND_TRIP_BOUNDS),
            latency: RefCell::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_summed_up_as_etcd_sums_them() {
        let mut latency = Latency::default();
        assert!(latency.minimum > 9e18);
        [2.0, 4.0, 6.0].into_iter().for_each(|milliseconds| latency.succeed(milliseconds));
        assert!((latency.average - 4.0).abs() < 1e-9 && (latency.deviation - (8.0_f64 / 3.0).sqrt()).abs() < 1e-9);
        assert_eq!((latency.current, latency.minimum, latency.maximum, latency.success), (6.0, 2.0, 6.0, 3));
    }
}
