//! What a ring asks of the memory it lives in: 64-bit words that two parties access atomically, and
//! hints about which of them will be touched next. Payloads are moved word by word with relaxed
//! accesses, which compile to plain moves; so a peer that writes garbage can produce wrong values,
//! never undefined behaviour, and no plain reference into its memory ever exists.

#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Words in the unit of alignment, 128 bytes: a pair of cache lines, which adjacent-line
/// prefetchers fetch together.
pub(crate) const LINE_PAIR_WORDS: usize = 16;
/// Words in one cache line of 64 bytes.
pub(crate) const CACHE_LINE_WORDS: usize = 8;
/// Alignment and padding of every region, bytes.
pub(super) const REGION_ALIGN: usize = LINE_PAIR_WORDS * size_of::<u64>();

/// Bytes of a segment that are set aside for one thing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// Where they begin, bytes from the segment's first.
    pub offset: usize,
    /// How many there are.
    pub bytes: usize,
}

impl Region {
    /// From the first to behind the last, bytes from the segment's first.
    pub fn range(self) -> Range<usize> {
        self.offset..self.offset + self.bytes
    }
}

/// An atomic 64-bit word.
pub trait Word {
    /// Reads the word.
    fn load(&self, order: Ordering) -> u64;
    /// Writes the word.
    fn store(&self, value: u64, order: Ordering);
}

impl Word for AtomicU64 {
    #[inline(always)]
    fn load(&self, order: Ordering) -> u64 {
        AtomicU64::load(self, order)
    }
    #[inline(always)]
    fn store(&self, value: u64, order: Ordering) {
        AtomicU64::store(self, value, order);
    }
}

/// Memory seen as a row of words, zero at first, shared with one other party.
pub trait Words {
    /// The kind of word.
    type Word: Word;
    /// How many words there are.
    fn len(&self) -> usize;
    /// True if there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The words `first..first + count`. Panics outside `0..len()`.
    fn words(&self, first: usize, count: usize) -> &[Self::Word];
    /// Hints that the cache line of word `first` is about to be read; out of range is harmless.
    #[inline(always)]
    fn expect_read(&self, _first: usize) {}
}

/// Asks the cache for the line of `base + 8 * word`, to read it.
#[inline(always)]
pub(crate) fn prefetch_read(base: *const AtomicU64, word: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint that neither faults nor accesses memory in the sense of the
    // language, whatever the address.
    unsafe {
        std::arch::asm!(
            "prefetcht0 [{}]",
            in(reg) base.wrapping_add(word),
            options(nostack, preserves_flags, readonly)
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (base, word);
}

/// 128 bytes of words, aligned as in a segment.
#[repr(C, align(128))]
struct AlignedWords([AtomicU64; LINE_PAIR_WORDS]);

/// Words on the heap, shared by threads of one process: for tests, checkers and rings within a
/// process.
#[derive(Clone)]
pub struct HeapWords {
    pairs: Arc<[AlignedWords]>,
}

impl HeapWords {
    /// At least `count` words, all zero, aligned to 128 bytes.
    pub fn zeroed(count: usize) -> Self {
        let pairs = (0..count.div_ceil(LINE_PAIR_WORDS))
            .map(|_| AlignedWords(std::array::from_fn(|_| AtomicU64::new(0))))
            .collect();
        HeapWords { pairs }
    }
}

impl Words for HeapWords {
    type Word = AtomicU64;

    #[inline(always)]
    fn len(&self) -> usize {
        self.pairs.len() * LINE_PAIR_WORDS
    }

    #[inline(always)]
    fn words(&self, first: usize, count: usize) -> &[AtomicU64] {
        assert!(
            first <= self.len() && count <= self.len() - first,
            "words outside the memory"
        );
        // SAFETY: `pairs` is one allocation of `len()` consecutive AtomicU64 (AlignedWords is
        // repr(C), 128 bytes, without padding), the range was just checked, and the result borrows
        // `self`, which keeps the allocation alive.
        unsafe {
            std::slice::from_raw_parts(self.pairs.as_ptr().cast::<AtomicU64>().add(first), count)
        }
    }

    #[inline(always)]
    fn expect_read(&self, first: usize) {
        prefetch_read(self.pairs.as_ptr().cast(), first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heap_words_are_zero_aligned_and_bounded() {
        let memory = HeapWords::zeroed(17);
        assert_eq!(memory.len(), 32);
        assert!(!memory.is_empty());
        assert_eq!(memory.words(0, 32).as_ptr() as usize % 128, 0);
        assert!(
            memory
                .words(0, 32)
                .iter()
                .all(|word| word.load(Ordering::Relaxed) == 0)
        );
        assert!(memory.words(32, 0).is_empty());
        memory.words(31, 1)[0].store(7, Ordering::Relaxed);
        assert_eq!(memory.clone().words(31, 1)[0].load(Ordering::Relaxed), 7);
        memory.expect_read(1 << 40);
    }

    #[test]
    #[should_panic(expected = "words outside the memory")]
    fn words_outside_are_refused() {
        HeapWords::zeroed(16).words(15, 2);
    }
}
