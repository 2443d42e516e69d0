//! Rounds in flight: a `Table` plays one job (an independent round, or all rounds of a game) as a state
//! machine; `Tables` multiplexes many, which is where batches of hundreds come from with one leaf per
//! tree. Where leaves go, where jobs come from and where finished rounds go is the `Port`'s business:
//! shared-memory rings in a worker process, plain queues when everything runs in one process.

use crate::game::{MAX_LEGAL, Phase, Round, Standing, TableError};
use crate::latency::{Histogram, now_ns};
use crate::random::{Use, stream};
use crate::replay::{GamePlace, RoundRecord};
use crate::search::{Counts, Search, Tuning, WorldSampler, nth_action};
use crate::settings::Settings;
use crate::wire::{Reply, Request, place_of, ticket};
use bytemuck::{Pod, Zeroable};
use rand::RngExt;
use std::collections::VecDeque;

/// What is handed out: a round, or all rounds of a game.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Job {
    /// Number in the run, from 0.
    pub number: u64,
    /// The run's network that plays it, all of it.
    pub network: u64,
}

/// The outside of a set of tables. Nothing here may block: full and empty are return values.
pub trait Port {
    /// What can break.
    type Error: From<SelfplayError>;

    /// The next job, if one is at hand.
    fn next_job(&mut self) -> Result<Option<Job>, Self::Error>;

    /// Sends a leaf to the network; false if there is no room now.
    fn send(&mut self, request: &Request) -> Result<bool, Self::Error>;

    /// Hands over a finished round; false if there is no room now.
    fn deliver(&mut self, record: &RoundRecord) -> Result<bool, Self::Error>;

    /// A search has selected leaves, which will now be sent; for those who take stamps.
    #[inline(always)]
    fn selected(&mut self) {}
}

/// What a broken peer or a broken invariant looks like from here.
#[derive(Debug, thiserror::Error)]
pub enum SelfplayError {
    /// A reply that nobody waits for.
    #[error("a reply with ticket {0:#x} came that nothing waits for")]
    StrayReply(u64),
    /// A job number past the run's end.
    #[error("job {job} was handed out, the run has {jobs}")]
    StrayJob {
        /// The number handed out.
        job: u64,
        /// Jobs of the run.
        jobs: u64,
    },
    /// A table that cannot be laid.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// What a table is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// No job.
    Free,
    /// A decision is being searched.
    Searching,
    /// The round is over and its record waits to be handed over.
    Delivering,
}

/// One job in flight.
struct Table {
    state: State,
    search: Search,
    round: Round,
    standing: Standing,
    /// Number of the round within the run.
    number: u64,
    /// The run's network that plays it.
    network: u32,
    /// Rounds of the job after this one.
    rounds_left: u64,
    decision: u64,
    /// Moves made since they were last counted.
    moves: u64,
    /// When the search began.
    searching_since_ns: u64,
    /// Evaluations of the round so far.
    round_evaluations: u64,
    record: RoundRecord,
}

/// What all tables share.
struct Shared {
    settings: Settings,
    sampler: WorldSampler,
}

impl Table {
    fn new(settings: &Settings) -> Result<Table, SelfplayError> {
        Ok(Table {
            state: State::Free,
            search: Search::new(settings.search(), settings.max_legal()),
            round: deal(settings, 0)?,
            standing: Standing::default(),
            number: 0,
            network: 0,
            rounds_left: 0,
            decision: 0,
            moves: 0,
            searching_since_ns: 0,
            round_evaluations: 0,
            record: RoundRecord::new(),
        })
    }

    fn begin_job(&mut self, shared: &mut Shared, job: Job) -> Result<(), SelfplayError> {
        let settings = &shared.settings;
        self.network = job.network as u32;
        let (job, jobs) = (job.number, settings.jobs());
        if job >= jobs {
            return Err(SelfplayError::StrayJob { job, jobs });
        }
        self.number = job * settings.rounds_per_job();
        self.rounds_left = settings.rounds_per_job() - 1;
        self.standing = Standing::default();
        if settings.games > 0 {
            self.standing.rounds_total = settings.rounds_per_job() as u8;
            self.standing.first_cards = settings.cards as u8;
        }
        self.begin_round(shared)
    }

