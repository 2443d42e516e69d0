//! Ringmaster plays the card game Blob against itself: worker processes, lock-free shared-memory
//! rings, one process that runs the network.
//!
//! ```text
//! game -> observation -> search (gather)      worker process, many rounds in flight
//!      -> request ring                        shared memory
//!      -> batch -> network                    evaluator process
//!      -> reply ring                          shared memory
//!      -> search (apply) -> record ring       worker process
//!      -> replay                              coordinator: it owns the segment, starts and watches
//!                                             everyone, hands out job numbers
//! ```
//!
//! Modules in the order of that path; each uses only those above it.

// `say` has what survives a stderr that is full or gone.
#![deny(clippy::print_stdout, clippy::print_stderr)]

// What gets out, and to whom.
pub mod say;
// Where tests stop a process.
pub mod killpoint;
// How files are opened that come from anywhere.
pub mod input;
// Numbers in sentences, and commands.
pub mod pasted;
pub mod plural;
// What errors are made of.
pub mod fault;
// What files stand on.
pub mod disk;
// The rules, and what a mover knows.
pub mod game;
pub mod latency;
pub mod observation;
pub mod random;
// The two messages.
pub mod wire;
// What a worker does with them.
pub mod search;
// How they travel.
pub mod shm;
// Who answers them.
pub mod network;
// What is kept.
pub mod replay;
pub mod settings;
// Rounds in flight.
pub mod play;
// Who runs where.
pub mod engine;
// How fast, how well, on what.
pub mod measure;

pub mod cli;
