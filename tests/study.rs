//! The studies, run as their users run them: compare, sweep (killed half-way, too), profile, with
//! real processes and a small network.
#![allow(clippy::unwrap_used)]

#[path = "support/run.rs"]
mod run;

use run::{children_of, ticks_of};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn ringmaster(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmaster"));
    command.args(arguments.split_whitespace());
    command
}

/// A network small enough that tests spend their time in the engine, made once.
fn small_weights() -> &'static Path {
    static FOLDER: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, file) = FOLDER.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("small.safetensors");
        let made = ringmaster("weights init --width 32 --depth 1 --ffn 32 --seed 1 --out")
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

fn json(output: &Output) -> Value {
    let (status, stderr) = (output.status, text(&output.stderr));
    assert!(status.success(), "{status}: {stderr}");
    serde_json::from_slice(&output.stdout).expect("one JSON object on stdout")
}

/// What a page needs to be read anywhere: nothing from outside, a title, no figure that is none.
fn check_page(path: &Path) -> String {
    let page = fs::read_to_string(path).unwrap();
    for outside in ["http:", "https:", "src=", "@import", "url(", "<script"] {
        assert!(!page.contains(outside), "{outside} in {}", path.display());
    }
    for needed in [
        "<title>",
        "prefers-color-scheme:dark",
        "@media print",
        "width=device-width",
    ] {
        assert!(page.contains(needed), "no {needed} in {}", path.display());
    }
    assert!(
        !page.contains("NaN") && !page.contains(">inf"),
        "{}",
        path.display()
    );
    for tag in ["svg", "table", "figure", "div", "text"] {
        let (open, close) = (format!("<{tag}"), format!("</{tag}>"));
        assert_eq!(
            page.matches(&open).count(),
            page.matches(&close).count(),
            "{tag}"
        );
    }
    page
}

#[test]
fn a_run_ends_when_its_time_is_up() {
    let folder = TempDir::new().unwrap();
    for workers in [0, 2] {
        let out = folder.path().join(workers.to_string());
        let output = ringmaster("selfplay --json --seconds 4 --warm-up-s 1.5 --simulations 4")
            .args([
                "--workers",
                &workers.to_string(),
                "--in-flight",
                "8",
                "--weights",
            ])
            .arg(small_weights())
            .arg("--out")
            .arg(&out)
            .output()
            .unwrap();
        let report = json(&output);
        let number = |name: &str| report[name].as_f64().unwrap();
        // On a busy machine the warm-up's end is noticed late; what counts is shorter then.
        assert!(number("elapsed_s") > 0.5, "{report}");
        assert!(number("rounds") > 0.0, "{report}");
        assert!(number("rounds_in_replay") > number("rounds"), "{report}");
        assert!(number("decision_ms_p50") > 0.0);
        assert!(number("decision_ms_p50") <= number("decision_ms_p99"));
        assert!(number("batch_p50") <= number("batch_p99"));
        assert!(number("batch_p99") <= number("batch_max"));
        let (steady, finished) = (number("rounds_per_min_steady"), number("rounds_per_min"));
        assert!(
            (0.5..2.0).contains(&(steady / finished)),
            "{steady} {finished}"
        );
        let verified = ringmaster("replay verify").arg(&out).output().unwrap();
        assert!(verified.status.success(), "{}", text(&verified.stderr));
    }
}

/// A number of rounds or none, seconds or none: by flag, in a settings file, or in a replay that is
/// gone on with.
#[test]
fn seconds_mean_the_same_wherever_they_are_told() {
    const ENDLESS: u64 = 1 << 40;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("settings.toml");
    let play = |flags: &str, toml: &str, out: &Path| {
        fs::write(&file, toml).unwrap();
        let mut command =
            ringmaster("selfplay --json --workers 0 --simulations 2 --worlds 1 --weights");
        command.arg(small_weights()).args(flags.split_whitespace());
        if !toml.is_empty() {
            command.arg("--config").arg(&file);
        }
        command.arg("--out").arg(out).output().unwrap()
    };
    for (nth, (flags, toml, planned)) in [
        ("--seconds 0.2", "", ENDLESS),
        ("", "seconds = 0.2", ENDLESS),
        ("--seconds 0.2", "cards = 4", ENDLESS),
        ("--cards 4", "seconds = 0.2", ENDLESS),
        ("--seconds 0.2", "rounds = 900000", 900_000),
        ("--rounds 900000", "seconds = 0.2", 900_000),
        ("", "seconds = 0.2\nrounds = 900000", 900_000),
        ("--seconds 0.2 --rounds 900000", "", 900_000),
        ("--rounds 3", "games = 900000", 3),
        ("--games 1 --players 3 --cards 1", "rounds = 900000", 3),
    ]
    .into_iter()
    .enumerate()
    {
        let out = folder.path().join(nth.to_string());
        let output = play(flags, toml, &out);
        let report = json(&output);
        assert_eq!(report["rounds_planned"], planned, "{flags} {toml}");
        if planned == ENDLESS {
            // Gone on with: for that long again, and no more bound to a number than before.
            let resumed = json(&play("--resume", "", &out));
            assert_eq!(resumed["rounds_planned"], ENDLESS, "{flags} {toml}");
        }
    }
    let both = play("", "games = 1\nrounds = 3", &folder.path().join("both"));
    assert_eq!(both.status.code(), Some(2));
    let said = text(&both.stderr);
    assert!(
        said.contains("rounds and games exclude each other"),
        "{said}"
    );
    // What tunes and sweeps write says nothing of rounds that nobody told.
    let base = ringmaster::settings::Settings {
        seconds: 0.2,
        ..Default::default()
    };
    let written = toml::to_string(&base).unwrap();
    assert!(!written.contains("rounds"), "{written}");
}

