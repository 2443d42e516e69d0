//! The kernels' sources, in the program itself, and their way to machine code: from the cache, or through NVRTC.

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
pub fn sources() -> [Source; 6] {
    [
        source!("blobnet.cu"),
        source!("tiles.cuh"),
        source!("warpgroups.cuh"),
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
    /// Their name in the cache.
    pub key: Key,
    /// What else there is to know.
    pub note: Option<String>,
}

/// The kernels for the GPU, from the cache if it has them. Those of warpgroups are done without, and the plan told so, where NVRTC does
/// not take them.
///
/// # Errors
/// When NVRTC cannot be loaded or does not compile them.
pub fn compile(usable: &mut Usable, cache: &Cache) -> Result<Compiled, CudaError> {
    match compile_planned(usable, cache) {
        Err(error @ CudaError::Compile { .. }) if usable.plan.drop_warpgroups() => {
            let note = format!("the kernels of warpgroups are left out: {}", error.cause());
            Ok(Compiled {
                note: Some(note),
                ..compile_planned(usable, cache)?
            })
        }
        compiled => compiled,
    }
}

fn compile_planned(usable: &Usable, cache: &Cache) -> Result<Compiled, CudaError> {
    let options = usable.plan.nvrtc_options();
    let sources = sources();
    // NVRTC is loaded in any case: its version is part of the key.
    let nvrtc = Nvrtc::load(&usable.nvrtc.path, usable.driver.major)?;
    let key = Key::new(&sources, &options, nvrtc.version());
    if let Some(cubin) = cache.get(&key) {
        return Ok(Compiled {
            cubin,
            was_cached: true,
            key,
            note: None,
        });
    }
    let [main, headers @ ..] = sources;
    let cubin = nvrtc.compile(main, &headers, &options)?;
    cache.put(&key, &cubin);
    Ok(Compiled {
        cubin,
        was_cached: false,
        key,
        note: None,
    })
}
