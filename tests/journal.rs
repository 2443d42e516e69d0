//! The journal within one process: what is kept, and what is not believed.

use ringmaster::shm::{HeapWords, Journal, JournalPlace, Words, journal_entry_words};
use std::sync::atomic::Ordering;

const ROOM: usize = 5;

/// Three entries, and the memory they are in.
fn journal(sides: usize) -> (HeapWords, Journal<HeapWords>) {
    let memory = HeapWords::zeroed(3 * journal_entry_words(ROOM, sides));
    let journal = Journal::new(memory.clone(), 3, ROOM, sides);
    (memory, journal)
}

fn kept(journal: &Journal<HeapWords>, entry: usize) -> Vec<u64> {
    let mut words = vec![9];
    journal.read(entry, &mut words);
    words
}

#[test]
fn keeps_what_was_added_and_begins_anew() {
    for sides in [1, 2] {
        let (_, journal) = journal(sides);
        let mut place = JournalPlace::default();
        assert!(kept(&journal, 1).is_empty());
        assert!(journal.begin(1, &mut place, &[7, 8]));
        assert!(journal.add(1, &mut place, &[u64::MAX]));
        assert_eq!(kept(&journal, 1), [7, 8, u64::MAX]);
        // A successor goes on where its predecessor was.
        let mut words = Vec::new();
        let mut place = journal.read(1, &mut words);
        assert!(journal.add(1, &mut place, &[1, 2]));
        assert!(!journal.add(1, &mut place, &[3]), "it is full");
        assert_eq!(kept(&journal, 1), [7, 8, u64::MAX, 1, 2]);
        assert!(journal.begin(1, &mut place, &[4]));
        assert_eq!(kept(&journal, 1), [4]);
        assert!(kept(&journal, 0).is_empty() && kept(&journal, 2).is_empty());
        journal.clear(1);
        assert!(kept(&journal, 1).is_empty());
    }
}

#[test]
fn believes_no_garbage() {
    let (memory, journal) = journal(2);
    let mut place = JournalPlace::default();
    journal.begin(0, &mut place, &[1, 2, 3]);
    // The head, and the words on the second side, where an entry begins first.
    let written = (1 + ROOM..).take(3);
    for word in std::iter::once(0).chain(written) {
        let word = &memory.words(word, 1)[0];
        let whole = word.load(Ordering::Relaxed);
        assert_ne!(whole, 0);
        for bit in 0..64 {
            word.store(whole ^ 1 << bit, Ordering::Relaxed);
            assert!(kept(&journal, 0).is_empty(), "{whole:#x}, bit {bit}");
        }
        word.store(whole, Ordering::Relaxed);
        assert_eq!(kept(&journal, 0), [1, 2, 3]);
    }
}

#[test]
#[should_panic(expected = "no such entry")]
fn entries_outside_are_refused() {
    journal(1).1.clear(3);
}
