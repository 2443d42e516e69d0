//! The two messages between a worker and the network's process: a request (one leaf) and its reply.
//! Plain bytes of fixed size, written in place into ring slots of 128 bytes; nothing is serialized.

use crate::game::{MAX_LEGAL, MAX_PLAYERS};
use crate::observation::Position;
use bytemuck::{Pod, Zeroable};

/// Bit of a ticket that says which of the run's networks is to answer: the parity of its number. No
/// more than two are in use at once, and those follow each other.
const PARITY_BIT: u32 = 47;

/// A worker's name for a leaf: the search's `entry` in the low 32 bits, its `table` (below 2^15) in
/// the next 15, then the parity of the network's number. The upper 16 are free for a sample's
/// number (see `latency`).
#[inline]
pub fn ticket(network: u32, table: usize, entry: u32) -> u64 {
    u64::from(network & 1) << PARITY_BIT | (table as u64) << 32 | u64::from(entry)
}

/// Table and entry of a ticket.
#[inline]
pub fn place_of(ticket: u64) -> (usize, u32) {
    ((ticket >> 32) as usize & 0x7fff, ticket as u32)
}

/// Parity of the network that is to answer.
#[inline]
pub fn parity_of(ticket: u64) -> usize {
    (ticket >> PARITY_BIT) as usize & 1
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_names_network_table_and_entry() {
        for network in [0, 1, 2, 7] {
            for (table, entry) in [(0, 0), (4095, u32::MAX), (0x7fff, 1)] {
                let ticket = ticket(network, table, entry);
                assert_eq!(place_of(ticket), (table, entry));
                assert_eq!(parity_of(ticket), network as usize % 2);
                assert_eq!(crate::latency::tag_of(ticket), 0);
            }
        }
    }
}
