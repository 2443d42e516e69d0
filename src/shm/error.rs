//! The errors of shared memory, each saying what is wrong and what to do about it.

use std::io;

/// A value found in shared memory that no correct peer can have written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "shared memory is corrupt: {what} is {found}, expected {low} to {high}; the process at the other end is broken and must be restarted with a fresh ring"
)]
pub struct Corrupt {
    /// Which index or sequence number it is.
    pub what: &'static str,
    /// The value found.
    pub found: u64,
    /// The least value allowed there.
    pub low: u64,
    /// The greatest value allowed there.
    pub high: u64,
}

/// Why a slot was not taken into a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// Every slot is taken; try again after the consumer has taken some out.
    #[error("the ring is full")]
    Full,
    /// The consumer's index is impossible.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

/// What can go wrong with a segment.
#[derive(Debug, thiserror::Error)]
pub enum ShmError {
    /// The memory file system cannot hold the segment.
    #[error(
        "/dev/shm is too small: {needed_mib} MiB needed, {free_mib} MiB free; use fewer workers, rounds in flight or smaller rings, or enlarge it (mount -o remount,size=... /dev/shm; in a container --shm-size=...)"
    )]
    TooSmall {
        /// Size asked for, MiB, rounded up.
        needed_mib: u64,
        /// Free space, MiB, rounded down.
        free_mib: u64,
    },
    /// No segment of that name can be opened.
    #[error(
        "cannot open the shared-memory segment {name}: {source}; it is made by a running coordinator and removed when that ends"
    )]
    Open {
        /// Name of the segment.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// Not a name that a segment of ours can have.
    #[error("{name:?} is not the name of a segment (/ringmaster-PID-16 hex digits)")]
    BadName {
        /// The name given.
        name: String,
    },
    /// The file belongs to another user, or others may open it.
    #[error(
        "the shared-memory segment {name} is not private: owner uid {uid}, mode {mode:o}, expected uid {expected_uid} and no rights for others; do not use it"
    )]
    NotPrivate {
        /// Name of the segment.
        name: String,
        /// Its owner.
        uid: u32,
        /// Its permission bits.
        mode: u32,
        /// The user of this process.
        expected_uid: u32,
    },
    /// The header is not one of ours.
    #[error(
        "{name} is not a finished segment: {what} is {found:#x}, expected {expected:#x}; let the coordinator make a new one"
    )]
    BadHeader {
        /// Name of the segment.
        name: String,
        /// Which field is wrong.
        what: &'static str,
        /// The value found.
        found: u64,
        /// The value expected.
        expected: u64,
    },
    /// The segment was laid out by another plan.
    #[error(
        "the segment is laid out differently: hash {found:#018x}, expected {expected:#018x}; all processes must run the same binary with the same settings"
    )]
    LayoutMismatch {
        /// Hash found in the header.
        found: u64,
        /// Hash of the plan given.
        expected: u64,
    },
    /// The settings do not fit into the header.
    #[error("the settings take {length} bytes in the segment, at most {capacity} fit")]
    ConfigTooLong {
        /// Length given or found, bytes.
        length: u64,
        /// Room for settings, bytes.
        capacity: u64,
    },
    /// A handle of another plan.
    #[error(
        "a region of {bytes} bytes at offset {offset} is not within the segment of {size} bytes: it belongs to another plan"
    )]
    ForeignRegion {
        /// Offset of the region, bytes.
        offset: u64,
        /// Size of the region, bytes.
        bytes: u64,
        /// Size of the segment, bytes.
        size: u64,
    },
    /// A ring whose indices are impossible.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// The start gate or shutdown event cannot be used.
    #[error("cannot use the gate at offset {offset}: {reason}")]
    Gate {
        /// Offset of the gate's region, bytes.
        offset: u64,
        /// What raw_sync said.
        reason: String,
    },
    /// The system does not give the memory.
    #[error(
        "cannot {action}: {source}; ringmaster doctor says what there is of shared memory, and selfplay --workers 0 needs none"
    )]
    Refused {
        /// What was tried.
        action: String,
        /// What the system said.
        source: io::Error,
    },
    /// A system call failed.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: String,
        /// What the system said.
        source: io::Error,
    },
}

impl ShmError {
    /// Wraps a refusal of memory, naming what was tried.
    pub(crate) fn refused(action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        ShmError::Refused {
            action: action.into(),
            source: source.into(),
        }
    }

    /// Wraps a failed system call, naming what was tried.
    pub(crate) fn system(action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        ShmError::System {
            action: action.into(),
            source: source.into(),
        }
    }
}
