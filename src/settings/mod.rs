//! The settings of a run: one table, the only home of ranges and defaults, stored with every
//! result. A settings file (TOML) holds the same names; flags override it (`cli`). What a row of
//! the table says is in `table`, what settings may not be together in `check`, what follows from
//! them (jobs, tables, room) in `plan`.

mod check;
mod plan;
mod table;

pub use check::{SettingsError, check_path};
pub use table::{Allowed, Determines, Row, rows};

use crate::disk::remedy;
use crate::fault::Fault;
use crate::game::{Rules, TrumpRule};
use crate::input;
use crate::network::{BackendChoice, instruction_set};
use crate::plural::counted;
use Allowed::{Choice, Count, Number, Truth};
use Determines::{No, Partly, Yes};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use table::{BLANK, row, section, words};

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

section! {
    /// Everything a run is told. A setting that old manifests lack is left out where it has its
    /// default (`skip_serializing_if`), so that their replays can be gone on with.
    Settings, "";
    /// Fine parameters of the search and of the choice of the action played.
    search: SearchSection = SearchSection::default();
    /// House variants.
    rules: Rules = Rules::default();
    /// Independent rounds drawn from several tables instead of one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mix: Vec<MixEntry> = Vec::new();

    "The run" {
        #[serde(skip_serializing_if = "Option::is_none")]
        rounds: Option<u64> = None, Partly("no: more may follow"), Count(1, ENDLESS),
            "Independent rounds to play", default: "1000; with `seconds`: no limit",
            zero: "no limit", range: "1 to 2^40, or 0 for no limit, with `seconds`",
            per_trial: "see trial.rounds";
        games: u64 = 0, Partly("only whether games or rounds"), Count(1, ENDLESS),
            "Whole games to play instead of rounds, and not of a mix", zero: "independent rounds",
            range: "0 to 2^40 rounds in all", per_trial: "it plays independent rounds";
        seed: u64 = 0, Yes, Count(0, u64::MAX), "Seed of all random numbers",
            range: "0 to 2^64 - 1";
        players: usize = 4, Yes, Count(3, 8), "Players, 3 to 8";
        cards: usize = 5, Yes, Count(1, 17),
            "Cards dealt to each; in games, those of the first round",
            range: "1 to 52 / players (3 players 17, 4 players 13, 8 players 6)";
        seconds: f64 = 0.0, No, Number(0.0, 1e7),
            "End after so many seconds, warm-up included, or at `rounds` if those are told and \
             played before", zero: "no limit", per_trial: "see trial.seconds";
        warm_up_s: f64 = 0.0, No, Number(0.0, 1e7),
            "Seconds at the start that the figures leave out; their rounds are kept",
            range: "0, or less than `seconds`", per_trial: "see trial.warm_up_s";
        #[serde(skip_serializing_if = "Option::is_none")]
        out: Option<PathBuf> = None, No, Allowed::Path, "Folder of the replay",
            default: "the next free replays/NNNN", per_trial: "its replay is not kept";
    }
    "The search" {
        worlds: usize = 3, Yes, Count(1, 1000), "Worlds sampled per decision";
        simulations: usize = 30, Yes, Count(1, 100_000), "Simulations in each world",
            range: "1 to 100000; with worlds 1000000 in all";
        leaves: usize = 1, Yes, Count(1, 256),
            "Leaves in flight per tree; 1 is exactly the sequential search, more use virtual loss";
        worlds_in_flight: usize = 0, No, Count(1, 1000),
            "Worlds of a decision searched at once; changes only the speed", zero: "all";
    }
    "The network" {
        #[serde(skip_serializing_if = "Option::is_none")]
        weights: Option<PathBuf> = None, Partly("by its contents, from some round on"),
            Allowed::Path, "Weights (safetensors), or a folder whose newest are taken",
            default: "a built-in seeded network";
        reload_s: f64 = 1.0, No, Number(0.0, 1e7),
            "Seconds between two looks for new weights there, for rounds not yet begun; 0: never",
            per_trial: "it keeps the weights it begins with";
        backend: BackendChoice = BackendChoice::Auto, Partly("yes, as settled at the start"),
            Choice(words::<BackendChoice>), "What runs the network";
        threads: usize = 0, No, Count(1, 1024),
            "Threads of the network on the CPU; at most four per core are used",
            zero: "one per core";
        max_batch: usize = 0, No, Count(1, 65_536), "Most leaves in a batch",
            default: "512; fewer of a network that is large for this CPU",
            zero: "the usual (in a file only)";
        max_wait_us: u64 = 0, No, Count(0, 10_000_000),
            "Longest wait of an idle network for a batch to fill, microseconds";
        gpu_memory_mib: usize = 0, No, Count(1, 1 << 20),
            "GPU memory the network may take, MiB; the driver's context and the loaded kernels \
             come on top",
            zero: "no cap";
    }
    "The machine" {
        workers: usize = cores(), No, Count(0, 256),
            "Worker processes; 0 plays in one process without shared memory",
            default: "one per core";
        in_flight: usize = 0, No, Count(1, 4096), "Rounds (or games) in flight per worker",
            zero: "enough to fill 2.5 batches";
        parking: ParkingChoice = ParkingChoice::Park, No, Choice(words::<ParkingChoice>),
            "How idle processes wait: park (sleep) or poll (a core each, for GPU machines)";
        max_restarts: usize = 10, No, Count(0, 1_000_000),
            "Restarts of one process in a row, without a decision finished in between, before a \
             run gives up", only_in_files: true;
        hang_timeout_s: usize = 30, No, Count(1, 86_400),
            "Seconds without a sign of life after which a process is replaced",
            only_in_files: true;
        #[serde(skip_serializing_if = "Option::is_none")]
        trace: Option<PathBuf> = None, No, Allowed::Path,
            "Folder for time stamps of sampled requests; better: ringmaster profile selfplay",
            default: "none", per_trial: "`profile selfplay` traces";
        trace_every: usize = 64, No, Count(1, 1 << 30),
            "With `trace`, one request of a worker in so many is stamped",
            only_in_files: true, per_trial: "`profile selfplay` traces";
    }
}

