//! One trial: the program itself, run as a child with given settings into a folder that is removed
//! afterwards. A child that fails is a reason in words; one that outlives its time is ended; the
//! user's Ctrl-C ends the child and the study, at once: half a trial is no use. A second one does
//! not wait for that.

use super::scratch::Scratch;
use super::{NOTHING_YET, StudyError};
use crate::disk::{self, Refusal};
use crate::engine::{ActiveClock, INTERRUPTED, job_control, reexec};
use crate::settings::{Settings, rows};
use crate::shm::liveness;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use std::fmt::Write;
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Between two looks at a child.
const CHILD_CHECK_EVERY: Duration = Duration::from_millis(10);
/// What a run limited in seconds may take longer than that, for its start and end.
const GRACE: Duration = Duration::from_secs(120);
/// From the polite end to the other one.
const END_TIMEOUT: Duration = Duration::from_secs(15);

/// Settings that are each trial's own, and why; of a sweep, see `combination::settle`.
pub(super) fn set_by_trials() -> impl Iterator<Item = (&'static str, &'static str)> {
    let own = rows().filter(|row| !row.per_trial.is_empty());
    own.map(|row| (row.key, row.per_trial))
}

/// The text of a settings file that may as well stand under a spec's `[base]`: a line for each
/// setting, tables among them, and none for what is each trial's own, unless it differs from the
/// default.
pub(super) fn settings_file(settings: &Settings) -> String {
    let defaults = table_of(&Settings::default());
    let mut text = String::new();
    for (name, value) in table_of(&settings.kept()) {
        let is_own = set_by_trials().any(|(own, _)| own == name);
        if !is_own || defaults.get(&name) != Some(&value) {
            let _ = writeln!(text, "{name} = {value}");
        }
    }
    text
}

/// Settings as a table, by way of the text, in which numbers are as short as people write them.
pub(super) fn table_of(settings: &Settings) -> toml::Table {
    // Settings are plain data; that they turn into TOML is an invariant, not an input.
    let text = toml::to_string(settings).unwrap_or_default();
    text.parse().unwrap_or_default()
}

/// A value as people write it.
pub(super) fn plain(value: &toml::Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Runs trials.
pub struct Trials {
    scratch: Scratch,
    interrupted: Arc<AtomicBool>,
    started: usize,
}

/// A run under way.
pub struct Running {
    process: Child,
    folder: PathBuf,
    /// A study that was stopped takes that time for none.
    clock: ActiveClock,
    limit: Option<Duration>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // A trial abandoned halfway must not play on beside the next one.
        if matches!(job_control::try_wait(&mut self.process), Ok(None)) {
            self.end();
        }
    }
}

impl Running {
    fn end(&mut self) {
        let _ = kill(Pid::from_raw(self.process.id() as i32), Signal::SIGTERM);
        let mut clock = ActiveClock::default();
        while matches!(job_control::try_wait(&mut self.process), Ok(None)) {
            if clock.look() > END_TIMEOUT {
                // It has ended in the meantime, or it will now.
                let _ = self.process.kill();
            }
            std::thread::sleep(CHILD_CHECK_EVERY);
        }
    }
}

impl Trials {
    /// Trials whose files go to a scratch folder in `folder` until these are dropped.
    ///
    /// # Errors
    /// When the scratch folder cannot be made, or signals cannot be caught.
    pub fn new(folder: &Path) -> Result<Trials, StudyError> {
        let scratch = Scratch::new(folder)?;
        let interrupted = Arc::new(AtomicBool::new(false));
        let listen = || {
            for signal in [SIGINT, SIGTERM] {
                // The second one: the first one's flag is set by then. The trial ends with the
                // study.
                let code = INTERRUPTED.into();
                flag::register_conditional_shutdown(signal, code, interrupted.clone())?;
                flag::register(signal, interrupted.clone())?;
            }
            if !liveness::is_ignored(SIGHUP) {
                // However often it comes: the terminal is gone, nobody is impatient.
                flag::register(SIGHUP, interrupted.clone())?;
            }
            job_control::listen()
        };
        listen().map_err(StudyError::file("catch signals for", folder))?;
        Ok(Trials {
            scratch,
            interrupted,
            started: 0,
        })
    }

