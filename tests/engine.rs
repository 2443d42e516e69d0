//! The whole engine, run as its users run it: real processes, real shared memory, a real (mostly
//! small) network. What must hold whatever the number of workers, the batches, the timing, and who
//! dies when.
#![allow(clippy::unwrap_used)]

#[path = "support/run.rs"]
mod run;

use run::{children_of, is_alive, ringmaster, segments_of, shards, verify, wait_until};
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A network small enough that tests spend their time in the engine, made once.
fn small_weights() -> &'static Path {
    static FOLDER: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, file) = FOLDER.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("small.safetensors");
        let made = ringmaster()
            .args([
                "weights", "init", "--width", "32", "--depth", "1", "--ffn", "32", "--seed", "1",
                "--out",
            ])
            .arg(&file)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", text(&made.stderr));
        (folder, file)
    });
    file
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `selfplay` with the small network into `out`.
fn selfplay(out: &Path, flags: &str) -> Command {
    let mut command = ringmaster();
    command
        .arg("selfplay")
        .args(flags.split_whitespace())
        .arg("--weights")
        .arg(small_weights())
        .arg("--out")
        .arg(out)
        .arg("--json");
    command
}

fn report(output: &Output) -> Value {
    assert!(
        output.status.success(),
        "{}: {}",
        output.status,
        text(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("one JSON object on stdout")
}

fn play(flags: &str) -> (TempDir, Value) {
    let folder = TempDir::new().unwrap();
    let output = selfplay(&folder.path().join("replay"), flags)
        .output()
        .unwrap();
    let report = report(&output);
    (folder, report)
}

fn signal(pid: u32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal).unwrap();
}

/// A run in the background that is well under way: all processes there, and rounds being finished.
fn start(out: &Path, flags: &str, processes: usize) -> (Child, Vec<u32>) {
    let child = selfplay(out, flags)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut children = Vec::new();
    wait_until("all processes run", || {
        children = children_of(child.id());
        children.len() == processes
    });
    let grown = || {
        let parts = fs::read_dir(out).into_iter().flatten().flatten();
        parts
            .filter(|entry| entry.file_name().to_string_lossy().ends_with(".part"))
            .any(|entry| entry.metadata().is_ok_and(|data| data.len() > 10_000))
    };
    wait_until("the first rounds are written", grown);
    (child, children)
}

/// Waits for the end; exit code, stdout, stderr.
fn finish(mut child: Child) -> (Option<i32>, String, String) {
    let (mut out, mut err) = (String::new(), String::new());
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the coordinator hangs");
        std::thread::sleep(Duration::from_millis(10));
    }
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut out)
        .unwrap();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut err)
        .unwrap();
    (child.wait().unwrap().code(), out, err)
}

#[test]
fn the_replay_is_the_same_whatever_plays_it() {
    let base = "--rounds 40 --seed 5";
    let (folder, first) = play(&format!("{base} --workers 0"));
    let expected = shards(&folder.path().join("replay"));
    assert_eq!(expected.len(), 1);
    for flags in [
        "--workers 0 --in-flight 1",
        "--workers 0 --in-flight 128 --max-batch 1",
        "--workers 1",
        "--workers 1 --in-flight 1 --max-batch 1024",
        "--workers 2",
        "--workers 2 --in-flight 7 --max-batch 1",
        "--workers 2 --in-flight 128 --max-batch 13 --max-wait-us 500",
        "--workers 2 --threads 1 --max-batch 64 --max-wait-us 2000",
        "--workers 2 --parking poll --in-flight 8",
        "--workers 4",
        "--workers 4 --in-flight 3 --max-batch 1024 --max-wait-us 200",
    ] {
        let (folder, report) = play(&format!("{base} {flags}"));
        assert_eq!(report["digest"], first["digest"], "{flags}");
        // Deterministic counts, too: dedupe does not depend on timing.
        for count in [
            "rounds",
            "decisions",
            "simulations",
            "evaluations",
            "cache_hits",
            "duplicates",
            "terminal_leaves",
        ] {
            assert_eq!(report[count], first[count], "{count} with {flags}");
        }
        assert!(
            shards(&folder.path().join("replay")) == expected,
            "{flags}: the files differ"
        );
    }
    let (_other, other) = play("--rounds 40 --seed 6 --workers 0");
    assert_ne!(
        other["digest"], first["digest"],
        "another seed, another run"
    );
}

