//! What the user's signals ask of a run. The first Ctrl-C (SIGINT) has what is in hand finished and kept; a second one, or
//! SIGTERM at any time, ends the run at once with the rounds finished so far; one more signal ends this process on the spot.
//! A thread of its own listens, so that this last way out is open even while the run's thread waits for a disk.

use super::run::RunError;
use rustix::event::{PollFd, PollFlags, poll};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;
use std::io::{PipeReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Exit code after an interruption by the user.
pub const INTERRUPTED: u8 = 130;

/// What the user wants.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Wish {
    /// The run goes on.
    Play,
    /// What is in hand is finished; nothing new is begun.
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
    pub fn listen() -> Result<Interrupts, RunError> {
        let wish = Arc::new(AtomicU8::new(Wish::Play as u8));
        let heard = wish.clone();
        let mut pipes = [pipe_of(SIGINT)?, pipe_of(SIGTERM)?];
        let listen = move || {
            while let Ok(signal) = next_of(&mut pipes) {
                match after(wish_of(heard.load(Ordering::Relaxed)), signal) {
                    Some(wish) => heard.store(wish as u8, Ordering::Relaxed),
                    None => signal_hook::low_level::exit(INTERRUPTED.into()),
                }
            }
        };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(listen)
            .map_err(RunError::Signals)?;
        Ok(Interrupts(wish))
    }

    /// What the user wants now.
    pub fn wish(&self) -> Wish {
        wish_of(self.0.load(Ordering::Relaxed))
    }
}

/// A signal and the pipe that gets a byte whenever it comes. Not the sockets that are usual for this: a run has none.
fn pipe_of(signal: i32) -> Result<(i32, PipeReader), RunError> {
    let (reader, writer) = std::io::pipe().map_err(RunError::Signals)?;
    pipe::register(signal, writer).map_err(RunError::Signals)?;
    Ok((signal, reader))
}

/// Waits for the next signal; of two that came together, the first of these.
fn next_of(pipes: &mut [(i32, PipeReader); 2]) -> std::io::Result<i32> {
    loop {
        let mut looked = [&pipes[0].1, &pipes[1].1].map(|pipe| PollFd::new(pipe, PollFlags::IN));
        // Interrupted by a signal: look again.
        let _ = poll(&mut looked, None);
        let came = looked.each_ref().map(|pipe| !pipe.revents().is_empty());
        if let Some(first) = came.iter().position(|&came| came) {
            let (signal, pipe) = &mut pipes[first];
            pipe.read_exact(&mut [0])?;
            return Ok(*signal);
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
        for ends in [&[SIGTERM][..], &[SIGINT, SIGINT], &[SIGINT, SIGTERM]] {
            assert_eq!(after_all(ends), Some(Wish::End));
            for more in [SIGINT, SIGTERM] {
                assert_eq!(after_all(&[ends, &[more]].concat()), None);
            }
        }
        for wish in [Wish::Play, Wish::Finish, Wish::End] {
            assert_eq!(wish_of(wish as u8), wish);
        }
    }
}
