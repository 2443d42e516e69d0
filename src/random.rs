//! Random numbers by counter: every stream is a pure function of the run's seed and of where it is
//! used (round, decision, world), so that results do not depend on who plays a round or when.

use rand::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;

/// What a stream is used for; streams of different use never meet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// Drawing the table (players, cards), dealer, trump and cards of a round.
    Deal,
    /// The hidden cards of one world of a decision.
    World,
    /// The noise on the root's priors.
    Noise,
    /// The choice of the action played.
    Choice,
}

/// The generator for one use. `round` and `decision` count from 0 within the run and the round;
/// `world` is 0 where it means nothing.
pub fn stream(seed: u64, used: Use, round: u64, decision: u64, world: u64) -> Xoshiro256PlusPlus {
    let mut state = mix(seed ^ 0x5EED_B10B_0000_0000);
    for counter in [used as u64, round, decision, world] {
        state = mix(state ^ mix(counter.wrapping_add(0x9E37_79B9_7F4A_7C15)));
    }
    Xoshiro256PlusPlus::seed_from_u64(state)
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): a bijection that scatters nearby
/// counters.
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;
    use std::collections::HashSet;

    #[test]
    fn neighbouring_streams_differ_and_repeat() {
        let mut seen = HashSet::new();
        for seed in 0..4 {
            for used in [Use::Deal, Use::World, Use::Noise, Use::Choice] {
                for (round, decision, world) in
                    (0..4).flat_map(|r| (0..4).flat_map(move |d| (0..4).map(move |w| (r, d, w))))
                {
                    let first = stream(seed, used, round, decision, world).next_u64();
                    assert_eq!(first, stream(seed, used, round, decision, world).next_u64());
                    assert!(seen.insert(first), "two streams start alike");
                }
            }
        }
    }
}
