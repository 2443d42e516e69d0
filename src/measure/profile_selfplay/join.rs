//! The stamps of all processes, joined by request into stages that follow each other.

use crate::latency::{BatchStamps, EvaluatorStamps, WorkerSpan, WorkerStamps, read_rows};
use crate::measure::StudyError;
use crate::measure::stats::{mean, quantile};
use serde::Serialize;
use serde_json::Value;
use std::collections::HashMap;
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
pub struct StampedRequest {
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

/// Everything that processes stamped.
pub struct JoinedStamps {
    /// Requests stamped all the way, in order of selection.
    pub requests: Vec<StampedRequest>,
    /// All batches, in order.
    pub batches: Vec<BatchStamps>,
    /// By worker: when it was awake.
    pub spans: Vec<Vec<WorkerSpan>>,
}

/// Reads and joins what the processes wrote. A sample's number comes again after 65535 others, so
/// besides the number the times must fit: seen after published, replied before consumed.
pub(super) fn read(folder: &Path, workers: usize) -> Result<JoinedStamps, StudyError> {
    fn rows<T: for<'a> serde::Deserialize<'a>>(path: PathBuf) -> Result<Vec<T>, StudyError> {
        read_rows(&path).map_err(StudyError::table(&path))
    }
    let batches: Vec<BatchStamps> = rows(folder.join("evaluator-batches.csv"))?;
    let seen: Vec<EvaluatorStamps> = rows(folder.join("evaluator-requests.csv"))?;
    let mut by_tag: HashMap<(u16, u16), Vec<EvaluatorStamps>> = HashMap::new();
    for stamps in seen {
        let tag = (stamps.worker, stamps.tag);
        by_tag.entry(tag).or_default().push(stamps);
    }
    let mut requests = Vec::new();
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
            requests.push(StampedRequest {
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
    requests.sort_by_key(|request| request.stamps[0]);
    Ok(JoinedStamps {
        requests,
        batches,
        spans,
    })
}

fn stage(name: &str, worker: &str, times_ns: impl Iterator<Item = u64>) -> Stage {
    let mut times_us: Vec<f64> = times_ns.map(|ns| ns as f64 / 1000.0).collect();
    times_us.sort_unstable_by(f64::total_cmp);
    let us = |share: f64| quantile(&times_us, share);
    Stage {
        stage: name.to_owned(),
        worker: worker.to_owned(),
        requests: times_us.len() as u64,
        p50_us: us(0.5),
        p90_us: us(0.9),
        p99_us: us(0.99),
        max_us: us(1.0),
        mean_us: mean(&times_us),
    }
}

/// The stages of some requests, and their total.
pub(super) fn stages(requests: &[&StampedRequest], worker: &str) -> Vec<Stage> {
    let between = |from: usize, to: usize| {
        requests
            .iter()
            .map(move |request| request.stamps[to].saturating_sub(request.stamps[from]))
    };
    let names = STAGES.iter().enumerate();
    let stages = names.map(|(nth, name)| stage(name, worker, between(nth, nth + 1)));
    let total = stage("total", worker, between(0, STAMPS - 1));
    stages.chain([total]).collect()
}

/// From when on it counts: the last batch's end less the time measured.
pub(super) fn measured_from(stamps: &JoinedStamps, report: &Value) -> u64 {
    let end = stamps.batches.last().map_or(0, |batch| batch.published_ns);
    let elapsed = report["elapsed_s"].as_f64().unwrap_or(0.0);
    end.saturating_sub((elapsed * 1e9) as u64)
}
