// The second implementation of kernels/device.cuh: a CUDA block (or a cluster of them) on one CPU thread. Every CUDA thread is a fiber;
// a fiber runs until it meets a barrier or a warp-collective operation. Strict where the GPU is lenient: it ends the program, with a
// line that says who did what, on
//   - an access outside a buffer, to a byte of it that is not the kernel's, or not aligned;
//   - a read of shared memory that nobody has written, or that an asynchronous copy not yet waited for will write;
//   - two accesses to one word of shared memory, one of them a write, by threads that no barrier has ordered (a data race);
//   - with copies that report to barriers and products of warpgroups: copies over what a product under way reads, products of what has not
//     come, was not published to them, or changes under them, uses of sums before the wait (they read as NaN), blocks left too early;
//   - a reply byte written twice or not at all (main.cpp); a copy still under way at exit; lanes that disagree on a collective
//     operation; a barrier that not everybody reaches.
// Such a copy comes as late as it can: when somebody waits for it. So does a product: when it is waited for.
// A word's shadow keeps its last write and last reads with the barrier counts of the time. Order of fibers: forward, backward, shuffled.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>
#include <sys/mman.h>
// Switching by hand is several times faster than ucontext, which makes system calls; elsewhere, or on request, that has to do.
#if defined(__x86_64__) && !defined(EMULATOR_UCONTEXT)
#define EMULATOR_BY_HAND
#else
#include <ucontext.h>
#endif

#define DEVICE static inline
#define MEMBER inline
#define UNROLL
#define ROLLED
#define KERNEL extern "C"
#define CLUSTER_KERNEL extern "C"
#define WARPGROUP_KERNEL extern "C"

