//! What a run did, in figures: the object `--json` prints and the table people read.

use crate::latency::{Histogram, quantile_of};
use crate::network::BackendKind;
use crate::play::PlayStats;
use crate::plural::counted;
use crate::replay::{Manifest, Network};
use crate::settings::{ENDLESS, Settings};
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

const MIB: f64 = (1 << 20) as f64;

/// What the evaluator did.
#[derive(Clone, Debug, Default)]
pub struct Evaluated {
    /// Batches.
    pub batches: u64,
    /// Leaves.
    pub evaluations: u64,
    /// Time spent on them, in seconds.
    pub busy_s: f64,
    /// Batches by size.
    pub sizes: Vec<u64>,
    /// GPU memory the network takes, in bytes.
    pub gpu_bytes: u64,
    /// GPU memory in use on the whole device, in bytes.
    pub gpu_bytes_used: u64,
}

impl Evaluated {
    /// What was done since `earlier`.
    fn since(&self, earlier: &Evaluated) -> Evaluated {
        let sizes = self.sizes.iter().zip(&earlier.sizes);
        Evaluated {
            batches: self.batches.saturating_sub(earlier.batches),
            evaluations: self.evaluations.saturating_sub(earlier.evaluations),
            busy_s: (self.busy_s - earlier.busy_s).max(0.0),
            sizes: sizes.map(|(now, then)| now.saturating_sub(*then)).collect(),
            gpu_bytes: self.gpu_bytes,
            gpu_bytes_used: self.gpu_bytes_used,
        }
    }
}

/// Everything counted up to some moment of a run.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// What the searches did.
    pub counts: PlayStats,
    /// What the evaluator did.
    pub evaluated: Evaluated,
    /// How long decisions took.
    pub latency: Histogram,
    /// Rounds that are new in this run and that the coordinator has.
    pub rounds: u64,
}

impl Tally {
    /// What was done since `earlier`; the rounds behind the mean evaluations of a round stay all.
    pub fn since(&self, earlier: &Tally) -> Tally {
        Tally {
            counts: PlayStats {
                rounds: self.counts.rounds,
                round_evaluations: self.counts.round_evaluations,
                ..self.counts.since(&earlier.counts)
            },
            evaluated: self.evaluated.since(&earlier.evaluated),
            latency: self.latency.since(&earlier.latency),
            rounds: self.rounds.saturating_sub(earlier.rounds),
        }
    }
}

/// Processor time by process, in seconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct CpuSeconds {
    /// All workers together.
    pub workers: f64,
    /// The evaluator.
    pub evaluator: f64,
    /// The coordinator.
    pub coordinator: f64,
}

