//! Cards, rules and schedules by hand; and over random play what must hold in every round, and
//! that an observation holds what the mover knows and nothing else.
#![allow(clippy::unwrap_used)]

mod support;

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use ringmaster::game::*;
use ringmaster::observation::{FEATURES, Position};
use support::{hand, play_cards, random_action};

fn tables() -> impl Strategy<Value = (usize, usize, u64, Rules)> {
    let rules =
        (0..7_usize, any::<bool>(), any::<bool>()).prop_map(|(trump, restricted, tricks)| {
            use TrumpRule::*;
            Rules {
                trump: [Rotating, Turned, Spades, Hearts, Clubs, Diamonds, None][trump],
                dealer_restriction: restricted,
                missed_bid_scores_tricks: tricks,
            }
        });
    let table = (3..=8_usize).prop_flat_map(|players| (Just(players), 1..=52 / players));
    (table, any::<u64>(), rules)
        .prop_map(|((players, cards), seed, rules)| (players, cards, seed, rules))
}

/// Plays a random round, calling `look` before every move.
fn play_random(
    (players, cards, seed, rules): (usize, usize, u64, Rules),
    mut look: impl FnMut(&Round, u8),
) -> Round {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let table = Table {
        players,
        cards,
        dealer: rng.random_range(0..players),
        trump_turn: (seed % 5) as usize,
    };
    let mut round = Round::deal(table, rules, &mut rng).unwrap();
    while round.phase() != Phase::Over {
        let action = random_action(round.legal(), &mut rng);
        look(&round, action);
        round.play(action);
    }
    round
}

fn flag(condition: bool) -> f32 {
    if condition { 1.0 } else { 0.0 }
}

/// The 256 features once more, from the table at the head of `observation`, straight from the
/// round: slow, and sharing no code with the compact form.
fn features_by_the_table(round: &Round, standing: &Standing) -> Vec<f32> {
    let (players, mover, cards) = (round.players(), round.mover(), round.cards() as f32);
    let seat_at = |place: usize| (mover + place) % players;
    let place_of = |seat: usize| (0..players).find(|&place| seat_at(place) == seat).unwrap();
    let pack = || (0..52).map(|card| Card::new(card).unwrap());
    let hot = |width: usize, at: usize| (0..width).map(move |k| flag(k == at));
    let by_place = |value: &dyn Fn(usize) -> f32| -> Vec<f32> {
        (0..8)
            .map(|place| {
                if place < players {
                    value(seat_at(place))
                } else {
                    0.0
                }
            })
            .collect()
    };
    let bid = |seat: usize| match round.bids()[seat] {
        NO_BID => -1.0,
        bid => f32::from(bid) / cards,
    };
    let mut f: Vec<f32> = Vec::new();
    f.extend(pack().map(|card| flag(round.hand(mover).contains(card))));
    f.extend(pack().map(|card| {
        let turned = flag(round.turned() == Some(card)) * 0.5;
        if round.played().contains(card) {
            1.0
        } else {
            turned
        }
    }));
    f.extend(pack().map(|card| {
        let order = round
            .trick()
            .iter()
            .position(|&played| played == card.index());
        order.map_or(0.0, |order| (order + 1) as f32 / players as f32)
    }));
    f.extend(by_place(&bid));
    f.extend(by_place(&|seat| {
        f32::from(round.tricks_won()[seat]) / cards
    }));
    f.push(bid(mover));
    f.push(match round.bids()[mover] {
        NO_BID => 0.0,
        bid => (f32::from(bid) - f32::from(round.tricks_won()[mover])) / cards,
    });
    f.push(cards / 17.0);
    f.push(round.tricks_done() as f32 / cards);
    f.extend(hot(8, place_of(round.dealer())));
    f.extend(hot(8, place_of(round.leader())));
    f.extend(hot(6, players - 3));
    f.extend(hot(5, round.trump().code() as usize));
    f.extend(hot(2, usize::from(round.phase() == Phase::Playing)));
    f.push(flag(round.forbidden_bid().is_some()));
    f.push(
        round
            .forbidden_bid()
            .map_or(0.0, |bid| f32::from(bid) / cards),
    );
    for place in 1..8 {
        let voids = if place < players {
            round.voids(seat_at(place))
        } else {
            0
        };
        f.extend((0..4).map(|suit| flag(voids >> suit & 1 == 1)));
    }
    let held = |suit: u8, lowest: u8| {
        let fits = |card: &Card| card.suit() == suit && card.rank() >= lowest;
        round.hand(mover).iter().filter(fits).count() as f32
    };
    f.extend((0..4).map(|suit| held(suit, 0) / cards));
    f.extend((0..4).map(|suit| held(suit, 9) / 4.0));
    if standing.rounds_total == 0 {
        f.extend([0.0; 13]);
        return f;
    }
    let (rounds, first) = (
        f32::from(standing.rounds_total),
        standing.first_cards as usize,
    );
    let done = standing.rounds_done as usize;
    f.extend(by_place(&|seat| {
        f32::from(standing.totals[seat]) / (rounds * (10.0 + first as f32))
    }));
    f.push(done as f32 / rounds);
    f.push((rounds - 1.0 - done as f32) / rounds);
    f.push(first as f32 / 17.0);
    f.push(match (cards_in_round(players, first, done), done < first) {
        (1, _) => 0.0,
        (_, true) => -1.0,
        (_, false) => 1.0,
    });
    f.push(1.0);
    f
}

