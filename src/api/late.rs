//! What a request that got no answer in time is put down to, in etcd 3.4's words.
//!
//! Owns: the three texts, and which of them is said. Knows no clock: ages come in.

use std::time::Duration;

use super::error::{ApiError, ErrorCode};

/// What is known of a request that is given up.
#[derive(Clone, Copy, Debug)]
pub struct Late {
    /// How long ago it arrived.
    pub age: Duration,
    /// How long ago this member was last elected; `None` before it ever was.
    pub elected: Option<Duration>,
    /// `--election-timeout`.
    pub election_timeout: Duration,
    /// Whoever it needed was connected all the time: the leader, or a quorum where this member leads. True when nobody
    /// leads: the connections are not at fault then.
    pub was_connected: bool,
}

impl Late {
    /// The answer. A leader blames its predecessor for what arrived within two election timeouts before its election
    /// (it may have been on its way there, as in etcd); followers do not, as they know of no election.
    #[must_use]
    pub fn error(&self) -> ApiError {
        let before_election = self.elected.and_then(|elected| self.age.checked_sub(elected));
        let blame = if before_election
            .is_some_and(|before| before > Duration::ZERO && before < self.election_timeout.saturating_mul(2))
        {
            ", possibly due to previous leader failure"
        } else if self.was_connected {
            ""
        } else {
            ", possibly due to connection lost"
        };
        ApiError::request(ErrorCode::RaftInternal, format!("etcdserver: request timed out{blame}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcds_rules_and_words() {
        let second = Duration::from_secs(1);
        let late = |age: u32, elected: Option<u32>, was_connected| {
            let elected = elected.map(|ago| second * ago);
            let late = Late { age: second * age, elected, election_timeout: second, was_connected };
            String::from_utf8(late.error().cause).unwrap()
        };
        let (plain, leader, connection) = (
            "etcdserver: request timed out",
            "etcdserver: request timed out, possibly due to previous leader failure",
            "etcdserver: request timed out, possibly due to connection lost",
        );
        assert_eq!(late(7, None, true), plain);
        assert_eq!(late(7, None, false), connection);
        assert_eq!(late(7, Some(6), true), leader);
        assert_eq!(late(7, Some(6), false), leader);
        assert_eq!(late(7, Some(5), true), plain, "two election timeouts before");
        assert_eq!(late(7, Some(7), true), plain);
        assert_eq!(late(7, Some(8), false), connection, "it arrived after the election");
    }
}
