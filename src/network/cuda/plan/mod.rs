//! What to compile for a GPU and how to launch it, as plain numbers: no CUDA here, so all of it is
//! tested without one. The kernels are described in `kernels/blobnet.cu`; shared memory is counted
//! on both sides, and the kernels refuse to compile if the counts differ.

mod entry;

pub use entry::{EntryPoint, Family, Launch, THREADS};

use super::packing::Layout;
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
    /// What `packed::pack` made, 16-byte aligned.
    pub weights: u64,
    /// Rows of the batch.
    pub rows: u32,
    /// Padding.
    pub reserved: u32,
}

const _: () = assert!(size_of::<BlobNetArgs>() == 48);

/// What a plan asks of a device's properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Compute capability, major.
    pub major: u32,
    /// Compute capability, minor.
    pub minor: u32,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory that a block may have (the opt-in maximum).
    pub shared_bytes_per_block: u32,
}

/// Why no kernel fits a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// bf16 matrix products and asynchronous copies came with 8.0.
    #[error(
        "this GPU has compute capability {major}.{minor}, the CUDA kernels need 8.0 (Ampere) or later: use --backend cpu"
    )]
    TooOld {
        /// Compute capability, major.
        major: u32,
        /// Compute capability, minor.
        minor: u32,
    },
    /// Not even the smallest tile fits.
    #[error(
        "this GPU gives a block {available} bytes of shared memory, the CUDA kernels need {needed}: use --backend cpu"
    )]
    SharedMemory {
        /// What there is.
        available: u32,
        /// What the smallest entry point takes.
        needed: u32,
    },
}

/// What to compile for one GPU and one network, and which entry point for which batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    gpu: Gpu,
    layout: Layout,
    family: Family,
    entries: Vec<Planned>,
}

#[derive(Clone, Debug, PartialEq)]
struct Planned {
    entry: EntryPoint,
    /// How many of its clusters (or blocks) run at once.
    resident: u32,
    /// Times of up to a wave of rows, once they are measured.
    measured: Option<CostModel>,
}

impl Planned {
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

impl Plan {
    /// The plan for `gpu` and a network of this layout.
    ///
    /// # Errors
    /// [`PlanError`] if no kernel fits.
    pub fn new(gpu: Gpu, layout: Layout) -> Result<Self, PlanError> {
        let (major, minor) = (gpu.major, gpu.minor);
        if major < 8 {
            return Err(PlanError::TooOld { major, minor });
        }
        let fitting = |family: Family| -> Vec<Planned> {
            let fits = |entry: &&EntryPoint| {
                entry.shared_bytes <= gpu.shared_bytes_per_block
                    && entry.cluster <= gpu.multiprocessors.max(1)
            };
            let planned = |&entry: &EntryPoint| Planned {
                entry,
                resident: (gpu.multiprocessors / entry.cluster).max(1),
                measured: None,
            };
            family.entries().iter().filter(fits).map(planned).collect()
        };
        // Later architectures have clusters, too, but the tiles are cut for the shared memory of
        // this one.
        let best = match (major, minor) {
            (9, 0) => &[Family::Cluster, Family::Block][..],
            _ => &[Family::Block],
        };
        let mut plans = best.iter().map(|&family| (family, fitting(family)));
        let Some((family, entries)) = plans.find(|(_, entries)| !entries.is_empty()) else {
            return Err(PlanError::SharedMemory {
                available: gpu.shared_bytes_per_block,
                needed: Family::Block.entries()[0].shared_bytes,
            });
        };
        Ok(Self {
            gpu,
            layout,
            family,
            entries,
        })
    }

    /// Corrects the number of clusters of `entry` that run at once by what the driver says
    /// (`cuOccupancyMaxActiveClusters`): the multiprocessors of a chip do not always group into
    /// eights without a rest.
    pub fn set_resident_clusters(&mut self, entry: &EntryPoint, clusters: u32) {
        for planned in &mut self.entries {
            if planned.entry == *entry && entry.cluster > 1 && clusters > 0 {
                planned.resident = clusters;
            }
        }
    }

    /// Batch sizes at which `entry` is to be measured: one tile, two, four ... up to a wave or to
    /// `max_batch`.
    pub fn sizes(&self, entry: &EntryPoint, max_batch: usize) -> Vec<usize> {
        let planned = self.entries.iter().find(|planned| planned.entry == *entry);
        let (tile, wave) = (
            entry.rows as usize,
            planned.map_or(entry.rows, Planned::rows_of_a_wave) as usize,
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
        for planned in &mut self.entries {
            if planned.entry == *entry {
                planned.measured = Some(measured.clone());
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
            let times = self.entries.iter().map(|planned| planned.time(rows));
            times.fold(f64::INFINITY, f64::min)
        };
        CostModel::from_points(sizes.map(|rows| (rows as usize, time(rows))))
    }

    /// The entry points that may be launched, smallest tile first.
    pub fn entries(&self) -> impl Iterator<Item = EntryPoint> + '_ {
        self.entries.iter().map(|planned| planned.entry)
    }

    /// The layout of the weights.
    pub fn layout(&self) -> Layout {
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
        let waves = self.entries.iter().map(Planned::rows_of_a_wave);
        waves.max().unwrap_or(1)
    }

    /// Options for NVRTC: architecture, language, arithmetic, and the kernels' numbers.
    pub fn nvrtc_options(&self) -> Vec<String> {
        let (major, minor) = (self.gpu.major, self.gpu.minor);
        let mut options = vec![format!("--gpu-architecture=sm_{major}{minor}")];
        options.extend(source_options());
        options.extend(defines(self.layout, &[self.family]));
        options
    }
}

/// The options that depend on neither architecture nor network.
pub fn source_options() -> Vec<String> {
    vec![
        "--std=c++17".to_owned(),
        // No fusing of products and sums outside the matrix products: every entry point rounds
        // alike, and like the emulation.
        "--fmad=false".to_owned(),
    ]
}

/// Which entry points to compile, their shared memory, and the layout of the weights, as `-D`
/// options.
pub fn defines(layout: Layout, families: &[Family]) -> Vec<String> {
    let mut options = Vec::new();
    for family in families {
        let name = family.name();
        options.push(format!("-DBLOBNET_{name}"));
        for entry in family.entries() {
            let (rows, bytes) = (entry.rows, entry.shared_bytes);
            options.push(format!("-DBLOBNET_SHARED_{name}_{rows}={bytes}"));
        }
    }
    options.extend(layout.defines());
    options
}

#[cfg(test)]
mod tests;
