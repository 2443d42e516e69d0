//! What there is to know of a setting, in one row: its key, what it may be, what it means and
//! whether it determines the result. Range checks, flags and their help, what `--resume` compares,
//! what a sweep may turn and `docs/settings.md` all come from these rows; [`section!`] makes the
//! struct and its defaults of the same ones.

use super::{RULES_AND_MIX, SearchSection, Settings};
use crate::fault::Fault;
use clap::ValueEnum;
use clap::builder::PossibleValue;
use serde_json::Value;

/// Is a setting part of what a round is a function of?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Determines {
    /// A replay can be gone on with only if it is the same.
    Yes,
    /// It may change at any time.
    No,
    /// Something else than its value is compared, or only a part: what.
    Partly(&'static str),
}

/// What a setting may be.
#[derive(Clone, Copy, Debug)]
pub enum Allowed {
    /// A whole number from, to.
    Count(u64, u64),
    /// A number from, to.
    Number(f64, f64),
    /// A file or folder.
    Path,
    /// One of these words.
    Choice(fn() -> Vec<PossibleValue>),
    /// Yes or no.
    Truth,
}

/// What there is to know of a setting.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name in files, specs and manifests: `worlds`, `search.c_puct`.
    pub key: &'static str,
    /// The heading it stands under in help and `docs/settings.md`.
    pub group: &'static str,
    /// What is compared when a replay is gone on with.
    pub determines: Determines,
    /// What it may be.
    pub allowed: Allowed,
    /// What it is, in a line or two.
    pub what: &'static str,
    /// What 0 means, where that is no number like others.
    pub zero: &'static str,
    /// The default in words, where its value says nothing.
    pub default: &'static str,
    /// The range in words, where numbers do not say it.
    pub range: &'static str,
    /// No flag tells it.
    pub only_in_files: bool,
    /// Why each trial of a study sets it by itself; empty: a sweep may turn it.
    pub per_trial: &'static str,
}

/// Nothing but what each row says itself.
pub(super) const BLANK: Row = Row {
    key: "",
    group: "",
    determines: Determines::Yes,
    allowed: Allowed::Truth,
    what: "",
    zero: "",
    default: "",
    range: "",
    only_in_files: false,
    per_trial: "",
};

/// All settings, in the order in which they are explained.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    [Settings::ROWS, SearchSection::ROWS, RULES_AND_MIX]
        .into_iter()
        .flatten()
}

/// The words for a choice.
pub(super) fn words<T: ValueEnum>() -> Vec<PossibleValue> {
    T::value_variants()
        .iter()
        .filter_map(T::to_possible_value)
        .collect()
}

impl Row {
    /// Can it be told by a flag? The sections of a file cannot.
    pub fn has_flag(&self) -> bool {
        !self.only_in_files && !self.key.contains('.')
    }

    /// What messages call it: the flag, or the key where there is none.
    pub fn name(&self) -> String {
        match self.has_flag() {
            true => self.key.replace('_', "-"),
            false => self.key.into(),
        }
    }

    /// Its place in settings as JSON.
    pub(super) fn pointer(&self) -> String {
        format!("/{}", self.key.replace('.', "/"))
    }

    fn bounds(&self) -> Option<(f64, f64)> {
        match self.allowed {
            Allowed::Count(low, high) => Some((low as f64, high as f64)),
            Allowed::Number(low, high) => Some((low, high)),
            Allowed::Path | Allowed::Choice(_) | Allowed::Truth => None,
        }
    }

    /// What it may be, in words.
    pub fn range(&self) -> String {
        match (self.allowed, self.bounds()) {
            _ if !self.range.is_empty() => self.range.into(),
            (_, Some((low, high))) if low > 0.0 && !self.zero.is_empty() => {
                format!("{low} to {high}, or 0 for {}", self.zero)
            }
            (_, Some((low, high))) => format!("{low} to {high}"),
            (Allowed::Choice(words), _) => {
                let words = words();
                let names: Vec<_> = words.iter().map(PossibleValue::get_name).collect();
                names.join(", ")
            }
            (Allowed::Path, _) => "a path".into(),
            _ => "true, false".into(),
        }
    }

