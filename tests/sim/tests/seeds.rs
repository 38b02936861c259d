//! A few seeds in every test run, always the same ones: what fresh seeds find is looked for with the binary, and the
//! README keeps the ledger of what is still open.

use ringsim::profile::KINDS;
use ringsim::run::{catch_panics, run};

/// Unoptimised, this is a few seconds.
const SEEDS: u64 = 12;

#[test]
fn known_seeds_pass() {
    catch_panics();
    let mut counts = [0; KINDS.len()];
    for seed in 1..=SEEDS {
        let outcome = run(seed, 0, false);
        assert!(outcome.failure.is_none(), "ringsim --seed {seed} --trace: {:?}", outcome.failure);
        counts.iter_mut().zip(outcome.counts).for_each(|(sum, count)| *sum += count);
    }
    let never: Vec<_> = KINDS.iter().filter(|kind| counts[kind.place()] == 0).collect();
    assert!(never.is_empty(), "kinds of faults that no longer happen: {never:?}");
}

#[test]
fn one_seed_is_one_run() {
    catch_panics();
    for seed in [3, 4] {
        // A trace adds its lines to the hash, and must change nothing else.
        let (one, other, traced) = (run(seed, 0, false), run(seed, 0, false), run(seed, 0, true));
        assert_eq!(one.trace_hash, other.trace_hash, "seed {seed}");
        assert_eq!((one.steps, one.operations, one.counts), (other.steps, other.operations, other.counts));
        assert_eq!((one.steps, one.operations, one.counts), (traced.steps, traced.operations, traced.counts));
        assert_ne!(one.trace_hash, run(seed + 100, 0, false).trace_hash);
    }
}
