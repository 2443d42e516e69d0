//! One job in flight: its rounds from the deal to the scores, decision by decision, taken up where
//! a predecessor left it.

use super::choice::{choose, temperature};
use super::journal::{RoundHead, encode, next_decision};
use super::{Job, JobPort, deal};
use crate::fault::Fault;
use crate::game::{MAX_PLAYERS, Phase, Round, Schedule, Standing, bits};
use crate::latency::now_ns;
use crate::random::{Use, stream};
use crate::replay::{GamePlace, RoundRecord, SearchKind};
use crate::search::{Search, SearchResult, WorldSampler};
use crate::settings::Settings;
use bytemuck::Zeroable;
use rand::RngExt;

/// What is being done about the job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// No job.
    Free,
    /// A decision is being searched.
    Searching,
    /// The round is over and its record waits to be handed over.
    Delivering,
}

/// One job in flight.
pub(super) struct JobInFlight {
    pub state: State,
    pub search: Search,
    /// When the search began.
    pub searching_since_ns: u64,
    pub record: RoundRecord,
    /// Evaluations of the round so far, those of predecessors among them.
    pub round_evaluations: u64,
    /// Moves made since they were last counted.
    pub moves: u64,
    pub job: Job,
    round: Round,
    standing: Standing,
    /// Number of the round within the run.
    number: u64,
    /// Rounds of the job after this one.
    rounds_left: u64,
    /// Decisions of the round that are finished.
    decisions: u64,
}

/// What all jobs in flight share.
pub(super) struct JobContext {
    pub settings: Settings,
    pub sampler: WorldSampler,
}

impl JobInFlight {
    pub fn new(settings: &Settings) -> Result<JobInFlight, Fault> {
        Ok(JobInFlight {
            state: State::Free,
            search: Search::new(settings.search(), settings.max_legal()),
            searching_since_ns: 0,
            record: RoundRecord::new(),
            round_evaluations: 0,
            moves: 0,
            job: Job::zeroed(),
            round: deal(settings, 0)?,
            standing: Standing::default(),
            number: 0,
            rounds_left: 0,
            decisions: 0,
        })
    }

    /// Begins a job, or goes on with it where a predecessor was: is it that?
    pub fn begin<P: JobPort>(
        &mut self,
        shared: &mut JobContext,
        job: Job,
        port: &mut P,
    ) -> Result<bool, P::Error> {
        let jobs = shared.settings.jobs();
        if job.number >= jobs {
            let what = format!("job {} was handed out, the run has {jobs}", job.number);
            return Err(Fault::new(what, "").into());
        }
        self.job = job;
        let is_taken_up = self.take_up(&shared.settings, port.journaled(&job))?;
        // The predecessor has counted these moves.
        self.moves = 0;
        if is_taken_up {
            self.start_next_decision(shared);
            return Ok(true);
        }
        self.place(&shared.settings, 0, Standing::default().totals);
        self.begin_round(shared, port)?;
        Ok(false)
    }

    /// Goes to round number `nth` of the job, with these points before it.
    fn place(&mut self, settings: &Settings, nth: u64, totals: [u16; MAX_PLAYERS]) {
        let per_job = settings.rounds_per_job();
        self.number = self.job.number * per_job + nth;
        self.rounds_left = per_job - 1 - nth;
        self.standing = Standing::default();
        if settings.games > 0 {
            let schedule = Schedule::Blob(settings.cards as u8);
            self.standing = schedule.standing(settings.players, totals, nth as usize);
        }
    }

