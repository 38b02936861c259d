//! Bounded fuzzing: seeds from `corpus/`, mutated with a fixed seed, against what must hold for every input.
//!
//! `cargo test --test fuzz` runs a few seconds. `FUZZ_ITERATIONS` (inputs per target) makes it longer and
//! `FUZZ_SEED` different; a failure prints the seed, the iteration and the input. Put an input that failed into
//! `corpus/`, where it is run first ever after.

mod chunked;
mod form;
mod http;
mod peer;
mod storage;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

/// Inputs per target unless `FUZZ_ITERATIONS` says otherwise: about a second each in an unoptimised build.
const ITERATIONS: u64 = 20_000;
/// Any number; the same inputs on every machine.
const SEED: u64 = 0x5249_4e47_4401;
/// Mutations stacked on one seed; more destroy all structure.
const MUTATIONS_MAX: u64 = 6;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// SplitMix64: small, fast, and the same everywhere.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// The files of a corpus folder, in name order: file name and bytes.
fn corpus(folder: &str) -> Vec<(String, Vec<u8>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(folder);
    let mut files: Vec<_> = fs::read_dir(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .map(|entry| entry.unwrap().path())
        .map(|file| (file.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&file).unwrap()))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", path.display());
    files
}

/// Runs `target` on every file of the corpus folder, then on mutations of them.
fn run(folder: &str, words: &[&[u8]], target: impl Fn(&[u8], &mut Rng)) {
    let seeds = corpus(folder);
    let seed = setting("FUZZ_SEED", SEED);
    for (name, bytes) in &seeds {
        guard(&format!("corpus/{folder}/{name}"), bytes, || target(bytes, &mut Rng(seed)));
    }
    for iteration in 0..setting("FUZZ_ITERATIONS", ITERATIONS) {
        let mut rng = Rng(seed ^ iteration.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let mut input = seeds[rng.below(seeds.len())].1.clone();
        for _ in 0..=rng.next() % MUTATIONS_MAX {
            mutate(&mut input, &seeds, words, &mut rng);
        }
        guard(&format!("FUZZ_SEED={seed}, iteration {iteration}"), &input, || target(&input, &mut rng));
    }
}

/// Runs `check` and adds to its panic what is needed to see it again.
fn guard(origin: &str, input: &[u8], check: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(check)) {
        eprintln!("failed on {origin}: \"{}\"", input.escape_ascii());
        resume_unwind(panic);
    }
}

/// One small change.
fn mutate(input: &mut Vec<u8>, seeds: &[(String, Vec<u8>)], words: &[&[u8]], rng: &mut Rng) {
    let at = rng.below(input.len() + 1);
    let end = at + rng.below(input.len() - at + 1).min(16);
    match rng.below(8) {
        0 => drop(input.drain(at..end)),
        1 => input.insert(at, rng.next() as u8),
        2 if at < input.len() => input[at] ^= 1 << rng.below(8),
        3 => {
            let copy = input[at..end].to_vec();
            input.splice(at..at, copy);
        }
        4 => {
            let word = words[rng.below(words.len())];
            input.splice(at..at, word.iter().copied());
        }
        5 => {
            let word = words[rng.below(words.len())];
            input.splice(at..end, word.iter().copied());
        }
        6 => {
            // The head of this one with the tail of another.
            let other = &seeds[rng.below(seeds.len())].1;
            input.truncate(at);
            input.extend_from_slice(&other[rng.below(other.len() + 1)..]);
        }
        _ => input.truncate(at),
    }
}
