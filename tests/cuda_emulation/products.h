// What lanes do together: shuffles, fragments of matrices and their products.
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

inline void complete(Kind kind, Thread* lanes) {
    switch (kind) {
    case Kind::WarpBarrier: warp_of(*lanes).epoch++; break;
    case Kind::Shuffle: {
        float out[LANES];
        for (int lane = 0; lane < LANES; ++lane)
            out[lane] = lanes[lane ^ lanes[lane].integer].floats[0];
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
        for (int lane = 0; lane < LANES; ++lane)
            read_shared(lanes[lane], lanes[lane].words[0], rows[lane], 16);
        for (int lane = 0; lane < LANES; ++lane)
            for (int matrix = 0; matrix < 4; ++matrix)
                lanes[lane].words[matrix] = rows[matrix * 8 + lane / 4][lane % 4];
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
            for (int i = 0; i < 4; ++i)
                d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] = lanes[lane].floats[i];
        for (int m = 0; m < 16; ++m)
            for (int k = 0; k < 16; ++k)
                for (int n = 0; n < 8; ++n) d[m][n] += a[m][k] * b[k][n];
        for (int lane = 0; lane < LANES; ++lane)
            for (int i = 0; i < 4; ++i)
                lanes[lane].floats[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
        break;
    }
    default: fail("not a collective operation of a warp");
    }
}

}  // namespace emulator