#[test]
fn several_leaves_per_tree_are_as_reproducible() {
    let base = "--rounds 12 --leaves 10 --simulations 40";
    let (_, first) = play(&format!("{base} --workers 0 --in-flight 2"));
    for flags in ["--workers 1", "--workers 3 --max-batch 5"] {
        assert_eq!(
            play(&format!("{base} {flags}")).1["digest"],
            first["digest"],
            "{flags}"
        );
    }
    assert!(
        first["duplicates"].as_u64() > Some(0),
        "ten leaves do collide; they are counted"
    );
}

#[test]
fn the_summary_adds_up() {
    let (folder, report) = play("--rounds 60 --workers 4 --worlds 2 --simulations 25 --seed 9");
    let number = |name: &str| {
        report[name]
            .as_f64()
            .unwrap_or_else(|| panic!("no figure {name}"))
    };
    assert_eq!(number("rounds"), 60.0);
    assert_eq!(number("simulations"), number("decisions") * 50.0);
    assert_eq!(number("duplicates"), 0.0);
    // Each simulation ends at a new leaf, one known already, or a round's end; each tree's root is
    // one more.
    let leaves = number("evaluations") + number("cache_hits") + number("terminal_leaves");
    assert_eq!(leaves, number("simulations") + 2.0 * number("decisions"));
    let mean = number("evaluations") / number("batches");
    assert!((number("batch_mean") - mean).abs() < 1e-9);
    assert!(
        number("batch_p50") <= number("batch_max") && number("batch_max") <= number("max_batch")
    );
    assert!(
        (number("rounds_per_min") - 3600.0 / number("elapsed_s")).abs()
            < 1e-6 * number("rounds_per_min")
    );
    assert!(number("evaluator_busy") > 0.0 && number("evaluator_busy") <= 1.0);
    for cpu in ["workers", "evaluator", "coordinator"] {
        assert!(
            report["cpu_s"][cpu].as_f64() > Some(0.0),
            "processor time of {cpu}"
        );
    }
    for (name, expected) in [
        ("workers", 4),
        ("worlds", 2),
        ("simulations_per_world", 25),
        ("leaves", 1),
        ("seed", 9),
        ("restarts", 0),
    ] {
        assert_eq!(number(name), f64::from(expected), "{name}");
    }
    assert_eq!(report["backend"], "cpu");
    assert!(report["device"].as_str().unwrap().contains("thread"));
    assert!(number("in_flight") >= 1.0);
    let verified = verify(&folder.path().join("replay"));
    assert_eq!(verified["digest"], report["digest"]);
    assert_eq!(verified["decisions"], report["decisions"]);
    let digest = ringmaster()
        .args(["replay", "digest"])
        .arg(folder.path().join("replay"))
        .output()
        .unwrap();
    assert_eq!(
        text(&digest.stdout).trim(),
        report["digest"].as_str().unwrap()
    );
}

#[test]
fn the_real_network_fills_batches_from_four_workers() {
    let folder = TempDir::new().unwrap();
    let mut command = ringmaster();
    command.args([
        "selfplay",
        "--workers",
        "4",
        "--rounds",
        "60",
        "--simulations",
        "8",
        "--json",
        "--out",
    ]);
    let output = command.arg(folder.path().join("replay")).output().unwrap();
    let report = report(&output);
    assert_eq!(report["duplicates"], 0);
    // 60 rounds x 3 worlds leave at most 180 leaves in flight: batches are as large as that allows.
    assert!(report["batch_max"].as_u64() >= Some(90), "{report}");
    verify(&folder.path().join("replay"));
}

