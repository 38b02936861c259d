//! Known ways to break the product, for the proof that the simulator would notice.
//!
//! Owns: the list, and which one is on in this thread. Must hold: without the feature `mutations`, which no build that
//! runs has, [`is_on`] is a constant false and costs nothing.

/// A way to break the product. Each names the rule it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A leader counts its own entries before they are synced.
    AnswerBeforeSync,
    /// A follower acknowledges before its sync.
    SkipFollowerSync,
    /// Term, vote and commit are not written.
    DropHardState,
    /// Every segment has the same epoch: frames of a recycled segment's earlier life are valid.
    AcceptStaleFrame,
    /// A linearizable read is answered without asking the others.
    ReadWithoutRound,
    /// A key that was refreshed or rewritten comes out of a snapshot without its deadline.
    ForgetRefresh,
    /// The history drops one event too many when it is full.
    LoseHistoryEvent,
    /// Entries that are applied again after a restart are applied twice.
    ApplyTwice,
    /// A member that may have forgotten something votes.
    VoteAfterForgetting,
    /// Clients are served before everything acknowledged is applied again.
    ServeEarly,
    /// A snapshot gets its name before its bytes are synced.
    NameBeforeSync,
}

/// All of them.
pub const MUTATIONS: [Mutation; 11] = [
    Mutation::AnswerBeforeSync,
    Mutation::SkipFollowerSync,
    Mutation::DropHardState,
    Mutation::AcceptStaleFrame,
    Mutation::ReadWithoutRound,
    Mutation::ForgetRefresh,
    Mutation::LoseHistoryEvent,
    Mutation::ApplyTwice,
    Mutation::VoteAfterForgetting,
    Mutation::ServeEarly,
    Mutation::NameBeforeSync,
];

#[cfg(feature = "mutations")]
thread_local! {
    static ON: std::cell::Cell<Option<Mutation>> = const { std::cell::Cell::new(None) };
}

/// Breaks the product in this thread from now on; `None` mends it.
#[cfg(feature = "mutations")]
pub fn turn_on(mutation: Option<Mutation>) {
    ON.set(mutation);
}

/// Whether the product is broken in this way.
#[cfg(feature = "mutations")]
#[must_use]
pub fn is_on(mutation: Mutation) -> bool {
    ON.get() == Some(mutation)
}

/// Whether the product is broken in this way: it is not.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
#[must_use]
pub const fn is_on(_mutation: Mutation) -> bool {
    false
}
