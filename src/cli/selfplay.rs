//! The command line of `selfplay`: its flags, and how they go over a settings file, or over the
//! settings of the replay that is resumed, over the defaults.

use crate::disk;
use crate::engine::{self, INTERRUPTED, Start, reexec};
use crate::network::BackendChoice;
use crate::pasted::quoted;
use crate::replay;
use crate::say::{data, note};
use crate::settings::{ParkingChoice, Settings};
use anyhow::{Context, Result};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

pub(super) const HELP: &str = "The settings file (TOML) takes the same names with underscores, and more:\n  \
[search]  c_puct, fpu_reduction, virtual_loss, noise_alpha, noise_fraction, temperature_start, temperature_end\n  \
[rules]   trump = rotating | turned | spades | hearts | clubs | diamonds | none, dealer_restriction, missed_bid_scores_tricks\n  \
[[mix]]   players, cards, weight: independent rounds drawn from several tables\n\n\
Ctrl-C finishes and keeps the rounds in hand; a second Ctrl-C, or SIGTERM, ends at once and keeps those that are finished.\n\
--resume --out DIR goes on, with the settings the folder was begun with.";

/// `ringmaster selfplay`.
#[derive(Args, Default)]
pub(super) struct SelfplayArgs {
    /// Independent rounds to play [default: 1000, or by --seconds alone]
    #[arg(long, conflicts_with = "games")]
    rounds: Option<u64>,
    /// Whole games to play instead
    #[arg(long)]
    games: Option<u64>,
    /// Players, 3 to 8 [default: 4]
    #[arg(long)]
    players: Option<usize>,
    /// Cards dealt to each; in games, those of the first round [default: 5]
    #[arg(long)]
    cards: Option<usize>,
    /// Worker processes; 0 plays in one process without shared memory [default: one per core]
    #[arg(long)]
    workers: Option<usize>,
    /// Rounds (or games) in flight per worker [default: enough to fill batches]
    #[arg(long)]
    in_flight: Option<usize>,
    /// Worlds sampled per decision [default: 3]
    #[arg(long)]
    worlds: Option<usize>,
    /// Simulations in each world [default: 30]
    #[arg(long)]
    simulations: Option<usize>,
    /// Leaves in flight per tree; 1 is exactly the sequential search [default: 1]
    #[arg(long)]
    leaves: Option<usize>,
    /// Worlds of a decision searched at once; changes only the speed [default: all]
    #[arg(long)]
    worlds_in_flight: Option<usize>,
    /// Most leaves in a batch [default: 512; fewer of a network that is large for this CPU]
    #[arg(long)]
    max_batch: Option<usize>,
    /// Longest wait of an idle network for a batch to fill, microseconds [default: 0]
    #[arg(long)]
    max_wait_us: Option<u64>,
    /// What runs the network [default: auto]
    #[arg(long, value_enum)]
    backend: Option<BackendChoice>,
    /// Threads of the network on the CPU [default: one per core]
    #[arg(long)]
    threads: Option<usize>,
    /// GPU memory the network may take, MiB; 0: no cap [default: 0]
    #[arg(long)]
    gpu_memory_mib: Option<usize>,
    /// How idle processes wait: park (sleep) or poll (a core each, for GPU machines) [default:
    /// park]
    #[arg(long, value_enum)]
    parking: Option<ParkingChoice>,
    /// End after so many seconds, however many rounds that is (or at --rounds, if that comes
    /// first)
    #[arg(long)]
    seconds: Option<f64>,
    /// Seconds at the start that the figures leave out, of --seconds
    #[arg(long)]
    warm_up_s: Option<f64>,
    /// Folder for time stamps of sampled requests; better: ringmaster profile selfplay
    #[arg(long)]
    trace: Option<PathBuf>,
    /// (of a study) End with this process
    #[arg(long, hide = true)]
    parent: Option<u32>,
    /// Weights (safetensors), or a folder whose newest are taken [default: a built-in seeded
    /// network]
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Seconds between two looks for new weights there, for rounds not yet begun; 0: never
    /// [default: 1]
    #[arg(long)]
    reload_s: Option<f64>,
    /// Seed of all random numbers [default: 0]
    #[arg(long)]
    seed: Option<u64>,
    /// Folder of the replay [default: the next free replays/NNNN]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Go on with the replay in --out
    #[arg(long)]
    resume: bool,
    /// As --resume, and with other weights than the replay's if they are others, for rounds not
    /// yet begun
    #[arg(long)]
    append: bool,
    /// Settings file (TOML); flags override it
    #[arg(long)]
    config: Option<PathBuf>,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
}