#[test]
fn whole_games_follow_the_schedule_and_add_up() {
    let (folder, report) =
        play("--games 5 --players 3 --cards 4 --simulations 6 --workers 2 --in-flight 2");
    assert_eq!(report["rounds"], 5 * 9);
    let out = folder.path().join("replay");
    assert_eq!(verify(&out)["rounds"], 45);
    let shown = ringmaster()
        .args(["replay", "show"])
        .arg(&out)
        .output()
        .unwrap();
    let rounds: Vec<Value> = text(&shown.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for (number, round) in rounds.iter().enumerate() {
        assert_eq!(round["round"], number);
        assert_eq!(round["cards"], [4, 3, 2, 1, 1, 1, 2, 3, 4][number % 9]);
        assert_eq!(
            round["trump"],
            [Value::from(0), 1.into(), 2.into(), 3.into(), Value::Null][number % 9 % 5]
        );
        if number % 9 > 0 {
            let before = rounds[number - 1]["dealer"].as_u64().unwrap();
            assert_eq!(
                round["dealer"],
                (before + 1) % 3,
                "the dealer moves one seat to the left"
            );
        }
    }
    let (_, single) = play("--games 5 --players 3 --cards 4 --simulations 6 --workers 0");
    assert_eq!(single["digest"], report["digest"]);
}

#[test]
fn a_settings_file_mixes_tables_and_house_rules_and_flags_override_it() {
    let folder = TempDir::new().unwrap();
    let config = folder.path().join("settings.toml");
    let toml = "rounds = 400\nworkers = 2\nsimulations = 4\nworlds = 2\nin_flight = 50\nseed = 3\n\
        [rules]\ntrump = \"turned\"\ndealer_restriction = false\nmissed_bid_scores_tricks = true\n\
        [search]\nnoise_fraction = 0.0\ntemperature_start = 0.0\ntemperature_end = 0.0\n\
        [[mix]]\nplayers = 3\ncards = 2\nweight = 3.0\n\
        [[mix]]\nplayers = 8\ncards = 1\nweight = 1.0\n";
    fs::write(&config, toml).unwrap();
    let out = folder.path().join("replay");
    let output = selfplay(&out, "--rounds 200")
        .arg("--config")
        .arg(&config)
        .output()
        .unwrap();
    assert_eq!(report(&output)["rounds"], 200);
    verify(&out);
    let shown = ringmaster()
        .args(["replay", "show"])
        .arg(&out)
        .output()
        .unwrap();
    let mut tables = [0, 0];
    for line in text(&shown.stdout).lines() {
        let round: Value = serde_json::from_str(line).unwrap();
        let eight = round["players"] == 8;
        assert_eq!(round["cards"], if eight { 1 } else { 2 });
        tables[usize::from(eight)] += 1;
        assert_eq!(round["rules"]["trump"], "turned");
        assert_eq!(round["trump"], round["turned"].as_u64().unwrap() / 13);
    }
    assert!(
        (120..180).contains(&tables[0]),
        "three in four are of three players: {tables:?}"
    );
}

#[test]
fn an_interrupted_run_goes_on_to_the_same_replay() {
    let flags = "--rounds 600 --simulations 60 --in-flight 8 --seed 2";
    let (whole_folder, whole) = play(&format!("{flags} --workers 2"));
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("replay");
    for resume in ["", "--resume"] {
        let (child, children) = start(&out, &format!("{flags} --workers 2 {resume}"), 3);
        let pid = child.id();
        signal(pid, nix::sys::signal::Signal::SIGTERM);
        let (code, stdout, stderr) = finish(child);
        assert_eq!(code, Some(130), "{stderr}");
        let last = stderr.lines().last().unwrap();
        assert!(
            last.contains("go on with: ringmaster selfplay --resume --out"),
            "{last}"
        );
        let report: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(report["interrupted"], true);
        assert!(
            report["rounds_in_replay"].as_u64() > Some(0)
                && report["rounds_in_replay"].as_u64() < Some(600)
        );
        assert!(children.iter().all(|&pid| !is_alive(pid)) && segments_of(pid).is_empty());
        assert_eq!(verify(&out)["rounds"], report["rounds_in_replay"]);
    }
    // Without any other flag: the folder knows its settings.
    let output = ringmaster()
        .args(["selfplay", "--resume", "--json", "--out"])
        .arg(&out)
        .output()
        .unwrap();
    let resumed = report(&output);
    assert_eq!(resumed["digest"], whole["digest"]);
    assert_eq!(resumed["rounds_in_replay"], 600);
    assert_eq!(
        verify(&out)["digest"],
        verify(&whole_folder.path().join("replay"))["digest"]
    );
}

/// A settings file with these lines, in `folder`.
fn config(folder: &TempDir, toml: &str) -> PathBuf {
    let file = folder.path().join("settings.toml");
    fs::write(&file, toml).unwrap();
    file
}

#[test]
fn without_restarts_a_dead_child_ends_the_run_cleanly() {
    let folder = TempDir::new().unwrap();
    let settings = config(&folder, "max_restarts = 0\n");
    // The evaluator is started first, then the workers in order.
    for (nth, name) in ["evaluator", "worker 0", "worker 1"]
        .into_iter()
        .enumerate()
    {
        let out = folder.path().join(name);
        let flags =
            "--rounds 100000 --simulations 20 --in-flight 8 --workers 2 --backend cpu --config";
        let (child, children) = start(&out, &format!("{flags} {}", settings.display()), 3);
        let pid = child.id();
        signal(children[nth], nix::sys::signal::Signal::SIGKILL);
        let (code, stdout, stderr) = finish(child);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "one line: {stderr}");
        assert!(
            stderr.contains(&format!("{name} ended: killed by SIGKILL")),
            "{stderr}"
        );
        assert!(stderr.contains("--resume --out"), "{stderr}");
        assert!(
            children.iter().all(|&pid| !is_alive(pid)),
            "a child is left"
        );
        assert!(segments_of(pid).is_empty(), "a segment is left");
        assert!(
            verify(&out)["rounds"].as_u64() > Some(0),
            "finished rounds are kept"
        );
    }
}