/// The figures of a run. Field names are a contract.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Rounds played by this run; with a warm-up, since its end, as all figures below.
    pub rounds: u64,
    /// Rounds in the replay, those of earlier runs among them.
    pub rounds_in_replay: u64,
    /// Rounds planned; 2^40 if only time ends the run.
    pub rounds_planned: u64,
    /// Decisions searched.
    pub decisions: u64,
    /// Simulations finished.
    pub simulations: u64,
    /// Unique leaves sent to the network for the decisions searched; if there are none, for those
    /// not finished.
    pub evaluations: u64,
    /// Leaves whose observation had been asked for in the same decision.
    pub cache_hits: u64,
    /// Leaves selected while in flight in the same tree; never sent.
    pub duplicates: u64,
    /// Simulations that ended at a round's end.
    pub terminal_leaves: u64,
    /// Mean depth of a simulation, in choices below the root.
    pub depth_mean: f64,
    /// Batches.
    pub batches: u64,
    /// Mean batch.
    pub batch_mean: f64,
    /// Median batch.
    pub batch_p50: u64,
    /// Batch that 99 in 100 do not exceed.
    pub batch_p99: u64,
    /// Largest batch.
    pub batch_max: u64,
    /// Wall-clock time in seconds, from the common start.
    pub elapsed_s: f64,
    /// Rounds per minute.
    pub rounds_per_min: f64,
    /// Rounds per minute at this rate of evaluations, by what a finished round takes: steady where
    /// rounds finish in bursts. 0 if none has finished.
    pub rounds_per_min_steady: f64,
    /// Mean unique evaluations of a finished round.
    pub evaluations_per_round: f64,
    /// Median time of a decision's search, in milliseconds; none if none has finished.
    pub decision_ms_p50: Option<f64>,
    /// Time that 99 in 100 decisions do not exceed, in milliseconds; none if none has finished.
    pub decision_ms_p99: Option<f64>,
    /// Unique evaluations per second.
    pub evaluations_per_s: f64,
    /// `cpu` or `cuda`.
    pub backend: &'static str,
    /// What the network ran on.
    pub device: String,
    /// Share of the time in which the evaluator's device worked on a batch.
    pub evaluator_busy: f64,
    /// GPU memory the network takes (weights and kernels), MiB; 0 on the CPU.
    pub gpu_memory_mib: f64,
    /// GPU memory in use on the whole device, by any process, MiB; 0 on the CPU.
    pub gpu_memory_used_mib: f64,
    /// Processor time by process.
    pub cpu_s: CpuSeconds,
    /// Worker processes.
    pub workers: usize,
    /// Rounds in flight per worker.
    pub in_flight: usize,
    /// Worlds per decision.
    pub worlds: usize,
    /// Simulations per world.
    pub simulations_per_world: usize,
    /// Leaves in flight per tree.
    pub leaves: usize,
    /// Largest batch allowed.
    pub max_batch: usize,
    /// The run's seed.
    pub seed: u64,
    /// Processes restarted.
    pub restarts: u64,
    /// Ended by the user before all rounds were played.
    pub interrupted: bool,
    /// The networks of the replay: hash of the weights and first round of each. More than one if
    /// weights were replaced.
    pub networks: Vec<Network>,
    /// Hash of all rounds in order of their numbers.
    pub digest: String,
    /// The replay's folder.
    pub out: PathBuf,
}

impl Report {
    /// Puts the figures together.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn new(
        settings: &Settings,
        backend: BackendKind,
        device: String,
        tally: Tally,
        cpu_s: CpuSeconds,
        elapsed_s: f64,
        manifest: Manifest,
        interrupted: bool,
    ) -> Report {
        let per = |amount: f64, by: f64| if by > 0.0 { amount / by } else { 0.0 };
        let Tally {
            counts,
            evaluated,
            latency,
            rounds,
        } = tally;
        let evaluations_per_round = per(counts.round_evaluations as f64, counts.rounds as f64);
        // By the evaluator's count: searches report theirs only when a decision is done.
        let evaluations_per_s = per(evaluated.evaluations as f64, elapsed_s);
        let size_at = |share| quantile_of(&evaluated.sizes, share).unwrap_or(0) as u64;
        let has_decided = counts.search.decisions > 0;
        let decision_ms = |share| has_decided.then(|| latency.quantile(share) / 1000.0);
        Report {
            rounds,
            rounds_in_replay: manifest.rounds_kept,
            rounds_planned: settings.planned_rounds(),
            decisions: counts.search.decisions,
            simulations: counts.search.simulations,
            evaluations: match has_decided {
                true => counts.search.evaluations,
                false => evaluated.evaluations,
            },
            cache_hits: counts.search.cache_hits,
            duplicates: counts.search.duplicates,
            terminal_leaves: counts.search.terminal_leaves,
            depth_mean: per(
                counts.search.depth_sum as f64,
                counts.search.simulations as f64,
            ),
            batches: evaluated.batches,
            batch_mean: per(evaluated.evaluations as f64, evaluated.batches as f64),
            batch_p50: size_at(0.5),
            batch_p99: size_at(0.99),
            batch_max: evaluated.sizes.iter().rposition(|&n| n > 0).unwrap_or(0) as u64,
            elapsed_s,
            rounds_per_min: per(rounds as f64 * 60.0, elapsed_s),
            rounds_per_min_steady: per(evaluations_per_s * 60.0, evaluations_per_round),
            evaluations_per_round,
            decision_ms_p50: decision_ms(0.5),
            decision_ms_p99: decision_ms(0.99),
            evaluations_per_s,
            backend: backend.name(),
            device,
            // A batch counts when it ends, so a short window can hold a bit more than itself.
            evaluator_busy: per(evaluated.busy_s, elapsed_s).min(1.0),
            gpu_memory_mib: evaluated.gpu_bytes as f64 / MIB,
            gpu_memory_used_mib: evaluated.gpu_bytes_used as f64 / MIB,
            cpu_s,
            workers: settings.workers,
            in_flight: settings.in_flight,
            worlds: settings.worlds,
            simulations_per_world: settings.simulations,
            leaves: settings.leaves,
            max_batch: settings.max_batch,
            seed: settings.seed,
            restarts: 0,
            interrupted,
            networks: manifest.networks,
            digest: manifest.digest,
            out: settings.out.clone().unwrap_or_default(),
        }
    }
}

