//! The studies, run as their users run them: compare, sweep (killed half-way, too), profile, with
//! real processes and a small network; and what they rest on, by itself.
#![allow(clippy::unwrap_used)]

#[path = "support/run.rs"]
mod run;

#[path = "study/parts.rs"]
mod parts;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use ringmaster::measure::sweep;
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

/// The program with arguments, among which `WEIGHTS` stands for the file of the small network.
fn ringmaster(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringmaster"));
    for argument in arguments.split_whitespace() {
        match argument {
            "WEIGHTS" => command.arg(small_weights()),
            other => command.arg(other),
        };
    }
    command
}

/// A network small enough that tests spend their time in the engine, made once.
fn small_weights() -> &'static Path {
    static FOLDER: OnceLock<(Folder, PathBuf)> = OnceLock::new();
    let (_, file) = FOLDER.get_or_init(|| {
        let folder = Folder::new();
        let file = folder.path("small.safetensors");
        let shape = "--width 32 --depth 1 --ffn 32 --seed 1";
        folder.succeeds(&format!("weights init {shape} --out small.safetensors"));
        (folder, file)
    });
    file
}

/// A folder of a test's own, in which it runs the program.
struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(TempDir::new().unwrap())
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = ringmaster(arguments);
        command.current_dir(self.0.path());
        command
    }

    fn run(&self, arguments: &str) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn succeeds(&self, arguments: &str) -> Output {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "{arguments}: {}",
            text(&output.stderr)
        );
        output
    }

    /// What a command prints with `--json`.
    fn json(&self, arguments: &str) -> Value {
        json(&self.succeeds(arguments))
    }

    /// Asserts that a command is refused with this exit code in one line; that line.
    fn refused(&self, command: &mut Command, code: i32) -> String {
        let output = command.current_dir(self.0.path()).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
        assert_eq!(said.trim().lines().count(), 1, "{command:?}: {said}");
        said
    }

    fn start(&self, arguments: &str) -> std::process::Child {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// A spec for rounds of few cards with the small network.
    fn write_spec(&self, text: &str) {
        let weights = small_weights().display().to_string();
        let base = format!("base = {{ weights = {weights:?}, simulations = 6, cards = 3 }}");
        fs::write(self.path("spec.toml"), format!("{base}\n{text}")).unwrap();
    }

    /// The whole lines of the sweep's journal in `out`.
    fn journal(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("out/trials.jsonl")).unwrap_or_default();
        let lines = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Rows of a table.
    fn rows_of(&self, name: &str) -> usize {
        csv::Reader::from_path(self.path(name))
            .unwrap()
            .into_records()
            .count()
    }
}

const SWEEP: &str = "sweep --json spec.toml --out out";
/// A sweep's trials of two rounds each.
const TWO_ROUNDS: &str = "trial = { seconds = 0.0, rounds = 2, repetitions = 1 }";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(output: &Output) -> Value {
    let (status, stderr) = (output.status, text(&output.stderr));
    assert!(status.success(), "{status}: {stderr}");
    serde_json::from_slice(&output.stdout).expect("one JSON object on stdout")
}

/// Waits for something; a minute at most.
fn await_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
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
    let folder = Folder::new();
    for workers in [0, 2] {
        let report = folder.json(&format!(
            "selfplay --json --seconds 4 --warm-up-s 1.5 --simulations 4 --workers {workers} \
             --in-flight 8 --weights WEIGHTS --out {workers}"
        ));
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
        folder.succeeds(&format!("replay verify {workers}"));
    }
}

