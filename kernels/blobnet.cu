// BlobNet in one launch: request slots in, reply slots out; every activation stays on chip in between.
//
// Entry points       tile of rows   blocks of a tile   shared bytes   for
//   blobnet_block_16       16         1                  100,352      sm_80 and later, small batches
//   blobnet_block_32       32         1                  101,376      sm_80 and later (all that sm_86/sm_89 give one block)
//   blobnet_cluster_16     16         cluster of 8       128,768      sm_90, up to 16 rows a cluster that fits the chip
//   blobnet_cluster_32     32         cluster of 8       158,208      sm_90
//   blobnet_cluster_64     64         cluster of 8       217,088      sm_90
//   blobnet_features        8         1                    9,216      the 256 features as floats, for tests
// 256 threads (8 warps) a block, one block a multiprocessor. Registers a thread (ptxas 13.0): block 108 and 172, cluster 109, 140 and 190,
// no spills, no stack; scripts/compile_gate.sh watches over that.
//
// Shapes. 256 features -> width 256 -> DEPTH layers (256x256 mix, norm, 256 -> FFN -> 256, norm) -> 52 logits, 8 values; FFN is a
// multiple of 1024. Weights are the A operand of mma m16n8k16 (M = output features), rows of the batch the narrow N; sums are f32.
// Operands are f16 where src/network/packed_bf16.rs proves from the weights that no activation can leave its range (BLOBNET_F16=1),
// else bf16: same speed and size, but f16 has 3 bits more, and bf16 alone leaves too little room below the tolerance of 0.01 on
// priors and 0.02 on values.
//
// What a block owns. The network is cut into 8 slices: slice s has 1/8 of the mix outputs (32), of the hidden units (FFN / 8), and of
// the heads' hidden units. A cluster's block of rank s computes slice s, so each block streams 1/8 of the weights; a block without a
// cluster computes slices 0 to 7 in turn. Contraction leaves partial sums of all 256 features in every slice: they go, as f32, to the
// block that owns the row (rows are dealt evenly over the cluster), are added there in order of slice, normalised, kept as f32 for the
// residual, and sent back to all blocks as operands. The single block adds the same partial sums in the same order, so all entry points
// give the same bits, and a column of an mma depends on no other column: a row's bits depend neither on the batch nor on the tile.
//
// Weights. Each lane copies with cp.async the very 16 bytes of each A fragment that it will feed to mma itself, so the stream needs no
// barrier at all: a ring of STAGES stages per warp, refilled across layer and barrier boundaries, one contiguous run of fragments
// per warp (src/network/packed_bf16.rs writes that order). Every weight is read once per tile.
//
// Floors at 256 x 6 x 1024 (7.43 MFLOP a row, 7.7 MB of weights streamed), counted before building for an H200 with 132 multiprocessors at
// 1.7 GHz, L2 at 5.5 TB/s; kernels/README.md has the other variants. A cluster's tile of 64 rows, 16 clusters at once = batch 1024:
//   L2         0.96 MB a block, 123 MB in all                                                      22 us, whatever the rows
//   mma        59 MFLOP a block at 2560 a clock                                                    14 us
//   shared     weights in and out, 1 KB a fragment, and 2 KB of rows a fragment or pair: 4.5 MB    21 us, beside the L2's
//   exchange   140 KB a layer at about 25 B/ns                                                     15 to 30 us, the ring refilling meanwhile
//   barriers   4 DEPTH + 5 of the cluster at about 0.2 us                                           6 us
// max(L2, shared) + exchange + barriers: 35 to 55 us. Why this tile: one block per tile (weights not shared) asks L2 for 490 MB at 16 rows,
// 89 us at best and on 64 multiprocessors only; clusters of 4 ask for twice the weights; multicast brings all weights to every block.
// On an RTX 4060 (24 multiprocessors, ~1 TB/s of L2, ~30 TFLOP/s) batch 1024 is 32 tiles of 32: 245 us of L2, 250 us of mma.
#include "device.cuh"

#ifndef BLOBNET_DEPTH
#error "src/network/packed_bf16.rs gives the shape and offsets as -D options"
#endif

struct BlobNetArgs {
    const unsigned char* requests;
    unsigned char* replies;
    const unsigned long long* request_offsets;
    const unsigned long long* reply_offsets;
    const unsigned char* weights;
    unsigned rows;
};

constexpr int WIDTH = 256;
constexpr int SLICES = 8;
constexpr int WARPS = 8;
constexpr int FRAGMENT_BYTES = 512;            // 16 outputs x 16 inputs, 16 bytes a lane.
constexpr int DEPTH = BLOBNET_DEPTH;
constexpr int UNITS = BLOBNET_FFN_UNITS;       // FFN / 1024: passes of 128 hidden units that a slice makes.
constexpr int ACTIONS = 52;                    // Of 64 outputs: 52 logits, 8 values, 4 of padding.
constexpr int HEAD_HIDDEN = 64;                // Of one slice: 256 for the policy, 128 for the values, 128 of padding.
constexpr int HEAD_WARPS = 4;                  // Warps that the heads keep busy.

