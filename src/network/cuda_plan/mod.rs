//! What to compile for a GPU and how to launch it, as plain numbers: no CUDA here, so all of it is tested without one.
//! The kernels are described in `kernels/blobnet.cu`; shared memory is counted on both sides, and the kernels refuse to
//! compile if the counts differ.

mod entry;

pub use entry::{EntryPoint, Family, Launch};

use super::cost::CostModel;
use super::packed::Layout;

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
    /// `Packed::fragments`, 16-byte aligned.
    pub weights: u64,
    /// `Packed::steps`, 16-byte aligned; 0 where no entry point reads them.
    pub steps: u64,
    /// Rows of the batch.
    pub rows: u32,
    /// Padding.
    pub reserved: u32,
}

const _: () = assert!(size_of::<BlobNetArgs>() == 56);

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
    families: Vec<Family>,
    entries: Vec<Planned>,
}

#[derive(Clone, Debug, PartialEq)]
struct Planned {
    entry: EntryPoint,
    /// How many of its clusters (or blocks) run at once.
    resident: u32,
    /// Times of up to a wave of rows, once they are measured.
    measured: Option<CostModel>,
    /// Not left out.
    is_in: bool,
}

impl Planned {
    fn rows_of_a_wave(&self) -> u32 {
        self.entry.rows * self.resident
    }