namespace emulator {

constexpr int LANES = 32, MOST_WARPS = 12, GROUP_THREADS = 256;
constexpr size_t STACK_BYTES = 64 << 10;

// ---- fibers ----
#ifdef EMULATOR_BY_HAND
extern "C" void emulator_switch(void** save, void* load);
asm(R"(
.text
.p2align 4
.globl emulator_switch
.type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulator_switch, .-emulator_switch
)");
struct Context {
    void* stack_pointer = nullptr;
    void prepare(unsigned char* stack, void (*entry)()) {
        auto* top = reinterpret_cast<void**>(stack + STACK_BYTES) - 2;
        *top = reinterpret_cast<void*>(entry);         // `ret` pops it, which leaves the alignment of a call.
        stack_pointer = top - 6;
        std::memset(stack_pointer, 0, 6 * sizeof(void*));
    }
    void switch_to(Context& other) { emulator_switch(&stack_pointer, other.stack_pointer); }
};
#else
struct Context {
    ucontext_t context;
    void prepare(unsigned char* stack, void (*entry)()) {
        getcontext(&context);
        context.uc_stack.ss_sp = stack;
        context.uc_stack.ss_size = STACK_BYTES;
        context.uc_link = nullptr;
        makecontext(&context, entry, 0);
    }
    void switch_to(Context& other) { swapcontext(&context, &other.context); }
};
#endif

// ---- threads ----
enum class State { Ready, Waiting, Done };
enum class Kind : int {
    None, Shuffle, ShuffleFrom, Matrices, MultiplyAdd, WarpBarrier, BlockBarrier, ClusterBarrier, GroupsBarrier, Phase, BeginProducts,
    MultiplyGroup, CommitProducts, WaitProducts
};

struct Copy {
    unsigned shared;
    const unsigned char* global;
};

struct Thread {
    Context context;
    State state;
    unsigned block, warp, lane;
    Kind waits_for;
    unsigned words[8];                                 // Operands of a collective operation, then its results.
    float floats[4];
    int integer;
    std::vector<std::vector<Copy>> groups;             // Committed, oldest first.
    std::vector<Copy> uncommitted;
    unsigned barrier = 0;                              // Whose phase it waits for.
    float* sums = nullptr;
    std::vector<unsigned> unpublished;                 // Shared words it wrote and no product may read yet.
};

// A product of one warp, from its start until it is waited for: what it reads, and whether a commit has followed.
struct Product {
    uint64_t a, b;
    bool accumulate, committed;
    std::vector<unsigned char> rows, weights;          // As they were at the start.
    unsigned batch = 0;
};

struct Warp {
    int arrived = 0;
    uint32_t epoch = 0;
    Kind kind = Kind::None;
    std::deque<Product> products;
    std::array<float*, LANES> sums{};                  // Of the products under way: all have the same.
    float totals[16][128];                             // Their values; the lanes' own read as NaN meanwhile.
    bool begun = false;
    unsigned batch = 0;
    uint64_t history = 0;                              // Of all products: the warps of a group must agree.
};

// A barrier in shared memory.
struct Barrier {
    int arrivals = 0, missing = 0;
    long bytes = 0;
    uint32_t phase = 0;
    bool published = false;
};

// A copy under way that reports to a barrier.
struct Delivery {
    unsigned block, shared, bytes, barrier;
    const unsigned char* global;
};

// Who touched a word, and after how many barriers. -1 stands for "several".
struct Stamp {
    int16_t block = -2;
    int8_t warp = 0, lane = 0;
    uint32_t cluster_epoch = 0, block_epoch = 0, warp_epoch = 0;
};

struct Word {
    Stamp write, read;
    uint8_t written = 0;                               // One bit a byte.
    bool pending = false, unpublished = false;
};

struct Block {
    std::vector<unsigned char> shared;
    std::vector<Word> shadow;
    Warp warps[MOST_WARPS];
    int arrived = 0, groups_arrived = 0;
    uint32_t epoch = 0;
    std::map<unsigned, Barrier> barriers;
    int done = 0;
};

// A buffer in global memory; `may` says of each byte what the kernel may do: 1 read, 2 write; `writes` counts writes.
struct Buffer {
    std::string name;
    unsigned char* begin;
    std::vector<uint8_t> may, writes;
};

struct Machine {
    std::vector<Buffer*> buffers;
    std::vector<Block> blocks;
    std::vector<Thread> threads;
    std::vector<Delivery> deliveries;
    bool others_first = false;                         // The current thread has let others go on, who come before its warp.
    unsigned first_block = 0;
    int block_threads = 256;
    int arrived = 0;
    uint32_t epoch = 0;
    Thread* current = nullptr;
    Context scheduler;
    std::function<void()> kernel;
    unsigned char* stacks = nullptr;
    size_t stack_count = 0;
};
inline Machine machine;

[[noreturn]] inline void fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (const Thread* t = machine.current)
        std::fprintf(stderr, "emulation: block %u warp %u lane %u: ", machine.first_block + t->block, t->warp, t->lane);
    else
        std::fprintf(stderr, "emulation: ");
    std::vfprintf(stderr, format, arguments);
    std::fprintf(stderr, "\n");
    va_end(arguments);
    std::_Exit(3);
}

inline Thread& self() { return *machine.current; }
inline Block& block_of(const Thread& t) { return machine.blocks[t.block]; }
inline Warp& warp_of(const Thread& t) { return machine.blocks[t.block].warps[t.warp]; }
inline void pause() {
    Thread& t = self();
    t.context.switch_to(machine.scheduler);
}

inline void fiber_main() {
    machine.kernel();
    Thread& t = self();
    if (!t.uncommitted.empty()) fail("exits with copies neither committed nor waited for");
    for (auto& group : t.groups)
        if (!group.empty()) fail("exits with copies still under way");
    if (!warp_of(t).products.empty()) fail("exits with products still under way");
    ++block_of(t).done;
    t.state = State::Done;
    pause();
    std::abort();
}

// ---- collective operations of a warp ----
inline void complete(Kind kind, Thread* lanes);

