//! The server: parse, open, run.

mod logging;
mod ring_seam;

use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use ringd::config::file::FILE_BYTES_MAX;
use ringd::config::{Config, ConfigError, Notice};
use ringd::shell::driver::Services;
use ringd::shell::{check, ending, start};

fn main() -> ExitCode {
    let config = match Config::parse(std::env::args_os().skip(1), std::env::vars_os(), read_file) {
        Ok(config) => config,
        Err(told) => return end_with(&told),
    };
    if config.check_only {
        let (report, is_good) = check::report(&config);
        print!("{report}");
        return if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let log = match logging::begin(&config.log) {
        Ok(log) => log,
        Err(error) => return end_with(&ConfigError::Invalid(format!("{error}\n"))),
    };
    let _flushed = logging::Flushed;
    ending::flush_log_with(logging::flush);
    for notice in &config.notices {
        match notice {
            Notice::Info(text) => tracing::info!("{text}"),
            Notice::Warn(text) => tracing::warn!("{text}"),
        }
    }
    ring_seam::ENABLED.store(config.coop_taskrun, Ordering::Relaxed);
    match start::run(&config, Services { set_log_level: log.set_level, lost_log_lines: Box::new(logging::lost) }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn end_with(told: &ConfigError) -> ExitCode {
    if told.is_for_stdout() {
        print!("{told}");
    } else {
        eprint!("{told}");
    }
    ExitCode::from(told.exit_code())
}

/// The text of a configuration file; the error as Go would put it.
fn read_file(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    // One byte more than allowed shows that it is too much.
    let read = std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(text),
        Err(error) => Err(format!("open {}: {}", path.display(), check::why(&error))),
    }
}
