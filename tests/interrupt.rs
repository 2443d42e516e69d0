//! How the user ends a run: one Ctrl-C has what is in hand finished, a second one or SIGTERM ends
//! at once, one more signal ends the process on the spot; and whatever it was, the run goes on to
//! the same replay.
#![allow(clippy::unwrap_used)]

#[path = "support/run.rs"]
mod run;

use nix::sys::signal::Signal::{self, SIGCONT, SIGINT, SIGKILL, SIGSTOP, SIGTERM};
use ringmaster::replay::{Manifest, ReplayReader, Status};
use run::*;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// Enough rounds for more than one shard, over and over in flight, and for some seconds of play.
const ROUNDS: &str = "--rounds 3000 --cards 4 --worlds 2 --simulations 12 --seed 3 --backend cpu";
const GAMES: &str =
    "--games 300 --players 3 --cards 3 --worlds 2 --simulations 12 --seed 3 --backend cpu";
/// Rounds of one card, soon finished, among others that take for ever; the first is a short one.
const SHORT_AND_ENDLESS: &str = "rounds = 100000\nseed = 2\nworlds = 2\nsimulations = 100000\n\
    backend = \"cpu\"\n\
     [[mix]]\nplayers = 3\ncards = 1\nweight = 1\n[[mix]]\nplayers = 3\ncards = 17\nweight = 1\n";
/// Bytes of a shard before its first round. Rounds are written in order: of those above, the first
/// alone while the second plays.
const SHARD_HEADER: u64 = 12;
const FINISHING: &str = "interrupted: finishing the ";
const GO_ON: &str = "go on with: ringmaster selfplay --resume --out";

/// One Ctrl-C; waits until the run has said what it does about it.
fn interrupt(running: &Running, said: &Said) {
    send(running.pid(), SIGINT);
    wait_until("it says so", || said.text().contains(FINISHING));
}

/// One more signal, late enough to be one more request.
fn send_later(pid: u32, signal: Signal) {
    std::thread::sleep(Duration::from_millis(60));
    send(pid, signal);
}

