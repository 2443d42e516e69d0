//! The trials that have ended, one line of JSON each, on disk before the next one starts. A line
//! that a kill cut short is dropped on the next start, and its trial runs again. A trial that
//! failed runs again, too; its next line goes over the one before. So each ends up there once.

use crate::disk::{self, Lock, Refusal};
use crate::engine::{RunError, weights_of};
use crate::input;
use crate::measure::StudyError;
use crate::plural::hex;
use crate::settings::Settings;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Most of a journal that is read: half a million trials.
const JOURNAL_BYTES_MAX: u64 = 1 << 30;

/// How every line begins.
const LINE: &[u8] = b"{\"key\":\"";

/// One trial that has ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TrialEntry {
    /// What it is known by; see [`Keys`].
    pub key: String,
    /// The repetition, from 1.
    pub repetition: usize,
    /// Values of the swept settings.
    pub values: Vec<String>,
    /// Why it failed, if it did.
    #[serde(default)]
    pub failed: Option<String>,
    /// What the run reported; null if it failed.
    #[serde(default)]
    pub report: Value,
    /// Mean total variation from sequential search, if it was asked for.
    #[serde(default)]
    pub policy_distance: Option<f64>,
}

/// Makes the keys of trials: a hash over settings with seed, repetition, this very program, and the
/// weights.
pub struct Keys {
    program: [u8; 32],
    /// By weights file.
    weights: HashMap<Option<PathBuf>, [u8; 32]>,
}

impl Keys {
    /// For this program.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn new() -> Result<Keys, StudyError> {
        let path = Path::new("/proc/self/exe");
        let program = std::fs::read(path).map_err(StudyError::file("read", path))?;
        Ok(Keys {
            program: Sha256::digest(program).into(),
            weights: HashMap::new(),
        })
    }

    /// The key of a trial.
    ///
    /// # Errors
    /// When the weights cannot be loaded.
    pub fn key(&mut self, settings: &Settings, repetition: usize) -> Result<String, StudyError> {
        if !self.weights.contains_key(&settings.weights) {
            let weights = weights_of(settings).map_err(RunError::from)?;
            self.weights
                .insert(settings.weights.clone(), weights.hash());
        }
        let mut hash = Sha256::new();
        hash.update(self.program);
        hash.update(self.weights[&settings.weights]);
        hash.update((repetition as u64).to_le_bytes());
        hash.update(serde_json::to_vec(settings).unwrap_or_default());
        Ok(hex(&hash.finalize()[..16]))
    }
}

/// The journal of a sweep's folder, locked for this process.
pub struct TrialJournal {
    file: File,
    path: PathBuf,
    /// What the user is to know of its file system, one line.
    pub note: Option<String>,
    /// What is in it: of each trial the last line.
    pub entries: Vec<TrialEntry>,
    /// Their places, by key.
    places: HashMap<String, usize>,
}

impl TrialJournal {
    /// Opens or begins the journal in `path`.
    ///
    /// # Errors
    /// When it cannot be read or written, another sweep is at work on it, or it is damaged.
    pub fn open(path: &Path) -> Result<TrialJournal, StudyError> {
        let mut options = OpenOptions::new();
        // Always at the end: where there are no locks, another sweep's lines are not written over.
        options.read(true).append(true).create(true);
        let file = input::open_with(path, &mut options).map_err(StudyError::file("open", path))?;
        let named = |what: &str| format!("{}: {what}", path.display());
        let note = match disk::lock(&file).map_err(StudyError::file("lock", path))? {
            Lock::Held => None,
            Lock::Taken => {
                return Err(StudyError::usage(
                    named("another sweep is at work in this folder"),
                    "wait for it to end, or choose another --out",
                ));
            }
            Lock::Impossible => Some(named(
                "its file system has no file locks: nothing keeps a second sweep out of this \
                 folder",
            )),
        };
        let bytes =
            input::read_up_to(&file, JOURNAL_BYTES_MAX).map_err(StudyError::file("read", path))?;
        let whole = bytes
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |end| end + 1);
        let mut journal = TrialJournal {
            file,
            path: path.to_owned(),
            note,
            entries: Vec::new(),
            places: HashMap::new(),
        };
        for (number, line) in bytes[..whole].split(|&byte| byte == b'\n').enumerate() {
            if !line.is_empty() {
                let entry = serde_json::from_slice(line).map_err(|error| {
                    StudyError::usage(
                        named(&format!("line {} is damaged: {error}", number + 1)),
                        "remove it, and its trial runs again",
                    )
                })?;
                journal.take(entry);
            }
        }
        if !is_begun(&bytes[whole..]) {
            let what = named("no journal of a sweep");
            return Err(StudyError::usage(what, "choose another --out"));
        }
        // What a kill cut short goes, and the next line starts where it started.
        let cut = journal.file.set_len(whole as u64);
        cut.map_err(StudyError::file("repair", path))?;
        Ok(journal)
    }

    /// Takes an entry, in place of an earlier one of the same trial.
    fn take(&mut self, entry: TrialEntry) {
        match self.places.get(&entry.key) {
            Some(&place) => self.entries[place] = entry,
            None => {
                self.places.insert(entry.key.clone(), self.entries.len());
                self.entries.push(entry);
            }
        }
    }

    /// What became of a trial, if it has ended.
    pub fn find(&self, key: &str) -> Option<&TrialEntry> {
        self.places.get(key).map(|&place| &self.entries[place])
    }

    /// Is a trial over and done with? One that failed is to be tried again.
    pub fn is_done(&self, key: &str) -> bool {
        self.find(key).is_some_and(|entry| entry.failed.is_none())
    }

    /// Adds a trial that has ended; it is on disk when this returns.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn push(&mut self, entry: TrialEntry) -> Result<(), StudyError> {
        let mut line = serde_json::to_vec(&entry).unwrap_or_default();
        line.push(b'\n');
        let written = self.file.write_all(&line);
        written
            .and_then(|()| disk::flush(&self.file))
            .map_err(Refusal::of("write", &self.path))
            .map_err(|refusal| refusal.then("run the same command again: it goes on from there"))?;
        self.take(entry);
        Ok(())
    }
}

/// Is this the beginning of a line, as a kill leaves it, or what a loss of power makes of one?
fn is_begun(rest: &[u8]) -> bool {
    let length = rest.len().min(LINE.len());
    rest[..length] == LINE[..length] || rest.iter().all(|&byte| byte == 0)
}
