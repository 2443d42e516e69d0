//! The order of `kernels/tiles.cuh`: every matrix cut into the A fragments of `mma.m16n8k16`, laid
//! in the order in which each warp uses them, then biases and norms in f32.
//!
//! The network is cut into 8 slices of 8 warps: 64 streams of equally many fragments, one after
//! another in memory. A fragment is 16 outputs by 16 inputs, 512 bytes, 16 for each of 32 lanes.
//! The stream of slice `s`, warp `w`, at width 256:
//!
//! - embed, and each layer's mix: 4 fragments, tile `2s + w % 2` of 16 outputs, a quarter of the
//!   inputs, the `w / 2`th;
//! - each layer's ffn, for each pass `j` of ffn / 1024: 16 of the expansion, hidden tile
//!   `8 (s ffn/1024 + j) + w`, all inputs; and 16 of the contraction, two tiles of 16 outputs, the
//!   `w`th pair, alternating, the 128 hidden units of `(s, j)`;
//! - heads: 16, hidden tile `4s + w` of 512 (policy, values, zeros), all inputs; and 4, tile `w` of
//!   64 outputs (52 logits, 8 values, zeros), the 64 hidden units of `s`.
//!
//! At width 128 a slice has one tile of a mix, so its inputs are cut into 8 parts (2 fragments of
//! the embedding, 1 of a mix), a warp one tile of a contraction (8), and expansions have half the
//! inputs (8).
//!
//! Warps 4 to 7 have no part in the heads; their streams end in zeros that are never read.
//!
//! Rows of a fragment are permuted so that a lane's sums are neighbouring outputs: rows `g` and
//! `g + 8` hold outputs `2g` and `2g + 1`; in the pair of a contraction, rows `g`, `g + 8` of tile
//! `h` hold outputs `4g + 2h` and the next.

use super::{
    FEATURES, FusedHeads, HEAD_HIDDEN, OperandWriter, PASS_HIDDEN, SLICES, WeightLayout,
    without_identity,
};
use crate::fault::Fault;
use crate::network::{Folded, Linear, Norm};

const WARPS: usize = 8;
const FRAGMENT_BYTES: usize = 512;
const TILE: usize = 16;
const HEAD_WARPS: usize = 4;

/// Fragments of each of the 64 streams.
pub(super) fn of_stream(layout: WeightLayout) -> usize {
    let unit = layout.width / TILE + 8 * layout.tiles();
    let layer = of_part(layout, layout.width) + unit * layout.ffn_passes();
    of_part(layout, FEATURES) + layout.depth * layer + of_heads(layout)
}

/// Fragments of one tile of outputs along one part of the inputs of a mix.
fn of_part(layout: WeightLayout, inputs: usize) -> usize {
    inputs / TILE / (WARPS / layout.tiles())
}

fn of_heads(layout: WeightLayout) -> usize {
    layout.width / TILE + HEAD_HIDDEN / SLICES / TILE
}

/// Bytes of all streams.
pub(super) fn bytes(layout: WeightLayout) -> usize {
    SLICES * WARPS * of_stream(layout) * FRAGMENT_BYTES
}

/// The fragments of all streams, then the vectors.
pub(super) fn pack(
    folded: &Folded,
    heads: &FusedHeads,
    layout: WeightLayout,
) -> Result<Vec<u8>, Fault> {
    let mut packer = Packer {
        writer: OperandWriter::new(layout.operands, layout.bytes()),
        layout,
    };
    for slice in 0..SLICES {
        for warp in 0..WARPS {
            packer.mix(&folded.embed, false, slice, warp);
            for layer in &folded.layers {
                packer.mix(&layer.mix, true, slice, warp);
                for unit in 0..layout.ffn_passes() {
                    let pass = slice * layout.ffn_passes() + unit;
                    packer.expansion(&layer.expand, pass * 8 + warp);
                    packer.contraction(&layer.contract, warp, pass * 8);
                }
            }
            packer.heads(heads, slice, warp);
        }
    }
    packer.norm(&folded.embed.bias, &folded.input_norm);
    for layer in &folded.layers {
        packer.norm(&layer.mix.bias, &layer.norm1);
        packer.norm(&layer.contract.bias, &layer.norm2);
    }
    for layer in &folded.layers {
        packer.writer.floats(&layer.expand.bias);
        let missing = layout.ffn_passes() * PASS_HIDDEN - layout.ffn;
        packer.writer.floats(&vec![0.0; missing]);
    }
    packer.writer.floats(&heads.hidden.bias);
    packer.writer.floats(&heads.out.bias);
    debug_assert_eq!(packer.writer.bytes.len(), layout.bytes());
    packer.writer.finish()
}

struct Packer {
    writer: OperandWriter,
    layout: WeightLayout,
}

impl Packer {
    /// One fragment: lane `4g + t` holds, as pairs along the inputs, rows `g`, `g + 8` at inputs
    /// `2t`, then both at `2t + 8`. `weight(row, input)` has both from 0 to 15.
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
                    self.writer.operand(value);
                }
            }
        }
    }

    /// `tile` of the outputs against `inputs` tiles of 16 inputs; zeros where the matrix has no
    /// such outputs.
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
                match residual {
                    true => without_identity(linear, output, input),
                    false => weight(linear, output, input),
                }
            });
        }
    }

    fn mix(&mut self, linear: &Linear, residual: bool, slice: usize, warp: usize) {
        let tiles = self.layout.tiles();
        let fragments = of_part(self.layout, linear.inputs);
        let first = warp / tiles * fragments;
        self.tile(
            linear,
            slice * tiles + warp % tiles,
            first..first + fragments,
            residual,
        );
    }

    fn expansion(&mut self, linear: &Linear, tile: usize) {
        self.tile(linear, tile, 0..self.layout.width / TILE, false);
    }

    fn contraction(&mut self, linear: &Linear, warp: usize, first: usize) {
        if self.layout.tiles() == 1 {
            return self.tile(linear, warp, first..first + 8, false);
        }
        for step in first..first + 8 {
            for half in 0..2 {
                self.fragment(|row, input| {
                    let output = warp * 32 + 4 * (row % 8) + 2 * half + row / 8;
                    weight(linear, output, step * TILE + input)
                });
            }
        }
    }

    fn heads(&mut self, heads: &FusedHeads, slice: usize, warp: usize) {
        if warp >= HEAD_WARPS {
            let bytes = self.writer.bytes.len() + of_heads(self.layout) * FRAGMENT_BYTES;
            self.writer.bytes.resize(bytes, 0);
            return;
        }
        self.expansion(&heads.hidden, slice * HEAD_WARPS + warp);
        self.tile(&heads.out, warp, slice * 4..slice * 4 + 4, false);
    }

    fn norm(&mut self, bias: &[f32], norm: &Norm) {
        for values in [bias, &norm.gain, &norm.bias] {
            self.writer.floats(values);
        }
    }
}

/// A weight; zero for hidden units and outputs that only pad.
fn weight(linear: &Linear, output: usize, input: usize) -> f32 {
    match output < linear.outputs && input < linear.inputs {
        true => linear.weight[output * linear.inputs + input],
        false => 0.0,
    }
}
