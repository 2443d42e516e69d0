//! Records and digests: there and back, and what is refused.

use crate::made::*;
use proptest::prelude::*;
use ringmaster::game::*;
use ringmaster::replay::*;
use serde_json::json;

pub fn tables() -> impl Strategy<Value = Deal> {
    let rules = (0..7_usize, any::<bool>(), any::<bool>());
    let kind = (any::<bool>(), any::<bool>());
    let table = (3..=8_usize).prop_flat_map(|players| (Just(players), 1..=52 / players));
    (table, rules, kind, any::<u64>()).prop_map(
        |((players, cards), (trump, dealer_restriction, missed), (in_game, is_mixed), seed)| {
            use TrumpRule::*;
            Deal {
                players,
                cards,
                rules: Rules {
                    trump: [Rotating, Turned, Spades, Hearts, Clubs, Diamonds, None][trump],
                    dealer_restriction,
                    missed_bid_scores_tricks: missed,
                },
                in_game,
                is_mixed,
                seed,
            }
        },
    )
}

proptest! {
    #[test]
    fn a_record_comes_back(table in tables(), round in any::<u64>()) {
        let record = play(round, table);
        let bytes = encode(&record);
        let back = RoundRecord::decode(&bytes).unwrap();
        prop_assert_eq!(&back, &record);
        let is_plain = record.searches.iter().all(|&kind| kind == SearchKind::Full);
        prop_assert_eq!(record.version(), if is_plain { 2 } else { 3 });
        prop_assert_eq!(bytes.starts_with(&[255, 3]), !is_plain);
        let played = back.replay().unwrap();
        prop_assert_eq!(played.dealt, record.deal().unwrap());
        prop_assert_eq!(played.decisions.len(), record.searches.len());
        prop_assert_eq!(played.plays.len(), record.players * record.cards);
        let tricks: usize = played.tricks_won.iter().map(|&won| usize::from(won)).sum();
        prop_assert_eq!(tricks, record.cards);
        for (decision, &kind) in played.decisions.iter().zip(&record.searches) {
            let actions = decision.legal.count_ones() as usize;
            let (sum, visits, values, policy) = match kind {
                SearchKind::None => (0, 0, 0, 0),
                SearchKind::Fast => (FAST_VISITS, actions, table.players, 0),
                SearchKind::Full => (VISITS, actions, table.players, 0),
                SearchKind::FullWithPolicy => (VISITS, actions, table.players, actions),
            };
            prop_assert_eq!(decision.search, kind);
            prop_assert_eq!(decision.visits.len(), visits);
            let counts = decision.visits.iter();
            prop_assert_eq!(counts.map(|&count| u64::from(count)).sum::<u64>(), sum);
            prop_assert_eq!(decision.values.len(), values);
            prop_assert_eq!(decision.policy.len(), policy);
            prop_assert!(decision.legal >> decision.chosen & 1 == 1);
            prop_assert_eq!(decision.before.mover(), decision.seat);
        }
    }

    #[test]
    fn filling_a_record_again_keeps_its_memory(tables in prop::collection::vec(tables(), 3)) {
        let mut record = RoundRecord::new();
        let places = |r: &RoundRecord| {
            let floats = [r.values.as_ptr(), r.policies.as_ptr()];
            (r.actions.as_ptr(), r.searches.as_ptr(), r.visits.as_ptr(), floats)
        };
        let before = places(&record);
        for table in tables {
            let from = play(0, table);
            record.begin(0, SEED, 0, from.game, &from.deal().unwrap());
            record.searched(from.searches[0], &from.visits, &from.values, &from.policies);
            from.searches[1..].iter().for_each(|&kind| record.searched(kind, &[], &[], &[]));
            from.actions.iter().for_each(|&action| record.action(action));
            prop_assert_eq!(&record, &from);
        }
        prop_assert_eq!(places(&record), before);
    }

    /// Any bytes, and any flip in good ones, decode to an error or to something that can be played
    /// again to an error or a round: never a panic.
    #[test]
    fn hostile_bytes_do_no_harm(
        table in tables(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = encode(&play(0, table));
        let at = at.index(bytes.len());
        bytes[at] = byte;
        try_record(&bytes);
        prop_assert!(RoundRecord::decode(&bytes[..at]).is_err());
    }

    /// Bytes that claim to be of version 3, behind a sound record of either version or nothing.
    #[test]
    fn noise_is_no_record(
        table in tables(), bytes in prop::collection::vec(any::<u8>(), 0..600), cut in 0..200_usize,
    ) {
        try_record(&bytes);
        let record = encode(&play(0, table));
        try_record(&[&[255, 3], &bytes[..]].concat());
        try_record(&[&[255, 3], &record[..]].concat());
        try_record(&[&record[..cut.min(record.len())], &bytes[..]].concat());
    }

    #[test]
    fn the_digest_knows_no_order(
        order in Just((0..40_u64).collect::<Vec<_>>()).prop_shuffle(),
        missing in 0..60_u64,
    ) {
        let bytes = |round: u64| [round as u8; 5];
        let (mut sorted, mut shuffled) = (Digest::new(), Digest::new());
        for round in (0..40).filter(|&round| round != missing) {
            sorted.push(round, &bytes(round)).unwrap();
        }
        for &round in order.iter().filter(|&&round| round != missing) {
            shuffled.push(round, &bytes(round)).unwrap();
            prop_assert!(shuffled.push(round, &bytes(round)).is_err());
        }
        prop_assert_eq!(sorted.next(), missing.min(40));
        prop_assert_eq!(sorted.has_gap(), missing < 39);
        prop_assert_eq!(sorted.count(), 40 - u64::from(missing < 40));
        prop_assert!(shuffled.rounds().eq((0..40).filter(|&round| round != missing)));
        for round in 0..41 {
            let same = (round < 40 && round != missing).then_some(true);
            prop_assert_eq!(shuffled.has_same(round, &bytes(round)), same);
            prop_assert_eq!(shuffled.has_same(round, b"other"), same.map(|_| false));
        }
        prop_assert_eq!(sorted.finish(), shuffled.finish());
    }
}

/// An error in one line, or a record that can be played again to an error or a round.
fn try_record(bytes: &[u8]) {
    let played = RoundRecord::decode(bytes).and_then(|record| record.replay().map(drop));
    if let Err(error) = played {
        one_line(&error);
    }
}

#[test]
fn the_digest_is_what_its_module_says() {
    // sha256(sha256("a") + sha256("b")), by another program.
    let mut digest = Digest::new();
    digest.push(1, b"b").unwrap();
    digest.push(0, b"a").unwrap();
    assert_eq!(
        digest.finish(),
        "e5a01fee14e0ed5c48714f22180f25ad8365b53f9779f79dc4a3d7e93963f94a"
    );
}

#[test]
fn the_largest_records_fit() {
    for (players, cards) in
        (3..=8).flat_map(|players| (1..=52 / players).map(move |c| (players, c)))
    {
        let mut record = play(
            0,
            Deal {
                players,
                cards,
                ..Deal::small(1)
            },
        );
        record.round = u64::MAX;
        record.seed = u64::MAX;
        let standing = Schedule::Blob(cards as u8).standing(players, [0; MAX_PLAYERS], 0);
        record.game = Some(GamePlace {
            number: u64::MAX,
            standing,
        });
        // As many visits and values as no round can have more, all of the widest encoding.
        let visits = players * (cards + 1) + players * (cards * (cards + 1) / 2 - 1);
        record.visits = vec![u32::MAX; visits];
        record.values = vec![1.0; players * cards * players];
        for kind in [SearchKind::Full, SearchKind::FullWithPolicy] {
            record.searches = vec![kind; players * cards];
            let mut buffer = [0; MAX_RECORD_BYTES];
            let length = record.encode_into(&mut buffer).unwrap();
            assert_eq!(RoundRecord::decode(&buffer[..length]).unwrap(), record);
            record.policies = vec![1.0; visits];
            if players == 3 && cards == 17 && kind == SearchKind::FullWithPolicy {
                // Nothing but single-byte fields (and the empty seats' hands) is left of the limit.
                assert!(MAX_RECORD_BYTES - length < 110, "{length}");
            }
        }
    }
    let most = (MAX_VISITS, MAX_VALUES, MAX_DECISIONS, MAX_RECORD_BYTES % 8);
    assert_eq!(most, (510, 384, 52, 0));
}

/// What a record that is good but for one change is refused for, if it can be encoded at all.
fn refusal(good: &RoundRecord, change: impl Fn(&mut RoundRecord)) -> String {
    let mut record = good.clone();
    change(&mut record);
    let refused =
        RoundRecord::decode(&encode(&record)).and_then(|record| record.replay().map(drop));
    let error = one_line(&refused.unwrap_err());
    assert!(error.starts_with("round 7: "), "{error}");
    error
}

#[test]
fn contradictions_are_named() {
    let good = play(7, Deal::small(1));
    let refused = |change: fn(&mut RoundRecord), what: &str| {
        let error = refusal(&good, change);
        assert!(error.contains(what), "{error}");
    };
    refused(|r| r.actions[0] = 60, "move 0: action 60");
    refused(|r| r.actions[0] = 255, "move 0: action 255");
    refused(|r| r.actions[3] = r.actions[4], "is not legal");
    refused(|r| r.actions.truncate(5), "5 actions, not 9");
    refused(
        |r| r.visits.truncate(2),
        "move 0: the search of this decision is missing",
    );
    refused(|r| r.visits.push(1), "more visits or values");
    refused(|r| r.values.truncate(1), "of no possible number");
    refused(|r| r.values.extend([0.0; 9]), "of no possible number");
    refused(|r| r.values[0] = f32::NAN, "not a number");
    refused(|r| r.dealer = 3, "dealer 3 of 3");
    refused(|r| r.players = 9, "9 players");
    refused(
        |r| r.hands[1] = r.hands[0],
        "seat 1: not a hand of 2 cards of its own",
    );
    refused(|r| r.hands[5] = CardSet::from_bits(1), "seat 5");
    refused(
        |r| r.rules.trump = TrumpRule::Turned,
        "trump does not agree",
    );
    refused(|r| r.game = Some(GamePlace::default()), "schedule");
    let mut small = [0; 20];
    assert!(good.encode_into(&mut small).is_err());
    for record in [&good, &of_all_kinds()] {
        let long = [&encode(record)[..], &[0]].concat();
        let error = one_line(&RoundRecord::decode(&long).unwrap_err());
        assert!(error.contains("1 byte too many"), "{error}");
    }
}

/// Round 7 with one decision of each kind of search at least.
pub fn of_all_kinds() -> RoundRecord {
    use SearchKind::*;
    let is_mixed = true;
    (0..)
        .map(|seed| {
            play(
                7,
                Deal {
                    is_mixed,
                    players: 4,
                    cards: 3,
                    ..Deal::small(seed)
                },
            )
        })
        .find(|r| {
            [None, Fast, Full, FullWithPolicy]
                .iter()
                .all(|kind| r.searches.contains(kind))
        })
        .unwrap()
}

#[test]
fn contradictions_of_version_3_are_named() {
    use SearchKind::*;
    fn put(record: &mut RoundRecord, from: SearchKind, to: SearchKind) {
        let found = record.searches.iter_mut().find(|kind| **kind == from);
        *found.unwrap() = to;
    }
    let good = of_all_kinds();
    let refused = |change: fn(&mut RoundRecord), what: &str| {
        let error = refusal(&good, change);
        assert!(error.contains(what), "{error}");
    };
    refused(|r| put(r, None, Full), "of no possible number");
    refused(|r| put(r, Fast, None), "of no possible number");
    refused(|r| r.policies.clear(), "of no possible number");
    refused(|r| r.searches.extend([None; 12]), "of no possible number");
    refused(|r| r.policies[0] = f32::INFINITY, "not a number");
    refused(
        |r| put(r, Full, FullWithPolicy),
        "the search of this decision is missing",
    );
    refused(|r| put(r, FullWithPolicy, Full), "more visits or values");
    refused(
        |r| r.policies.truncate(r.policies.len() - 1),
        "the search of this decision is missing",
    );
    refused(|r| r.policies.push(0.5), "more visits or values");
    refused(|r| r.searches.push(None), "more visits or values");
    let plain = encode(&play(7, Deal::small(1)));
    let error = RoundRecord::decode(&[&[255, 3], &plain[..], &[0, 0]].concat()).unwrap_err();
    assert!(
        one_line(&error).contains("of no possible number"),
        "{error}"
    );
    // As many searches in full as there are: what version 2 says without them.
    let decisions = play(7, Deal::small(1)).searches.len();
    let kinds = [&[decisions as u8], &[2; 6][..decisions]].concat();
    let error = RoundRecord::decode(&[&[255, 3], &plain[..], &kinds, &[0]].concat()).unwrap_err();
    assert!(
        one_line(&error).contains("that version 2 could not say"),
        "{error}"
    );
    let kinds = [&[decisions as u8], &[4; 6][..decisions]].concat();
    let error = RoundRecord::decode(&[&[255, 3], &plain[..], &kinds, &[0]].concat()).unwrap_err();
    assert!(
        one_line(&error).contains("unknown kind of search"),
        "{error}"
    );
}

/// Only version 3 can say a place on another schedule than Blob's.
#[test]
fn a_place_off_blobs_schedule_is_of_version_3() {
    let standing = Schedule::Hands(vec![1, 2, 3]).standing(3, [0; MAX_PLAYERS], 1);
    let game = Some(GamePlace {
        number: 2,
        standing,
    });
    let record = play_in(7, game, Deal::small(3));
    let bytes = encode(&record);
    assert_eq!((record.version(), &bytes[..2]), (3, &[255, 3][..]));
    assert_eq!(RoundRecord::decode(&bytes).unwrap(), record);
    let lists = 1 + record.searches.len() + 1;
    let error = RoundRecord::decode(&bytes[2..bytes.len() - lists]).unwrap_err();
    assert!(
        one_line(&error).contains("not on Blob's schedule"),
        "{error}"
    );
    for change in [
        |r: &mut GamePlace| r.standing.rounds_done = 3,
        |r: &mut GamePlace| r.standing.first_cards = 1,
        |r: &mut GamePlace| r.standing.first_cards = 18,
        |r: &mut GamePlace| r.standing.totals[1] = 14,
        |r: &mut GamePlace| r.standing.totals[3] = 1,
    ] {
        let error = refusal(&record, |r| change(r.game.as_mut().unwrap()));
        assert!(error.contains("on no schedule"), "{error}");
    }
}

#[test]
fn a_shown_round_by_hand() {
    let visits: [&[u32]; 6] = [
        &[1, 2, 3],
        &[0, 6, 0],
        &[5, 1, 0],
        &[2, 4],
        &[3, 3],
        &[6, 0],
    ];
    let (record, _) = by_hand(5, visits);
    let shown = serde_json::to_value(ShownRound::of(&record, &manifest(6, 1)).unwrap()).unwrap();
    let decision = |seat: u8, phase: &str, legal: &[u8], visits: &[u32], chosen: u8| {
        json!({"seat": seat, "phase": phase, "legal": legal, "visits": visits, "chosen": chosen,
               "value": [12.0, 0.5, 10.0]})
    };
    let expected = json!({
        "round": 5, "seed": 42, "players": 3, "cards": 2, "trump": null, "dealer": 2,
        "hands": [[0, 1], [20, 21], [40, 41]], "bids": [2, 1, 0],
        "plays": [[0, 1], [1, 21], [2, 40], [0, 0], [1, 20], [2, 41]],
        "tricks_won": [2, 0, 0], "scores": [12, 0, 10],
        "decisions": [
            decision(0, "bidding", &[0, 1, 2], &[1, 2, 3], 2),
            decision(1, "bidding", &[0, 1, 2], &[0, 6, 0], 1),
            decision(2, "bidding", &[0, 1, 2], &[5, 1, 0], 0),
            decision(0, "playing", &[0, 1], &[2, 4], 1),
            decision(1, "playing", &[20, 21], &[3, 3], 21),
            decision(2, "playing", &[40, 41], &[6, 0], 40),
        ],
        "turned": null, "game": null, "weights": "0123abcd",
        "rules": {
            "trump": "rotating", "dealer_restriction": true, "missed_bid_scores_tricks": false,
        },
    });
    assert_eq!(shown, expected);
}
