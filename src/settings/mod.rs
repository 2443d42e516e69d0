//! The settings of a run: one struct, the only home of defaults, stored with every result. A settings file
//! (TOML) holds the same names; command-line flags override it (`cli`). What is allowed is in `check`, what
//! follows from settings (jobs, tables, room) in `plan`.

mod check;
mod plan;

pub use check::{SettingsError, check_path};

use crate::game::Rules;
use crate::input;
use crate::network::BackendChoice;
use crate::search::Tuning;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// How idle processes wait for each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ParkingChoice {
    /// Sleep in the kernel until woken: right when processes outnumber cores.
    #[default]
    Park,
    /// Poll without ever sleeping: quickest, costs a core per process.
    Poll,
}

/// One entry of a mix: rounds of this shape, in proportion to `weight`.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixEntry {
    /// Seats, 3 to 8.
    pub players: usize,
    /// Cards dealt to each.
    pub cards: usize,
    /// How often, relative to the other entries.
    pub weight: f64,
}

/// Everything a run is told. The settings from `seed` to `rules` (with the weights) determine what is
/// played; the rest only how fast.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Independent rounds to play (ignored when `games` is set); 0, or none in a run limited in `seconds`: as many as there is
    /// time for; none otherwise: [`ROUNDS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounds: Option<u64>,
    /// Whole games to play instead; 0 for independent rounds.
    pub games: u64,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Seats, 3 to 8.
    pub players: usize,
    /// Cards dealt to each seat; in whole games those of the first round.
    pub cards: usize,
    /// Worlds sampled per decision.
    pub worlds: usize,
    /// Simulations in each world.
    pub simulations: usize,
    /// Leaves in flight per tree.
    pub leaves: usize,
    /// Worlds of one decision searched at once; 0: all together. Fewer fill batches worse and change
    /// nothing else.
    pub worlds_in_flight: usize,
    /// A weights file (safetensors), or a folder whose newest such file is meant; none: the built-in seeded network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// Seconds between two looks for new weights at that place: they are taken up while the run goes on, for
    /// rounds not yet begun; 0: never.
    pub reload_s: f64,
    /// What runs the network.
    pub backend: BackendChoice,
    /// Worker processes; 0 plays in one process without shared memory.
    pub workers: usize,
    /// Rounds (or games) in flight per worker; 0: enough to fill batches.
    pub in_flight: usize,
    /// Most leaves in a batch.
    pub max_batch: usize,
    /// Longest that leaves wait for a batch to fill while the network is idle, in microseconds.
    pub max_wait_us: u64,
    /// Threads of the network on the CPU; 0: one per core.
    pub threads: usize,
    /// GPU memory the network may take, in MiB; 0: no cap.
    pub gpu_memory_mib: usize,
    /// How idle processes wait.
    pub parking: ParkingChoice,
    /// Deaths of processes in a row, without a decision finished in between, after which a run gives up.
    pub max_restarts: usize,
    /// Seconds without a sign of life after which a process counts as hung and is replaced.
    pub hang_timeout_s: usize,
    /// End after so many seconds, warm-up included, even if rounds are left; 0: when all rounds are played.
    pub seconds: f64,
    /// Seconds from the common start that the figures leave out; the rounds are kept all the same.
    pub warm_up_s: f64,
    /// Folder for the time stamps of sampled requests (see `profile selfplay`); none: nothing is stamped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<PathBuf>,
    /// With `trace`, one request of a worker in so many is stamped.
    pub trace_every: usize,
    /// Where the replay goes; none: the next free folder under `replays`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out: Option<PathBuf>,
    /// Fine parameters of the search.
    pub search: Tuning,
    /// House variants.
    pub rules: Rules,
    /// Independent rounds drawn from several tables instead of one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mix: Vec<MixEntry>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            rounds: None,
            games: 0,
            seed: 0,
            players: 4,
            cards: 5,
            worlds: 3,
            simulations: 30,
            leaves: 1,
            worlds_in_flight: 0,
            weights: None,
            reload_s: 1.0,
            backend: BackendChoice::Auto,
            workers: cores(),
            in_flight: 0,
            max_batch: 512,
            max_wait_us: 0,
            threads: 0,
            gpu_memory_mib: 0,
            parking: ParkingChoice::Park,
            max_restarts: 10,
            hang_timeout_s: 30,
            seconds: 0.0,
            warm_up_s: 0.0,
            trace: None,
            trace_every: 64,
            out: None,
            search: Tuning::default(),
            rules: Rules::default(),
            mix: Vec::new(),
        }
    }
}

