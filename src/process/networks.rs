//! The networks of a run. Weights may be replaced while it plays; every job is played by one network from its first move to
//! its last, and which one follows from the job's number alone: the manifest says from which round on each plays. So a
//! round stays a function of its number, whatever dies or is resumed. New weights are looked for where `--weights` points,
//! checked and copied into the replay's folder, beside the play; the copies are what is really used, and stay while rounds
//! of them are still to be played. No more than two networks are in use at once: the next weights are taken up only when
//! all rounds of the network before the present one are done.

use crate::network::{Shape, Weights, WeightsError, weights_file};
use crate::process::weights_of;
use crate::replay::{Manifest, Network};
use crate::settings::Settings;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Copies of weights in a replay's folder are called so, and a number.
const COPY: &str = "weights-";

/// Where the copy of a network's weights lies.
fn copy_in(folder: &Path, network: u32) -> PathBuf {
    folder.join(format!("{COPY}{network}.safetensors"))
}

/// The weights of one of the run's networks.
///
/// # Errors
/// When their copy is gone or damaged.
pub fn load(settings: &Settings, folder: &Path, network: u32) -> Result<Weights, WeightsError> {
    match settings.weights {
        Some(_) => Weights::load(&copy_in(folder, network)),
        None => weights_of(settings),
    }
}

/// Tells a file from the one that was there before.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Stamp {
    file: PathBuf,
    inode: u64,
    bytes: u64,
    changed_ns: i128,
}

impl Stamp {
    fn of(source: &Path) -> Option<Stamp> {
        let file = weights_file(source).ok()?;
        let data = file.metadata().ok()?;
        Some(Stamp {
            inode: data.ino(),
            bytes: data.len(),
            changed_ns: i128::from(data.mtime()) * 1_000_000_000 + i128::from(data.mtime_nsec()),
            file,
        })
    }
}

/// What a look for new weights found.
#[derive(Debug)]
pub enum Found {
    /// Sound weights: the next network, if the evaluator can use it.
    Next(u32),
    /// A file that is not, and why.
    Broken(String),
}

/// Sound weights that were copied: their hash, and their file. None if they are those in use.
type Checked = Result<Option<(String, PathBuf)>, WeightsError>;

/// The networks of a run and the weights to come.
pub struct Networks {
    folder: PathBuf,
    /// What the settings name, wherever it really is.
    given: Option<PathBuf>,
    /// Where new weights are looked for; none: never.
    source: Option<PathBuf>,
    every: Duration,
    shape: Shape,
    /// The oldest network in use.
    oldest: u32,
    /// The file last looked at.
    seen: Option<Stamp>,
    looked: Instant,
    /// A new file being checked and copied, which takes a moment.
    check: Option<JoinHandle<Checked>>,
    /// Checked weights: their hash, and the file they came from.
    next: Option<(String, PathBuf)>,
}

impl Networks {
    /// The networks of a run in `folder` whose lowest unfinished round is `unfinished`. `stamped` is the file the settings
    /// name as it was before `weights` were read from it.
    ///
    /// # Errors
    /// When weights that are still needed are not to be had, or cannot be copied.
    pub fn open(
        settings: &Settings,
        folder: &Path,
        manifest: &Manifest,
        unfinished: u64,
        weights: &Weights,
        stamped: Stamped,
    ) -> Result<Networks, WeightsError> {
        let newest = manifest.networks.len() as u32 - 1;
        let hash = hex(&weights.hash());
        let networks = Networks {
            folder: folder.to_path_buf(),
            given: settings
                .weights
                .as_ref()
                .and_then(|path| path.canonicalize().ok()),
            source: settings.weights.clone().filter(|_| settings.reload_s > 0.0),
            every: Duration::from_secs_f64(settings.reload_s),
            shape: weights.shape(),
            oldest: manifest.network_of(unfinished),
            // Weights that were appended are new ones, to be found by the first look.
            seen: stamped.0.filter(|_| hash == manifest.newest_weights()),
            looked: Instant::now(),
            check: None,
            next: None,
        };
        networks.sweep(networks.oldest..newest + 1);
        for network in networks.oldest..=newest {
            networks.provide(
                network,
                &manifest.networks[network as usize],
                settings,
                weights,
            )?;
        }
        Ok(networks)
    }

    /// Sees to it that the weights of a network in use are where `load` looks for them. `given` are those that the settings
    /// name.
    fn provide(
        &self,
        number: u32,
        network: &Network,
        settings: &Settings,
        given: &Weights,
    ) -> Result<(), WeightsError> {
        let copy = copy_in(&self.folder, number);
        let is_it = |weights: &Weights| hex(&weights.hash()) == network.weights;
        if settings.weights.is_some() {
            if Weights::load(&copy).is_ok_and(|weights| is_it(&weights)) {
                return Ok(());
            }
            if is_it(given) {
                return given.save(&copy);
            }
            // A run that began with the built-in network goes on with weights of its own.
            let built_in = weights_of(&Settings::default())?;
            if is_it(&built_in) {
                return built_in.save(&copy);
            }
        } else if is_it(given) {
            return Ok(());
        }
        Err(WeightsError::Lost {
            file: copy,
            hash: network.weights.clone(),
            from_round: network.from_round,
        })
    }

