//! Worlds are sampled uniformly over all deals that agree with what the mover knows: checked
//! against full enumeration where that is possible, and for consistency where it is not.
#![allow(clippy::unwrap_used)]

mod support;

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use ringmaster::game::*;
use ringmaster::search::WorldSampler;
use std::collections::HashMap;
use support::{deal, hand, play_cards, random_action};

type Hands = [CardSet; MAX_PLAYERS];

fn unseen(round: &Round) -> Vec<Card> {
    let mut seen = round.hand(round.mover()).or(round.played());
    if let Some(card) = round.turned() {
        seen.insert(card);
    }
    CardSet::FULL.without(seen).iter().collect()
}

/// All deals, by trying every place for every unseen card.
fn enumerate(round: &Round) -> Vec<Hands> {
    fn place(round: &Round, cards: &[Card], hands: &mut Hands, pile: usize, all: &mut Vec<Hands>) {
        let Some((&card, rest)) = cards.split_first() else {
            all.push(*hands);
            return;
        };
        for seat in (0..round.players()).filter(|&seat| seat != round.mover()) {
            let full = hands[seat].len() == round.hand(seat).len();
            if !full && round.voids(seat) >> card.suit() & 1 == 0 {
                hands[seat].insert(card);
                place(round, rest, hands, pile, all);
                hands[seat].remove(card);
            }
        }
        if pile > 0 {
            place(round, rest, hands, pile - 1, all);
        }
    }
    let cards = unseen(round);
    let held: usize = (0..round.players())
        .filter(|&seat| seat != round.mover())
        .map(|seat| round.hand(seat).len())
        .sum();
    let mut hands = [CardSet::EMPTY; MAX_PLAYERS];
    hands[round.mover()] = round.hand(round.mover());
    let mut all = Vec::new();
    place(round, &cards, &mut hands, cards.len() - held, &mut all);
    all.retain(|hands| {
        (0..round.players()).all(|seat| hands[seat].len() == round.hand(seat).len())
    });
    all
}

fn assert_consistent(round: &Round, hands: &Hands) {
    let mut all = CardSet::EMPTY;
    let hidden: CardSet = unseen(round).into_iter().collect();
    for (seat, &hand) in hands.iter().enumerate() {
        if seat >= round.players() {
            assert!(hand.is_empty());
            continue;
        }
        assert_eq!(hand.len(), round.hand(seat).len(), "hand sizes are known");
        assert!(all.and(hand).is_empty(), "a card is held once");
        all = all.or(hand);
        if seat == round.mover() {
            assert_eq!(hand, round.hand(seat));
            continue;
        }
        assert!(
            hand.without(hidden).is_empty(),
            "only unseen cards are dealt"
        );
        for suit in bits(u64::from(round.voids(seat))) {
            assert!(
                hand.and(CardSet::suit(suit)).is_empty(),
                "a shown void stays void"
            );
        }
    }
}

/// Upper bound of the chi-square statistic at five standard deviations (Wilson and Hilferty's
/// cube): a true uniform sampler exceeds it once in three million tries, and the seeds are fixed.
fn chi_square_limit(freedom: f64) -> f64 {
    let spread = 2.0 / (9.0 * freedom);
    freedom * (1.0 - spread + 5.0 * spread.sqrt()).powi(3)
}

/// Samples `per_deal` worlds for each possible deal and compares the counts with uniform ones.
fn assert_uniform(round: &Round, per_deal: usize, rng: &mut Xoshiro256PlusPlus) {
    let all = enumerate(round);
    let mut sampler = WorldSampler::default();
    sampler.prepare(round);
    assert_eq!(
        sampler.deals(),
        all.len() as u128,
        "the count of deals is exact"
    );
    let mut tally: HashMap<Hands, usize> = all.iter().map(|&hands| (hands, 0)).collect();
    for _ in 0..per_deal * all.len() {
        let hands = sampler.sample(rng);
        *tally
            .get_mut(&hands)
            .expect("only possible deals are sampled") += 1;
    }
    if all.len() > 1 {
        let expected = per_deal as f64;
        let chi: f64 = tally
            .values()
            .map(|&n| (n as f64 - expected).powi(2) / expected)
            .sum();
        let limit = chi_square_limit((all.len() - 1) as f64);
        assert!(
            chi < limit,
            "chi-square {chi:.1} over {limit:.1} for {} deals",
            all.len()
        );
    }
}

/// Plays at random until `left` cards are left in the mover's hand.
fn late(
    players: usize,
    cards: usize,
    left: usize,
    rules: Rules,
    rng: &mut Xoshiro256PlusPlus,
) -> Round {
    let mut round = deal(players, cards, rules, rng);
    while round.phase() == Phase::Bidding || round.hand(round.mover()).len() > left {
        round.play(random_action(round.legal(), rng));
    }
    for _ in 0..rng.random_range(0..players) {
        round.play(random_action(round.legal(), rng));
    }
    round
}

#[test]
fn uniform_over_all_deals_late_in_full_deals() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
    let turned = Rules {
        trump: TrumpRule::Turned,
        ..Rules::default()
    };
    let cases = [
        (3, 17, 3),
        (4, 13, 3),
        (8, 6, 2),
        (5, 10, 2),
        (6, 8, 2),
        (7, 7, 2),
    ];
    let (mut tested, mut with_voids) = (0, 0);
    for (players, cards, left) in cases {
        for rules in [Rules::default(), turned] {
            for _ in 0..10 {
                let round = late(players, cards, left, rules, &mut rng);
                let mut sampler = WorldSampler::default();
                sampler.prepare(&round);
                if sampler.deals() <= 3000 {
                    assert_uniform(&round, 60, &mut rng);
                    tested += 1;
                    with_voids += usize::from((0..players).any(|seat| round.voids(seat) > 0));
                }
            }
        }
    }
    assert!(
        tested >= 40 && with_voids >= 30,
        "{tested} cases, {with_voids} with voids"
    );
}

