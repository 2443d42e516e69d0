//! What lies in the shared segment: per worker a pair of rings to and from the evaluator, a pair to
//! and from the coordinator, a doorbell and counters. All processes derive the same layout from the
//! same settings, which the segment carries.

use crate::latency::{BUCKETS, Histogram};
use crate::play::{Job, PlayStats, journal_room};
use crate::replay::MAX_RECORD_BYTES;
use crate::settings::Settings;
use crate::shm::{
    Counters, CountersRegion, DoorbellRegion, GateRegion, HandoverRegion, JournalRegion,
    RingRegion, SegmentLayout,
};
use crate::wire::{Reply, Request};
use bytemuck::{Pod, Zeroable};

/// One finished round on its way to the coordinator.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct RecordSlot {
    /// Bytes used.
    pub length: u64,
    /// The encoded record.
    pub bytes: [u8; MAX_RECORD_BYTES],
}

/// Finished rounds that may wait for the coordinator, per worker; a worker that finds no room lets
/// that job wait and plays on with the others.
pub const RECORD_ROOM: usize = 16;

/// Words of a short text.
const TEXT_WORDS: usize = 32;

/// Regions of one worker.
#[derive(Clone, Copy)]
pub struct WorkerRegions {
    /// Leaves, worker to evaluator. Room for all a worker can have in flight, so it is never full.
    pub requests: RingRegion<Request>,
    /// Answers, evaluator to worker. The same room.
    pub replies: RingRegion<Reply>,
    /// Jobs, coordinator to worker.
    pub jobs: RingRegion<Job>,
    /// Finished rounds, worker to coordinator.
    pub records: RingRegion<RecordSlot>,
    /// About `requests` and `replies`, which are cleared when worker or evaluator dies.
    pub handover: HandoverRegion,
    /// Where the worker sleeps.
    pub bell: DoorbellRegion,
    /// What the worker has done; see `WorkerCounter`.
    pub counters: CountersRegion,
}

/// The whole segment.
pub struct Regions {
    /// To create or check the segment with.
    pub layout: SegmentLayout,
    /// By worker.
    pub workers: Vec<WorkerRegions>,
    /// Finished decisions of all jobs in flight: an entry for each job that a worker may hold,
    /// written by its holder alone.
    pub journal: JournalRegion,
    /// Where the evaluator sleeps.
    pub evaluator_bell: DoorbellRegion,
    /// What the evaluator has done; see `EvaluatorCounter`.
    pub evaluator_counters: CountersRegion,
    /// Which networks are in use; see `NetworkWord`.
    pub networks: CountersRegion,
    /// What the network runs on, as text; see `store_text`.
    pub device: CountersRegion,
    /// Where the coordinator sleeps.
    pub coordinator_bell: DoorbellRegion,
    /// Opened when all processes are ready.
    pub start: GateRegion,
    /// Opened when all processes are to end.
    pub stop: GateRegion,
}

/// Jobs a worker may hold: those in flight and an eighth more, so that a place for a job never
/// waits for the coordinator. No more, so that the last jobs of a run are spread evenly.
pub fn jobs_per_worker_max(settings: &Settings) -> usize {
    settings.in_flight + settings.in_flight / 8 + 1
}

impl Regions {
    /// The layout that follows from resolved settings.
    pub fn new(settings: &Settings) -> Regions {
        let mut layout = SegmentLayout::default();
        let leaves = settings.leaf_room();
        let jobs = jobs_per_worker_max(settings);
        let entries = settings.workers.saturating_mul(jobs);
        // A game's rounds begin one after the other in its entry.
        let sides = if settings.rounds_per_job() > 1 { 2 } else { 1 };
        let workers = (0..settings.workers)
            .map(|_| WorkerRegions {
                requests: layout.ring(leaves),
                replies: layout.ring(leaves),
                jobs: layout.ring(jobs),
                records: layout.ring(RECORD_ROOM),
                handover: layout.handover(),
                bell: layout.doorbell(),
                counters: layout.counters(WorkerCounter::Count as usize),
            })
            .collect();
        Regions {
            workers,
            journal: layout.journal(entries, journal_room(settings), sides),
            evaluator_bell: layout.doorbell(),
            evaluator_counters: layout
                .counters(EvaluatorCounter::Sizes as usize + settings.max_batch + 1),
            networks: layout.counters(NetworkWord::Count as usize),
            device: layout.counters(TEXT_WORDS),
            coordinator_bell: layout.doorbell(),
            start: layout.gate(),
            stop: layout.gate(),
            layout,
        }
    }
}

