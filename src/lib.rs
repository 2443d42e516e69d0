//! Ringmaster plays the card game Blob against itself.

pub mod cli;
pub mod game;
pub mod network;
pub mod observation;
pub mod process;
pub mod random;
pub mod replay;
pub mod search;
pub mod selfplay;
pub mod settings;
pub mod shm;
pub mod wire;
