//! What a machine does to a run besides signals: the program's file is replaced while it runs, many
//! of its processes die at once, the container refuses system calls, the settings are of another
//! machine, a batch takes longer than a process may be silent.
#![allow(clippy::unwrap_used, unsafe_code)]

#[path = "support/run.rs"]
mod run;

use nix::sys::signal::Signal::SIGKILL;
use run::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// For some seconds.
const ROUNDS: &str = "--rounds 6000 --cards 4 --worlds 2 --simulations 12 --seed 3 --backend cpu";
/// Rounds that nobody finishes.
const ENDLESS: &str = "--rounds 1000 --players 3 --cards 17 --simulations 100000 --backend cpu";

/// `command` with another program.
fn with_program(command: &Command, program: &Path) -> Command {
    let mut other = Command::new(program);
    other.args(command.get_args());
    other.stdout(Stdio::piped()).stderr(Stdio::piped());
    other
}

/// A copy of the program, to be replaced.
fn copy_of_program(place: &Place) -> PathBuf {
    let copy = place.out("ringmaster");
    fs::copy(ringmaster().get_program(), &copy).unwrap();
    copy
}

/// Puts something else where the program was, as a build or an upgrade does.
fn replace(program: &Path) {
    let other = program.with_extension("new");
    fs::write(&other, "#!/bin/sh\nexit 127\n").unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(other, program).unwrap();
}

#[test]
fn a_run_whose_program_is_replaced_or_removed_goes_on() {
    let place = Place::new();
    let digest = place.play(&place.out("whole"), ROUNDS)["digest"].clone();
    for (name, change) in [
        ("replaced", replace as fn(&Path)),
        ("removed", |program| fs::remove_file(program).unwrap()),
    ] {
        let (out, program) = (place.out(name), copy_of_program(&place));
        let selfplay = place.selfplay(&out, &format!("{ROUNDS} --workers 2"));
        let running = Running(with_program(&selfplay, &program).spawn().unwrap());
        wait_for_rounds(&out, 100);
        let first = running.wait_for_children(3);
        change(&program);
        // The evaluator, a worker, and a child of the image that has no file any more.
        for nth in [0, 1, 2] {
            let victim = running.wait_for_children(3)[nth];
            send(victim, SIGKILL);
            wait_until("it is replaced", || {
                let now = running.children();
                now.len() == 3 && !now.contains(&victim)
            });
        }
        let command_line = |pid: u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        let newest = running.wait_for_children(3)[2];
        // While it is being started it has none.
        wait_until("it has a command line", || !command_line(newest).is_empty());
        let called = command_line(newest);
        assert!(called.starts_with(program.to_str().unwrap()), "{called}");
        let ended = running.finish();
        assert_eq!(ended.code, Some(0), "{name}: {}", ended.stderr);
        assert_eq!(ended.report()["digest"], digest);
        nothing_is_left(&out, &first, &digest, name);
    }
}

#[test]
fn a_sweep_goes_on_with_the_program_it_began_with() {
    let place = Place::new();
    let (spec, program) = (place.out("spec.toml"), copy_of_program(&place));
    let weights = place.weights();
    let text = format!(
        "[grid]\nworkers = [1, 0, 2]\n[trial]\nrounds = 40\n[base]\nsimulations = 8\n\
        backend = \"cpu\"\nweights = \"{}\"\n",
        weights.display()
    );
    fs::write(&spec, text).unwrap();
    let mut command = Command::new(&program);
    command.arg("sweep").arg(&spec).arg("--json");
    command.arg("--out").arg(place.out("sweep"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let running = Running(command.spawn().unwrap());
    running.wait_for_children(1);
    replace(&program);
    let ended = running.finish();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.report()["failed"], 0, "{}", ended.stderr);
}

/// As an OOM killer or a container's end may have it: more deaths than any one process is allowed
/// in a row.
#[test]
fn a_burst_of_deaths_is_one_event() {
    let place = Place::new();
    let play = "--rounds 400 --cards 5 --worlds 2 --simulations 60 --seed 4 --backend cpu";
    let digest = place.play(&place.out("whole"), play)["digest"].clone();
    let (out, config) = (place.out("replay"), place.config("max_restarts = 1\n"));
    let engine = format!("{config} --workers 12 --in-flight 30");
    let running = place.start(&out, &format!("{play} {engine}"), "");
    let first = running.wait_for_children(13);
    // All of them ready, and no decision finished, which would make each death another's beginning.
    wait_until("they play", || first.iter().all(|&pid| ticks_of(pid) >= 1));
    first.iter().for_each(|&pid| send(pid, SIGKILL));
    let ended = running.finish();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let report = ended.report();
    assert_eq!(
        (&report["digest"], &report["restarts"]),
        (&digest, &13.into())
    );
    assert!(ended.stderr.contains("ended: killed by SIGKILL; restarted"));
    let told = ended.stderr.matches("; restarted").count();
    assert!(told < 13, "one line for many: {}", ended.stderr);
    nothing_is_left(&out, &first, &digest, "burst");
}

#[test]
fn one_that_dies_again_and_again_ends_the_run() {
    let place = Place::new();
    let (out, config) = (place.out("replay"), place.config("max_restarts = 2\n"));
    let running = place.start(&out, &format!("{ENDLESS} {config} --workers 2"), "");
    // Everybody was ready once: before that a death by a process's own fault is the end.
    let plays = |pid: &u32| ticks_of(*pid) >= 1;
    wait_until("they play", || {
        running.wait_for_children(3).iter().all(plays)
    });
    for _ in 0..3 {
        // In the order of their starts, so it is always the same worker.
        let victim = running.wait_for_children(3)[2];
        send(victim, SIGKILL);
        wait_until("it is reaped", || !running.children().contains(&victim));
    }
    let ended = running.finish();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let told =
        "worker 1 ended: killed by SIGKILL; 2 restarts in a row brought no finished decision";
    assert!(ended.stderr.contains(told), "{}", ended.stderr);
}

/// A filter that refuses pidfd_open, as old container profiles do.
fn refuse_pidfds(command: &mut Command) {
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let filter = [
        // The number of the system call.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            libc::SYS_pidfd_open as u32,
        ),
        step(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
        ),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_ptr().cast_mut(),
        };
        // SAFETY: two system calls that read `program` and `filter`, both alive, and change this
        // process alone.
        let installed = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) == 0
        };
        match installed {
            true => Ok(()),
            false => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec `install` makes system calls and nothing else; it does not
    // allocate.
    unsafe { command.pre_exec(install) };
}

