//! File systems that people have: without locks, without flushing of folders, full, read-only; and
//! names under which nothing can be written. A run goes on where that is sound; what is refused is
//! refused in one line with a remedy that fits, and nothing that was there is touched.
#![allow(clippy::unwrap_used)]

#[path = "support/fakes.rs"]
mod fakes;
#[path = "support/run.rs"]
mod run;

use nix::errno::Errno;
use nix::sys::signal::Signal::SIGTERM;
use run::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const FLAGS: &str = "--rounds 40 --cards 3 --worlds 1 --simulations 8 --seed 3 --backend cpu";
const NO_LOCKS: &str = "no file locks";
const NO_FLUSHING: &str = "no flushing of folders";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The stand-in of tests/fake_files, to be preloaded.
fn stand_in(place: &Place) -> PathBuf {
    let library = "libfilesystem.so";
    fakes::build(place.folder.path(), "fake_files/filesystem", library).join(library)
}

/// A place whose runs have a file system that refuses these calls with these numbers.
fn place_that_refuses(refusals: &[(&'static str, Errno)]) -> Place {
    let mut place = Place::new();
    place.environment.push(("LD_PRELOAD", stand_in(&place)));
    let numbers = refusals
        .iter()
        .map(|(call, errno)| (*call, (*errno as i32).to_string().into()));
    place.environment.extend(numbers);
    place
}

#[test]
fn a_file_system_that_lacks_something_costs_one_note() {
    let place = Place::new();
    let flags = format!("{FLAGS} --workers 0");
    let digest = place.play(&place.out("whole"), &flags)["digest"].clone();
    let mut lacking: Vec<(Vec<(&'static str, Errno)>, &str)> = Vec::new();
    for errno in [Errno::ENOSYS, Errno::EOPNOTSUPP, Errno::ENOLCK] {
        lacking.push((vec![("FAKE_FLOCK", errno)], NO_LOCKS));
    }
    for errno in [
        Errno::EINVAL,
        Errno::EOPNOTSUPP,
        Errno::ENOSYS,
        Errno::EBADF,
    ] {
        lacking.push((vec![("FAKE_FSYNC", errno)], NO_FLUSHING));
    }
    let both = vec![("FAKE_FLOCK", Errno::ENOSYS), ("FAKE_FSYNC", Errno::EINVAL)];
    lacking.push((both, "neither file locks nor flushing of folders"));
    for (number, (refusals, says)) in lacking.iter().enumerate() {
        let place = place_that_refuses(refusals);
        let out = place.out("replay");
        let workers = number % 2 * 2;
        let flags = format!("{FLAGS} --workers {workers}");
        let half = flags.replace("--rounds 40", "--rounds 25");
        for flags in [half, format!("{flags} --resume")] {
            let ended = place.start(&out, &flags, "").finish();
            assert_eq!(ended.code, Some(0), "{refusals:?}: {}", ended.stderr);
            let notes = ended.stderr.lines().filter(|line| line.contains(says));
            assert_eq!(notes.count(), 1, "{refusals:?}: {}", ended.stderr);
        }
        nothing_is_left(&out, &[], &digest, says);
    }
}

#[test]
fn doctor_tells_what_this_folder_lacks() {
    let both = "neither file locks nor flushing of folders";
    for (refusals, state, says) in [
        (&[][..], "ok", "file locks and flushing work"),
        (&[("FAKE_FLOCK", Errno::ENOSYS)], "note", NO_LOCKS),
        (&[("FAKE_FSYNC", Errno::EINVAL)], "note", NO_FLUSHING),
        (
            &[("FAKE_FLOCK", Errno::ENOLCK), ("FAKE_FSYNC", Errno::EBADF)],
            "note",
            both,
        ),
        (&[("FAKE_FSYNC", Errno::EIO)], "note", "not writable"),
    ] {
        let place = place_that_refuses(refusals);
        let here = place.out("here");
        fs::create_dir(&here).unwrap();
        let mut command = ringmaster();
        command.args(["doctor", "--json"]).current_dir(&here);
        command.envs(place.environment.iter().map(|(name, value)| (name, value)));
        let told: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
        let mut findings = told["findings"].as_array().unwrap().iter();
        let found = findings.find(|finding| finding["topic"] == "this folder");
        let found = found.unwrap();
        assert_eq!(found["state"], state, "{found}");
        assert!(found["found"].as_str().unwrap().contains(says), "{found}");
        assert_eq!(fs::read_dir(&here).unwrap().count(), 0, "something is left");
    }
}

#[test]
fn a_disk_that_fails_is_no_file_system_that_lacks_something() {
    for (call, what) in [("FAKE_FLOCK", "cannot lock"), ("FAKE_FSYNC", "cannot sync")] {
        let place = place_that_refuses(&[(call, Errno::EIO)]);
        let flags = format!("{FLAGS} --workers 0");
        let ended = place.start(&place.out("replay"), &flags, "").finish();
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        for part in [what, "check the disk"] {
            assert!(ended.stderr.contains(part), "{}", ended.stderr);
        }
    }
}

#[test]
fn a_second_run_where_there_are_no_locks_ends_the_first_and_loses_nothing() {
    let place = place_that_refuses(&[("FAKE_FLOCK", Errno::ENOSYS)]);
    let out = place.out("replay");
    let endless = FLAGS.replace("--rounds 40", "--rounds 1000000") + " --workers 1";
    let first = place.start(&out, &endless, "");
    wait_for_rounds(&out, 2000);
    let mut second = place.start(&out, &format!("{endless} --resume"), "");
    let said = second.listen();
    let ended = first.finish();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let last = ended.stderr.lines().last().unwrap_or_default();
    assert!(last.contains("another run has begun to write"), "{last}");
    let then = written(&out);
    wait_for_rounds(&out, then + 2000);
    send(second.pid(), SIGTERM);
    let ended = second.finish();
    assert_eq!(ended.code, Some(130), "{}", said.text());
    verify(&out);
}

#[test]
fn a_sweep_without_locks_says_so_and_runs() {
    let place = place_that_refuses(&[("FAKE_FLOCK", Errno::ENOLCK), ("FAKE_FSYNC", Errno::EINVAL)]);
    let output = study(&place, "sweep {spec} --out {out}", &place.out("found"));
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let notes = stderr.lines().filter(|line| line.contains(NO_LOCKS));
    assert_eq!(notes.count(), 1, "{stderr}");
    let trials = fs::read_to_string(place.out("found/trials.jsonl")).unwrap();
    assert_eq!(trials.lines().count(), 1, "{trials}");
}

/// The user's umask is about what others may do, not about what this user may.
#[test]
fn a_umask_that_takes_the_users_own_rights_keeps_no_run_from_its_segment() {
    let place = Place::new();
    for umask in ["0277", "0777", "0000"] {
        let out = place.out(umask);
        fs::create_dir(&out).unwrap();
        let run = place.selfplay(&out, &format!("{FLAGS} --workers 1"));
        let mut command = Command::new("sh");
        // Only segments are at issue: files of such a mode are no use to anybody but root.
        command.args(["-c", "umask \"$1\"; shift; exec \"$@\"", "sh", umask]);
        let output = command
            .arg(run.get_program())
            .args(run.get_args())
            .output()
            .unwrap();
        let stderr = text(&output.stderr);
        assert!(!stderr.contains("segment"), "{umask}: {stderr}");
        if nix::unistd::geteuid().is_root() {
            assert!(output.status.success(), "{umask}: {stderr}");
        }
    }
}

/// A command that writes to --out (or --csv), in the shortest form that does its work; `{out}` and
/// what `place` holds stand in braces.
struct Writer {
    command: &'static str,
    /// It writes a file, not a folder.
    is_file: bool,
}

const fn folder(command: &'static str) -> Writer {
    let is_file = false;
    Writer { command, is_file }
}

const fn file(command: &'static str) -> Writer {
    let is_file = true;
    Writer { command, is_file }
}

const WRITERS: [Writer; 10] = [
    folder("selfplay --rounds 2 --workers 0 --simulations 4 --weights {weights} --out {out}"),
    folder(
        "compare --workers 1 --repetitions 1 --reference-rounds 1 --seconds 0.1 --warm-up-s 0 \
         --weights {weights} --out {out}",
    ),
    folder("compare --from {table} --out {out}"),
    folder("sweep {spec} --out {out}"),
    file("tune --trial-s 0.1 --limit-s 0 --weights {weights} --out {out}"),
    folder(
        "profile selfplay --workers 1 --seconds 0.2 --warm-up-s 0 --weights {weights} --out {out}",
    ),
    file("profile evaluator --backend cpu --max-batch 8 --weights {weights} --csv {out}"),
    folder(
        "infer --features {arrays}/features.npy --mask {arrays}/mask.npy --weights {weights} \
         --out {out}",
    ),
    folder("export {replay} --out {out}"),
    file("weights init --width 16 --depth 1 --ffn 16 --out {out}"),
];

impl Writer {
    fn name(&self) -> &'static str {
        self.command.split(' ').next().unwrap()
    }
}

/// What those commands read, made once.
fn inputs() -> Place {
    let place = Place::new();
    place.play(&place.out("replay"), &format!("{FLAGS} --workers 0"));
    let output = study(&place, "export {replay} --out {out}", &place.out("arrays"));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let columns = fs::read_to_string("tests/corpus/table/odd-infinite.csv").unwrap();
    let head = columns.lines().next().unwrap();
    let row: Vec<&str> = head.split(',').map(|_| "1").collect();
    fs::write(
        place.out("table.csv"),
        format!("{head}\n{}\n", row.join(",")),
    )
    .unwrap();
    place
}

fn command_of(place: &Place, command: &str, out: &Path) -> Command {
    let spec = place.out("spec.toml");
    let base = format!(
        "[base]\ncards = 2\nworlds = 1\nsimulations = 4\nbackend = \"cpu\"\nweights = {:?}\n\
         [grid]\nworkers = [0]\n[trial]\nseconds = 0.0\nrounds = 2\nrepetitions = 1\n\
         [best]\nmetric = \"evaluations_per_s\"\n",
        place.weights()
    );
    fs::write(&spec, base).unwrap();
    let arguments = command.split_whitespace();
    let mut command = ringmaster();
    command.envs(place.environment.iter().map(|(name, value)| (name, value)));
    for argument in arguments {
        let filled = argument
            .replace("{weights}", place.weights().to_str().unwrap())
            .replace("{spec}", spec.to_str().unwrap())
            .replace("{table}", place.out("table.csv").to_str().unwrap())
            .replace("{arrays}", place.out("arrays").to_str().unwrap())
            .replace("{replay}", place.out("replay").to_str().unwrap())
            .replace("{out}", out.to_str().unwrap());
        command.arg(filled);
    }
    command
}

fn study(place: &Place, command: &str, out: &Path) -> Output {
    command_of(place, command, out).output().unwrap()
}

/// Everything below a folder: kinds, contents, where links point.
fn all_below(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            all.insert(path, target.into_os_string().into_encoded_bytes());
        } else if kind.is_dir() {
            all.extend(all_below(&path));
            all.insert(path, b"folder".to_vec());
        } else if kind.is_file() {
            all.insert(path.clone(), fs::read(path).unwrap());
        } else {
            all.insert(path, b"special".to_vec());
        }
    }
    all
}

/// One line that says what is wrong with `out` and what to do, fitting the command.
fn assert_refused(writer: &Writer, output: &Output, says: &[&str]) {
    let (stderr, stdout) = (text(&output.stderr), text(&output.stdout));
    let what = format!("{}: {stderr}", writer.command);
    assert_eq!(output.status.code(), Some(1), "{what}");
    assert_eq!(stdout, "", "{what}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("ringmaster: "), "{what}");
    assert!(
        says.iter().any(|part| last.contains(part)),
        "{says:?}: {what}"
    );
    if writer.name() != "selfplay" {
        assert!(
            !last.contains("--resume"),
            "a remedy of another command: {what}"
        );
    }
}

#[test]
fn where_nothing_can_be_written_each_command_says_so_and_touches_nothing() {
    let place = inputs();
    let stage = place.out("stage");
    fs::create_dir(&stage).unwrap();
    let at = |name: &str| stage.join(name);
    fs::write(at("file"), "precious").unwrap();
    fs::create_dir(at("folder")).unwrap();
    fs::write(at("folder/kept"), "precious").unwrap();
    symlink(at("nowhere"), at("dangling")).unwrap();
    symlink(at("loop"), at("loop")).unwrap();
    nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let before = all_below(&stage);
    let long = "x".repeat(300);
    for writer in &WRITERS {
        let mut cases = vec![
            (at("dangling"), "a link there points to what does not exist"),
            (
                at("dangling/below"),
                "a link there points to what does not exist",
            ),
            (at(&long), "choose a shorter name"),
            (at("file/below"), "should be a folder"),
            (at("loop"), "a link there leads nowhere"),
            (
                at("pipe"),
                if writer.is_file {
                    "a device, pipe or socket is there"
                } else {
                    "something else has this name"
                },
            ),
            (PathBuf::from("/proc/ringmaster"), "check the path"),
        ];
        if writer.is_file {
            cases.push((at("folder"), "that is a folder: name a file"));
            cases.push((at("absent/below"), "the folder above it does not exist"));
        } else {
            cases.push((at("file"), "something else has this name"));
        }
        for (out, says) in cases {
            let output = study(&place, writer.command, &out);
            assert_refused(writer, &output, &[says]);
            assert_eq!(
                text(&output.stderr).lines().count(),
                1,
                "{says}: {}",
                text(&output.stderr)
            );
            assert!(
                all_below(&stage) == before,
                "{}: {says}: something was touched",
                writer.name()
            );
        }
    }
}

/// A study removes its trials: their own way of going on is none for its user.
#[test]
fn a_trial_that_fails_halfway_says_nothing_of_going_on() {
    let place = Place::new();
    let limited = |command: Command| {
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -f 16; exec \"$0\" \"$@\""]);
        let arguments = limited.arg(command.get_program()).args(command.get_args());
        arguments.output().unwrap()
    };
    let selfplay = limited(command_of(&place, WRITERS[0].command, &place.out("replay")));
    let stderr = text(&selfplay.stderr);
    assert!(
        stderr.contains("ulimit -f") && stderr.contains("--resume"),
        "{stderr}"
    );
    let [_, compare, ..] = &WRITERS;
    let output = limited(command_of(&place, compare.command, &place.out("compare")));
    // In the trial's own folder: its first file is larger than allowed.
    assert_refused(compare, &output, &["weights-0.safetensors: cannot write"]);
    assert!(text(&output.stderr).contains("ulimit -f"));
}

