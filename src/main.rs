//! The server: parse, open, run.

mod ring_flags;

use std::process::ExitCode;
use std::sync::atomic::Ordering;

use ringd::config::{Config, LogLevel, Notice};
use ringd::shell::start;
use tracing_subscriber::filter::LevelFilter;

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
    log_to_stderr(config.log_level);
    for notice in &config.notices {
        match notice {
            Notice::Info(text) => tracing::info!("{text}"),
            Notice::Warn(text) => tracing::warn!("{text}"),
        }
    }
    ring_flags::ENABLED.store(config.coop_taskrun, Ordering::Relaxed);
    match start::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn log_to_stderr(level: LogLevel) {
    let level = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(level).with_target(false).init();
}
