//! One run, whatever plays it: which jobs are left, where finished rounds go, how far it has come,
//! and whether it is over.

use super::error::RunError;
use super::job_control;
use super::networks::Networks;
use super::progress::Progress;
use super::report::{CpuSeconds, Report, Tally};
use super::signals::{Shutdown, Signals};
use super::starting_weights::{Start, StartingWeights, taken_up};
use super::unfinished::UnfinishedJobs;
use crate::network::{BackendKind, WeightsError};
use crate::play::Job;
use crate::plural::counted;
use crate::replay::{self, Manifest, MayHold, Pushed, ReplayError, ReplayWriter, RoundRecord};
use crate::settings::Settings;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

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
    networks: Networks,
    /// Rounds new in this run.
    pub rounds: u64,
    /// Rounds handed out by this run that were not there before.
    handed_out: u64,
    signals: Signals,
    /// Has the clock been started?
    playing: bool,
    /// Was it said that no more than what is in hand is played?
    draining: bool,
    /// What the user sees.
    pub progress: Progress,
    started: Instant,
    /// To be said when the run starts.
    notes: Vec<String>,
    /// What was counted when the warm-up ended, and when that was.
    warm: Option<(Instant, Tally)>,
    /// When play ended, and whether nobody had asked for the end until then.
    stopped: Option<(Instant, bool)>,
}

