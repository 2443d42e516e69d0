//! The two inner loops of the CPU network: a batch of rows times a packed matrix, and the layer
//! norm. Both are safe code over `pulp`, which picks the widest instruction set of this CPU at run
//! time, so the binary itself needs only baseline x86-64. Every output is one chain of fused
//! multiply-adds, in ascending order of input, from the bias (and residual) on: SIMD lanes and
//! register tiles hold different outputs and rows, never parts of one sum. Hence an output's bits
//! depend on its row and the weights alone: not on the other rows of the batch, the tile sizes, the
//! number of threads, or even the instruction set.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};
use memmap2::MmapMut;
use pulp::{Arch, Simd, WithSimd};

use crate::network::{Linear, NORM_EPSILON, Norm};

/// Floats of one cache line; buffers are made of whole lines, so that vectors never straddle two.
const LINE_FLOATS: usize = 16;
/// Rows of a register tile at most: with 4 (AVX-512, NEON) or 2 (AVX2) vectors of outputs, 24 of 32
/// or 12 of 16 registers are accumulators, and the rest hold one line of weights and a broadcast
/// input.
const TILE_ROWS: usize = 6;
/// Partial sums of a layer norm: fixed, so that the order of additions is the same on every
/// instruction set.
const NORM_LANES: usize = 16;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct CacheLine([f32; LINE_FLOATS]);

/// A float buffer that starts on a cache line.
pub(super) struct AlignedBuffer(Vec<CacheLine>);

impl AlignedBuffer {
    /// `floats` zeros, rounded up to whole lines.
    pub(super) fn zeroed(floats: usize) -> Self {
        Self(vec![
            CacheLine([0.0; LINE_FLOATS]);
            floats.div_ceil(LINE_FLOATS)
        ])
    }

    pub(super) fn floats(&self) -> &[f32] {
        bytemuck::cast_slice(&self.0)
    }

    pub(super) fn floats_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

/// Rows of activations, `stride` floats apart.
pub(super) struct Activations {
    buffer: AlignedBuffer,
    stride: usize,
}

impl Activations {
    /// Room for `rows` rows of `width` floats and the padding that [`gemm`] writes. The stride
    /// is an odd number of cache lines: at a power of two all rows of a tile would fall into
    /// one set of the first-level cache.
    pub(super) fn zeroed(rows: usize, width: usize) -> Self {
        let stride = width.next_multiple_of(4 * LINE_FLOATS) + LINE_FLOATS;
        Self {
            buffer: AlignedBuffer::zeroed(rows * stride),
            stride,
        }
    }

    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.buffer.floats()[row * self.stride..][..self.stride]
    }

    pub(super) fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.buffer.floats_mut()[row * self.stride..][..self.stride]
    }
}

/// Memory for all packed matrices of a network. Every batch reads all of it in order, some 15 MB:
/// on pages of 4 KiB the address translation then costs a small batch more than the products do, so
/// huge pages are asked for. Where the system has none to give, it is merely slower.
pub(super) struct WeightArena {
    map: MmapMut,
    used: usize,
}

impl WeightArena {
    /// Room for `floats` floats.
    pub(super) fn new(floats: usize) -> std::io::Result<Self> {
        let map = MmapMut::map_anon(floats.max(1) * size_of::<f32>())?;
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self { map, used: 0 })
    }

    pub(super) fn floats(&self) -> &[f32] {
        bytemuck::cast_slice(&self.map)
    }

    /// The next `floats` floats, zero. Callers ask for whole lines, so that each piece starts on
    /// one.
    fn take(&mut self, floats: usize) -> (Range<usize>, &mut [f32]) {
        debug_assert!(floats.is_multiple_of(LINE_FLOATS));
        let range = self.used..self.used + floats;
        self.used = range.end;
        (
            range.clone(),
            &mut bytemuck::cast_slice_mut(&mut self.map)[range],
        )
    }
}

/// A matrix cut into panels of `panel` outputs, each `[inputs][panel]`: a tile then reads its
/// weights in one straight line. Outputs are padded with zeros to whole panels. The floats lie in
/// an [`WeightArena`].
pub(super) struct GemmPanels {
    inputs: usize,
    panel: usize,
    weight: Range<usize>,
    bias: Range<usize>,
}

impl GemmPanels {
    /// Floats that a matrix takes in the arena.
    pub(super) fn floats(arch: Arch, linear: &Linear) -> usize {
        let columns = linear.outputs.next_multiple_of(arch.dispatch(PanelWidth));
        (columns * linear.inputs).next_multiple_of(LINE_FLOATS)
            + columns.next_multiple_of(LINE_FLOATS)
    }

