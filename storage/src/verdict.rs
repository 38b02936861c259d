//! The recovery table, and the refusals it leads to.
//!
//! Source: the design's table "Recovery". Invariant: exactly one row matches every case (asserted at each use and
//! tested exhaustively), so no `if` elsewhere decides what damage means.

use crate::format::HeaderError;
use crate::ids::{RaftIndex, WalIndex};
use crate::record::RecordError;

/// What stands where the next frame should begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtCursor {
    /// A valid frame with the next WAL index, chained to the frame before.
    ValidNext,
    /// A valid frame with another index or another history.
    ValidOther,
    /// Zeros, stale bytes, or part of a frame.
    ZeroOrTorn,
}

/// Which segment it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A later segment is published, so this one was synced whole.
    Sealed,
    /// The newest segment.
    Tail,
}

/// What recovery does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Take the frame and go on after it.
    Keep,
    /// Stop with a [`Refusal`]: something acknowledged may be missing, and guessing would hide it.
    Refuse,
    /// The log ends here; zero what follows, sync, go on.
    EndHere,
}

struct Row {
    frame: AtCursor,
    /// A later frame of this epoch vouches that the missing one was durable; `None` is "any".
    vouched: Option<bool>,
    place: Option<Place>,
    verdict: Verdict,
}

const TABLE: [Row; 5] = [
    Row { frame: AtCursor::ValidNext, vouched: None, place: None, verdict: Verdict::Keep },
    Row { frame: AtCursor::ValidOther, vouched: None, place: None, verdict: Verdict::Refuse },
    Row { frame: AtCursor::ZeroOrTorn, vouched: Some(true), place: None, verdict: Verdict::Refuse },
    Row { frame: AtCursor::ZeroOrTorn, vouched: Some(false), place: Some(Place::Sealed), verdict: Verdict::Refuse },
    Row { frame: AtCursor::ZeroOrTorn, vouched: Some(false), place: Some(Place::Tail), verdict: Verdict::EndHere },
];

/// Looks the case up.
#[must_use]
pub fn verdict(frame: AtCursor, vouched: bool, place: Place) -> Verdict {
    let mut matching = TABLE.iter().filter(|row| {
        row.frame == frame && row.vouched.is_none_or(|v| v == vouched) && row.place.is_none_or(|p| p == place)
    });
    let row = matching.next().expect("some row matches every case");
    assert!(matching.next().is_none(), "two rows match one case");
    row.verdict
}

/// Why a WAL is refused.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// A published segment's first page is damaged, or from a newer ringd.
    #[error("{0}")]
    Header(HeaderError),
    /// The header is whole but does not belong here.
    #[error("the segment header does not fit: its {field} is {found}, expected {expected}")]
    HeaderMismatch {
        /// Which field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What the file's name or the segment before asks for.
        expected: String,
    },
    /// Table row 2.
    #[error("a valid frame with WAL index {found} stands where another one belongs (the log has two histories here)")]
    OtherFrame {
        /// Its index.
        found: WalIndex,
    },
    /// Table row 3.
    #[error("a frame is damaged, and the frame {voucher} at offset {voucher_offset} says that it was synced")]
    DamagedButVouched {
        /// The later frame.
        voucher: WalIndex,
        /// Where it is.
        voucher_offset: u64,
    },
    /// Table row 4.
    #[error("a frame is damaged or missing inside a sealed segment, whose frames were synced up to offset {end}")]
    DamagedInSealed {
        /// Where its frames should end.
        end: u64,
    },
    /// A frame's checksum holds, its records do not decode.
    #[error("{0} (written by a newer ringd?)")]
    Record(RecordError),
    /// The records contradict each other.
    #[error("{0}")]
    Contradiction(String),
    /// The hard state promises entries that are not there.
    #[error("the hard state commits raft index {commit}, but the log ends at {last}: committed entries are missing")]
    CommitPastEnd {
        /// The promise.
        commit: RaftIndex,
        /// What there is.
        last: RaftIndex,
    },
    /// No usable snapshot reaches the first entry.
    #[error(
        "the log begins at raft index {first}, but the newest usable snapshot ends at {snapshot}: segments or snapshots are missing"
    )]
    Gap {
        /// First entry there is.
        first: RaftIndex,
        /// Last entry the snapshot has; zero without a snapshot.
        snapshot: RaftIndex,
    },
    /// The disk cannot read the file.
    #[error("the disk cannot read it: {0}")]
    Unreadable(std::io::Error),
}

