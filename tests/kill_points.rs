//! Death at every point of the table in `src/killpoint.rs`, of the process alone and of all
//! processes at once; and the other ways in which everything can end at the same moment. The replay
//! must be that of an undisturbed run, with nothing left behind.
#![allow(clippy::unwrap_used)]

#[path = "support/run.rs"]
mod run;

use nix::sys::signal::Signal::SIGKILL;
use ringmaster::killpoint::{POINTS, Reached};
use run::*;
use serde_json::Value;
use std::time::Duration;

/// Long enough that a death a few milliseconds after the start is in its middle, with several
/// shards.
const FLAGS: &str = "--rounds 300 --worlds 2 --simulations 24 --in-flight 4 --workers 2 --seed 21";

/// All but those on the way of new weights, which `tests/reload.rs` goes through.
fn points() -> impl Iterator<Item = &'static ringmaster::killpoint::Place> {
    let other =
        |point: &&'static ringmaster::killpoint::Place| point.reached != Reached::WeightsChange;
    POINTS.iter().filter(other)
}

/// Runs to the point, going on with the first rounds of the run if it lies there, and to the
/// process that has stopped there.
fn stop_at(place: &Place, name: &str, point: &ringmaster::killpoint::Place) -> (Running, u32) {
    let wanted = format!("{}:{}:{}", point.process, point.name, nth(point.name));
    let out = place.out(name);
    let mut flags = FLAGS.to_owned();
    if point.reached == Reached::ShortShard {
        place.play(&out, &FLAGS.replace("300", "100"));
        flags += " --resume";
    }
    let mut running = place.start(&out, &flags, &wanted);
    if matches!(point.reached, Reached::EvaluatorDies | Reached::WorkerDies) {
        let children = running.wait_for_children(3);
        // Under way, so that there is something to take back.
        wait_until("rounds are written", || {
            let part = out.join("rounds-000000.part");
            part.metadata().is_ok_and(|data| data.len() > 2000)
        });
        let victim = if point.reached == Reached::EvaluatorDies {
            0
        } else {
            2
        };
        send(children[victim], SIGKILL);
    }
    let mut stopped = None;
    wait_until(&wanted, || {
        let mut all = running.children();
        all.push(running.pid());
        stopped = all.into_iter().find(|&pid| state_of(pid) == Some('T'));
        stopped.is_some() || running.has_ended()
    });
    let stopped = stopped.unwrap_or_else(|| panic!("the run ended without reaching {wanted}"));
    (running, stopped)
}

/// Some points are more telling when the run is well under way.
fn nth(name: &str) -> u32 {
    match name {
        "sends" | "sent" | "took" | "publishing" => 50,
        "gathered" | "evaluated" | "wakes" | "delivers" | "delivered" => 5,
        "records" | "recorded" | "mid-frame" => 20,
        _ => 1,
    }
}

fn resume(place: &Place, name: &str) -> Value {
    let out = place.out(name);
    let mut running = place.start(&out, &format!("{FLAGS} --resume"), "").finish();
    if running.code == Some(1) && running.stderr.contains("holds no replay to resume") {
        // Killed before there was anything.
        running = place.start(&out, FLAGS, "").finish();
    }
    assert_eq!(running.code, Some(0), "{name}: {}", running.stderr);
    running.report()
}

#[test]
fn death_of_one_process_at_every_point() {
    let place = Place::new();
    let digest = place.play(&place.out("undisturbed"), FLAGS)["digest"].clone();
    for point in points() {
        let name = format!("{}-{}", point.process, point.name);
        let (running, stopped) = stop_at(&place, &name, point);
        let (pid, mut all) = (running.pid(), running.children());
        all.push(pid);
        send(stopped, SIGKILL);
        let ended = running.finish();
        let report = if stopped == pid {
            assert_eq!(ended.code, None, "{name}");
            wait_until("the children are gone", || {
                !all.iter().any(|&pid| is_alive(pid))
            });
            // The last child removes it; without children the next start sweeps it.
            let left = segments_of(pid).len();
            assert!(left == 0 || all.len() == 1, "{name}: a segment is left");
            resume(&place, &name)
        } else {
            assert_eq!(ended.code, Some(0), "{name}: {}", ended.stderr);
            ended.report()
        };
        assert_eq!(report["digest"], digest, "{name}");
        assert_eq!(report["rounds_in_replay"], 300, "{name}");
        nothing_is_left(&place.out(&name), &all, &digest, &name);
    }
}

