//! Where time goes: a clock that all processes read alike, a small histogram that fits shared
//! memory, and the stamps of sampled requests on their way from a search to the network and back,
//! which `profile selfplay` joins.

mod histogram;
mod stamps;

pub use histogram::{BUCKETS, Histogram, quantile_of};
pub use stamps::{
    BatchStamps, EvaluatorStamps, EvaluatorTrace, TAG_SHIFT, WorkerSpan, WorkerStamps, WorkerTrace,
    read_rows, tag_of,
};

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share. 0 if there is no such
/// clock.
#[inline]
pub fn now_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
    })
}
