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

// Output to stdout and stderr.
pub mod say;
// Where tests stop a process.
pub mod killpoint;
// Opening and reading files from outside, bounded.
pub mod input;
// Text of messages: quoted commands, counts with their nouns.
pub mod pasted;
pub mod plural;
// Cause and remedy of an error.
pub mod fault;
// Writing files whole, flushing, locks.
pub mod disk;
// Rules, clock and stamps, features, random streams.
pub mod game;
pub mod latency;
pub mod observation;
pub mod random;
// The two messages.
pub mod wire;
// Tree search over sampled worlds.
pub mod search;
// Shared memory: rings, doorbells, journal.
pub mod shm;
// The network on CPU and GPU.
pub mod network;
// Finished rounds on disk; the settings of a run.
pub mod replay;
pub mod settings;
// Rounds in flight.
pub mod play;
// Processes: coordinator, worker, evaluator.
pub mod engine;
// Studies: compare, sweep, tune, profile, doctor, infer.
pub mod measure;

pub mod cli;
