//! `ringbench`: measures a v2 keys server from one thread, and a disk the way a write-ahead log uses it.
//!
//! Owns: the command line and the exit code. Touches: standard output (results), standard error (errors, progress).
//! Always: exit code 0 means that something was measured (for `put` and `get`: at least one 2xx answer); results go to standard output only.

mod cli;
mod engine;
mod process;
mod progress;
mod report;
mod response;
mod rng;
mod stream;
mod template;
mod wal;

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use ringd_client::Tls;

use cli::{Cli, Command, LoadOptions};
use engine::{BenchError, Plan, Stop};
use stream::Secure;
use template::{Kind, Shape, Template};

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Put(options) => run_load(Kind::Put, &options).map_err(|e| e.to_string()),
        Command::Get(options) => run_load(Kind::Get, &options).map_err(|e| e.to_string()),
        Command::Wal(options) => wal::run(&options).map_err(|e| e.to_string()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringbench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_load(kind: Kind, options: &LoadOptions) -> Result<(), BenchError> {
    let address = options.target.address()?;
    let secure = secure(options)?;
    if kind == Kind::Get && !options.no_fill {
        fill(options, address, secure.clone())?;
    }
    let plan = Plan {
        template: template(kind, options),
        address,
        secure,
        new_connections: options.new_connections,
        rate: options.rate,
        clients: options.clients,
        seed: options.seed,
        stop: Stop::After { warmup: options.warmup, duration: options.duration },
        spin: options.spin,
        server_pid: options.server_pid,
        label: kind.name(),
    };
    let measured = engine::run(&plan)?;
    let report = report::Report { kind, options, measured: &measured };
    if options.json {
        println!("{}", report.json())
    } else {
        print!("{}", report.text())
    }
    if measured.completed == 0 {
        return Err(BenchError::NothingCompleted { errors: measured.errors.summary() });
    }
    Ok(())
}

/// Writes every key of the key space once, so that reads find them.
fn fill(options: &LoadOptions, address: SocketAddr, secure: Option<Secure>) -> Result<(), BenchError> {
    let plan = Plan {
        template: template(Kind::Put, options),
        address,
        secure,
        new_connections: false,
        rate: None,
        clients: options.clients,
        seed: options.seed,
        stop: Stop::EachKeyOnce,
        spin: false,
        server_pid: None,
        label: "fill",
    };
    let measured = engine::run(&plan)?;
    let total = measured.errors.total();
    if total == 0 { Ok(()) } else { Err(BenchError::FillFailed { errors: measured.errors.summary() }) }
}

/// How to speak to an https target.
fn secure(options: &LoadOptions) -> Result<Option<Secure>, BenchError> {
    if !options.target.is_secure() {
        return Ok(None);
    }
    let files = Tls::load(options.cert.as_deref(), options.key.as_deref(), options.cacert.as_deref());
    let config = files.map_err(|error| error.to_string()).and_then(|tls| tls.config()).map_err(BenchError::Tls)?;
    Secure::new(&config, options.target.host()).map(Some).map_err(BenchError::Tls)
}

fn template(kind: Kind, options: &LoadOptions) -> Template {
    Template::new(&Shape {
        kind,
        host: &options.target.host_port(),
        user: options.user.as_deref(),
        prefix: &options.prefix,
        keys: options.key_space,
        value_size: options.value_size,
        seed: options.seed,
    })
}
