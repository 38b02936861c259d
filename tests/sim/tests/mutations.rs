//! The proof that the simulator notices: the product is broken in each known way, and a bounded number of seeds finds
//! it. Runs with the feature `mutations` only.
//!
//! One mutation shows only where the frames of a segment's earlier life lie just where the log ends, which few seeds
//! bring about: a scenario does.
//!
//! The bounds leave room above the number of seeds it took when this was written (`README.md` has the figures), so that
//! a change of what seeds draw does not break them; a mutation that is found much later than before is a checker that
//! has become weaker.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use ringd_storage::mutation::{MUTATIONS, Mutation, turn_on};
use ringsim::run::{catch_panics, run};
use ringsim::script::play;

/// Mutations tried at once; each has a thread of its own, which alone is broken.
const THREADS: usize = 2;

/// Holds as long as stale frames are not accepted.
const STALE_FRAMES: &str = include_str!("../../scripts/stale_frames_of_a_recycled_segment_are_not_believed.scenario");

/// Seeds within which each must be found; none for the one that a scenario finds.
const fn bound(mutation: Mutation) -> u64 {
    match mutation {
        Mutation::AnswerBeforeSync => 100,
        Mutation::SkipFollowerSync => 400,
        Mutation::DropHardState => 50,
        Mutation::AcceptStaleFrame => 0,
        Mutation::ReadWithoutRound => 200,
        Mutation::ForgetRefresh => 50,
        Mutation::LoseHistoryEvent => 100,
        Mutation::ApplyTwice => 20,
        Mutation::VoteAfterForgetting => 400,
        Mutation::ServeEarly => 200,
        Mutation::NameBeforeSync => 200,
    }
}

#[test]
fn every_known_way_to_break_the_product_is_found() {
    catch_panics();
    let next = AtomicUsize::new(0);
    let missed = Mutex::new(Vec::new());
    let work = || {
        while let Some(mutation) = MUTATIONS.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
            turn_on(Some(mutation));
            let found = if mutation == Mutation::AcceptStaleFrame {
                play(STALE_FRAMES).err()
            } else {
                (1..=bound(mutation)).find_map(|seed| {
                    let failure = run(seed, 0, false).failure?;
                    Some(format!("seed {seed}, {:?}: {:.160}", failure.class, failure.what))
                })
            };
            turn_on(None);
            match found {
                Some(what) => println!("{mutation:?}: {what}"),
                None => missed.lock().unwrap().push(mutation),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(work);
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not found: {missed:?}");
}
