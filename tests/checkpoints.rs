//! Checkpoints come and go as trainers, copying programs and clocks will have it: what is new is
//! noticed whatever its date, what is not finished is left alone, and a replay goes on without the
//! file that its weights once were.
#![allow(clippy::unwrap_used)]

#[path = "support/run.rs"]
mod run;
#[path = "support/stage.rs"]
mod stage;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use ringmaster::replay::Manifest;
use run::*;
use serde_json::Value;
use stage::*;
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

const ENGINE: &str = "--workers 1 --in-flight 8";
const DAY: Duration = Duration::from_secs(86_400);

/// A folder of checkpoints with the first network in it.
fn checkpoints(stage: &Stage) -> PathBuf {
    let folder = stage.place.out("checkpoints");
    fs::create_dir(&folder).unwrap();
    put_dated(
        stage,
        1,
        &folder.join("step-1.safetensors"),
        SystemTime::now() - DAY,
    );
    folder
}

/// Puts a network at a place at one stroke, as written at that time.
fn put_dated(stage: &Stage, seed: u64, place: &Path, written: SystemTime) {
    let whole = stage.place.out("whole");
    fs::copy(stage.file(seed), &whole).unwrap();
    let file = File::options().write(true).open(&whole).unwrap();
    file.set_modified(written).unwrap();
    fs::rename(whole, place).unwrap();
}

/// The networks that have come to play, by their seeds.
fn played(stage: &Stage, out: &Path) -> Vec<u64> {
    let seed_of = |hash: &str| (1..9).find(|&seed| stage.hash(seed) == hash).unwrap_or(0);
    let networks = Manifest::read(out).unwrap().networks;
    networks
        .iter()
        .map(|network| seed_of(&network.weights))
        .collect()
}

fn count(text: &str, what: &str) -> usize {
    text.lines().filter(|line| line.contains(what)).count()
}

#[test]
fn what_comes_into_a_folder_is_noticed_whatever_its_date() {
    let stage = Stage::new("", ENGINE);
    let folder = checkpoints(&stage);
    let now = SystemTime::now();
    // The clock was ahead once: this one seems the newest for a day.
    put_dated(&stage, 2, &folder.join("step-2.safetensors"), now + DAY);
    let out = stage.place.out("replay");
    let running = stage.start_from(&folder, &out, ENDLESS);
    wait_for_more(&out);
    // What `cp -p` and `rsync -t` leave: an old date.
    put_dated(&stage, 3, &folder.join("step-3.safetensors"), now - 9 * DAY);
    wait_for_networks(&out, 2);
    // Nothing new: another name, other permissions, a second name.
    fs::rename(
        folder.join("step-1.safetensors"),
        folder.join("first.safetensors"),
    )
    .unwrap();
    fs::hard_link(
        folder.join("step-2.safetensors"),
        folder.join("second.safetensors"),
    )
    .unwrap();
    let readable = fs::Permissions::from_mode(0o444);
    fs::set_permissions(folder.join("step-2.safetensors"), readable).unwrap();
    wait_for_more(&out);
    put_dated(&stage, 4, &folder.join("step-3.safetensors"), now - 8 * DAY);
    wait_for_networks(&out, 3);
    interrupt(running);
    assert_eq!(played(&stage, &out), [2, 3, 4]);
    // Gone on with, it does not go back to the one whose date is ahead.
    let running = stage.start_from(&folder, &out, &format!("{ENDLESS} --resume"));
    wait_for_more(&out);
    put_dated(&stage, 5, &folder.join("step-5.safetensors"), now);
    wait_for_networks(&out, 4);
    interrupt(running);
    assert_eq!(played(&stage, &out), [2, 3, 4, 5]);
    stage.check(&out);
}

