//! BlobNet's parameters as PyTorch names them: one flat list of tensors in a canonical order, whose
//! names and shapes follow from three numbers (width, depth, hidden width of the feed-forward
//! part). From here they are folded, hashed, described, drawn at random, and written to or read
//! from a file (`file`).

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use sha2::{Digest, Sha256};

use super::{Folded, Shape};
use crate::plural::hex;

/// How a tensor is stored in a file; in memory all are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// bfloat16: the upper half of a 32-bit float.
    Bf16,
    /// 16-bit floats.
    F16,
    /// 64-bit floats, rounded when they are read.
    F64,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::F64 => "f64",
        })
    }
}

/// One parameter tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) dims: Vec<usize>,
    pub(super) stored: Precision,
    pub(super) data: Vec<f32>,
}

/// The parameters of one BlobNet, all finite, complete, and of the dimensions that its [`Shape`]
/// demands.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    shape: Shape,
    tensors: Vec<Tensor>,
    /// What stood before every name in the file.
    prefix: String,
}

/// What `weights inspect` shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// Width, depth and hidden width.
    pub shape: Shape,
    /// Number of parameters in the file.
    pub parameters: usize,
    /// Multiply-adds of one position after folding.
    pub multiply_adds: usize,
    /// [`Weights::hash`].
    pub hash: [u8; 32],
    /// [`Weights::prefix`].
    pub prefix: String,
    /// Every tensor, in canonical order.
    pub tensors: Vec<TensorDescription>,
}

/// One tensor of a [`Description`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorDescription {
    /// Name in the PyTorch state_dict.
    pub name: String,
    /// Dimensions (outputs, inputs).
    pub dims: Vec<usize>,
    /// How the file stores it.
    pub stored: Precision,
}

impl Weights {
    /// Takes tensors that are already in canonical order and of the right dimensions.
    pub(super) fn from_tensors(shape: Shape, tensors: Vec<Tensor>, prefix: String) -> Self {
        debug_assert_eq!(
            tensors
                .iter()
                .map(|tensor| tensor.data.len())
                .sum::<usize>(),
            shape.parameters()
        );
        Self {
            shape,
            tensors,
            prefix,
        }
    }

    /// A random network, the same for the same seed and shape on every machine.
    ///
    /// The scale is PyTorch's at initialisation: weights and biases uniform in +-1/sqrt(inputs),
    /// the attention's `in_proj` Xavier-uniform with zero biases, norms 1 and 0, the position
    /// +-1/sqrt(width); with one difference. At PyTorch's scale a fresh network has nearly
    /// equal logits and nearly equal values in every position, and a search over it tests
    /// nothing. The weights of the two last layers (`policy_fc.3`, `value_fc.3`) are therefore 5
    /// times larger, without bias: logits of one position then spread with a standard deviation
    /// of about 1, and values differ between positions over a good part of -1..1.
    pub fn seeded(seed: u64, shape: Shape) -> Self {
        const LAST_LAYER_SCALE: f32 = 5.0;
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut inputs = shape.width() as f32;
        let tensors = shape.tensors().into_iter().map(|(name, dims)| {
            let last = name.starts_with("policy_fc.3.") || name.starts_with("value_fc.3.");
            // A weight comes just before its bias, which PyTorch draws from the range of that
            // weight.
            if dims.len() > 1 {
                inputs = dims[dims.len() - 1] as f32;
            }
            let (centre, range) = match name.as_str() {
                n if n.contains("norm") => (if n.ends_with("weight") { 1.0 } else { 0.0 }, 0.0),
                n if n.ends_with("in_proj_weight") => (0.0, (6.0 / (4.0 * inputs)).sqrt()),
                n if n.contains("self_attn") && n.ends_with("bias") => (0.0, 0.0),
                _ if last && dims.len() == 1 => (0.0, 0.0),
                _ => (
                    0.0,
                    if last { LAST_LAYER_SCALE } else { 1.0 } / inputs.sqrt(),
                ),
            };
            let draw = || centre + range * (2.0 * random.random::<f32>() - 1.0);
            let data = std::iter::repeat_with(draw)
                .take(dims.iter().product())
                .collect();
            Tensor {
                name,
                dims,
                stored: Precision::F32,
                data,
            }
        });
        let tensors = tensors.collect();
        Self::from_tensors(shape, tensors, String::new())
    }

