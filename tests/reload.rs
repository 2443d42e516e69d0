//! New weights while a run goes on: every round is played by one network from its first move to its last, the manifest says which,
//! and each is what an undisturbed run by that network alone plays; whatever dies meanwhile. Runs here have no end of their own:
//! they are interrupted once they have shown what is wanted, so that nothing hangs on how fast the machine is.
#![allow(clippy::unwrap_used)]

#[path = "support/run.rs"]
mod run;

use nix::sys::signal::Signal::{SIGCONT, SIGINT, SIGKILL, SIGSTOP, SIGTERM};
use ringmaster::killpoint::{POINTS, Reached};
use ringmaster::network::Weights;
use ringmaster::replay::{Manifest, ReplayReader, RoundRecord};
use run::*;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SEARCH: &str = "--worlds 2 --simulations 12 --seed 5";
const ENDLESS: &str = "--rounds 100000000 --reload-s 0.02";

/// Networks by seed, the place where a run looks for them, and what each plays alone.
struct Stage {
    place: Place,
    /// What is played, and how.
    game: &'static str,
    engine: &'static str,
    alone: RefCell<BTreeMap<String, Vec<RoundRecord>>>,
}

impl Stage {
    /// For runs with these further flags; the first network lies ready.
    fn new(game: &'static str, engine: &'static str) -> Stage {
        let stage = Stage {
            place: Place::new(),
            game,
            engine,
            alone: RefCell::default(),
        };
        stage.put(1);
        stage
    }

    fn file(&self, seed: u64) -> PathBuf {
        let file = self.place.out(&format!("network-{seed}"));
        if !file.exists() {
            let size = format!("weights init --width 16 --depth 1 --ffn 16 --seed {seed} --out");
            let mut command = ringmaster();
            command.args(size.split(' ')).arg(&file);
            assert!(command.output().unwrap().status.success());
        }
        file
    }

    fn hash(&self, seed: u64) -> String {
        let hash = Weights::load(&self.file(seed)).unwrap().hash();
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Puts a file in the place of the weights, at one stroke.
    fn put_file(&self, file: &Path) {
        let whole = self.place.out("whole");
        fs::copy(file, &whole).unwrap();
        fs::rename(whole, self.place.weights()).unwrap();
    }

    fn put(&self, seed: u64) {
        self.put_file(&self.file(seed));
    }

    fn start(&self, out: &Path, more: &str, stop_at: &str) -> Running {
        self.place
            .start(out, &self.flags(&format!("{ENDLESS} {more}")), stop_at)
    }

    fn flags(&self, more: &str) -> String {
        format!("{SEARCH} {} {} {more}", self.game, self.engine)
    }

    /// Checks a closed replay round by round against what each network plays alone; rounds by network.
    fn check(&self, out: &Path) -> Vec<u64> {
        let manifest = Manifest::read(out).unwrap();
        let reader = ReplayReader::open(out).unwrap();
        let records: Vec<_> = reader
            .records()
            .map(|stored| stored.unwrap().record)
            .collect();
        let last = records.iter().map(|record| record.round).max().unwrap();
        let mut counts = vec![0; manifest.networks.len()];
        for network in &manifest.networks {
            self.play_alone(&network.weights, last);
        }
        let alone = self.alone.borrow();
        for record in &records {
            let network = manifest.network_of(record.round);
            counts[network as usize] += 1;
            let weights = &manifest.networks[network as usize].weights;
            let expected = RoundRecord {
                network,
                ..alone[weights][record.round as usize].clone()
            };
            assert_eq!(record, &expected, "{}", out.display());
        }
        verify(out);
        counts
    }

    /// Has a network play the rounds up to `last` alone, in one process.
    fn play_alone(&self, weights: &str, last: u64) {
        let mut alone = self.alone.borrow_mut();
        let known = alone.entry(weights.to_owned()).or_default();
        if known.len() as u64 > last {
            return;
        }
        let seed = (1..9).find(|&seed| self.hash(seed) == weights).unwrap();
        self.put(seed);
        let out = self.place.out(&format!("alone-{seed}-{last}"));
        // Games of 3 players from 2 cards have 5 rounds; more are played than needed.
        let amount = match self.game {
            "" => format!("--rounds {}", last + 1),
            _ => format!("--games {}", last / 5 + 1),
        };
        let flags = format!("{SEARCH} {} {amount} --workers 0 --in-flight 64", self.game);
        self.place.play(&out, &flags);
        let reader = ReplayReader::open(&out).unwrap();
        *known = reader
            .records()
            .map(|stored| stored.unwrap().record)
            .collect();
    }
}

/// Waits until so many networks have come to play and the last of them plays alone.
fn wait_for_networks(out: &Path, count: usize) {
    let newest = [format!("weights-{}.safetensors", count - 1)];
    wait_until("new weights play", || {
        let manifest = Manifest::read(out);
        manifest.is_ok_and(|manifest| manifest.networks.len() == count) && copies(out) == newest
    });
    wait_for_more(out);
}

/// Waits until so much more has been written than there is.
fn wait_for_more(out: &Path) {
    wait_for_rounds(out, written(out) + 20_000);
}

fn interrupt(running: Running) -> Ended {
    send(running.pid(), SIGTERM);
    let ended = running.finish();
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    ended
}

fn copies(out: &Path) -> Vec<String> {
    let names = fs::read_dir(out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    names.filter(|name| name.starts_with("weights-")).collect()
}

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
    let run = |out: &Path, more: &str| {
        let mut command = ringmaster();
        command
            .arg("selfplay")
            .args(stage.flags("").split_whitespace())
            .args(more.split(' '));
        command.arg("--weights").arg(&folder).arg("--out").arg(out);
        command
            .arg("--json")
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        Running(command.spawn().unwrap())
    };
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
    stage.put(2);
    let refused = stage.start(&out, "--resume", "").finish();
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
