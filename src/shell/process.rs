//! What the kernel knows of this process: memory, CPU time, descriptors.
//!
//! Owns: reading `/proc/self`. Must hold: a reading takes microseconds, whatever the number of connections; what the
//! kernel does not tell is zero, but for descriptors, which older kernels do not count: there the connections are
//! added to what was open at the start.

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// A reading. Bytes, seconds and counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// User and system time, seconds.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Address space.
    pub virtual_bytes: u64,
    /// Limit of the address space; what Go shows for none.
    pub virtual_max_bytes: f64,
    /// Open descriptors.
    pub open_fds: u64,
    /// Limit of descriptors.
    pub max_fds: u64,
}

/// What Prometheus' Go client shows when the address space has no limit: 2^64.
const NO_LIMIT: f64 = 18_446_744_073_709_551_615.0;

/// Counts the open descriptors by listing them: once, at the start, when they are few.
#[must_use]
pub fn list_fds() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64)
}

/// Reads. `fds_guess` stands in on kernels that do not count descriptors (before Linux 6.2).
#[must_use]
pub fn read(fds_guess: u64) -> Process {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    Process {
        #[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are doubles")]
        virtual_max_bytes: getrlimit(Resource::As).current.map_or(NO_LIMIT, |bytes| bytes as f64),
        open_fds: std::fs::metadata("/proc/self/fd")
            .ok()
            .map(|folder| folder.len())
            .filter(|&fds| fds > 0)
            .unwrap_or(fds_guess),
        max_fds: max_fds(),
        ..from_stat(&stat, clock_ticks_per_second(), page_size() as u64)
    }
}

/// The limit of open descriptors.
#[must_use]
pub fn max_fds() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Fields 14, 15, 23 and 24 of `/proc/PID/stat` (proc(5)). The second one is a name that may hold anything, so the
/// count begins behind the last parenthesis.
fn from_stat(stat: &str, ticks_per_second: u64, page_bytes: u64) -> Process {
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = |number: usize| -> u64 {
        rest.split_ascii_whitespace().nth(number - 3).and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    #[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are doubles")]
    let cpu_seconds = (field(14) + field(15)) as f64 / ticks_per_second as f64;
    Process { cpu_seconds, virtual_bytes: field(23), resident_bytes: field(24) * page_bytes, ..Process::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_the_name() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 13 14 15 16 17 18 19 4096000 25 99 1 2\n";
        let found = from_stat(stat, 100, 4096);
        assert!((found.cpu_seconds - 2.0).abs() < f64::EPSILON);
        assert_eq!((found.virtual_bytes, found.resident_bytes), (4_096_000, 25 * 4096));
        assert_eq!(from_stat("nonsense", 100, 4096), Process::default());
    }

    #[test]
    fn the_kernel_is_asked() {
        let found = read(3);
        assert!(found.resident_bytes > 0 && found.virtual_bytes > found.resident_bytes && found.max_fds > 0);
        assert!(found.open_fds >= 3 && list_fds() >= 3, "{found:?}");
    }
}
