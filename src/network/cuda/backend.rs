//! Batches on the GPU, one launch each. A lane holds a batch from its gathering to its answers, in
//! host memory that the kernel reads and writes in place; while one lane's batch is computed the
//! next can be queued and a third gathered. Where the driver lets the GPU see the shared segment
//! itself, rows are named by where they lie there, and nothing is copied.

#![allow(unsafe_code)]

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::device::{Context, Event, Function, Module, Stream, refusal};
use super::error::CudaError;
use super::memory::{DeviceBuffer, PinnedBuffer, RegisteredSegment};
use super::packing::{self, WeightLayout};
use super::plan::{BlobNetArgs, Launch, LaunchPlan};
use super::probe::{UsableGpu, probe};
use crate::fault::Fault;
use crate::network::Folded;
use crate::network::backend::{Backend, BackendError, Memory};
use crate::network::cost::CostModel;
use crate::network::samples;
use crate::shm::Segment;
use crate::wire::{Reply, Request};

/// Lanes: one batch computed, one queued behind it, one gathered.
const LANES: usize = 3;
/// Launches per size when the cost model is measured.
const COST_REPEATS: usize = 5;
/// How long a batch may take before the GPU counts as stuck.
const STUCK: Duration = Duration::from_secs(20);
const MIB: usize = 1 << 20;

struct Lane {
    requests: PinnedBuffer<Request>,
    replies: PinnedBuffer<Reply>,
    /// Offsets of requests, then of replies, of a batch in place.
    offsets: PinnedBuffer<u64>,
    started: Event,
    finished: Event,
    under_way: bool,
}

/// The network on a GPU.
pub struct CudaBackend {
    // Dropped in this order: the GPU has been waited for (see `drop`), the context goes last.
    lanes: Vec<Lane>,
    /// Offsets of consecutive requests, then of consecutive replies: a copied batch's.
    consecutive: DeviceBuffer,
    shared: Option<RegisteredSegment>,
    weights: DeviceBuffer,
    stream: Stream,
    functions: HashMap<&'static str, Function>,
    _module: Rc<Module>,
    usable: UsableGpu,
    max_batch: usize,
    memory_bytes: usize,
    cost: CostModel,
    latency: Duration,
    /// A batch did not end within any reason.
    is_stuck: bool,
    context: Arc<Context>,
}

/// Has the driver compile the kernels for a network that lies as `layout` says, and lets go of
/// them; the name of the GPU.
///
/// # Errors
/// Whatever is missing or refused.
pub fn try_kernels(layout: WeightLayout) -> Result<String, CudaError> {
    let usable = probe().usable(layout)?;
    let context = Context::open(usable.gpu.ordinal)?;
    Module::load(&context, &usable.plan)?;
    Ok(usable.gpu.name)
}

impl CudaBackend {
    /// Finds the GPU, has the driver compile the kernels for it, uploads the weights, and measures
    /// what batches cost. `memory_mib` caps the GPU memory taken, 0 for no cap.
    ///
    /// # Errors
    /// Whatever is missing, refused or too small, each with its remedy.
    pub fn open(
        folded: &Folded,
        max_batch: usize,
        memory_mib: usize,
    ) -> Result<CudaBackend, CudaError> {
        let mut usable = probe().usable(WeightLayout::of(folded)?)?;
        let packed = packing::pack(folded, usable.plan.layout().operands())?;
        let offsets_bytes = 2 * max_batch * size_of::<u64>();
        let memory_bytes = packed.len() + offsets_bytes;
        check_cap(memory_bytes, memory_mib)?;
        let context = Context::open(usable.gpu.ordinal)?;
        let module = Module::shared(&context, &usable.plan)?;
        let functions = functions(&module, &mut usable.plan)?;
        let mut backend = CudaBackend {
            lanes: (0..LANES)
                .map(|_| Lane::new(&context, max_batch))
                .collect::<Result<_, _>>()?,
            consecutive: consecutive(&context, max_batch)?,
            shared: None,
            weights: DeviceBuffer::upload(&context, &packed)?,
            stream: Stream::new(&context)?,
            functions,
            _module: module,
            usable,
            max_batch,
            memory_bytes,
            cost: CostModel::default(),
            latency: Duration::ZERO,
            is_stuck: false,
            context,
        };
        // The copies to the GPU may still be on their way, and the stream does not wait for them.
        backend.context.synchronize()?;
        if let Err(error) = backend.measure() {
            if backend.is_stuck {
                // To free what it has would be to wait for the GPU, for ever.
                std::mem::forget(backend);
            }
            return Err(error.into());
        }
        Ok(backend)
    }

