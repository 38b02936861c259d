//! The proof that the simulator notices: the product is broken in each known way, and a bounded number of seeds finds
//! it. Runs with the feature `mutations` only.
//!
//! One mutation shows only where the frames of a segment's earlier life lie just where the log ends, which few seeds
//! bring about: a scenario does. Another one takes the very note away by which the member would say that it has
//! forgotten something: it counts as found only by its votes, as the network saw them, in a scenario and in seeds.
//!
//! The bounds leave room above the number of seeds it took when this was written (`README.md` has the figures), so that
//! a change of what seeds draw does not break them; a mutation that is found much later than before is a checker that
//! has become weaker.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use ringd_storage::mutation::{MUTATIONS, Mutation, turn_on};
use ringsim::run::{catch_panics, names, run, shrink};
use ringsim::script::play;

/// Mutations tried at once; each has a thread of its own, which alone is broken.
const THREADS: usize = 2;

/// Holds as long as stale frames are not accepted.
const STALE_FRAMES: &str = include_str!("../../scripts/stale_frames_of_a_recycled_segment_are_not_believed.scenario");

/// What is varied in it, and how often: where the log ends depends on all that is in it.
const STALE_ENTRIES: &str = "fill l 400";
const STALE_VARIANTS: u32 = 10;

/// Holds as long as a member that has lost its disk votes for nobody who lacks what it has acknowledged.
const FORGOTTEN_VOTE: &str = include_str!("../../scripts/member_that_lost_its_disk_votes_for_no_shorter_log.scenario");
/// What the checker of votes says.
const VOTE: &str = " votes ";

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

/// The first seed that fails with these words.
fn by_seeds(mutation: Mutation, words: &str) -> Option<String> {
    (1..=bound(mutation)).find_map(|seed| {
        let failure = run(seed, 0, false).failure.filter(|failure| failure.what.contains(words))?;
        Some(format!("seed {seed}, {:?}: {:.160}", failure.class, failure.what))
    })
}

#[test]
fn a_failure_is_shrunk_to_the_faults_it_needs() {
    catch_panics();
    turn_on(Some(Mutation::ApplyTwice));
    let all = (1..=bound(Mutation::ApplyTwice)).map(|seed| run(seed, 0, false)).find(|all| all.failure.is_some());
    let all = all.expect("the mutation is found");
    let class = all.failure.expect("just seen").class;
    let least = shrink(all.seed, class, 0);
    turn_on(None);
    assert_eq!(least.failure.expect("it fails still").class, class);
    assert!(least.off.count_ones() >= 10, "a restart is enough, and only this is off: {}", names(least.off));
    assert!(!least.trace.is_empty());
}

#[test]
fn every_known_way_to_break_the_product_is_found() {
    catch_panics();
    assert!(STALE_FRAMES.contains(STALE_ENTRIES), "the scenario is the one that is varied");
    let next = AtomicUsize::new(0);
    let missed = Mutex::new(Vec::new());
    let work = || {
        while let Some(mutation) = MUTATIONS.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
            turn_on(Some(mutation));
            let found = match mutation {
                Mutation::AcceptStaleFrame => (0..STALE_VARIANTS).find_map(|at| {
                    play(&STALE_FRAMES.replace(STALE_ENTRIES, &format!("fill l {}", 400 + 7 * at))).err()
                }),
                Mutation::VoteAfterForgetting => {
                    let says = play(FORGOTTEN_VOTE).err().filter(|says| says.contains(VOTE));
                    says.and_then(|_| by_seeds(mutation, VOTE))
                }
                _ => by_seeds(mutation, ""),
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
