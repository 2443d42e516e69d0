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

// ---- the features: `Position::expand` of src/observation.rs, line by line ----

DEVICE float bid_feature(unsigned bid, float per_card) {
    return bid == NO_BID ? -1.0f : bid * per_card;
}

// The request at shared address `slot` as 256 floats at `features`: each is written once, by one
// lane. Total over any bytes.
DEVICE void expand(unsigned slot, unsigned features, unsigned lane) {
    const auto byte = [&](unsigned at) { return load_shared_byte(slot + at); };
    const auto put = [&](unsigned feature, float value) {
        store_shared_float(features + feature * 4, value);
    };
    const unsigned told = byte(request::PLAYERS);
    const unsigned players = told < MIN_PLAYERS   ? MIN_PLAYERS
                             : told > MAX_PLAYERS ? MAX_PLAYERS
                                                  : told;
    const unsigned cards = byte(request::CARDS), turned = byte(request::TURNED);
    const float per_card = 1.0f / static_cast<float>(cards == 0 ? 1 : cards);

    for (unsigned card = lane; card < PACK; card += 32) {
        const unsigned word = card / 32 * 4, bit = card % 32;
        const bool held = load_shared_word(slot + request::HAND + word) >> bit & 1;
        const bool played = load_shared_word(slot + request::PLAYED + word) >> bit & 1;
        put(feature::HAND + card, held ? 1.0f : 0.0f);
        put(feature::SEEN + card, played ? 1.0f : card == turned ? 0.5f : 0.0f);
        float place = 0.0f;
        for (unsigned order = 0; order < MAX_PLAYERS; ++order)
            if (byte(request::TRICK + order) == card)
                place = static_cast<float>(order + 1) / static_cast<float>(players);
        put(feature::TRICK + card, place);
    }

    const unsigned first_cards = byte(request::FIRST_CARDS);
    const float rounds = static_cast<float>(byte(request::ROUNDS_TOTAL)),
                done = static_cast<float>(byte(request::ROUNDS_DONE));
    const bool game = rounds > 0.0f;
    if (lane < MAX_PLAYERS) {
        const bool seated = lane < players;
        const unsigned last = MAX_PLAYERS - 1, dealer = byte(request::DEALER),
                       leader = byte(request::LEADER);
        const unsigned total =
            byte(request::TOTALS + lane * 2) | byte(request::TOTALS + lane * 2 + 1) << 8;
        const float won = static_cast<float>(byte(request::TRICKS_WON + lane)) * per_card;
        const float most = rounds * (MADE_BID + static_cast<float>(first_cards));
        put(feature::BIDS + lane,
            seated ? bid_feature(byte(request::BIDS + lane), per_card) : 0.0f);
        put(feature::TRICKS_WON + lane, seated ? won : 0.0f);
        put(feature::DEALER + lane, lane == (dealer < last ? dealer : last) ? 1.0f : 0.0f);
        put(feature::LEADER + lane, lane == (leader < last ? leader : last) ? 1.0f : 0.0f);
        put(feature::TOTALS + lane, game && seated ? static_cast<float>(total) / most : 0.0f);
    }
    if (lane <= MAX_PLAYERS - MIN_PLAYERS)
        put(feature::PLAYERS + lane, lane == players - MIN_PLAYERS ? 1.0f : 0.0f);
    if (lane <= SUITS)
        put(feature::TRUMP + lane,
            lane == (byte(request::TRUMP) < SUITS ? byte(request::TRUMP) : SUITS) ? 1.0f : 0.0f);
    if (lane < 2)
        put(feature::PHASE + lane, lane == (byte(request::PHASE) < 1 ? 0 : 1) ? 1.0f : 0.0f);
    if (lane < (MAX_PLAYERS - 1) * SUITS) {
        const unsigned seat = 1 + lane / SUITS;
        put(feature::VOIDS + lane,
            seat < players && (byte(request::VOIDS + seat) >> lane % SUITS & 1) ? 1.0f : 0.0f);
    }
    if (lane < SUITS) {
        const unsigned long long low = load_shared_word(slot + request::HAND),
                                 high = load_shared_word(slot + request::HAND + 4);
        const unsigned held =
            static_cast<unsigned>((high << 32 | low) >> lane * RANKS) & ((1u << RANKS) - 1);
        put(feature::SUIT_COUNTS + lane, static_cast<float>(count_bits(held)) * per_card);
        put(feature::HIGH_CARDS + lane, static_cast<float>(count_bits(held & HIGH_RANKS)) * 0.25f);
    }
    if (lane == 0) {
        const unsigned bid = byte(request::BIDS);
        const float won = static_cast<float>(byte(request::TRICKS_WON));
        unsigned tricks = 0;
        for (unsigned seat = 0; seat < MAX_PLAYERS; ++seat)
            tricks += byte(request::TRICKS_WON + seat);
        put(feature::OWN_BID, bid_feature(bid, per_card));
        put(feature::NEEDED, bid == NO_BID ? 0.0f : (static_cast<float>(bid) - won) * per_card);
        put(feature::CARDS, static_cast<float>(cards) / MAX_CARDS);
        put(feature::TRICK_NUMBER, static_cast<float>(tricks) * per_card);
    }
    if (lane == 1) {
        const unsigned forbidden = byte(request::FORBIDDEN_BID),
                       round = byte(request::ROUNDS_DONE) + 1;
        put(feature::FORBIDDEN, forbidden == NO_BID ? 0.0f : 1.0f);
        put(feature::FORBIDDEN + 1,
            forbidden == NO_BID ? 0.0f : static_cast<float>(forbidden) * per_card);
        put(feature::ROUNDS_DONE, game ? done / rounds : 0.0f);
        put(feature::ROUNDS_LEFT, game ? (rounds - 1.0f - done) / rounds : 0.0f);
        put(feature::FIRST_CARDS, game ? static_cast<float>(first_cards) / MAX_CARDS : 0.0f);
        const float direction = round < first_cards             ? -1.0f
                                : round < first_cards + players ? 0.0f
                                                                : 1.0f;
        put(feature::DIRECTION, game ? direction : 0.0f);
        put(feature::IN_GAME, game ? 1.0f : 0.0f);
    }
}

