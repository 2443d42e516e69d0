//! What a sweep is asked for: a TOML file of settings in common, a grid or a random sample over any of
//! the others, how each trial is measured, and what counts as best. All of it is checked before the
//! first trial runs.

use super::metric::{Best, Constraint, POLICY_DISTANCE, constraint, known_metric};
use crate::random::{Use, stream};
use crate::settings::Settings;
use crate::study::{StudyError, read_file};
use rand::RngExt;
use serde::Deserialize;
use std::collections::HashSet;
use std::fs::File;
use std::path::Path;
use toml::{Table, Value};

/// Most of a spec that is read.
const SPEC_MIB_MAX: u64 = 1;
/// Combinations a sweep may have at most.
const MOST_COMBINATIONS: usize = 100_000;
/// Repetitions of each.
const MOST_REPETITIONS: usize = 1000;
/// Trials, which are both together.
const MOST_TRIALS: usize = 1_000_000;
/// Settings that the measuring sets.
const NOT_SWEPT: [&str; 7] = [
    "rounds",
    "games",
    "seconds",
    "warm_up_s",
    "out",
    "trace",
    "trace_every",
];

/// A spec as it stands in the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Heading of the report.
    #[serde(default)]
    pub name: String,
    /// Settings that all trials share, as in a settings file.
    #[serde(default)]
    pub base: Table,
    /// Every combination of these: a setting (`in_flight`, `search.c_puct`) or several at once
    /// (`"worlds, simulations"`), and its values.
    #[serde(default)]
    pub grid: Table,
    /// Draws instead of all combinations, or in addition to each of the grid's.
    #[serde(default)]
    pub random: Option<Random>,
    /// How a trial is measured.
    #[serde(default)]
    pub trial: Measure,
    /// What is best.
    #[serde(default)]
    pub best: Best,
}

/// Settings drawn at random.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Random {
    /// Draws.
    pub samples: usize,
    /// Seed of the draws.
    #[serde(default)]
    pub seed: u64,
    /// From what: a list of values, or a range.
    pub space: Table,
}

/// A range to draw from.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    low: f64,
    high: f64,
    /// Evenly over the logarithm.
    #[serde(default)]
    log: bool,
    /// A fraction, not a whole number.
    #[serde(default)]
    fraction: bool,
}

/// How a trial is measured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Measure {
    /// Seconds measured; 0: `rounds` rounds, start and end included.
    pub seconds: f64,
    /// Seconds before that, not counted.
    pub warm_up_s: f64,
    /// Rounds, when it is not seconds.
    pub rounds: u64,
    /// Repetitions of each combination.
    pub repetitions: usize,
    /// Seed of the order of trials.
    pub order_seed: u64,
    /// Rounds on which the policy distance is measured, if a constraint or the metric asks for it.
    pub reference_rounds: u64,
}

impl Default for Measure {
    fn default() -> Measure {
        Measure {
            seconds: 5.0,
            warm_up_s: 1.0,
            rounds: 0,
            repetitions: 3,
            order_seed: 1,
            reference_rounds: 16,
        }
    }
}

/// One combination of swept settings.
#[derive(Clone, PartialEq, Debug)]
pub struct Combination {
    /// The values, in the order of `Checked::swept`.
    pub values: Vec<String>,
    /// All settings.
    pub settings: Settings,
}

/// A spec that has been checked.
pub struct Checked {
    /// The spec.
    pub spec: Spec,
    /// Names of the swept settings, sorted as in the file's tables.
    pub swept: Vec<String>,
    /// What is tried.
    pub combinations: Vec<Combination>,
    /// The constraints, understood.
    pub constraints: Vec<Constraint>,
}

impl Checked {
    /// Does the metric or a constraint need policies compared?
    pub fn needs_distance(&self) -> bool {
        let constrained = self.constraints.iter().any(|c| c.metric == POLICY_DISTANCE);
        constrained || self.spec.best.metric == POLICY_DISTANCE
    }
}

pub(super) fn refused(what: impl Into<String>) -> StudyError {
    StudyError::Usage(what.into())
}

