//! Does a network overflow? Parameters that are finite one by one may still give infinities on the
//! way, and what comes out then is a uniform policy and no values, without a word. So a network is
//! tried on some positions of the game before it plays: in plain f32, unfolded, the positions side
//! by side, which takes some milliseconds for the default shape.

use std::path::Path;

use super::error::WeightsError;
use super::weights::Weights;
use crate::network::{FEATURES, NORM_EPSILON, samples};

/// Positions tried at once.
const ROWS: usize = 8;
/// They are so far apart in `samples`, so that they are of all table sizes.
const APART: usize = 37;

/// A number of each position, by channel.
type Columns = Vec<[f32; ROWS]>;

impl Weights {
    /// Checks that everything the network computes in some ordinary positions is finite; `file` is
    /// only named in errors.
    ///
    /// # Errors
    /// Names where it first is not.
    pub fn check_outputs(&self, file: &Path) -> Result<(), WeightsError> {
        forward(self).map(drop).map_err(|tensor| {
            let cause = format!(
                "the network overflows: what `{tensor}` gives is not finite in an ordinary position"
            );
            WeightsError::of(file, cause, "use an earlier checkpoint")
        })
    }
}

/// Takes the positions through the network: logits, and values before their tanh; or the name of
/// the parameters whose outputs are not finite.
fn forward(weights: &Weights) -> Result<[Columns; 2], String> {
    let mut y = linear(weights, "input_embedding", &positions())?;
    norm(weights, "input_norm", &mut y)?;
    let offsets = weights.tensor("positional_encoding");
    for (channel, offset) in y.iter_mut().zip(offsets) {
        channel.iter_mut().for_each(|value| *value += offset);
    }
    for layer in 0..weights.shape().depth() {
        let at = |part: &str| format!("transformer.layers.{layer}.{part}");
        // Of one token the attention is its value projection, the last third.
        let w = weights.shape().width();
        let in_proj = at("self_attn.in_proj_");
        let matrix = &weights.tensor(&format!("{in_proj}weight"))[2 * w * w..];
        let bias = &weights.tensor(&format!("{in_proj}bias"))[2 * w..];
        let attended = multiply(matrix, bias, &y).ok_or(format!("{in_proj}weight"))?;
        add(
            &mut y,
            &linear(weights, &at("self_attn.out_proj"), &attended)?,
        );
        norm(weights, &at("norm1"), &mut y)?;
        let hidden = relu(linear(weights, &at("linear1"), &y)?);
        add(&mut y, &linear(weights, &at("linear2"), &hidden)?);
        norm(weights, &at("norm2"), &mut y)?;
    }
    let head = |name: &str| {
        let hidden = relu(linear(weights, &format!("{name}.0"), &y)?);
        linear(weights, &format!("{name}.3"), &hidden)
    };
    Ok([head("policy_fc")?, head("value_fc")?])
}

/// The features of the positions.
fn positions() -> Columns {
    let mut columns = vec![[0.0; ROWS]; FEATURES];
    let requests = samples::requests(ROWS * APART);
    for (row, request) in requests.iter().step_by(APART).enumerate() {
        let mut features = [0.0; FEATURES];
        request.position.expand(&mut features);
        for (column, feature) in columns.iter_mut().zip(features) {
            column[row] = feature;
        }
    }
    columns
}

fn linear(weights: &Weights, name: &str, x: &Columns) -> Result<Columns, String> {
    let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
    multiply(weights.tensor(&weight), weights.tensor(&bias), x).ok_or(weight)
}

/// `weight x + bias`, if it is finite.
fn multiply(weight: &[f32], bias: &[f32], x: &Columns) -> Option<Columns> {
    let rows = weight.chunks_exact(x.len()).zip(bias);
    rows.map(|(row, bias)| {
        let mut sums = [*bias; ROWS];
        for (weight, values) in row.iter().zip(x) {
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += weight * value;
            }
        }
        sums.iter().all(|sum| sum.is_finite()).then_some(sums)
    })
    .collect()
}

