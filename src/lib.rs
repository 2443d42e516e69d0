//! Ringmaster plays the card game Blob against itself.

pub mod game;
pub mod network;
pub mod observation;
pub mod random;
pub mod search;
pub mod shm;
pub mod wire;