inline void collective(Kind kind) {
    Thread& t = self();
    Warp& warp = warp_of(t);
    if (warp.arrived == 0) warp.kind = kind;
    if (warp.kind != kind) fail("a collective operation of kind %d meets one of kind %d in the same warp", int(kind), int(warp.kind));
    t.waits_for = kind;
    if (++warp.arrived < LANES) {
        t.state = State::Waiting;
        pause();
        return;
    }
    warp.arrived = 0;
    Thread* lanes = &t - t.lane;
    complete(kind, lanes);
    for (int lane = 0; lane < LANES; ++lane) lanes[lane].state = State::Ready;
}

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
    if (address >> 24 != self().block || (address & 0xFFFFFF) < WINDOW) fail("%#x is no address of the block's shared memory", address);
    return (address & 0xFFFFFF) - WINDOW;
}

inline unsigned char* shared_at(const Thread& t, Block& block, unsigned address, unsigned bytes) {
    (void)t;
    if (address % bytes != 0) fail("shared address %u is not aligned to %u", address, bytes);
    if (size_t(address) + bytes > block.shared.size()) fail("shared address %u + %u is past the block's %zu bytes", address, bytes, block.shared.size());
    return block.shared.data() + address;
}

// `t` is the thread on whose behalf the access is made: in a collective load not the one that runs.
inline void note_read(Thread& t, Block& block, unsigned address, unsigned bytes) {
    for (unsigned word = address / 4; word < (address + bytes + 3) / 4; ++word) {
        Word& w = block.shadow[word];
        const uint8_t mask = bytes >= 4 ? 15 : uint8_t(((1 << bytes) - 1) << address % 4);
        if (w.pending) fail("reads shared address %u, which an asynchronous copy not waited for will write", word * 4);
        if ((w.written & mask) != mask) fail("reads shared address %u, which nobody has written", word * 4);
        if (!ordered_before(w.write, t))
            fail("races: reads shared address %u, written by block %d warp %d lane %d with no barrier since", word * 4, w.write.block, w.write.warp, w.write.lane);
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
        if (w.pending) fail("writes shared address %u, which an asynchronous copy not waited for will write", word * 4);
        if (!ordered_before(w.write, t) || !ordered_before(w.read, t))
            fail("races: writes shared address %u, touched by another thread with no barrier since", word * 4);
        w.write = stamp_of(t);
        w.written = 15;
    }
}

// Where a matrix begins in the block's shared memory.
inline unsigned begin_of(uint64_t matrix) { return (unsigned(matrix & 0x3FFF) << 4) - WINDOW; }

