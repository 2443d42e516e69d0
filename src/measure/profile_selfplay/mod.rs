//! Where the time of a run goes: the stamps that workers and evaluator took of sampled requests,
//! joined into stages that follow each other without gap or overlap, so that they add up to the
//! whole; which part holds the others up, and the setting to turn; and a trace to look at.

mod trace;

use super::scratch::{Destination, put_in_place};
use super::stats::{quantile, short};
use super::trial::Trials;
use super::{NOTHING_YET, StudyError, make_folder, stats, write_file, write_table};
use crate::latency::{BatchStamps, EvaluatorStamps, WorkerSpan, WorkerStamps, read_rows};
use crate::plural::counted;
use crate::say::note;
use crate::settings::Settings;
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::Value;
use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Stamps of one request, in order, in nanoseconds.
pub const STAMPS: usize = 8;
/// Stages between them, by name.
pub const STAGES: [&str; STAMPS - 1] = [
    "selected to published",
    "in the request ring",
    "batch filling",
    "batch to network",
    "network",
    "replying",
    "in the reply ring",
];

/// One request that was stamped all the way.
#[derive(Clone, Copy, Debug)]
pub struct Journey {
    /// Whose it is.
    pub worker: usize,
    /// Its batch.
    pub batch: BatchStamps,
    /// Selected, published, seen, sealed, started, ended, replied, consumed.
    pub stamps: [u64; STAMPS],
}

/// Times of one stage, or of the whole, in microseconds.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Stage {
    pub stage: String,
    /// A worker's number, or `all`.
    pub worker: String,
    pub requests: u64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
    /// Means add up to the total's exactly, however skewed the times are.
    pub mean_us: f64,
}

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

