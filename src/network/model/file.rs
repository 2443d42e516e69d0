//! Reading and writing BlobNet's parameters as `safetensors` (the header names, types and places
//! every tensor; the data follows, little-endian). A file comes from outside: its size is bounded
//! before it is read, every tensor's name, type, dimensions and values are checked, and each
//! refusal is one line that names the file, the tensor and the remedy.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::Shape;
use super::error::WeightsError;
use super::weights::{Precision, Tensor, Weights};
use crate::disk::{self, Refusal};
use crate::input;
use crate::network::{FEATURES, SEATS};

/// Largest file that is read: 2^28 parameters as f32, and room for the header.
const FILE_BYTES_MAX: u64 = (1 << 30) + (1 << 20);

/// A tensor that every BlobNet has.
const ANY_TENSOR: &str = "input_embedding.weight";
/// What a wrapper of a PyTorch module puts before the name of every tensor.
const WRAPPERS: [&str; 3] = ["module.", "_orig_mod.", "model."];

/// The file that `path` means: itself, or of a folder the newest weights file (of several, the last
/// by name).
///
/// # Errors
/// When the folder cannot be read or holds none.
pub fn weights_file(path: &Path) -> Result<PathBuf, WeightsError> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let files = weights_files(path).map_err(|error| WeightsError::read(path, &error))?;
    let dated = files
        .into_iter()
        .filter_map(|(file, data)| Some((data.modified().ok()?, file)));
    dated.max().map(|(_, newest)| newest).ok_or_else(|| {
        let cause = "no .safetensors file in this folder";
        WeightsError::of(path, cause, "name a file, or put one there")
    })
}

