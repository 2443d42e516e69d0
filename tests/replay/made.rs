//! Rounds made for the tests: legal random play with made-up visits and values.

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use ringmaster::game::*;
use ringmaster::replay::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tempfile::{TempDir, tempdir};

pub const SEED: u64 = 42;
pub const VISITS: u64 = 24;

/// Players, cards, rules and a seed to deal and play from.
#[derive(Clone, Copy, Debug)]
pub struct Deal {
    pub players: usize,
    pub cards: usize,
    pub rules: Rules,
    pub in_game: bool,
    pub seed: u64,
}

impl Deal {
    pub fn small(seed: u64) -> Deal {
        Deal {
            players: 3,
            cards: 2,
            rules: Rules::default(),
            in_game: false,
            seed,
        }
    }
}

/// A random round, recorded as a worker would.
pub fn play(round: u64, deal: Deal) -> RoundRecord {
    let Deal { players, cards, .. } = deal;
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(deal.seed);
    let table = Table {
        players,
        cards,
        dealer: rng.random_range(0..players),
        trump_turn: rng.random_range(0..5),
    };
    let mut state = Round::deal(table, deal.rules, &mut rng).unwrap();
    let game = deal.in_game.then(|| GamePlace {
        number: round / 7,
        standing: Standing {
            totals: [0; MAX_PLAYERS],
            rounds_done: 0,
            rounds_total: rounds_in_game(players, cards) as u8,
            first_cards: cards as u8,
        },
    });
    let mut record = RoundRecord::new();
    record.begin(round, SEED, 0, game, &state);
    while state.phase() != Phase::Over {
        let legal: Vec<u8> = bits(state.legal()).collect();
        let place = rng.random_range(0..legal.len());
        if legal.len() > 1 {
            let mut visits = vec![0; legal.len()];
            for _ in 0..VISITS {
                visits[rng.random_range(0..legal.len())] += 1;
            }
            let most = most_points(cards) as f32;
            let values: Vec<f32> = (0..players).map(|_| rng.random_range(0.0..=most)).collect();
            record.decision(&visits, &values);
        }
        record.action(legal[place]);
        state.play(legal[place]);
    }
    record
}

/// Adds an encoded round, as whoever has decoded it does.
pub fn push(writer: &mut ReplayWriter, bytes: &[u8]) -> Result<Pushed, ReplayError> {
    writer.push(&RoundRecord::decode(bytes)?, bytes)
}

pub fn encode(record: &RoundRecord) -> Vec<u8> {
    let mut buffer = [0; MAX_RECORD_BYTES];
    let length = record.encode_into(&mut buffer).unwrap();
    buffer[..length].to_vec()
}

/// Rounds 0 to `rounds` - 1 of small tables, encoded.
pub fn rounds(rounds: u64) -> Vec<Vec<u8>> {
    (0..rounds)
        .map(|round| encode(&play(round, Deal::small(round))))
        .collect()
}

pub fn manifest(rounds: u64, rounds_per_shard: u32) -> Manifest {
    let settings = json!({"players": 3, "cards": 2, "noise": {"alpha": 0.3}});
    let mut manifest = Manifest::new(SEED, settings, "0123abcd", "cpu", VISITS, rounds);
    manifest.rounds_per_shard = rounds_per_shard;
    manifest
}

/// A whole replay of `rounds` small rounds.
pub fn write(dir: &Path, records: &[Vec<u8>], rounds_per_shard: u32) -> Manifest {
    let manifest = manifest(records.len() as u64, rounds_per_shard);
    let mut writer = ReplayWriter::create(dir, &manifest).unwrap();
    for bytes in records {
        assert_eq!(push(&mut writer, bytes).unwrap(), Pushed::New);
    }
    writer.close().unwrap()
}

/// Every file of a folder but the lock.
pub fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name() != "lock")
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect()
}

pub fn whole(records: &[Vec<u8>], rounds_per_shard: u32) -> TempDir {
    let dir = tempdir().unwrap();
    write(dir.path(), records, rounds_per_shard);
    dir
}

pub fn one_line(error: &ReplayError) -> String {
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}