/// Runs "$@" where $1 is a disk of its own, made full or read-only by $2, and says whether what was
/// there is as it was.
const ON_A_DISK: &str = r#"
disk=$1 state=$2; shift 2
mount -t tmpfs -o size=64k none "$disk" || exit 77
mkdir "$disk/folder"; echo precious > "$disk/file"
for name in compare.csv compare.html trials.csv features.npy policy.npy trace.json stages.csv; do
    cp "$disk/file" "$disk/folder/$name"
done
case $state in
    full) cat /dev/zero > "$disk/filler" 2> /dev/null;;
    *) mount -o remount,ro "$disk";;
esac
"$@"; code=$?
for file in "$disk"/file "$disk"/folder/*.*; do
    case $file in */trials.jsonl) continue;; esac
    [ "$(cat "$file")" = precious ] || { echo "touched: $file"; exit 78; }
done
exit $code
"#;

#[test]
fn on_a_full_or_read_only_disk_each_command_says_so_and_touches_nothing() {
    let Some(way) = own_mounts() else {
        eprintln!("SKIPPED: no mount of its own is allowed here");
        return;
    };
    let place = inputs();
    let disk = place.out("disk");
    fs::create_dir(&disk).unwrap();
    for (state, says) in [("full", "free some space"), ("read-only", "is read-only")] {
        for writer in &WRITERS {
            // A replay goes into a folder of its own.
            let name = match (writer.is_file, writer.name()) {
                (true, _) => "file",
                (false, "selfplay") => "replay",
                (false, _) => "folder",
            };
            let run = command_of(&place, writer.command, &disk.join(name));
            let mut command = Command::new("unshare");
            command.args(way).args(["sh", "-c", ON_A_DISK, "sh"]);
            command.arg(&disk).arg(state);
            let output = command
                .arg(run.get_program())
                .args(run.get_args())
                .output()
                .unwrap();
            assert_refused(writer, &output, &[says]);
        }
    }
}
