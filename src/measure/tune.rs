//! Good settings for this machine in a few minutes: a sweep with sense. It starts from what the
//! network itself says (the time of a batch by its size), so that only batches worth their time are
//! tried; then it turns one setting after another, keeps what is better by more than the noise, and
//! stops when a whole pass has changed nothing or the time is up. The best of many noisy trials
//! looks better than it is: so in the end what was found runs in turns with what it began with, and
//! only those figures are reported. Only settings that leave every result as it is are turned.

use super::stats::{estimate, short};
use super::trial::{TrialError, Trials, settings_file};
use super::{StudyError, make_folder, write_file};
use crate::disk::{self, folder_of};
use crate::engine::{RunError, open_network};
use crate::network::samples;
use crate::pasted::quoted;
use crate::say::note;
use crate::settings::{ParkingChoice, Settings, check_path, cores};
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A change must be better by this much to be kept: less is noise.
const BETTER: f64 = 1.02;
/// Trials of the settings to begin with and of those found, in turns, that decide in the end.
const FINAL_PAIRS: usize = 3;
/// Batch sizes the cost model looks at.
const SIZES: [usize; 7] = [32, 64, 128, 256, 512, 1024, 2048];
/// Longest look at the cost of batches.
const MODEL_TIME: Duration = Duration::from_secs(20);

/// Time of one batch.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    /// Leaves.
    pub batch: usize,
    /// Milliseconds, the best of some.
    pub ms: f64,
}

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
pub struct Effort {
    /// Seconds of each trial that count.
    pub trial_s: f64,
    /// Trials of each change.
    pub repetitions: usize,
    /// Seconds after which no new change is tried.
    pub limit_s: f64,
}

/// One setting, and how a value of it is written and set.
struct Knob {
    name: &'static str,
    values: Vec<String>,
    set: fn(&mut Settings, &str),
}

fn number(value: &str) -> usize {
    value.parse().unwrap_or(0)
}

/// What can be turned without changing a result, in the order of how much it usually matters.
fn knobs(costs: &[Cost]) -> Vec<Knob> {
    let cores = cores();
    let mut workers = vec![
        1,
        cores / 2,
        cores.saturating_sub(1),
        cores,
        cores + cores / 2,
    ];
    workers.retain(|&count| count > 0);
    workers.sort_unstable();
    workers.dedup();
    let text = |values: Vec<usize>| values.iter().map(usize::to_string).collect();
    vec![
        Knob {
            name: "workers",
            values: text(workers),
            set: |settings, value| settings.workers = number(value),
        },
        Knob {
            name: "max_batch",
            values: text(worthwhile(costs)),
            set: |settings, value| settings.max_batch = number(value),
        },
        Knob {
            name: "in_flight",
            // Per worker; a few times less and more than the default's choice for max_batch 512.
            values: text(vec![0, 32, 64, 128, 256, 512]),
            set: |settings, value| settings.in_flight = number(value),
        },
        Knob {
            name: "parking",
            values: vec!["park".into(), "poll".into()],
            set: |settings, value| {
                settings.parking = match value {
                    "poll" => ParkingChoice::Poll,
                    _ => ParkingChoice::Park,
                };
            },
        },
        Knob {
            name: "max_wait_us",
            values: text(vec![0, 200, 2000]),
            set: |settings, value| settings.max_wait_us = number(value) as u64,
        },
        Knob {
            name: "threads",
            values: text(vec![0, (cores / 2).max(1), cores.saturating_sub(1).max(1)]),
            set: |settings, value| settings.threads = number(value),
        },
    ]
}

/// Batch sizes whose leaves are nearly as cheap as the cheapest.
fn worthwhile(costs: &[Cost]) -> Vec<usize> {
    let each = |cost: &Cost| cost.ms / cost.batch as f64;
    let least = costs.iter().map(each).fold(f64::INFINITY, f64::min);
    let good = costs.iter().filter(|cost| each(cost) <= 1.15 * least);
    good.map(|cost| cost.batch).collect()
}

