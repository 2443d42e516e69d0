//! What varies between BlobNets: width, depth and hidden width. Names and dimensions of all tensors
//! follow from these.

use crate::network::{ACTIONS, FEATURES, SEATS};
use crate::plural::counted;

/// Largest accepted width, depth and hidden width: far above any sensible BlobNet, low enough that
/// sizes cannot overflow.
const WIDTH_MAX: usize = 4096;
const DEPTH_MAX: usize = 64;
const FFN_MAX: usize = 16_384;
/// Largest accepted number of parameters (1 GiB as f32); checked before anything is allocated.
const PARAMETERS_MAX: usize = 1 << 28;

/// What varies between BlobNets; features, actions and seats are fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    width: usize,
    depth: usize,
    ffn: usize,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { width, depth, ffn } = self;
        write!(f, "width {width}, {}, ffn {ffn}", counted(*depth, "layer"))
    }
}

/// A shape that no BlobNet can have here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// The width is odd (the value head halves it) or out of range.
    #[error("width {0} is not an even number from 2 to {WIDTH_MAX}")]
    Width(usize),
    /// The depth is out of range.
    #[error("depth {0} is not from 1 to {DEPTH_MAX}")]
    Depth(usize),
    /// The hidden width is out of range.
    #[error("feed-forward width {0} is not from 1 to {FFN_MAX}")]
    Ffn(usize),
    /// Each number is in range, but together they ask for too much memory.
    #[error("{0} parameters are more than {PARAMETERS_MAX}")]
    Parameters(usize),
}

impl Default for Shape {
    /// The BlobNet of 4.9 million parameters: 256 wide, 6 layers, feed-forward 1024.
    fn default() -> Self {
        Self {
            width: 256,
            depth: 6,
            ffn: 1024,
        }
    }
}

impl Shape {
    /// A shape of `width` (even, 2..=4096), `depth` encoder layers (1..=64) and hidden width `ffn`
    /// (1..=16384).
    ///
    /// # Errors
    /// [`ShapeError`] if a number is out of range, or the network would have more than 2^28
    /// parameters.
    pub fn new(width: usize, depth: usize, ffn: usize) -> Result<Self, ShapeError> {
        if !(2..=WIDTH_MAX).contains(&width) || !width.is_multiple_of(2) {
            return Err(ShapeError::Width(width));
        }
        if !(1..=DEPTH_MAX).contains(&depth) {
            return Err(ShapeError::Depth(depth));
        }
        if !(1..=FFN_MAX).contains(&ffn) {
            return Err(ShapeError::Ffn(ffn));
        }
        let shape = Self { width, depth, ffn };
        match shape.parameters() {
            parameters if parameters > PARAMETERS_MAX => Err(ShapeError::Parameters(parameters)),
            _ => Ok(shape),
        }
    }

    /// Width of the residual stream.
    pub fn width(self) -> usize {
        self.width
    }

    /// Number of encoder layers.
    pub fn depth(self) -> usize {
        self.depth
    }

    /// Hidden width of the feed-forward part of a layer.
    pub fn ffn(self) -> usize {
        self.ffn
    }

    /// Number of parameters, attention's unused Q and K included.
    pub fn parameters(self) -> usize {
        let w = self.width;
        let linear = |outputs: usize, inputs: usize| outputs * (inputs + 1);
        let layer =
            linear(3 * w, w) + linear(w, w) + linear(self.ffn, w) + linear(w, self.ffn) + 4 * w;
        let heads = linear(w, w) + linear(ACTIONS, w) + linear(w / 2, w) + linear(SEATS, w / 2);
        linear(w, FEATURES) + 3 * w + self.depth * layer + heads
    }

    /// Names and dimensions (PyTorch's: outputs, inputs) of all tensors, in canonical order.
    pub fn tensors(self) -> Vec<(String, Vec<usize>)> {
        let (w, f) = (self.width, self.ffn);
        let mut table = Vec::new();
        let mut pair = |name: &str, weight: &[usize], bias: usize| {
            table.push((format!("{name}weight"), weight.to_vec()));
            table.push((format!("{name}bias"), vec![bias]));
        };
        pair("input_embedding.", &[w, FEATURES], w);
        pair("input_norm.", &[w], w);
        for layer in 0..self.depth {
            let at = |part: &str| format!("transformer.layers.{layer}.{part}");
            pair(&at("self_attn.in_proj_"), &[3 * w, w], 3 * w);
            pair(&at("self_attn.out_proj."), &[w, w], w);
            pair(&at("linear1."), &[f, w], f);
            pair(&at("linear2."), &[w, f], w);
            pair(&at("norm1."), &[w], w);
            pair(&at("norm2."), &[w], w);
        }
        pair("policy_fc.0.", &[w, w], w);
        pair("policy_fc.3.", &[ACTIONS, w], ACTIONS);
        pair("value_fc.0.", &[w / 2, w], w / 2);
        pair("value_fc.3.", &[SEATS, w / 2], SEATS);
        table.push(("positional_encoding".into(), vec![1, 1, w]));
        table
    }
}