    fn begin_round(&mut self, shared: &mut Shared) -> Result<(), SelfplayError> {
        let settings = &shared.settings;
        self.round = deal(settings, self.number)?;
        self.decision = 0;
        self.round_evaluations = 0;
        let game = (settings.games > 0).then(|| GamePlace {
            number: self.number / settings.rounds_per_job(),
            standing: self.standing,
        });
        self.record
            .begin(self.number, settings.seed, self.network, game, &self.round);
        self.go_on(shared);
        Ok(())
    }

    /// Plays forced moves up to the next decision, or to the end of the round.
    fn go_on(&mut self, shared: &mut Shared) {
        while self.round.legal().count_ones() == 1 {
            self.act(self.round.legal().trailing_zeros() as u8);
        }
        if self.round.phase() == Phase::Over {
            self.state = State::Delivering;
            return;
        }
        self.search.start(
            &mut shared.sampler,
            &self.round,
            &self.standing,
            shared.settings.seed,
            self.number,
            self.decision,
        );
        self.decision += 1;
        self.searching_since_ns = now_ns();
        self.state = State::Searching;
    }

    fn act(&mut self, action: u8) {
        self.moves += 1;
        self.record.action(action);
        self.round.play(action);
    }

    /// Takes the searched decision.
    fn decide(&mut self, shared: &mut Shared) {
        let settings = &shared.settings;
        let (visits, count) = self.search.visits();
        let values = self.search.values();
        self.record
            .decision(&visits[..count], &values[..self.round.players()]);
        let temperature = temperature(&settings.search, &self.round);
        let mut rng = stream(
            settings.seed,
            Use::Choice,
            self.number,
            self.decision - 1,
            0,
        );
        let nth = choose(&visits[..count], temperature, rng.random());
        let Some(action) = nth_action(self.round.legal(), nth) else {
            unreachable!("a visit for each legal action");
        };
        self.act(action);
        self.go_on(shared);
    }

    /// After a round has been handed over: the next one of the job, or none.
    fn finish_round(&mut self, shared: &mut Shared) -> Result<(), SelfplayError> {
        if self.rounds_left == 0 {
            self.state = State::Free;
            return Ok(());
        }
        for (total, score) in self.standing.totals.iter_mut().zip(self.round.scores()) {
            *total += u16::from(score);
        }
        self.standing.rounds_done += 1;
        self.rounds_left -= 1;
        self.number += 1;
        self.begin_round(shared)
    }
}

/// Deals round `number` of a run, a function of the settings and the number alone.
///
/// # Errors
/// When the settings name a table that cannot be laid (`Settings::check` refuses those).
pub fn deal(settings: &Settings, number: u64) -> Result<Round, SelfplayError> {
    let (players, cards, dealer, turn) = settings.table(number);
    let mut rng = stream(settings.seed, Use::Deal, number, 0, 0);
    let round = Round::deal(players, cards, turn, dealer, settings.rules, &mut rng)?;
    Ok(round)
}

/// Temperature of a choice: `start` while bidding, falling evenly to `end` in the last trick.
fn temperature(tuning: &Tuning, round: &Round) -> f32 {
    let (start, end) = (tuning.temperature_start, tuning.temperature_end);
    if round.phase() == Phase::Bidding || round.cards() < 2 {
        return start;
    }
    let progress = round.tricks_done() as f32 / (round.cards() - 1) as f32;
    start + (end - start) * progress
}

