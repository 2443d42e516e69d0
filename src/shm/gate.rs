//! Counters that any process may read, and gates that stay closed until one process opens them (a
//! common start, or the call to stop). A gate is raw_sync's busy event, one atomic byte: its other
//! event guards a condition variable with a mutex that a killed process could hold for ever. No
//! call here waits: processes poll `is_open`, and check in between that their peers live.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering, fence};

use raw_sync::events::{BusyEvent, EventImpl, EventInit, EventState};

use super::error::ShmError;
use super::mapping::MappedWords;
use super::memory::Words;

/// Bytes of the event: its signal and whether it resets itself.
const EVENT_BYTES: usize = 2;

/// An event shared by processes: closed at first, then opened for good.
pub struct Gate {
    event: Box<dyn EventImpl>,
    memory: MappedWords,
}

// SAFETY: the event is one raw pointer into the region that `memory` keeps mapped. `BusyEvent`
// accesses it through an atomic byte and an immutable one, so it may be used from any thread.
unsafe impl Send for Gate {}
// SAFETY: as above; all methods take `&self`.
unsafe impl Sync for Gate {}

impl Gate {
    /// Makes a closed gate of a fresh region.
    pub(super) fn create(memory: MappedWords) -> Result<Self, ShmError> {
        // SAFETY: the region is 128 bytes, mapped as long as `memory` lives, and nobody else knows
        // of it yet.
        Gate::wrap(unsafe { BusyEvent::new(memory.as_ptr(), false) }, memory)
    }

    /// Takes up a gate that the creator of the segment has made.
    pub(super) fn attach(memory: MappedWords) -> Result<Self, ShmError> {
        // SAFETY: the region is 128 bytes, mapped as long as `memory` lives, and holds an event
        // since before the segment was announced; a value that is none is refused.
        Gate::wrap(unsafe { BusyEvent::from_existing(memory.as_ptr()) }, memory)
    }

    fn wrap(
        event: Result<(Box<dyn EventImpl>, usize), Box<dyn std::error::Error>>,
        memory: MappedWords,
    ) -> Result<Self, ShmError> {
        match event {
            Ok((event, EVENT_BYTES)) => Ok(Gate { event, memory }),
            Ok((_, bytes)) => Err(ShmError::system(
                "use a gate",
                format_args!("the event takes {bytes} bytes, expected {EVENT_BYTES}"),
            )),
            Err(error) => Err(ShmError::system("use a gate", error)),
        }
    }

    /// Opens the gate. What this thread wrote before is visible to whoever finds it open.
    pub fn open(&self) -> Result<(), ShmError> {
        // The event's own accesses are relaxed; the fences here and in `is_open` make the gate a
        // point of synchronisation.
        fence(Ordering::Release);
        let opened = self.event.set(EventState::Signaled);
        opened.map_err(|error| ShmError::system("open a gate", error))
    }

    /// True if the gate is open. Two loads, fit for a busy loop.
    #[inline]
    pub fn is_open(&self) -> bool {
        // The event's own look allocates an error when it is closed, so its bytes are read here: an
        // event that does not reset itself is all zero until it is signalled, whichever
        // byte is which.
        let open = (0..EVENT_BYTES).any(|byte| {
            // SAFETY: the region is 128 bytes, mapped while `self.memory` lives; one byte is the
            // event's AtomicU8, the other is written only while the event is made.
            unsafe { AtomicU8::from_ptr(self.memory.as_ptr().add(byte)) }.load(Ordering::Relaxed)
                != 0
        });
        fence(Ordering::Acquire);
        open
    }
}

/// A row of counters of 64 bits that wrap around. All accesses are relaxed: they count, they do not
/// order anything.
pub struct Counters {
    memory: MappedWords,
    count: usize,
}

impl Counters {
    pub(super) fn new(memory: MappedWords, count: usize) -> Self {
        Counters { memory, count }
    }

    /// Reads a counter. Panics if there is no such.
    #[inline]
    pub fn load(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Relaxed)
    }

    /// Sets a counter. Panics if there is no such.
    #[inline]
    pub fn store(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::Relaxed);
    }

    /// Adds to a counter and returns what it was. Panics if there is no such.
    #[inline]
    pub fn add(&self, index: usize, amount: u64) -> u64 {
        self.word(index).fetch_add(amount, Ordering::Relaxed)
    }

    #[inline]
    fn word(&self, index: usize) -> &AtomicU64 {
        &self.memory.words(0, self.count)[index]
    }
}
