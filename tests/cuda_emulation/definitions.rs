//! What the kernels are told of the program's own numbers: `kernels/definitions.cuh`, written from
//! them, so that each has one place.

use ringmaster::game::{
    MAX_CARDS, MAX_LEGAL, MAX_PLAYERS, MIN_PLAYERS, NO_BID, PACK, RANKS, SUITS, most_points,
};
use ringmaster::network::cuda::kernels::KernelFamily;
use ringmaster::network::{ACTIONS, FEATURES, NORM_EPSILON, SEATS};
use ringmaster::observation::{Position, feature};
use ringmaster::wire::{Evaluation, Reply, Request};
use std::fmt::Write;
use std::mem::offset_of;

use crate::harness::FEATURES_SHARED_BYTES;

/// A namespace of unsigned numbers.
fn namespace(text: &mut String, comment: &str, name: &str, numbers: &[(String, usize)]) {
    let _ = write!(text, "\n// {comment}\nnamespace {name} {{\n");
    for (name, number) in numbers {
        let _ = writeln!(text, "constexpr unsigned {name} = {number};");
    }
    let _ = writeln!(text, "}}");
}

macro_rules! numbers {
    ($($name:ident: $number:expr),* $(,)?) => {
        [$((stringify!($name).to_owned(), $number as usize)),*]
    };
}

macro_rules! features {
    ($($name:ident),* $(,)?) => {
        numbers!($($name: feature::$name),*)
    };
}

/// Where a field of the position lies in a request.
macro_rules! fields {
    ($($name:ident: $field:ident),* $(,)?) => {
        numbers!($($name: offset_of!(Request, position) + offset_of!(Position, $field)),*)
    };
}

/// The whole file.
pub fn text() -> String {
    let mut text = String::from(
        "// Written by `UPDATE_GOLDEN=1 cargo test --test cuda_emulation definitions` from the\n\
         // Rust sources, whose numbers these are: src/game, src/observation.rs, src/wire.rs,\n\
         // src/network.\n\
         #pragma once\n\n",
    );
    for (name, number) in numbers! {
        PACK: PACK, SUITS: SUITS, RANKS: RANKS, MIN_PLAYERS: MIN_PLAYERS,
        MAX_PLAYERS: MAX_PLAYERS, MAX_LEGAL: MAX_LEGAL, NO_BID: NO_BID,
        HIGH_RANKS: feature::HIGH_RANKS, FEATURES: FEATURES, ACTIONS: ACTIONS, SEATS: SEATS,
    } {
        let _ = writeln!(text, "constexpr unsigned {name} = {number};");
    }
    // A bid that is made is worth this, and its tricks.
    let floats = [
        ("MADE_BID", most_points(0) as f32),
        ("MAX_CARDS", MAX_CARDS as f32),
        ("NORM_EPSILON", NORM_EPSILON),
    ];
    for (name, number) in floats {
        let _ = writeln!(text, "constexpr float {name} = {number:e}f;");
    }
    let first_features = features![
        HAND,
        SEEN,
        TRICK,
        BIDS,
        TRICKS_WON,
        OWN_BID,
        NEEDED,
        CARDS,
        TRICK_NUMBER,
        DEALER,
        LEADER,
        PLAYERS,
        TRUMP,
        PHASE,
        FORBIDDEN,
        VOIDS,
        SUIT_COUNTS,
        HIGH_CARDS,
        TOTALS,
        ROUNDS_DONE,
        ROUNDS_LEFT,
        FIRST_CARDS,
        DIRECTION,
        IN_GAME,
    ];
    let comment = "First feature of each group.";
    namespace(&mut text, comment, "feature", &first_features);
    let mut request = fields![
        HAND: hand, PLAYED: played, LEGAL: legal, BIDS: bids, TRICKS_WON: tricks_won,
        TRICK: trick, VOIDS: voids, TOTALS: totals, PLAYERS: players, CARDS: cards, TRUMP: trump,
        PHASE: phase, DEALER: dealer, LEADER: leader, FORBIDDEN_BID: forbidden_bid,
        TURNED: turned, ROUNDS_DONE: rounds_done, ROUNDS_TOTAL: rounds_total,
        FIRST_CARDS: first_cards,
    ]
    .to_vec();
    request.extend(numbers![BYTES: size_of::<Request>()]);
    let comment = "Byte offsets in a request, whose ticket comes first; its size.";
    namespace(&mut text, comment, "request", &request);
    let evaluation = offset_of!(Reply, evaluation);
    let reply = numbers![
        PRIORS: evaluation + offset_of!(Evaluation, priors),
        VALUES: evaluation + offset_of!(Evaluation, values),
        BYTES: size_of::<Reply>(),
    ];
    let comment = "Byte offsets in a reply, whose ticket comes first; its size.";
    namespace(&mut text, comment, "reply", &reply);
    let entries = KernelFamily::ALL
        .into_iter()
        .flat_map(KernelFamily::entries);
    let mut shared: Vec<_> = entries
        .map(|entry| {
            let name = entry.name.trim_start_matches("blobnet_").to_uppercase();
            (name, entry.shared_bytes as usize)
        })
        .collect();
    shared.extend(numbers![FEATURES: FEATURES_SHARED_BYTES]);
    let comment = "Dynamic shared memory of a block by entry point, bytes.";
    namespace(&mut text, comment, "shared_bytes_of", &shared);
    text
}