    /// For work of a study between its trials: fails once the user has interrupted it.
    ///
    /// # Errors
    /// The user's interruption.
    pub fn check_interrupted(&self) -> Result<(), StudyError> {
        match self.is_interrupted() {
            true => Err(interrupted()),
            false => Ok(()),
        }
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Plays one run to its end; what it reports.
    ///
    /// # Errors
    /// Its own failure, or the user's interruption.
    pub fn play(&mut self, settings: &Settings) -> Result<Value, StudyError> {
        let mut running = self.start(settings)?;
        self.finish(&mut running)
    }

    /// Starts a run.
    ///
    /// # Errors
    /// When its files cannot be written, it does not start, or the user has interrupted the study.
    pub fn start(&mut self, settings: &Settings) -> Result<Running, StudyError> {
        self.check_interrupted()?;
        let folder = self.scratch.path().join(format!("{:04}", self.started));
        self.started += 1;
        let config = folder.join("settings.toml");
        // A trial is of the weights it begins with, whatever a trainer does meanwhile.
        let settings = &Settings {
            reload_s: 0.0,
            ..settings.kept()
        };
        let text =
            toml::to_string(settings).map_err(|error| StudyError::Trial(error.to_string()))?;
        let open = |name: &str| {
            let path = folder.join(name);
            File::create(&path).map_err(Refusal::of("create", &path))
        };
        // A disk that has no room now may have some for the next trial.
        let failed = |refusal: Refusal| StudyError::Trial(refusal.to_string());
        disk::make_folder(&folder).map_err(failed)?;
        fs::write(&config, text)
            .map_err(Refusal::of("write", &config))
            .map_err(failed)?;
        let mut command = reexec::command();
        command
            .args(["selfplay", "--json", "--config"])
            .arg(&config)
            .arg("--out")
            .arg(folder.join("replay"))
            // A group of its own: the terminal's Ctrl-C is for the study to act on, a trial would
            // finish what it has in hand.
            .process_group(0)
            // A study that is killed takes its trial along.
            .args(["--parent", &std::process::id().to_string()])
            .stdin(Stdio::null())
            .stdout(open("stdout").map_err(failed)?)
            .stderr(open("stderr").map_err(failed)?);
        // It has children of its own to stop.
        let process = job_control::spawn(&mut command, Signal::SIGTSTP)
            .map_err(|error| StudyError::Trial(format!("cannot start: {error}")))?;
        let limited = settings.seconds > 0.0;
        let limit = || Duration::from_secs_f64(settings.seconds) + GRACE;
        Ok(Running {
            process,
            folder,
            clock: ActiveClock::default(),
            limit: limited.then(limit),
        })
    }

    /// Waits for a run's end; what it reports.
    ///
    /// # Errors
    /// Its own failure, or the user's interruption.
    pub fn finish(&self, running: &mut Running) -> Result<Value, StudyError> {
        let failed = |what: String| Err(StudyError::Trial(what));
        let status = loop {
            let awake = running.clock.look();
            match job_control::try_wait(&mut running.process) {
                Ok(Some(status)) => break status,
                Ok(None) if self.is_interrupted() => {
                    running.end();
                    self.check_interrupted()?;
                }
                Ok(None) if running.limit.is_some_and(|limit| awake > limit) => {
                    running.end();
                    let limit = GRACE.as_secs();
                    return failed(format!("hung: ended {limit} s after its time"));
                }
                Ok(None) => std::thread::sleep(CHILD_CHECK_EVERY),
                Err(error) => return failed(error.to_string()),
            }
        };
        let read = |name| fs::read_to_string(running.folder.join(name)).unwrap_or_default();
        let (stdout, stderr) = (read("stdout"), read("stderr"));
        // What is left is removed with the whole scratch folder when the study ends.
        let _ = fs::remove_dir_all(&running.folder);
        if status.code() == Some(INTERRUPTED.into()) {
            return Err(interrupted());
        }
        if !status.success() {
            self.check_interrupted()?;
            return failed(reason(status, &stderr));
        }
        serde_json::from_str(&stdout)
            .or_else(|error| failed(format!("its report does not parse: {error}")))
    }

    /// The folder of what is needed only while the study runs.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }
}

/// What is kept is told by those who know; see [`StudyError::keeping`].
fn interrupted() -> StudyError {
    StudyError::Interrupted(NOTHING_YET.to_owned())
}

/// Why a run failed, in one line.
fn reason(status: ExitStatus, stderr: &str) -> String {
    let last = stderr.lines().rev().find(|line| !line.trim().is_empty());
    let said = last.unwrap_or("said nothing");
    let said = said.strip_prefix("ringmaster: ").unwrap_or(said);
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}: {said}"),
        (None, signal) => format!("killed by signal {}: {said}", signal.unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::MixEntry;

    #[test]
    fn a_settings_file_leaves_out_only_defaults() {
        let mut settings = Settings::default();
        let text = settings_file(&settings);
        assert_eq!(toml::from_str::<Settings>(&text).unwrap(), settings);
        for (name, _) in set_by_trials() {
            let is_there = text
                .lines()
                .any(|line| line.starts_with(&format!("{name} =")));
            assert!(!is_there, "{text}");
        }
        assert!(text.contains("cards = 5\n"), "{text}");
        settings.rounds = Some(12);
        settings.out = Some("there".into());
        settings.search.noise_alpha = 0.3;
        settings.mix = vec![MixEntry {
            players: 3,
            cards: 2,
            weight: 0.5,
        }];
        let text = settings_file(&settings);
        // Read from another folder, it is to mean the same.
        let read: Settings = toml::from_str(&text).unwrap();
        assert_eq!(read, settings.kept());
        assert!(
            read.out.unwrap().is_absolute() && text.contains("rounds = 12\n"),
            "{text}"
        );
    }
}