proptest! {
    #[test]
    fn every_round_obeys_the_rules(table in tables()) {
        let (players, cards, _, rules) = table;
        let mut moves = 0;
        let over = play_random(table, |round, action| {
            moves += 1;
            let mover = round.mover();
            let mut all = round.played();
            let mut held = 0;
            for seat in 0..players {
                held += round.hand(seat).len();
                all = all.or(round.hand(seat));
            }
            assert_eq!(held + round.played().len(), players * cards);
            assert_eq!(all.len(), players * cards, "no card is lost or doubled");
            if round.phase() == Phase::Playing {
                let card = Card::new(action).unwrap();
                assert!(round.hand(mover).contains(card));
                if let Some(&led) = round.trick().first() {
                    let suit = CardSet::suit(led / 13);
                    assert!(card.suit() == led / 13 || round.hand(mover).and(suit).is_empty());
                }
            }
            for seat in 0..players {
                for suit in bits(u64::from(round.voids(seat))) {
                    assert!(round.hand(seat).and(CardSet::suit(suit)).is_empty());
                }
            }
        });
        prop_assert_eq!(moves, players + players * cards);
        prop_assert_eq!(over.tricks_won().iter().map(|&won| won as usize).sum::<usize>(), cards);
        let bids: usize = over.bids().iter().map(|&bid| bid as usize).sum();
        prop_assert!(!rules.dealer_restriction || bids != cards);
        for seat in 0..players {
            let (bid, won) = (over.bids()[seat], over.tricks_won()[seat]);
            let missed = if rules.missed_bid_scores_tricks { won } else { 0 };
            prop_assert_eq!(over.scores()[seat], if bid == won { 10 + bid } else { missed });
        }
        let pack_left = 52 - players * cards;
        prop_assert_eq!(over.turned().is_some(), rules.trump == TrumpRule::Turned && pack_left > 0);
    }

    #[test]
    fn the_compact_form_expands_to_the_table(table in tables(), game in any::<bool>()) {
        let (players, cards, seed, _) = table;
        let mut standing = Standing::default();
        if game {
            // The first and the last round of a schedule deal the same number of cards.
            let schedule = Schedule::Blob(cards as u8);
            let last = schedule.rounds(players) - 1;
            let mut totals = [0; MAX_PLAYERS];
            for (seat, total) in totals[..players].iter_mut().enumerate() {
                *total = 7 * seat as u16 + 3;
            }
            standing = schedule.standing(players, totals, if seed % 2 == 0 { 0 } else { last });
        }
        play_random(table, |round, _| {
            let position = Position::observe(round, &standing);
            assert!(position.is_sound());
            let mut features = [f32::NAN; FEATURES];
            position.expand(&mut features);
            let expected = features_by_the_table(round, &standing);
            assert_eq!(expected.len(), FEATURES);
            for (k, (got, want)) in features.iter().zip(&expected).enumerate() {
                assert!((got - want).abs() < 1e-6, "feature {k}: {got} instead of {want}");
            }
        });
    }

    #[test]
    fn hidden_cards_do_not_show(table in tables()) {
        let players = table.0;
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(!table.2);
        play_random(table, |round, _| {
            // Redeal what the mover cannot see, at random, undealt pile included.
            let mover = round.mover();
            let mut known = round.hand(mover).or(round.played());
            if let Some(card) = round.turned() {
                known.insert(card);
            }
            let mut unseen: Vec<Card> = CardSet::FULL.without(known).iter().collect();
            let mut hands = [CardSet::EMPTY; MAX_PLAYERS];
            for (seat, hand) in hands.iter_mut().enumerate().take(players) {
                if seat == mover {
                    *hand = round.hand(mover);
                    continue;
                }
                for _ in 0..round.hand(seat).len() {
                    hand.insert(unseen.swap_remove(rng.random_range(0..unseen.len())));
                }
            }
            let other = round.with_hands(&hands);
            let standing = Standing::default();
            assert_eq!(Position::observe(round, &standing), Position::observe(&other, &standing));
        });
    }

    #[test]
    fn any_bytes_expand_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 88)) {
        let position: Position = bytemuck::pod_read_unaligned(&bytes);
        let mut features = [0.0; FEATURES];
        position.expand(&mut features);
        let _ = position.is_sound();
    }
}

