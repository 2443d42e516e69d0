//! The layout of a segment, worked out alike by every process from the same settings: regions are
//! added in order and yield small typed handles, and a hash over all of it tells two processes
//! whether they agree.

use std::marker::PhantomData;
use std::ops::Range;

use bytemuck::Pod;

use super::handover::HANDOVER_WORDS;
use super::journal::journal_entry_words;
use super::memory::LINE_WORDS;
use super::ring::ring_words;
use super::segment::HEADER_BYTES;

/// Version of the header and of the protocols in the regions; processes of different versions
/// refuse each other.
pub const PROTOCOL_VERSION: u64 = 2;

/// Alignment and padding of every region, bytes.
pub(crate) const REGION_ALIGN: usize = LINE_WORDS * size_of::<u64>();
const PAGE_BYTES: usize = 4096;

/// Place of a ring of `T` in a segment.
pub struct RingRegion<T> {
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
    capacity: usize,
    _payload: PhantomData<fn() -> T>,
}

impl<T> Clone for RingRegion<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for RingRegion<T> {}

impl<T> RingRegion<T> {
    /// Where it begins, in bytes from the segment's first.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Slots in the ring, a power of two.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Its bytes within the segment.
    pub fn place(&self) -> Range<usize> {
        self.offset..self.offset + self.bytes
    }
}

/// Place of a doorbell in a segment.
#[derive(Clone, Copy)]
pub struct DoorbellRegion {
    pub(crate) offset: usize,
}

impl DoorbellRegion {
    /// Its bytes within the segment.
    pub fn place(&self) -> Range<usize> {
        self.offset..self.offset + REGION_ALIGN
    }
}

/// Place of a row of counters in a segment.
#[derive(Clone, Copy)]
pub struct CountersRegion {
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
    pub(crate) count: usize,
}

impl CountersRegion {
    /// Its bytes within the segment.
    pub fn place(&self) -> Range<usize> {
        self.offset..self.offset + self.bytes
    }
}

/// Place of a handover in a segment.
#[derive(Clone, Copy)]
pub struct HandoverRegion {
    pub(crate) offset: usize,
}

impl HandoverRegion {
    /// Its bytes within the segment.
    pub fn place(&self) -> Range<usize> {
        self.offset..self.offset + HANDOVER_WORDS * size_of::<u64>()
    }
}

/// Place of a journal in a segment.
#[derive(Clone, Copy)]
pub struct JournalRegion {
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
    pub(crate) entries: usize,
    pub(crate) room: usize,
    pub(crate) sides: usize,
}

impl JournalRegion {
    /// The bytes of one entry within the segment.
    pub fn place_of(&self, entry: usize) -> Range<usize> {
        let bytes = journal_entry_words(self.room, self.sides) * size_of::<u64>();
        let start = self.offset + entry * bytes;
        start..start + bytes
    }
}

/// Place of a gate in a segment.
#[derive(Clone, Copy)]
pub struct GateRegion {
    pub(crate) offset: usize,
}

/// What kind of region, as it enters the layout hash.
#[derive(Clone, Copy)]
enum Kind {
    Ring = 1,
    Doorbell = 2,
    Counters = 3,
    Gate = 4,
    Handover = 5,
    Journal = 6,
}

/// The layout of one segment.
///
/// Sizes saturate instead of overflowing: a plan too large to address is refused as too large when
/// the segment is created.
#[derive(Clone)]
pub struct Plan {
    bytes: usize,
    hash: u64,
    gates: Vec<GateRegion>,
}

impl Default for Plan {
    fn default() -> Self {
        Plan::new()
    }
}

impl Plan {
    /// A segment with nothing but its header.
    pub fn new() -> Self {
        let mut plan = Plan {
            bytes: HEADER_BYTES,
            hash: 0xcbf2_9ce4_8422_2325,
            gates: Vec::new(),
        };
        plan.mix(&[PROTOCOL_VERSION, HEADER_BYTES as u64, REGION_ALIGN as u64]);
        plan
    }

    /// Adds a ring of at least `capacity` slots, rounded up to a power of two and to at least 2.
    ///
    /// The size of `T` must be a multiple of 8 bytes, checked when compiling. A slot takes 8 bytes
    /// more, rounded up to a multiple of 128: payloads of up to 120 bytes take 128.
    pub fn ring<T: Pod>(&mut self, capacity: usize) -> RingRegion<T> {
        let capacity = capacity
            .max(2)
            .checked_next_power_of_two()
            .unwrap_or(1 << (usize::BITS - 1));
        let bytes = ring_words::<T>(capacity).saturating_mul(size_of::<u64>());
        let offset = self.add(
            Kind::Ring,
            bytes,
            &[
                size_of::<T>() as u64,
                align_of::<T>() as u64,
                capacity as u64,
            ],
        );
        RingRegion {
            offset,
            bytes,
            capacity,
            _payload: PhantomData,
        }
    }

    /// Adds a doorbell: one waiter, any number of ringers.
    pub fn doorbell(&mut self) -> DoorbellRegion {
        DoorbellRegion {
            offset: self.add(Kind::Doorbell, REGION_ALIGN, &[]),
        }
    }

    /// Adds `count` counters of 64 bits, all zero at first. They share cache lines with each other
    /// and with nothing else.
    pub fn counters(&mut self, count: usize) -> CountersRegion {
        let bytes = count
            .max(1)
            .saturating_mul(size_of::<u64>())
            .checked_next_multiple_of(REGION_ALIGN)
            .unwrap_or(usize::MAX);
        CountersRegion {
            offset: self.add(Kind::Counters, bytes, &[count as u64]),
            bytes,
            count,
        }
    }

