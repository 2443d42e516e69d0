//! Replays of today's program go on being read; those of version 3 say more.

use crate::made::*;
use crate::records::of_all_kinds;
use ringmaster::game::*;
use ringmaster::replay::*;
use serde_json::json;
use std::fs;
use std::path::Path;
use tempfile::tempdir;

const ARRAYS: [&str; 5] = ["features", "mask", "policy", "value", "seat_mask"];

/// A whole game and a mix of tables, with turned trumps, as a program wrote, showed and exported
/// them that knew no version 3: both are read, and written anew, to the bit.
#[test]
fn replays_of_version_2_stay_what_they_are() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/version-2");
    for (name, decisions, digest, checksums) in [
        (
            "game",
            36,
            "95772b3dc3b3c1ec30c1658f020c6a5488cdcd0657afedc27ceaf86ce0b5dd23",
            [
                0xbafd_16f9,
                0x6299_b480,
                0xcd8e_b142,
                0xe272_ad8c,
                0x9bc5_faa0,
            ],
        ),
        (
            "mix",
            121,
            "4ef4ed68bdfd8438fb106add39ccc42c64a02ecd15e1d2b5a4c624a52e0bf1a1",
            [
                0xfcf3_f7ba,
                0x5372_67e5,
                0x8605_083f,
                0xf002_481c,
                0x11cc_8c43,
            ],
        ),
    ] {
        let dir = golden.join(name);
        let summary = verify(&dir).unwrap();
        assert_eq!(
            (summary.decisions, summary.status),
            (decisions, Status::Complete)
        );
        assert_eq!(summary.digest, digest);
        assert!(shown(&dir) == fs::read_to_string(dir.with_extension("jsonl")).unwrap());
        let out = tempdir().unwrap();
        assert_eq!(export(&dir, out.path()).unwrap().rows, decisions);
        for (array, checksum) in ARRAYS.iter().zip(checksums) {
            let bytes = fs::read(out.path().join(array).with_extension("npy")).unwrap();
            assert_eq!(crc32fast::hash(&bytes), checksum, "{array} of {name}");
        }
        let reader = ReplayReader::open(&dir).unwrap();
        let records: Vec<Vec<u8>> = reader
            .records()
            .map(|stored| encode(&stored.unwrap().record))
            .collect();
        let again = tempdir().unwrap();
        write_as(again.path(), reader.manifest().clone(), &records);
        assert_eq!(contents(again.path()), contents(&dir));
    }
}

/// One of each kind, and what is said of it.
#[test]
fn decisions_of_all_kinds_are_shown_and_exported() {
    let mixed = RoundRecord {
        round: 0,
        ..of_all_kinds()
    };
    let plain = play(
        1,
        Deal {
            players: 4,
            cards: 3,
            ..Deal::small(2)
        },
    );
    let (dir, out) = (tempdir().unwrap(), tempdir().unwrap());
    // A shard holds both.
    write(dir.path(), &[encode(&mixed), encode(&plain)], 4);
    assert_eq!(
        fs::read(dir.path().join("rounds-000000.shard")).unwrap()[8..12],
        [3, 0, 0, 0]
    );
    let summary = verify(dir.path()).unwrap();
    assert_eq!(
        summary.decisions as usize,
        mixed.decisions() + plain.decisions()
    );
    assert!(mixed.decisions() < mixed.searches.len() && mixed.targets() < mixed.decisions());

    let lines = shown_rounds(dir.path());
    let decisions = lines[0]["decisions"].as_array().unwrap();
    assert_eq!(decisions.len(), mixed.searches.len());
    let played = mixed.replay().unwrap();
    for ((shown, kind), decision) in decisions.iter().zip(&mixed.searches).zip(&played.decisions) {
        assert_eq!(shown["full"], json!(kind.is_full()));
        assert_eq!(shown["visits"].is_null(), *kind == SearchKind::None);
        assert_eq!(shown["value"].is_null(), *kind == SearchKind::None);
        let policy = decision.policy;
        match kind {
            SearchKind::FullWithPolicy => {
                let found: Vec<f32> = serde_json::from_value(shown["policy"].clone()).unwrap();
                assert_eq!(found, policy);
            }
            _ => assert_eq!(shown.get("policy"), None),
        }
    }
    for shown in lines[1]["decisions"].as_array().unwrap() {
        assert_eq!((shown.get("full"), shown.get("policy")), (None, None));
    }

    let exported = export(dir.path(), out.path()).unwrap();
    let rows = mixed.targets() + plain.targets();
    assert_eq!((exported.rounds, exported.rows), (2, rows as u64));
    let policy = fs::read(out.path().join("policy.npy")).unwrap();
    let policy: Vec<f32> = npyz::NpyFile::new(&policy[..]).unwrap().into_vec().unwrap();
    let targets = played
        .decisions
        .iter()
        .filter(|decision| decision.search.is_full());
    for (row, decision) in policy.chunks(52).zip(targets) {
        let visits = decision
            .visits
            .iter()
            .map(|&count| count as f32 / VISITS as f32);
        let wanted: Vec<f32> = match decision.policy {
            [] => visits.collect(),
            policy => policy.to_vec(),
        };
        let found: Vec<f32> = bits(decision.legal)
            .map(|action| row[action as usize])
            .collect();
        assert_eq!(found, wanted);
    }
}