#[test]
fn a_dead_child_is_replaced_and_nothing_is_lost() {
    for (flags, rounds) in [
        ("--rounds 400 --simulations 60", 400),
        ("--games 30 --players 3 --cards 4 --simulations 40", 270),
    ] {
        let flags = format!("{flags} --in-flight 8 --seed 8");
        let (whole, undisturbed) = play(&format!("{flags} --workers 2"));
        for nth in 0..3 {
            let folder = TempDir::new().unwrap();
            let out = folder.path().join("replay");
            let (child, children) = start(&out, &format!("{flags} --workers 2"), 3);
            signal(children[nth], nix::sys::signal::Signal::SIGKILL);
            let (code, stdout, stderr) = finish(child);
            assert_eq!(code, Some(0), "{stderr}");
            let report: Value = serde_json::from_str(&stdout).unwrap();
            assert_eq!(
                (&report["digest"], report["rounds"].as_u64()),
                (&undisturbed["digest"], Some(rounds))
            );
            assert_eq!(report["restarts"], 1);
            assert!(
                stderr.contains("ended: killed by SIGKILL; restarted"),
                "{stderr}"
            );
            assert!(
                shards(&out) == shards(&whole.path().join("replay")),
                "the files differ"
            );
        }
    }
}

#[test]
fn a_hung_child_is_replaced() {
    let folder = TempDir::new().unwrap();
    let settings = config(&folder, "hang_timeout_s = 1\n");
    let flags = "--rounds 400 --simulations 60 --in-flight 8 --seed 8";
    let expected = play(&format!("{flags} --workers 0")).1["digest"].clone();
    for nth in 0..2 {
        let out = folder.path().join(format!("replay{nth}"));
        let (child, children) = start(
            &out,
            &format!("{flags} --workers 2 --config {}", settings.display()),
            3,
        );
        signal(children[nth], nix::sys::signal::Signal::SIGSTOP);
        let (code, stdout, stderr) = finish(child);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stderr.contains("gives no sign of life: killed"), "{stderr}");
        let report: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(
            (&report["digest"], report["restarts"].as_u64()),
            (&expected, Some(1))
        );
        assert!(children.iter().all(|&pid| !is_alive(pid)));
    }
}

