//! What to compile for a GPU and how to launch it, as plain numbers: no CUDA here, so all of it is tested without one.
//! The kernels are described in `kernels/blobnet.cu`; shared memory is counted on both sides, and the kernels refuse to
//! compile if the counts differ.

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

/// One entry point of `kernels/blobnet.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryPoint {
    /// Its name in the compiled module.
    pub name: &'static str,
    /// Rows that a cluster of blocks takes (a block, where there are no clusters).
    pub rows: u32,
    /// Blocks of a cluster, or 1. Fixed in the kernel (`__cluster_dims__`), so a plain launch with a grid of a multiple of
    /// this is right.
    pub cluster: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block; beyond 48 KB it must be asked for before the first launch.
    pub shared_bytes: u32,
    /// How long one wave takes, relative to the other entry points for the same GPU: counted, not measured.
    cost: u32,
}

/// Entry points that are written for the same GPUs in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// For any GPU from 8.0 on: one block takes its rows through the whole network.
    Block,
    /// For 9.0: a cluster of 8 blocks shares its rows and the reading of the weights.
    Cluster,
    /// For 9.0: each block takes 64 rows by products of warpgroups, and a cluster of 4 shares the reading of the weights.
    Warpgroup,
}

impl Family {
    /// All of them.
    pub const ALL: [Family; 3] = [Family::Block, Family::Cluster, Family::Warpgroup];

    /// Its entry points, the smallest first.
    pub fn entries(self) -> &'static [EntryPoint] {
        const BLOCK: [EntryPoint; 2] = [
            tile("blobnet_block_16", 1, 16, 8, 2, 3),
            tile("blobnet_block_32", 1, 32, 4, 2, 4),
        ];
        const CLUSTER: [EntryPoint; 4] = [
            tile("blobnet_cluster_16", 8, 16, 6, 4, 27),
            tile("blobnet_cluster_32", 8, 32, 6, 4, 32),
            tile("blobnet_cluster_64", 8, 64, 6, 4, 42),
            tile("blobnet_cluster_80", 8, 80, 10, 2, 50),
        ];
        const WARPGROUP: [EntryPoint; 1] = [EntryPoint {
            name: "blobnet_warpgroup_256",
            rows: 4 * 64,
            cluster: 4,
            threads: 384,
            shared_bytes: warpgroup_shared_bytes(),
            cost: 125,
        }];
        match self {
            Family::Block => &BLOCK,
            Family::Cluster => &CLUSTER,
            Family::Warpgroup => &WARPGROUP,
        }
    }

    /// As it stands in the kernels' options.
    pub fn name(self) -> &'static str {
        match self {
            Family::Block => "BLOCK",
            Family::Cluster => "CLUSTER",
            Family::Warpgroup => "WARPGROUP",
        }
    }
}

/// Shared memory of a block, as `Tile` of `kernels/tiles.cuh` counts it.
const fn tile_shared_bytes(cluster: u32, rows: u32, stages: u32, group: u32) -> u32 {
    let (warps, pitch_gap) = (8, 16);
    let ring = warps * stages * group * 512;
    let stream = rows * (256 * 2 + pitch_gap);
    // A cluster's block owns rows / cluster rows, with an inbox for each of its peers.
    let inboxes = rows * (256 * 4 + pitch_gap);
    let hidden_buffers = if cluster == 1 { 2 } else { 1 };
    let hidden = hidden_buffers * rows * (128 * 2 + pitch_gap);
    ring + stream + inboxes + hidden + warps * 128
}

const fn tile(
    name: &'static str,
    cluster: u32,
    rows: u32,
    stages: u32,
    group: u32,
    cost: u32,
) -> EntryPoint {
    EntryPoint {
        name,
        rows,
        cluster,
        threads: 256,
        shared_bytes: tile_shared_bytes(cluster, rows, stages, group),
        cost,
    }
}

/// Shared memory of a block, as `kernels/warpgroups.cuh` counts it.
const fn warpgroup_shared_bytes() -> u32 {
    let (rows, stages, warps) = (64, 8, 8);
    let ring = stages * 2 * 256 * 16 * 2;
    let stream_and_hidden = 3 * rows * 256 * 2;
    let statistics = 2 * 2 * rows * 4;
    ring + stream_and_hidden + statistics + warps * 128 + 2 * stages * 8
}