// Products under way see what is written to their operands, or do not: nobody may.
inline void note_overwrite(Block& block, unsigned from, unsigned to, const char* what) {
    for (const Warp& warp : block.warps)
        for (const Product& product : warp.products)
            for (const uint64_t matrix : {product.a, product.b}) {
                const unsigned begin = begin_of(matrix), along = unsigned(matrix >> 16 & 0x3FFF) << 4, across = unsigned(matrix >> 32 & 0x3FFF) << 4;
                const unsigned end = begin + along + (matrix == product.a ? 7 : 15) * across + 128;
                if (from < end && begin < to) fail("%s over what a product under way reads, shared address %u", what, std::max(from, begin));
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
    if (rank >= machine.blocks.size()) fail("writes to rank %u of a cluster of %zu", rank, machine.blocks.size());
    Block& block = machine.blocks[rank];
    // Before the first barrier of the cluster a peer may not have started.
    if (rank != t.block && machine.epoch == 0) fail("writes to a peer that may not have started");
    unsigned char* at = shared_at(t, block, address, bytes);
    note_write(t, block, address, bytes);
    if (machine.block_threads > GROUP_THREADS) {
        // The barriers of the groups say nothing of the others.
        if (t.warp * LANES >= unsigned(GROUP_THREADS)) fail("writes shared memory outside the groups");
        note_overwrite(block, address, address + bytes, "writes");
        for (unsigned word = address / 4; word < (address + bytes) / 4; ++word) {
            block.shadow[word].unpublished = true;
            t.unpublished.push_back(word);
        }
    }
    std::memcpy(at, data, bytes);
}

// ---- global memory ----
inline void touch_global(const void* address, unsigned bytes, uint8_t right) {
    const auto* at = static_cast<const unsigned char*>(address);
    if (reinterpret_cast<uintptr_t>(at) % bytes != 0) fail("global access of %u bytes is not aligned", bytes);
    for (Buffer* buffer : machine.buffers) {
        if (at < buffer->begin || at >= buffer->begin + buffer->may.size()) continue;
        const size_t offset = size_t(at - buffer->begin);
        for (unsigned i = 0; i < bytes; ++i) {
            if (offset + i >= buffer->may.size() || !(buffer->may[offset + i] & right))
                fail("may not %s byte %zu of the %s (%zu bytes)", right == 1 ? "read" : "write", offset + i, buffer->name.c_str(), buffer->may.size());
            if (right == 2) buffer->writes[offset + i]++;
        }
        return;
    }
    fail("global access outside every buffer");
}

// ---- what the collective operations do once all lanes are there ----
// An operand of a matrix product: f16 or bf16, as the kernel was compiled.
inline float operand_value(unsigned half) {
    uint32_t bits = half << 16;
    float value;
#if BLOBNET_F16
    const uint32_t exponent = half >> 10 & 31, mantissa = half & 1023;
    if (exponent == 0) return (half & 0x8000 ? -1.0f : 1.0f) * float(mantissa) * 0x1p-24f;
    bits = (half & 0x8000) << 16 | (exponent == 31 ? 255 : exponent + 112) << 23 | mantissa << 13;
#endif
    std::memcpy(&value, &bits, 4);
    return value;
}

inline unsigned operand_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const uint32_t magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000) return 0x7FFF;
#if BLOBNET_F16
    const uint32_t sign = bits >> 16 & 0x8000;
    if (magnitude >= 0x477FF000) return sign | 0x7C00;
    if (magnitude < 0x38800000) return sign | uint32_t(std::nearbyint(std::fabs(value) * 0x1p24f));
    return sign | (magnitude + 0xFFF + (magnitude >> 13 & 1) - 0x38000000) >> 13;
#else
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
#endif
}

// ---- products of a warpgroup; each warp has 16 of the 64 rows ----
// The bytes of 16 rows (or 128 outputs) by 16 inputs, row by row, checked.
inline std::vector<unsigned char> operand_bytes(Thread& t, uint64_t matrix, unsigned first, unsigned rows) {
    Block& block = block_of(t);
    if (matrix >> 62) fail("a product of a swizzled matrix");
    const unsigned begin = begin_of(matrix), along = unsigned(matrix >> 16 & 0x3FFF) << 4, across = unsigned(matrix >> 32 & 0x3FFF) << 4;
    std::vector<unsigned char> bytes(rows * 32);
    for (unsigned row = 0; row < rows; ++row)
        for (unsigned half = 0; half < 2; ++half) {
            const unsigned address = begin + (first + row) / 8 * across + (first + row) % 8 * 16 + half * along;
            const unsigned char* at = shared_at(t, block, address, 16);
            for (unsigned word = address / 4; word < address / 4 + 4; ++word)
                if (block.shadow[word].unpublished) fail("multiplies shared address %u, which was not published since it was written", word * 4);
            note_read(t, block, address, 16);
            std::memcpy(&bytes[row * 32 + half * 16], at, 16);
        }
    return bytes;
}

inline float* sum_of(Warp& warp, int lane) { return warp.sums[size_t(lane)]; }

