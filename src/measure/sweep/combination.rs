//! The combinations of a sweep: every one of the grid with every draw, and the settings each comes
//! to.

use super::refused;
use super::spec::{Random, Spec};
use crate::measure::StudyError;
use crate::measure::trial::set_by_trials;
use crate::random::{Use, stream};
use crate::settings::Settings;
use rand::RngExt;
use serde::Deserialize;
use std::collections::HashSet;
use toml::{Table, Value};

/// Combinations a sweep may have at most.
const MOST_COMBINATIONS: usize = 100_000;

/// One combination of swept settings.
#[derive(Clone, PartialEq, Debug)]
pub struct Combination {
    /// The values, in the order of `Checked::swept`.
    pub values: Vec<String>,
    /// All settings.
    pub settings: Settings,
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

/// The settings a key of the grid names.
pub(super) fn names(key: &str) -> Vec<String> {
    key.split(',').map(|name| name.trim().to_owned()).collect()
}

/// Refuses settings that the trials set: what the spec says of them would count for nothing.
pub(super) fn check_free(base: &Table, swept: &[String]) -> Result<(), StudyError> {
    let mut taken = Vec::new();
    for (name, why) in set_by_trials() {
        let is_swept = swept.iter().any(|other| other == name);
        let places = match (base.contains_key(name), is_swept) {
            (true, true) => " in [base] and swept",
            (true, false) => " in [base]",
            (false, true) => "",
            (false, false) => continue,
        };
        taken.push(format!("{name}{places} ({why})"));
    }
    if taken.is_empty() {
        return Ok(());
    }
    Err(refused(format!(
        "every trial sets these itself, leave them out: {}",
        taken.join(", ")
    )))
}

/// Every combination of a spec, the same one only once.
pub(super) fn combinations(spec: &Spec) -> Result<Vec<Combination>, StudyError> {
    let combinations = combine(spec)?
        .iter()
        .map(|choices| settle(spec, choices))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(unique(combinations))
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

/// Random draws can coincide: the first of each.
fn unique(mut combinations: Vec<Combination>) -> Vec<Combination> {
    let mut known = HashSet::new();
    combinations.retain(|combination| known.insert(combination.values.clone()));
    combinations
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
        rounds: Some(spec.trial.rounds),
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
