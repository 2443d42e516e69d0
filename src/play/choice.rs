//! Which action is played, once a search has counted visits.

use crate::game::{MAX_LEGAL, Phase, Round};
use crate::settings::SearchSection;

/// Temperature of a choice: `start` while bidding, falling evenly to `end` in the last trick.
pub(super) fn temperature(tuning: &SearchSection, round: &Round) -> f32 {
    let (start, end) = (tuning.temperature_start, tuning.temperature_end);
    if round.phase() == Phase::Bidding || round.cards() < 2 {
        return start;
    }
    let progress = round.tricks_done() as f32 / (round.cards() - 1) as f32;
    start + (end - start) * progress
}

/// Draws an action in proportion to visits^(1 / temperature); the most visited one (the lowest
/// among equals) at temperature 0. `draw` is uniform in [0, 1).
pub(super) fn choose(visits: &[u32], temperature: f32, draw: f64) -> usize {
    let most = visits.iter().copied().max().unwrap_or(0).max(1);
    let first_most = visits.iter().position(|&n| n == most).unwrap_or(0);
    if temperature < 1e-3 {
        return first_most;
    }
    let mut weights = [0.0; MAX_LEGAL];
    for (weight, &n) in weights.iter_mut().zip(visits) {
        *weight = libm::pow(f64::from(n) / f64::from(most), 1.0 / f64::from(temperature));
    }
    let mut left = draw * weights.iter().sum::<f64>();
    for (nth, weight) in weights[..visits.len()].iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return nth;
        }
    }
    first_most
}

#[cfg(test)]
mod tests {
    use super::super::deal;
    use super::*;
    use crate::settings::Settings;

    #[test]
    fn temperature_falls_from_trick_to_trick() {
        let tuning = SearchSection {
            temperature_start: 1.0,
            temperature_end: 0.0,
            ..SearchSection::default()
        };
        let settings = Settings {
            cards: 3,
            ..Settings::default()
        };
        let mut round = deal(&settings, 0).unwrap();
        let mut seen = Vec::new();
        while round.phase() != Phase::Over {
            seen.push(temperature(&tuning, &round));
            round.play(round.legal().trailing_zeros() as u8);
        }
        assert_eq!(seen[..8], [1.0; 8], "bidding and the first trick");
        assert_eq!(seen[8..12], [0.5; 4]);
        assert_eq!(seen[12..], [0.0; 4]);
    }

    #[test]
    fn choices_follow_visits() {
        let visits = [1, 6, 3, 0];
        assert_eq!(choose(&visits, 0.0, 0.99), 1);
        let tally = |temperature: f32| {
            let mut tally = [0; 4];
            for k in 0..1000 {
                tally[choose(&visits, temperature, f64::from(k) / 1000.0)] += 1;
            }
            tally
        };
        assert_eq!(tally(1.0), [100, 600, 300, 0]);
        let sharp = tally(0.5);
        assert_eq!(sharp.iter().sum::<i32>(), 1000);
        assert!(sharp[1] > 750 && sharp[3] == 0, "{sharp:?}");
        assert_eq!(choose(&[4, 4], 0.0, 0.5), 0, "the lowest among equals");
    }
}
