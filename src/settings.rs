//! The settings of a run: one validated struct, the only home of defaults, stored with every result.
//! A settings file (TOML) holds the same names; command-line flags override it.

use crate::game::{
    MAX_CARDS, Rules, TableError, Trump, cards_in_round, check_table, rounds_in_game,
};
use crate::network::{BackendChoice, Limits};
use crate::random::{Use, stream};
use crate::search::{SearchSettings, Tuning};
use crate::shm::Parking;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use std::io::Read;
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
    /// Independent rounds to play (ignored when `games` is set).
    pub rounds: u64,
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
    /// Deaths of processes in a row, without a round finished in between, after which a run gives up.
    pub max_restarts: usize,
    /// Seconds without a sign of life after which a process counts as hung and is replaced.
    pub hang_timeout_s: usize,
    /// End after so many seconds, warm-up included, even if rounds are left (with `rounds` 0 they never
    /// run out); 0: when all rounds are played.
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
            rounds: 1000,
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

/// What is wrong with settings, in one line each.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A number outside its range.
    #[error("{name} is {value}: it must be {range}")]
    Range {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        range: &'static str,
    },
    /// A table that cannot be laid.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Settings that exclude each other.
    #[error("{0}")]
    Conflict(&'static str),
    /// A settings file that cannot be read.
    #[error("cannot read the settings file {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A settings file that does not parse, or has an unknown key.
    #[error("{path}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What and where.
        message: String,
    },
}

/// Most of a settings file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Rounds in flight are chosen so that this many batches' leaves are under way at once: one being
/// computed, one waiting, and half of one on its way through the workers.
const BATCHES_UNDER_WAY: f64 = 2.5;

/// Rounds of a run that only time ends: more than can be played.
pub const ENDLESS: u64 = 1 << 40;