    /// The oldest network that is still in use, now that all rounds below `unfinished` are done.
    pub fn oldest(&mut self, manifest: &Manifest, unfinished: u64) -> u32 {
        let oldest = manifest.network_of(unfinished);
        if oldest != self.oldest {
            self.oldest = oldest;
            self.sweep(oldest..manifest.networks.len() as u32);
        }
        oldest
    }

    /// Looks for new weights, now and then; says what it found once.
    pub fn look(&mut self, manifest: &Manifest) -> Option<Found> {
        let newest = manifest.networks.len() as u32 - 1;
        if let Some(check) = self.check.take_if(|check| check.is_finished()) {
            return match check.join() {
                Ok(Ok(Some(next))) => {
                    self.next = Some(next);
                    Some(Found::Next(newest + 1))
                }
                Ok(Ok(None)) => None,
                Ok(Err(error)) => Some(Found::Broken(error.to_string())),
                Err(_) => Some(Found::Broken("the check of new weights died".into())),
            };
        }
        let source = self.source.as_deref()?;
        let is_free = self.check.is_none() && self.next.is_none() && self.oldest == newest;
        if !is_free || self.looked.elapsed() < self.every {
            return None;
        }
        self.looked = Instant::now();
        // Nothing there, or just being replaced: later.
        let stamp = Stamp::of(source)?;
        if self.seen.as_ref() == Some(&stamp) {
            return None;
        }
        let file = stamp.file.clone();
        self.seen = Some(stamp);
        let (shape, copy) = (self.shape, copy_in(&self.folder, newest + 1));
        let present = manifest.newest_weights().to_owned();
        let check = move || check(&file, shape, &present, &copy);
        match std::thread::Builder::new()
            .name("new weights".into())
            .spawn(check)
        {
            Ok(check) => self.check = Some(check),
            // No thread to be had now: at the next look.
            Err(_) => self.seen = None,
        }
        None
    }

    /// The next network as the manifest names it, playing from `from_round` on, and the file it came from; it is then the
    /// newest.
    pub fn take_next(&mut self, from_round: u64) -> Option<(Network, PathBuf)> {
        let (weights, file) = self.next.take()?;
        Some((
            Network {
                weights,
                from_round,
            },
            file,
        ))
    }

    /// Drops weights that cannot be used.
    pub fn drop_next(&mut self, manifest: &Manifest) {
        self.next = None;
        self.sweep(self.oldest..manifest.networks.len() as u32);
    }

    /// Ends the looking; removes the copies that nobody needs: all of them if the run is complete.
    pub fn close(mut self, manifest: &Manifest, complete: bool) {
        if let Some(check) = self.check.take() {
            // Its copy is swept up next.
            let _ = check.join();
        }
        let newest = manifest.networks.len() as u32;
        self.sweep(if complete {
            newest..newest
        } else {
            self.oldest..newest
        });
    }

    /// Is this what the user named as weights, or in the folder named? Then it stays, whatever it is called.
    fn is_given(&self, path: &Path) -> bool {
        let given = self.given.as_deref();
        given.is_some_and(|given| {
            path.canonicalize()
                .is_ok_and(|path| path.starts_with(given))
        })
    }

    /// Removes all copies but these, and what was left of copying.
    fn sweep(&self, kept: std::ops::Range<u32>) {
        let kept: Vec<PathBuf> = kept.map(|network| copy_in(&self.folder, network)).collect();
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten();
        for path in entries.flatten().map(|entry| entry.path()) {
            if is_copy(&path) && !kept.contains(&path) && !self.is_given(&path) {
                // One that stays costs space, no more; the next start tries again.
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// Is this file called as a copy of weights is, or one that was being written?
fn is_copy(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let rest = name
        .strip_prefix(COPY)
        .and_then(|rest| rest.split_once('.'));
    rest.is_some_and(|(number, ending)| {
        let being_written = ending.starts_with("safetensors.") && ending.ends_with(".tmp");
        number.parse::<u32>().is_ok() && (ending == "safetensors" || being_written)
    })
}

/// The settings' weights file as it is at a moment; take it before the weights are read.
pub struct Stamped(Option<Stamp>);

impl Stamped {
    /// Of the file that the settings name.
    pub fn now(settings: &Settings) -> Stamped {
        Stamped(settings.weights.as_deref().and_then(Stamp::of))
    }
}

fn check(file: &Path, wanted: Shape, present: &str, copy: &Path) -> Checked {
    let weights = Weights::load(file)?;
    if weights.shape() != wanted {
        return Err(WeightsError::OtherShape {
            file: file.into(),
            found: weights.shape(),
            wanted,
        });
    }
    let hash = hex(&weights.hash());
    if hash == present {
        return Ok(None);
    }
    weights.save(copy)?;
    Ok(Some((hash, file.to_path_buf())))
}

/// A hash in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_copies_are_swept() {
        let called = |name: &str| is_copy(Path::new("replay").join(name).as_path());
        assert!(called("weights-0.safetensors") && called("weights-17.safetensors"));
        assert!(called("weights-1.safetensors.Ab12cd.tmp"));
        assert!(called("weights-1.safetensors.4711.tmp"));
        for name in [
            "weights-best.safetensors",
            "weights-1.txt",
            "weights-1.safetensors.bak",
            "weights-1-old.safetensors",
            "weights-.safetensors",
            "weights-thesis",
        ] {
            assert!(!called(name), "{name}");
        }
    }
}
