//! One worker's whole path over a stub network, for counting instructions under callgrind: reply
//! out of its ring, apply, select, observe, dedupe, request into its ring, worlds, choices, what is
//! kept of them, records. Only `worker_pass` is to be collected: the stub, the other ends of the
//! rings and the set-up lie outside it. Not in the count, because they need other processes:
//! doorbells and the store of the counters, both once per pass. `scripts/instructions.sh` runs it;
//! alone it plays and prints what it did. `worker_path PLAYERS CARDS WORLDS SIMULATIONS LEAVES
//! ROUNDS`

use std::process::ExitCode;

use bytemuck::Zeroable;
use ringmaster::engine::RunError;
use ringmaster::engine::regions::RecordSlot;
use ringmaster::play::{DecisionJournal, Job, JobPort, JobsInFlight, journal_room};
use ringmaster::replay::RoundRecord;
use ringmaster::settings::Settings;
use ringmaster::shm::{
    Consumer, HeapWords, Journal, Producer, PushError, journal_entry_words, ring_on_heap,
};
use ringmaster::wire::{Reply, Request};

#[path = "../tests/support/mod.rs"]
mod support;

/// As in a worker.
const REPLIES_PER_PASS: usize = 64;
/// Rounds in flight: enough that a pass serves many jobs, few enough that most rounds are played
/// with all jobs in flight.
const IN_FLIGHT: usize = 32;
/// Finished rounds that may wait, as in the layout of a run.
const RECORD_ROOM: usize = 16;

/// The worker's ends of its rings.
struct RingPort {
    requests: Producer<Request, HeapWords>,
    jobs: Consumer<Job, HeapWords>,
    records: Producer<RecordSlot, HeapWords>,
    slot: Box<RecordSlot>,
    journal: DecisionJournal<HeapWords>,
}

fn accepted(pushed: Result<(), PushError>) -> Result<bool, RunError> {
    match pushed {
        Ok(()) => Ok(true),
        Err(PushError::Full) => Ok(false),
        Err(PushError::Corrupt(corrupt)) => Err(corrupt.into()),
    }
}

impl JobPort for RingPort {
    type Error = RunError;

    fn next_job(&mut self) -> Result<Option<Job>, RunError> {
        Ok(self.jobs.pop()?)
    }

    fn send(&mut self, request: &Request) -> Result<bool, RunError> {
        accepted(self.requests.push(request))
    }

    fn journaled(&mut self, job: &Job) -> &[u64] {
        self.journal.read(job)
    }

    fn journal_round(&mut self, entry: u32, words: &[u64]) {
        self.journal.begin_round(entry, words);
    }

    fn journal_decision(&mut self, entry: u32, words: &[u64]) {
        self.journal.add_decision(entry, words);
    }

    fn deliver(&mut self, record: &RoundRecord) -> Result<bool, RunError> {
        self.slot.length = record.encode_into(&mut self.slot.bytes)? as u64;
        accepted(self.records.push(&self.slot))
    }
}

/// A worker: what `worker_pass` may touch.
struct Worker {
    jobs: JobsInFlight,
    replies: Consumer<Reply, HeapWords>,
    port: RingPort,
}

/// The other ends of its rings.
struct World {
    requests: Consumer<Request, HeapWords>,
    replies: Producer<Reply, HeapWords>,
    jobs: Producer<Job, HeapWords>,
    records: Consumer<RecordSlot, HeapWords>,
    next_job: u64,
    end_job: u64,
    rounds: u64,
}

/// One turn of the worker's loop; the only code whose instructions are counted. The name is the
/// script's, too.
#[inline(never)]
fn worker_pass(worker: &mut Worker) -> Result<(), RunError> {
    let mut taken = 0;
    while taken < REPLIES_PER_PASS
        && let Some(reply) = worker.replies.pop()?
    {
        worker.jobs.apply(&reply)?;
        taken += 1;
    }
    if worker.jobs.is_blocked() {
        worker.jobs.unblock();
    }
    worker.jobs.step(&mut worker.port)
}

impl World {
    /// Answers every request, hands out jobs, takes in finished rounds.
    fn turn(&mut self) -> Result<(), RunError> {
        while let Some(request) = self.requests.pop()? {
            let reply = Reply {
                ticket: request.ticket,
                evaluation: support::scrambled(&request.position),
            };
            assert!(
                self.replies.push(&reply).is_ok(),
                "a reply for each request"
            );
        }
        while self.next_job < self.end_job
            && self
                .jobs
                .push(&Job {
                    number: self.next_job,
                    network: 0,
                    entry: self.next_job as u32,
                })
                .is_ok()
        {
            self.next_job += 1;
        }
        while let Some(slot) = self.records.pop()? {
            // What was played must be a round: a figure for a broken path would be worth nothing.
            RoundRecord::decode(&slot.bytes[..slot.length as usize])?.replay()?;
            self.rounds += 1;
        }
        Ok(())
    }
}

fn lay(settings: &Settings) -> Result<(Worker, World), RunError> {
    let leaves = settings.leaf_room();
    let (request_in, request_out) = ring_on_heap(leaves);
    let (reply_in, reply_out) = ring_on_heap(leaves);
    let (job_in, job_out) = ring_on_heap(IN_FLIGHT.next_power_of_two());
    let (record_in, record_out) = ring_on_heap(RECORD_ROOM);
    // An entry for each job, since nobody gives them out again here.
    let (entries, room) = (settings.jobs() as usize, journal_room(settings));
    let words = HeapWords::zeroed(entries * journal_entry_words(room, 1));
    let worker = Worker {
        jobs: JobsInFlight::new(settings)?,
        replies: reply_out,
        port: RingPort {
            requests: request_in,
            jobs: job_out,
            records: record_in,
            slot: Box::new(RecordSlot::zeroed()),
            journal: DecisionJournal::new(Journal::new(words, entries, room, 1)),
        },
    };
    let world = World {
        requests: request_out,
        replies: reply_in,
        jobs: job_in,
        records: record_out,
        next_job: 0,
        end_job: settings.jobs(),
        rounds: 0,
    };
    Ok((worker, world))
}

fn main() -> ExitCode {
    let given: Vec<usize> = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let of = |place: usize, default: usize| given.get(place).copied().unwrap_or(default);
    let settings = Settings {
        players: of(0, 4),
        cards: of(1, 5),
        worlds: of(2, 3),
        simulations: of(3, 30),
        leaves: of(4, 1),
        rounds: Some(of(5, 64) as u64),
        in_flight: IN_FLIGHT,
        workers: 1,
        ..Settings::default()
    };
    if let Err(error) = settings.check() {
        eprintln!("worker_path: {error}");
        return ExitCode::from(2);
    }
    match play(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("worker_path: {error}");
            ExitCode::FAILURE
        }
    }
}

fn play(settings: &Settings) -> Result<(), RunError> {
    let (mut worker, mut world) = lay(settings)?;
    let mut passes = 0_u64;
    while world.rounds < settings.jobs() {
        world.turn()?;
        worker_pass(&mut worker)?;
        passes += 1;
    }
    let counts = worker.jobs.stats().search;
    println!(
        "rounds {} decisions {} simulations {} evaluations {} cache_hits {} \
         terminal_leaves {} depth_sum {} passes {passes}",
        world.rounds,
        counts.decisions,
        counts.simulations,
        counts.evaluations,
        counts.cache_hits,
        counts.terminal_leaves,
        counts.depth_sum
    );
    Ok(())
}
