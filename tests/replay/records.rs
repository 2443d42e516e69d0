//! Records and digests: there and back, and what is refused.

use crate::made::{Deal, SEED, VISITS, encode, play};
use proptest::prelude::*;
use ringmaster::game::*;
use ringmaster::replay::*;
use serde_json::json;

pub fn tables() -> impl Strategy<Value = Deal> {
    let rules = (0..7_usize, any::<bool>(), any::<bool>());
    let table = (3..=8_usize).prop_flat_map(|players| (Just(players), 1..=52 / players));
    (table, rules, any::<bool>(), any::<u64>()).prop_map(
        |((players, cards), (trump, dealer_restriction, missed), in_game, seed)| {
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
        let played = back.replay().unwrap();
        prop_assert_eq!(played.decisions.len(), record.decisions());
        prop_assert_eq!(played.plays.len(), table.players * table.cards);
        let tricks: usize = played.tricks_won.iter().map(|&won| usize::from(won)).sum();
        prop_assert_eq!(tricks, table.cards);
        for decision in &played.decisions {
            let visits = back.visits_of(decision);
            prop_assert_eq!(visits.len(), decision.legal.count_ones() as usize);
            prop_assert_eq!(visits.iter().map(|&v| u64::from(v)).sum::<u64>(), VISITS);
            prop_assert_eq!(back.values_of(decision).len(), table.players);
            prop_assert!(decision.legal >> decision.chosen & 1 == 1);
            prop_assert_eq!(decision.before.mover(), decision.seat);
        }
    }

    #[test]
    fn filling_a_record_again_keeps_its_memory(tables in prop::collection::vec(tables(), 3)) {
        let mut record = RoundRecord::new();
        let places = |r: &RoundRecord| (r.actions.as_ptr(), r.visits.as_ptr(), r.values.as_ptr());
        let before = places(&record);
        for table in tables {
            let from = play(0, table);
            record.begin(0, SEED, 0, from.game, &from.deal().unwrap());
            record.decision(&from.visits, &from.values);
            from.actions.iter().for_each(|&action| record.action(action));
            prop_assert_eq!(&record, &from);
        }
        prop_assert_eq!(places(&record), before);
    }

    /// Any bytes, and any flip in good ones, decode to an error or to something that can be replayed to
    /// an error or a round: never a panic.
    #[test]
    fn hostile_bytes_do_no_harm(table in tables(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = encode(&play(0, table));
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(record) = RoundRecord::decode(&bytes) {
            let _ = record.replay();
        }
        prop_assert!(RoundRecord::decode(&bytes[..at]).is_err());
    }

    #[test]
    fn noise_is_no_record(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(record) = RoundRecord::decode(&bytes) {
            let _ = record.replay();
        }
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
        prop_assert_eq!(sorted.finish(), shuffled.finish());
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
    for players in 3..=8 {
        for cards in 1..=52 / players {
            let rules = Rules {
                dealer_restriction: false,
                ..Rules::default()
            };
            let mut record = play(
                u64::MAX,
                Deal {
                    players,
                    cards,
                    rules,
                    in_game: true,
                    seed: 1,
                },
            );
            // As many visits and values as no round can have more, all of the widest encoding.
            let visits = players * (cards + 1) + players * (cards * (cards + 1) / 2 - 1);
            record.visits = vec![u32::MAX; visits];
            record.values = vec![1.0; players * cards * players];
            record.seed = u64::MAX;
            record.game = record.game.map(|game| GamePlace {
                number: u64::MAX,
                ..game
            });
            let mut buffer = [0; MAX_RECORD_BYTES];
            let length = record.encode_into(&mut buffer).unwrap();
            assert_eq!(RoundRecord::decode(&buffer[..length]).unwrap(), record);
            if players == 3 && cards == 17 {
                // Nothing but single-byte fields (and the empty seats' hands) is left of the limit.
                assert!(MAX_RECORD_BYTES - length < 100, "{length}");
            }
        }
    }
    assert_eq!(
        (MAX_VISITS, MAX_VALUES, MAX_RECORD_BYTES % 8),
        (510, 384, 0)
    );
}

#[test]
fn contradictions_are_named() {
    let good = play(7, Deal::small(1));
    let table = Deal::small(1);
    let refused = |change: &dyn Fn(&mut RoundRecord), what: &str| {
        let mut record = good.clone();
        change(&mut record);
        let error = record.replay().unwrap_err().to_string();
        assert!(
            error.starts_with("round 7: ") && error.contains(what),
            "{error}"
        );
        assert!(!error.contains('\n'));
    };
    refused(&|r| r.actions[0] = 60, "move 0: action 60");
    refused(&|r| r.actions[0] = 255, "move 0: action 255");
    refused(&|r| r.actions[3] = r.actions[4], "is not legal");
    refused(&|r| r.actions.truncate(5), "5 actions, not 9");
    refused(
        &|r| r.visits.truncate(2),
        "move 0: the search of this decision is missing",
    );
    refused(&|r| r.visits.push(1), "more visits or values");
    refused(&|r| r.values.extend([0.0; 3]), "more visits or values");
    refused(&|r| r.values.truncate(1), "of no possible number");
    refused(&|r| r.values[0] = f32::NAN, "not a number");
    refused(&|r| r.dealer = 3, "dealer 3 of 3");
    refused(&|r| r.players = 9, "9 players");
    refused(
        &|r| r.hands[1] = r.hands[0],
        "seat 1: not a hand of 2 cards of its own",
    );
    refused(&|r| r.hands[5] = CardSet::from_bits(1), "seat 5");
    refused(
        &|r| r.rules.trump = TrumpRule::Turned,
        "trump does not agree",
    );
    refused(&|r| r.game = Some(GamePlace::default()), "schedule");
    assert_eq!((table.players, table.cards), (3, 2));
    let mut small = [0; 20];
    assert!(good.encode_into(&mut small).is_err());
    let mut long = encode(&good);
    long.push(0);
    assert!(
        RoundRecord::decode(&long)
            .unwrap_err()
            .to_string()
            .contains("1 byte too many")
    );
}

#[test]
fn a_shown_round_by_hand() {
    let card = |index| Card::new(index).unwrap();
    let hands = [0, 20, 40].map(|c| CardSet::from_iter([card(c), card(c + 1)]));
    let mut state = Round::from_hands(&hands, Trump::None, None, 2, Rules::default()).unwrap();
    let mut record = RoundRecord::new();
    record.begin(5, 9, 0, None, &state);
    // Seat 0 leads spades that nobody can follow, and wins both tricks.
    for (action, visits) in [
        (2, &[1, 2, 3][..]),
        (1, &[0, 6, 0]),
        (0, &[5, 1, 0]),
        (1, &[2, 4]),
        (21, &[3, 3]),
        (40, &[6, 0]),
        (0, &[]),
        (20, &[]),
        (41, &[]),
    ] {
        if !visits.is_empty() {
            record.decision(visits, &[12.0, 0.5, 10.0]);
        }
        record.action(action);
        state.play(action);
    }
    let shown = serde_json::to_value(ShownRound::of(&record, "0123abcd").unwrap()).unwrap();
    let decision = |seat: u8, phase: &str, legal: &[u8], visits: &[u32], chosen: u8| {
        json!({"seat": seat, "phase": phase, "legal": legal, "visits": visits, "chosen": chosen,
               "value": [12.0, 0.5, 10.0]})
    };
    let expected = json!({
        "round": 5, "seed": 9, "players": 3, "cards": 2, "trump": null, "dealer": 2,
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
        "rules": {"trump": "rotating", "dealer_restriction": true, "missed_bid_scores_tricks": false},
    });
    assert_eq!(shown, expected);
}
