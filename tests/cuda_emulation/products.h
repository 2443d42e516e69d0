// What lanes do together: shuffles, fragments of matrices and their products, and the products of warpgroups, which stay under way.
#pragma once
#include "memory.h"

namespace emulator {

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

}  // namespace emulator
