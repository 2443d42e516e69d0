//! stdout is data, stderr is progress and errors: nothing that becomes of stderr costs a run
//! anything, a reader of stdout who leaves ends the command in peace, and data that cannot be
//! written is an error in one line.
#![allow(clippy::unwrap_used)]

#[path = "support/run.rs"]
mod run;

use run::*;
use std::fs::{File, OpenOptions};
use std::io::pipe;
use std::path::Path;
use std::process::{Command, Stdio};

const FLAGS: &str = "--rounds 60 --worlds 2 --simulations 8 --in-flight 4 --seed 5 --workers 2";

/// For some seconds.
const LONG: &str = "--rounds 2000 --worlds 2 --simulations 12 --in-flight 16 --seed 5";

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// A pipe whose reader has left.
fn abandoned() -> Stdio {
    pipe().unwrap().1.into()
}

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_run_survives_its_stderr() {
    let place = Place::new();
    let digest = place.play(&place.out("whole"), LONG)["digest"].clone();
    for name in ["full", "abandoned"] {
        let stderr = || match name {
            "full" => full().into(),
            _ => abandoned(),
        };
        for engine in ["--workers 2", "--workers 0"] {
            let out = place.out(&format!("{name}{}", &engine[10..]));
            let mut command = place.selfplay(&out, LONG);
            command.args(engine.split(' ')).stderr(stderr());
            let running = Running(command.stdout(Stdio::piped()).spawn().unwrap());
            let mut all = vec![running.pid()];
            if engine == "--workers 2" {
                all.extend(running.wait_for_children(3));
                // Its death is a line on stderr, and so may be its last word.
                send(all[2], nix::sys::signal::Signal::SIGKILL);
            }
            let ended = running.finish();
            assert_eq!(ended.code, Some(0), "stderr {name}, {engine}");
            assert_eq!(ended.report()["digest"], digest);
            nothing_is_left(&out, &all, &digest, name);
        }
    }
}

#[test]
fn a_study_survives_its_stderr() {
    let place = Place::new();
    let spec = place.out("spec.toml");
    let text = "[grid]\nworkers = [0, 1]\n[trial]\nrounds = 8\n[base]\nworlds = 1\n\
        simulations = 4\nbackend = \"cpu\"\n";
    let weights = format!("weights = \"{}\"\n", place.weights().display());
    std::fs::write(&spec, format!("{text}{weights}")).unwrap();
    let mut command = ringmaster();
    command.arg("sweep").arg(&spec).arg("--json");
    command.arg("--out").arg(place.out("sweep")).stderr(full());
    let output = command.output().unwrap();
    let summary = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{summary}");
    assert!(summary.contains("\"failed\":0"), "{summary}");
}

/// Every command that prints, on a replay and a network.
fn printing(place: &Place, replay: &Path) -> Vec<Command> {
    let run = |arguments: &[&str], path: &Path| {
        let mut command = ringmaster();
        command.args(arguments).arg(path);
        command
    };
    let mut export = run(&["export"], replay);
    export.arg("--out").arg(place.out("arrays"));
    let mut init = run(
        &["weights", "init", "--out"],
        &place.out("made.safetensors"),
    );
    init.args(["--width", "16", "--depth", "1", "--ffn", "16"]);
    let again = place.selfplay(replay, "--resume");
    let help = |arguments: &[&str]| run(arguments, Path::new("--help"));
    vec![
        run(&["replay", "verify"], replay),
        run(&["replay", "digest"], replay),
        run(&["replay", "show"], replay),
        run(&["weights", "inspect"], &place.weights()),
        run(&["doctor"], Path::new("--json")),
        run(&[], Path::new("--version")),
        help(&[]),
        help(&["selfplay"]),
        export,
        init,
        again,
    ]
}

#[test]
fn data_that_cannot_be_written_is_an_error_and_an_uninterested_reader_none() {
    let place = Place::new();
    let replay = place.out("replay");
    place.play(&replay, FLAGS);
    for mut command in printing(&place, &replay) {
        let what = format!("{command:?}");
        let output = command.stdout(full()).output().unwrap();
        let stderr = said(&output);
        assert_eq!(output.status.code(), Some(1), "{what}: {stderr}");
        let errors = |line: &&str| line.starts_with("ringmaster: ");
        assert_eq!(stderr.lines().filter(errors).count(), 1, "{stderr}");
        assert!(stderr.contains("No space left"), "{what}: {stderr}");
        let output = command.stdout(abandoned()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{what}: {}", said(&output));
        assert!(!said(&output).contains("ringmaster: "), "{}", said(&output));
    }
}

#[test]
fn what_was_wrong_is_told_by_the_exit_code_if_by_nothing_else() {
    let bad: [(&[&str], i32); 3] = [
        (&["selfplay", "--players", "99"], 2),
        (&["selfplay", "--no-such-flag"], 2),
        (&["replay", "verify", "/nowhere"], 1),
    ];
    for (arguments, code) in bad {
        let mut command = ringmaster();
        let status = command.args(arguments).stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
}

/// Closed altogether, as by a shell's `2>&-`: nothing that the run opens may take the place of a
/// stream.
#[test]
fn closed_streams_are_as_good_as_none() {
    let place = Place::new();
    let digest = place.play(&place.out("whole"), FLAGS)["digest"].clone();
    let out = place.out("replay");
    let selfplay = place.selfplay(&out, FLAGS);
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" <&- >&- 2>&-"]);
    command
        .arg(selfplay.get_program())
        .args(selfplay.get_args());
    assert_eq!(command.status().unwrap().code(), Some(0));
    nothing_is_left(&out, &[], &digest, "closed streams");
}
