//! Where the time of a run goes: the stamps that workers and evaluator took of sampled requests,
//! joined into stages that follow each other without gap or overlap, so that they add up to the
//! whole; which part holds the others up, and the setting to turn; and a trace to look at.

mod join;
mod trace;

pub use join::{JoinedStamps, STAGES, STAMPS, Stage, StampedRequest};

use super::report::{Column, Table};
use super::scratch::{Destination, put_in_place};
use super::stats::{mean, quantile_unsorted, short};
use super::trial::Trials;
use super::{StudyError, write_table};
use crate::disk;
use crate::latency::WorkerSpan;
use crate::plural::counted;
use crate::say::note;
use crate::settings::Settings;
use join::{measured_from, read, stages};
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct SelfplayProfile {
    /// Requests stamped all the way.
    pub requests: usize,
    /// Stages in order, then `total`; all workers together first, then each.
    pub stages: Vec<Stage>,
    /// Sum of the stages' medians over the median of the whole.
    pub sum_over_total: f64,
    /// Share of the time in which the network worked.
    pub network_busy: f64,
    /// Share of the time in which workers were awake, mean.
    pub workers_awake: f64,
    /// Mean batch, leaves.
    pub batch_mean: f64,
    /// What holds the rest up: `network`, `workers`, `batching` or `ring`.
    pub bottleneck: &'static str,
    /// The setting to turn.
    pub advice: String,
    /// What stamps cost: 1 less evaluations per second with them over those without; median of
    /// pairs.
    pub overhead: Option<f64>,
    /// The overhead of each pair.
    pub overhead_pairs: Vec<f64>,
    /// The trace.
    pub trace: PathBuf,
    /// The folder of the stamps themselves.
    pub stamps: PathBuf,
}

/// Profiles a run with these settings, which must be limited in seconds.
///
/// # Errors
/// When the settings are out of range, the run fails, or files cannot be written.
pub fn run(
    settings: &Settings,
    out: &Destination,
    window_s: f64,
    pairs: usize,
) -> Result<SelfplayProfile, StudyError> {
    settings.check()?;
    if settings.workers == 0 {
        let what = "profile selfplay follows requests between processes: --workers 1 or more";
        return Err(StudyError::usage(what, ""));
    }
    let out = out.claim()?;
    let out = out.path();
    let mut trials = Trials::new(out)?;
    let profile = measure(settings, &mut trials, out, window_s)?;
    let spare = trials.scratch().join("spare");
    let overhead: Result<Vec<f64>, StudyError> = (1..=pairs)
        .map(|pair| {
            note!("pair {pair} of {pairs}: stamps off and on");
            cost_of_stamps(settings, &mut trials, &spare, pair)
        })
        .collect();
    let overhead_pairs = overhead.map_err(|error| {
        error.keeping(|| {
            format!(
                "trace.json and stages.csv of the run with stamps are in {}; what stamps cost is \
                 not measured",
                out.display()
            )
        })
    })?;
    Ok(SelfplayProfile {
        overhead: (!overhead_pairs.is_empty()).then(|| quantile_unsorted(&overhead_pairs, 0.5)),
        overhead_pairs,
        ..profile
    })
}

/// A run with stamps: what it found, written to `out`.
fn measure(
    settings: &Settings,
    trials: &mut Trials,
    out: &Path,
    window_s: f64,
) -> Result<SelfplayProfile, StudyError> {
    let folder = trials.scratch().join("stamps");
    disk::make_folder(&folder)?;
    let traced = Settings {
        trace: Some(folder.clone()),
        ..settings.clone()
    };
    note!("a run of {} s with stamps", settings.seconds);
    let report = trials.play(&traced)?;
    let stamps = read(&folder, settings.workers)?;
    let wanted = out.join("stamps");
    let kept = put_in_place(&folder, &wanted)?;
    if kept != wanted {
        let (wanted, kept) = (wanted.display(), kept.display());
        note!("{wanted} holds something else: the stamps are in {kept}");
    }
    let trace = out.join("trace.json");
    let events = trace::json(&stamps, window_s).to_string();
    disk::write(&trace, events.as_bytes())?;
    let profile = SelfplayProfile {
        stamps: kept,
        ..sum_up(&stamps, &report, trace)?
    };
    write_table(&out.join("stages.csv"), &profile.stages)?;
    Ok(profile)
}

