//! The modes side by side: four ways of running the search that the replaced system tried, and
//! ours, on the same rounds (every run plays rounds 0, 1, 2, ... of the same seed). Each is
//! measured as a run of real processes limited in time, repetitions interleaved, and next to its
//! speed stands how far its policies are from sequential search, so that a mode cannot look fast by
//! not searching.

mod show;

pub use show::{page, table};

use super::positions::{Distance, Reference, sequential};
use super::scratch::Destination;
use super::trial::{Running, Trials};
use super::{NOTHING_YET, StudyError, stats, write_table};
use crate::disk;
use crate::input;
use crate::plural::counted;
use crate::say::note;
use crate::settings::{Settings, cores};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;

/// Most of a table that is read: thousands of rows.
const TABLE_BYTES_MAX: u64 = 1 << 20;

/// How deep the search goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Preset {
    /// 2 worlds x 20 simulations.
    Light,
    /// 3 worlds x 30 simulations.
    Medium,
    /// 5 worlds x 50 simulations.
    Heavy,
}

impl Preset {
    /// Worlds and simulations.
    pub fn size(self) -> (usize, usize) {
        match self {
            Preset::Light => (2, 20),
            Preset::Medium => (3, 30),
            Preset::Heavy => (5, 50),
        }
    }
}

/// What is compared, and how thoroughly.
pub struct Comparison {
    /// What all modes have in common: table, search, seed, weights, backend, workers.
    pub settings: Settings,
    /// Searches to compare at: worlds and simulations.
    pub searches: Vec<(usize, usize)>,
    /// Leaves of one tree in flight in modes 2 and 3.
    pub leaves: usize,
    /// Repetitions of each mode.
    pub repetitions: usize,
    /// Seconds measured per repetition.
    pub seconds: f64,
    /// Seconds before that.
    pub warm_up_s: f64,
    /// Rounds whose decisions the policies are compared on.
    pub reference_rounds: u64,
    /// What to call this machine in reports.
    pub label: Option<String>,
    /// Where CSV and page go.
    pub out: Destination,
}

/// One way of running the search.
pub struct Mode {
    /// 1 to 5.
    pub number: u32,
    /// As it stands in tables.
    pub name: &'static str,
    /// How it works, in a line.
    pub how: String,
    settings: Settings,
    /// Runs side by side, each playing the same rounds; their rates are added.
    processes: usize,
}

/// One repetition of one mode. The columns of the CSV.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ModeRow {
    pub machine: String,
    pub device: String,
    /// Worlds x simulations.
    pub search: String,
    pub number: u32,
    pub mode: String,
    pub how: String,
    pub repetition: usize,
    pub workers: usize,
    pub players: usize,
    pub cards: usize,
    pub seconds: f64,
    /// Unique evaluations per second over those that a round's searches take on the reference
    /// rounds.
    pub rounds_per_min: f64,
    pub rounds_finished: u64,
    pub evaluations_per_s: f64,
    pub batch_mean: f64,
    pub batch_p50: f64,
    pub batch_p99: f64,
    pub batch_max: f64,
    pub duplicates: u64,
    pub evaluator_busy: f64,
    /// None if no decision finished.
    pub decision_ms_p50: Option<f64>,
    pub decision_ms_p99: Option<f64>,
    pub positions: u64,
    pub tv_mean: f64,
    pub tv_p95: f64,
    pub kl_mean: f64,
    pub kl_p95: f64,
    pub same_top: f64,
    pub depth_mean: f64,
    pub evaluations_per_round: f64,
}

