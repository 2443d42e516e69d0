//! The settings of a run: one struct, the only home of defaults, stored with every result. A
//! settings file (TOML) holds the same names; command-line flags override it (`cli`). What is
//! allowed is in `check`, what follows from settings (jobs, tables, room) in `plan`.

mod check;
mod plan;
mod search;

pub use check::{SettingsError, check_path};
pub use search::SearchSection;

use crate::game::Rules;
use crate::input;
use crate::network::{BackendChoice, instruction_set};
use crate::plural::counted;
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

/// Everything a run is told. The settings from `seed` to `rules` (with the weights) determine what
/// is played; the rest only how fast.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Independent rounds to play (ignored when `games` is set); 0, or none in a run limited in
    /// `seconds`: as many as there is time for; none otherwise: [`ROUNDS`].
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
    /// Worlds of one decision searched at once; 0: all together. Fewer fill batches worse and
    /// change nothing else.
    pub worlds_in_flight: usize,
    /// A weights file (safetensors), or a folder whose newest such file is meant; none: the
    /// built-in seeded network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// Seconds between two looks for new weights at that place: they are taken up while the run
    /// goes on, for rounds not yet begun; 0: never.
    pub reload_s: f64,
    /// What runs the network.
    pub backend: BackendChoice,
    /// Worker processes; 0 plays in one process without shared memory.
    pub workers: usize,
    /// Rounds (or games) in flight per worker; 0: enough to fill batches.
    pub in_flight: usize,
    /// Most leaves in a batch; 0: as many as fill the network's device and take the CPU less than
    /// a second.
    pub max_batch: usize,
    /// Longest that leaves wait for a batch to fill while the network is idle, in microseconds.
    pub max_wait_us: u64,
    /// Threads of the network on the CPU; 0: one per core.
    pub threads: usize,
    /// GPU memory the network may take, in MiB; 0: no cap.
    pub gpu_memory_mib: usize,
    /// How idle processes wait.
    pub parking: ParkingChoice,
    /// Deaths of processes in a row, without a decision finished in between, after which a run
    /// gives up.
    pub max_restarts: usize,
    /// Seconds without a sign of life after which a process counts as hung and is replaced.
    pub hang_timeout_s: usize,
    /// End after so many seconds, warm-up included, even if rounds are left; 0: when all rounds
    /// are played.
    pub seconds: f64,
    /// Seconds from the common start that the figures leave out; the rounds are kept all the same.
    pub warm_up_s: f64,
    /// Folder for the time stamps of sampled requests (see `profile selfplay`); none: nothing is
    /// stamped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<PathBuf>,
    /// With `trace`, one request of a worker in so many is stamped.
    pub trace_every: usize,
    /// Where the replay goes; none: the next free folder under `replays`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out: Option<PathBuf>,
    /// Fine parameters of the search and of the choice by its result.
    pub search: SearchSection,
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
            max_batch: 0,
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
            search: SearchSection::default(),
            rules: Rules::default(),
            mix: Vec::new(),
        }
    }
}

/// Most of a settings file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Most leaves in a batch unless the settings say so: enough for any device to be at its best.
const BATCH: usize = 512;
/// Fewest that are chosen: a network is much slower with less.
const BATCH_MIN: usize = 16;
/// Multiply-adds that a network thread surely does in a second (the slowest vector units do twice
/// that), and one without any.
const RATE: f64 = 8e9;
const RATE_SCALAR: f64 = 8e7;

