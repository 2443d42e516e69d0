//! What to compile for a GPU and how to launch it, as plain numbers: no CUDA here, so all of it is tested without one.
//! The kernels are described in `kernels/blobnet.cu`; shared memory is counted on both sides, and the kernel refuses to
//! compile if the counts differ.

use super::packed_bf16::Layout;

/// Threads of a block, of every entry point.
pub const THREADS: u32 = 256;
/// Blocks of a cluster, of the entry points that use clusters. Fixed in the kernel (`__cluster_dims__`), so a plain
/// launch with a grid of a multiple of this is right.
pub const CLUSTER: u32 = 8;

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
    /// What `packed_bf16::pack` made, 16-byte aligned.
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

/// One entry point of `kernels/blobnet.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryPoint {
    /// Its name in the compiled module.
    pub name: &'static str,
    /// Rows of a tile.
    pub rows: u32,
    /// Blocks that share a tile: 1 or [`CLUSTER`].
    pub cluster: u32,
    /// Dynamic shared memory of a block; beyond 48 KB it must be asked for before the first launch.
    pub shared_bytes: u32,
    /// How long one wave takes, relative to the other entry points of its kind: counted, not measured.
    cost: u32,
}

/// Shared memory of a block, as `Tile` of the kernel counts it.
const fn shared_bytes(cluster: u32, rows: u32, stages: u32, group: u32) -> u32 {
    let (warps, pitch_gap) = (8, 16);
    let ring = warps * stages * group * 512;
    let stream = rows * (256 * 2 + pitch_gap);
    // A cluster's block owns rows / cluster rows, with an inbox for each of its peers.
    let inboxes = rows * (256 * 4 + pitch_gap);
    let hidden_buffers = if cluster == 1 { 2 } else { 1 };
    let hidden = hidden_buffers * rows * (128 * 2 + pitch_gap);
    ring + stream + inboxes + hidden + warps * 128
}

const fn entry(
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
        shared_bytes: shared_bytes(cluster, rows, stages, group),
        cost,
    }
}

/// For any GPU from 8.0 on: one block takes a tile through the whole network.
pub const BLOCK_ENTRIES: [EntryPoint; 2] = [
    entry("blobnet_block_16", 1, 16, 8, 2, 3),
    entry("blobnet_block_32", 1, 32, 4, 2, 4),
];

/// For 9.0: a cluster of 8 blocks shares a tile and the reading of the weights.
pub const CLUSTER_ENTRIES: [EntryPoint; 3] = [
    entry("blobnet_cluster_16", CLUSTER, 16, 6, 4, 27),
    entry("blobnet_cluster_32", CLUSTER, 32, 6, 4, 32),
    entry("blobnet_cluster_64", CLUSTER, 64, 6, 4, 42),
];

/// One launch: a grid of `grid_blocks` blocks of [`THREADS`] threads of `entry`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// What to launch.
    pub entry: EntryPoint,
    /// Blocks, a multiple of the entry's cluster.
    pub grid_blocks: u32,
}