#[test]
fn a_storm_of_kills_loses_nothing() {
    use nix::sys::signal::Signal::{SIGCONT, SIGKILL, SIGSTOP};
    use rand::{RngExt, SeedableRng};
    let folder = TempDir::new().unwrap();
    let settings = config(&folder, "max_restarts = 1000\nhang_timeout_s = 2\n");
    let flags = "--rounds 1500 --simulations 40 --in-flight 3 --seed 12";
    let (whole, undisturbed) = play(&format!("{flags} --workers 2"));
    let out = folder.path().join("replay");
    let (mut child, _) = start(
        &out,
        &format!("{flags} --workers 3 --config {}", settings.display()),
        4,
    );
    let pid = child.id();
    let mut rng = rand_xoshiro::Xoshiro256PlusPlus::seed_from_u64(1);
    let mut kills = 0;
    while child.try_wait().unwrap().is_none() {
        let children = children_of(pid);
        if !children.is_empty() && kills < 40 {
            let victim =
                nix::unistd::Pid::from_raw(children[rng.random_range(0..children.len())] as i32);
            // It may be gone by now.
            if rng.random_range(0..4) == 0 {
                let _ = nix::sys::signal::kill(victim, SIGSTOP);
                std::thread::sleep(Duration::from_millis(rng.random_range(1..100)));
                let _ = nix::sys::signal::kill(victim, SIGCONT);
            } else {
                kills += usize::from(nix::sys::signal::kill(victim, SIGKILL).is_ok());
            }
        }
        std::thread::sleep(Duration::from_millis(rng.random_range(10..250)));
    }
    let (code, stdout, stderr) = finish(child);
    assert_eq!(code, Some(0), "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    println!("{kills} kills, {} restarts", report["restarts"]);
    assert!(report["restarts"].as_u64() >= Some(10), "{report}");
    assert_eq!(report["digest"], undisturbed["digest"]);
    assert!(
        shards(&out) == shards(&whole.path().join("replay")),
        "the files differ"
    );
    assert_eq!(verify(&out)["rounds"], 1500);
    assert!(segments_of(pid).is_empty());
}

#[test]
fn the_coordinators_death_takes_everything_with_it() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("replay");
    let (child, children) = start(
        &out,
        "--rounds 100000 --simulations 20 --in-flight 8 --workers 2",
        3,
    );
    let pid = child.id();
    assert_eq!(segments_of(pid).len(), 1);
    signal(pid, nix::sys::signal::Signal::SIGKILL);
    let (code, _, _) = finish(child);
    assert_eq!(code, None);
    wait_until("the children are gone", || {
        children.iter().all(|&pid| !is_alive(pid))
    });
    assert!(
        segments_of(pid).is_empty(),
        "the last child removes the segment's name"
    );
}

#[test]
fn a_killed_coordinators_rounds_are_found_again() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("replay");
    let flags = "--rounds 300 --simulations 60 --in-flight 8 --workers 2 --seed 4";
    let (child, _) = start(&out, flags, 3);
    signal(child.id(), nix::sys::signal::Signal::SIGKILL);
    finish(child);
    let output = selfplay(&out, &format!("{flags} --resume"))
        .output()
        .unwrap();
    let resumed = report(&output);
    assert!(
        resumed["rounds"].as_u64() < Some(300),
        "whole rounds are not played again"
    );
    assert_eq!(resumed["digest"], play(flags).1["digest"]);
}

/// Runs a command line that must be refused: exit code, one line that holds `says`, nothing on
/// stdout.
fn refused(arguments: &[&str], code: i32, says: &str) {
    let output = ringmaster().args(arguments).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
    assert!(stderr.contains(says), "{arguments:?}: {stderr}");
    assert!(output.stdout.is_empty());
}

