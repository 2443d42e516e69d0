//! Who is alive, and ending together: a child that is told when its parent ends, a process told
//! from a later one of the same number by its start time, and the few other things a process asks
//! of the system about itself (its core, its processor time).

use std::fs;
use std::os::linux::fs::MetadataExt;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, getppid};

use super::error::ShmError;

/// Asks the kernel to send `signal` to this process when its parent ends, and checks that the
/// parent is still `expected_parent`. Call it first thing in a child.
///
/// The kernel means the parent's *thread*: it sends the signal when the thread that spawned the
/// child ends, and again with each other thread that was the parent in its stead. Children are to
/// be spawned from a thread that lives as long as the coordinator. Of the signals that can be
/// caught only `SIGCONT` reaches a stopped process. Fails if the parent is gone already; the caller
/// should exit.
pub fn signal_on_parent_end(expected_parent: u32, signal: Signal) -> Result<(), ShmError> {
    set_pdeathsig(signal)
        .map_err(|error| ShmError::system("ask to be told of the parent's death", error))?;
    // Only now look: a parent that died before the request left a child that would never be told.
    if is_child_of(expected_parent) {
        Ok(())
    } else {
        Err(ShmError::system(
            format!("stay without the parent: process {expected_parent} has ended"),
            Errno::ESRCH,
        ))
    }
}

/// True if the parent of this process is `expected_parent`; an orphan has another one.
pub fn is_child_of(expected_parent: u32) -> bool {
    u32::try_from(getppid().as_raw()) == Ok(expected_parent)
}

/// State letter and start time of a process, clock ticks since boot, from /proc/PID/stat.
fn stat_of(pid: u32) -> Option<(u8, u64)> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, and may itself hold spaces and
    // parentheses: skip to the last one.
    let after_name = &stat[stat.iter().rposition(|&byte| byte == b')')? + 1..];
    let mut fields = std::str::from_utf8(after_name)
        .ok()?
        .split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    // Fields 4 to 21 lie between the state (3) and the start time (22).
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// When a process started, in clock ticks since boot; `None` if there is no such process.
pub fn process_start_time(pid: u32) -> Option<u64> {
    stat_of(pid).map(|(_, start)| start)
}

/// True if the process `pid` that started at `start_time` (see [`process_start_time`]) still runs.
/// One that has ended and only waits to be reaped counts as dead.
pub fn process_alive(pid: u32, start_time: u64) -> bool {
    stat_of(pid).is_some_and(|(state, start)| start == start_time && !matches!(state, b'Z' | b'X'))
}

/// Was this process told to ignore `signal` (as `nohup` has it with SIGHUP), so that whoever
/// catches it would not do as told?
pub fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Identifies the space of process numbers this process lives in (containers have their own); 0 if
/// unknown.
pub(crate) fn pid_namespace() -> u64 {
    fs::metadata("/proc/self/ns/pid").map_or(0, |data| data.st_ino())
}

/// Keeps the calling thread, and the threads it starts from now on, on one core (counted from 0 as
/// the system does).
pub fn pin_to_core(core: usize) -> Result<(), ShmError> {
    let mut cores = CpuSet::new();
    cores
        .set(core)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &cores))
        .map_err(|error| {
            ShmError::system(
                format!(
                    "stay on core {core}; choose one this process may use (see nproc, taskset)"
                ),
                error,
            )
        })
}

/// Processor time this process has used so far, all threads together, in seconds.
pub fn process_cpu_seconds() -> Result<f64, ShmError> {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)
        .map_err(|error| ShmError::system("read the process's clock", error))?;
    Ok(time.tv_sec() as f64 + time.tv_nsec() as f64 * 1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{self, Command};
    use std::thread;
    use std::time::{Duration, Instant};

    #[test]
    fn this_process_is_alive_and_a_later_one_is_another() {
        let start = process_start_time(process::id()).unwrap();
        assert!(start > 0);
        assert!(process_alive(process::id(), start));
        assert!(!process_alive(process::id(), start + 1));
        assert_ne!(pid_namespace(), 0);
    }

    #[test]
    fn an_unreaped_child_is_dead() {
        let mut child = Command::new("true").spawn().unwrap();
        let start = process_start_time(child.id()).unwrap();
        let limit = Instant::now() + Duration::from_secs(10);
        while process_alive(child.id(), start) {
            assert!(Instant::now() < limit);
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(process_start_time(child.id()), Some(start));
        child.wait().unwrap();
        assert_eq!(process_start_time(child.id()), None);
    }

    #[test]
    fn parents_are_recognised() {
        let parent = u32::try_from(getppid().as_raw()).unwrap();
        assert!(is_child_of(parent));
        assert!(!is_child_of(parent + 1));
        let error = signal_on_parent_end(parent + 1, Signal::SIGKILL)
            .unwrap_err()
            .to_string();
        assert!(error.contains("has ended"), "{error}");
        signal_on_parent_end(parent, Signal::SIGKILL).unwrap();
        set_pdeathsig(None).unwrap();
    }

    #[test]
    fn an_ignored_signal_is_known() {
        // Every Rust program ignores it.
        assert!(is_ignored(Signal::SIGPIPE as i32));
        assert!(!is_ignored(Signal::SIGUSR2 as i32));
    }

    #[test]
    fn pinning_and_processor_time() {
        thread::spawn(|| {
            pin_to_core(0).unwrap();
            assert!(
                pin_to_core(100_000)
                    .unwrap_err()
                    .to_string()
                    .contains("core 100000")
            );
        })
        .join()
        .unwrap();
        let before = process_cpu_seconds().unwrap();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        let used = process_cpu_seconds().unwrap() - before;
        assert!(used > 0.0 && used < 60.0, "{used}");
    }
}