/// Overwrites a file where it lies.
fn overwrite(place: &Path, bytes: &[u8]) -> File {
    let mut file = OpenOptions::new().write(true).open(place).unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[test]
fn a_file_that_is_overwritten_with_its_size_and_dates_kept_is_noticed() {
    let stage = Stage::new("", ENGINE);
    let place = stage.place.weights();
    let out = stage.place.out("replay");
    let running = stage.start(&out, "", "");
    wait_for_more(&out);
    let before = place.metadata().unwrap();
    let file = overwrite(&place, &fs::read(stage.file(2)).unwrap());
    let times = FileTimes::new()
        .set_modified(before.modified().unwrap())
        .set_accessed(before.accessed().unwrap());
    file.set_times(times).unwrap();
    drop(file);
    wait_for_networks(&out, 2);
    interrupt(running);
    assert_eq!(played(&stage, &out), [1, 2]);
}

/// A file of full size is a whole network at every moment, if not one that anybody trained.
#[test]
fn a_file_that_is_being_filled_is_left_alone_until_it_is_still() {
    let stage = Stage::new("", ENGINE);
    let place = stage.place.weights();
    let out = stage.place.out("replay");
    let flags = stage.flags("--rounds 100000000 --reload-s 1");
    let mut running = stage.place.start(&out, &flags, "");
    let said = running.listen();
    wait_for_more(&out);
    let whole = fs::read(stage.file(2)).unwrap();
    let half = whole.len() / 2;
    let mut file = overwrite(&place, &whole);
    // Longer than a look takes to come, in steps far shorter than what counts as still.
    let start = Instant::now();
    for turn in 0_usize.. {
        if start.elapsed() > Duration::from_millis(2500) {
            break;
        }
        let mut bytes = whole.clone();
        bytes[half..half + 4 * (turn % 100)].fill(0);
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(&bytes).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(&whole).unwrap();
    drop(file);
    wait_for_networks(&out, 2);
    interrupt(running);
    assert_eq!(played(&stage, &out), [1, 2], "{}", said.text());
}

#[test]
fn what_is_unfinished_is_said_once_or_not_at_all() {
    let stage = Stage::new("", ENGINE);
    let folder = checkpoints(&stage);
    let out = stage.place.out("replay");
    mkfifo(&folder.join("pipe.safetensors"), Mode::S_IRWXU).unwrap();
    let mut running = stage.start_from(&folder, &out, ENDLESS);
    let said = running.listen();
    wait_for_more(&out);
    // The name that rsync gives to what it is still copying, whole here to tempt.
    fs::copy(stage.file(3), folder.join(".2.tmp.safetensors")).unwrap();
    mkfifo(&folder.join("later.safetensors"), Mode::S_IRWXU).unwrap();
    wait_for_more(&out);
    let whole = fs::read(stage.file(2)).unwrap();
    let (mut written, end) = (whole.len() / 2, whole.len());
    let growing = folder.join("step-2.safetensors");
    let mut file = File::create(&growing).unwrap();
    file.write_all(&whole[..written]).unwrap();
    let ignored = "new weights ignored";
    wait_until("it is said", || said.text().contains(ignored));
    while written < end {
        let next = (written + end / 10).min(end);
        file.write_all(&whole[written..next]).unwrap();
        written = next;
        // Long enough to be looked at.
        wait_for_more(&out);
    }
    wait_for_networks(&out, 2);
    interrupt(running);
    let text = said.text();
    assert_eq!(count(&text, ignored), 1, "{text}");
    assert!(text.contains("step-2.safetensors: not a whole"), "{text}");
    assert_eq!(played(&stage, &out), [1, 2]);
}

#[test]
fn new_weights_that_overflow_are_said_once_and_ignored() {
    let stage = Stage::new("", ENGINE);
    let out = stage.place.out("replay");
    let large = stage.place.out("large");
    let mut bytes = fs::read(stage.file(2)).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for value in bytes[header..].as_chunks_mut::<4>().0 {
        *value = (f32::from_le_bytes(*value) * 1e30).to_le_bytes();
    }
    fs::write(&large, &bytes).unwrap();
    let refused = stage.start_from(&large, &out, "--rounds 1").finish();
    assert_eq!(
        (refused.code, count(&refused.stderr, "overflows")),
        (Some(1), 1)
    );
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    assert!(!out.exists());
    let mut running = stage.start(&out, "", "");
    let said = running.listen();
    wait_for_more(&out);
    stage.put_file(&large);
    wait_until("it is said", || said.text().contains("overflows"));
    wait_for_more(&out);
    stage.put(3);
    wait_for_networks(&out, 2);
    interrupt(running);
    assert_eq!(
        count(&said.text(), "new weights ignored"),
        1,
        "{}",
        said.text()
    );
    assert_eq!(played(&stage, &out), [1, 3]);
}

#[test]
fn a_replay_goes_on_without_the_file_of_its_weights() {
    let stage = Stage::new("", ENGINE);
    let (out, home) = (stage.place.out("replay"), stage.place.folder.path());
    let start = |folder: &Path, weights: &str, more: &str| {
        let mut command = ringmaster();
        let flags = stage.flags(more);
        command
            .current_dir(folder)
            .arg("selfplay")
            .args(flags.split_whitespace());
        command.args(weights.split_whitespace());
        command.arg("--json").arg("--out").arg(&out);
        command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        Running(command.spawn().unwrap())
    };
    let running = start(home, "--weights small.safetensors", ENDLESS);
    wait_for_more(&out);
    interrupt(running);
    // From elsewhere: the path is not relative to there.
    let elsewhere = stage.place.out("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let running = start(&elsewhere, "", "--resume");
    wait_for_more(&out);
    let ended = interrupt(running);
    assert!(!ended.stderr.contains("cannot read"), "{}", ended.stderr);
    // Replays of earlier versions hold the path as it was given.
    let mut earlier = Manifest::read(&out).unwrap();
    earlier.notes["weights"] = "small.safetensors".into();
    earlier.write(&out).unwrap();
    let running = start(&elsewhere, "", "--resume");
    wait_for_more(&out);
    let said = interrupt(running).stderr;
    assert_eq!(count(&said, "own copy plays"), 1, "{said}");
    let running = start(home, "--weights small.safetensors", "--resume");
    wait_for_more(&out);
    interrupt(running);
    // A name that is wrong is wrong, even so.
    let wrong = start(home, "--weights smal.safetensors", "--resume").finish();
    assert_eq!(wrong.code, Some(1), "{}", wrong.stderr);
    // Moved away, then spoilt.
    let place = stage.place.weights();
    fs::remove_file(&place).unwrap();
    for what in ["No such file", "not a whole safetensors file"] {
        let mut running = start(home, "", "--resume");
        let said = running.listen();
        wait_for_more(&out);
        interrupt(running);
        assert_eq!(count(&said.text(), what), 1, "{}", said.text());
        fs::write(&place, "spoilt").unwrap();
    }
    assert_eq!(played(&stage, &out), [1]);
    stage.check(&out);
}

#[test]
fn what_came_while_nobody_played_is_taken_up_as_if_somebody_had() {
    let stage = Stage::new("", ENGINE);
    let folder = checkpoints(&stage);
    for place in [folder.clone(), stage.place.weights()] {
        let out = stage.place.out(&format!("replay-{}", place.is_dir()));
        let new = match place.is_dir() {
            true => folder.join("step-2.safetensors"),
            false => place.clone(),
        };
        stage.put(1);
        let running = stage.start_from(&place, &out, ENDLESS);
        wait_for_more(&out);
        let first = interrupt(running);
        let kept = first.report()["rounds"].as_u64().unwrap();
        put_dated(&stage, 2, &new, SystemTime::now());
        // Nobody would have looked.
        let still = stage
            .start_from(&place, &out, "--resume --reload-s 0")
            .finish();
        assert_eq!((still.code, count(&still.stderr, "--append")), (Some(1), 1));
        let running = stage.start_from(&place, &out, &format!("{ENDLESS} --resume"));
        wait_for_networks(&out, 2);
        interrupt(running);
        assert_eq!(played(&stage, &out), [1, 2]);
        assert!(Manifest::read(&out).unwrap().networks[1].from_round >= kept);
        assert!(stage.check(&out)[1] > 0);
    }
}

#[test]
fn a_complete_replay_goes_on_by_other_weights_alone() {
    let stage = Stage::new("", ENGINE);
    let out = stage.place.out("replay");
    let play = |seed: u64, more: &str| -> Value {
        let ended = stage.start_from(&stage.file(seed), &out, more).finish();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended.report()
    };
    play(1, "--rounds 40");
    let report = play(2, "--rounds 100 --append");
    assert_eq!(report["networks"][1]["from_round"], 40);
    assert_eq!(stage.check(&out), [40, 60]);
    assert_eq!(copies(&out), [""; 0]);
}
