// Written by `UPDATE_GOLDEN=1 cargo test --test cuda_emulation definitions` from the
// Rust sources, whose numbers these are: src/game, src/observation.rs, src/wire.rs,
// src/network.
#pragma once

constexpr unsigned PACK = 52;
constexpr unsigned SUITS = 4;
constexpr unsigned RANKS = 13;
constexpr unsigned MIN_PLAYERS = 3;
constexpr unsigned MAX_PLAYERS = 8;
constexpr unsigned MAX_LEGAL = 18;
constexpr unsigned NO_BID = 255;
constexpr unsigned HIGH_RANKS = 7680;
constexpr unsigned FEATURES = 256;
constexpr unsigned ACTIONS = 52;
constexpr unsigned SEATS = 8;
constexpr float MADE_BID = 1e1f;
constexpr float MAX_CARDS = 1.7e1f;
constexpr float NORM_EPSILON = 1e-5f;

// First feature of each group.
namespace feature {
constexpr unsigned HAND = 0;
constexpr unsigned SEEN = 52;
constexpr unsigned TRICK = 104;
constexpr unsigned BIDS = 156;
constexpr unsigned TRICKS_WON = 164;
constexpr unsigned OWN_BID = 172;
constexpr unsigned NEEDED = 173;
constexpr unsigned CARDS = 174;
constexpr unsigned TRICK_NUMBER = 175;
constexpr unsigned DEALER = 176;
constexpr unsigned LEADER = 184;
constexpr unsigned PLAYERS = 192;
constexpr unsigned TRUMP = 198;
constexpr unsigned PHASE = 203;
constexpr unsigned FORBIDDEN = 205;
constexpr unsigned VOIDS = 207;
constexpr unsigned SUIT_COUNTS = 235;
constexpr unsigned HIGH_CARDS = 239;
constexpr unsigned TOTALS = 243;
constexpr unsigned ROUNDS_DONE = 251;
constexpr unsigned ROUNDS_LEFT = 252;
constexpr unsigned FIRST_CARDS = 253;
constexpr unsigned DIRECTION = 254;
constexpr unsigned IN_GAME = 255;
}

// Byte offsets in a request, whose ticket comes first; its size.
namespace request {
constexpr unsigned HAND = 8;
constexpr unsigned PLAYED = 16;
constexpr unsigned LEGAL = 24;
constexpr unsigned BIDS = 32;
constexpr unsigned TRICKS_WON = 40;
constexpr unsigned TRICK = 48;
constexpr unsigned VOIDS = 56;
constexpr unsigned TOTALS = 64;
constexpr unsigned PLAYERS = 80;
constexpr unsigned CARDS = 81;
constexpr unsigned TRUMP = 82;
constexpr unsigned PHASE = 83;
constexpr unsigned DEALER = 84;
constexpr unsigned LEADER = 85;
constexpr unsigned FORBIDDEN_BID = 86;
constexpr unsigned TURNED = 87;
constexpr unsigned ROUNDS_DONE = 88;
constexpr unsigned ROUNDS_TOTAL = 89;
constexpr unsigned FIRST_CARDS = 90;
constexpr unsigned BYTES = 96;
}

// Byte offsets in a reply, whose ticket comes first; its size.
namespace reply {
constexpr unsigned PRIORS = 8;
constexpr unsigned VALUES = 80;
constexpr unsigned BYTES = 112;
}

// Dynamic shared memory of a block by entry point, bytes.
namespace shared_bytes_of {
constexpr unsigned BLOCK_16 = 100352;
constexpr unsigned BLOCK_32 = 101376;
constexpr unsigned CLUSTER_16 = 128768;
constexpr unsigned CLUSTER_32 = 158208;
constexpr unsigned CLUSTER_64 = 217088;
constexpr unsigned FEATURES = 9216;
}
