//! The one place where a backend is chosen: what evaluates a batch of requests, whatever it runs on.

use super::{CpuError, CpuNetwork, FEATURES, Folded, SEATS, Weights, masked_softmax};
use crate::game::MAX_PLAYERS;
use crate::wire::{Evaluation, Reply, Request};
use bytemuck::Zeroable;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Which device is to run the network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum BackendChoice {
    /// The best there is.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A CUDA device.
    Cuda,
}

/// Which device does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackendKind {
    /// The processor.
    Cpu,
}

impl BackendKind {
    /// As it stands in manifests and reports.
    pub fn name(self) -> &'static str {
        match self {
            BackendKind::Cpu => "cpu",
        }
    }
}

/// Why no backend could be opened.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// CUDA was asked for.
    #[error("this version of ringmaster has no CUDA backend: use --backend cpu, or auto")]
    NoCuda,
    /// The CPU network could not be set up.
    #[error(transparent)]
    Cpu(#[from] CpuError),
}

/// Settles what `choice` means on this machine.
///
/// # Errors
/// When the device asked for is not to be had.
pub fn choose(choice: BackendChoice) -> Result<BackendKind, BackendError> {
    match choice {
        BackendChoice::Auto | BackendChoice::Cpu => Ok(BackendKind::Cpu),
        BackendChoice::Cuda => Err(BackendError::NoCuda),
    }
}

/// Something that evaluates batches. An answer depends on its request alone: not on the batch around
/// it, its place in it, or what was asked before.
pub trait Backend {
    /// Answers the sound requests `requests[i]` in `replies[i]`; at most `max_batch` of them.
    fn evaluate(&mut self, requests: &[Request], replies: &mut [Reply]);

    /// What it runs on, for reports.
    fn device(&self) -> String;
}

/// Opens a backend for batches of up to `max_batch`.
///
/// # Errors
/// When the device cannot be set up.
pub fn open(
    kind: BackendKind,
    weights: &Weights,
    threads: usize,
    max_batch: usize,
) -> Result<Box<dyn Backend>, BackendError> {
    match kind {
        BackendKind::Cpu => {
            let folded = Arc::new(Folded::new(weights));
            let network = CpuNetwork::new(folded, threads, max_batch)?;
            Ok(Box::new(CpuBackend { network }))
        }
    }
}

struct CpuBackend {
    network: CpuNetwork,
}

impl Backend for CpuBackend {
    fn evaluate(&mut self, requests: &[Request], replies: &mut [Reply]) {
        self.network.run(requests.len(), |row, features| {
            if let Ok(features) = <&mut [f32; FEATURES]>::try_from(features) {
                requests[row].position.expand(features);
            }
        });
        for (row, (request, reply)) in requests.iter().zip(replies).enumerate() {
            let mut evaluation = Evaluation::zeroed();
            let logits = self.network.logits(row);
            masked_softmax(logits, request.position.legal, &mut evaluation.priors);
            evaluation.values[..SEATS.min(MAX_PLAYERS)].copy_from_slice(self.network.values(row));
            *reply = Reply {
                ticket: request.ticket,
                evaluation,
            };
        }
    }

    fn device(&self) -> String {
        let threads = self.network.threads();
        format!("{}, {threads} threads", self.network.instruction_set())
    }
}
