//! What can be wrong with a weights file: one variant per fault, each one line that names the file,
//! the tensor, what was expected and found, and the remedy.

use std::path::PathBuf;

use crate::disk::{Refusal, remedy};

use super::file::FILE_BYTES_MAX;
use super::{Shape, ShapeError};
use crate::network::SEATS;

/// Why a weights file was refused. Each is one line: file, tensor, expected, found, remedy.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file could not be read.
    #[error("cannot read weights {}: {source}; {}", file.display(), remedy(file, source))]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file could not be written; an older file of that name is untouched.
    #[error(transparent)]
    Write(#[from] Refusal),
    /// The file is larger than any network accepted here.
    #[error("{}: more than {FILE_BYTES_MAX} bytes, too large for BlobNet weights; is it the right file?", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
    },
    /// The file is truncated, damaged, or of another format.
    #[error(
        "{}: not a whole safetensors file ({reason}); save it again with \
         safetensors.torch.save_file(model.state_dict(), path)",
        file.display()
    )]
    Format {
        /// The file.
        file: PathBuf,
        /// What the parser found.
        reason: String,
    },
    /// A tensor that every BlobNet has is not in the file.
    #[error("{}: tensor `{tensor}` is missing; save the whole state_dict of a BlobNet", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
        /// The missing tensor.
        tensor: String,
    },
    /// A tensor that every BlobNet has stands there with something before its name.
    #[error(
        "{}: tensor `{tensor}` is missing, but there is `{found}`; save the names without what stands before them",
        file.display()
    )]
    Wrapped {
        /// The file.
        file: PathBuf,
        /// The missing tensor.
        tensor: String,
        /// What looks like it.
        found: String,
    },
    /// A tensor that no BlobNet of this shape has.
    #[error(
        "{}: tensor `{tensor}` is not part of a BlobNet; save a plain state_dict (no optimizer state)",
        file.display()
    )]
    Unknown {
        /// The file.
        file: PathBuf,
        /// The unknown tensor.
        tensor: String,
    },
    /// A tensor of other dimensions than the rest of the file demands.
    #[error(
        "{}: tensor `{tensor}` has shape {found:?}, expected {expected}; export the network again with that shape",
        file.display()
    )]
    Dimensions {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Dimensions that fit, in words.
        expected: String,
        /// Dimensions in the file.
        found: Vec<usize>,
    },
    /// A tensor of another type than f32, bf16, f16 or f64.
    #[error(
        "{}: tensor `{tensor}` is stored as {found}, expected F32, BF16, F16 or F64; convert it before saving",
        file.display()
    )]
    Dtype {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// The type in the file, in safetensors' words.
        found: String,
    },
    /// A parameter that is NaN or infinite.
    #[error(
        "{}: tensor `{tensor}` holds {value} at index {index}, expected finite numbers of f32's range; use an earlier checkpoint",
        file.display()
    )]
    NotFinite {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Place in the row-major tensor.
        index: usize,
        /// The value found.
        value: f32,
    },
    /// Finite parameters, but numbers on the way through the network are not.
    #[error(
        "{}: the network overflows: what `{tensor}` gives is not finite in an ordinary position; use an earlier checkpoint",
        file.display()
    )]
    Overflows {
        /// The file.
        file: PathBuf,
        /// The first parameters after which it is so.
        tensor: String,
    },
    /// A value head with a single output.
    #[error(
        "{}: tensor `{tensor}` has shape {found:?}, a scalar value head; the value is a vector here, one entry per seat \
         ({SEATS} outputs): retrain with `value_fc.3` of {SEATS} outputs, or make a start with `ringmaster weights init`",
        file.display()
    )]
    ScalarValueHead {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Dimensions in the file.
        found: Vec<usize>,
    },
    /// A folder without weights in it.
    #[error("{}: no .safetensors file in this folder; name a file, or put one there", folder.display())]
    Empty {
        /// The folder.
        folder: PathBuf,
    },
    /// The copy of weights that rounds still need is gone, and the file given is another.
    #[error(
        "{}: the weights of rounds from {from_round} on that are still to be played are not there, and --weights names \
         others; put a file of hash {hash} at that place",
        file.display()
    )]
    Lost {
        /// Where the copy should be.
        file: PathBuf,
        /// Their hash.
        hash: String,
        /// The first round they play.
        from_round: u64,
    },
    /// A network of another size than the run's.
    #[error(
        "{}: a network of {found}, the run's is of {wanted}; start another run for it",
        file.display()
    )]
    OtherShape {
        /// The file.
        file: PathBuf,
        /// Its size.
        found: Shape,
        /// The run's.
        wanted: Shape,
    },
    /// Width, depth or hidden width out of range.
    #[error("{}: {source}; is it the right file?", file.display())]
    Shape {
        /// The file.
        file: PathBuf,
        /// Which number, and its range.
        source: ShapeError,
    },
}
