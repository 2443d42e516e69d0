//! The combinations of a sweep: every one of the grid with every draw, and the settings each comes
//! to.

use super::refused;
use super::spec::{Random, Spec};
use crate::measure::StudyError;
use crate::measure::trial::{plain, set_by_trials};
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
    /// The values, in the order of `CheckedSpec::swept`.
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

impl Range {
    fn is_sound(&self) -> bool {
        let least = if self.log {
            f64::MIN_POSITIVE
        } else {
            f64::MIN
        };
        self.low >= least && self.low <= self.high && self.high.is_finite()
    }

    /// The value at a share of the way, 0 to 1.
    fn draw(&self, share: f64) -> Value {
        let between = |low: f64, high: f64| low + share * (high - low);
        let value = match self.log {
            true => between(self.low.ln(), self.high.ln()).exp(),
            false => between(self.low, self.high),
        };
        match self.fraction {
            true => Value::Float(value),
            false => Value::Integer(value.round() as i64),
        }
    }
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
    let taken = taken.join(", ");
    Err(refused(format!(
        "every trial sets these itself, leave them out: {taken}"
    )))
}

/// Every combination of a spec; draws can coincide, and are the same one then.
pub(super) fn combinations(spec: &Spec) -> Result<Vec<Combination>, StudyError> {
    let mut known = HashSet::new();
    let mut combinations = Vec::new();
    for choices in combine(spec)? {
        let combination = settle(spec, &choices)?;
        if known.insert(combination.values.clone()) {
            combinations.push(combination);
        }
    }
    Ok(combinations)
}

/// A swept setting and the value it takes.
type Choice = (String, Value);

/// Every one of the first with every one of the second.
fn product(heads: &[Vec<Choice>], tails: &[Vec<Choice>]) -> Vec<Vec<Choice>> {
    let with = |head: &Vec<Choice>, tail: &Vec<Choice>| [&head[..], tail].concat();
    let pairs = heads
        .iter()
        .flat_map(|head| tails.iter().map(move |tail| with(head, tail)));
    pairs.collect()
}

/// Every combination: the grid's, each with every draw.
fn combine(spec: &Spec) -> Result<Vec<Vec<Choice>>, StudyError> {
    let mut combinations: Vec<Vec<Choice>> = vec![Vec::new()];
    for (key, values) in &spec.grid {
        let Some(values) = values.as_array().filter(|values| !values.is_empty()) else {
            return Err(refused(format!(
                "grid.{key} needs a list of at least one value"
            )));
        };
        let choices = values.iter().map(|value| spread(key, value));
        let choices = choices.collect::<Result<Vec<_>, _>>()?;
        if combinations.len() * choices.len() > MOST_COMBINATIONS {
            return Err(refused(format!(
                "the grid has more than {MOST_COMBINATIONS} combinations: use [random]"
            )));
        }
        combinations = product(&combinations, &choices);
    }
    let Some(random) = &spec.random else {
        return Ok(combinations);
    };
    let all = random.samples.saturating_mul(combinations.len());
    if !(1..=MOST_COMBINATIONS).contains(&all) {
        return Err(refused(format!(
            "random.samples must be 1 to {MOST_COMBINATIONS} in all"
        )));
    }
    let draws = (0..random.samples as u64).map(|sample| draw(random, sample));
    Ok(product(
        &combinations,
        &draws.collect::<Result<Vec<_>, _>>()?,
    ))
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
        let range: Option<Range> = space.clone().try_into().ok();
        let Some(range) = range.filter(Range::is_sound) else {
            return Err(refused(format!(
                "random.space.{key} must be a list of values or {{ low, high }} with low <= high \
                 (log = true: above 0; fraction = true: not whole numbers)"
            )));
        };
        choices.push((key.clone(), range.draw(rng.random())));
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
        let group = table.entry(group).or_insert(Value::Table(Table::new()));
        let Value::Table(group) = group else {
            return Err(refused(format!("{name}: not in a table of settings")));
        };
        group.insert(setting.to_owned(), value.clone());
    }
    let with = |what: String| {
        let named = choices
            .iter()
            .map(|(name, value)| format!("{name} = {value}"));
        refused(format!(
            "with {}: {what}",
            named.collect::<Vec<_>>().join(", ")
        ))
    };
    let settings: Settings = Value::Table(table)
        .try_into()
        .map_err(|error: toml::de::Error| with(error.message().replace('\n', " ")))?;
    let (seconds, warm_up_s) = match spec.trial.seconds > 0.0 {
        true => (
            spec.trial.seconds + spec.trial.warm_up_s,
            spec.trial.warm_up_s,
        ),
        false => (0.0, 0.0),
    };
    let settings = Settings {
        out: None,
        trace: None,
        rounds: Some(spec.trial.rounds),
        games: 0,
        seconds,
        warm_up_s,
        ..settings
    };
    settings.check().map_err(|error| with(error.to_string()))?;
    Ok(Combination {
        values: choices.iter().map(|(_, value)| plain(value)).collect(),
        settings,
    })
}