/// Reads and checks a spec.
///
/// # Errors
/// One line: what is wrong, and where.
pub fn load(path: &Path) -> Result<Checked, StudyError> {
    let file = File::open(path).map_err(StudyError::file("read", path))?;
    let text = String::from_utf8(read_file(&file, path, SPEC_MIB_MAX)?)
        .map_err(|_| refused(format!("{}: no text (UTF-8)", path.display())))?;
    let spec: Spec = toml::from_str(&text).map_err(|error| {
        let line = error
            .span()
            .map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        let message = error.message().replace('\n', " ");
        refused(format!("{}: line {line}: {message}", path.display()))
    })?;
    check(spec).map_err(|error| refused(format!("{}: {error}", path.display())))
}

/// Checks a spec.
///
/// # Errors
/// As [`load`], without the file's name.
pub fn check(spec: Spec) -> Result<Checked, StudyError> {
    let constraints: Vec<Constraint> = spec
        .best
        .constraints
        .iter()
        .map(|text| constraint(text))
        .collect::<Result<_, _>>()?;
    known_metric(&spec.best.metric)?;
    check_measure(&spec.trial)?;
    let drawn = spec.random.as_ref().map(|random| &random.space);
    let swept: Vec<String> = spec
        .grid
        .keys()
        .chain(drawn.into_iter().flat_map(Table::keys))
        .flat_map(|key| names(key))
        .collect();
    if swept.is_empty() {
        return Err(refused(
            "nothing to sweep: name settings and their values in [grid] or [random.space]",
        ));
    }
    if let Some(twice) = (1..swept.len()).find(|&place| swept[..place].contains(&swept[place])) {
        return Err(refused(format!("{} is swept twice", swept[twice])));
    }
    if let Some(name) = swept.iter().find(|name| NOT_SWEPT.contains(&name.as_str())) {
        return Err(refused(format!(
            "{name} cannot be swept: it belongs to how a trial is measured, see [trial]"
        )));
    }
    let combinations = combine(&spec)?
        .iter()
        .map(|choices| settle(&spec, choices))
        .collect::<Result<Vec<_>, _>>()?;
    let combinations = unique(combinations);
    if combinations.len().saturating_mul(spec.trial.repetitions) > MOST_TRIALS {
        return Err(refused(format!(
            "{} combinations, {} times each, are more than {MOST_TRIALS} trials",
            combinations.len(),
            spec.trial.repetitions
        )));
    }
    Ok(Checked {
        swept,
        combinations,
        constraints,
        spec,
    })
}

