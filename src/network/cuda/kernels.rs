//! The kernels' sources, in the program itself, and their way to machine code: from the cache, or through NVRTC.

use super::cache::{Cache, Key};
use super::error::CudaError;
use super::nvrtc::{Nvrtc, Source};
use super::probe::Usable;

/// The kernels, and what they include.
pub fn sources() -> [Source; 2] {
    [
        Source {
            name: "blobnet.cu",
            text: include_str!("../../../kernels/blobnet.cu"),
        },
        Source {
            name: "device.cuh",
            text: include_str!("../../../kernels/device.cuh"),
        },
    ]
}

/// The kernels as machine code for the GPU, and whether the cache had them.
///
/// # Errors
/// When NVRTC cannot be loaded or does not compile them.
pub fn compile(usable: &Usable, cache: &Cache) -> Result<(Vec<u8>, bool), CudaError> {
    let options = usable.plan.nvrtc_options();
    let sources = sources();
    // NVRTC is loaded in any case: its version is part of the key.
    let nvrtc = Nvrtc::load(&usable.nvrtc.path, usable.driver.major)?;
    let key = Key::new(&sources, &options, nvrtc.version());
    if let Some(cubin) = cache.get(&key) {
        return Ok((cubin, true));
    }
    let [main, headers @ ..] = sources;
    let cubin = nvrtc.compile(main, &headers, &options)?;
    cache.put(&key, &cubin);
    Ok((cubin, false))
}
