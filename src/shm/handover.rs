//! How rings are closed to two processes and given back empty: when the process at one end has
//! died, what it left in them must not be read, and the process at the other end must not be at
//! work in them while they are cleared.
//!
//! ```text
//! owner:  epoch = odd ... both acknowledged, or dead and reaped? ... clear ... epoch = even
//! party:  sees odd: lets go of its end, acknowledges that epoch ... sees even: attaches anew
//! ```
//! Sync point **A** (acknowledge): a party's release store of its acknowledgement, the owner's
//! acquire load of it. All the party did in the ring comes before the clearing. Sync point **E**
//! (epoch): the owner's release store of the epoch, the party's acquire load of it. The cleared
//! ring is visible to whoever attaches. Nothing of an earlier epoch can be taken for something of
//! this one: the ring is all zero in between, and nobody who still writes to it is left.

use std::sync::atomic::Ordering;

use super::mapping::MappedWords;
use super::memory::{LINE_PAIR_WORDS, Word, Words};

const EPOCH: usize = 0;
/// Each party has cache lines of its own.
const ACKNOWLEDGED: usize = LINE_PAIR_WORDS;
const VIOLATION: usize = 3 * LINE_PAIR_WORDS;

/// Words that a handover takes.
pub const HANDOVER_WORDS: usize = 4 * LINE_PAIR_WORDS;

/// The process at one end of the rings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Party {
    /// Sends requests.
    Worker,
    /// Replies to them.
    Evaluator,
}

/// The agreement about one ring, or one group of rings, between an owner and two parties.
#[derive(Clone)]
pub struct Handover<M = MappedWords> {
    memory: M,
}

impl<M: Words> Handover<M> {
    /// On memory of [`HANDOVER_WORDS`] words that are zero at first: open, epoch 0.
    pub fn new(memory: M) -> Self {
        assert!(
            memory.len() >= HANDOVER_WORDS,
            "the memory is too small for a handover"
        );
        Handover { memory }
    }

    fn word(&self, index: usize) -> &M::Word {
        &self.memory.words(index, 1)[0]
    }

    fn acknowledgement(&self, party: Party) -> &M::Word {
        self.word(ACKNOWLEDGED + LINE_PAIR_WORDS * usize::from(party == Party::Evaluator))
    }

    /// The epoch: even while the ring may be used, odd while it is to be left alone. One load; sync
    /// point E.
    #[inline(always)]
    pub fn epoch(&self) -> u64 {
        self.word(EPOCH).load(Ordering::Acquire)
    }

    /// Party: I have let go of the ring for good, in this (odd) epoch. Sync point A.
    pub fn acknowledge(&self, party: Party, epoch: u64) {
        self.acknowledgement(party).store(epoch, Ordering::Release);
    }

    /// Party: the peer broke the protocol in this epoch; the owner is to replace it.
    pub fn report_violation(&self, epoch: u64) {
        // One more, so that a violation in epoch 0 differs from none.
        self.word(VIOLATION).store(epoch + 1, Ordering::Relaxed);
    }

    /// Owner: closes the ring, if it is open.
    pub fn close(&self) {
        let epoch = self.epoch();
        if epoch.is_multiple_of(2) {
            self.word(EPOCH).store(epoch + 1, Ordering::Release);
        }
    }

    /// Owner: has this party let go in the present (odd) epoch? Sync point A.
    pub fn is_acknowledged(&self, party: Party) -> bool {
        self.acknowledgement(party).load(Ordering::Acquire) == self.epoch()
    }

    /// Owner: opens the cleared ring, if it is closed. Sync point E.
    pub fn reopen(&self) {
        let epoch = self.epoch();
        if !epoch.is_multiple_of(2) {
            self.word(EPOCH).store(epoch + 1, Ordering::Release);
        }
    }

    /// Owner: was a violation reported in the present epoch?
    pub fn has_violation(&self) -> bool {
        self.word(VIOLATION).load(Ordering::Relaxed) == self.epoch() + 1
    }
}

/// Clears a ring: it is then as new. Only for the owner, while nobody uses it.
pub fn clear<M: Words>(memory: &M) {
    for word in memory.words(0, memory.len()) {
        word.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::HeapWords;
    use super::*;

    #[test]
    fn closes_once_and_opens_once() {
        let handover = Handover::new(HeapWords::zeroed(HANDOVER_WORDS));
        assert_eq!(handover.epoch(), 0);
        assert!(!handover.has_violation());
        handover.report_violation(0);
        assert!(handover.has_violation());
        handover.close();
        handover.close();
        assert_eq!(handover.epoch(), 1);
        assert!(!handover.has_violation(), "a violation is of its own epoch");
        assert!(!handover.is_acknowledged(Party::Worker));
        handover.acknowledge(Party::Worker, 1);
        assert!(handover.is_acknowledged(Party::Worker));
        assert!(!handover.is_acknowledged(Party::Evaluator));
        handover.acknowledge(Party::Evaluator, 1);
        assert!(handover.is_acknowledged(Party::Evaluator));
        handover.reopen();
        handover.reopen();
        assert_eq!(handover.epoch(), 2);
        handover.close();
        assert!(
            !handover.is_acknowledged(Party::Worker),
            "an old acknowledgement does not count"
        );
    }
}
