//! What the user's signals ask of a run. The first Ctrl-C (SIGINT) has what is in hand finished and
//! kept; a second one, or SIGTERM at any time, ends the run at once with the rounds finished so
//! far; one more signal ends this process on the spot. The same signal again within 50 ms is the
//! same request: wrappers like `timeout` signal the process and then its group. SIGHUP, of a
//! terminal that is gone, is taken for SIGTERM, and however often it comes for one: shells pass it
//! on. Who was started to ignore it (`nohup`) goes on doing so.
//! A thread of its own listens, so that this last way out is open even while the run's thread waits
//! for a disk.

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
/// Nobody asks again so soon.
const REPEAT_WITHIN: Duration = Duration::from_millis(50);

/// What the user wants.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Wish {
    /// The run goes on.
    Play,
    /// What was handed out is played; nothing more is.
    Finish,
    /// The run ends at once.
    End,
}

/// The user's wish, as it is now.
pub struct Interrupts(Arc<AtomicU8>);

impl Interrupts {
    /// Listens from now on, for as long as the process lives.
    ///
    /// # Errors
    /// When the system lets nobody listen.
    pub fn listen() -> io::Result<Interrupts> {
        let wish = Arc::new(AtomicU8::new(Wish::Play as u8));
        let heard = wish.clone();
        let mut ears = vec![Ear::new(SIGINT)?, Ear::new(SIGTERM)?];
        if !liveness::is_ignored(SIGHUP) {
            ears.push(Ear::new(SIGHUP)?);
        }
        let listen = move || {
            while let Ok(ear) = next_of(&mut ears) {
                if !ear.is_new(Instant::now()) {
                    continue;
                }
                let signal = ear.signal;
                match after(wish_of(heard.load(Ordering::Relaxed)), signal) {
                    Some(wish) => heard.store(wish as u8, Ordering::Relaxed),
                    None => signal_hook::low_level::exit(INTERRUPTED.into()),
                }
            }
        };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(listen)?;
        Ok(Interrupts(wish))
    }

    /// What the user wants now.
    pub fn wish(&self) -> Wish {
        wish_of(self.0.load(Ordering::Relaxed))
    }
}

/// What hears one signal.
struct Ear {
    signal: i32,
    /// Gets a byte whenever it comes. Not one of the sockets that are usual for this: a run has
    /// none.
    pipe: PipeReader,
    /// When it was last taken for a request.
    counted: Option<Instant>,
}

impl Ear {
    fn new(signal: i32) -> io::Result<Ear> {
        let (reader, writer) = io::pipe()?;
        pipe::register(signal, writer)?;
        Ok(Ear {
            signal,
            pipe: reader,
            counted: None,
        })
    }

    /// Is the signal that came now a request, and not a repeat of one? By the last request, not the
    /// last repeat: nobody is unheard for longer.
    fn is_new(&mut self, now: Instant) -> bool {
        let is_repeat = |counted: Instant| now.duration_since(counted) < REPEAT_WITHIN;
        if self.counted.is_some_and(is_repeat) {
            return false;
        }
        self.counted = Some(now);
        true
    }
}

/// Waits for the next signal; of two that came together, the first of these.
fn next_of(ears: &mut [Ear]) -> io::Result<&mut Ear> {
    loop {
        let mut looked: Vec<_> = ears
            .iter()
            .map(|ear| PollFd::new(&ear.pipe, PollFlags::IN))
            .collect();
        // Interrupted by a signal: look again.
        let _ = poll(&mut looked, None);
        let first = looked.iter().position(|pipe| !pipe.revents().is_empty());
        if let Some(first) = first {
            let ear = &mut ears[first];
            ear.pipe.read_exact(&mut [0])?;
            return Ok(ear);
        }
    }
}

fn wish_of(number: u8) -> Wish {
    match number {
        0 => Wish::Play,
        1 => Wish::Finish,
        _ => Wish::End,
    }
}

/// The wish after one more signal; none: not even an orderly end is waited for.
fn after(wish: Wish, signal: i32) -> Option<Wish> {
    match (wish, signal) {
        (Wish::Play, SIGINT) => Some(Wish::Finish),
        (Wish::Play | Wish::Finish, _) => Some(Wish::End),
        (Wish::End, SIGHUP) => Some(Wish::End),
        (Wish::End, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_ends_the_run_sooner() {
        let after_all = |signals: &[i32]| {
            let first = Some(Wish::Play);
            signals
                .iter()
                .fold(first, |wish, &signal| after(wish?, signal))
        };
        assert_eq!(after_all(&[SIGINT]), Some(Wish::Finish));
        for ends in [
            &[SIGTERM][..],
            &[SIGHUP],
            &[SIGINT, SIGINT],
            &[SIGINT, SIGTERM],
            &[SIGTERM, SIGHUP],
            &[SIGHUP, SIGHUP],
        ] {
            assert_eq!(after_all(ends), Some(Wish::End));
            for more in [SIGINT, SIGTERM] {
                assert_eq!(after_all(&[ends, &[more]].concat()), None);
            }
        }
        for wish in [Wish::Play, Wish::Finish, Wish::End] {
            assert_eq!(wish_of(wish as u8), wish);
        }
    }

    #[test]
    fn a_repeat_is_no_request() {
        let (pipe, _) = io::pipe().unwrap();
        let mut ear = Ear {
            signal: SIGINT,
            pipe,
            counted: None,
        };
        let begin = Instant::now();
        let heard = [0, 1, 30, 49, 50, 99, 100, 1000].map(|at| {
            let now = begin + Duration::from_millis(at);
            ear.is_new(now)
        });
        let expected = [true, false, false, false, true, false, true, true];
        assert_eq!(heard, expected);
    }
}
