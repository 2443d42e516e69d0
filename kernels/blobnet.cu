// BlobNet in one launch: request slots in, reply slots out; every activation stays on chip in between.
//
// Entry points            rows   blocks            threads   shared bytes   for
//   blobnet_block_16        16   1                     256        100,352   sm_80 and later, small batches
//   blobnet_block_32        32   1                     256        101,376   sm_80 and later (all that sm_86/sm_89 give one block)
//   blobnet_cluster_16      16   cluster of 8          256        128,768   sm_90, up to 16 rows a cluster that fits the chip
//   blobnet_cluster_32      32   cluster of 8          256        158,208   sm_90
//   blobnet_cluster_64      64   cluster of 8          256        217,088   sm_90
//   blobnet_cluster_80      80   cluster of 8          256        230,144   sm_90, for 1024 rows where 13 to 15 clusters fit the chip
//   blobnet_features         8   1                     256          9,216   the 256 features as floats, for tests
// One block a multiprocessor. No spills, no stack; scripts/compile_gate.sh prints the registers and watches over them.
//
// Shapes. 256 features -> width 256 -> DEPTH layers (256x256 mix, norm, 256 -> FFN -> 256, norm) -> 52 logits, 8 values; FFN is a
// multiple of 1024. Operands are f16 where src/network/cuda/packing/mod.rs proves from the weights that no activation can leave its range
// (BLOBNET_F16=1), else bf16: same speed and size, but f16 has 3 bits more, and bf16 alone leaves too little room below the tolerance
// of 0.01 on priors and 0.02 on values. Sums are f32.
//
// All do the same sums in the same order, by the same instructions: which of them a batch meets changes no bit of a row.
#include "tiles.cuh"

//                                  blocks, rows, stages, fragments a stage
using Block16 = Tile<1, 16, 8, 2>;
using Block32 = Tile<1, 32, 4, 2>;
using Cluster16 = Tile<8, 16, 6, 4>;
using Cluster32 = Tile<8, 32, 6, 4>;
using Cluster64 = Tile<8, 64, 6, 4>;
using Cluster80 = Tile<8, 80, 10, 2>;

#ifdef BLOBNET_BLOCK
static_assert(Block16::BYTES == BLOBNET_SHARED_BLOCK_16 && Block32::BYTES == BLOBNET_SHARED_BLOCK_32, "plan/entry.rs disagrees");
KERNEL void blobnet_block_16(const BlobNetArgs args) { evaluate<Block16>(args); }
KERNEL void blobnet_block_32(const BlobNetArgs args) { evaluate<Block32>(args); }
#endif

#ifdef BLOBNET_CLUSTER
static_assert(Cluster16::BYTES == BLOBNET_SHARED_CLUSTER_16 && Cluster32::BYTES == BLOBNET_SHARED_CLUSTER_32 &&
                  Cluster64::BYTES == BLOBNET_SHARED_CLUSTER_64 && Cluster80::BYTES == BLOBNET_SHARED_CLUSTER_80,
              "plan/entry.rs disagrees");
CLUSTER_KERNEL void blobnet_cluster_16(const BlobNetArgs args) { evaluate<Cluster16>(args); }
CLUSTER_KERNEL void blobnet_cluster_32(const BlobNetArgs args) { evaluate<Cluster32>(args); }
CLUSTER_KERNEL void blobnet_cluster_64(const BlobNetArgs args) { evaluate<Cluster64>(args); }
CLUSTER_KERNEL void blobnet_cluster_80(const BlobNetArgs args) { evaluate<Cluster80>(args); }
#endif

#ifdef BLOBNET_FEATURES
// Row by row, one warp each: 256 floats at the reply's offset. For tests.
KERNEL void blobnet_features(const BlobNetArgs args) {
    const unsigned warp = thread_index() / 32, lane = thread_index() % 32, first = block_index() * WARPS;
    const unsigned slot = shared_window() + warp * SLOT_BYTES, features = shared_window() + WARPS * SLOT_BYTES + warp * WIDTH * 4;
    const Kept kept = fetch_requests<1>(args, first, WARPS, warp, lane, shared_window(), SLOT_BYTES);
    expand(slot, features, lane);
    warp_barrier();
    unsigned char* target = args.replies + shuffle_long(kept.reply, 0);
    if (first + warp < args.rows) {
        for (unsigned feature = lane; feature < WIDTH; feature += 32)
            store_system_word(target + feature * 4, load_shared_word(features + feature * 4));
    }
    system_fence();
}
#endif
