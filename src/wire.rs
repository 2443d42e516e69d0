//! The two messages between a worker and the network's process: a request (one leaf) and its reply.
//! Plain bytes of fixed size, written in place into ring slots of 128 bytes; nothing is serialized.

use crate::game::{MAX_LEGAL, MAX_PLAYERS};
use crate::observation::Position;
use bytemuck::{Pod, Zeroable};

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