    /// How long a batch takes: in seconds if that was measured, else in units of `cost`. Whole waves, and a rest of whole tiles.
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
        let fitting = |family: Family| {
            let fits = |entry: &&EntryPoint| {
                entry.shared_bytes <= gpu.shared_bytes_per_block
                    && entry.cluster <= gpu.multiprocessors.max(1)
            };
            family
                .entries()
                .iter()
                .filter(fits)
                .map(move |&entry| Planned {
                    entry,
                    resident: (gpu.multiprocessors / entry.cluster).max(1),
                    measured: None,
                    is_in: true,
                })
        };
        let mut plan = Self {
            gpu,
            layout,
            families: Vec::new(),
            entries: Vec::new(),
        };
        if (major, minor) == (9, 0) {
            plan.add(Family::Cluster, fitting(Family::Cluster));
            if !plan.entries.is_empty() && layout.steps().is_some() {
                plan.add(Family::Warpgroup, fitting(Family::Warpgroup));
            }
        }
        if plan.entries.is_empty() {
            plan.add(Family::Block, fitting(Family::Block));
        }
        if plan.entries.is_empty() {
            return Err(PlanError::SharedMemory {
                available: gpu.shared_bytes_per_block,
                needed: Family::Block.entries()[0].shared_bytes,
            });
        }
        Ok(plan)
    }

    fn add(&mut self, family: Family, entries: impl Iterator<Item = Planned>) {
        let before = self.entries.len();
        self.entries.extend(entries);
        if self.entries.len() > before {
            self.families.push(family);
        }
    }

    /// Corrects the number of clusters of `entry` that run at once by what the driver says (`cuOccupancyMaxActiveClusters`): the
    /// multiprocessors of a chip do not always group into eights without a rest.
    pub fn set_resident_clusters(&mut self, entry: &EntryPoint, clusters: u32) {
        for planned in &mut self.entries {
            if planned.entry == *entry && entry.cluster > 1 && clusters > 0 {
                planned.resident = clusters;
            }
        }
    }

    /// Batch sizes at which `entry` is to be measured: one tile, two, four ... up to a wave or to `max_batch`.
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

    /// Chooses by measured times of `entry`, at its `sizes`, from now on; to be called for all entry points that may be launched.
    pub fn set_cost(&mut self, entry: &EntryPoint, measured: CostModel) {
        for planned in &mut self.entries {
            if planned.entry == *entry {
                planned.measured = Some(measured.clone());
            }
        }
    }

    /// What batches up to `max_batch` cost, each with its best entry point, from the times set: a step for each tile.
    pub fn cost(&self, max_batch: u32) -> CostModel {
        let step = self.entries().map(|entry| entry.rows).min().unwrap_or(1);
        let steps = (step..=max_batch).step_by(step as usize);
        let sizes = steps.chain((!max_batch.is_multiple_of(step)).then_some(max_batch));
        let time = |rows: u32| {
            let times = self.taken().map(|planned| planned.time(rows));
            times.fold(f64::INFINITY, f64::min)
        };
        CostModel::from_points(sizes.map(|rows| (rows as usize, time(rows))))
    }

    /// Leaves out what no batch of up to `max_batch` rows calls for, by the count, among the entry points that would have to be
    /// proven.
    pub fn limit(&mut self, max_batch: u32) {
        for entry in self.unproven() {
            if !(1..=max_batch).any(|rows| self.launch(rows).entry == entry) {
                self.leave_out(&entry);
            }
        }
    }

    /// Does without the kernels of warpgroups; false if it does already.
    pub fn drop_warpgroups(&mut self) -> bool {
        let before = self.families.len();
        self.families.retain(|family| *family != Family::Warpgroup);
        let dropped = Family::Warpgroup.entries();
        self.entries
            .retain(|planned| !dropped.contains(&planned.entry));
        self.families.len() < before
    }

    /// Leaves an entry point out from now on, if another one is left.
    pub fn leave_out(&mut self, entry: &EntryPoint) {
        self.set_in(entry, false);
    }

    /// Takes an entry point back in that was left out.
    pub fn take_in(&mut self, entry: &EntryPoint) {
        self.set_in(entry, true);
    }

    fn set_in(&mut self, entry: &EntryPoint, is_in: bool) {
        let is_another_in = self.taken().any(|taken| taken.entry != *entry);
        for planned in &mut self.entries {
            if planned.entry == *entry && (is_in || is_another_in) {
                planned.is_in = is_in;
            }
        }
    }

    fn taken(&self) -> impl Iterator<Item = &Planned> {
        self.entries.iter().filter(|planned| planned.is_in)
    }

    /// The entry points that may be launched, smallest tile first.
    pub fn entries(&self) -> impl Iterator<Item = EntryPoint> + '_ {
        self.taken().map(|planned| planned.entry)
    }

    /// Those of them that add up within one instruction what the others add up in another: the same bits must be seen, not assumed.
    pub fn unproven(&self) -> Vec<EntryPoint> {
        let warpgroup = Family::Warpgroup.entries();
        let unproven = |entry: &EntryPoint| warpgroup.contains(entry);
        self.entries().filter(unproven).collect()
    }

    /// Do its entry points read `Packed::steps`?
    pub fn reads_steps(&self) -> bool {
        self.families.contains(&Family::Warpgroup)
    }

    /// The layout of the weights.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The launch for a batch of `rows` rows (1 or more): the entry point whose waves take the least time, the smaller
    /// tile where they are equal. All give the same bits.
    pub fn launch(&self, rows: u32) -> Launch {
        let rows = rows.max(1);
        // The first of equals; there is always one.
        let best = self
            .taken()
            .min_by(|a, b| a.time(rows).total_cmp(&b.time(rows)));
        Launch::of(best.map_or(self.entries[0].entry, |best| best.entry), rows)
    }

    /// Rows that run at once at most: larger batches take a further wave.
    pub fn rows_at_once(&self) -> u32 {
        self.taken().map(Planned::rows_of_a_wave).max().unwrap_or(1)
    }

    /// Options for NVRTC: architecture, language, arithmetic, and the kernels' numbers.
    pub fn nvrtc_options(&self) -> Vec<String> {
        let (major, minor) = (self.gpu.major, self.gpu.minor);
        // Products of warpgroups belong to this very architecture.
        let exact = if self.reads_steps() { "a" } else { "" };
        let mut options = vec![format!("--gpu-architecture=sm_{major}{minor}{exact}")];
        options.extend(source_options());
        options.extend(defines(self.layout, &self.families));
        options
    }
}

/// The options that depend on neither architecture nor network.
pub fn source_options() -> Vec<String> {
    vec![
        "--std=c++17".to_owned(),
        // No fusing of products and sums outside the matrix products: every entry point rounds alike, and like the emulation.
        "--fmad=false".to_owned(),
    ]
}

/// Which entry points to compile, their shared memory, and the layout of the weights, as `-D` options.
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
