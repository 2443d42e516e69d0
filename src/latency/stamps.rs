//! The stamps of sampled requests, from the selection of a leaf to its reply. Stamping is off
//! unless a run is told to trace, and costs one branch then; switched on, every process fills
//! buffers of its own, allocated at start and written to files at the end.

use super::now_ns;
use crate::disk::Refusal;
use crate::input;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};

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
    /// When the search being advanced had selected its leaves; 0 when no sample is near.
    selected_ns: u64,
    requests: Vec<WorkerStamps>,
    /// Where the stamps of the samples under way are: index by tag, plus 1.
    open: Vec<u32>,
    spans: Vec<WorkerSpan>,
    span_from_ns: u64,
}

/// A search asks for at most so many leaves in one go before the clock is looked at anyway.
const LEAVES_PER_GATHER_MAX: usize = 64;

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
            span_from_ns: now_ns(),
        }
    }

    /// A search has selected leaves. The clock is read only when a sample is near.
    #[inline]
    pub fn selected(&mut self) {
        self.selected_ns = if self.left <= LEAVES_PER_GATHER_MAX {
            now_ns()
        } else {
            0
        };
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

    /// Nothing is left to do: a span of work ends.
    pub fn span_ended(&mut self) {
        if self.spans.len() < SPAN_ROOM {
            self.spans.push(WorkerSpan {
                from_ns: self.span_from_ns,
                to_ns: now_ns(),
            });
        }
    }

    /// The worker woke: a span of work begins.
    pub fn span_started(&mut self) {
        self.span_from_ns = now_ns();
    }

    /// Writes the stamps.
    ///
    /// # Errors
    /// When the disk refuses them.
    pub fn write(&self) -> Result<(), Refusal> {
        write_rows(&self.file, &self.requests)?;
        write_rows(&self.spans_file, &self.spans)
    }
}

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
    pub fn finished(&mut self, mut batch: BatchStamps, sampled: &mut Vec<EvaluatorStamps>) {
        batch.batch = self.batch;
        if self.batches.len() < SPAN_ROOM {
            self.batches.push(batch);
            let room = REQUEST_ROOM - self.requests.len();
            let stamps = sampled.iter().map(|&stamps| EvaluatorStamps {
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
    pub fn write(&self) -> Result<(), Refusal> {
        write_rows(&self.folder.join("evaluator-requests.csv"), &self.requests)?;
        write_rows(&self.folder.join("evaluator-batches.csv"), &self.batches)
    }
}

fn write_rows<T: Serialize>(path: &Path, rows: &[T]) -> Result<(), Refusal> {
    let write = || {
        let mut writer = csv::Writer::from_writer(File::create(path)?);
        rows.iter().try_for_each(|row| writer.serialize(row))?;
        writer.flush()
    };
    write().map_err(Refusal::of("write", path))
}

/// Reads stamps back; a file that is not there holds none (its process died or had nothing to
/// stamp).
///
/// # Errors
/// When it cannot be read or is none of ours.
pub fn read_rows<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Vec<T>, csv::Error> {
    match input::open(path) {
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
