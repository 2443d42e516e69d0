//! What the user's signals ask of a run. The first Ctrl-C (SIGINT) has what is in hand finished and
//! kept; a second one, or SIGTERM at any time, ends the run at once with the rounds finished so
//! far; one more signal ends this process on the spot. The same signal again within 50 ms is the
//! same request: wrappers like `timeout` signal the process and then its group. SIGHUP, of a
//! terminal that is gone, is taken for SIGTERM, and however often it comes for one: shells pass it
//! on. A process started to ignore it (`nohup`) still does. A thread of its own listens, so that
//! this last way out is open even while the run's thread waits for a disk.

use crate::shm::liveness;
use rustix::event::{PollFd, PollFlags, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;
use std::io::{self, PipeReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// Exit code after an interruption by the user.
pub const INTERRUPTED: u8 = 130;
/// The same signal within this time is the same request.
const REPEAT_WITHIN: Duration = Duration::from_millis(50);

/// How far the user has asked for the end of the run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shutdown {
    /// Not at all: it goes on.
    No,
    /// What was handed out is played; nothing more is.
    Drain,
    /// The run ends at once.
    Now,
}

impl Shutdown {
    fn of(number: u8) -> Shutdown {
        match number {
            0 => Shutdown::No,
            1 => Shutdown::Drain,
            _ => Shutdown::Now,
        }
    }

    /// After one more signal; none: not even an orderly end is waited for.
    fn after(self, signal: i32) -> Option<Shutdown> {
        match (self, signal) {
            (Shutdown::No, SIGINT) => Some(Shutdown::Drain),
            (Shutdown::No | Shutdown::Drain, _) | (Shutdown::Now, SIGHUP) => Some(Shutdown::Now),
            (Shutdown::Now, _) => None,
        }
    }
}

/// What the signals so far have asked for.
pub struct Signals(Arc<AtomicU8>);

impl Signals {
    /// Listens from now on, for as long as the process lives.
    ///
    /// # Errors
    /// When the system lets nobody listen.
    pub fn listen() -> io::Result<Signals> {
        let shutdown = Arc::new(AtomicU8::new(Shutdown::No as u8));
        let stored = shutdown.clone();
        let mut pipes = vec![SignalPipe::new(SIGINT)?, SignalPipe::new(SIGTERM)?];
        if !liveness::is_ignored(SIGHUP) {
            pipes.push(SignalPipe::new(SIGHUP)?);
        }
        let listen = move || {
            while let Ok(pipe) = next_of(&mut pipes) {
                if !pipe.is_request(Instant::now()) {
                    continue;
                }
                match Shutdown::of(stored.load(Ordering::Relaxed)).after(pipe.signal) {
                    Some(shutdown) => stored.store(shutdown as u8, Ordering::Relaxed),
                    None => signal_hook::low_level::exit(INTERRUPTED.into()),
                }
            }
        };
        let thread = std::thread::Builder::new().name("signals".into());
        thread.spawn(listen)?;
        Ok(Signals(shutdown))
    }

    /// How far the user has asked for the end by now.
    pub fn shutdown(&self) -> Shutdown {
        Shutdown::of(self.0.load(Ordering::Relaxed))
    }
}

/// Through which one signal reaches the thread that listens.
struct SignalPipe {
    signal: i32,
    /// Gets a byte whenever it comes. Not one of the sockets that are usual for this: a run has
    /// none.
    reader: PipeReader,
    /// When it was last taken for a request.
    requested: Option<Instant>,
}

impl SignalPipe {
    fn new(signal: i32) -> io::Result<SignalPipe> {
        let (reader, writer) = io::pipe()?;
        pipe::register(signal, writer)?;
        Ok(SignalPipe {
            signal,
            reader,
            requested: None,
        })
    }

    /// Is the signal that came now a request, and not a repeat of one? By the last request, not the
    /// last repeat, so that nobody is ignored for longer.
    fn is_request(&mut self, now: Instant) -> bool {
        let is_repeat = |last: Instant| now.duration_since(last) < REPEAT_WITHIN;
        let is_request = !self.requested.is_some_and(is_repeat);
        if is_request {
            self.requested = Some(now);
        }
        is_request
    }
}

/// Waits for the next signal; of two that came together, the first of these.
fn next_of(pipes: &mut [SignalPipe]) -> io::Result<&mut SignalPipe> {
    loop {
        let polled = pipes
            .iter()
            .map(|pipe| PollFd::new(&pipe.reader, PollFlags::IN));
        let mut polled: Vec<_> = polled.collect();
        // Interrupted by a signal: look again.
        let _ = poll(&mut polled, None);
        let first = polled.iter().position(|pipe| !pipe.revents().is_empty());
        if let Some(first) = first {
            let pipe = &mut pipes[first];
            pipe.reader.read_exact(&mut [0])?;
            return Ok(pipe);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_ends_the_run_sooner() {
        let after_all = |signals: &[i32]| {
            let first = Some(Shutdown::No);
            let after = |shutdown: Option<Shutdown>, &signal: &i32| shutdown?.after(signal);
            signals.iter().fold(first, after)
        };
        assert_eq!(after_all(&[SIGINT]), Some(Shutdown::Drain));
        for ends in [
            &[SIGTERM][..],
            &[SIGHUP],
            &[SIGINT, SIGINT],
            &[SIGINT, SIGTERM],
            &[SIGTERM, SIGHUP],
            &[SIGHUP, SIGHUP],
        ] {
            assert_eq!(after_all(ends), Some(Shutdown::Now));
            for more in [SIGINT, SIGTERM] {
                assert_eq!(after_all(&[ends, &[more]].concat()), None);
            }
        }
        for shutdown in [Shutdown::No, Shutdown::Drain, Shutdown::Now] {
            assert_eq!(Shutdown::of(shutdown as u8), shutdown);
        }
    }

    #[test]
    fn a_repeat_is_no_request() {
        let mut pipe = SignalPipe {
            signal: SIGINT,
            reader: io::pipe().unwrap().0,
            requested: None,
        };
        let begin = Instant::now();
        let requests = [0, 1, 30, 49, 50, 99, 100, 1000]
            .map(|at| pipe.is_request(begin + Duration::from_millis(at)));
        let expected = [true, false, false, false, true, false, true, true];
        assert_eq!(requests, expected);
    }
}
