// The few things a kernel here asks of the machine, under one name each, with two implementations: PTX for sm_80 and
// later below, and tests/cuda_emulation/emulator.h, which runs the same kernel source on a CPU and checks every access.
// Kernels touch memory only through these functions, so that the emulation sees everything.
//
// A shared-memory address is a 32-bit offset in the block's own shared window. Functions named `peer` write to the block
// of rank `rank` in the cluster at the same offset; without a cluster (CLUSTER == 1) that is the block itself.
// "Collective" means that all 32 lanes of the warp call it together.
#pragma once

#ifdef RINGMASTER_EMULATE
#include "emulator.h"
#else

#define DEVICE static __device__ __forceinline__
#define MEMBER __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")

// ---- who am I ----
DEVICE unsigned thread_index() { return threadIdx.x; }
DEVICE unsigned block_index() { return blockIdx.x; }

template <int CLUSTER> DEVICE unsigned cluster_rank() {
    if constexpr (CLUSTER == 1) return 0;
    unsigned rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

extern __shared__ __align__(128) unsigned char shared_bytes[];
// Offset of the block's dynamic shared memory.
DEVICE unsigned shared_window() { return static_cast<unsigned>(__cvta_generic_to_shared(shared_bytes)); }

// ---- barriers ----
DEVICE void warp_barrier() { __syncwarp(); }
DEVICE void block_barrier() { __syncthreads(); }

// All threads of the cluster (of the block, without one) have arrived, and see what the others wrote, peers' shared memory included.
template <int CLUSTER> DEVICE void cluster_barrier() {
    if constexpr (CLUSTER == 1) {
        __syncthreads();
    } else {
#if __CUDA_ARCH__ >= 900
        asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
    }
}

DEVICE void system_fence() { __threadfence_system(); }

// ---- asynchronous copies: global to shared, 16 bytes a lane, past the first-level cache ----
DEVICE void copy_async_16(unsigned shared, const void* global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(__cvta_generic_to_global(global)) : "memory");
}
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most PENDING of this thread's groups are under way; the others are visible to this thread (only).
template <int PENDING> DEVICE void wait_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory"); }

// ---- shared memory ----
DEVICE unsigned load_shared_byte(unsigned address) {
    unsigned value;
    asm volatile("ld.shared.u8 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
    return value;
}
DEVICE unsigned load_shared_word(unsigned address) {
    unsigned value;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
    return value;
}
DEVICE float load_shared_float(unsigned address) {
    float value;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
    return value;
}
DEVICE void load_shared_words4(unsigned address, unsigned (&out)[4]) {
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(address) : "memory");
}
DEVICE void load_shared_floats4(unsigned address, float* out) {
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(out[0]), "=f"(out[1]), "=f"(out[2]), "=f"(out[3]) : "r"(address) : "memory");
}
DEVICE void store_shared_word(unsigned address, unsigned value) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}
DEVICE void store_shared_float(unsigned address, float value) {
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}

DEVICE unsigned peer_address(unsigned address, unsigned rank) {
    unsigned peer;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(peer) : "r"(address), "r"(rank));
    return peer;
}
template <int CLUSTER> DEVICE void store_peer_floats2(unsigned address, unsigned rank, float a, float b) {
    if constexpr (CLUSTER == 1) {
        asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(a), "f"(b) : "memory");
    } else {
        asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" ::"r"(peer_address(address, rank)), "f"(a), "f"(b) : "memory");
    }
}
template <int CLUSTER> DEVICE void store_peer_floats4(unsigned address, unsigned rank, float a, float b, float c, float d) {
    if constexpr (CLUSTER == 1) {
        asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
    } else {
        asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(peer_address(address, rank)), "f"(a), "f"(b), "f"(c),
                     "f"(d) : "memory");
    }
}
template <int CLUSTER> DEVICE void store_peer_words2(unsigned address, unsigned rank, unsigned a, unsigned b) {
    if constexpr (CLUSTER == 1) {
        asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(address), "r"(a), "r"(b) : "memory");
    } else {
        asm volatile("st.shared::cluster.v2.u32 [%0], {%1, %2};" ::"r"(peer_address(address, rank)), "r"(a), "r"(b) : "memory");
    }
}

