//! Active time: that in which this process could run. A suspended machine, a frozen container, a
//! stopped job or a snapshot stops all processes of a run together: none of them hung meanwhile,
//! however much wall-clock time has passed.

use std::time::{Duration, Instant};

/// Most that counts of the time between two looks. Far more than a loop that looks about ten times
/// a second takes, and less than any limit.
const STEP_MAX: Duration = Duration::from_millis(250);

/// A clock that stands still while this process is stopped. It advances only when it is looked at.
pub struct ActiveClock {
    active: Duration,
    looked: Instant,
}

impl Default for ActiveClock {
    fn default() -> ActiveClock {
        ActiveClock {
            active: Duration::ZERO,
            looked: Instant::now(),
        }
    }
}

impl ActiveClock {
    /// Active time since the clock was made.
    pub fn look(&mut self) -> Duration {
        self.look_at(Instant::now())
    }

    fn look_at(&mut self, now: Instant) -> Duration {
        self.active += now.saturating_duration_since(self.looked).min(STEP_MAX);
        self.looked = now;
        self.active
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stands_while_nobody_can_look() {
        let mut clock = ActiveClock::default();
        let begin = clock.looked;
        let seconds = Duration::from_secs_f64;
        let looks = [0.1, 0.3, 3600.0, 3600.1].map(|at| clock.look_at(begin + seconds(at)));
        assert_eq!(looks, [0.1, 0.3, 0.55, 0.65].map(seconds));
        assert_eq!(clock.look_at(begin), seconds(0.65), "it never goes back");
    }
}
