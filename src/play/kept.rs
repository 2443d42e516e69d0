//! What is kept of a job in flight, so that whoever takes it over after a death searches no
//! finished decision again: the head of its present round, and of every finished decision what its
//! search found. Hands, forced moves and choices follow from the settings, so they are not stored.
//! Words of 64 bits, in the form of `shm::Journal`.

use super::Job;
use crate::game::{MAX_LEGAL, MAX_PLAYERS};
use crate::settings::Settings;
use crate::shm::{Journal, JournalPlace, MappedWords, Words};
use bytemuck::{Pod, Zeroable};

/// How a round began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct RoundHead {
    /// The round's number in the run.
    pub round: u64,
    /// The network that plays it.
    pub network: u64,
    /// Points before it, in a whole game; else 0.
    pub totals: [u16; MAX_PLAYERS],
}

const HEAD_WORDS: usize = size_of::<RoundHead>() / 8;

impl RoundHead {
    pub fn words(&self) -> &[u64; HEAD_WORDS] {
        bytemuck::cast_ref(self)
    }

    /// The head at the beginning of `words`, and the decisions behind it; none if there is none.
    pub fn of(words: &[u64]) -> Option<(RoundHead, &[u64])> {
        let (head, decisions) = words.split_first_chunk::<HEAD_WORDS>()?;
        Some((bytemuck::cast(*head), decisions))
    }
}

/// Words of one decision: its evaluations, then visits and values, two a word.
const fn decision_words(legal: usize, players: usize) -> usize {
    1 + (legal + players).div_ceil(2)
}

const MAX_DECISION_WORDS: usize = decision_words(MAX_LEGAL, MAX_PLAYERS);

/// What the search of one decision found.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Searched<'a> {
    /// Leaves that the network evaluated for it.
    pub evaluations: u64,
    /// Visits of each legal action.
    pub visits: &'a [u32],
    /// Expected points of each seat.
    pub values: &'a [f32],
}

impl Searched<'_> {
    /// Calls `keep` with the words that say it.
    pub fn as_words<R>(&self, keep: impl FnOnce(&[u64]) -> R) -> R {
        let mut words = [0; MAX_DECISION_WORDS];
        words[0] = self.evaluations;
        let halves: &mut [u32] = bytemuck::cast_slice_mut(&mut words[1..]);
        let (visits, rest) = halves.split_at_mut(self.visits.len());
        visits.copy_from_slice(self.visits);
        rest[..self.values.len()].copy_from_slice(bytemuck::cast_slice(self.values));
        keep(&words[..decision_words(self.visits.len(), self.values.len())])
    }
}

/// Takes the next decision, of `legal` actions and `players` seats, off the front of `words`; none
/// if that is too short.
pub(super) fn next_searched<'a>(
    words: &mut &'a [u64],
    legal: usize,
    players: usize,
) -> Option<Searched<'a>> {
    let (decision, rest) = words.split_at_checked(decision_words(legal, players))?;
    *words = rest;
    let halves: &[u32] = bytemuck::cast_slice(&decision[1..]);
    Some(Searched {
        evaluations: decision[0],
        visits: &halves[..legal],
        values: bytemuck::cast_slice(&halves[legal..legal + players]),
    })
}

/// Most words of one job: the head, a bid of each seat, and each of its cards but the last, with
/// all cards in hand legal.
pub fn room(settings: &Settings) -> usize {
    let of_table = |(players, cards): (usize, usize)| {
        let cards_in_hand = (2..=cards).map(|hand| decision_words(hand, players));
        players * (decision_words(cards + 1, players) + cards_in_hand.sum::<usize>())
    };
    HEAD_WORDS + settings.shapes().map(of_table).max().unwrap_or(0)
}

/// What a `Port` does where there is a journal: an entry for each job, this process writing to
/// those of the jobs it holds.
pub struct Keeper<M = MappedWords> {
    journal: Journal<M>,
    /// Where this process is in each entry.
    places: Vec<JournalPlace>,
    /// What was read last.
    words: Vec<u64>,
}

impl<M: Words> Keeper<M> {
    /// Over this journal.
    pub fn new(journal: Journal<M>) -> Keeper<M> {
        Keeper {
            places: vec![JournalPlace::default(); journal.entries()],
            words: Vec::new(),
            journal,
        }
    }

    /// Is there an entry for this job?
    pub fn has_entry(&self, job: &Job) -> bool {
        (job.entry as usize) < self.places.len()
    }

    /// What a predecessor has kept of a job, which must have an entry.
    pub fn kept(&mut self, job: &Job) -> &[u64] {
        let entry = job.entry as usize;
        self.places[entry] = self.journal.read(entry, &mut self.words);
        &self.words
    }

    /// Keeps `words` instead of what was kept before.
    pub fn keep_round(&mut self, entry: u32, words: &[u64]) {
        let place = &mut self.places[entry as usize];
        let is_kept = self.journal.begin(entry as usize, place, words);
        debug_assert!(is_kept, "an entry has room for the longest round");
    }

    /// Keeps `words` besides what is kept.
    pub fn keep_decision(&mut self, entry: u32, words: &[u64]) {
        let place = &mut self.places[entry as usize];
        let is_kept = self.journal.add(entry as usize, place, words);
        debug_assert!(is_kept, "an entry has room for the longest round");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_comes_back() {
        let (visits, values) = ([1, 0, 88, 1], [9.5, 0.25, -1.0]);
        let mut log = Vec::new();
        for legal in 2..=4 {
            let searched = Searched {
                evaluations: 70 + legal as u64,
                visits: &visits[..legal],
                values: &values,
            };
            searched.as_words(|words| log.extend_from_slice(words));
        }
        let mut words = &log[..];
        for legal in 2..=4 {
            let searched = next_searched(&mut words, legal, 3).unwrap();
            assert_eq!(searched.evaluations, 70 + legal as u64);
            assert_eq!(
                (searched.visits, searched.values),
                (&visits[..legal], &values[..])
            );
        }
        assert!(words.is_empty() && next_searched(&mut words, 2, 3).is_none());
    }

    #[test]
    fn there_is_room_for_the_longest_round() {
        // 4 players, 5 cards: 4 words, and per seat decisions of 6 (bids), 5, 4, 3 and 2 actions.
        let settings = Settings::default();
        assert_eq!(room(&settings), 4 + 4 * (6 + 6 + 5 + 5 + 4));
    }
}