impl Report {
    /// Rounds in the replay, and of how many, in words.
    pub fn kept(&self) -> String {
        match self.rounds_planned {
            ENDLESS => counted(self.rounds_in_replay, "round"),
            planned => format!("{} of {}", self.rounds_in_replay, counted(planned, "round")),
        }
    }

    /// What was played.
    fn write_play(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |part: u64, whole: u64| 100.0 * part as f64 / (whole.max(1)) as f64;
        match self.rounds {
            0 if self.rounds_in_replay == self.rounds_planned => {
                writeln!(f, "rounds        none left to play")?;
            }
            0 => writeln!(f, "rounds        none finished in {:.1} s", self.elapsed_s)?,
            some => writeln!(
                f,
                "rounds        {some} in {:.1} s: {:.0} per minute",
                self.elapsed_s, self.rounds_per_min
            )?,
        }
        if self.decisions == 0 {
            return writeln!(f, "search        no decision finished");
        }
        writeln!(
            f,
            "search        {}, {} of depth {:.1}; {:.0} % ended a round",
            counted(self.decisions, "decision"),
            counted(self.simulations, "simulation"),
            self.depth_mean,
            share(self.terminal_leaves, self.simulations)
        )
    }

    /// What the network did for it.
    fn write_network(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "evaluations   {} unique, {:.0} per second",
            self.evaluations, self.evaluations_per_s
        )?;
        // Searches tell of theirs when their decision is done.
        if self.decisions > 0 {
            let duplicates = counted(self.duplicates, "duplicate");
            write!(f, "; {} shared, {duplicates}", self.cache_hits)?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "batches       {}, mean {:.0}, median {}, 99 % up to {}, largest {} of {}",
            self.batches,
            self.batch_mean,
            self.batch_p50,
            self.batch_p99,
            self.batch_max,
            self.max_batch
        )?;
        writeln!(
            f,
            "network       {} ({}), busy {:.0} % of the time",
            self.backend,
            self.device,
            100.0 * self.evaluator_busy
        )
    }

    /// What it took.
    fn write_price(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpu = self.cpu_s.workers + self.cpu_s.evaluator + self.cpu_s.coordinator;
        let of_cpu = |part: f64| if cpu > 0.0 { 100.0 * part / cpu } else { 0.0 };
        if let (Some(median), Some(most)) = (self.decision_ms_p50, self.decision_ms_p99) {
            writeln!(
                f,
                "decision      {median:.1} ms median, 99 % within {most:.1} ms"
            )?;
        }
        writeln!(
            f,
            "processor     evaluator {:.0} %, {} {:.1} %, coordinator {:.1} % of {:.1} s",
            of_cpu(self.cpu_s.evaluator),
            counted(self.workers, "worker"),
            of_cpu(self.cpu_s.workers),
            of_cpu(self.cpu_s.coordinator),
            cpu
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_play(f)?;
        self.write_network(f)?;
        self.write_price(f)?;
        if let [.., newest] = &self.networks[..]
            && self.networks.len() > 1
        {
            writeln!(
                f,
                "weights       {} networks, the newest ({}) from round {} on",
                self.networks.len(),
                &newest.weights[..12.min(newest.weights.len())],
                newest.from_round
            )?;
        }
        // That of nothing would look like one of something.
        match self.rounds_in_replay {
            0 => writeln!(f, "digest        none, there is no finished round")?,
            _ => writeln!(f, "digest        {}", self.digest)?,
        }
        write!(f, "replay        {} ({})", self.out.display(), self.kept())
    }
}
