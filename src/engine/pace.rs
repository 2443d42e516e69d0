//! When to launch a batch. An idle network takes whatever is there at once (or waits a bounded time
//! for more, if the settings say so). While it computes, gathering goes on, and the next batch is
//! launched just early enough to stand behind the one under way when that ends, by the measured
//! cost of a batch; or as soon as it is full.

use crate::network::CostModel;
use std::time::{Duration, Instant};

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Launch what is gathered.
    Launch,
    /// Look again at once: something is under way.
    Poll,
    /// Gather for at most this long.
    Wait(Duration),
    /// Nothing is gathered or under way.
    Sleep,
}

impl Turn {
    /// Of two turns the one that asks to be back sooner.
    pub fn sooner(self, other: Turn) -> Turn {
        match (self, other) {
            (Turn::Wait(one), Turn::Wait(two)) => Turn::Wait(one.min(two)),
            (Turn::Sleep, other) | (other, Turn::Sleep) => other,
            (Turn::Wait(_), other) | (other, Turn::Wait(_)) => other,
            (Turn::Launch, _) | (_, Turn::Launch) => Turn::Launch,
            (Turn::Poll, Turn::Poll) => Turn::Poll,
        }
    }
}

/// The plan of launches.
pub struct Pace {
    cost: CostModel,
    /// How early a launch must be made to lose no device time.
    lead: Duration,
    max_wait: Duration,
    /// When the device is expected to have finished all that was launched.
    busy_until: Option<Instant>,
    /// When the batch being gathered got its first leaf.
    begun: Option<Instant>,
}

impl Pace {
    /// For a device with these costs; an empty model for one that computes within the launch.
    /// `lead` is the time from a launch to its answers beyond the device time.
    pub fn new(cost: CostModel, lead: Duration, max_wait: Duration) -> Pace {
        Pace {
            cost,
            lead,
            max_wait,
            busy_until: None,
            begun: None,
        }
    }

    /// What to do with `rows` gathered (`full`: no more fit) and `under_way` batches launched and
    /// not finished.
    pub fn turn(&mut self, now: Instant, rows: usize, full: bool, under_way: usize) -> Turn {
        if rows == 0 {
            self.begun = None;
            return if under_way > 0 {
                Turn::Poll
            } else {
                Turn::Sleep
            };
        }
        if full {
            return Turn::Launch;
        }
        if under_way > 0 {
            let due = self.busy_until.is_none_or(|until| now + self.lead >= until);
            return if due { Turn::Launch } else { Turn::Poll };
        }
        let begun = *self.begun.get_or_insert(now);
        match self
            .max_wait
            .checked_sub(now.saturating_duration_since(begun))
        {
            Some(left) if !left.is_zero() => Turn::Wait(left),
            _ => Turn::Launch,
        }
    }

    /// A batch of `rows` was launched.
    pub fn launched(&mut self, now: Instant, rows: usize) {
        let starts = self.busy_until.map_or(now, |until| until.max(now));
        self.busy_until = Some(starts + self.cost.time(rows));
        self.begun = None;
    }

    /// A batch was finished and none is under way.
    pub fn idle(&mut self) {
        self.busy_until = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    const US: Duration = Duration::from_micros(1);

    /// 100 us for any batch, 10 us of lead.
    fn pace(max_wait: Duration) -> Pace {
        let cost: Result<_, Infallible> = CostModel::measure([512], 1, |_| Ok(100 * US));
        Pace::new(cost.unwrap(), 10 * US, max_wait)
    }

    #[test]
    fn an_idle_network_takes_what_is_there() {
        let (mut pace, now) = (pace(Duration::ZERO), Instant::now());
        assert_eq!(pace.turn(now, 0, false, 0), Turn::Sleep);
        assert_eq!(pace.turn(now, 1, false, 0), Turn::Launch);
    }

    #[test]
    fn a_busy_network_gathers_until_its_batch_is_about_to_end() {
        let (mut pace, now) = (pace(Duration::ZERO), Instant::now());
        pace.launched(now, 300);
        assert_eq!(pace.turn(now, 0, false, 1), Turn::Poll);
        assert_eq!(pace.turn(now + 80 * US, 5, false, 1), Turn::Poll);
        assert_eq!(pace.turn(now + 91 * US, 5, false, 1), Turn::Launch);
        pace.launched(now + 91 * US, 5);
        // The second stands behind the first, so it ends 200 us after the start.
        assert_eq!(pace.turn(now + 150 * US, 5, false, 2), Turn::Poll);
        assert_eq!(pace.turn(now + 150 * US, 512, true, 2), Turn::Launch);
        assert_eq!(pace.turn(now + 191 * US, 5, false, 1), Turn::Launch);
    }

    #[test]
    fn a_wait_is_counted_from_the_first_leaf() {
        let (mut pace, now) = (pace(50 * US), Instant::now());
        assert_eq!(pace.turn(now, 1, false, 0), Turn::Wait(50 * US));
        assert_eq!(pace.turn(now + 20 * US, 9, false, 0), Turn::Wait(30 * US));
        assert_eq!(pace.turn(now + 20 * US, 9, true, 0), Turn::Launch);
        assert_eq!(pace.turn(now + 50 * US, 9, false, 0), Turn::Launch);
        pace.launched(now + 50 * US, 9);
        pace.idle();
        assert_eq!(pace.turn(now + 60 * US, 1, false, 0), Turn::Wait(50 * US));
    }

    #[test]
    fn a_network_without_costs_is_asked_again_at_once() {
        let mut pace = Pace::new(CostModel::default(), Duration::ZERO, Duration::ZERO);
        let now = Instant::now();
        pace.launched(now, 10);
        assert_eq!(pace.turn(now, 3, false, 1), Turn::Launch);
    }
}
