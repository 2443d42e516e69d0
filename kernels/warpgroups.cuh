// The network by wgmma (sm_90a), for batches of thousands of rows: a block takes 64 rows through the whole network, a cluster of 4
// blocks reads the weights together.
//
// What a block owns. Every matrix is a run of steps: 256 outputs by 16 inputs, 8 KB, in the order of use
// (src/network/packed/steps.rs); a product is 64 rows x 16 inputs x 256 outputs, half of the outputs on each of two warpgroups, as
// m64n128k16 with both operands in shared memory. A third group gives its registers to them, and one lane of it fetches: each stage of
// the ring, two steps, is cut in 4, a quarter fetched by each block and sent to all 4, so a cluster reads the weights once. Full barriers
// count a stage's bytes, empty ones the 32 warps that are through with it. Warp w of a warpgroup has rows 16 (w % 4) .. + 16: sums, residual and norms stay in its
// registers (a lane has 2 rows x 32 features), and only operands and the norms' two numbers a row go through shared memory.
//
// Same bits. Sums are split as in tiles.cuh: mix in four quarters of the inputs, contraction and heads in 8 slices, each a chain of its
// own, added up in order; the norms add along the same tree.
//
// Floors at 256 x 6 x 1024, 944 steps, counted before building; an H200 block at 1.7 GHz:
//   wgmma      2 x 64 clocks a step                                                  71 us
//   shared     two groups read 2 KB of rows and 4 KB of weights, 8 KB come in         89 us, beside the wgmma's
//   ingest     7.73 MB at 64 B a clock                                                71 us, beside
//   L2         32 clusters x 7.73 MB at 5.5 TB/s                                      45 us, beside
//   the rest   26 hidden passes, 13 norms and 110 ends of a chain without products, rows in and out    20 to 45 us
// 110 to 135 us for up to 8192 rows at once, 450 to 550 TFLOP/s. Why this tile: 128 rows a block would halve ingest and the weights'
// part of shared memory, but leave half of the chip idle at 8192 rows, and 8 blocks a cluster do not fill it either. Rows in registers
// would save a third of shared memory's time and cost 64 registers that the residual has.
#pragma once
#include "rows.cuh"