// ---- global memory ----
// Weights never change during a launch.
DEVICE void load_constant_floats2(const void* address, float* out) {
    asm("ld.global.nc.v2.f32 {%0, %1}, [%2];" : "=f"(out[0]), "=f"(out[1]) : "l"(__cvta_generic_to_global(address)));
}
DEVICE void load_constant_floats4(const void* address, float* out) {
    asm("ld.global.nc.v4.f32 {%0, %1, %2, %3}, [%4];"
        : "=f"(out[0]), "=f"(out[1]), "=f"(out[2]), "=f"(out[3]) : "l"(__cvta_generic_to_global(address)));
}
DEVICE float load_constant_float(const void* address) {
    float value;
    asm("ld.global.nc.f32 %0, [%1];" : "=f"(value) : "l"(__cvta_generic_to_global(address)));
    return value;
}
// Slots may lie in host memory, written by other processes before the launch: never cached, never split.
DEVICE unsigned load_system_word(const void* address) {
    unsigned value;
    asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(__cvta_generic_to_global(address)) : "memory");
    return value;
}
DEVICE unsigned long long load_system_long(const void* address) {
    unsigned long long value;
    asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(__cvta_generic_to_global(address)) : "memory");
    return value;
}
DEVICE void store_system_word(void* address, unsigned value) {
    asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(__cvta_generic_to_global(address)), "r"(value) : "memory");
}

// ---- lanes (collective) ----
DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xFFFFFFFFu, value, mask); }
DEVICE unsigned shuffle_from(unsigned value, int lane) { return __shfl_sync(0xFFFFFFFFu, value, lane); }

// ---- matrices (collective) ----
// Four 8x8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8 (16 bytes, aligned) and receives from
// each matrix elements 2 * (l % 4) and the next of row l / 4.
DEVICE void load_matrices4(unsigned address, unsigned (&out)[4]) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(address) : "memory");
}
// d[16x8] += a[16x16] b[16x8], 16-bit operands, f32 sums. With g = lane / 4, t = lane % 4: d holds (g, 2t), (g, 2t + 1), (g + 8, 2t),
// (g + 8, 2t + 1); a the pairs from (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8); b the pairs from (2t, g), (2t + 8, g), down k.
#if BLOBNET_F16
#define OPERANDS "f16"
#else
#define OPERANDS "bf16"
#endif
DEVICE void multiply_add(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32." OPERANDS "." OPERANDS ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- barriers in shared memory, and copies that report to them (sm_90) ----
// A barrier is 8 bytes. A phase of it ends when `arrivals` have come and all bytes expected are there; the next one begins.
DEVICE void barrier_init(unsigned barrier, unsigned arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Before the cluster_barrier after which others may use the barriers that this thread made.
DEVICE void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// Arrives, and has the phase wait for so many bytes.
DEVICE void barrier_arrive_expecting(unsigned barrier, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
DEVICE void barrier_arrive_peer(unsigned barrier, unsigned rank) {
    // Released to the block, not the cluster: a wider release is a fence of the whole GPU. What is handed over here is room that products
    // have read, and these are through when they were waited for.
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(peer_address(barrier, rank)) : "memory");
}
DEVICE unsigned long long nanoseconds() {
    unsigned long long time;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(time));
    return time;
}
// Until the phase of that parity (the first is 0) has ended. What does not come within seconds never will: the launch fails then.
DEVICE void barrier_wait(unsigned barrier, unsigned parity) {
    constexpr unsigned long long PATIENCE_NS = 4000000000ull;
    unsigned long long since = 0;
    for (unsigned tries = 0;; ++tries) {
        unsigned ended;
        asm volatile("{\n\t.reg .pred p;\n\tmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\tselp.u32 %0, 1, 0, p;\n\t}"
                     : "=r"(ended) : "r"(barrier), "r"(parity) : "memory");
        if (ended) return;
        if (tries % 256 != 255) continue;
        if (since == 0) since = nanoseconds();
        if (nanoseconds() - since > PATIENCE_NS) asm volatile("trap;");
    }
}
// `bytes` (a multiple of 16) of global memory to the same shared address of every block in `ranks` (a bit each); each one's barrier at
// that address gets the bytes.
DEVICE void copy_to_peers(unsigned shared, const void* global, unsigned bytes, unsigned barrier, unsigned short ranks) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], %4;"
                 ::"r"(shared), "l"(__cvta_generic_to_global(global)), "r"(bytes), "r"(barrier), "h"(ranks) : "memory");
}