fn check_measure(trial: &Measure) -> Result<(), StudyError> {
    if !(1..=MOST_REPETITIONS).contains(&trial.repetitions) {
        let found = trial.repetitions;
        return Err(refused(format!(
            "trial.repetitions is {found}: it must be 1 to {MOST_REPETITIONS}"
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

/// The settings a key of the grid names.
fn names(key: &str) -> Vec<String> {
    key.split(',').map(|name| name.trim().to_owned()).collect()
}

/// Random draws can coincide: the first of each.
fn unique(mut combinations: Vec<Combination>) -> Vec<Combination> {
    let mut known = HashSet::new();
    combinations.retain(|combination| known.insert(combination.values.clone()));
    combinations
}

/// A swept setting and the value it takes.
type Choice = (String, Value);

/// Every combination: the grid's, each with every draw.
fn combine(spec: &Spec) -> Result<Vec<Vec<Choice>>, StudyError> {
    let mut combinations: Vec<Vec<Choice>> = vec![Vec::new()];
    for (key, values) in &spec.grid {
        let values = values.as_array().filter(|values| !values.is_empty());
        let Some(values) = values else {
            return Err(refused(format!(
                "grid.{key} needs a list of at least one value"
            )));
        };
        let choices = values
            .iter()
            .map(|value| spread(key, value))
            .collect::<Result<Vec<_>, _>>()?;
        if combinations.len() * choices.len() > MOST_COMBINATIONS {
            return Err(refused(format!(
                "the grid has more than {MOST_COMBINATIONS} combinations: use [random]"
            )));
        }
        combinations = combinations
            .iter()
            .flat_map(|head| choices.iter().map(|tail| [&head[..], tail].concat()))
            .collect();
    }
    let Some(random) = &spec.random else {
        return Ok(combinations);
    };
    if random.samples == 0 || random.samples.saturating_mul(combinations.len()) > MOST_COMBINATIONS
    {
        return Err(refused(format!(
            "random.samples must be 1 to {MOST_COMBINATIONS} in all"
        )));
    }
    let draws = (0..random.samples as u64)
        .map(|sample| draw(random, sample))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(combinations
        .iter()
        .flat_map(|head| draws.iter().map(|tail| [&head[..], tail].concat()))
        .collect())
}

/// A value of a grid's key, for each setting the key names.
fn spread(key: &str, value: &Value) -> Result<Vec<Choice>, StudyError> {
    let names = names(key);
    if names.len() == 1 {
        return Ok(vec![(names[0].clone(), value.clone())]);
    }
    match value.as_array() {
        Some(parts) if parts.len() == names.len() => {
            Ok(names.into_iter().zip(parts.iter().cloned()).collect())
        }
        _ => Err(refused(format!(
            "grid.\"{key}\" needs lists of {} values, one per setting, not {value}",
            names.len()
        ))),
    }
}

fn draw(random: &Random, sample: u64) -> Result<Vec<Choice>, StudyError> {
    let mut choices = Vec::new();
    for (place, (key, space)) in random.space.iter().enumerate() {
        let mut rng = stream(random.seed, Use::Choice, sample, place as u64, 0);
        if let Some(values) = space.as_array().filter(|values| !values.is_empty()) {
            choices.extend(spread(key, &values[rng.random_range(0..values.len())])?);
            continue;
        }
        let range: Result<Range, _> = space.clone().try_into();
        let Some(range) = range.ok().filter(|range| {
            let least = if range.log {
                f64::MIN_POSITIVE
            } else {
                f64::MIN
            };
            range.low >= least && range.low <= range.high && range.high.is_finite()
        }) else {
            return Err(refused(format!(
                "random.space.{key} must be a list of values or {{ low, high }} with low <= high \
(log = true: above 0; fraction = true: not whole numbers)"
            )));
        };
        let share: f64 = rng.random();
        let value = if range.log {
            (range.low.ln() + share * (range.high.ln() - range.low.ln())).exp()
        } else {
            range.low + share * (range.high - range.low)
        };
        let value = if range.fraction {
            Value::Float(value)
        } else {
            Value::Integer(value.round() as i64)
        };
        choices.push((key.clone(), value));
    }
    Ok(choices)
}

/// The settings of one combination, checked.
fn settle(spec: &Spec, choices: &[Choice]) -> Result<Combination, StudyError> {
    let mut table = spec.base.clone();
    for (name, value) in choices {
        let Some((group, setting)) = name.split_once('.') else {
            table.insert(name.clone(), value.clone());
            continue;
        };
        let group = table
            .entry(group.to_owned())
            .or_insert(Value::Table(Table::new()));
        let Value::Table(group) = group else {
            return Err(refused(format!("{name}: not in a table of settings")));
        };
        group.insert(setting.to_owned(), value.clone());
    }
    let named: Vec<String> = choices
        .iter()
        .map(|(name, value)| format!("{name} = {value}"))
        .collect();
    let with = |what: String| refused(format!("with {}: {what}", named.join(", ")));
    let settings: Settings = Value::Table(table)
        .try_into()
        .map_err(|error: toml::de::Error| with(error.message().replace('\n', " ")))?;
    let timed = spec.trial.seconds > 0.0;
    let settings = Settings {
        out: None,
        trace: None,
        rounds: spec.trial.rounds,
        games: 0,
        seconds: if timed {
            spec.trial.seconds + spec.trial.warm_up_s
        } else {
            0.0
        },
        warm_up_s: if timed { spec.trial.warm_up_s } else { 0.0 },
        ..settings
    };
    settings.check().map_err(|error| with(error.to_string()))?;
    Ok(Combination {
        values: choices.iter().map(|(_, value)| plain(value)).collect(),
        settings,
    })
}

/// A value as people write it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