inline void start_product(Thread* lanes) {
    Thread& t = lanes[0];
    Warp& warp = warp_of(t);
    if (t.warp * LANES >= unsigned(GROUP_THREADS)) fail("multiplies outside the groups");
    if (!warp.begun) fail("multiplies after it touched the sums, without saying so");
    const uint64_t a = uint64_t(lanes[0].words[1]) << 32 | lanes[0].words[0], b = uint64_t(lanes[0].words[3]) << 32 | lanes[0].words[2];
    for (int lane = 0; lane < LANES; ++lane)
        if (std::memcmp(lanes[lane].words, t.words, 5 * sizeof(unsigned)) != 0) fail("lanes multiply different matrices");
    Product product{a, b, t.words[4] != 0, false, operand_bytes(t, a, t.warp % 4 * 16, 16), operand_bytes(t, b, 0, 128)};
    for (int lane = 0; lane < LANES; ++lane) {
        if (warp.products.empty()) warp.sums[size_t(lane)] = lanes[lane].sums;
        if (sum_of(warp, lane) != lanes[lane].sums) fail("products into other sums while some are under way");
    }
    if (warp.products.empty())
        for (int lane = 0; lane < LANES; ++lane)
            for (int i = 0; i < 64; ++i) {
                float& sum = sum_of(warp, lane)[i];
                warp.totals[lane / 4 + i / 2 % 2 * 8][i / 4 * 8 + lane % 4 * 2 + i % 2] = sum;
                sum = std::nanf("");
            }
    warp.history = ((warp.history * 1099511628211u ^ a) * 1099511628211u ^ b) * 1099511628211u ^ t.words[4];
    warp.products.push_back(std::move(product));
}

inline void multiply_now(Warp& warp, const Product& product) {
    static thread_local float b[16][128];
    const auto value = [](const std::vector<unsigned char>& bytes, unsigned row, unsigned k) {
        return operand_value(bytes[row * 32 + k * 2] | unsigned(bytes[row * 32 + k * 2 + 1]) << 8);
    };
    for (unsigned k = 0; k < 16; ++k)
        for (unsigned n = 0; n < 128; ++n) b[k][n] = value(product.weights, n, k);
    for (unsigned m = 0; m < 16; ++m) {
        float* totals = warp.totals[m];
        if (!product.accumulate) std::fill_n(totals, 128, 0.0f);
        for (unsigned k = 0; k < 16; ++k) {
            const float a = value(product.rows, m, k);
            for (unsigned n = 0; n < 128; ++n) totals[n] += a * b[k][n];
        }
    }
}

// Until at most `pending` batches are under way.
inline void finish_products(Thread* lanes, int pending) {
    Thread& t = lanes[0];
    Warp& warp = warp_of(t);
    int batches = 0;
    for (size_t i = 0; i < warp.products.size(); ++i) {
        if (!warp.products[i].committed) fail("waits for products that were not committed");
        batches += i + 1 == warp.products.size() || warp.products[i].batch != warp.products[i + 1].batch;
    }
    while (batches > pending) {
        const unsigned batch = warp.products.front().batch;
        while (!warp.products.empty() && warp.products.front().batch == batch) {
            const Product& product = warp.products.front();
            if (operand_bytes(t, product.a, t.warp % 4 * 16, 16) != product.rows || operand_bytes(t, product.b, 0, 128) != product.weights)
                fail("an operand changed under a product");
            multiply_now(warp, product);
            warp.products.pop_front();
        }
        --batches;
    }
    if (!warp.products.empty()) return;
    warp.begun = false;
    for (int lane = 0; lane < LANES; ++lane)
        for (int i = 0; i < 64; ++i) {
            if (!warp.sums[size_t(lane)]) continue;
            sum_of(warp, lane)[i] = warp.totals[lane / 4 + i / 2 % 2 * 8][i / 4 * 8 + lane % 4 * 2 + i % 2];
        }
    warp.sums.fill(nullptr);
}

