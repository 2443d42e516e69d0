//! What settings may be: every range and every conflict, each refused in one line that says what is
//! allowed. Called on the whole, when flags and file are merged: a setting out of bounds may come
//! from either.

use super::{ENDLESS, Settings};
use crate::disk::remedy;
use crate::fault::Fault;
use crate::game::check_table;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// What is wrong with settings, in one line each.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A number outside its range.
    #[error("{name} is {value}: it must be {range}")]
    Range {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        range: &'static str,
    },
    /// A table that cannot be laid.
    #[error(transparent)]
    Table(#[from] Fault),
    /// Settings that exclude each other.
    #[error("{0}")]
    Conflict(&'static str),
    /// A path that reports, settings files and manifests, which are text, cannot hold.
    #[error(
        "{name} is {}: a path must be text (UTF-8), since settings and reports name it; choose another",
        path.display()
    )]
    PathText {
        /// The setting.
        name: &'static str,
        /// Its value.
        path: PathBuf,
    },
    /// A path as only a shell understands it.
    #[error(
        "{name} is {}: `~` is expanded by a shell, not here; write the whole path (of a folder called ~: ./{0})",
        path.display()
    )]
    Home {
        /// The setting.
        name: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// A settings file that cannot be read.
    #[error(
        "cannot read the settings file {path}: {source}; {}",
        remedy(path, source)
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A settings file that does not parse, or has an unknown key.
    #[error("{path}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What and where.
        message: String,
    },
}

/// Refuses a path that is no text: `name` is the setting it is.
///
/// # Errors
/// [`SettingsError::PathText`], [`SettingsError::Home`].
pub fn check_path(name: &'static str, path: &Path) -> Result<(), SettingsError> {
    let path = path.to_owned();
    match path.to_str() {
        None => Err(SettingsError::PathText { name, path }),
        // What is meant by `~/nets` is never a folder of that name here.
        Some(_) if path.starts_with("~") => Err(SettingsError::Home { name, path }),
        Some(_) => Ok(()),
    }
}

impl Settings {
    /// Checks every range.
    ///
    /// # Errors
    /// The first setting that is out of bounds, with what is allowed.
    pub fn check(&self) -> Result<(), SettingsError> {
        self.check_paths()?;
        check_table(self.players, self.cards)?;
        self.check_mix()?;
        self.check_sizes()?;
        self.check_times()?;
        self.check_length()?;
        // What a worker's searches need is bounded by what they may hold; see `leaf_room`.
        if self.worlds.saturating_mul(self.simulations) > 1_000_000 {
            return Err(SettingsError::Range {
                name: "worlds x simulations",
                value: (self.worlds * self.simulations).to_string(),
                range: "at most 1000000",
            });
        }
        self.check_tuning()
    }

    fn check_paths(&self) -> Result<(), SettingsError> {
        let paths = [
            ("weights", &self.weights),
            ("trace", &self.trace),
            ("out", &self.out),
        ];
        let mut given = paths
            .into_iter()
            .filter_map(|(name, path)| Some((name, path.as_deref()?)));
        given.try_for_each(|(name, path)| check_path(name, path))
    }

    /// Takes over what was said of the largest batch. Only a file may say that it is to be chosen:
    /// that of a run or study does.
    ///
    /// # Errors
    /// When it is said to be nothing.
    pub fn set_max_batch(&mut self, said: Option<usize>) -> Result<(), SettingsError> {
        if said == Some(0) {
            return Err(SettingsError::Range {
                name: "max-batch",
                value: "0".into(),
                range: "1 to 65536",
            });
        }
        self.max_batch = said.unwrap_or(self.max_batch);
        Ok(())
    }

