//! Many jobs played in turns, each as far as the answers that are there let it.

use super::job::{JobContext, JobInFlight, State};
use super::{JobPort, PlayStats};
use crate::fault::Fault;
use crate::latency::{Histogram, now_ns};
use crate::search::WorldSampler;
use crate::settings::Settings;
use crate::wire::{Reply, Request, job_and_entry_of, ticket};
use std::collections::VecDeque;

/// Many jobs in flight. All memory is allocated by `new`.
pub struct JobsInFlight {
    shared: JobContext,
    jobs: Vec<JobInFlight>,
    /// Jobs that can go on, in the order in which they became able to; by place in `jobs`.
    ready: VecDeque<u32>,
    /// Places that found no job to begin, or no room in the port.
    blocked: VecDeque<u32>,
    /// Is this place in one of the two?
    is_ready: Vec<bool>,
    playing: usize,
    /// Most jobs that may be under way now; see `start_slowly`.
    admitted: usize,
    stats: PlayStats,
    latency: Histogram,
}

/// After a death one place in so many is used at first.
const SLOW_START: usize = 8;

impl JobsInFlight {
    /// Room for `settings.in_flight` jobs (no more than the run has).
    ///
    /// # Errors
    /// When the settings name a table that cannot be dealt.
    pub fn new(settings: &Settings) -> Result<JobsInFlight, Fault> {
        let count = (settings.in_flight as u64).min(settings.jobs()) as usize;
        Ok(JobsInFlight {
            jobs: (0..count)
                .map(|_| JobInFlight::new(settings))
                .collect::<Result<_, _>>()?,
            ready: (0..count as u32).collect(),
            blocked: VecDeque::with_capacity(count),
            is_ready: vec![true; count],
            shared: JobContext {
                settings: settings.clone(),
                sampler: WorldSampler::default(),
            },
            playing: 0,
            admitted: count,
            stats: PlayStats::default(),
            latency: Histogram::default(),
        })
    }

    /// Jobs under way.
    pub fn playing(&self) -> usize {
        self.playing
    }

    /// What was played so far.
    pub fn stats(&self) -> PlayStats {
        self.stats
    }

    /// How long the searches of decisions took, from the first leaf to the last answer.
    pub fn latency(&self) -> &Histogram {
        &self.latency
    }

    /// Takes in a reply; the job it is for becomes ready.
    ///
    /// # Errors
    /// A ticket that nothing waits for.
    pub fn apply(&mut self, reply: &Reply) -> Result<(), Fault> {
        let (place, entry) = job_and_entry_of(reply.ticket);
        let stray = || {
            let ticket = reply.ticket;
            Fault::new(
                format!("a reply with ticket {ticket:#x} came that nothing waits for"),
                "",
            )
        };
        let waiting = self.jobs.get_mut(place).ok_or_else(stray)?;
        if waiting.state != State::Searching || !waiting.search.apply(entry, &reply.evaluation) {
            return Err(stray());
        }
        self.make_ready(place);
        Ok(())
    }

    fn make_ready(&mut self, place: usize) {
        if !self.is_ready[place] {
            self.is_ready[place] = true;
            self.ready.push_back(place as u32);
        }
    }

    /// Lets every ready job go on as far as it can.
    ///
    /// # Errors
    /// The port's, and broken invariants.
    pub fn step<P: JobPort>(&mut self, port: &mut P) -> Result<(), P::Error> {
        while let Some(place) = self.ready.pop_front() {
            if self.advance(place as usize, port)? {
                self.is_ready[place as usize] = false;
            } else {
                self.blocked.push_back(place);
            }
        }
        Ok(())
    }

    /// Makes the places that found no job or no room ready again, to try once more.
    pub fn unblock(&mut self) {
        self.ready.append(&mut self.blocked);
    }

    /// Whatever was sent may be lost: every job sends again what is not answered.
    pub fn resend(&mut self) {
        self.unblock();
        for place in 0..self.jobs.len() {
            if self.jobs[place].state == State::Searching {
                self.jobs[place].search.resend();
                self.make_ready(place);
            }
        }
    }

    /// Does any place wait for a job or for room in the port?
    pub fn is_blocked(&self) -> bool {
        !self.blocked.is_empty()
    }

    /// Has few jobs under way at first, and one more with every decision that is finished: the
    /// fewer share the network, the sooner each of them is. Where processes die again and
    /// again, that is what gets on at all; elsewhere batches are full again after a second.
    fn start_slowly(&mut self) {
        self.admitted = self.jobs.len().div_ceil(SLOW_START);
    }

    /// True when the job waits for replies; false when the place waits for a job, for its turn to
    /// begin one, or for room.
    fn advance<P: JobPort>(&mut self, place: usize, port: &mut P) -> Result<bool, P::Error> {
        loop {
            let job = &mut self.jobs[place];
            match job.state {
                State::Free => {
                    if self.playing >= self.admitted {
                        return Ok(false);
                    }
                    let Some(next) = port.next_job()? else {
                        return Ok(false);
                    };
                    let is_taken_over = job.begin(&mut self.shared, next, port)?;
                    if is_taken_over && self.playing == 0 && self.stats == PlayStats::default() {
                        self.start_slowly();
                    }
                    self.playing += 1;
                }
                State::Searching => {
                    job.search.gather();
                    port.selected();
                    while let Some((entry, &position)) = job.search.request() {
                        let ticket = ticket(job.job.network, place, entry);
                        if !port.send(&Request { ticket, position })? {
                            return Ok(false);
                        }
                        job.search.sent();
                    }
                    if !job.search.is_done() {
                        return Ok(true);
                    }
                    let stats = job.search.take_stats();
                    self.stats.search += stats;
                    let took_ns = now_ns().saturating_sub(job.searching_since_ns);
                    self.latency.record(took_ns / 1000);
                    job.finish_search(&mut self.shared, stats.evaluations, port);
                    // After a decision, never before the first: a worker that dies before finishing
                    // any has made no progress.
                    self.stats.moves += std::mem::take(&mut job.moves);
                    if self.admitted < self.jobs.len() {
                        self.admitted += 1;
                        self.unblock();
                    }
                }
                State::Delivering => {
                    if !port.deliver(&job.record)? {
                        return Ok(false);
                    }
                    self.stats.rounds += 1;
                    self.stats.round_evaluations += job.round_evaluations;
                    self.stats.moves += std::mem::take(&mut job.moves);
                    job.finish_round(&mut self.shared, port)?;
                    self.playing -= usize::from(job.state == State::Free);
                }
            }
        }
    }
}
