//! The folded network as `kernels/blobnet.cu` reads it: every matrix in 16 bits, cut into the A fragments of `mma.m16n8k16`
//! and laid in the order in which each warp uses them, then biases and norms in f32. This module is the only source of
//! that order; the kernel gets its shape and offsets as `-D` options and refuses to compile if it counts differently.
//!
//! The network is cut into 8 slices of 8 warps: 64 streams of equally many fragments, one after another in memory.
//! A fragment is 16 outputs by 16 inputs, 512 bytes, 16 for each of 32 lanes. The stream of slice `s`, warp `w`:
//!
//! | phase | fragments | outputs | inputs |
//! |---|---|---|---|
//! | embed, and each layer's mix | 4 | tile `2s + w % 2` of 16 | quarter `w / 2`, in order |
//! | each layer's ffn, for `j` below ffn / 1024: expansion | 16 | hidden tile `8 (s ffn/1024 + j) + w` | all 256, in order |
//! | and contraction | 16 | tiles of the pair `w` (32 outputs), alternating | the 128 hidden units of `(s, j)`, in order |
//! | heads: hidden | 16 | tile `4s + w` of 512 (256 policy, 128 values, zeros) | all 256 |
//! | heads: outputs | 4 | tile `w` of 64 (52 logits, 8 values, zeros) | the 64 hidden units of `s` |
//!
//! Warps 4 to 7 have no part in the heads; their streams end in zeros that nobody reads. Mix matrices are stored without
//! the identity: the kernel adds the residual in f32 instead, which keeps bits that 16 would lose.
//!
//! The 16 bits are f16 where the weights prove that no weight and no activation can leave its range (a norm's output has
//! a known length, so a bound on every hidden unit follows), else bf16. Both run at the same rate; f16 rounds 8 times finer.
//!
//! Rows of a fragment are permuted so that a lane's sums are neighbouring outputs: rows `g` and `g + 8` hold outputs
//! `2g` and `2g + 1`; in the pair of a contraction, rows `g`, `g + 8` of tile `h` hold outputs `4g + 2h` and the next.

use half::{bf16, f16};

use super::folded::{Folded, Linear, Norm};
use super::weights::Shape;
use super::{ACTIONS, SEATS};

/// The one width that the kernels are written for.
pub const WIDTH: usize = 256;
/// Hidden widths must be a multiple of this: 8 slices of 8 warps of 16 units.
pub const FFN_STEP: usize = 1024;

const SLICES: usize = 8;
const WARPS: usize = 8;
const FRAGMENT_BYTES: usize = 512;
const TILE: usize = 16;
const HEAD_HIDDEN: usize = 512;
const HEAD_WARPS: usize = 4;
const OUTPUTS: usize = 64;
const MIX_FRAGMENTS: usize = 4;
const HEAD_FRAGMENTS: usize = 20;

/// Why the kernels cannot run a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// Another width.
    #[error(
        "the CUDA kernels run networks of width {WIDTH}, this one is {0} wide: use --backend cpu"
    )]
    Width(usize),
    /// A hidden width that does not divide evenly.
    #[error(
        "the CUDA kernels run networks whose feed-forward width is a multiple of {FFN_STEP}, this one's is {0}: use --backend cpu"
    )]
    Ffn(usize),
    /// A weight beyond bf16.
    #[error("a weight of the network is too large for bf16: use --backend cpu")]
    Magnitude,
}

/// The 16-bit format of weights and activations in the matrix products; sums are f32 either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operands {
    /// 11 bits of precision, up to 65,504.
    F16,
    /// 8 bits of precision, the range of f32.
    Bf16,
}

