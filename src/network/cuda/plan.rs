//! What to load on a GPU and how to launch it, as plain numbers: no CUDA here, so all of it is
//! tested without one.

use std::borrow::Cow;

use super::kernels::{EntryPoint, KernelFamily};
use super::packing::{OperandType, USE_CPU, WeightLayout};
use crate::fault::Fault;
use crate::network::CostModel;

/// What a launch gets, by value: the kernel's `BlobNetArgs`. Addresses are the device's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct BlobNetArgs {
    /// Base of the requests' offsets.
    pub requests: u64,
    /// Base of the replies' offsets.
    pub replies: u64,
    /// `rows` offsets (u64) of a `wire::Request`, each a multiple of 4.
    pub request_offsets: u64,
    /// `rows` offsets (u64) of a `wire::Reply`, each a multiple of 4.
    pub reply_offsets: u64,
    /// What `packing::pack` made, 16-byte aligned.
    pub weights: u64,
    /// Rows of the batch.
    pub rows: u32,
    /// `WeightLayout::depth`.
    pub depth: u32,
    /// `WeightLayout::ffn_passes`.
    pub units: u32,
    /// Padding.
    pub reserved: u32,
}

const _: () = assert!(size_of::<BlobNetArgs>() == 56);

/// What a GPU is.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Gpu {
    /// Its number among the visible ones.
    pub ordinal: usize,
    /// As the vendor calls it.
    pub name: String,
    /// Compute capability, first part.
    pub major: u32,
    /// Compute capability, second part.
    pub minor: u32,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Second-level cache in bytes.
    pub l2_bytes: u64,
    /// Shared memory that a block may have (the opt-in maximum), in bytes.
    pub shared_bytes_per_block: u32,
}

/// What tells a module of PTX from the others: family, width, operands.
pub type ModuleKey = (KernelFamily, usize, OperandType);

/// What to load for one GPU and one network, and which entry point for which batch.
#[derive(Clone, Debug, PartialEq)]
pub struct LaunchPlan {
    layout: WeightLayout,
    family: KernelFamily,
    entries: Vec<TimedEntry>,
}

#[derive(Clone, Debug, PartialEq)]
struct TimedEntry {
    entry: EntryPoint,
    /// How many of its clusters (or blocks) run at once.
    resident: u32,
    /// Times of up to a wave of rows, once they are measured.
    measured: Option<CostModel>,
}

impl TimedEntry {
    fn rows_of_a_wave(&self) -> u32 {
        self.entry.rows * self.resident
    }

    /// How long a batch takes: in seconds if that was measured, else in units of `cost`. Whole
    /// waves, and a rest of whole tiles.
    fn time(&self, rows: u32) -> f64 {
        let Some(measured) = &self.measured else {
            return f64::from(rows.div_ceil(self.rows_of_a_wave()) * self.entry.cost);
        };
        let of = |rows: u32| match rows {
            0 => 0.0,
            rows => measured.time(rows as usize).as_secs_f64(),
        };
        let (waves, rest) = (rows / self.rows_of_a_wave(), rows % self.rows_of_a_wave());
        f64::from(waves) * of(self.rows_of_a_wave()) + of(rest.next_multiple_of(self.entry.rows))
    }
}

impl LaunchPlan {
    /// The plan for `gpu` and a network of this layout.
    ///
    /// # Errors
    /// When no kernel fits.
    pub fn new(gpu: &Gpu, layout: WeightLayout) -> Result<Self, Fault> {
        let (major, minor) = (gpu.major, gpu.minor);
        if major < 8 {
            return Err(Fault::new(
                format!(
                    "this GPU has compute capability {major}.{minor}, the CUDA kernels need 8.0 \
                     (Ampere) or later"
                ),
                USE_CPU,
            ));
        }
        let fitting = |family: KernelFamily| -> Vec<TimedEntry> {
            let fits = |entry: &&EntryPoint| {
                entry.shared_bytes <= gpu.shared_bytes_per_block
                    && entry.cluster <= gpu.multiprocessors.max(1)
            };
            let timed = |&entry: &EntryPoint| TimedEntry {
                entry,
                resident: (gpu.multiprocessors / entry.cluster).max(1),
                measured: None,
            };
            family.entries().iter().filter(fits).map(timed).collect()
        };
        // Later architectures have clusters, too, but the tiles are cut for the shared memory of
        // this one.
        let best = match (major, minor) {
            (9, 0) => &[KernelFamily::Cluster, KernelFamily::Block][..],
            _ => &[KernelFamily::Block],
        };
        let mut plans = best.iter().map(|&family| (family, fitting(family)));
        let Some((family, entries)) = plans.find(|(_, entries)| !entries.is_empty()) else {
            return Err(Fault::new(
                format!(
                    "this GPU gives a block {} bytes of shared memory, the CUDA kernels need {}",
                    gpu.shared_bytes_per_block,
                    KernelFamily::Block.entries()[0].shared_bytes
                ),
                USE_CPU,
            ));
        };
        Ok(Self {
            layout,
            family,
            entries,
        })
    }

