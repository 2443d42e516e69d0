//! What settings amount to: how many jobs, rounds and moves a run has, which table each round is
//! played at, how much room its leaves need, and each part's share of the settings.

use super::{ENDLESS, MixEntry, ParkingChoice, ROUNDS, Settings};
use crate::game::{MAX_CARDS, Table, cards_in_round, rounds_in_game};
use crate::network::Limits;
use crate::random::{Use, stream};
use crate::search::{Puct, RootNoise, SearchSettings};
use crate::shm::Parking;
use rand::RngExt;

impl Settings {
    /// The search's part.
    pub fn search(&self) -> SearchSettings {
        SearchSettings {
            worlds: self.worlds,
            simulations: self.simulations,
            leaves: self.leaves,
            worlds_in_flight: self.worlds_in_flight,
            puct: Puct {
                c_puct: self.search.c_puct,
                fpu_reduction: self.search.fpu_reduction,
                virtual_loss: self.search.virtual_loss,
            },
            noise: RootNoise {
                alpha: self.search.noise_alpha,
                fraction: self.search.noise_fraction,
            },
        }
    }

    /// What the network may use.
    pub fn limits(&self) -> Limits {
        Limits {
            threads: self.threads,
            max_batch: self.max_batch,
            gpu_memory_mib: self.gpu_memory_mib,
        }
    }

    /// The waiting policy: a short look around before sleeping, or none at all.
    pub fn parking(&self) -> Parking {
        match self.parking {
            ParkingChoice::Park => Parking::PARK,
            ParkingChoice::Poll => Parking::Poll,
        }
    }

    /// Jobs of the run: games, or independent rounds. A job is played by one worker.
    pub fn jobs(&self) -> u64 {
        match self.rounds {
            _ if self.games > 0 => self.games,
            Some(rounds @ 1..) => rounds,
            None if self.seconds == 0.0 => ROUNDS,
            _ => ENDLESS,
        }
    }

    /// Rounds of one job.
    pub fn rounds_per_job(&self) -> u64 {
        if self.games > 0 {
            rounds_in_game(self.players, self.cards) as u64
        } else {
            1
        }
    }

    /// Rounds of the whole run.
    pub fn planned_rounds(&self) -> u64 {
        self.jobs().saturating_mul(self.rounds_per_job())
    }

    /// Moves (bids and cards, forced ones too) of the whole run; of a mix, as many as are to be
    /// expected.
    pub fn planned_moves(&self) -> f64 {
        let moves = |players: usize, cards: usize| (players * (cards + 1)) as f64;
        let per_job = if self.games > 0 {
            (0..self.rounds_per_job() as usize)
                .map(|round| {
                    let cards = cards_in_round(self.players, self.cards, round);
                    moves(self.players, cards)
                })
                .sum()
        } else if self.mix.is_empty() {
            moves(self.players, self.cards)
        } else {
            let total: f64 = self.mix.iter().map(|entry| entry.weight).sum();
            let weighted = |entry: &MixEntry| entry.weight * moves(entry.players, entry.cards);
            self.mix.iter().map(weighted).sum::<f64>() / total
        };
        self.jobs() as f64 * per_job
    }

    /// Players and cards of the tables that rounds are played at, the largest of a game's.
    pub fn shapes(&self) -> impl Iterator<Item = (usize, usize)> {
        let only = self.mix.is_empty().then_some((self.players, self.cards));
        let mixed = self.mix.iter().map(|entry| (entry.players, entry.cards));
        mixed.chain(only)
    }

    /// Most legal actions any decision can offer: a bid from 0 to the cards dealt.
    pub fn max_legal(&self) -> usize {
        let cards = self.shapes().map(|(_, cards)| cards).max();
        cards.unwrap_or(MAX_CARDS).min(MAX_CARDS) + 1
    }

    /// Worlds of one decision that can have leaves in flight at once.
    pub(super) fn worlds_at_once(&self) -> usize {
        match self.worlds_in_flight {
            0 => self.worlds,
            some => some.min(self.worlds),
        }
    }

    /// Most leaves one worker can have in flight, a power of two: the room of its rings, so that a
    /// worker never finds its ring full.
    pub fn leaf_room(&self) -> usize {
        (self.in_flight * self.worlds_at_once() * self.leaves)
            .next_power_of_two()
            .max(2)
    }

    /// The table of round number `number` of the run, a function of the seed and the number alone.
    pub fn table(&self, number: u64) -> Table {
        let per_job = self.rounds_per_job();
        let (job, round) = (number / per_job, (number % per_job) as usize);
        if self.games > 0 {
            let first_dealer =
                stream(self.seed, Use::Deal, job, u64::MAX, 0).random_range(0..self.players);
            let cards = cards_in_round(self.players, self.cards, round);
            return Table {
                players: self.players,
                cards,
                dealer: (first_dealer + round) % self.players,
                trump_turn: round,
            };
        }
        let mut rng = stream(self.seed, Use::Deal, number, u64::MAX, 0);
        let (mut players, mut cards) = (self.players, self.cards);
        let total: f64 = self.mix.iter().map(|entry| entry.weight).sum();
        let mut draw = rng.random::<f64>() * total;
        for entry in &self.mix {
            (players, cards) = (entry.players, entry.cards);
            draw -= entry.weight;
            if draw < 0.0 {
                break;
            }
        }
        Table {
            players,
            cards,
            dealer: rng.random_range(0..players),
            trump_turn: rng.random_range(0..5),
        }
    }
}