impl Settings {
    /// Reads a settings file.
    ///
    /// # Errors
    /// When it cannot be read, does not parse, or has an unknown key; ranges are `check`'s.
    pub fn load(path: &Path) -> Result<Settings, SettingsError> {
        let mut text = String::new();
        // Bounded, even from a device that never ends; what is cut off does not parse, or is a comment.
        std::fs::File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text))
            .map_err(|source| SettingsError::Unreadable {
                path: path.to_owned(),
                source,
            })?;
        toml::from_str(&text).map_err(|error| {
            let line = error
                .span()
                .map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            SettingsError::Syntax {
                path: path.to_owned(),
                message: format!("line {line}: {}", error.message().replace('\n', " ")),
            }
        })
    }

    /// Checks every range.
    ///
    /// # Errors
    /// The first setting that is out of bounds, with what is allowed.
    pub fn check(&self) -> Result<(), SettingsError> {
        let whole = |name, value: usize, allowed: std::ops::RangeInclusive<usize>, range| {
            if allowed.contains(&value) {
                Ok(())
            } else {
                let value = value.to_string();
                Err(SettingsError::Range { name, value, range })
            }
        };
        check_table(self.players, self.cards)?;
        self.check_mix()?;
        whole("worlds", self.worlds, 1..=1000, "1 to 1000")?;
        whole("simulations", self.simulations, 1..=100_000, "1 to 100000")?;
        whole("leaves", self.leaves, 1..=256, "1 to 256")?;
        whole(
            "worlds-in-flight",
            self.worlds_in_flight,
            0..=1000,
            "1 to 1000, or 0 for all",
        )?;
        whole("trace-every", self.trace_every, 1..=1 << 30, "1 to 2^30")?;
        whole("workers", self.workers, 0..=256, "0 to 256")?;
        whole(
            "in-flight",
            self.in_flight,
            0..=4096,
            "1 to 4096, or 0 to choose it",
        )?;
        whole("max-batch", self.max_batch, 1..=65_536, "1 to 65536")?;
        whole(
            "threads",
            self.threads,
            0..=1024,
            "1 to 1024, or 0 for one per core",
        )?;
        whole(
            "gpu-memory-mib",
            self.gpu_memory_mib,
            0..=1 << 20,
            "1 to 1048576, or 0 for no cap",
        )?;
        whole(
            "max-wait-us",
            self.max_wait_us as usize,
            0..=10_000_000,
            "0 to 10000000",
        )?;
        whole(
            "max_restarts",
            self.max_restarts,
            0..=1_000_000,
            "0 to 1000000",
        )?;
        whole(
            "hang_timeout_s",
            self.hang_timeout_s,
            1..=86_400,
            "1 to 86400",
        )?;
        self.check_times()?;
        if self.games == 0 && self.rounds == 0 && self.seconds == 0.0 {
            let value = "0".to_owned();
            return Err(SettingsError::Range {
                name: "rounds",
                value,
                range: "at least 1, or 0 with a limit in seconds",
            });
        }
        if self.planned_rounds() > 1 << 40 {
            let value = self.planned_rounds().to_string();
            return Err(SettingsError::Range {
                name: "rounds",
                value,
                range: "at most 2^40",
            });
        }
        // What a worker's searches need is bounded by what they may hold; see `leaf_room`.
        if self.worlds.saturating_mul(self.simulations) > 1_000_000 {
            return Err(SettingsError::Range {
                name: "worlds x simulations",
                value: (self.worlds * self.simulations).to_string(),
                range: "at most 1000000",
            });
        }
        self.check_tuning()
    }

    fn check_times(&self) -> Result<(), SettingsError> {
        for (name, value) in [
            ("seconds", self.seconds),
            ("warm-up-s", self.warm_up_s),
            ("reload-s", self.reload_s),
        ] {
            if !(0.0..=1e7).contains(&value) {
                let (value, range) = (value.to_string(), "0 to 10000000");
                return Err(SettingsError::Range { name, value, range });
            }
        }
        if self.warm_up_s > 0.0 && self.warm_up_s >= self.seconds {
            return Err(SettingsError::Conflict(
                "a warm-up needs a run limited in seconds, longer than the warm-up",
            ));
        }
        Ok(())
    }

    fn check_mix(&self) -> Result<(), SettingsError> {
        for entry in &self.mix {
            check_table(entry.players, entry.cards)?;
            // Bounded, so that their sum is finite.
            if !(entry.weight > 0.0 && entry.weight <= 1e9) {
                let value = entry.weight.to_string();
                return Err(SettingsError::Range {
                    name: "mix weight",
                    value,
                    range: "above 0, at most 1000000000",
                });
            }
        }
        if self.games > 0 && !self.mix.is_empty() {
            return Err(SettingsError::Conflict(
                "a mix of tables is for independent rounds; whole games follow their own schedule: drop [[mix]] or games",
            ));
        }
        Ok(())
    }

    fn check_tuning(&self) -> Result<(), SettingsError> {
        let within = |name, value: f32, least: f32, most: f32, range| {
            if value >= least && value <= most {
                Ok(())
            } else {
                let value = value.to_string();
                Err(SettingsError::Range { name, value, range })
            }
        };
        let s = &self.search;
        within("search.c_puct", s.c_puct, 0.0, 1000.0, "0 to 1000")?;
        within(
            "search.fpu_reduction",
            s.fpu_reduction,
            0.0,
            10.0,
            "0 to 10",
        )?;
        within(
            "search.virtual_loss",
            s.virtual_loss,
            0.0,
            1000.0,
            "0 to 1000",
        )?;
        within(
            "search.noise_alpha",
            s.noise_alpha,
            0.001,
            1000.0,
            "0.001 to 1000",
        )?;
        within(
            "search.noise_fraction",
            s.noise_fraction,
            0.0,
            1.0,
            "0 to 1",
        )?;
        within(
            "search.temperature_start",
            s.temperature_start,
            0.0,
            100.0,
            "0 to 100",
        )?;
        within(
            "search.temperature_end",
            s.temperature_end,
            0.0,
            100.0,
            "0 to 100",
        )
    }

    /// Fills in what follows from the rest: rounds in flight and threads. Call after `check`.
    pub fn resolve(mut self) -> Settings {
        if self.games == 0 && self.rounds == 0 {
            self.rounds = ENDLESS;
        }
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

    /// The search's part.
    pub fn search(&self) -> SearchSettings {
        SearchSettings {
            worlds: self.worlds,
            simulations: self.simulations,
            leaves: self.leaves,
            worlds_in_flight: self.worlds_in_flight,
            tuning: self.search,
        }
    }

    /// What the network may use.
    pub fn limits(&self) -> Limits {
        Limits {
            threads: self.threads,
            max_batch: self.max_batch,
            gpu_memory_mib: self.gpu_memory_mib,
        }
    }

    /// The waiting policy: a short look around before sleeping, or none at all.
    pub fn parking(&self) -> Parking {
        match self.parking {
            ParkingChoice::Park => Parking::Park { spin: 32 },
            ParkingChoice::Poll => Parking::Poll,
        }
    }

    /// Jobs of the run: games, or independent rounds. A job is played by one worker.
    pub fn jobs(&self) -> u64 {
        if self.games > 0 {
            self.games
        } else {
            self.rounds
        }
    }

    /// Rounds of one job.
    pub fn rounds_per_job(&self) -> u64 {
        if self.games > 0 {
            rounds_in_game(self.players, self.cards) as u64
        } else {
            1
        }
    }

    /// Rounds of the whole run.
    pub fn planned_rounds(&self) -> u64 {
        self.jobs().saturating_mul(self.rounds_per_job())
    }

    /// Moves (bids and cards, forced ones too) of the whole run; of a mix, as many as are to be expected.
    pub fn planned_moves(&self) -> f64 {
        let moves = |players: usize, cards: usize| (players * (cards + 1)) as f64;
        let per_job = if self.games > 0 {
            (0..self.rounds_per_job() as usize)
                .map(|round| {
                    let cards = cards_in_round(self.players, self.cards, round);
                    moves(self.players, cards)
                })
                .sum()
        } else if self.mix.is_empty() {
            moves(self.players, self.cards)
        } else {
            let total: f64 = self.mix.iter().map(|entry| entry.weight).sum();
            let weighted = |entry: &MixEntry| entry.weight * moves(entry.players, entry.cards);
            self.mix.iter().map(weighted).sum::<f64>() / total
        };
        self.jobs() as f64 * per_job
    }

    /// Most legal actions any decision can offer: a bid from 0 to the cards dealt.
    pub fn max_legal(&self) -> usize {
        let mixed = self.mix.iter().map(|entry| entry.cards).max();
        mixed.unwrap_or(self.cards).min(MAX_CARDS) + 1
    }

    /// Worlds of one decision that can have leaves in flight at once.
    fn worlds_at_once(&self) -> usize {
        match self.worlds_in_flight {
            0 => self.worlds,
            some => some.min(self.worlds),
        }
    }

    /// Most leaves one worker can have in flight, a power of two: the room of its rings, so that a
    /// worker never finds its ring full.
    pub fn leaf_room(&self) -> usize {
        (self.in_flight * self.worlds_at_once() * self.leaves)
            .next_power_of_two()
            .max(2)
    }

    /// The table of round number `number` of the run: players, cards, dealer, place in the trump
    /// rotation. A function of the seed and the number alone.
    pub fn table(&self, number: u64) -> (usize, usize, usize, usize) {
        let per_job = self.rounds_per_job();
        let (job, round) = (number / per_job, (number % per_job) as usize);
        if self.games > 0 {
            let first_dealer =
                stream(self.seed, Use::Deal, job, u64::MAX, 0).random_range(0..self.players);
            let cards = cards_in_round(self.players, self.cards, round);
            return (
                self.players,
                cards,
                (first_dealer + round) % self.players,
                round,
            );
        }
        let mut rng = stream(self.seed, Use::Deal, number, u64::MAX, 0);
        let (mut players, mut cards) = (self.players, self.cards);
        let total: f64 = self.mix.iter().map(|entry| entry.weight).sum();
        let mut draw = rng.random::<f64>() * total;
        for entry in &self.mix {
            (players, cards) = (entry.players, entry.cards);
            draw -= entry.weight;
            if draw < 0.0 {
                break;
            }
        }
        (
            players,
            cards,
            rng.random_range(0..players),
            rng.random_range(0..5),
        )
    }

    /// The settings that determine what is played, for comparing a replay with a run that wants to go on
    /// with it. Workers, batches and the like are left out: they do not change a bit of the result.
    pub fn determining(&self) -> Settings {
        let neutral = Settings::default();
        Settings {
            // How many may grow; whether games or rounds may not.
            rounds: 0,
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

/// Trump of the round at place `turn` of the rotation, for reports.
pub fn trump_name(trump: Trump) -> &'static str {
    ["spades", "hearts", "clubs", "diamonds", "none"][trump.code() as usize]
}
