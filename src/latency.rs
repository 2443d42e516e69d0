//! Where time goes: a clock that all processes read alike, a small histogram that fits shared memory,
//! and the stamps of sampled requests on their way from a search to the network and back. Stamping is
//! off unless a run is told to trace, and costs one branch then; switched on, every process fills
//! buffers of its own, allocated at start and written to files at the end, which `profile selfplay` joins.

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share. 0 if there is no such clock.
#[inline]
pub fn now_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
    })
}

/// Binary digits of a value that a histogram keeps: each octave has 2^3 buckets.
const DIGITS: u32 = 3;
/// Buckets of a histogram: values below 2^32.
pub const BUCKETS: usize = ((32 - DIGITS as usize) << DIGITS) + (1 << DIGITS);

/// Times in microseconds, up to 71 minutes (longer ones count as that), to within 6 %.
#[derive(Clone, PartialEq, Debug)]
pub struct Histogram {
    buckets: Vec<u64>,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            buckets: vec![0; BUCKETS],
        }
    }
}

impl Histogram {
    /// From buckets counted elsewhere, at most [`BUCKETS`] of them.
    pub fn from_buckets(counts: impl Iterator<Item = u64>) -> Histogram {
        let mut histogram = Histogram::default();
        for (bucket, count) in histogram.buckets.iter_mut().zip(counts) {
            *bucket = count;
        }
        histogram
    }

    /// Counts one value, in microseconds.
    #[inline]
    pub fn record(&mut self, value_us: u64) {
        self.buckets[bucket_of(value_us)] += 1;
    }

    /// The counts, bucket by bucket.
    pub fn buckets(&self) -> &[u64] {
        &self.buckets
    }

    /// Adds another histogram's counts.
    pub fn add(&mut self, other: &Histogram) {
        for (sum, count) in self.buckets.iter_mut().zip(&other.buckets) {
            *sum = sum.saturating_add(*count);
        }
    }

    /// What was counted since `earlier`, a state of the same histogram.
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let pairs = self.buckets.iter().zip(&earlier.buckets);
        Histogram::from_buckets(pairs.map(|(now, before)| now.saturating_sub(*before)))
    }

    /// The value that a share `quantile` (0 to 1) of all values does not exceed, in microseconds, at the
    /// middle of its bucket; 0 if nothing was counted.
    pub fn quantile(&self, quantile: f64) -> f64 {
        quantile_of(&self.buckets, quantile).map_or(0.0, middle_of)
    }
}

/// The first index by which the share `quantile` of all counts is reached; none when all are 0.
pub fn quantile_of(counts: &[u64], quantile: f64) -> Option<usize> {
    // Saturates: another process's counts are whatever it wrote.
    let total = counts.iter().fold(0_u64, |sum, &n| sum.saturating_add(n));
    let wanted = ((quantile * total as f64).ceil() as u64).max(1);
    let mut seen = 0;
    counts.iter().position(|&count| {
        seen = count.saturating_add(seen);
        seen >= wanted
    })
}

fn bucket_of(value: u64) -> usize {
    let value = value.min(u64::from(u32::MAX));
    if value < 1 << DIGITS {
        return value as usize;
    }
    let octave = value.ilog2() - DIGITS;
    ((octave as usize) << DIGITS) + (value >> octave) as usize
}

fn middle_of(bucket: usize) -> f64 {
    let octave = (bucket >> DIGITS).saturating_sub(1);
    let first = bucket - (octave << DIGITS);
    (first << octave) as f64 + ((1_u64 << octave) - 1) as f64 / 2.0
}

/// Sample numbers lie in a ticket's upper 16 bits; 0 means not sampled.
pub const TAG_SHIFT: u32 = 48;

/// The sample number in a ticket.
#[inline]
pub fn tag_of(ticket: u64) -> u16 {
    (ticket >> TAG_SHIFT) as u16
}

/// Requests a process stamps at most; what comes after is not stamped.
const REQUEST_ROOM: usize = 1 << 18;
/// Passes of a worker, or batches, stamped at most.
const SPAN_ROOM: usize = 1 << 18;

/// A worker's stamps of one request, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct WorkerStamps {
    /// Sample number, 1 to 65535, then from 1 again.
    pub tag: u16,
    /// Its search had selected the leaf.
    pub selected_ns: u64,
    /// It was in the ring.
    pub published_ns: u64,
    /// Its reply was out of the ring; 0 if none came.
    pub consumed_ns: u64,
}