    /// Measures time against rows, and how much longer than its GPU time the smallest batch takes.
    fn measure(&mut self) -> Result<(), Fault> {
        let requests = self.lanes[0].requests.slice_mut();
        requests.copy_from_slice(&samples::requests(self.max_batch));
        self.time_once(1)?; // The first launch of a kernel is not like the others.
        let mut latency = Duration::MAX;
        for _ in 0..COST_REPEATS {
            let called = Instant::now();
            let busy = self.time_once(1)?;
            latency = latency.min(called.elapsed().saturating_sub(busy));
        }
        self.latency = latency;
        // Of each entry point, for the choice among them: how much clusters slow each other down
        // cannot be counted beforehand.
        let entries: Vec<_> = self.usable.plan.entries().collect();
        for entry in entries {
            let sizes = self.usable.plan.sizes(&entry, self.max_batch);
            let cost = CostModel::measure(sizes, COST_REPEATS, |size| {
                let rows = self.max_batch.min(size);
                self.time_launch(Launch::of(entry, rows as u32), rows)
            })?;
            self.usable.plan.set_cost(&entry, cost);
        }
        self.cost = self.usable.plan.cost(self.max_batch as u32);
        Ok(())
    }

    /// GPU time of one batch from lane 0.
    fn time_once(&mut self, rows: usize) -> Result<Duration, Fault> {
        self.time_launch(self.usable.plan.launch(rows as u32), rows)
    }

    fn time_launch(&mut self, launch: Launch, rows: usize) -> Result<Duration, Fault> {
        self.start(0, launch, rows, false)?;
        let called = Instant::now();
        loop {
            if let Some(busy) = self.finish(0)? {
                return Ok(busy);
            }
            if called.elapsed() > STUCK {
                self.is_stuck = true;
                let reason = format!("no end after {} s", STUCK.as_secs());
                return Err(refusal("finish a batch", &reason));
            }
            std::hint::spin_loop();
        }
    }

    fn start(
        &mut self,
        lane: usize,
        launch: Launch,
        rows: usize,
        in_place: bool,
    ) -> Result<(), Fault> {
        assert!(
            rows > 0 && rows <= self.max_batch && !self.lanes[lane].under_way,
            "a batch of 1 to max_batch rows on an idle lane"
        );
        let function = self.functions[launch.entry.name];
        let lane = &mut self.lanes[lane];
        let offset_bytes = (self.max_batch * size_of::<u64>()) as u64;
        let (requests, replies, offsets) = match &self.shared {
            Some(shared) if in_place => (shared.device(), shared.device(), lane.offsets.device()),
            _ => (
                lane.requests.device(),
                lane.replies.device(),
                self.consecutive.address(),
            ),
        };
        let arguments = BlobNetArgs {
            requests,
            replies,
            request_offsets: offsets,
            reply_offsets: offsets + offset_bytes,
            weights: self.weights.address(),
            rows: rows as u32,
            depth: self.usable.plan.layout().depth() as u32,
            units: self.usable.plan.layout().ffn_passes() as u32,
            reserved: 0,
        };
        self.stream.record(&lane.started)?;
        // SAFETY: the kernels take `BlobNetArgs` (their contract, in kernels/network.cuh), read
        // `rows` offsets, a request at each, and the weights, and write a reply at each.
        // The offsets are the consecutive ones, for this lane's arrays, which hold `max_batch`
        // and which nobody is handed while `under_way`, or were checked against the registered
        // segment by `launch_in_place`. All of it is freed only after the GPU was waited
        // for.
        unsafe { self.stream.launch(function, &launch, &arguments) }?;
        self.stream.record(&lane.finished)?;
        lane.under_way = true;
        Ok(())
    }

    fn finish(&mut self, lane: usize) -> Result<Option<Duration>, Fault> {
        let lane = &mut self.lanes[lane];
        if !lane.under_way || !lane.finished.is_past()? {
            return Ok(None);
        }
        lane.under_way = false;
        lane.started.until(&lane.finished).map(Some)
    }
}

impl Backend for CudaBackend {
    fn lanes(&self) -> usize {
        self.lanes.len()
    }

    fn requests(&mut self, lane: usize) -> &mut [Request] {
        assert!(!self.lanes[lane].under_way, "the lane's batch is under way");
        self.lanes[lane].requests.slice_mut()
    }

    fn launch(&mut self, lane: usize, rows: usize) -> Result<(), BackendError> {
        Ok(self.start(lane, self.usable.plan.launch(rows as u32), rows, false)?)
    }

    fn poll(&mut self, lane: usize) -> Result<Option<Duration>, BackendError> {
        Ok(self.finish(lane)?)
    }

    fn replies(&self, lane: usize) -> &[Reply] {
        assert!(!self.lanes[lane].under_way, "the lane's batch is under way");
        self.lanes[lane].replies.slice()
    }

