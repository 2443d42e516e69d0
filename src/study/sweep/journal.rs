//! The trials that are finished, one line of JSON each, on disk before the next one starts. A line that
//! a kill cut short is dropped on the next start, and its trial runs again: each ends up there once.

use crate::input;
use crate::process::weights_of;
use crate::settings::Settings;
use crate::study::StudyError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Most of a journal that is read: half a million trials.
const JOURNAL_BYTES_MAX: u64 = 1 << 30;

/// One finished trial.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Entry {
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

/// Makes the keys of trials: a hash over settings with seed, repetition, this very program, and the weights.
pub struct Keys {
    program: [u8; 32],
    /// By weights file.
    weights: Vec<(Option<PathBuf>, [u8; 32])>,
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
            weights: Vec::new(),
        })
    }

    /// The key of a trial.
    ///
    /// # Errors
    /// When the weights cannot be loaded.
    pub fn key(&mut self, settings: &Settings, repetition: usize) -> Result<String, StudyError> {
        let known = self
            .weights
            .iter()
            .find(|(path, _)| *path == settings.weights);
        let weights = match known {
            Some((_, hash)) => *hash,
            None => {
                let weights = weights_of(settings).map_err(crate::process::RunError::from)?;
                self.weights
                    .push((settings.weights.clone(), weights.hash()));
                weights.hash()
            }
        };
        let settings = serde_json::to_vec(settings).unwrap_or_default();
        let mut hash = Sha256::new();
        hash.update(self.program);
        hash.update(weights);
        hash.update((repetition as u64).to_le_bytes());
        hash.update(settings);
        let bytes: [u8; 32] = hash.finalize().into();
        Ok(bytes[..16].iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }))
    }
}

/// The journal of a sweep's folder, locked for this process.
pub struct Journal {
    file: File,
    path: PathBuf,
    /// What is in it.
    pub entries: Vec<Entry>,
}

impl Journal {
    /// Opens or begins the journal in `path`.
    ///
    /// # Errors
    /// When it cannot be read or written, another sweep is at work on it, or it is damaged.
    pub fn open(path: &Path) -> Result<Journal, StudyError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file =
            input::open_with(path, &mut options).map_err(StudyError::file("open", path))?;
        match crate::replay::try_lock_patiently(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let what = format!(
                    "{}: another sweep is at work in this folder",
                    path.display()
                );
                return Err(StudyError::Usage(what));
            }
            Err(TryLockError::Error(error)) => return Err(StudyError::file("lock", path)(error)),
        }
        let bytes =
            input::read_up_to(&file, JOURNAL_BYTES_MAX).map_err(StudyError::file("read", path))?;
        let whole = bytes
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |end| end + 1);
        let mut entries = Vec::new();
        for (number, line) in bytes[..whole].split(|&byte| byte == b'\n').enumerate() {
            if !line.is_empty() {
                entries.push(serde_json::from_slice(line).map_err(|error| {
                    let (path, line) = (path.display(), number + 1);
                    StudyError::Usage(format!("{path}: line {line} is damaged: {error}"))
                })?);
            }
        }
        // What a kill cut short goes, and the next line starts where it started.
        file.set_len(whole as u64)
            .and_then(|()| file.seek(SeekFrom::End(0)))
            .map_err(StudyError::file("repair", path))?;
        Ok(Journal {
            file,
            path: path.to_owned(),
            entries,
        })
    }

    /// The entry of a trial that is finished.
    pub fn find(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// Adds a finished trial; it is on disk when this returns.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn push(&mut self, entry: Entry) -> Result<(), StudyError> {
        let mut line = serde_json::to_vec(&entry).unwrap_or_default();
        line.push(b'\n');
        self.file
            .write_all(&line)
            .and_then(|()| self.file.sync_data())
            .map_err(StudyError::file("write", &self.path))?;
        self.entries.push(entry);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cut_short_is_dropped_and_a_second_sweep_kept_out() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("trials.jsonl");
        let entry = |key: &str| Entry {
            key: key.into(),
            repetition: 1,
            values: vec!["4".into()],
            failed: None,
            report: serde_json::json!({"rounds": 3}),
            policy_distance: None,
        };
        let mut journal = Journal::open(&path).unwrap();
        assert!(Journal::open(&path).is_err());
        journal.push(entry("a")).unwrap();
        drop(journal);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"key\":\"b\",\"repe").unwrap();
        drop(file);
        let mut journal = Journal::open(&path).unwrap();
        assert_eq!(journal.entries, [entry("a")]);
        journal.push(entry("c")).unwrap();
        drop(journal);
        assert_eq!(
            Journal::open(&path).unwrap().entries,
            [entry("a"), entry("c")]
        );
        std::fs::write(&path, "no json\n").unwrap();
        let error = Journal::open(&path).err().unwrap().to_string();
        assert!(error.contains("line 1 is damaged"), "{error}");
    }

    #[test]
    fn keys_tell_settings_and_repetitions_apart() {
        let mut keys = Keys::new().unwrap();
        let settings = Settings::default();
        let other = Settings {
            seed: 1,
            ..settings.clone()
        };
        let all = [
            keys.key(&settings, 1).unwrap(),
            keys.key(&settings, 2).unwrap(),
            keys.key(&other, 1).unwrap(),
        ];
        assert_eq!(all[0], keys.key(&settings, 1).unwrap());
        assert!(all[0] != all[1] && all[0] != all[2] && all[1] != all[2]);
    }
}
