//! What settings may be: the ranges of their rows, and what they may not be together; each refused
//! in one line that says what is allowed. Called on the whole, when flags and file are merged: a
//! setting out of bounds may come from either.

use super::{ENDLESS, RULES_AND_MIX, Settings, rows};
use crate::fault::Fault;
use crate::game::check_table;
use std::path::Path;

/// What is wrong with settings, in one line.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SettingsError(#[from] pub Fault);

/// Refuses a path that is no text: `name` is the setting it is.
///
/// # Errors
/// When reports, settings files and manifests, which are text, cannot hold it, or when only a shell
/// would understand it.
pub fn check_path(name: &str, path: &Path) -> Result<(), SettingsError> {
    let remedy = match path.to_str() {
        None => {
            "a path must be text (UTF-8), since settings and reports name it: choose another".into()
        }
        // What is meant by `~/nets` is never a folder of that name here.
        Some(_) if path.starts_with("~") => format!(
            "`~` is expanded by a shell, not here: write the whole path (of a folder called ~: \
             ./{})",
            path.display()
        ),
        Some(_) => return Ok(()),
    };
    Err(Fault::new(format!("{name} is {}", path.display()), remedy).into())
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
        let all = self.as_json();
        for row in rows() {
            // One that is not told has no value; those of a mix are in a list.
            if let Some(value) = all.pointer(&row.pointer()) {
                row.check(value)?;
            }
        }
        self.check_together()
    }

    pub(super) fn check_paths(&self) -> Result<(), SettingsError> {
        for (name, path) in self.clone().paths() {
            path.as_deref()
                .map_or(Ok(()), |path| check_path(name, path))?;
        }
        Ok(())
    }

    pub(super) fn check_mix(&self) -> Result<(), SettingsError> {
        for entry in &self.mix {
            check_table(entry.players, entry.cards)?;
            let weight = RULES_AND_MIX.iter().find(|row| row.key == "mix.weight");
            // Bounded, so that their sum is finite.
            weight.map_or(Ok(()), |row| row.check(&entry.weight.into()))?;
        }
        Ok(())
    }

    /// What depends on several settings.
    fn check_together(&self) -> Result<(), SettingsError> {
        let planned = self.planned_rounds();
        // What a worker's searches need is bounded by what they may hold; see `leaf_room`.
        let simulations = self.worlds.saturating_mul(self.simulations);
        let fault = if self.games > 0 && !self.mix.is_empty() {
            Fault::new(
                "a mix of tables is for independent rounds, and whole games follow their own \
                 schedule",
                "drop [[mix]] or games",
            )
        } else if self.warm_up_s > 0.0 && self.warm_up_s >= self.seconds {
            Fault::new(
                "a warm-up needs a run limited in seconds, longer than the warm-up",
                "set seconds to more than warm_up_s",
            )
        } else if self.games == 0 && self.rounds == Some(0) && self.seconds == 0.0 {
            Fault::new(
                "rounds is 0",
                "it must be at least 1, or 0 with a limit in seconds",
            )
        } else if planned > ENDLESS {
            Fault::new(format!("rounds is {planned}"), "it must be at most 2^40")
        } else if simulations > 1_000_000 {
            Fault::new(
                format!("worlds x simulations is {simulations}"),
                "it must be at most 1000000",
            )
        } else {
            return Ok(());
        };
        Err(fault.into())
    }
}
