//! The command line of the studies of whole runs: compare, sweep, tune.

use super::flags::FileAndFlags;
use super::print;
use crate::fault::Fault;
use crate::measure::compare::{self, Comparison, Preset};
use crate::measure::scratch::Destination;
use crate::measure::{StudyError, sweep, tune};
use crate::pasted::quoted;
use crate::plural::counted;
use crate::say::data;
use crate::settings::Settings;
use anyhow::Result;
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};

pub(super) const COMPARE_HELP: &str = "\
Modes: 1 sequential, 2 intra-game batching, 3 cross-worker batching, 4 central server, 5 rounds \
in flight (ours). Modes 1 and 2 run as many processes side by side as there are workers, each \
with a network of its own, as the replaced system did. Each run is cut after --seconds, so slow \
modes cost no more than fast ones; rounds per minute are unique evaluations per second over those \
a round takes.\n\n\
Writes compare.csv and compare.html to --out.\n\n\
Examples:\n  \
ringmaster compare                                     4 workers, medium search, about 4 \
minutes\n  \
ringmaster compare --search light --search heavy --repetitions 6\n  \
ringmaster compare --from here.csv --from there.csv    one report over earlier results";

/// `ringmaster compare`.
#[derive(Args)]
pub(super) struct CompareArgs {
    #[command(flatten)]
    settings: FileAndFlags,
    /// Search to compare at: light 2x20, medium 3x30, heavy 5x50; may be given several times
    /// [default: medium]
    #[arg(long, value_enum)]
    search: Vec<Preset>,
    /// Leaves of one tree in flight in modes 2 and 3
    #[arg(long, default_value_t = 10)]
    leaves: usize,
    /// Repetitions of each mode, interleaved
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// Seconds measured per repetition
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds before that, not counted
    #[arg(long, default_value_t = 3.0)]
    warm_up_s: f64,
    /// Rounds on whose decisions the policies are compared
    #[arg(long, default_value_t = 16)]
    reference_rounds: u64,
    /// What to call this machine in reports
    #[arg(long)]
    label: Option<String>,
    /// Folder for compare.csv and compare.html [default: compare]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Measure nothing: a report over these earlier results
    #[arg(long, value_name = "FILE.csv")]
    from: Vec<PathBuf>,
    /// Print the rows as one JSON object
    #[arg(long)]
    json: bool,
}

/// The folder named, or the one that results go to by default.
pub(super) fn destination(named: &Option<PathBuf>, default: &'static str) -> Destination {
    match named {
        Some(path) => Destination::Named(path.clone()),
        None => Destination::Default(default),
    }
}

pub(super) fn compare(arguments: &CompareArgs) -> Result<()> {
    let (rows, page) = if arguments.from.is_empty() {
        let (rows, out) = compare::run(&comparison_of(arguments)?)?;
        (rows, out.join("compare.html"))
    } else {
        let rows = compare::read_csv(&arguments.from)?;
        let page = compare::write_page(&rows, &destination(&arguments.out, "compare"))?;
        (rows, page)
    };
    print(arguments.json, &json!({ "rows": rows }), || {
        format!("{}\nreport: {}", compare::table(&rows), page.display())
    })
}

fn comparison_of(arguments: &CompareArgs) -> Result<Comparison, StudyError> {
    let settings = arguments.settings.settings(Settings {
        workers: 4,
        ..Settings::default()
    })?;
    if arguments.repetitions == 0 || arguments.reference_rounds == 0 || arguments.leaves == 0 {
        let what = "--repetitions, --reference-rounds and --leaves must be at least 1";
        return Err(StudyError::usage(what, ""));
    }
    let searches = match &arguments.search[..] {
        [] if arguments.settings.config.is_some() => vec![(settings.worlds, settings.simulations)],
        [] => vec![Preset::Medium.size()],
        presets => presets.iter().map(|preset| preset.size()).collect(),
    };
    Ok(Comparison {
        settings,
        searches,
        leaves: arguments.leaves,
        repetitions: arguments.repetitions,
        seconds: arguments.seconds,
        warm_up_s: arguments.warm_up_s,
        reference_rounds: arguments.reference_rounds,
        label: arguments.label.clone(),
        out: destination(&arguments.out, "compare"),
    })
}

