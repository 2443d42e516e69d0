//! Rounds made for the tests: legal random play with made-up visits and values.

use rand::{Rng, RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use ringmaster::game::*;
use ringmaster::replay::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;
use tempfile::{TempDir, tempdir};

pub const SEED: u64 = 42;
pub const VISITS: u64 = 24;
pub const FAST_VISITS: u64 = 7;

/// Players, cards (in a game those of its first round), rules and a seed to deal and play from.
#[derive(Clone, Copy, Debug)]
pub struct Deal {
    pub players: usize,
    pub cards: usize,
    pub rules: Rules,
    pub in_game: bool,
    /// With searches of all kinds, none among them: a record of version 3.
    pub is_mixed: bool,
    pub seed: u64,
}

impl Deal {
    pub fn small(seed: u64) -> Deal {
        Deal {
            players: 3,
            cards: 2,
            rules: Rules::default(),
            in_game: false,
            is_mixed: false,
            seed,
        }
    }
}

/// A random round, recorded as a worker would.
pub fn play(round: u64, deal: Deal) -> RoundRecord {
    let schedule = Schedule::Blob(deal.cards as u8);
    let rounds = schedule.rounds(deal.players) as u64;
    let (number, done) = (round / rounds, (round % rounds) as usize);
    let standing = schedule.standing(deal.players, [0; MAX_PLAYERS], done);
    let game = deal.in_game.then_some(GamePlace { number, standing });
    let cards = match game {
        Some(_) => schedule.cards(deal.players, done),
        None => deal.cards,
    };
    play_in(round, game, Deal { cards, ..deal })
}

/// A random round at this place in a game.
pub fn play_in(round: u64, game: Option<GamePlace>, deal: Deal) -> RoundRecord {
    let Deal { players, cards, .. } = deal;
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(deal.seed);
    let mut table = Table {
        players,
        cards,
        dealer: rng.random_range(0..players),
        trump_turn: rng.random_range(0..5),
    };
    if let Some(GamePlace { number, standing }) = game {
        // Round by round the dealer moves to the left, and trump in turn.
        let done = standing.rounds_done as usize;
        table.dealer = (number as usize + done) % players;
        table.trump_turn = done % 5;
    }
    let mut state = Round::deal(table, deal.rules, &mut rng).unwrap();
    let mut record = RoundRecord::new();
    record.begin(round, SEED, 0, game, &state);
    while state.phase() != Phase::Over {
        let legal: Vec<u8> = bits(state.legal()).collect();
        let place = rng.random_range(0..legal.len());
        if legal.len() > 1 {
            let kinds = [
                SearchKind::Full,
                SearchKind::Fast,
                SearchKind::FullWithPolicy,
            ];
            match deal.is_mixed.then(|| rng.random_range(0..4)) {
                Some(3) => record.unsearched(),
                kind => {
                    let kind = kinds[kind.unwrap_or(0)];
                    search(&mut record, kind, legal.len(), place, &mut rng);
                }
            }
        }
        record.action(legal[place]);
        state.play(legal[place]);
    }
    record
}

/// Adds a made-up search of `legal` actions that leads to the one at `chosen`.
fn search(
    record: &mut RoundRecord,
    kind: SearchKind,
    legal: usize,
    chosen: usize,
    rng: &mut impl Rng,
) {
    let mut visits = vec![0; legal];
    for _ in 0..if kind == SearchKind::Fast {
        FAST_VISITS
    } else {
        VISITS
    } {
        visits[rng.random_range(0..legal)] += 1;
    }
    // What is played was visited.
    if visits[chosen] == 0
        && let Some(most) = visits.iter_mut().max()
    {
        *most -= 1;
        visits[chosen] = 1;
    }
    let most = most_points(record.cards) as f32;
    let values: Vec<f32> = (0..record.players)
        .map(|_| rng.random_range(0.0..=most))
        .collect();
    let mut policy = vec![1.0 / legal as f32; legal];
    policy[0] += policy[1] / 2.0;
    policy[1] /= 2.0;
    let has_policy = kind == SearchKind::FullWithPolicy;
    record.searched(
        kind,
        &visits,
        &values,
        if has_policy { &policy } else { &[] },
    );
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

/// All that rounds of version 3 may hold but a schedule.
pub fn may_hold() -> MayHold {
    MayHold {
        schedule: None,
        fast_visits: Some(FAST_VISITS),
        unsearched: true,
        policies: true,
    }
}

/// A whole replay of these rounds, of version 3 if one of them is.
pub fn write(dir: &Path, records: &[Vec<u8>], rounds_per_shard: u32) -> Manifest {
    let mut manifest = manifest(records.len() as u64, rounds_per_shard);
    if records.iter().any(|bytes| bytes.starts_with(&[255, 3])) {
        manifest = manifest.holding(may_hold());
    }
    write_as(dir, manifest, records)
}

/// A whole replay of these rounds.
pub fn write_as(dir: &Path, manifest: Manifest, records: &[Vec<u8>]) -> Manifest {
    let mut writer = create(dir, &manifest);
    push_all(&mut writer, records);
    assert_eq!(writer.written(), records.len() as u64);
    writer.close().unwrap()
}

pub fn create(dir: &Path, manifest: &Manifest) -> ReplayWriter {
    ReplayWriter::create(dir, manifest).unwrap()
}

/// A writer that goes on, and which rounds were there.
pub fn resume(dir: &Path, manifest: &Manifest) -> (ReplayWriter, Vec<Range<u64>>) {
    ReplayWriter::resume(dir, manifest, false).unwrap()
}

/// Adds rounds.
pub fn push_all(writer: &mut ReplayWriter, records: &[Vec<u8>]) {
    for bytes in records {
        push(writer, bytes).unwrap();
    }
}

/// What `replay show` prints.
pub fn shown(dir: &Path) -> String {
    let mut shown = Vec::new();
    show(dir, &mut shown).unwrap();
    String::from_utf8(shown).unwrap()
}

/// Its lines.
pub fn shown_rounds(dir: &Path) -> Vec<Value> {
    shown(dir)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A round of 3 players with 2 cards and no trump, its six decisions searched with these visits,
/// and the round before each. Seat 0 leads spades that nobody can follow, wins both tricks and has
/// bid them; seat 1 bids 1 and misses; the dealer bids 0. Scores: 12, 0, 10.
pub fn by_hand(round: u64, visits: [&[u32]; 6]) -> (RoundRecord, Vec<Round>) {
    let card = |index| Card::new(index).unwrap();
    let hands = [0, 20, 40].map(|c| CardSet::from_iter([card(c), card(c + 1)]));
    let mut state = Round::from_hands(&hands, Trump::None, None, 2, Rules::default()).unwrap();
    let (mut record, mut before) = (RoundRecord::new(), Vec::new());
    record.begin(round, SEED, 0, None, &state);
    for (nth, action) in [2, 1, 0, 1, 21, 40, 0, 20, 41].into_iter().enumerate() {
        if let Some(visits) = visits.get(nth) {
            record.searched(SearchKind::Full, visits, &[12.0, 0.5, 10.0], &[]);
            before.push(state);
        }
        record.action(action);
        state.play(action);
    }
    (record, before)
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

/// Rows of float32 in a .npy file.
pub fn write_rows(path: &Path, rows: usize, columns: usize, data: &[f32]) {
    let array = prepare_f32(path, rows, columns, data).unwrap();
    array.put().unwrap();
}

pub fn one_line(error: &ReplayError) -> String {
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}
