//! A progress bar, when somebody is looking.
//!
//! Owns: one line of a terminal. Touches: standard error, only if it is a terminal. Always: gone when dropped.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often the bar moves; drawing must not show in the measurement.
const REFRESH: Duration = Duration::from_millis(200);
/// Steps of the bar.
const STEPS: u64 = 1000;

pub struct Progress {
    bar: Option<ProgressBar>,
    next: Instant,
}

impl Progress {
    pub fn new(label: &str, now: Instant) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(STEPS);
            let style = ProgressStyle::with_template("{prefix:5} [{bar:40}] {msg}").expect("constant template");
            bar.set_style(style.progress_chars("=> "));
            bar.set_prefix(label.to_owned());
            bar
        });
        Progress { bar, next: now }
    }

    /// Moves the bar to `share` (0 to 1); `message` is asked for only when it is drawn.
    pub fn at(&mut self, now: Instant, share: f64, message: impl FnOnce() -> String) {
        let Some(bar) = &self.bar else { return };
        if now >= self.next {
            self.next = now + REFRESH;
            bar.set_position((share.clamp(0.0, 1.0) * STEPS as f64) as u64);
            bar.set_message(message());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
