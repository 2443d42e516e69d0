//! What a terminal and a machine that sleeps do to a run: a hang-up ends it in order, unless it was
//! told to ignore that; Ctrl-Z stops all of it, and it goes on; all of it stopped together for long
//! makes nobody look hung.
#![allow(clippy::unwrap_used)]

#[path = "support/run.rs"]
mod run;

use nix::sys::signal::Signal::{SIGCONT, SIGHUP, SIGINT, SIGSTOP, SIGTSTP};
use run::*;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// For some seconds.
const ROUNDS: &str = "--rounds 6000 --cards 4 --worlds 2 --simulations 12 --seed 3 --backend cpu";
/// Rounds of one card, soon finished, among others that take for ever; the first is a short one.
const SHORT_AND_ENDLESS: &str = "rounds = 100000\nseed = 2\nworlds = 2\nsimulations = 100000\n\
    backend = \"cpu\"\n\
     [[mix]]\nplayers = 3\ncards = 1\nweight = 1\n[[mix]]\nplayers = 3\ncards = 17\nweight = 1\n";
/// Bytes of a shard before its first round.
const SHARD_HEADER: u64 = 12;
const HANG_TIMEOUT_S: u64 = 3;

/// A run and all that it started.
fn all_of(running: &Running) -> Vec<u32> {
    let mut all = vec![running.pid()];
    all.extend(running.children());
    all
}

fn are_stopped(pids: &[u32]) -> bool {
    pids.iter().all(|&pid| state_of(pid) == Some('T'))
}

#[test]
fn a_hang_up_ends_a_run_and_keeps_its_rounds() {
    let place = Place::new();
    let config = place.config(SHORT_AND_ENDLESS);
    for engine in ["--workers 2 --in-flight 8", "--workers 0 --in-flight 16"] {
        let out = place.out(&engine.replace(' ', ""));
        let running = place.start(&out, &format!("{config} {engine}"), "");
        wait_for_rounds(&out, SHARD_HEADER);
        let all = all_of(&running);
        // From the terminal, from the shell, and from whoever ends the session.
        for _ in 0..3 {
            send(running.pid(), SIGHUP);
            std::thread::sleep(Duration::from_millis(60));
        }
        let ended = running.finish();
        assert_eq!(ended.code, Some(130), "{engine}: {}", ended.stderr);
        let report = ended.report();
        assert_eq!(report["interrupted"], true);
        assert!(report["rounds_in_replay"].as_u64() > Some(0), "{report}");
        nothing_is_left(&out, &all, &report["digest"], engine);
    }
}

#[test]
fn whoever_was_told_to_ignore_a_hang_up_does() {
    let place = Place::new();
    let digest = place.play(&place.out("whole"), ROUNDS)["digest"].clone();
    let out = place.out("replay");
    let selfplay = place.selfplay(&out, &format!("{ROUNDS} --workers 2"));
    let mut command = Command::new("sh");
    // As nohup does.
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]);
    command
        .arg(selfplay.get_program())
        .args(selfplay.get_args());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let running = Running(command.spawn().unwrap());
    wait_for_rounds(&out, 100);
    let all = all_of(&running);
    all.iter().for_each(|&pid| send(pid, SIGHUP));
    let ended = running.finish();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.report()["digest"], digest);
    nothing_is_left(&out, &all, &digest, "nohup");
}

#[test]
fn ctrl_z_stops_all_of_a_run_and_it_goes_on() {
    let place = Place::new();
    let digest = place.play(&place.out("whole"), ROUNDS)["digest"].clone();
    let config = place.config(&format!("hang_timeout_s = {HANG_TIMEOUT_S}\n"));
    for engine in ["--workers 2", "--workers 0"] {
        let out = place.out(&engine.replace(' ', ""));
        let mut running = place.start(&out, &format!("{config} {ROUNDS} {engine}"), "");
        wait_for_rounds(&out, 100);
        let all = all_of(&running);
        let said = running.listen();
        for time in 0..2 {
            // The terminal's, of which the children, in groups of their own, hear nothing.
            send(running.pid(), SIGTSTP);
            wait_until("all are stopped", || {
                are_stopped(&all) || running.has_ended()
            });
            assert!(
                !running.has_ended(),
                "{engine}, stop {time}: {}",
                said.text()
            );
            let before: Vec<u64> = all.iter().map(|&pid| ticks_of(pid)).collect();
            std::thread::sleep(Duration::from_secs(HANG_TIMEOUT_S + 1));
            let after: Vec<u64> = all.iter().map(|&pid| ticks_of(pid)).collect();
            assert_eq!(before, after, "somebody works on");
            send(running.pid(), SIGCONT);
            let goes_on = |pid: &u32| state_of(*pid) != Some('T');
            wait_until("all go on", || all.iter().all(goes_on));
            // Nobody is quicker. Within microseconds the two signals may be handled at once, by two
            // threads, and either wins.
            std::thread::sleep(Duration::from_millis(100));
        }
        let ended = running.finish();
        assert_eq!(ended.code, Some(0), "{engine}: {}", said.text());
        let report = ended.report();
        assert_eq!(
            (&report["digest"], &report["restarts"]),
            (&digest, &0.into()),
            "{}",
            said.text()
        );
        nothing_is_left(&out, &all, &digest, engine);
    }
}

