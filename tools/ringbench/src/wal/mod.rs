//! `ringbench wal`: how fast a disk makes log appends durable, and what that means for a node.
//!
//! Owns: the plan of the measurement and the order of its steps. Touches: files in a directory of its own below the
//! one it is given. Always: that directory is removed at the end, also after an error or an interrupt; every figure of
//! one run comes from the same rounds, so a disk whose mood changes changes all of them.

mod measure;
mod report;
mod writers;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ringd_storage::fs::FsMedium;
use ringd_storage::prepare::PrepareError;
use ringd_storage::writer::FileState;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::cli::{QUICK_SAMPLES, WalOptions};
use crate::progress::Progress;
use measure::{Floor, Lane, Samples};
use writers::WriterKind;

/// What is appended and then synced as one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    pub record_bytes: usize,
    pub records: usize,
}

/// A lone small write, sixteen clients, one large value, a full house.
pub const GROUPS: [Group; 4] = [
    Group { record_bytes: 128, records: 1 },
    Group { record_bytes: 1024, records: 16 },
    Group { record_bytes: 16 * 1024, records: 1 },
    Group { record_bytes: 1024, records: 256 },
];
pub const STATES: [FileState; 3] = [FileState::ZeroFilled, FileState::Recycled, FileState::Allocated];
/// Room for frame headers and padding, per group.
const SLACK_PER_GROUP: u64 = 16 * 1024;
/// Room for the segment header and for rounding to whole pages.
const SLACK_PER_FILE: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum WalBenchError {
    #[error("{dir} is not a directory; create it first, on the disk to be measured")]
    NoDirectory { dir: String },
    #[error("the disk of {dir} has {free_mb} MB free, this needs {needed_mb} MB: free some, or use fewer --samples")]
    NoRoom { dir: String, free_mb: u64, needed_mb: u64 },
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error("cannot {what} in {dir}: {source}")]
    Io { what: &'static str, dir: String, source: io::Error },
    #[error("interrupted; the files are removed")]
    Interrupted,
}

/// The result of one combination.
pub struct Row {
    pub group: Group,
    pub state: FileState,
    pub writer: WriterKind,
    /// Append and sync together.
    pub samples: Samples,
    /// The sync alone.
    pub syncs: Samples,
}

/// Removes the measured files when it goes.
struct Workplace {
    path: PathBuf,
}

impl Drop for Workplace {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("ringbench: cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Measures and prints.
pub fn run(options: &WalOptions) -> Result<(), WalBenchError> {
    let samples = if options.quick { options.samples.min(QUICK_SAMPLES) } else { options.samples };
    let states: &[FileState] = if options.quick { &STATES[..1] } else { &STATES };
    let kinds: &[WriterKind] = if options.quick { &[WriterKind::Mapped] } else { &WriterKind::ALL };
    let file_bytes = bytes_per_file(samples);
    let needed = file_bytes * (states.len() * kinds.len()) as u64 + measure::FLOOR_FILE_BYTES;
    check(&options.dir, needed)?;
    let io = |what| move |source| WalBenchError::Io { what, dir: options.dir.display().to_string(), source };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(io("handle signals"))?;
    }
    let workplace = Workplace { path: options.dir.join(format!("ringbench-wal-{}", std::process::id())) };
    std::fs::create_dir(&workplace.path).map_err(io("create a directory"))?;
    let medium = FsMedium::open(&workplace.path).map_err(io("open the directory"))?;

    let mut progress = Progress::new("files", Instant::now());
    let mut floor = Floor::prepare(&medium, &workplace.path)?;
    let mut lanes = Vec::new();
    for (made, (state, kind)) in states.iter().flat_map(|s| kinds.iter().map(move |k| (*s, *k))).enumerate() {
        if !floor.direct && kind.is_direct() {
            continue;
        }
        let share = made as f64 / (states.len() * kinds.len()) as f64;
        progress.at(Instant::now(), share, || format!("{state:?}, {}", kind.name()));
        lanes.push(Lane::prepare(&medium, &workplace.path, state, kind, file_bytes, &stop)?);
    }
    progress = Progress::new("wal", Instant::now());
    // One group size after the other, so that a small sync is not measured in the wake of a large one.
    for (group, size) in GROUPS.iter().enumerate() {
        for round in 0..samples {
            let share = (group * samples + round) as f64 / (GROUPS.len() * samples) as f64;
            progress.at(Instant::now(), share, || format!("{} x {}, round {round}", size.record_bytes, size.records));
            for step in 0..lanes.len() {
                if stop.load(Ordering::Relaxed) {
                    return Err(WalBenchError::Interrupted);
                }
                // Another writer begins each round, so that none always follows the same neighbour.
                let lane = (step + round) % lanes.len();
                // Once unrecorded: whatever lies below the disk (an array, a hypervisor's image) remembers where it was
                // written last, and the floor's file is visited more often than any lane's.
                for keep in [false, true] {
                    floor.sample(group, keep).map_err(io("measure the floor"))?;
                    lanes[lane].sample(group, keep).map_err(io("append"))?;
                }
            }
        }
    }
    drop(progress);
    let rows: Vec<Row> = lanes.into_iter().flat_map(Lane::rows).collect();
    let report = report::Report { dir: &options.dir, rounds: samples, floor: &floor, rows: &rows };
    if options.json {
        println!("{}", report.json())
    } else {
        print!("{}", report.text())
    }
    Ok(())
}

/// What one file must hold: every group twice per round.
fn bytes_per_file(samples: usize) -> u64 {
    let round: u64 = GROUPS.iter().map(|g| (g.record_bytes * g.records) as u64 + SLACK_PER_GROUP).sum();
    (2 * samples as u64 * round + SLACK_PER_FILE).next_multiple_of(ringd_storage::format::PAGE_BYTES)
}

fn check(dir: &Path, needed: u64) -> Result<(), WalBenchError> {
    let name = dir.display().to_string();
    if !dir.is_dir() {
        return Err(WalBenchError::NoDirectory { dir: name });
    }
    let stat = rustix::fs::statvfs(dir).map_err(|e| WalBenchError::Io {
        what: "ask for the free space",
        dir: name.clone(),
        source: e.into(),
    })?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < needed {
        return Err(WalBenchError::NoRoom { dir: name, free_mb: free >> 20, needed_mb: needed.div_ceil(1 << 20) });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_usage_is_what_help_says() {
        let all = (STATES.len() * WriterKind::ALL.len()) as u64;
        assert!(bytes_per_file(50) * all < 450_000_000);
        assert!(bytes_per_file(125) * all < 1_100_000_000);
    }

    #[test]
    fn a_missing_directory_is_refused_by_name() {
        let options = WalOptions { dir: "/does/not/exist".into(), samples: 1, quick: true, json: false };
        let error = run(&options).map_err(|e| e.to_string());
        assert_eq!(
            error,
            Err("/does/not/exist is not a directory; create it first, on the disk to be measured".into())
        );
    }

    #[test]
    fn a_short_run_leaves_nothing_behind() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let options = WalOptions { dir: root.path().to_owned(), samples: 2, quick: false, json: true };
        run(&options).expect("a directory we own can be measured");
        assert_eq!(std::fs::read_dir(root.path()).expect("still there").count(), 0);
    }
}
