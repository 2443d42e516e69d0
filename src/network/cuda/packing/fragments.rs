//! The order of `kernels/tiles.cuh`: every matrix cut into the A fragments of `mma.m16n8k16`, laid
//! in the order in which each warp uses them, then biases and norms in f32.
//!
//! The network is cut into 8 slices of 8 warps: 64 streams of equally many fragments, one after
//! another in memory. A fragment is 16 outputs by 16 inputs, 512 bytes, 16 for each of 32 lanes.
//! The stream of slice `s`, warp `w`:
//!
//! | phase | fragments | outputs | inputs |
//! |---|---|---|---|
//! | embed, and each layer's mix | 4 | tile `2s + w % 2` of 16 | quarter `w / 2`, in order |
//! | each layer's ffn, for `j` below ffn / 1024: expansion | 16 | hidden tile `8 (s ffn/1024 + j) + w` | all 256, in order |
//! | and contraction | 16 | tiles of the pair `w` (32 outputs), alternating | the 128 hidden units of `(s, j)`, in order |
//! | heads: hidden | 16 | tile `4s + w` of 512 (256 policy, 128 values, zeros) | all 256 |
//! | heads: outputs | 4 | tile `w` of 64 (52 logits, 8 values, zeros) | the 64 hidden units of `s` |
//!
//! Warps 4 to 7 have no part in the heads; their streams end in zeros that nobody reads.
//!
//! Rows of a fragment are permuted so that a lane's sums are neighbouring outputs: rows `g` and
//! `g + 8` hold outputs `2g` and `2g + 1`; in the pair of a contraction, rows `g`, `g + 8` of tile `h`
//! hold outputs `4g + 2h` and the next.

use super::{Heads, Layout, PackError, SLICES, WIDTH, Writer, without_identity};
use crate::network::{Folded, Linear, Norm};

const WARPS: usize = 8;
const FRAGMENT_BYTES: usize = 512;
const TILE: usize = 16;
const HEAD_WARPS: usize = 4;
const MIX_FRAGMENTS: usize = 4;
const HEAD_FRAGMENTS: usize = 20;

/// Fragments of each of the 64 streams.
pub(super) fn of_stream(layout: Layout) -> usize {
    MIX_FRAGMENTS + layout.depth * (MIX_FRAGMENTS + 32 * layout.units()) + HEAD_FRAGMENTS
}

/// Bytes of all streams.
pub(super) fn bytes(layout: Layout) -> usize {
    SLICES * WARPS * of_stream(layout) * FRAGMENT_BYTES
}

/// The fragments of all streams, then the vectors.
pub(super) fn pack(folded: &Folded, heads: &Heads, layout: Layout) -> Result<Vec<u8>, PackError> {
    let mut packer = Packer(Writer::new(layout.operands, layout.bytes()));
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
            packer.heads(heads, slice, warp);
        }
    }
    packer.norm(&folded.embed.bias, &folded.input_norm);
    for layer in &folded.layers {
        packer.norm(&layer.mix.bias, &layer.norm1);
        packer.norm(&layer.contract.bias, &layer.norm2);
    }
    for layer in &folded.layers {
        packer.0.floats(&layer.expand.bias);
    }
    packer.0.floats(&heads.hidden.bias);
    packer.0.floats(&heads.out.bias);
    debug_assert_eq!(packer.0.bytes.len(), layout.bytes());
    packer.0.finish()
}

struct Packer(Writer);

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
                    self.0.operand(value);
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
                if residual {
                    without_identity(linear, output, input)
                } else {
                    linear.weight[output * linear.inputs + input]
                }
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
            let bytes = self.0.bytes.len() + HEAD_FRAGMENTS * FRAGMENT_BYTES;
            self.0.bytes.resize(bytes, 0);
            return;
        }
        self.expansion(&heads.hidden, slice * HEAD_WARPS + warp);
        self.tile(&heads.out, warp, slice * 4..slice * 4 + 4, false);
    }

    fn norm(&mut self, bias: &[f32], norm: &Norm) {
        for values in [bias, &norm.gain, &norm.bias] {
            self.0.floats(values);
        }
    }
}
