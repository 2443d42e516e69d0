//! The network on a GPU: finding driver and GPU ([`probe`]), the kernels and their PTX
//! ([`kernels`]), packing the weights for them ([`packing`]), which of them for which batch
//! ([`plan`]), running batches (`backend`). All unsafe code that concerns CUDA is in this folder.
//! Nothing here needs CUDA to build, and a machine without it gets an error that names what is
//! missing, where it was looked for, and the remedy.

mod backend;
mod device;
mod driver;
mod error;
pub mod kernels;
mod memory;
pub mod packing;
pub mod plan;
mod probe;

pub use backend::{CudaBackend, try_kernels};
pub use error::CudaError;
pub use probe::{Driver, Probe, UsableGpu, probe};
