//! `ringwal`: looks into a ringd data directory without changing it.
//!
//! May touch: files, for reading. Must not: lock, write, or panic on any bytes. It may run beside a live node, whose
//! unfinished last frame is then reported as such and not as damage.
//!
//! Exit codes: 0 fine, 1 damage found, 2 wrong arguments or unreadable path.

mod describe;
mod dump;
mod source;
mod stat;
mod text;
mod verify;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Inspect ringd's write-ahead log and snapshots. Read-only: safe on a live node and on damaged files.
///
/// PATH is a data directory, its member or wal directory, one .wal or spare file, or one .snap file.
#[derive(Debug, Parser)]
#[command(name = "ringwal", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print one line per record (or per item, for a snapshot), also past damage
    Dump(DumpArgs),
    /// Give recovery's verdict: exit 0, or a report naming file, offset, verdict and remedy, and exit 1
    Verify(PathArgs),
    /// Count segments, frames, records, bytes, indexes, terms, snapshots and spares
    Stat(PathArgs),
}

#[derive(Debug, Args)]
struct PathArgs {
    /// Data directory, wal directory, .wal file or .snap file
    path: PathBuf,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct DumpArgs {
    #[command(flatten)]
    common: PathArgs,
    /// Only entries from this raft index on (hard states and markers are left out then)
    #[arg(long, value_name = "INDEX")]
    from: Option<u64>,
    /// Only entries up to this raft index
    #[arg(long, value_name = "INDEX")]
    to: Option<u64>,
}

/// What a command found, as far as the exit code goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Fine,
    Damaged,
}

/// Why a command could not do its work.
#[derive(Debug)]
enum Failure {
    /// The reader of our output is gone; nothing is wrong.
    OutputClosed,
    /// One line for stderr.
    Message(String),
}

impl From<io::Error> for Failure {
    /// Errors without further text come from writing the output; those of files are worded where they happen.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Message(format!("cannot write the output: {error}")),
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = BufWriter::new(io::stdout().lock());
    let result = match &cli.command {
        Command::Dump(args) => {
            dump::run(&args.common.path, args.common.json, &dump::Filter { from: args.from, to: args.to }, &mut out)
        }
        Command::Verify(args) => verify::run(&args.path, args.json, &mut out),
        Command::Stat(args) => stat::run(&args.path, args.json, &mut out),
    };
    let result = result.and_then(|outcome| out.flush().map(|()| outcome).map_err(Failure::from));
    match result {
        Ok(Outcome::Fine) | Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Ok(Outcome::Damaged) => ExitCode::from(1),
        Err(Failure::Message(message)) => {
            // What was found before the failure is still worth reading.
            let _ = out.flush();
            let _ = writeln!(io::stderr(), "ringwal: {message}");
            ExitCode::from(2)
        }
    }
}
