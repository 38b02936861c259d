//! The log of the server: levels, form and places, as the settings say.
//!
//! Owns: the subscriber, and its life: begun once, changed in level at run time, flushed before the end. May touch:
//! stderr, stdout, journald's socket, files named by `--log-outputs`.
//!
//! Must always hold: whoever logs never waits. Lines go into a queue per place, and a thread of its own writes them; when
//! a queue is full its lines are lost and counted.

mod form;
mod places;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io;
use std::sync::OnceLock;

use ringd::config::LogLevel;
use ringd::config::log::{LogFormat, LogSettings};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use places::Places;

/// Set once; the process has one log.
static PLACES: OnceLock<Places> = OnceLock::new();

/// What the node needs of the log.
pub struct Log {
    /// Changes the level of everything.
    pub set_level: Box<dyn Fn(LogLevel)>,
}

/// Flushes the log when `main` ends, also by a panic.
pub struct Flushed;

impl Drop for Flushed {
    fn drop(&mut self) {
        flush();
    }
}

/// Begins the log.
///
/// # Errors
/// Which place cannot be written to, and why.
pub fn begin(settings: &LogSettings) -> io::Result<Log> {
    let opened = Places::open(settings)?;
    let places = PLACES.get_or_init(|| opened);
    let (filter, handle) = reload::Layer::new(targets(settings));
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(places).with_ansi(false);
    match settings.format {
        LogFormat::Text => registry.with(layer.with_target(false)).init(),
        LogFormat::Capnslog => registry.with(layer.event_format(form::Capnslog)).init(),
        LogFormat::Json => registry.with(layer.event_format(form::Json)).init(),
    }
    std::panic::set_hook(Box::new(|panic| {
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            tracing::error!("{panic}\n{trace}");
        } else {
            tracing::error!("{panic}");
        }
    }));
    Ok(Log {
        set_level: Box::new(move |level| {
            let all = Targets::new().with_default(filter_of(level));
            handle.reload(all).expect("the log lives as long as the process");
        }),
    })
}

/// Waits until everything logged so far is written, but not for long: a place may take nothing any more.
pub fn flush() {
    if let Some(places) = PLACES.get() {
        places.flush();
    }
}

/// Lines that were lost because a place did not take them.
#[must_use]
pub fn lost() -> u64 {
    PLACES.get().map_or(0, Places::lost)
}

fn targets(settings: &LogSettings) -> Targets {
    let modules = settings.modules.iter().map(|(module, level)| (module.as_str(), filter_of(*level)));
    Targets::new().with_default(filter_of(settings.level)).with_targets(modules)
}

fn filter_of(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    }
}
