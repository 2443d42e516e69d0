//! What can keep the network from running on a GPU: one variant per fault, each one line that says
//! what is missing or broken, where it was looked for, and the remedy.

use std::path::PathBuf;

use super::libraries::NVRTC_VARIABLE;
use super::packing::PackError;
use super::plan::PlanError;

/// Where there is more to say than a start has room for.
const MORE: &str = "(ringmaster doctor says more)";

/// Why the GPU cannot be used. Each is one line.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CudaError {
    /// No driver library.
    #[error("no CUDA driver; install NVIDIA's, or use --backend cpu {MORE}")]
    NoDriver {
        /// Names tried, and where.
        looked: String,
    },
    /// A driver library without a function this program calls.
    #[error(
        "the CUDA driver {library} has no function {symbol}: it is older than CUDA 11.8; install driver 525 or newer, or use \
         --backend cpu"
    )]
    OldDriver {
        /// The library.
        library: String,
        /// What it lacks.
        symbol: String,
    },
    /// The driver is there and refuses to start.
    #[error(
        "the CUDA driver does not start ({reason}); see whether nvidia-smi works, or use --backend cpu {MORE}"
    )]
    DriverSilent {
        /// The driver's own word.
        reason: String,
    },
    /// A driver, but no GPU.
    #[error(
        "the CUDA driver finds no GPU; see whether nvidia-smi lists one, or use --backend cpu {MORE}"
    )]
    NoDevice,
    /// The kernels are not for this GPU.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The kernels are not for this network.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// No NVRTC.
    #[error(
        "no NVRTC, the compiler of the GPU's kernels; install it with: pip install {package}, or use --backend cpu {MORE}"
    )]
    NoNvrtc {
        /// Names and folders.
        looked: String,
        /// The package that fits the driver.
        package: &'static str,
    },
    /// Only an NVRTC whose programs the driver cannot load.
    #[error(
        "{} is NVRTC {nvrtc_major}, newer than the driver (CUDA {driver_major}), which could not load what it compiles; install \
         the fitting one: pip install {package}, or a newer driver",
        library.display()
    )]
    NewNvrtc {
        /// The library found.
        library: PathBuf,
        /// Its major version.
        nvrtc_major: u32,
        /// The newest CUDA the driver knows, major version.
        driver_major: u32,
        /// The package that fits.
        package: &'static str,
    },
    /// A library that is no NVRTC, or a damaged one.
    #[error(
        "{} cannot be used as NVRTC ({reason}); install it anew: pip install --force-reinstall {package}",
        library.display()
    )]
    BadNvrtc {
        /// The library.
        library: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// The package that fits.
        package: &'static str,
    },
    /// The kernels do not compile.
    #[error(
        "NVRTC {version} does not compile the kernels for {arch}: {log}; try another NVRTC (pip install {package}), and report \
         this"
    )]
    Compile {
        /// NVRTC's version.
        version: String,
        /// The architecture asked for.
        arch: String,
        /// The first lines of the compiler's log.
        log: String,
        /// The package that fits the driver.
        package: &'static str,
    },
    /// The cap on GPU memory is too low.
    #[error(
        "the network needs {needed_mib} MiB of GPU memory, gpu_memory_mib allows {cap_mib}: raise it, or set 0 for no cap"
    )]
    MemoryCap {
        /// Needed, MiB, rounded up.
        needed_mib: usize,
        /// Allowed, MiB.
        cap_mib: usize,
    },
    /// The driver refused a call.
    #[error("the GPU cannot {action}: {reason}")]
    Driver {
        /// What was tried.
        action: &'static str,
        /// The driver's own word.
        reason: String,
    },
}

impl CudaError {
    /// What is wrong, without the remedies.
    pub fn cause(&self) -> String {
        let message = self.to_string();
        let end = [";", ": use --backend"]
            .iter()
            .filter_map(|mark| message.find(mark))
            .min();
        message[..end.unwrap_or(message.len())].to_owned()
    }

    /// Why the GPU is not used, for somebody who did not ask for one: the cause, short.
    pub fn note(&self) -> String {
        let cause = self.cause();
        match self {
            CudaError::NoDriver { .. }
            | CudaError::OldDriver { .. }
            | CudaError::DriverSilent { .. }
            | CudaError::NoDevice
            | CudaError::NoNvrtc { .. }
            | CudaError::NewNvrtc { .. }
            | CudaError::BadNvrtc { .. } => format!("{cause} {MORE}"),
            _ => cause,
        }
    }

    /// What was found, and the remedies, at length.
    pub fn at_length(&self) -> (String, String) {
        let cause = self.cause();
        match self {
            CudaError::NoDriver { looked } => (
                format!("{cause}: {looked}"),
                "install NVIDIA's driver for the GPU (in a container: run it with --gpus all, which brings libcuda.so.1 along)"
                    .to_owned(),
            ),
            CudaError::DriverSilent { .. } => (
                cause,
                "see whether nvidia-smi works, whether CUDA_VISIBLE_DEVICES hides the GPU, and whether driver and kernel module \
                 are of one version"
                    .to_owned(),
            ),
            CudaError::NoDevice => (
                cause,
                "see whether nvidia-smi lists one and whether CUDA_VISIBLE_DEVICES hides it".to_owned(),
            ),
            CudaError::NoNvrtc { looked, package } => (
                format!("{cause}: looked for {looked}"),
                format!("install it with: pip install {package}, or name the library in {NVRTC_VARIABLE}"),
            ),
            other => {
                let message = other.to_string();
                let (found, remedy) = message.split_once("; ").unwrap_or((&message, ""));
                (found.to_owned(), remedy.to_owned())
            }
        }
    }
}
