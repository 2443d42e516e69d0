//! Reads a spec and checks all of it before the first trial runs, down to the settings of every
//! combination.

use super::combination::{Combination, check_free, combinations, names};
use super::metric::{Constraint, POLICY_DISTANCE, constraint, known_metric};
use super::refused;
use super::spec::{Measure, Spec};
use crate::input;
use crate::measure::StudyError;
use std::path::Path;
use toml::Table;

/// Most of a spec that is read.
const SPEC_BYTES_MAX: u64 = 1 << 20;
/// Repetitions of each.
const MOST_REPETITIONS: usize = 1000;
/// Trials, which are both together.
const MOST_TRIALS: usize = 1_000_000;

/// A spec that has been checked.
pub struct CheckedSpec {
    /// The spec.
    pub spec: Spec,
    /// Names of the swept settings, sorted as in the file's tables.
    pub swept: Vec<String>,
    /// What is tried.
    pub combinations: Vec<Combination>,
    /// The constraints, understood.
    pub constraints: Vec<Constraint>,
}

impl CheckedSpec {
    /// Does the metric or a constraint need policies compared?
    pub fn needs_distance(&self) -> bool {
        let constrained = self.constraints.iter().any(|c| c.metric == POLICY_DISTANCE);
        constrained || self.spec.best.metric == POLICY_DISTANCE
    }
}

/// Reads and checks a spec.
///
/// # Errors
/// One line: what is wrong, and where.
pub fn load(path: &Path) -> Result<CheckedSpec, StudyError> {
    let bytes = input::read_once(path, SPEC_BYTES_MAX).map_err(StudyError::file("read", path))?;
    let named = |what: String| refused(format!("{}: {what}", path.display()));
    let text = String::from_utf8(bytes).map_err(|_| named("no text (UTF-8)".into()))?;
    let spec: Spec = toml::from_str(&text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = text[..start].matches('\n').count() + 1;
        named(format!(
            "line {line}: {}",
            error.message().replace('\n', " ")
        ))
    })?;
    let mut checked = check(spec).map_err(|error| named(error.to_string()))?;
    for combination in &mut checked.combinations {
        let settings = std::mem::take(&mut combination.settings);
        combination.settings = settings.from_folder(input::base_folder(path));
    }
    Ok(checked)
}

/// Checks a spec.
///
/// # Errors
/// As [`load`], without the file's name.
pub fn check(spec: Spec) -> Result<CheckedSpec, StudyError> {
    let constraints = spec.best.constraints.iter().map(|text| constraint(text));
    let constraints = constraints.collect::<Result<Vec<Constraint>, _>>()?;
    known_metric(&spec.best.metric)?;
    check_measure(&spec.trial)?;
    let drawn = spec.random.as_ref().map(|random| &random.space);
    let keys = spec
        .grid
        .keys()
        .chain(drawn.into_iter().flat_map(Table::keys));
    let swept: Vec<String> = keys.flat_map(|key| names(key)).collect();
    if swept.is_empty() {
        return Err(refused(
            "nothing to sweep: name settings and their values in [grid] or [random.space]",
        ));
    }
    if let Some(twice) = (1..swept.len()).find(|&place| swept[..place].contains(&swept[place])) {
        return Err(refused(format!("{} is swept twice", swept[twice])));
    }
    check_free(&spec.base, &swept)?;
    let combinations = combinations(&spec)?;
    if combinations.len().saturating_mul(spec.trial.repetitions) > MOST_TRIALS {
        return Err(refused(format!(
            "{} combinations, {} times each, are more than {MOST_TRIALS} trials",
            combinations.len(),
            spec.trial.repetitions
        )));
    }
    Ok(CheckedSpec {
        swept,
        combinations,
        constraints,
        spec,
    })
}

fn check_measure(trial: &Measure) -> Result<(), StudyError> {
    let repetitions = trial.repetitions;
    if !(1..=MOST_REPETITIONS).contains(&repetitions) {
        return Err(refused(format!(
            "trial.repetitions is {repetitions}: it must be 1 to {MOST_REPETITIONS}"
        )));
    }
    for (name, value) in [("seconds", trial.seconds), ("warm_up_s", trial.warm_up_s)] {
        if !(value >= 0.0 && value.is_finite()) {
            return Err(refused(format!(
                "trial.{name} is {value}: it must be 0 or more"
            )));
        }
    }
    if trial.seconds == 0.0 && trial.rounds == 0 {
        return Err(refused("a trial needs seconds or rounds in [trial]"));
    }
    Ok(())
}