    /// Adds a handover, open at first.
    pub fn handover(&mut self) -> HandoverRegion {
        HandoverRegion {
            offset: self.add(Kind::Handover, HANDOVER_WORDS * size_of::<u64>(), &[]),
        }
    }

    /// Adds a journal of `entries` entries, nothing kept at first, with room for `room` words on
    /// each of `sides` sides (1 or 2).
    pub fn journal(&mut self, entries: usize, room: usize, sides: usize) -> JournalRegion {
        let bytes = journal_entry_words(room, sides)
            .saturating_mul(size_of::<u64>())
            .saturating_mul(entries);
        let details = [entries, room, sides].map(|detail| detail as u64);
        JournalRegion {
            offset: self.add(Kind::Journal, bytes, &details),
            bytes,
            entries,
            room,
            sides,
        }
    }

    /// Adds a gate, closed at first.
    pub fn gate(&mut self) -> GateRegion {
        let gate = GateRegion {
            offset: self.add(Kind::Gate, REGION_ALIGN, &[]),
        };
        self.gates.push(gate);
        gate
    }

    /// Size of the segment in bytes, header included, whole pages.
    pub fn bytes(&self) -> usize {
        self.bytes
            .checked_next_multiple_of(PAGE_BYTES)
            .unwrap_or(usize::MAX)
    }

    /// Hash over the protocol version and the kind, size, alignment and capacity of every region,
    /// in order.
    pub fn layout_hash(&self) -> u64 {
        self.hash
    }

    /// The gates, which the creator initialises.
    pub(crate) fn gates(&self) -> &[GateRegion] {
        &self.gates
    }

    fn add(&mut self, kind: Kind, bytes: usize, details: &[u64]) -> usize {
        let offset = self.bytes;
        self.bytes = offset.saturating_add(bytes);
        self.mix(&[kind as u64, offset as u64, bytes as u64]);
        self.mix(details);
        offset
    }

    /// FNV-1a over the bytes of the words: no secret is guarded here, only mistakes are found.
    fn mix(&mut self, words: &[u64]) {
        for byte in words.iter().flat_map(|word| word.to_le_bytes()) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn build(regions: &[(u8, usize)]) -> (Plan, Vec<(usize, usize)>) {
        let mut plan = Plan::new();
        let places = regions
            .iter()
            .map(|&(kind, n)| match kind {
                0 => {
                    let ring = plan.ring::<[u64; 14]>(n);
                    assert!(ring.capacity().is_power_of_two() && ring.capacity() >= n);
                    (ring.offset, ring.bytes)
                }
                1 => (plan.doorbell().offset, REGION_ALIGN),
                2 => {
                    let counters = plan.counters(n);
                    (counters.offset, counters.bytes)
                }
                3 => {
                    let journal = plan.journal(n, n + 5, 1 + n % 2);
                    (journal.offset, journal.bytes)
                }
                _ => (plan.gate().offset, REGION_ALIGN),
            })
            .collect();
        (plan, places)
    }

    proptest! {
        #[test]
        fn regions_are_aligned_and_apart(regions in prop::collection::vec((0u8..5, 0usize..300), 0..12)) {
            let (plan, places) = build(&regions);
            let mut end = HEADER_BYTES;
            for (offset, bytes) in places {
                prop_assert!(offset >= end && offset % REGION_ALIGN == 0 && bytes % REGION_ALIGN == 0);
                end = offset + bytes;
            }
            prop_assert!(plan.bytes() >= end && plan.bytes().is_multiple_of(PAGE_BYTES));
            prop_assert_eq!(plan.layout_hash(), build(&regions).0.layout_hash());
        }

        #[test]
        fn another_layout_has_another_hash(a in prop::collection::vec((0u8..5, 0usize..300), 0..8),
                                           b in prop::collection::vec((0u8..5, 0usize..300), 0..8)) {
            // Rings are rounded up to a power of two, doorbells and gates take no number.
            let normal = |regions: &[(u8, usize)]| -> Vec<(u8, usize)> {
                regions.iter().map(|&(kind, n)| match kind {
                    0 => (kind, n.max(2).next_power_of_two()),
                    2 | 3 => (kind, n),
                    _ => (kind, 0),
                }).collect()
            };
            prop_assert_eq!(normal(&a) == normal(&b), build(&a).0.layout_hash() == build(&b).0.layout_hash());
        }
    }

    #[test]
    fn payload_and_capacity_enter_the_hash() {
        let hash = |f: fn(&mut Plan)| {
            let mut plan = Plan::new();
            f(&mut plan);
            plan.layout_hash()
        };
        let ring = hash(|plan| _ = plan.ring::<[u64; 14]>(64));
        assert_ne!(ring, hash(|plan| _ = plan.ring::<[u64; 13]>(64)));
        assert_ne!(ring, hash(|plan| _ = plan.ring::<[u32; 28]>(64)));
        assert_ne!(ring, hash(|plan| _ = plan.ring::<[u64; 14]>(128)));
        assert_eq!(ring, hash(|plan| _ = plan.ring::<[u64; 14]>(33)));
    }

    #[test]
    fn absurd_sizes_saturate() {
        let mut plan = Plan::new();
        plan.ring::<[u64; 14]>(usize::MAX);
        plan.counters(usize::MAX);
        plan.doorbell();
        assert_eq!(plan.bytes(), usize::MAX);
    }
}
