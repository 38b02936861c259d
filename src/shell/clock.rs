//! The only place that reads the clock.
//!
//! Owns: wall time as the core wants it, and the `Date` header, rendered once a second.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

use ringd_storage::ids::UnixNanos;

use crate::wire::http_reply::{HttpDate, http_date};

/// Wall time now.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this file is where the clock enters")]
pub fn now() -> UnixNanos {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    UnixNanos::new(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Monotonic time now, for durations in logs and metrics.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this file is where the clock enters")]
pub fn monotonic() -> Instant {
    Instant::now()
}

/// The rendered `Date` header of the current second.
#[derive(Debug)]
pub struct DateHeader {
    second: Cell<u64>,
    text: Cell<HttpDate>,
}

impl Default for DateHeader {
    fn default() -> Self {
        Self { second: Cell::new(u64::MAX), text: Cell::new([b' '; 29]) }
    }
}

impl DateHeader {
    /// The header's value at `now`.
    #[must_use]
    pub fn at(&self, now: UnixNanos) -> HttpDate {
        let second = now.get() / 1_000_000_000;
        if self.second.replace(second) != second {
            let mut text = [b' '; 29];
            http_date(second, &mut text);
            self.text.set(text);
        }
        self.text.get()
    }
}
