//! Watches the place that `--weights` points to for new weights, now and then. Whether a file is
//! new is decided by what is in it: it is read whenever its inode, its size or a time of it has
//! changed, and once more after a moment, so that one that is still being written is left alone;
//! the reading, the check and the copy go on beside the play. In a folder new is what has come
//! since the last look, whatever its date: a file that was copied with an old one is noticed, and
//! one that is dated ahead does not stand in the way of those after it.

use crate::network::{Shape, Weights, WeightsError, read_weights, weights_file, weights_files};
use crate::settings::Settings;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A file has to be still for as long as there is between two looks, but no longer than this.
const STILL: Duration = Duration::from_secs(1);

/// What stays as it is when a file is renamed, or its permissions change: device, inode, bytes, and
/// when it was modified, in seconds and nanoseconds.
type Written = (u64, u64, u64, (i64, i64));

/// A state of a file, as far as the system tells.
#[derive(Clone, PartialEq, Eq)]
struct FileState {
    file: PathBuf,
    written: Written,
    /// When anything of it was changed, its name and its permissions among them; nobody can set
    /// that. Seconds and nanoseconds.
    changed: (i64, i64),
}

impl FileState {
    fn of(file: PathBuf, data: &Metadata) -> FileState {
        let modified = (data.mtime(), data.mtime_nsec());
        FileState {
            file,
            written: (data.dev(), data.ino(), data.len(), modified),
            changed: (data.ctime(), data.ctime_nsec()),
        }
    }

    /// Is the file still as it was?
    fn holds(&self) -> bool {
        let now = self.file.metadata();
        now.is_ok_and(|data| FileState::of(self.file.clone(), &data) == *self)
    }
}

/// All weights files at a place; none while there is nothing.
fn file_states(place: &Path) -> Vec<FileState> {
    let files = weights_files(place).unwrap_or_default();
    let state = |(file, data): (PathBuf, Metadata)| FileState::of(file, &data);
    files.into_iter().map(state).collect()
}

/// Sound weights that are others than those in use, copied.
pub struct NewWeights {
    /// Their hash in hexadecimal.
    pub hash: String,
    /// The file they came from.
    pub file: PathBuf,
}

/// What a file held.
enum CheckOutcome {
    /// It is still being written, or gone again.
    Moving,
    /// The weights in use.
    InUse,
    /// Others; their hash.
    New(String),
}

/// A check of a file, beside the play.
struct Check {
    thread: JoinHandle<Result<CheckOutcome, WeightsError>>,
    /// Dropped, it ends the wait for the file to be still.
    stop: Sender<()>,
    state: FileState,
    /// All files that were there.
    here: Vec<FileState>,
}

/// What new weights are compared with, and where their copy goes.
pub struct Wanted {
    /// The run's size.
    pub shape: Shape,
    /// The hash of the weights in use.
    pub in_use: String,
    /// The copy.
    pub copy: PathBuf,
}

/// Watches a place for new weights.
pub struct WeightsWatcher {
    /// None: nobody looks.
    place: Option<PathBuf>,
    every: Duration,
    looked: Instant,
    /// Files that are not new.
    known: HashSet<Written>,
    /// The file that was checked last. Of this one every change is noticed: what is in it is known.
    checked: Option<FileState>,
    check: Option<Check>,
    /// What was last reported of a broken one.
    reported: Option<String>,
}

impl WeightsWatcher {
    /// From now on; whatever is there is not new. To be made before the weights are read from
    /// there.
    pub fn new(settings: &Settings) -> WeightsWatcher {
        let place = settings.weights.clone().filter(|_| settings.reload_s > 0.0);
        let here = place.as_deref().map(file_states).unwrap_or_default();
        let read = place.as_deref().and_then(|place| weights_file(place).ok());
        WeightsWatcher {
            place,
            every: Duration::from_secs_f64(settings.reload_s),
            looked: Instant::now(),
            known: here.iter().map(|state| state.written).collect(),
            checked: here
                .into_iter()
                .find(|state| Some(&state.file) == read.as_ref()),
            check: None,
            reported: None,
        }
    }

    /// The file that would have been read when this was made is new after all.
    pub fn forget(&mut self) {
        if let Some(state) = self.checked.take() {
            self.known.remove(&state.written);
        }
    }