impl Run {
    /// Opens the replay, catches the end signals. A replay that is gone on with may be gone on with
    /// by other weights, if the starting ones are to follow.
    ///
    /// # Errors
    /// Whatever speaks against it, before anything is started.
    pub fn open(
        mut settings: Settings,
        start: Start,
        mut starting: StartingWeights,
    ) -> Result<Run, RunError> {
        let resume = start != Start::New;
        let backend = BackendKind::try_from(settings.backend)?;
        if resume && settings.out.is_none() {
            return Err(RunError::ResumeWhat);
        }
        let out = match settings.out.take() {
            Some(out) => out,
            None => replay::new_folder(Path::new("replays"))?,
        };
        settings.out = Some(out.clone());
        let manifest = manifest_of(&settings, &starting.weights.hash_text(), backend)?;
        let signals = Signals::listen().map_err(RunError::cannot("catch signals"))?;
        job_control::listen().map_err(RunError::cannot("catch signals"))?;
        // A limit on the size of files is then a write that fails, as on a full disk, and not the
        // end of the process.
        signal_hook::flag::register(libc::SIGXFSZ, Arc::default())
            .map_err(RunError::cannot("catch signals"))?;
        let (mut writer, done_before) = if resume {
            ReplayWriter::resume(&out, &manifest, starting.is_next)?
        } else {
            (ReplayWriter::create(&out, &manifest)?, Vec::new())
        };
        if starting.is_next {
            let from_round = first_untouched(&settings, &done_before);
            starting.follow(&settings, &mut writer, from_round)?;
        }
        let (unfinished, manifest) = (writer.next(), writer.manifest());
        let StartingWeights {
            weights,
            watcher,
            mut notes,
            ..
        } = starting;
        notes.extend(writer.note().map(str::to_owned));
        let networks = Networks::open(&settings, &out, manifest, unfinished, &weights, watcher)
            .map_err(|error| match error {
                // The folder is begun.
                WeightsError::Write(_) => RunError::from(error).kept(writer.written(), &out),
                other => other.into(),
            })?;
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
            networks,
            rounds: 0,
            handed_out: 0,
            signals,
            playing: false,
            draining: false,
            started: Instant::now(),
            notes,
            warm: None,
            stopped: None,
        })
    }

    /// Starts the clock: everything is set up.
    pub fn start_clock(&mut self) {
        for note in self.notes.drain(..) {
            self.progress.say(&note);
        }
        self.started = Instant::now();
        self.playing = true;
    }

    /// Is the time up that the run was given?
    pub fn is_time_up(&self) -> bool {
        let limit = self.settings.seconds;
        limit > 0.0 && self.started.elapsed().as_secs_f64() >= limit
    }

    /// Does the warm-up end now? Then `end_warm_up` is to be called.
    pub fn is_warmed_up(&self) -> bool {
        let warm_up_s = self.settings.warm_up_s;
        self.warm.is_none() && warm_up_s > 0.0 && self.started.elapsed().as_secs_f64() >= warm_up_s
    }

    /// The warm-up ends: what was counted until now is not of the report.
    pub fn end_warm_up(&mut self, tally: Tally) {
        self.warm = Some((Instant::now(), tally));
    }

    /// Has nobody asked for the end? Otherwise what was handed out is played, and nothing more is.
    pub fn goes_on(&self) -> bool {
        self.signals.shutdown() == Shutdown::No
    }

    /// Has the user just asked for no more than what is in hand? Then `drain` is to be called.
    pub fn is_to_drain(&self) -> bool {
        self.signals.shutdown() == Shutdown::Drain && !self.draining && !self.is_over()
    }

    /// From here on, after `moves` moves, only what is in hand is played; says so.
    pub fn drain(&mut self, moves: u64) {
        self.draining = true;
        let in_hand = self.in_hand();
        self.progress.limit_to_in_hand(in_hand, self.rounds, moves);
        let what = match in_hand {
            _ if self.settings.games > 0 => {
                format!("the games in hand, {}", counted(in_hand, "more round"))
            }
            1 => "the round in hand".to_owned(),
            _ => format!("the {in_hand} rounds in hand"),
        };
        self.progress.say(&format!(
            "interrupted: finishing {what} (Ctrl-C again ends at once)"
        ));
    }

    /// Rounds handed out and not finished.
    fn in_hand(&self) -> u64 {
        self.handed_out - self.rounds
    }

    /// Is there nothing more to play, or no time, or did the user ask for the end?
    pub fn is_over(&self) -> bool {
        let unwanted = match self.signals.shutdown() {
            Shutdown::No => false,
            // Before the clock starts nobody has begun what was handed out.
            Shutdown::Drain => !self.playing || self.in_hand() == 0,
            Shutdown::Now => true,
        };
        unwanted || self.is_complete() || self.is_time_up()
    }

    /// Play ends now: signals from here on change nothing any more.
    pub fn stop(&mut self) {
        self.stopped = Some((Instant::now(), self.goes_on()));
    }

    /// A job by its number, whose finished decisions are kept in `entry`.
    pub fn job(&self, number: u64, entry: u32) -> Job {
        let first_round = number * self.settings.rounds_per_job();
        Job {
            number,
            network: self.manifest().network_of(first_round),
            entry,
        }
    }

    /// What the replay says of its rounds.
    pub fn manifest(&self) -> &Manifest {
        self.writer.manifest()
    }

    /// The networks in use: the oldest and the newest.
    pub fn networks_in_use(&mut self) -> (u32, u32) {
        let (unfinished, manifest) = (self.writer.next(), self.writer.manifest());
        let oldest = self.networks.oldest(manifest, unfinished);
        (oldest, manifest.networks.len() as u32 - 1)
    }

    /// Looks for new weights; the number of the network they would be. What is no network is said
    /// and ignored.
    pub fn find_weights(&mut self) -> Option<u32> {
        if !self.goes_on() {
            return None;
        }
        let is_too_late = self.first_free_round() >= self.settings.planned_rounds();
        match self.networks.look(self.writer.manifest())? {
            Ok(network) if !is_too_late => Some(network),
            Ok(_) => {
                self.networks.drop_next(self.writer.manifest());
                None
            }
            Err(why) => {
                self.progress.say(&format!("new weights ignored: {why}"));
                None
            }
        }
    }

    /// From the next job on the weights that were found play.
    ///
    /// # Errors
    /// When that cannot be noted in the replay.
    pub fn adopt_weights(&mut self) -> Result<(), RunError> {
        let from_round = self.first_free_round();
        if let Some((network, file)) = self.networks.take_next(from_round) {
            let say = taken_up(&network, Some(&file));
            self.writer.add_network(network)?;
            self.progress.say(&say);
        }
        Ok(())
    }

    /// Forgets the weights that were found.
    pub fn refuse_weights(&mut self, why: &str) {
        self.networks.drop_next(self.writer.manifest());
        self.progress.say(&format!("new weights ignored: {why}"));
    }

    /// The first round of the first job that was never handed out nor is there.
    fn first_free_round(&self) -> u64 {
        let per_job = self.settings.rounds_per_job();
        (self.next_job * per_job).max(first_untouched(&self.settings, &self.done_before))
    }

    /// The next job that still has to be played; none once the user wants no more.
    pub fn next_job(&mut self) -> Option<u64> {
        if !self.goes_on() {
            return None;
        }
        let per_job = self.settings.rounds_per_job();
        while self.next_job < self.settings.jobs() {
            let job = self.next_job;
            self.next_job += 1;
            let (first, end) = (job * per_job, (job + 1) * per_job);
            let whole = |range: &Range<u64>| range.start <= first && end <= range.end;
            if !self.done_before.iter().any(whole) {
                self.handed_out += (first..end).filter(|&round| !self.has(round)).count() as u64;
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

    /// Takes a finished round into the replay: its record, and the bytes that encode it.
    ///
    /// # Errors
    /// When it is no round of this run, or the disk refuses it.
    pub fn take(&mut self, record: &RoundRecord, bytes: &[u8]) -> Result<(), RunError> {
        if self.writer.push(record, bytes)? == Pushed::New {
            self.rounds += 1;
        }
        Ok(())
    }

    /// Is this round in the replay?
    pub fn has(&self, round: u64) -> bool {
        self.writer.contains(round)
    }

    /// The replay's folder.
    pub fn out(&self) -> &Path {
        self.settings.out.as_deref().unwrap_or(Path::new("."))
    }

    /// Ends the run: closes the replay and sums up what was counted until it was stopped.
    ///
    /// # Errors
    /// When the disk refuses the last rounds.
    pub fn close(
        self,
        tally: Tally,
        cpu_s: CpuSeconds,
        device: String,
    ) -> Result<Report, RunError> {
        self.progress.clear();
        let complete = self.is_complete();
        let (ended, unwanted) = match self.stopped {
            Some((ended, let_on)) => (ended, !let_on),
            None => (Instant::now(), !self.goes_on()),
        };
        let interrupted = unwanted && !complete;
        let (kept, out) = (self.writer.written(), self.out().to_owned());
        let manifest = self.writer.close();
        let manifest = manifest.map_err(|error| RunError::from(error).kept(kept, &out))?;
        self.networks.close(&manifest, complete);
        if complete {
            // One that stays costs space, no more.
            let _ = UnfinishedJobs::default().save(&out);
        }
        let (from, tally) = match &self.warm {
            Some((from, before)) => (*from, tally.since(before)),
            None => (self.started, tally),
        };
        Ok(Report::new(
            &self.settings,
            self.backend,
            device,
            tally,
            cpu_s,
            ended.saturating_duration_since(from).as_secs_f64(),
            manifest,
            interrupted,
        ))
    }

    /// Keeps what is finished after a failure; the failure, with how much that is and how to go on.
    pub fn fail(self, error: RunError) -> RunError {
        self.progress.clear();
        let (mut kept, out) = (self.writer.written(), self.out().to_owned());
        // The failure told is the first one; a second one here would only hide it, and leaves what
        // is written.
        if let Ok(manifest) = self.writer.close() {
            self.networks.close(&manifest, false);
            kept = manifest.rounds_kept;
        }
        error.kept(kept, &out)
    }
}

/// The first round of the first job of which nothing is there, nor of those after it; `done` are
/// the rounds that are there.
fn first_untouched(settings: &Settings, done: &[Range<u64>]) -> u64 {
    let per_job = settings.rounds_per_job();
    let end = done.last().map_or(0, |range| range.end);
    end.div_ceil(per_job) * per_job
}

fn manifest_of(
    settings: &Settings,
    weights: &str,
    backend: BackendKind,
) -> Result<Manifest, ReplayError> {
    // Settings are plain data; that they turn into JSON is an invariant, not an input.
    let json = |settings: &Settings| serde_json::to_value(settings).unwrap_or_default();
    let visits = settings.search().root_visits();
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
    manifest.notes = json(&settings.kept());
    Ok(manifest.holding(MayHold {
        policies: settings.search().has_own_policy(),
        ..MayHold::default()
    }))
}