// Fragments of one (slice, warp) stream, phase by phase; the order is packed_bf16.rs's.
constexpr int MIX_FRAGMENTS = 4;
constexpr int FFN_FRAGMENTS = 32 * UNITS;
constexpr int HEAD_FRAGMENTS = 20;
constexpr int STREAM_FRAGMENTS = MIX_FRAGMENTS + DEPTH * (MIX_FRAGMENTS + FFN_FRAGMENTS) + HEAD_FRAGMENTS;
static_assert(STREAM_FRAGMENTS == BLOBNET_STREAM_FRAGMENTS, "packed_bf16.rs and this file disagree on the streams");
constexpr int PHASES = 2 + 2 * DEPTH;          // Embed, (mix, ffn) x DEPTH, heads.

// f32 vectors behind the streams. Norms: bias of the product before, gain, bias; one triple per norm.
constexpr unsigned NORMS_OFFSET = BLOBNET_NORMS_OFFSET;
constexpr unsigned HIDDEN_BIAS_OFFSET = BLOBNET_HIDDEN_BIAS_OFFSET;
constexpr unsigned HEAD_BIAS_OFFSET = BLOBNET_HEAD_BIAS_OFFSET;
constexpr unsigned OUTPUT_BIAS_OFFSET = BLOBNET_OUTPUT_BIAS_OFFSET;

// Row pitches: 16 bytes past a multiple of 128, so that the 8 rows of an ldmatrix, and the stores of fragments, meet in no bank.
constexpr unsigned STREAM_PITCH = WIDTH * 2 + 16;
constexpr unsigned HIDDEN_PITCH = 128 * 2 + 16;
constexpr unsigned INBOX_PITCH = WIDTH * 4 + 16;
constexpr unsigned SLOT_BYTES = 128;           // A warp's request or reply at a time.
constexpr unsigned REQUEST_WORDS = 24;
constexpr unsigned REPLY_WORDS = 28;
constexpr float NORM_EPSILON = 1e-5f;
constexpr float LARGEST = 3.402823466e+38f;

// Everything that follows from the tile's shape; GROUP fragments are one stage of a warp's ring.
template <int CLUSTER_, int ROWS_, int STAGES_, int GROUP_> struct Tile {
    static constexpr int CLUSTER = CLUSTER_, ROWS = ROWS_, STAGES = STAGES_, GROUP = GROUP_;
    static constexpr int COLUMNS = ROWS / 8;                     // mma tiles of 8 rows.
    static constexpr int OWNED = ROWS / CLUSTER;                 // Rows whose sums, norms and replies are this block's.
    static constexpr int OWNED_PER_WARP = (OWNED + WARPS - 1) / WARPS;
    static constexpr int INBOXES = CLUSTER;                      // Partial sums of each slice wait side by side.
    static constexpr int HIDDEN_BUFFERS = CLUSTER == 1 ? 2 : 1;
    static constexpr unsigned STAGE_BYTES = GROUP * FRAGMENT_BYTES;
    static constexpr unsigned RING = 0;
    static constexpr unsigned STREAM = RING + WARPS * STAGES * STAGE_BYTES;
    static constexpr unsigned INBOX = STREAM + ROWS * STREAM_PITCH;
    static constexpr unsigned HIDDEN = INBOX + INBOXES * OWNED * INBOX_PITCH;
    static constexpr unsigned SLOTS = HIDDEN + HIDDEN_BUFFERS * ROWS * HIDDEN_PITCH;
    static constexpr unsigned BYTES = SLOTS + WARPS * SLOT_BYTES;
    static_assert(ROWS % 16 == 0 && ROWS % CLUSTER == 0 && OWNED % 2 == 0, "pairs of rows have one owner");
    static_assert(MIX_FRAGMENTS % GROUP == 0 && HEAD_FRAGMENTS % GROUP == 0, "a stage lies within one run of fragments");
};

