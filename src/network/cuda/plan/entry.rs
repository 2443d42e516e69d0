//! The entry points of `kernels/blobnet.cu`: what each is for, takes, and costs by the count.

/// Threads of a block, in every entry point.
pub const THREADS: u32 = 256;

/// One entry point of `kernels/blobnet.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryPoint {
    /// Its name in the compiled module.
    pub name: &'static str,
    /// Rows that a cluster of blocks takes (a block, where there are no clusters).
    pub rows: u32,
    /// Blocks of a cluster, or 1. Fixed in the kernel (`__cluster_dims__`), so a plain launch with
    /// a grid of a multiple of this is right.
    pub cluster: u32,
    /// Dynamic shared memory of a block; beyond 48 KB it must be asked for before the first
    /// launch.
    pub shared_bytes: u32,
    /// How long one wave takes, relative to the other entry points for the same GPU: counted, not
    /// measured.
    pub(super) cost: u32,
}

/// Entry points that are written for the same GPUs in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// For any GPU from 8.0 on: one block takes its rows through the whole network.
    Block,
    /// For 9.0: a cluster of 8 blocks shares its rows and the reading of the weights.
    Cluster,
}

impl Family {
    /// All of them.
    pub const ALL: [Family; 2] = [Family::Block, Family::Cluster];

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
        match self {
            Family::Block => &BLOCK,
            Family::Cluster => &CLUSTER,
        }
    }

    /// As it stands in the kernels' options.
    pub fn name(self) -> &'static str {
        match self {
            Family::Block => "BLOCK",
            Family::Cluster => "CLUSTER",
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
        shared_bytes: tile_shared_bytes(cluster, rows, stages, group),
        cost,
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