#[test]
fn deaths_are_noticed_where_pidfds_are_refused() {
    let place = Place::new();
    let digest = place.play(&place.out("whole"), ROUNDS)["digest"].clone();
    let out = place.out("replay");
    let mut command = place.selfplay(&out, &format!("{ROUNDS} --workers 2"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    refuse_pidfds(&mut command);
    let running = Running(command.spawn().unwrap());
    wait_for_rounds(&out, 100);
    let children = running.wait_for_children(3);
    send(children[1], SIGKILL);
    let ended = running.finish();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let report = ended.report();
    assert_eq!(
        (&report["digest"], &report["restarts"]),
        (&digest, &1.into())
    );
    nothing_is_left(&out, &children, &digest, "without pidfds");
}

/// Whoever ignores SIGCHLD has that ignored by what it starts, and then the kernel tells nobody how
/// a child ended.
#[test]
fn deaths_are_noticed_under_a_parent_that_ignores_its_children() {
    let place = Place::new();
    let digest = place.play(&place.out("whole"), ROUNDS)["digest"].clone();
    let out = place.out("replay");
    let mut command = place.selfplay(&out, &format!("{ROUNDS} --workers 2"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let ignore = || {
        // SAFETY: sets what this process does about one signal, to what is always allowed.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        Ok(())
    };
    // SAFETY: between fork and exec `ignore` makes one system call and nothing else.
    unsafe { command.pre_exec(ignore) };
    let running = Running(command.spawn().unwrap());
    wait_for_rounds(&out, 100);
    send(running.wait_for_children(3)[1], SIGKILL);
    let ended = running.finish();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.report()["digest"], digest);
}

#[test]
fn settings_of_a_far_larger_machine_are_told_and_bounded() {
    let place = Place::new();
    let play = "--rounds 20 --worlds 1 --simulations 4 --backend cpu";
    let report = place.play(&place.out("whole"), play);
    let running = place.start(&place.out("replay"), &format!("{play} --threads 1000"), "");
    let ended = running.finish();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.report()["digest"], report["digest"]);
    let cores = std::thread::available_parallelism().unwrap().get();
    if cores <= 250 {
        assert!(
            ended.stderr.contains("threads is 1000 on "),
            "{}",
            ended.stderr
        );
        let device = ended.report()["device"].to_string();
        assert!(
            device.contains(&format!("{} threads", 4 * cores)),
            "{device}"
        );
    }
    assert!(
        !place
            .start(&place.out("usual"), play, "")
            .finish()
            .stderr
            .contains(" on ")
    );
}

/// A network so large that a batch takes seconds on one thread.
#[test]
fn a_batch_longer_than_the_patience_with_hung_processes_is_no_hang() {
    let place = Place::with_network("--width 768 --depth 4 --ffn 3072");
    let config = place.config("hang_timeout_s = 2\n");
    let large = "--worlds 8 --in-flight 512 --workers 2 --max-batch 8192 --threads 1 \
        --backend cpu --seconds 12";
    let report = place.play(&place.out("large"), &format!("{config} {large}"));
    assert_eq!(report["restarts"], 0, "{report}");
    // Unless it is told to, a run takes no such batches: by the network's size, on whatever
    // machine.
    let usual = "--rounds 1 --worlds 1 --simulations 2 --threads 1 --workers 1 --backend cpu";
    let report = place.play(&place.out("usual"), usual);
    let chosen = report["max_batch"].as_u64().unwrap();
    assert!((16..512).contains(&chosen), "{chosen}");
    // Small ones as they were.
    let report = Place::new().play(&place.out("small"), usual);
    assert!(report["max_batch"].as_u64() > Some(16), "{report}");
}
