// The second implementation of kernels/device.cuh: a CUDA block (or a cluster of them) on one CPU
// thread. Every CUDA thread is a fiber; a fiber runs until it meets a barrier or a warp-collective
// operation. Strict where the GPU is lenient: it ends the program, with a line that says who did
// what, on
//   - an access outside a buffer, to a byte of it that is not the kernel's, or not aligned;
//   - a read of shared memory that nobody has written, or that an asynchronous copy not yet waited
//   for will write;
//   - two accesses to one word of shared memory, one of them a write, by threads that no barrier
//   has ordered (a data race);
//   - a reply byte written twice or not at all (main.cpp); a copy still under way at exit; lanes
//   that disagree on a collective
//     operation; a barrier that not everybody reaches.
// A word's shadow keeps its last write and last reads with the barrier counts of the time. Order of
// fibers: forward, backward, shuffled. machine.h, memory.h, products.h and schedule.h are the
// machine; here are the functions that kernels call.
#pragma once
#include "schedule.h"

#define DEVICE static inline
#define MEMBER inline
#define UNROLL
#define ROLLED
#define KERNEL extern "C"
#define CLUSTER_KERNEL extern "C"

// ---- the functions of device.cuh ----

DEVICE unsigned thread_index() {
    return emulator::self().warp * emulator::LANES + emulator::self().lane;
}
DEVICE unsigned block_index() { return emulator::machine.first_block + emulator::self().block; }
template <int CLUSTER> DEVICE unsigned cluster_rank() {
    return CLUSTER == 1 ? 0 : emulator::self().block;
}
// As on the GPU: not at 0, and the block's rank in the upper bits, which only addresses may have.
DEVICE unsigned shared_window() { return emulator::WINDOW | emulator::self().block << 24; }

DEVICE void warp_barrier() { emulator::collective(emulator::Kind::WarpBarrier); }
DEVICE void block_barrier() { emulator::wait_at_barrier(emulator::Kind::BlockBarrier); }
template <int CLUSTER> DEVICE void cluster_barrier() {
    emulator::wait_at_barrier(CLUSTER == 1 ? emulator::Kind::BlockBarrier
                                           : emulator::Kind::ClusterBarrier);
}
DEVICE void system_fence() {}

DEVICE void copy_async_16(unsigned address, const void* global) {
    const unsigned shared = emulator::within(address);
    emulator::Thread& t = emulator::self();
    emulator::Block& block = emulator::block_of(t);
    emulator::touch_global(global, 16, 1);
    unsigned char* at = emulator::shared_at(t, block, shared, 16);
    emulator::note_write(t, block, shared, 16);
    std::memset(at, 0xFF, 16);
    for (unsigned word = shared / 4; word < shared / 4 + 4; ++word)
        block.shadow[word].pending = true;
    t.uncommitted.push_back({shared, static_cast<const unsigned char*>(global)});
}
DEVICE void commit_copies() {
    emulator::Thread& t = emulator::self();
    t.groups.push_back(std::move(t.uncommitted));
    t.uncommitted.clear();
}
template <int PENDING> DEVICE void wait_copies() {
    emulator::Thread& t = emulator::self();
    emulator::Block& block = emulator::block_of(t);
    while (t.groups.size() > PENDING) {
        for (const emulator::Copy& copy : t.groups.front()) {
            for (unsigned word = copy.shared / 4; word < copy.shared / 4 + 4; ++word)
                block.shadow[word].pending = false;
            emulator::note_write(t, block, copy.shared, 16);
            std::memcpy(block.shared.data() + copy.shared, copy.global, 16);
        }
        t.groups.erase(t.groups.begin());
    }
}

template <class Value> DEVICE Value emulated_load(unsigned address) {
    Value value;
    emulator::read_shared(emulator::self(), emulator::within(address), &value, sizeof value);
    return value;
}
DEVICE unsigned load_shared_byte(unsigned address) { return emulated_load<uint8_t>(address); }
DEVICE unsigned load_shared_word(unsigned address) { return emulated_load<unsigned>(address); }
DEVICE float load_shared_float(unsigned address) { return emulated_load<float>(address); }
DEVICE void load_shared_words4(unsigned address, unsigned (&out)[4]) {
    emulator::read_shared(emulator::self(), emulator::within(address), out, 16);
}
DEVICE void load_shared_floats4(unsigned address, float* out) {
    emulator::read_shared(emulator::self(), emulator::within(address), out, 16);
}
DEVICE void store_shared_word(unsigned address, unsigned value) {
    emulator::write_shared(emulator::self().block, emulator::within(address), &value, 4);
}
DEVICE void store_shared_float(unsigned address, float value) {
    emulator::write_shared(emulator::self().block, emulator::within(address), &value, 4);
}