/// One launch: a grid of `grid_blocks` blocks of `entry`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// What to launch.
    pub entry: EntryPoint,
    /// Blocks, a multiple of the entry's cluster.
    pub grid_blocks: u32,
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
    pub fn sizes(&self, entry: &EntryPoint, max_batch: u32) -> Vec<u32> {
        let planned = self.entries.iter().find(|planned| planned.entry == *entry);
        let wave = planned.map_or(entry.rows, Planned::rows_of_a_wave);
        let most = wave.min(max_batch.next_multiple_of(entry.rows));
        let doubled = |rows: &u32| Some(2 * rows).filter(|&rows| rows < most);
        let mut sizes: Vec<u32> = std::iter::successors(Some(entry.rows), doubled).collect();
        if most > entry.rows {
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

impl Launch {
    /// `entry` for `rows` rows.
    pub fn of(entry: EntryPoint, rows: u32) -> Self {
        Self {
            entry,
            grid_blocks: rows.div_ceil(entry.rows) * entry.cluster,
        }
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
mod tests {
    use super::super::packed::Operands;
    use super::super::weights::Shape;
    use super::*;

    const H200: Gpu = Gpu {
        major: 9,
        minor: 0,
        multiprocessors: 132,
        shared_bytes_per_block: 232_448,
    };
    const RTX_4060: Gpu = Gpu {
        major: 8,
        minor: 9,
        multiprocessors: 24,
        shared_bytes_per_block: 101_376,
    };

    fn layout() -> Layout {
        Layout::new(Shape::default(), Operands::F16).unwrap()
    }

    fn plan(gpu: Gpu) -> Plan {
        Plan::new(gpu, layout()).unwrap()
    }

    #[test]
    fn every_entry_fits_the_gpus_it_is_for() {
        for (family, gpu) in [
            (Family::Cluster, H200),
            (Family::Warpgroup, H200),
            (Family::Block, RTX_4060),
        ] {
            for entry in family.entries() {
                assert!(
                    entry.shared_bytes <= gpu.shared_bytes_per_block,
                    "{entry:?}"
                );
            }
        }
        assert_eq!(plan(H200).entries().count(), 5);
        assert_eq!(plan(RTX_4060).entries().count(), 2);
    }

    #[test]
    fn a_batch_is_covered_and_spread_over_the_whole_gpu() {
        for (rows, name, grid) in [
            (1, "blobnet_cluster_16", 8),
            (16, "blobnet_cluster_16", 8),
            (17, "blobnet_cluster_16", 16),
            (256, "blobnet_cluster_16", 128),
            (257, "blobnet_cluster_32", 72),
            (512, "blobnet_cluster_32", 128),
            (1024, "blobnet_cluster_64", 128),
            (2048, "blobnet_cluster_64", 256),
            (3072, "blobnet_warpgroup_256", 48),
            (8192, "blobnet_warpgroup_256", 128),
        ] {
            let launch = plan(H200).launch(rows);
            assert_eq!(
                (launch.entry.name, launch.grid_blocks),
                (name, grid),
                "{rows}"
            );
        }
        let launch = plan(RTX_4060).launch(384);
        assert_eq!((launch.entry.rows, launch.grid_blocks), (16, 24));
        for gpu in [H200, RTX_4060] {
            for rows in 1..3000 {
                let launch = plan(gpu).launch(rows);
                let tiles = launch.grid_blocks / launch.entry.cluster;
                assert_eq!(launch.grid_blocks % launch.entry.cluster, 0);
                assert!(tiles * launch.entry.rows >= rows);
                assert!((tiles - 1) * launch.entry.rows < rows);
            }
        }
    }

    #[test]
    fn fewer_clusters_than_counted_change_the_choice() {
        let mut plan = plan(H200);
        assert_eq!(plan.rows_at_once(), 33 * 256);
        for entry in Family::Cluster.entries() {
            plan.set_resident_clusters(entry, 14);
        }
        assert_eq!(plan.launch(256).entry.rows, 32);
        assert_eq!(plan.launch(1024).entry.rows, 80);
        plan.set_resident_clusters(&Family::Warpgroup.entries()[0], 28);
        assert_eq!(plan.rows_at_once(), 28 * 256);
    }

    /// Measured as if a wave took what was counted, and `share` of it whatever its size.
    fn measured(gpu: Gpu, share: f64) -> Plan {
        let mut plan = plan(gpu);
        for entry in plan.entries().collect::<Vec<_>>() {
            let wave = plan.sizes(&entry, u32::MAX / 2).pop().unwrap();
            let time = |rows: u32| {
                f64::from(entry.cost) * (share + (1.0 - share) * f64::from(rows) / f64::from(wave))
            };
            let points = plan
                .sizes(&entry, 8192)
                .into_iter()
                .map(|rows| (rows as usize, 1e-6 * time(rows)));
            let cost = CostModel::from_points(points);
            plan.set_cost(&entry, cost);
        }
        plan
    }

    #[test]
    fn measured_times_choose_as_the_counted_ones_where_they_agree() {
        for gpu in [H200, RTX_4060] {
            let (counted, measured) = (plan(gpu), measured(gpu, 1.0));
            for rows in 1..8192 {
                assert_eq!(counted.launch(rows), measured.launch(rows), "{rows} rows");
            }
        }
    }

    #[test]
    fn measured_times_change_the_choice() {
        // Where few clusters are quicker than many, larger tiles on fewer of them may win.
        let plan = measured(H200, 0.3);
        assert_eq!(plan.launch(16).entry.name, "blobnet_cluster_16");
        assert_eq!(plan.launch(256).entry.name, "blobnet_cluster_64");
        let cost = plan.cost(1000);
        let micros = |rows| cost.time(rows).as_secs_f64() * 1e6;
        assert!(
            (micros(16) - 27.0 * (0.3 + 0.7 / 16.0)).abs() < 1e-3,
            "{}",
            micros(16)
        );
        assert!(micros(1000) > micros(500) && micros(500) > micros(16));
        let model = measured(RTX_4060, 1.0).cost(2000);
        // 24 blocks of 32 rows at once: a third wave from 1537 rows on.
        assert!(model.time(1536) < model.time(1552), "{model:?}");
    }

    #[test]
    fn sizes_to_measure_end_with_a_wave_or_the_largest_batch() {
        let plan = plan(H200);
        let cluster = Family::Cluster.entries()[2];
        assert_eq!(plan.sizes(&cluster, 8192), [64, 128, 256, 512, 1024]);
        assert_eq!(plan.sizes(&cluster, 300), [64, 128, 256, 320]);
        assert_eq!(plan.sizes(&cluster, 64), [64]);
        assert_eq!(plan.sizes(&cluster, 1), [64]);
    }

    #[test]
    fn small_batches_need_no_warpgroups() {
        let mut small = plan(H200);
        small.limit(512);
        assert_eq!(small.unproven(), []);
        let mut large = plan(H200);
        large.limit(8192);
        assert_eq!(large.unproven().len(), 1);
        assert!(large.drop_warpgroups() && !large.drop_warpgroups());
        assert!(
            large
                .nvrtc_options()
                .contains(&"--gpu-architecture=sm_90".to_owned())
        );
    }

    #[test]
    fn without_an_entry_the_others_take_its_batches() {
        let mut plan = plan(H200);
        let [unproven] = plan.unproven()[..] else {
            panic!("the warpgroups' entry point alone");
        };
        plan.leave_out(&unproven);
        assert_eq!(plan.launch(8192).entry.name, "blobnet_cluster_64");
        assert_eq!(plan.rows_at_once(), 1280);
        assert_eq!(plan.unproven(), []);
        plan.take_in(&unproven);
        assert_eq!(plan.launch(8192).entry, unproven);
        plan.leave_out(&unproven);
        let only = plan.launch(1).entry;
        for entry in Family::Cluster.entries() {
            plan.leave_out(entry);
        }
        assert_eq!(plan.entries().count(), 1, "one stays: {only:?}");
    }

    #[test]
    fn networks_too_wide_for_warpgroups_have_the_rest() {
        let wide = Layout::new(Shape::new(256, 1, 3072).unwrap(), Operands::F16).unwrap();
        let plan = Plan::new(H200, wide).unwrap();
        assert_eq!((plan.entries().count(), plan.reads_steps()), (4, false));
        assert!(
            plan.nvrtc_options()
                .contains(&"--gpu-architecture=sm_90".to_owned())
        );
    }

    #[test]
    fn small_shared_memory_takes_the_smaller_tile_or_nothing() {
        let mut gpu = RTX_4060;
        gpu.shared_bytes_per_block = 101_000;
        assert_eq!(plan(gpu).entries().count(), 1);
        gpu.shared_bytes_per_block = 65_536;
        assert!(matches!(
            Plan::new(gpu, layout()),
            Err(PlanError::SharedMemory { .. })
        ));
        // Blackwell's desktop chips have clusters, but not the shared memory for these tiles.
        gpu = RTX_4060;
        gpu.major = 12;
        assert_eq!(plan(gpu).entries().next(), Some(Family::Block.entries()[0]));
    }

    #[test]
    fn old_gpus_are_refused_with_the_remedy() {
        let mut gpu = RTX_4060;
        (gpu.major, gpu.minor) = (7, 5);
        let error = Plan::new(gpu, layout()).unwrap_err();
        assert!(error.to_string().contains("--backend cpu"), "{error}");
    }

    #[test]
    fn options_name_architecture_shape_and_shared_memory() {
        let options = plan(H200).nvrtc_options();
        for expected in [
            "--gpu-architecture=sm_90a",
            "--fmad=false",
            "-DBLOBNET_CLUSTER",
            "-DBLOBNET_WARPGROUP",
            "-DBLOBNET_DEPTH=6",
            "-DBLOBNET_FFN_UNITS=1",
        ] {
            assert!(
                options.iter().any(|option| option == expected),
                "{expected}"
            );
        }
        let options = plan(RTX_4060).nvrtc_options();
        assert!(options.contains(&"-DBLOBNET_SHARED_BLOCK_32=101376".to_owned()));
    }
}
