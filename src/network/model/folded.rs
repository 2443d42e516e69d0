//! BlobNet as it is computed. The encoder sees one token, so the softmax over tokens is 1,
//! attention returns its value projection, and value projection, output projection and residual
//! fold into one matrix per layer: `y + Wo (Wv y + bv) + bo = (I + Wo Wv) y + (Wo bv + bo)`, exact
//! up to rounding (the fold is done in f64). Q and K drop out. What is left is a chain of matrices,
//! norms and ReLUs, 3.7 instead of 4.9 million multiply-adds.

use super::{Shape, Weights};
use crate::network::{ACTIONS, FEATURES, SEATS};

/// `y = weight x + bias`.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// Length of `x`.
    pub inputs: usize,
    /// Length of `y`.
    pub outputs: usize,
    /// Row-major `[outputs][inputs]`.
    pub weight: Vec<f32>,
    /// `[outputs]`.
    pub bias: Vec<f32>,
}

/// `y = gain * (x - mean) / sqrt(variance + 1e-5) + bias` over one row; the variance divides by the
/// row's length.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// `[width]`.
    pub gain: Vec<f32>,
    /// `[width]`.
    pub bias: Vec<f32>,
}

/// One encoder layer: `y = norm1(mix y)`, then `y = norm2(y + contract relu(expand y))`.
#[derive(Clone, Debug, PartialEq)]
pub struct FoldedLayer {
    /// Attention and residual, `[width][width]`.
    pub mix: Linear,
    /// After `mix`.
    pub norm1: Norm,
    /// `linear1`, `[ffn][width]`; ReLU follows.
    pub expand: Linear,
    /// `linear2`, `[width][ffn]`; the residual is added.
    pub contract: Linear,
    /// After the feed-forward part.
    pub norm2: Norm,
}

/// The chain `y = norm(embed x)`; layers; `logits = policy_out relu(policy_hidden y)`; `values =
/// tanh(value_out relu(value_hidden y))`. What every backend runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Folded {
    /// Width, depth and hidden width.
    pub shape: Shape,
    /// `[width][256]`.
    pub embed: Linear,
    /// After `embed`; its bias includes the learned position, which is added after this norm.
    pub input_norm: Norm,
    /// The encoder, first layer first.
    pub layers: Vec<FoldedLayer>,
    /// `policy_fc.0`, `[width][width]`.
    pub policy_hidden: Linear,
    /// `policy_fc.3`, `[52][width]`.
    pub policy_out: Linear,
    /// `value_fc.0`, `[width / 2][width]`.
    pub value_hidden: Linear,
    /// `value_fc.3`, `[8][width / 2]`; tanh follows.
    pub value_out: Linear,
}

impl Folded {
    /// Folds the parameters; takes some 0.1 s for the default shape.
    pub fn new(weights: &Weights) -> Self {
        let shape = weights.shape();
        let w = shape.width();
        let linear = |name: &str, outputs: usize, inputs: usize| Linear {
            inputs,
            outputs,
            weight: weights.tensor(&format!("{name}.weight")).to_vec(),
            bias: weights.tensor(&format!("{name}.bias")).to_vec(),
        };
        let norm = |name: &str| Norm {
            gain: weights.tensor(&format!("{name}.weight")).to_vec(),
            bias: weights.tensor(&format!("{name}.bias")).to_vec(),
        };
        let mut input_norm = norm("input_norm");
        for (bias, position) in input_norm
            .bias
            .iter_mut()
            .zip(weights.tensor("positional_encoding"))
        {
            *bias += position;
        }
        let layer = |index: usize| {
            let at = |part: &str| format!("transformer.layers.{index}.{part}");
            FoldedLayer {
                mix: fold_attention(weights, &at("self_attn")),
                norm1: norm(&at("norm1")),
                expand: linear(&at("linear1"), shape.ffn(), w),
                contract: linear(&at("linear2"), w, shape.ffn()),
                norm2: norm(&at("norm2")),
            }
        };
        Self {
            shape,
            embed: linear("input_embedding", w, FEATURES),
            input_norm,
            layers: (0..shape.depth()).map(layer).collect(),
            policy_hidden: linear("policy_fc.0", w, w),
            policy_out: linear("policy_fc.3", ACTIONS, w),
            value_hidden: linear("value_fc.0", w / 2, w),
            value_out: linear("value_fc.3", SEATS, w / 2),
        }
    }

    /// All matrices, in the order of use.
    pub fn matrices(&self) -> impl Iterator<Item = &Linear> {
        let layers = self
            .layers
            .iter()
            .flat_map(|layer| [&layer.mix, &layer.expand, &layer.contract]);
        let heads = [
            &self.policy_hidden,
            &self.policy_out,
            &self.value_hidden,
            &self.value_out,
        ];
        std::iter::once(&self.embed).chain(layers).chain(heads)
    }

    /// Multiply-adds of the matrix products for one position.
    pub fn multiply_adds(&self) -> usize {
        Self::multiply_adds_of(self.shape)
    }

    /// The same by the shape alone.
    pub fn multiply_adds_of(shape: Shape) -> usize {
        let (w, f) = (shape.width(), shape.ffn());
        FEATURES * w
            + shape.depth() * (w * w + 2 * w * f)
            + w * w
            + ACTIONS * w
            + w * (w / 2)
            + SEATS * (w / 2)
    }
}

/// `I + Wo Wv` and `Wo bv + bo`; `Wv` is the last third of `in_proj_weight`, after Q and K.
fn fold_attention(weights: &Weights, name: &str) -> Linear {
    let w = weights.shape().width();
    let value_weight = &weights.tensor(&format!("{name}.in_proj_weight"))[2 * w * w..];
    let value_bias = &weights.tensor(&format!("{name}.in_proj_bias"))[2 * w..];
    let out_weight = weights.tensor(&format!("{name}.out_proj.weight"));
    let out_bias = weights.tensor(&format!("{name}.out_proj.bias"));
    let mut weight = Vec::with_capacity(w * w);
    let mut bias = Vec::with_capacity(w);
    let mut row = vec![0.0f64; w];
    for output in 0..w {
        row.fill(0.0);
        row[output] = 1.0;
        let mut offset = f64::from(out_bias[output]);
        for (inner, through) in out_weight[output * w..][..w].iter().enumerate() {
            let through = f64::from(*through);
            for (sum, value) in row.iter_mut().zip(&value_weight[inner * w..][..w]) {
                *sum += through * f64::from(*value);
            }
            offset += through * f64::from(value_bias[inner]);
        }
        weight.extend(row.iter().map(|sum| *sum as f32));
        bias.push(offset as f32);
    }
    Linear {
        inputs: w,
        outputs: w,
        weight,
        bias,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiply_adds_are_those_of_the_matrices() {
        for shape in [Shape::default(), Shape::new(6, 2, 5).expect("in range")] {
            let folded = Folded::new(&Weights::seeded(1, shape));
            let total: usize = folded
                .matrices()
                .map(|linear| linear.inputs * linear.outputs)
                .sum();
            assert_eq!(folded.multiply_adds(), total);
        }
    }
}