/// The network's time by batch size.
fn cost_model(settings: &Settings) -> Result<Vec<Cost>, StudyError> {
    let settings = settings.clone().resolve();
    let most = SIZES[SIZES.len() - 1];
    let mut backend = open_network(&settings, most)?;
    let requests = samples::requests(most);
    let begun = Instant::now();
    let mut costs = Vec::new();
    for batch in SIZES {
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            let started = Instant::now();
            backend.requests(0)[..batch].copy_from_slice(&requests[..batch]);
            backend.run(batch).map_err(RunError::from)?;
            best = best.min(started.elapsed().as_secs_f64() * 1e3);
        }
        costs.push(Cost { batch, ms: best });
        if begun.elapsed() > MODEL_TIME {
            break;
        }
    }
    Ok(costs)
}

/// The settings file to write.
struct Target {
    file: PathBuf,
    /// Of a file that nobody named: what was there before, which is all that may be replaced.
    /// Another tuning may be under way.
    before: Option<Option<Vec<u8>>>,
}

impl Target {
    /// `tuned.toml`, if no file is named.
    fn new(named: Option<&Path>) -> Result<Target, StudyError> {
        let file = named.unwrap_or(Path::new("tuned.toml")).to_owned();
        check_path("out", &file)?;
        let before = named.is_none().then(|| std::fs::read(&file).ok());
        Ok(Target { file, before })
    }

    /// Writes the file, or another beside it if somebody else has written it since; which.
    fn write(&self, text: &str) -> Result<PathBuf, StudyError> {
        let mut file = self.file.clone();
        if self
            .before
            .as_ref()
            .is_some_and(|before| *before != std::fs::read(&file).ok())
        {
            let is_free = |file: &PathBuf| std::fs::symlink_metadata(file).is_err();
            let mut others =
                (2_u32..).map(|number| self.file.with_extension(format!("{number}.toml")));
            file = others.find(is_free).unwrap_or(file);
        }
        write_file(&file, text)?;
        Ok(file)
    }
}

/// What the changes tried one after the other have come to.
struct Climb {
    best: Settings,
    /// Evaluations per second of the best, by its own trials alone.
    fastest: f64,
    steps: Vec<Step>,
}

impl Climb {
    /// Tries every value of every knob, again and again until nothing helps any more or the time is
    /// up.
    ///
    /// # Errors
    /// When not even the settings to begin with run, or the user interrupts; `best` is then the
    /// best so far.
    fn run(
        &mut self,
        costs: &[Cost],
        effort: Effort,
        trials: &mut Trials,
    ) -> Result<(), StudyError> {
        let begun = Instant::now();
        self.fastest = rate(trials, &self.best, effort)?
            .map_err(|why| TrialError::Failed(format!("the settings to begin with fail: {why}")))?;
        note!("to begin with: {} evaluations/s", short(self.fastest));
        let mut tried = vec![self.best.clone()];
        loop {
            let mut changed = false;
            for knob in knobs(costs) {
                for value in &knob.values {
                    if begun.elapsed().as_secs_f64() > effort.limit_s {
                        return Ok(());
                    }
                    let mut settings = self.best.clone();
                    (knob.set)(&mut settings, value);
                    if tried.contains(&settings) || settings.check().is_err() {
                        continue;
                    }
                    tried.push(settings.clone());
                    // One that fails is simply not better.
                    let found = rate(trials, &settings, effort)?.unwrap_or(0.0);
                    changed |= self.weigh(format!("{} = {value}", knob.name), settings, found);
                }
            }
            if !changed {
                return Ok(());
            }
        }
    }

