//! Ringmaster plays the card game Blob against itself.

pub mod game;
pub mod observation;
pub mod replay;
pub mod wire;
