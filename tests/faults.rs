//! What else befalls a run that lasts for days, and what it must come to: the disk is full, the
//! power is lost, a process is stopped when its coordinator dies, somebody resumes with other
//! weights or another version. `kill_points` and `engine` have the deaths, `hostile` the worker
//! gone mad.
#![allow(clippy::unwrap_used)]

#[path = "support/run.rs"]
mod run;

use nix::sys::signal::Signal::{SIGKILL, SIGSTOP};
use run::*;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Some 250 KiB of replay, several batches in flight.
const FLAGS: &str =
    "--rounds 300 --worlds 2 --simulations 24 --in-flight 4 --seed 21 --backend cpu";

/// The one thing the run said; progress aside.
fn only_line(stderr: &str) -> &str {
    let mut lines = stderr.lines().filter(|line| !line.contains("/min"));
    let line = lines.next().unwrap_or_default();
    assert_eq!(lines.next(), None, "more than one line: {stderr}");
    line
}

/// Runs, and once more with --resume when there is room, on a disk of $1: what each said, how it
/// ended, and the replay.
const ON_A_SMALL_DISK: &str = r#"
size=$1 disk=$2 results=$3; shift 3
mount -t tmpfs -o size=$size none "$disk" || exit 77
"$@" --out "$disk/replay" > "$results/out" 2> "$results/err"; echo $? > "$results/code"
ls "$disk/replay" > "$results/left"
mount -o remount,size=64m "$disk"
"$@" --out "$disk/replay" --resume > "$results/report" 2> "$results/log"
echo $? > "$results/resumed"
cp -r "$disk/replay" "$results/replay"
"#;

#[test]
fn a_full_disk_ends_the_run_cleanly_and_it_goes_on_when_there_is_room() {
    let Some(way) = own_mounts() else {
        eprintln!("SKIPPED: no mount of its own is allowed here; a limit on files stands in");
        return;
    };
    let place = Place::new();
    let digest = place.play(&place.out("whole"), FLAGS)["digest"].clone();
    // In pages of 4 KiB: the copy of the weights that the folder begins with, and the one shard; a
    // page more is the manifest.
    let pages = |file: &Path| fs::metadata(file).unwrap().len().div_ceil(4096);
    let weights = pages(&place.weights());
    let shard = pages(&place.out("whole").join("rounds-000000.shard"));
    for (room, workers) in [
        (weights / 2, 2),
        (weights + 2, 0),
        (weights + 1 + shard / 2, 2),
        // The manifest is written anew at the end, beside the old one.
        (weights + 1 + shard, 2),
    ] {
        let size = format!("{}k", 4 * room);
        let results = place.out(&format!("{size}-{workers}"));
        let disk = results.join("disk");
        fs::create_dir_all(&disk).unwrap();
        let mut command = Command::new("unshare");
        command
            .args(way)
            .args(["sh", "-c", ON_A_SMALL_DISK, "sh", &size]);
        command.arg(&disk).arg(&results);
        command
            .arg(env!("CARGO_BIN_EXE_ringmaster"))
            .arg("selfplay");
        command
            .args(FLAGS.split(' '))
            .arg("--weights")
            .arg(place.weights());
        command.args(["--workers", &workers.to_string(), "--json"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let result = |name: &str| fs::read_to_string(results.join(name)).unwrap();
        let line = result("err");
        let line = only_line(&line);
        assert_eq!(result("code").trim(), "1", "{size}: {line}");
        for part in [
            "disk/replay/",
            "No space left",
            "free some space",
            "--resume",
        ] {
            assert!(line.contains(part), "{size}: no {part} in: {line}");
        }
        assert_eq!(result("out"), "");
        assert!(
            !result("left").contains("manifest.json.part"),
            "{}",
            result("left")
        );
        assert_eq!(result("resumed").trim(), "0", "{size}: {}", result("log"));
        let report: Value = serde_json::from_str(&result("report")).unwrap();
        assert_eq!(report["digest"], digest, "{size}");
        nothing_is_left(&results.join("replay"), &[], &digest, &size);
    }
}

/// The same where nothing may be mounted: the limit on a file's size stands in for the disk.
#[test]
fn a_limit_on_files_is_as_good_as_a_full_disk() {
    let place = Place::new();
    // In one process: shared memory falls under the limit as well.
    let flags = format!("{FLAGS} --workers 0");
    let digest = place.play(&place.out("whole"), &flags)["digest"].clone();
    let out = place.out("replay");
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -f 64; exec \"$0\" \"$@\""]);
    let selfplay = place.selfplay(&out, &flags);
    command
        .arg(selfplay.get_program())
        .args(selfplay.get_args());
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let line = only_line(&stderr);
    assert_eq!(output.status.code(), Some(1), "{line}");
    assert!(
        line.contains("ulimit -f") && line.contains("--resume"),
        "{line}"
    );
    let report = place.play(&out, &format!("{flags} --resume"));
    assert_eq!(report["digest"], digest);
    assert!(
        report["rounds"].as_u64() < Some(300),
        "nothing was kept: {report}"
    );
}