/// Most of a settings file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Rounds in flight are chosen so that this many batches' leaves are under way at once: one being
/// computed, one waiting, and half of one on its way through the workers.
const BATCHES_UNDER_WAY: f64 = 2.5;

/// Rounds of a run that is told nothing of its length.
pub const ROUNDS: u64 = 1000;

/// Rounds of a run that only time ends: more than can be played.
pub const ENDLESS: u64 = 1 << 40;

impl Settings {
    /// Reads a settings file. Relative paths in it start from the folder that it lies in.
    ///
    /// # Errors
    /// When it cannot be read, does not parse, or has an unknown key; ranges are `check`'s.
    pub fn load(path: &Path) -> Result<Settings, SettingsError> {
        let text = input::read_once(path, FILE_BYTES_MAX)
            .and_then(|bytes| String::from_utf8(bytes).map_err(std::io::Error::other))
            .map_err(|source| SettingsError::Unreadable {
                path: path.to_owned(),
                source,
            })?;
        let wrong = |message| SettingsError::Syntax {
            path: path.to_owned(),
            message,
        };
        let settings: Settings = toml::from_str(&text).map_err(|error| {
            let line = error
                .span()
                .map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            wrong(format!(
                "line {line}: {}",
                error.message().replace('\n', " ")
            ))
        })?;
        // As on the command line.
        if settings.games > 0 && settings.rounds.is_some() {
            let what = "rounds and games exclude each other: drop one";
            return Err(wrong(what.into()));
        }
        Ok(settings.from_folder(input::folder_of(path)))
    }

    /// The settings of a file in this folder, which relative paths start from. One that begins with `~` is left for `check`
    /// to refuse.
    pub fn from_folder(self, folder: &Path) -> Settings {
        self.map_paths(|path| match path.starts_with("~") {
            true => path.to_owned(),
            false => folder.join(path),
        })
    }

    /// The settings as a file keeps them that may be read from anywhere: all paths absolute.
    pub fn kept(&self) -> Settings {
        // A path that is no text cannot stand in a file, and one that is empty is refused wherever it is used.
        let is_text = |path: &PathBuf| path.to_str().is_some();
        let absolute = |path: &Path| std::path::absolute(path).ok().filter(is_text);
        self.clone()
            .map_paths(|path| absolute(path).unwrap_or_else(|| path.to_owned()))
    }

    fn map_paths(mut self, map: impl Fn(&Path) -> PathBuf) -> Settings {
        for path in [&mut self.weights, &mut self.out, &mut self.trace] {
            *path = path.as_deref().map(&map);
        }
        self
    }

    /// Fills in what follows from the rest: rounds in flight and threads. Call after `check`.
    pub fn resolve(mut self) -> Settings {
        if self.threads == 0 {
            self.threads = cores();
        }
        if self.in_flight == 0 {
            let leaves = self.leaves.min(self.simulations);
            let leaves_per_round = (self.worlds_at_once() * leaves) as f64;
            let share = BATCHES_UNDER_WAY * self.max_batch as f64 / self.workers.max(1) as f64;
            self.in_flight = (share / leaves_per_round).ceil().clamp(1.0, 4096.0) as usize;
        }
        self
    }

    /// The settings that determine what is played, for comparing a replay with a run that wants to go on
    /// with it. Workers, batches and the like are left out: they do not change a bit of the result.
    pub fn determining(&self) -> Settings {
        let neutral = Settings::default();
        Settings {
            // How many may grow; whether games or rounds may not.
            rounds: Some(0),
            games: self.games.min(1),
            weights: None,
            reload_s: neutral.reload_s,
            backend: neutral.backend,
            workers: 0,
            in_flight: 0,
            max_batch: neutral.max_batch,
            max_wait_us: 0,
            threads: 0,
            gpu_memory_mib: 0,
            parking: neutral.parking,
            max_restarts: neutral.max_restarts,
            hang_timeout_s: neutral.hang_timeout_s,
            worlds_in_flight: 0,
            seconds: 0.0,
            warm_up_s: 0.0,
            trace: None,
            trace_every: neutral.trace_every,
            out: None,
            ..self.clone()
        }
    }
}

/// Cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