    pub(super) fn new(arch: Arch, linear: &Linear, arena: &mut WeightArena) -> Self {
        let panel = arch.dispatch(PanelWidth);
        let columns = linear.outputs.next_multiple_of(panel);
        let (weight, packed) = arena.take((columns * linear.inputs).next_multiple_of(LINE_FLOATS));
        for (output, row) in linear.weight.chunks_exact(linear.inputs).enumerate() {
            let start = output / panel * panel * linear.inputs + output % panel;
            for (input, value) in row.iter().enumerate() {
                packed[start + input * panel] = *value;
            }
        }
        let (bias, packed) = arena.take(columns.next_multiple_of(LINE_FLOATS));
        packed[..linear.outputs].copy_from_slice(&linear.bias);
        Self {
            inputs: linear.inputs,
            panel,
            weight,
            bias: bias.start..bias.start + columns,
        }
    }
}

/// What a product starts from and ends with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Epilogue {
    /// `y = W x + b`.
    Plain,
    /// `y = max(0, W x + b)`.
    Relu,
    /// `y = y + W x + b`.
    Residual,
}

/// `y = W x + b` for the first `rows` rows of `x`; padding outputs become 0 (or stay 0).
pub(super) fn gemm(
    arch: Arch,
    (matrix, arena): (&GemmPanels, &WeightArena),
    rows: usize,
    x: &Activations,
    y: &mut Activations,
    epilogue: Epilogue,
) {
    let weight = &arena.floats()[matrix.weight.clone()];
    let bias = &arena.floats()[matrix.bias.clone()];
    arch.dispatch(Gemm {
        inputs: matrix.inputs,
        panel: matrix.panel,
        weight,
        bias,
        rows,
        x,
        y,
        epilogue,
    });
}

/// Layer norm of the first `rows` rows, in place.
pub(super) fn norm(arch: Arch, norm: &Norm, rows: usize, y: &mut Activations) {
    arch.dispatch(|| {
        for row in y.buffer.floats_mut().chunks_exact_mut(y.stride).take(rows) {
            norm_row(&mut row[..norm.gain.len()], &norm.gain, &norm.bias);
        }
    });
}

#[inline(always)]
fn norm_row(row: &mut [f32], gain: &[f32], bias: &[f32]) {
    let scale = 1.0 / row.len() as f32;
    let mean = sum_of(row, |x| x) * scale;
    let variance = sum_of(row, |x| (x - mean) * (x - mean)) * scale;
    let inverse = 1.0 / (variance + NORM_EPSILON).sqrt();
    for ((x, gain), bias) in row.iter_mut().zip(gain).zip(bias) {
        *x = (*x - mean) * inverse * gain + bias;
    }
}

/// The sum of `term` over the row: 16 partial sums, element `i` to sum `i % 16`, then folded in
/// halves.
#[inline(always)]
fn sum_of(row: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0f32; NORM_LANES];
    let (chunks, rest) = row.as_chunks::<NORM_LANES>();
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += term(*x);
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += term(*x);
    }
    let mut half = NORM_LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}

/// The number of outputs in a panel: as many vectors as a register tile has columns.
struct PanelWidth;

impl WithSimd for PanelWidth {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES * if S::REGISTER_COUNT >= 32 { 4 } else { 2 }
    }
}

struct Gemm<'a> {
    inputs: usize,
    panel: usize,
    weight: &'a [f32],
    bias: &'a [f32],
    rows: usize,
    x: &'a Activations,
    y: &'a mut Activations,
    epilogue: Epilogue,
}

impl WithSimd for Gemm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if S::REGISTER_COUNT >= 32 {
            self.panels::<S, 4>(simd)
        } else {
            self.panels::<S, 2>(simd)
        }
    }
}

