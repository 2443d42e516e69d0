//! Shared memory between processes: one segment and its layout, in it lock-free rings of
//! fixed-size slots, doorbells to park an idle reader, counters and gates. All unsafe code that
//! touches memory of another process lives here, and nothing here knows what a slot means. The
//! protocols (`ring`, `parking`, `handover`) are generic over the memory they run in, so that the
//! code that runs between processes is the code that loom, ThreadSanitizer and valgrind check.

mod error;
mod file;
mod gate;
mod handover;
mod journal;
mod layout;
pub mod liveness;
mod mapping;
mod memory;
mod parking;
mod ring;
mod segment;

pub use error::{Corrupt, PushError, ShmError};
pub use file::unlink_by_name;
pub use gate::{Counters, Gate};
pub use handover::{HANDOVER_WORDS, Handover, Party, clear};
pub use journal::{Journal, JournalPlace, journal_entry_words};
pub use layout::{
    CountersRegion, DoorbellRegion, GateRegion, HandoverRegion, JournalRegion, RingRegion,
    SegmentLayout,
};
pub use mapping::{MappedFutex, MappedWords};
pub use memory::{HeapWords, Region, Word, Words};
pub use parking::{Doorbell, Futex, Parking, WaitResult};
pub use ring::{Consumer, Producer, ring_on_heap, ring_words};
pub use segment::{Segment, stale_segments, sweep_stale};