/// Counters of a worker.
#[derive(Clone, Copy)]
pub enum WorkerCounter {
    /// 1 once the worker is ready to start.
    Ready,
    /// Heartbeats: grows with every pass of the worker's loop.
    Heartbeat,
    /// Processor time in nanoseconds.
    CpuNs,
    /// First word of `PlayStats`.
    Search,
    /// First bucket of the histogram of decisions' times.
    Latency = WorkerCounter::Search as isize + (size_of::<PlayStats>() / 8) as isize,
    /// How many there are.
    Count = WorkerCounter::Latency as isize + BUCKETS as isize,
}

/// Counters of the evaluator.
#[derive(Clone, Copy)]
pub enum EvaluatorCounter {
    /// 1 once the network is loaded.
    Ready,
    /// Heartbeats: grows while the evaluator loops and while the CPU computes a batch.
    Heartbeat,
    /// Processor time in nanoseconds.
    CpuNs,
    /// Time spent on batches in nanoseconds.
    BusyNs,
    /// Batches.
    Batches,
    /// Leaves evaluated.
    Evaluations,
    /// GPU memory the network takes, in bytes.
    GpuBytes,
    /// GPU memory in use on the whole device, by any process, in bytes.
    GpuBytesUsed,
    /// First word of the histogram: batches of size n are counted at `Sizes + n`.
    Sizes,
}

/// Words about the run's networks, by which coordinator and evaluator agree on new weights: the
/// coordinator offers them, the evaluator loads them and says so, and only then are jobs handed out
/// that they play.
#[derive(Clone, Copy)]
pub enum NetworkWord {
    /// Coordinator: the oldest network in use.
    Oldest,
    /// Coordinator: the newest network that plays. An evaluator that starts loads all from the
    /// oldest to this one.
    Newest,
    /// Coordinator: number of the offer (counted from 1) in the upper half, the network offered in
    /// the lower.
    Offer,
    /// Evaluator: the offer it has loaded.
    Loaded,
    /// Evaluator: the offer it cannot use.
    Refused,
    /// How many there are.
    Count,
}

/// Writes the searches' counts and times into a worker's counters.
pub fn store_counts(counters: &Counters, counts: &PlayStats, latency: &Histogram) {
    let words: &[u64; size_of::<PlayStats>() / 8] = bytemuck::cast_ref(counts);
    for (index, &word) in words.iter().enumerate() {
        counters.store(WorkerCounter::Search as usize + index, word);
    }
    for (index, &count) in latency.buckets().iter().enumerate() {
        counters.store(WorkerCounter::Latency as usize + index, count);
    }
}

/// Reads the times back.
pub fn load_latency(counters: &Counters) -> Histogram {
    let buckets = (0..BUCKETS).map(|index| counters.load(WorkerCounter::Latency as usize + index));
    Histogram::from_buckets(buckets)
}

/// Reads the counts back.
pub fn load_counts(counters: &Counters) -> PlayStats {
    let words: [u64; size_of::<PlayStats>() / 8] =
        std::array::from_fn(|index| counters.load(WorkerCounter::Search as usize + index));
    bytemuck::cast(words)
}

/// Writes a short text (cut at 256 bytes) into counters, 8 bytes a word.
pub fn store_text(words: &Counters, text: &str) {
    let mut bytes = [0; TEXT_WORDS * 8];
    let length = text.len().min(bytes.len());
    bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
    for (index, &word) in bytemuck::cast::<_, [u64; TEXT_WORDS]>(bytes)
        .iter()
        .enumerate()
    {
        words.store(index, word);
    }
}

/// Reads it back, whatever another process left there.
pub fn load_text(words: &Counters) -> String {
    let words: [u64; TEXT_WORDS] = std::array::from_fn(|index| words.load(index));
    let bytes: [u8; TEXT_WORDS * 8] = bytemuck::cast(words);
    let length = bytes
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}
