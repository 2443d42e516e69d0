// The network by mma.sync, for batches of any size: a tile of rows is one block's, or shared by the
// 8 blocks of a cluster.
//
// Shapes. Weights are the A operand of mma m16n8k16 (M = output features), rows of the batch the
// narrow N. 256 threads.
//
// What a block owns. The network is cut into 8 slices: slice s has 1/8 of the mix outputs, of the
// hidden units (FFN / 8), and of the heads' hidden units. A cluster's block of rank s computes
// slice s, so each block streams 1/8 of the weights; a block without a cluster computes slices 0 to
// 7 in turn. Contraction leaves partial sums of all features in every slice: they go, as f32, to
// the block that owns the row (rows are dealt evenly over the cluster), are added there in order of
// slice, normalised, kept as f32 for the residual, and sent back to all blocks as operands. The
// single block adds the same partial sums in the same order, so all entry points give the same
// bits, and a column of an mma depends on no other column: a row's bits depend neither on the batch
// nor on the tile.
//
// Weights. Each lane copies with cp.async the very 16 bytes of each A fragment that it will feed to
// mma itself, so the stream needs no barrier at all: a ring of STAGES stages per warp, refilled
// across layer and barrier boundaries, one contiguous run of fragments per warp
// (src/network/cuda/packing/fragments.rs writes that order). Every weight is read once per tile.
//
// Floors at 256 x 6 x 1024 (7.43 MFLOP a row, 7.7 MB of weights streamed), counted before building
// for an H200 with 132 multiprocessors at 1.7 GHz, L2 at 5.5 TB/s; kernels/README.md has the other
// variants. A cluster's tile of 64 rows, 16 clusters at once = batch 1024, in microseconds:
//   L2        22        0.96 MB a block, 123 MB in all, whatever the rows
//   mma       14        59 MFLOP a block at 2560 a clock
//   shared    21        weights in and out, 1 KB a fragment, and 2 KB of rows a fragment or pair:
//                       4.5 MB, beside the L2's
//   exchange  15 to 30  140 KB a layer at about 25 B/ns, the ring refilling meanwhile
//   barriers  6         4 DEPTH + 5 of the cluster at about 0.2 us
// max(L2, shared) + exchange + barriers: 35 to 55. Why this tile: one block per tile (weights not
// shared) asks L2 for 490 MB at 16 rows, 89 us at best and on 64 multiprocessors only; clusters of
// 4 ask for twice the weights; multicast brings all weights to every block. On an RTX 4060 (24
// multiprocessors, ~1 TB/s of L2, ~30 TFLOP/s) batch 1024 is 32 tiles of 32: 245 us of L2, 250 us
// of mma.
#pragma once
#include "rows.cuh"

constexpr int FRAGMENT_BYTES = 512; // 16 outputs x 16 inputs, 16 bytes a lane.
// Of one slice; of all, WIDTH for the policy, WIDTH / 2 for the values, the rest is padding.
constexpr int HEAD_HIDDEN = 64;
constexpr int HEAD_WARPS = 4; // Warps that the heads keep busy.

// Fragments of one (slice, warp) stream, phase by phase; the order is packing/fragments.rs's.
constexpr int TILES = WIDTH / 128; // Of 16 outputs: a slice's of a mix, a warp's of a contraction.
constexpr int PARTS = WARPS / TILES; // That the inputs of a mix are split into.
constexpr int EMBED_FRAGMENTS = FEATURES / 16 / PARTS;
constexpr int MIX_FRAGMENTS = WIDTH / 16 / PARTS;
constexpr int EXPAND_FRAGMENTS = WIDTH / 16;
// Of one pass of 128 hidden units: expansion and contraction.
constexpr int UNIT_FRAGMENTS = EXPAND_FRAGMENTS + 8 * TILES;
constexpr int HEAD_FRAGMENTS = EXPAND_FRAGMENTS + HEAD_HIDDEN / 16;

DEVICE unsigned stream_fragments(const BlobNetArgs& args) {
    return EMBED_FRAGMENTS + args.depth * (MIX_FRAGMENTS + UNIT_FRAGMENTS * args.units) +
           HEAD_FRAGMENTS;
}

