//! Studying the engine and the machine: what the machine offers (`doctor`), what batches cost (`profile_evaluator`), what the
//! network says of given observations (`infer`).

pub mod doctor;
mod infer;
mod profile_evaluator;

pub use infer::{InferError, infer};
pub use profile_evaluator::{EvaluatorProfile, SizeTimes, profile_evaluator};
