//! What a process has finished of a job, kept where its successor finds it: entries of a fixed
//! number of words that one process at a time adds to, in place, and that its successor reads after
//! its death.
//!
//! ```text
//! entry:  head | side 0 | side 1 (if there are two)
//! head:   CRC-32 of the words published | their number, 31 bits | the side they lie on, 1 bit
//!         (0: nothing)
//! ```
//! Words are written behind those that are published, or, to begin anew, on the other side; then
//! one store of the head publishes them (sync point **J**: its release store, the reader's acquire
//! load). A writer that dies before it leaves what was there. The reader takes nothing whose
//! checksum is wrong: a writer that wrote garbage, or began anew on the only side and died, has
//! kept nothing.

use std::sync::atomic::Ordering;

use super::mapping::MappedWords;
use super::memory::{LINE_PAIR_WORDS, Word, Words};

/// Words of an entry on `sides` sides with room for `room` words each.
pub const fn journal_entry_words(room: usize, sides: usize) -> usize {
    room.saturating_mul(sides)
        .saturating_add(1)
        .div_ceil(LINE_PAIR_WORDS)
        .saturating_mul(LINE_PAIR_WORDS)
}

/// Where the writer of an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct JournalPlace {
    side: usize,
    length: usize,
    checksum: u32,
}

impl JournalPlace {
    fn head(self) -> u64 {
        u64::from(self.checksum) << 32 | (self.length as u64) << 1 | self.side as u64
    }

    fn of_head(head: u64) -> JournalPlace {
        JournalPlace {
            side: (head & 1) as usize,
            length: (head as u32 >> 1) as usize,
            checksum: (head >> 32) as u32,
        }
    }
}

/// A row of entries. Who may write which is agreed elsewhere: one process at a time.
pub struct Journal<M = MappedWords> {
    memory: M,
    entries: usize,
    room: usize,
    sides: usize,
}

impl<M: Words> Journal<M> {
    /// On memory of `entries` times [`journal_entry_words`] words, zero at first: nothing is kept.
    /// One side serves entries that begin once; two serve those that begin anew without losing
    /// what was kept until then.
    pub fn new(memory: M, entries: usize, room: usize, sides: usize) -> Self {
        assert!(
            matches!(sides, 1 | 2) && memory.len() >= entries * journal_entry_words(room, sides),
            "the memory is too small for the journal"
        );
        Journal {
            memory,
            entries,
            room,
            sides,
        }
    }

    /// How many entries there are.
    pub fn entries(&self) -> usize {
        self.entries
    }

    fn words(&self, entry: usize, first: usize, count: usize) -> &[M::Word] {
        assert!(entry < self.entries, "no such entry of the journal");
        let begin = entry * journal_entry_words(self.room, self.sides);
        self.memory.words(begin + first, count)
    }

    fn head(&self, entry: usize) -> &M::Word {
        &self.words(entry, 0, 1)[0]
    }

    fn side(&self, entry: usize, side: usize) -> &[M::Word] {
        self.words(entry, 1 + side * self.room, self.room)
    }

    /// Forgets what was kept.
    pub fn clear(&self, entry: usize) {
        self.head(entry).store(0, Ordering::Release);
    }

    /// Writer: begins anew with `words`, which replace what was kept until now. False if there is
    /// no room for them.
    pub fn begin(&self, entry: usize, place: &mut JournalPlace, words: &[u64]) -> bool {
        let anew = JournalPlace {
            side: (place.side + 1) % self.sides,
            length: 0,
            checksum: 0,
        };
        self.write(entry, anew, place, words)
    }

    /// Writer: adds `words` to what is kept. False if there is no room for them.
    pub fn add(&self, entry: usize, place: &mut JournalPlace, words: &[u64]) -> bool {
        self.write(entry, *place, place, words)
    }

    fn write(
        &self,
        entry: usize,
        behind: JournalPlace,
        place: &mut JournalPlace,
        words: &[u64],
    ) -> bool {
        let length = behind.length + words.len();
        if length > self.room {
            return false;
        }
        let room = &self.side(entry, behind.side)[behind.length..];
        for (word, &value) in room.iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
        *place = JournalPlace {
            length,
            checksum: extended(behind.checksum, behind.length, words),
            ..behind
        };
        // Sync point J.
        self.head(entry).store(place.head(), Ordering::Release);
        true
    }

    /// Reads what is kept into `words`, which it clears first: nothing, if nothing is or it is not
    /// whole. The place to go on writing at.
    pub fn read(&self, entry: usize, words: &mut Vec<u64>) -> JournalPlace {
        words.clear();
        // Sync point J.
        let place = JournalPlace::of_head(self.head(entry).load(Ordering::Acquire));
        if place.side >= self.sides || place.length > self.room {
            return JournalPlace::default();
        }
        let kept = &self.side(entry, place.side)[..place.length];
        words.extend(kept.iter().map(|word| word.load(Ordering::Relaxed)));
        if extended(0, 0, words) != place.checksum {
            words.clear();
            return JournalPlace::default();
        }
        place
    }
}

/// The checksum of words whose first `length` have `checksum`, and which `words` follow.
fn extended(checksum: u32, length: usize, words: &[u64]) -> u32 {
    let bytes = (length * size_of::<u64>()) as u64;
    let mut hasher = crc32fast::Hasher::new_with_initial_len(checksum, bytes);
    hasher.update(bytemuck::cast_slice(words));
    hasher.finalize()
}
