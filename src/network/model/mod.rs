//! A network's parameters: what varies between BlobNets (`shape`), the tensors (`weights`), their
//! file, whether they overflow, and the folded chain that every backend runs.

mod error;
mod file;
pub(super) mod folded;
mod overflow;
mod shape;
mod weights;

pub use error::WeightsError;
pub(crate) use file::read_weights;
pub use file::{weights_file, weights_files};
pub use folded::{Folded, FoldedLayer, Linear, Norm};
pub use shape::{Shape, ShapeError};
pub use weights::{Description, Precision, TensorDescription, Weights};
