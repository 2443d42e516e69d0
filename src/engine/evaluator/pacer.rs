//! When to launch a batch. An idle device takes whatever is there at once (or waits a bounded time
//! for more, if the settings say so). While it computes, gathering goes on, and the next batch is
//! launched just early enough to stand behind the one under way when that ends, by the measured
//! cost of a batch; or as soon as it is full.

use std::time::{Duration, Instant};

/// What to do next, the most urgent first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Next {
    /// Launch what is gathered.
    Launch,
    /// Look again at once: something is under way.
    Poll,
    /// Gather for at most this long.
    Wait(Duration),
    /// Nothing is gathered or under way.
    Sleep,
}

/// The launches of one device.
#[derive(Default)]
pub struct Pacer {
    max_wait: Duration,
    /// How early a launch must be made to lose no device time.
    lead: Duration,
    /// When the device is expected to have finished all that was launched; none while it is idle.
    busy_until: Option<Instant>,
}

impl Pacer {
    /// For a device that may idle for up to `max_wait` while a batch is gathered.
    pub fn new(max_wait: Duration) -> Pacer {
        Pacer {
            max_wait,
            ..Pacer::default()
        }
    }

    /// A launch on this device takes `lead` beyond its device time.
    pub fn allow(&mut self, lead: Duration) {
        self.lead = self.lead.max(lead);
    }

    /// What to do with `rows` gathered since `since` (`full`: no more fit), while the device is
    /// `busy` or idle.
    pub fn next(&self, now: Instant, rows: usize, full: bool, since: Instant, busy: bool) -> Next {
        match rows {
            0 if busy => Next::Poll,
            0 => Next::Sleep,
            _ if full => Next::Launch,
            _ if busy => match self.busy_until {
                Some(until) if now + self.lead < until => Next::Poll,
                _ => Next::Launch,
            },
            _ => match (since + self.max_wait).saturating_duration_since(now) {
                Duration::ZERO => Next::Launch,
                left => Next::Wait(left),
            },
        }
    }

    /// A batch was launched that takes `cost` on the device; zero if it is finished by now.
    pub fn launched(&mut self, now: Instant, cost: Duration) {
        let starts = self.busy_until.map_or(now, |until| until.max(now));
        self.busy_until = Some(starts + cost);
    }

    /// All batches are finished.
    pub fn idle(&mut self) {
        self.busy_until = None;
    }
}