    /// Makes the decisions that a predecessor has written. False if that is nothing, or not of this
    /// job: then it begins anew.
    fn take_up(&mut self, settings: &Settings, words: &[u64]) -> Result<bool, Fault> {
        let Some((head, mut decisions)) = RoundHead::of(words) else {
            return Ok(false);
        };
        let per_job = settings.rounds_per_job();
        let nth = head.round.wrapping_sub(self.job.number * per_job);
        if nth >= per_job || head.network != u64::from(self.job.network) {
            return Ok(false);
        }
        self.place(settings, nth, head.totals);
        self.deal(settings)?;
        let has_own_policy = settings.search().has_own_policy();
        while !decisions.is_empty() {
            self.play_forced();
            let (legal, players) = (self.round.legal().count_ones(), self.round.players());
            match next_decision(&mut decisions, legal as usize, players, has_own_policy) {
                Some((evaluations, result)) if legal > 1 => {
                    self.decide(settings, evaluations, &result);
                }
                // Too short, or longer than the round.
                _ => return Ok(false),
            }
        }
        self.play_forced();
        Ok(true)
    }

    fn begin_round<P: JobPort>(
        &mut self,
        shared: &mut JobContext,
        port: &mut P,
    ) -> Result<(), P::Error> {
        self.deal(&shared.settings)?;
        let head = RoundHead {
            round: self.number,
            network: self.job.network.into(),
            totals: self.standing.totals,
        };
        port.journal_round(self.job.entry, head.words());
        self.start_next_decision(shared);
        Ok(())
    }

    /// Deals the round and begins its record.
    fn deal(&mut self, settings: &Settings) -> Result<(), Fault> {
        self.round = deal(settings, self.number)?;
        self.decisions = 0;
        self.round_evaluations = 0;
        let game = (settings.games > 0).then_some(GamePlace {
            number: self.job.number,
            standing: self.standing,
        });
        self.record.begin(
            self.number,
            settings.seed,
            self.job.network,
            game,
            &self.round,
        );
        Ok(())
    }

    fn play_forced(&mut self) {
        while self.round.legal().count_ones() == 1 {
            self.act(self.round.legal().trailing_zeros() as u8);
        }
    }

    /// Plays forced moves up to the next decision, or to the end of the round.
    fn start_next_decision(&mut self, shared: &mut JobContext) {
        self.play_forced();
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
            self.decisions,
        );
        self.searching_since_ns = now_ns();
        self.state = State::Searching;
    }

    fn act(&mut self, action: u8) {
        self.moves += 1;
        self.record.action(action);
        self.round.play(action);
    }

    /// Journals and makes the decision that has been searched with so many evaluations, and goes
    /// on.
    pub fn finish_search<P: JobPort>(
        &mut self,
        shared: &mut JobContext,
        evaluations: u64,
        port: &mut P,
    ) {
        let result = self.search.result();
        let entry = self.job.entry;
        encode(evaluations, &result, |words| {
            port.journal_decision(entry, words)
        });
        self.decide(&shared.settings, evaluations, &result);
        self.start_next_decision(shared);
    }

    /// Chooses by what the search found.
    fn decide(&mut self, settings: &Settings, evaluations: u64, result: &SearchResult) {
        self.round_evaluations = self.round_evaluations.saturating_add(evaluations);
        let (kind, policy) = match result.own_policy() {
            Some(policy) => (SearchKind::FullWithPolicy, policy),
            None => (SearchKind::Full, &[][..]),
        };
        self.record
            .searched(kind, result.counts(), result.values(), policy);
        let temperature = temperature(&settings.search, &self.round);
        let (seed, number) = (settings.seed, self.number);
        let mut rng = stream(seed, Use::Choice, number, self.decisions, 0);
        let nth = choose(result.counts(), temperature, rng.random());
        let Some(action) = bits(self.round.legal()).nth(nth) else {
            unreachable!("a visit for each legal action");
        };
        self.decisions += 1;
        self.act(action);
    }

    /// After a round has been handed over: the next one of the job, or none.
    pub fn finish_round<P: JobPort>(
        &mut self,
        shared: &mut JobContext,
        port: &mut P,
    ) -> Result<(), P::Error> {
        if self.rounds_left == 0 {
            self.state = State::Free;
            return Ok(());
        }
        let mut totals = self.standing.totals;
        for (total, score) in totals.iter_mut().zip(self.round.scores()) {
            *total += u16::from(score);
        }
        let nth = u64::from(self.standing.rounds_done) + 1;
        self.place(&shared.settings, nth, totals);
        self.begin_round(shared, port)
    }
}
