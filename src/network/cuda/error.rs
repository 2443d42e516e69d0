//! Why a machine's GPU cannot be used: in one line for the start of a run, and at length for
//! `doctor`.

use crate::fault::Fault;

/// Where there is more to say than a start has room for.
const MORE: &str = "(ringmaster doctor says more)";

/// What is missing or broken, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.in_one_line())]
pub struct CudaError {
    fault: Fault,
    /// The same at length, where there is more to say.
    details: Option<Fault>,
}

impl CudaError {
    pub(super) fn with_details(fault: Fault, details: Fault) -> CudaError {
        CudaError {
            fault,
            details: Some(details),
        }
    }

    /// No GPU: the driver sees none.
    pub(super) fn no_gpu() -> CudaError {
        let cause = "the CUDA driver finds no GPU";
        CudaError::with_details(
            Fault::new(
                cause,
                "see whether nvidia-smi lists one, or use --backend cpu",
            ),
            Fault::new(
                cause,
                "see whether nvidia-smi lists one and whether CUDA_VISIBLE_DEVICES hides it",
            ),
        )
    }

    /// As an error, where the GPU was asked for.
    pub fn in_one_line(&self) -> Fault {
        let Fault { cause, remedy } = &self.fault;
        match self.details {
            Some(_) => Fault::new(cause, format!("{remedy} {MORE}")),
            None => self.fault.clone(),
        }
    }

    /// Why the GPU is not used, as a note, where it was not asked for.
    pub fn note(&self) -> String {
        match self.details {
            Some(_) => format!("{} {MORE}", self.fault.cause),
            None => self.fault.cause.clone(),
        }
    }

    /// What was found, and the remedies, at length.
    pub fn at_length(&self) -> &Fault {
        self.details.as_ref().unwrap_or(&self.fault)
    }
}

impl From<Fault> for CudaError {
    fn from(fault: Fault) -> CudaError {
        CudaError {
            fault,
            details: None,
        }
    }
}
