//! New weights while a run goes on: every round is played by one network from its first move to its
//! last, the manifest says which, and each is what an undisturbed run by that network alone plays;
//! whatever dies meanwhile. Runs here have no end of their own: they are interrupted once they have
//! shown what is wanted, so that nothing hangs on how fast the machine is.
#![allow(clippy::unwrap_used)]

#[path = "support/run.rs"]
mod run;
#[path = "support/stage.rs"]
mod stage;

use nix::sys::signal::Signal::{SIGCONT, SIGINT, SIGKILL, SIGSTOP};
use ringmaster::killpoint::{POINTS, Reached};
use ringmaster::network::Weights;
use ringmaster::replay::Manifest;
use run::*;
use serde_json::Value;
use stage::*;
use std::fs;
use std::path::Path;
use std::time::Duration;

fn new_weights_take_over(engine: &'static str) {
    let stage = Stage::new("", engine);
    let out = stage.place.out("replay");
    let mut running = stage.start(&out, "", "");
    let said = running.listen();
    let says = |what: &str| {
        wait_until(what, || said.text().contains(what));
    };
    wait_for_more(&out);
    stage.put(2);
    wait_for_networks(&out, 2);
    // Broken ones, one after the other, are reported and change nothing.
    let broken = stage.place.out("broken");
    fs::write(&broken, &fs::read(stage.file(3)).unwrap()[..5000]).unwrap();
    stage.put_file(&broken);
    says("not a whole safetensors file");
    let other = "weights init --width 32 --depth 1 --ffn 16 --out";
    let mut command = ringmaster();
    command.args(other.split(' ')).arg(&broken);
    assert!(command.output().unwrap().status.success());
    stage.put_file(&broken);
    says("a network of width 32");
    stage.put(3);
    wait_for_networks(&out, 3);
    let ended = interrupt(running);
    let report: Value = ended.report();
    let hashes: Vec<&str> = report["networks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|network| network["weights"].as_str().unwrap())
        .collect();
    assert_eq!(hashes, [1, 2, 3].map(|seed| stage.hash(seed)));
    let text = said.text();
    let lines = |what: &str| text.lines().filter(|line| line.contains(what)).count();
    assert_eq!(lines("play from round"), 2, "{text}");
    assert_eq!(lines("new weights ignored"), 2, "{text}");
    assert_eq!(report["restarts"], 0);
    let counts = stage.check(&out);
    assert!(counts.iter().all(|&rounds| rounds > 0), "{counts:?}");
    // Interrupted: the newest are kept to go on with.
    assert_eq!(copies(&out), ["weights-2.safetensors"]);
}

#[test]
fn new_weights_take_over_in_many_processes() {
    new_weights_take_over("--workers 2");
}

#[test]
fn new_weights_take_over_in_one_process() {
    new_weights_take_over("--workers 0 --in-flight 16");
}

/// What comes after Ctrl-C is for whoever goes on.
#[test]
fn no_new_weights_are_taken_up_to_finish_what_is_in_hand() {
    let stage = Stage::new("", "--workers 2 --in-flight 8");
    let out = stage.place.out("replay");
    let mut running = stage.start(&out, "", "");
    wait_for_more(&out);
    let worker = running.wait_for_children(3)[1];
    // So that there is time for new weights; looks for them are 20 ms apart.
    send(worker, SIGSTOP);
    let said = running.listen();
    send(running.pid(), SIGINT);
    wait_until("it finishes", || said.text().contains("finishing the"));
    stage.put(2);
    std::thread::sleep(Duration::from_millis(500));
    send(worker, SIGCONT);
    let ended = running.finish();
    assert_eq!(ended.code, Some(130), "{}", said.text());
    assert_eq!(Manifest::read(&out).unwrap().networks.len(), 1);
    assert_eq!(stage.check(&out).len(), 1);
    // They are there to be appended.
    stage.put(2);
    let running = stage.start(&out, "--append", "");
    wait_for_networks(&out, 2);
    interrupt(running);
    assert!(stage.check(&out)[1] > 0);
}

#[test]
fn a_game_is_played_by_one_network() {
    let stage = Stage::new("--players 3 --cards 2", "--workers 2");
    let out = stage.place.out("replay");
    let flags = stage.flags("--games 10000000 --reload-s 0.02");
    let running = stage.place.start(&out, &flags, "");
    wait_for_more(&out);
    stage.put(2);
    wait_for_networks(&out, 2);
    interrupt(running);
    let from = Manifest::read(&out).unwrap().networks[1].from_round;
    assert_eq!(from % 5, 0, "a game's first round");
    let counts = stage.check(&out);
    assert!(counts[0] > 0 && counts[1] > 0, "{counts:?}");
}

#[test]
fn a_folder_means_its_newest_weights() {
    let stage = Stage::new("", "--workers 1");
    let folder = stage.place.out("checkpoints");
    fs::create_dir(&folder).unwrap();
    let run = |out: &Path, more: &str| stage.start_from(&folder, out, more);
    let empty = run(&stage.place.out("none"), "--rounds 1").finish();
    assert_eq!((empty.code, empty.stderr.lines().count()), (Some(1), 1));
    assert!(
        empty.stderr.contains("no .safetensors file"),
        "{}",
        empty.stderr
    );
    fs::copy(stage.file(1), folder.join("step-1.safetensors")).unwrap();
    let out = stage.place.out("replay");
    let running = run(&out, ENDLESS);
    wait_for_more(&out);
    // Half written under a name of its own, as trainers do; whole under the final one.
    fs::copy(stage.file(2), folder.join("step-2.tmp")).unwrap();
    wait_for_more(&out);
    assert_eq!(Manifest::read(&out).unwrap().networks.len(), 1);
    fs::rename(folder.join("step-2.tmp"), folder.join("step-2.safetensors")).unwrap();
    wait_for_networks(&out, 2);
    interrupt(running);
    assert!(stage.check(&out)[1] > 0);
}

#[test]
fn other_weights_are_appended_only_when_asked() {
    let stage = Stage::new("", "--workers 2");
    let out = stage.place.out("replay");
    let running = stage.start(&out, "", "");
    wait_for_more(&out);
    interrupt(running);
    let other = stage.file(2);
    let refused = stage.start_from(&other, &out, "--resume").finish();
    assert_eq!(
        (
            refused.code,
            refused
                .stderr
                .lines()
                .filter(|line| line.contains("--append"))
                .count()
        ),
        (Some(1), 1),
        "{}",
        refused.stderr
    );
    stage.put(2);
    let running = stage.start(&out, "--append", "");
    wait_for_networks(&out, 2);
    interrupt(running);
    // Resumed with the weights it now ends with, and complete in the end: nothing is kept.
    let kept = Manifest::read(&out).unwrap().rounds_kept;
    let flags = stage.flags(&format!("--rounds {} --resume", kept + 2000));
    stage.place.play(&out, &flags);
    assert_eq!(copies(&out), [""; 0]);
    assert_eq!(stage.check(&out).iter().sum::<u64>(), kept + 2000);
}

#[test]
fn weights_follow_the_built_in_network() {
    let stage = Stage::new("", "--workers 2 --in-flight 8");
    let out = stage.place.out("replay");
    let play = |more: &str| {
        let mut command = ringmaster();
        command
            .arg("selfplay")
            .args(stage.flags(more).split_whitespace());
        command
            .args(["--json", "--out"])
            .arg(&out)
            .output()
            .unwrap()
    };
    assert!(play("--rounds 3").status.success());
    let (wide, weights) = (
        Weights::seeded(4, Default::default()),
        stage.place.out("wide"),
    );
    wide.save(&weights).unwrap();
    let more = format!("--rounds 300 --append --weights {}", weights.display());
    let played = play(&more);
    assert!(
        played.status.success(),
        "{}",
        String::from_utf8_lossy(&played.stderr)
    );
    let networks = Manifest::read(&out).unwrap().networks;
    // The first rounds that are missing may still be the built-in network's.
    assert!(
        networks.len() == 2 && (3..300).contains(&networks[1].from_round),
        "{networks:?}"
    );
    verify(&out);
}

/// Stops a run at a point on the way of new weights.
fn stop_at(stage: &Stage, out: &Path, wanted: &str) -> (Running, u32) {
    stage.put(1);
    let mut running = stage.start(out, "", wanted);
    wait_for_more(out);
    stage.put(2);
    let mut stopped = None;
    wait_until(wanted, || {
        let mut all = running.children();
        all.push(running.pid());
        stopped = all.into_iter().find(|&pid| state_of(pid) == Some('T'));
        stopped.is_some() || running.has_ended()
    });
    (
        running,
        stopped.unwrap_or_else(|| panic!("the run ended without reaching {wanted}")),
    )
}

#[test]
fn an_offer_of_new_weights_is_void_once_what_is_in_hand_is_finished() {
    let stage = Stage::new("", "--workers 2 --in-flight 8");
    // The evaluator goes on and loads them, or never will.
    for next in [SIGCONT, SIGKILL] {
        let out = stage.place.out(next.as_str());
        let (mut running, evaluator) = stop_at(&stage, &out, "evaluator:offered:1");
        let said = running.listen();
        send(running.pid(), SIGINT);
        wait_until("it finishes", || said.text().contains("finishing the"));
        send(evaluator, next);
        let ended = running.finish();
        assert_eq!(ended.code, Some(130), "{}", said.text());
        assert_eq!(Manifest::read(&out).unwrap().networks.len(), 1);
        assert_eq!(stage.check(&out).len(), 1);
        assert_eq!(copies(&out), ["weights-0.safetensors"]);
    }
}

#[test]
fn deaths_on_the_way_of_new_weights_lose_nothing() {
    let stage = Stage::new("", "--workers 2 --in-flight 8");
    for point in POINTS
        .iter()
        .filter(|point| point.reached == Reached::WeightsChange)
    {
        for everything in [false, true] {
            let name = format!("{}-{}-{everything}", point.process, point.name);
            let out = stage.place.out(&name);
            let wanted = format!("{}:{}:1", point.process, point.name);
            let (mut running, stopped) = stop_at(&stage, &out, &wanted);
            let mut all = running.children();
            all.push(running.pid());
            if everything || stopped == running.pid() {
                all.extend(running.kill_all());
                running = stage.start(&out, "--append", "");
            } else {
                send(stopped, SIGKILL);
            }
            wait_for_networks(&out, 2);
            let ended = interrupt(running);
            let counts = stage.check(&out);
            assert!(counts[0] > 0 && counts[1] > 0, "{name}: {counts:?}");
            assert_eq!(copies(&out), ["weights-1.safetensors"], "{name}");
            let digest = &ended.report()["digest"];
            nothing_is_left(&out, &all, digest, &name);
        }
    }
}

#[test]
fn new_weights_in_a_storm_of_deaths() {
    let stage = Stage::new("", "--workers 2 --in-flight 8");
    let out = stage.place.out("replay");
    let config = stage
        .place
        .config("max_restarts = 100000\nhang_timeout_s = 5\n");
    let mut running = stage.start(&out, &config, "");
    wait_for_more(&out);
    let mut all = Vec::new();
    for turn in 0..24_usize {
        stage.put(1 + (turn as u64 / 4) % 3);
        std::thread::sleep(Duration::from_millis(40 + 17 * (turn as u64 % 5)));
        let children = running.children();
        all.extend(&children);
        match (turn % 8, children.get(turn % 3)) {
            (7, _) => {
                all.extend(running.kill_all());
                running = stage.start(&out, &format!("{config} --append"), "");
                wait_for_more(&out);
            }
            (3, Some(&victim)) => {
                send(victim, SIGSTOP);
                std::thread::sleep(Duration::from_millis(50));
                send(victim, SIGCONT);
            }
            (_, Some(&victim)) => send(victim, SIGKILL),
            _ => {}
        }
    }
    // In peace again the last ones are taken up.
    let newest = Weights::load(&stage.place.weights()).unwrap().hash();
    let newest: String = newest.iter().map(|byte| format!("{byte:02x}")).collect();
    wait_until("the newest weights play", || {
        Manifest::read(&out).is_ok_and(|manifest| manifest.newest_weights() == newest)
    });
    wait_for_more(&out);
    all.extend(running.children());
    let ended = interrupt(running);
    let counts = stage.check(&out);
    println!("rounds by network: {counts:?}");
    nothing_is_left(&out, &all, &ended.report()["digest"], "storm");
}
