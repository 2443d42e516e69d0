// The network's shape, the layout of its packed weights, and what a launch gets: what all kernels share.
#pragma once
#include "device.cuh"

#ifndef BLOBNET_DEPTH
#error "src/network/cuda/packing/mod.rs gives the shape and offsets as -D options"
#endif

struct BlobNetArgs {
    const unsigned char* requests;
    unsigned char* replies;
    const unsigned long long* request_offsets;
    const unsigned long long* reply_offsets;
    const unsigned char* weights;              // Streams of mma fragments, then the vectors (packing/fragments.rs).
    unsigned rows;
};

constexpr int WIDTH = 256;
constexpr int SLICES = 8;
constexpr int WARPS = 8;
constexpr int DEPTH = BLOBNET_DEPTH;
constexpr int UNITS = BLOBNET_FFN_UNITS;       // FFN / 1024: passes of 128 hidden units that a slice makes.
constexpr int ACTIONS = 52;                    // Of 64 outputs: 52 logits, 8 values, 4 of padding.

// f32 vectors behind the streams. Norms: bias of the product before, gain, bias; one triple per norm.
constexpr unsigned NORMS_OFFSET = BLOBNET_NORMS_OFFSET;
constexpr unsigned HIDDEN_BIAS_OFFSET = BLOBNET_HIDDEN_BIAS_OFFSET;
constexpr unsigned HEAD_BIAS_OFFSET = BLOBNET_HEAD_BIAS_OFFSET;
constexpr unsigned OUTPUT_BIAS_OFFSET = BLOBNET_OUTPUT_BIAS_OFFSET;

constexpr unsigned SLOT_BYTES = 128;           // A warp's request or reply at a time.
constexpr unsigned REQUEST_WORDS = 24;
constexpr unsigned REPLY_WORDS = 28;
constexpr float NORM_EPSILON = 1e-5f;
constexpr float LARGEST = 3.402823466e+38f;
