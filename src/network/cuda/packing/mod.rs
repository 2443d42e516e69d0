//! The folded network as the CUDA kernels read it: all matrices in 16 bits, in the order of
//! `kernels/tiles.cuh` (`fragments`), and biases and norms in f32 behind them. This folder is the
//! only source of that order; the kernels are compiled for a width and told depth and
//! units at launch.
//!
//! The 16 bits are f16 where the weights prove that no weight and no activation can leave its range
//! (a norm's output has a known length, so a bound on every hidden unit follows), else bf16. Both
//! run at the same rate; f16 rounds 8 times finer. Mix matrices are stored without the identity:
//! the kernels add the residual in f32 instead, which keeps bits that 16 would lose.

mod fragments;

use half::{bf16, f16};

use crate::fault::Fault;
use crate::network::{ACTIONS, FEATURES, Folded, Linear, Norm, SEATS, Shape};

/// The widths that the kernels are compiled for.
pub const WIDTHS: [usize; 2] = [128, 256];
/// Hidden widths must be a multiple of this.
pub const FFN_STEP: usize = 128;

/// Hidden units that the kernels take at a time, 8 slices of 8 warps of 16; what is missing to a
/// whole number of them is zeros.
const PASS_HIDDEN: usize = 1024;

/// Parts that every sum over hidden units is cut into.
const SLICES: usize = 8;
/// Hidden units of both heads, padded.
const HEAD_HIDDEN: usize = 512;
/// Outputs of both heads, padded.
const OUTPUTS: usize = 64;

/// The remedy for what the kernels cannot do.
pub(super) const USE_CPU: &str = "use --backend cpu";

/// The 16-bit format of weights and activations in the matrix products; sums are f32 either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperandType {
    /// 11 bits of precision, up to 65,504.
    F16,
    /// 8 bits of precision, the range of f32.
    Bf16,
}

impl OperandType {
    fn round(self, value: f32) -> (u16, bool) {
        match self {
            OperandType::F16 => {
                let rounded = f16::from_f32(value);
                (rounded.to_bits(), rounded.is_finite())
            }
            OperandType::Bf16 => {
                let rounded = bf16::from_f32(value);
                (rounded.to_bits(), rounded.is_finite())
            }
        }
    }
}

/// Where things lie; what the kernels are told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightLayout {
    width: usize,
    depth: usize,
    ffn: usize,
    operands: OperandType,
}

impl WeightLayout {
    /// The layout of `folded`, with the best operands that it allows.
    ///
    /// # Errors
    /// When the kernels are not written for the shape.
    pub fn of(folded: &Folded) -> Result<Self, Fault> {
        let layout = Self::new(folded.shape, OperandType::Bf16)?;
        let operands = if largest_operand(folded) <= F16_LIMIT {
            OperandType::F16
        } else {
            OperandType::Bf16
        };
        Ok(Self { operands, ..layout })
    }

    /// The layout of a network of this shape.
    ///
    /// # Errors
    /// When the kernels are not written for the shape.
    pub fn new(shape: Shape, operands: OperandType) -> Result<Self, Fault> {
        let (width, ffn, depth) = (shape.width(), shape.ffn(), shape.depth());
        if !WIDTHS.contains(&width) {
            let cause = format!(
                "the CUDA kernels run networks of width 128 and 256, this one is {width} wide"
            );
            return Err(Fault::new(cause, USE_CPU));
        }
        if !ffn.is_multiple_of(FFN_STEP) {
            let cause = format!(
                "the CUDA kernels run networks whose feed-forward width is a multiple of \
                 {FFN_STEP}, this one's is {ffn}"
            );
            return Err(Fault::new(cause, USE_CPU));
        }
        Ok(Self {
            width,
            depth,
            ffn,
            operands,
        })
    }

    /// The format of weights and activations.
    pub fn operands(self) -> OperandType {
        self.operands
    }

    /// The rows' width between the layers.
    pub fn width(self) -> usize {
        self.width
    }

    /// Layers.
    pub fn depth(self) -> usize {
        self.depth
    }

    /// Passes that each slice makes over its hidden units.
    pub fn ffn_passes(self) -> usize {
        self.ffn.div_ceil(PASS_HIDDEN)
    }

    /// Tiles of 16 outputs: a slice's of a mix, a warp's of a contraction.
    fn tiles(self) -> usize {
        self.width / 128
    }

    /// Length of the streams, in bytes: there the vectors begin.
    pub fn vectors_offset(self) -> usize {
        fragments::bytes(self)
    }

    /// Length of the whole, in bytes.
    pub fn bytes(self) -> usize {
        let norms = (1 + 2 * self.depth) * 3 * self.width;
        let hidden = self.depth * self.ffn_passes() * PASS_HIDDEN;
        self.vectors_offset() + (norms + hidden + HEAD_HIDDEN + OUTPUTS) * 4
    }
}

/// `folded` with these operands: fragments, then the vectors. f16 is for networks that
/// [`WeightLayout::of`] gives it.
///
/// # Errors
/// When the kernels cannot run it.
pub fn pack(folded: &Folded, operands: OperandType) -> Result<Vec<u8>, Fault> {
    let layout = WeightLayout::new(folded.shape, operands)?;
    fragments::pack(folded, &FusedHeads::new(folded), layout)
}

