//! Where the driver's library is looked for, and whether it has all that this program calls.

#![allow(unsafe_code)]

use std::env;

use libloading::Library;

use super::error::CudaError;
use crate::fault::Fault;

/// Names of the driver's library, the one that drivers install first.
const DRIVER_NAMES: [&str; 2] = ["libcuda.so.1", "libcuda.so"];

/// Driver functions that this program calls. cudarc looks each up when it is first called and
/// panics when it is missing, so all are looked up beforehand.
const DRIVER_SYMBOLS: [&str; 35] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuCtxGetCurrent",
    "cuCtxSynchronize",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemcpyHtoD_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemHostGetDevicePointer_v2",
    "cuMemHostRegister_v2",
    "cuMemHostUnregister",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuFuncSetAttribute",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuEventElapsedTime",
    "cuLaunchKernel",
    "cuEventQuery",
    "cuGetErrorName",
    "cuOccupancyMaxActiveClusters",
];

/// Checks that the driver's library is there and complete. Calls nothing in it.
///
/// # Errors
/// When it is missing, or too old.
pub fn check_driver() -> Result<String, CudaError> {
    let mut refusals = Vec::new();
    for name in DRIVER_NAMES {
        // SAFETY: loading runs the library's initialisers; the driver's only set up its own state.
        let library = match unsafe { Library::new(name) } {
            Ok(library) => library,
            Err(error) => {
                refusals.push(loader_message(&error));
                continue;
            }
        };
        for symbol in DRIVER_SYMBOLS {
            // SAFETY: the symbol is only looked up, never called, under this type.
            if unsafe { library.get::<*const ()>(symbol.as_bytes()) }.is_err() {
                return Err(too_old(name, &format!("has no function {symbol}")));
            }
        }
        // The driver does not survive being unloaded and loaded again; cudarc keeps it loaded, too.
        std::mem::forget(library);
        return Ok(name.to_owned());
    }
    let path = env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let looked = format!(
        "{} (LD_LIBRARY_PATH is {})",
        refusals.join(", "),
        if path.is_empty() { "not set" } else { &path }
    );
    Err(CudaError::with_details(
        Fault::new("no CUDA driver", "install NVIDIA's, or use --backend cpu"),
        Fault::new(
            format!("no CUDA driver: {looked}"),
            "install NVIDIA's driver for the GPU (in a container: run it with --gpus all, which \
             brings libcuda.so.1 along)",
        ),
    ))
}

/// The driver `library` is too old, as it shows by what it `lacks`.
pub(super) fn too_old(library: &str, lacks: &str) -> CudaError {
    CudaError::from(Fault::new(
        format!("the CUDA driver {library} {lacks}: it is older than CUDA 12.0"),
        "install driver 525 or newer, or use --backend cpu",
    ))
}

/// What the loader said: it is the last cause of the error.
fn loader_message(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned()
}
