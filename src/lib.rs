//! Ringmaster plays the card game Blob against itself.
#![warn(missing_docs)]

pub mod network;