/// The five modes for a search. Baselines wait for no batch to fill: with a network whose time
/// grows with the batch any wait only slows them down.
pub fn modes(base: &Settings, leaves: usize) -> Vec<Mode> {
    let processes = counted(base.workers, "process");
    let own = format!("{processes}, each: one game, one world at a time");
    let shared = format!("{}, one evaluator", counted(base.workers, "worker"));
    let some = counted(leaves, "leaf");
    let alone = sequential(base);
    let one_game = Settings {
        in_flight: 1,
        worlds_in_flight: 1,
        leaves: 1,
        ..base.clone()
    };
    let modes = [
        (
            "sequential",
            format!("{own}, 1 leaf, batch 1, its own network on one thread"),
            alone.clone(),
            base.workers,
        ),
        (
            "intra-game",
            format!("{own}, {some} of one tree with virtual loss, its own network on one thread"),
            Settings {
                leaves,
                max_batch: leaves,
                ..alone
            },
            base.workers,
        ),
        (
            "cross-worker",
            format!("{shared}; one game per worker, one world at a time, {some}"),
            Settings {
                leaves,
                ..one_game.clone()
            },
            1,
        ),
        (
            "central server",
            format!("{shared}; one game per worker, one world at a time, 1 leaf"),
            one_game,
            1,
        ),
        (
            "rounds in flight",
            format!("{shared}; many rounds in flight per worker, all worlds together, 1 leaf"),
            base.clone(),
            1,
        ),
    ];
    let mode = |(number, (name, how, settings, processes))| Mode {
        number,
        name,
        how,
        settings,
        processes,
    };
    (1..).zip(modes).map(mode).collect()
}

/// Runs the comparison; what was measured, and the folder with CSV and page.
///
/// # Errors
/// When a run fails (all modes must work on any machine), or the user interrupts; CSV and page then
/// hold the repetitions before, if there are any.
pub fn run(comparison: &Comparison) -> Result<(Vec<ModeRow>, PathBuf), StudyError> {
    let mut parts = Vec::new();
    for &(worlds, simulations) in &comparison.searches {
        let base = Settings {
            worlds,
            simulations,
            games: 0,
            rounds: None,
            out: None,
            trace: None,
            leaves: 1,
            worlds_in_flight: 0,
            warm_up_s: comparison.warm_up_s,
            seconds: comparison.warm_up_s + comparison.seconds,
            ..comparison.settings.clone()
        };
        base.check()?;
        if base.workers == 0 {
            let what = "compare needs at least one worker: --workers 1 or more";
            return Err(StudyError::usage(what, ""));
        }
        parts.push(base);
    }
    let out = comparison.out.claim()?;
    let (table, html) = (
        out.path().join("compare.csv"),
        out.path().join("compare.html"),
    );
    // Now, and not after minutes of measuring.
    disk::check_writable(&table)?;
    disk::check_writable(&html)?;
    let mut trials = Trials::new(out.path())?;
    let mut rows = Vec::new();
    let measured = parts
        .iter()
        .try_for_each(|base| measure(comparison, base, &mut trials, &mut rows));
    drop(trials);
    if !rows.is_empty() {
        write_table(&table, &rows)?;
        disk::write(&html, page(&rows).as_bytes())?;
    }
    let told = measured.map_err(|error| {
        error.keeping(|| match rows.len() {
            0 => NOTHING_YET.to_owned(),
            some => format!(
                "{} kept in {}; measure more into another --out and lay both together with --from",
                counted(some, "run"),
                table.display()
            ),
        })
    });
    told.map(|()| (rows, out.path().to_owned()))
}

fn measure(
    comparison: &Comparison,
    base: &Settings,
    trials: &mut Trials,
    rows: &mut Vec<ModeRow>,
) -> Result<(), StudyError> {
    let search = format!("{}x{}", base.worlds, base.simulations);
    let rounds = comparison.reference_rounds;
    let played = counted(rounds, "round");
    note!("{search}: {played} by sequential search, to compare policies with");
    let reference = Reference::play(base, rounds, trials)?;
    let modes = modes(base, comparison.leaves);
    let mut distances = Vec::new();
    for mode in &modes {
        distances.push(reference.distance(&mode.settings, trials)?);
    }
    for repetition in 1..=comparison.repetitions {
        for (mode, distance) in modes.iter().zip(&distances) {
            let of = comparison.repetitions;
            note!("{search}: repetition {repetition} of {of}, {}", mode.name);
            let reports = play(mode, trials)?;
            let measured = row(mode, &reports, distance);
            rows.push(ModeRow {
                machine: comparison.label.clone().unwrap_or(measured.machine),
                workers: base.workers,
                repetition,
                seconds: comparison.seconds,
                ..measured
            });
        }
    }
    Ok(())
}