#[test]
fn wrong_input_gets_one_clear_line() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let out = path("out");
    let selfplay = |flags: &str, code: i32, says: &str| {
        let arguments: Vec<&str> = ["selfplay"]
            .into_iter()
            .chain(flags.split_whitespace())
            .chain(["--out", &out])
            .collect();
        refused(&arguments, code, says);
        assert!(
            !Path::new(&out).exists(),
            "{flags}: a folder is left behind"
        );
    };
    selfplay("--players 9", 2, "Blob is played by 3 to 8");
    selfplay("--players 2", 2, "Blob is played by 3 to 8");
    selfplay("--cards 14", 2, "4 players can be dealt 1 to 13");
    selfplay("--cards 0", 2, "1 to 13");
    selfplay("--worlds 0", 2, "worlds is 0");
    selfplay("--simulations 0", 2, "simulations is 0");
    selfplay("--max-batch 0", 2, "max-batch is 0");
    selfplay("--leaves 0", 2, "leaves is 0");
    selfplay("--rounds 0", 2, "rounds is 0");
    selfplay("--backend cuda", 1, "--backend cpu");
    selfplay(
        "--weights /nowhere/w.safetensors",
        1,
        "/nowhere/w.safetensors",
    );
    // 256 workers with 819,200 leaves each: some 64 GiB of rings.
    selfplay(
        "--workers 256 --in-flight 4096 --worlds 200",
        1,
        "/dev/shm is too small",
    );

    let bad = path("bad.toml");
    for (toml, says) in [
        (
            "players = 4\nbananas = 3\n",
            "line 2: unknown field `bananas`",
        ),
        ("[search]\nc_pukt = 1.0\n", "unknown field `c_pukt`"),
        ("players = \"four\"\n", "line 1"),
        ("players = \n", "line 1"),
    ] {
        fs::write(&bad, toml).unwrap();
        selfplay(&format!("--config {bad}"), 2, says);
    }
    selfplay(
        "--config /nowhere/settings.toml",
        2,
        "/nowhere/settings.toml",
    );
    fs::write(
        &bad,
        "games = 2\n[[mix]]\nplayers = 3\ncards = 2\nweight = 1\n",
    )
    .unwrap();
    selfplay(&format!("--config {bad}"), 2, "drop [[mix]] or games");

    let scalar = path("foreign.safetensors");
    fs::write(&scalar, b"not weights at all").unwrap();
    selfplay(
        &format!("--weights {scalar}"),
        1,
        "not a whole safetensors file",
    );
    selfplay("--resume", 1, "holds no replay to resume");

    refused(
        &["selfplay", "--rounds", "1", "--out", "/proc/nowhere"],
        1,
        "/proc/nowhere",
    );
    refused(
        &["selfplay", "--resume", "--out", "/etc"],
        1,
        "/etc: no replay",
    );
    refused(&["selfplay", "--resume"], 2, "--resume needs --out");
    refused(&["replay", "verify", "/etc"], 1, "/etc");
    refused(
        &["weights", "inspect", &scalar],
        1,
        "not a whole safetensors file",
    );
}

#[test]
fn resuming_with_other_settings_is_refused_by_name() {
    let (folder, _) = play("--rounds 5 --simulations 4 --workers 0");
    let out = folder.path().join("replay");
    for (flags, says) in [
        ("--rounds 9 --simulations 5 --workers 0", "simulations"),
        ("--rounds 9 --simulations 4 --workers 0 --seed 1", "seed"),
        (
            "--rounds 9 --simulations 4 --workers 0 --players 5",
            "players",
        ),
    ] {
        let output = selfplay(&out, &format!("{flags} --resume"))
            .output()
            .unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(
            stderr.contains(says) && stderr.lines().count() == 1,
            "{stderr}"
        );
    }
    let refused = selfplay(&out, "--rounds 5").output().unwrap();
    assert!(
        text(&refused.stderr).contains("--resume"),
        "{}",
        text(&refused.stderr)
    );
    // More rounds with the same settings are welcome, with any number of workers.
    let output = selfplay(&out, "--rounds 9 --simulations 4 --workers 2 --resume")
        .output()
        .unwrap();
    let longer = report(&output);
    assert_eq!(
        (
            longer["rounds"].as_u64(),
            longer["rounds_in_replay"].as_u64()
        ),
        (Some(4), Some(9))
    );
    assert_eq!(
        longer["digest"],
        play("--rounds 9 --simulations 4 --workers 0").1["digest"]
    );
}

