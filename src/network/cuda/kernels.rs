//! The kernels as the program knows them: the entry points of `kernels/blobnet.cu`, and the PTX
//! with them, in the program itself. `scripts/compile_gate.sh --write` makes the PTX, and the
//! driver compiles it for its GPU when it is loaded. That takes seconds the first time; then the
//! driver has it in a cache of its own (`~/.nv/ComputeCache`).

use std::borrow::Cow;

use super::packing::OperandType;

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
    pub cost: u32,
}

/// Entry points that are written for the same GPUs in the same way, in one module of PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelFamily {
    /// For any GPU from 8.0 on: one block takes its rows through the whole network.
    Block,
    /// For 9.0: a cluster of 8 blocks shares its rows and the reading of the weights.
    Cluster,
}

/// The PTX is written for f16; the same for bf16 differs in these instructions' types alone. The
/// compile gate sees that NVRTC makes the same of the sources.
const BF16_FOR_F16: [(&str, &str); 2] = [
    ("f32.f16.f16.f32", "f32.bf16.bf16.f32"),
    ("cvt.rn.f16x2", "cvt.rn.bf16x2"),
];

macro_rules! ptx {
    ($module:literal) => {
        include_str!(concat!("../../../kernels/ptx/", $module, ".ptx"))
    };
}

impl KernelFamily {
    /// All of them.
    pub const ALL: [KernelFamily; 2] = [KernelFamily::Block, KernelFamily::Cluster];

    /// Its entry points, the smallest first.
    pub fn entries(self) -> &'static [EntryPoint] {
        const BLOCK: [EntryPoint; 2] = [
            entry_point("blobnet_block_16", 1, 16, 8, 2, 3),
            entry_point("blobnet_block_32", 1, 32, 4, 2, 4),
        ];
        const CLUSTER: [EntryPoint; 3] = [
            entry_point("blobnet_cluster_16", 8, 16, 6, 4, 27),
            entry_point("blobnet_cluster_32", 8, 32, 6, 4, 32),
            entry_point("blobnet_cluster_64", 8, 64, 6, 4, 42),
        ];
        match self {
            KernelFamily::Block => &BLOCK,
            KernelFamily::Cluster => &CLUSTER,
        }
    }

    /// The PTX of its entry points for networks of `width` (128 or 256).
    pub fn ptx(self, width: usize, operands: OperandType) -> Cow<'static, str> {
        let text = match (self, width) {
            (KernelFamily::Block, 128) => ptx!("block_128"),
            (KernelFamily::Block, _) => ptx!("block_256"),
            (KernelFamily::Cluster, 128) => ptx!("cluster_128"),
            (KernelFamily::Cluster, _) => ptx!("cluster_256"),
        };
        match operands {
            OperandType::F16 => text.into(),
            OperandType::Bf16 => BF16_FOR_F16
                .iter()
                .fold(text.to_owned(), |text, (f16, bf16)| text.replace(f16, bf16))
                .into(),
        }
    }
}

/// Shared memory is counted as `Tile` of `kernels/tiles.cuh` counts it; the kernels do not compile
/// where the two differ.
const fn entry_point(
    name: &'static str,
    cluster: u32,
    rows: u32,
    stages: u32,
    group: u32,
    cost: u32,
) -> EntryPoint {
    let (warps, pitch_gap) = (8, 16);
    let ring = warps * stages * group * 512;
    let stream = rows * (256 * 2 + pitch_gap);
    // A cluster's block owns rows / cluster rows, with partial sums from each of its peers.
    let partials = rows * (256 * 4 + pitch_gap);
    let hidden_buffers = if cluster == 1 { 2 } else { 1 };
    let hidden = hidden_buffers * rows * (128 * 2 + pitch_gap);
    EntryPoint {
        name,
        rows,
        cluster,
        shared_bytes: ring + stream + partials + hidden + warps * 128,
        cost,
    }
}