    /// Corrects the number of clusters of `entry` that run at once by what the driver says
    /// (`cuOccupancyMaxActiveClusters`): the multiprocessors of a chip do not always group into
    /// eights without a rest.
    pub fn set_resident_clusters(&mut self, entry: &EntryPoint, clusters: u32) {
        for timed in &mut self.entries {
            if timed.entry == *entry && entry.cluster > 1 && clusters > 0 {
                timed.resident = clusters;
            }
        }
    }

    /// Batch sizes at which `entry` is to be measured: one tile, two, four ... up to a wave or to
    /// `max_batch`.
    pub fn sizes(&self, entry: &EntryPoint, max_batch: usize) -> Vec<usize> {
        let timed = self.entries.iter().find(|timed| timed.entry == *entry);
        let (tile, wave) = (
            entry.rows as usize,
            timed.map_or(entry.rows, TimedEntry::rows_of_a_wave) as usize,
        );
        let most = wave.min(max_batch.next_multiple_of(tile));
        let doubled = |rows: &usize| Some(2 * rows).filter(|&rows| rows < most);
        let mut sizes: Vec<usize> = std::iter::successors(Some(tile), doubled).collect();
        if most > tile {
            sizes.push(most);
        }
        sizes
    }

    /// Chooses by measured times of `entry`, at its `sizes`, from now on; to be called for all
    /// entry points that may be launched.
    pub fn set_cost(&mut self, entry: &EntryPoint, measured: CostModel) {
        for timed in &mut self.entries {
            if timed.entry == *entry {
                timed.measured = Some(measured.clone());
            }
        }
    }

    /// What batches up to `max_batch` cost, each with its best entry point, from the times set: a
    /// step for each tile.
    pub fn cost(&self, max_batch: u32) -> CostModel {
        let step = self.entries().map(|entry| entry.rows).min().unwrap_or(1);
        let steps = (step..=max_batch).step_by(step as usize);
        let sizes = steps.chain((!max_batch.is_multiple_of(step)).then_some(max_batch));
        let time = |rows: u32| {
            let times = self.entries.iter().map(|timed| timed.time(rows));
            times.fold(f64::INFINITY, f64::min)
        };
        CostModel::from_points(sizes.map(|rows| (rows as usize, time(rows))))
    }

    /// The entry points that may be launched, smallest tile first.
    pub fn entries(&self) -> impl Iterator<Item = EntryPoint> + '_ {
        self.entries.iter().map(|timed| timed.entry)
    }

    /// The layout of the weights.
    pub fn layout(&self) -> WeightLayout {
        self.layout
    }

    /// The launch for a batch of `rows` rows (1 or more): the entry point whose waves take the
    /// least time, the smaller tile where they are equal. All give the same bits.
    pub fn launch(&self, rows: u32) -> Launch {
        let rows = rows.max(1);
        // The first of equals; there is always one.
        let best = self
            .entries
            .iter()
            .min_by(|a, b| a.time(rows).total_cmp(&b.time(rows)));
        Launch::of(best.map_or(self.entries[0].entry, |best| best.entry), rows)
    }

    /// Rows that run at once at most: larger batches take a further wave.
    pub fn rows_at_once(&self) -> u32 {
        let waves = self.entries.iter().map(TimedEntry::rows_of_a_wave);
        waves.max().unwrap_or(1)
    }

    /// What its entry points are compiled for: plans that are alike in this launch the same.
    pub fn module(&self) -> ModuleKey {
        (self.family, self.layout.width(), self.layout.operands())
    }

    /// The PTX of its entry points.
    pub fn ptx(&self) -> Cow<'static, str> {
        self.family.ptx(self.layout.width(), self.layout.operands())
    }
}

/// One launch: a grid of `grid_blocks` blocks of `entry`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// What to launch.
    pub entry: EntryPoint,
    /// Blocks, a multiple of the entry's cluster.
    pub grid_blocks: u32,
}

impl Launch {
    /// `entry` for `rows` rows.
    pub fn of(entry: EntryPoint, rows: u32) -> Self {
        Self {
            entry,
            grid_blocks: rows.div_ceil(entry.rows) * entry.cluster,
        }
    }
}