#[test]
fn export_and_infer_agree_with_each_other() {
    let (folder, report) = play("--rounds 10 --simulations 4 --workers 0");
    let path = |name: &str| folder.path().join(name);
    let exported = ringmaster()
        .arg("export")
        .arg(path("replay"))
        .arg("--out")
        .arg(path("arrays"))
        .output()
        .unwrap();
    assert!(exported.status.success(), "{}", text(&exported.stderr));
    let rows = report["decisions"].as_u64().unwrap();
    let length = |name: &str| fs::metadata(path(name)).unwrap().len();
    assert!(length("arrays/features.npy") > rows * 256 * 4);
    let mut infer = ringmaster();
    infer
        .arg("infer")
        .arg("--features")
        .arg(path("arrays/features.npy"));
    infer
        .arg("--mask")
        .arg(path("arrays/mask.npy"))
        .arg("--weights")
        .arg(small_weights());
    let inferred = infer.arg("--out").arg(path("inferred")).output().unwrap();
    assert!(inferred.status.success(), "{}", text(&inferred.stderr));
    let read = |name: &str, columns: usize| -> Vec<f32> {
        let bytes = fs::read(path(name)).unwrap();
        let body = &bytes[bytes.len() - rows as usize * columns * 4..];
        body.chunks_exact(4)
            .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
            .collect()
    };
    let mask_file = fs::read(path("arrays/mask.npy")).unwrap();
    let mask = &mask_file[mask_file.len() - rows as usize * 52..];
    let policy = read("inferred/policy.npy", 52);
    for (row, legal) in policy.chunks(52).zip(mask.chunks(52)) {
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        assert!(
            row.iter()
                .zip(legal)
                .all(|(&p, &on)| (on == 1) == (p > 0.0))
        );
    }
    assert!(
        read("inferred/value.npy", 8)
            .iter()
            .all(|value| value.abs() <= 1.0)
    );
    let shorter = path("arrays/policy.npy").to_string_lossy().into_owned();
    refused(
        &[
            "infer",
            "--features",
            &shorter,
            "--mask",
            &shorter,
            "--out",
            "/tmp",
        ],
        1,
        "policy.npy",
    );
    refused(
        &[
            "infer",
            "--backend",
            "cuda",
            "--features",
            &shorter,
            "--mask",
            &shorter,
            "--out",
            "/tmp",
        ],
        2,
        "infer runs on the CPU only",
    );
}

#[test]
fn a_known_run_is_shown_as_it_always_was() {
    // Without noise and temperature nothing but IEEE arithmetic enters, so this holds on every
    // machine. After an intended change of results: UPDATE_GOLDEN=1 cargo test --test engine
    // a_known_run, and read the difference.
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/show.jsonl");
    let folder = TempDir::new().unwrap();
    let config = folder.path().join("settings.toml");
    let calm = "[search]\nnoise_fraction = 0.0\ntemperature_start = 0.0\ntemperature_end = 0.0\n";
    fs::write(&config, calm).unwrap();
    let out = folder.path().join("replay");
    let flags = "--games 1 --players 3 --cards 3 --worlds 2 --simulations 12 --workers 2 --seed 11";
    let output = selfplay(&out, flags)
        .arg("--config")
        .arg(&config)
        .output()
        .unwrap();
    report(&output);
    let shown = ringmaster()
        .args(["replay", "show"])
        .arg(&out)
        .output()
        .unwrap();
    let shown = text(&shown.stdout);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &shown).unwrap();
    }
    assert_eq!(shown, fs::read_to_string(&golden).unwrap_or_default());
}