impl Operands {
    /// As it stands in reports.
    pub fn name(self) -> &'static str {
        match self {
            Operands::F16 => "f16",
            Operands::Bf16 => "bf16",
        }
    }

    fn round(self, value: f32) -> (u16, bool) {
        match self {
            Operands::F16 => {
                let rounded = f16::from_f32(value);
                (rounded.to_bits(), rounded.is_finite())
            }
            Operands::Bf16 => {
                let rounded = bf16::from_f32(value);
                (rounded.to_bits(), rounded.is_finite())
            }
        }
    }
}

/// Where things lie in the packed buffer; what the kernel is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    depth: usize,
    ffn: usize,
    operands: Operands,
}

impl Layout {
    /// The layout of `folded`, with the best operands that it allows.
    ///
    /// # Errors
    /// [`PackError`] if the kernels are not written for the shape.
    pub fn of(folded: &Folded) -> Result<Self, PackError> {
        let layout = Self::new(folded.shape, Operands::Bf16)?;
        let operands = if largest_operand(folded) <= F16_LIMIT {
            Operands::F16
        } else {
            Operands::Bf16
        };
        Ok(Self { operands, ..layout })
    }

    /// The layout of a network of this shape.
    ///
    /// # Errors
    /// [`PackError`] if the kernels are not written for the shape.
    pub fn new(shape: Shape, operands: Operands) -> Result<Self, PackError> {
        if shape.width() != WIDTH {
            return Err(PackError::Width(shape.width()));
        }
        if !shape.ffn().is_multiple_of(FFN_STEP) {
            return Err(PackError::Ffn(shape.ffn()));
        }
        Ok(Self {
            depth: shape.depth(),
            ffn: shape.ffn(),
            operands,
        })
    }

    /// The format of weights and activations.
    pub fn operands(self) -> Operands {
        self.operands
    }

    fn units(self) -> usize {
        self.ffn / FFN_STEP
    }

    fn stream_fragments(self) -> usize {
        MIX_FRAGMENTS + self.depth * (MIX_FRAGMENTS + 32 * self.units()) + HEAD_FRAGMENTS
    }

    /// Per norm: the bias of the product before it, its gain, its own bias.
    fn norms_offset(self) -> usize {
        SLICES * WARPS * self.stream_fragments() * FRAGMENT_BYTES
    }

    fn hidden_bias_offset(self) -> usize {
        self.norms_offset() + (1 + 2 * self.depth) * 3 * WIDTH * 4
    }

    fn head_bias_offset(self) -> usize {
        self.hidden_bias_offset() + self.depth * self.ffn * 4
    }

    fn output_bias_offset(self) -> usize {
        self.head_bias_offset() + HEAD_HIDDEN * 4
    }

    /// Length of the packed buffer.
    pub fn bytes(self) -> usize {
        self.output_bias_offset() + OUTPUTS * 4
    }

    /// The compiler options that tell the kernel all this.
    pub fn defines(self) -> Vec<String> {
        [
            ("F16", usize::from(self.operands == Operands::F16)),
            ("DEPTH", self.depth),
            ("FFN_UNITS", self.units()),
            ("STREAM_FRAGMENTS", self.stream_fragments()),
            ("NORMS_OFFSET", self.norms_offset()),
            ("HIDDEN_BIAS_OFFSET", self.hidden_bias_offset()),
            ("HEAD_BIAS_OFFSET", self.head_bias_offset()),
            ("OUTPUT_BIAS_OFFSET", self.output_bias_offset()),
        ]
        .map(|(name, value)| format!("-DBLOBNET_{name}={value}"))
        .to_vec()
    }
}

/// Packs a network for the kernels, in the layout that [`Layout::of`] gives it.
///
/// # Errors
/// [`PackError`] if the kernels cannot run it.
pub fn pack(folded: &Folded) -> Result<Vec<u8>, PackError> {
    pack_as(folded, Layout::of(folded)?.operands)
}

