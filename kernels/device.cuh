// The few things a kernel here asks of the machine, under one name each, with two implementations:
// PTX for sm_80 and later below, and tests/cuda_emulation/emulator.h, which runs the same kernel
// source on a CPU and checks every access. Kernels touch memory only through these functions, so
// that the emulation sees everything.
//
// A shared-memory address is a 32-bit offset in the block's own shared window. Functions named
// `peer` write to the block of rank `rank` in the cluster at the same offset; without a cluster
// (CLUSTER == 1) that is the block itself. "Collective" means that all 32 lanes of the warp call it
// together.
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
DEVICE unsigned shared_window() {
    return static_cast<unsigned>(__cvta_generic_to_shared(shared_bytes));
}

// ---- barriers ----
DEVICE void warp_barrier() { __syncwarp(); }
DEVICE void block_barrier() { __syncthreads(); }

// All threads of the cluster (of the block, without one) have arrived, and see what the others
// wrote, peers' shared memory included.
template <int CLUSTER> DEVICE void cluster_barrier() {
    if constexpr (CLUSTER == 1) {
        __syncthreads();
    } else {
#if __CUDA_ARCH__ >= 900
        asm volatile(
            "barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::
                : "memory");
#endif
    }
}

DEVICE void system_fence() { __threadfence_system(); }

// ---- asynchronous copies: global to shared, 16 bytes a lane, past the first-level cache ----
DEVICE void copy_async_16(unsigned shared, const void* global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared),
                 "l"(__cvta_generic_to_global(global))
                 : "memory");
}
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most PENDING of this thread's groups are under way; the others are visible to this
// thread (only).
template <int PENDING> DEVICE void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

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
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}
DEVICE void load_shared_floats4(unsigned address, float* out) {
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(out[0]), "=f"(out[1]), "=f"(out[2]), "=f"(out[3])
                 : "r"(address)
                 : "memory");
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
template <int CLUSTER>
DEVICE void store_peer_floats2(unsigned address, unsigned rank, float a, float b) {
    if constexpr (CLUSTER == 1) {
        asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(a), "f"(b) : "memory");
    } else {
        asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" ::"r"(peer_address(address, rank)),
                     "f"(a), "f"(b)
                     : "memory");
    }
}
template <int CLUSTER> DEVICE void store_peer_floats4(unsigned address, unsigned rank, float a,
                                                      float b, float c, float d) {
    if constexpr (CLUSTER == 1) {
        asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(a), "f"(b),
                     "f"(c), "f"(d)
                     : "memory");
    } else {
        asm volatile(
            "st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(peer_address(address, rank)),
            "f"(a), "f"(b), "f"(c), "f"(d)
            : "memory");
    }
}
template <int CLUSTER>
DEVICE void store_peer_words2(unsigned address, unsigned rank, unsigned a, unsigned b) {
    if constexpr (CLUSTER == 1) {
        asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(address), "r"(a), "r"(b) : "memory");
    } else {
        asm volatile("st.shared::cluster.v2.u32 [%0], {%1, %2};" ::"r"(peer_address(address, rank)),
                     "r"(a), "r"(b)
                     : "memory");
    }
}

// ---- global memory ----
// Weights never change during a launch.
DEVICE void load_constant_floats2(const void* address, float* out) {
    asm("ld.global.nc.v2.f32 {%0, %1}, [%2];"
        : "=f"(out[0]), "=f"(out[1])
        : "l"(__cvta_generic_to_global(address)));
}
DEVICE void load_constant_floats4(const void* address, float* out) {
    asm("ld.global.nc.v4.f32 {%0, %1, %2, %3}, [%4];"
        : "=f"(out[0]), "=f"(out[1]), "=f"(out[2]), "=f"(out[3])
        : "l"(__cvta_generic_to_global(address)));
}
DEVICE float load_constant_float(const void* address) {
    float value;
    asm("ld.global.nc.f32 %0, [%1];" : "=f"(value) : "l"(__cvta_generic_to_global(address)));
    return value;
}
// Slots may lie in host memory, written by other processes before the launch: never cached, never
// split.
DEVICE unsigned load_system_word(const void* address) {
    unsigned value;
    asm volatile("ld.relaxed.sys.global.u32 %0, [%1];"
                 : "=r"(value)
                 : "l"(__cvta_generic_to_global(address))
                 : "memory");
    return value;
}
DEVICE unsigned long long load_system_long(const void* address) {
    unsigned long long value;
    asm volatile("ld.relaxed.sys.global.u64 %0, [%1];"
                 : "=l"(value)
                 : "l"(__cvta_generic_to_global(address))
                 : "memory");
    return value;
}
DEVICE void store_system_word(void* address, unsigned value) {
    asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(__cvta_generic_to_global(address)),
                 "r"(value)
                 : "memory");
}

// ---- lanes (collective) ----
DEVICE float shuffle_xor(float value, int mask) {
    return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
}
DEVICE unsigned shuffle_from(unsigned value, int lane) {
    return __shfl_sync(0xFFFFFFFFu, value, lane);
}

// ---- matrices (collective) ----
// Four 8x8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8 (16
// bytes, aligned) and receives from each matrix elements 2 * (l % 4) and the next of row l / 4.
DEVICE void load_matrices4(unsigned address, unsigned (&out)[4]) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}
// d[16x8] += a[16x16] b[16x8], 16-bit operands, f32 sums. With g = lane / 4, t = lane % 4: d holds
// (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1); a the pairs from (g, 2t), (g + 8, 2t), (g, 2t
// + 8), (g + 8, 2t + 8); b the pairs from (2t, g), (2t + 8, g), down k.
#if BLOBNET_F16
#define OPERANDS "f16"
#else
#define OPERANDS "bf16"
#endif
DEVICE void multiply_add(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32." OPERANDS "." OPERANDS
        ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
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

#endif