/// What a run may hold is in its manifest, and held to it.
#[test]
fn rounds_say_no_more_than_their_run_may() {
    let record = RoundRecord {
        round: 0,
        ..of_all_kinds()
    };
    let refused = |record: &RoundRecord, change: fn(&mut MayHold), what: &str| {
        let mut may = may_hold();
        change(&mut may);
        let dir = tempdir().unwrap();
        write_as(dir.path(), manifest(1, 4).holding(may), &[encode(record)]);
        let error = one_line(&verify(dir.path()).unwrap_err());
        assert!(
            error.contains("round 0: ") && error.contains(what),
            "{error}"
        );
    };
    refused(&record, |may| may.unsearched = false, "is not searched");
    refused(
        &record,
        |may| may.fast_visits = None,
        "is not searched in full",
    );
    refused(
        &record,
        |may| may.fast_visits = Some(8),
        "has 7 visits, not 8",
    );
    refused(
        &record,
        |may| may.policies = false,
        "has a policy besides its visits",
    );
    refused(
        &record,
        |may| may.schedule = Some(Schedule::Blob(3)),
        "not at its place",
    );
    for share in [1.5, -0.25] {
        let mut record = record.clone();
        record.policies[0] = share;
        refused(&record, |_| {}, "do not add up to 1");
    }
    // A run of version 2 takes none of it, nor is it gone on with as one of version 3.
    let dir = tempdir().unwrap();
    let mut writer = create(dir.path(), &manifest(1, 4));
    let error = one_line(&push(&mut writer, &encode(&record)).unwrap_err());
    assert!(error.contains("of version 3"), "{error}");
    drop(writer);
    let more = manifest(1, 4).holding(may_hold());
    let error = one_line(&ReplayWriter::resume(dir.path(), &more, false).unwrap_err());
    assert!(
        error.contains("another may_hold.fast_visits: the replay has null, this run has 7"),
        "{error}"
    );
    // Nor with a shard of another run in it, whichever it is, finished or not.
    let strange = RoundRecord {
        seed: SEED + 1,
        ..play(0, Deal::small(0))
    };
    for (record, what) in [(&record, "of version 3"), (&strange, "of seed 43, not 42")] {
        for extension in ["shard", "part"] {
            let (mixed, other) = (tempdir().unwrap(), tempdir().unwrap());
            drop(create(mixed.path(), &manifest(1, 4)));
            let mut theirs = manifest(1, 4).holding(may_hold());
            theirs.seed = record.seed;
            let mut writer = create(other.path(), &theirs);
            push(&mut writer, &encode(record)).unwrap();
            match extension {
                "shard" => drop(writer.close().unwrap()),
                _ => drop(writer),
            }
            let name = format!("rounds-000000.{extension}");
            fs::copy(other.path().join(&name), mixed.path().join(&name)).unwrap();
            let resumed = ReplayWriter::resume(mixed.path(), &manifest(1, 4), false);
            let error = one_line(&resumed.unwrap_err());
            let place = format!("{name}: damaged at byte 12: round 0: {what}");
            assert!(
                error.contains(&place) && error.contains("; move the file away"),
                "{error}"
            );
        }
    }
    // A manifest of version 2 that may hold more is none.
    more.write(dir.path()).unwrap();
    assert_eq!(Manifest::read(dir.path()).unwrap(), more);
    let text = fs::read_to_string(dir.path().join(MANIFEST_FILE)).unwrap();
    let body = text.replace("\"version\": 3", "\"version\": 2");
    let body = &body[..body.find(",\n  \"check\"").unwrap()];
    let check = crc32fast::hash(body.as_bytes());
    let text = format!("{body},\n  \"check\": \"{check:08x}\"\n}}\n");
    fs::write(dir.path().join(MANIFEST_FILE), text).unwrap();
    let error = one_line(&Manifest::read(dir.path()).unwrap_err());
    assert!(error.contains("not of its version"), "{error}");
}