inline void complete(Kind kind, Thread* lanes) {
    switch (kind) {
    case Kind::WarpBarrier: warp_of(*lanes).epoch++; break;
    case Kind::Shuffle: {
        float out[LANES];
        for (int lane = 0; lane < LANES; ++lane) out[lane] = lanes[lane ^ lanes[lane].integer].floats[0];
        for (int lane = 0; lane < LANES; ++lane) lanes[lane].floats[0] = out[lane];
        break;
    }
    case Kind::ShuffleFrom: {
        unsigned out[LANES];
        for (int lane = 0; lane < LANES; ++lane) out[lane] = lanes[lanes[lane].integer].words[0];
        for (int lane = 0; lane < LANES; ++lane) lanes[lane].words[0] = out[lane];
        break;
    }
    case Kind::Matrices: {
        unsigned rows[LANES][4];
        for (int lane = 0; lane < LANES; ++lane) read_shared(lanes[lane], lanes[lane].words[0], rows[lane], 16);
        for (int lane = 0; lane < LANES; ++lane)
            for (int matrix = 0; matrix < 4; ++matrix) lanes[lane].words[matrix] = rows[matrix * 8 + lane / 4][lane % 4];
        break;
    }
    case Kind::MultiplyAdd: {
        alignas(64) float a[16][16], b[16][8], d[16][8];
        for (int lane = 0; lane < LANES; ++lane) {
            const int g = lane / 4, t = lane % 4;
            const unsigned* w = lanes[lane].words;
            for (int i = 0; i < 4; ++i) {
                const int m = g + i % 2 * 8, k = 2 * t + i / 2 * 8;
                a[m][k] = operand_value(w[i] & 0xFFFF);
                a[m][k + 1] = operand_value(w[i] >> 16);
            }
            for (int i = 0; i < 2; ++i) {
                b[2 * t + i * 8][g] = operand_value(w[4 + i] & 0xFFFF);
                b[2 * t + i * 8 + 1][g] = operand_value(w[4 + i] >> 16);
            }
        }
        for (int lane = 0; lane < LANES; ++lane)
            for (int i = 0; i < 4; ++i) d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] = lanes[lane].floats[i];
        for (int m = 0; m < 16; ++m)
            for (int k = 0; k < 16; ++k)
                for (int n = 0; n < 8; ++n) d[m][n] += a[m][k] * b[k][n];
        for (int lane = 0; lane < LANES; ++lane)
            for (int i = 0; i < 4; ++i) lanes[lane].floats[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
        break;
    }
    case Kind::BeginProducts: warp_of(*lanes).begun = true; break;
    case Kind::MultiplyGroup: start_product(lanes); break;
    case Kind::CommitProducts:
        ++warp_of(*lanes).batch;
        for (Product& product : warp_of(*lanes).products)
            if (!product.committed) {
                product.committed = true;
                product.batch = warp_of(*lanes).batch;
            }
        break;
    case Kind::WaitProducts: finish_products(lanes, lanes[0].integer); break;
    default: fail("not a collective operation of a warp");
    }
}

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

// ---- the functions of device.cuh ----

DEVICE unsigned thread_index() { return emulator::self().warp * emulator::LANES + emulator::self().lane; }
DEVICE unsigned block_index() { return emulator::machine.first_block + emulator::self().block; }
template <int CLUSTER> DEVICE unsigned cluster_rank() { return CLUSTER == 1 ? 0 : emulator::self().block; }
// As on the GPU: not at 0, and the block's rank in the upper bits, which only addresses may have.
DEVICE unsigned shared_window() { return emulator::WINDOW | emulator::self().block << 24; }

