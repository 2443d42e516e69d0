//! The command line of the network by itself: weights files, and its answers to given features.

use super::flags::Flags;
use crate::engine::{BUILT_IN_WEIGHTS_SEED, prefix_note, weights_of};
use crate::measure::{self, StudyError};
use crate::network::{BackendChoice, Limits, Shape, Weights};
use crate::plural::{counted, hex};
use crate::say::{data, note};
use crate::settings::Settings;
use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;
use std::path::{Path, PathBuf};

/// `ringmaster weights`.
#[derive(Subcommand)]
pub(super) enum WeightsCommand {
    /// Write a seeded random network
    Init {
        /// Seed; the default is the network that is used without --weights
        #[arg(long, default_value_t = BUILT_IN_WEIGHTS_SEED)]
        seed: u64,
        /// Width of the network
        #[arg(long, default_value_t = 256)]
        width: usize,
        /// Encoder layers
        #[arg(long, default_value_t = 6)]
        depth: usize,
        /// Width of the feed-forward layers
        #[arg(long, default_value_t = 1024)]
        ffn: usize,
        /// The file to write (safetensors)
        #[arg(long)]
        out: PathBuf,
    },
    /// Describe a weights file: shape, tensors, parameters, hash
    Inspect {
        /// The file
        file: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn weights(command: &WeightsCommand) -> Result<()> {
    match command {
        WeightsCommand::Init {
            seed,
            width,
            depth,
            ffn,
            out,
        } => {
            let weights = Weights::seeded(*seed, Shape::new(*width, *depth, *ffn)?);
            weights.save(out)?;
            let parameters = weights.shape().parameters();
            data!("{}: {parameters} parameters", out.display())?;
            Ok(())
        }
        WeightsCommand::Inspect { file, json } => inspect(file, *json),
    }
}

fn inspect(file: &Path, as_json: bool) -> Result<()> {
    let weights = Weights::load(file)?;
    if let Err(overflow) = weights.check_outputs(file) {
        // It cannot play, but it can be described.
        note!("{overflow}");
    }
    let description = weights.describe();
    let hash = hex(&description.hash);
    let shape = description.shape;
    if as_json {
        let tensors: Vec<_> = description
            .tensors
            .iter()
            .map(|tensor| {
                let dtype = tensor.stored.to_string();
                json!({"name": tensor.name, "shape": tensor.dims, "dtype": dtype})
            })
            .collect();
        let object = json!({
            "width": shape.width(), "depth": shape.depth(), "ffn": shape.ffn(),
            "parameters": description.parameters, "multiply_adds_folded": description.multiply_adds,
            "hash": hash, "prefix": description.prefix, "tensors": tensors,
        });
        data!("{object}")?;
        return Ok(());
    }
    if !description.prefix.is_empty() {
        let prefix = description.prefix;
        data!("names without `{prefix}`, with which they begin in the file:")?;
    }
    for tensor in &description.tensors {
        data!(
            "{:<48} {:<5} {:?}",
            tensor.name,
            tensor.stored.to_string(),
            tensor.dims
        )?;
    }
    data!(
        "BlobNet, width {}, {}, ffn {}: {} parameters, {} multiply-adds once folded\nhash {hash}",
        shape.width(),
        counted(shape.depth(), "layer"),
        shape.ffn(),
        description.parameters,
        description.multiply_adds
    )?;
    Ok(())
}

pub(super) const INFER_HELP: &str = "\
Writes policy.npy f32 [N,52] (softmax over the legal actions, 0 elsewhere) and value.npy f32 \
[N,8] (seats relative to the mover, in [-1, 1]).";

/// `ringmaster infer`.
#[derive(Args)]
pub(super) struct InferArgs {
    /// features.npy, f32 [N,256]
    #[arg(long)]
    features: PathBuf,
    /// mask.npy, u8 [N,52], 1 for legal actions
    #[arg(long)]
    mask: PathBuf,
    #[command(flatten)]
    flags: Flags,
    /// For scripts that name it: the network runs on the CPU here
    #[arg(long, value_enum, default_value = "cpu", hide = true)]
    backend: BackendChoice,
    /// Folder for the results
    #[arg(long)]
    out: PathBuf,
}

pub(super) fn infer(arguments: &InferArgs) -> Result<()> {
    if arguments.backend == BackendChoice::Cuda {
        let what = "infer runs on the CPU only: leave out --backend cuda";
        return Err(StudyError::usage(what, "").into());
    }
    let (weights, limits) = network(arguments.flags.over(Settings::default())?)?;
    let (rows, instruction_set) = measure::infer(
        &arguments.features,
        &arguments.mask,
        &weights,
        limits.threads,
        &arguments.out,
    )?;
    let out = arguments.out.display();
    data!("{} in {out} ({instruction_set})", counted(rows, "row"))?;
    Ok(())
}

/// The weights that settings name (or those built in), and what the network may use.
pub(super) fn network(settings: Settings) -> Result<(Weights, Limits)> {
    settings.check()?;
    for line in settings.notes() {
        note!("{line}");
    }
    let settings = settings.resolve();
    let weights = weights_of(&settings)?;
    let file = settings.weights.as_deref();
    if let Some(note) = file.and_then(|file| prefix_note(&weights, file)) {
        note!("{note}");
    }
    Ok((weights, settings.limits()))
}