/// The evaluator's stamps of one request, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct EvaluatorStamps {
    /// Whose it is.
    pub worker: u16,
    /// Sample number within the worker.
    pub tag: u16,
    /// It was out of the ring.
    pub seen_ns: u64,
    /// Its reply was in the ring.
    pub replied_ns: u64,
    /// The batch it was in, counted from 0; see `BatchStamps`.
    pub batch: u64,
}

/// The evaluator's stamps of one batch, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct BatchStamps {
    /// Counted from 0.
    pub batch: u64,
    /// Leaves.
    pub size: u32,
    /// Its first leaves were taken.
    pub opened_ns: u64,
    /// Nothing more was added.
    pub sealed_ns: u64,
    /// The network began.
    pub started_ns: u64,
    /// The network was done.
    pub ended_ns: u64,
    /// All replies were in the rings.
    pub published_ns: u64,
}

/// One stretch of a worker's work between two sleeps, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct WorkerSpan {
    /// It woke.
    pub from_ns: u64,
    /// Nothing was left to do.
    pub to_ns: u64,
}

/// The stamps of one worker process.
pub struct WorkerTrace {
    file: PathBuf,
    spans_file: PathBuf,
    every: usize,
    /// Requests until the next sample.
    left: usize,
    next_tag: u16,
    /// When the search in hand had selected its leaves; 0 when no sample is near.
    selected_ns: u64,
    requests: Vec<WorkerStamps>,
    /// Where the stamps of the samples under way are: index by tag, plus 1.
    open: Vec<u32>,
    spans: Vec<WorkerSpan>,
    awake_ns: u64,
}

/// A search asks for at most so many leaves in one go before the clock is looked at anyway.
const NEAR: usize = 64;

impl WorkerTrace {
    /// For worker `index`, stamping one request in `every`.
    pub fn new(folder: &Path, index: usize, every: usize) -> WorkerTrace {
        WorkerTrace {
            file: folder.join(format!("worker-{index}-requests.csv")),
            spans_file: folder.join(format!("worker-{index}-spans.csv")),
            every,
            // Workers start alike: their samples should not fall together.
            left: 1 + (index * 17) % every,
            next_tag: 1,
            selected_ns: 0,
            requests: Vec::with_capacity(REQUEST_ROOM),
            open: vec![0; 1 << 16],
            spans: Vec::with_capacity(SPAN_ROOM),
            awake_ns: now_ns(),
        }
    }

    /// A search has selected leaves. The clock is read only when a sample is near.
    #[inline]
    pub fn selected(&mut self) {
        self.selected_ns = if self.left <= NEAR { now_ns() } else { 0 };
    }

    /// The ticket to send: tagged if it is this one's turn and there is room.
    #[inline]
    pub fn tagged(&mut self, ticket: u64) -> u64 {
        self.left -= 1;
        if self.left > 0 {
            return ticket;
        }
        self.left = self.every;
        if self.requests.len() == REQUEST_ROOM {
            return ticket;
        }
        ticket | u64::from(self.next_tag) << TAG_SHIFT
    }

    /// A tagged request is in the ring.
    pub fn published(&mut self, ticket: u64) {
        let tag = tag_of(ticket);
        let published_ns = now_ns();
        let selected_ns = match self.selected_ns {
            0 => published_ns,
            selected => selected.min(published_ns),
        };
        self.requests.push(WorkerStamps {
            tag,
            selected_ns,
            published_ns,
            consumed_ns: 0,
        });
        self.open[tag as usize] = self.requests.len() as u32;
        self.next_tag = if tag == u16::MAX { 1 } else { tag + 1 };
    }

    /// A reply is out of the ring.
    #[inline]
    pub fn consumed(&mut self, ticket: u64) {
        let tag = tag_of(ticket);
        if tag == 0 {
            return;
        }
        let place = std::mem::take(&mut self.open[tag as usize]) as usize;
        if let Some(stamps) = place
            .checked_sub(1)
            .and_then(|place| self.requests.get_mut(place))
        {
            stamps.consumed_ns = now_ns();
        }
    }

    /// The worker goes to sleep.
    pub fn asleep(&mut self) {
        if self.spans.len() < SPAN_ROOM {
            self.spans.push(WorkerSpan {
                from_ns: self.awake_ns,
                to_ns: now_ns(),
            });
        }
    }

    /// The worker is awake again.
    pub fn awake(&mut self) {
        self.awake_ns = now_ns();
    }