/// What to compile for one GPU and one network, and which entry point for which batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    gpu: Gpu,
    layout: Layout,
    entries: Vec<EntryPoint>,
    /// Tiles that run at once.
    resident: u32,
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
        let fitting = |all: &[EntryPoint]| -> Vec<EntryPoint> {
            let fits = |entry: &&EntryPoint| entry.shared_bytes <= gpu.shared_bytes_per_block;
            all.iter().filter(fits).copied().collect()
        };
        let clusters = gpu.multiprocessors / CLUSTER;
        if major == 9 && clusters > 0 {
            let entries = fitting(&CLUSTER_ENTRIES);
            if !entries.is_empty() {
                return Ok(Self {
                    gpu,
                    layout,
                    entries,
                    resident: clusters,
                });
            }
        }
        let entries = fitting(&BLOCK_ENTRIES);
        if entries.is_empty() {
            return Err(PlanError::SharedMemory {
                available: gpu.shared_bytes_per_block,
                needed: BLOCK_ENTRIES[0].shared_bytes,
            });
        }
        let resident = gpu.multiprocessors.max(1);
        Ok(Self {
            gpu,
            layout,
            entries,
            resident,
        })
    }

    /// Corrects the number of clusters that run at once by what the driver says (`cuOccupancyMaxActiveClusters`): the
    /// multiprocessors of a chip do not always group into eights without a rest. Without clusters it changes nothing.
    pub fn set_resident_clusters(&mut self, clusters: u32) {
        if self.uses_clusters() && clusters > 0 {
            self.resident = clusters;
        }
    }

    /// True if the entry points are those of a cluster.
    pub fn uses_clusters(&self) -> bool {
        self.entries[0].cluster > 1
    }

    /// The entry points that may be launched, smallest tile first.
    pub fn entries(&self) -> &[EntryPoint] {
        &self.entries
    }

    /// The layout of the weights.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The launch for a batch of `rows` rows (1 or more): the entry point whose waves take the least time, the smaller
    /// tile where they are equal. All give the same bits.
    pub fn launch(&self, rows: u32) -> Launch {
        let rows = rows.max(1);
        let time = |entry: &EntryPoint| {
            let waves = rows.div_ceil(entry.rows).div_ceil(self.resident);
            u64::from(waves) * u64::from(entry.cost)
        };
        let mut best = self.entries[0];
        for entry in &self.entries[1..] {
            if time(entry) < time(&best) {
                best = *entry;
            }
        }
        Launch {
            entry: best,
            grid_blocks: rows.div_ceil(best.rows) * best.cluster,
        }
    }

    /// Rows that run at once at most: batches beyond take a further wave.
    pub fn rows_at_once(&self) -> u32 {
        let rows = self.entries.iter().map(|entry| entry.rows).max();
        rows.unwrap_or(1) * self.resident
    }

    /// Options for NVRTC: architecture, language, arithmetic, and the kernel's numbers.
    pub fn nvrtc_options(&self) -> Vec<String> {
        let mut options = vec![format!(
            "--gpu-architecture=sm_{}{}",
            self.gpu.major, self.gpu.minor
        )];
        options.extend(source_options(self.layout, self.uses_clusters()));
        options
    }
}

/// The options that do not depend on the architecture: those of NVRTC less the first.
pub fn source_options(layout: Layout, clusters: bool) -> Vec<String> {
    let mut options = vec![
        "--std=c++17".to_owned(),
        // No fusing of products and sums outside the matrix products: every entry point rounds alike, and like the emulation.
        "--fmad=false".to_owned(),
    ];
    options.extend(defines(layout, clusters));
    options
}

/// Which entry points to compile, their shared memory, and the layout of the weights, as `-D` options.
pub fn defines(layout: Layout, clusters: bool) -> Vec<String> {
    let (family, entries) = if clusters {
        ("CLUSTER", CLUSTER_ENTRIES.as_slice())
    } else {
        ("BLOCK", BLOCK_ENTRIES.as_slice())
    };
    let mut options = vec![format!("-DBLOBNET_{family}")];
    for entry in entries {
        let (rows, bytes) = (entry.rows, entry.shared_bytes);
        options.push(format!("-DBLOBNET_SHARED_{family}_{rows}={bytes}"));
    }
    options.extend(layout.defines());
    options
}

#[cfg(test)]
mod tests {
    use super::super::packed_bf16::Operands;
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
        for entry in CLUSTER_ENTRIES {
            assert!(
                entry.shared_bytes <= H200.shared_bytes_per_block,
                "{entry:?}"
            );
        }
        for entry in BLOCK_ENTRIES {
            assert!(
                entry.shared_bytes <= RTX_4060.shared_bytes_per_block,
                "{entry:?}"
            );
        }
        assert_eq!(plan(H200).entries().len(), 3);
        assert_eq!(plan(RTX_4060).entries().len(), 2);
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
            (8192, "blobnet_cluster_64", 1024),
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
        assert_eq!(plan.rows_at_once(), 1024);
        plan.set_resident_clusters(14);
        assert_eq!(plan.launch(256).entry.rows, 32);
        assert_eq!(plan.rows_at_once(), 14 * 64);
    }

    #[test]
    fn small_shared_memory_takes_the_smaller_tile_or_nothing() {
        let mut gpu = RTX_4060;
        gpu.shared_bytes_per_block = 101_000;
        assert_eq!(plan(gpu).entries().len(), 1);
        gpu.shared_bytes_per_block = 65_536;
        assert!(matches!(
            Plan::new(gpu, layout()),
            Err(PlanError::SharedMemory { .. })
        ));
        // Blackwell's desktop chips have clusters, but not the shared memory for these tiles.
        gpu = RTX_4060;
        gpu.major = 12;
        assert!(!plan(gpu).uses_clusters());
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
            "--gpu-architecture=sm_90",
            "--fmad=false",
            "-DBLOBNET_CLUSTER",
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