// Where a thread stands.
template <class T> struct Place {
    unsigned window, rank, warp, lane;
    DEVICE Place here() {
        return Place{shared_window(), cluster_rank<T::CLUSTER>(), thread_index() / 32, thread_index() % 32};
    }
    // This lane's address for load_matrices4: 16 rows by 16 inputs of the matrix at `offset`.
    MEMBER unsigned matrix(unsigned offset, unsigned pitch) const {
        return window + offset + (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 16;
    }
    // Column `feature` of the owned row `row % OWNED` in inbox `inbox` (at the owner, who is row / OWNED).
    MEMBER unsigned inbox(unsigned inbox, unsigned row, unsigned feature) const {
        return window + T::INBOX + (inbox * T::OWNED + row % T::OWNED) * INBOX_PITCH + feature * 4;
    }
};

// ---- the weights' way in ----

// One warp's fragments in the order of use, a ring of stages ahead of the mma. A lane reads only what it copied itself, and a stage is
// asked for again only after its last fragment has gone through an mma.
template <class T> struct WeightStream {
    const unsigned char* weights;              // This lane's 16 bytes of the first fragment of stream 0.
    unsigned ring;                             // This lane's 16 bytes of the first fragment of stage 0.
    unsigned rank, warp;
    int phase, run, position, offset;          // The next fragment to ask for: phase, run in it, place in the run; where the phase begins.
    int write_stage, read_stage;

    MEMBER void start(const BlobNetArgs& args, const Place<T>& place) {
        weights = args.weights + place.lane * 16;
        ring = place.window + T::RING + place.warp * (T::STAGES * T::STAGE_BYTES) + place.lane * 16;
        rank = place.rank;
        warp = place.warp;
        phase = run = position = offset = write_stage = read_stage = 0;
        for (int stage = 0; stage < T::STAGES - 1; ++stage) request();
    }

    // Embed and mix split the outputs over warps, and a single block's warp takes all of slice `warp`; the other phases go slice by slice.
    MEMBER unsigned stream() const {
        if (T::CLUSTER != 1) return rank * WARPS + warp;
        const bool mix = phase == 0 || (phase % 2 == 1 && phase != PHASES - 1);
        return mix ? warp * WARPS + run : run * WARPS + warp;
    }

    MEMBER void request() {
        if (phase < PHASES) {
            const int last = PHASES - 1;
            const int length = phase == last ? HEAD_FRAGMENTS : (phase == 0 || phase % 2 == 1) ? MIX_FRAGMENTS : FFN_FRAGMENTS;
            const unsigned char* source = weights + (stream() * STREAM_FRAGMENTS + offset + position) * FRAGMENT_BYTES;
            const unsigned target = ring + write_stage * T::STAGE_BYTES;
            UNROLL for (int i = 0; i < T::GROUP; ++i) copy_async_16(target + i * FRAGMENT_BYTES, source + i * FRAGMENT_BYTES);
            position += T::GROUP;
            if (position == length) {
                position = 0;
                if (++run == SLICES / T::CLUSTER) {
                    run = 0;
                    offset += length;
                    ++phase;
                    if (phase == last && warp >= HEAD_WARPS) phase = PHASES;
                }
            }
        }
        // Also an empty group counts, so that the number of groups under way stays known.
        commit_copies();
        write_stage = write_stage + 1 == T::STAGES ? 0 : write_stage + 1;
    }

    MEMBER void next(unsigned (&fragments)[T::GROUP][4]) {
        wait_copies<T::STAGES - 2>();
        const unsigned source = ring + read_stage * T::STAGE_BYTES;
        UNROLL for (int i = 0; i < T::GROUP; ++i) load_shared_words4(source + i * FRAGMENT_BYTES, fragments[i]);
        read_stage = read_stage + 1 == T::STAGES ? 0 : read_stage + 1;
        request();
    }
};

// ---- products ----

template <class T> DEVICE void clear(float (&sums)[T::COLUMNS][4]) {
    UNROLL for (int column = 0; column < T::COLUMNS; ++column)
        UNROLL for (int i = 0; i < 4; ++i) sums[column][i] = 0.0f;
}

template <class T> DEVICE void add(float (&sums)[T::COLUMNS][4], const float (&more)[T::COLUMNS][4]) {
    UNROLL for (int column = 0; column < T::COLUMNS; ++column)
        UNROLL for (int i = 0; i < 4; ++i) sums[column][i] += more[column][i];
}

// sums += FRAGMENTS fragments, one after another along the inputs, times the rows at `inputs` (a lane's `matrix` address).
template <class T, int FRAGMENTS>
DEVICE void multiply(WeightStream<T>& stream, float (&sums)[T::COLUMNS][4], unsigned inputs, unsigned pitch) {
    UNROLL for (int first = 0; first < FRAGMENTS; first += T::GROUP) {
        unsigned weights[T::GROUP][4];
        stream.next(weights);
        UNROLL for (int i = 0; i < T::GROUP; ++i)
            UNROLL for (int column = 0; column < T::COLUMNS; column += 2) {
                unsigned rows[4];
                load_matrices4(inputs + column * 8 * pitch + (first + i) * 32, rows);
                multiply_add(sums[column], weights[i], rows[0], rows[1]);
                multiply_add(sums[column + 1], weights[i], rows[2], rows[3]);
            }
    }
}

// The same for two tiles of outputs, whose fragments alternate: each fragment of rows is read once for both.
template <class T, int FRAGMENTS>
DEVICE void multiply_two(WeightStream<T>& stream, float (&sums)[2][T::COLUMNS][4], unsigned inputs, unsigned pitch) {
    UNROLL for (int first = 0; first < FRAGMENTS; first += T::GROUP) {
        unsigned weights[T::GROUP][4];
        stream.next(weights);
        UNROLL for (int i = 0; i < T::GROUP; i += 2)
            UNROLL for (int column = 0; column < T::COLUMNS; column += 2) {
                unsigned rows[4];
                load_matrices4(inputs + column * 8 * pitch + (first + i) / 2 * 32, rows);
                UNROLL for (int half = 0; half < 2; ++half) {
                    multiply_add(sums[half][column], weights[i + half], rows[0], rows[1]);
                    multiply_add(sums[half][column + 1], weights[i + half], rows[2], rows[3]);
                }
            }
    }
}

// Sums of one tile of outputs to the rows' owners. Fragment rows g and g + 8 hold outputs 2g and 2g + 1 (packed_bf16.rs), so a lane has
// two neighbouring outputs of rows 2t and 2t + 1.
template <class T> DEVICE void send_sums(const Place<T>& place, const float (&sums)[T::COLUMNS][4], unsigned inbox, unsigned tile) {
    const unsigned feature = tile * 16 + place.lane / 4 * 2;
    UNROLL for (int column = 0; column < T::COLUMNS; ++column) {
        const unsigned row = column * 8 + place.lane % 4 * 2, owner = row / T::OWNED;
        store_peer_floats2<T::CLUSTER>(place.inbox(inbox, row, feature), owner, sums[column][0], sums[column][2]);
        store_peer_floats2<T::CLUSTER>(place.inbox(inbox, row + 1, feature), owner, sums[column][1], sums[column][3]);
    }
}

// The same for the pair of tiles of a contraction: a lane has outputs 4g to 4g + 3 of the pair's 32.
template <class T> DEVICE void send_sums_two(const Place<T>& place, const float (&sums)[2][T::COLUMNS][4], unsigned inbox, unsigned pair) {
    const unsigned feature = pair * 32 + place.lane / 4 * 4;
    UNROLL for (int column = 0; column < T::COLUMNS; ++column) {
        const unsigned row = column * 8 + place.lane % 4 * 2, owner = row / T::OWNED;
        UNROLL for (int odd = 0; odd < 2; ++odd)
            store_peer_floats4<T::CLUSTER>(place.inbox(inbox, row + odd, feature), owner, sums[0][column][odd], sums[0][column][2 + odd],
                                           sums[1][column][odd], sums[1][column][2 + odd]);
    }
}

// Embed and mix: the rows in the stream buffer times one 256x256 matrix, into the owners' inboxes. A slice's 2 tiles of outputs are
// split four ways along the inputs, so that 8 warps have work and no weight is read twice; the quarters are added in order.
template <class T> DEVICE void mix(const Place<T>& place, WeightStream<T>& stream) {
    const unsigned inputs = place.matrix(T::STREAM, STREAM_PITCH);
    float sums[T::COLUMNS][4];
    if constexpr (T::CLUSTER != 1) {
        const unsigned quarter = place.warp / 2;
        clear<T>(sums);
        multiply<T, MIX_FRAGMENTS>(stream, sums, inputs + quarter * MIX_FRAGMENTS * 32, STREAM_PITCH);
        send_sums(place, sums, quarter, place.rank * 2 + place.warp % 2);
    } else {
        float totals[2][T::COLUMNS][4];
        ROLLED for (int quarter = 0; quarter < 4; ++quarter)
            UNROLL for (int half = 0; half < 2; ++half) {
                clear<T>(sums);
                multiply<T, MIX_FRAGMENTS>(stream, sums, inputs + quarter * MIX_FRAGMENTS * 32, STREAM_PITCH);
                if (quarter == 0) clear<T>(totals[half]);
                add<T>(totals[half], sums);
            }
        UNROLL for (int half = 0; half < 2; ++half) send_sums(place, totals[half], 0, place.warp * 2 + half);
    }
}

// relu(sums + bias) of one tile of hidden units, as operands, into columns `unit`.. of the hidden rows at `hidden`.
template <class T>
DEVICE void keep_hidden(const Place<T>& place, const float (&sums)[T::COLUMNS][4], const float (&bias)[2], unsigned hidden, unsigned unit) {
    UNROLL for (int column = 0; column < T::COLUMNS; ++column)
        UNROLL for (int odd = 0; odd < 2; ++odd) {
            const unsigned row = column * 8 + place.lane % 4 * 2 + odd;
            const float low = most(sums[column][odd] + bias[0], 0.0f), high = most(sums[column][2 + odd] + bias[1], 0.0f);
            store_shared_word(place.window + hidden + row * HIDDEN_PITCH + (unit + place.lane / 4 * 2) * 2, pack_operands(low, high));
        }
}

// Feed-forward part of one layer, up to the partial sums of its contraction. Hidden units never leave their slice.
template <class T> DEVICE void feed_forward(const Place<T>& place, WeightStream<T>& stream, const unsigned char* hidden_bias) {
    const unsigned inputs = place.matrix(T::STREAM, STREAM_PITCH);
    float totals[2][T::COLUMNS][4];
    ROLLED for (int run = 0; run < SLICES / T::CLUSTER; ++run) {
        const unsigned slice = T::CLUSTER == 1 ? run : place.rank;
        float sums[2][T::COLUMNS][4];
        clear<T>(sums[0]);
        clear<T>(sums[1]);
        ROLLED for (int unit = 0; unit < UNITS; ++unit) {
            const unsigned pass = slice * UNITS + unit;
            const unsigned buffer = T::HIDDEN + pass % T::HIDDEN_BUFFERS * (T::ROWS * HIDDEN_PITCH);
            float bias[2], hidden[T::COLUMNS][4];
            load_constant_floats2(hidden_bias + (pass * 128 + place.warp * 16 + place.lane / 4 * 2) * 4, bias);
            clear<T>(hidden);
            multiply<T, 16>(stream, hidden, inputs, STREAM_PITCH);
            // One buffer: the pass before must be read. With two, the barrier after the other buffer's writes says so already.
            if (T::HIDDEN_BUFFERS == 1 && unit > 0) block_barrier();
            keep_hidden(place, hidden, bias, buffer, place.warp * 16);
            block_barrier();
            multiply_two<T, 16>(stream, sums, place.matrix(buffer, HIDDEN_PITCH), HIDDEN_PITCH);
        }
        if constexpr (T::CLUSTER != 1) {
            send_sums_two(place, sums, slice, place.warp);
        } else {
            UNROLL for (int half = 0; half < 2; ++half) {
                if (run == 0) clear<T>(totals[half]);
                add<T>(totals[half], sums[half]);
            }
        }
    }
    if constexpr (T::CLUSTER == 1) send_sums_two(place, totals, 0, place.warp);
}

// Both heads as one feed-forward part: hidden units 0..256 the policy's, 256..384 the values', 64 a slice, on 4 warps.
template <class T> DEVICE void heads(const Place<T>& place, WeightStream<T>& stream, const unsigned char* head_bias) {
    const unsigned inputs = place.matrix(T::STREAM, STREAM_PITCH);
    float totals[T::COLUMNS][4];
    ROLLED for (int run = 0; run < SLICES / T::CLUSTER; ++run) {
        const unsigned slice = T::CLUSTER == 1 ? run : place.rank;
        const unsigned buffer = T::HIDDEN + slice % T::HIDDEN_BUFFERS * (T::ROWS * HIDDEN_PITCH);
        float sums[T::COLUMNS][4];
        if (place.warp < HEAD_WARPS) {
            float bias[2];
            load_constant_floats2(head_bias + (slice * HEAD_HIDDEN + place.warp * 16 + place.lane / 4 * 2) * 4, bias);
            clear<T>(sums);
            multiply<T, 16>(stream, sums, inputs, STREAM_PITCH);
            keep_hidden(place, sums, bias, buffer, place.warp * 16);
        }
        block_barrier();
        if (place.warp < HEAD_WARPS) {
            clear<T>(sums);
            multiply<T, 4>(stream, sums, place.matrix(buffer, HIDDEN_PITCH), HIDDEN_PITCH);
            if constexpr (T::CLUSTER != 1) {
                send_sums(place, sums, slice, place.warp);
            } else {
                if (run == 0) clear<T>(totals);
                add<T>(totals, sums);
            }
        }
    }
    if constexpr (T::CLUSTER == 1)
        if (place.warp < HEAD_WARPS) send_sums(place, totals, 0, place.warp);
}

// ---- rows ----

DEVICE float sum_of_warp(float value) {
    UNROLL for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
    return value;
}

DEVICE float most_of_warp(float value) {
    UNROLL for (int mask = 16; mask > 0; mask /= 2) value = most(value, shuffle_xor(value, mask));
    return value;
}

// One owned row, a lane having features 4 lane .. + 4 and 128 + 4 lane .. + 4, to every block's stream buffer as operands.
template <class T> DEVICE void send_row(const Place<T>& place, unsigned owned, const float (&x)[8]) {
    UNROLL for (int half = 0; half < 2; ++half) {
        const unsigned row = place.rank * T::OWNED + owned;
        const unsigned target = place.window + T::STREAM + row * STREAM_PITCH + half * 256 + place.lane * 8;
        const unsigned low = pack_operands(x[half * 4], x[half * 4 + 1]), high = pack_operands(x[half * 4 + 2], x[half * 4 + 3]);
        UNROLL for (int rank = 0; rank < T::CLUSTER; ++rank) store_peer_words2<T::CLUSTER>(target, rank, low, high);
    }
}

// After a product: adds what lies in `inboxes` inboxes, the bias and the residual, normalises, keeps the row for the next residual and
// sends it round. Two barriers: all sums have come; all rows have come.
template <class T, int INBOXES, bool RESIDUAL>
DEVICE void normalise(const Place<T>& place, const unsigned char* vectors, float (&residual)[T::OWNED_PER_WARP][8]) {
    float bias[8], gain[8], offset[8];
    // Asked for before the barrier, to arrive behind it.
    UNROLL for (int half = 0; half < 2; ++half) {
        const unsigned char* at = vectors + half * 512 + place.lane * 16;
        load_constant_floats4(at, bias + half * 4);
        load_constant_floats4(at + WIDTH * 4, gain + half * 4);
        load_constant_floats4(at + WIDTH * 8, offset + half * 4);
    }
    cluster_barrier<T::CLUSTER>();
    UNROLL for (int turn = 0; turn < T::OWNED_PER_WARP; ++turn) {
        const unsigned owned = turn * WARPS + place.warp;
        if (owned < T::OWNED) {
            float x[8], part[8];
            load_shared_floats4(place.inbox(0, owned, place.lane * 4), x);
            load_shared_floats4(place.inbox(0, owned, 128 + place.lane * 4), x + 4);
            UNROLL for (int inbox = 1; inbox < INBOXES; ++inbox) {
                load_shared_floats4(place.inbox(inbox, owned, place.lane * 4), part);
                load_shared_floats4(place.inbox(inbox, owned, 128 + place.lane * 4), part + 4);
                UNROLL for (int i = 0; i < 8; ++i) x[i] += part[i];
            }
            float sum = 0.0f, squares = 0.0f;
            UNROLL for (int i = 0; i < 8; ++i) {
                x[i] += bias[i];
                if (RESIDUAL) x[i] += residual[turn][i];
                sum += x[i];
            }
            const float mean = sum_of_warp(sum) * (1.0f / WIDTH);
            UNROLL for (int i = 0; i < 8; ++i) {
                x[i] -= mean;
                squares += x[i] * x[i];
            }
            const float scale = 1.0f / square_root(sum_of_warp(squares) * (1.0f / WIDTH) + NORM_EPSILON);
            UNROLL for (int i = 0; i < 8; ++i) residual[turn][i] = x[i] = x[i] * scale * gain[i] + offset[i];
            send_row(place, owned, x);
        }
    }
    cluster_barrier<T::CLUSTER>();
}

// ---- the features: src/observation.rs, table and `Position::expand`, line by line ----

// Byte offsets in a request; the ticket comes first.
constexpr unsigned HAND = 8, PLAYED = 16, LEGAL = 24, BIDS = 32, TRICKS_WON = 40, TRICK = 48, VOIDS = 56, TOTALS = 64, PLAYERS = 80,
                   CARDS = 81, TRUMP = 82, PHASE = 83, DEALER = 84, LEADER = 85, FORBIDDEN_BID = 86, TURNED = 87, ROUNDS_DONE = 88,
                   ROUNDS_TOTAL = 89, FIRST_CARDS = 90;
constexpr unsigned NO_BID = 255, HIGH_RANKS = 0x1E00;
constexpr float MAX_CARDS = 17.0f;

DEVICE float bid_feature(unsigned bid, float per_card) { return bid == NO_BID ? -1.0f : bid * per_card; }

// The request at shared address `request` as 256 floats at `features`: each is written once, by one lane. Total over any bytes.
DEVICE void expand(unsigned request, unsigned features, unsigned lane) {
    const auto byte = [&](unsigned at) { return load_shared_byte(request + at); };
    const auto put = [&](unsigned feature, float value) { store_shared_float(features + feature * 4, value); };
    const unsigned players_told = byte(PLAYERS), players = players_told < 3 ? 3 : players_told > 8 ? 8 : players_told;
    const unsigned cards = byte(CARDS), turned = byte(TURNED);
    const float per_card = 1.0f / static_cast<float>(cards == 0 ? 1 : cards);

    for (unsigned card = lane; card < 52; card += 32) {
        const unsigned word = card / 32 * 4, bit = card % 32;
        put(card, load_shared_word(request + HAND + word) >> bit & 1 ? 1.0f : 0.0f);
        put(52 + card, load_shared_word(request + PLAYED + word) >> bit & 1 ? 1.0f : card == turned ? 0.5f : 0.0f);
        float place = 0.0f;
        for (unsigned order = 0; order < 8; ++order)
            if (byte(TRICK + order) == card) place = static_cast<float>(order + 1) / static_cast<float>(players);
        put(104 + card, place);
    }

    const float rounds = static_cast<float>(byte(ROUNDS_TOTAL)), done = static_cast<float>(byte(ROUNDS_DONE));
    const unsigned first_cards = byte(FIRST_CARDS);
    const bool game = rounds > 0.0f;
    if (lane < 8) {
        const bool seated = lane < players;
        const unsigned dealer = byte(DEALER), leader = byte(LEADER);
        const unsigned total = byte(TOTALS + lane * 2) | byte(TOTALS + lane * 2 + 1) << 8;
        put(156 + lane, seated ? bid_feature(byte(BIDS + lane), per_card) : 0.0f);
        put(164 + lane, seated ? static_cast<float>(byte(TRICKS_WON + lane)) * per_card : 0.0f);
        put(176 + lane, lane == (dealer < 7 ? dealer : 7) ? 1.0f : 0.0f);
        put(184 + lane, lane == (leader < 7 ? leader : 7) ? 1.0f : 0.0f);
        const float points = rounds * (10.0f + static_cast<float>(first_cards));
        put(243 + lane, game && seated ? static_cast<float>(total) / points : 0.0f);
    }
    if (lane < 6) put(192 + lane, lane == players - 3 ? 1.0f : 0.0f);
    if (lane < 5) put(198 + lane, lane == (byte(TRUMP) < 4 ? byte(TRUMP) : 4) ? 1.0f : 0.0f);
    if (lane < 2) put(203 + lane, lane == (byte(PHASE) < 1 ? 0 : 1) ? 1.0f : 0.0f);
    if (lane < 28) {
        const unsigned seat = 1 + lane / 4;
        put(207 + lane, seat < players && (byte(VOIDS + seat) >> lane % 4 & 1) ? 1.0f : 0.0f);
    }
    if (lane < 4) {
        const unsigned long long low = load_shared_word(request + HAND), high = load_shared_word(request + HAND + 4);
        const unsigned held = static_cast<unsigned>((high << 32 | low) >> lane * 13) & 0x1FFF;
        put(235 + lane, static_cast<float>(count_bits(held)) * per_card);
        put(239 + lane, static_cast<float>(count_bits(held & HIGH_RANKS)) * 0.25f);
    }
    if (lane == 0) {
        const unsigned bid = byte(BIDS);
        const float won = static_cast<float>(byte(TRICKS_WON));
        unsigned tricks = 0;
        for (unsigned seat = 0; seat < 8; ++seat) tricks += byte(TRICKS_WON + seat);
        put(172, bid_feature(bid, per_card));
        put(173, bid == NO_BID ? 0.0f : (static_cast<float>(bid) - won) * per_card);
        put(174, static_cast<float>(cards) / MAX_CARDS);
        put(175, static_cast<float>(tricks) * per_card);
    }
    if (lane == 1) {
        const unsigned forbidden = byte(FORBIDDEN_BID), round = byte(ROUNDS_DONE) + 1;
        put(205, forbidden == NO_BID ? 0.0f : 1.0f);
        put(206, forbidden == NO_BID ? 0.0f : static_cast<float>(forbidden) * per_card);
        put(251, game ? done / rounds : 0.0f);
        put(252, game ? (rounds - 1.0f - done) / rounds : 0.0f);
        put(253, game ? static_cast<float>(first_cards) / MAX_CARDS : 0.0f);
        put(254, !game ? 0.0f : round < first_cards ? -1.0f : round < first_cards + players ? 0.0f : 1.0f);
        put(255, game ? 1.0f : 0.0f);
    }
}

// Request `row` of the batch into this warp's slot; a row past the batch is all zeros, which expands like any other.
DEVICE void fetch_request(const BlobNetArgs& args, unsigned row, unsigned slot, unsigned lane) {
    unsigned word = 0;
    if (lane < REQUEST_WORDS && row < args.rows)
        word = load_system_word(args.requests + load_system_long(args.request_offsets + row) + lane * 4);
    if (lane < REQUEST_WORDS) store_shared_word(slot + lane * 4, word);
    warp_barrier();
}

// All owned rows: requests in, features to every block. Lane 4 turn + i of `kept` holds on to word i of (ticket, legal actions).
template <class T> DEVICE unsigned take_requests(const Place<T>& place, const BlobNetArgs& args, unsigned tile) {
    const unsigned slot = place.window + T::SLOTS + place.warp * SLOT_BYTES;
    unsigned kept = 0;
    float x[8];
    UNROLL for (int turn = 0; turn < T::OWNED_PER_WARP; ++turn) {
        const unsigned owned = turn * WARPS + place.warp;
        if (owned < T::OWNED) {
            const unsigned features = place.inbox(0, owned, 0);
            fetch_request(args, tile * T::ROWS + place.rank * T::OWNED + owned, slot, place.lane);
            const unsigned word = place.lane % 4;
            if (place.lane / 4 == static_cast<unsigned>(turn)) kept = load_shared_word(slot + (word < 2 ? word * 4 : LEGAL + (word - 2) * 4));
            expand(slot, features, place.lane);
            warp_barrier();
        }
    }
    cluster_barrier<T::CLUSTER>();             // Peers run; without a cluster, costs next to nothing.
    UNROLL for (int turn = 0; turn < T::OWNED_PER_WARP; ++turn) {
        const unsigned owned = turn * WARPS + place.warp;
        if (owned < T::OWNED) {
            load_shared_floats4(place.inbox(0, owned, place.lane * 4), x);
            load_shared_floats4(place.inbox(0, owned, 128 + place.lane * 4), x + 4);
            send_row(place, owned, x);
        }
    }
    cluster_barrier<T::CLUSTER>();
    return kept;
}

// ---- the replies ----

// One output of an owned row: lane's `output`, summed over the slices.
template <class T> DEVICE float output(const Place<T>& place, unsigned owned, unsigned output, float bias) {
    float sum = load_shared_float(place.inbox(0, owned, output));
    UNROLL for (int inbox = 1; inbox < T::INBOXES; ++inbox) sum += load_shared_float(place.inbox(inbox, owned, output));
    return sum + bias;
}

// Softmax over the legal actions (as `masked_softmax` of src/network/mod.rs: NaN counts as the smallest number, infinities as the
// largest), tanh of the values, and all of it into the reply slots.
template <class T> DEVICE void reply(const Place<T>& place, const BlobNetArgs& args, unsigned tile, unsigned kept) {
    const unsigned slot = place.window + T::SLOTS + place.warp * SLOT_BYTES, lane = place.lane;
    const unsigned char* bias_at = args.weights + OUTPUT_BIAS_OFFSET;
    const float bias[2] = {load_constant_float(bias_at + lane * 4), load_constant_float(bias_at + 128 + lane * 4)};
    cluster_barrier<T::CLUSTER>();
    UNROLL for (int turn = 0; turn < T::OWNED_PER_WARP; ++turn) {
        const unsigned owned = turn * WARPS + place.warp;
        if (owned < T::OWNED) {
            const unsigned row = tile * T::ROWS + place.rank * T::OWNED + owned;
            unsigned words[4];
            UNROLL for (int i = 0; i < 4; ++i) words[i] = shuffle_from(kept, turn * 4 + i);
            const unsigned long long legal = static_cast<unsigned long long>(words[3]) << 32 | words[2];
            float x[2], exponentials[2];
            UNROLL for (int half = 0; half < 2; ++half) x[half] = output(place, owned, half * 32 + lane, bias[half]);
            const float value = hyperbolic_tangent(x[1]);
            bool allowed[2];
            UNROLL for (int half = 0; half < 2; ++half) {
                const unsigned action = half * 32 + lane;
                allowed[half] = action < ACTIONS && (legal >> action & 1);
                x[half] = allowed[half] ? least(most(x[half], -LARGEST), LARGEST) : -LARGEST;
            }
            const float largest = most_of_warp(most(x[0], x[1]));
            UNROLL for (int half = 0; half < 2; ++half) exponentials[half] = allowed[half] ? exponential(x[half] - largest) : 0.0f;
            const float sum = sum_of_warp(exponentials[0] + exponentials[1]);
            if (lane < REPLY_WORDS) store_shared_word(slot + lane * 4, 0);
            warp_barrier();
            if (lane < 2) store_shared_word(slot + lane * 4, lane == 0 ? words[0] : words[1]);
            UNROLL for (int half = 0; half < 2; ++half) {
                const int place_of = count_bits(legal & ((1ull << (half * 32 + lane)) - 1));
                if (allowed[half] && place_of < 18) store_shared_float(slot + 8 + place_of * 4, exponentials[half] / sum);
            }
            if (lane >= ACTIONS - 32 && lane < ACTIONS - 32 + 8) store_shared_float(slot + 80 + (lane - (ACTIONS - 32)) * 4, value);
            warp_barrier();
            if (lane < REPLY_WORDS && row < args.rows)
                store_system_word(args.replies + load_system_long(args.reply_offsets + row) + lane * 4, load_shared_word(slot + lane * 4));
            warp_barrier();
        }
    }
    system_fence();
}

// ---- the whole ----

template <class T> DEVICE void evaluate(const BlobNetArgs& args) {
    const Place<T> place = Place<T>::here();
    const unsigned tile = block_index() / T::CLUSTER;
    WeightStream<T> stream;
    stream.start(args, place);
    const unsigned kept = take_requests(place, args, tile);

    constexpr int MIX_INBOXES = T::CLUSTER == 1 ? 1 : 4;
    const unsigned char* norms = args.weights + NORMS_OFFSET;
    const unsigned char* hidden_bias = args.weights + HIDDEN_BIAS_OFFSET;
    float residual[T::OWNED_PER_WARP][8];
    mix(place, stream);
    normalise<T, MIX_INBOXES, false>(place, norms, residual);
    ROLLED for (int layer = 0; layer < DEPTH; ++layer) {
        norms += WIDTH * 12;
        mix(place, stream);
        normalise<T, MIX_INBOXES, true>(place, norms, residual);
        norms += WIDTH * 12;
        feed_forward(place, stream, hidden_bias);
        hidden_bias += UNITS * 1024 * 4;
        normalise<T, T::INBOXES, true>(place, norms, residual);
    }
    heads(place, stream, args.weights + HEAD_BIAS_OFFSET);
    reply(place, args, tile, kept);
}

//                                  blocks, rows, stages, fragments a stage
using Block16 = Tile<1, 16, 8, 2>;
using Block32 = Tile<1, 32, 4, 2>;
using Cluster16 = Tile<8, 16, 6, 4>;
using Cluster32 = Tile<8, 32, 6, 4>;
using Cluster64 = Tile<8, 64, 6, 4>;

#ifdef BLOBNET_BLOCK
static_assert(Block16::BYTES == BLOBNET_SHARED_BLOCK_16 && Block32::BYTES == BLOBNET_SHARED_BLOCK_32, "cuda_plan.rs disagrees");
KERNEL void blobnet_block_16(const BlobNetArgs args) { evaluate<Block16>(args); }
KERNEL void blobnet_block_32(const BlobNetArgs args) { evaluate<Block32>(args); }
#endif

#ifdef BLOBNET_CLUSTER
static_assert(Cluster16::BYTES == BLOBNET_SHARED_CLUSTER_16 && Cluster32::BYTES == BLOBNET_SHARED_CLUSTER_32 &&
                  Cluster64::BYTES == BLOBNET_SHARED_CLUSTER_64,
              "cuda_plan.rs disagrees");
CLUSTER_KERNEL void blobnet_cluster_16(const BlobNetArgs args) { evaluate<Cluster16>(args); }
CLUSTER_KERNEL void blobnet_cluster_32(const BlobNetArgs args) { evaluate<Cluster32>(args); }
CLUSTER_KERNEL void blobnet_cluster_64(const BlobNetArgs args) { evaluate<Cluster64>(args); }
#endif

#ifdef BLOBNET_FEATURES
// Row by row, one warp each: 256 floats at the reply's offset. For tests.
KERNEL void blobnet_features(const BlobNetArgs args) {
    const unsigned warp = thread_index() / 32, lane = thread_index() % 32, row = block_index() * WARPS + warp;
    const unsigned slot = shared_window() + warp * (SLOT_BYTES + WIDTH * 4), features = slot + SLOT_BYTES;
    fetch_request(args, row, slot, lane);
    expand(slot, features, lane);
    warp_barrier();
    if (row < args.rows) {
        unsigned char* target = args.replies + load_system_long(args.reply_offsets + row);
        for (unsigned feature = lane; feature < WIDTH; feature += 32)
            store_system_word(target + feature * 4, load_shared_word(features + feature * 4));
    }
    system_fence();
}
#endif
