//! Everything in one process, without shared memory (`--workers 0`): the fallback where there is none,
//! and the sequential baseline. The same tables and the same network as the many-process engine.

use super::progress::Gauge;
use super::report::{Evaluated, Report, Spent, Tally};
use super::run::{Run, RunError};
use super::weights_of;
use crate::network;
use crate::replay::{MAX_RECORD_BYTES, RoundRecord};
use crate::selfplay::{Port, Tables};
use crate::settings::Settings;
use crate::shm::liveness;
use crate::wire::Request;
use std::time::Instant;

struct LocalPort {
    run: Run,
    queue: Vec<Request>,
    bytes: Box<[u8; MAX_RECORD_BYTES]>,
}

impl Port for LocalPort {
    type Error = RunError;

    fn next_job(&mut self) -> Result<Option<u64>, RunError> {
        Ok(self.run.next_job())
    }

    fn send(&mut self, request: &Request) -> Result<bool, RunError> {
        self.queue.push(*request);
        Ok(true)
    }

    fn deliver(&mut self, record: &RoundRecord) -> Result<bool, RunError> {
        let length = record.encode_into(&mut self.bytes[..])?;
        self.run.take(&self.bytes[..length])?;
        Ok(true)
    }
}

/// Plays a run in this process.
pub fn play(settings: Settings, resume: bool, note: Option<String>) -> Result<Report, RunError> {
    let run = Run::open(settings, resume, note)?;
    let settings = run.settings.clone();
    let weights = weights_of(&settings)?;
    let max_batch = settings.max_batch;
    let mut backend = network::open(run.backend, &weights, settings.limits())?;
    drop(weights);
    let mut tables = Tables::new(&settings)?;
    let mut port = LocalPort {
        run,
        queue: Vec::with_capacity(settings.leaf_room()),
        bytes: Box::new([0; MAX_RECORD_BYTES]),
    };
    let mut evaluated = Evaluated {
        sizes: vec![0; max_batch + 1],
        ..Evaluated::default()
    };
    port.run.start_clock();
    let started = Instant::now();
    tables.step(&mut port)?;
    while !port.queue.is_empty() && !port.run.is_interrupted() && !port.run.is_time_up() {
        if port.run.is_warmed_up() {
            let tally = tally(&port, &tables, &evaluated);
            port.run.end_warm_up(tally);
        }
        let size = port.queue.len().min(max_batch);
        backend.requests(0)[..size].copy_from_slice(&port.queue[..size]);
        evaluated.busy_s += backend.run(size)?.as_secs_f64();
        evaluated.batches += 1;
        evaluated.evaluations += size as u64;
        evaluated.sizes[size] += 1;
        port.queue.drain(..size);
        for reply in &backend.replies(0)[..size] {
            tables.apply(reply)?;
            tables.step(&mut port)?;
        }
        if port.run.progress.is_due() {
            let gauge = Gauge {
                moves: tables.counts().moves,
                batch_mean: evaluated.evaluations as f64 / evaluated.batches as f64,
                busy: evaluated.busy_s / started.elapsed().as_secs_f64(),
            };
            let rounds = port.run.rounds;
            port.run.progress.show(rounds, gauge);
        }
    }
    let memory = backend.memory();
    (evaluated.gpu_bytes, evaluated.gpu_bytes_used) = (memory.own_bytes, memory.device_used_bytes);
    let (ended, tally) = (Instant::now(), tally(&port, &tables, &evaluated));
    let spent = Spent {
        coordinator: liveness::process_cpu_seconds()?,
        ..Spent::default()
    };
    port.run.close(tally, ended, spent, backend.device())
}

fn tally(port: &LocalPort, tables: &Tables, evaluated: &Evaluated) -> Tally {
    Tally {
        counts: tables.counts(),
        evaluated: evaluated.clone(),
        latency: tables.latency().clone(),
        rounds: port.run.rounds,
    }
}