    /// Width, depth and hidden width.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// What wrappers had put before every name in the file, and is left out here: `module.` and the
    /// like, mostly nothing.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The values of one tensor, row-major (outputs, inputs).
    ///
    /// # Panics
    /// If the shape has no tensor of that name ([`Shape::tensors`] lists them).
    pub fn tensor(&self, name: &str) -> &[f32] {
        match self.tensors.iter().find(|tensor| tensor.name == name) {
            Some(tensor) => &tensor.data,
            None => panic!("no BlobNet of {:?} has a tensor `{name}`", self.shape),
        }
    }

    pub(super) fn all(&self) -> &[Tensor] {
        &self.tensors
    }

    /// SHA-256 over names, dimensions and f32 values (little-endian) in canonical order: names the
    /// network in manifests, whatever file it came from and in whatever order that file holds
    /// it.
    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        for tensor in &self.tensors {
            hasher.update((tensor.name.len() as u64).to_le_bytes());
            hasher.update(tensor.name.as_bytes());
            hasher.update((tensor.dims.len() as u64).to_le_bytes());
            for dim in &tensor.dims {
                hasher.update((*dim as u64).to_le_bytes());
            }
            for value in &tensor.data {
                hasher.update(value.to_le_bytes());
            }
        }
        hasher.finalize().into()
    }

    /// The hash in hexadecimal, as manifests hold it.
    pub fn hash_text(&self) -> String {
        hex(&self.hash())
    }

    /// What `weights inspect` shows.
    pub fn describe(&self) -> Description {
        let describe = |tensor: &Tensor| TensorDescription {
            name: tensor.name.clone(),
            dims: tensor.dims.clone(),
            stored: tensor.stored,
        };
        Description {
            shape: self.shape,
            parameters: self.shape.parameters(),
            multiply_adds: Folded::multiply_adds_of(self.shape),
            hash: self.hash(),
            prefix: self.prefix.clone(),
            tensors: self.tensors.iter().map(describe).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ShapeError;
    use super::*;

    #[test]
    fn default_shape_has_the_published_size() {
        let description = Weights::seeded(1, Shape::default()).describe();
        assert_eq!(description.parameters, 4_918_204);
        assert_eq!(description.multiply_adds, 3_717_120);
        assert_eq!(description.tensors.len(), 4 + 12 * 6 + 8 + 1);
    }

    #[test]
    fn shapes_out_of_range_are_refused_with_a_reason() {
        assert_eq!(Shape::new(255, 6, 1024), Err(ShapeError::Width(255)));
        assert_eq!(Shape::new(0, 6, 1024), Err(ShapeError::Width(0)));
        assert_eq!(Shape::new(256, 0, 1024), Err(ShapeError::Depth(0)));
        assert_eq!(
            Shape::new(256, 6, usize::MAX),
            Err(ShapeError::Ffn(usize::MAX))
        );
        assert!(matches!(
            Shape::new(4096, 64, 16_384),
            Err(ShapeError::Parameters(_))
        ));
        assert_eq!(Shape::new(256, 6, 1024), Ok(Shape::default()));
    }

    #[test]
    fn seeded_networks_are_reproducible_and_hash_by_content() {
        let shape = Shape::new(16, 1, 24).expect("in range");
        let weights = Weights::seeded(7, shape);
        assert_eq!(weights, Weights::seeded(7, shape));
        assert_eq!(weights.hash(), Weights::seeded(7, shape).hash());
        assert_ne!(weights.hash(), Weights::seeded(8, shape).hash());
        let mut changed = weights.clone();
        changed.tensors[3].data[2] += 1e-6;
        assert_ne!(weights.hash(), changed.hash());
    }
}