/// A WAL that must not be used as it is. Nothing on disk was changed.
#[derive(Debug, thiserror::Error)]
#[error(
    "refusing the WAL: {file} at offset {offset} (WAL index {wal_index}, raft index {raft_index}): {reason}. \
     Remedy: {}", .reason.remedy()
)]
pub struct Refusal {
    /// Path of the file.
    pub file: String,
    /// Where in it.
    pub offset: u64,
    /// The frame that belongs there.
    pub wal_index: WalIndex,
    /// The raft index that belongs there.
    pub raft_index: RaftIndex,
    /// What is wrong.
    pub reason: Reason,
}

impl Reason {
    /// What an operator can do.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Header(HeaderError::Version(_)) | Self::Record(_) => {
                "start the newer ringd that wrote it; `ringwal stat` shows the versions"
            }
            Self::Unreadable(_) => {
                "check the disk and its log; copy what can be read and inspect it with `ringwal verify`; \
                 then replace this member, or restore a backup of the data directory"
            }
            _ => {
                "inspect it with `ringwal verify` and `ringwal dump`; then remove this member's data and let it \
                 rejoin its cluster, or restore a backup of the data directory"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAMES: [AtCursor; 3] = [AtCursor::ValidNext, AtCursor::ValidOther, AtCursor::ZeroOrTorn];

    #[test]
    fn exactly_one_row_matches_every_case() {
        let mut keeps = 0;
        for frame in FRAMES {
            for vouched in [false, true] {
                for place in [Place::Sealed, Place::Tail] {
                    keeps += usize::from(verdict(frame, vouched, place) == Verdict::Keep);
                }
            }
        }
        assert_eq!(keeps, 4);
    }

    #[test]
    fn row_1_a_valid_next_frame_is_kept_wherever_it_is() {
        assert_eq!(verdict(AtCursor::ValidNext, true, Place::Sealed), Verdict::Keep);
        assert_eq!(verdict(AtCursor::ValidNext, false, Place::Tail), Verdict::Keep);
    }

    #[test]
    fn row_2_a_frame_of_another_history_is_refused_even_at_the_tail() {
        assert_eq!(verdict(AtCursor::ValidOther, false, Place::Tail), Verdict::Refuse);
    }

    #[test]
    fn row_3_a_hole_that_was_durable_is_refused() {
        assert_eq!(verdict(AtCursor::ZeroOrTorn, true, Place::Tail), Verdict::Refuse);
    }

    #[test]
    fn row_4_a_hole_in_a_sealed_segment_is_refused() {
        assert_eq!(verdict(AtCursor::ZeroOrTorn, false, Place::Sealed), Verdict::Refuse);
    }

    #[test]
    fn row_5_an_unvouched_hole_at_the_tail_is_the_end() {
        assert_eq!(verdict(AtCursor::ZeroOrTorn, false, Place::Tail), Verdict::EndHere);
    }

    #[test]
    fn a_refusal_names_file_offset_indexes_and_the_inspector() {
        let refusal = Refusal {
            file: "d/1.wal".into(),
            offset: 4096,
            wal_index: WalIndex::new(3),
            raft_index: RaftIndex::new(9),
            reason: Reason::OtherFrame { found: WalIndex::new(4) },
        };
        let text = refusal.to_string();
        for part in ["d/1.wal", "offset 4096", "WAL index 3", "raft index 9", "ringwal verify"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
