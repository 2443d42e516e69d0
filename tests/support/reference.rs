//! The slow oracle of the network: BlobNet forward in f64 exactly as PyTorch defines it, unfolded,
//! attention written out with Q, K, V and the softmax over the single token.

use ringmaster::network::{ACTIONS, NORM_EPSILON, SEATS, Weights};

/// Logits and values of one position.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// 52 policy logits.
    pub logits: Vec<f64>,
    /// 8 values, tanh applied.
    pub values: Vec<f64>,
}

/// Runs one row of 256 features.
///
/// # Panics
/// If `features` is not 256 long.
pub fn forward(weights: &Weights, features: &[f32]) -> Output {
    let features: Vec<f64> = features.iter().copied().map(f64::from).collect();
    let mut y = linear(weights, "input_embedding.", &features);
    y = norm(weights, "input_norm", &y);
    for (y, position) in y.iter_mut().zip(weights.tensor("positional_encoding")) {
        *y += f64::from(*position);
    }
    for layer in 0..weights.shape().depth() {
        let at = |part: &str| format!("transformer.layers.{layer}.{part}");
        let attended = attention(weights, &at("self_attn."), &y);
        y = norm(weights, &at("norm1"), &add(&y, &attended));
        let hidden = relu(linear(weights, &at("linear1."), &y));
        y = norm(
            weights,
            &at("norm2"),
            &add(&y, &linear(weights, &at("linear2."), &hidden)),
        );
    }
    let logits = linear(
        weights,
        "policy_fc.3.",
        &relu(linear(weights, "policy_fc.0.", &y)),
    );
    let values = linear(
        weights,
        "value_fc.3.",
        &relu(linear(weights, "value_fc.0.", &y)),
    );
    assert_eq!((logits.len(), values.len()), (ACTIONS, SEATS));
    Output {
        logits,
        values: values.into_iter().map(f64::tanh).collect(),
    }
}

/// Multi-head self-attention over one token. A head sees a slice of Q, K and V; its softmax has one
/// score and is 1, so the heads' outputs laid side by side are V whatever their number, which the
/// parameters do not tell: 8 is taken, or 1 where the width does not divide.
fn attention(weights: &Weights, name: &str, y: &[f64]) -> Vec<f64> {
    let width = y.len();
    let projected = linear(weights, &format!("{name}in_proj_"), y);
    let (query, key, value) = (
        &projected[..width],
        &projected[width..2 * width],
        &projected[2 * width..],
    );
    let heads = if width.is_multiple_of(8) { 8 } else { 1 };
    let head_width = width / heads;
    let mut joined = Vec::with_capacity(width);
    for head in 0..heads {
        let channels = head * head_width..(head + 1) * head_width;
        let dot: f64 = query[channels.clone()]
            .iter()
            .zip(&key[channels.clone()])
            .map(|(q, k)| q * k)
            .sum();
        let scores = [dot / (head_width as f64).sqrt()];
        let largest = scores.iter().copied().fold(f64::MIN, f64::max);
        let exponentials = scores.map(|score| (score - largest).exp());
        let attention = exponentials.map(|e| e / exponentials.iter().sum::<f64>());
        joined.extend(value[channels].iter().map(|v| attention[0] * v));
    }
    linear(weights, &format!("{name}out_proj."), &joined)
}

fn linear(weights: &Weights, name: &str, x: &[f64]) -> Vec<f64> {
    let weight = weights.tensor(&format!("{name}weight"));
    let bias = weights.tensor(&format!("{name}bias"));
    assert_eq!(weight.len(), bias.len() * x.len(), "{name}");
    let dot = |row: &[f32]| {
        row.iter()
            .zip(x)
            .map(|(w, x)| f64::from(*w) * x)
            .sum::<f64>()
    };
    weight
        .chunks_exact(x.len())
        .zip(bias)
        .map(|(row, bias)| dot(row) + f64::from(*bias))
        .collect()
}

fn norm(weights: &Weights, name: &str, x: &[f64]) -> Vec<f64> {
    let gain = weights.tensor(&format!("{name}.weight"));
    let bias = weights.tensor(&format!("{name}.bias"));
    let count = x.len() as f64;
    let mean = x.iter().sum::<f64>() / count;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    let inverse = 1.0 / (variance + f64::from(NORM_EPSILON)).sqrt();
    x.iter()
        .zip(gain)
        .zip(bias)
        .map(|((x, g), b)| (x - mean) * inverse * f64::from(*g) + f64::from(*b))
        .collect()
}

fn add(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn relu(x: Vec<f64>) -> Vec<f64> {
    x.into_iter().map(|x| x.max(0.0)).collect()
}
