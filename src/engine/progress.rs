//! What a user sees of a long run: one live line on a terminal, a plain line now and then
//! elsewhere. Both speak of all rounds of the run or, once the user wants no more than that, of
//! those in hand.

use crate::say::note;
use crate::settings::ENDLESS;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

/// Between two plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(10);
/// Between two updates of the live line.
const LIVE_EVERY: Duration = Duration::from_millis(200);

/// Progress of one run, in rounds.
pub struct Progress {
    bar: Option<ProgressBar>,
    /// Moves of a round, on average.
    moves_per_round: f64,
    goal: Goal,
    started: Instant,
    shown: Instant,
}

/// What is to be done.
struct Goal {
    /// What is counted.
    what: &'static str,
    /// Where counting begins: rounds of this run that are not counted, and counted rounds that
    /// were there before it.
    uncounted: u64,
    before: u64,
    total: u64,
    /// Moves that this run will have made by then.
    moves: f64,
}

/// What is shown besides the rounds.
#[derive(Clone, Copy, Default)]
pub struct Gauge {
    /// Moves made so far; the rounds in flight finish nearly together, moves tell how far they
    /// are.
    pub moves: u64,
    /// Mean batch so far.
    pub batch_mean: f64,
    /// Share of the time the network worked.
    pub busy: f64,
}

impl Progress {
    /// Of a run of `total` rounds with `moves` moves in all; `before` of the rounds are there.
    pub fn new(total: u64, moves: f64, before: u64) -> Progress {
        let moves_per_round = moves / total.max(1) as f64;
        let goal = Goal {
            what: "rounds",
            uncounted: 0,
            before,
            total,
            moves: moves_per_round * total.saturating_sub(before) as f64,
        };
        let now = Instant::now();
        Progress {
            bar: stderr().is_terminal().then(|| goal.bar()),
            moves_per_round,
            goal,
            started: now,
            shown: now,
        }
    }

    /// From now on, after `rounds` rounds and `moves` moves, it is about the `in_hand` rounds that
    /// are under way.
    pub fn limit_to_in_hand(&mut self, in_hand: u64, rounds: u64, moves: u64) {
        let most = self.moves_per_round * in_hand as f64;
        let left = self.moves_per_round * (rounds + in_hand) as f64 - moves as f64;
        // Where moves were made twice, after a death, or rounds differ in length, the sum may be
        // absurd.
        let left = if (0.0..=most).contains(&left) {
            left
        } else {
            most / 2.0
        };
        self.goal = Goal {
            what: "rounds in hand",
            uncounted: rounds,
            before: 0,
            total: in_hand,
            moves: moves as f64 + left,
        };
        self.clear();
        self.bar = self.bar.take().map(|_| self.goal.bar());
    }

    /// Is it time to show something? Spares the caller collecting figures for nothing.
    pub fn is_due(&self) -> bool {
        let every = if self.bar.is_some() {
            LIVE_EVERY
        } else {
            PLAIN_EVERY
        };
        self.shown.elapsed() >= every
    }

    /// Shows how far the run is: `rounds` new ones.
    pub fn show(&mut self, rounds: u64, gauge: Gauge) {
        self.shown = Instant::now();
        let seconds = self.started.elapsed().as_secs_f64();
        let moves = gauge.moves as f64;
        let left = match gauge.moves {
            _ if self.goal.is_endless() => String::new(),
            0 => "  ? left".to_owned(),
            _ => {
                let left = (self.goal.moves - moves).max(0.0) / moves * seconds;
                format!("  {} left", clock(left))
            }
        };
        let figures = format!(
            "{:.0}/min  batch {:.0}  network busy {:.0} %{left}",
            moves / self.moves_per_round / seconds * 60.0,
            gauge.batch_mean,
            100.0 * gauge.busy
        );
        let Goal { what, total, .. } = self.goal;
        let position = self.goal.before + rounds.saturating_sub(self.goal.uncounted);
        match &self.bar {
            Some(bar) => {
                bar.set_position(position);
                bar.set_message(figures);
            }
            None if self.goal.is_endless() => note!("{position} {what}  {figures}"),
            None => note!("{position}/{total} {what}  {figures}"),
        }
    }

    /// A line that stays, above the live one.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note!("{line}")),
            None => note!("{line}"),
        }
    }

    /// Takes the live line away.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Goal {
    /// Does only time end the run?
    fn is_endless(&self) -> bool {
        self.total == ENDLESS
    }

    fn bar(&self) -> ProgressBar {
        let target = ProgressDrawTarget::stderr();
        let place = if self.is_endless() {
            "{pos}"
        } else {
            "{bar:24} {pos}/{len}"
        };
        let style = format!("{place} {}  {{msg}}", self.what);
        let style = ProgressStyle::with_template(&style);
        ProgressBar::with_draw_target(Some(self.total), target)
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            .with_position(self.before)
    }
}

fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, minutes, seconds) => format!("{minutes}:{seconds:02}"),
        (hours, minutes, seconds) => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}