/// A file that ends in what was never written: the ways in which a shard can come back after the
/// power was lost.
#[test]
fn whatever_a_loss_of_power_leaves_of_a_shard_is_mended() {
    let place = Place::new();
    let flags = format!("{FLAGS} --workers 0");
    let digest = place.play(&place.out("whole"), &flags)["digest"].clone();
    let killed = place.out("killed");
    let part = killed.join("rounds-000000.part");
    let running = place.start(&killed, &flags, "");
    wait_until("rounds are written", || {
        part.metadata().is_ok_and(|data| data.len() > 40_000)
    });
    running.kill_all();
    let bytes = fs::read(&part).unwrap();
    let (length, middle) = (bytes.len(), bytes.len() / 2);
    let zeros = |from: usize| [&bytes[..from], &vec![0; length - from]].concat();
    let garbage: Vec<u8> = (0..5000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let mut flipped = bytes.clone();
    flipped[middle] ^= 0x10;
    let lost = [
        ("nothing", bytes.clone()),
        ("all but the name", Vec::new()),
        ("the header's end", bytes[..7].to_vec()),
        ("the second half", bytes[..middle].to_vec()),
        ("the last byte", bytes[..length - 1].to_vec()),
        ("every byte, not the length", zeros(0)),
        ("the bytes from a page on", zeros(middle / 4096 * 4096)),
        ("the bytes from somewhere on", zeros(middle + 77)),
        (
            "nothing, and garbage follows",
            [&bytes[..], &garbage].concat(),
        ),
        (
            "half, and garbage follows",
            [&bytes[..middle], &garbage].concat(),
        ),
        ("a bit", flipped),
    ];
    for (number, (what, left)) in lost.iter().enumerate() {
        let out = place.out(&number.to_string());
        fs::create_dir(&out).unwrap();
        fs::copy(killed.join("manifest.json"), out.join("manifest.json")).unwrap();
        fs::write(out.join("rounds-000000.part"), left).unwrap();
        let ended = place.start(&out, &format!("{flags} --resume"), "").finish();
        assert_eq!(ended.code, Some(0), "lost {what}: {}", ended.stderr);
        assert_eq!(ended.report()["digest"], digest, "lost {what}");
        nothing_is_left(&out, &[], &digest, what);
    }
}

/// What a descriptor of a process stands for.
fn descriptors(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let targets = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.map(|target| target.display().to_string()).collect()
}

fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

#[test]
fn processes_hold_what_they_need_and_deaths_leave_nothing_open() {
    let place = Place::new();
    let settings = place.config("max_restarts = 1000\n");
    let out = place.out("replay");
    let flags = FLAGS.replace("300", "1000000");
    let running = place.start(&out, &format!("{flags} --workers 2 {settings}"), "");
    let pid = running.pid();
    let under_way = || {
        let part = out.join("rounds-000000.part");
        wait_until("a first round", || {
            part.exists() || out.join("rounds-000000.shard").exists()
        });
        running.wait_for_children(3)
    };
    let children = under_way();
    let segments = segments_of(pid);
    assert_eq!(segments.len(), 1);
    let mode = fs::metadata(Path::new("/dev/shm").join(&segments[0]))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o600, "others may open the segment");
    for &child in &children {
        for target in descriptors(child) {
            // Standard streams, and the segment.
            let known = target == "/dev/null"
                || target.starts_with("pipe:")
                || target.contains(&segments[0]);
            assert!(known, "a child holds {target}");
        }
    }
    let sockets: Vec<_> = descriptors(pid)
        .into_iter()
        .filter(|target| target.starts_with("socket:"))
        .collect();
    assert!(sockets.is_empty(), "something listens: {sockets:?}");

    // Files of the replay come and go; so count those that do not.
    let lasting = || {
        let open = descriptors(pid);
        let replay = out.display().to_string();
        open.into_iter()
            .filter(|target| !target.starts_with(&replay))
            .count()
    };
    let before = (lasting(), threads(pid));
    let mut all = children;
    for nth in [0, 1, 2, 0, 1, 2, 1, 1] {
        let victim = running.wait_for_children(3)[nth];
        send(victim, SIGKILL);
        wait_until("it is replaced", || {
            let now = running.children();
            now.len() == 3 && !now.contains(&victim)
        });
        all.extend(running.children());
    }
    // Watchers of the dead have seen their end.
    wait_until("as many descriptors and threads as before", || {
        (lasting(), threads(pid)) == before
    });
    assert!(
        running
            .children()
            .iter()
            .all(|&child| state_of(child) != Some('Z'))
    );
    send(pid, nix::sys::signal::Signal::SIGTERM);
    let ended = running.finish();
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    assert!(
        ended.report()["restarts"].as_u64() >= Some(8),
        "{}",
        ended.stdout
    );
    assert!(segments_of(pid).is_empty() && !all.iter().any(|&child| is_alive(child)));
}