namespace warpgroups {

constexpr int ROWS = 64, CLUSTER = 4, GROUPS = 2;
constexpr int GROUP_WARPS = 8;                 // Of the two groups that multiply.
// Of a thread; at the start each has what 65,536 registers give 384 threads, in eights.
constexpr int START_REGISTERS = 168, FETCH_REGISTERS = 24, GROUP_REGISTERS = 240;
static_assert(FETCH_REGISTERS + GROUPS * GROUP_REGISTERS == (1 + GROUPS) * START_REGISTERS, "what is given is what is taken");
constexpr int SUMS = 64;                       // Of a lane: 2 rows x 32 outputs. Index 4 j + 2 r + e: row r, output 8 j + 2 t + e.
constexpr int STEP_INPUTS = 16, STEPS_A_STAGE = 2;
constexpr unsigned STEP_BYTES = WIDTH * STEP_INPUTS * 2, STAGE_BYTES = STEPS_A_STAGE * STEP_BYTES, SHARE_BYTES = STAGE_BYTES / CLUSTER;
constexpr int STAGES = 8;
constexpr int PRODUCT_STAGES = WIDTH / STEP_INPUTS / STEPS_A_STAGE;    // Of a matrix with 256 inputs.
// Embed; of each layer mix, then expansion and contraction for each pair of passes of 128 hidden units; the same twice for the heads.
constexpr int PAIRS = SLICES / 2 * UNITS, HEAD_PAIRS = 2;
constexpr int ALL_STAGES = PRODUCT_STAGES * (1 + DEPTH * (1 + 2 * PAIRS) + 2 * HEAD_PAIRS);
static_assert(ALL_STAGES * STEPS_A_STAGE == BLOBNET_STEPS, "packed/steps.rs and this file disagree on the steps");
static_assert(UNITS <= 2, "a slice's contraction is not interrupted by another pair's expansion");

// Rows as an operand: blocks of 8 rows by 8 inputs, 128 bytes, row by row; the 8 blocks of 64 rows follow one another, then come the
// next 8 inputs.
constexpr unsigned ROW_BYTES = 16, INPUTS_8_BYTES = ROWS * ROW_BYTES, ROWS_BYTES = ROWS * WIDTH * 2;

constexpr unsigned RING = 0;
constexpr unsigned STREAM = RING + STAGES * STAGE_BYTES;
constexpr unsigned HIDDEN = STREAM + ROWS_BYTES;                       // Two buffers, for two pairs of passes after one another.
constexpr unsigned STATISTICS = HIDDEN + 2 * ROWS_BYTES;               // Of each row and half: mean's sum, squares' sum.
constexpr unsigned SLOTS = STATISTICS + 2 * GROUPS * ROWS * 4;
constexpr unsigned BARRIERS = SLOTS + GROUP_WARPS * SLOT_BYTES;        // Full ones, then empty ones.
constexpr unsigned BYTES = BARRIERS + 2 * STAGES * 8;
// At the end the stream buffer holds the outputs, as floats.
constexpr unsigned OUTPUT_PITCH = 64 * 4 + 16;
static_assert(ROWS * OUTPUT_PITCH <= ROWS_BYTES, "outputs fit the stream buffer");

DEVICE unsigned full(unsigned window, unsigned slot) { return window + BARRIERS + slot * 8; }
DEVICE unsigned empty(unsigned window, unsigned slot) { return window + BARRIERS + (STAGES + slot) * 8; }

// ---- the weights' way in ----

// One lane of each block: its share of every stage, to all blocks of the cluster.
DEVICE void fetch(const unsigned char* steps, unsigned window) {
    const unsigned rank = cluster_rank<CLUSTER>();
    unsigned slot = 0, round = 0;
    ROLLED for (int stage = 0; stage < ALL_STAGES; ++stage) {
        // All 32 warps of the cluster are through with what lay there.
        if (round > 0) barrier_wait(empty(window, slot), (round - 1) & 1);
        barrier_arrive_expecting(full(window, slot), STAGE_BYTES);
        copy_to_peers(window + RING + slot * STAGE_BYTES + rank * SHARE_BYTES, steps + stage * STAGE_BYTES + rank * SHARE_BYTES, SHARE_BYTES,
                      full(window, slot), (1 << CLUSTER) - 1);
        if (++slot == STAGES) {
            slot = 0;
            ++round;
        }
    }
}

// Where a thread of the two groups stands, in the block and in the ring.
struct Member {
    unsigned window, warp, lane, half;
    unsigned slot, parity;

    DEVICE Member here() {
        const unsigned warp = thread_index() / 32;
        return Member{shared_window(), warp, thread_index() % 32, warp / 4, 0, 0};
    }
    // The first of this lane's two rows; the second is 8 further on.
    MEMBER unsigned row() const { return warp % 4 * 16 + lane / 4; }
    // The first output or feature of the lane's.
    MEMBER unsigned feature() const { return half * 128 + lane % 4 * 2; }
    // Where the lane's pair j of row r goes in the rows at `offset`.
    MEMBER unsigned operand(unsigned offset, int j, int r) const {
        return window + offset + (half * 16 + j) * INPUTS_8_BYTES + (row() + r * 8) * ROW_BYTES + lane % 4 * 4;
    }

