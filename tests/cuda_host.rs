//! The GPU evaluator's host side on machines without a GPU: what is said when CUDA is missing, and,
//! against a driver that pretends (tests/fake_cuda), the whole engine with batches in flight, in
//! place and copied, and with processes killed under it.
#![allow(clippy::unwrap_used)]

#[path = "support/fakes.rs"]
mod fakes;

use ringmaster::network::{Shape, Weights};
use ringmaster::replay::{Manifest, ReplayReader, RoundRecord};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The folder with the pretended driver, and weights.
struct Fakes {
    _folder: TempDir,
    driver: PathBuf,
    weights: PathBuf,
}

fn fakes() -> &'static Fakes {
    static FAKES: OnceLock<Fakes> = OnceLock::new();
    FAKES.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        let driver = fakes::driver(folder.path());
        // The smallest network the kernels take.
        let weights = folder.path().join("weights.safetensors");
        let made = Command::new(env!("CARGO_BIN_EXE_ringmaster"))
            .args(["weights", "init", "--depth", "1", "--out"])
            .arg(&weights)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", text(&made.stderr));
        Fakes {
            driver,
            weights,
            _folder: folder,
        }
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `ringmaster` where no driver is to be found.
fn bare(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmaster"));
    command
        .env("XDG_CACHE_HOME", home)
        .env_remove("LD_LIBRARY_PATH")
        .env_remove("FAKE_CUDA");
    command
}

/// `ringmaster` with the pretended GPU.
fn with_gpu(home: &Path) -> Command {
    let mut command = bare(home);
    command.env("LD_LIBRARY_PATH", &fakes().driver);
    command
}

/// Is there a driver on this machine? Then what is said without one cannot be tested.
fn has_driver() -> bool {
    let home = TempDir::new().unwrap();
    let output = bare(home.path())
        .args(["doctor", "--json"])
        .output()
        .unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    finding(&told, "CUDA driver")["state"] == "ok"
}

fn finding<'a>(told: &'a Value, topic: &str) -> &'a Value {
    let findings = told["findings"].as_array().unwrap();
    findings
        .iter()
        .find(|finding| finding["topic"] == topic)
        .unwrap_or_else(|| panic!("no finding on {topic}"))
}

/// Refused in one line with all of these parts; the line.
fn refused(mut command: Command, says: &[&str]) -> String {
    let output = command.output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "one line: {stderr}");
    for part in says {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    stderr
}

/// The same in few words: `doctor` has the rest.
fn refused_briefly(command: Command, says: &[&str]) {
    let stderr = refused(command, says);
    assert!(stderr.contains("ringmaster doctor says more"), "{stderr}");
    assert!(stderr.trim_end().len() <= 160, "{stderr}");
}

/// How a command ended that must end by itself.
fn ended(mut command: Command) -> Output {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(90);
    while child.try_wait().unwrap().is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    // The kill is of one that hangs; the test then fails by its exit code.
    let _ = child.kill();
    child.wait_with_output().unwrap()
}

/// A short run; its report and what it said.
fn play(mut command: Command, out: &Path, flags: &str) -> (Value, String) {
    let output: Output = command
        .args(["selfplay", "--json", "--seed", "5", "--weights"])
        .arg(&fakes().weights)
        .arg("--out")
        .arg(out)
        .args(flags.split_whitespace())
        .output()
        .unwrap();
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{flags}: {stderr}");
    (serde_json::from_slice(&output.stdout).unwrap(), stderr)
}

const SHORT: &str = "--rounds 40 --cards 3 --worlds 2 --simulations 8";

