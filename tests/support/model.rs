//! What the loom models share: words, a ring's and a handover's memory, a futex, each of which can
//! be weakened where a test shows that its model would notice.
#![allow(dead_code, clippy::unwrap_used)]

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, AtomicU64, fence};
use loom::sync::{Condvar, Mutex};
use ringmaster::shm::{Doorbell, Futex, HANDOVER_WORDS, Parking, Word, Words, ring_words};

/// Slots of the handover's models.
pub type Slot = [u64; 1];

pub const CAPACITY: usize = 2;
/// Words of a line: what is used of each is its beginning.
const LINE: usize = 16;

/// Sleeps at once, and for ever: there is no timeout in a model, so that a lost wake-up is a
/// deadlock, which loom reports.
pub const SLEEP: Parking = Parking::Park { spin: 0 };
pub const FOREVER: Duration = Duration::from_secs(1 << 30);

/// A modelled word, or padding, which nobody reads.
pub enum ModelWord {
    Sound(AtomicU64),
    Relaxed(AtomicU64),
    Padding,
}

impl Word for ModelWord {
    fn load(&self, order: Ordering) -> u64 {
        match self {
            ModelWord::Sound(word) => word.load(order),
            ModelWord::Relaxed(word) => word.load(Ordering::Relaxed),
            ModelWord::Padding => unreachable!("padding is not read"),
        }
    }
    fn store(&self, value: u64, order: Ordering) {
        match self {
            ModelWord::Sound(word) => word.store(value, order),
            ModelWord::Relaxed(word) => word.store(value, Ordering::Relaxed),
            ModelWord::Padding => {}
        }
    }
}

/// Words of the handover.
#[derive(Clone)]
pub struct Agreement(Arc<[ModelWord]>);

impl Agreement {
    /// With an epoch or acknowledgements that publish nothing, if so told.
    pub fn new(weak_epoch: bool, weak_acknowledgement: bool) -> Self {
        let word = |index: usize| match index {
            0 if weak_epoch => ModelWord::Relaxed(AtomicU64::new(0)),
            16 | 32 if weak_acknowledgement => ModelWord::Relaxed(AtomicU64::new(0)),
            0 | 16 | 32 | 48 => ModelWord::Sound(AtomicU64::new(0)),
            _ => ModelWord::Padding,
        };
        Agreement((0..HANDOVER_WORDS).map(word).collect())
    }
}

impl Words for Agreement {
    type Word = ModelWord;
    fn len(&self) -> usize {
        self.0.len()
    }
    fn words(&self, first: usize, count: usize) -> &[ModelWord] {
        &self.0[first..first + count]
    }
}

/// Words of the ring. Whoever uses it is seen by loom as reading one cell, and the owner, when it
/// clears, as writing it: so any use that is not ordered against the clearing is reported.
#[derive(Clone)]
pub struct RingMemory {
    words: Arc<[ModelWord]>,
    used: Rc<UnsafeCell<()>>,
    is_owner: bool,
}

impl RingMemory {
    pub fn new() -> Self {
        // Indices, sequence numbers and payloads; the rest is padding.
        let word = |index: usize| match (index / LINE, index % LINE) {
            (0 | 1, 0) | (2.., 0 | 1) => ModelWord::Sound(AtomicU64::new(0)),
            _ => ModelWord::Padding,
        };
        RingMemory {
            words: (0..ring_words::<Slot>(CAPACITY)).map(word).collect(),
            used: Rc::new(UnsafeCell::new(())),
            is_owner: false,
        }
    }

    pub fn of_owner(&self) -> Self {
        RingMemory {
            is_owner: true,
            ..self.clone()
        }
    }
}

impl Words for RingMemory {
    type Word = ModelWord;
    fn len(&self) -> usize {
        self.words.len()
    }
    fn words(&self, first: usize, count: usize) -> &[ModelWord] {
        if self.is_owner {
            self.used.with_mut(|_| ());
        } else {
            self.used.with(|_| ());
        }
        &self.words[first..first + count]
    }
}

/// The kernel's futex: the comparison and the falling asleep are one step against the waking.
/// Unless `FENCED`, the fences of sync point W are left out.
pub struct ModelFutex<const FENCED: bool> {
    word: AtomicU32,
    queue: Mutex<()>,
    woken: Condvar,
}

/// A shared handle, as a mapped futex is one.
#[derive(Clone)]
pub struct Handle<const FENCED: bool>(Arc<ModelFutex<FENCED>>);

impl<const FENCED: bool> Futex for Handle<FENCED> {
    fn load(&self) -> u32 {
        self.0.word.load(Ordering::Relaxed)
    }
    fn swap(&self, value: u32) -> u32 {
        self.0.word.swap(value, Ordering::Relaxed)
    }
    fn fence(&self) {
        if FENCED {
            fence(Ordering::SeqCst);
        }
    }
    fn wait(&self, expected: u32, _timeout: Duration) {
        let queue = self.0.queue.lock().unwrap();
        if self.0.word.load(Ordering::Relaxed) == expected {
            // No timeout in the model: a lost wake-up is a deadlock, which loom reports.
            drop(self.0.woken.wait(queue).unwrap());
        }
    }
    fn wake(&self) {
        let _queue = self.0.queue.lock().unwrap();
        self.0.woken.notify_one();
    }
}

impl<const FENCED: bool> Handle<FENCED> {
    pub fn new() -> Self {
        Handle(Arc::new(ModelFutex {
            word: AtomicU32::new(0),
            queue: Mutex::new(()),
            woken: Condvar::new(),
        }))
    }
}

pub fn doorbell<const FENCED: bool>() -> Doorbell<Handle<FENCED>> {
    Doorbell::new(Handle::new())
}