impl SelfplayArgs {
    fn start(&self) -> Start {
        match (self.append, self.resume) {
            (true, _) => Start::Append,
            (false, true) => Start::Resume,
            (false, false) => Start::New,
        }
    }

    /// Flags over the settings file, or over the resumed replay's own settings, over the defaults.
    fn settings(&self) -> Result<Settings> {
        let mut settings = match (&self.config, &self.out) {
            (Some(file), _) => Settings::load(file)?,
            (None, Some(out))
                if self.start() != Start::New && out.join(replay::MANIFEST_FILE).exists() =>
            {
                let manifest = replay::Manifest::read(out)?;
                serde_json::from_value(manifest.notes).with_context(|| {
                    format!("{}: the manifest's settings do not parse", out.display())
                })?
            }
            _ => Settings::default(),
        };
        // Rounds and games exclude each other, wherever they are told.
        match (self.rounds, self.games) {
            (Some(_), _) => settings.games = 0,
            (None, Some(1..)) => settings.rounds = None,
            _ => {}
        }
        let overrides: [(&mut usize, Option<usize>); 9] = [
            (&mut settings.players, self.players),
            (&mut settings.cards, self.cards),
            (&mut settings.workers, self.workers),
            (&mut settings.in_flight, self.in_flight),
            (&mut settings.worlds, self.worlds),
            (&mut settings.simulations, self.simulations),
            (&mut settings.leaves, self.leaves),
            (&mut settings.threads, self.threads),
            (&mut settings.worlds_in_flight, self.worlds_in_flight),
        ];
        for (setting, flag) in overrides {
            *setting = flag.unwrap_or(*setting);
        }
        settings.rounds = self.rounds.or(settings.rounds);
        settings.seconds = self.seconds.unwrap_or(settings.seconds);
        settings.warm_up_s = self.warm_up_s.unwrap_or(settings.warm_up_s);
        settings.trace = self.trace.clone().or(settings.trace);
        settings.games = self.games.unwrap_or(settings.games);
        settings.set_max_batch(self.max_batch)?;
        settings.max_wait_us = self.max_wait_us.unwrap_or(settings.max_wait_us);
        settings.seed = self.seed.unwrap_or(settings.seed);
        settings.backend = self.backend.unwrap_or(settings.backend);
        settings.gpu_memory_mib = self.gpu_memory_mib.unwrap_or(settings.gpu_memory_mib);
        settings.parking = self.parking.unwrap_or(settings.parking);
        settings.weights = self.weights.clone().or(settings.weights);
        settings.reload_s = self.reload_s.unwrap_or(settings.reload_s);
        settings.out = self.out.clone().or(settings.out);
        Ok(settings)
    }
}

pub(super) fn selfplay(arguments: &SelfplayArgs) -> Result<ExitCode> {
    if let Some(parent) = arguments.parent {
        reexec::name_process("ringmaster");
        crate::shm::liveness::signal_on_parent_end(parent, nix::sys::signal::Signal::SIGTERM)?;
    }
    let settings = arguments.settings()?;
    settings.check()?;
    if let Some(folder) = &settings.trace {
        disk::make_folder(folder)?;
    }
    let report = engine::selfplay(settings, arguments.start()).map_err(|error| {
        // A study removes its trials: there is nothing to go on with.
        match arguments.parent {
            Some(_) => error.into_cause(),
            None => error,
        }
    })?;
    let written = if arguments.json {
        data!("{}", serde_json::to_string(&report)?)
    } else {
        data!("{report}")
    };
    if !report.interrupted {
        written?;
        return Ok(ExitCode::SUCCESS);
    }
    // Whoever interrupts a pipeline has ended the reader of stdout, too.
    if let Err(error) = written
        && !error.is_unwanted()
    {
        note!("ringmaster: {error}");
    }
    note!(
        "interrupted, {} kept; go on with: ringmaster selfplay --resume --out {}",
        report.kept(),
        quoted(&report.out)
    );
    Ok(ExitCode::from(INTERRUPTED))
}
