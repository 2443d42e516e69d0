//! The layout of a segment, worked out alike by every process from the same settings: a header,
//! then regions, added in order. A hash over all of it tells two processes whether they agree.
//!
//! ```text
//! bytes     0..  eight words of 64 bits: magic, protocol version, layout hash, size,
//!                owner's process number, its start time, its pid namespace, length of the settings
//!         256..  the settings, 64 KiB
//!       65792..  the regions, each aligned to 128 bytes
//! ```

use std::marker::PhantomData;

use bytemuck::Pod;

use super::handover::HANDOVER_WORDS;
use super::journal::journal_entry_words;
use super::memory::{REGION_ALIGN, Region};
use super::ring::ring_words;

/// Version of the header and of the protocols in the regions; processes of different versions
/// refuse each other.
pub const PROTOCOL_VERSION: u64 = 2;
/// Room for the settings in the header, bytes.
pub const CONFIG_CAPACITY: usize = 64 * 1024;

/// Size of the header's words, bytes.
pub(super) const FIELDS_BYTES: usize = 256;
/// Size of the header with its settings, bytes.
pub(super) const HEADER_BYTES: usize = FIELDS_BYTES + CONFIG_CAPACITY;
const PAGE_BYTES: usize = 4096;

/// Where a ring of `T` lies.
pub struct RingRegion<T> {
    /// Its bytes.
    pub region: Region,
    /// Slots, a power of two.
    pub(super) capacity: usize,
    _payload: PhantomData<fn() -> T>,
}

impl<T> Clone for RingRegion<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for RingRegion<T> {}

/// Where a doorbell lies.
#[derive(Clone, Copy)]
pub struct DoorbellRegion {
    /// Its bytes.
    pub region: Region,
}

/// Where a row of counters lies.
#[derive(Clone, Copy)]
pub struct CountersRegion {
    /// Its bytes.
    pub region: Region,
    pub(super) count: usize,
}

/// Where a handover lies.
#[derive(Clone, Copy)]
pub struct HandoverRegion {
    /// Its bytes.
    pub region: Region,
}

/// Where a journal lies.
#[derive(Clone, Copy)]
pub struct JournalRegion {
    pub(super) region: Region,
    pub(super) entries: usize,
    pub(super) room: usize,
    pub(super) sides: usize,
}

impl JournalRegion {
    /// The bytes of one entry.
    pub fn entry(&self, entry: usize) -> Region {
        let bytes = journal_entry_words(self.room, self.sides) * size_of::<u64>();
        Region {
            offset: self.region.offset + entry * bytes,
            bytes,
        }
    }
}

/// Where a gate lies.
#[derive(Clone, Copy)]
pub struct GateRegion {
    pub(super) region: Region,
}

/// Kinds of regions, as they enter the layout hash.
#[derive(Clone, Copy)]
enum Kind {
    Ring = 1,
    Doorbell = 2,
    Counters = 3,
    Gate = 4,
    Handover = 5,
    Journal = 6,
}

/// Lays out one segment, region by region.
///
/// Sizes saturate instead of overflowing: a layout too large to address is refused as too large
/// when the segment is created.
#[derive(Clone)]
pub struct SegmentLayout {
    bytes: usize,
    hash: u64,
    gates: Vec<GateRegion>,
}

impl Default for SegmentLayout {
    /// A segment with nothing but its header.
    fn default() -> Self {
        let mut layout = SegmentLayout {
            bytes: HEADER_BYTES,
            hash: 0xcbf2_9ce4_8422_2325,
            gates: Vec::new(),
        };
        layout.mix(&[PROTOCOL_VERSION as usize, HEADER_BYTES, REGION_ALIGN]);
        layout
    }
}

