//! The server: parse, open, run.

mod ring_seam;

use std::process::ExitCode;
use std::sync::atomic::Ordering;

use ringd::config::{Config, LogLevel, Notice};
use ringd::shell::driver::Services;
use ringd::shell::start;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

fn main() -> ExitCode {
    let config = match Config::parse(std::env::args_os().skip(1), std::env::vars_os()) {
        Ok(config) => config,
        Err(told) => {
            if told.is_for_stdout() {
                print!("{told}");
            } else {
                eprint!("{told}");
            }
            return ExitCode::from(told.exit_code());
        }
    };
    let set_log_level = log_to_stderr(config.log_level);
    for notice in &config.notices {
        match notice {
            Notice::Info(text) => tracing::info!("{text}"),
            Notice::Warn(text) => tracing::warn!("{text}"),
        }
    }
    ring_seam::ENABLED.store(config.coop_taskrun, Ordering::Relaxed);
    match start::run(&config, Services { set_log_level }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn level_filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    }
}

/// Begins the log. What it returns changes its level.
fn log_to_stderr(level: LogLevel) -> Box<dyn Fn(LogLevel)> {
    let (filter, handle) = reload::Layer::new(level_filter(level));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    tracing_subscriber::registry().with(filter).with(lines).init();
    Box::new(move |level| {
        handle.reload(level_filter(level)).expect("the log lives as long as the process");
    })
}
