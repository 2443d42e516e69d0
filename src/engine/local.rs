//! Everything in one process, without shared memory (`--workers 0`): the fallback where there is
//! none, and the sequential baseline. The same play and the same network as the many-process
//! engine.

use super::error::RunError;
use super::evaluator::{Batcher, Finished, QueuePort};
use super::networks;
use super::progress::Gauge;
use super::report::{CpuSeconds, Evaluated, Report, Tally};
use super::run::Run;
use super::starting_weights::{Start, StartingWeights};
use crate::network;
use crate::play::{Job, JobPort, JobsInFlight};
use crate::replay::{MAX_RECORD_BYTES, RoundRecord};
use crate::settings::Settings;
use crate::shm::liveness;
use crate::wire::Request;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

struct LocalPort {
    run: Run,
    queue: QueuePort,
    batcher: Batcher,
    evaluated: Evaluated,
    bytes: Box<[u8; MAX_RECORD_BYTES]>,
}

impl JobPort for LocalPort {
    type Error = RunError;

    fn next_job(&mut self) -> Result<Option<Job>, RunError> {
        let number = self.run.next_job();
        // Nothing is kept: who could take it up dies with this process.
        Ok(number.map(|number| self.run.job(number, 0)))
    }

    fn send(&mut self, request: &Request) -> Result<bool, RunError> {
        self.queue.requests.push_back(*request);
        Ok(true)
    }

    fn deliver(&mut self, record: &RoundRecord) -> Result<bool, RunError> {
        let length = record.encode_into(&mut self.bytes[..])?;
        self.run.take(record, &self.bytes[..length])?;
        Ok(true)
    }
}

impl LocalPort {
    /// Takes up one of the run's networks.
    fn load(&mut self, number: u32) -> Result<(), RunError> {
        let settings = &self.run.settings;
        let weights = networks::load(settings, self.run.out(), number)?;
        let limits = self.batcher.limits_left(settings.limits());
        let backend = network::open(self.run.backend, &weights, limits)?;
        self.batcher.add(number, backend);
        Ok(())
    }

    /// Plays until the run is over.
    fn play(&mut self, jobs: &mut JobsInFlight) -> Result<(), RunError> {
        let (oldest, newest) = self.run.networks_in_use();
        for number in oldest..=newest {
            self.load(number)?;
        }
        self.run.start_clock();
        let started = Instant::now();
        jobs.step(self)?;
        while !self.run.is_over() {
            if self.run.is_to_drain() {
                self.run.drain(jobs.stats().moves);
            }
            if self.run.is_warmed_up() {
                self.run.end_warm_up(self.tally(jobs));
            }
            let Some(Finished { rows, busy }) = self.batcher.run(&mut self.queue)? else {
                break;
            };
            let evaluated = &mut self.evaluated;
            evaluated.busy_s += busy.as_secs_f64();
            evaluated.batches += 1;
            evaluated.evaluations += rows as u64;
            evaluated.sizes[rows] += 1;
            for row in 0..rows {
                let reply = self.queue.replies[row];
                jobs.apply(&reply)?;
                jobs.step(self)?;
            }
            self.queue.replies.clear();
            self.follow_networks()?;
            if self.run.progress.is_due() {
                let evaluated = &self.evaluated;
                let gauge = Gauge {
                    moves: jobs.stats().moves,
                    batch_mean: evaluated.evaluations as f64 / evaluated.batches as f64,
                    busy: evaluated.busy_s / started.elapsed().as_secs_f64(),
                };
                self.run.progress.show(self.run.rounds, gauge);
            }
        }
        self.run.stop();
        Ok(())
    }

    fn tally(&self, jobs: &JobsInFlight) -> Tally {
        Tally {
            counts: jobs.stats(),
            evaluated: self.evaluated.clone(),
            latency: jobs.latency().clone(),
            rounds: self.run.rounds,
        }
    }

    /// Lets go of a network that is not needed any more, takes up new weights.
    fn follow_networks(&mut self) -> Result<(), RunError> {
        let (oldest, _) = self.run.networks_in_use();
        self.batcher.drop_before(oldest);
        if let Some(next) = self.run.find_weights() {
            match self.load(next) {
                Ok(()) => self.run.adopt_weights()?,
                Err(error) => self.run.refuse_weights(&error.to_string()),
            }
        }
        Ok(())
    }
}

/// Plays a run in this process.
pub fn play(settings: Settings, start: Start, given: StartingWeights) -> Result<Report, RunError> {
    let run = Run::open(settings, start, given)?;
    let settings = &run.settings;
    let mut jobs = JobsInFlight::new(settings)?;
    let mut port = LocalPort {
        queue: QueuePort {
            requests: VecDeque::with_capacity(settings.leaf_room()),
            replies: Vec::with_capacity(settings.max_batch),
        },
        // Whatever is there goes out at once.
        batcher: Batcher::new(settings.max_batch, Duration::ZERO, None),
        evaluated: Evaluated {
            sizes: vec![0; settings.max_batch + 1],
            ..Evaluated::default()
        },
        run,
        bytes: Box::new([0; MAX_RECORD_BYTES]),
    };
    if let Err(error) = port.play(&mut jobs) {
        return Err(port.run.fail(error));
    }
    let memory = port.batcher.memory();
    port.evaluated.gpu_bytes = memory.own_bytes;
    port.evaluated.gpu_bytes_used = memory.device_used_bytes;
    let tally = port.tally(&jobs);
    let spent = CpuSeconds {
        coordinator: liveness::process_cpu_seconds()?,
        ..CpuSeconds::default()
    };
    let device = port.batcher.newest().map(|(_, backend)| backend.device());
    port.run.close(tally, spent, device.unwrap_or_default())
}
