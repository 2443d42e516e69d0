//! Reading and writing BlobNet's parameters as `safetensors` (the header names, types and places every tensor; the
//! data follows, little-endian). A file comes from outside: its size is bounded before it is read, every tensor's name,
//! type, dimensions and values are checked, and each refusal is one line that names the file, the tensor and the remedy.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use half::bf16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::FEATURES;
use super::weights::{Precision, Shape, Tensor, Weights};
use super::weights_error::WeightsError;
use crate::draft;

/// Largest file that is read: 2^28 parameters as f32, and room for the header.
pub(super) const FILE_BYTES_MAX: u64 = (1 << 30) + (1 << 20);

/// The file that `path` means: itself, or of a folder the newest `.safetensors` file (of several, the last by name).
///
/// # Errors
/// When the folder cannot be read or holds none.
pub fn weights_file(path: &Path) -> Result<PathBuf, WeightsError> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let fail = |source| WeightsError::Read {
        file: path.into(),
        source,
    };
    let mut newest = None;
    for entry in std::fs::read_dir(path).map_err(fail)? {
        let file = entry.map_err(fail)?.path();
        let is_weights = file.extension().is_some_and(|kind| kind == "safetensors");
        // One that is gone or replaced meanwhile is not the newest.
        if is_weights && let Ok(changed) = file.metadata().and_then(|data| data.modified()) {
            newest = newest.max(Some((changed, file)));
        }
    }
    newest
        .map(|(_, file)| file)
        .ok_or_else(|| WeightsError::Empty {
            folder: path.into(),
        })
}