template <int CLUSTER> DEVICE unsigned emulated_rank(unsigned rank) {
    return CLUSTER == 1 ? emulator::self().block : rank;
}
template <int CLUSTER>
DEVICE void store_peer_floats2(unsigned address, unsigned rank, float a, float b) {
    const float values[2] = {a, b};
    emulator::write_shared(emulated_rank<CLUSTER>(rank), emulator::within(address), values, 8);
}
template <int CLUSTER> DEVICE void store_peer_floats4(unsigned address, unsigned rank, float a,
                                                      float b, float c, float d) {
    const float values[4] = {a, b, c, d};
    emulator::write_shared(emulated_rank<CLUSTER>(rank), emulator::within(address), values, 16);
}
template <int CLUSTER>
DEVICE void store_peer_words2(unsigned address, unsigned rank, unsigned a, unsigned b) {
    const unsigned values[2] = {a, b};
    emulator::write_shared(emulated_rank<CLUSTER>(rank), emulator::within(address), values, 8);
}

template <class Value> DEVICE Value emulated_global(const void* address) {
    emulator::touch_global(address, sizeof(Value), 1);
    Value value;
    std::memcpy(&value, address, sizeof value);
    return value;
}
DEVICE void load_constant_floats2(const void* address, float* out) {
    emulator::touch_global(address, 8, 1);
    std::memcpy(out, address, 8);
}
DEVICE void load_constant_floats4(const void* address, float* out) {
    emulator::touch_global(address, 16, 1);
    std::memcpy(out, address, 16);
}
DEVICE float load_constant_float(const void* address) { return emulated_global<float>(address); }
DEVICE unsigned load_system_word(const void* address) { return emulated_global<unsigned>(address); }
DEVICE unsigned long long load_system_long(const void* address) {
    return emulated_global<unsigned long long>(address);
}
DEVICE void store_system_word(void* address, unsigned value) {
    emulator::touch_global(address, 4, 2);
    std::memcpy(address, &value, 4);
}

DEVICE float shuffle_xor(float value, int mask) {
    emulator::self().floats[0] = value;
    emulator::self().integer = mask;
    emulator::collective(emulator::Kind::Shuffle);
    return emulator::self().floats[0];
}
DEVICE unsigned shuffle_from(unsigned value, int lane) {
    emulator::self().words[0] = value;
    emulator::self().integer = lane;
    emulator::collective(emulator::Kind::ShuffleFrom);
    return emulator::self().words[0];
}
DEVICE void load_matrices4(unsigned address, unsigned (&out)[4]) {
    emulator::self().words[0] = emulator::within(address);
    emulator::collective(emulator::Kind::Matrices);
    std::copy_n(emulator::self().words, 4, out);
}
DEVICE void multiply_add(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    emulator::Thread& t = emulator::self();
    std::copy_n(a, 4, t.words);
    t.words[4] = b0;
    t.words[5] = b1;
    std::copy_n(d, 4, t.floats);
    emulator::collective(emulator::Kind::MultiplyAdd);
    std::copy_n(t.floats, 4, d);
}

DEVICE unsigned pack_operands(float low, float high) {
    return emulator::operand_bits(low) | emulator::operand_bits(high) << 16;
}
DEVICE int count_bits(unsigned long long bits) { return __builtin_popcountll(bits); }
DEVICE float exponential(float x) { return std::exp(x); }
DEVICE float hyperbolic_tangent(float x) { return std::tanh(x); }
DEVICE float square_root(float x) { return std::sqrt(x); }
DEVICE float least(float a, float b) { return std::fmin(a, b); }
DEVICE float most(float a, float b) { return std::fmax(a, b); }
