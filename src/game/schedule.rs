//! A whole game: which rounds it has, who deals them, how many cards they deal.

use super::rules::MAX_PLAYERS;

/// Where a whole game stands before one of its rounds; all zero for an independent round.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// Points so far, by seat.
    pub totals: [u16; MAX_PLAYERS],
    /// Rounds finished.
    pub rounds_done: u8,
    /// Rounds of the whole game (0: an independent round).
    pub rounds_total: u8,
    /// Cards of the game's first round.
    pub first_cards: u8,
}

/// Rounds of a game that starts with `cards` cards: 2 (cards - 1) + players.
pub fn rounds_in_game(players: usize, cards: usize) -> usize {
    2 * (cards - 1) + players
}

/// Cards dealt in round `round` (from 0) of a game that starts with `cards`:
/// cards, cards - 1, ..., 2, then one card `players` times, then 2, ..., cards.
pub fn cards_in_round(players: usize, cards: usize, round: usize) -> usize {
    let falling = cards - 1;
    if round < falling {
        cards - round
    } else if round < falling + players {
        1
    } else {
        round - falling - players + 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_players_from_seven() {
        let cards: Vec<usize> = (0..rounds_in_game(5, 7))
            .map(|round| cards_in_round(5, 7, round))
            .collect();
        assert_eq!(cards, [7, 6, 5, 4, 3, 2, 1, 1, 1, 1, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn a_game_of_one_card() {
        assert_eq!(rounds_in_game(3, 1), 3);
        assert!((0..3).all(|round| cards_in_round(3, 1, round) == 1));
    }
}
