// BlobNet in one launch: request slots in, reply slots out; every activation stays on chip in
// between.
//
// Entry points        rows  blocks        shared bytes  for
//   blobnet_block_16    16  1                  100,352  sm_80 and later, small batches
//   blobnet_block_32    32  1                  101,376  sm_80 and later (sm_86 and sm_89 give a
//                                                       block no more)
//   blobnet_cluster_16  16  cluster of 8       128,768  sm_90, up to 16 rows a cluster that fits
//   blobnet_cluster_32  32  cluster of 8       158,208  sm_90
//   blobnet_cluster_64  64  cluster of 8       217,088  sm_90
//   blobnet_features     8  1                    9,216  the 256 features as floats, for tests
// Blocks of 256 threads, one a multiprocessor. No spills, no stack; scripts/compile_gate.sh prints
// the registers and watches over them.
//
// Shapes. 256 features -> WIDTH (128 or 256) -> depth layers (WIDTH x WIDTH mix, norm, WIDTH -> FFN
// -> WIDTH, norm) -> 52 logits, 8 values; FFN is padded to a multiple of 1024. Depth and FFN are
// told at launch, so a module serves every network of its width. Operands are f16 where
// src/network/cuda/packing/mod.rs proves from the weights that no activation can leave its range
// (BLOBNET_F16=1), else bf16: same speed and size, but f16 has 3 bits more, and bf16 alone leaves
// too little room below the tolerance of 0.01 on priors and 0.02 on values. Sums are f32.
//
// All do the same sums in the same order, by the same instructions: which of them a batch meets
// changes no bit of a row.
#include "tiles.cuh"

//                                  blocks, rows, stages, fragments a stage
using Block16 = Tile<1, 16, 8, 2>;
using Block32 = Tile<1, 32, 4, 2>;
using Cluster16 = Tile<8, 16, 6, 4>;
using Cluster32 = Tile<8, 32, 6, 4>;
using Cluster64 = Tile<8, 64, 6, 4>;

#ifdef BLOBNET_BLOCK
static_assert(Block16::BYTES == shared_bytes_of::BLOCK_16 &&
                  Block32::BYTES == shared_bytes_of::BLOCK_32,
              "src/network/cuda/kernels.rs disagrees");
KERNEL void blobnet_block_16(const BlobNetArgs args) { evaluate<Block16>(args); }
KERNEL void blobnet_block_32(const BlobNetArgs args) { evaluate<Block32>(args); }
#endif

#ifdef BLOBNET_CLUSTER
static_assert(Cluster16::BYTES == shared_bytes_of::CLUSTER_16 &&
                  Cluster32::BYTES == shared_bytes_of::CLUSTER_32 &&
                  Cluster64::BYTES == shared_bytes_of::CLUSTER_64,
              "src/network/cuda/kernels.rs disagrees");
CLUSTER_KERNEL void blobnet_cluster_16(const BlobNetArgs args) { evaluate<Cluster16>(args); }
CLUSTER_KERNEL void blobnet_cluster_32(const BlobNetArgs args) { evaluate<Cluster32>(args); }
CLUSTER_KERNEL void blobnet_cluster_64(const BlobNetArgs args) { evaluate<Cluster64>(args); }
#endif

#ifdef BLOBNET_FEATURES
// Row by row, one warp each: 256 floats at the reply's offset. For tests.
KERNEL void blobnet_features(const BlobNetArgs args) {
    const unsigned warp = thread_index() / 32, lane = thread_index() % 32,
                   first = block_index() * WARPS;
    const unsigned slot = shared_window() + warp * SLOT_BYTES,
                   features = shared_window() + WARPS * SLOT_BYTES + warp * FEATURES * 4;
    const ReplyHeader header =
        fetch_requests<1>(args, first, WARPS, warp, lane, shared_window(), SLOT_BYTES);
    expand(slot, features, lane);
    warp_barrier();
    unsigned char* target = args.replies + shuffle_long(header.reply, 0);
    if (first + warp < args.rows) {
        for (unsigned feature = lane; feature < FEATURES; feature += 32)
            store_system_word(target + feature * 4, load_shared_word(features + feature * 4));
    }
    system_fence();
}
#endif