/// A round from these hands; the bids are all 0 but the last.
fn table(hands: &[&str], trump: Trump) -> Round {
    let hands: Vec<CardSet> = hands.iter().map(|text| hand(text)).collect();
    let dealer = hands.len() - 1;
    let mut round = Round::from_hands(&hands, trump, None, dealer, Rules::default()).unwrap();
    while round.phase() == Phase::Bidding {
        round.play(round.legal().trailing_zeros() as u8);
    }
    round
}

#[test]
fn one_seat_with_three_voids_in_a_full_deal_is_forced() {
    // Seat 1 holds diamonds alone and discards on spades, hearts and clubs: its hand is then known,
    // and the rest lies with two seats.
    let mut round = table(
        &[
            "S23456789T HA CA D2",
            "D3456789TJQK SJ",
            "SQKA H2345678 CT3",
            "HTJQK C456789JQ",
        ],
        Trump::None,
    );
    assert_eq!(
        round.hand(1).len(),
        12,
        "twelve cards each leaves four undealt"
    );
    play_cards(&mut round, "HA D3 H2 HT");
    play_cards(&mut round, "CA D4 CT C4");
    play_cards(&mut round, "S2 SJ SQ C5");
    play_cards(&mut round, "SK HJ S3 D5");
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(2);
    assert_eq!(round.voids(1), 0b0111);
    let mut sampler = WorldSampler::default();
    while round.phase() != Phase::Over {
        if round.mover() != 1 {
            sampler.prepare(&round);
            for _ in 0..50 {
                let hands = sampler.sample(&mut rng);
                assert_consistent(&round, &hands);
                assert!(hands[1].without(CardSet::suit(3)).is_empty());
            }
            if sampler.deals() <= 3000 {
                assert_uniform(&round, 60, &mut rng);
            }
        }
        round.play(random_action(round.legal(), &mut rng));
    }
}

#[test]
fn a_forced_deal_has_one_world() {
    // Three players, full pack but one: at the last card of the last trick everything but the
    // undealt card is known to the last mover, and voids say where it is.
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(3);
    let mut forced = 0;
    for _ in 0..400 {
        let mut round = late(3, 17, 2, Rules::default(), &mut rng);
        while round.phase() != Phase::Over {
            let mut sampler = WorldSampler::default();
            sampler.prepare(&round);
            if sampler.deals() == 1 {
                forced += 1;
                assert_eq!(enumerate(&round).len(), 1);
                assert_eq!(
                    &sampler.sample(&mut rng)[..3],
                    &[0, 1, 2].map(|seat| round.hand(seat))
                );
            }
            round.play(random_action(round.legal(), &mut rng));
        }
    }
    assert!(forced > 100, "{forced} forced deals met");
}

#[test]
fn every_decision_of_whole_rounds_is_consistent() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(4);
    for (players, cards) in [
        (3, 17),
        (8, 6),
        (4, 13),
        (4, 5),
        (8, 1),
        (5, 7),
        (7, 7),
        (3, 1),
    ] {
        for game in 0..12 {
            let rules = Rules {
                trump: if game % 2 == 0 {
                    TrumpRule::Rotating
                } else {
                    TrumpRule::Turned
                },
                ..Rules::default()
            };
            let table = Table {
                players,
                cards,
                dealer: game % players,
                trump_turn: game,
            };
            let mut round = Round::deal(table, rules, &mut rng).unwrap();
            let mut sampler = WorldSampler::default();
            while round.phase() != Phase::Over {
                sampler.prepare(&round);
                for _ in 0..4 {
                    assert_consistent(&round, &sampler.sample(&mut rng));
                }
                round.play(random_action(round.legal(), &mut rng));
            }
        }
    }
}

#[test]
fn without_voids_every_card_is_equally_likely_everywhere() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(5);
    let table = Table {
        players: 4,
        cards: 5,
        dealer: 0,
        trump_turn: 0,
    };
    let round = Round::deal(table, Rules::default(), &mut rng).unwrap();
    let mut sampler = WorldSampler::default();
    sampler.prepare(&round);
    // 47 unseen cards to three hands of five and a pile of 32: 47! / (5!^3 32!).
    let fraction = |from: u128, to: u128| (from..=to).product::<u128>();
    assert_eq!(
        sampler.deals(),
        fraction(33, 42) / (120 * 120) * (fraction(43, 47) / 120)
    );
    let samples = 47_000;
    let mut tally = [[0_usize; 52]; 4];
    for _ in 0..samples {
        let hands = sampler.sample(&mut rng);
        for (seat, counts) in tally.iter_mut().enumerate() {
            for card in hands[seat].iter() {
                counts[card.index() as usize] += 1;
            }
        }
    }
    for seat in (0..4).filter(|&seat| seat != round.mover()) {
        let expected = samples as f64 * 5.0 / 47.0;
        let spread = (expected * 42.0 / 47.0).sqrt();
        for card in unseen(&round) {
            let off = (tally[seat][card.index() as usize] as f64 - expected) / spread;
            assert!(
                off.abs() < 5.0,
                "seat {seat} card {} is {off:.1} deviations off",
                card.index()
            );
        }
    }
}
