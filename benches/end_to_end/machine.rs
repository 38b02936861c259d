//! What the measurements were made on.
//!
//! Owns: the description of the machine, the flush counter of a block device. Touches: `/proc` and `/sys`, read only.
//! Always: what cannot be found out is called unknown.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;
use crate::servers::Programs;

/// Position of "flush requests completed" in a block device's `stat` (see the kernel's `Documentation/block/stat.rst`).
const FLUSH_FIELD: usize = 15;

/// The block device below a directory.
pub struct Device {
    pub name: String,
    stat: PathBuf,
}

impl Device {
    /// `None` if the file system is not on a block device of its own (tmpfs, overlay, network).
    pub fn of(dir: &Path) -> Result<Option<Device>, Error> {
        let dev = fs::metadata(dir)?.dev();
        let link = format!("/sys/dev/block/{}:{}", rustix::fs::major(dev), rustix::fs::minor(dev));
        let Ok(mut path) = fs::canonicalize(link) else { return Ok(None) };
        if path.join("partition").exists() {
            path.pop(); // flushes are counted for the whole disk only
        }
        let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        Ok(Some(Device { name, stat: path.join("stat") }))
    }

    /// Flush requests the device has completed so far.
    pub fn flushes(&self) -> Result<u64, Error> {
        let text = fs::read_to_string(&self.stat)?;
        let field = text.split_ascii_whitespace().nth(FLUSH_FIELD);
        Ok(field.ok_or("the kernel does not count flushes of this device")?.parse()?)
    }
}

fn first_match(file: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|l| l.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Type and device of the file system that holds `dir`: the longest mount point above it counts.
fn file_system(dir: &Path) -> Option<String> {
    let dir = fs::canonicalize(dir).ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let fields = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.next()?, words.next()?, words.next()?))
    });
    let above = fields.filter(|(_, point, _)| dir.starts_with(point));
    above.max_by_key(|(_, point, _)| point.len()).map(|(device, _, kind)| format!("{kind} on {device}"))
}

/// First line a program prints when asked for its version.
fn version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().next().map_or_else(|| "unknown version".into(), str::to_owned)
}

/// The head of the report.
pub fn describe(dir: &Path, programs: &Programs, rounds: usize, seconds: f64) -> Result<String, Error> {
    let unknown = || "unknown".to_owned();
    let cpu = first_match("/proc/cpuinfo", "model name").unwrap_or_else(unknown);
    let memory = first_match("/proc/meminfo", "MemTotal").unwrap_or_else(unknown);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(|_| unknown(), |s| s.trim().to_owned());
    let cores = std::thread::available_parallelism()?;
    let etcd = programs.etcd.as_ref().map_or_else(|| "not found".into(), |p| version(&p.path));
    let ringd = version(&programs.ringd.path);
    Ok(format!(
        "# ringd and etcd on one machine\n\n\
         * CPU: {cpu}, {cores} cores; memory {memory}; Linux {kernel}; data on {}\n\
         * ringd: {ringd}, one thread on core {}; etcd: {etcd}, free on all cores\n\
         * load: `ringbench`, one thread, one request under way per connection, {} B values; on the other cores while \
         ringd is measured, free while etcd is\n\
         * medians of {rounds} interleaved rounds of {seconds} s; CPU is user and system time of the server process\n",
        file_system(dir).unwrap_or_else(unknown),
        programs.core,
        crate::VALUE_SIZE,
    ))
}
