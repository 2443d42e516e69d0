//! Runs that are interrupted, killed, resumed, refused, or meet a full disk.

use crate::made::*;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use proptest::prelude::*;
use ringmaster::replay::*;
use serde_json::json;
use std::fs;
use tempfile::tempdir;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn order_of_finishing_leaves_no_trace(
        order in Just((0..23_u64).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let records = rounds(23);
        let expected = whole(&records, 5);
        let dir = tempdir().unwrap();
        let mut writer = create(dir.path(), &manifest(23, 5));
        for &round in &order {
            push(&mut writer, &records[round as usize]).unwrap();
            prop_assert!(writer.contains(round));
            prop_assert_eq!(push(&mut writer, &records[round as usize]).unwrap(), Pushed::Repeated);
        }
        prop_assert_eq!((writer.waiting(), writer.written()), (0, 23));
        writer.close().unwrap();
        prop_assert_eq!(contents(dir.path()), contents(expected.path()));
    }

    /// Interrupted at any point, in any order, with close or killed: resume keeps what is whole,
    /// asks for the rest, and the digest is that of an undisturbed run.
    #[test]
    fn interrupted_runs_go_on(
        order in Just((0..23_u64).collect::<Vec<_>>()).prop_shuffle(),
        stop in 0..24_usize,
        killed in any::<bool>(),
        torn in 0..40_usize,
    ) {
        let records = rounds(23);
        let expected = whole(&records, 5);
        let dir = tempdir().unwrap();
        let mut writer = create(dir.path(), &manifest(23, 5));
        for &round in &order[..stop] {
            push(&mut writer, &records[round as usize]).unwrap();
        }
        let mut kept: Vec<u64> = if killed {
            let written = writer.written();
            drop(writer);
            (0..written).collect()
        } else {
            let status = writer.close().unwrap().status;
            prop_assert_eq!(status == Status::Complete, stop == 23);
            verify(dir.path()).unwrap();
            order[..stop].to_vec()
        };
        kept.sort();
        // A kill in the middle of a write leaves a piece of a frame.
        for (name, mut bytes) in contents(dir.path()) {
            if name.starts_with("rounds") && name.ends_with(".part") {
                bytes.extend_from_slice(&[&[200, 0, 0, 0][..], &[7; 40]].concat()[..torn]);
                fs::write(dir.path().join(name), bytes).unwrap();
            }
        }
        let (mut writer, there) = resume(dir.path(), &manifest(23, 5));
        prop_assert_eq!(there.into_iter().flatten().collect::<Vec<_>>(), kept);
        for round in 0..23 {
            if !writer.contains(round) {
                push(&mut writer, &records[round as usize]).unwrap();
            }
        }
        prop_assert_eq!(writer.close().unwrap().status, Status::Complete);
        let (got, wanted) = (verify(dir.path()).unwrap(), verify(expected.path()).unwrap());
        prop_assert_eq!(got, wanted);
        if killed {
            prop_assert_eq!(contents(dir.path()), contents(expected.path()));
        }
    }
}

/// Ended with no round missing, a run goes on to the very files of an undisturbed one, even if it
/// is killed before it got far.
#[test]
fn a_run_ended_without_gaps_leaves_no_trace() {
    let records = rounds(13);
    let expected = whole(&records, 5);
    for stop in 0..=13_u64 {
        // Not killed, or with so many new rounds.
        for killed in [None, Some(0), Some(1)] {
            let dir = tempdir().unwrap();
            let mut writer = create(dir.path(), &manifest(13, 5));
            push_all(&mut writer, &records[..stop as usize]);
            writer.close().unwrap();
            let mut stop = stop;
            if let Some(more) = killed {
                let mut writer = resume(dir.path(), &manifest(13, 5)).0;
                for round in (stop..13).take(more) {
                    push(&mut writer, &records[round as usize]).unwrap();
                    stop = round + 1;
                }
                drop(writer);
                verify(dir.path()).unwrap();
            }
            let (mut writer, there) = resume(dir.path(), &manifest(13, 5));
            assert_eq!(there.iter().cloned().flatten().count() as u64, stop);
            push_all(&mut writer, &records[stop as usize..13]);
            writer.close().unwrap();
            assert_eq!(contents(dir.path()), contents(expected.path()), "{stop}");
        }
    }
}

