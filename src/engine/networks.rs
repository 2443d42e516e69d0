//! The networks of a run. Weights may be replaced while it plays; every job is played by one
//! network from its first move to its last, and which one follows from the job's number alone: the
//! manifest says from which round on each plays. So a round stays a function of its number,
//! whatever dies or is resumed. New weights are looked for where `--weights` points, checked and
//! copied into the replay's folder, beside the play; the copies are what is really used, and stay
//! while rounds of them are still to be played. No more than two networks are in use at once: the
//! next weights are taken up only when all rounds of the network before the present one are done.

use super::weights_watcher::{NewWeights, Wanted, WeightsWatcher};
use crate::engine::weights_of;
use crate::network::{Shape, Weights, WeightsError};
use crate::replay::{Manifest, Network};
use crate::settings::Settings;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Copies of weights in a replay's folder are called so, and a number.
const COPY: &str = "weights-";

/// Where the copy of a network's weights lies.
pub fn copy_in(folder: &Path, network: u32) -> PathBuf {
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

/// The networks of a run and the weights to come.
pub struct Networks {
    folder: PathBuf,
    /// What the settings name, wherever it really is.
    given: Option<PathBuf>,
    shape: Shape,
    /// The oldest network in use.
    oldest: u32,
    watcher: WeightsWatcher,
    /// Those of the next network.
    next: Option<NewWeights>,
}

impl Networks {
    /// The networks of a run in `folder` whose lowest unfinished round is `unfinished`. `weights`
    /// are of the newest network, or of one to come; later ones are found by `watcher`.
    ///
    /// # Errors
    /// When weights that are still needed are not to be had, or cannot be copied.
    pub fn open(
        settings: &Settings,
        folder: &Path,
        manifest: &Manifest,
        unfinished: u64,
        weights: &Weights,
        watcher: WeightsWatcher,
    ) -> Result<Networks, WeightsError> {
        let newest = manifest.networks.len() as u32 - 1;
        let networks = Networks {
            folder: folder.to_path_buf(),
            given: settings
                .weights
                .as_ref()
                .and_then(|path| path.canonicalize().ok()),
            shape: weights.shape(),
            oldest: manifest.network_of(unfinished),
            watcher,
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

    /// Sees to it that the weights of a network in use are where `load` looks for them. `given` are
    /// those that the settings name.
    fn provide(
        &self,
        number: u32,
        network: &Network,
        settings: &Settings,
        given: &Weights,
    ) -> Result<(), WeightsError> {
        let copy = copy_in(&self.folder, number);
        let is_it = |weights: &Weights| weights.hash_text() == network.weights;
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
        let cause = format!(
            "the weights of rounds from {} on that are still to be played are not there, and \
             --weights names others",
            network.from_round
        );
        let remedy = format!("put a file of hash {} at that place", network.weights);
        Err(WeightsError::of(&copy, cause, remedy))
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

    /// Looks for new weights, now and then: the number of the network they would be, or why they
    /// are none, told once.
    pub fn look(&mut self, manifest: &Manifest) -> Option<Result<u32, String>> {
        let next = manifest.networks.len() as u32;
        if self.next.is_some() || self.oldest + 1 != next {
            return None;
        }
        let wanted = || Wanted {
            shape: self.shape,
            in_use: manifest.newest_weights().to_owned(),
            copy: copy_in(&self.folder, next),
        };
        Some(self.watcher.look(wanted)?.map(|new| {
            self.next = Some(new);
            next
        }))
    }

    /// The next network as the manifest names it, playing from `from_round` on, and the file it
    /// came from; it is then the newest.
    pub fn take_next(&mut self, from_round: u64) -> Option<(Network, PathBuf)> {
        let NewWeights { hash, file } = self.next.take()?;
        let network = Network {
            weights: hash,
            from_round,
        };
        Some((network, file))
    }

    /// Drops weights that cannot be used.
    pub fn drop_next(&mut self, manifest: &Manifest) {
        self.next = None;
        self.sweep(self.oldest..manifest.networks.len() as u32);
    }

    /// Ends the watch; removes the copies that nobody needs: all of them if the run is complete.
    pub fn close(mut self, manifest: &Manifest, complete: bool) {
        self.watcher.close();
        let end = manifest.networks.len() as u32;
        self.sweep(if complete { end } else { self.oldest }..end);
    }

    /// Is this what the user named as weights, or in the folder named? Then it stays, whatever it
    /// is called.
    fn is_given(&self, path: &Path) -> bool {
        let given = self.given.as_ref().zip(path.canonicalize().ok());
        given.is_some_and(|(given, path)| path.starts_with(given))
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
