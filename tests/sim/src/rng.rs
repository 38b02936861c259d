//! The only source of chance: every purpose draws from a stream of its own, so that turning one kind of fault off
//! leaves all others as they were (shrinking relies on it).
//!
//! Must hold: equal (seed, stream) give equal draws on every machine and version; xoshiro256++ is a fixed algorithm.

use rand_core::{Rng as _, SeedableRng as _};
use rand_xoshiro::Xoshiro256PlusPlus;

/// One stream of draws.
#[derive(Clone, Debug)]
pub struct Rng(Xoshiro256PlusPlus);

impl Rng {
    /// The stream `stream` of a seed.
    #[must_use]
    pub fn new(seed: u64, stream: u64) -> Self {
        // The odd constant spreads neighbouring streams over the seed space; `seed_from_u64` mixes the rest.
        Self(Xoshiro256PlusPlus::seed_from_u64(seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Less than `limit`; zero for zero.
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(limit)) >> 64) as u64
    }

    /// In `low..high`; `low` when that is empty.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low))
    }

    /// True in `ppm` of a million draws.
    pub fn chance(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.below(1_000_000) < u64::from(ppm)
    }

    /// A waiting time with this mean: exponential, as of independent events.
    pub fn wait(&mut self, mean: u64) -> u64 {
        // 53 bits fill a double's mantissa; the +1 keeps the logarithm finite.
        let unit = ((self.bits() >> 11) + 1) as f64 / (1u64 << 53) as f64;
        (-unit.ln() * mean as f64) as u64
    }

    /// One of them.
    ///
    /// # Panics
    /// When there is none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_stable_and_differ() {
        let draws = |seed, stream| {
            let mut rng = Rng::new(seed, stream);
            [rng.bits(), rng.bits()]
        };
        assert_eq!(draws(1, 1), draws(1, 1));
        assert_ne!(draws(1, 1), draws(1, 2));
        assert_ne!(draws(1, 1), draws(2, 1));
    }

    #[test]
    fn draws_stay_in_their_range() {
        let mut rng = Rng::new(7, 7);
        assert!((0..1000).all(|_| (5..9).contains(&rng.range(5, 9))));
        assert_eq!(rng.range(5, 5), 5);
        assert!(!rng.chance(0));
        let mean = (0..10_000).map(|_| rng.wait(1000)).sum::<u64>() / 10_000;
        assert!((900..1100).contains(&mean), "{mean}");
    }
}
