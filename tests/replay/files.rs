//! Replays as they lie on disk: whole ones come back, and no damage goes unnoticed.

use crate::made::*;
use proptest::prelude::*;
use ringmaster::replay::*;
use std::fs;
use tempfile::tempdir;

#[test]
fn a_replay_comes_back() {
    let records = rounds(25);
    let dir = whole(&records, 10);
    let names: Vec<String> = contents(dir.path()).into_keys().collect();
    let shards = [0, 1, 2].map(|number| format!("rounds-{number:06}.shard"));
    assert_eq!(names[0], "manifest.json");
    assert_eq!(names[1..], shards);
    let reader = ReplayReader::open(dir.path()).unwrap();
    assert_eq!(reader.manifest().status, Status::Complete);
    assert_eq!(reader.manifest().settings["noise"]["alpha"], 0.3);
    assert!(reader.unfinished().is_empty());
    let mut read = reader.records();
    let stored: Vec<Stored> = read.by_ref().map(|stored| stored.unwrap()).collect();
    // At its end it stays.
    assert!(read.next().is_none() && read.next().is_none());
    let bytes: Vec<&Vec<u8>> = stored.iter().map(|stored| &stored.bytes).collect();
    assert_eq!(bytes, records.iter().collect::<Vec<_>>());
    let summary = verify(dir.path()).unwrap();
    let mut digest = Digest::new();
    for (round, bytes) in records.iter().enumerate().rev() {
        digest.push(round as u64, bytes).unwrap();
    }
    assert_eq!(reader.manifest().digest, summary.digest);
    assert_eq!(reader.manifest().rounds_kept, 25);
    let decisions: usize = stored.iter().map(|stored| stored.record.decisions()).sum();
    assert_eq!(summary.digest, digest.finish());
    assert_eq!((summary.rounds, summary.status), (25, Status::Complete));
    assert_eq!(summary.decisions, decisions as u64);
    assert_eq!(summary.simulations, decisions as u64 * VISITS);
    let lines = shown_rounds(dir.path());
    assert_eq!(lines.len(), 25);
    assert_eq!(lines[24]["round"], 24);
}

/// A shard that is gone leaves no damaged byte behind; the manifest tells.
#[test]
fn lost_and_swapped_shards_are_found() {
    let records = rounds(9);
    let dir = tempdir().unwrap();
    let mut writer = create(dir.path(), &manifest(20, 3));
    push_all(&mut writer, &records);
    writer.close().unwrap();
    let shard = |number| dir.path().join(format!("rounds-{number:06}.shard"));
    fs::copy(shard(1), shard(3)).unwrap();
    let error = one_line(&verify(dir.path()).unwrap_err());
    assert!(error.contains("rounds-000003.shard: damaged at byte 12: round 3: is there a second"));
    fs::remove_file(shard(3)).unwrap();
    verify(dir.path()).unwrap();
    fs::remove_file(shard(2)).unwrap();
    let error = one_line(&verify(dir.path()).unwrap_err());
    assert!(
        error.contains("the run kept 9 rounds, but the folder holds 6"),
        "{error}"
    );
    let other = tempdir().unwrap();
    let mut strange = records.clone();
    strange[8] = encode(&play(8, Deal::small(77)));
    write(other.path(), &strange, 3);
    fs::copy(other.path().join("rounds-000002.shard"), shard(2)).unwrap();
    let error = one_line(&verify(dir.path()).unwrap_err());
    assert!(error.contains("another digest"), "{error}");
}

#[test]
fn a_replay_of_no_round() {
    let dir = whole(&[], 10);
    let summary = verify(dir.path()).unwrap();
    assert_eq!((summary.rounds, summary.status), (0, Status::Complete));
    assert_eq!(contents(dir.path()).len(), 1);
}

#[test]
fn every_bit_of_a_manifest_and_a_small_shard_counts() {
    let dir = whole(&rounds(1), 4);
    for (name, bytes) in contents(dir.path()) {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(dir.path().join(&name), flipped).unwrap();
            let error = one_line(&verify(dir.path()).unwrap_err());
            assert!(error.contains(&name), "bit {bit}: {error}");
        }
        fs::write(dir.path().join(&name), bytes).unwrap();
    }
    verify(dir.path()).unwrap();
}

#[test]
fn every_cut_is_found() {
    let dir = whole(&rounds(3), 4);
    for (name, bytes) in contents(dir.path()) {
        for length in 0..bytes.len() {
            fs::write(dir.path().join(&name), &bytes[..length]).unwrap();
            let error = one_line(&verify(dir.path()).unwrap_err());
            assert!(error.contains(&name), "{length} bytes: {error}");
            assert!(
                !name.ends_with("shard") || error.contains("byte "),
                "{error}"
            );
        }
        fs::write(dir.path().join(&name), [&bytes[..], b"\0"].concat()).unwrap();
        verify(dir.path()).unwrap_err();
        fs::write(dir.path().join(&name), bytes).unwrap();
    }
}

#[test]
fn verify_finds_what_no_checksum_can() {
    let good = || play(0, Deal::small(3));
    let refused = |record: RoundRecord, what: &str| {
        let dir = tempdir().unwrap();
        let mut writer = create(dir.path(), &manifest(1, 4));
        push(&mut writer, &encode(&record)).unwrap();
        writer.close().unwrap();
        let error = one_line(&verify(dir.path()).unwrap_err());
        assert!(
            error.contains("rounds-000000.shard: damaged at byte 12: round 0: "),
            "{error}"
        );
        assert!(error.contains(what), "{error}");
        assert!(error.matches("round 0").count() == 1, "{error}");
    };
    let mut record = good();
    record.visits[0] += 1;
    refused(record, "decision 0 has 25 visits, not 24");
    let mut record = good();
    record.values[0] = 12.5;
    refused(record, "decision 0 expects 12.5 points");
    let mut record = good();
    record.values[0] = -0.5;
    refused(record, "decision 0 expects -0.5 points");
    let mut record = good();
    record.actions[0] = 40;
    refused(record, "is not legal");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// One flipped bit, anywhere in a shard or the manifest, is found.
    #[test]
    fn flipped_bits_are_found(
        file in 0..3_usize, at in any::<prop::sample::Index>(), bit in 0..8_u8,
    ) {
        let dir = whole(&rounds(7), 4);
        let (name, mut bytes) = contents(dir.path()).into_iter().nth(file).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        fs::write(dir.path().join(&name), bytes).unwrap();
        let error = one_line(&verify(dir.path()).unwrap_err());
        prop_assert!(error.contains(&name), "{}", error);
    }
}
