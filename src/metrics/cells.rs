//! Histograms that are plain cells.
//!
//! Owns: bucket bounds and counts. Must hold: an observation costs a few comparisons and three additions; the first
//! bucket is found first, for most observations are small.

use std::cell::Cell;

/// Upper bounds that double from `first`.
#[must_use]
pub const fn doubling<const N: usize>(first: u64) -> [u64; N] {
    let mut bounds = [first; N];
    let mut place = 1;
    while place < N {
        bounds[place] = bounds[place - 1] * 2;
        place += 1;
    }
    bounds
}

/// Counts of observations by size.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds, inclusive, ascending.
    bounds: &'static [u64],
    /// How many of the stored unit make one of the shown unit.
    divisor: f64,
    /// One per bound and one for what lies above, not cumulated.
    counts: Box<[Cell<u64>]>,
    sum: Cell<u64>,
}

impl Histogram {
    fn new(bounds: &'static [u64], divisor: f64) -> Self {
        assert!(bounds.is_sorted(), "bounds ascend");
        Self { bounds, divisor, counts: vec![Cell::new(0); bounds.len() + 1].into_boxed_slice(), sum: Cell::new(0) }
    }

    /// Observes nanoseconds and shows seconds.
    #[must_use]
    pub fn of_seconds(bounds: &'static [u64]) -> Self {
        Self::new(bounds, 1e9)
    }

    /// Shows what it observes.
    #[must_use]
    pub fn of_units(bounds: &'static [u64]) -> Self {
        Self::new(bounds, 1.0)
    }

    /// Counts one observation.
    #[inline]
    pub fn observe(&self, value: u64) {
        self.observe_many(value, 1);
    }

    /// Counts `times` observations of the same value.
    #[inline]
    pub fn observe_many(&self, value: u64, times: u64) {
        let place = self.bounds.iter().position(|&bound| value <= bound).unwrap_or(self.bounds.len());
        super::add(&self.counts[place], times);
        self.sum.set(self.sum.get().saturating_add(value.saturating_mul(times)));
    }

    /// All observations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().map(Cell::get).sum()
    }

    /// As the library wants it.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are doubles")]
    pub(super) fn proto(&self) -> prometheus::proto::Histogram {
        let mut seen = 0;
        let buckets = self.bounds.iter().zip(&self.counts).map(|(&bound, count)| {
            seen += count.get();
            let mut bucket = prometheus::proto::Bucket::default();
            bucket.set_upper_bound(bound as f64 / self.divisor);
            bucket.set_cumulative_count(seen);
            bucket
        });
        let mut histogram = prometheus::proto::Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(self.count());
        histogram.set_sample_sum(self.sum.get() as f64 / self.divisor);
        histogram
    }
}
