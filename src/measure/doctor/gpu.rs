//! What the network finds to run on a GPU.

use super::{Finding, MIB, State};
use crate::network::Shape;
use crate::network::cuda::packing::{self, Operands};
use crate::network::cuda::plan::Plan;
use crate::network::cuda::{Cache, CudaError, probe};

fn missing(topic: &'static str, error: &CudaError) -> Finding {
    let (found, remedy) = error.at_length();
    Finding::ok(topic, found, "the network runs on the CPU").with(State::Missing, remedy)
}

/// All of these findings.
pub(super) fn findings() -> Vec<Finding> {
    let probe = probe();
    let mut findings = Vec::new();
    findings.push(match &probe.driver {
        Ok(driver) => Finding::ok(
            "CUDA driver",
            format!("{}, CUDA {}.{}", driver.library, driver.major, driver.minor),
            "GPUs can be used",
        ),
        Err(error) => missing("CUDA driver", error),
    });
    match (&probe.driver, &probe.gpus) {
        (Ok(_), Ok(gpus)) => findings.extend(gpus.iter().map(|gpu| {
            let found = format!(
                "{}: {} (sm_{}{}), {} multiprocessors, {} MiB",
                gpu.ordinal,
                gpu.name,
                gpu.major,
                gpu.minor,
                gpu.multiprocessors,
                gpu.memory_bytes / MIB
            );
            let plan = packing::Layout::new(Shape::default(), Operands::F16)
                .map_err(CudaError::from)
                .and_then(|layout| Ok(Plan::new(gpu.properties(), layout)?));
            match plan {
                Ok(plan) => {
                    let rows = plan.rows_at_once();
                    Finding::ok("GPU", found, format!("{rows} rows are computed at once"))
                }
                Err(error) => Finding::ok("GPU", found, error.to_string())
                    .with(State::Missing, "use --backend cpu, or another GPU"),
            }
        })),
        (Ok(_), Err(error)) => findings.push(missing("GPU", error)),
        // Without a driver nothing can be said of GPUs.
        (Err(_), _) => findings.push(
            Finding::ok(
                "GPU",
                "not looked for, without a driver",
                "the network runs on the CPU",
            )
            .with(State::Missing, "install the driver first"),
        ),
    }
    findings.push(match &probe.nvrtc {
        Ok(nvrtc) => Finding::ok(
            "NVRTC",
            format!("{} (CUDA {})", nvrtc.path.display(), nvrtc.major),
            match Cache::of_user().folder() {
                Some(folder) => format!("compiles the GPU's kernels; kept in {}", folder.display()),
                None => {
                    "compiles the GPU's kernels at each start (no HOME to keep them in)".to_owned()
                }
            },
        ),
        Err(error) => missing("NVRTC", error),
    });
    findings
}