/// Threads of the network that a core can have: more wait for each other, and a batch for the last
/// of them.
const THREADS_PER_CORE_MAX: usize = 4;
/// Workers that a core can have without a word.
const WORKERS_PER_CORE_MAX: usize = 4;

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

    /// The settings of a file in this folder, which relative paths start from. One that begins with
    /// `~` is left for `check` to refuse.
    pub fn from_folder(self, folder: &Path) -> Settings {
        self.map_paths(|path| match path.starts_with("~") {
            true => path.to_owned(),
            false => folder.join(path),
        })
    }

    /// The settings as a file keeps them that may be read from anywhere: all paths absolute.
    pub fn kept(&self) -> Settings {
        // A path that is no text cannot stand in a file, and one that is empty is refused wherever
        // it is used.
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

    /// Chooses the largest batch, if that is left to be chosen, for a network on the CPU that takes
    /// so many multiply-adds for a row: one that takes less than a second. Call before
    /// `resolve`, which is content with the usual one.
    pub fn choose_batch(mut self, multiply_adds: usize) -> Settings {
        if self.max_batch == 0 {
            let rate = match instruction_set() {
                "scalar" => RATE_SCALAR,
                _ => RATE,
            };
            let cores = cores();
            let threads = match self.threads {
                0 => cores,
                // Those beyond the cores make nothing quicker.
                some => some.min(cores),
            };
            let rows = rate * threads as f64 / multiply_adds.max(1) as f64;
            self.max_batch = (rows as usize).clamp(BATCH_MIN, BATCH);
        }
        self
    }

    /// What this machine is not made for, in a line each. Call before `resolve`.
    pub fn notes(&self) -> Vec<String> {
        self.notes_on(cores())
    }

    fn notes_on(&self, cores: usize) -> Vec<String> {
        let mut notes = Vec::new();
        let here = counted(cores, "core");
        let (threads, most) = (self.threads, THREADS_PER_CORE_MAX * cores);
        if threads > most && self.backend != BackendChoice::Cuda {
            notes.push(format!(
                "threads is {threads} on {here}: {most} are used, since more would only wait for each other"
            ));
        }
        let workers = self.workers;
        if workers > WORKERS_PER_CORE_MAX * cores {
            notes.push(format!(
                "workers is {workers} on {here}: they take turns, and one per core (the default) is quicker"
            ));
        }
        notes
    }

    /// Fills in what follows from the rest: batches, rounds in flight and threads. Call after
    /// `check`.
    pub fn resolve(mut self) -> Settings {
        if self.max_batch == 0 {
            self.max_batch = BATCH;
        }
        self.threads = match self.threads {
            0 => cores(),
            some => some.min(THREADS_PER_CORE_MAX * cores()),
        };
        if self.in_flight == 0 {
            let leaves = self.leaves.min(self.simulations);
            let leaves_per_round = (self.worlds_at_once() * leaves) as f64;
            let share = BATCHES_UNDER_WAY * self.max_batch as f64 / self.workers.max(1) as f64;
            self.in_flight = (share / leaves_per_round).ceil().clamp(1.0, 4096.0) as usize;
        }
        self
    }

    /// The settings that determine what is played, for comparing a replay with a run that wants to
    /// go on with it. Workers, batches and the like are left out: they do not change a bit of
    /// the result.
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
            // As it has always stood in manifests.
            max_batch: BATCH,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_batch_that_is_chosen_follows_from_the_network() {
        let settings = Settings::default();
        let chosen = |multiply_adds: usize| {
            let settings = settings.clone().choose_batch(multiply_adds).resolve();
            (settings.max_batch, settings.in_flight)
        };
        let usual = settings.clone().resolve();
        assert_eq!(chosen(1), (usual.max_batch, usual.in_flight));
        let (batch, in_flight) = chosen(usize::MAX);
        assert_eq!(batch, BATCH_MIN);
        assert!(in_flight < usual.in_flight, "fewer leaves are under way");
        // Whatever the machine, less than a second of it.
        let wide = 400_000_000;
        let (batch, _) = chosen(wide);
        assert!(batch == BATCH_MIN || (batch * wide) as f64 <= RATE * cores() as f64);
        let given = Settings {
            max_batch: 8192,
            ..settings
        };
        assert_eq!(given.choose_batch(usize::MAX).resolve().max_batch, 8192);
    }

    #[test]
    fn what_is_far_beyond_the_cores_is_said_and_threads_are_bounded() {
        let with = |threads, workers| Settings {
            threads,
            workers,
            ..Settings::default()
        };
        assert!(with(8, 8).notes_on(2).is_empty());
        assert!(with(0, 0).notes_on(1).is_empty());
        let notes = with(1000, 9).notes_on(2);
        assert!(notes[0].starts_with("threads is 1000 on 2 cores: 8 are used"));
        assert!(notes[1].starts_with("workers is 9 on 2 cores: "));
        assert_eq!(with(1024, 1).resolve().threads, 1024.min(4 * cores()));
    }
}