/// Packs a network with these operands; f16 is for networks that [`Layout::of`] gives it.
///
/// # Errors
/// [`PackError`] if the kernels cannot run it.
pub fn pack_as(folded: &Folded, operands: Operands) -> Result<Vec<u8>, PackError> {
    let layout = Layout::new(folded.shape, operands)?;
    let heads = Heads::new(folded);
    let mut packer = Packer {
        bytes: Vec::with_capacity(layout.bytes()),
        operands,
        overflow: false,
    };
    for slice in 0..SLICES {
        for warp in 0..WARPS {
            packer.mix(&folded.embed, false, slice, warp);
            for layer in &folded.layers {
                packer.mix(&layer.mix, true, slice, warp);
                for unit in 0..layout.units() {
                    let pass = slice * layout.units() + unit;
                    packer.expansion(&layer.expand, pass * 8 + warp);
                    packer.contraction(&layer.contract, warp, pass * 8);
                }
            }
            packer.heads(&heads, slice, warp);
        }
    }
    packer.norm(&folded.embed.bias, &folded.input_norm);
    for layer in &folded.layers {
        packer.norm(&layer.mix.bias, &layer.norm1);
        packer.norm(&layer.contract.bias, &layer.norm2);
    }
    for layer in &folded.layers {
        packer.floats(&layer.expand.bias);
    }
    packer.floats(&heads.hidden.bias);
    packer.floats(&heads.out.bias);
    debug_assert_eq!(packer.bytes.len(), layout.bytes());
    if packer.overflow {
        return Err(PackError::Magnitude);
    }
    Ok(packer.bytes)
}

/// Half of what f16 holds: the other half is for the rounding of sums.
const F16_LIMIT: f64 = 32_752.0;