/// Plays one repetition of a mode: all its processes at once.
fn play(mode: &Mode, trials: &mut Trials) -> Result<Vec<Value>, StudyError> {
    let started: Result<Vec<Running>, _> = (0..mode.processes)
        .map(|_| trials.start(&mode.settings))
        .collect();
    let mut reports = Vec::new();
    for mut running in started? {
        reports.push(trials.finish(&mut running)?);
    }
    Ok(reports)
}

/// The figures of a mode's processes: rates are added, sizes and times taken together.
fn row(mode: &Mode, reports: &[Value], distance: &Distance) -> ModeRow {
    // A process has no figure for what none of its decisions told.
    let all = |name: &str| -> Vec<f64> {
        let figures = reports.iter().map(|report| report[name].as_f64());
        figures.flatten().collect()
    };
    let sum = |name: &str| all(name).iter().sum::<f64>();
    let most = |name: &str| all(name).into_iter().reduce(f64::max);
    let mid = |name: &str| stats::estimate(&all(name)).map(|estimate| estimate.median);
    let weighed =
        |report: &Value| Some(report["batch_mean"].as_f64()? * report["batches"].as_f64()?);
    let leaves: f64 = reports.iter().filter_map(weighed).sum();
    let evaluations_per_s = sum("evaluations_per_s");
    let text = |name: &str| reports[0][name].as_str().unwrap_or("?").to_owned();
    ModeRow {
        machine: format!("{}, {}", counted(cores(), "core"), text("backend")),
        device: text("device"),
        search: format!("{}x{}", mode.settings.worlds, mode.settings.simulations),
        number: mode.number,
        mode: mode.name.to_owned(),
        how: mode.how.clone(),
        players: mode.settings.players,
        cards: mode.settings.cards,
        rounds_per_min: evaluations_per_s * 60.0 / distance.evaluations_per_round.max(1.0),
        rounds_finished: sum("rounds") as u64,
        evaluations_per_s,
        batch_mean: leaves / sum("batches").max(1.0),
        batch_p50: mid("batch_p50").unwrap_or_default(),
        batch_p99: most("batch_p99").unwrap_or_default(),
        batch_max: most("batch_max").unwrap_or_default(),
        duplicates: sum("duplicates") as u64,
        evaluator_busy: stats::mean(&all("evaluator_busy")),
        decision_ms_p50: mid("decision_ms_p50"),
        decision_ms_p99: most("decision_ms_p99"),
        positions: distance.positions,
        tv_mean: distance.tv_mean,
        tv_p95: distance.tv_p95,
        kl_mean: distance.kl_mean,
        kl_p95: distance.kl_p95,
        same_top: distance.same_top,
        depth_mean: distance.depth_mean,
        evaluations_per_round: distance.evaluations_per_round,
        ..ModeRow::default()
    }
}

/// Writes the page of rows that were measured before into `out`; its path.
///
/// # Errors
/// When another study is at work there, or the disk refuses it.
pub fn write_page(rows: &[ModeRow], out: &Destination) -> Result<PathBuf, StudyError> {
    let out = out.claim()?;
    let path = out.path().join("compare.html");
    disk::write(&path, page(rows).as_bytes())?;
    Ok(path)
}

/// Reads rows back, from several files one after the other.
///
/// # Errors
/// When one cannot be read or is no table of `compare`, or there are no rows at all.
pub fn read_csv(paths: &[PathBuf]) -> Result<Vec<ModeRow>, StudyError> {
    let mut rows = Vec::new();
    for path in paths {
        let bytes =
            input::read_once(path, TABLE_BYTES_MAX).map_err(StudyError::file("read", path))?;
        let mut reader = csv::Reader::from_reader(&bytes[..]);
        for row in reader.deserialize() {
            rows.push(row.map_err(StudyError::table(path))?);
        }
    }
    if rows.is_empty() {
        return Err(StudyError::usage("the files hold no results", ""));
    }
    Ok(rows)
}
