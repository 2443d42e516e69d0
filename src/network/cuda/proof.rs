//! Positions on which entry points are compared whose sums the hardware adds up in different instructions: real ones, of all
//! table sizes, bids and plays, since what differs in the last bit for some row of a hundred shows up among a thousand.

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::game::{Phase, Round, Rules, Standing, bits};
use crate::observation::Position;
use crate::wire::Request;

/// Rows compared, if a batch holds as many.
pub(super) const ROWS: usize = 1024;
/// Times that they are compared: a race need not show at once.
pub(super) const REPEATS: usize = 3;

/// Positions in the course of random rounds.
pub(super) fn fill(requests: &mut [Request]) {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
    let mut number = 0;
    let mut filled = 0;
    while filled < requests.len() {
        let players = 3 + number % 6;
        let cards = 1 + number / 6 % 6;
        number += 1;
        let rules = Rules::default();
        let Ok(mut round) = Round::deal(
            players,
            cards,
            number % 5,
            number % players,
            rules,
            &mut rng,
        ) else {
            continue;
        };
        while round.phase() != Phase::Over && filled < requests.len() {
            if round.legal().count_ones() > 1 {
                requests[filled] = Request {
                    ticket: filled as u64,
                    position: Position::observe(&round, &Standing::default()),
                };
                filled += 1;
            }
            let nth = rng.random_range(0..round.legal().count_ones()) as usize;
            let Some(action) = bits(round.legal()).nth(nth) else {
                break;
            };
            round.play(action);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable;

    #[test]
    fn the_positions_are_many_and_sound() {
        let mut requests = vec![Request::zeroed(); ROWS];
        fill(&mut requests);
        assert!(requests.iter().all(|request| request.position.is_sound()));
        let mut positions: Vec<&[u8]> = requests
            .iter()
            .map(|request| bytemuck::bytes_of(&request.position))
            .collect();
        positions.sort_unstable();
        positions.dedup();
        assert!(positions.len() > ROWS * 9 / 10, "{}", positions.len());
    }
}