/// A number of rounds or none, seconds or none: by flag, in a settings file, or in a replay that is
/// gone on with.
#[test]
fn seconds_mean_the_same_wherever_they_are_told() {
    const ENDLESS: u64 = 1 << 40;
    let folder = Folder::new();
    let play = |flags: &str, toml: &str, out: &str| {
        fs::write(folder.path("settings.toml"), toml).unwrap();
        let config = if toml.is_empty() {
            ""
        } else {
            "--config settings.toml"
        };
        folder.run(&format!(
            "selfplay --json --workers 0 --simulations 2 --worlds 1 --weights WEIGHTS {flags} \
             {config} --out {out}"
        ))
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
        let out = nth.to_string();
        let report = json(&play(flags, toml, &out));
        assert_eq!(report["rounds_planned"], planned, "{flags} {toml}");
        if planned == ENDLESS {
            // Gone on with: for that long again, and no more bound to a number than before.
            let resumed = json(&play("--resume", "", &out));
            assert_eq!(resumed["rounds_planned"], ENDLESS, "{flags} {toml}");
        }
    }
    let both = play("", "games = 1\nrounds = 3", "both");
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
    let folder = Folder::new();
    let flags = "--json --rounds 3 --workers 0 --simulations 2 --worlds 1 --weights WEIGHTS";
    let started = [(); 6].map(|()| folder.start(&format!("selfplay {flags}")));
    let mut outs = started.map(|run| {
        let report = json(&run.wait_with_output().unwrap());
        report["out"].as_str().unwrap().to_owned()
    });
    outs.sort();
    assert_eq!(outs, [1, 2, 3, 4, 5, 6].map(|n| format!("replays/{n:04}")));
}

#[test]
fn studies_that_start_at_once_have_folders_of_their_own() {
    let folder = Folder::new();
    let common = "profile selfplay --workers 1 --weights WEIGHTS --json";
    let profile = format!("{common} --seconds 1 --warm-up-s 0.2 --every 8");
    let mut first = folder.start(&format!("{common} --seconds 1000"));
    let mut said = BufReader::new(first.stderr.take().unwrap());
    said.read_line(&mut String::new()).unwrap();
    let why = folder.refused(&mut ringmaster(&format!("{profile} --out profile")), 2);
    assert!(why.contains("another study is at work"), "{why}");
    assert_eq!(folder.json(&profile)["trace"], "profile-2/trace.json");
    first.kill().unwrap();
    first.wait().unwrap();
    // Killed, it holds the folder no more, and what it left is cleared away.
    assert_eq!(folder.json(&profile)["trace"], "profile/trace.json");
    let left = fs::read_dir(folder.path("profile")).unwrap();
    let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["stages.csv", "stamps", "trace.json"]);
}

/// Whatever a user's folders are called, they stay.
#[test]
fn studies_remove_nothing_of_the_users() {
    let folder = Folder::new();
    let folders = [
        "work",
        "stamps",
        "tuned.work",
        "work/stamps",
        "replay",
        "0000",
    ];
    for name in folders {
        fs::create_dir_all(folder.path(name)).unwrap();
    }
    let theses = folders.map(|name| format!("{name}/thesis"));
    let unfinished = ["tuned.unfinished", "compare.unfinished", "trace.unfinished"];
    let files: Vec<String> = theses
        .into_iter()
        .chain(unfinished.map(str::to_owned))
        .collect();
    for name in &files {
        fs::write(folder.path(name), "x").unwrap();
    }
    fs::write(folder.path("best.toml"), "# of somebody else\n").unwrap();
    // No combination is best: what is called best.toml is not the sweep's.
    folder.write_spec(&format!(
        "grid.workers = [0]\n{TWO_ROUNDS}\nbest.constraints = [\"batch_mean >= 1e9\"]"
    ));
    for command in [
        "profile selfplay --workers 1 --seconds 0.5 --warm-up-s 0.1 --every 4 --overhead 1 \
         --out . --weights WEIGHTS",
        "compare --workers 1 --seconds 0.2 --warm-up-s 0.1 --repetitions 1 --reference-rounds 1 \
         --search light --out . --weights WEIGHTS",
        "tune --trial-s 0.05 --limit-s 0.1 --out ./tuned.toml --weights WEIGHTS",
        "sweep spec.toml --out .",
    ] {
        folder.succeeds(command);
        for name in &files {
            assert_eq!(folder.read(name), "x", "{command}");
        }
        for entry in fs::read_dir(folder.path("")).unwrap() {
            let name = entry.unwrap().file_name();
            let name = name.to_str().unwrap();
            assert!(!name.starts_with("ringmaster-scratch"), "{command}: {name}");
        }
    }
    assert_eq!(folder.read("best.toml"), "# of somebody else\n");
    // The stamps are beside what is called so.
    assert!(folder.path("stamps-2/worker-0-spans.csv").exists());
}