/// Processes that are to end by themselves; killed if the test fails, since nobody else would.
struct Orphans(Vec<u32>);

impl Orphans {
    fn are_gone(&self) -> bool {
        !self.0.iter().any(|&child| is_alive(child))
    }
}

impl Drop for Orphans {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.iter().for_each(|&child| send(child, SIGKILL));
        }
    }
}

#[test]
fn stopped_children_do_not_outlive_their_coordinator() {
    // Orphans come to this process, of their own session: so the kernel takes none of them for a
    // forgotten job, to be continued.
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let place = Place::new();
    let flags = FLAGS.replace("300", "1000000");
    for at_rest in [false, true] {
        let out = place.out(&format!("replay-{at_rest}"));
        let running = place.start(&out, &format!("{flags} --workers 2"), "");
        let children = Orphans(running.wait_for_children(3));
        wait_until("a first round", || out.join("rounds-000000.part").exists());
        for &child in &children.0 {
            send(child, SIGSTOP);
        }
        // Or else some of their threads have not come to a stop yet.
        if at_rest {
            wait_until("all are stopped", || {
                children.0.iter().all(|&child| is_stopped(child))
            });
        }
        let pid = running.pid();
        send(pid, SIGKILL);
        // Before `finish`, which reads until nobody holds the pipe: a child that stays stopped
        // would keep it waiting.
        wait_until("the children are gone", || children.are_gone());
        running.finish();
        assert!(segments_of(pid).is_empty(), "nobody removed the segment");
    }
}

/// Has every thread of a process come to a stop?
fn is_stopped(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads
        .map(|thread| thread.unwrap().path().join("stat"))
        // One that has just ended is not stopped either.
        .all(|stat| fs::read_to_string(stat).is_ok_and(|stat| stat.contains(") T ")))
}

#[test]
fn children_with_hours_of_work_before_them_end_with_their_coordinator() {
    let place = Place::new();
    // Idle children look around for the coordinator. These have a million simulations in every
    // decision: they are to be told.
    let flags = "--players 8 --cards 6 --worlds 10 --simulations 100000 --in-flight 2 \
        --workers 2 --backend cpu";
    let running = place.start(&place.out("replay"), flags, "");
    let children = Orphans(running.wait_for_children(3));
    wait_until("all are at work", || {
        children.0.iter().all(|&child| ticks_of(child) > 30)
    });
    let pid = running.pid();
    send(pid, SIGKILL);
    wait_until("the children are gone", || children.are_gone());
    running.finish();
    assert!(segments_of(pid).is_empty(), "nobody removed the segment");
}