/// The weights files at `path`, with what the system says of them: itself, or in a folder all
/// regular files called `.safetensors`, but for those whose names begin with a dot: they are being
/// written.
///
/// # Errors
/// When there is nothing, or it cannot be looked at.
pub fn weights_files(path: &Path) -> std::io::Result<Vec<(PathBuf, Metadata)>> {
    let data = path.metadata()?;
    if !data.is_dir() {
        return Ok(vec![(path.to_path_buf(), data)]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        let name = file.file_name().unwrap_or_default().as_encoded_bytes();
        let is_weights = file.extension().is_some_and(|kind| kind == "safetensors");
        // One that is gone by now is none.
        if is_weights
            && !name.starts_with(b".")
            && let Ok(data) = file.metadata()
            && data.is_file()
        {
            files.push((file, data));
        }
    }
    Ok(files)
}

/// The bytes of a file, if it is no larger than any weights are.
///
/// # Errors
/// When it is, is no regular file, or cannot be read.
pub(crate) fn read_weights(file: &Path) -> Result<Vec<u8>, WeightsError> {
    let read = || {
        let opened = input::open(file)?;
        // Before anything is read.
        match opened.metadata()?.len() {
            0..=FILE_BYTES_MAX => input::read_up_to(&opened, FILE_BYTES_MAX),
            _ => Err(ErrorKind::FileTooLarge.into()),
        }
    };
    read().map_err(|error| match error.kind() {
        ErrorKind::FileTooLarge => {
            let cause = format!("more than {FILE_BYTES_MAX} bytes, too large for BlobNet weights");
            WeightsError::of(file, cause, "is it the right file?")
        }
        _ => WeightsError::read(file, &error),
    })
}

impl Weights {
    /// Reads a safetensors file of f32, bf16, f16 or f64 tensors, or the newest of a folder; width,
    /// depth and hidden width follow from it.
    ///
    /// # Errors
    /// A [`WeightsError`] for anything but a whole, finite BlobNet.
    pub fn load(path: &Path) -> Result<Self, WeightsError> {
        let file = weights_file(path)?;
        Self::parse(&read_weights(&file)?, &file)
    }

    /// Like [`Weights::load`], from the bytes of a file; `file` is only named in errors.
    ///
    /// # Errors
    /// As [`Weights::load`].
    pub fn parse(bytes: &[u8], file: &Path) -> Result<Self, WeightsError> {
        let parsed = SafeTensors::deserialize(bytes).map_err(|reason| {
            let cause = format!("not a whole safetensors file ({reason})");
            let remedy = "save it again with \
                          safetensors.torch.save_file(model.state_dict(), path)";
            WeightsError::of(file, cause, remedy)
        })?;
        let prefix = prefix_of(&parsed);
        let stored = StoredTensors::new(&parsed, &prefix, file)?;
        let shape = stored.shape()?;
        let table = shape.tensors();
        for (name, dims) in &table {
            let found = stored.view(name)?.shape();
            if found != dims {
                return Err(stored.wrong_dims(name, found, &format!("{dims:?}")));
            }
        }
        let is_known = |name: &str| table.iter().any(|(known, _)| known == name);
        if let Some(name) = stored.views.keys().find(|name| !is_known(name)) {
            return Err(stored.unknown(name));
        }
        let tensors = table.into_iter().map(|(name, dims)| {
            let (stored, data) = stored.values(&name)?;
            Ok(Tensor {
                name,
                dims,
                stored,
                data,
            })
        });
        let tensors = tensors.collect::<Result<_, WeightsError>>()?;
        Ok(Self::from_tensors(shape, tensors, prefix))
    }

    /// Writes all tensors as f32: to a temporary name beside `path`, flushed to disk, then renamed,
    /// so that `path` is always a whole file.
    ///
    /// # Errors
    /// [`WeightsError::Write`]; a file that was at `path` is then untouched.
    pub fn save(&self, path: &Path) -> Result<(), WeightsError> {
        let bytes = self.serialize().map_err(|reason| {
            Refusal::of("write", path)(std::io::Error::other(reason.to_string()))
        })?;
        Ok(disk::write(path, &bytes)?)
    }

    fn serialize(&self) -> Result<Vec<u8>, safetensors::SafeTensorError> {
        let little_endian = |value: &f32| value.to_le_bytes();
        let bytes = |tensor: &Tensor| tensor.data.iter().flat_map(little_endian).collect();
        let bytes: Vec<Vec<u8>> = self.all().iter().map(bytes).collect();
        let views = self.all().iter().zip(&bytes).map(|(tensor, data)| {
            let view = TensorView::new(Dtype::F32, tensor.dims.clone(), data)?;
            Ok((tensor.name.as_str(), view))
        });
        let views: Vec<_> = views.collect::<Result<_, safetensors::SafeTensorError>>()?;
        safetensors::serialize(views, None)
    }
}

/// What stands before the names of all tensors, if it is what wrappers put there, any number of
/// them.
fn prefix_of(parsed: &SafeTensors<'_>) -> String {
    let is_wrapping = |mut prefix: &str| {
        while let Some(rest) = WRAPPERS.iter().find_map(|part| prefix.strip_prefix(part)) {
            prefix = rest;
        }
        prefix.is_empty()
    };
    let prefixes = parsed
        .names()
        .into_iter()
        .filter_map(|name| name.strip_suffix(ANY_TENSOR))
        .filter(|prefix| is_wrapping(prefix));
    let shortest = prefixes.min_by_key(|prefix| prefix.len());
    shortest.unwrap_or_default().to_owned()
}

/// The tensors of a file, by their names without the prefix.
struct StoredTensors<'a> {
    file: &'a Path,
    views: BTreeMap<&'a str, TensorView<'a>>,
}

impl<'a> StoredTensors<'a> {
    fn new(
        parsed: &'a SafeTensors<'a>,
        prefix: &str,
        file: &'a Path,
    ) -> Result<Self, WeightsError> {
        let mut stored = StoredTensors {
            file,
            views: BTreeMap::new(),
        };
        for (name, view) in parsed.iter() {
            let own = name.strip_prefix(prefix);
            stored
                .views
                .insert(own.ok_or_else(|| stored.unknown(name))?, view);
        }
        Ok(stored)
    }

    fn refusal(
        &self,
        tensor: &str,
        wrong: impl Display,
        remedy: impl Into<String>,
    ) -> WeightsError {
        WeightsError::of(self.file, format!("tensor `{tensor}` {wrong}"), remedy)
    }

