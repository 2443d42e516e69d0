//! Settings against each other: every combination of a spec is a trial, run as a process of its
//! own, repeated in random order so that whatever else the machine does falls on all alike.
//! Finished trials are kept as they finish; a sweep that was stopped or killed goes on where it was
//! when started again.

mod check;
mod combination;
mod journal;
mod metric;
mod plots;
mod show;
mod spec;
mod summary;

pub use check::{CheckedSpec, check, load};
pub use combination::Combination;
pub use journal::{Keys, TrialEntry, TrialJournal};
pub use metric::{Best, Constraint, POLICY_DISTANCE};
pub use show::{page, table};
pub use spec::{Measure, Spec};
pub use summary::{Summary, best, summarize};

use super::positions::Reference;
use super::trial::{Trials, settings_file};
use super::{StudyError, write_table};
use crate::disk;
use crate::engine::{RunError, weights_of};
use crate::network;
use crate::plural::counted;
use crate::say::note;
use crate::settings::{ENDLESS, Settings, check_path};
use rand::seq::SliceRandom;
use rand::{SeedableRng, rngs::StdRng};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// A spec that makes no sense, in words.
fn refused(what: impl Into<String>) -> StudyError {
    StudyError::usage(what, "")
}

/// How `best.toml` begins.
const BEST: &str = "# Best by ";

/// What a sweep found.
pub struct Outcome {
    /// Every trial of the spec.
    pub entries: Vec<TrialEntry>,
    /// Trials that this start of the sweep ran; the rest was there.
    pub ran: usize,
    /// The best combination's settings, written to `best.toml`.
    pub best: Option<PathBuf>,
}

impl Outcome {
    /// Trials that failed.
    pub fn failed(&self) -> usize {
        let failed = self.entries.iter().filter(|entry| entry.failed.is_some());
        failed.count()
    }
}

/// Runs what is left of a sweep and writes `trials.csv`, `best.toml` and `sweep.html` to `out`.
///
/// # Errors
/// When files cannot be written or the user interrupts; trials that fail are no errors here, and
/// tried again by the next start.
pub fn run(checked: &CheckedSpec, out: &Path) -> Result<Outcome, StudyError> {
    check_path("out", out)?;
    let file = out.join("trials.jsonl");
    if !file.exists() {
        check_backends(checked)?;
    }
    disk::make_folder(out)?;
    let mut journal = TrialJournal::open(&file)?;
    if let Some(note) = &journal.note {
        note!("{note}");
    }
    let mut keys = Keys::new()?;
    let mut trials = Vec::new();
    for repetition in 1..=checked.spec.trial.repetitions {
        for combination in &checked.combinations {
            let key = keys.key(&combination.settings, repetition)?;
            trials.push((key, repetition, combination));
        }
    }
    let wanted: Vec<String> = trials.iter().map(|(key, ..)| key.clone()).collect();
    let seed = checked.spec.trial.order_seed;
    // Shuffled within each repetition: all combinations once, then all again.
    for (block, chunk) in trials.chunks_mut(checked.combinations.len()).enumerate() {
        chunk.shuffle(&mut StdRng::seed_from_u64(seed.wrapping_add(block as u64)));
    }
    let mut player = Trials::new(out)?;
    let mut distances = Distances::new(checked);
    let (total, mut ran) = (trials.len(), 0);
    for (place, (key, repetition, combination)) in trials.into_iter().enumerate() {
        if journal.is_done(&key) {
            continue;
        }
        note!("{}/{total}  {}", place + 1, describe(checked, combination));
        let (policy_distance, played) = distances
            .of(&combination.settings, &player)
            .and_then(|distance| Ok((distance, played(&mut player, &combination.settings)?)))
            .map_err(|error| {
                error.keeping(|| {
                    let kept = wanted.iter().filter(|key| journal.is_done(key));
                    let (kept, of) = (kept.count(), counted(total, "trial"));
                    format!("{kept} of {of} kept; the same command goes on with the rest")
                })
            })?;
        journal.push(TrialEntry {
            key,
            repetition,
            values: combination.values.clone(),
            failed: played.as_ref().err().cloned(),
            report: played.unwrap_or_default(),
            policy_distance,
        })?;
        ran += 1;
    }
    drop(player);
    let entries = wanted.iter().filter_map(|key| journal.find(key).cloned());
    let entries: Vec<TrialEntry> = entries.collect();
    let best = write_all(checked, &entries, out)?;
    Ok(Outcome { entries, ran, best })
}

/// What a trial reported, or why it failed.
///
/// # Errors
/// The user's interruption.
fn played(trials: &mut Trials, settings: &Settings) -> Result<Result<Value, String>, StudyError> {
    match trials.play(settings) {
        Err(StudyError::Trial(why)) => {
            note!("  failed: {why}");
            Ok(Err(why))
        }
        report => report.map(Ok),
    }
}

/// Refuses a sweep that no combination of could run on this machine, instead of letting every trial
/// fail.
fn check_backends(checked: &CheckedSpec) -> Result<(), StudyError> {
    let mut refused = Ok(());
    let mut known = Vec::new();
    for Combination { settings, .. } in &checked.combinations {
        let kind = (settings.backend, &settings.weights);
        if known.contains(&kind) {
            continue;
        }
        known.push(kind);
        let weights = weights_of(settings).map_err(RunError::from)?;
        match network::choose(settings.backend, weights.shape()) {
            Ok(_) => return Ok(()),
            Err(error) => refused = Err(RunError::from(error).into()),
        }
    }
    refused
}

/// A combination in words.
fn describe(checked: &CheckedSpec, combination: &Combination) -> String {
    let pairs = checked.swept.iter().zip(&combination.values);
    let words = pairs.map(|(name, value)| format!("{name}={value}"));
    words.collect::<Vec<String>>().join(" ")
}