#[test]
fn doctor_removes_what_a_death_of_everything_left_and_no_more() {
    let place = Place::new();
    let flags = FLAGS.replace("300", "1000000");
    let living = place.start(&place.out("living"), &format!("{flags} --workers 1"), "");
    wait_until("a segment", || !segments_of(living.pid()).is_empty());
    // Another run that starts at this moment, anywhere, may sweep first.
    let cleaned = (0..5).any(|attempt| {
        let out = place.out(&format!("dead{attempt}"));
        let dying = place.start(&out, &format!("{flags} --workers 2"), "");
        let pid = dying.pid();
        let children = dying.wait_for_children(3);
        // None may be left to remove the segment, nor be started in the place of one that was
        // killed.
        send(pid, SIGSTOP);
        for child in children {
            send(child, SIGKILL);
        }
        dying.kill_all();
        let left = segments_of(pid);
        let output = ringmaster()
            .args(["doctor", "--clean", "--json"])
            .output()
            .unwrap();
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(segments_of(pid).is_empty(), "not removed: {left:?}");
        let cleaned = told["cleaned"].as_array().unwrap();
        left.iter()
            .any(|name| cleaned.contains(&format!("/{name}").into()))
    });
    assert!(cleaned, "doctor removed nothing");
    assert_eq!(
        segments_of(living.pid()).len(),
        1,
        "a living run's segment is gone"
    );
}

#[test]
fn a_folder_of_other_weights_or_another_version_is_refused() {
    let place = Place::new();
    let out = place.out("replay");
    let flags = "--rounds 5 --workers 0 --simulations 2 --backend cpu";
    place.play(&out, flags);
    let refused = |what: &str, command: &mut Command| {
        let before: Vec<_> = fs::read_dir(&out)
            .unwrap()
            .flatten()
            .map(|entry| fs::read(entry.path()).unwrap())
            .collect();
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(only_line(&stderr).contains(what), "{stderr}");
        let after: Vec<_> = fs::read_dir(&out)
            .unwrap()
            .flatten()
            .map(|entry| fs::read(entry.path()).unwrap())
            .collect();
        assert!(before == after, "the folder was changed");
    };
    let resume = |weights: &Path| {
        let mut command = ringmaster();
        command.args("selfplay --resume --rounds 9 --backend cpu --weights".split(' '));
        command.arg(weights).arg("--out").arg(&out);
        command
    };
    let other = place.out("other.safetensors");
    let mut command = ringmaster();
    command.args("weights init --width 16 --depth 1 --ffn 16 --seed 2 --out".split(' '));
    assert!(command.arg(&other).output().unwrap().status.success());
    refused("its rounds end with other weights", &mut resume(&other));

    let manifest = out.join("manifest.json");
    let sound = fs::read_to_string(&manifest).unwrap();
    let program = format!("\"program\": \"{}\"", env!("CARGO_PKG_VERSION"));
    for (old, new, says) in [
        (
            program.as_str(),
            "\"program\": \"0.0.0\"",
            "another program: the replay has \"0.0.0\"",
        ),
        (
            "\"version\": ",
            "\"version\": 9",
            "use the version that wrote it",
        ),
    ] {
        assert!(sound.contains(old), "{sound}");
        let changed = sound.replacen(old, new, 1);
        let (body, _) = changed.split_once(",\n  \"check\"").unwrap();
        let check = crc32fast::hash(body.as_bytes());
        fs::write(
            &manifest,
            format!("{body},\n  \"check\": \"{check:08x}\"\n}}\n"),
        )
        .unwrap();
        refused(says, &mut resume(&place.weights()));
    }
    fs::write(&manifest, sound).unwrap();
    let output = resume(&place.weights()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