/// Pasted into a shell, a command that was printed does what it says.
#[test]
fn commands_in_messages_can_be_pasted() {
    let folder = Folder::new();
    let name = "c 20/my run's $HOME";
    let paste = |command: &str, more: &str| {
        let program = env!("CARGO_BIN_EXE_ringmaster");
        let script = format!("ringmaster() {{ '{program}' \"$@\"; }}; {command} {more}");
        let mut shell = Command::new("sh");
        json(
            &shell
                .args(["-c", &script])
                .current_dir(folder.path(""))
                .output()
                .unwrap(),
        )
    };
    let flags = "--rounds 1000000 --workers 0 --simulations 2 --worlds 1 --weights WEIGHTS";
    let mut run = folder
        .command(&format!("selfplay {flags}"))
        .args(["--out", name])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let out = folder.path(name);
    await_some("no round is written", || {
        (run::written(&out) >= 10_000).then_some(())
    });
    kill(Pid::from_raw(run.id() as i32), Signal::SIGINT).unwrap();
    let mut said = String::new();
    run.stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(130), "{said}");
    let (_, command) = said.trim_end().rsplit_once("go on with: ").unwrap();
    assert_eq!(paste(command, "--json --seconds 0.2")["out"], name);

    folder.write_spec(&format!(
        "grid.workers = [0]\n{TWO_ROUNDS}\nbest.metric = \"evaluations_per_s\""
    ));
    let mut sweep = folder.command("sweep spec.toml");
    let swept = sweep.args(["--out", "my sweep"]).output().unwrap();
    let told = text(&swept.stdout);
    let (_, command) = told.trim_end().rsplit_once("best: ").unwrap();
    assert_eq!(
        paste(command, "--json --rounds 2 --out played")["rounds"],
        2
    );
}

/// Settings, reports and manifests are text and name paths: what is no text is refused before
/// anything is done.
#[test]
fn paths_that_are_no_text_work_or_are_refused_in_a_line() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let folder = Folder::new();
    let odd = folder.path(OsStr::from_bytes(b"caf\xe9"));
    fs::create_dir(&odd).unwrap();
    folder.write_spec("grid.workers = [0]\n[trial]\nseconds = 0.0\nrounds = 1");
    for (command, says) in [
        ("selfplay --rounds 1 --out", "out is"),
        ("selfplay --rounds 1 --weights", "weights is"),
        ("selfplay --rounds 1 --workers 0 --trace", "trace is"),
        ("compare --seconds 0.1 --warm-up-s 0 --out", "out is"),
        ("compare --weights", "weights is"),
        ("profile selfplay --seconds 0.1 --out", "out is"),
        ("profile selfplay --weights", "weights is"),
        ("tune --out", "out is"),
        ("tune --weights", "weights is"),
        ("sweep spec.toml --json --out", "out is"),
    ] {
        let said = folder.refused(ringmaster(command).arg(&odd), 2);
        assert!(
            said.contains(says) && said.contains("UTF-8"),
            "{command}: {said}"
        );
        assert_eq!(fs::read_dir(&odd).unwrap().count(), 0, "{command}");
    }
    // What only reads, or writes no name, takes any.
    let flags = "--rounds 2 --workers 0 --simulations 2 --worlds 1 --weights WEIGHTS";
    folder.succeeds(&format!("selfplay {flags} --out run"));
    let run = odd.join("run");
    fs::rename(folder.path("run"), &run).unwrap();
    for (command, out) in [
        ("replay verify", None),
        ("replay show", None),
        ("replay digest", None),
        ("export", Some(odd.join("arrays"))),
    ] {
        let mut command = ringmaster(command);
        command.arg(&run);
        if let Some(out) = out {
            command.arg("--out").arg(out);
        }
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{command:?}: {}",
            text(&output.stderr)
        );
    }
}