pub(super) const SWEEP_HELP: &str = "\
A spec (TOML):\n  \
[base]          settings in common, as in a settings file:  cards = 5\n  \
[grid]          every combination of these:  workers = [1, 2, 4]\n                  \
\"worlds, simulations\" = [[2, 20], [3, 30]]\n  \
[random]        samples = 20, seed = 1\n  \
[random.space]  max_wait_us = { low = 0, high = 10000 }   parking = [\"park\", \"poll\"]\n  \
[trial]         seconds = 5, warm_up_s = 1 (or rounds = 200), repetitions = 3\n  \
[best]          metric = \"rounds_per_min\"\n                  \
constraints = [\"policy_distance <= 0.02\", \"decision_ms_p99 <= 500\"]\n\n\
Any setting can be swept, search.* and rules.* among them, but none that each trial sets itself \
(rounds, seconds, out, ...). The spec is checked as a whole before the first trial. Writes to \
--out, trial by trial: trials.jsonl; at the end trials.csv, best.toml (for selfplay --config or a \
spec's [base]) and sweep.html. Started again, it runs only what is not there yet or has failed; \
another program, seed or weights file makes another trial.\n\n\
Example: ringmaster sweep scripts/quick.toml && ringmaster selfplay --config \
sweeps/quick/best.toml";

/// `ringmaster sweep`.
#[derive(Args)]
pub(super) struct SweepArgs {
    /// The spec (TOML)
    spec: PathBuf,
    /// Folder for the results [default: sweeps/ and the spec's name]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print what was found as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn sweep(arguments: &SweepArgs) -> Result<()> {
    let checked = sweep::load(&arguments.spec)?;
    let name = arguments.spec.file_stem().unwrap_or_default();
    let out = arguments
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from("sweeps").join(name));
    let outcome = sweep::run(&checked, &out)?;
    let (failed, trials) = (outcome.failed(), outcome.entries.len());
    if arguments.json {
        let summary = json!({
            "combinations": checked.combinations.len(),
            "trials": trials,
            "ran": outcome.ran,
            "failed": failed,
            "best": outcome.best,
            "out": out,
        });
        data!("{summary}")?;
    } else {
        show_sweep(&checked, &outcome, &out)?;
    }
    if failed > 0 {
        let them = if failed == 1 { "it" } else { "them" };
        let cause = format!("{failed} of {} failed", counted(trials, "trial"));
        return Err(Fault::new(cause, format!("the same command tries {them} again")).into());
    }
    Ok(())
}

/// The table, and what to do with it.
fn show_sweep(checked: &sweep::CheckedSpec, outcome: &sweep::Outcome, out: &Path) -> Result<()> {
    let summaries = sweep::summarize(checked, &outcome.entries);
    data!("{}", sweep::table(checked, &summaries).to_text().trim_end())?;
    let page = out.join("sweep.html");
    data!(
        "{}, {} failed; report: {}",
        counted(outcome.entries.len(), "trial"),
        outcome.failed(),
        page.display()
    )?;
    match &outcome.best {
        Some(best) => data!("best: ringmaster selfplay --config {}", quoted(best))?,
        None => data!("best: none ran without failure and kept all constraints")?,
    }
    Ok(())
}

pub(super) const TUNE_HELP: &str = "\
Measures the network's time by batch size, then turns workers, max_batch, in_flight, parking, \
max_wait_us and threads one after the other, keeps what is more than 2 % better, and stops when \
nothing helps any more or after --limit-s. What was found then runs in turns with the settings to \
begin with; those figures count. None of these changes a result.\n\n\
Example: ringmaster tune && ringmaster selfplay --config tuned.toml";

/// `ringmaster tune`.
#[derive(Args)]
pub(super) struct TuneArgs {
    #[command(flatten)]
    settings: FileAndFlags,
    /// Seconds of each trial that count
    #[arg(long, default_value_t = 3.0)]
    trial_s: f64,
    /// Trials of each change; their median counts
    #[arg(long, default_value_t = 1)]
    repetitions: usize,
    /// Seconds after which no new change is tried
    #[arg(long, default_value_t = 180.0)]
    limit_s: f64,
    /// The settings file to write [default: tuned.toml]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print what was tried as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn tune(arguments: &TuneArgs) -> Result<()> {
    let settings = arguments.settings.settings(Settings::default())?;
    if !(0.01..=3600.0).contains(&arguments.trial_s) {
        return Err(StudyError::usage("--trial-s must be 0.01 to 3600", "").into());
    }
    let budget = tune::TuneBudget {
        trial_s: arguments.trial_s,
        repetitions: arguments.repetitions,
        limit_s: arguments.limit_s,
    };
    let tuned = tune::run(&settings, budget, arguments.out.as_deref())?;
    print(arguments.json, &tuned, || tuned.table())
}
