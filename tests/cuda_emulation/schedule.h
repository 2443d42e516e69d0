// Barriers of blocks and clusters, and running it all to the end.
#pragma once
#include "products.h"

namespace emulator {

// ---- barriers of blocks and clusters ----
inline void release(unsigned first_block, unsigned blocks, Kind kind) {
    for (unsigned b = first_block; b < first_block + blocks; ++b) {
        machine.blocks[b].epoch++;
        for (Warp& warp : machine.blocks[b].warps) warp.epoch++;
        for (unsigned i = 0; i < BLOCK_THREADS; ++i) {
            Thread& t = machine.threads[b * BLOCK_THREADS + i];
            if (t.waits_for != kind) fail("a barrier meets threads that wait elsewhere");
            t.state = State::Ready;
            t.waits_for = Kind::None;
        }
    }
}

inline void wait_at_barrier(Kind kind) {
    Thread& t = self();
    const bool whole = kind == Kind::ClusterBarrier;
    int& arrived = whole ? machine.arrived : block_of(t).arrived;
    const int all = whole ? int(machine.threads.size()) : BLOCK_THREADS;
    t.waits_for = kind;
    t.state = State::Waiting;
    if (++arrived == all) {
        arrived = 0;
        if (whole) machine.epoch++;
        release(whole ? 0 : t.block, whole ? unsigned(machine.blocks.size()) : 1, kind);
    }
    pause();
}

// ---- running ----

// Runs lanes of a warp, pass after pass, until none is ready or `passes` are through. True if any
// ran.
inline bool run_warp(Thread* lanes, const int* order, int passes) {
    bool any = false;
    for (; passes > 0; --passes) {
        bool ran = false;
        for (int i = 0; i < LANES; ++i) {
            Thread& t = lanes[order[i]];
            if (t.state != State::Ready) continue;
            machine.current = &t;
            machine.scheduler.switch_to(t.context);
            machine.current = nullptr;
            ran = true;
        }
        if (!ran) break;
        any = true;
    }
    return any;
}

// One cluster (or lone block) through the kernel. Order 0 is forward, 1 backward, others shuffle
// with that seed.
inline void run_cluster(unsigned first_block, unsigned blocks, unsigned shared_bytes,
                        unsigned order, const std::function<void()>& kernel) {
    machine.first_block = first_block;
    machine.kernel = kernel;
    machine.arrived = 0;
    machine.epoch = 0;
    machine.blocks.assign(blocks, Block{});
    for (Block& block : machine.blocks) {
        block.shared.assign(shared_bytes, 0xFF);       // NaN in every format.
        block.shadow.assign((shared_bytes + 3) / 4, Word{});
    }
    const size_t count = size_t(blocks) * BLOCK_THREADS;
    machine.threads.clear();
    machine.threads.resize(count);
    if (machine.stack_count < count) {
        void* stacks = mmap(nullptr, count * STACK_BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stacks == MAP_FAILED) fail("no memory for the stacks of %zu threads", count);
        machine.stacks = static_cast<unsigned char*>(stacks);
        machine.stack_count = count;
    }
    for (size_t i = 0; i < count; ++i) {
        Thread& t = machine.threads[i];
        t.block = unsigned(i / BLOCK_THREADS);
        t.warp = unsigned(i % BLOCK_THREADS / LANES);
        t.lane = unsigned(i % LANES);
        t.state = State::Ready;
        t.waits_for = Kind::None;
        t.context.prepare(machine.stacks + i * STACK_BYTES, fiber_main);
    }
    std::mt19937 random(order * 7919 + first_block);
    std::vector<int> warps(count / LANES);
    int lanes[LANES];
    for (size_t i = 0; i < warps.size(); ++i) warps[i] = int(order == 1 ? warps.size() - 1 - i : i);
    for (int i = 0; i < LANES; ++i) lanes[i] = order == 1 ? LANES - 1 - i : i;
    for (;;) {
        bool any = false;
        if (order > 1) {
            std::shuffle(warps.begin(), warps.end(), random);
            std::shuffle(lanes, lanes + LANES, random);
        }
        for (int warp : warps)
            any |= run_warp(&machine.threads[size_t(warp) * LANES], lanes,
                            order > 1 ? 1 + int(random() % 16) : 1 << 30);
        if (!any) break;
    }
    for (const Thread& t : machine.threads)
        if (t.state != State::Done)
            fail("block %u warp %u lane %u waits for ever (operation of kind %d)",
                 first_block + t.block, t.warp, t.lane, int(t.waits_for));
}

}  // namespace emulator