section! {
    /// `[search]`: fine parameters of the search and of the choice of the action played.
    #[derive(Copy)]
    SearchSection, "search.";

    "The search" {
        c_puct: f32 = 1.5, Yes, Number(0.0, 1000.0), "Weight of the prior in PUCT";
        fpu_reduction: f32 = 0.2, Yes, Number(0.0, 10.0),
            "An untried action is worth the node's value less this times the root of the prior \
             tried";
        virtual_loss: f32 = 1.0, Yes, Number(0.0, 1000.0),
            "Visits of value -1 that a leaf in flight counts as";
        noise_alpha: f32 = 0.5, Yes, Number(0.001, 1000.0),
            "Dirichlet parameter of the noise on the root's priors";
        noise_fraction: f32 = 0.25, Yes, Number(0.0, 1.0), "Share of that noise in the priors";
        temperature_start: f32 = 1.0, Yes, Number(0.0, 100.0),
            "Temperature of the choice while bidding; 0 plays the most visited action";
        temperature_end: f32 = 0.25, Yes, Number(0.0, 100.0),
            "Temperature of the choice in the last trick; in between it falls evenly";
    }
}

/// The rows of the sections `[rules]` and `[[mix]]`, whose structs are [`Rules`] and [`MixEntry`].
#[rustfmt::skip]
const RULES_AND_MIX: &[Row] = &[
    row!("rules.", HOUSE, trump, WHOLE, Choice(words::<TrumpRule>),
        "How trump is found: rotating: spades, hearts, clubs, diamonds, none in turn (independent \
         rounds draw one of the five); turned: the suit of a card turned up from the undealt pile, \
         none if no card is left; or always the same"),
    row!("rules.", HOUSE, dealer_restriction, WHOLE, Truth,
        "The dealer may not make the bids add up to the cards dealt"),
    row!("rules.", HOUSE, missed_bid_scores_tricks, WHOLE, Truth,
        "A missed bid scores the tricks taken instead of nothing"),
    row!("mix.", HOUSE, players, WHOLE, Count(3, 8),
        "Independent rounds are drawn from several tables instead of one: players"),
    row!("mix.", HOUSE, cards, WHOLE, Count(1, 17), "Cards of this table",
        range: "1 to 52 / players"),
    row!("mix.", HOUSE, weight, WHOLE, Number(f64::MIN_POSITIVE, 1e9),
        "How often this table is drawn, relative to the others",
        range: "above 0, at most 1000000000"),
];
const HOUSE: &str = "House rules and mixes";
/// `determining` takes these sections whole, and with them each of their settings.
const WHOLE: Determines = Yes;

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
            .map_err(|error| {
                let cause = format!("cannot read the settings file {}: {error}", path.display());
                Fault::new(cause, remedy(path, &error))
            })?;
        let wrong = |what| Fault::new(format!("{}: {what}", path.display()), "");
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
            return Err(wrong("rounds and games exclude each other: drop one".into()).into());
        }
        Ok(settings.from_folder(input::base_folder(path)))
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
        for (_, path) in self.paths() {
            *path = path.as_deref().map(&map);
        }
        self
    }

    fn paths(&mut self) -> [(&'static str, &mut Option<PathBuf>); 3] {
        [
            ("weights", &mut self.weights),
            ("out", &mut self.out),
            ("trace", &mut self.trace),
        ]
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
        let cores = cores();
        let mut notes = Vec::new();
        let here = counted(cores, "core");
        let (threads, most) = (self.threads, THREADS_PER_CORE_MAX * cores);
        if threads > most && self.backend != BackendChoice::Cuda {
            notes.push(format!(
                "threads is {threads} on {here}: {most} are used, since more would only wait for \
                 each other"
            ));
        }
        let workers = self.workers;
        if workers > WORKERS_PER_CORE_MAX * cores {
            notes.push(format!(
                "workers is {workers} on {here}: they take turns, and one per core (the default) \
                 is quicker"
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
        let neutral = Settings {
            // How many may grow; whether games or rounds may not.
            rounds: Some(0),
            games: self.games.min(1),
            // As these have always stood in manifests.
            max_batch: BATCH,
            workers: 0,
            ..Settings::default()
        };
        let search = self.search.determining_over(neutral.search);
        Settings {
            search,
            ..self.determining_over(neutral)
        }
    }

    /// As JSON, by way of the text, in which numbers are as short as people write them. `null`
    /// stands for a number that is not finite.
    fn as_json(&self) -> Value {
        // Settings are plain data; that they turn into JSON is an invariant, not an input.
        let text = serde_json::to_string(self).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// These settings with others over them, which are told by flags.
    ///
    /// # Errors
    /// When one is of the wrong kind. Ranges are `check`'s.
    pub fn with(mut self, told: Map<String, Value>) -> Result<Settings, SettingsError> {
        self.check_paths()?;
        // Before JSON, which knows no number that is not finite: those of a mix are no rows there.
        self.check_mix()?;
        // Only a file may say that it is to be chosen: that of a run or study does.
        if told.get("max_batch") == Some(&0.into()) {
            return Err(Fault::new("max-batch is 0", "it must be 1 to 65536").into());
        }
        // Rounds and games exclude each other, wherever they are told.
        match (told.get("rounds"), told.get("games")) {
            (Some(_), _) => self.games = 0,
            (None, Some(games)) if *games != 0 => self.rounds = None,
            _ => {}
        }
        let mut all = serde_json::to_value(self).unwrap_or_default();
        if let Some(all) = all.as_object_mut() {
            all.extend(told);
        }
        // JSON knows no number that is not finite.
        if let Some(row) = rows().find(|row| all.pointer(&row.pointer()) == Some(&Value::Null)) {
            row.check(&Value::Null)?;
        }
        serde_json::from_value(all)
            .map_err(|error| Fault::new(format!("settings: {error}"), "").into())
    }
}

/// Cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
