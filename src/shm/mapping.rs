//! The segment's bytes as mapped into this process: pieces of them handed out as atomic words or as
//! a futex, each keeping the mapping alive, so that nothing handed out can dangle whatever is
//! dropped first.

#![allow(unsafe_code)]

use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use shared_memory::Shmem;

use super::error::ShmError;
use super::memory::{REGION_ALIGN, Region, Words, prefetch_read};

/// One mapping of a segment; unmapped when the last piece is dropped.
pub(super) struct Mapping {
    shmem: Shmem,
}

// SAFETY: `Shmem` is not Send only because it holds the mapping's address as a raw pointer. The
// mapping belongs to the process, not to a thread, and is only ever accessed through atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above; every method takes `&self` and reads fields that never change after
// construction.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Takes over a mapping. Not the name in the file system: whoever made that unlinks it.
    pub(super) fn new(mut shmem: Shmem) -> Arc<Self> {
        shmem.set_owner(false);
        Arc::new(Mapping { shmem })
    }

    /// Size in bytes.
    pub(super) fn len(&self) -> usize {
        self.shmem.len()
    }

    /// Address of the first byte.
    pub(super) fn address(&self) -> NonNull<u8> {
        // SAFETY: a mapping that succeeded is not at address 0.
        unsafe { NonNull::new_unchecked(self.shmem.as_ptr()) }
    }

    /// The words of a region, which must lie within the mapping.
    pub(super) fn words(self: &Arc<Self>, region: Region) -> Result<MappedWords, ShmError> {
        let Region { offset, bytes } = region;
        let (end, size) = (offset.checked_add(bytes), self.len());
        if end.is_none_or(|end| end > size)
            || !offset.is_multiple_of(REGION_ALIGN)
            || !bytes.is_multiple_of(REGION_ALIGN)
        {
            return Err(ShmError::new(
                format!(
                    "a region of {bytes} bytes at offset {offset} is not within the segment of \
                     {size} bytes: it belongs to another layout"
                ),
                "",
            ));
        }
        // SAFETY: `offset` is within the mapping (checked above), so the sum stays in the same
        // allocation and is not null.
        let first = unsafe { NonNull::new_unchecked(self.shmem.as_ptr().add(offset)) };
        Ok(MappedWords {
            first: first.cast(),
            len: bytes / size_of::<AtomicU64>(),
            _mapping: Arc::clone(self),
        })
    }

    /// Makes every page present and writable now, so that the first pass over a ring takes no page
    /// faults. Best effort: kernels before 5.14 refuse, and then the pages come in one by one.
    pub(super) fn populate(&self) {
        // SAFETY: the range is exactly this process's mapping. MADV_POPULATE_WRITE changes no
        // contents, and the creator has reserved the memory, so it cannot raise SIGBUS
        // either (it would return an error instead).
        unsafe {
            libc::madvise(
                self.shmem.as_ptr().cast(),
                self.shmem.len(),
                libc::MADV_POPULATE_WRITE,
            );
        }
    }
}

/// Words of a segment, shared with other processes.
#[derive(Clone)]
pub struct MappedWords {
    first: NonNull<AtomicU64>,
    len: usize,
    _mapping: Arc<Mapping>,
}

// SAFETY: the pointer addresses memory that the Arc keeps mapped wherever the value moves, and it
// is only read as atomics.
unsafe impl Send for MappedWords {}
// SAFETY: all access is through `&AtomicU64`, which is Sync.
unsafe impl Sync for MappedWords {}

impl MappedWords {
    /// Address of the first word, for a library that keeps its own state in the region.
    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.first.as_ptr().cast()
    }

    /// The first half of the first word as a futex.
    pub(super) fn into_futex(self) -> MappedFutex {
        MappedFutex { words: self }
    }
}

impl Words for MappedWords {
    type Word = AtomicU64;

    #[inline(always)]
    fn len(&self) -> usize {
        self.len
    }

    #[inline(always)]
    fn words(&self, first: usize, count: usize) -> &[AtomicU64] {
        assert!(
            first <= self.len && count <= self.len - first,
            "words outside the region"
        );
        // SAFETY: `Mapping::words` checked that `len` words from `self.first` lie within the
        // mapping, 128-byte aligned (the mapping itself is page aligned); the range was
        // just checked against `len`; the Arc in `self` keeps it mapped for the
        // borrow. Other processes write these words only as atomics, and AtomicU64 allows any bit
        // pattern and such writes.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr().add(first), count) }
    }

    #[inline(always)]
    fn expect_read(&self, first: usize) {
        prefetch_read(self.first.as_ptr(), first);
    }
}

/// A 32-bit word of a segment on which one process sleeps and others wake it.
#[derive(Clone)]
pub struct MappedFutex {
    words: MappedWords,
}

impl Deref for MappedFutex {
    type Target = AtomicU32;

    #[inline(always)]
    fn deref(&self) -> &AtomicU32 {
        // SAFETY: the region is at least 128 bytes long and 128-byte aligned (layout and
        // `Mapping::words`), kept mapped by the Arc in `self.words`, and a doorbell's
        // region is accessed only as this 32-bit atomic.
        unsafe { &*self.words.first.as_ptr().cast::<AtomicU32>() }
    }
}
