//! The errors of shared memory, each saying what is wrong and what to do about it.

use std::fmt::Display;

use crate::fault::Fault;

/// A value found in shared memory that no correct peer can have written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "shared memory is corrupt: {what} is {found}, expected {low} to {high}; the process at the \
     other end is broken and must be restarted with a fresh ring"
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
    /// A ring whose indices are impossible.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// Anything else.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl ShmError {
    /// Of these two halves.
    pub(super) fn new(cause: impl Into<String>, remedy: &str) -> Self {
        Fault::new(cause, remedy).into()
    }

    /// Of a refusal of memory: what was tried, and what the system said.
    pub(super) fn refused(action: impl Display, reason: impl Display) -> Self {
        ShmError::new(
            format!("cannot {action}: {reason}"),
            "ringmaster doctor says what there is of shared memory, and selfplay --workers 0 \
             needs none",
        )
    }

    /// Of a failed system call: what was tried, and what the system said.
    pub(super) fn system(action: impl Display, reason: impl Display) -> Self {
        ShmError::new(format!("cannot {action}: {reason}"), "")
    }
}
