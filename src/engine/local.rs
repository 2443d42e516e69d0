//! Everything in one process, without shared memory (`--workers 0`): the fallback where there is
//! none, and the sequential baseline. The same tables and the same network as the many-process
//! engine.

use super::given::Given;
use super::networks;
use super::progress::Gauge;
use super::report::{Evaluated, Report, Spent, Tally};
use super::run::{Run, RunError, Start};
use crate::network::{self, Backend};
use crate::play::{Job, JobsInFlight, Port};
use crate::replay::{MAX_RECORD_BYTES, RoundRecord};
use crate::settings::Settings;
use crate::shm::liveness;
use crate::wire::{Request, parity_of};
use std::time::Instant;

struct LocalPort {
    run: Run,
    /// Leaves by the parity of the network that is to answer.
    queues: [Vec<Request>; 2],
    bytes: Box<[u8; MAX_RECORD_BYTES]>,
}

impl Port for LocalPort {
    type Error = RunError;

    fn next_job(&mut self) -> Result<Option<Job>, RunError> {
        let number = self.run.next_job();
        // Nothing is kept: who could take it up dies with this process.
        Ok(number.map(|number| self.run.job(number, 0)))
    }

    fn send(&mut self, request: &Request) -> Result<bool, RunError> {
        self.queues[parity_of(request.ticket)].push(*request);
        Ok(true)
    }

    fn deliver(&mut self, record: &RoundRecord) -> Result<bool, RunError> {
        let length = record.encode_into(&mut self.bytes[..])?;
        self.run.take(record, &self.bytes[..length])?;
        Ok(true)
    }
}

impl LocalPort {
    fn open(&self, network: u32) -> Result<Box<dyn Backend>, RunError> {
        let settings = &self.run.settings;
        let weights = networks::load(settings, self.run.out(), network)?;
        Ok(network::open(
            self.run.backend,
            &weights,
            settings.limits(),
        )?)
    }

    /// Lets go of a network that is not needed any more, takes up new weights.
    fn follow_networks(
        &mut self,
        backends: &mut [Option<Box<dyn Backend>>; 2],
    ) -> Result<(), RunError> {
        let (oldest, newest) = self.run.networks_in_use();
        if oldest == newest {
            backends[(newest as usize + 1) % 2] = None;
        }
        if let Some(next) = self.run.find_weights() {
            match self.open(next) {
                Ok(backend) => {
                    backends[next as usize % 2] = Some(backend);
                    self.run.adopt_weights()?;
                }
                Err(error) => self.run.refuse_weights(&error.to_string()),
            }
        }
        Ok(())
    }
}

/// Plays a run in this process.
pub fn play(settings: Settings, start: Start, given: Given) -> Result<Report, RunError> {
    let run = Run::open(settings, start, given)?;
    let settings = run.settings.clone();
    let mut tables = JobsInFlight::new(&settings)?;
    let room = settings.leaf_room();
    let mut port = LocalPort {
        run,
        queues: [Vec::with_capacity(room), Vec::with_capacity(room)],
        bytes: Box::new([0; MAX_RECORD_BYTES]),
    };
    let mut evaluated = Evaluated {
        sizes: vec![0; settings.max_batch + 1],
        ..Evaluated::default()
    };
    let played = play_on(&mut port, &mut tables, &mut evaluated);
    let device = match played {
        Ok(device) => device,
        Err(error) => return Err(port.run.fail(error)),
    };
    let tally = tally(&port, &tables, &evaluated);
    let spent = Spent {
        coordinator: liveness::process_cpu_seconds()?,
        ..Spent::default()
    };
    port.run.close(tally, spent, device)
}

/// Plays until the run is over; the device that the networks ran on.
fn play_on(
    port: &mut LocalPort,
    tables: &mut JobsInFlight,
    evaluated: &mut Evaluated,
) -> Result<String, RunError> {
    let max_batch = port.run.settings.max_batch;
    // By the parity of the network.
    let mut backends = [None, None];
    let (oldest, newest) = port.run.networks_in_use();
    for network in oldest..=newest {
        backends[network as usize % 2] = Some(port.open(network)?);
    }
    port.run.start_clock();
    let started = Instant::now();
    tables.step(port)?;
    let mut parity = 0;
    while !port.run.is_over() {
        if port.run.is_to_finish() {
            port.run.finish_in_hand(tables.stats().moves);
        }
        if port.run.is_warmed_up() {
            let tally = tally(port, tables, evaluated);
            port.run.end_warm_up(tally);
        }
        // In turns, if both networks have something to do: the old one's last leaves must not wait
        // for ever.
        if !port.queues[1 - parity].is_empty() {
            parity = 1 - parity;
        }
        let size = port.queues[parity].len().min(max_batch);
        let Some(backend) = backends[parity].as_mut().filter(|_| size > 0) else {
            break;
        };
        backend.requests(0)[..size].copy_from_slice(&port.queues[parity][..size]);
        evaluated.busy_s += backend.run(size)?.as_secs_f64();
        evaluated.batches += 1;
        evaluated.evaluations += size as u64;
        evaluated.sizes[size] += 1;
        port.queues[parity].drain(..size);
        for reply in &backend.replies(0)[..size] {
            tables.apply(reply)?;
            tables.step(port)?;
        }
        port.follow_networks(&mut backends)?;
        if port.run.progress.is_due() {
            let gauge = Gauge {
                moves: tables.stats().moves,
                batch_mean: evaluated.evaluations as f64 / evaluated.batches as f64,
                busy: evaluated.busy_s / started.elapsed().as_secs_f64(),
            };
            let rounds = port.run.rounds;
            port.run.progress.show(rounds, gauge);
        }
    }
    port.run.stop();
    Ok(count_memory(evaluated, &backends))
}

/// Notes what the networks take; the device that they are on.
fn count_memory(evaluated: &mut Evaluated, backends: &[Option<Box<dyn Backend>>; 2]) -> String {
    let mut device = String::new();
    for backend in backends.iter().flatten() {
        let memory = backend.memory();
        evaluated.gpu_bytes += memory.own_bytes;
        evaluated.gpu_bytes_used = memory.device_used_bytes;
        device = backend.device();
    }
    device
}

fn tally(port: &LocalPort, tables: &JobsInFlight, evaluated: &Evaluated) -> Tally {
    Tally {
        counts: tables.stats(),
        evaluated: evaluated.clone(),
        latency: tables.latency().clone(),
        rounds: port.run.rounds,
    }
}