DEVICE void warp_barrier() { emulator::collective(emulator::Kind::WarpBarrier); }
DEVICE void block_barrier() { emulator::wait_at_barrier(emulator::Kind::BlockBarrier); }
template <int CLUSTER> DEVICE void cluster_barrier() {
    emulator::wait_at_barrier(CLUSTER == 1 ? emulator::Kind::BlockBarrier : emulator::Kind::ClusterBarrier);
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
    for (unsigned word = shared / 4; word < shared / 4 + 4; ++word) block.shadow[word].pending = true;
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
            for (unsigned word = copy.shared / 4; word < copy.shared / 4 + 4; ++word) block.shadow[word].pending = false;
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
DEVICE void load_shared_words4(unsigned address, unsigned (&out)[4]) { emulator::read_shared(emulator::self(), emulator::within(address), out, 16); }
DEVICE void load_shared_floats4(unsigned address, float* out) { emulator::read_shared(emulator::self(), emulator::within(address), out, 16); }
DEVICE void store_shared_word(unsigned address, unsigned value) { emulator::write_shared(emulator::self().block, emulator::within(address), &value, 4); }
DEVICE void store_shared_float(unsigned address, float value) { emulator::write_shared(emulator::self().block, emulator::within(address), &value, 4); }

template <int CLUSTER> DEVICE unsigned emulated_rank(unsigned rank) { return CLUSTER == 1 ? emulator::self().block : rank; }
template <int CLUSTER> DEVICE void store_peer_floats2(unsigned address, unsigned rank, float a, float b) {
    const float values[2] = {a, b};
    emulator::write_shared(emulated_rank<CLUSTER>(rank), emulator::within(address), values, 8);
}
template <int CLUSTER> DEVICE void store_peer_floats4(unsigned address, unsigned rank, float a, float b, float c, float d) {
    const float values[4] = {a, b, c, d};
    emulator::write_shared(emulated_rank<CLUSTER>(rank), emulator::within(address), values, 16);
}
template <int CLUSTER> DEVICE void store_peer_words2(unsigned address, unsigned rank, unsigned a, unsigned b) {
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
DEVICE unsigned long long load_system_long(const void* address) { return emulated_global<unsigned long long>(address); }
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

DEVICE unsigned pack_operands(float low, float high) { return emulator::operand_bits(low) | emulator::operand_bits(high) << 16; }
DEVICE int count_bits(unsigned long long bits) { return __builtin_popcountll(bits); }
DEVICE float exponential(float x) { return std::exp(x); }
DEVICE float hyperbolic_tangent(float x) { return std::tanh(x); }
DEVICE float square_root(float x) { return std::sqrt(x); }
DEVICE float least(float a, float b) { return std::fmin(a, b); }
DEVICE float most(float a, float b) { return std::fmax(a, b); }

DEVICE void barrier_init(unsigned address, unsigned arrivals) {
    const unsigned barrier = emulator::within(address);
    emulator::Thread& t = emulator::self();
    emulator::shared_at(t, emulator::block_of(t), barrier, 8);
    emulator::Barrier made;
    made.arrivals = made.missing = int(arrivals);
    emulator::block_of(t).barriers[barrier] = made;
}
// Others may use them from the cluster's next barrier on.
DEVICE void publish_barriers() {
    if (emulator::machine.epoch != 0) emulator::fail("makes barriers too late");
    for (auto& [address, barrier] : emulator::block_of(emulator::self()).barriers) barrier.published = true;
}
DEVICE emulator::Barrier& emulated_barrier(unsigned rank, unsigned barrier) {
    if (emulator::machine.epoch == 0) emulator::fail("uses barriers that may not have been made");
    return emulator::barrier_at(rank, barrier);
}
DEVICE void barrier_arrive_expecting(unsigned address, unsigned bytes) {
    const unsigned barrier = emulator::within(address);
    const unsigned block = emulator::self().block;
    emulator::Barrier& at = emulated_barrier(block, barrier);
    at.bytes += long(bytes);
    --at.missing;
    emulator::end_phase_if_due(block, barrier);
}
DEVICE void barrier_arrive_peer(unsigned address, unsigned rank) {
    const unsigned barrier = emulator::within(address);
    if (rank >= emulator::machine.blocks.size()) emulator::fail("arrives at rank %u of a cluster of %zu", rank, emulator::machine.blocks.size());
    --emulated_barrier(rank, barrier).missing;
    if (!emulator::end_phase_if_due(rank, barrier)) return;
    // Whoever waited for this goes on before what this thread does next: it may have arrived too early.
    emulator::machine.others_first = true;
    emulator::pause();
}
DEVICE void barrier_wait(unsigned address, unsigned parity) {
    const unsigned barrier = emulator::within(address);
    emulator::Thread& t = emulator::self();
    const emulator::Barrier& at = emulated_barrier(t.block, barrier);
    while ((at.phase & 1) == parity) {
        emulator::deliver(t.block, barrier);
        if ((at.phase & 1) != parity) break;
        t.waits_for = emulator::Kind::Phase;
        t.barrier = barrier;
        t.state = emulator::State::Waiting;
        emulator::pause();
    }
}
DEVICE void copy_to_peers(unsigned address, const void* global, unsigned bytes, unsigned barrier_address, unsigned short ranks) {
    const unsigned shared = emulator::within(address), barrier = emulator::within(barrier_address);
    if (bytes % 16 != 0) emulator::fail("copies %u bytes", bytes);
    const auto* from = static_cast<const unsigned char*>(global);
    for (unsigned i = 0; i < bytes; i += 16) emulator::touch_global(from + i, 16, 1);
    for (unsigned rank = 0; rank < 16; ++rank) {
        if (!(ranks >> rank & 1)) continue;
        if (rank >= emulator::machine.blocks.size()) emulator::fail("copies to rank %u of a cluster of %zu", rank, emulator::machine.blocks.size());
        emulated_barrier(rank, barrier);
        emulator::Block& block = emulator::machine.blocks[rank];
        emulator::shared_at(emulator::self(), block, shared, 16);
        emulator::shared_at(emulator::self(), block, shared + bytes - 16, 16);
        emulator::note_overwrite(block, shared, shared + bytes, "copies");
        for (unsigned word = shared / 4; word < (shared + bytes) / 4; ++word) {
            if (block.shadow[word].pending) emulator::fail("copies over a copy under way, shared address %u", word * 4);
            block.shadow[word].pending = true;
        }
        std::memset(block.shared.data() + shared, 0xFF, bytes);
        emulator::machine.deliveries.push_back({rank, shared, bytes, barrier, from});
        bool is_waited_for = false;
        for (const emulator::Thread& t : emulator::machine.threads)
            is_waited_for |= t.block == rank && t.waits_for == emulator::Kind::Phase && t.barrier == barrier;
        if (is_waited_for) emulator::deliver(rank, barrier);
    }
}

template <int> DEVICE void give_registers() {}
template <int> DEVICE void take_registers() {}
DEVICE void publish_operands() {
    emulator::Thread& t = emulator::self();
    for (const unsigned word : t.unpublished) emulator::block_of(t).shadow[word].unpublished = false;
    t.unpublished.clear();
}
DEVICE void groups_barrier() { emulator::wait_at_barrier(emulator::Kind::GroupsBarrier); }
DEVICE void begin_products(float (&)[64]) { emulator::collective(emulator::Kind::BeginProducts); }
DEVICE void commit_products() { emulator::collective(emulator::Kind::CommitProducts); }
template <int PENDING> DEVICE void wait_products(float (&)[64]) {
    emulator::self().integer = PENDING;
    emulator::collective(emulator::Kind::WaitProducts);
}
DEVICE void multiply_group(float (&d)[64], unsigned long long a, unsigned long long b, bool accumulate) {
    emulator::Thread& t = emulator::self();
    const unsigned words[5] = {unsigned(a), unsigned(a >> 32), unsigned(b), unsigned(b >> 32), accumulate};
    std::copy_n(words, 5, t.words);
    t.sums = d;
    emulator::collective(emulator::Kind::MultiplyGroup);
}
