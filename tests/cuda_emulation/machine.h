// The emulated machine: threads as fibers, warps, blocks, what each is waiting for, and the
// operations that all lanes of a warp do together.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>
#include <sys/mman.h>
// Switching by hand is several times faster than ucontext, which makes system calls; elsewhere, or
// on request, that has to do.
#if defined(__x86_64__) && !defined(EMULATOR_UCONTEXT)
#define EMULATOR_BY_HAND
#else
#include <ucontext.h>
#endif

namespace emulator {

constexpr int LANES = 32, WARPS_OF_A_BLOCK = 8, BLOCK_THREADS = WARPS_OF_A_BLOCK * LANES;
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
        *top =
            reinterpret_cast<void*>(entry); // `ret` pops it, which leaves the alignment of a call.
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
    None,
    Shuffle,
    ShuffleFrom,
    Matrices,
    MultiplyAdd,
    WarpBarrier,
    BlockBarrier,
    ClusterBarrier
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
    unsigned words[8]; // Operands of a collective operation, then its results.
    float floats[4];
    int integer;
    std::vector<std::vector<Copy>> groups;             // Committed, oldest first.
    std::vector<Copy> uncommitted;
};

struct Warp {
    int arrived = 0;
    uint32_t epoch = 0;
    Kind kind = Kind::None;
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
    bool pending = false;
};

struct Block {
    std::vector<unsigned char> shared;
    std::vector<Word> shadow;
    Warp warps[WARPS_OF_A_BLOCK];
    int arrived = 0;
    uint32_t epoch = 0;
};

// A buffer in global memory; `may` says of each byte what the kernel may do: 1 read, 2 write;
// `writes` counts writes.
struct Buffer {
    std::string name;
    unsigned char* begin;
    std::vector<uint8_t> may, writes;
};

struct Machine {
    std::vector<Buffer*> buffers;
    std::vector<Block> blocks;
    std::vector<Thread> threads;
    unsigned first_block = 0;
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
        std::fprintf(stderr,
                     "emulation: block %u warp %u lane %u: ", machine.first_block + t->block,
                     t->warp, t->lane);
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
    if (warp.kind != kind)
        fail("a collective operation of kind %d meets one of kind %d in the same warp", int(kind),
             int(warp.kind));
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

}  // namespace emulator