impl Gemm<'_> {
    /// Panels outside, tiles inside: a panel stays in the second-level cache while all rows pass
    /// over it. Tiles are of nearly equal height, so that no batch ends in a tile of one row.
    #[inline(always)]
    fn panels<S: Simd, const VECTORS: usize>(mut self, simd: S) {
        let tiles = self.rows.div_ceil(TILE_ROWS);
        for first in (0..self.bias.len()).step_by(self.panel) {
            let panel = &self.weight[first * self.inputs..][..self.panel * self.inputs];
            for tile in 0..tiles {
                let (start, end) = (tile * self.rows / tiles, (tile + 1) * self.rows / tiles);
                match end - start {
                    1 => self.tile::<S, 1, VECTORS>(simd, start, first, panel),
                    2 => self.tile::<S, 2, VECTORS>(simd, start, first, panel),
                    3 => self.tile::<S, 3, VECTORS>(simd, start, first, panel),
                    4 => self.tile::<S, 4, VECTORS>(simd, start, first, panel),
                    5 => self.tile::<S, 5, VECTORS>(simd, start, first, panel),
                    _ => self.tile::<S, TILE_ROWS, VECTORS>(simd, start, first, panel),
                }
            }
        }
    }

    /// `ROWS` rows from `start` on times one panel, whose outputs begin at `first`.
    #[inline(always)]
    fn tile<S: Simd, const ROWS: usize, const VECTORS: usize>(
        &mut self,
        simd: S,
        start: usize,
        first: usize,
        panel: &[f32],
    ) {
        let inputs = self.inputs;
        let width = VECTORS * S::F32_LANES;
        let (bias, _) =
            bytemuck::cast_slice::<f32, S::f32s>(&self.bias[first..][..width]).as_chunks();
        let bias: &[S::f32s; VECTORS] = &bias[0];
        let mut sums = [*bias; ROWS];
        if self.epilogue == Epilogue::Residual {
            for (row, sums) in sums.iter_mut().enumerate() {
                let y = bytemuck::cast_slice::<f32, S::f32s>(
                    &self.y.row(start + row)[first..][..width],
                );
                for (sum, y) in sums.iter_mut().zip(y) {
                    *sum = simd.add_f32s(*y, *sum);
                }
            }
        }
        let x: [&[f32]; ROWS] = std::array::from_fn(|row| &self.x.row(start + row)[..inputs]);
        let (lines, _) = bytemuck::cast_slice::<f32, S::f32s>(panel).as_chunks::<VECTORS>();
        for (input, line) in lines[..inputs].iter().enumerate() {
            for row in 0..ROWS {
                let value = simd.splat_f32s(x[row][input]);
                for vector in 0..VECTORS {
                    sums[row][vector] = simd.mul_add_f32s(value, line[vector], sums[row][vector]);
                }
            }
        }
        let zero = simd.splat_f32s(0.0);
        for (row, sums) in sums.iter().enumerate() {
            let y = bytemuck::cast_slice_mut::<f32, S::f32s>(
                &mut self.y.row_mut(start + row)[first..][..width],
            );
            for (y, sum) in y.iter_mut().zip(sums) {
                *y = if self.epilogue == Epilogue::Relu {
                    simd.max_f32s(*sum, zero)
                } else {
                    *sum
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The instruction sets of this CPU, the slow one without any first.
    fn instruction_sets() -> Vec<Arch> {
        let mut sets = vec![Arch::Scalar, Arch::new()];
        #[cfg(target_arch = "x86_64")]
        sets.extend(pulp::x86::V3::try_new().map(Arch::V3));
        sets
    }

    /// Norm of (residual + product), on one instruction set, as bits.
    fn compute(arch: Arch, linear: &Linear, parameters: &Norm, rows: usize) -> Vec<u32> {
        let mut arena = WeightArena::new(GemmPanels::floats(arch, linear)).expect("memory");
        let matrix = GemmPanels::new(arch, linear, &mut arena);
        let mut x = Activations::zeroed(rows, linear.inputs);
        let mut y = Activations::zeroed(rows, linear.outputs);
        let wave = |a: usize, b: usize| ((a * 37 + b * 11) as f32).sin();
        for row in 0..rows {
            let fill = |x: &mut [f32]| {
                x.iter_mut()
                    .enumerate()
                    .for_each(|(i, x)| *x = wave(row, i))
            };
            fill(&mut x.row_mut(row)[..linear.inputs]);
            fill(&mut y.row_mut(row)[..linear.outputs]);
        }
        gemm(
            arch,
            (&matrix, &arena),
            rows,
            &x,
            &mut y,
            Epilogue::Residual,
        );
        norm(arch, parameters, rows, &mut y);
        let bits = |row: usize| {
            y.row(row)[..linear.outputs]
                .iter()
                .map(|x| x.to_bits())
                .collect::<Vec<_>>()
        };
        (0..rows).flat_map(bits).collect()
    }

    #[test]
    fn all_instruction_sets_give_the_same_bits() {
        let (inputs, outputs) = (37, 75);
        let weight = (0..inputs * outputs)
            .map(|i| (i as f32 * 0.7).cos())
            .collect();
        let bias: Vec<f32> = (0..outputs).map(|i| i as f32 * 0.01).collect();
        let linear = Linear {
            inputs,
            outputs,
            weight,
            bias: bias.clone(),
        };
        let parameters = Norm {
            gain: bias.iter().map(|b| 1.0 + b).collect(),
            bias,
        };
        for rows in [1, 4, 6, 13] {
            let expected = compute(Arch::Scalar, &linear, &parameters, rows);
            for arch in instruction_sets() {
                assert_eq!(
                    compute(arch, &linear, &parameters, rows),
                    expected,
                    "{arch:?}, {rows} rows"
                );
            }
        }
    }
}
