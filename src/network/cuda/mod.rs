//! The network on a GPU: finding driver, compiler and GPU ([`probe`]), compiling the kernels for it
//! (`kernels`, `nvrtc`, `cache`), running batches (`backend`). All unsafe code that concerns CUDA
//! is in this folder. Nothing here needs CUDA to build, and a machine without it gets an error that
//! names what is missing, where it was looked for, and the remedy.

mod backend;
mod cache;
mod device;
mod error;
mod kernels;
mod libraries;
mod memory;
mod nvrtc;
pub mod packing;
pub mod plan;
mod probe;

pub use backend::CudaBackend;
pub use cache::{Cache, Key};
pub use device::Gpu;
pub use error::CudaError;
pub use kernels::{Compiled, compile, sources};
pub use libraries::{NVRTC_VARIABLE, NvrtcFile, NvrtcSearch, find_nvrtc};
pub use nvrtc::{Nvrtc, Source};
pub use probe::{Driver, Probe, Usable, probe};