    /// Looks, if it is time. New weights, or what is wrong with a file, are told once.
    pub fn look(&mut self, wanted: impl FnOnce() -> Wanted) -> Option<Result<NewWeights, String>> {
        if let Some(check) = self.check.take_if(|check| check.thread.is_finished()) {
            return self.conclude(check);
        }
        let place = self.place.as_deref()?;
        if self.check.is_some() || self.looked.elapsed() < self.every {
            return None;
        }
        self.looked = Instant::now();
        let here = file_states(place);
        // What is gone may come back as another file.
        let there: HashSet<Written> = here.iter().map(|state| state.written).collect();
        self.known.retain(|known| there.contains(known));
        let new = here.iter().filter(|state| self.is_new(state));
        let newest = new.max_by_key(|state| (state.written.3, &state.file));
        let state = newest?.clone();
        let (stop, stopped) = channel();
        let (wanted, still, seen) = (wanted(), self.every.min(STILL), state.clone());
        let check = move || check(&seen, &wanted, still, &stopped);
        let thread = std::thread::Builder::new().name("new weights".into());
        // If no thread is to be had now: at the next look.
        self.check = thread.spawn(check).ok().map(|thread| Check {
            thread,
            stop,
            state,
            here,
        });
        None
    }

    fn is_new(&self, state: &FileState) -> bool {
        let changed = |checked: &FileState| checked.file == state.file && checked != state;
        !self.known.contains(&state.written) || self.checked.as_ref().is_some_and(changed)
    }

    /// What a finished check has come to.
    fn conclude(&mut self, check: Check) -> Option<Result<NewWeights, String>> {
        let outcome = match check.thread.join() {
            Ok(Ok(CheckOutcome::Moving)) => return None,
            Ok(Ok(CheckOutcome::InUse)) => None,
            Ok(Ok(CheckOutcome::New(hash))) => {
                // Those that came with it are older.
                let here = check.here.iter().map(|state| state.written);
                self.known.extend(here);
                self.reported = None;
                let file = check.state.file.clone();
                Some(Ok(NewWeights { hash, file }))
            }
            Ok(Err(error)) => Some(Err(error.to_string())),
            Err(_) => Some(Err("the check of new weights died".to_owned())),
        };
        self.known.insert(check.state.written);
        self.checked = Some(check.state);
        if let Some(Err(why)) = &outcome {
            // A file that grows in bouts is broken after each.
            if self.reported.replace(why.clone()).as_ref() == Some(why) {
                return None;
            }
        }
        outcome
    }

    /// Ends a check that is under way.
    pub fn close(&mut self) {
        if let Some(Check { thread, stop, .. }) = self.check.take() {
            drop(stop);
            // Whatever it has copied is swept up.
            let _ = thread.join();
        }
    }
}

fn check(
    state: &FileState,
    wanted: &Wanted,
    still: Duration,
    stopped: &Receiver<()>,
) -> Result<CheckOutcome, WeightsError> {
    let file = &state.file;
    let Some(before) = read_if_there(file)?.map(Sha256::digest) else {
        return Ok(CheckOutcome::Moving);
    };
    // Twice: a file of full size may still be being filled, by means that do not show in its times.
    if stopped.recv_timeout(still) != Err(RecvTimeoutError::Timeout) {
        return Ok(CheckOutcome::Moving);
    }
    let bytes = match read_if_there(file)? {
        Some(bytes) if Sha256::digest(&bytes) == before && state.holds() => bytes,
        _ => return Ok(CheckOutcome::Moving),
    };
    let weights = Weights::parse(&bytes, file)?;
    if weights.shape() != wanted.shape {
        return Err(WeightsError::other_shape(
            file,
            weights.shape(),
            wanted.shape,
        ));
    }
    let hash = weights.hash_text();
    if hash == wanted.in_use {
        return Ok(CheckOutcome::InUse);
    }
    weights.check_outputs(file)?;
    weights.save(&wanted.copy)?;
    Ok(CheckOutcome::New(hash))
}

/// The bytes of a file that may just be being replaced.
fn read_if_there(file: &Path) -> Result<Option<Vec<u8>>, WeightsError> {
    match read_weights(file) {
        Err(WeightsError::NotFound(_)) => Ok(None),
        read => read.map(Some),
    }
}
