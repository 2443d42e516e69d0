//! What this machine offers for CUDA, and what it lacks: the driver, the GPUs. Nothing is compiled
//! or allocated.

use serde::Serialize;

use super::device;
use super::driver::{check_driver, too_old};
use super::error::CudaError;
use super::packing::WeightLayout;
use super::plan::{Gpu, LaunchPlan};

/// The CUDA version that the kernels' PTX takes, first part.
const PTX_MAJOR: u32 = 12;

/// The driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Driver {
    /// Name of its library.
    pub library: String,
    /// The newest CUDA it knows, first part.
    pub major: u32,
    /// The newest CUDA it knows, second part.
    pub minor: u32,
}

/// What was found. Each part is there, or the reason why not.
#[derive(Debug, Clone)]
pub struct Probe {
    /// The driver.
    pub driver: Result<Driver, CudaError>,
    /// The visible GPUs; not empty. Needs the driver.
    pub gpus: Result<Vec<Gpu>, CudaError>,
}

/// Looks at all parts. Takes as long as the driver takes to start, up to some seconds on a machine
/// with many GPUs.
pub fn probe() -> Probe {
    let driver = find_driver();
    let gpus = driver.clone().and_then(|_| {
        let gpus = device::gpus()?;
        if gpus.is_empty() {
            return Err(CudaError::no_gpu());
        }
        Ok(gpus)
    });
    Probe { driver, gpus }
}

fn find_driver() -> Result<Driver, CudaError> {
    let library = check_driver()?;
    let (major, minor) = device::start_driver()?;
    if major < PTX_MAJOR {
        return Err(too_old(&library, &format!("knows CUDA {major}.{minor}")));
    }
    Ok(Driver {
        library,
        major,
        minor,
    })
}

/// All parts of a usable machine.
#[derive(Debug, Clone)]
pub struct UsableGpu {
    /// The GPU to use, the first visible one.
    pub gpu: Gpu,
    /// What to load and launch there.
    pub plan: LaunchPlan,
}

impl Probe {
    /// The first GPU with all that it needs to run a network whose weights lie as `layout` says, or
    /// the first thing that is missing.
    ///
    /// # Errors
    /// What is missing, and the remedy.
    pub fn usable(self, layout: WeightLayout) -> Result<UsableGpu, CudaError> {
        self.driver?;
        // Not empty, by construction; were it, that would be the error to give.
        let gpu = self
            .gpus?
            .into_iter()
            .next()
            .ok_or_else(CudaError::no_gpu)?;
        Ok(UsableGpu {
            plan: LaunchPlan::new(&gpu, layout)?,
            gpu,
        })
    }
}