DEVICE unsigned long long shuffle_long(unsigned long long value, int lane) {
    const unsigned low = shuffle_from(static_cast<unsigned>(value), lane),
                   high = shuffle_from(static_cast<unsigned>(value >> 32), lane);
    return static_cast<unsigned long long>(high) << 32 | low;
}

// What the replies to a warp's rows need: of its `turn`th row, lanes 4 turn .. + 4 have a word of
// (ticket, legal actions) each, and all of them where the reply goes.
struct ReplyHeader {
    unsigned word = 0;
    unsigned long long reply = 0;
};

// A warp's requests, those of the rows warp, WARPS + warp ... below `owned`, from row `first` of
// the batch on; each goes to its own slot of shared memory. A row past the batch is all zeros,
// which expands like any other. Requests may lie in the host's memory, a microsecond away: all of
// them are asked for at once, after all offsets were.
template <int TURNS> DEVICE ReplyHeader fetch_requests(const BlobNetArgs& args, unsigned first,
                                                       unsigned owned, unsigned warp, unsigned lane,
                                                       unsigned slots, unsigned pitch) {
    static_assert(TURNS <= 8, "four lanes for each row");
    const unsigned mine = lane / 4 * WARPS + warp;
    const bool is_mine = lane / 4 < TURNS && mine < owned;
    unsigned long long request = 0;
    ReplyHeader header;
    if (is_mine && first + mine < args.rows) {
        request = load_system_long(args.request_offsets + first + mine);
        header.reply = load_system_long(args.reply_offsets + first + mine);
    }
    unsigned words[TURNS];
    UNROLL for (int turn = 0; turn < TURNS; ++turn) {
        const unsigned row = turn * WARPS + warp;
        const unsigned long long from = shuffle_long(request, turn * 4);
        words[turn] = 0;
        if (lane < REQUEST_WORDS && row < owned && first + row < args.rows)
            words[turn] = load_system_word(args.requests + from + lane * 4);
    }
    UNROLL for (int turn = 0; turn < TURNS; ++turn) {
        const unsigned row = turn * WARPS + warp;
        if (lane < REQUEST_WORDS && row < owned)
            store_shared_word(slots + row * pitch + lane * 4, words[turn]);
    }
    warp_barrier();
    const unsigned word = lane % 4;
    if (is_mine)
        header.word = load_shared_word(slots + mine * pitch +
                                       (word < 2 ? word * 4 : request::LEGAL + (word - 2) * 4));
    return header;
}

// ---- the replies ----

// The `turn`th of a warp's rows, row `row` of the batch, of which a lane has outputs `lane` and 32
// + `lane`: softmax over the legal actions (as `masked_softmax` of src/network/mod.rs: NaN counts
// as the smallest number, infinities as the largest), tanh of the values, and all of it into the
// reply slot; `slot` is the warp's, in shared memory. A row past the batch goes nowhere.
DEVICE void answer(const BlobNetArgs& args, unsigned row, unsigned slot, unsigned lane,
                   const ReplyHeader& header, int turn, float (&x)[2]) {
    unsigned words[4];
    UNROLL for (int i = 0; i < 4; ++i) words[i] = shuffle_from(header.word, turn * 4 + i);
    unsigned char* target = args.replies + shuffle_long(header.reply, turn * 4);
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
    UNROLL for (int half = 0; half < 2; ++half)
        exponentials[half] = allowed[half] ? exponential(x[half] - largest) : 0.0f;
    const float sum = sum_of_warp(exponentials[0] + exponentials[1]);
    if (lane < REPLY_WORDS) store_shared_word(slot + lane * 4, 0);
    warp_barrier();
    if (lane < 2) store_shared_word(slot + lane * 4, lane == 0 ? words[0] : words[1]);
    UNROLL for (int half = 0; half < 2; ++half) {
        const unsigned place_of = count_bits(legal & ((1ull << (half * 32 + lane)) - 1));
        if (allowed[half] && place_of < MAX_LEGAL)
            store_shared_float(slot + reply::PRIORS + place_of * 4, exponentials[half] / sum);
    }
    if (lane >= ACTIONS - 32 && lane < ACTIONS - 32 + SEATS)
        store_shared_float(slot + reply::VALUES + (lane - (ACTIONS - 32)) * 4, value);
    warp_barrier();
    if (lane < REPLY_WORDS && row < args.rows)
        store_system_word(target + lane * 4, load_shared_word(slot + lane * 4));
    warp_barrier();
}
