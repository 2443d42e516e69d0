//! A doorbell on which one process sleeps until another has put something into a ring, without lost
//! wake-ups and without a system call while nobody sleeps.
//!
//! ```text
//! waiter:  state = ASLEEP;  fence;  ready?  -> no: futex wait while state == ASLEEP
//! ringer:  publish;         fence;  state == ASLEEP?  -> yes: state = AWAKE, futex wake
//! ```
//! Sync point **W**: the two fences are sequentially consistent, so of the waiter's check and the
//! ringer's check at least one sees what the other side wrote before its fence: either the waiter
//! finds the work, or the ringer finds the sleeper. The kernel compares the state again under its
//! own lock, which closes the gap between the waiter's check and its sleep.
//!
//! Every write of the state is a read-modify-write, so that all of them form one chain and a late
//! ringer's write cannot come to lie between two of the waiter's unnoticed.
//!
//! A ringer killed between its last two steps has set AWAKE but not woken the waiter. That is why
//! every wait has a timeout, and why the process that notices a death calls [`Doorbell::wake`].

#![allow(unsafe_code)]

use std::ops::Deref;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::{Duration, Instant};

use super::mapping::MappedFutex;

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;
/// Polls between looks at the clock: reading it costs about as much as a poll that misses the
/// cache.
const POLLS_PER_CLOCK: u32 = 64;

/// How a waiter waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parking {
    /// Polls `spin` times, then sleeps in the kernel until rung: for machines with fewer cores than
    /// processes.
    Park {
        /// Polls before sleeping.
        spin: u32,
    },
    /// Polls all the time and never sleeps: the quickest, at the cost of a core.
    Poll,
}

impl Parking {
    /// A few polls before the sleep: what engine and studies park with.
    pub const PARK: Parking = Parking::Park { spin: 32 };
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitResult {
    /// Ready without having slept.
    Polling,
    /// Ready after having slept.
    Parked,
    /// Not ready when the time was up.
    TimedOut,
}

impl WaitResult {
    /// True unless the time was up.
    pub fn is_ready(self) -> bool {
        self != WaitResult::TimedOut
    }
}

/// A word on which a thread can sleep: the kernel's futex, or a model of it under test.
pub trait Futex {
    /// Reads the word, relaxed.
    fn load(&self) -> u32;
    /// Writes the word and returns what it was, relaxed.
    fn swap(&self, value: u32) -> u32;
    /// A sequentially consistent fence.
    fn fence(&self);
    /// Sleeps while the word equals `expected`, at most `timeout`; may return early for no reason.
    fn wait(&self, expected: u32, timeout: Duration);
    /// Wakes the sleeper, if there is one.
    fn wake(&self);
}

/// The kernel's futex, shared between processes: not the private kind, whose wake-ups would stay
/// within one process.
impl<P: Deref<Target = AtomicU32>> Futex for P {
    #[inline(always)]
    fn load(&self) -> u32 {
        AtomicU32::load(self, Ordering::Relaxed)
    }
    #[inline(always)]
    fn swap(&self, value: u32) -> u32 {
        AtomicU32::swap(self, value, Ordering::Relaxed)
    }
    #[inline(always)]
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn wait(&self, expected: u32, timeout: Duration) {
        let limit = libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let word: &AtomicU32 = self;
        // SAFETY: FUTEX_WAIT reads the aligned word, which the reference keeps alive, and the
        // timespec, which lives to the end of the call; the two last arguments are unused.
        // Every result (woken, changed, interrupted, timed out) is handled alike: the
        // caller looks again.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT,
                expected,
                &raw const limit,
                ptr::null::<u32>(),
                0,
            );
        }
    }

    #[cold]
    fn wake(&self) {
        let word: &AtomicU32 = self;
        // SAFETY: FUTEX_WAKE only uses the address of the aligned word, which the reference keeps
        // alive, to find its sleepers.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAKE,
                1,
                ptr::null::<u32>(),
                ptr::null::<u32>(),
                0,
            );
        }
    }
}

/// A doorbell for one waiter and any number of ringers.
#[derive(Clone)]
pub struct Doorbell<F = MappedFutex> {
    futex: F,
}

impl<F: Futex> Doorbell<F> {
    /// A doorbell on a word that is zero at first.
    pub fn new(futex: F) -> Self {
        Doorbell { futex }
    }

    /// Waits until `ready` returns true, at most `timeout`. `ready` is asked at least once, often,
    /// and must not block.
    pub fn wait(
        &self,
        policy: Parking,
        timeout: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> WaitResult {
        // The clock is not read when there is work already: the usual case under load.
        if ready() {
            return WaitResult::Polling;
        }
        let start = Instant::now();
        let left = || timeout.saturating_sub(start.elapsed());
        let mut polls: u32 = 0;
        loop {
            if let Parking::Park { spin } = policy
                && polls >= spin
            {
                return self.park(left, ready);
            }
            std::hint::spin_loop();
            if ready() {
                return WaitResult::Polling;
            }
            polls = polls.wrapping_add(1);
            if polls.is_multiple_of(POLLS_PER_CLOCK) && left().is_zero() {
                return WaitResult::TimedOut;
            }
        }
    }

    /// Sleeps until `ready` or until no time is left.
    fn park(&self, left: impl Fn() -> Duration, mut ready: impl FnMut() -> bool) -> WaitResult {
        let mut slept = false;
        loop {
            self.futex.swap(ASLEEP);
            self.futex.fence(); // sync point W, waiter's side
            if ready() {
                self.futex.swap(AWAKE);
                return if slept {
                    WaitResult::Parked
                } else {
                    WaitResult::Polling
                };
            }
            let left = left();
            if left.is_zero() {
                self.futex.swap(AWAKE);
                return WaitResult::TimedOut;
            }
            self.futex.wait(ASLEEP, left);
            slept = true;
        }
    }

    /// Wakes the waiter if it sleeps. Call it after publishing what it waits for. No system call
    /// unless it sleeps.
    #[inline(always)]
    pub fn ring(&self) {
        self.futex.fence(); // sync point W, ringer's side
        if self.futex.load() == ASLEEP && self.futex.swap(AWAKE) == ASLEEP {
            self.futex.wake();
        }
    }

    /// Wakes the waiter whatever the state says: after the death of a process that may have been
    /// about to, or to make the waiter look at something other than its ring.
    pub fn wake(&self) {
        self.futex.fence();
        self.futex.swap(AWAKE);
        self.futex.wake();
    }
}