/// Rounds of whole games on a schedule of three rounds, with the points so far.
fn games(schedule: &Schedule, rounds: u64, is_mixed: bool) -> Vec<RoundRecord> {
    let mut totals = [0; MAX_PLAYERS];
    let mut records = Vec::new();
    for round in 0..rounds {
        let (number, done) = (round / 3, (round % 3) as usize);
        if done == 0 {
            totals = [0; MAX_PLAYERS];
        }
        let standing = schedule.standing(3, totals, done);
        let deal = Deal {
            cards: schedule.cards(3, done),
            is_mixed,
            ..Deal::small(round)
        };
        records.push(play_in(round, Some(GamePlace { number, standing }), deal));
        let scores = records[round as usize].replay().unwrap().scores;
        totals
            .iter_mut()
            .zip(scores)
            .for_each(|(total, score)| *total += u16::from(score));
    }
    records
}

#[test]
fn games_on_a_schedule_are_held_to_it() {
    let schedule: Schedule = "2,4,1".parse().unwrap();
    let may = MayHold {
        schedule: Some(schedule.clone()),
        ..MayHold::default()
    };
    let records = games(&schedule, 7, false);
    let encoded: Vec<Vec<u8>> = records.iter().map(encode).collect();
    let dir = tempdir().unwrap();
    write_as(dir.path(), manifest(7, 4).holding(may.clone()), &encoded);
    let summary = verify(dir.path()).unwrap();
    assert_eq!((summary.rounds, summary.status), (7, Status::Complete));
    let last = shown_rounds(dir.path()).pop().unwrap();
    let game = json!({"number": 2, "totals": [0, 0, 0], "rounds_done": 0, "rounds_total": 3,
                      "first_cards": 4, "schedule": [2, 4, 1]});
    assert_eq!(last["game"], game);
    let refused = |record: RoundRecord, may: MayHold| {
        let manifest = manifest(9, 4).holding(may);
        let error = one_line(&record.check_run(&manifest).unwrap_err());
        assert!(error.contains("not at its place in the game"), "{error}");
    };
    records[5]
        .check_run(&manifest(9, 4).holding(may.clone()))
        .unwrap();
    refused(records[5].clone(), may_hold());
    refused(
        RoundRecord {
            round: 6,
            ..records[5].clone()
        },
        may.clone(),
    );
    refused(
        RoundRecord {
            game: None,
            ..records[5].clone()
        },
        may.clone(),
    );
    for other in ["2,4,2", "2,4,1,1", "2,3,1"] {
        refused(
            records[5].clone(),
            MayHold {
                schedule: Some(other.parse().unwrap()),
                ..may.clone()
            },
        );
    }
}

/// What `scripts/recheck_rules.py` corrupts in its self-test, besides a run of version 2. After an
/// intended change: UPDATE_GOLDEN=1 cargo test --test replay searches_of_all_kinds_in_games, and
/// read the difference.
#[test]
fn searches_of_all_kinds_in_games_are_shown_as_ever() {
    let schedule: Schedule = "2,4,1".parse().unwrap();
    let may = MayHold {
        schedule: Some(schedule.clone()),
        ..may_hold()
    };
    let records: Vec<Vec<u8>> = games(&schedule, 6, true).iter().map(encode).collect();
    let dir = tempdir().unwrap();
    write_as(dir.path(), manifest(6, 4).holding(may), &records);
    verify(dir.path()).unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/show-version-3.jsonl");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, shown(dir.path())).unwrap();
    }
    assert!(shown(dir.path()) == fs::read_to_string(&golden).unwrap_or_default());
}

/// A run of version 3 that is cut off goes on to the files of an undisturbed one.
#[test]
fn runs_of_version_3_go_on() {
    let records: Vec<Vec<u8>> = (0..7)
        .map(|round| {
            encode(&play(
                round,
                Deal {
                    is_mixed: round % 3 > 0,
                    ..Deal::small(round)
                },
            ))
        })
        .collect();
    let wanted = || manifest(7, 3).holding(may_hold());
    let expected = tempdir().unwrap();
    write_as(expected.path(), wanted(), &records);
    for (cut, closed) in [(0, false), (2, false), (4, true), (5, false), (6, true)] {
        let dir = tempdir().unwrap();
        let mut writer = create(dir.path(), &wanted());
        push_all(&mut writer, &records[..cut]);
        if closed {
            writer.close().unwrap();
        } else {
            drop(writer);
        }
        let (mut writer, _) = resume(dir.path(), &wanted());
        push_all(&mut writer, &records[cut..]);
        writer.close().unwrap();
        assert_eq!(contents(dir.path()), contents(expected.path()));
    }
}
