//! What the network finds to run on a GPU.

use super::{Finding, MIB, State};
use crate::fault::Fault;
use crate::network::Shape;
use crate::network::cuda::packing::{OperandType, WeightLayout};
use crate::network::cuda::plan::LaunchPlan;
use crate::network::cuda::{CudaError, probe};

fn missing(topic: &'static str, error: &CudaError) -> Finding {
    let Fault { cause, remedy } = error.at_length().clone();
    Finding::ok(topic, cause, "the network runs on the CPU").with(State::Missing, remedy)
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
            let plan = WeightLayout::new(Shape::default(), OperandType::F16)
                .and_then(|layout| LaunchPlan::new(gpu, layout));
            match plan {
                Ok(plan) => {
                    let rows = plan.rows_at_once();
                    Finding::ok("GPU", found, format!("{rows} rows are computed at once"))
                }
                Err(error) => Finding::ok("GPU", found, error.cause)
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
    findings
}