// ---- matrices of a warpgroup, four warps (collective; sm_90a) ----
// Registers change hands between the warpgroups of a block that was started with as many for each: first some give theirs up.
template <int REGISTERS> DEVICE void give_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS)); }
template <int REGISTERS> DEVICE void take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS)); }
// What this thread stored to shared memory before is seen by products that are started after the next barrier.
DEVICE void publish_operands() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// The first 256 threads of the block: the two warpgroups that multiply.
DEVICE void groups_barrier() { asm volatile("bar.sync 1, 256;" ::: "memory"); }
// The sums are in their registers here: nobody may move a use of them past this point.
DEVICE void hold(float (&d)[64]) {
    UNROLL for (int i = 0; i < 64; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
// Before each batch of products, for those after the sums were touched; ptxas wants it in every turn of a loop.
DEVICE void begin_products(float (&d)[64]) {
    hold(d);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
// Ends a batch of products.
DEVICE void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most PENDING batches are under way. The sums may be touched only when none is.
template <int PENDING> DEVICE void wait_products(float (&d)[64]) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
    if (PENDING == 0) hold(d);
}
// Starts d[64x128] (+)= a[64x16] b[16x128], operands and sums as multiply_add's. Warp w of the group has rows 16 w .. + 16; d[4 j + 2 r + e]
// is row lane / 4 + 8 r of these, column 8 j + lane % 4 * 2 + e.
DEVICE void multiply_group(float (&d)[64], unsigned long long a, unsigned long long b, bool accumulate) {
    asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %66, 0;\n\t"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32." OPERANDS "." OPERANDS " {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "%64, %65, p, 1, 1, 0, 0;\n\t}"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]),
                   "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]),
                   "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
                   "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]),
                   "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]),
                   "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]),
                   "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
                 : "l"(a), "l"(b), "r"(static_cast<unsigned>(accumulate)));
}

// ---- arithmetic ----
// Two operands of a matrix product, rounded to nearest even; the first in the low half.
DEVICE unsigned pack_operands(float low, float high) {
    unsigned packed;
    asm("cvt.rn." OPERANDS "x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}
DEVICE int count_bits(unsigned long long bits) { return __popcll(bits); }
DEVICE float exponential(float x) { return expf(x); }
DEVICE float hyperbolic_tangent(float x) { return tanhf(x); }
DEVICE float square_root(float x) { return sqrtf(x); }
DEVICE float least(float a, float b) { return fminf(a, b); }
DEVICE float most(float a, float b) { return fmaxf(a, b); }

#define KERNEL extern "C" __global__ __launch_bounds__(256, 1)
#define CLUSTER_KERNEL extern "C" __global__ __cluster_dims__(8, 1, 1) __launch_bounds__(256, 1)
#define WARPGROUP_KERNEL extern "C" __global__ __cluster_dims__(4, 1, 1) __launch_bounds__(384, 1)

#endif

// A matrix in shared memory as multiply_group reads it: blocks of 8 rows by 8 inputs of 16 bits, each 128 bytes, row by row; from a
// block to the next it is `along` bytes along the inputs, `across` bytes along the rows. No swizzle: a warp that reads or writes 8 rows
// by 8 inputs at a time meets no bank twice as it is.
DEVICE unsigned long long describe_matrix(unsigned address, unsigned along, unsigned across) {
    return static_cast<unsigned long long>(across >> 4) << 32 | static_cast<unsigned long long>(along >> 4) << 16 | (address & 0x3FFFF) >> 4;
}