/// A sweep whose first trial takes for ever.
fn endless_sweep(place: &Place) -> (Running, PathBuf) {
    let spec = place.out("spec.toml");
    let text = format!(
        "[grid]\nworkers = [1]\n[trial]\nrounds = 1000\n[base]\nplayers = 3\ncards = 17\n\
        simulations = 20000\n\
         backend = \"cpu\"\nweights = \"{}\"\n",
        place.weights().display()
    );
    std::fs::write(&spec, text).unwrap();
    let out = place.out("sweep");
    let mut command = ringmaster();
    command.arg("sweep").arg(&spec).arg("--out").arg(&out);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    (Running(command.spawn().unwrap()), out)
}

/// The study, its trial, and the trial's evaluator and worker, once they play.
fn all_of_study(running: &Running) -> Vec<u32> {
    let mut all = Vec::new();
    wait_until("a trial plays", || {
        let trial = running.wait_for_children(1)[0];
        let children = children_of(trial);
        all = vec![running.pid(), trial];
        all.extend(&children);
        children.len() == 2 && children.iter().all(|&pid| ticks_of(pid) >= 5)
    });
    all
}

#[test]
fn ctrl_z_stops_all_of_a_study_and_a_hang_up_ends_it() {
    let place = Place::new();
    let (running, out) = endless_sweep(&place);
    let all = all_of_study(&running);
    send(running.pid(), SIGTSTP);
    wait_until("all are stopped", || are_stopped(&all));
    send(running.pid(), SIGCONT);
    let worked: Vec<u64> = all.iter().map(|&pid| ticks_of(pid)).collect();
    wait_until("the evaluator goes on", || ticks_of(all[2]) > worked[2]);
    send(running.pid(), SIGHUP);
    let ended = running.finish();
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    let told = "interrupted: 0 of 3 trials kept; the same command goes on with the rest\n";
    assert!(ended.stderr.ends_with(told), "{}", ended.stderr);
    wait_until("all are gone", || !all.iter().any(|&pid| is_alive(pid)));
    assert!(!out.join("trials").exists());
}

#[test]
fn what_is_stopped_together_does_not_hang() {
    let place = Place::new();
    let digest = place.play(&place.out("whole"), ROUNDS)["digest"].clone();
    let config = place.config(&format!("hang_timeout_s = {HANG_TIMEOUT_S}\n"));
    let out = place.out("replay");
    let running = place.start(&out, &format!("{config} {ROUNDS} --workers 3"), "");
    wait_for_rounds(&out, 100);
    let all = all_of(&running);
    for coordinator_first in [true, false] {
        // The coordinator last, when it has looked at the others once more and seen nothing new.
        all[1..].iter().for_each(|&pid| send(pid, SIGSTOP));
        std::thread::sleep(Duration::from_millis(500));
        send(all[0], SIGSTOP);
        wait_until("all are stopped", || are_stopped(&all));
        std::thread::sleep(Duration::from_secs(HANG_TIMEOUT_S + 1));
        let mut order = all.clone();
        if !coordinator_first {
            order.reverse();
        }
        for pid in order {
            send(pid, SIGCONT);
            std::thread::sleep(Duration::from_millis(300));
        }
    }
    let ended = running.finish();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let report = ended.report();
    assert_eq!(report["restarts"], 0, "{}", ended.stderr);
    assert_eq!(report["digest"], digest);
}

/// Stopped by hand, it can still be ended, in order.
#[test]
fn a_stopped_run_that_is_interrupted_ends_when_it_goes_on() {
    let place = Place::new();
    let out = place.out("replay");
    let running = place.start(&out, &format!("{ROUNDS} --workers 2"), "");
    wait_for_rounds(&out, 100);
    let all = all_of(&running);
    send(running.pid(), SIGTSTP);
    wait_until("all are stopped", || are_stopped(&all));
    send(running.pid(), SIGINT);
    std::thread::sleep(Duration::from_millis(100));
    assert!(are_stopped(&all));
    send(running.pid(), SIGCONT);
    let ended = running.finish();
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    nothing_is_left(&out, &all, &ended.report()["digest"], "stopped");
}