impl Weights {
    /// Reads a safetensors file of f32 or bf16 tensors, or the newest of a folder; width, depth and hidden width follow
    /// from it.
    ///
    /// # Errors
    /// A [`WeightsError`] for anything but a whole, finite BlobNet.
    pub fn load(path: &Path) -> Result<Self, WeightsError> {
        let path = &weights_file(path)?;
        let fail = |source| WeightsError::Read {
            file: path.into(),
            source,
        };
        let mut bytes = Vec::new();
        // Reads one byte past the bound at most, even from a file that grows or a device that never ends.
        let file = File::open(path).map_err(fail)?;
        if file.metadata().map_err(fail)?.len() > FILE_BYTES_MAX {
            return Err(WeightsError::TooLarge { file: path.into() });
        }
        file.take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(fail)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(WeightsError::TooLarge { file: path.into() });
        }
        Self::parse(&bytes, path)
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
        let views: BTreeMap<&str, TensorView<'_>> = parsed.iter().collect();
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
        Ok(Self::from_tensors(shape, tensors))
    }

    /// Writes all tensors as f32: to a temporary name beside `path`, flushed to disk, then renamed, so that `path` is
    /// always a whole file.
    ///
    /// # Errors
    /// [`WeightsError::Write`]; a file that was at `path` is then untouched.
    pub fn save(&self, path: &Path) -> Result<(), WeightsError> {
        let fail = |source| WeightsError::Write {
            file: path.into(),
            source,
        };
        let bytes = self
            .serialize()
            .map_err(|reason| fail(std::io::Error::other(reason.to_string())))?;
        let write = || {
            let mut file = draft::beside(path)?;
            file.write_all(&bytes)?;
            file.as_file().sync_all()?;
            file.persist(path)?;
            Ok(())
        };
        write().map_err(fail)
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

fn view_of<'a, 'data>(
    views: &'a BTreeMap<&str, TensorView<'data>>,
    file: &Path,
    name: &str,
) -> Result<&'a TensorView<'data>, WeightsError> {
    views.get(name).ok_or_else(|| WeightsError::Missing {
        file: file.into(),
        tensor: name.into(),
    })
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

/// The values as f32; safetensors has checked that the data is exactly as long as type and dimensions say.
fn read_values(
    view: &TensorView<'_>,
    file: &Path,
    name: &str,
) -> Result<(Precision, Vec<f32>), WeightsError> {
    let (stored, data): (_, Vec<f32>) = match view.dtype() {
        Dtype::F32 => {
            let (chunks, _) = view.data().as_chunks::<4>();
            (
                Precision::F32,
                chunks
                    .iter()
                    .map(|bytes| f32::from_le_bytes(*bytes))
                    .collect(),
            )
        }
        Dtype::BF16 => {
            let (chunks, _) = view.data().as_chunks::<2>();
            (
                Precision::Bf16,
                chunks
                    .iter()
                    .map(|bytes| bf16::from_le_bytes(*bytes).to_f32())
                    .collect(),
            )
        }
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

#[cfg(test)]
mod tests {
    use super::super::ShapeError;
    use super::*;

    type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

    fn small() -> Weights {
        Weights::seeded(5, Shape::new(8, 2, 12).expect("in range"))
    }

    fn tensors() -> Tensors {
        let bytes = small().serialize().expect("serializes");
        let parsed = SafeTensors::deserialize(&bytes).expect("parses");
        parsed
            .iter()
            .map(|(name, view)| {
                (
                    name.into(),
                    (view.dtype(), view.shape().into(), view.data().into()),
                )
            })
            .collect()
    }

    fn bytes_of(tensors: &Tensors) -> Vec<u8> {
        let view = |(dtype, dims, data): &'_ (Dtype, Vec<usize>, Vec<u8>)| {
            (*dtype, dims.clone(), data.clone())
        };
        let owned: Vec<_> = tensors
            .iter()
            .map(|(name, tensor)| (name, view(tensor)))
            .collect();
        let views = owned.iter().map(|(name, (dtype, dims, data))| {
            (
                name.as_str(),
                TensorView::new(*dtype, dims.clone(), data).expect("consistent"),
            )
        });
        safetensors::serialize(views, None).expect("serializes")
    }

    fn refusal(tensors: &Tensors) -> WeightsError {
        let error =
            Weights::parse(&bytes_of(tensors), Path::new("net.safetensors")).expect_err("refused");
        let line = error.to_string();
        assert!(
            line.starts_with("net.safetensors: ") && !line.contains('\n'),
            "{line}"
        );
        error
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("net.safetensors");
        let weights = small();
        weights.save(&path).expect("saves");
        assert_eq!(Weights::load(&path).expect("loads"), weights);
        weights.save(&path).expect("saves over itself");
        let names = std::fs::read_dir(folder.path()).expect("lists").count();
        assert_eq!(names, 1, "no temporary file is left");
        assert!(matches!(
            weights.save(&folder.path().join("no/net")),
            Err(WeightsError::Write { .. })
        ));
        assert!(matches!(
            Weights::load(&folder.path().join("none")),
            Err(WeightsError::Read { .. })
        ));
    }

    #[test]
    fn a_folder_means_its_newest_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let load = || Weights::load(folder.path());
        assert!(matches!(load(), Err(WeightsError::Empty { .. })));
        let (one, two) = (small(), Weights::seeded(9, small().shape()));
        one.save(&folder.path().join("b.safetensors"))
            .expect("saves");
        std::fs::write(folder.path().join("c.tmp"), "not yet").expect("writes");
        assert_eq!(load().expect("loads"), one);
        let newer = folder.path().join("a.safetensors");
        two.save(&newer).expect("saves");
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
        let file = File::options().write(true).open(&newer).expect("opens");
        file.set_modified(later).expect("sets its time");
        assert_eq!(load().expect("loads"), two);
    }

    #[test]
    fn bf16_is_read_and_told() {
        let mut tensors = tensors();
        for (dtype, _, data) in tensors.values_mut() {
            *dtype = Dtype::BF16;
            *data = data
                .chunks_exact(4)
                .flat_map(|f32_bytes| f32_bytes[2..].to_vec())
                .collect();
        }
        let weights = Weights::parse(&bytes_of(&tensors), Path::new("net")).expect("loads");
        assert!(
            weights
                .describe()
                .tensors
                .iter()
                .all(|tensor| tensor.stored == Precision::Bf16)
        );
        for (half, full) in weights
            .tensor("policy_fc.0.weight")
            .iter()
            .zip(small().tensor("policy_fc.0.weight"))
        {
            assert!((half - full).abs() <= full.abs() / 128.0, "{half} {full}");
        }
    }

    #[test]
    fn each_fault_is_its_own_error() {
        let change = |edit: &dyn Fn(&mut Tensors)| {
            let mut tensors = tensors();
            edit(&mut tensors);
            refusal(&tensors)
        };
        let missing = change(&|t| drop(t.remove("policy_fc.0.bias")));
        assert!(
            matches!(missing, WeightsError::Missing { tensor, .. } if tensor == "policy_fc.0.bias")
        );
        let unknown =
            change(&|t| drop(t.insert("optimizer.step".into(), (Dtype::F32, vec![1], vec![0; 4]))));
        assert!(
            matches!(unknown, WeightsError::Unknown { tensor, .. } if tensor == "optimizer.step")
        );
        let far = "transformer.layers.99999999999.linear1.bias";
        let deep = change(&|t| drop(t.insert(far.into(), (Dtype::F32, vec![1], vec![0; 4]))));
        assert!(matches!(
            deep,
            WeightsError::Shape {
                source: ShapeError::Depth(_),
                ..
            }
        ));
        let shape = change(&|t| {
            drop(t.insert(
                "policy_fc.3.bias".into(),
                (Dtype::F32, vec![51], vec![0; 204]),
            ))
        });
        assert!(matches!(shape, WeightsError::Dimensions { found, .. } if found == [51]));
        let dtype = change(&|t| {
            drop(t.insert(
                "policy_fc.3.bias".into(),
                (Dtype::F16, vec![52], vec![0; 104]),
            ))
        });
        assert!(matches!(dtype, WeightsError::Dtype { found, .. } if found == "F16"));
        let nan = change(&|t| {
            if let Some((_, _, data)) = t.get_mut("input_norm.bias") {
                data[12..16].copy_from_slice(&f32::NAN.to_le_bytes());
            }
        });
        assert!(matches!(nan, WeightsError::NotFinite { index: 3, .. }));
        let scalar = change(&|t| {
            t.insert(
                "value_fc.3.weight".into(),
                (Dtype::F32, vec![1, 4], vec![0; 16]),
            );
            t.insert("value_fc.3.bias".into(), (Dtype::F32, vec![1], vec![0; 4]));
        });
        assert!(matches!(scalar, WeightsError::ScalarValueHead { .. }));
        assert!(
            scalar.to_string().contains("one entry per seat"),
            "{scalar}"
        );
        let embedding = vec![3, 256];
        let odd = change(&|t| {
            t.insert(
                "input_embedding.weight".into(),
                (Dtype::F32, embedding.clone(), vec![0; 3 * 1024]),
            );
        });
        assert!(matches!(
            odd,
            WeightsError::Shape {
                source: ShapeError::Width(3),
                ..
            }
        ));
    }

    #[test]
    fn truncated_and_foreign_files_are_refused() {
        let whole = small().serialize().expect("serializes");
        for length in [0, 7, 8, 100, whole.len() - 1] {
            let error = Weights::parse(&whole[..length], Path::new("net"));
            assert!(
                matches!(error, Err(WeightsError::Format { .. })),
                "{length}"
            );
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert!(matches!(
            Weights::parse(&longer, Path::new("net")),
            Err(WeightsError::Format { .. })
        ));
        let zip = b"PK\x03\x04 a torch.save archive, long enough to hold a header length";
        assert!(matches!(
            Weights::parse(zip, Path::new("net.pt")),
            Err(WeightsError::Format { .. })
        ));
        let mut huge = u64::MAX.to_le_bytes().to_vec();
        huge.extend_from_slice(&whole[8..]);
        assert!(matches!(
            Weights::parse(&huge, Path::new("net")),
            Err(WeightsError::Format { .. })
        ));
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sparse");
        File::create(&path)
            .and_then(|file| file.set_len(FILE_BYTES_MAX + 1))
            .expect("a sparse file");
        assert!(matches!(
            Weights::load(&path),
            Err(WeightsError::TooLarge { .. })
        ));
    }
}
