//! One run, whatever plays it: which jobs are left, where finished rounds go, how far it has come, and
//! whether the user wants it to end.

use super::progress::Progress;
use super::report::{Report, Spent, Tally};
use crate::network::{BackendError, BackendKind, WeightsError};
use crate::process::{ChildError, weights_of};
use crate::replay::{Manifest, Pushed, ReplayError, ReplayWriter, RoundRecord};
use crate::selfplay::SelfplayError;
use crate::settings::{Settings, SettingsError};
use crate::shm::{Corrupt, ShmError};
use std::fmt::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What can end a run early.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The network's device.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The replay's folder.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The shared memory.
    #[error(transparent)]
    Shm(#[from] ShmError),
    /// A ring.
    #[error(transparent)]
    Ring(#[from] Corrupt),
    /// Self-play in this process.
    #[error(transparent)]
    Selfplay(#[from] SelfplayError),
    /// A child process ended, or did not start.
    #[error("{what}; {kept} finished rounds are kept, go on with: ringmaster selfplay --resume --out {}", out.display())]
    Child {
        /// Which, and how.
        what: String,
        /// Rounds in the replay.
        kept: u64,
        /// The replay's folder.
        out: PathBuf,
    },
    /// A child could not be started.
    #[error("cannot start {what}: {source}")]
    Spawn {
        /// Which.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// A child's failure, in its own words.
    #[error(transparent)]
    ChildWords(#[from] ChildError),
    /// A record from a worker that it was not asked for.
    #[error("worker {worker} delivered round {round}, which is not in its hands")]
    StrayRound {
        /// The worker.
        worker: usize,
        /// The round.
        round: u64,
    },
    /// Signals cannot be caught.
    #[error("cannot catch signals: {0}")]
    Signals(std::io::Error),
    /// Resuming needs to know what.
    #[error("--resume needs --out: the folder of the replay to go on with")]
    ResumeWhat,
}

/// A run in progress.
pub struct Run {
    /// The run's settings, resolved, `out` set.
    pub settings: Settings,
    /// What runs the network.
    pub backend: BackendKind,
    writer: ReplayWriter,
    /// Rounds that were there before, ascending.
    done_before: Vec<Range<u64>>,
    next_job: u64,
    /// Rounds new in this run.
    pub rounds: u64,
    interrupted: Arc<AtomicBool>,
    /// What the user sees.
    pub progress: Progress,
    started: Instant,
    /// To be said when the run starts.
    note: Option<String>,
    /// What was counted when the warm-up ended, and when that was.
    warm: Option<(Instant, Tally)>,
}

impl Run {
    /// Checks the weights, opens the replay, catches the end signals. `note` is said when the run starts.
    ///
    /// # Errors
    /// Whatever speaks against it, before anything is started.
    pub fn open(
        mut settings: Settings,
        resume: bool,
        note: Option<String>,
    ) -> Result<Run, RunError> {
        let backend = BackendKind::try_from(settings.backend)?;
        let weights = weights_of(&settings)?;
        if resume && settings.out.is_none() {
            return Err(RunError::ResumeWhat);
        }
        let out = settings.out.clone().unwrap_or_else(next_free_folder);
        settings.out = Some(out.clone());
        let manifest = manifest_of(&settings, &hex(&weights.hash()), backend)?;
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // A second signal ends the process at once: the first one's flag is set by then.
            signal_hook::flag::register_conditional_shutdown(signal, 130, interrupted.clone())
                .and_then(|_| signal_hook::flag::register(signal, interrupted.clone()))
                .map_err(RunError::Signals)?;
        }
        let (writer, done_before) = if resume {
            ReplayWriter::resume(&out, &manifest)?
        } else {
            (ReplayWriter::create(&out, &manifest)?, Vec::new())
        };
        let there = done_before
            .iter()
            .map(|range| range.end - range.start)
            .sum();
        Ok(Run {
            progress: Progress::new(settings.planned_rounds(), settings.planned_moves(), there),
            settings,
            backend,
            writer,
            done_before,
            next_job: 0,
            rounds: 0,
            interrupted,
            started: Instant::now(),
            note,
            warm: None,
        })
    }

    /// Starts the clock: everything is set up.
    pub fn start_clock(&mut self) {
        if let Some(note) = self.note.take() {
            self.progress.say(&note);
        }
        self.started = Instant::now();
    }

    /// Is the time up that the run was given?
    pub fn is_time_up(&self) -> bool {
        let limit = self.settings.seconds;
        limit > 0.0 && self.started.elapsed().as_secs_f64() >= limit
    }

    /// Does the warm-up end now? Then `end_warm_up` wants to know what has been counted.
    pub fn is_warmed_up(&self) -> bool {
        let warm_up_s = self.settings.warm_up_s;
        self.warm.is_none() && warm_up_s > 0.0 && self.started.elapsed().as_secs_f64() >= warm_up_s
    }

    /// From here on it counts.
    pub fn end_warm_up(&mut self, tally: Tally) {
        self.warm = Some((Instant::now(), tally));
    }

    /// Has the user asked for the end?
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// The next job that still has to be played.
    pub fn next_job(&mut self) -> Option<u64> {
        let per_job = self.settings.rounds_per_job();
        while self.next_job < self.settings.jobs() {
            let job = self.next_job;
            self.next_job += 1;
            let (first, end) = (job * per_job, (job + 1) * per_job);
            let whole = |range: &Range<u64>| range.start <= first && end <= range.end;
            if !self.done_before.iter().any(whole) {
                return Some(job);
            }
        }
        None
    }

    /// Are all rounds there?
    pub fn is_complete(&self) -> bool {
        let before: u64 = self
            .done_before
            .iter()
            .map(|range| range.end - range.start)
            .sum();
        before + self.rounds == self.settings.planned_rounds()
    }

    /// Takes a finished round into the replay; its number.
    ///
    /// # Errors
    /// When the bytes are no record of this run, or the disk refuses them.
    pub fn take(&mut self, bytes: &[u8]) -> Result<u64, RunError> {
        let round = RoundRecord::decode(bytes)?.round;
        if self.writer.push(round, bytes)? == Pushed::New {
            self.rounds += 1;
        }
        Ok(round)
    }

    /// Is this round in the replay?
    pub fn has(&self, round: u64) -> bool {
        self.writer.contains(round)
    }

    /// Rounds in the replay, those waiting to be written among them.
    pub fn kept(&self) -> u64 {
        self.writer.written() + self.writer.waiting() as u64
    }

    /// The replay's folder.
    pub fn out(&self) -> &Path {
        self.settings.out.as_deref().unwrap_or(Path::new("."))
    }

    /// Ends the run: closes the replay and sums up what was counted until `ended`.
    ///
    /// # Errors
    /// When the disk refuses the last rounds.
    pub fn close(
        self,
        tally: Tally,
        ended: Instant,
        spent: Spent,
        device: String,
    ) -> Result<Report, RunError> {
        self.progress.clear();
        let interrupted = self.is_interrupted() && !self.is_complete();
        let manifest = self.writer.close()?;
        let (from, tally) = match &self.warm {
            Some((from, before)) => (*from, tally.since(before)),
            None => (self.started, tally),
        };
        Ok(Report::new(
            &self.settings,
            self.backend,
            device,
            tally,
            spent,
            ended.saturating_duration_since(from).as_secs_f64(),
            manifest.rounds_kept,
            manifest.digest,
            interrupted,
        ))
    }

    /// Keeps what is finished after a failure; how many rounds that is.
    pub fn save(self) -> Result<(u64, PathBuf), RunError> {
        let (kept, out) = (self.kept(), self.out().to_owned());
        self.progress.clear();
        self.writer.close()?;
        Ok((kept, out))
    }
}

fn manifest_of(
    settings: &Settings,
    weights: &str,
    backend: BackendKind,
) -> Result<Manifest, ReplayError> {
    // Settings are plain data; that they turn into JSON is an invariant, not an input.
    let json = |settings: &Settings| serde_json::to_value(settings).unwrap_or_default();
    let visits = (settings.worlds * settings.simulations) as u64;
    let rounds = settings.planned_rounds();
    let determining = json(&settings.determining());
    let mut manifest = Manifest::new(
        settings.seed,
        determining,
        weights,
        backend.name(),
        visits,
        rounds,
    );
    manifest.notes = json(settings);
    Ok(manifest)
}

/// `replays/0001`, or the first number after it that is not taken.
fn next_free_folder() -> PathBuf {
    (1_u32..)
        .map(|number| PathBuf::from(format!("replays/{number:04}")))
        .find(|folder| !folder.exists())
        .unwrap_or_else(|| PathBuf::from("replays/last"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
