//! The CPU time of another process on this machine.
//!
//! Owns: nothing. Touches: `/proc/PID/stat`. Always: user and system time of all its threads, in clock ticks.

use std::fs;
use std::time::Duration;

/// Linux reports process times to user space in hundredths of a second on every architecture it runs on.
const TICKS_PER_SECOND: u64 = 100;

/// User plus system time of process `pid` so far; `None` when it is gone or `/proc` cannot be read.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse(&stat).map(|ticks| Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// Fields 14 and 15, counted after the command name, which may itself contain spaces and parentheses.
fn parse(stat: &str) -> Option<u64> {
    let rest = &stat[stat.rfind(')')? + 1..];
    let mut fields = rest.split_ascii_whitespace().skip(11).map(str::parse::<u64>);
    let (user, system) = (fields.next()?.ok()?, fields.next()?.ok()?);
    user.checked_add(system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_spaces_do_not_shift_the_fields() {
        assert_eq!(parse("12 (a b) c) S 1 2 3 4 5 6 7 8 9 10 30 12 0 0"), Some(42));
        assert_eq!(parse("12 (x) S 1"), None);
        assert_eq!(parse("garbage"), None);
    }

    #[test]
    fn our_own_time_can_be_read() {
        assert!(cpu_time(std::process::id()).is_some());
    }
}