// Row pitches: 16 bytes past a multiple of 128, so that the 8 rows of an ldmatrix, and the stores
// of fragments, meet in no bank.
constexpr unsigned STREAM_PITCH = FEATURES * 2 + 16;
constexpr unsigned HIDDEN_PITCH = 128 * 2 + 16;
constexpr unsigned PARTIAL_PITCH = FEATURES * 4 + 16;

// Everything that follows from the tile's shape; GROUP fragments are one stage of a warp's ring.
// A narrow network's runs are shorter: stages of one fragment, as many more of them.
template <int CLUSTER_, int ROWS_, int STAGES_, int GROUP_> struct Tile {
    static constexpr int CLUSTER = CLUSTER_, ROWS = ROWS_;
    static constexpr int GROUP = MIX_FRAGMENTS < GROUP_ ? MIX_FRAGMENTS : GROUP_;
    static constexpr int STAGES = STAGES_ * GROUP_ / GROUP;
    static constexpr int COLUMNS = ROWS / 8; // mma tiles of 8 rows.
    // Rows whose sums, norms and replies are this block's.
    static constexpr int OWNED = ROWS / CLUSTER;
    static constexpr int OWNED_PER_WARP = (OWNED + WARPS - 1) / WARPS;
    static constexpr int PARTIALS = CLUSTER; // Partial sums of each slice wait side by side.
    static constexpr int HIDDEN_BUFFERS = CLUSTER == 1 ? 2 : 1;
    static constexpr unsigned STAGE_BYTES = GROUP * FRAGMENT_BYTES;
    static constexpr unsigned RING = 0;
    static constexpr unsigned STREAM = RING + WARPS * STAGES * STAGE_BYTES;
    static constexpr unsigned PARTIAL = STREAM + ROWS * STREAM_PITCH;
    static constexpr unsigned HIDDEN = PARTIAL + PARTIALS * OWNED * PARTIAL_PITCH;
    static constexpr unsigned SLOTS = HIDDEN + HIDDEN_BUFFERS * ROWS * HIDDEN_PITCH;
    static constexpr unsigned BYTES = SLOTS + WARPS * SLOT_BYTES;
    static_assert(ROWS % 16 == 0 && ROWS % CLUSTER == 0 && OWNED % 2 == 0,
                  "pairs of rows have one owner");
    static_assert(MIX_FRAGMENTS % GROUP == 0 && EMBED_FRAGMENTS % GROUP == 0 &&
                      HEAD_FRAGMENTS % GROUP == 0,
                  "a stage lies within one run of fragments");
};