fn norm(weights: &Weights, name: &str, x: &mut Columns) -> Result<(), String> {
    let (gain, bias) = (format!("{name}.weight"), format!("{name}.bias"));
    let (gains, biases) = (weights.tensor(&gain), weights.tensor(&bias));
    let count = x.len() as f32;
    for row in 0..ROWS {
        let mean = x.iter().map(|channel| channel[row]).sum::<f32>() / count;
        let square = |channel: &[f32; ROWS]| (channel[row] - mean).powi(2);
        let variance = x.iter().map(square).sum::<f32>() / count;
        // An infinite one would make nothing of the whole row.
        if !variance.is_finite() {
            return Err(gain);
        }
        let scale = 1.0 / (variance + NORM_EPSILON).sqrt();
        for ((channel, gain), bias) in x.iter_mut().zip(gains).zip(biases) {
            channel[row] = (channel[row] - mean) * scale * gain + bias;
        }
    }
    let is_finite = x.iter().flatten().all(|value| value.is_finite());
    is_finite.then_some(()).ok_or(gain)
}

fn add(sums: &mut Columns, terms: &Columns) {
    for (sum, term) in sums.iter_mut().flatten().zip(terms.iter().flatten()) {
        *sum += term;
    }
}

fn relu(mut x: Columns) -> Columns {
    x.iter_mut()
        .flatten()
        .for_each(|value| *value = value.max(0.0));
    x
}

#[cfg(test)]
mod tests {
    use super::super::weights::Tensor;
    use super::*;
    use crate::network::{CpuNetwork, Folded, Shape};
    use std::sync::Arc;

    /// Weights with the tensors of which this is the beginning changed.
    fn changed(start: &str, change: impl Fn(f32) -> f32) -> Weights {
        let weights = Weights::seeded(3, Shape::new(16, 2, 24).expect("in range"));
        let tensors = weights.all().iter().map(|tensor| Tensor {
            data: match tensor.name.starts_with(start) {
                true => tensor.data.iter().map(|value| change(*value)).collect(),
                false => tensor.data.clone(),
            },
            ..tensor.clone()
        });
        Weights::from_tensors(weights.shape(), tensors.collect(), String::new())
    }

    fn refusal(weights: &Weights) -> String {
        let error = weights
            .check_outputs(Path::new("net"))
            .expect_err("refused");
        error.to_string()
    }

    #[test]
    fn finite_weights_that_overflow_are_refused_where_they_do() {
        let all = refusal(&changed("", |value| value * 1e30));
        assert!(
            all.starts_with("net: the network overflows: what `input_norm.weight` gives"),
            "{all}"
        );
        for (start, first) in [
            (
                "transformer.layers.1.linear2",
                "transformer.layers.1.norm2.weight",
            ),
            (
                "transformer.layers.0.self_attn",
                "transformer.layers.0.self_attn.out_proj.weight",
            ),
            ("policy_fc", "policy_fc.3.weight"),
            ("value_fc", "value_fc.3.weight"),
        ] {
            let said = refusal(&changed(start, |value| value * 1e30));
            assert!(said.contains(&format!("`{first}`")), "{start}: {said}");
        }
    }

    #[test]
    fn networks_that_play_are_not() {
        for scale in [0.0, 1.0, 100.0, 1e6] {
            let weights = changed("", |value| value * scale);
            assert!(weights.check_outputs(Path::new("net")).is_ok(), "{scale}");
        }
    }

    #[test]
    fn what_is_tried_is_what_plays() {
        let weights = Weights::seeded(1, Shape::new(16, 2, 24).expect("in range"));
        let (columns, outputs) = (positions(), forward(&weights).expect("finite"));
        let folded = Arc::new(Folded::new(&weights));
        let mut network = CpuNetwork::new(folded, 1, ROWS).expect("one thread");
        network.run(ROWS, |row, features| {
            for (feature, column) in features.iter_mut().zip(&columns) {
                *feature = column[row];
            }
            assert!(features.iter().any(|feature| *feature != 0.0));
        });
        for row in 0..ROWS {
            for (logit, expected) in outputs[0].iter().zip(network.logits(row)) {
                assert!((logit[row] - expected).abs() < 1e-4);
            }
            for (value, expected) in outputs[1].iter().zip(network.values(row)) {
                assert!((value[row].tanh() - expected).abs() < 1e-4);
            }
        }
    }
}
