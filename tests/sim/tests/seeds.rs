//! A few fresh seeds in every test run; `.ci/run` gives the release binary a minute of them.
#![allow(clippy::disallowed_methods, reason = "fresh seeds come from the clock")]

use ringsim::run::{catch_panics, run};

/// Unoptimised, this is a few seconds.
const SEEDS: u64 = 12;

#[test]
fn fresh_seeds_pass() {
    catch_panics();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock after 1970");
    let from = now.as_secs();
    for seed in from..from + SEEDS {
        let outcome = run(seed, 0, false);
        assert!(outcome.failure.is_none(), "ringsim --seed {seed} --trace: {:?}", outcome.failure);
    }
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