/// A run with stamps, into the folder `spare`, and one without: the share of the evaluations per
/// second that they cost.
fn cost_of_stamps(
    settings: &Settings,
    trials: &mut Trials,
    spare: &Path,
    pair: usize,
) -> Result<f64, StudyError> {
    disk::make_folder(spare)?;
    let stamped = Settings {
        trace: Some(spare.to_owned()),
        ..settings.clone()
    };
    // Which comes first alternates, so that a machine that slows down favours neither.
    let (on, off) = if pair.is_multiple_of(2) {
        let on = trials.play(&stamped)?;
        (on, trials.play(settings)?)
    } else {
        let off = trials.play(settings)?;
        (trials.play(&stamped)?, off)
    };
    let rate = |report: &Value| report["evaluations_per_s"].as_f64().unwrap_or(0.0);
    Ok(1.0 - rate(&on) / rate(&off).max(1e-9))
}

fn sum_up(
    stamps: &JoinedStamps,
    report: &Value,
    trace: PathBuf,
) -> Result<SelfplayProfile, StudyError> {
    // Those sent before the warm-up ended meet a network that has just started.
    let from = measured_from(stamps, report);
    let requests = stamps
        .requests
        .iter()
        .filter(|request| request.stamps[0] >= from);
    let requests: Vec<&StampedRequest> = requests.collect();
    if requests.is_empty() {
        let remedy = "give more --seconds, or a smaller --every";
        return Err(StudyError::usage(
            "no sampled request came back in time",
            remedy,
        ));
    }
    let mut all = stages(&requests, "all");
    let medians: Vec<f64> = all.iter().map(|stage| stage.p50_us).collect();
    let sum: f64 = medians[..STAGES.len()].iter().sum();
    for worker in 0..stamps.spans.len() {
        let own = requests
            .iter()
            .copied()
            .filter(|request| request.worker == worker);
        all.extend(stages(&own.collect::<Vec<_>>(), &worker.to_string()));
    }
    let figure = |name: &str| report[name].as_f64().unwrap_or(0.0);
    let workers_awake = awake(&stamps.spans, from);
    let (bottleneck, advice) = judge(&medians, report, workers_awake);
    Ok(SelfplayProfile {
        requests: requests.len(),
        stages: all,
        sum_over_total: sum / medians[STAGES.len()].max(1e-9),
        network_busy: figure("evaluator_busy"),
        workers_awake,
        batch_mean: figure("batch_mean"),
        bottleneck,
        advice,
        overhead: None,
        overhead_pairs: Vec::new(),
        trace,
        stamps: PathBuf::new(),
    })
}

/// Share of the time since `from` in which workers were awake, mean over workers.
fn awake(spans: &[Vec<WorkerSpan>], from: u64) -> f64 {
    let share = |spans: &Vec<WorkerSpan>| {
        let time = spans.last()?.to_ns.saturating_sub(from);
        let awake = spans
            .iter()
            .map(|span| span.to_ns.saturating_sub(span.from_ns.max(from)));
        Some(awake.sum::<u64>() as f64 / time.max(1) as f64)
    };
    mean(&spans.iter().filter_map(share).collect::<Vec<f64>>())
}

/// Busy for so much of the time, a part has nothing left to give.
const SATURATED: f64 = 0.85;

