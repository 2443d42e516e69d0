//! Reading and writing BlobNet's parameters as `safetensors` (the header names, types and places
//! every tensor; the data follows, little-endian). A file comes from outside: its size is bounded
//! before it is read, every tensor's name, type, dimensions and values are checked, and each
//! refusal is one line that names the file, the tensor and the remedy.

use std::collections::BTreeMap;
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
use crate::network::FEATURES;

/// Largest file that is read: 2^28 parameters as f32, and room for the header.
pub(super) const FILE_BYTES_MAX: u64 = (1 << 30) + (1 << 20);

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
    let files = weights_files(path).map_err(|source| WeightsError::Read {
        file: path.into(),
        source,
    })?;
    let dated = files
        .into_iter()
        .filter_map(|(file, data)| Some((data.modified().ok()?, file)));
    match dated.max() {
        Some((_, newest)) => Ok(newest),
        None => Err(WeightsError::Empty {
            folder: path.into(),
        }),
    }
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
    let fail = |source: std::io::Error| match source.kind() {
        ErrorKind::FileTooLarge => WeightsError::TooLarge { file: file.into() },
        _ => WeightsError::Read {
            file: file.into(),
            source,
        },
    };
    let opened = input::open(file).map_err(fail)?;
    if opened.metadata().map_err(fail)?.len() > FILE_BYTES_MAX {
        return Err(WeightsError::TooLarge { file: file.into() });
    }
    input::read_up_to(&opened, FILE_BYTES_MAX).map_err(fail)
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
        let parsed = SafeTensors::deserialize(bytes).map_err(|reason| WeightsError::Format {
            file: file.into(),
            reason: reason.to_string(),
        })?;
        let prefix = prefix_of(&parsed);
        let views = unwrap(&parsed, &prefix).map_err(|tensor| WeightsError::Unknown {
            file: file.into(),
            tensor,
        })?;
        let shape = derive_shape(&views, file)?;
        let table = shape.tensors();
        for (name, dims) in &table {
            check_dimensions(&views, file, name, dims)?;
        }
        if let Some(name) = views
            .keys()
            .find(|name| !table.iter().any(|(known, _)| known == *name))
        {
            return Err(WeightsError::Unknown {
                file: file.into(),
                tensor: (*name).into(),
            });
        }
        let mut tensors = Vec::with_capacity(table.len());
        for (name, dims) in table {
            let (stored, data) = read_values(view_of(&views, file, &name)?, file, &name)?;
            tensors.push(Tensor {
                name,
                dims,
                stored,
                data,
            });
        }
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
        let bytes: Vec<Vec<u8>> = self
            .all()
            .iter()
            .map(|t| {
                t.data
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect()
            })
            .collect();
        let views: Result<Vec<_>, _> = self
            .all()
            .iter()
            .zip(&bytes)
            .map(|(t, data)| {
                TensorView::new(Dtype::F32, t.dims.clone(), data)
                    .map(|view| (t.name.as_str(), view))
            })
            .collect();
        safetensors::serialize(views?, None)
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

/// The tensors by their names without the prefix; or the name of one that has none.
fn unwrap<'a>(
    parsed: &'a SafeTensors<'a>,
    prefix: &str,
) -> Result<BTreeMap<&'a str, TensorView<'a>>, String> {
    parsed
        .iter()
        .map(|(name, view)| match name.strip_prefix(prefix) {
            Some(rest) => Ok((rest, view)),
            None => Err(name.to_owned()),
        })
        .collect()
}

fn view_of<'a, 'data>(
    views: &'a BTreeMap<&str, TensorView<'data>>,
    file: &Path,
    name: &str,
) -> Result<&'a TensorView<'data>, WeightsError> {
    let missing = || {
        let (file, tensor) = (file.into(), name.to_owned());
        let is_it = |other: &&&str| {
            let prefix = other.strip_suffix(name);
            prefix.is_some_and(|prefix| prefix.ends_with('.'))
        };
        match views.keys().find(is_it) {
            Some(found) => WeightsError::Wrapped {
                file,
                tensor,
                found: (*found).to_owned(),
            },
            None => WeightsError::Missing { file, tensor },
        }
    };
    views.get(name).ok_or_else(missing)
}

/// Width from the embedding, depth from the layer numbers, hidden width from the first layer.
fn derive_shape(
    views: &BTreeMap<&str, TensorView<'_>>,
    file: &Path,
) -> Result<Shape, WeightsError> {
    let matrix = |name: &str, expected: &str| {
        let found = view_of(views, file, name)?.shape();
        match found {
            [outputs, inputs] => Ok((*outputs, *inputs)),
            _ => Err(WeightsError::Dimensions {
                file: file.into(),
                tensor: name.into(),
                expected: expected.into(),
                found: found.into(),
            }),
        }
    };
    for tensor in ["value_fc.3.weight", "value_fc.3.bias"] {
        let found = view_of(views, file, tensor)?.shape();
        if found.first().is_none_or(|outputs| *outputs == 1) {
            return Err(WeightsError::ScalarValueHead {
                file: file.into(),
                tensor: tensor.into(),
                found: found.into(),
            });
        }
    }
    let (width, _) = matrix("input_embedding.weight", &format!("[width, {FEATURES}]"))?;
    let (ffn, _) = matrix(
        "transformer.layers.0.linear1.weight",
        "[feed-forward width, width]",
    )?;
    let layer = |name: &&str| {
        name.strip_prefix("transformer.layers.")?
            .split('.')
            .next()?
            .parse::<usize>()
            .ok()
    };
    let depth = views
        .keys()
        .filter_map(layer)
        .max()
        .map_or(0, |last| last.saturating_add(1));
    Shape::new(width, depth, ffn).map_err(|source| WeightsError::Shape {
        file: file.into(),
        source,
    })
}

fn check_dimensions(
    views: &BTreeMap<&str, TensorView<'_>>,
    file: &Path,
    name: &str,
    expected: &[usize],
) -> Result<(), WeightsError> {
    let view = view_of(views, file, name)?;
    if view.shape() == expected {
        return Ok(());
    }
    Err(WeightsError::Dimensions {
        file: file.into(),
        tensor: name.into(),
        expected: format!("{expected:?}"),
        found: view.shape().into(),
    })
}

/// The values as f32; safetensors has checked that the data is exactly as long as type and
/// dimensions say.
fn read_values(
    view: &TensorView<'_>,
    file: &Path,
    name: &str,
) -> Result<(Precision, Vec<f32>), WeightsError> {
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
            return Err(WeightsError::Dtype {
                file: file.into(),
                tensor: name.into(),
                found: format!("{other:?}"),
            });
        }
    };
    match data.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(WeightsError::NotFinite {
            file: file.into(),
            tensor: name.into(),
            index,
            value: data[index],
        }),
        None => Ok((stored, data)),
    }
}

fn decode<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|chunk| value(*chunk)).collect()
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