/// Everything that processes stamped.
pub struct Stamps {
    /// Requests stamped all the way, in order of selection.
    pub journeys: Vec<Journey>,
    /// All batches, in order.
    pub batches: Vec<BatchStamps>,
    /// By worker: when it was awake.
    pub spans: Vec<Vec<WorkerSpan>>,
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
        return Err(StudyError::Usage(what.into()));
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
            let out = out.display();
            format!("trace.json and stages.csv of the run with stamps are in {out}; what stamps cost is not measured")
        })
    })?;
    Ok(SelfplayProfile {
        overhead: (!overhead_pairs.is_empty())
            .then(|| stats::quantile_unsorted(&overhead_pairs, 0.5)),
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
    make_folder(&folder)?;
    let traced = Settings {
        trace: Some(folder.clone()),
        ..settings.clone()
    };
    note!("a run of {} s with stamps", settings.seconds);
    let played = trials.play(&traced).map_err(StudyError::from);
    let report = played.map_err(|error| error.keeping(|| NOTHING_YET.to_owned()))?;
    let stamps = read(&folder, settings.workers)?;
    let wanted = out.join("stamps");
    let kept = put_in_place(&folder, &wanted)?;
    if kept != wanted {
        let (wanted, kept) = (wanted.display(), kept.display());
        note!("{wanted} holds something else: the stamps are in {kept}");
    }
    let trace = out.join("trace.json");
    let text = trace::json(&stamps, window_s).to_string();
    write_file(&trace, &text)?;
    let profile = SelfplayProfile {
        stamps: kept,
        ..sum_up(&stamps, &report, trace)?
    };
    let path = out.join("stages.csv");
    write_table(&path, &profile.stages)?;
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
    make_folder(spare)?;
    let stamped = Settings {
        trace: Some(spare.to_owned()),
        ..settings.clone()
    };
    // Which comes first alternates, so that a machine that slows down favours neither.
    let (mut off, mut on) = (Value::Null, Value::Null);
    let on_first = pair.is_multiple_of(2);
    for is_on in [on_first, !on_first] {
        if is_on {
            on = trials.play(&stamped)?;
        } else {
            off = trials.play(settings)?;
        }
    }
    let rate = |report: &Value| report["evaluations_per_s"].as_f64().unwrap_or(0.0);
    Ok(1.0 - rate(&on) / rate(&off).max(1e-9))
}

/// Reads and joins what the processes wrote. A sample's number comes again after 65535 others, so
/// besides the number the times must fit: seen after published, replied before consumed.
fn read(folder: &Path, workers: usize) -> Result<Stamps, StudyError> {
    fn rows<T: for<'a> serde::Deserialize<'a>>(path: PathBuf) -> Result<Vec<T>, StudyError> {
        read_rows(&path).map_err(StudyError::table(&path))
    }
    let batches: Vec<BatchStamps> = rows(folder.join("evaluator-batches.csv"))?;
    let seen: Vec<EvaluatorStamps> = rows(folder.join("evaluator-requests.csv"))?;
    let mut by_tag: HashMap<(u16, u16), Vec<EvaluatorStamps>> = HashMap::new();
    for stamps in seen {
        by_tag
            .entry((stamps.worker, stamps.tag))
            .or_default()
            .push(stamps);
    }
    let mut journeys = Vec::new();
    let mut spans = Vec::new();
    for worker in 0..workers {
        let sent: Vec<WorkerStamps> = rows(folder.join(format!("worker-{worker}-requests.csv")))?;
        spans.push(rows(folder.join(format!("worker-{worker}-spans.csv")))?);
        for own in sent.iter().filter(|own| own.consumed_ns > 0) {
            let fits = |theirs: &&EvaluatorStamps| {
                theirs.seen_ns >= own.published_ns && theirs.replied_ns <= own.consumed_ns
            };
            let candidates = by_tag.get(&(worker as u16, own.tag));
            let found = candidates.and_then(|all| all.iter().find(fits));
            let batch = found.and_then(|theirs| batches.get(theirs.batch as usize));
            let (Some(theirs), Some(batch)) = (found, batch) else {
                continue;
            };
            journeys.push(Journey {
                worker,
                batch: *batch,
                stamps: [
                    own.selected_ns,
                    own.published_ns,
                    theirs.seen_ns,
                    batch.sealed_ns,
                    batch.started_ns,
                    batch.ended_ns,
                    theirs.replied_ns,
                    own.consumed_ns,
                ],
            });
        }
    }
    journeys.sort_by_key(|journey| journey.stamps[0]);
    Ok(Stamps {
        journeys,
        batches,
        spans,
    })
}

fn stage(
    name: &str,
    worker: &str,
    times_ns: impl Iterator<Item = u64>,
) -> Result<Stage, StudyError> {
    // 1 ns to 1 h, three figures.
    let mut histogram = Histogram::<u64>::new_with_max(3_600_000_000_000, 3)
        .map_err(|error| StudyError::Usage(error.to_string()))?;
    let mut sum_ns = 0;
    times_ns.for_each(|time| {
        histogram.saturating_record(time);
        sum_ns += time;
    });
    let us = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(Stage {
        stage: name.to_owned(),
        worker: worker.to_owned(),
        requests: histogram.len(),
        p50_us: us(0.5),
        p90_us: us(0.9),
        p99_us: us(0.99),
        max_us: histogram.max() as f64 / 1000.0,
        mean_us: sum_ns as f64 / histogram.len().max(1) as f64 / 1000.0,
    })
}

/// The stages of some journeys, and their total.
fn stages(journeys: &[&Journey], worker: &str) -> Result<Vec<Stage>, StudyError> {
    let mut stages = Vec::new();
    for (place, name) in STAGES.iter().enumerate() {
        let times = journeys
            .iter()
            .map(|j| j.stamps[place + 1].saturating_sub(j.stamps[place]));
        stages.push(stage(name, worker, times)?);
    }
    let total = journeys
        .iter()
        .map(|j| j.stamps[STAMPS - 1].saturating_sub(j.stamps[0]));
    stages.push(stage("total", worker, total)?);
    Ok(stages)
}

fn sum_up(stamps: &Stamps, report: &Value, trace: PathBuf) -> Result<SelfplayProfile, StudyError> {
    // Those sent before the warm-up ended meet a network that has just started.
    let measured = measured_from(stamps, report);
    let journeys: Vec<&Journey> = stamps
        .journeys
        .iter()
        .filter(|j| j.stamps[0] >= measured)
        .collect();
    if journeys.is_empty() {
        let what =
            "no sampled request came back in time: give more --seconds, or a smaller --every";
        return Err(StudyError::Usage(what.into()));
    }
    let mut all = stages(&journeys, "all")?;
    let sum: f64 = all[..STAGES.len()].iter().map(|stage| stage.p50_us).sum();
    let sum_over_total = sum / all[STAGES.len()].p50_us.max(1e-9);
    let medians: Vec<f64> = all.iter().map(|stage| stage.p50_us).collect();
    for worker in 0..stamps.spans.len() {
        let own: Vec<&Journey> = journeys
            .iter()
            .copied()
            .filter(|j| j.worker == worker)
            .collect();
        all.extend(stages(&own, &worker.to_string())?);
    }
    let figure = |name: &str| report[name].as_f64().unwrap_or(0.0);
    let (batch_mean, network_busy) = (figure("batch_mean"), figure("evaluator_busy"));
    let workers_awake = awake(&stamps.spans, measured);
    let (bottleneck, advice) = judge(&medians, report, workers_awake);
    Ok(SelfplayProfile {
        requests: journeys.len(),
        stages: all,
        sum_over_total,
        network_busy,
        workers_awake,
        batch_mean,
        bottleneck,
        advice,
        overhead: None,
        overhead_pairs: Vec::new(),
        trace,
        stamps: PathBuf::new(),
    })
}

/// From when on it counts: the last batch's end less the time measured.
fn measured_from(stamps: &Stamps, report: &Value) -> u64 {
    let end = stamps.batches.last().map_or(0, |batch| batch.published_ns);
    let elapsed = report["elapsed_s"].as_f64().unwrap_or(0.0);
    end.saturating_sub((elapsed * 1e9) as u64)
}

/// Share of the time since `from` in which workers were awake, mean over workers.
fn awake(spans: &[Vec<WorkerSpan>], from: u64) -> f64 {
    let shares: Vec<f64> = spans
        .iter()
        .filter_map(|spans| {
            let end = spans.last()?.to_ns;
            let work = spans
                .iter()
                .map(|span| span.to_ns.saturating_sub(span.from_ns.max(from)));
            Some(work.sum::<u64>() as f64 / end.saturating_sub(from).max(1) as f64)
        })
        .collect();
    stats::mean(&shares)
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
    if busy >= SATURATED {
        let advice = if mean < 0.7 * most {
            format!(
                "batches hold {mean:.0} of {most:.0} leaves: more --in-flight fills them; then a faster backend"
            )
        } else {
            format!(
                "it works {:.0} % of the time on full batches: a larger --max-batch, more --threads or a faster backend",
                100.0 * busy
            )
        };
        return ("network", advice);
    }
    if workers_awake >= SATURATED {
        let advice = format!(
            "they are awake {:.0} % of the time and the network works {:.0} %: more --workers, up to the cores there are",
            100.0 * workers_awake,
            100.0 * busy
        );
        return ("workers", advice);
    }
    let rings = medians[1] + medians[6];
    if rings > medians[2] + medians[4] {
        let advice = format!(
            "requests and replies lie in rings for {} us of {}: --parking poll if there is a core per process, else fewer --workers",
            short(rings),
            short(medians[STAGES.len()])
        );
        return ("ring", advice);
    }
    let advice = format!(
        "batches hold {mean:.0} of {most:.0} leaves and nobody is busy: more --in-flight, or a smaller --max-wait-us"
    );
    ("batching", advice)
}

impl SelfplayProfile {
    /// The table for the terminal.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{}, times in us\n{:<24}{:>8}{:>11}{:>11}{:>11}{:>11}{:>11}\n",
            counted(self.requests, "request"),
            "stage",
            "worker",
            "p50",
            "p90",
            "p99",
            "max",
            "mean"
        );
        for stage in &self.stages {
            let _ = writeln!(
                text,
                "{:<24}{:>8}{:>11}{:>11}{:>11}{:>11}{:>11}",
                stage.stage,
                stage.worker,
                short(stage.p50_us),
                short(stage.p90_us),
                short(stage.p99_us),
                short(stage.max_us),
                short(stage.mean_us)
            );
        }
        let _ = writeln!(
            text,
            "stage medians add up to {:.1} % of the median total",
            100.0 * self.sum_over_total
        );
        let _ = writeln!(
            text,
            "network busy {:.0} %, workers awake {:.0} %, mean batch {:.0}",
            100.0 * self.network_busy,
            100.0 * self.workers_awake,
            self.batch_mean
        );
        if let Some(overhead) = self.overhead {
            let mut pairs = self.overhead_pairs.clone();
            pairs.sort_by(f64::total_cmp);
            let _ = writeln!(
                text,
                "stamps cost {:.1} % of throughput (median of {}, from {:.1} to {:.1} %)",
                100.0 * overhead,
                counted(pairs.len(), "pair"),
                100.0 * quantile(&pairs, 0.0),
                100.0 * quantile(&pairs, 1.0)
            );
        }
        let _ = writeln!(text, "bottleneck: {}: {}", self.bottleneck, self.advice);
        let _ = write!(
            text,
            "trace: {} (open with ui.perfetto.dev)",
            self.trace.display()
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
        let report = |busy: f64, mean: f64| json!({"evaluator_busy": busy, "batch_mean": mean, "max_batch": 512});
        let quick = [1.0, 5.0, 100.0, 1.0, 100.0, 1.0, 5.0, 213.0];
        let stuck = [1.0, 500.0, 1.0, 1.0, 100.0, 1.0, 500.0, 1104.0];
        assert_eq!(judge(&quick, &report(0.99, 500.0), 0.9).0, "network");
        assert!(
            judge(&quick, &report(0.99, 50.0), 0.9)
                .1
                .contains("--in-flight")
        );
        assert_eq!(judge(&quick, &report(0.5, 300.0), 0.95).0, "workers");
        assert_eq!(judge(&stuck, &report(0.5, 300.0), 0.5).0, "ring");
        assert_eq!(judge(&quick, &report(0.3, 20.0), 0.2).0, "batching");
    }
}