/// No weight and no activation that enters a matrix product can be larger. Features stay below 10,000 whatever the bytes
/// of a position.
fn largest_operand(folded: &Folded) -> f64 {
    let weights = folded.matrices().flat_map(|linear| &linear.weight);
    let mut largest = weights.fold(0.0, |most: f64, weight| most.max(f64::from(weight.abs())));
    let mut consider = |norm: &Norm, then: &[&Linear]| {
        let bound = then.iter().map(|linear| largest_output(norm, linear));
        largest = bound.fold(largest.max(largest_norm(norm)), f64::max);
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

/// A normalised row has length 16 = sqrt(256) at most, so no element beyond 16.
fn largest_norm(norm: &Norm) -> f64 {
    let element = |(gain, bias): (&f32, &f32)| 16.0 * f64::from(gain.abs()) + f64::from(bias.abs());
    let elements = norm.gain.iter().zip(&norm.bias).map(element);
    elements.fold(0.0, f64::max)
}

/// And by Cauchy and Schwarz no product beyond 16 times the length of its weights, each times its gain.
fn largest_output(norm: &Norm, linear: &Linear) -> f64 {
    let rows = linear.weight.chunks_exact(linear.inputs).zip(&linear.bias);
    let bound = rows.map(|(weights, bias)| {
        let (mut squares, mut offset) = (0.0, f64::from(*bias));
        for ((weight, gain), shift) in weights.iter().zip(&norm.gain).zip(&norm.bias) {
            let weight = f64::from(*weight);
            squares += (weight * f64::from(*gain)).powi(2);
            offset += weight * f64::from(*shift);
        }
        16.0 * squares.sqrt() + offset.abs()
    });
    bound.fold(0.0, f64::max)
}

/// Both heads as one pair of matrices: 256 -> 512 (padded) -> 64 (padded), block-diagonal in the second.
struct Heads {
    hidden: Linear,
    out: Linear,
}

impl Heads {
    fn new(folded: &Folded) -> Self {
        let zeros = |outputs: usize, inputs: usize| Linear {
            inputs,
            outputs,
            weight: vec![0.0; outputs * inputs],
            bias: vec![0.0; outputs],
        };
        let mut hidden = zeros(HEAD_HIDDEN, WIDTH);
        let mut out = zeros(OUTPUTS, HEAD_HIDDEN);
        place(&mut hidden, &folded.policy_hidden, 0, 0);
        place(&mut hidden, &folded.value_hidden, WIDTH, 0);
        place(&mut out, &folded.policy_out, 0, 0);
        place(&mut out, &folded.value_out, ACTIONS, WIDTH);
        Self { hidden, out }
    }
}

const _: () = assert!(ACTIONS + SEATS <= OUTPUTS && WIDTH + WIDTH / 2 <= HEAD_HIDDEN);

/// Copies `part` into `whole` at an output and an input.
fn place(whole: &mut Linear, part: &Linear, output: usize, input: usize) {
    for (row, values) in part.weight.chunks_exact(part.inputs).enumerate() {
        let at = (output + row) * whole.inputs + input;
        whole.weight[at..][..part.inputs].copy_from_slice(values);
    }
    whole.bias[output..][..part.outputs].copy_from_slice(&part.bias);
}

struct Packer {
    bytes: Vec<u8>,
    operands: Operands,
    overflow: bool,
}

impl Packer {
    /// One fragment: lane `4g + t` holds, as pairs along the inputs, rows `g`, `g + 8` at inputs `2t`, then both at
    /// `2t + 8`. `weight(row, input)` has both from 0 to 15.
    fn fragment(&mut self, weight: impl Fn(usize, usize) -> f32) {
        for lane in 0..32 {
            let (g, t) = (lane / 4, lane % 4);
            for (row, input) in [
                (g, 2 * t),
                (g + 8, 2 * t),
                (g, 2 * t + 8),
                (g + 8, 2 * t + 8),
            ] {
                for value in [weight(row, input), weight(row, input + 1)] {
                    let (bits, finite) = self.operands.round(value);
                    self.overflow |= !finite;
                    self.bytes.extend(bits.to_le_bytes());
                }
            }
        }
    }

    /// `tile` of the outputs against `inputs` tiles of 16 inputs.
    fn tile(
        &mut self,
        linear: &Linear,
        tile: usize,
        inputs: std::ops::Range<usize>,
        residual: bool,
    ) {
        for step in inputs {
            self.fragment(|row, input| {
                let output = tile * TILE + 2 * (row % 8) + row / 8;
                let input = step * TILE + input;
                let identity = if residual && output == input {
                    1.0
                } else {
                    0.0
                };
                linear.weight[output * linear.inputs + input] - identity
            });
        }
    }

    fn mix(&mut self, linear: &Linear, residual: bool, slice: usize, warp: usize) {
        let first = warp / 2 * MIX_FRAGMENTS;
        self.tile(
            linear,
            slice * 2 + warp % 2,
            first..first + MIX_FRAGMENTS,
            residual,
        );
    }

    fn expansion(&mut self, linear: &Linear, tile: usize) {
        self.tile(linear, tile, 0..WIDTH / TILE, false);
    }

    fn contraction(&mut self, linear: &Linear, pair: usize, first: usize) {
        for step in first..first + 8 {
            for half in 0..2 {
                self.fragment(|row, input| {
                    let output = pair * 32 + 4 * (row % 8) + 2 * half + row / 8;
                    linear.weight[output * linear.inputs + step * TILE + input]
                });
            }
        }
    }

    fn heads(&mut self, heads: &Heads, slice: usize, warp: usize) {
        if warp >= HEAD_WARPS {
            let bytes = self.bytes.len() + HEAD_FRAGMENTS * FRAGMENT_BYTES;
            self.bytes.resize(bytes, 0);
            return;
        }
        self.expansion(&heads.hidden, slice * HEAD_WARPS + warp);
        self.tile(&heads.out, warp, slice * 4..slice * 4 + 4, false);
    }

    fn norm(&mut self, bias: &[f32], norm: &Norm) {
        for values in [bias, &norm.gain, &norm.bias] {
            self.floats(values);
        }
    }

    fn floats(&mut self, values: &[f32]) {
        for value in values {
            self.bytes.extend(value.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Weights;
    use super::*;

    #[test]
    fn default_shape_packs_to_its_weights_and_little_more() {
        let folded = Folded::new(&Weights::seeded(1, Shape::default()));
        let layout = Layout::of(&folded).unwrap();
        assert_eq!(layout.operands(), Operands::F16);
        let packed = pack(&folded).unwrap();
        assert_eq!(packed.len(), layout.bytes());
        let exact = 2 * folded.multiply_adds();
        assert!((exact..exact * 107 / 100).contains(&packed.len()));
    }

    #[test]
    fn every_weight_is_packed_once() {
        let shape = Shape::new(256, 1, 2048).unwrap();
        let mut folded = Folded::new(&Weights::seeded(2, shape));
        // Everything but one matrix is zero; mix gets its identity taken off again.
        let clear = |linear: &mut Linear| linear.weight.fill(0.0);
        let mark = |linear: &mut Linear| linear.weight.fill(1.0);
        type Pick = fn(&mut Folded) -> &mut Linear;
        let picks: [Pick; 7] = [
            |f| &mut f.embed,
            |f| &mut f.layers[0].expand,
            |f| &mut f.layers[0].contract,
            |f| &mut f.policy_hidden,
            |f| &mut f.policy_out,
            |f| &mut f.value_hidden,
            |f| &mut f.value_out,
        ];
        for pick in picks {
            clear(pick(&mut folded));
        }
        let mix = &mut folded.layers[0].mix;
        clear(mix);
        (0..256).for_each(|i| mix.weight[i * 257] = 1.0);
        let weights = Layout::new(shape, Operands::Bf16).unwrap().norms_offset();
        let ones = |folded: &Folded| {
            let packed = pack_as(folded, Operands::Bf16).unwrap();
            let (pairs, _) = packed[..weights].as_chunks::<2>();
            pairs.iter().filter(|pair| **pair == [0x80, 0x3F]).count()
        };
        assert_eq!(ones(&folded), 0);
        for pick in picks {
            mark(pick(&mut folded));
            let size = pick(&mut folded).weight.len();
            assert_eq!(ones(&folded), size);
            clear(pick(&mut folded));
        }
    }

    #[test]
    fn other_shapes_are_refused_with_the_remedy() {
        let refused = |width, ffn| {
            let folded = Folded::new(&Weights::seeded(1, Shape::new(width, 1, ffn).unwrap()));
            pack(&folded).unwrap_err()
        };
        assert_eq!(refused(32, 1024), PackError::Width(32));
        assert_eq!(refused(256, 1000), PackError::Ffn(1000));
        for error in [refused(32, 32), refused(256, 512)] {
            assert!(error.to_string().contains("--backend cpu"), "{error}");
        }
        let mut folded = Folded::new(&Weights::seeded(1, Shape::new(256, 1, 1024).unwrap()));
        folded.embed.weight[7] = f32::MAX;
        assert_eq!(pack(&folded), Err(PackError::Magnitude));
    }

    #[test]
    fn numbers_beyond_f16_take_bf16() {
        let folded = Folded::new(&Weights::seeded(3, Shape::new(256, 1, 1024).unwrap()));
        let operands = |change: fn(&mut Folded)| {
            let mut folded = folded.clone();
            change(&mut folded);
            Layout::of(&folded).unwrap().operands()
        };
        assert_eq!(operands(|_| ()), Operands::F16);
        let changes: [fn(&mut Folded); 5] = [
            |folded| folded.embed.weight[3] = 40_000.0,
            |folded| folded.input_norm.gain[3] = 2500.0,
            |folded| folded.layers[0].norm2.bias[3] = -40_000.0,
            |folded| folded.layers[0].expand.bias[3] = 40_000.0,
            |folded| folded.value_hidden.weight[..256].fill(200.0),
        ];
        for change in changes {
            assert_eq!(operands(change), Operands::Bf16);
        }
    }
}
