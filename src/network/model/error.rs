//! Why weights are refused: one line that names the file, the tensor, what was expected and found,
//! and the remedy.

use std::fmt::Display;
use std::path::Path;

use super::Shape;
use crate::disk::{Refusal, remedy};
use crate::fault::Fault;

/// What can be wrong with weights.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// There is no such file.
    #[error(transparent)]
    NotFound(Fault),
    /// The file could not be written; an older file of that name is untouched.
    #[error(transparent)]
    Write(#[from] Refusal),
    /// Anything else: the file cannot be read, or does not hold a BlobNet that plays.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl WeightsError {
    /// The system's refusal to read `file`.
    pub(super) fn read(file: &Path, error: &std::io::Error) -> WeightsError {
        let cause = format!("cannot read weights {}: {error}", file.display());
        let fault = Fault::new(cause, remedy(file, error));
        match error.kind() {
            std::io::ErrorKind::NotFound => WeightsError::NotFound(fault),
            _ => WeightsError::Fault(fault),
        }
    }

    /// Something is wrong with the contents of `file`.
    pub fn of(file: &Path, cause: impl Display, remedy: impl Into<String>) -> WeightsError {
        Fault::new(format!("{}: {cause}", file.display()), remedy).into()
    }

    /// The network in `file` is of another size than the run's.
    pub fn other_shape(file: &Path, found: Shape, wanted: Shape) -> WeightsError {
        let cause = format!("a network of {found}, the run's is of {wanted}");
        WeightsError::of(file, cause, "start another run for it")
    }
}