/// Time is up before any decision is made: no figure is made of that.
#[test]
fn a_run_in_which_nothing_finished_says_so() {
    let folder = Folder::new();
    let play = |flags: &str| {
        let output = folder.succeeds(&format!(
            "selfplay --seconds 0.4 --players 8 --cards 6 --worlds 10 --simulations 100000 \
             --workers 1 --in-flight 1 --weights WEIGHTS {flags}"
        ));
        text(&output.stdout)
    };
    let told = play("--out a");
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
    let report: Value = serde_json::from_str(&play("--json --out b")).unwrap();
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
    let folder = Folder::new();
    let digest = |flags: &str| {
        let report = folder.json(&format!(
            "selfplay --json --rounds 6 --simulations 12 --weights WEIGHTS {flags}"
        ));
        (report["digest"].clone(), report["evaluations"].clone())
    };
    let together = digest("--workers 0 --out a");
    for flags in [
        "--workers 0 --worlds-in-flight 1 --in-flight 1 --out b",
        "--workers 2 --worlds-in-flight 2 --out c",
    ] {
        assert_eq!(digest(flags), together, "{flags}");
    }
}

#[test]
fn compare_measures_all_modes_and_renders_again_from_its_table() {
    let folder = Folder::new();
    let found = folder.json(
        "compare --workers 2 --seconds 0.6 --warm-up-s 0.2 --repetitions 2 --search light \
         --reference-rounds 2 --json --weights WEIGHTS --out compare",
    );
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
    let page = check_page(&folder.path("compare/compare.html"));
    assert!(page.contains("rounds in flight") && page.contains("rounds per minute"));
    let twice = "compare --from compare/compare.csv --from compare/compare.csv --out again";
    let shown = text(&folder.succeeds(twice).stdout);
    assert!(shown.contains("500 iterations x 10,000 rounds"));
    for line in shown.lines().filter(|line| !line.starts_with("report:")) {
        assert!(line.len() <= 100, "too wide: {line}");
    }
    check_page(&folder.path("again/compare.html"));
    folder.refused(&mut ringmaster("compare --from /dev/null"), 2);
}

#[test]
fn specs_that_make_no_sense_are_refused_in_one_line_before_any_trial() {
    let folder = Folder::new();
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
            "[random]\nsamples = 2000\nspace.seed = { low = 0, high = 1000000 }\n\
             [trial]\nrepetitions = 1000",
            "more than 1000000 trials",
        ),
        (
            "grid.workers = [1]\nbest.constraints = [\"batch_mean >= nan\"]",
            "must look like",
        ),
    ] {
        folder.write_spec(spec);
        let said = folder.refused(&mut ringmaster("sweep spec.toml --out out"), 2);
        assert!(said.contains(says), "{spec}: {said}");
        assert!(!folder.path("out").exists(), "{spec}: something ran");
    }
}

