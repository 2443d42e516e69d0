//! Good settings for this machine in a few minutes: a sweep with sense. It starts from what the
//! network itself says (the time of a batch by its size), so that only batches worth their time are
//! tried; then it turns one setting after another, keeps what is better by more than the noise, and
//! stops when a whole pass has changed nothing or the time is up. The best of many noisy trials
//! looks better than it is: so in the end what was found runs in turns with what it began with, and
//! only those figures are reported. Only settings that leave every result as it is are turned.

use super::StudyError;
use super::batch_costs::{BATCHES, Cost, time_batches};
use super::stats::{estimate, short};
use super::trial::{Trials, plain, settings_file, table_of};
use crate::disk::{self, folder_of};
use crate::engine::{RunError, weights_of};
use crate::network;
use crate::pasted::quoted;
use crate::say::note;
use crate::settings::{Settings, check_path, cores};
use serde::Serialize;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use toml::Value;

/// A change must be better by this much to be kept: less is noise.
const BETTER: f64 = 1.02;
/// Trials of the settings to begin with and of those found, in turns, that decide in the end.
const FINAL_PAIRS: usize = 3;
/// Longest time that batches are measured for: those of a huge network take minutes each.
const BATCHES_TIME: Duration = Duration::from_secs(20);

/// One thing tried.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// What was changed, as in a settings file.
    pub change: String,
    /// Unique evaluations per second, median.
    pub evaluations_per_s: f64,
    /// Was it kept?
    pub kept: bool,
}

/// What tuning found.
#[derive(Clone, Debug, Serialize)]
pub struct Tuned {
    /// The network's cost by batch.
    pub costs: Vec<Cost>,
    /// What was tried, in order.
    pub steps: Vec<Step>,
    /// Unique evaluations per second with the settings to begin with, in the final trials.
    pub before: f64,
    /// With what was found; the same settings if that proved no better.
    pub after: f64,
    /// The settings, for `selfplay --config`.
    pub file: PathBuf,
}

/// How thoroughly.
#[derive(Clone, Copy, Debug)]
pub struct TuneBudget {
    /// Seconds of each trial that count.
    pub trial_s: f64,
    /// Trials of each change.
    pub repetitions: usize,
    /// Seconds after which no new change is tried.
    pub limit_s: f64,
}

