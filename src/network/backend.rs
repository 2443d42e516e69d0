//! The one place where a backend is chosen: what evaluates a batch of requests, whatever it runs
//! on.

use super::cost::CostModel;
use super::cuda::packing::{OperandType, WeightLayout};
use super::cuda::{self, CudaBackend, CudaError};
use super::{CpuNetwork, FEATURES, Folded, Shape, Weights, masked_softmax};
use crate::fault::Fault;
use crate::plural::counted;
use crate::shm::Segment;
use crate::wire::{Evaluation, Reply, Request};
use bytemuck::Zeroable;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    /// A CUDA device.
    Cuda,
}

impl BackendKind {
    /// As it stands in manifests and reports.
    pub fn name(self) -> &'static str {
        match self {
            BackendKind::Cpu => "cpu",
            BackendKind::Cuda => "cuda",
        }
    }
}

impl From<BackendKind> for BackendChoice {
    fn from(kind: BackendKind) -> BackendChoice {
        match kind {
            BackendKind::Cpu => BackendChoice::Cpu,
            BackendKind::Cuda => BackendChoice::Cuda,
        }
    }
}

impl TryFrom<BackendChoice> for BackendKind {
    type Error = BackendError;

    /// The device of a choice that `choose` has settled.
    fn try_from(choice: BackendChoice) -> Result<BackendKind, BackendError> {
        match choice {
            BackendChoice::Cpu => Ok(BackendKind::Cpu),
            BackendChoice::Cuda => Ok(BackendKind::Cuda),
            BackendChoice::Auto => Err(Fault::new(
                "the backend was not settled before the run",
                "name it: --backend cpu or cuda",
            )
            .into()),
        }
    }
}

/// Why no backend could be opened, or why one failed.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// What is missing, refused or broken.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The backend computes where the requests do not lie.
    #[error("this backend cannot read requests where they lie")]
    NotShared,
}

impl From<CudaError> for BackendError {
    fn from(error: CudaError) -> BackendError {
        error.in_one_line().into()
    }
}

/// What a choice comes to on this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// The device's kind.
    pub kind: BackendKind,
    /// For `auto`, what was taken and why, one line.
    pub reason: Option<String>,
}

/// Settles what `choice` means on this machine for a network of that shape.
///
/// # Errors
/// When the device asked for is not to be had.
pub fn choose(choice: BackendChoice, shape: Shape) -> Result<Chosen, BackendError> {
    // Tried here already: what keeps the GPU from being used is found before anything is started,
    // and the driver has the kernels in its cache when the run loads them.
    let gpu = || {
        // Weights beyond f16's range make it bf16 later, which asks for the same GPU.
        let layout = WeightLayout::new(shape, OperandType::F16)?;
        cuda::try_kernels(layout)
    };
    let (kind, reason) = match choice {
        BackendChoice::Cpu => (BackendKind::Cpu, None),
        BackendChoice::Cuda => gpu().map(|_| (BackendKind::Cuda, None))?,
        BackendChoice::Auto => match gpu() {
            Ok(gpu) => (BackendKind::Cuda, Some(format!("backend cuda: {gpu}"))),
            Err(error) => (
                BackendKind::Cpu,
                Some(format!("backend cpu: {}", error.note())),
            ),
        },
    };
    Ok(Chosen { kind, reason })
}

/// GPU memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Memory {
    /// Taken by the backend itself, in bytes.
    pub own_bytes: u64,
    /// In use on the whole device, by any process, in bytes.
    pub device_used_bytes: u64,
}

/// What a backend calls as a sign of life.
pub type Heartbeat = Arc<dyn Fn() + Send + Sync>;

/// Something that evaluates batches. An answer depends on its request alone: not on the batch
/// around it, its place in it, or what was asked before.
///
/// A batch lives in a lane: its requests are written there, it is launched, polled until it is
/// finished, and its replies are read there. With several lanes a batch can be gathered while
/// another is computed. Batches finish in the order in which they were launched.
pub trait Backend {
    /// How many lanes there are, at least 1.
    fn lanes(&self) -> usize;

    /// Where the requests of an idle lane's next batch go: `max_batch` of them.
    fn requests(&mut self, lane: usize) -> &mut [Request];

    /// Starts the batch of the first `rows` requests of an idle lane, all of them sound. 1 to
    /// `max_batch`.
    ///
    /// # Errors
    /// When the device fails.
    fn launch(&mut self, lane: usize, rows: usize) -> Result<(), BackendError>;

    /// The time that the lane's batch took on the device, once it is finished; the lane is idle
    /// then. Never waits.
    ///
    /// # Errors
    /// When the device fails.
    fn poll(&mut self, lane: usize) -> Result<Option<Duration>, BackendError>;

    /// The replies of a lane's last batch, row by row.
    fn replies(&self, lane: usize) -> &[Reply];

    /// Prepares for batches that are read and answered where they lie in `segment`.
    ///
    /// # Errors
    /// When the device cannot do that; batches are copied then.
    fn share(&mut self, _segment: &Segment) -> Result<(), BackendError> {
        Err(BackendError::NotShared)
    }

    /// Starts a batch on an idle lane whose requests and replies lie at these byte offsets of the
    /// shared segment. Nobody may touch them until it is finished.
    ///
    /// # Errors
    /// When the device fails, or nothing is shared.
    fn launch_in_place(
        &mut self,
        _lane: usize,
        _requests: &[u64],
        _replies: &[u64],
    ) -> Result<(), BackendError> {
        Err(BackendError::NotShared)
    }