    /// Writes the stamps.
    ///
    /// # Errors
    /// When the disk refuses them.
    pub fn write(&self) -> Result<(), csv::Error> {
        write_rows(&self.file, &self.requests)?;
        write_rows(&self.spans_file, &self.spans)
    }
}

/// Samples in one batch, each with its place in the batch.
pub type Sampled = Vec<(usize, EvaluatorStamps)>;

/// The stamps of the evaluator process.
pub struct EvaluatorTrace {
    folder: PathBuf,
    requests: Vec<EvaluatorStamps>,
    batches: Vec<BatchStamps>,
    batch: u64,
}

impl EvaluatorTrace {
    /// Files go to `folder`.
    pub fn new(folder: &Path) -> EvaluatorTrace {
        EvaluatorTrace {
            folder: folder.to_owned(),
            requests: Vec::with_capacity(REQUEST_ROOM),
            batches: Vec::with_capacity(SPAN_ROOM),
            batch: 0,
        }
    }

    /// A batch is answered: keeps its stamps and those of its samples, which are cleared.
    pub fn finished(&mut self, mut batch: BatchStamps, sampled: &mut Sampled) {
        batch.batch = self.batch;
        if self.batches.len() < SPAN_ROOM {
            self.batches.push(batch);
            let room = REQUEST_ROOM - self.requests.len();
            let stamps = sampled.iter().map(|&(_, stamps)| EvaluatorStamps {
                batch: self.batch,
                ..stamps
            });
            self.requests.extend(stamps.take(room));
        }
        sampled.clear();
        self.batch += 1;
    }

    /// Writes the stamps.
    ///
    /// # Errors
    /// When the disk refuses them.
    pub fn write(&self) -> Result<(), csv::Error> {
        write_rows(&self.folder.join("evaluator-requests.csv"), &self.requests)?;
        write_rows(&self.folder.join("evaluator-batches.csv"), &self.batches)
    }
}

fn write_rows<T: Serialize>(path: &Path, rows: &[T]) -> Result<(), csv::Error> {
    let mut writer = csv::Writer::from_writer(File::create(path)?);
    for row in rows {
        writer.serialize(row)?;
    }
    Ok(writer.flush()?)
}

/// Reads stamps back; a file that is not there holds none (its process died or had nothing to stamp).
///
/// # Errors
/// When it cannot be read or is none of ours.
pub fn read_rows<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Vec<T>, csv::Error> {
    match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error.into()),
        Ok(file) => csv::Reader::from_reader(file).deserialize().collect(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_all_values_in_order() {
        let mut last = 0;
        for value in (0..100_000).chain([1 << 20, u64::from(u32::MAX), u64::MAX]) {
            let bucket = bucket_of(value);
            assert!(bucket < BUCKETS && (bucket == last || bucket == last + 1 || value > 99_999));
            last = bucket;
            if value < 100_000 {
                let error = (middle_of(bucket) - value as f64).abs();
                assert!(error <= 0.0625 * value as f64, "{value}: {error}");
            }
        }
        assert_eq!(last, BUCKETS - 1);
    }

    #[test]
    fn quantiles_of_known_values() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), 0.0);
        (1..=1000).for_each(|value| histogram.record(value));
        assert!((histogram.quantile(0.5) - 500.0).abs() < 32.0);
        assert!((histogram.quantile(0.99) - 990.0).abs() < 64.0);
        let before = histogram.clone();
        histogram.record(7);
        assert_eq!(histogram.since(&before).quantile(1.0), 7.0);
    }

    #[test]
    fn tags_come_back_once() {
        let folder = tempfile::TempDir::new().unwrap();
        let mut trace = WorkerTrace::new(folder.path(), 0, 2);
        let tickets: Vec<u64> = (0..6)
            .map(|ticket| {
                trace.selected();
                let tagged = trace.tagged(ticket);
                if tag_of(tagged) != 0 {
                    trace.published(tagged);
                }
                tagged
            })
            .collect();
        let tagged: Vec<u16> = tickets.iter().map(|&ticket| tag_of(ticket)).collect();
        assert_eq!(tagged, [1, 0, 2, 0, 3, 0]);
        trace.consumed(tickets[2]);
        trace.consumed(tickets[2]);
        trace.write().unwrap();
        let rows: Vec<WorkerStamps> =
            read_rows(&folder.path().join("worker-0-requests.csv")).unwrap();
        assert_eq!(rows.len(), 3);
        assert!(rows[1].consumed_ns >= rows[1].published_ns && rows[0].consumed_ns == 0);
        assert!(rows.iter().all(|row| row.selected_ns <= row.published_ns));
    }
}
