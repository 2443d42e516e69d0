//! The rules and the observation over random play: what must hold in every round, and that an
//! observation holds what the mover knows and nothing else.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use ringmaster::game::*;
use ringmaster::observation::{FEATURES, Position};

fn random_action(legal: u64, rng: &mut Xoshiro256PlusPlus) -> u8 {
    let choice = rng.random_range(0..legal.count_ones());
    bits(legal).nth(choice as usize).unwrap()
}

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
            standing.rounds_total = rounds_in_game(players, cards) as u8;
            standing.first_cards = cards as u8;
            standing.rounds_done = if seed % 2 == 0 { 0 } else { standing.rounds_total - 1 };
            standing.totals = std::array::from_fn(|seat| if seat < players { 7 * seat as u16 + 3 } else { 0 });
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
