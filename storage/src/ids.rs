//! Newtypes for every position, identity and instant that ringd stores or sends.
//!
//! Invariant: no kind converts to another by accident. There is no `From` and no arithmetic operator; crossing kinds
//! takes a named function that says why it may.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! position {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The position before the first one.
            pub const ZERO: Self = Self(0);

            /// Wraps a raw number that is known to be of this kind.
            #[must_use]
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The raw number, for codecs and for display.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The position directly after this one. Panics after 2^64 - 1 steps, which no node lives to see.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }

            /// How many steps this position lies after `earlier`; zero when it does not.
            #[must_use]
            pub const fn steps_since(self, earlier: Self) -> u64 {
                self.0.saturating_sub(earlier.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

position! {
    /// A frame in this node's own WAL, counted from 1. Local: nodes never compare them.
    WalIndex
}
position! {
    /// An entry in the replicated log. Elections and membership changes consume these too.
    RaftIndex
}
position! {
    /// What clients see (`X-Etcd-Index`, `modifiedIndex`). Moves only when the store changes.
    EtcdIndex
}
position! {
    /// A raft term (raft paper, section 5.1).
    Term
}
position! {
    /// The place of a segment in the WAL, counted from 1. Never reused, also when its file is recycled.
    SegmentSeq
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Wraps a raw id.
            #[must_use]
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The raw id.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        /// Lower-case hex without leading zeros, as etcd prints ids.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:x})"), self.0)
            }
        }
    };
}

identity! {
    /// A member of the cluster; also its raft node id. Never zero for a real member.
    MemberId
}
identity! {
    /// A cluster. Bytes of one cluster are refused by another.
    ClusterId
}

/// An instant on the wall clock: nanoseconds since 1970-01-01T00:00:00Z. Only the shell reads the clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixNanos(u64);

impl UnixNanos {
    /// The epoch itself.
    pub const ZERO: Self = Self(0);
    /// The last instant this type can hold, in the year 2554.
    pub const MAX: Self = Self(u64::MAX);

    /// Wraps nanoseconds since the epoch.
    #[must_use]
    pub const fn new(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the epoch.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// This instant moved `seconds` later; the last representable instant when that overflows.
    #[must_use]
    pub const fn plus_seconds(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1_000_000_000)))
    }

    /// Nanoseconds from `earlier` to this instant; zero when `earlier` is not earlier.
    #[must_use]
    pub const fn nanos_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_as_etcd_prints_them() {
        assert_eq!(MemberId::new(0x0c9e_2d07_4000_d3f1).to_string(), "c9e2d074000d3f1");
        assert_eq!(RaftIndex::new(12).to_string(), "12");
    }

    #[test]
    fn steps_never_go_negative() {
        assert_eq!(RaftIndex::new(3).steps_since(RaftIndex::new(5)), 0);
        assert_eq!(UnixNanos::MAX.plus_seconds(1), UnixNanos::MAX);
    }
}