/// Half of what f16 holds: the other half is for the rounding of sums.
const F16_LIMIT: f64 = 32_752.0;

/// No weight and no activation that enters a matrix product can be larger. Features stay below
/// 10,000 whatever the bytes of a position.
fn largest_operand(folded: &Folded) -> f64 {
    let weights = folded.matrices().flat_map(|linear| &linear.weight);
    let mut largest = weights.fold(0.0, |most: f64, weight| most.max(f64::from(weight.abs())));
    let length = (folded.shape.width() as f64).sqrt();
    let mut consider = |norm: &Norm, then: &[&Linear]| {
        let bound = then
            .iter()
            .map(|linear| largest_output(length, norm, linear));
        largest = bound.fold(largest.max(largest_norm(length, norm)), f64::max);
    };
    consider(&folded.input_norm, &[]);
    for layer in &folded.layers {
        consider(&layer.norm1, &[&layer.expand]);
        consider(&layer.norm2, &[]);
    }
    let last = folded
        .layers
        .last()
        .map_or(&folded.input_norm, |layer| &layer.norm2);
    consider(last, &[&folded.policy_hidden, &folded.value_hidden]);
    largest
}

/// A normalised row has `length`, the root of its width, at most, so no element beyond that.
fn largest_norm(length: f64, norm: &Norm) -> f64 {
    let element =
        |(gain, bias): (&f32, &f32)| length * f64::from(gain.abs()) + f64::from(bias.abs());
    let elements = norm.gain.iter().zip(&norm.bias).map(element);
    elements.fold(0.0, f64::max)
}

/// And by Cauchy and Schwarz no product beyond that times the length of its weights, each times its
/// gain.
fn largest_output(length: f64, norm: &Norm, linear: &Linear) -> f64 {
    let rows = linear.weight.chunks_exact(linear.inputs).zip(&linear.bias);
    let bound = rows.map(|(weights, bias)| {
        let (mut squares, mut offset) = (0.0, f64::from(*bias));
        for ((weight, gain), shift) in weights.iter().zip(&norm.gain).zip(&norm.bias) {
            let weight = f64::from(*weight);
            squares += (weight * f64::from(*gain)).powi(2);
            offset += weight * f64::from(*shift);
        }
        length * squares.sqrt() + offset.abs()
    });
    bound.fold(0.0, f64::max)
}

/// Both heads as one pair of matrices: width -> 512 (padded) -> 64 (padded), block-diagonal in the
/// second.
struct FusedHeads {
    hidden: Linear,
    out: Linear,
}

impl FusedHeads {
    fn new(folded: &Folded) -> Self {
        let zeros = |outputs: usize, inputs: usize| Linear {
            inputs,
            outputs,
            weight: vec![0.0; outputs * inputs],
            bias: vec![0.0; outputs],
        };
        let width = folded.shape.width();
        let mut hidden = zeros(HEAD_HIDDEN, width);
        let mut out = zeros(OUTPUTS, HEAD_HIDDEN);
        place(&mut hidden, &folded.policy_hidden, 0, 0);
        place(&mut hidden, &folded.value_hidden, width, 0);
        place(&mut out, &folded.policy_out, 0, 0);
        place(&mut out, &folded.value_out, ACTIONS, width);
        Self { hidden, out }
    }
}

const _: () = assert!(ACTIONS + SEATS <= OUTPUTS && WIDTHS[1] + WIDTHS[1] / 2 <= HEAD_HIDDEN);

/// Copies `part` into `whole` at an output and an input.
fn place(whole: &mut Linear, part: &Linear, output: usize, input: usize) {
    for (row, values) in part.weight.chunks_exact(part.inputs).enumerate() {
        let at = (output + row) * whole.inputs + input;
        whole.weight[at..][..part.inputs].copy_from_slice(values);
    }
    whole.bias[output..][..part.outputs].copy_from_slice(&part.bias);
}

/// Numbers in the kernels' formats, one after another.
struct OperandWriter {
    bytes: Vec<u8>,
    operands: OperandType,
    overflow: bool,
}

impl OperandWriter {
    fn new(operands: OperandType, bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            operands,
            overflow: false,
        }
    }

    fn operand(&mut self, value: f32) {
        let (bits, finite) = self.operands.round(value);
        self.overflow |= !finite;
        self.bytes.extend(bits.to_le_bytes());
    }

    fn floats(&mut self, values: &[f32]) {
        for value in values {
            self.bytes.extend(value.to_le_bytes());
        }
    }

    fn finish(self) -> Result<Vec<u8>, Fault> {
        if self.overflow {
            let cause = "a weight of the network is too large for bf16";
            return Err(Fault::new(cause, USE_CPU));
        }
        Ok(self.bytes)
    }
}

/// A weight of a mix matrix less the identity that the kernels add as the residual.
fn without_identity(linear: &Linear, output: usize, input: usize) -> f32 {
    let identity = if output == input { 1.0 } else { 0.0 };
    linear.weight[output * linear.inputs + input] - identity
}