#[test]
fn without_a_driver_cuda_is_refused_and_auto_takes_the_cpu() {
    if has_driver() {
        return;
    }
    let home = TempDir::new().unwrap();
    let out = home.path().join("out");
    let mut command = bare(home.path());
    command
        .args(["selfplay", "--backend", "cuda", "--out"])
        .arg(&out);
    refused_briefly(command, &["no CUDA driver", "install", "--backend cpu"]);
    assert!(!out.exists(), "a folder is left behind");
    let mut command = bare(home.path());
    command.args(["profile", "evaluator", "--backend", "cuda"]);
    refused_briefly(command, &["no CUDA driver"]);
    let settings = home.path().join("settings.toml");
    fs::write(&settings, "backend = \"cuda\"\n").unwrap();
    let spec = home.path().join("spec.toml");
    fs::write(
        &spec,
        "[base]\nbackend = \"cuda\"\n[grid]\nworkers = [1, 2]\n",
    )
    .unwrap();
    for (flags, file) in [("selfplay --config", &settings), ("sweep", &spec)] {
        let mut command = bare(home.path());
        command.args(flags.split(' ')).arg(file);
        command.arg("--out").arg(&out);
        refused_briefly(command, &["no CUDA driver"]);
        assert!(!out.exists(), "a folder is left behind");
    }
    for workers in [0, 2] {
        let out = home.path().join(format!("auto{workers}"));
        let (report, stderr) = play(
            bare(home.path()),
            &out,
            &format!("{SHORT} --workers {workers}"),
        );
        assert_eq!(report["backend"], "cpu");
        assert_eq!(report["gpu_memory_mib"], 0.0);
        let note = "backend cpu: no CUDA driver (ringmaster doctor says more)";
        let notes = stderr.lines().filter(|line| *line == note);
        assert_eq!(notes.count(), 1, "{stderr}");
    }
    // A resumed run stays on the device that it was begun on, and needs no announcement.
    let out = home.path().join("auto2");
    let mut command = bare(home.path());
    command
        .args(["selfplay", "--resume", "--rounds", "44", "--out"])
        .arg(&out);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn each_missing_part_is_named() {
    let home = TempDir::new().unwrap();
    let selfplay = |faults: &str| {
        let mut command = with_gpu(home.path());
        command
            .env("FAKE_CUDA", faults)
            .args([
                "selfplay",
                "--backend",
                "cuda",
                "--rounds",
                "1",
                "--weights",
            ])
            .arg(&fakes().weights)
            .arg("--out")
            .arg(home.path().join("out"));
        command
    };
    refused_briefly(selfplay("no_device"), &["finds no GPU", "nvidia-smi"]);
    refused_briefly(selfplay("silent"), &["does not start (CUDA_ERROR_UNKNOWN)"]);
    let stderr = refused(
        selfplay("old"),
        &["knows CUDA 11.8", "install driver 525 or newer"],
    );
    assert!(!stderr.contains("doctor"), "no more to say: {stderr}");
    // A network of another width.
    let narrow = home.path().join("narrow.safetensors");
    let made = bare(home.path())
        .args([
            "weights", "init", "--width", "32", "--depth", "1", "--ffn", "32", "--out",
        ])
        .arg(&narrow)
        .output()
        .unwrap();
    assert!(made.status.success());
    let mut command = with_gpu(home.path());
    command
        .args(["selfplay", "--backend", "cuda", "--weights"])
        .arg(&narrow);
    refused(command, &["width", "--backend cpu"]);
    let mut command = with_gpu(home.path());
    command
        .args([
            "profile",
            "evaluator",
            "--backend",
            "auto",
            "--max-batch",
            "16",
            "--json",
            "--weights",
        ])
        .arg(&narrow);
    let output = command.output().unwrap();
    let profile: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(profile["backend"], "cpu", "{}", text(&output.stderr));
    assert!(text(&output.stderr).starts_with("backend cpu: "));
    assert!(!home.path().join("out").exists(), "a folder is left behind");
}

/// A driver without its compiler of PTX is found out before anything is started.
#[test]
fn a_driver_that_cannot_load_the_kernels_is_refused_and_auto_takes_the_cpu() {
    let home = TempDir::new().unwrap();
    let cause = "the GPU cannot load its kernels: CUDA_ERROR_JIT_COMPILER_NOT_FOUND";
    let remedy = "; update or complete the NVIDIA driver, or use --backend cpu";
    let out = home.path().join("out");
    let without_compiler = || {
        let mut command = with_gpu(home.path());
        command.env("FAKE_CUDA", "refuse_load");
        command
    };
    let mut command = without_compiler();
    command
        .args(["selfplay", "--backend", "cuda", "--weights"])
        .arg(&fakes().weights)
        .arg("--out")
        .arg(&out);
    refused(command, &[cause, remedy]);
    assert!(!out.exists(), "a folder is left behind");
    for workers in [0, 2] {
        let out = home.path().join(format!("auto{workers}"));
        let flags = format!("{SHORT} --workers {workers}");
        let (report, stderr) = play(without_compiler(), &out, &flags);
        assert_eq!(report["backend"], "cpu");
        let note = format!("backend cpu: {cause}");
        let notes = stderr.lines().filter(|line| *line == note);
        assert_eq!(notes.count(), 1, "{stderr}");
    }
}

#[test]
fn workers_batches_and_the_way_of_the_leaves_change_no_bit() {
    let home = TempDir::new().unwrap();
    let mut digests = Vec::new();
    for (number, (flags, faults)) in [
        ("--workers 0", ""),
        ("--workers 1", ""),
        ("--workers 3 --max-batch 7", ""),
        ("--workers 2 --max-batch 64 --max-wait-us 300", ""),
        ("--workers 2 --parking poll", ""),
        ("--workers 2", "refuse_register"),
        ("--workers 3 --max-batch 5", "refuse_register"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut command = with_gpu(home.path());
        command.env("FAKE_CUDA", faults);
        let out = home.path().join(number.to_string());
        let (report, stderr) = play(command, &out, &format!("{SHORT} {flags}"));
        assert_eq!(
            (&report["backend"], &report["device"]),
            (&"cuda".into(), &"Fake GPU, sm_89".into())
        );
        assert_eq!(
            stderr.contains("leaves are copied instead"),
            !faults.is_empty(),
            "{stderr}"
        );
        assert!(stderr.contains("backend cuda: Fake GPU"), "{stderr}");
        assert!(report["gpu_memory_mib"].as_f64() > Some(1.0));
        assert_eq!(report["gpu_memory_used_mib"], 300.0);
        let busy = report["evaluator_busy"].as_f64().unwrap();
        assert!(busy > 0.0 && busy <= 1.01, "{busy}");
        assert_eq!(report["evaluations"], sum_of_batches(&report));
        digests.push(report["digest"].clone());
    }
    assert!(
        digests.iter().all(|digest| *digest == digests[0]),
        "{digests:?}"
    );
}

/// Evaluations by the batches' count and mean.
fn sum_of_batches(report: &Value) -> u64 {
    let (batches, mean) = (
        report["batches"].as_f64().unwrap(),
        report["batch_mean"].as_f64().unwrap(),
    );
    (batches * mean).round() as u64
}

#[test]
fn kills_with_batches_in_flight_lose_nothing() {
    let home = TempDir::new().unwrap();
    let flags = "--backend cuda --rounds 600 --cards 5 --worlds 2 --simulations 12 --workers 3 \
                 --max-batch 32";
    let (quiet, _) = play(with_gpu(home.path()), &home.path().join("quiet"), flags);
    for faults in ["", "refuse_register"] {
        let out = home.path().join(format!("killed{faults}"));
        let mut child = with_gpu(home.path())
            .env("FAKE_CUDA", faults)
            .args(["selfplay", "--json", "--seed", "5", "--weights"])
            .arg(&fakes().weights)
            .arg("--out")
            .arg(&out)
            .args(flags.split_whitespace())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        for nth in [1, 0, 2, 0, 3] {
            std::thread::sleep(Duration::from_millis(120));
            let path = format!("/proc/{0}/task/{0}/children", child.id());
            let children = fs::read_to_string(path).unwrap_or_default();
            if let Some(pid) = children.split_whitespace().nth(nth) {
                let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
        child.stdin.take();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            report["digest"],
            quiet["digest"],
            "{}",
            text(&output.stderr)
        );
    }
}

/// Weights of the smallest network the kernels take, put in place of others at one stroke.
fn put_weights(at: &Path, seed: u64) {
    let shape = Shape::new(256, 1, 1024).unwrap();
    let whole = at.with_extension("whole");
    Weights::seeded(seed, shape).save(&whole).unwrap();
    fs::rename(whole, at).unwrap();
}

/// What the pretended driver says when it is to tell of loads.
const LOADS: &str = "fake driver: loads kernels";

/// The weights of `put_weights` with one beyond f16's range.
fn put_large_weights(at: &Path, seed: u64) {
    put_weights(at, seed);
    let mut bytes = fs::read(at).unwrap();
    let header_bytes = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + header_bytes]).unwrap();
    let offset = &header["input_embedding.weight"]["data_offsets"][0];
    let first = 8 + header_bytes + offset.as_u64().unwrap() as usize;
    bytes[first..first + 4].copy_from_slice(&1e6_f32.to_le_bytes());
    fs::write(at, bytes).unwrap();
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(60), "gave up: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn records(out: &Path) -> Vec<RoundRecord> {
    let reader = ReplayReader::open(out).unwrap();
    reader
        .records()
        .map(|stored| stored.unwrap().record)
        .collect()
}

/// While two networks answer leaves are copied; before and after they stay where they lie.
#[test]
fn new_weights_take_over_between_batches_in_place() {
    let home = TempDir::new().unwrap();
    let (live, out) = (home.path().join("live"), home.path().join("out"));
    put_weights(&live, 1);
    let flags = "--json --backend cuda --cards 3 --worlds 2 --simulations 8";
    let endless = "--rounds 100000000 --workers 2 --in-flight 8 --reload-s 0.02";
    let command = |flags: &str, out: &Path| {
        let mut command = with_gpu(home.path());
        command.env("FAKE_CUDA", "tell_loads");
        command.arg("selfplay").args(flags.split_whitespace());
        command.arg("--weights").arg(&live).arg("--out").arg(out);
        command
    };
    let running = command(&format!("{flags} {endless}"), &out)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let shards = || -> u64 {
        let files = fs::read_dir(&out).into_iter().flatten().flatten();
        let shards = files.filter(|file| file.file_name().to_string_lossy().starts_with("rounds-"));
        shards
            .filter_map(|shard| Some(shard.metadata().ok()?.len()))
            .sum()
    };
    let go_on = || {
        let begin = shards();
        wait_until("rounds", || shards() > begin + 20_000);
    };
    go_on();
    for network in 1..3 {
        put_weights(&live, network + 1);
        wait_until("new weights play alone", || {
            let is_gone = !out
                .join(format!("weights-{}.safetensors", network - 1))
                .exists();
            is_gone && out.join(format!("weights-{network}.safetensors")).exists()
        });
        go_on();
    }
    let pid = nix::unistd::Pid::from_raw(running.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let output = running.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(!stderr.contains("copied instead"), "{stderr}");
    // When the device is chosen, and for the first of three networks.
    assert_eq!(stderr.matches(LOADS).count(), 2, "{stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["restarts"], 0, "{stderr}");

    let played = records(&out);
    let networks = Manifest::read(&out).unwrap().networks;
    let first = |network: usize| networks.get(network).map_or(u64::MAX, |n| n.from_round);
    for network in 0..3 {
        let of_it =
            |record: &&RoundRecord| (first(network)..first(network + 1)).contains(&record.round);
        let last = played.iter().filter(of_it).map(|record| record.round).max();
        let last = last.expect("each network has played");
        put_weights(&live, network as u64 + 1);
        let alone = home.path().join(format!("alone-{network}"));
        let flags = format!("{flags} --rounds {} --workers 0 --in-flight 64", last + 1);
        assert!(command(&flags, &alone).output().unwrap().status.success());
        let alone = records(&alone);
        for record in played.iter().filter(of_it) {
            let expected = RoundRecord {
                network: network as u32,
                ..alone[record.round as usize].clone()
            };
            assert_eq!(record, &expected);
        }
    }
}

/// A run that gets weights for which other kernels are compiled waits for these, however soon it
/// takes a process without a sign of life for hung.
#[test]
fn compiling_kernels_for_new_weights_is_no_hang() {
    let home = TempDir::new().unwrap();
    let (live, large) = (home.path().join("live"), home.path().join("large"));
    let (settings, out) = (home.path().join("s.toml"), home.path().join("out"));
    put_weights(&live, 1);
    put_large_weights(&large, 2);
    fs::write(&settings, "hang_timeout_s = 2\n").unwrap();
    let running = with_gpu(home.path())
        .env("FAKE_CUDA", "slow_bf16,tell_loads")
        .args("selfplay --json --backend cuda --workers 2 --reload-s 0.02".split(' '))
        .args("--rounds 100000000 --cards 2 --simulations 4 --weights".split(' '))
        .arg(&live)
        .arg("--config")
        .arg(&settings)
        .arg("--out")
        .arg(&out)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("rounds", || out.join("rounds-000000.part").exists());
    fs::rename(&large, &live).unwrap();
    wait_until("the new weights play alone", || {
        let is_there = |network| out.join(format!("weights-{network}.safetensors")).exists();
        is_there(1) && !is_there(0)
    });
    let pid = nix::unistd::Pid::from_raw(running.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let output = running.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert_eq!(stderr.matches(LOADS).count(), 3, "{stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["restarts"], 0, "{stderr}");
}

#[test]
fn weights_that_do_not_fit_beside_the_old_ones_are_ignored() {
    let home = TempDir::new().unwrap();
    let (live, log) = (home.path().join("live"), home.path().join("log"));
    put_weights(&live, 1);
    let mut running = with_gpu(home.path())
        .args("selfplay --backend cuda --workers 1 --reload-s 0.02 --gpu-memory-mib 3".split(' '))
        .args("--rounds 100000000 --cards 2 --simulations 4 --weights".split(' '))
        .arg(&live)
        .arg("--out")
        .arg(home.path().join("out"))
        .stderr(fs::File::create(&log).unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let says = |what: &str| fs::read_to_string(&log).unwrap().contains(what);
    wait_until("the run goes on", || {
        home.path().join("out/rounds-000000.part").exists()
    });
    put_weights(&live, 2);
    wait_until("the new weights are refused", || {
        says("new weights ignored: the evaluator cannot use them")
    });
    assert!(says("of GPU memory, gpu_memory_mib allows"));
    let pid = nix::unistd::Pid::from_raw(running.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(130));
    assert!(!says("restarted"));
}

#[test]
fn a_gpu_that_fails_ends_the_run_with_its_word() {
    let home = TempDir::new().unwrap();
    let settings = home.path().join("s.toml");
    fs::write(&settings, "max_restarts = 0\n").unwrap();
    let output = with_gpu(home.path())
        .env("FAKE_CUDA", "fail_launch")
        .args([
            "selfplay",
            "--backend",
            "cuda",
            "--rounds",
            "100000",
            "--workers",
            "2",
            "--weights",
        ])
        .arg(&fakes().weights)
        .arg("--out")
        .arg(home.path().join("out"))
        .arg("--config")
        .arg(&settings)
        .output()
        .unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("the GPU cannot start a batch: CUDA_ERROR_LAUNCH_FAILED"),
        "{stderr}"
    );
    assert!(!stderr.contains("panicked"), "{stderr}");
}

/// A device that fails, or never finishes a batch, again and again, though rounds are finished in
/// between: an end in words after as many restarts as are allowed, and a replay that a sound device
/// goes on with.
#[test]
fn a_gpu_that_fails_again_and_again_ends_the_run() {
    let home = TempDir::new().unwrap();
    let flags = "--backend cuda --rounds 2000 --cards 3 --worlds 2 --simulations 8 --workers 2 \
                 --max-batch 64";
    let (quiet, _) = play(with_gpu(home.path()), &home.path().join("quiet"), flags);
    let settings = home.path().join("s.toml");
    for (fault, hang_timeout_s, says) in [
        (
            "fail_launch",
            60,
            "the GPU cannot start a batch: CUDA_ERROR_LAUNCH_FAILED",
        ),
        ("hang", 1, "evaluator gives no sign of life: killed"),
    ] {
        let limits = format!("max_restarts = 3\nhang_timeout_s = {hang_timeout_s}\n");
        fs::write(&settings, limits).unwrap();
        let out = home.path().join(fault);
        let selfplay = |fault: &str, more: &[&str]| {
            let mut command = with_gpu(home.path());
            command.env("FAKE_CUDA", fault).args([
                "selfplay",
                "--json",
                "--seed",
                "5",
                "--weights",
            ]);
            command.arg(&fakes().weights).arg("--out").arg(&out);
            command
                .args(flags.split(' '))
                .arg("--config")
                .arg(&settings)
                .args(more);
            ended(command)
        };
        let output = selfplay(fault, &[]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        // Four lives of the device, none of them without a finished round.
        assert_eq!(stderr.matches(says).count(), 4, "{stderr}");
        assert_eq!(stderr.matches("; restarted").count(), 3, "{stderr}");
        let last = stderr.lines().last().unwrap();
        assert!(
            last.contains("it failed 4 times, less than 10 minutes apart")
                && last.contains("--resume"),
            "{last}"
        );
        let output = selfplay("", &["--resume"]);
        let stderr = text(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["digest"], quiet["digest"], "{stderr}");
        assert!(
            report["rounds"].as_u64() < Some(2000),
            "no round was finished in four lives"
        );
    }
}

#[test]
fn batches_are_profiled_and_their_kernels_named() {
    let home = TempDir::new().unwrap();
    let output = with_gpu(home.path())
        .args("profile evaluator --backend cuda --max-batch 64 --json --weights".split(' '))
        .arg(&fakes().weights)
        .output()
        .unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["backend"], "cuda");
    let sizes = told["sizes"].as_array().unwrap();
    let rows: Vec<_> = sizes
        .iter()
        .map(|size| size["rows"].as_u64().unwrap())
        .collect();
    assert_eq!(rows, [1, 16, 32, 64]);
    // The pretended GPU takes 50 us and 0.2 us a row.
    let device = sizes[3]["device_us_p50"].as_f64().unwrap();
    assert!((device - 62.8).abs() < 1.0, "{device}");
    assert_eq!(sizes[0]["kernel"], "blobnet_block_16");
}

/// A GPU with clusters is given the kernels that are made of them, and the replay is that of any
/// other.
#[test]
fn a_gpu_with_clusters_launches_their_kernels() {
    let home = TempDir::new().unwrap();
    let flags = format!("{SHORT} --workers 1 --max-batch 128 --backend cuda");
    let run = |faults: &str| {
        let mut command = with_gpu(home.path());
        command.env("FAKE_CUDA", faults);
        play(command, &home.path().join(format!("on-{faults}")), &flags)
    };
    let ((blocks, _), (clusters, said)) = (run(""), run("hopper"));
    assert!(
        said.contains("launches blobnet_cluster_") && !said.contains("launches blobnet_block_"),
        "{said}"
    );
    assert_eq!(clusters["device"], "Fake GPU, sm_90");
    assert_eq!(clusters["digest"], blocks["digest"]);
}

#[test]
fn the_cap_on_gpu_memory_holds() {
    let home = TempDir::new().unwrap();
    let run = |mib: &str, flags: &str| {
        let mut command = with_gpu(home.path());
        command
            .args([
                "selfplay",
                "--backend",
                "cuda",
                "--workers",
                "0",
                "--gpu-memory-mib",
                mib,
                "--weights",
            ])
            .arg(&fakes().weights)
            .arg("--out")
            .arg(home.path().join(mib))
            .args(flags.split_whitespace());
        command
    };
    refused(
        run("1", SHORT),
        &["MiB of GPU memory, gpu_memory_mib allows 1"],
    );
    assert!(run("64", SHORT).output().unwrap().status.success());
}

#[test]
fn doctor_tells_state_effect_and_remedy() {
    let home = TempDir::new().unwrap();
    let output = with_gpu(home.path())
        .args(["doctor", "--json"])
        .output()
        .unwrap();
    assert!(output.status.success());
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    for topic in [
        "cores",
        "SMT",
        "NUMA",
        "CPU features",
        "governor",
        "clock",
        "perf",
        "/dev/shm",
        "huge pages",
        "open files",
        "processes",
        "locked memory",
        "this folder",
        "memory limit",
        "CUDA driver",
        "GPU",
        "stale segments",
    ] {
        let finding = finding(&told, topic);
        let state = finding["state"].as_str().unwrap();
        assert!(["ok", "note", "missing"].contains(&state), "{finding}");
        assert!(!finding["found"].as_str().unwrap().is_empty(), "{finding}");
        assert!(!finding["effect"].as_str().unwrap().is_empty(), "{finding}");
        assert_eq!(state == "ok", finding["remedy"].is_null(), "{finding}");
    }
    assert!(
        finding(&told, "GPU")["found"]
            .as_str()
            .unwrap()
            .contains("Fake GPU (sm_89), 24 multiprocessors, 8192 MiB")
    );
    assert_eq!(
        finding(&told, "CUDA driver")["found"],
        "libcuda.so.1, CUDA 13.0"
    );
    assert!(told["cleaned"].as_array().unwrap().is_empty());

    let output = bare(home.path()).arg("doctor").output().unwrap();
    let lines = text(&output.stdout);
    assert!(output.status.success());
    if !has_driver() {
        assert!(lines.contains("-> install NVIDIA's driver"), "{lines}");
        assert!(lines.contains("LD_LIBRARY_PATH is not set"), "{lines}");
    }
}

#[test]
fn doctor_removes_what_dead_runs_left() {
    let mut dead = Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    let name = format!("ringmaster-{}-00000000deadbeef", dead.id());
    let path = Path::new("/dev/shm").join(&name);
    fs::write(&path, b"").unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(std::time::SystemTime::now() - Duration::from_secs(3600))
        .unwrap();
    let home = TempDir::new().unwrap();
    let doctor = |flags: &[&str]| {
        let output = bare(home.path())
            .args(["doctor", "--json"])
            .args(flags)
            .output()
            .unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let told = doctor(&[]);
    // A run beside this test may have swept it by now; then there is nothing to see.
    if path.exists() {
        assert_eq!(finding(&told, "stale segments")["state"], "note");
    }
    doctor(&["--clean"]);
    assert!(!path.exists());
    assert_eq!(finding(&doctor(&[]), "stale segments")["state"], "ok");
}