    fn unknown(&self, tensor: &str) -> WeightsError {
        let remedy = "save a plain state_dict (no optimizer state)";
        self.refusal(tensor, "is not part of a BlobNet", remedy)
    }

    fn wrong_dims(&self, tensor: &str, found: &[usize], expected: &str) -> WeightsError {
        let wrong = format!("has shape {found:?}, expected {expected}");
        self.refusal(tensor, wrong, "export the network again with that shape")
    }

    fn view(&self, name: &str) -> Result<&TensorView<'a>, WeightsError> {
        let is_wrapped = |other: &&&str| {
            let prefix = other.strip_suffix(name);
            prefix.is_some_and(|prefix| prefix.ends_with('.'))
        };
        self.views.get(name).ok_or_else(|| {
            let (wrong, remedy) = match self.views.keys().find(is_wrapped) {
                Some(found) => (
                    format!("is missing, but there is `{found}`"),
                    "save the names without what stands before them",
                ),
                None => (
                    "is missing".to_owned(),
                    "save the whole state_dict of a BlobNet",
                ),
            };
            self.refusal(name, wrong, remedy)
        })
    }

    /// Width from the embedding, depth from the layer numbers, hidden width from the first layer.
    fn shape(&self) -> Result<Shape, WeightsError> {
        for tensor in ["value_fc.3.weight", "value_fc.3.bias"] {
            let found = self.view(tensor)?.shape();
            if found.first().is_none_or(|outputs| *outputs == 1) {
                let wrong = format!(
                    "has shape {found:?}, a scalar value head; the value is a vector here, one \
                     entry per seat ({SEATS} outputs)"
                );
                let remedy = format!(
                    "retrain with `value_fc.3` of {SEATS} outputs, or make a start with \
                     `ringmaster weights init`"
                );
                return Err(self.refusal(tensor, wrong, remedy));
            }
        }
        let outputs = |name: &str, expected: &str| match self.view(name)?.shape() {
            [outputs, _] => Ok(*outputs),
            found => Err(self.wrong_dims(name, found, expected)),
        };
        let width = outputs(ANY_TENSOR, &format!("[width, {FEATURES}]"))?;
        let first_layer = "transformer.layers.0.linear1.weight";
        let ffn = outputs(first_layer, "[feed-forward width, width]")?;
        let layer = |name: &&str| {
            let rest = name.strip_prefix("transformer.layers.")?;
            rest.split('.').next()?.parse::<usize>().ok()
        };
        let last = self.views.keys().filter_map(layer).max();
        let depth = last.map_or(0, |last| last.saturating_add(1));
        Shape::new(width, depth, ffn)
            .map_err(|error| WeightsError::of(self.file, error, "is it the right file?"))
    }

    /// The values as f32; safetensors has checked that the data is exactly as long as type and
    /// dimensions say.
    fn values(&self, name: &str) -> Result<(Precision, Vec<f32>), WeightsError> {
        let view = self.view(name)?;
        let bytes = view.data();
        let (stored, data) = match view.dtype() {
            Dtype::F32 => (Precision::F32, decode(bytes, f32::from_le_bytes)),
            Dtype::BF16 => (
                Precision::Bf16,
                decode(bytes, |value| bf16::from_le_bytes(value).to_f32()),
            ),
            Dtype::F16 => (
                Precision::F16,
                decode(bytes, |value| f16::from_le_bytes(value).to_f32()),
            ),
            Dtype::F64 => (
                Precision::F64,
                decode(bytes, |value| f64::from_le_bytes(value) as f32),
            ),
            other => {
                let wrong = format!("is stored as {other:?}, expected F32, BF16, F16 or F64");
                return Err(self.refusal(name, wrong, "convert it before saving"));
            }
        };
        match data.iter().position(|value| !value.is_finite()) {
            Some(index) => {
                let wrong = format!(
                    "holds {} at index {index}, expected finite numbers of f32's range",
                    data[index]
                );
                Err(self.refusal(name, wrong, "use an earlier checkpoint"))
            }
            None => Ok((stored, data)),
        }
    }
}

fn decode<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|chunk| value(*chunk)).collect()
}