#[test]
fn a_spec_cannot_have_in_common_what_each_trial_sets() {
    let folder = Folder::new();
    let path = folder.path("spec.toml");
    let load = |base: &str| {
        fs::write(&path, format!("grid.workers = [1, 2]\n[base]\n{base}")).unwrap();
        sweep::load(&path)
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
    let twice = sweep::load(&path).err().unwrap();
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

#[test]
fn a_sweep_killed_half_way_ends_with_each_trial_once() {
    let folder = Folder::new();
    folder.write_spec(
        "[grid]\nworkers = [0, 1, 2]\nmax_batch = [8, 64]\nleaves = [1, 4]\n\
         [trial]\nseconds = 0.0\nrounds = 10\nrepetitions = 2\n\
         [best]\nmetric = \"evaluations_per_s\"\nconstraints = [\"policy_distance <= 0\"]\n",
    );
    for kills in 0..2 {
        let mut child = folder.start(SWEEP);
        let is_under_way = || (folder.journal().len() >= 6 * (kills + 1)).then_some(());
        await_some("no trial ends", is_under_way);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let before = folder.journal().len();
    assert!(before < 24, "killed too late to show anything");
    let summary = folder.json(SWEEP);
    let told = ["trials", "failed", "ran"].map(|name| summary[name].as_u64().unwrap());
    assert_eq!(told, [24, 0, 24 - before as u64]);
    let journal = folder.journal();
    let mut keys: Vec<String> = journal.iter().map(|row| row["key"].to_string()).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(
        (keys.len(), journal.len()),
        (24, 24),
        "each trial exactly once"
    );
    assert_eq!(folder.json(SWEEP)["ran"], 0);
    assert_eq!(folder.rows_of("out/trials.csv"), 24);
    let page = check_page(&folder.path("out/sweep.html"));
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
    let best = folder.read("out/best.toml");
    assert!(
        best.contains("leaves = 1"),
        "more leaves are at a distance: {best}"
    );
    let played = "selfplay --json --rounds 3 --config out/best.toml --out replay";
    assert_eq!(folder.json(played)["rounds"], 3);
}

/// A trial would finish what it has in hand; the study does not wait for that, and keeps no half of
/// it.
#[test]
fn ctrl_c_ends_a_sweep_and_its_trial_at_once() {
    let folder = Folder::new();
    folder.write_spec(
        "[grid]\nplayers = [3]\ncards = [17]\nsimulations = [20000]\nworkers = [1]\n\
         [trial]\nseconds = 0.0\nrounds = 1000\n[best]\nmetric = \"evaluations_per_s\"\n",
    );
    let child = folder
        .command(SWEEP)
        // As the terminal's.
        .process_group(0)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let group = Pid::from_raw(child.id() as i32);
    let trial = await_some("no trial plays", || {
        let trial = children_of(child.id()).first().copied();
        // Its evaluator and its worker are at work: the rounds in hand would take hours.
        trial.filter(|&trial| {
            let children = children_of(trial);
            children.len() == 2 && children.iter().all(|&pid| ticks_of(pid) >= 10)
        })
    });
    let pid = Pid::from_raw(trial as i32);
    let its_group = nix::unistd::getpgid(Some(pid));
    assert_eq!(
        its_group,
        Ok(pid),
        "the terminal's Ctrl-C is the trial's, too"
    );
    killpg(group, Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    let told =
        "ringmaster: interrupted: 0 of 3 trials kept; the same command goes on with the rest\n";
    assert!(stderr.ends_with(told), "{stderr}");
    assert!(!Path::new(&format!("/proc/{trial}")).exists());
    assert!(folder.journal().is_empty());
}

/// Runs a study until it says `moment`, then has Ctrl-C pressed; what it said, exit code 130 being
/// asserted.
fn interrupted_at(moment: &str, mut child: std::process::Child) -> String {
    let mut said = String::new();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    while !said.contains(moment) {
        assert!(stderr.read_line(&mut said).unwrap() > 0, "{said}");
    }
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
    said
}

const NOTHING_YET: &str = "ringmaster: interrupted: nothing was measured yet\n";

#[test]
fn ctrl_c_ends_a_comparison_and_what_was_measured_is_kept() {
    let folder = Folder::new();
    // Hours of sequential search, which is played in the study's own process.
    let long = folder
        .start("compare --search heavy --reference-rounds 100000 --weights WEIGHTS --out compare");
    let said = interrupted_at("to compare policies with", long);
    assert!(said.ends_with(NOTHING_YET), "{said}");
    let left = fs::read_dir(folder.path("compare")).unwrap();
    assert_eq!(left.count(), 0, "something is left");

    let child = folder.start(
        "compare --workers 1 --seconds 0.3 --warm-up-s 0.1 --search light --reference-rounds 1 \
         --weights WEIGHTS --out compare",
    );
    let said = interrupted_at("repetition 1 of 3, cross-worker", child);
    let told = "ringmaster: interrupted: 2 runs kept in compare/compare.csv; measure more into \
                another --out and lay both together with --from\n";
    assert!(said.ends_with(told), "{said}");
    check_page(&folder.path("compare/compare.html"));
    let again = folder.json("compare --json --from compare/compare.csv --out again");
    let rows = &again["rows"];
    assert_eq!(rows.as_array().unwrap().len(), 2, "{rows}");
    assert_eq!(rows[1]["mode"], "intra-game");
}

#[test]
fn ctrl_c_leaves_the_profile_that_is_measured() {
    let folder = Folder::new();
    let profile = "profile selfplay --workers 1 --seconds 2 --every 4 --overhead 100 \
                   --weights WEIGHTS --out profile";
    let said = interrupted_at("with stamps", folder.start(profile));
    assert!(said.ends_with(NOTHING_YET), "{said}");
    let said = interrupted_at("pair 1 of 100", folder.start(profile));
    assert!(
        said.ends_with("what stamps cost is not measured\n"),
        "{said}"
    );
    assert!(folder.path("profile/trace.json").exists());
    assert!(folder.path("profile/stages.csv").exists());
}

#[test]
fn trials_that_fail_are_rows() {
    let folder = Folder::new();
    // Rings for so many leaves do not fit any /dev/shm.
    folder.write_spec(&format!(
        "{TWO_ROUNDS}\n[grid]\nworkers = [1]\n\"in_flight, worlds, leaves, simulations\" = \
         [[1, 1, 1, 4], [4096, 1000, 256, 1000]]\n"
    ));
    // Again and again: what failed is tried again, what did not is there.
    for ran in [2, 1] {
        let output = folder.run(SWEEP);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let told = "ringmaster: 1 of 2 trials failed; the same command tries it again\n";
        assert!(said.ends_with(told), "{said}");
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
        let told = ["trials", "failed", "ran"].map(|name| summary[name].as_u64());
        assert_eq!(told, [Some(2), Some(1), Some(ran)]);
    }
    let journal = folder.journal();
    let failed = journal
        .iter()
        .find(|row| row["failed"].is_string())
        .unwrap();
    assert!(
        failed["failed"].to_string().contains("exit code 1"),
        "{failed}"
    );
    assert!(folder.path("out/best.toml").exists());
    check_page(&folder.path("out/sweep.html"));
}

/// As when memory was short for a moment, or somebody killed it.
#[test]
fn a_trial_that_failed_once_is_played_by_the_same_command() {
    let folder = Folder::new();
    folder.write_spec(&format!(
        "grid.workers = [0, 1]\n{TWO_ROUNDS}\nbest.metric = \"evaluations_per_s\""
    ));
    assert_eq!(folder.json(SWEEP)["ran"], 2);
    let failed = folder.journal().into_iter().map(|mut row| {
        if row["values"][0] == "1" {
            row["failed"] = "killed by signal 9: said nothing".into();
            row["report"] = Value::Null;
        }
        row.to_string() + "\n"
    });
    fs::write(folder.path("out/trials.jsonl"), failed.collect::<String>()).unwrap();
    for ran in [1, 0] {
        let summary = folder.json(SWEEP);
        assert_eq!(
            (&summary["ran"], &summary["failed"]),
            (&ran.into(), &0.into())
        );
    }
    assert_eq!(folder.rows_of("out/trials.csv"), 2);
}

#[test]
fn a_sweep_that_cannot_run_is_refused_but_one_that_can_in_part_runs() {
    // Whatever the machine: the small network is none that the CUDA kernels take.
    let folder = Folder::new();
    folder.write_spec(&format!("grid.backend = [\"cuda\"]\n{TWO_ROUNDS}"));
    let said = folder.refused(&mut ringmaster(SWEEP), 1);
    assert!(said.contains("networks of width 128 and 256"), "{said}");
    assert!(!folder.path("out").exists(), "something ran");
    folder.write_spec(&format!("grid.backend = [\"cpu\", \"cuda\"]\n{TWO_ROUNDS}"));
    let in_part = folder.run(SWEEP);
    assert_eq!(in_part.status.code(), Some(1), "{}", text(&in_part.stderr));
    let summary: Value = serde_json::from_slice(&in_part.stdout).unwrap();
    assert_eq!(
        (&summary["trials"], &summary["failed"]),
        (&2.into(), &1.into())
    );
}

#[test]
fn profile_evaluator_holds_the_network_against_the_cores() {
    let folder = Folder::new();
    let profile = folder.json(
        "profile evaluator --backend cpu --max-batch 64 --threads 1 --json --weights WEIGHTS",
    );
    let peak = profile["peak_tflops"].as_f64().unwrap();
    assert!(peak > 0.0);
    let sizes = profile["sizes"].as_array().unwrap();
    let rows = sizes.iter().map(|size| size["rows"].as_u64().unwrap());
    assert!(rows.eq([1, 16, 32, 64]));
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
    let folder = Folder::new();
    let profile = folder.json("profile ring --trips 200 --repetitions 2 --json");
    let trips = profile["round_trips"].as_array().unwrap();
    let ways: Vec<&str> = trips
        .iter()
        .map(|trip| trip["way"].as_str().unwrap())
        .collect();
    let all = [
        "two atomics",
        "two rings, polling",
        "two rings, parking",
        "two pipes",
        "unix socket",
    ];
    assert_eq!(ways, all);
    for trip in trips {
        let at = ["p50_ns", "p90_ns", "p99_ns", "p99_9_ns", "max_ns"];
        let at = at.map(|name| trip[name].as_u64().unwrap());
        assert!(0 < at[0] && at.is_sorted(), "{trip}");
    }
    assert!(profile["slots_per_s"].as_f64().unwrap() > 1e4);
    let same = folder.refused(&mut ringmaster("profile ring --cores 0,0"), 2);
    assert!(same.contains("two different cores"), "{same}");
    let none = folder.run("profile ring --cores 0,9999");
    let said = text(&none.stderr);
    assert!(
        !none.status.success() && said.contains("core 9999"),
        "{said}"
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
    let folder = Folder::new();
    let profile = folder.json(
        "profile selfplay --workers 2 --seconds 1.5 --warm-up-s 0.5 --every 8 --overhead 1 \
         --window-s 1 --json --weights WEIGHTS --out profile",
    );
    assert!(profile["requests"].as_u64() > Some(100), "{profile}");
    let stages = profile["stages"].as_array().unwrap();
    assert_eq!(
        stages.len(),
        3 * 8,
        "seven stages and a total, for all and for each worker"
    );
    let (all, total) = (&stages[..7], &stages[7]);
    let sum_of = |figure: &str| -> f64 {
        all.iter()
            .map(|stage| stage[figure].as_f64().unwrap())
            .sum()
    };
    let total_of = |figure: &str| total[figure].as_f64().unwrap();
    let share = sum_of("p50_us") / total_of("p50_us");
    assert!((profile["sum_over_total"].as_f64().unwrap() - share).abs() < 1e-9);
    let means = sum_of("mean_us") / total_of("mean_us");
    assert!(
        (means - 1.0).abs() < 1e-3,
        "stages follow each other without gap"
    );
    // The test's machine is shared: the 10 % of the acceptance are checked on an idle one.
    assert!((0.5..1.5).contains(&share), "{profile}");
    let bottleneck = profile["bottleneck"].as_str().unwrap();
    assert!(["network", "workers", "ring", "batching"].contains(&bottleneck));
    assert!(profile["overhead"].is_number());
    let trace = folder.read("profile/trace.json");
    assert!(check_trace(&serde_json::from_str(&trace).unwrap()) > 10);
    assert_eq!(folder.rows_of("profile/stages.csv"), 24);
    folder.refused(&mut ringmaster("profile selfplay --workers 0"), 2);
}

#[test]
fn tune_writes_settings_that_run() {
    let folder = Folder::new();
    let tuned =
        folder.json("tune --trial-s 0.5 --limit-s 3 --json --weights WEIGHTS --out tuned.toml");
    let [before, after] = ["before", "after"].map(|name| tuned[name].as_f64().unwrap());
    assert!(before > 0.0 && after >= before);
    for found in ["costs", "steps"] {
        assert!(!tuned[found].as_array().unwrap().is_empty(), "{tuned}");
    }
    let played = "selfplay --json --rounds 3 --config tuned.toml --out replay";
    assert_eq!(folder.json(played)["rounds"], 3);
    // And may be swept further, as they are.
    let base = folder.read("tuned.toml");
    let spec = folder.path("spec.toml");
    fs::write(&spec, format!("grid.leaves = [1, 2]\n[base]\n{base}")).unwrap();
    sweep::load(&spec).unwrap();
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
            sweep::load(&path).unwrap();
            found += 1;
        }
    }
    assert_eq!(found, 3);
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/studies.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, after) = page.split_once("```toml\n[base]\n").unwrap();
    let (spec, _) = after.split_once("```").unwrap();
    let spec = sweep::check(toml::from_str(&format!("[base]\n{spec}")).unwrap());
    assert_eq!(spec.unwrap().swept.len(), 4);
}