/// What holds the rest up, and what to turn. `medians` are those of the stages, then of the total.
fn judge(medians: &[f64], report: &Value, workers_awake: f64) -> (&'static str, String) {
    let figure = |name: &str| report[name].as_f64().unwrap_or(0.0);
    let (busy, mean, most) = (
        figure("evaluator_busy"),
        figure("batch_mean"),
        figure("max_batch"),
    );
    let (busy_percent, awake_percent) = (100.0 * busy, 100.0 * workers_awake);
    let (rings, total) = (medians[1] + medians[6], medians[STAGES.len()]);
    let hold = format!("batches hold {mean:.0} of {most:.0} leaves");
    if busy >= SATURATED && mean < 0.7 * most {
        let advice = format!("{hold}: more --in-flight fills them; then a faster backend");
        return ("network", advice);
    }
    if busy >= SATURATED {
        let advice = format!(
            "it works {busy_percent:.0} % of the time on full batches: a larger --max-batch, more \
             --threads or a faster backend"
        );
        return ("network", advice);
    }
    if workers_awake >= SATURATED {
        let advice = format!(
            "they are awake {awake_percent:.0} % of the time and the network works \
             {busy_percent:.0} %: more --workers, up to the cores there are"
        );
        return ("workers", advice);
    }
    if rings > medians[2] + medians[4] {
        let (rings, total) = (short(rings), short(total));
        let advice = format!(
            "requests and replies lie in rings for {rings} us of {total}: --parking poll if there \
             is a core per process, else fewer --workers"
        );
        return ("ring", advice);
    }
    let advice = format!("{hold} and nobody is busy: more --in-flight, or a smaller --max-wait-us");
    ("batching", advice)
}

impl SelfplayProfile {
    /// The table for the terminal.
    pub fn table(&self) -> String {
        let words = ["stage", "worker"].map(Column::text);
        let figures = ["p50", "p90", "p99", "max", "mean"].map(|name| Column::number(name, ""));
        let row = |stage: &Stage| {
            let Stage {
                p50_us,
                p90_us,
                p99_us,
                max_us,
                mean_us,
                ..
            } = *stage;
            let times = [p50_us, p90_us, p99_us, max_us, mean_us].map(short);
            [stage.stage.clone(), stage.worker.clone()]
                .into_iter()
                .chain(times)
                .collect()
        };
        let table = Table {
            columns: words.into_iter().chain(figures).collect(),
            rows: self.stages.iter().map(row).collect(),
        };
        let mut text = format!(
            "{}, times in us\n{}\
             stage medians add up to {:.1} % of the median total\n\
             network busy {:.0} %, workers awake {:.0} %, mean batch {:.0}\n",
            counted(self.requests, "request"),
            table.to_text(),
            100.0 * self.sum_over_total,
            100.0 * self.network_busy,
            100.0 * self.workers_awake,
            self.batch_mean
        );
        if let Some(overhead) = self.overhead {
            let end = |share| 100.0 * quantile_unsorted(&self.overhead_pairs, share);
            let _ = writeln!(
                text,
                "stamps cost {:.1} % of throughput (median of {}, from {:.1} to {:.1} %)",
                100.0 * overhead,
                counted(self.overhead_pairs.len(), "pair"),
                end(0.0),
                end(1.0)
            );
        }
        let (bottleneck, advice, trace) = (self.bottleneck, &self.advice, self.trace.display());
        let _ = write!(
            text,
            "bottleneck: {bottleneck}: {advice}\ntrace: {trace} (open with ui.perfetto.dev)"
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_bottleneck_is_named() {
        let report = |busy: f64, mean: f64| {
            json!({"evaluator_busy": busy,
            "batch_mean": mean, "max_batch": 512})
        };
        let quick = [1.0, 5.0, 100.0, 1.0, 100.0, 1.0, 5.0, 213.0];
        let stuck = [1.0, 500.0, 1.0, 1.0, 100.0, 1.0, 500.0, 1104.0];
        for (medians, busy, mean, awake, named) in [
            (&quick, 0.99, 500.0, 0.9, "network"),
            (&quick, 0.99, 50.0, 0.9, "network"),
            (&quick, 0.5, 300.0, 0.95, "workers"),
            (&stuck, 0.5, 300.0, 0.5, "ring"),
            (&quick, 0.3, 20.0, 0.2, "batching"),
        ] {
            let (bottleneck, advice) = judge(medians, &report(busy, mean), awake);
            assert_eq!(bottleneck, named);
            assert_eq!(advice.contains("--in-flight"), mean < 100.0, "{advice}");
        }
    }
}
