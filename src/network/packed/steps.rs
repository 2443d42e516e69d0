//! The order of `kernels/warpgroups.cuh`: every matrix as a run of steps, each 256 outputs by 16 inputs, 8 KB, in the order of use:
//! embed; of each layer mix, then for each 256 hidden units their expansion and their contraction; the heads likewise, with 512 hidden
//! units (256 policy, 128 values, zeros) and 256 outputs (52 logits, 8 values, zeros). A step is two columns of blocks of 8 outputs by
//! 8 inputs; a block is 128 bytes, output by output, and the 32 blocks of a column follow one another: what `wgmma` takes without a swizzle.

use super::{
    ACTIONS, HEAD_HIDDEN, Heads, Layout, PackError, SEATS, WIDTH, Writer, without_identity,
};
use crate::network::folded::{Folded, Linear};

const INPUTS: usize = 16;
const BLOCK: usize = 8;
const STEP_BYTES: usize = WIDTH * INPUTS * 2;
/// Of a product with 256 inputs.
const PRODUCT_STEPS: usize = WIDTH / INPUTS;

/// Steps of the whole network.
pub(super) fn count(layout: Layout) -> usize {
    let products = 1 + layout.depth * (1 + 2 * layout.ffn / WIDTH) + 2 * HEAD_HIDDEN / WIDTH;
    products * PRODUCT_STEPS
}

/// All steps.
pub(super) fn pack(folded: &Folded, heads: &Heads, layout: Layout) -> Result<Vec<u8>, PackError> {
    let bytes = count(layout) * STEP_BYTES;
    let mut writer = Writer::new(layout.operands, bytes);
    let weight = |linear: &Linear, output: usize, input: usize| {
        linear.weight[output * linear.inputs + input]
    };
    product(&mut writer, |output, input| {
        weight(&folded.embed, output, input)
    });
    for layer in &folded.layers {
        product(&mut writer, |output, input| {
            without_identity(&layer.mix, output, input)
        });
        for first in (0..layout.ffn).step_by(WIDTH) {
            product(&mut writer, |unit, input| {
                weight(&layer.expand, first + unit, input)
            });
            product(&mut writer, |output, unit| {
                weight(&layer.contract, output, first + unit)
            });
        }
    }
    for first in (0..HEAD_HIDDEN).step_by(WIDTH) {
        product(&mut writer, |unit, input| {
            weight(&heads.hidden, first + unit, input)
        });
        product(&mut writer, |output, unit| {
            if output < ACTIONS + SEATS {
                weight(&heads.out, output, first + unit)
            } else {
                0.0
            }
        });
    }
    debug_assert_eq!(writer.bytes.len(), bytes);
    writer.finish()
}

/// The steps of one matrix, 256 outputs by 256 inputs.
fn product(writer: &mut Writer, weight: impl Fn(usize, usize) -> f32) {
    for first in (0..WIDTH).step_by(BLOCK) {
        for output in 0..WIDTH {
            for input in first..first + BLOCK {
                writer.operand(weight(output, input));
            }
        }
    }
}