    fn share(&mut self, segment: &Segment) -> Result<(), BackendError> {
        self.shared = Some(RegisteredSegment::new(&self.context, segment)?);
        Ok(())
    }

    fn launch_in_place(
        &mut self,
        lane: usize,
        requests: &[u64],
        replies: &[u64],
    ) -> Result<(), BackendError> {
        let rows = requests.len();
        let bytes = self.shared.as_ref().map_or(0, RegisteredSegment::bytes) as u64;
        let within = |offsets: &[u64], size: usize| {
            let last = bytes.checked_sub(size as u64);
            offsets
                .iter()
                .all(|&at| last.is_some_and(|last| at <= last) && at.is_multiple_of(8))
        };
        assert!(
            rows == replies.len() && rows <= self.max_batch && !self.lanes[lane].under_way,
            "as many replies as requests, at most max_batch, on an idle lane"
        );
        assert!(
            within(requests, size_of::<Request>()) && within(replies, size_of::<Reply>()),
            "rows outside the shared segment"
        );
        let offsets = self.lanes[lane].offsets.slice_mut();
        offsets[..rows].copy_from_slice(requests);
        offsets[self.max_batch..][..rows].copy_from_slice(replies);
        Ok(self.start(lane, self.usable.plan.launch(rows as u32), rows, true)?)
    }

    fn cost(&self) -> Option<&CostModel> {
        Some(&self.cost)
    }

    fn latency(&self) -> Duration {
        self.latency
    }

    fn memory(&self) -> Memory {
        let (free, total) = self.context.memory().unwrap_or_default();
        Memory {
            own_bytes: self.memory_bytes as u64,
            device_used_bytes: total.saturating_sub(free) as u64,
        }
    }

    fn device(&self) -> String {
        let gpu = &self.usable.gpu;
        format!("{}, sm_{}{}", gpu.name, gpu.major, gpu.minor)
    }

    fn kernel(&self, rows: usize) -> Option<&'static str> {
        Some(self.usable.plan.launch(rows as u32).entry.name)
    }
}

impl Drop for CudaBackend {
    fn drop(&mut self) {
        // What is under way uses the memory that is freed next. A GPU that fails here has ended its
        // work, too. (One that is stuck from the start is not waited for, see `open`; one
        // that gets stuck later is the end of the process, by the coordinator.)
        let _ = self.context.synchronize();
    }
}

impl Lane {
    fn new(context: &Arc<Context>, max_batch: usize) -> Result<Lane, Fault> {
        Ok(Lane {
            requests: PinnedBuffer::zeroed(context, max_batch, true)?,
            replies: PinnedBuffer::zeroed(context, max_batch, false)?,
            offsets: PinnedBuffer::zeroed(context, 2 * max_batch, true)?,
            started: Event::new(context)?,
            finished: Event::new(context)?,
            under_way: false,
        })
    }
}

/// Offsets of requests, then of replies, that follow one another.
fn consecutive(context: &Arc<Context>, max_batch: usize) -> Result<DeviceBuffer, Fault> {
    let offsets = |bytes: usize| (0..max_batch).map(move |row| (row * bytes) as u64);
    let all: Vec<u64> = offsets(size_of::<Request>())
        .chain(offsets(size_of::<Reply>()))
        .collect();
    DeviceBuffer::upload(context, bytemuck::cast_slice(&all))
}

/// The kernels of the plan, by name; the plan learns how many of their clusters run at once.
fn functions(
    module: &Module,
    plan: &mut LaunchPlan,
) -> Result<HashMap<&'static str, Function>, Fault> {
    let mut functions = HashMap::new();
    for entry in plan.entries().collect::<Vec<_>>() {
        let function = module.function(&entry)?;
        functions.insert(entry.name, function);
        if entry.cluster > 1
            && let Some(clusters) = module.resident_clusters(function, &entry)
        {
            plan.set_resident_clusters(&entry, clusters);
        }
    }
    Ok(functions)
}

fn check_cap(bytes: usize, cap_mib: usize) -> Result<(), Fault> {
    if cap_mib == 0 || bytes <= cap_mib * MIB {
        return Ok(());
    }
    let needed_mib = bytes.div_ceil(MIB);
    Err(Fault::new(
        format!(
            "the network needs {needed_mib} MiB of GPU memory, gpu_memory_mib allows {cap_mib}"
        ),
        "raise it, or set 0 for no cap",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_counts_whole_mebibytes() {
        assert!(check_cap(100 * MIB, 0).is_ok());
        assert!(check_cap(8 * MIB, 8).is_ok());
        let error = check_cap(8 * MIB + 1, 8).unwrap_err().to_string();
        assert!(
            error.contains("needs 9 MiB of GPU memory, gpu_memory_mib allows 8;"),
            "{error}"
        );
    }
}
