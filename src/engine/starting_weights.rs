//! The weights a run begins with: those that its settings name. A replay that is gone on with holds
//! a copy of its own, which is used where the file was moved away or damaged meanwhile; and where
//! other weights lie by now they play the rounds not yet begun, if they were appended, or if they
//! lie where the run would have taken them up while it played.

use super::error::RunError;
use super::networks::copy_in;
use super::weights_of;
use super::weights_watcher::WeightsWatcher;
use crate::network::{Weights, WeightsError, weights_file};
use crate::replay::{Manifest, Network, ReplayWriter};
use crate::settings::Settings;
use std::path::{Path, PathBuf};

/// How a run begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// A new replay.
    New,
    /// Goes on with one.
    Resume,
    /// Goes on with one, by other weights if they are others.
    Append,
}

/// What a run begins with.
pub struct StartingWeights {
    /// The weights of the replay's newest network, or of one that is to follow it.
    pub weights: Weights,
    /// Are they to follow?
    pub is_next: bool,
    /// Finds those that come later.
    pub watcher: WeightsWatcher,
    /// To be said when the run starts.
    pub notes: Vec<String>,
}

impl StartingWeights {
    /// Finds the weights, before anything is started.
    ///
    /// # Errors
    /// When they cannot be read or cannot play, and the replay does not hold them either.
    pub fn find(settings: &Settings, start: Start) -> Result<StartingWeights, WeightsError> {
        let watcher = WeightsWatcher::new(settings);
        let named = weights_of(settings);
        let folder = settings.out.as_deref().filter(|_| start != Start::New);
        // What is wrong with a replay is said when it is opened.
        let replay = folder.and_then(|folder| Some((folder, Manifest::read(folder).ok()?)));
        let (weights, is_next, note) = match replay {
            Some((folder, manifest)) => {
                Replay { folder, manifest }.choose(named, settings, start)?
            }
            None => (named?, false, None),
        };
        let place = settings.weights.as_deref();
        let prefix = place.and_then(|place| prefix_note(&weights, place));
        Ok(StartingWeights {
            weights,
            is_next,
            watcher,
            notes: prefix.into_iter().chain(note).collect(),
        })
    }

    /// Has the weights play from `from_round` on, the first round not yet begun. Not while the
    /// replay's two newest networks both have rounds to play: then the watcher finds the
    /// weights again once it is only one.
    ///
    /// # Errors
    /// When that cannot be noted in the replay.
    pub fn follow(
        &mut self,
        settings: &Settings,
        writer: &mut ReplayWriter,
        from_round: u64,
    ) -> Result<(), RunError> {
        if from_round >= settings.planned_rounds() {
            return Ok(());
        }
        let newest = writer.manifest().networks.len() as u32 - 1;
        if writer.manifest().network_of(writer.next()) != newest {
            self.watcher.forget();
            return Ok(());
        }
        let place = settings.weights.as_deref();
        if let (Some(_), Some(out)) = (place, &settings.out) {
            // First, so that they are not lost if the run ends here.
            self.weights.save(&copy_in(out, newest + 1))?;
        }
        let network = Network {
            weights: self.weights.hash_text(),
            from_round,
        };
        let file = place.and_then(|place| weights_file(place).ok());
        self.notes.push(taken_up(&network, file.as_deref()));
        Ok(writer.add_network(network)?)
    }
}

/// What is said of a network that begins to play, from this file or built in.
pub fn taken_up(network: &Network, file: Option<&Path>) -> String {
    let hash = &network.weights[..12];
    let file = file.map_or("the program".into(), Path::to_string_lossy);
    let from_round = network.from_round;
    format!("new weights {hash} from {file}: they play from round {from_round} on")
}

/// What is to be known of names that were not taken as they stand in the file at `place`.
pub fn prefix_note(weights: &Weights, place: &Path) -> Option<String> {
    let (prefix, place) = (weights.prefix(), place.display());
    let note = format!("weights {place}: the names begin with `{prefix}`, which is left out");
    (!prefix.is_empty()).then_some(note)
}

/// A replay that is gone on with.
struct Replay<'a> {
    folder: &'a Path,
    manifest: Manifest,
}

impl Replay<'_> {
    /// The weights to begin with, whether they follow the replay's own, and what is to be said of
    /// them; `named` are those of the settings. Others than the replay's that may not follow
    /// are left for the replay to refuse.
    fn choose(
        &self,
        named: Result<Weights, WeightsError>,
        settings: &Settings,
        start: Start,
    ) -> Result<(Weights, bool, Option<String>), WeightsError> {
        let place = settings.weights.as_deref();
        let named = match named {
            Ok(named) => named,
            Err(error) => {
                let is_ours = place == self.place().as_deref() || self.is_played_from(settings);
                return match self.own().filter(|_| is_ours) {
                    Some(own) => {
                        let note = format!("{error}; the replay's own copy plays");
                        Ok((own, false, Some(note)))
                    }
                    None => Err(error),
                };
            }
        };
        let hash = named.hash_text();
        let is_append = start == Start::Append;
        let may_follow = is_append || settings.reload_s > 0.0 && self.is_played_from(settings);
        if hash == self.manifest.newest_weights() || !may_follow {
            return Ok((named, false, None));
        }
        let Some(own) = self.own() else {
            return Ok((named, true, None));
        };
        // Not the newest of the folder, whatever its date: this run has had it before the one it
        // has now.
        let was_before = self.manifest.networks.iter().any(|n| n.weights == hash);
        if was_before && place.is_some_and(Path::is_dir) {
            return Ok((own, false, None));
        }
        if !is_append && own.shape() != named.shape() {
            let file = place.unwrap_or(Path::new(""));
            let error = WeightsError::other_shape(file, named.shape(), own.shape());
            return Ok((own, false, Some(format!("new weights ignored: {error}"))));
        }
        Ok((named, true, None))
    }

    /// The copy of the newest network's weights.
    fn own(&self) -> Option<Weights> {
        let newest = self.manifest.networks.len() as u32 - 1;
        let own = Weights::load(&copy_in(self.folder, newest)).ok()?;
        (own.hash_text() == self.manifest.newest_weights()).then_some(own)
    }

    /// Where the replay's settings say that its weights lie.
    fn place(&self) -> Option<PathBuf> {
        Some(self.manifest.notes.get("weights")?.as_str()?.into())
    }

    /// Do the settings name the very place that the replay was played from? Of a relative path, as
    /// replays used to keep, nobody knows.
    fn is_played_from(&self, settings: &Settings) -> bool {
        let (Some(ours), Some(place)) = (self.place(), settings.kept().weights) else {
            return false;
        };
        let real = |path: &Path| path.canonicalize().ok();
        ours.is_absolute()
            && (ours == place || real(&ours).is_some_and(|ours| real(&place) == Some(ours)))
    }
}