#[test]
fn death_of_everything_at_every_point() {
    let place = Place::new();
    let digest = place.play(&place.out("undisturbed"), FLAGS)["digest"].clone();
    for point in points() {
        let name = format!("{}-{}", point.process, point.name);
        let (running, _) = stop_at(&place, &name, point);
        let all = running.kill_all();
        let report = resume(&place, &name);
        assert_eq!(report["digest"], digest, "{name}");
        assert_eq!(report["rounds_in_replay"], 300, "{name}");
        // The segment of the dead was swept by the start of the living.
        nothing_is_left(&place.out(&name), &all, &digest, &name);
    }
}

/// Goes on with a closed replay, of which rounds are left to play or none, and dies before the
/// first new one.
#[test]
fn death_of_a_resume_before_its_first_round_hides_none() {
    let place = Place::new();
    let out = place.out("replay");
    let flags = FLAGS.replace("300", "100");
    let digest = place.play(&out, &flags)["digest"].clone();
    let shown = || {
        let mut command = ringmaster();
        let output = command.args(["replay", "show"]).arg(&out).output().unwrap();
        assert!(output.status.success());
        output.stdout
    };
    let told = shown();
    for flags in [&flags, FLAGS] {
        for (process, name) in [
            ("coordinator", "created"),
            ("replay", "manifest"),
            ("replay", "manifest-renames"),
            ("coordinator", "spawned"),
            ("worker", "attached"),
            ("coordinator", "closes"),
        ] {
            if flags == FLAGS && name == "closes" {
                continue;
            }
            let wanted = format!("{process}:{name}");
            let mut running = place.start(&out, &format!("{flags} --resume"), &wanted);
            wait_until(&wanted, || {
                let mut all = running.children();
                all.push(running.pid());
                let stopped = all.iter().any(|&pid| state_of(pid) == Some('T'));
                stopped || running.has_ended()
            });
            running.kill_all();
            let found = verify(&out);
            let what = format!("{flags}: {wanted}");
            assert_eq!(found["rounds"], 100, "{what}");
            assert_eq!(found["digest"], digest, "{what}");
            assert_eq!(found["unfinished_shards"], 0, "{what}");
            assert!(shown() == told, "{what}: other rounds are shown");
            let arrays = place.out("arrays");
            let mut command = ringmaster();
            command.arg("export").arg(&out).arg("--out").arg(&arrays);
            let output = command.output().unwrap();
            assert!(output.status.success(), "{what}");
            std::fs::remove_dir_all(arrays).unwrap();
        }
    }
    let whole = place.out("whole");
    let digest = place.play(&whole, FLAGS)["digest"].clone();
    assert_eq!(resume(&place, "replay")["digest"], digest);
    assert!(shards(&out) == shards(&whole), "the files differ");
}

#[test]
fn everything_dies_again_and_again() {
    let place = Place::new();
    let flags = FLAGS.replace("300", "1200");
    let digest = place.play(&place.out("undisturbed"), &flags)["digest"].clone();
    let out = place.out("replay");
    let (mut all, mut kept, mut deaths) = (Vec::new(), 0, 0);
    loop {
        let resume = if deaths == 0 { "" } else { "--resume" };
        let mut running = place.start(&out, &format!("{flags} {resume}"), "");
        std::thread::sleep(Duration::from_millis(150 + 37 * (deaths % 7)));
        if running.has_ended() {
            let ended = running.finish();
            assert_eq!(ended.code, Some(0), "{}", ended.stderr);
            break;
        }
        all.extend(running.kill_all());
        deaths += 1;
        assert!(deaths < 500, "no progress: {kept} rounds");
        // What was whole is never lost.
        if let Ok(reader) = ringmaster::replay::ReplayReader::open(&out) {
            let now = reader.records().filter(Result::is_ok).count();
            assert!(now >= kept, "{kept} rounds were finished, {now} are there");
            kept = now;
        }
    }
    println!("{deaths} deaths of everything");
    nothing_is_left(&out, &all, &digest, "in the end");
}

#[test]
fn a_second_coordinator_is_refused() {
    let place = Place::new();
    let out = place.out("replay");
    let first = place.start(&out, &FLAGS.replace("300", "100000"), "");
    wait_until("the folder is in use", || {
        out.join("manifest.json").exists()
    });
    for (flags, says) in [(FLAGS, "--resume"), ("--resume", "another")] {
        let second = place.start(&out, flags, "").finish();
        let stderr = &second.stderr;
        assert_eq!(
            (second.code, stderr.lines().count()),
            (Some(1), 1),
            "{stderr}"
        );
        assert!(stderr.contains(says), "{stderr}");
    }
    let mut all = first.children();
    all.extend(first.kill_all());
    assert!(!all.iter().any(|&pid| is_alive(pid)));
    // Whoever starts next, anywhere, sweeps.
    place.play(
        &place.out("other"),
        "--rounds 2 --workers 1 --simulations 2",
    );
    assert!(
        all.iter().all(|&pid| segments_of(pid).is_empty()),
        "not swept"
    );
}
