//! What a user sees of a long run: one live line on a terminal, a plain line now and then elsewhere.

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
    total: u64,
    /// Moves this run will make.
    moves: f64,
    /// Rounds there before this run.
    before: u64,
    started: Instant,
    shown: Instant,
}

/// What is shown besides the rounds.
#[derive(Clone, Copy, Default)]
pub struct Gauge {
    /// Moves made so far; the rounds in flight finish nearly together, moves tell how far they are.
    pub moves: u64,
    /// Mean batch so far.
    pub batch_mean: f64,
    /// Share of the time the network worked.
    pub busy: f64,
}

impl Progress {
    /// Of a run of `total` rounds with `moves` moves in all; `before` of the rounds are there.
    pub fn new(total: u64, moves: f64, before: u64) -> Progress {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:24} {pos}/{len} rounds  {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_position(before);
            bar
        });
        let now = Instant::now();
        Progress {
            bar,
            total,
            moves: moves * (total - before.min(total)) as f64 / total.max(1) as f64,
            before,
            started: now,
            shown: now,
        }
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
        let rate = self.total.saturating_sub(self.before) as f64 * moves / self.moves / seconds;
        let left = match gauge.moves {
            0 => "?".to_owned(),
            _ => clock((self.moves - moves).max(0.0) / moves * seconds),
        };
        let figures = format!(
            "{:.0}/min  batch {:.0}  network busy {:.0} %  {left} left",
            rate * 60.0,
            gauge.batch_mean,
            100.0 * gauge.busy
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position(self.before + rounds);
                bar.set_message(figures);
            }
            None => eprintln!("{}/{} rounds  {figures}", self.before + rounds, self.total),
        }
    }

    /// A line that stays, above the live one.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Takes the live line away.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, minutes, seconds) => format!("{minutes}:{seconds:02}"),
        (hours, minutes, seconds) => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}
