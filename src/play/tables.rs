//! Many tables played in turns, each as far as the answers that are there let it.

use super::Port;
use super::in_flight::{InFlight, Shared, State};
use crate::fault::Fault;
use crate::latency::{Histogram, now_ns};
use crate::search::{Counts, WorldSampler};
use crate::settings::Settings;
use crate::wire::{Reply, Request, place_of, ticket};
use std::collections::VecDeque;

/// Many jobs in flight. All memory is allocated by `new`.
pub struct Tables {
    shared: Shared,
    tables: Vec<InFlight>,
    /// Tables that can go on, in the order in which they became able to.
    ready: VecDeque<u32>,
    /// Tables that found no job or no room in the port.
    blocked: VecDeque<u32>,
    /// Is this table in one of the two?
    is_ready: Vec<bool>,
    playing: usize,
    /// Most jobs that may be under way now; see `begin_gently`.
    admitted: usize,
    counts: Counts,
    latency: Histogram,
}

/// After a death one table in so many plays at first.
const GENTLY: usize = 8;

impl Tables {
    /// Room for `settings.in_flight` jobs (no more than the run has).
    ///
    /// # Errors
    /// When the settings name a table that cannot be laid.
    pub fn new(settings: &Settings) -> Result<Tables, Fault> {
        let count = (settings.in_flight as u64).min(settings.jobs()) as usize;
        Ok(Tables {
            tables: (0..count)
                .map(|_| InFlight::new(settings))
                .collect::<Result<_, _>>()?,
            ready: (0..count as u32).collect(),
            blocked: VecDeque::with_capacity(count),
            is_ready: vec![true; count],
            shared: Shared {
                settings: settings.clone(),
                sampler: WorldSampler::default(),
            },
            playing: 0,
            admitted: count,
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
    pub fn apply(&mut self, reply: &Reply) -> Result<(), Fault> {
        let (table, entry) = place_of(reply.ticket);
        let stray = || {
            let what = format!(
                "a reply with ticket {:#x} came that nothing waits for",
                reply.ticket
            );
            Fault::new(what, "")
        };
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

    /// Has few jobs under way at first, and one more with every decision that is finished: the
    /// fewer share the network, the sooner each of them is. Where processes die again and
    /// again, that is what gets on at all; elsewhere batches are full again after a second.
    fn begin_gently(&mut self) {
        self.admitted = self.tables.len().div_ceil(GENTLY);
    }

    /// True when the table waits for replies; false when it waits for a job, for its turn to begin
    /// one, or for room.
    fn advance<P: Port>(&mut self, index: usize, port: &mut P) -> Result<bool, P::Error> {
        loop {
            let table = &mut self.tables[index];
            match table.state {
                State::Free => {
                    if self.playing >= self.admitted {
                        return Ok(false);
                    }
                    let Some(job) = port.next_job()? else {
                        return Ok(false);
                    };
                    let is_taken_over = table.begin_job(&mut self.shared, job, port)?;
                    if is_taken_over && self.playing == 0 && self.counts == Counts::default() {
                        self.begin_gently();
                    }
                    self.playing += 1;
                }
                State::Searching => {
                    table.search.gather();
                    port.selected();
                    while let Some((entry, &position)) = table.search.request() {
                        let ticket = ticket(table.job.network, index, entry);
                        if !port.send(&Request { ticket, position })? {
                            return Ok(false);
                        }
                        table.search.sent();
                    }
                    if !table.search.is_done() {
                        return Ok(true);
                    }
                    let counts = table.search.take_counts();
                    self.counts += counts;
                    let took_ns = now_ns().saturating_sub(table.searching_since_ns);
                    self.latency.record(took_ns / 1000);
                    table.finish_search(&mut self.shared, counts.evaluations, port);
                    // After a decision, never before the first: who dies before finishing any has
                    // moved nothing on.
                    self.counts.moves += std::mem::take(&mut table.moves);
                    if self.admitted < self.tables.len() {
                        self.admitted += 1;
                        self.unblock();
                    }
                }
                State::Delivering => {
                    if !port.deliver(&table.record)? {
                        return Ok(false);
                    }
                    self.counts.rounds += 1;
                    self.counts.round_evaluations += table.round_evaluations;
                    self.counts.moves += std::mem::take(&mut table.moves);
                    table.finish_round(&mut self.shared, port)?;
                    self.playing -= usize::from(table.state == State::Free);
                }
            }
        }
    }
}