/// Policy distances, measured once for each way of searching.
struct Distances {
    wanted: bool,
    rounds: u64,
    /// By table, search and weights: the positions.
    references: Vec<(Settings, Reference)>,
    known: Vec<(Settings, f64)>,
}

impl Distances {
    fn new(checked: &CheckedSpec) -> Distances {
        Distances {
            wanted: checked.needs_distance(),
            rounds: checked.spec.trial.reference_rounds.max(1),
            references: Vec::new(),
            known: Vec::new(),
        }
    }

    fn of(&mut self, settings: &Settings, trials: &Trials) -> Result<Option<f64>, StudyError> {
        if !self.wanted {
            return Ok(None);
        }
        let search = Settings {
            weights: settings.weights.clone(),
            backend: settings.backend,
            rounds: Some(self.rounds),
            ..settings.determining()
        };
        if let Some((_, distance)) = self.known.iter().find(|(known, _)| *known == search) {
            return Ok(Some(*distance));
        }
        let alone = Settings {
            leaves: 1,
            ..search.clone()
        };
        if !self.references.iter().any(|(known, _)| *known == alone) {
            let reference = Reference::play(&alone, self.rounds, trials)?;
            self.references.push((alone.clone(), reference));
        }
        let reference = self.references.iter().find(|(known, _)| *known == alone);
        let Some((_, reference)) = reference else {
            return Ok(None);
        };
        let distance = reference.distance(&search, trials)?.tv_mean;
        self.known.push((search, distance));
        Ok(Some(distance))
    }
}

/// Writes table, best settings and page; the path of the best settings, if any combination may be
/// best.
fn write_all(
    checked: &CheckedSpec,
    entries: &[TrialEntry],
    out: &Path,
) -> Result<Option<PathBuf>, StudyError> {
    write_table(&out.join("trials.csv"), &trial_rows(checked, entries))?;
    let summaries = summarize(checked, entries);
    let page = page(checked, entries, &summaries);
    disk::write(&out.join("sweep.html"), page.as_bytes())?;
    let path = out.join("best.toml");
    let Some(best) = best(checked, &summaries) else {
        // One from an earlier spec would be taken for this one's. Anything else by that name is not
        // a sweep's to remove.
        let is_own = fs::read(&path).is_ok_and(|text| text.starts_with(BEST.as_bytes()));
        if is_own {
            fs::remove_file(&path).map_err(StudyError::file("remove", &path))?;
        }
        return Ok(None);
    };
    let figure = summaries[0].metric.map_or(0.0, |estimate| estimate.median);
    disk::write(&path, best_toml(checked, best, figure).as_bytes())?;
    Ok(Some(path))
}

/// The best settings as `selfplay --config` takes them, without the measuring.
fn best_toml(checked: &CheckedSpec, best: &Combination, figure: f64) -> String {
    let settings = Settings {
        seconds: 0.0,
        warm_up_s: 0.0,
        rounds: match best.settings.rounds {
            Some(0 | ENDLESS) => None,
            rounds => rounds,
        },
        ..best.settings.clone()
    };
    let (metric, settings) = (&checked.spec.best.metric, settings_file(&settings));
    let combinations = counted(checked.combinations.len(), "combination");
    format!("{BEST}{metric} ({figure:.4}, median) of {combinations}.\n{settings}")
}

/// A line of headings and one per trial: swept settings, reason of failure, every figure of its
/// report that is a number.
fn trial_rows(checked: &CheckedSpec, entries: &[TrialEntry]) -> Vec<Vec<String>> {
    let report = entries.iter().find_map(|entry| entry.report.as_object());
    let figures = report.into_iter().flatten();
    let figures =
        figures.filter(|(name, value)| value.is_number() && !checked.swept.contains(name));
    let figures: Vec<&String> = figures.map(|(name, _)| name).collect();
    let head = ["key", "repetition", "failed", POLICY_DISTANCE].map(str::to_owned);
    let names = checked.swept.iter().chain(figures.iter().copied());
    let mut rows = vec![head.into_iter().chain(names.cloned()).collect()];
    for entry in entries {
        let distance = entry.policy_distance.map(|distance| distance.to_string());
        let head = [
            entry.key.clone(),
            entry.repetition.to_string(),
            entry.failed.clone().unwrap_or_default(),
            distance.unwrap_or_default(),
        ];
        let told = figures
            .iter()
            .map(|name| match &entry.report[name.as_str()] {
                Value::Null => String::new(),
                figure => figure.to_string(),
            });
        let values = entry.values.iter().cloned();
        rows.push(head.into_iter().chain(values).chain(told).collect());
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it is for `selfplay`, pasted under `[base]` for the next sweep.
    #[test]
    fn the_best_settings_run_and_may_be_swept_again() {
        let spec = "[base]\ncards = 3\nsearch = { c_puct = 1.7 }\n[grid]\nworkers = [1, 2]\n";
        let checked = check(toml::from_str(spec).unwrap()).unwrap();
        let text = best_toml(&checked, &checked.combinations[1], 0.0);
        let settings: Settings = toml::from_str(&text).unwrap();
        let defaults = Settings::default();
        assert_eq!((settings.workers, settings.cards), (2, 3));
        assert_eq!(settings.search.c_puct, 1.7);
        assert_eq!((settings.rounds, settings.seconds), (defaults.rounds, 0.0));
        let again = format!("[grid]\nmax_batch = [8, 16]\n[base]\n{text}");
        let again = check(toml::from_str(&again).unwrap()).unwrap();
        for combination in &again.combinations {
            let settings = &combination.settings;
            assert_eq!((settings.workers, settings.cards), (2, 3));
            assert_eq!(settings.search.c_puct, 1.7);
        }
    }
}
