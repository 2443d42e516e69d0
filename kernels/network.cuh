// The network's shape, the layout of its packed weights, and what a launch gets: what all kernels
// share.
#pragma once
#include "definitions.cuh"
#include "device.cuh"

struct BlobNetArgs {
    const unsigned char* requests;
    unsigned char* replies;
    const unsigned long long* request_offsets;
    const unsigned long long* reply_offsets;
    const unsigned char*
        weights; // Streams of mma fragments, then the vectors (packing/fragments.rs).
    unsigned rows;
    // The network's shape: layers; passes of 128 hidden units that a slice makes (feed-forward
    // width / 1024).
    unsigned depth, units;
};

#ifndef BLOBNET_WIDTH
#error "the width, 128 or 256, is a -D option"
#endif
constexpr int WIDTH = BLOBNET_WIDTH;
static_assert(WIDTH == 128 || WIDTH == 256, "the widths that the tiles are cut for");
constexpr int SLICES = 8;
constexpr int WARPS = 8;

constexpr unsigned SLOT_BYTES = 128; // A warp's request or reply at a time.
constexpr unsigned REQUEST_WORDS = request::BYTES / 4, REPLY_WORDS = reply::BYTES / 4;
static_assert(request::BYTES <= SLOT_BYTES && reply::BYTES <= SLOT_BYTES && ACTIONS + SEATS <= 64,
              "a slot, and the padded outputs");
constexpr float LARGEST = 3.402823466e+38f;
