//! Jobs in flight: a `JobInFlight` plays one job (an independent round, or all rounds of a game) as
//! a state machine; `JobsInFlight` multiplexes many, which is where batches of hundreds come from
//! with one leaf per tree. Where leaves and finished rounds go, where jobs come from and finished
//! decisions are journaled is up to the `JobPort`: shared memory in a worker process, plain queues
//! when everything runs in one process.

mod choice;
mod job;
mod jobs;
mod journal;
mod stats;

pub use jobs::JobsInFlight;
pub use journal::{DecisionJournal, journal_room};
pub use stats::PlayStats;

use crate::fault::Fault;
use crate::game::Round;
use crate::random::{Use, stream};
use crate::replay::RoundRecord;
use crate::settings::Settings;
use crate::wire::Request;
use bytemuck::{Pod, Zeroable};

/// What is handed out: a round, or all rounds of a game.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Job {
    /// Number in the run, from 0.
    pub number: u64,
    /// The run's network that plays it, all of it.
    pub network: u32,
    /// The journal's entry for it, where a predecessor may have written. Its holder's alone.
    pub entry: u32,
}

/// Where jobs in flight get jobs, send leaves, deliver rounds and journal decisions. Nothing here
/// may block: full and empty are return values.
pub trait JobPort {
    /// What can break.
    type Error: From<Fault>;

    /// The next job, if there is one now.
    fn next_job(&mut self) -> Result<Option<Job>, Self::Error>;

    /// Sends a leaf to the network; false if there is no room now.
    fn send(&mut self, request: &Request) -> Result<bool, Self::Error>;

    /// Hands over a finished round; false if there is no room now.
    fn deliver(&mut self, record: &RoundRecord) -> Result<bool, Self::Error>;

    /// A search has selected leaves, which will now be sent; for those who take stamps.
    #[inline(always)]
    fn selected(&mut self) {}

    /// What a predecessor has journaled of a job; nothing where there is no journal.
    fn journaled(&mut self, _job: &Job) -> &[u64] {
        &[]
    }

    /// Journals `words` instead of what `entry` holds: a round begins.
    fn journal_round(&mut self, _entry: u32, _words: &[u64]) {}

    /// Journals `words` after what `entry` holds: a decision is finished.
    fn journal_decision(&mut self, _entry: u32, _words: &[u64]) {}
}

/// Deals round `number` of a run, a function of the settings and the number alone.
///
/// # Errors
/// When the settings name a table that cannot be dealt (`Settings::check` refuses those).
pub fn deal(settings: &Settings, number: u64) -> Result<Round, Fault> {
    let mut rng = stream(settings.seed, Use::Deal, number, 0, 0);
    Round::deal(settings.table(number), settings.rules, &mut rng)
}