/// A resume that adds no round leaves every shard as it is, killed or not, and every round to be
/// seen.
#[test]
fn a_resume_that_adds_no_round_hides_none() {
    let records = rounds(13);
    // Short last shards and a full one, complete and not.
    for (stop, wanted) in [(13, 13), (13, 20), (10, 13), (7, 13), (0, 13)] {
        let dir = tempdir().unwrap();
        let mut writer = create(dir.path(), &manifest(stop, 5));
        push_all(&mut writer, &records[..stop as usize]);
        writer.close().unwrap();
        let (before, told) = (contents(dir.path()), shown(dir.path()));
        for closed in [false, true] {
            let (writer, there) = resume(dir.path(), &manifest(wanted, 5));
            assert_eq!(there.into_iter().flatten().count() as u64, stop);
            if closed {
                writer.close().unwrap();
            } else {
                drop(writer);
            }
            let found = verify(dir.path()).unwrap();
            assert_eq!((found.rounds, found.unfinished_shards), (stop, 0));
            assert_eq!(shown(dir.path()), told);
            let out = tempdir().unwrap();
            let exported = export(dir.path(), out.path()).unwrap();
            assert_eq!(exported.rows, found.decisions);
            let mut after = contents(dir.path());
            if stop != wanted {
                after.insert("manifest.json".into(), before["manifest.json"].clone());
            }
            assert!(after == before, "{stop} of {wanted}: a file was touched");
        }
    }
}

/// Rounds that were counted are not given up for what a short shard has become since: then it is
/// left as it is.
#[test]
fn a_short_shard_that_changes_before_it_is_gone_on_with_is_refused() {
    let records = rounds(4);
    let dir = whole(&records[..3], 5);
    let shard = dir.path().join("rounds-000000.shard");
    let bytes = fs::read(&shard).unwrap();
    let changes = [
        bytes[..bytes.len() - 1].to_vec(),
        [&bytes[..], b"\0"].concat(),
        Vec::new(),
    ];
    let (mut writer, _) = resume(dir.path(), &manifest(4, 5));
    for changed in changes {
        fs::write(&shard, &changed).unwrap();
        let error = one_line(&push(&mut writer, &records[3]).unwrap_err());
        assert!(error.contains("it has changed since it was"), "{error}");
        assert!(fs::read(&shard).unwrap() == changed, "it was touched");
    }
    fs::remove_file(&shard).unwrap();
    let error = one_line(&push(&mut writer, &records[3]).unwrap_err());
    assert!(error.contains("rounds-000000.shard"), "{error}");
    // What has taken its next name is not written over; after that it goes on, to the files of an
    // undisturbed run.
    fs::write(&shard, &bytes).unwrap();
    fs::create_dir(shard.with_extension("part")).unwrap();
    let error = one_line(&push(&mut writer, &records[3]).unwrap_err());
    assert!(error.contains("cannot rename"), "{error}");
    fs::remove_dir(shard.with_extension("part")).unwrap();
    assert_eq!(push(&mut writer, &records[3]).unwrap(), Pushed::Repeated);
    writer.close().unwrap();
    assert_eq!(contents(dir.path()), contents(whole(&records, 5).path()));
}

