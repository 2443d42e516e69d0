//! What this machine offers for CUDA, and what it lacks: the driver, NVRTC, the GPUs. Nothing is
//! compiled or allocated.

use serde::Serialize;

use super::device::{self, Gpu};
use super::error::CudaError;
use super::libraries::{self, NvrtcFile};
use super::packing::Layout;
use super::plan::Plan;

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
    /// The NVRTC that would be used.
    pub nvrtc: Result<NvrtcFile, CudaError>,
}

/// Looks at all parts. Takes as long as the driver takes to start, up to some seconds on a machine
/// with many GPUs.
pub fn probe() -> Probe {
    let driver = find_driver();
    let gpus = driver.clone().and_then(|_| {
        let gpus = device::gpus()?;
        if gpus.is_empty() {
            return Err(CudaError::NoDevice);
        }
        Ok(gpus)
    });
    // Without a driver any NVRTC will do, for a report.
    let major = driver.as_ref().map_or(u32::MAX, |driver| driver.major);
    Probe {
        nvrtc: libraries::find_nvrtc(major).best(major).cloned(),
        driver,
        gpus,
    }
}

fn find_driver() -> Result<Driver, CudaError> {
    let library = libraries::check_driver()?;
    let (major, minor) = device::start_driver()?;
    Ok(Driver {
        library,
        major,
        minor,
    })
}

/// All parts of a usable machine.
#[derive(Debug, Clone)]
pub struct Usable {
    /// The driver.
    pub driver: Driver,
    /// The GPU to use, the first visible one.
    pub gpu: Gpu,
    /// The NVRTC to use.
    pub nvrtc: NvrtcFile,
    /// What to compile and launch there.
    pub plan: Plan,
}

impl Probe {
    /// The first GPU with all that it needs to run a network whose weights lie as `layout` says, or
    /// the first thing that is missing.
    ///
    /// # Errors
    /// What is missing, and the remedy.
    pub fn usable(self, layout: Layout) -> Result<Usable, CudaError> {
        let driver = self.driver?;
        // Not empty, by construction; were it, that would be the error to give.
        let gpu = self.gpus?.into_iter().next().ok_or(CudaError::NoDevice)?;
        Ok(Usable {
            plan: Plan::new(gpu.properties(), layout)?,
            driver,
            gpu,
            nvrtc: self.nvrtc?,
        })
    }
}