/// Settings that change no result and the values to try, those that matter most first.
fn candidates(costs: &[Cost]) -> [(&'static str, Vec<Value>); 6] {
    let cores = cores();
    let mut workers = vec![1, cores / 2, cores - 1, cores, cores + cores / 2];
    workers.retain(|&count| count > 0);
    workers.sort_unstable();
    workers.dedup();
    let numbers = |values: &[usize]| values.iter().map(|&n| Value::from(n as i64)).collect();
    [
        ("workers", numbers(&workers)),
        ("max_batch", numbers(&worthwhile(costs))),
        // Per worker; a few times less and more than the default's choice for max_batch 512.
        ("in_flight", numbers(&[0, 32, 64, 128, 256, 512])),
        ("parking", vec!["park".into(), "poll".into()]),
        ("max_wait_us", numbers(&[0, 200, 2000])),
        (
            "threads",
            numbers(&[0, (cores / 2).max(1), (cores - 1).max(1)]),
        ),
    ]
}

/// The settings with one of them changed; none if those cannot run.
fn changed(settings: &Settings, name: &str, value: &Value) -> Option<Settings> {
    let mut table = table_of(settings);
    table.insert(name.to_owned(), value.clone());
    let settings: Settings = table.try_into().ok()?;
    settings.check().is_ok().then_some(settings)
}

/// Batch sizes whose leaves are nearly as cheap as the cheapest.
fn worthwhile(costs: &[Cost]) -> Vec<usize> {
    let each = |cost: &Cost| cost.ms / cost.batch as f64;
    let least = costs.iter().map(each).fold(f64::INFINITY, f64::min);
    let good = costs.iter().filter(|cost| each(cost) <= 1.15 * least);
    good.map(|cost| cost.batch).collect()
}

/// The network's time by batch size.
fn costs_of_batches(settings: &Settings) -> Result<Vec<Cost>, StudyError> {
    let settings = settings.clone().resolve();
    let weights = weights_of(&settings).map_err(RunError::from)?;
    let chosen = network::choose(settings.backend, weights.shape()).map_err(RunError::from)?;
    let limits = network::Limits {
        max_batch: BATCHES.1,
        ..settings.limits()
    };
    let mut backend = network::open(chosen.kind, &weights, limits).map_err(RunError::from)?;
    Ok(time_batches(backend.as_mut(), BATCHES_TIME).map_err(RunError::from)?)
}

/// The settings file to write.
struct Target {
    file: PathBuf,
    /// Of a file that nobody named: what was there before, which is all that may be replaced.
    /// Another tuning may be under way.
    before: Option<Option<Vec<u8>>>,
}

impl Target {
    /// `tuned.toml`, if no file is named. That it can be written is known now, and not after
    /// minutes of measuring.
    fn new(named: Option<&Path>) -> Result<Target, StudyError> {
        let file = named.unwrap_or(Path::new("tuned.toml")).to_owned();
        check_path("out", &file)?;
        let before = named.is_none().then(|| fs::read(&file).ok());
        disk::check_writable(&file)?;
        Ok(Target { file, before })
    }

    /// Writes the best settings below a comment, or to another file beside it if somebody else has
    /// written it since; where.
    fn write(&self, comment: &str, best: &Settings) -> Result<PathBuf, StudyError> {
        let mut file = self.file.clone();
        if self
            .before
            .as_ref()
            .is_some_and(|before| *before != fs::read(&file).ok())
        {
            let others = (2_u32..).map(|nth| self.file.with_extension(format!("{nth}.toml")));
            let is_free = |file: &PathBuf| fs::symlink_metadata(file).is_err();
            file = others.into_iter().find(is_free).unwrap_or(file);
        }
        let text = format!("# {comment}\n{}", settings_file(best));
        disk::write(&file, text.as_bytes())?;
        Ok(file)
    }
}

/// Settings that get better by one change after the other.
struct HillClimb {
    best: Settings,
    /// Evaluations per second of the best, by its own trials alone.
    fastest: f64,
    steps: Vec<Step>,
}

impl HillClimb {
    /// Tries every candidate, again and again until nothing helps any more or the time is up.
    ///
    /// # Errors
    /// When not even the settings to begin with run, or the user interrupts; `best` is then the
    /// best so far.
    fn run(
        &mut self,
        costs: &[Cost],
        budget: TuneBudget,
        trials: &mut Trials,
    ) -> Result<(), StudyError> {
        let begun = Instant::now();
        self.fastest = rate(trials, &self.best, budget)?
            .map_err(|why| StudyError::Trial(format!("the settings to begin with fail: {why}")))?;
        note!("to begin with: {} evaluations/s", short(self.fastest));
        let mut tried = vec![self.best.clone()];
        loop {
            let mut kept = false;
            for (name, values) in candidates(costs) {
                for value in &values {
                    if begun.elapsed().as_secs_f64() > budget.limit_s {
                        return Ok(());
                    }
                    let settings = changed(&self.best, name, value);
                    let Some(settings) = settings.filter(|all| !tried.contains(all)) else {
                        continue;
                    };
                    tried.push(settings.clone());
                    // One that fails is simply not better.
                    let found = rate(trials, &settings, budget)?.unwrap_or(0.0);
                    let change = format!("{name} = {}", plain(value));
                    kept |= self.keep_if_better(change, settings, found);
                }
            }
            if !kept {
                return Ok(());
            }
        }
    }

    /// Keeps a change that is better; whether it is.
    fn keep_if_better(&mut self, change: String, settings: Settings, found: f64) -> bool {
        let kept = found > BETTER * self.fastest;
        let told = if kept { ", kept" } else { "" };
        note!("{change}: {} evaluations/s{told}", short(found));
        if kept {
            (self.best, self.fastest) = (settings, found);
        }
        self.steps.push(Step {
            change,
            evaluations_per_s: found,
            kept,
        });
        kept
    }
}

/// Tunes for `base`'s table and search, and writes the settings to `file`; by default to
/// `tuned.toml`.
///
/// # Errors
/// When not even the defaults run, files cannot be written, or the user interrupts; what was better
/// so far is then in `file`.
pub fn run(base: &Settings, budget: TuneBudget, file: Option<&Path>) -> Result<Tuned, StudyError> {
    base.check()?;
    let target = Target::new(file)?;
    note!("the network's time by batch");
    let costs = costs_of_batches(base)?;
    let mut trials = Trials::new(folder_of(&target.file))?;
    let mut climb = HillClimb {
        best: base.clone(),
        fastest: 0.0,
        steps: Vec::new(),
    };
    let measured = climb
        .run(&costs, budget, &mut trials)
        .and_then(|()| final_trials(&mut trials, base, &mut climb.best, budget));
    drop(trials);
    let [before, after] = match measured {
        Err(StudyError::Interrupted(_)) => {
            return Err(StudyError::Interrupted(keep(&climb, base, &target)?));
        }
        measured => measured?,
    };
    let (rate, gain) = (short(after), after / before.max(1e-9));
    let comment = format!(
        "Found by ringmaster tune: {rate} evaluations per second, {gain:.2} times the settings to \
         begin with."
    );
    let file = target.write(&comment, &climb.best)?;
    Ok(Tuned {
        costs,
        steps: climb.steps,
        before,
        after,
        file,
    })
}

/// Writes what an interrupted search has come to, if anything; what there is and how to go on, in
/// words.
fn keep(climb: &HillClimb, base: &Settings, target: &Target) -> Result<String, StudyError> {
    if climb.best == *base {
        return Ok("nothing better was found yet, and nothing written".into());
    }
    let rate = short(climb.fastest);
    let comment = format!(
        "The best that an interrupted ringmaster tune had found, by its own trials alone: {rate} \
         evaluations per second."
    );
    let file = target.write(&comment, &climb.best)?;
    Ok(format!(
        "the best so far is in {}, not yet measured in turns; go on from there with: \
         ringmaster tune --config {}",
        file.display(),
        quoted(&file)
    ))
}

/// What was found in turns with what it began with; evaluations per second of both. If it is no
/// better, it is given up.
fn final_trials(
    trials: &mut Trials,
    base: &Settings,
    best: &mut Settings,
    budget: TuneBudget,
) -> Result<[f64; 2], StudyError> {
    let mut rates = [Vec::new(), Vec::new()];
    let mut contenders = vec![base];
    contenders.extend((best != base).then_some(&*best));
    for pair in 1..=FINAL_PAIRS {
        note!("final trials: {pair} of {FINAL_PAIRS}");
        for (settings, rates) in contenders.iter().zip(&mut rates) {
            // One that fails now cannot be relied on.
            rates.push(rate(trials, settings, budget)?.unwrap_or(0.0));
        }
    }
    let median = |rates: &[f64]| estimate(rates).map_or(0.0, |estimate| estimate.median);
    let [before, after] = [&rates[0], &rates[1]].map(|rates| median(rates));
    if after > before {
        return Ok([before, after]);
    }
    *best = base.clone();
    Ok([before, before])
}

/// Evaluations per second, median of some trials; or why they fail.
fn rate(
    trials: &mut Trials,
    settings: &Settings,
    budget: TuneBudget,
) -> Result<Result<f64, String>, StudyError> {
    let warm_up_s = budget.trial_s / 3.0;
    let settings = Settings {
        rounds: None,
        games: 0,
        seconds: budget.trial_s + warm_up_s,
        warm_up_s,
        ..settings.clone()
    };
    let mut rates = Vec::new();
    for _ in 0..budget.repetitions.max(1) {
        match trials.play(&settings) {
            Err(StudyError::Trial(why)) => return Ok(Err(why)),
            report => rates.push(report?["evaluations_per_s"].as_f64().unwrap_or(0.0)),
        }
    }
    Ok(Ok(estimate(&rates).map_or(0.0, |estimate| estimate.median)))
}

impl Tuned {
    /// The findings for the terminal.
    pub fn table(&self) -> String {
        let mut text = String::from("batch      ms   us/leaf\n");
        for Cost { batch, ms } in &self.costs {
            let each = 1000.0 * ms / *batch as f64;
            let _ = writeln!(text, "{batch:>5}{ms:>8.2}{each:>10.1}");
        }
        for step in &self.steps {
            let mark = if step.kept { "*" } else { " " };
            let rate = short(step.evaluations_per_s);
            let _ = writeln!(text, "{mark} {:<20}{rate:>12} evaluations/s", step.change);
        }
        let [before, after] = [self.before, self.after].map(short);
        let _ = if self.after > self.before {
            let gain = self.after / self.before.max(1e-9);
            writeln!(
                text,
                "in turns: {before} evaluations/s to begin with, {after} as found ({gain:.2} times)"
            )
        } else {
            writeln!(
                text,
                "in turns nothing was faster than the settings to begin with ({before} \
                 evaluations/s)"
            )
        };
        let _ = write!(text, "ringmaster selfplay --config {}", quoted(&self.file));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::ParkingChoice;

    #[test]
    fn an_interrupted_search_keeps_what_was_better() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tuned.toml");
        let base = Settings::default();
        let mut climb = HillClimb {
            best: base.clone(),
            fastest: 100.0,
            steps: Vec::new(),
        };
        let with = |max_batch| Settings {
            max_batch,
            ..base.clone()
        };
        assert!(!climb.keep_if_better("max_batch = 64".into(), with(64), 101.0));
        let target = Target::new(Some(&file)).unwrap();
        let told = keep(&climb, &base, &target).unwrap();
        assert!(told.contains("nothing written") && !file.exists(), "{told}");
        assert!(climb.keep_if_better("max_batch = 128".into(), with(128), 103.0));
        let told = keep(&climb, &base, &target).unwrap();
        assert!(told.contains("tune --config"), "{told}");
        assert_eq!(Settings::load(&file).unwrap(), with(128));
        let kept: Vec<bool> = climb.steps.iter().map(|step| step.kept).collect();
        assert_eq!((kept, climb.fastest), (vec![false, true], 103.0));
    }

    #[test]
    fn only_batches_worth_their_time_are_tried() {
        let cost = |batch, ms| Cost { batch, ms };
        let costs = [
            cost(32, 3.0),
            cost(64, 4.0),
            cost(128, 7.0),
            cost(256, 14.4),
        ];
        assert_eq!(worthwhile(&costs), [64, 128, 256]);
        let base = Settings::default();
        for (name, values) in candidates(&costs) {
            let runs = values
                .iter()
                .filter(|value| changed(&base, name, value).is_some());
            assert!(!values.is_empty() && runs.count() == values.len(), "{name}");
        }
        let poll = changed(&base, "parking", &"poll".into()).unwrap();
        assert_eq!(
            poll,
            Settings {
                parking: ParkingChoice::Poll,
                ..base
            }
        );
    }
}