impl SegmentLayout {
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
        let details = [size_of::<T>(), align_of::<T>(), capacity];
        RingRegion {
            region: self.add(Kind::Ring, bytes, &details),
            capacity,
            _payload: PhantomData,
        }
    }

    /// Adds a doorbell: one waiter, any number of ringers.
    pub fn doorbell(&mut self) -> DoorbellRegion {
        DoorbellRegion {
            region: self.add(Kind::Doorbell, REGION_ALIGN, &[]),
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
            region: self.add(Kind::Counters, bytes, &[count]),
            count,
        }
    }

    /// Adds a handover, open at first.
    pub fn handover(&mut self) -> HandoverRegion {
        HandoverRegion {
            region: self.add(Kind::Handover, HANDOVER_WORDS * size_of::<u64>(), &[]),
        }
    }

    /// Adds a journal of `entries` entries, nothing kept at first, with room for `room` words on
    /// each of `sides` sides (1 or 2).
    pub fn journal(&mut self, entries: usize, room: usize, sides: usize) -> JournalRegion {
        let bytes = journal_entry_words(room, sides)
            .saturating_mul(size_of::<u64>())
            .saturating_mul(entries);
        JournalRegion {
            region: self.add(Kind::Journal, bytes, &[entries, room, sides]),
            entries,
            room,
            sides,
        }
    }

    /// Adds a gate, closed at first.
    pub fn gate(&mut self) -> GateRegion {
        let gate = GateRegion {
            region: self.add(Kind::Gate, REGION_ALIGN, &[]),
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
    pub(super) fn gates(&self) -> &[GateRegion] {
        &self.gates
    }

    fn add(&mut self, kind: Kind, bytes: usize, details: &[usize]) -> Region {
        let offset = self.bytes;
        self.bytes = offset.saturating_add(bytes);
        self.mix(&[kind as usize, offset, bytes]);
        self.mix(details);
        Region { offset, bytes }
    }

    /// FNV-1a over the bytes of the words: no secret is guarded here, only mistakes are found.
    fn mix(&mut self, words: &[usize]) {
        for byte in words.iter().flat_map(|&word| (word as u64).to_le_bytes()) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn build(regions: &[(u8, usize)]) -> (SegmentLayout, Vec<Region>) {
        let mut layout = SegmentLayout::default();
        let places = regions.iter().map(|&(kind, n)| match kind {
            0 => {
                let ring = layout.ring::<[u64; 14]>(n);
                assert!(ring.capacity.is_power_of_two() && ring.capacity >= n);
                ring.region
            }
            1 => layout.doorbell().region,
            2 => layout.counters(n).region,
            3 => layout.journal(n, n + 5, 1 + n % 2).region,
            _ => layout.gate().region,
        });
        let places = places.collect();
        (layout, places)
    }

    /// Without what makes no difference: rings are rounded up to a power of two, doorbells and
    /// gates take no number.
    fn normal(regions: &[(u8, usize)]) -> Vec<(u8, usize)> {
        let normal = |&(kind, n): &(u8, usize)| match kind {
            0 => (kind, n.max(2).next_power_of_two()),
            2 | 3 => (kind, n),
            _ => (kind, 0),
        };
        regions.iter().map(normal).collect()
    }

    fn regions() -> impl Strategy<Value = Vec<(u8, usize)>> {
        prop::collection::vec((0u8..5, 0usize..300), 0..10)
    }

    proptest! {
        #[test]
        fn regions_are_aligned_and_apart(regions in regions()) {
            let (layout, places) = build(&regions);
            let mut end = HEADER_BYTES;
            for Region { offset, bytes } in places {
                prop_assert!(offset >= end);
                prop_assert!(offset % REGION_ALIGN == 0 && bytes % REGION_ALIGN == 0);
                end = offset + bytes;
            }
            prop_assert!(layout.bytes() >= end && layout.bytes().is_multiple_of(PAGE_BYTES));
            prop_assert_eq!(layout.layout_hash(), build(&regions).0.layout_hash());
        }

        #[test]
        fn another_layout_has_another_hash(a in regions(), b in regions()) {
            let same = build(&a).0.layout_hash() == build(&b).0.layout_hash();
            prop_assert_eq!(normal(&a) == normal(&b), same);
        }
    }

    #[test]
    fn payload_and_capacity_enter_the_hash() {
        let hash = |f: fn(&mut SegmentLayout)| {
            let mut layout = SegmentLayout::default();
            f(&mut layout);
            layout.layout_hash()
        };
        let ring = hash(|layout| _ = layout.ring::<[u64; 14]>(64));
        assert_ne!(ring, hash(|layout| _ = layout.ring::<[u64; 13]>(64)));
        assert_ne!(ring, hash(|layout| _ = layout.ring::<[u32; 28]>(64)));
        assert_ne!(ring, hash(|layout| _ = layout.ring::<[u64; 14]>(128)));
        assert_eq!(ring, hash(|layout| _ = layout.ring::<[u64; 14]>(33)));
    }

    #[test]
    fn absurd_sizes_saturate() {
        let mut layout = SegmentLayout::default();
        layout.ring::<[u64; 14]>(usize::MAX);
        layout.counters(usize::MAX);
        layout.doorbell();
        assert_eq!(layout.bytes(), usize::MAX);
    }
}