    /// Keeps a change that is better; whether it is.
    fn weigh(&mut self, change: String, settings: Settings, found: f64) -> bool {
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
pub fn run(base: &Settings, effort: Effort, file: Option<&Path>) -> Result<Tuned, StudyError> {
    base.check()?;
    let target = Target::new(file)?;
    // Now, and not after minutes of measuring.
    disk::check_writable(&target.file)?;
    note!("the network's time by batch");
    let costs = cost_model(base)?;
    let folder = folder_of(&target.file);
    make_folder(folder)?;
    let mut trials = Trials::new(folder)?;
    let mut climb = Climb {
        best: base.clone(),
        fastest: 0.0,
        steps: Vec::new(),
    };
    let measured = climb
        .run(&costs, effort, &mut trials)
        .and_then(|()| final_trials(&mut trials, base, &mut climb.best, effort));
    drop(trials);
    let [before, after] = match measured {
        Ok(rates) => rates,
        Err(StudyError::Trial(TrialError::Interrupted)) => {
            return Err(StudyError::Interrupted(keep(&climb, base, &target)?));
        }
        Err(error) => return Err(error),
    };
    let gain = after / before.max(1e-9);
    let head = format!(
        "# Found by ringmaster tune: {} evaluations per second, {gain:.2} times the settings to begin with.\n",
        short(after)
    );
    let file = target.write(&(head + &settings_file(&climb.best)))?;
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
fn keep(climb: &Climb, base: &Settings, target: &Target) -> Result<String, StudyError> {
    if climb.best == *base {
        return Ok("nothing better was found yet, and nothing written".into());
    }
    let head = format!(
        "# The best that an interrupted ringmaster tune had found, by its own trials alone: {} evaluations per second.\n",
        short(climb.fastest)
    );
    let file = target.write(&(head + &settings_file(&climb.best)))?;
    Ok(format!(
        "the best so far is in {}, not yet measured in turns; go on from there with: ringmaster tune --config {}",
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
    effort: Effort,
) -> Result<[f64; 2], StudyError> {
    let mut rates = [Vec::new(), Vec::new()];
    let mut contenders = vec![base];
    contenders.extend((best != base).then_some(&*best));
    for pair in 1..=FINAL_PAIRS {
        note!("final trials: {pair} of {FINAL_PAIRS}");
        for (settings, rates) in contenders.iter().zip(&mut rates) {
            // One that fails now cannot be relied on.
            rates.push(rate(trials, settings, effort)?.unwrap_or(0.0));
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
    effort: Effort,
) -> Result<Result<f64, String>, StudyError> {
    let warm_up_s = effort.trial_s / 3.0;
    let settings = Settings {
        rounds: None,
        games: 0,
        seconds: effort.trial_s + warm_up_s,
        warm_up_s,
        ..settings.clone()
    };
    let mut rates = Vec::new();
    for _ in 0..effort.repetitions.max(1) {
        match trials.play(&settings) {
            Ok(report) => rates.push(report["evaluations_per_s"].as_f64().unwrap_or(0.0)),
            Err(TrialError::Failed(why)) => return Ok(Err(why)),
            Err(TrialError::Interrupted) => return Err(TrialError::Interrupted.into()),
        }
    }
    Ok(Ok(estimate(&rates).map_or(0.0, |estimate| estimate.median)))
}

impl Tuned {
    /// The findings for the terminal.
    pub fn table(&self) -> String {
        let mut text = String::from("batch      ms   us/leaf\n");
        for cost in &self.costs {
            let each = 1000.0 * cost.ms / cost.batch as f64;
            let _ = writeln!(text, "{:>5}{:>8.2}{:>10.1}", cost.batch, cost.ms, each);
        }
        for step in &self.steps {
            let mark = if step.kept { "*" } else { " " };
            let _ = writeln!(
                text,
                "{mark} {:<20}{:>12} evaluations/s",
                step.change,
                short(step.evaluations_per_s)
            );
        }
        let _ = if self.after > self.before {
            writeln!(
                text,
                "in turns: {} evaluations/s to begin with, {} as found ({:.2} times)",
                short(self.before),
                short(self.after),
                self.after / self.before.max(1e-9)
            )
        } else {
            writeln!(
                text,
                "in turns nothing was faster than the settings to begin with ({} evaluations/s)",
                short(self.before)
            )
        };
        let _ = write!(text, "ringmaster selfplay --config {}", quoted(&self.file));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_search_keeps_what_was_better() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tuned.toml");
        let base = Settings::default();
        let mut climb = Climb {
            best: base.clone(),
            fastest: 100.0,
            steps: Vec::new(),
        };
        let with = |max_batch| Settings {
            max_batch,
            ..base.clone()
        };
        assert!(!climb.weigh("max_batch = 64".into(), with(64), 101.0));
        let target = Target::new(Some(&file)).unwrap();
        let told = keep(&climb, &base, &target).unwrap();
        assert!(told.contains("nothing written") && !file.exists(), "{told}");
        assert!(climb.weigh("max_batch = 128".into(), with(128), 103.0));
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
        assert!(knobs(&costs).iter().all(|knob| !knob.values.is_empty()));
    }
}
