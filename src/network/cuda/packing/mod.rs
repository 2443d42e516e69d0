//! The folded network as the CUDA kernels read it: all matrices in 16 bits, in the order of
//! `kernels/tiles.cuh` (`fragments`), and biases and norms in f32 behind them. This folder is the
//! only source of that order; the kernels get their shape and offsets as `-D` options and refuse to
//! compile if they count differently.
//!
//! The 16 bits are f16 where the weights prove that no weight and no activation can leave its range
//! (a norm's output has a known length, so a bound on every hidden unit follows), else bf16. Both
//! run at the same rate; f16 rounds 8 times finer. Mix matrices are stored without the identity:
//! the kernels add the residual in f32 instead, which keeps bits that 16 would lose.

mod fragments;

use half::{bf16, f16};

use crate::network::{ACTIONS, Folded, Linear, Norm, SEATS, Shape};

/// The one width that the kernels are written for.
pub const WIDTH: usize = 256;
/// Hidden widths must be a multiple of this: 8 slices of 8 warps of 16 units.
pub const FFN_STEP: usize = 1024;

/// Parts that every sum over hidden units is cut into.
const SLICES: usize = 8;
/// Hidden units of both heads, padded.
const HEAD_HIDDEN: usize = 512;
/// Outputs of both heads, padded.
const OUTPUTS: usize = 64;

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

/// Where things lie; what the kernels are told of it.
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

    /// Per norm: the bias of the product before it, its gain, its own bias.
    fn norms_offset(self) -> usize {
        fragments::bytes(self)
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

    /// Length of the whole, in bytes.
    pub fn bytes(self) -> usize {
        self.output_bias_offset() + OUTPUTS * 4
    }

    /// The compiler options that tell the kernel all this.
    pub fn defines(self) -> Vec<String> {
        [
            ("F16", usize::from(self.operands == Operands::F16)),
            ("DEPTH", self.depth),
            ("FFN_UNITS", self.units()),
            ("STREAM_FRAGMENTS", fragments::of_stream(self)),
            ("NORMS_OFFSET", self.norms_offset()),
            ("HIDDEN_BIAS_OFFSET", self.hidden_bias_offset()),
            ("HEAD_BIAS_OFFSET", self.head_bias_offset()),
            ("OUTPUT_BIAS_OFFSET", self.output_bias_offset()),
        ]
        .into_iter()
        .map(|(name, value)| format!("-DBLOBNET_{name}={value}"))
        .collect()
    }
}

/// `folded` with these operands: fragments, then the vectors. f16 is for networks that
/// [`Layout::of`] gives it.
///
/// # Errors
/// [`PackError`] if the kernels cannot run it.
pub fn pack(folded: &Folded, operands: Operands) -> Result<Vec<u8>, PackError> {
    let layout = Layout::new(folded.shape, operands)?;
    fragments::pack(folded, &Heads::new(folded), layout)
}

/// Half of what f16 holds: the other half is for the rounding of sums.
const F16_LIMIT: f64 = 32_752.0;

/// No weight and no activation that enters a matrix product can be larger. Features stay below
/// 10,000 whatever the bytes of a position.
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

/// And by Cauchy and Schwarz no product beyond 16 times the length of its weights, each times its
/// gain.
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

/// Both heads as one pair of matrices: 256 -> 512 (padded) -> 64 (padded), block-diagonal in the
/// second.
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

/// Numbers in the kernels' formats, one after another.
struct Writer {
    bytes: Vec<u8>,
    operands: Operands,
    overflow: bool,
}

impl Writer {
    fn new(operands: Operands, bytes: usize) -> Self {
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

    fn finish(self) -> Result<Vec<u8>, PackError> {
        if self.overflow {
            return Err(PackError::Magnitude);
        }
        Ok(self.bytes)
    }
}

/// A weight of a mix matrix less the identity that the kernels add as the residual.
fn without_identity(linear: &Linear, output: usize, input: usize) -> f32 {
    let identity = if output == input { 1.0 } else { 0.0 };
    linear.weight[output * linear.inputs + input] - identity
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Weights;

    #[test]
    fn default_shape_packs_to_its_weights_and_little_more() {
        let folded = Folded::new(&Weights::seeded(1, Shape::default()));
        let layout = Layout::of(&folded).unwrap();
        assert_eq!(layout.operands(), Operands::F16);
        let packed = pack(&folded, layout.operands()).unwrap();
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
            let packed = pack(folded, Operands::Bf16).unwrap();
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
            pack(&folded, Operands::Bf16).unwrap_err()
        };
        assert_eq!(refused(32, 1024), PackError::Width(32));
        assert_eq!(refused(256, 1000), PackError::Ffn(1000));
        for error in [refused(32, 32), refused(256, 512)] {
            assert!(error.to_string().contains("--backend cpu"), "{error}");
        }
        let mut folded = Folded::new(&Weights::seeded(1, Shape::new(256, 1, 1024).unwrap()));
        folded.embed.weight[7] = f32::MAX;
        assert_eq!(pack(&folded, Operands::Bf16), Err(PackError::Magnitude));
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
