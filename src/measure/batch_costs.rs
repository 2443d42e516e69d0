//! What batches cost by their size, roughly and within a limit of time: what tuning begins with.

use crate::network::{Backend, BackendError, samples, sizes_up_to};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Least and greatest batch that is looked at.
pub const BATCHES: (usize, usize) = (32, 2048);
/// Runs of each size, at most.
const RUNS: usize = 5;

/// Time of one batch.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    /// Leaves.
    pub batch: usize,
    /// Milliseconds from the copy of the requests to the answers, the best of some.
    pub ms: f64,
}

/// Times batches, the smallest first, until `limit` is over; at least one.
///
/// # Errors
/// When the device fails.
pub fn time_batches(backend: &mut dyn Backend, limit: Duration) -> Result<Vec<Cost>, BackendError> {
    let requests = samples::requests(BATCHES.1);
    let begun = Instant::now();
    let mut costs: Vec<Cost> = Vec::new();
    let sizes = sizes_up_to(BATCHES.1).into_iter();
    for batch in sizes.filter(|&rows| rows >= BATCHES.0) {
        let mut ms = f64::INFINITY;
        for _ in 0..RUNS {
            if begun.elapsed() >= limit && (ms.is_finite() || !costs.is_empty()) {
                break;
            }
            let called = Instant::now();
            backend.requests(0)[..batch].copy_from_slice(&requests[..batch]);
            backend.run(batch)?;
            ms = ms.min(called.elapsed().as_secs_f64() * 1e3);
        }
        if ms.is_finite() {
            costs.push(Cost { batch, ms });
        }
    }
    Ok(costs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Reply, Request};
    use bytemuck::Zeroable;

    /// A device that takes a millisecond for each batch, and says that it took no time.
    struct Slow {
        requests: Vec<Request>,
        replies: Vec<Reply>,
    }

    impl Backend for Slow {
        fn lanes(&self) -> usize {
            1
        }

        fn requests(&mut self, _lane: usize) -> &mut [Request] {
            &mut self.requests
        }

        fn launch(&mut self, _lane: usize, _rows: usize) -> Result<(), BackendError> {
            std::thread::sleep(Duration::from_millis(1));
            Ok(())
        }

        fn poll(&mut self, _lane: usize) -> Result<Option<Duration>, BackendError> {
            Ok(Some(Duration::ZERO))
        }

        fn replies(&self, _lane: usize) -> &[Reply] {
            &self.replies
        }

        fn device(&self) -> String {
            "slow".into()
        }
    }

    #[test]
    fn batches_are_timed_on_the_wall_while_there_is_time() {
        let mut slow = Slow {
            requests: vec![Request::zeroed(); BATCHES.1],
            replies: Vec::new(),
        };
        let mut timed = |limit| time_batches(&mut slow, limit).unwrap();
        let all = timed(Duration::from_secs(3600));
        assert_eq!((all[0].batch, all[all.len() - 1].batch), BATCHES);
        assert!(all.iter().all(|cost| cost.ms >= 1.0), "{all:?}");
        let hasty = timed(Duration::ZERO);
        assert!(hasty.len() == 1 && hasty[0].batch == BATCHES.0, "{hasty:?}");
    }
}
