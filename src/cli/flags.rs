//! The flags of settings, made from the table of settings. Each command names those it takes
//! (`cli::command_line`) and has [`FileAndFlags`], or [`Flags`] alone, among its arguments.

use crate::settings::{Allowed, Row, Settings, SettingsError, check_path, rows};
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches, value_parser};
use serde_json::{Map, Value};
use std::path::PathBuf;

/// What a command line says of settings.
pub(super) struct Flags(ArgMatches);

/// A settings file, and flags over it.
#[derive(Args)]
pub(super) struct FileAndFlags {
    /// Settings file (TOML); flags override it
    #[arg(long)]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub flags: Flags,
}

impl FileAndFlags {
    /// Flags over the settings file, over `defaults`.
    pub fn settings(&self, defaults: Settings) -> Result<Settings, SettingsError> {
        let below = match &self.config {
            Some(file) => Settings::load(file)?,
            None => defaults,
        };
        self.flags.over(below)
    }
}

impl Flags {
    /// Flags over these settings.
    pub fn over(&self, settings: Settings) -> Result<Settings, SettingsError> {
        let mut told = Map::new();
        for row in rows() {
            if let Some(value) = self.value(row)? {
                told.insert(row.key.into(), value);
            }
        }
        settings.with(told)
    }

    /// What is said of a setting. Ranges are checked when flags and file are merged.
    fn value(&self, row: &Row) -> Result<Option<Value>, SettingsError> {
        Ok(match row.allowed {
            Allowed::Count(..) => self.get::<u64>(row).map(Value::from),
            Allowed::Number(..) => self.get::<f64>(row).map(Value::from),
            Allowed::Truth => self.get::<bool>(row).map(Value::from),
            Allowed::Choice(_) => self.get::<String>(row).map(Value::from),
            Allowed::Path => {
                let path = self.get::<PathBuf>(row);
                path.as_deref()
                    .map_or(Ok(()), |path| check_path(row.key, path))?;
                path.and_then(|path| path.to_str().map(Value::from))
            }
        })
    }

    fn get<T: Clone + Send + Sync + 'static>(&self, row: &Row) -> Option<T> {
        // Not even defined for a command that does not take it.
        self.0.try_get_one(&id(row.key)).ok().flatten().cloned()
    }
}

/// The flags of all settings that have one, under the headings of the table.
pub(super) fn all() -> impl Iterator<Item = Arg> {
    rows().filter(|row| row.has_flag()).map(flag)
}

/// The flags of these settings.
pub(super) fn of(keys: &[&str]) -> impl Iterator<Item = Arg> {
    let of_keys = rows().filter(|row| keys.contains(&row.key));
    of_keys.map(|row| flag(row).help_heading("Settings"))
}

/// What the command line calls the flag of a setting: a command may have a flag of its own that is
/// named like a setting it does not take.
pub(super) fn id(key: &str) -> String {
    format!("settings.{key}")
}

fn flag(row: &Row) -> Arg {
    let flag = Arg::new(id(row.key))
        .long(row.name())
        .value_name(row.key.to_uppercase())
        .help(row.help())
        .help_heading(row.group);
    match row.allowed {
        Allowed::Count(..) => flag.value_parser(value_parser!(u64)),
        Allowed::Number(..) => flag.value_parser(value_parser!(f64)),
        Allowed::Truth => flag.value_parser(value_parser!(bool)),
        Allowed::Path => flag.value_parser(value_parser!(PathBuf)),
        Allowed::Choice(words) => flag.value_parser(PossibleValuesParser::new(words())),
    }
}

// The flags themselves are `cli::command_line`'s to add.
impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        command
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Flags, Error> {
        Ok(Flags(matches.clone()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.0 = matches.clone();
        Ok(())
    }
}
