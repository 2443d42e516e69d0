//! The two messages between a worker and the network's process: a request (one leaf) and its reply.
//! Plain bytes of fixed size, written in place into ring slots of 128 bytes; nothing is serialized.

use crate::game::{MAX_LEGAL, MAX_PLAYERS};
use crate::observation::Position;
use bytemuck::{Pod, Zeroable};

/// A worker's name for a leaf. From the lowest bit: 24 bits for the search's `entry` (a decision
/// has at most 10^6 + 1), 16 for the place of its `job` among the worker's (4096 at most), 8 for
/// the `network` that is to answer (its number in the run modulo 256). The upper 16 are free for a
/// sample's number (see `latency`).
#[inline]
pub fn ticket(network: u32, job: usize, entry: u32) -> u64 {
    debug_assert!(job < 1 << 16 && entry < 1 << 24);
    u64::from(network as u8) << 40 | (job as u64) << 24 | u64::from(entry)
}

/// The job's place and the entry of a ticket.
#[inline]
pub fn job_and_entry_of(ticket: u64) -> (usize, u32) {
    ((ticket >> 24) as usize & 0xffff, ticket as u32 & 0xff_ffff)
}

/// The network that is to answer: its number modulo 256. No two in use at once share it.
#[inline]
pub fn network_of(ticket: u64) -> u8 {
    (ticket >> 40) as u8
}

/// One leaf to evaluate.
#[derive(Clone, Copy, PartialEq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Request {
    /// The worker's own name for the leaf; comes back unchanged.
    pub ticket: u64,
    /// What the leaf's mover knows.
    pub position: Position,
}

/// What the network says of one position.
#[derive(Clone, Copy, PartialEq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Evaluation {
    /// Probability of each legal action, in ascending order of action; the rest is 0.
    pub priors: [f32; MAX_LEGAL],
    /// Expected score of each seat, relative to the mover, scaled to [-1, 1].
    pub values: [f32; MAX_PLAYERS],
}

/// The answer to a request.
#[derive(Clone, Copy, PartialEq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Reply {
    /// The request's ticket.
    pub ticket: u64,
    /// The network's answer.
    pub evaluation: Evaluation,
}

// Together with the slot's 8-byte sequence number each fits two cache lines.
const _: () = assert!(size_of::<Request>() == 96 && size_of::<Request>() + 8 <= 128);
const _: () = assert!(size_of::<Reply>() == 112 && size_of::<Reply>() + 8 <= 128);
