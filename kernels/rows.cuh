// Rows of a batch at either end: requests into features, outputs into replies; one warp a row.
#pragma once
#include "network.cuh"

DEVICE float sum_of_warp(float value) {
    UNROLL for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
    return value;
}

DEVICE float most_of_warp(float value) {
    UNROLL for (int mask = 16; mask > 0; mask /= 2) value = most(value, shuffle_xor(value, mask));
    return value;
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

DEVICE unsigned long long shuffle_long(unsigned long long value, int lane) {
    const unsigned low = shuffle_from(static_cast<unsigned>(value), lane), high = shuffle_from(static_cast<unsigned>(value >> 32), lane);
    return static_cast<unsigned long long>(high) << 32 | low;
}

// What the replies to a warp's rows need: of its `turn`th row, lanes 4 turn .. + 4 have a word of (ticket, legal actions) each, and all of
// them where the reply goes.
struct Kept {
    unsigned word = 0;
    unsigned long long reply = 0;
};

// A warp's requests, those of the rows warp, WARPS + warp ... below `owned`, from row `first` of the batch on; each goes to its own slot
// of shared memory. A row past the batch is all zeros, which expands like any other. Requests may lie in the host's memory, a microsecond
// away: all of them are asked for at once, after all offsets were.
template <int TURNS>
DEVICE Kept fetch_requests(const BlobNetArgs& args, unsigned first, unsigned owned, unsigned warp, unsigned lane, unsigned slots, unsigned pitch) {
    static_assert(TURNS <= 8, "four lanes for each row");
    const unsigned mine = lane / 4 * WARPS + warp;
    const bool is_mine = lane / 4 < TURNS && mine < owned;
    unsigned long long request = 0;
    Kept kept;
    if (is_mine && first + mine < args.rows) {
        request = load_system_long(args.request_offsets + first + mine);
        kept.reply = load_system_long(args.reply_offsets + first + mine);
    }
    unsigned words[TURNS];
    UNROLL for (int turn = 0; turn < TURNS; ++turn) {
        const unsigned row = turn * WARPS + warp;
        const unsigned long long from = shuffle_long(request, turn * 4);
        words[turn] = 0;
        if (lane < REQUEST_WORDS && row < owned && first + row < args.rows) words[turn] = load_system_word(args.requests + from + lane * 4);
    }
    UNROLL for (int turn = 0; turn < TURNS; ++turn) {
        const unsigned row = turn * WARPS + warp;
        if (lane < REQUEST_WORDS && row < owned) store_shared_word(slots + row * pitch + lane * 4, words[turn]);
    }
    warp_barrier();
    const unsigned word = lane % 4;
    if (is_mine) kept.word = load_shared_word(slots + mine * pitch + (word < 2 ? word * 4 : LEGAL + (word - 2) * 4));
    return kept;
}

// ---- the replies ----

// The `turn`th of a warp's rows, row `row` of the batch, of which a lane has outputs `lane` and 32 + `lane`: softmax over the legal
// actions (as `masked_softmax` of src/network/mod.rs: NaN counts as the smallest number, infinities as the largest), tanh of the
// values, and all of it into the reply slot; `slot` is the warp's, in shared memory. A row past the batch goes nowhere.
DEVICE void answer(const BlobNetArgs& args, unsigned row, unsigned slot, unsigned lane, const Kept& kept, int turn, float (&x)[2]) {
    unsigned words[4];
    UNROLL for (int i = 0; i < 4; ++i) words[i] = shuffle_from(kept.word, turn * 4 + i);
    unsigned char* target = args.replies + shuffle_long(kept.reply, turn * 4);
    const unsigned long long legal = static_cast<unsigned long long>(words[3]) << 32 | words[2];
    const float value = hyperbolic_tangent(x[1]);
    float exponentials[2];
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
    if (lane < REPLY_WORDS && row < args.rows) store_system_word(target + lane * 4, load_shared_word(slot + lane * 4));
    warp_barrier();
}