/// The same signal several times at once, as from `timeout`, which signals its child and then its
/// child's group.
fn send_repeatedly(pid: u32, signal: Signal) {
    for _ in 0..3 {
        send(pid, signal);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// All that an interrupted run has said.
fn last_word(said: &Said) -> String {
    wait_until("it says how to go on", || said.text().contains(GO_ON));
    said.text()
}

/// Numbers of the rounds of a closed replay, ascending.
fn numbers(out: &Path) -> Vec<u64> {
    verify(out);
    let reader = ReplayReader::open(out).unwrap();
    let mut numbers: Vec<u64> = reader
        .records()
        .map(|stored| stored.unwrap().record.round)
        .collect();
    numbers.sort();
    numbers
}

/// All that was handed out is there, and nothing else; so is the way on.
fn check_finished(ended: &Ended, said: &str, out: &Path, rounds: u64) {
    assert_eq!(ended.code, Some(130), "{said}");
    let report = ended.report();
    assert_eq!(report["interrupted"], true);
    let kept = report["rounds_in_replay"].as_u64().unwrap();
    // Jobs are handed out in order.
    assert!(0 < kept && kept < rounds, "{kept}");
    assert_eq!(numbers(out), (0..kept).collect::<Vec<_>>());
    let manifest = Manifest::read(out).unwrap();
    assert_eq!(manifest.status, Status::Interrupted);
    assert_eq!(Value::from(manifest.digest), report["digest"]);
}

/// Resumed in peace, it is the replay of an undisturbed run.
fn check_resumed(out: &Path, whole: &Path) {
    let mut command = ringmaster();
    command
        .args(["selfplay", "--resume", "--json", "--out"])
        .arg(out);
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(verify(out)["digest"], verify(whole)["digest"]);
}

#[test]
fn ctrl_c_finishes_what_is_in_hand() {
    let place = Place::new();
    for (nth, (play, engine, rounds, per_job)) in [
        (ROUNDS, "--workers 2 --in-flight 16", 3000, 1),
        (ROUNDS, "--workers 0 --in-flight 24", 3000, 1),
        (GAMES, "--workers 2 --in-flight 4", 2100, 7),
        (GAMES, "--workers 0 --in-flight 1", 2100, 7),
    ]
    .into_iter()
    .enumerate()
    {
        let (out, whole) = (
            place.out(&format!("run-{nth}")),
            place.out(&format!("whole-{nth}")),
        );
        place.play(&whole, play);
        let mut running = place.start(&out, &format!("{play} {engine}"), "");
        wait_for_rounds(&out, 100);
        // As a terminal or a scheduler may do, to all of them.
        let mut all = running.children();
        for &child in &all {
            send(child, SIGINT);
        }
        let said = running.listen();
        interrupt(&running, &said);
        all.push(running.pid());
        let ended = running.finish();
        let said = last_word(&said);
        check_finished(&ended, &said, &out, rounds);
        let report = ended.report();
        assert_eq!(report["restarts"], 0, "{said}");
        assert_eq!(report["rounds_in_replay"].as_u64().unwrap() % per_job, 0);
        nothing_is_left(&out, &all, &report["digest"], engine);
        check_resumed(&out, &whole);
        assert!(
            shards(&out) == shards(&whole),
            "{play} {engine}: the files differ"
        );
    }
}

#[test]
fn deaths_do_not_keep_it_from_finishing() {
    let place = Place::new();
    let whole = place.out("whole");
    place.play(&whole, ROUNDS);
    // The evaluator and each worker; the stop keeps the run from finishing before the kill.
    for nth in 0..3 {
        let out = place.out(&format!("run-{nth}"));
        let mut running = place.start(&out, &format!("{ROUNDS} --workers 2 --in-flight 16"), "");
        wait_for_rounds(&out, 100);
        let victim = running.wait_for_children(3)[nth];
        send(victim, SIGSTOP);
        let said = running.listen();
        interrupt(&running, &said);
        send(victim, SIGKILL);
        let ended = running.finish();
        check_finished(&ended, &last_word(&said), &out, 3000);
        assert_eq!(ended.report()["restarts"], 1);
        check_resumed(&out, &whole);
        assert!(shards(&out) == shards(&whole), "the files differ");
    }
}

#[test]
fn a_second_ctrl_c_or_sigterm_ends_at_once() {
    let place = Place::new();
    let config = place.config(SHORT_AND_ENDLESS);
    for engine in ["--workers 2 --in-flight 8", "--workers 0 --in-flight 16"] {
        for signals in [&[SIGINT, SIGINT][..], &[SIGINT, SIGTERM], &[SIGTERM]] {
            let what = format!("{engine} {signals:?}");
            let out = place.out(&what.replace(' ', ""));
            let mut running = place.start(&out, &format!("{config} {engine}"), "");
            wait_for_rounds(&out, SHARD_HEADER);
            let mut all = running.children();
            all.push(running.pid());
            let said = running.listen();
            if signals.len() == 2 {
                interrupt(&running, &said);
            }
            send_later(running.pid(), signals[signals.len() - 1]);
            let ended = running.finish();
            assert_eq!(ended.code, Some(130), "{what}: {}", last_word(&said));
            let kept = numbers(&out);
            assert!(!kept.is_empty(), "{what}: finished rounds are lost");
            // Sixteen are in flight, long ones among them.
            assert!(
                (0..16).any(|round| !kept.contains(&round)),
                "{what}: the long ones were finished"
            );
            nothing_is_left(&out, &all, &ended.report()["digest"], &what);
        }
    }
}

#[test]
fn a_signal_repeated_at_once_is_one_request() {
    let place = Place::new();
    let out = place.out("replay");
    let config = place.config(SHORT_AND_ENDLESS);
    let mut running = place.start(&out, &format!("{config} --workers 2 --in-flight 8"), "");
    wait_for_rounds(&out, SHARD_HEADER);
    let said = running.listen();
    send_repeatedly(running.pid(), SIGINT);
    wait_until("it says so", || said.text().contains(FINISHING));
    std::thread::sleep(Duration::from_millis(500));
    assert!(!running.has_ended(), "ended at once: {}", said.text());
    send_repeatedly(running.pid(), SIGTERM);
    let ended = running.finish();
    assert_eq!(ended.code, Some(130), "{}", last_word(&said));
    // It was not left on the spot.
    assert_eq!(ended.report()["interrupted"], true);
    assert!(!numbers(&out).is_empty());
}

#[test]
fn one_more_signal_ends_the_process_on_the_spot() {
    let place = Place::new();
    let (out, whole) = (place.out("replay"), place.out("whole"));
    place.play(&whole, ROUNDS);
    let mut running = place.start(&out, &format!("{ROUNDS} --workers 2"), "");
    wait_for_rounds(&out, 100);
    let children = running.wait_for_children(3);
    // The first worker is waited for at the end, and does not come.
    send(children[1], SIGSTOP);
    let said = running.listen();
    interrupt(&running, &said);
    send_later(running.pid(), SIGINT);
    wait_until("the others are told to end", || !is_alive(children[2]));
    send_later(running.pid(), SIGINT);
    let (coordinator, ended) = (running.pid(), running.finish());
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(130), ""));
    send(children[1], SIGCONT);
    wait_until("all are gone", || {
        !children.iter().any(|&pid| is_alive(pid))
    });
    check_resumed(&out, &whole);
    // If nobody was left to do it, the next run has.
    assert!(segments_of(coordinator).is_empty());
}

