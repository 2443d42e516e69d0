//! The journal of a job in flight, so that after a death its successor searches no finished
//! decision again: the head of its present round, and of every finished decision what its search
//! found. Hands, forced moves and choices follow from the settings, so they are not stored. Words
//! of 64 bits, in the form of `shm::Journal`.

use super::Job;
use crate::game::{MAX_LEGAL, MAX_PLAYERS};
use crate::search::SearchResult;
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

/// Words of one decision: its evaluations, then visits, values and the root's own policy, if it has
/// one, two a word.
const fn decision_words(legal: usize, players: usize, has_own_policy: bool) -> usize {
    let by_action = if has_own_policy { 2 * legal } else { legal };
    1 + (by_action + players).div_ceil(2)
}

const MAX_DECISION_WORDS: usize = decision_words(MAX_LEGAL, MAX_PLAYERS, true);

/// Calls `write` with the words of a decision: `evaluations` are the leaves that the network
/// evaluated for it.
pub(super) fn encode(evaluations: u64, result: &SearchResult, write: impl FnOnce(&[u64])) {
    let (counts, values, policy) = (result.counts(), result.values(), result.own_policy());
    let mut words = [0; MAX_DECISION_WORDS];
    words[0] = evaluations;
    let halves: &mut [u32] = bytemuck::cast_slice_mut(&mut words[1..]);
    let (first, rest) = halves.split_at_mut(counts.len());
    first.copy_from_slice(counts);
    let (second, rest) = rest.split_at_mut(values.len());
    second.copy_from_slice(bytemuck::cast_slice(values));
    if let Some(policy) = policy {
        rest[..policy.len()].copy_from_slice(bytemuck::cast_slice(policy));
    }
    write(&words[..decision_words(counts.len(), values.len(), policy.is_some())]);
}

/// Takes the next decision, of `legal` actions and `players` seats, off the front of `words`: its
/// evaluations and what its search found; none if that is too short.
pub(super) fn next_decision(
    words: &mut &[u64],
    legal: usize,
    players: usize,
    has_own_policy: bool,
) -> Option<(u64, SearchResult)> {
    let length = decision_words(legal, players, has_own_policy);
    let (decision, rest) = words.split_at_checked(length)?;
    *words = rest;
    let halves: &[u32] = bytemuck::cast_slice(&decision[1..]);
    let (counts, rest) = halves.split_at(legal);
    let (values, rest) = rest.split_at(players);
    let policy = has_own_policy.then(|| bytemuck::cast_slice(&rest[..legal]));
    let result = SearchResult::new(counts, bytemuck::cast_slice(values), policy);
    Some((decision[0], result))
}

/// Most words of one job: the head, a bid of each seat, and each of its cards but the last, with
/// all cards in hand legal.
pub fn journal_room(settings: &Settings) -> usize {
    let has_own_policy = settings.search().has_own_policy();
    let of_table = |(players, cards): (usize, usize)| {
        let words = |legal| decision_words(legal, players, has_own_policy);
        players * (words(cards + 1) + (2..=cards).map(words).sum::<usize>())
    };
    HEAD_WORDS + settings.shapes().map(of_table).max().unwrap_or(0)
}

/// The journal as a [`JobPort`](super::JobPort) uses it: an entry for each job, this process
/// writing to those of the jobs it holds.
pub struct DecisionJournal<M = MappedWords> {
    journal: Journal<M>,
    /// Where this process is in each entry.
    places: Vec<JournalPlace>,
    /// What was read last.
    words: Vec<u64>,
}

impl<M: Words> DecisionJournal<M> {
    /// Over this journal.
    pub fn new(journal: Journal<M>) -> DecisionJournal<M> {
        DecisionJournal {
            places: vec![JournalPlace::default(); journal.entries()],
            words: Vec::new(),
            journal,
        }
    }

    /// Is there an entry for this job?
    pub fn has_entry(&self, job: &Job) -> bool {
        (job.entry as usize) < self.places.len()
    }

    /// What a predecessor has written of a job, which must have an entry.
    pub fn read(&mut self, job: &Job) -> &[u64] {
        let entry = job.entry as usize;
        self.places[entry] = self.journal.read(entry, &mut self.words);
        &self.words
    }

    /// Begins a round: `words` replace what the entry holds.
    pub fn begin_round(&mut self, entry: u32, words: &[u64]) {
        let place = &mut self.places[entry as usize];
        let is_written = self.journal.begin(entry as usize, place, words);
        debug_assert!(is_written, "an entry has room for the longest round");
    }

    /// Adds a decision's `words` to what the entry holds.
    pub fn add_decision(&mut self, entry: u32, words: &[u64]) {
        let place = &mut self.places[entry as usize];
        let is_written = self.journal.add(entry as usize, place, words);
        debug_assert!(is_written, "an entry has room for the longest round");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_comes_back() {
        let (counts, values) = ([1, 0, 88, 1], [9.5, 0.25, -1.0]);
        let policy = [0.1, 0.2, 0.3, 0.4];
        for has_own_policy in [false, true] {
            let of = |legal: usize| {
                let policy = has_own_policy.then_some(&policy[..legal]);
                SearchResult::new(&counts[..legal], &values, policy)
            };
            let mut log = Vec::new();
            for legal in 2..=4 {
                encode(70 + legal as u64, &of(legal), |words| {
                    log.extend_from_slice(words)
                });
            }
            let mut words = &log[..];
            for legal in 2..=4 {
                let read = next_decision(&mut words, legal, 3, has_own_policy);
                assert_eq!(read, Some((70 + legal as u64, of(legal))));
            }
            assert!(words.is_empty() && next_decision(&mut words, 2, 3, has_own_policy).is_none());
        }
    }

    #[test]
    fn there_is_room_for_the_longest_round() {
        // 4 players, 5 cards: 4 words, and per seat decisions of 6 (bids), 5, 4, 3 and 2 actions.
        let settings = Settings::default();
        assert_eq!(journal_room(&settings), 4 + 4 * (6 + 6 + 5 + 5 + 4));
    }
}