    /// All settings that count something, one by one.
    fn check_sizes(&self) -> Result<(), SettingsError> {
        let s = self;
        let sizes: [(_, usize, RangeInclusive<usize>, _); 13] = [
            ("worlds", s.worlds, 1..=1000, "1 to 1000"),
            ("simulations", s.simulations, 1..=100_000, "1 to 100000"),
            ("leaves", s.leaves, 1..=256, "1 to 256"),
            (
                "worlds-in-flight",
                s.worlds_in_flight,
                0..=1000,
                "1 to 1000, or 0 for all",
            ),
            ("trace-every", s.trace_every, 1..=1 << 30, "1 to 2^30"),
            ("workers", s.workers, 0..=256, "0 to 256"),
            (
                "in-flight",
                s.in_flight,
                0..=4096,
                "1 to 4096, or 0 to choose it",
            ),
            (
                "max-batch",
                s.max_batch,
                0..=65_536,
                "1 to 65536, or 0 to choose it",
            ),
            (
                "threads",
                s.threads,
                0..=1024,
                "1 to 1024, or 0 for one per core",
            ),
            (
                "gpu-memory-mib",
                s.gpu_memory_mib,
                0..=1 << 20,
                "1 to 1048576, or 0 for no cap",
            ),
            (
                "max-wait-us",
                s.max_wait_us as usize,
                0..=10_000_000,
                "0 to 10000000",
            ),
            (
                "max_restarts",
                s.max_restarts,
                0..=1_000_000,
                "0 to 1000000",
            ),
            ("hang_timeout_s", s.hang_timeout_s, 1..=86_400, "1 to 86400"),
        ];
        for (name, value, allowed, range) in sizes {
            if !allowed.contains(&value) {
                let value = value.to_string();
                return Err(SettingsError::Range { name, value, range });
            }
        }
        Ok(())
    }

    /// How long the run is.
    fn check_length(&self) -> Result<(), SettingsError> {
        let planned = self.planned_rounds();
        let (value, range) = if self.games == 0 && self.rounds == Some(0) && self.seconds == 0.0 {
            (0, "at least 1, or 0 with a limit in seconds")
        } else if planned > ENDLESS {
            (planned, "at most 2^40")
        } else {
            return Ok(());
        };
        Err(SettingsError::Range {
            name: "rounds",
            value: value.to_string(),
            range,
        })
    }

    fn check_times(&self) -> Result<(), SettingsError> {
        for (name, value) in [
            ("seconds", self.seconds),
            ("warm-up-s", self.warm_up_s),
            ("reload-s", self.reload_s),
        ] {
            if !(0.0..=1e7).contains(&value) {
                let (value, range) = (value.to_string(), "0 to 10000000");
                return Err(SettingsError::Range { name, value, range });
            }
        }
        if self.warm_up_s > 0.0 && self.warm_up_s >= self.seconds {
            return Err(SettingsError::Conflict(
                "a warm-up needs a run limited in seconds, longer than the warm-up",
            ));
        }
        Ok(())
    }

    fn check_mix(&self) -> Result<(), SettingsError> {
        for entry in &self.mix {
            check_table(entry.players, entry.cards)?;
            // Bounded, so that their sum is finite.
            if !(entry.weight > 0.0 && entry.weight <= 1e9) {
                let value = entry.weight.to_string();
                return Err(SettingsError::Range {
                    name: "mix weight",
                    value,
                    range: "above 0, at most 1000000000",
                });
            }
        }
        if self.games > 0 && !self.mix.is_empty() {
            return Err(SettingsError::Conflict(
                "a mix of tables is for independent rounds; whole games follow their own schedule: drop [[mix]] or games",
            ));
        }
        Ok(())
    }

    fn check_tuning(&self) -> Result<(), SettingsError> {
        let s = &self.search;
        let numbers: [(_, f32, RangeInclusive<f32>, _); 7] = [
            ("search.c_puct", s.c_puct, 0.0..=1000.0, "0 to 1000"),
            (
                "search.fpu_reduction",
                s.fpu_reduction,
                0.0..=10.0,
                "0 to 10",
            ),
            (
                "search.virtual_loss",
                s.virtual_loss,
                0.0..=1000.0,
                "0 to 1000",
            ),
            (
                "search.noise_alpha",
                s.noise_alpha,
                0.001..=1000.0,
                "0.001 to 1000",
            ),
            (
                "search.noise_fraction",
                s.noise_fraction,
                0.0..=1.0,
                "0 to 1",
            ),
            (
                "search.temperature_start",
                s.temperature_start,
                0.0..=100.0,
                "0 to 100",
            ),
            (
                "search.temperature_end",
                s.temperature_end,
                0.0..=100.0,
                "0 to 100",
            ),
        ];
        for (name, value, allowed, range) in numbers {
            // No range holds what is not a number.
            if !allowed.contains(&value) {
                let value = value.to_string();
                return Err(SettingsError::Range { name, value, range });
            }
        }
        Ok(())
    }
}