// Where a thread stands.
template <class T> struct Place {
    unsigned window, rank, warp, lane;
    DEVICE Place here() {
        return Place{shared_window(), cluster_rank<T::CLUSTER>(), thread_index() / 32,
                     thread_index() % 32};
    }
    // This lane's address for load_matrices4: 16 rows by 16 inputs of the matrix at `offset`.
    MEMBER unsigned matrix(unsigned offset, unsigned pitch) const {
        return window + offset + (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 16;
    }
    // Column `feature` of the owned row `row % OWNED` of the partial sums `partial` (at the owner,
    // who is row / OWNED).
    MEMBER unsigned partial(unsigned partial, unsigned row, unsigned feature) const {
        return window + T::PARTIAL + (partial * T::OWNED + row % T::OWNED) * PARTIAL_PITCH +
               feature * 4;
    }
};

// ---- the weights' way in ----

// One warp's fragments in the order of use, a ring of stages ahead of the mma. A lane reads only
// what it copied itself, and a stage is asked for again only after its last fragment has gone
// through an mma.
template <class T> struct WeightStream {
    const unsigned char* weights; // This lane's 16 bytes of the first fragment of stream 0.
    unsigned ring; // This lane's 16 bytes of the first fragment of stage 0.
    unsigned rank, warp;
    unsigned fragments; // Of one stream.
    int ffn_fragments; // Of a feed-forward phase.
    int last; // The last phase: embed, (mix, ffn) x depth, heads.
    // The next fragment to ask for: phase, run in it, place in the run; where the phase begins.
    int phase, run, position, offset;
    int write_stage, read_stage;

    MEMBER void start(const BlobNetArgs& args, const Place<T>& place) {
        weights = args.weights + place.lane * 16;
        ring = place.window + T::RING + place.warp * (T::STAGES * T::STAGE_BYTES) + place.lane * 16;
        rank = place.rank;
        warp = place.warp;
        fragments = stream_fragments(args);
        ffn_fragments = static_cast<int>(args.units) * UNIT_FRAGMENTS;
        last = static_cast<int>(args.depth) * 2 + 1;
        phase = run = position = offset = write_stage = read_stage = 0;
        for (int stage = 0; stage < T::STAGES - 1; ++stage) request();
    }

    // Embed and mix split the outputs over warps, and a single block's warp takes all of slice
    // `warp`; the other phases go slice by slice.
    MEMBER unsigned stream() const {
        if (T::CLUSTER != 1) return rank * WARPS + warp;
        const bool mix = phase == 0 || (phase % 2 == 1 && phase != last);
        return mix ? warp * WARPS + run : run * WARPS + warp;
    }

    MEMBER void request() {
        if (phase <= last) {
            const int length = phase == last    ? HEAD_FRAGMENTS
                               : phase == 0     ? EMBED_FRAGMENTS
                               : phase % 2 == 1 ? MIX_FRAGMENTS
                                                : ffn_fragments;
            const unsigned char* source =
                weights + (stream() * fragments + offset + position) * FRAGMENT_BYTES;
            const unsigned target = ring + write_stage * T::STAGE_BYTES;
            UNROLL for (int i = 0; i < T::GROUP; ++i)
                copy_async_16(target + i * FRAGMENT_BYTES, source + i * FRAGMENT_BYTES);
            position += T::GROUP;
            if (position == length) {
                position = 0;
                if (++run == SLICES / T::CLUSTER) {
                    run = 0;
                    offset += length;
                    ++phase;
                    if (phase == last && warp >= HEAD_WARPS) ++phase;
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
        UNROLL for (int i = 0; i < T::GROUP; ++i)
            load_shared_words4(source + i * FRAGMENT_BYTES, fragments[i]);
        read_stage = read_stage + 1 == T::STAGES ? 0 : read_stage + 1;
        request();
    }
};

// ---- products ----

template <class T> DEVICE void clear(float (&sums)[T::COLUMNS][4]) {
    UNROLL for (int column = 0; column < T::COLUMNS; ++column)
        UNROLL for (int i = 0; i < 4; ++i) sums[column][i] = 0.0f;
}

template <class T>
DEVICE void add(float (&sums)[T::COLUMNS][4], const float (&more)[T::COLUMNS][4]) {
    UNROLL for (int column = 0; column < T::COLUMNS; ++column)
        UNROLL for (int i = 0; i < 4; ++i) sums[column][i] += more[column][i];
}

// sums += FRAGMENTS fragments, one after another along the inputs, times the rows at `inputs` (a
// lane's `matrix` address).
template <class T, int FRAGMENTS> DEVICE void multiply(WeightStream<T>& stream,
                                                       float (&sums)[T::COLUMNS][4],
                                                       unsigned inputs, unsigned pitch) {
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

// The same for two tiles of outputs, whose fragments alternate: each fragment of rows is read once
// for both.
template <class T, int FRAGMENTS> DEVICE void multiply_two(WeightStream<T>& stream,
                                                           float (&sums)[2][T::COLUMNS][4],
                                                           unsigned inputs, unsigned pitch) {
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

// Sums of one tile of outputs to the rows' owners. Fragment rows g and g + 8 hold outputs 2g and 2g
// + 1 (packing/fragments.rs), so a lane has two neighbouring outputs of rows 2t and 2t + 1.
template <class T> DEVICE void send_sums(const Place<T>& place, const float (&sums)[T::COLUMNS][4],
                                         unsigned partial, unsigned tile) {
    const unsigned feature = tile * 16 + place.lane / 4 * 2;
    UNROLL for (int column = 0; column < T::COLUMNS; ++column) {
        const unsigned row = column * 8 + place.lane % 4 * 2, owner = row / T::OWNED;
        store_peer_floats2<T::CLUSTER>(place.partial(partial, row, feature), owner, sums[column][0],
                                       sums[column][2]);
        store_peer_floats2<T::CLUSTER>(place.partial(partial, row + 1, feature), owner,
                                       sums[column][1], sums[column][3]);
    }
}

// The same for the pair of tiles of a contraction: a lane has outputs 4g to 4g + 3 of the
// pair's 32.
template <class T> DEVICE void send_sums_two(const Place<T>& place,
                                             const float (&sums)[2][T::COLUMNS][4],
                                             unsigned partial, unsigned pair) {
    const unsigned feature = pair * 32 + place.lane / 4 * 4;
    UNROLL for (int column = 0; column < T::COLUMNS; ++column) {
        const unsigned row = column * 8 + place.lane % 4 * 2, owner = row / T::OWNED;
        UNROLL for (int odd = 0; odd < 2; ++odd)
            store_peer_floats4<T::CLUSTER>(place.partial(partial, row + odd, feature), owner,
                                           sums[0][column][odd], sums[0][column][2 + odd],
                                           sums[1][column][odd], sums[1][column][2 + odd]);
    }
}

// Embed and mix: the rows in the stream buffer times one matrix, to the owners' partial sums. A
// slice's tiles of outputs are split along the inputs into parts of FRAGMENTS, so that 8 warps have
// work and no weight is read twice; the parts are added in order.
template <class T, int FRAGMENTS> DEVICE void mix(const Place<T>& place, WeightStream<T>& stream) {
    const unsigned inputs = place.matrix(T::STREAM, STREAM_PITCH);
    float sums[T::COLUMNS][4];
    if constexpr (T::CLUSTER != 1) {
        const unsigned part = place.warp / TILES;
        clear<T>(sums);
        multiply<T, FRAGMENTS>(stream, sums, inputs + part * FRAGMENTS * 32, STREAM_PITCH);
        send_sums(place, sums, part, place.rank * TILES + place.warp % TILES);
    } else {
        float totals[TILES][T::COLUMNS][4];
        ROLLED for (int part = 0; part < PARTS; ++part)
            UNROLL for (int tile = 0; tile < TILES; ++tile) {
                clear<T>(sums);
                multiply<T, FRAGMENTS>(stream, sums, inputs + part * FRAGMENTS * 32, STREAM_PITCH);
                if (part == 0) clear<T>(totals[tile]);
                add<T>(totals[tile], sums);
            }
        UNROLL for (int tile = 0; tile < TILES; ++tile)
            send_sums(place, totals[tile], 0, place.warp * TILES + tile);
    }
}

// relu(sums + bias) of one tile of hidden units, as operands, into columns `unit`.. of the hidden
// rows at `hidden`.
template <class T> DEVICE void keep_hidden(const Place<T>& place,
                                           const float (&sums)[T::COLUMNS][4],
                                           const float (&bias)[2], unsigned hidden, unsigned unit) {
    UNROLL for (int column = 0; column < T::COLUMNS; ++column)
        UNROLL for (int odd = 0; odd < 2; ++odd) {
            const unsigned row = column * 8 + place.lane % 4 * 2 + odd;
            const float low = most(sums[column][odd] + bias[0], 0.0f),
                        high = most(sums[column][2 + odd] + bias[1], 0.0f);
            store_shared_word(
                place.window + hidden + row * HIDDEN_PITCH + (unit + place.lane / 4 * 2) * 2,
                pack_operands(low, high));
        }
}

// A warp's outputs of a contraction from the 128 hidden units in `buffer`.
template <class T> DEVICE void contract(const Place<T>& place, WeightStream<T>& stream,
                                        float (&sums)[TILES][T::COLUMNS][4], unsigned buffer) {
    const unsigned inputs = place.matrix(buffer, HIDDEN_PITCH);
    if constexpr (TILES == 2) multiply_two<T, 16>(stream, sums, inputs, HIDDEN_PITCH);
    else multiply<T, 8>(stream, sums[0], inputs, HIDDEN_PITCH);
}

template <class T> DEVICE void send_contraction(const Place<T>& place,
                                                const float (&sums)[TILES][T::COLUMNS][4],
                                                unsigned partial) {
    if constexpr (TILES == 2)
        send_sums_two(place, sums, partial, place.warp);
    else
        send_sums(place, sums[0], partial, place.warp);
}

// Feed-forward part of one layer, up to the partial sums of its contraction. Hidden units never
// leave their slice.
template <class T> DEVICE void feed_forward(const Place<T>& place, WeightStream<T>& stream,
                                            const unsigned char* hidden_bias, unsigned units) {
    const unsigned inputs = place.matrix(T::STREAM, STREAM_PITCH);
    float totals[TILES][T::COLUMNS][4];
    ROLLED for (int run = 0; run < SLICES / T::CLUSTER; ++run) {
        const unsigned slice = T::CLUSTER == 1 ? run : place.rank;
        float sums[TILES][T::COLUMNS][4];
        UNROLL for (int tile = 0; tile < TILES; ++tile) clear<T>(sums[tile]);
        ROLLED for (unsigned unit = 0; unit < units; ++unit) {
            const unsigned pass = slice * units + unit;
            const unsigned buffer = T::HIDDEN + pass % T::HIDDEN_BUFFERS * (T::ROWS * HIDDEN_PITCH);
            float bias[2], hidden[T::COLUMNS][4];
            load_constant_floats2(
                hidden_bias + (pass * 128 + place.warp * 16 + place.lane / 4 * 2) * 4, bias);
            clear<T>(hidden);
            multiply<T, EXPAND_FRAGMENTS>(stream, hidden, inputs, STREAM_PITCH);
            // One buffer: the pass before must be read. With two, the barrier after the other
            // buffer's writes says so already.
            if (T::HIDDEN_BUFFERS == 1 && unit > 0) block_barrier();
            keep_hidden(place, hidden, bias, buffer, place.warp * 16);
            block_barrier();
            contract<T>(place, stream, sums, buffer);
        }
        if constexpr (T::CLUSTER != 1) {
            send_contraction(place, sums, slice);
        } else {
            UNROLL for (int tile = 0; tile < TILES; ++tile) {
                if (run == 0) clear<T>(totals[tile]);
                add<T>(totals[tile], sums[tile]);
            }
        }
    }
    if constexpr (T::CLUSTER == 1) send_contraction(place, totals, 0);
}

// Both heads as one feed-forward part: hidden units 0..256 the policy's, 256..384 the values', 64 a
// slice, on 4 warps.
template <class T>
DEVICE void heads(const Place<T>& place, WeightStream<T>& stream, const unsigned char* head_bias) {
    const unsigned inputs = place.matrix(T::STREAM, STREAM_PITCH);
    float totals[T::COLUMNS][4];
    ROLLED for (int run = 0; run < SLICES / T::CLUSTER; ++run) {
        const unsigned slice = T::CLUSTER == 1 ? run : place.rank;
        const unsigned buffer = T::HIDDEN + slice % T::HIDDEN_BUFFERS * (T::ROWS * HIDDEN_PITCH);
        float sums[T::COLUMNS][4];
        if (place.warp < HEAD_WARPS) {
            float bias[2];
            load_constant_floats2(
                head_bias + (slice * HEAD_HIDDEN + place.warp * 16 + place.lane / 4 * 2) * 4, bias);
            clear<T>(sums);
            multiply<T, EXPAND_FRAGMENTS>(stream, sums, inputs, STREAM_PITCH);
            keep_hidden(place, sums, bias, buffer, place.warp * 16);
        }
        block_barrier();
        if (place.warp < HEAD_WARPS) {
            clear<T>(sums);
            multiply<T, HEAD_HIDDEN / 16>(stream, sums, place.matrix(buffer, HIDDEN_PITCH),
                                          HIDDEN_PITCH);
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

// The sum over a row, which is dealt to the lanes: of each 128 features a lane has 4, from 4 lane
// on. All lanes get it.
DEVICE float sum_of_row(const float (&x)[WIDTH / 32]) {
    float sum = (x[0] + x[1]) + (x[2] + x[3]);
    if constexpr (WIDTH == 256) sum += (x[4] + x[5]) + (x[6] + x[7]);
    return sum_of_warp(sum);
}

// A row of the partial sums `partial`.
template <class T, int EACH>
DEVICE void load_row(const Place<T>& place, unsigned partial, unsigned owned, float (&x)[EACH]) {
    UNROLL for (int i = 0; i < EACH; i += 4)
        load_shared_floats4(place.partial(partial, owned, i * 32 + place.lane * 4), x + i);
}

// One owned row to every block's stream buffer as operands.
template <class T, int EACH>
DEVICE void send_row(const Place<T>& place, unsigned owned, const float (&x)[EACH]) {
    UNROLL for (int i = 0; i < EACH; i += 4) {
        const unsigned row = place.rank * T::OWNED + owned;
        const unsigned target =
            place.window + T::STREAM + row * STREAM_PITCH + i * 64 + place.lane * 8;
        const unsigned low = pack_operands(x[i], x[i + 1]),
                       high = pack_operands(x[i + 2], x[i + 3]);
        UNROLL for (int rank = 0; rank < T::CLUSTER; ++rank)
            store_peer_words2<T::CLUSTER>(target, rank, low, high);
    }
}

// After a product: adds up the partial sums, the bias and the residual, normalises,
// keeps the row for the next residual and sends it round. Two barriers: all sums have come; all
// rows have come.
template <class T, int PARTIALS, bool RESIDUAL>
DEVICE void normalise(const Place<T>& place, const unsigned char* vectors,
                      float (&residual)[T::OWNED_PER_WARP][WIDTH / 32]) {
    constexpr int EACH = WIDTH / 32;
    float bias[EACH], gain[EACH], offset[EACH];
    // Asked for before the barrier, to arrive behind it.
    UNROLL for (int i = 0; i < EACH; i += 4) {
        const unsigned char* at = vectors + i * 128 + place.lane * 16;
        load_constant_floats4(at, bias + i);
        load_constant_floats4(at + WIDTH * 4, gain + i);
        load_constant_floats4(at + WIDTH * 8, offset + i);
    }
    cluster_barrier<T::CLUSTER>();
    UNROLL for (int turn = 0; turn < T::OWNED_PER_WARP; ++turn) {
        const unsigned owned = turn * WARPS + place.warp;
        if (owned < T::OWNED) {
            float x[EACH], part[EACH];
            load_row(place, 0, owned, x);
            UNROLL for (int partial = 1; partial < PARTIALS; ++partial) {
                load_row(place, partial, owned, part);
                UNROLL for (int i = 0; i < EACH; ++i) x[i] += part[i];
            }
            UNROLL for (int i = 0; i < EACH; ++i) {
                x[i] += bias[i];
                if (RESIDUAL) x[i] += residual[turn][i];
            }
            const float mean = sum_of_row(x) * (1.0f / WIDTH);
            float squares[EACH];
            UNROLL for (int i = 0; i < EACH; ++i) {
                x[i] -= mean;
                squares[i] = x[i] * x[i];
            }
            const float scale =
                1.0f / square_root(sum_of_row(squares) * (1.0f / WIDTH) + NORM_EPSILON);
            UNROLL for (int i = 0; i < EACH; ++i)
                residual[turn][i] = x[i] = x[i] * scale * gain[i] + offset[i];
            send_row(place, owned, x);
        }
    }
    cluster_barrier<T::CLUSTER>();
}

// All owned rows: requests in, features to every block; what the replies need comes back.
template <class T>
DEVICE ReplyHeader take_requests(const Place<T>& place, const BlobNetArgs& args, unsigned tile) {
    // Where the rows' operands will be, there is room for the requests until then.
    const unsigned slots = place.window + T::STREAM + place.rank * T::OWNED * STREAM_PITCH;
    const ReplyHeader header =
        fetch_requests<T::OWNED_PER_WARP>(args, tile * T::ROWS + place.rank * T::OWNED, T::OWNED,
                                          place.warp, place.lane, slots, STREAM_PITCH);
    float x[FEATURES / 32];
    ROLLED for (int turn = 0; turn < T::OWNED_PER_WARP; ++turn) {
        const unsigned owned = turn * WARPS + place.warp;
        if (owned < T::OWNED)
            expand(slots + owned * STREAM_PITCH, place.partial(0, owned, 0), place.lane);
    }
    cluster_barrier<T::CLUSTER>(); // Peers run; without a cluster, costs next to nothing.
    ROLLED for (int turn = 0; turn < T::OWNED_PER_WARP; ++turn) {
        const unsigned owned = turn * WARPS + place.warp;
        if (owned < T::OWNED) {
            load_row(place, 0, owned, x);
            send_row(place, owned, x);
        }
    }
    cluster_barrier<T::CLUSTER>();
    return header;
}

// ---- the replies ----

// One output of an owned row: lane's `output`, summed over the slices.
template <class T>
DEVICE float output(const Place<T>& place, unsigned owned, unsigned output, float bias) {
    float sum = load_shared_float(place.partial(0, owned, output));
    UNROLL for (int partial = 1; partial < T::PARTIALS; ++partial)
        sum += load_shared_float(place.partial(partial, owned, output));
    return sum + bias;
}

template <class T> DEVICE void write_replies(const Place<T>& place, const BlobNetArgs& args,
                                             const unsigned char* bias_at, unsigned tile,
                                             const ReplyHeader& header) {
    const unsigned slot = place.window + T::SLOTS + place.warp * SLOT_BYTES, lane = place.lane;
    const float bias[2] = {load_constant_float(bias_at + lane * 4),
                           load_constant_float(bias_at + 128 + lane * 4)};
    cluster_barrier<T::CLUSTER>();
    ROLLED for (int turn = 0; turn < T::OWNED_PER_WARP; ++turn) {
        const unsigned owned = turn * WARPS + place.warp;
        if (owned < T::OWNED) {
            float x[2];
            UNROLL for (int half = 0; half < 2; ++half)
                x[half] = output(place, owned, half * 32 + lane, bias[half]);
            answer(args, tile * T::ROWS + place.rank * T::OWNED + owned, slot, lane, header, turn,
                   x);
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
    const ReplyHeader header = take_requests(place, args, tile);

    constexpr int MIX_PARTIALS = T::CLUSTER == 1 ? 1 : PARTS;
    // f32 vectors behind the streams. Norms: bias of the product before, gain, bias; one triple per
    // norm. Then the hidden units' biases.
    const unsigned char* norms =
        args.weights + SLICES * WARPS * stream_fragments(args) * FRAGMENT_BYTES;
    const unsigned char* hidden_bias = norms + (1 + 2 * args.depth) * (WIDTH * 12);
    float residual[T::OWNED_PER_WARP][WIDTH / 32];
    mix<T, EMBED_FRAGMENTS>(place, stream);
    normalise<T, MIX_PARTIALS, false>(place, norms, residual);
    ROLLED for (unsigned layer = 0; layer < args.depth; ++layer) {
        norms += WIDTH * 12;
        mix<T, MIX_FRAGMENTS>(place, stream);
        normalise<T, MIX_PARTIALS, true>(place, norms, residual);
        norms += WIDTH * 12;
        feed_forward(place, stream, hidden_bias, args.units);
        hidden_bias += args.units * 1024 * 4;
        normalise<T, T::PARTIALS, true>(place, norms, residual);
    }
    heads(place, stream, hidden_bias);
    write_replies(place, args, hidden_bias + SLICES * HEAD_HIDDEN * 4, tile, header);
}