/// A part cut at every length gives back its whole rounds; the rest is played again.
#[test]
fn every_cut_of_a_part_is_mended() {
    let records = rounds(3);
    let made = tempdir().unwrap();
    let mut writer = create(made.path(), &manifest(3, 10));
    push_all(&mut writer, &records[..3]);
    drop(writer);
    let part = fs::read(made.path().join("rounds-000000.part")).unwrap();
    let expected = whole(&records, 10);
    let mut wholes = 0;
    for length in 0..=part.len() {
        fs::write(made.path().join("rounds-000000.part"), &part[..length]).unwrap();
        let dir = tempdir().unwrap();
        for (name, bytes) in contents(made.path()) {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        let (mut writer, there) = resume(dir.path(), &manifest(3, 10));
        let count = there.first().map_or(0, |range| range.end);
        assert!(there.len() <= 1 && count >= wholes, "{length}: {there:?}");
        wholes = count;
        push_all(&mut writer, &records[count as usize..3]);
        writer.close().unwrap();
        assert_eq!(contents(dir.path()), contents(expected.path()), "{length}");
    }
    assert_eq!(wholes, 3);
}

#[test]
fn a_damaged_shard_moved_away_is_played_again() {
    let records = rounds(12);
    let dir = whole(&records, 5);
    let before = contents(dir.path());
    let shard = dir.path().join("rounds-000001.shard");
    let mut bytes = fs::read(&shard).unwrap();
    bytes[40] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let error = ReplayWriter::resume(dir.path(), &manifest(12, 5), false).unwrap_err();
    assert!(one_line(&error).contains("rounds-000001.shard: damaged at byte 12"));
    fs::remove_file(&shard).unwrap();
    let error = one_line(&verify(dir.path()).unwrap_err());
    assert!(error.contains("round 5 is missing"), "{error}");
    let (mut writer, there) = resume(dir.path(), &manifest(12, 5));
    assert_eq!(there, [0..5, 10..12]);
    push_all(&mut writer, &records[5..10]);
    writer.close().unwrap();
    assert_eq!(contents(dir.path()), before);
}

#[test]
fn the_wrong_folder_is_refused() {
    let records = rounds(3);
    let dir = whole(&records, 4);
    let error = ReplayWriter::create(dir.path(), &manifest(3, 4)).unwrap_err();
    assert!(one_line(&error).contains("--resume"), "{error}");

    let empty = tempdir().unwrap();
    let error = ReplayWriter::resume(empty.path(), &manifest(3, 4), false).unwrap_err();
    assert!(
        one_line(&error).contains("holds no replay to resume"),
        "{error}"
    );
    let absent = empty.path().join("absent");
    let error = ReplayWriter::resume(&absent, &manifest(3, 4), false).unwrap_err();
    assert!(
        one_line(&error).contains("holds no replay to resume"),
        "{error}"
    );
    // One that cannot be looked into may hold one.
    let circle = empty.path().join("circle");
    std::os::unix::fs::symlink("circle", &circle).unwrap();
    let error = ReplayWriter::resume(&circle, &manifest(3, 4), false).unwrap_err();
    assert!(
        one_line(&error).contains("circle/manifest.json: cannot open: Too many levels"),
        "{error}"
    );
    fs::remove_file(&circle).unwrap();
    let error = one_line(&ReplayReader::open(&absent).unwrap_err());
    assert!(error.contains("absent"), "{error}");
    let error = ReplayReader::open(empty.path()).unwrap_err();
    assert!(
        one_line(&error).contains("it has no manifest.json"),
        "{error}"
    );

    fs::write(empty.path().join("holiday.jpg"), "a picture").unwrap();
    for error in [
        ReplayWriter::create(empty.path(), &manifest(3, 4)).unwrap_err(),
        ReplayWriter::resume(empty.path(), &manifest(3, 4), false).unwrap_err(),
    ] {
        assert!(one_line(&error).contains("holiday.jpg"), "{error}");
    }
    assert_eq!(
        fs::read_dir(empty.path()).unwrap().count(),
        1,
        "left as it was"
    );

    fs::write(
        dir.path().join("rounds-000001.shard"),
        "a picture, not a shard",
    )
    .unwrap();
    let error = one_line(&verify(dir.path()).unwrap_err());
    assert!(
        error.contains("rounds-000001.shard: not a shard"),
        "{error}"
    );
    let mut other = fs::read(dir.path().join("rounds-000000.shard")).unwrap();
    other[8] = 9;
    fs::write(dir.path().join("rounds-000001.shard"), other).unwrap();
    let error = one_line(&verify(dir.path()).unwrap_err());
    assert!(
        error.contains("format 9, this program reads formats 2 to 3"),
        "{error}"
    );
    let web = tempdir().unwrap();
    fs::write(web.path().join("manifest.json"), r#"{"name": "a web app"}"#).unwrap();
    for error in [
        ReplayWriter::resume(web.path(), &manifest(3, 4), false).unwrap_err(),
        ReplayReader::open(web.path()).unwrap_err(),
    ] {
        assert!(
            one_line(&error).contains("not a replay's manifest"),
            "{error}"
        );
    }
    assert_eq!(
        fs::read_dir(web.path()).unwrap().count(),
        1,
        "left as it was"
    );
    let plain = empty.path().join("file");
    fs::write(&plain, "").unwrap();
    let error = one_line(&ReplayWriter::create(&plain, &manifest(3, 4)).unwrap_err());
    assert!(error.contains("file: cannot create folder"), "{error}");
}

/// The root of a file system, a shared disk, a folder that was looked at: what systems put there is
/// nobody's work.
#[test]
fn what_systems_leave_in_a_folder_does_not_count() {
    let dir = tempdir().unwrap();
    for folder in [
        "lost+found",
        ".Trash-1000",
        "System Volume Information",
        ".snapshot",
    ] {
        fs::create_dir(dir.path().join(folder)).unwrap();
    }
    for file in [
        ".DS_Store",
        "Thumbs.db",
        ".nfs000000000012ab",
        "._x",
        "desktop.ini",
    ] {
        fs::write(dir.path().join(file), "x").unwrap();
    }
    let before = fs::read_dir(dir.path()).unwrap().count();
    drop(create(dir.path(), &manifest(3, 4)));
    // The manifest and the lock are new.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before + 2);
    // Names that only look like it are a user's.
    for name in ["lost+found.txt", "nfs", "DS_Store", ".snapshots"] {
        let dir = tempdir().unwrap();
        fs::write(dir.path().join(name), "x").unwrap();
        let error = one_line(&ReplayWriter::create(dir.path(), &manifest(3, 4)).unwrap_err());
        assert!(error.contains(name), "{error}");
    }
}

/// Two starts with the same number in mind: each has a folder of its own.
#[test]
fn new_folders_are_made_and_never_shared() {
    let dir = tempdir().unwrap();
    let replays = dir.path().join("replays");
    let mut folders: Vec<_> = std::thread::scope(|scope| {
        let starts = [(); 8].map(|()| scope.spawn(|| new_folder(&replays).unwrap()));
        starts.map(|start| start.join().unwrap()).into()
    });
    folders.sort();
    let expected: Vec<_> = (1..=8).map(|n| replays.join(format!("{n:04}"))).collect();
    assert_eq!(folders, expected);
    fs::remove_dir(&folders[2]).unwrap();
    fs::write(&folders[2], "a file is in the way").unwrap();
    assert_eq!(new_folder(&replays).unwrap(), replays.join("0009"));
}

/// Nothing is removed that was not made here: what is no manifest of ours, and no shard.
#[test]
fn what_only_has_our_names_is_kept() {
    let dir = tempdir().unwrap();
    let part = dir.path().join("manifest.json.part");
    for (left, is_ours) in [
        ("", true),
        ("{\n  \"format\": \"ringm", true),
        ("\0\0\0", true),
        ("{\"thesis\": 1}", false),
    ] {
        fs::write(&part, left).unwrap();
        let created = ReplayWriter::create(dir.path(), &manifest(3, 4));
        assert_eq!(created.is_ok(), is_ours, "{left:?}");
        if is_ours {
            fs::remove_file(dir.path().join("manifest.json")).unwrap();
        }
    }
    assert_eq!(fs::read(&part).unwrap(), b"{\"thesis\": 1}");

    let dir = tempdir().unwrap();
    drop(create(dir.path(), &manifest(3, 4)));
    let shard = dir.path().join("rounds-000000.part");
    fs::write(&shard, "thesis").unwrap();
    let error = ReplayWriter::resume(dir.path(), &manifest(3, 4), false).unwrap_err();
    assert!(one_line(&error).contains("not a shard"), "{error}");
    assert_eq!(fs::read(&shard).unwrap(), b"thesis");
}

#[test]
fn two_writers_are_refused() {
    let dir = tempdir().unwrap();
    let writer = create(dir.path(), &manifest(3, 4));
    let error = ReplayWriter::resume(dir.path(), &manifest(3, 4), false).unwrap_err();
    assert!(
        one_line(&error).contains("another run is writing"),
        "{error}"
    );
    drop(writer);
    resume(dir.path(), &manifest(3, 4));
}

#[test]
fn another_run_is_not_resumed() {
    let dir = tempdir().unwrap();
    let base = manifest(3, 4);
    drop(create(dir.path(), &base));
    let refused = |change: &dyn Fn(&mut Manifest), what: &str| {
        let mut other = base.clone();
        change(&mut other);
        let error = one_line(&ReplayWriter::resume(dir.path(), &other, false).unwrap_err());
        assert!(error.contains(what), "{error}");
    };
    refused(
        &|m| m.seed = 43,
        "another seed: the replay has 42, this run has 43",
    );
    refused(
        &|m| m.networks[0].weights = "ff".into(),
        "end with other weights (0123abcd) than these (ff)",
    );
    refused(&|m| m.backend = "cuda".into(), "another backend");
    refused(&|m| m.program = "9.9".into(), "another program");
    refused(
        &|m| m.visits_per_decision = 9,
        "visits_per_decision: the replay has 24",
    );
    refused(
        &|m| m.settings["noise"]["alpha"] = json!(0.25),
        "another settings.noise.alpha: the replay has 0.3, this run has 0.25",
    );
    refused(
        &|m| m.settings["new"] = json!(1),
        "settings.new: the replay has null, this run has 1",
    );
    // Of several the first in this order: what may be held follows from the settings.
    type Change = fn(&mut Manifest);
    let changes: [(Change, &str); 6] = [
        (|m| m.program = "9.9".into(), "program"),
        (|m| m.seed = 43, "seed"),
        (|m| m.backend = "cuda".into(), "backend"),
        (|m| m.settings["cards"] = json!(1), "settings.cards"),
        (|m| m.visits_per_decision = 9, "visits_per_decision"),
        (|m| *m = m.clone().holding(may_hold()), "may_hold"),
    ];
    for (first, (_, field)) in changes.iter().enumerate() {
        let all = |m: &mut Manifest| changes[first..].iter().for_each(|(change, _)| change(m));
        refused(&all, &format!("cannot resume with another {field}"));
    }
    let mut more = base.clone();
    more.rounds = 30;
    more.notes = json!({"workers": 7});
    more.rounds_per_shard = 1;
    let (writer, _) = resume(dir.path(), &more);
    let closed = writer.close().unwrap();
    assert_eq!((closed.rounds, closed.rounds_per_shard), (30, 4));
    assert_eq!(closed.status, Status::Interrupted);
    assert_eq!(Manifest::read(dir.path()).unwrap(), closed);
}

#[test]
fn what_is_pushed_is_checked() {
    let dir = tempdir().unwrap();
    let records = rounds(4);
    let mut writer = create(dir.path(), &manifest(3, 4));
    let mut refused = |bytes: &[u8], what: &str| {
        let error = one_line(&push(&mut writer, bytes).unwrap_err());
        assert!(error.contains(what), "{error}");
    };
    refused(&records[3], "only rounds 0 to 2");
    let mut strange = play(0, Deal::small(0));
    strange.seed = SEED + 1;
    refused(&encode(&strange), "of seed 43, not 42");
    let other = encode(&play(1, Deal::small(99)));
    push(&mut writer, &records[1]).unwrap();
    let error = push(&mut writer, &other).unwrap_err();
    assert!(matches!(error, ReplayError::Twice(_)));
    push(&mut writer, &records[0]).unwrap();
    let error = push(&mut writer, &other).unwrap_err();
    assert!(matches!(error, ReplayError::Twice(_)));
    assert_eq!(push(&mut writer, &records[1]).unwrap(), Pushed::Repeated);
}

/// Where creating the next shard fails, and once it no longer does.
#[test]
fn a_refused_shard_loses_nothing() {
    let dir = tempdir().unwrap();
    let records = rounds(6);
    let mut writer = create(dir.path(), &manifest(6, 2));
    let in_the_way = dir.path().join("rounds-000001.part");
    fs::create_dir(&in_the_way).unwrap();
    push(&mut writer, &records[0]).unwrap();
    push(&mut writer, &records[1]).unwrap();
    for round in [2, 3] {
        let error = one_line(&push(&mut writer, &records[round as usize]).unwrap_err());
        assert!(
            error.contains("rounds-000001.part: cannot create"),
            "{error}"
        );
    }
    fs::remove_dir(&in_the_way).unwrap();
    push_all(&mut writer, &records[3..6]);
    assert_eq!(writer.close().unwrap().status, Status::Complete);
    assert_eq!(contents(dir.path()), contents(whole(&records, 2).path()));
}

/// A disk that is full after any number of bytes: the error names the file and the remedy, and once
/// there is room the replay becomes what it would have been, going on or resumed. The limit on file
/// sizes stands in for the disk; it holds for a whole process, so this test starts itself again.
#[test]
fn a_full_disk_loses_nothing() {
    if std::env::var_os("REPLAY_TEST_FULL_DISK").is_some() {
        return fill_the_disk();
    }
    // Ignored, the signal that comes with the limit becomes an error of the write.
    let script = "trap '' XFSZ; exec \"$0\" --exact runs::a_full_disk_loses_nothing";
    let output = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .env("REPLAY_TEST_FULL_DISK", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

fn fill_the_disk() {
    let records = rounds(5);
    let expected = contents(whole(&records, 3).path());
    let largest = expected["rounds-000000.shard"].len() as u64;
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    let mut refused = 0;
    for room in (0..largest + 10).step_by(5) {
        let dir = tempdir().unwrap();
        let mut writer = create(dir.path(), &manifest(5, 3));
        setrlimit(Resource::RLIMIT_FSIZE, room, hard).unwrap();
        for bytes in &records {
            if let Err(error) = push(&mut writer, bytes) {
                let error = one_line(&error);
                assert!(
                    error.contains("rounds-00000") && error.contains("ulimit -f"),
                    "{error}"
                );
                refused += 1;
            }
        }
        setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
        if room % 2 == 0 {
            drop(writer);
            writer = resume(dir.path(), &manifest(5, 3)).0;
            push_all(&mut writer, &records);
        }
        assert_eq!(writer.close().unwrap().status, Status::Complete);
        assert_eq!(contents(dir.path()), expected, "room for {room} bytes");
    }
    assert!(refused > 0);
}

#[test]
fn every_round_is_of_the_network_the_manifest_says() {
    let dir = tempdir().unwrap();
    let records = rounds(6);
    let mut writer = create(dir.path(), &manifest(6, 4));
    push_all(&mut writer, &records[..3]);
    let next = Network {
        weights: "beef".into(),
        from_round: 3,
    };
    writer.add_network(next.clone()).unwrap();
    // Noted at once, and on disk before any round of it.
    assert_eq!(Manifest::read(dir.path()).unwrap().networks[1], next);
    let of = |round: u64, network: u32| {
        let record = RoundRecord::decode(&records[round as usize]).unwrap();
        encode(&RoundRecord { network, ..record })
    };
    for round in 3..6 {
        push(&mut writer, &of(round, u32::from(round < 5))).unwrap();
    }
    writer.close().unwrap();
    let error = one_line(&verify(dir.path()).unwrap_err());
    assert!(
        error.contains("round 5: played by network 0, not 1"),
        "{error}"
    );

    let shown = shown_rounds(dir.path());
    let weights: Vec<&str> = shown
        .iter()
        .map(|r| r["weights"].as_str().unwrap())
        .collect();
    let wanted = [
        "0123abcd", "0123abcd", "0123abcd", "beef", "beef", "0123abcd",
    ];
    assert_eq!(weights, wanted);

    let mut out_of_order = Manifest::read(dir.path()).unwrap();
    out_of_order.networks.push(Network {
        weights: "dead".into(),
        from_round: 2,
    });
    out_of_order.write(dir.path()).unwrap();
    let error = one_line(&Manifest::read(dir.path()).unwrap_err());
    assert!(
        error.contains("its networks do not follow each other"),
        "{error}"
    );
}