    /// The default, in words where its value says nothing; empty where there is none.
    pub fn default(&self) -> String {
        match Settings::default().as_json().pointer(&self.pointer()) {
            _ if !self.default.is_empty() => self.default.into(),
            None => String::new(),
            Some(zero) if zero.as_f64() == Some(0.0) && !self.zero.is_empty() => {
                format!("0: {}", self.zero)
            }
            Some(Value::String(word)) => word.clone(),
            Some(value) => value
                .as_f64()
                .map_or(value.to_string(), |number| number.to_string()),
        }
    }

    /// What it is and its default, as help says it.
    pub fn help(&self) -> String {
        let what = self.what.replace('`', "");
        match self.default() {
            none if none.is_empty() => what,
            default => {
                let default = default.trim_start_matches("0: ").replace('`', "");
                format!("{what} [default: {default}]")
            }
        }
    }

    /// Refuses a number outside the range. Whatever else a setting may be, its type says.
    pub(super) fn check(&self, value: &Value) -> Result<(), Fault> {
        let Some((low, high)) = self.bounds() else {
            return Ok(());
        };
        let is = match value.as_f64() {
            Some(n) if low <= n && n <= high || n == 0.0 && !self.zero.is_empty() => return Ok(()),
            Some(n) => n.to_string(),
            // JSON knows no infinity, and nothing that is no number.
            None => "no finite number".into(),
        };
        let cause = format!("{} is {is}", self.name());
        Err(Fault::new(cause, format!("it must be {}", self.range())))
    }
}

/// A [`Row`]: the prefix of its key, its group, field, whether it determines the result, what is
/// allowed, what it is, and whatever else there is to say of it.
macro_rules! row {
    ($prefix:literal, $group:expr, $field:ident, $determines:expr, $allowed:expr, $what:expr
     $(, $more:ident: $value:expr)*) => {
        Row {
            key: concat!($prefix, stringify!($field)),
            group: $group,
            determines: $determines,
            allowed: $allowed,
            what: $what,
            $($more: $value,)*
            ..BLANK
        }
    };
}

/// A section of settings: the struct with its defaults, and the rows of its fields. Sections within
/// it come first and have rows of their own.
macro_rules! section {
    (
        $(#[$of_section:meta])*
        $section:ident, $prefix:literal;
        $( $(#[$of_inner:meta])* $inner:ident: $inner_type:ty = $inner_default:expr; )*
        $( $group:literal {
            $( $(#[$of_field:meta])* $field:ident: $type:ty = $default:expr, $determines:expr,
               $allowed:expr, $what:literal $(, $more:ident: $value:expr)*; )+
        } )+
    ) => {
        $(#[$of_section])*
        #[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $section {
            $( $( $(#[$of_field])* #[doc = concat!($what, ".")] pub $field: $type, )+ )+
            $( $(#[$of_inner])* pub $inner: $inner_type, )*
        }

        impl Default for $section {
            fn default() -> $section {
                $section {
                    $( $( $field: $default, )+ )+
                    $( $inner: $inner_default, )*
                }
            }
        }

        impl $section {
            const ROWS: &[Row] = &[ $( $(
                row!($prefix, $group, $field, $determines, $allowed, $what $(, $more: $value)*),
            )+ )+ ];

            /// These settings, those that do not determine the result as in `neutral`.
            fn determining_over(&self, neutral: $section) -> $section {
                let mut both = self.clone();
                $( $( if !matches!($determines, Determines::Yes) {
                    both.$field = neutral.$field;
                } )+ )+
                both
            }
        }
    };
}

pub(super) use {row, section};
