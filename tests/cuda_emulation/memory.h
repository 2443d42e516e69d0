// Shared memory with a shadow of every word (who wrote and read it, after how many barriers), and
// global memory with rights by the byte.
#pragma once
#include "machine.h"

namespace emulator {

// ---- shared memory and its shadow ----
inline bool ordered_before(const Stamp& s, const Thread& t) {
    if (s.block == -2) return true;
    if (s.block != int(t.block)) return s.cluster_epoch < machine.epoch;
    if (s.warp != int(t.warp)) return s.block_epoch < block_of(t).epoch;
    if (s.lane != int(t.lane)) return s.warp_epoch < warp_of(t).epoch;
    return true;
}

inline Stamp stamp_of(const Thread& t) {
    Stamp s;
    s.block = int16_t(t.block);
    s.warp = int8_t(t.warp);
    s.lane = int8_t(t.lane);
    s.cluster_epoch = machine.epoch;
    s.block_epoch = block_of(t).epoch;
    s.warp_epoch = warp_of(t).epoch;
    return s;
}

constexpr unsigned WINDOW = 0x400;

// The offset in the block's shared memory of an address that the kernel formed.
inline unsigned within(unsigned address) {
    if (address >> 24 != self().block || (address & 0xFFFFFF) < WINDOW)
        fail("%#x is no address of the block's shared memory", address);
    return (address & 0xFFFFFF) - WINDOW;
}

inline unsigned char* shared_at(const Thread& t, Block& block, unsigned address, unsigned bytes) {
    (void)t;
    if (address % bytes != 0) fail("shared address %u is not aligned to %u", address, bytes);
    if (size_t(address) + bytes > block.shared.size())
        fail("shared address %u + %u is past the block's %zu bytes", address, bytes,
             block.shared.size());
    return block.shared.data() + address;
}

// `t` is the thread on whose behalf the access is made: in a collective load not the one that runs.
inline void note_read(Thread& t, Block& block, unsigned address, unsigned bytes) {
    for (unsigned word = address / 4; word < (address + bytes + 3) / 4; ++word) {
        Word& w = block.shadow[word];
        const uint8_t mask = bytes >= 4 ? 15 : uint8_t(((1 << bytes) - 1) << address % 4);
        if (w.pending)
            fail("reads shared address %u, which an asynchronous copy not waited for will write",
                 word * 4);
        if ((w.written & mask) != mask)
            fail("reads shared address %u, which nobody has written", word * 4);
        if (!ordered_before(w.write, t))
            fail(
                "races: reads shared address %u, written by block %d warp %d lane %d with no "
                "barrier since",
                word * 4, w.write.block, w.write.warp, w.write.lane);
        Stamp s = stamp_of(t);
        if (!ordered_before(w.read, t)) {
            if (w.read.block != s.block) s.block = -1;
            else if (w.read.warp != s.warp) s.warp = -1;
            else s.lane = -1;
        }
        w.read = s;
    }
}

inline void note_write(Thread& t, Block& block, unsigned address, unsigned bytes) {
    for (unsigned word = address / 4; word < (address + bytes) / 4; ++word) {
        Word& w = block.shadow[word];
        if (w.pending)
            fail("writes shared address %u, which an asynchronous copy not waited for will write",
                 word * 4);
        if (!ordered_before(w.write, t) || !ordered_before(w.read, t))
            fail("races: writes shared address %u, touched by another thread with no barrier since",
                 word * 4);
        w.write = stamp_of(t);
        w.written = 15;
    }
}

inline void read_shared(Thread& t, unsigned address, void* out, unsigned bytes) {
    Block& block = block_of(t);
    const unsigned char* at = shared_at(t, block, address, bytes);
    note_read(t, block, address, bytes);
    std::memcpy(out, at, bytes);
}

inline void write_shared(unsigned rank, unsigned address, const void* data, unsigned bytes) {
    Thread& t = self();
    if (rank >= machine.blocks.size())
        fail("writes to rank %u of a cluster of %zu", rank, machine.blocks.size());
    Block& block = machine.blocks[rank];
    // Before the first barrier of the cluster a peer may not have started.
    if (rank != t.block && machine.epoch == 0) fail("writes to a peer that may not have started");
    unsigned char* at = shared_at(t, block, address, bytes);
    note_write(t, block, address, bytes);
    std::memcpy(at, data, bytes);
}

// ---- global memory ----
inline void touch_global(const void* address, unsigned bytes, uint8_t right) {
    const auto* at = static_cast<const unsigned char*>(address);
    if (reinterpret_cast<uintptr_t>(at) % bytes != 0)
        fail("global access of %u bytes is not aligned", bytes);
    for (Buffer* buffer : machine.buffers) {
        if (at < buffer->begin || at >= buffer->begin + buffer->may.size()) continue;
        const size_t offset = size_t(at - buffer->begin);
        for (unsigned i = 0; i < bytes; ++i) {
            if (offset + i >= buffer->may.size() || !(buffer->may[offset + i] & right))
                fail("may not %s byte %zu of the %s (%zu bytes)", right == 1 ? "read" : "write",
                     offset + i, buffer->name.c_str(), buffer->may.size());
            if (right == 2) buffer->writes[offset + i]++;
        }
        return;
    }
    fail("global access outside every buffer");
}

}  // namespace emulator
