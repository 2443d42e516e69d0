//! The command line of `selfplay`: its flags go over a settings file, or over the settings of the
//! replay that is resumed, over the defaults.

use super::flags::FileAndFlags;
use super::{is_unwanted, print};
use crate::disk;
use crate::engine::{self, INTERRUPTED, Start, reexec};
use crate::pasted::quoted;
use crate::replay;
use crate::say::note;
use crate::settings::{Settings, rows};
use anyhow::{Context, Result};
use clap::Args;
use std::process::ExitCode;

const HELP: &str = "\
Ctrl-C finishes and keeps the rounds in hand; a second Ctrl-C, or SIGTERM, ends at once and keeps \
those that are finished.\n\
--resume --out DIR goes on, with the settings the folder was begun with.";

/// What stands below the flags: the settings that have none, and how a run ends.
pub(super) fn help() -> String {
    let more = rows().filter(|row| !row.has_flag());
    let more: String = more
        .map(|row| format!("\n  {}: {}", row.key, row.help()))
        .collect();
    format!(
        "The settings file (TOML) takes the same names with underscores, and more:{more}\n\n{HELP}"
    )
}

/// `ringmaster selfplay`.
#[derive(Args)]
pub(super) struct SelfplayArgs {
    #[command(flatten)]
    settings: FileAndFlags,
    /// Go on with the replay in --out
    #[arg(long)]
    resume: bool,
    /// As --resume, and with other weights than the replay's if they are others, for rounds not
    /// yet begun
    #[arg(long)]
    append: bool,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
    /// (of a study) End with this process
    #[arg(long, hide = true)]
    parent: Option<u32>,
}

impl SelfplayArgs {
    fn start(&self) -> Start {
        match (self.append, self.resume) {
            (true, _) => Start::Append,
            (false, true) => Start::Resume,
            (false, false) => Start::New,
        }
    }

    /// Flags over the settings file, or over the resumed replay's own settings, over the defaults.
    fn settings(&self) -> Result<Settings> {
        let flags = &self.settings.flags;
        if self.settings.config.is_none()
            && self.start() != Start::New
            && let Some(out) = flags.over(Settings::default())?.out
            && out.join(replay::MANIFEST_FILE).exists()
        {
            let begun = serde_json::from_value(replay::Manifest::read(&out)?.notes);
            return Ok(flags.over(begun.with_context(|| {
                format!("{}: the manifest's settings do not parse", out.display())
            })?)?);
        }
        Ok(self.settings.settings(Settings::default())?)
    }
}

pub(super) fn selfplay(arguments: &SelfplayArgs) -> Result<ExitCode> {
    if let Some(parent) = arguments.parent {
        reexec::name_process("ringmaster");
        crate::shm::liveness::signal_on_parent_end(parent, nix::sys::signal::Signal::SIGTERM)?;
    }
    let settings = arguments.settings()?;
    settings.check()?;
    if let Some(folder) = &settings.trace {
        disk::make_folder(folder)?;
    }
    let report = engine::selfplay(settings, arguments.start()).map_err(|error| {
        // A study removes its trials: there is nothing to go on with.
        match arguments.parent {
            Some(_) => error.into_cause(),
            None => error,
        }
    })?;
    let written = print(arguments.json, &report, || report.to_string());
    if !report.interrupted {
        return written.map(|()| ExitCode::SUCCESS);
    }
    // Whoever interrupts a pipeline has ended the reader of stdout, too.
    if let Err(error) = written
        && !is_unwanted(&error)
    {
        note!("ringmaster: {error}");
    }
    note!(
        "interrupted, {} kept; go on with: ringmaster selfplay --resume --out {}",
        report.kept(),
        quoted(&report.out)
    );
    Ok(ExitCode::from(INTERRUPTED))
}
