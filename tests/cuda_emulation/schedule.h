// Barriers of blocks, clusters and shared memory, copies that report to them, and running it all to the end.
#pragma once
#include "products.h"

namespace emulator {

// ---- barriers of blocks and clusters ----
inline void release(unsigned first_block, unsigned blocks, Kind kind) {
    for (unsigned b = first_block; b < first_block + blocks; ++b) {
        machine.blocks[b].epoch++;
        for (Warp& warp : machine.blocks[b].warps) warp.epoch++;
        for (int i = 0; i < (kind == Kind::GroupsBarrier ? GROUP_THREADS : machine.block_threads); ++i) {
            Thread& t = machine.threads[b * unsigned(machine.block_threads) + unsigned(i)];
            if (t.waits_for != kind) fail("a barrier meets threads that wait elsewhere");
            t.state = State::Ready;
            t.waits_for = Kind::None;
        }
    }
}

inline void wait_at_barrier(Kind kind) {
    Thread& t = self();
    const bool whole = kind == Kind::ClusterBarrier;
    const bool groups = kind == Kind::GroupsBarrier;
    if (groups && t.warp * LANES >= unsigned(GROUP_THREADS)) fail("at the barrier of the groups");
    int& arrived = whole ? machine.arrived : groups ? block_of(t).groups_arrived : block_of(t).arrived;
    const int all = whole ? int(machine.threads.size()) : groups ? GROUP_THREADS : machine.block_threads;
    t.waits_for = kind;
    t.state = State::Waiting;
    if (++arrived == all) {
        arrived = 0;
        if (whole) machine.epoch++;
        release(whole ? 0 : t.block, whole ? unsigned(machine.blocks.size()) : 1, kind);
    }
    pause();
}

// ---- barriers in shared memory ----
inline Barrier& barrier_at(unsigned block, unsigned address) {
    Block& owner = machine.blocks[block];
    const auto found = owner.barriers.find(address);
    if (found == owner.barriers.end() || !found->second.published) fail("no barrier at shared address %u of block %u that others may use", address, block);
    if (owner.done == machine.block_threads) fail("a barrier of block %u, which has ended", block);
    return found->second;
}

// True if that let somebody go on.
inline bool end_phase_if_due(unsigned block, unsigned address) {
    Barrier& barrier = machine.blocks[block].barriers[address];
    if (barrier.missing < 0) fail("more arrivals at a barrier than it expects");
    if (barrier.missing > 0 || barrier.bytes != 0) return false;
    ++barrier.phase;
    barrier.missing = barrier.arrivals;
    bool any = false;
    for (Thread& t : machine.threads)
        if (t.block == block && t.waits_for == Kind::Phase && t.barrier == address) {
            t.state = State::Ready;
            t.waits_for = Kind::None;
            any = true;
        }
    return any;
}

// What is under way to a barrier comes.
inline void deliver(unsigned to_block, unsigned to_barrier) {
    for (size_t i = 0; i < machine.deliveries.size();) {
        const Delivery delivery = machine.deliveries[i];
        if (delivery.block != to_block || delivery.barrier != to_barrier) {
            ++i;
            continue;
        }
        machine.deliveries.erase(machine.deliveries.begin() + long(i));
        Block& block = machine.blocks[delivery.block];
        std::memcpy(block.shared.data() + delivery.shared, delivery.global, delivery.bytes);
        for (unsigned word = delivery.shared / 4; word < (delivery.shared + delivery.bytes) / 4; ++word) {
            block.shadow[word] = Word{};
            block.shadow[word].written = 15;
        }
        block.barriers[delivery.barrier].bytes -= long(delivery.bytes);
        end_phase_if_due(delivery.block, delivery.barrier);
    }
}

// ---- running ----

// Runs lanes of a warp, pass after pass, until none is ready or `passes` are through. True if any ran.
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
            if (machine.others_first) {
                machine.others_first = false;
                return true;
            }
        }
        if (!ran) break;
        any = true;
    }
    return any;
}

// One cluster (or lone block) through the kernel. Order 0 is forward, 1 backward, others shuffle with that seed.
inline void run_cluster(unsigned first_block, unsigned blocks, unsigned threads, unsigned shared_bytes, unsigned order, const std::function<void()>& kernel) {
    machine.first_block = first_block;
    machine.block_threads = int(threads);
    machine.deliveries.clear();
    machine.kernel = kernel;
    machine.arrived = 0;
    machine.epoch = 0;
    machine.blocks.assign(blocks, Block{});
    for (Block& block : machine.blocks) {
        block.shared.assign(shared_bytes, 0xFF);       // NaN in every format.
        block.shadow.assign((shared_bytes + 3) / 4, Word{});
    }
    const size_t count = size_t(blocks) * threads;
    machine.threads.clear();
    machine.threads.resize(count);
    if (machine.stack_count < count) {
        void* stacks = mmap(nullptr, count * STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stacks == MAP_FAILED) fail("no memory for the stacks of %zu threads", count);
        machine.stacks = static_cast<unsigned char*>(stacks);
        machine.stack_count = count;
    }
    for (size_t i = 0; i < count; ++i) {
        Thread& t = machine.threads[i];
        t.block = unsigned(i / threads);
        t.warp = unsigned(i % threads / LANES);
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
        for (int warp : warps) any |= run_warp(&machine.threads[size_t(warp) * LANES], lanes, order > 1 ? 1 + int(random() % 16) : 1 << 30);
        if (!any) break;
    }
    for (const Thread& t : machine.threads)
        if (t.state != State::Done)
            fail("block %u warp %u lane %u waits for ever (operation of kind %d)", first_block + t.block, t.warp, t.lane, int(t.waits_for));
    if (!machine.deliveries.empty()) fail("ends with copies still under way");
    for (const Block& block : machine.blocks)
        for (int warp = 0; warp < GROUP_THREADS / LANES; ++warp)
            if (block.warps[warp].history != block.warps[warp / 4 * 4].history) fail("the warps of a group multiplied different matrices");
}

}  // namespace emulator