#[test]
fn three_players_two_cards_by_hand() {
    // Dealer is seat 2, so seat 0 bids and leads first; hearts are trump.
    let hands = [hand("SA C2"), hand("S3 HK"), hand("SQ H2")];
    let rules = Rules::default();
    let mut round = Round::from_hands(&hands, Trump::Suit(1), None, 2, rules).unwrap();
    assert_eq!(round.mover(), 0);
    assert_eq!(round.legal(), 0b111);
    round.play(1);
    round.play(1);
    // 1 + 1 = 2 already: the dealer may not bid 0.
    assert_eq!(round.forbidden_bid(), Some(0));
    assert_eq!(round.legal(), 0b110);
    round.play(1);
    assert_eq!(round.phase(), Phase::Playing);
    play_cards(&mut round, "SA");
    // Seat 1 holds a spade and must follow.
    assert_eq!(round.legal(), hand("S3").bits());
    play_cards(&mut round, "S3");
    assert_eq!(round.legal(), hand("SQ").bits());
    play_cards(&mut round, "SQ");
    assert_eq!(round.tricks_won(), [1, 0, 0]);
    assert_eq!(round.mover(), 0);
    play_cards(&mut round, "C2");
    assert_eq!(round.legal(), hand("HK").bits());
    play_cards(&mut round, "HK");
    assert_eq!(round.voids(1), 0b0100, "seat 1 has shown no clubs");
    play_cards(&mut round, "H2");
    assert_eq!(round.phase(), Phase::Over);
    assert_eq!(round.tricks_won(), [1, 1, 0]);
    assert_eq!(round.scores()[..3], [11, 11, 0]);
    assert_eq!(round.legal(), 0);
}

#[test]
fn no_trump_and_discards() {
    // Without trump a discarded ace never wins; seat 1's low card of the led suit does.
    let hands = [hand("D2"), hand("D3"), hand("SA"), hand("CA")];
    let rules = Rules {
        missed_bid_scores_tricks: true,
        dealer_restriction: false,
        ..Rules::default()
    };
    let mut round = Round::from_hands(&hands, Trump::None, None, 3, rules).unwrap();
    for _ in 0..4 {
        assert_eq!(round.legal(), 0b11, "no restriction for the dealer either");
        round.play(0);
    }
    play_cards(&mut round, "D2 D3 SA CA");
    assert_eq!(round.tricks_won(), [0, 1, 0, 0]);
    assert_eq!(round.scores()[..4], [10, 1, 10, 10]);
    assert_eq!((round.voids(2), round.voids(3)), (0b1000, 0b1000));
}

#[test]
fn lowest_trump_beats_the_ace_led() {
    let hands = [hand("DA"), hand("S2"), hand("DK")];
    let mut round = Round::from_hands(&hands, Trump::Suit(0), None, 2, Rules::default()).unwrap();
    round.play(1);
    round.play(1);
    // 2 bid of 1 already: nothing can add up, both bids are open to the dealer.
    assert_eq!((round.forbidden_bid(), round.legal()), (None, 0b11));
    round.play(0);
    play_cards(&mut round, "DA S2 DK");
    assert_eq!(round.tricks_won(), [0, 1, 0]);
    assert_eq!(round.scores()[..3], [0, 11, 10]);
}

#[test]
#[should_panic(expected = "illegal action")]
fn revoking_is_refused() {
    let hands = [hand("DA D2"), hand("D3 S2"), hand("DK S3")];
    let mut round = Round::from_hands(&hands, Trump::Suit(0), None, 2, Rules::default()).unwrap();
    for bid in [0, 0, 0] {
        round.play(bid);
    }
    play_cards(&mut round, "DA");
    play_cards(&mut round, "S2");
}

