//! What the run has counted so far, read from the counters that workers and evaluator keep in the
//! segment: for the line that shows its progress and for the report.

use super::{Coordinator, WorkerHandle};
use crate::engine::error::RunError;
use crate::engine::progress::Gauge;
use crate::engine::regions::{EvaluatorCounter, WorkerCounter, load_counts, load_latency};
use crate::engine::report::{CpuSeconds, Evaluated, Tally};
use crate::shm::liveness;

impl Coordinator {
    /// Everything counted so far.
    pub(super) fn tally(&self) -> Tally {
        let mut tally = Tally {
            evaluated: self.evaluated(),
            rounds: self.run.rounds,
            ..self.retired.clone()
        };
        for worker in &self.workers {
            tally.counts += load_counts(&worker.counters);
            tally.latency.add(&load_latency(&worker.counters));
        }
        tally
    }

    fn evaluated(&self) -> Evaluated {
        let count = |counter: EvaluatorCounter| self.evaluator_counters.load(counter as usize);
        let size = |size| EvaluatorCounter::Sizes as usize + size;
        Evaluated {
            batches: count(EvaluatorCounter::Batches),
            evaluations: count(EvaluatorCounter::Evaluations),
            busy_s: count(EvaluatorCounter::BusyNs) as f64 * 1e-9,
            gpu_bytes: count(EvaluatorCounter::GpuBytes),
            gpu_bytes_used: count(EvaluatorCounter::GpuBytesUsed),
            sizes: (0..=self.run.settings.max_batch)
                .map(|n| self.evaluator_counters.load(size(n)))
                .collect(),
        }
    }

    /// Moves made so far, those of workers that died among them.
    pub(super) fn moves(&self) -> u64 {
        let moves = |worker: &WorkerHandle| load_counts(&worker.counters).moves;
        let moves = self.workers.iter().map(moves);
        moves.fold(self.retired.counts.moves, u64::saturating_add)
    }

    pub(super) fn show_progress(&mut self) {
        let Some(started) = self.started.filter(|_| self.run.progress.is_due()) else {
            return;
        };
        let evaluated = self.evaluated();
        let gauge = Gauge {
            moves: self.moves(),
            batch_mean: evaluated.evaluations as f64 / evaluated.batches.max(1) as f64,
            busy: evaluated.busy_s / started.elapsed().as_secs_f64(),
        };
        let rounds = self.run.rounds;
        self.run.progress.show(rounds, gauge);
    }

    /// Processor time, of children as they stored it when they ended.
    pub(super) fn cpu_seconds(&self) -> Result<CpuSeconds, RunError> {
        let cpu_ns =
            |worker: &WorkerHandle| worker.counters.load(WorkerCounter::CpuNs as usize) as f64;
        let evaluator_ns = self
            .evaluator_counters
            .load(EvaluatorCounter::CpuNs as usize);
        Ok(CpuSeconds {
            workers: self.workers.iter().map(cpu_ns).sum::<f64>() * 1e-9,
            evaluator: evaluator_ns as f64 * 1e-9,
            coordinator: liveness::process_cpu_seconds()?,
        })
    }
}
