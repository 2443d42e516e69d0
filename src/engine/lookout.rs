//! Looks for new weights where `--weights` points, now and then. Whether a file is new is decided
//! by what is in it: it is read whenever its inode, its size or a time of it has changed, and once
//! more after a moment, so that one that is still being written is left alone; the reading, the
//! check and the copy go on beside the play. In a folder new is what has come since the last look,
//! whatever its date: a file that was copied with an old one is noticed, and one that is dated
//! ahead does not stand in the way of those after it.

use super::networks::hex;
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

/// A state of a file, as far as the system tells.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Stamp {
    file: PathBuf,
    written: Written,
    /// When anything of it was changed, its name and its permissions among them; nobody can set
    /// that.
    changed_ns: i128,
}

/// What stays as it is when a file is renamed, or its permissions change.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Written {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_ns: i128,
}

impl Stamp {
    fn of(file: PathBuf, data: &Metadata) -> Stamp {
        let ns =
            |seconds, nanoseconds| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        Stamp {
            file,
            written: Written {
                device: data.dev(),
                inode: data.ino(),
                bytes: data.len(),
                modified_ns: ns(data.mtime(), data.mtime_nsec()),
            },
            changed_ns: ns(data.ctime(), data.ctime_nsec()),
        }
    }

    /// Is the file still as it was?
    fn holds(&self) -> bool {
        let now = self.file.metadata();
        now.is_ok_and(|data| Stamp::of(self.file.clone(), &data) == *self)
    }
}

/// All weights files at a place; none while there is nothing.
fn stamps(place: &Path) -> Vec<Stamp> {
    let files = weights_files(place).unwrap_or_default();
    let stamp = |(file, data): (PathBuf, Metadata)| Stamp::of(file, &data);
    files.into_iter().map(stamp).collect()
}

/// What a look came to.
#[derive(Debug)]
pub enum Sighting {
    /// Sound weights that are others than those in use, copied: their hash, and the file.
    Next(String, PathBuf),
    /// A file that holds none, and why.
    Broken(String),
}

/// What a file held.
enum Checked {
    /// It is still being written, or gone again.
    Moving,
    /// The weights in use.
    Present,
    /// Others; their hash.
    Next(String),
}

/// A file being looked into.
struct Check {
    thread: JoinHandle<Result<Checked, WeightsError>>,
    /// Gone, it ends the wait for the file to be still.
    stop: Sender<()>,
    stamp: Stamp,
    /// All files that were there.
    here: Vec<Stamp>,
}

/// What is taken for new, and where the copy goes.
pub struct Wanted {
    /// The run's size.
    pub shape: Shape,
    /// The hash of the weights in use.
    pub present: String,
    /// Where others are copied to.
    pub copy: PathBuf,
}

/// Watches a place for new weights.
pub struct Lookout {
    /// None: nobody looks.
    place: Option<PathBuf>,
    every: Duration,
    looked: Instant,
    /// Files that are not new.
    known: HashSet<Written>,
    /// The file that was looked into last. Of this one every change is noticed: what is in it is
    /// known.
    checked: Option<Stamp>,
    check: Option<Check>,
    /// What was last said of a broken one.
    said: Option<String>,
}

impl Lookout {
    /// From now on; whatever is there is not new. To be made before the weights are read from
    /// there.
    pub fn new(settings: &Settings) -> Lookout {
        let place = settings.weights.clone().filter(|_| settings.reload_s > 0.0);
        let here = place.as_deref().map(stamps).unwrap_or_default();
        let read = place.as_deref().and_then(|place| weights_file(place).ok());
        Lookout {
            place,
            every: Duration::from_secs_f64(settings.reload_s),
            looked: Instant::now(),
            known: here.iter().map(|stamp| stamp.written).collect(),
            checked: here
                .into_iter()
                .find(|stamp| Some(&stamp.file) == read.as_ref()),
            check: None,
            said: None,
        }
    }

    /// The file that would have been read when this was made is new after all.
    pub fn forget(&mut self) {
        if let Some(stamp) = self.checked.take() {
            self.known.remove(&stamp.written);
        }
    }