    // This warp is through with the stage `slot_of`, for every block that sends into it.
    MEMBER void release(unsigned slot_of) const {
        if (lane < CLUSTER) barrier_arrive_peer(empty(window, slot_of), lane);
    }
};

// ---- products ----

// sums (+)= the inputs from `rows` on, 32 a stage, times the next COUNT stages of the ring.
template <int COUNT> DEVICE void product(Member& member, float (&sums)[SUMS], unsigned rows, bool afresh) {
    unsigned before = 0;
    ROLLED for (int stage = 0; stage < COUNT; ++stage) {
        barrier_wait(full(member.window, member.slot), member.parity);
        begin_products(sums);
        const unsigned weights = member.window + RING + member.slot * STAGE_BYTES + member.half * 128 * ROW_BYTES;
        UNROLL for (int step = 0; step < STEPS_A_STAGE; ++step) {
            const unsigned long long a = describe_matrix(rows + (stage * STEPS_A_STAGE + step) * 2 * INPUTS_8_BYTES, INPUTS_8_BYTES, 8 * ROW_BYTES);
            const unsigned long long b = describe_matrix(weights + step * STEP_BYTES, WIDTH * ROW_BYTES, 8 * ROW_BYTES);
            multiply_group(sums, a, b, !afresh || stage > 0 || step > 0);
        }
        commit_products();
        if (stage > 0) {
            wait_products<1>(sums);
            member.release(before);
        }
        before = member.slot;
        if (++member.slot == STAGES) {
            member.slot = 0;
            member.parity ^= 1;
        }
    }
    wait_products<0>(sums);
    member.release(before);
}

DEVICE void clear(float (&sums)[SUMS]) {
    UNROLL for (int i = 0; i < SUMS; ++i) sums[i] = 0.0f;
}

DEVICE void add(float (&sums)[SUMS], const float (&more)[SUMS]) {
    UNROLL for (int i = 0; i < SUMS; ++i) sums[i] += more[i];
}

// totals = the rows in the stream buffer times one 256x256 matrix.
DEVICE void mix(Member& member, float (&sums)[SUMS], float (&totals)[SUMS]) {
    clear(totals);
    ROLLED for (int quarter = 0; quarter < 4; ++quarter) {
        product<PRODUCT_STAGES / 4>(member, sums, member.window + STREAM + quarter * (WIDTH / 4 / 8) * INPUTS_8_BYTES, true);
        add(totals, sums);
    }
}

// The hidden units of a pair of passes, relu(rows x matrix + bias), as operands into the rows at `hidden`. The barrier at its end also
// says that all are through with the stream buffer and with the other hidden buffer.
DEVICE void expand_pair(Member& member, float (&sums)[SUMS], const unsigned char* bias_at, unsigned hidden) {
    product<PRODUCT_STAGES>(member, sums, member.window + STREAM, true);
    UNROLL for (int j = 0; j < SUMS / 4; ++j) {
        float bias[2];
        load_constant_floats2(bias_at + (member.feature() + j * 8) * 4, bias);
        UNROLL for (int r = 0; r < 2; ++r) {
            const float low = most(sums[4 * j + 2 * r] + bias[0], 0.0f), high = most(sums[4 * j + 2 * r + 1] + bias[1], 0.0f);
            store_shared_word(member.operand(hidden, j, r), pack_operands(low, high));
        }
    }
    publish_operands();
    groups_barrier();
}

// totals = the feed-forward part of one layer, up to its contraction.
DEVICE void feed_forward(Member& member, float (&sums)[SUMS], float (&totals)[SUMS], const unsigned char* hidden_bias) {
    clear(totals);
    ROLLED for (int pair = 0; pair < PAIRS; ++pair) {
        const unsigned hidden = HIDDEN + pair % 2 * ROWS_BYTES;
        expand_pair(member, sums, hidden_bias + pair * WIDTH * 4, hidden);
        ROLLED for (int pass = 0; pass < 2; ++pass) {
            product<PRODUCT_STAGES / 2>(member, sums, member.window + hidden + pass * (WIDTH / 2 / 8) * INPUTS_8_BYTES, UNITS == 1 || pass == 0);
            if (UNITS == 1 || pass == 1) add(totals, sums);
        }
    }
}

// totals = both heads' outputs: 52 logits, 8 values, zeros.
DEVICE void heads(Member& member, float (&sums)[SUMS], float (&totals)[SUMS], const unsigned char* head_bias) {
    clear(totals);
    ROLLED for (int pair = 0; pair < HEAD_PAIRS; ++pair) {
        const unsigned hidden = HIDDEN + pair % 2 * ROWS_BYTES;
        expand_pair(member, sums, head_bias + pair * WIDTH * 4, hidden);
        ROLLED for (int slice = 0; slice < 4; ++slice) {
            product<PRODUCT_STAGES / 4>(member, sums, member.window + hidden + slice * (WIDTH / 4 / 8) * INPUTS_8_BYTES, true);
            add(totals, sums);
        }
    }
}

// ---- norms ----

// This half's part of the sum over row r of x, or of its squares: tiles.cuh's tree (bits 0, 1, 6, 5, 4, 3, 2 of a feature's number; 7 is
// the half). A lane has bits 3 to 6 in j and 1 and 2 in its own number.
template <bool SQUARES> DEVICE float half_of_row(const Member& member, const float (&x)[SUMS], int r) {
    const bool odd = member.lane % 2 == 1;
    float v[8];
    UNROLL for (int i = 0; i < 8; ++i) {
        float pair[2];
        UNROLL for (int b = 0; b < 2; ++b) {
            const float low = x[4 * (2 * i + b) + 2 * r], high = x[4 * (2 * i + b) + 2 * r + 1];
            pair[b] = SQUARES ? low * low + high * high : low + high;
        }
        // For bit 1, even lanes go on with even j and odd ones with odd j, until bit 3.
        v[i] = (odd ? pair[1] : pair[0]) + shuffle_xor(odd ? pair[0] : pair[1], 1);
    }
    float sum = ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
    sum += shuffle_xor(sum, 1);
    return sum + shuffle_xor(sum, 2);
}

// Both halves' sums over the lane's two rows, through the numbers at `offset` of shared memory. The barrier also says that all are
// through with their products.
template <bool SQUARES> DEVICE void sum_rows(const Member& member, const float (&x)[SUMS], unsigned offset, float (&sums)[2]) {
    UNROLL for (int r = 0; r < 2; ++r) sums[r] = half_of_row<SQUARES>(member, x, r);
    const unsigned at = member.window + STATISTICS + offset + member.row() * 4;
    if (member.lane % 4 == 0)
        UNROLL for (int r = 0; r < 2; ++r) store_shared_float(at + member.half * ROWS * 4 + r * 32, sums[r]);
    groups_barrier();
    UNROLL for (int r = 0; r < 2; ++r) sums[r] = load_shared_float(at + r * 32) + load_shared_float(at + ROWS * 4 + r * 32);
}

// After a product: adds bias and residual to x, normalises, keeps the rows for the next residual and puts them into the stream buffer.
template <bool RESIDUAL> DEVICE void normalise(const Member& member, const unsigned char* vectors, float (&x)[SUMS], float (&residual)[SUMS]) {
    const unsigned char* at = vectors + member.feature() * 4;
    UNROLL for (int j = 0; j < SUMS / 4; ++j) {
        float bias[2];
        load_constant_floats2(at + j * 32, bias);
        UNROLL for (int i = 0; i < 4; ++i) {
            x[4 * j + i] += bias[i % 2];
            if (RESIDUAL) x[4 * j + i] += residual[4 * j + i];
        }
    }
    float sums[2], scale[2];
    sum_rows<false>(member, x, 0, sums);
    UNROLL for (int i = 0; i < SUMS; ++i) x[i] -= sums[i / 2 % 2] * (1.0f / WIDTH);
    sum_rows<true>(member, x, GROUPS * ROWS * 4, sums);
    UNROLL for (int r = 0; r < 2; ++r) scale[r] = 1.0f / square_root(sums[r] * (1.0f / WIDTH) + NORM_EPSILON);
    UNROLL for (int j = 0; j < SUMS / 4; ++j) {
        float gain[2], offset[2];
        load_constant_floats2(at + WIDTH * 4 + j * 32, gain);
        load_constant_floats2(at + WIDTH * 8 + j * 32, offset);
        UNROLL for (int r = 0; r < 2; ++r) {
            const int at_row = 4 * j + 2 * r;
            UNROLL for (int e = 0; e < 2; ++e) residual[at_row + e] = x[at_row + e] * scale[r] * gain[e] + offset[e];
            store_shared_word(member.operand(STREAM, j, r), pack_operands(residual[at_row], residual[at_row + 1]));
        }
    }
    publish_operands();
    groups_barrier();
}

// ---- rows in and out ----

// Each warp 8 rows: requests in, features into the stream buffer; what the reply will need of them is kept.
DEVICE Kept take_requests(const Member& member, const BlobNetArgs& args) {
    // The hidden units' buffers are free: a row of floats for each warp, then the requests.
    const unsigned features = member.window + HIDDEN + member.warp * WIDTH * 4, slots = member.window + HIDDEN + GROUP_WARPS * WIDTH * 4;
    const Kept kept = fetch_requests<ROWS / WARPS>(args, block_index() * ROWS, ROWS, member.warp, member.lane, slots, SLOT_BYTES);
    ROLLED for (int turn = 0; turn < ROWS / WARPS; ++turn) {
        const unsigned row = turn * WARPS + member.warp;
        expand(slots + row * SLOT_BYTES, features, member.lane);
        warp_barrier();
        float x[8];
        load_shared_floats4(features + member.lane * 32, x);
        load_shared_floats4(features + member.lane * 32 + 16, x + 4);
        const unsigned target = member.window + STREAM + member.lane * INPUTS_8_BYTES + row * ROW_BYTES;
        UNROLL for (int i = 0; i < 4; ++i) store_shared_word(target + i * 4, pack_operands(x[2 * i], x[2 * i + 1]));
        warp_barrier();
    }
    publish_operands();
    groups_barrier();
    return kept;
}

// The first 64 outputs, which the first group has, to the warps that answer.
DEVICE void reply(const Member& member, const BlobNetArgs& args, const float (&outputs)[SUMS], const Kept& kept) {
    const unsigned staged = member.window + STREAM, slot = member.window + SLOTS + member.warp * SLOT_BYTES, lane = member.lane;
    if (member.half == 0)
        UNROLL for (int j = 0; j < 8; ++j)
            UNROLL for (int i = 0; i < 4; ++i)
                store_shared_float(staged + (member.row() + i / 2 * 8) * OUTPUT_PITCH + (j * 8 + lane % 4 * 2 + i % 2) * 4, outputs[4 * j + i]);
    groups_barrier();
    const unsigned char* bias_at = args.weights + OUTPUT_BIAS_OFFSET;
    const float bias[2] = {load_constant_float(bias_at + lane * 4), load_constant_float(bias_at + 128 + lane * 4)};
    ROLLED for (int turn = 0; turn < ROWS / WARPS; ++turn) {
        const unsigned row = turn * WARPS + member.warp;
        float x[2];
        UNROLL for (int half = 0; half < 2; ++half) x[half] = load_shared_float(staged + row * OUTPUT_PITCH + (half * 32 + lane) * 4) + bias[half];
        answer(args, block_index() * ROWS + row, slot, lane, kept, turn, x);
    }
    system_fence();
}

// ---- the whole ----

DEVICE void compute(const BlobNetArgs& args) {
    Member member = Member::here();
    const Kept kept = take_requests(member, args);
    const unsigned char* norms = args.weights + NORMS_OFFSET;
    const unsigned char* hidden_bias = args.weights + HIDDEN_BIAS_OFFSET;
    // Sums of the chain in hand; one array for all, set once: registers that nobody wrote would keep ptxas from leaving products under way.
    float sums[SUMS];
    clear(sums);
    float totals[SUMS], residual[SUMS];
    mix(member, sums, totals);
    normalise<false>(member, norms, totals, residual);
    ROLLED for (int layer = 0; layer < DEPTH; ++layer) {
        norms += WIDTH * 12;
        mix(member, sums, totals);
        normalise<true>(member, norms, totals, residual);
        norms += WIDTH * 12;
        feed_forward(member, sums, totals, hidden_bias);
        hidden_bias += UNITS * 1024 * 4;
        normalise<true>(member, norms, totals, residual);
    }
    heads(member, sums, totals, args.weights + HEAD_BIAS_OFFSET);
    reply(member, args, totals, kept);
}

DEVICE void evaluate(const BlobNetArgs& args) {
    const unsigned window = shared_window(), thread = thread_index();
    if (thread == 0) {
        for (unsigned slot = 0; slot < STAGES; ++slot) {
            barrier_init(full(window, slot), 1);
            barrier_init(empty(window, slot), CLUSTER * GROUP_WARPS);
        }
        publish_barriers();
    }
    cluster_barrier<CLUSTER>();
    if (thread / 32 < GROUP_WARPS) {
        take_registers<GROUP_REGISTERS>();
        compute(args);
    } else {
        give_registers<FETCH_REGISTERS>();
        if (thread == GROUP_WARPS * 32) fetch(args.steps, window);
        warp_barrier();
    }
    // Nobody leaves while a peer may still send or arrive here.
    cluster_barrier<CLUSTER>();
}

}  // namespace warpgroups
