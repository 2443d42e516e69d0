//! The kernels' sources, in the program itself, and their way to machine code: from the cache, or
//! through NVRTC.

use super::cache::{Cache, Key};
use super::error::CudaError;
use super::nvrtc::{Nvrtc, Source};
use super::probe::Usable;

macro_rules! source {
    ($name:literal) => {
        Source {
            name: $name,
            text: include_str!(concat!("../../../kernels/", $name)),
        }
    };
}

/// The kernels, and what they include.
pub fn sources() -> [Source; 5] {
    [
        source!("blobnet.cu"),
        source!("tiles.cuh"),
        source!("rows.cuh"),
        source!("network.cuh"),
        source!("device.cuh"),
    ]
}

/// The kernels as machine code for the GPU.
pub struct Compiled {
    /// What the driver loads.
    pub cubin: Vec<u8>,
    /// The cache had them.
    pub was_cached: bool,
}

/// The kernels for the GPU, from the cache if it has them.
///
/// # Errors
/// When NVRTC cannot be loaded or does not compile them.
pub fn compile(usable: &Usable, cache: &Cache) -> Result<Compiled, CudaError> {
    let options = usable.plan.nvrtc_options();
    let sources = sources();
    // NVRTC is loaded in any case: its version is part of the key.
    let nvrtc = Nvrtc::load(&usable.nvrtc.path, usable.driver.major)?;
    let key = Key::new(&sources, &options, nvrtc.version());
    if let Some(cubin) = cache.get(&key) {
        return Ok(Compiled {
            cubin,
            was_cached: true,
        });
    }
    let [main, headers @ ..] = sources;
    let cubin = nvrtc.compile(main, &headers, &options)?;
    cache.put(&key, &cubin);
    Ok(Compiled {
        cubin,
        was_cached: false,
    })
}