#[test]
fn suits_partition_the_pack() {
    let mut all = CardSet::EMPTY;
    for suit in 0..4 {
        let cards = CardSet::suit(suit);
        assert_eq!(cards.len(), RANKS);
        assert!(cards.iter().all(|card| card.suit() == suit));
        assert!(all.and(cards).is_empty());
        all = all.or(cards);
    }
    assert_eq!(all, CardSet::FULL);
    assert_eq!(Card::new(52), None);
}

#[test]
fn sets_hold_what_is_put_in() {
    let card = Card::new(51).unwrap();
    let mut set = CardSet::EMPTY;
    set.insert(card);
    assert!(set.contains(card) && set.len() == 1 && card.rank() == 12 && card.suit() == 3);
    set.remove(card);
    assert!(set.is_empty());
    assert_eq!(CardSet::from_bits(u64::MAX), CardSet::FULL);
}

#[test]
fn the_scale_runs_from_nothing_to_all_tricks_and_back() {
    for cards in 1..=17 {
        let most = most_points(cards) as u8;
        assert_eq!(most, score(cards as u8, cards as u8, Rules::default()));
        assert_eq!((scaled(0, cards), scaled(most, cards)), (-1.0, 1.0));
        for score in 0..=most {
            let back = points(scaled(score, cards), cards);
            assert!((back - f32::from(score)).abs() < 1e-4, "{score} of {cards}");
        }
    }
}

fn hands(text: &str, players: usize) -> Vec<usize> {
    let schedule: Schedule = text.parse().unwrap();
    assert_eq!(schedule.to_string().parse(), Ok(schedule.clone()));
    let json = serde_json::to_string(&schedule).unwrap();
    assert_eq!(serde_json::from_str::<Schedule>(&json).unwrap(), schedule);
    (0..schedule.rounds(players))
        .map(|round| schedule.cards(players, round))
        .collect()
}

#[test]
fn schedules_list_their_hands() {
    let blob = [7, 6, 5, 4, 3, 2, 1, 1, 1, 1, 1, 2, 3, 4, 5, 6, 7];
    assert_eq!(hands("blob:7", 5), blob);
    assert_eq!(hands("blob:1", 3), [1, 1, 1]);
    assert_eq!(hands("1-4-2", 3), [1, 2, 3, 4, 3, 2]);
    assert_eq!(hands("5, 5,3-1", 8), [5, 5, 3, 2, 1]);
    let listed: Schedule = serde_json::from_str("[2, 9, 2]").unwrap();
    assert_eq!((listed.to_string(), listed.largest()), ("2,9,2".into(), 9));
    assert!(listed.check(5).is_ok() && listed.check(6).is_err());
    let standing = Schedule::Blob(7).standing(5, [3; 8], 2);
    let numbers = (
        standing.rounds_done,
        standing.rounds_total,
        standing.first_cards,
    );
    assert_eq!(numbers, (2, 17, 7));
    assert_eq!(standing.totals, [3; 8]);
}

#[test]
fn what_is_no_schedule_is_refused() {
    let endless = vec!["1"; 256].join(",");
    for text in [
        "", "blob", "blob:0", "blob:18", "1-", "0", "3,0", "1-x", "256", &endless,
    ] {
        let refused = text.parse::<Schedule>().unwrap_err().to_string();
        assert!(
            refused.contains("is no schedule; write 'blob:7'"),
            "{refused}"
        );
    }
    for json in ["[]", "[0]", "\"2-0\"", "7"] {
        assert!(serde_json::from_str::<Schedule>(json).is_err(), "{json}");
    }
    // As long as a manifest may be; written out it would take gigabytes, listed whole a screen.
    let up_and_down = "1-255-".repeat((16 << 20) / 6) + "1";
    let list = vec![1; 256];
    for refused in [
        up_and_down.parse::<Schedule>().unwrap_err().to_string(),
        "\u{e9}"
            .repeat(100)
            .parse::<Schedule>()
            .unwrap_err()
            .to_string(),
        serde_json::from_value::<Schedule>(list.into())
            .unwrap_err()
            .to_string(),
    ] {
        assert!(
            refused.contains("...' is no schedule; ") && refused.chars().count() < 160,
            "{refused}"
        );
    }
}
