//! Kill points, for tests alone: named places in the life of every process at which it can be made
//! to stop itself, so that a test kills it exactly there. `RINGMASTER_STOP_AT=PROCESS:POINT[:N]`
//! raises SIGSTOP in that process (of the workers: in worker 0; not in its successor) when it
//! passes the point for the N-th time. Unset, a point costs one relaxed load of a static; there is
//! none inside a ring. The one table of points below is what the test goes through: a new line is a
//! new test.

use std::sync::atomic::{AtomicU32, Ordering};

/// The environment variable.
pub const VARIABLE: &str = "RINGMASTER_STOP_AT";

/// What a run must meet before it passes a point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reached {
    /// Nothing: every run passes it.
    Always,
    /// The death of the evaluator.
    EvaluatorDies,
    /// The death of the last worker.
    WorkerDies,
    /// New weights.
    WeightsChange,
    /// A short last shard that a resumed run adds rounds to.
    ShortShard,
}

/// A line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// `worker`, `evaluator`, `coordinator`, or `replay` (in the coordinator).
    pub process: &'static str,
    /// Name within the process.
    pub name: &'static str,
    /// What it takes to get there.
    pub reached: Reached,
}

macro_rules! points {
    ($($point:ident $process:literal $name:literal $reached:ident,)*) => {
        /// A place at which a process may be told to stop itself.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[allow(missing_docs)]
        pub enum KillPoint { $($point,)* }

        /// All of them, in the order of `KillPoint`.
        pub const POINTS: &[Place] = &[$(
            Place { process: $process, name: $name, reached: Reached::$reached },
        )*];
    };
}

points! {
    WorkerAttached       "worker"      "attached"       Always,
    WorkerSends          "worker"      "sends"          Always,
    WorkerSent           "worker"      "sent"           Always,
    WorkerTook           "worker"      "took"           Always,
    WorkerJournals       "worker"      "keeps"          Always,
    WorkerJournaled      "worker"      "kept"           Always,
    WorkerDelivers       "worker"      "delivers"       Always,
    WorkerDelivered      "worker"      "delivered"      Always,
    WorkerLetsGo         "worker"      "lets-go"        EvaluatorDies,
    WorkerLetGo          "worker"      "let-go"         EvaluatorDies,
    EvaluatorAttached    "evaluator"   "attached"       Always,
    EvaluatorGathered    "evaluator"   "gathered"       Always,
    EvaluatorEvaluated   "evaluator"   "evaluated"      Always,
    EvaluatorPublishing  "evaluator"   "publishing"     Always,
    EvaluatorWakes       "evaluator"   "wakes"          Always,
    EvaluatorLetsGo      "evaluator"   "lets-go"        WorkerDies,
    EvaluatorLetGo       "evaluator"   "let-go"         WorkerDies,
    EvaluatorOffered     "evaluator"   "offered"        WeightsChange,
    EvaluatorLoaded      "evaluator"   "loaded"         WeightsChange,
    EvaluatorDropped     "evaluator"   "dropped"        WeightsChange,
    SegmentCreated       "coordinator" "created"        Always,
    Spawned              "coordinator" "spawned"        Always,
    Records              "coordinator" "records"        Always,
    Recorded             "coordinator" "recorded"       Always,
    RingsClosed          "coordinator" "closed"         WorkerDies,
    RingsCleared         "coordinator" "cleared"        WorkerDies,
    WeightsFound         "coordinator" "weights-found"  WeightsChange,
    WeightsLoaded        "coordinator" "weights-loaded" WeightsChange,
    WeightsAdopted       "coordinator" "weights-adopted" WeightsChange,
    Closes               "coordinator" "closes"         Always,
    HeaderWritten        "replay"      "header"         Always,
    MidFrame             "replay"      "mid-frame"      Always,
    ShardSyncs           "replay"      "syncs"          Always,
    ShardRenames         "replay"      "renames"        Always,
    ShardRenamed         "replay"      "renamed"        Always,
    ShardReopened        "replay"      "reopened"       ShortShard,
    ManifestWrites       "replay"      "manifest"       Always,
    ManifestRenames      "replay"      "manifest-renames" Always,
}

/// The point to stop at, counted from 1; 0: none.
static ARMED: AtomicU32 = AtomicU32::new(0);
/// How often it is passed before.
static LEFT: AtomicU32 = AtomicU32::new(0);

/// To be called once, early, by a process that plays one of these parts.
pub fn arm(parts: &[&str]) {
    let Ok(wanted) = std::env::var(VARIABLE) else {
        return;
    };
    let mut words = wanted.split(':');
    let (process, name) = (words.next(), words.next());
    let nth = words.next().and_then(|nth| nth.parse().ok()).unwrap_or(1);
    let found = POINTS.iter().position(|place| {
        parts.contains(&place.process) && process == Some(place.process) && name == Some(place.name)
    });
    if let Some(index) = found {
        LEFT.store(nth, Ordering::Relaxed);
        ARMED.store(index as u32 + 1, Ordering::Relaxed);
    }
}

/// Passes a point.
#[inline(always)]
pub fn pass(point: KillPoint) {
    if is_armed(point) {
        stop();
    }
}

/// Is the process to stop at this point some time?
#[inline(always)]
pub fn is_armed(point: KillPoint) -> bool {
    ARMED.load(Ordering::Relaxed) == point as u32 + 1
}

#[cold]
fn stop() {
    if LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
        // A point that cannot stop its process fails the test that waits for it.
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP);
    }
}