#[test]
fn a_run_that_has_not_begun_has_nothing_to_finish() {
    let place = Place::new();
    let out = place.out("replay");
    let running = place.start(&out, &format!("{ROUNDS} --workers 2"), "evaluator:attached");
    let children = running.wait_for_children(3);
    wait_until("the evaluator stops", || state_of(children[0]) == Some('T'));
    send(running.pid(), SIGINT);
    wait_until("the workers end", || {
        !children[1..].iter().any(|&pid| is_alive(pid))
    });
    send(children[0], SIGCONT);
    let ended = running.finish();
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    assert!(!ended.stderr.contains(FINISHING), "{}", ended.stderr);
    assert_eq!(ended.report()["rounds_in_replay"], 0);
}

#[test]
fn its_time_ends_a_run_that_is_finishing_what_is_in_hand() {
    let place = Place::new();
    let out = place.out("replay");
    let long = "--players 3 --cards 17 --worlds 8 --simulations 20000 --in-flight 16";
    let mut running = place.start(&out, &format!("{long} --workers 2 --seconds 5"), "");
    let said = running.listen();
    // The choice of the backend is said when play begins.
    wait_until("it plays", || said.text().contains("backend cpu"));
    interrupt(&running, &said);
    let ended = running.finish();
    let said = last_word(&said);
    assert_eq!(ended.code, Some(130), "{said}");
    assert_eq!(ended.report()["rounds_in_replay"], 0);
    // Not: of how many, where there is no such number.
    assert!(said.contains("interrupted, 0 rounds kept"), "{said}");
}

#[test]
fn ctrl_c_after_its_time_comes_too_late() {
    let place = Place::new();
    let out = place.out("replay");
    let flags = "--workers 2 --worlds 1 --simulations 4 --in-flight 2 --seconds 1.5";
    let mut running = place.start(&out, flags, "");
    wait_for_rounds(&out, 100);
    let children = running.wait_for_children(3);
    // The first worker is waited for at the end.
    send(children[1], SIGSTOP);
    let said = running.listen();
    wait_until("its time is up", || !is_alive(children[2]));
    send(running.pid(), SIGINT);
    std::thread::sleep(Duration::from_millis(60));
    send(children[1], SIGCONT);
    let ended = running.finish();
    assert_eq!(ended.code, Some(0), "{}", said.text());
    assert_eq!(ended.report()["interrupted"], false);
    assert_eq!(verify(&out)["digest"], ended.report()["digest"]);
}