/// Draws an action in proportion to visits^(1 / temperature); the most visited one (the lowest among
/// equals) at temperature 0. `draw` is uniform in [0, 1).
fn choose(visits: &[u32], temperature: f32, draw: f64) -> usize {
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

/// Many jobs in flight. All memory is allocated by `new`.
pub struct Tables {
    shared: Shared,
    tables: Vec<Table>,
    /// Tables that can go on, in the order in which they became able to.
    ready: VecDeque<u32>,
    /// Tables that found no job or no room in the port.
    blocked: VecDeque<u32>,
    /// Is this table in one of the two?
    is_ready: Vec<bool>,
    playing: usize,
    counts: Counts,
    latency: Histogram,
}

impl Tables {
    /// Room for `settings.in_flight` jobs (no more than the run has).
    ///
    /// # Errors
    /// When the settings name a table that cannot be laid.
    pub fn new(settings: &Settings) -> Result<Tables, SelfplayError> {
        let count = (settings.in_flight as u64).min(settings.jobs()) as usize;
        Ok(Tables {
            tables: (0..count)
                .map(|_| Table::new(settings))
                .collect::<Result<_, _>>()?,
            ready: (0..count as u32).collect(),
            blocked: VecDeque::with_capacity(count),
            is_ready: vec![true; count],
            shared: Shared {
                settings: settings.clone(),
                sampler: WorldSampler::default(),
            },
            playing: 0,
            counts: Counts::default(),
            latency: Histogram::default(),
        })
    }

    /// Jobs under way.
    pub fn playing(&self) -> usize {
        self.playing
    }

    /// Rounds handed over so far.
    pub fn rounds(&self) -> u64 {
        self.counts.rounds
    }

    /// What the searches did so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How long the searches of decisions took, from the first leaf to the last answer.
    pub fn latency(&self) -> &Histogram {
        &self.latency
    }

    /// Takes in a reply; the table it is for becomes ready.
    ///
    /// # Errors
    /// A ticket that nothing waits for.
    pub fn apply(&mut self, reply: &Reply) -> Result<(), SelfplayError> {
        let (table, entry) = place_of(reply.ticket);
        let stray = || SelfplayError::StrayReply(reply.ticket);
        let waiting = self.tables.get_mut(table).ok_or_else(stray)?;
        if waiting.state != State::Searching || !waiting.search.apply(entry, &reply.evaluation) {
            return Err(stray());
        }
        if !self.is_ready[table] {
            self.is_ready[table] = true;
            self.ready.push_back(table as u32);
        }
        Ok(())
    }

    /// Lets every ready table go on as far as it can.
    ///
    /// # Errors
    /// The port's, and broken invariants.
    pub fn step<P: Port>(&mut self, port: &mut P) -> Result<(), P::Error> {
        while let Some(table) = self.ready.pop_front() {
            if self.advance(table as usize, port)? {
                self.is_ready[table as usize] = false;
            } else {
                self.blocked.push_back(table);
            }
        }
        Ok(())
    }

    /// Makes the tables that found no job or no room ready again, to try once more.
    pub fn unblock(&mut self) {
        self.ready.append(&mut self.blocked);
    }

    /// Whatever was sent may be lost: every table sends again what is not answered.
    pub fn resend(&mut self) {
        self.unblock();
        for (index, table) in self.tables.iter_mut().enumerate() {
            if table.state == State::Searching {
                table.search.resend();
                if !self.is_ready[index] {
                    self.is_ready[index] = true;
                    self.ready.push_back(index as u32);
                }
            }
        }
    }

    /// Does any table wait for a job or for room in the port?
    pub fn is_blocked(&self) -> bool {
        !self.blocked.is_empty()
    }

    /// True when the table waits for replies; false when it waits for a job or for room.
    fn advance<P: Port>(&mut self, index: usize, port: &mut P) -> Result<bool, P::Error> {
        let table = &mut self.tables[index];
        loop {
            match table.state {
                State::Free => {
                    let Some(job) = port.next_job()? else {
                        return Ok(false);
                    };
                    table.begin_job(&mut self.shared, job)?;
                    self.playing += 1;
                }
                State::Searching => {
                    table.search.gather();
                    port.selected();
                    while let Some((entry, &position)) = table.search.request() {
                        let ticket = ticket(table.network, index, entry);
                        if !port.send(&Request { ticket, position })? {
                            return Ok(false);
                        }
                        table.search.sent();
                    }
                    if !table.search.is_done() {
                        return Ok(true);
                    }
                    let counts = table.search.take_counts();
                    table.round_evaluations += counts.evaluations;
                    self.counts += counts;
                    self.counts.moves += std::mem::take(&mut table.moves);
                    let took_ns = now_ns().saturating_sub(table.searching_since_ns);
                    self.latency.record(took_ns / 1000);
                    table.decide(&mut self.shared);
                }
                State::Delivering => {
                    if !port.deliver(&table.record)? {
                        return Ok(false);
                    }
                    self.counts.rounds += 1;
                    self.counts.round_evaluations += table.round_evaluations;
                    self.counts.moves += std::mem::take(&mut table.moves);
                    table.finish_round(&mut self.shared)?;
                    self.playing -= usize::from(table.state == State::Free);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperature_falls_from_trick_to_trick() {
        let tuning = Tuning {
            temperature_start: 1.0,
            temperature_end: 0.0,
            ..Tuning::default()
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