/// Two starts in the same moment, and nobody says where to.
#[test]
fn runs_that_start_at_once_have_folders_of_their_own() {
    let folder = TempDir::new().unwrap();
    let start = || {
        ringmaster("selfplay --json --rounds 3 --workers 0 --simulations 2 --worlds 1 --weights")
            .arg(small_weights())
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let started = [(); 6].map(|()| start());
    let mut outs = started.map(|run| {
        let report = json(&run.wait_with_output().unwrap());
        report["out"].as_str().unwrap().to_owned()
    });
    outs.sort();
    assert_eq!(outs, [1, 2, 3, 4, 5, 6].map(|n| format!("replays/{n:04}")));
}

#[test]
fn studies_that_start_at_once_have_folders_of_their_own() {
    let folder = TempDir::new().unwrap();
    let start = |flags: &str| {
        ringmaster(flags)
            .arg("--weights")
            .arg(small_weights())
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let profile = "profile selfplay --workers 1 --seconds 1 --warm-up-s 0.2 --every 8 --json";
    let mut first = start("profile selfplay --workers 1 --seconds 1000 --json");
    let mut said = BufReader::new(first.stderr.take().unwrap());
    said.read_line(&mut String::new()).unwrap();
    let refused = start(&format!("{profile} --out profile"))
        .wait_with_output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let why = text(&refused.stderr);
    assert!(why.contains("another study is at work"), "{why}");
    let second = json(&start(profile).wait_with_output().unwrap());
    assert_eq!(second["trace"], "profile-2/trace.json");
    first.kill().unwrap();
    first.wait().unwrap();
    // Killed, it holds the folder no more, and what it left is cleared away.
    let third = json(&start(profile).wait_with_output().unwrap());
    assert_eq!(third["trace"], "profile/trace.json");
    let left = fs::read_dir(folder.path().join("profile")).unwrap();
    let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["stages.csv", "stamps", "trace.json"]);
}

/// Whatever a user's folders are called, they stay.
#[test]
fn studies_remove_nothing_of_the_users() {
    let folder = TempDir::new().unwrap();
    let names = [
        "work",
        "stamps",
        "tuned.work",
        "work/stamps",
        "replay",
        "0000",
    ];
    for name in names {
        fs::create_dir_all(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(name).join("thesis"), "x").unwrap();
    }
    let best = folder.path().join("best.toml");
    fs::write(&best, "# of somebody else\n").unwrap();
    let unfinished = ["tuned.unfinished", "compare.unfinished", "trace.unfinished"];
    for name in unfinished {
        fs::write(folder.path().join(name), "x").unwrap();
    }
    // No combination is best: what is called best.toml is not the sweep's.
    let spec = write_spec(
        folder.path(),
        "grid.workers = [0]\ntrial = { seconds = 0.0, rounds = 2, repetitions = 1 }\nbest.constraints = [\"batch_mean >= 1e9\"]",
    );
    let sweep = format!("sweep {} --out .", spec.display());
    let weights = format!("--weights {}", small_weights().display());
    for command in [
        format!(
            "profile selfplay --workers 1 --seconds 0.5 --warm-up-s 0.1 --every 4 --overhead 1 --out . {weights}"
        ),
        format!(
            "compare --workers 1 --seconds 0.2 --warm-up-s 0.1 --repetitions 1 --reference-rounds 1 --search light --out . {weights}"
        ),
        format!("tune --trial-s 0.05 --limit-s 0.1 --out ./tuned.toml {weights}"),
        sweep,
    ] {
        let output = ringmaster(&command)
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{command}: {}",
            text(&output.stderr)
        );
        for name in names {
            let thesis = folder.path().join(name).join("thesis");
            assert_eq!(fs::read(&thesis).unwrap(), b"x", "{command}");
        }
        for name in unfinished {
            assert_eq!(
                fs::read(folder.path().join(name)).unwrap(),
                b"x",
                "{command}"
            );
        }
        for entry in fs::read_dir(folder.path()).unwrap() {
            let name = entry.unwrap().file_name();
            let name = name.to_str().unwrap();
            assert!(!name.starts_with("ringmaster-scratch"), "{command}: {name}");
        }
    }
    assert_eq!(fs::read(&best).unwrap(), b"# of somebody else\n");
    // The stamps are beside what is called so.
    assert!(folder.path().join("stamps-2/worker-0-spans.csv").exists());
}

