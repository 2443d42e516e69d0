//! Requests of random rounds, for timing backends and for comparing them: all table sizes, bids and
//! plays.

use rand::RngExt;

use crate::game::{Phase, Round, Rules, Standing, Table, bits};
use crate::observation::Position;
use crate::random::{Use, stream};
use crate::wire::Request;

/// `count` requests, the same each time; tickets count from 0.
pub fn requests(count: usize) -> Vec<Request> {
    let mut requests = Vec::with_capacity(count);
    let mut number = 0;
    while requests.len() < count {
        let (players, cards) = (3 + number % 6, 1 + number / 6 % 6);
        let mut rng = stream(0, Use::Deal, number as u64, 0, 0);
        let table = Table {
            players,
            cards,
            dealer: number % players,
            trump_turn: number % 5,
        };
        let dealt = Round::deal(table, Rules::default(), &mut rng);
        let mut round = dealt.expect("the pack has 8 x 6 cards");
        number += 1;
        while round.phase() != Phase::Over && requests.len() < count {
            let legal = round.legal();
            requests.push(Request {
                ticket: requests.len() as u64,
                position: Position::observe(&round, &Standing::default()),
            });
            let nth = rng.random_range(0..legal.count_ones());
            round.play(bits(legal).nth(nth as usize).unwrap_or(0));
        }
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_positions_are_many_and_sound() {
        let requests = requests(1024);
        assert!(requests.iter().all(|request| request.position.is_sound()));
        let mut positions: Vec<&[u8]> = requests
            .iter()
            .map(|request| bytemuck::bytes_of(&request.position))
            .collect();
        positions.sort_unstable();
        positions.dedup();
        assert!(positions.len() > 1000, "{}", positions.len());
    }
}