    /// Looks, if it is time; says what it found once.
    pub fn look(&mut self, wanted: impl FnOnce() -> Wanted) -> Option<Sighting> {
        if let Some(check) = self.check.take_if(|check| check.thread.is_finished()) {
            return self.judge(check);
        }
        let place = self.place.as_deref()?;
        if self.check.is_some() || self.looked.elapsed() < self.every {
            return None;
        }
        self.looked = Instant::now();
        let here = stamps(place);
        // What is gone may come back as another file.
        let there: HashSet<Written> = here.iter().map(|stamp| stamp.written).collect();
        self.known.retain(|known| there.contains(known));
        let new = here.iter().filter(|stamp| self.is_new(stamp));
        let newest = new.max_by_key(|stamp| (stamp.written.modified_ns, &stamp.file));
        let stamp = newest?.clone();
        let (stop, stopped) = channel();
        let (wanted, still, seen) = (wanted(), self.every.min(STILL), stamp.clone());
        let check = move || check(&seen, &wanted, still, &stopped);
        let thread = std::thread::Builder::new().name("new weights".into());
        // If no thread is to be had now: at the next look.
        self.check = thread.spawn(check).ok().map(|thread| Check {
            thread,
            stop,
            stamp,
            here,
        });
        None
    }

    fn is_new(&self, stamp: &Stamp) -> bool {
        let changed = |checked: &Stamp| checked.file == stamp.file && checked != stamp;
        !self.known.contains(&stamp.written) || self.checked.as_ref().is_some_and(changed)
    }

    /// What a check has come to.
    fn judge(&mut self, check: Check) -> Option<Sighting> {
        let outcome = match check.thread.join() {
            Ok(Ok(Checked::Moving)) => return None,
            Ok(Ok(Checked::Present)) => None,
            Ok(Ok(Checked::Next(hash))) => {
                // Those that came with it are older.
                self.known
                    .extend(check.here.iter().map(|stamp| stamp.written));
                self.said = None;
                Some(Sighting::Next(hash, check.stamp.file.clone()))
            }
            Ok(Err(error)) => Some(Sighting::Broken(error.to_string())),
            Err(_) => Some(Sighting::Broken("the check of new weights died".into())),
        };
        self.known.insert(check.stamp.written);
        self.checked = Some(check.stamp);
        if let Some(Sighting::Broken(why)) = &outcome {
            // A file that grows in bouts is broken after each.
            if self.said.replace(why.clone()).as_ref() == Some(why) {
                return None;
            }
        }
        outcome
    }

    /// Ends a look that is under way.
    pub fn close(&mut self) {
        if let Some(Check { thread, stop, .. }) = self.check.take() {
            drop(stop);
            // Whatever it has copied is swept up.
            let _ = thread.join();
        }
    }
}

/// Looks into a file.
fn check(
    stamp: &Stamp,
    wanted: &Wanted,
    still: Duration,
    stopped: &Receiver<()>,
) -> Result<Checked, WeightsError> {
    let file = &stamp.file;
    let Some(before) = read_if_there(file)?.map(Sha256::digest) else {
        return Ok(Checked::Moving);
    };
    // Twice: a file of full size may still be being filled, by means that do not show in its times.
    if stopped.recv_timeout(still) != Err(RecvTimeoutError::Timeout) {
        return Ok(Checked::Moving);
    }
    let Some(bytes) = read_if_there(file)? else {
        return Ok(Checked::Moving);
    };
    if Sha256::digest(&bytes) != before || !stamp.holds() {
        return Ok(Checked::Moving);
    }
    let weights = Weights::parse(&bytes, file)?;
    if weights.shape() != wanted.shape {
        return Err(WeightsError::other_shape(
            file,
            weights.shape(),
            wanted.shape,
        ));
    }
    let hash = hex(&weights.hash());
    if hash == wanted.present {
        return Ok(Checked::Present);
    }
    weights.check_outputs(file)?;
    weights.save(&wanted.copy)?;
    Ok(Checked::Next(hash))
}

/// The bytes of a file that may just be being replaced.
fn read_if_there(file: &Path) -> Result<Option<Vec<u8>>, WeightsError> {
    match read_weights(file) {
        Err(WeightsError::NotFound(_)) => Ok(None),
        read => read.map(Some),
    }
}