/// Pasted into a shell, a command that was printed does what it says.
#[test]
fn commands_in_messages_can_be_pasted() {
    let folder = TempDir::new().unwrap();
    let name = "c 20/my run's $HOME";
    let out = folder.path().join(name);
    let paste = |command: &str, more: &str| {
        let program = env!("CARGO_BIN_EXE_ringmaster");
        let script = format!("ringmaster() {{ '{program}' \"$@\"; }}; {command} {more}");
        let output = Command::new("sh")
            .args(["-c", &script])
            .current_dir(folder.path())
            .output()
            .unwrap();
        json(&output)
    };
    let mut run =
        ringmaster("selfplay --rounds 1000000 --workers 0 --simulations 2 --worlds 1 --weights")
            .arg(small_weights())
            .args(["--out", name])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while run::written(&out) < 10_000 {
        assert!(Instant::now() < deadline, "no round is written");
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = nix::unistd::Pid::from_raw(run.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let mut said = String::new();
    run.stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(130), "{said}");
    let (_, command) = said.trim_end().rsplit_once("go on with: ").unwrap();
    let resumed = paste(command, "--json --seconds 0.2");
    assert_eq!(resumed["out"], name);

    let spec = write_spec(
        folder.path(),
        "grid.workers = [0]\ntrial = { seconds = 0.0, rounds = 2, repetitions = 1 }\nbest.metric = \"evaluations_per_s\"",
    );
    let swept = ringmaster("sweep")
        .arg(&spec)
        .args(["--out", "my sweep"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let told = text(&swept.stdout);
    let (_, command) = told.trim_end().rsplit_once("best: ").unwrap();
    let played = paste(command, "--json --rounds 2 --out played");
    assert_eq!(played["rounds"], 2);
}

/// Settings, reports and manifests are text and name paths: what is no text is refused before
/// anything is done.
#[test]
fn paths_that_are_no_text_work_or_are_refused_in_a_line() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let folder = TempDir::new().unwrap();
    let odd = folder.path().join(OsStr::from_bytes(b"caf\xe9"));
    fs::create_dir(&odd).unwrap();
    let spec = write_spec(
        folder.path(),
        "grid.workers = [0]\n[trial]\nseconds = 0.0\nrounds = 1",
    );
    let refused = [
        ("selfplay --rounds 1 --out", "out is"),
        ("selfplay --rounds 1 --weights", "weights is"),
        ("selfplay --rounds 1 --workers 0 --trace", "trace is"),
        ("compare --seconds 0.1 --warm-up-s 0 --out", "out is"),
        ("compare --weights", "weights is"),
        ("profile selfplay --seconds 0.1 --out", "out is"),
        ("profile selfplay --weights", "weights is"),
        ("tune --out", "out is"),
        ("tune --weights", "weights is"),
    ];
    let sweep = format!("sweep {} --json --out", spec.display());
    for (command, says) in refused.into_iter().chain([(sweep.as_str(), "out is")]) {
        let output = ringmaster(command)
            .arg(&odd)
            .current_dir(folder.path())
            .output()
            .unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{command}: {said}");
        assert!(
            said.contains(says) && said.contains("UTF-8") && said.trim().lines().count() == 1,
            "{command}: {said}"
        );
        assert_eq!(fs::read_dir(&odd).unwrap().count(), 0, "{command}");
    }
    // What only reads, or writes no name, takes any.
    let made = ringmaster(
        "selfplay --rounds 2 --workers 0 --simulations 2 --worlds 1 --out run --weights",
    )
    .arg(small_weights())
    .current_dir(folder.path())
    .output()
    .unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    let run = odd.join("run");
    fs::rename(folder.path().join("run"), &run).unwrap();
    for command in ["replay verify", "replay show", "replay digest"] {
        let output = ringmaster(command).arg(&run).output().unwrap();
        assert!(
            output.status.success(),
            "{command}: {}",
            text(&output.stderr)
        );
    }
    let exported = ringmaster("export")
        .arg(&run)
        .arg("--out")
        .arg(odd.join("arrays"))
        .output()
        .unwrap();
    assert!(exported.status.success(), "{}", text(&exported.stderr));
}

/// Time is up before any decision is made: no figure is made of that.
#[test]
fn a_run_in_which_nothing_finished_says_so() {
    let folder = TempDir::new().unwrap();
    let play = |flags: &str| {
        let output = ringmaster("selfplay --seconds 0.4 --players 8 --cards 6 --worlds 10 --simulations 100000 --workers 1 --in-flight 1 --weights")
            .arg(small_weights())
            .args(flags.split_whitespace())
            .arg("--out")
            .arg(folder.path().join(if flags.is_empty() { "a" } else { "b" }))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let told = play("");
    for line in [
        "rounds        none finished in",
        "search        no decision finished",
        "digest        none",
    ] {
        assert!(told.contains(line), "no {line}: {told}");
    }
    assert!(
        !told.contains("evaluations   0 unique") && !told.contains("decision      "),
        "{told}"
    );
    let report: Value = serde_json::from_str(&play("--json")).unwrap();
    assert_eq!(
        (&report["rounds"], &report["decisions"]),
        (&0.into(), &0.into())
    );
    assert!(report["decision_ms_p50"].is_null() && report["decision_ms_p99"].is_null());
    let figure = |name: &str| report[name].as_f64().unwrap();
    let rate = figure("evaluations") / figure("elapsed_s");
    assert!(
        (rate / figure("evaluations_per_s") - 1.0).abs() < 1e-6,
        "{report}"
    );
}

#[test]
fn worlds_one_at_a_time_change_only_the_speed() {
    let folder = TempDir::new().unwrap();
    let digest = |flags: &str, name: &str| {
        let output = ringmaster("selfplay --json --rounds 6 --simulations 12")
            .args(flags.split_whitespace())
            .arg("--weights")
            .arg(small_weights())
            .arg("--out")
            .arg(folder.path().join(name))
            .output()
            .unwrap();
        let report = json(&output);
        (report["digest"].clone(), report["evaluations"].clone())
    };
    let together = digest("--workers 0", "a");
    assert_eq!(
        digest("--workers 0 --worlds-in-flight 1 --in-flight 1", "b"),
        together
    );
    assert_eq!(digest("--workers 2 --worlds-in-flight 2", "c"), together);
}

#[test]
fn compare_measures_all_modes_and_renders_again_from_its_table() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("compare");
    let output = ringmaster("compare --workers 2 --seconds 0.6 --warm-up-s 0.2 --repetitions 2 --search light --reference-rounds 2 --json --weights")
        .arg(small_weights())
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap();
    let found = json(&output);
    let rows = found["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 10);
    let numbers: Vec<u64> = rows
        .iter()
        .map(|row| row["number"].as_u64().unwrap())
        .collect();
    assert_eq!(
        numbers,
        [1, 2, 3, 4, 5, 1, 2, 3, 4, 5],
        "repetitions are interleaved"
    );
    for row in rows {
        let figure = |name: &str| row[name].as_f64().unwrap();
        assert!(
            figure("rounds_per_min") > 0.0 && figure("evaluations_per_s") > 0.0,
            "{row}"
        );
        let sequential = matches!(row["number"].as_u64(), Some(1 | 4 | 5));
        assert_eq!(figure("tv_mean") == 0.0, sequential, "{row}");
        assert_eq!(
            figure("same_top") == 1.0 && figure("kl_mean") == 0.0,
            sequential,
            "{row}"
        );
        assert_eq!(figure("duplicates") == 0.0, sequential, "{row}");
        if row["number"] == 1 {
            assert_eq!(figure("batch_max"), 1.0);
        }
        if row["number"] == 4 {
            assert!(figure("batch_max") <= 2.0, "one leaf per worker");
        }
    }
    let page = check_page(&out.join("compare.html"));
    assert!(page.contains("rounds in flight") && page.contains("rounds per minute"));
    let table = out.join("compare.csv");
    let again = ringmaster("compare --from")
        .arg(&table)
        .arg("--from")
        .arg(&table)
        .arg("--out")
        .arg(folder.path().join("again"))
        .output()
        .unwrap();
    assert!(again.status.success(), "{}", text(&again.stderr));
    let shown = text(&again.stdout);
    assert!(shown.contains("500 iterations x 10,000 rounds"));
    for line in shown.lines().filter(|line| !line.starts_with("report:")) {
        assert!(line.len() <= 100, "too wide: {line}");
    }
    check_page(&folder.path().join("again/compare.html"));
    let wrong = ringmaster("compare --from /dev/null").output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}

fn write_spec(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("spec.toml");
    let base = format!(
        "base = {{ weights = {:?}, simulations = 6, cards = 3 }}\n{text}",
        small_weights().display().to_string()
    );
    fs::write(&path, base).unwrap();
    path
}

#[test]
fn specs_that_make_no_sense_are_refused_in_one_line_before_any_trial() {
    let folder = TempDir::new().unwrap();
    for (spec, says) in [
        ("grid.wrokers = [1]", "unknown field `wrokers`"),
        ("grid.search.c_pcut = [1.0]", "grid.search needs a list"),
        (
            "[grid]\n\"search.c_pcut\" = [1.0]",
            "unknown field `c_pcut`",
        ),
        ("[gird]\nworkers = [1]", "unknown field `gird`"),
        ("grid.workers = []", "needs a list of at least one value"),
        ("", "nothing to sweep"),
        ("grid.workers = [1, -1]", "workers = -1"),
        (
            "[grid]\nplayers = [4, 8]\ncards = [5, 13]",
            "with cards = 13, players = 8",
        ),
        (
            "[grid]\n\"worlds, simulations\" = [[2, 20, 1]]",
            "lists of 2 values",
        ),
        (
            "[grid]\nworkers = [1]\n\"workers, leaves\" = [[1, 1]]",
            "swept twice",
        ),
        (
            "grid.workers = [1]\nbest.metric = \"speed\"",
            "no metric speed",
        ),
        (
            "grid.workers = [1]\nbest.constraints = [\"batch_mean\"]",
            "must look like",
        ),
        (
            "grid.workers = [1]\ntrial.repetitions = 0",
            "must be 1 to 1000",
        ),
        (
            "[random]\nsamples = 3\nspace.max_wait_us = { low = 5, high = 1 }",
            "low <= high",
        ),
        ("grid.workers = [1", "line"),
        (
            "grid.rounds = [10, 20]",
            "every trial sets these itself, leave them out: rounds (see trial.rounds)",
        ),
        (
            "[random]\nsamples = 3\nspace.\"leaves, reload_s\" = [[1, 0.5]]",
            "leave them out: reload_s (it keeps",
        ),
        (
            "grid.workers = [1]\ntrial.seconds = -1.0",
            "trial.seconds is -1",
        ),
        (
            "grid.workers = [1]\ntrial.warm_up_s = nan",
            "trial.warm_up_s is NaN",
        ),
        (
            "[random]\nsamples = 2000\nspace.seed = { low = 0, high = 1000000 }\n[trial]\nrepetitions = 1000",
            "more than 1000000 trials",
        ),
        (
            "grid.workers = [1]\nbest.constraints = [\"batch_mean >= nan\"]",
            "must look like",
        ),
    ] {
        let out = folder.path().join("out");
        let path = write_spec(folder.path(), spec);
        let output = ringmaster("sweep")
            .arg(&path)
            .arg("--out")
            .arg(&out)
            .output()
            .unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{spec}: {said}");
        assert!(
            said.contains(says) && said.trim().lines().count() == 1,
            "{spec}: {said}"
        );
        assert!(!out.exists(), "{spec}: something ran");
    }
}

#[test]
fn a_spec_cannot_have_in_common_what_each_trial_sets() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("spec.toml");
    let load = |base: &str| {
        fs::write(&path, format!("grid.workers = [1, 2]\n[base]\n{base}")).unwrap();
        ringmaster::measure::sweep::load(&path)
    };
    for (name, value) in [
        ("rounds", "10"),
        ("games", "2"),
        ("seconds", "1.5"),
        ("warm_up_s", "0.5"),
        ("out", "\"here\""),
        ("trace", "\"here\""),
        ("trace_every", "8"),
        ("reload_s", "0.5"),
    ] {
        let refused = load(&format!("cards = 4\n{name} = {value}\n")).err();
        let said = refused.unwrap_or_else(|| panic!("{name}")).to_string();
        let says = format!("leave them out: {name} in [base] (");
        assert!(said.contains(&says) && said.lines().count() == 1, "{said}");
    }
    let both = load("out = \"here\"\nrounds = 10\n").err().unwrap();
    let says = "rounds in [base] (see trial.rounds), out in [base] (its replay is not kept)";
    assert!(both.to_string().ends_with(says), "{both}");

    // One that is swept as well is named with both its places.
    let twice = "grid.rounds = [10, 20]\n[base]\nrounds = 10\n";
    fs::write(&path, twice).unwrap();
    let twice = ringmaster::measure::sweep::load(&path).err().unwrap();
    let says = "leave them out: rounds in [base] and swept (see trial.rounds)";
    assert!(twice.to_string().ends_with(says), "{twice}");

    // A swept setting goes over one in common: a settings file may be copied whole otherwise.
    let checked = load("workers = 4\ncards = 4\n[base.search]\nc_puct = 2.0\n").unwrap();
    let settings = checked.combinations.iter().map(|other| &other.settings);
    let told: Vec<_> = settings
        .map(|all| (all.workers, all.cards, all.search.c_puct))
        .collect();
    assert_eq!(told, [(1, 4, 2.0), (2, 4, 2.0)]);
}

fn journal(out: &Path) -> Vec<Value> {
    let text = fs::read_to_string(out.join("trials.jsonl")).unwrap_or_default();
    let whole = text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    whole
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_sweep_killed_half_way_ends_with_each_trial_once() {
    let folder = TempDir::new().unwrap();
    let spec = write_spec(
        folder.path(),
        "[grid]\nworkers = [0, 1, 2]\nmax_batch = [8, 64]\nleaves = [1, 4]\n\
         [trial]\nseconds = 0.0\nrounds = 10\nrepetitions = 2\n\
         [best]\nmetric = \"evaluations_per_s\"\nconstraints = [\"policy_distance <= 0\"]\n",
    );
    let out = folder.path().join("out");
    for kills in 0..2 {
        let mut child = ringmaster("sweep")
            .arg(&spec)
            .arg("--out")
            .arg(&out)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while journal(&out).len() < 6 * (kills + 1) {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let before = journal(&out).len() as u64;
    assert!(before < 24, "killed too late to show anything");
    let output = ringmaster("sweep --json")
        .arg(&spec)
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap();
    let summary = json(&output);
    assert_eq!(summary["trials"], 24);
    assert_eq!(summary["failed"], 0);
    assert_eq!(summary["ran"], 24 - before);
    let mut keys: Vec<String> = journal(&out)
        .iter()
        .map(|row| row["key"].to_string())
        .collect();
    keys.sort();
    keys.dedup();
    assert_eq!(
        (keys.len(), journal(&out).len()),
        (24, 24),
        "each trial exactly once"
    );
    let again = ringmaster("sweep --json")
        .arg(&spec)
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap();
    assert_eq!(json(&again)["ran"], 0);
    assert_eq!(
        csv::Reader::from_path(out.join("trials.csv"))
            .unwrap()
            .records()
            .count(),
        24
    );
    let page = check_page(&out.join("sweep.html"));
    for plot in [
        "evaluations_per_s against batch",
        "evaluations_per_s, best first",
        "All settings at once",
        "leaves by max_batch",
        "leaves by workers",
        "max_batch by workers",
    ] {
        assert!(page.contains(plot), "no plot of {plot}");
    }
    for axis in ["mean batch, leaves", "unique evaluations per second"] {
        assert!(page.contains(axis), "no axis {axis}");
    }
    assert!(page.contains("class=\"whisker\""), "no noise");
    let best = fs::read_to_string(out.join("best.toml")).unwrap();
    assert!(
        best.contains("leaves = 1"),
        "more leaves are at a distance: {best}"
    );
    let played = ringmaster("selfplay --json --rounds 3 --config")
        .arg(out.join("best.toml"))
        .arg("--out")
        .arg(folder.path().join("replay"))
        .output()
        .unwrap();
    assert_eq!(json(&played)["rounds"], 3);
}

/// A trial would finish what it has in hand; the study does not wait for that, and keeps no half of
/// it.
#[test]
fn ctrl_c_ends_a_sweep_and_its_trial_at_once() {
    let folder = TempDir::new().unwrap();
    let spec = write_spec(
        folder.path(),
        "[grid]\nplayers = [3]\ncards = [17]\nsimulations = [20000]\nworkers = [1]\n\
         [trial]\nseconds = 0.0\nrounds = 1000\n[best]\nmetric = \"evaluations_per_s\"\n",
    );
    let out = folder.path().join("out");
    let child = ringmaster("sweep")
        .arg(&spec)
        .arg("--out")
        .arg(&out)
        // As the terminal's.
        .process_group(0)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let group = nix::unistd::Pid::from_raw(child.id() as i32);
    let deadline = Instant::now() + Duration::from_secs(60);
    let trial = loop {
        assert!(Instant::now() < deadline, "no trial plays");
        let trial = children_of(child.id()).first().copied();
        // Its evaluator and its worker are at work: the rounds in hand would take hours.
        let plays = |trial: &u32| {
            let children = children_of(*trial);
            children.len() == 2 && children.iter().all(|&pid| ticks_of(pid) >= 10)
        };
        if let Some(trial) = trial.filter(plays) {
            break trial;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let pid = nix::unistd::Pid::from_raw(trial as i32);
    assert_eq!(
        nix::unistd::getpgid(Some(pid)),
        Ok(pid),
        "the terminal's Ctrl-C is the trial's, too"
    );
    nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    let told =
        "ringmaster: interrupted: 0 of 3 trials kept; the same command goes on with the rest\n";
    assert!(stderr.ends_with(told), "{stderr}");
    assert!(!Path::new(&format!("/proc/{trial}")).exists());
    assert!(journal(&out).is_empty());
}

/// Runs a study until it says `moment`, then has Ctrl-C pressed; what it said, exit code 130 being
/// asserted.
fn interrupted_at(moment: &str, command: &mut Command) -> String {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    let mut said = String::new();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    while !said.contains(moment) {
        assert!(stderr.read_line(&mut said).unwrap() > 0, "{said}");
    }
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
    said
}

#[test]
fn ctrl_c_ends_a_comparison_and_what_was_measured_is_kept() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("compare");
    // Hours of sequential search, which is played in the study's own process.
    let mut long = ringmaster("compare --search heavy --reference-rounds 100000 --weights");
    let said = interrupted_at(
        "to compare policies with",
        long.arg(small_weights()).arg("--out").arg(&out),
    );
    assert!(
        said.ends_with("ringmaster: interrupted: nothing was measured yet\n"),
        "{said}"
    );
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0, "something is left");

    let mut command = ringmaster(
        "compare --workers 1 --seconds 0.3 --warm-up-s 0.1 --search light --reference-rounds 1 --weights",
    );
    command.arg(small_weights()).arg("--out").arg(&out);
    let said = interrupted_at("repetition 1 of 3, cross-worker", &mut command);
    let table = out.join("compare.csv");
    let told = format!(
        "ringmaster: interrupted: 2 runs kept in {}; measure more into another --out and lay both together with --from\n",
        table.display()
    );
    assert!(said.ends_with(&told), "{said}");
    check_page(&out.join("compare.html"));
    let again = ringmaster("compare --json --from")
        .arg(&table)
        .arg("--out")
        .arg(folder.path().join("again"))
        .output()
        .unwrap();
    let rows = &json(&again)["rows"];
    assert_eq!(rows.as_array().unwrap().len(), 2, "{rows}");
    assert_eq!(rows[1]["mode"], "intra-game");
}

#[test]
fn ctrl_c_leaves_the_profile_that_is_measured() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("profile");
    let mut command =
        ringmaster("profile selfplay --workers 1 --seconds 2 --every 4 --overhead 100 --weights");
    command.arg(small_weights()).arg("--out").arg(&out);
    let said = interrupted_at("with stamps", &mut command);
    assert!(
        said.ends_with("ringmaster: interrupted: nothing was measured yet\n"),
        "{said}"
    );
    let said = interrupted_at("pair 1 of 100", &mut command);
    assert!(
        said.ends_with("what stamps cost is not measured\n"),
        "{said}"
    );
    assert!(out.join("trace.json").exists() && out.join("stages.csv").exists());
}

#[test]
fn trials_that_fail_are_rows() {
    let folder = TempDir::new().unwrap();
    // Rings for so many leaves do not fit any /dev/shm.
    let spec = write_spec(
        folder.path(),
        "[grid]\n\"in_flight, worlds, leaves, simulations\" = [[1, 1, 1, 4], [4096, 1000, 256, 1000]]\nworkers = [1]\n\
         [trial]\nseconds = 0.0\nrounds = 2\nrepetitions = 1\n",
    );
    let out = folder.path().join("out");
    // Again and again: what failed is tried again, what did not is there.
    for ran in [2, 1] {
        let output = ringmaster("sweep --json")
            .arg(&spec)
            .arg("--out")
            .arg(&out)
            .output()
            .unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let told = "ringmaster: 1 of 2 trials failed; the same command tries it again\n";
        assert!(said.ends_with(told), "{said}");
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
        let count = |name: &str| summary[name].as_u64();
        assert_eq!(
            (count("trials"), count("failed"), count("ran")),
            (Some(2), Some(1), Some(ran))
        );
    }
    let failed = journal(&out)
        .into_iter()
        .find(|row| row["failed"].is_string())
        .unwrap();
    assert!(
        failed["failed"].to_string().contains("exit code 1"),
        "{failed}"
    );
    assert!(out.join("best.toml").exists());
    check_page(&out.join("sweep.html"));
}

/// As when memory was short for a moment, or somebody killed it.
#[test]
fn a_trial_that_failed_once_is_played_by_the_same_command() {
    let folder = TempDir::new().unwrap();
    let spec = write_spec(
        folder.path(),
        "grid.workers = [0, 1]\ntrial = { seconds = 0.0, rounds = 2, repetitions = 1 }\nbest.metric = \"evaluations_per_s\"",
    );
    let out = folder.path().join("out");
    let sweep = || {
        ringmaster("sweep --json")
            .arg(&spec)
            .arg("--out")
            .arg(&out)
            .output()
            .unwrap()
    };
    assert_eq!(json(&sweep())["ran"], 2);
    let rows = journal(&out);
    let failed: Vec<String> = rows
        .into_iter()
        .map(|mut row| {
            if row["values"][0] == "1" {
                row["failed"] = "killed by signal 9: said nothing".into();
                row["report"] = Value::Null;
            }
            row.to_string() + "\n"
        })
        .collect();
    fs::write(out.join("trials.jsonl"), failed.concat()).unwrap();
    let summary = json(&sweep());
    assert_eq!(
        (&summary["ran"], &summary["failed"]),
        (&1.into(), &0.into())
    );
    let again = json(&sweep());
    assert_eq!((&again["ran"], &again["failed"]), (&0.into(), &0.into()));
    let rows = csv::Reader::from_path(out.join("trials.csv"))
        .unwrap()
        .into_records()
        .count();
    assert_eq!(rows, 2);
}

#[test]
fn a_sweep_that_cannot_run_is_refused_but_one_that_can_in_part_runs() {
    // Whatever the machine: the small network is none that the CUDA kernels take.
    let folder = TempDir::new().unwrap();
    let sweep = |backends: &str, out: &Path| {
        let spec = format!(
            "grid.backend = [{backends}]\ntrial = {{ seconds = 0.0, rounds = 2, repetitions = 1 }}"
        );
        ringmaster("sweep --json")
            .arg(write_spec(folder.path(), &spec))
            .arg("--out")
            .arg(out)
            .output()
            .unwrap()
    };
    let out = folder.path().join("out");
    let refused = sweep("\"cuda\"", &out);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("networks of width 256") && said.trim().lines().count() == 1,
        "{said}"
    );
    assert!(!out.exists(), "something ran");
    let in_part = sweep("\"cpu\", \"cuda\"", &out);
    assert_eq!(in_part.status.code(), Some(1), "{}", text(&in_part.stderr));
    let summary: Value = serde_json::from_slice(&in_part.stdout).unwrap();
    assert_eq!(
        (summary["trials"].as_u64(), summary["failed"].as_u64()),
        (Some(2), Some(1))
    );
}

#[test]
fn profile_evaluator_holds_the_network_against_the_cores() {
    let output =
        ringmaster("profile evaluator --backend cpu --max-batch 64 --threads 1 --json --weights")
            .arg(small_weights())
            .output()
            .unwrap();
    let profile = json(&output);
    let peak = profile["peak_tflops"].as_f64().unwrap();
    assert!(peak > 0.0);
    let sizes = profile["sizes"].as_array().unwrap();
    let rows: Vec<u64> = sizes
        .iter()
        .map(|size| size["rows"].as_u64().unwrap())
        .collect();
    assert_eq!(rows, [1, 16, 32, 64]);
    let flop_per_row = profile["flop_per_row"].as_f64().unwrap();
    for size in sizes {
        let figure = |name: &str| size[name].as_f64().unwrap();
        assert!(figure("device_us_min") <= figure("device_us_p50"));
        let best = figure("rows") * flop_per_row / figure("device_us_min") * 1e-6;
        assert!(
            (figure("share_of_peak") * peak / best - 1.0).abs() < 1e-6,
            "{size}"
        );
    }
    assert!(profile["per_row_us"].as_f64() > Some(0.0));
}

#[test]
fn profile_ring_measures_all_ways() {
    if std::thread::available_parallelism().map_or(1, |cores| cores.get()) < 2 {
        return;
    }
    let output = ringmaster("profile ring --trips 200 --repetitions 2 --json")
        .output()
        .unwrap();
    let profile = json(&output);
    let trips = profile["round_trips"].as_array().unwrap();
    let ways: Vec<&str> = trips
        .iter()
        .map(|trip| trip["way"].as_str().unwrap())
        .collect();
    assert_eq!(
        ways,
        [
            "two atomics",
            "two rings, polling",
            "two rings, parking",
            "two pipes",
            "unix socket"
        ]
    );
    for trip in trips {
        let at = |name: &str| trip[name].as_u64().unwrap();
        assert!(0 < at("p50_ns") && at("p50_ns") <= at("p90_ns") && at("p90_ns") <= at("p99_ns"));
        assert!(
            at("p99_ns") <= at("p99_9_ns") && at("p99_9_ns") <= at("max_ns"),
            "{trip}"
        );
    }
    assert!(profile["slots_per_s"].as_f64().unwrap() > 1e4);
    let same = ringmaster("profile ring --cores 0,0").output().unwrap();
    assert_eq!(same.status.code(), Some(2));
    assert!(text(&same.stderr).contains("two different cores"));
    let none = ringmaster("profile ring --cores 0,9999").output().unwrap();
    assert!(
        !none.status.success() && text(&none.stderr).contains("core 9999"),
        "{}",
        text(&none.stderr)
    );
}

/// Checks the rules of Chrome's trace event format that viewers rely on; how many arrows there are.
fn check_trace(trace: &Value) -> usize {
    use std::collections::HashMap;
    let events = trace["traceEvents"].as_array().unwrap();
    let mut slices: HashMap<(u64, u64), Vec<(f64, f64)>> = HashMap::new();
    let (mut named, mut tracks, mut open) = (HashMap::new(), HashMap::new(), HashMap::new());
    let mut flows: HashMap<&str, Vec<&Value>> = HashMap::new();
    for event in events {
        let ts = event["ts"].as_f64().unwrap();
        assert!(
            ts >= 0.0 && ts.is_finite() && event["name"].is_string(),
            "{event}"
        );
        let track = (
            event["pid"].as_u64().unwrap(),
            event["tid"].as_u64().unwrap(),
        );
        match event["ph"].as_str().unwrap() {
            "M" => match event["name"].as_str().unwrap() {
                "process_name" => {
                    _ = named.insert(track.0, event["args"]["name"].as_str().unwrap());
                }
                "thread_name" => {
                    _ = tracks.insert(track, event["args"]["name"].as_str().unwrap());
                }
                other => assert_eq!(other, "process_sort_index"),
            },
            "X" => {
                let dur = event["dur"].as_f64().unwrap();
                assert!(dur >= 0.0, "{event}");
                slices.entry(track).or_default().push((ts, ts + dur));
            }
            "b" => assert!(
                open.insert((event["cat"].to_string(), event["id"].to_string()), ts)
                    .is_none()
            ),
            "e" => {
                let begun = open.remove(&(event["cat"].to_string(), event["id"].to_string()));
                assert!(begun.is_some_and(|begun| begun <= ts), "{event}");
            }
            "s" | "t" | "f" => flows
                .entry(event["id"].as_str().unwrap())
                .or_default()
                .push(event),
            other => panic!("event of kind {other}"),
        }
    }
    assert!(open.is_empty(), "asynchronous slices left open");
    for (track, spans) in &mut slices {
        assert!(
            named.contains_key(&track.0) && tracks.contains_key(track),
            "no name: {track:?}"
        );
        spans.sort_by(|a, b| a.0.total_cmp(&b.0));
        let apart = spans.windows(2).all(|pair| pair[0].1 <= pair[1].0 + 1e-3);
        assert!(apart, "slices of {} overlap", tracks[track]);
    }
    for steps in flows.values() {
        let kinds: Vec<&str> = steps
            .iter()
            .map(|step| step["ph"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, ["s", "t", "t", "t", "f"]);
        let times: Vec<f64> = steps
            .iter()
            .map(|step| step["ts"].as_f64().unwrap())
            .collect();
        assert!(times.is_sorted(), "{times:?}");
        for (step, ts) in steps.iter().zip(times) {
            let track = (step["pid"].as_u64().unwrap(), step["tid"].as_u64().unwrap());
            let held = slices[&track]
                .iter()
                .any(|&(from, to)| from - 1e-3 <= ts && ts <= to + 1e-3);
            assert!(held, "an arrow touches no slice: {step}");
        }
    }
    flows.len()
}

#[test]
fn profile_selfplay_stages_add_up_and_the_trace_is_valid() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("profile");
    let output = ringmaster("profile selfplay --workers 2 --seconds 1.5 --warm-up-s 0.5 --every 8 --overhead 1 --window-s 1 --json --weights")
        .arg(small_weights())
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap();
    let profile = json(&output);
    assert!(profile["requests"].as_u64() > Some(100), "{profile}");
    let stages = profile["stages"].as_array().unwrap();
    assert_eq!(
        stages.len(),
        3 * 8,
        "seven stages and a total, for all and for each worker"
    );
    let (all, total) = (&stages[..7], &stages[7]);
    let sum: f64 = all
        .iter()
        .map(|stage| stage["p50_us"].as_f64().unwrap())
        .sum();
    let whole = total["p50_us"].as_f64().unwrap();
    assert!((profile["sum_over_total"].as_f64().unwrap() - sum / whole).abs() < 1e-9);
    let mean = |stage: &Value| stage["mean_us"].as_f64().unwrap();
    let means: f64 = all.iter().map(mean).sum();
    assert!(
        (means / mean(total) - 1.0).abs() < 1e-3,
        "stages follow each other without gap"
    );
    // The test's machine is shared: the 10 % of the acceptance are checked on an idle one.
    assert!((0.5..1.5).contains(&(sum / whole)), "{profile}");
    assert!(
        ["network", "workers", "ring", "batching"]
            .contains(&profile["bottleneck"].as_str().unwrap())
    );
    assert!(profile["overhead"].is_number());
    let trace = fs::read_to_string(out.join("trace.json")).unwrap();
    assert!(check_trace(&serde_json::from_str(&trace).unwrap()) > 10);
    assert_eq!(
        csv::Reader::from_path(out.join("stages.csv"))
            .unwrap()
            .records()
            .count(),
        24
    );
    let alone = ringmaster("profile selfplay --workers 0").output().unwrap();
    assert_eq!(alone.status.code(), Some(2));
}

#[test]
fn tune_writes_settings_that_run() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tuned.toml");
    let output = ringmaster("tune --trial-s 0.3 --limit-s 3 --json --weights")
        .arg(small_weights())
        .arg("--out")
        .arg(&file)
        .output()
        .unwrap();
    let tuned = json(&output);
    assert!(
        tuned["before"].as_f64() > Some(0.0) && tuned["after"].as_f64() >= tuned["before"].as_f64()
    );
    assert!(
        !tuned["costs"].as_array().unwrap().is_empty()
            && !tuned["steps"].as_array().unwrap().is_empty()
    );
    let played = ringmaster("selfplay --json --rounds 3 --config")
        .arg(&file)
        .arg("--out")
        .arg(folder.path().join("replay"))
        .output()
        .unwrap();
    assert_eq!(json(&played)["rounds"], 3);
    // And may be swept further, as they are.
    let base = fs::read_to_string(&file).unwrap();
    let spec = folder.path().join("spec.toml");
    fs::write(&spec, format!("grid.leaves = [1, 2]\n[base]\n{base}")).unwrap();
    ringmaster::measure::sweep::load(&spec).unwrap();
}

#[test]
fn the_ready_specs_are_sound() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let mut found = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            ringmaster::measure::sweep::load(&path).unwrap();
            found += 1;
        }
    }
    assert_eq!(found, 3);
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/studies.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, after) = page.split_once("```toml\n[base]\n").unwrap();
    let (spec, _) = after.split_once("```").unwrap();
    let spec =
        ringmaster::measure::sweep::check(toml::from_str(&format!("[base]\n{spec}")).unwrap());
    assert_eq!(spec.unwrap().swept.len(), 4);
}