    /// Device time against rows, if it was measured. None for a backend that computes within
    /// `launch`.
    fn cost(&self) -> Option<&CostModel> {
        None
    }

    /// Time from a launch to its answers beyond the device time.
    fn latency(&self) -> Duration {
        Duration::ZERO
    }

    /// GPU memory in use.
    fn memory(&self) -> Memory {
        Memory::default()
    }

    /// Has `heartbeat` called again and again, from any thread, while a batch is computed within
    /// `launch`. A device that computes by itself has no such moments.
    fn on_progress(&mut self, _beat: Heartbeat) {}

    /// What it runs on, for reports.
    fn device(&self) -> String;

    /// The kernel that a batch of `rows` rows is launched with, on a device that has several.
    fn kernel(&self, _rows: usize) -> Option<&'static str> {
        None
    }

    /// Runs the first `rows` requests of lane 0 to their end; the device time.
    ///
    /// # Errors
    /// When the device fails.
    fn run(&mut self, rows: usize) -> Result<Duration, BackendError> {
        self.launch(0, rows)?;
        loop {
            if let Some(busy) = self.poll(0)? {
                return Ok(busy);
            }
            std::hint::spin_loop();
        }
    }
}

/// What a backend may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Threads, on the CPU.
    pub threads: usize,
    /// Rows of a batch.
    pub max_batch: usize,
    /// GPU memory in MiB; 0 for no cap.
    pub gpu_memory_mib: usize,
}

/// Opens a backend.
///
/// # Errors
/// When the device cannot be set up.
pub fn open(
    kind: BackendKind,
    weights: &Weights,
    limits: Limits,
) -> Result<Box<dyn Backend>, BackendError> {
    open_folded(kind, Folded::new(weights), limits)
}

/// As `open`, for a network that is folded already.
///
/// # Errors
/// When the device cannot be set up.
pub fn open_folded(
    kind: BackendKind,
    folded: Folded,
    limits: Limits,
) -> Result<Box<dyn Backend>, BackendError> {
    match kind {
        BackendKind::Cpu => {
            let network = CpuNetwork::new(Arc::new(folded), limits.threads, limits.max_batch)?;
            Ok(Box::new(CpuBackend {
                network,
                requests: vec![Request::zeroed(); limits.max_batch],
                replies: vec![Reply::zeroed(); limits.max_batch],
                heartbeat: Arc::new(|| {}),
                busy: None,
            }))
        }
        BackendKind::Cuda => {
            let (rows, mib) = (limits.max_batch, limits.gpu_memory_mib);
            Ok(Box::new(CudaBackend::open(&folded, rows, mib)?))
        }
    }
}

/// The processor: one lane, and a batch is finished when `launch` returns.
struct CpuBackend {
    network: CpuNetwork,
    requests: Vec<Request>,
    replies: Vec<Reply>,
    heartbeat: Heartbeat,
    busy: Option<Duration>,
}

impl Backend for CpuBackend {
    fn lanes(&self) -> usize {
        1
    }

    fn requests(&mut self, _lane: usize) -> &mut [Request] {
        &mut self.requests
    }

    fn launch(&mut self, _lane: usize, rows: usize) -> Result<(), BackendError> {
        let started = Instant::now();
        let (requests, heartbeat) = (&self.requests[..rows], &self.heartbeat);
        self.network.run(rows, |row, features| {
            // Rows are filled a few at a time, so a batch of many seconds has many of these
            // moments.
            heartbeat();
            if let Ok(features) = <&mut [f32; FEATURES]>::try_from(features) {
                requests[row].position.expand(features);
            }
        });
        for (row, (request, reply)) in requests.iter().zip(&mut self.replies).enumerate() {
            let mut evaluation = Evaluation::zeroed();
            let logits = self.network.logits(row);
            masked_softmax(logits, request.position.legal, &mut evaluation.priors);
            evaluation.values.copy_from_slice(self.network.values(row));
            *reply = Reply {
                ticket: request.ticket,
                evaluation,
            };
        }
        self.busy = Some(started.elapsed());
        Ok(())
    }

    fn poll(&mut self, _lane: usize) -> Result<Option<Duration>, BackendError> {
        Ok(self.busy.take())
    }

    fn replies(&self, _lane: usize) -> &[Reply] {
        &self.replies
    }

    fn on_progress(&mut self, heartbeat: Heartbeat) {
        self.heartbeat = heartbeat;
    }

    fn device(&self) -> String {
        let threads = counted(self.network.threads(), "thread");
        format!("{}, {threads}", self.network.instruction_set())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn the_cpu_gives_signs_of_life_within_a_batch() {
        let weights = Weights::seeded(1, Shape::new(16, 1, 16).unwrap());
        let limits = Limits {
            threads: 2,
            max_batch: 400,
            gpu_memory_mib: 0,
        };
        let mut backend = open(BackendKind::Cpu, &weights, limits).unwrap();
        let heartbeats = Arc::new(AtomicUsize::new(0));
        let counted = heartbeats.clone();
        backend.on_progress(Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        }));
        backend.requests(0).fill(Request::zeroed());
        backend.launch(0, 400).unwrap();
        assert!(heartbeats.load(Ordering::Relaxed) > 400 / 64);
    }
}
