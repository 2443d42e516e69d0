//! A child process as the coordinator sees it: started, watched for death (by a thread that waits
//! for it, so that it is noticed at once) and for signs of life, killed, reaped, started again.

use super::active_clock::ActiveClock;
use super::error::RunError;
use super::{job_control, reexec};
use crate::killpoint;
use crate::shm::Doorbell;
use nix::sys::signal::Signal;
use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longest time a child may take to get ready (a large network takes seconds to load).
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// A process that dies sooner than this after its start died early; early deaths in a row by its
/// own fault are a crash loop.
const EARLY: Duration = Duration::from_secs(1);
/// A quarter of the delay before the restart after two early deaths in a row; doubled with every
/// further one, up to 64 of these.
const BACKOFF_UNIT: Duration = Duration::from_millis(15);

/// One child process and what is known of it.
pub struct ChildProcess {
    /// What to call it.
    pub name: String,
    arguments: Vec<String>,
    process: Option<Child>,
    /// The last heartbeat, and when it was seen first, in active time; not seen yet.
    heartbeat: (u64, Option<Duration>),
    /// Was it ever seen ready?
    was_ready: bool,
    /// Has the coordinator killed it, for what it did or did not do?
    was_killed: bool,
    deaths: Arc<AtomicU64>,
    /// When it was started last; never yet.
    started: Option<Instant>,
    /// Deaths in a row soon after the start, by the process's own fault.
    early_deaths: u32,
    /// Not to be restarted before.
    backoff_until: Instant,
    /// Deaths in a row, and what the run had come to at the last of them.
    deaths_in_a_row: (usize, u64),
}

impl ChildProcess {
    /// One that is not started yet. `deaths` is counted up when it dies.
    pub fn new(name: String, arguments: Vec<String>, deaths: Arc<AtomicU64>) -> ChildProcess {
        ChildProcess {
            name,
            arguments,
            process: None,
            heartbeat: (0, None),
            was_ready: false,
            was_killed: false,
            deaths,
            started: None,
            early_deaths: 0,
            backoff_until: Instant::now(),
            deaths_in_a_row: (0, 0),
        }
    }

    /// Starts the process on segment `segment`; `bell` wakes its waiter when it dies. Must be
    /// called from a thread that lives as long as the coordinator: the kernel ends children
    /// with the thread that made them.
    ///
    /// # Errors
    /// When the system cannot start it.
    pub fn start(&mut self, segment: &str, bell: &Doorbell) -> Result<(), RunError> {
        let mut command = reexec::command();
        if self.started.is_some() {
            // A test that stopped the process at some point has had what it wanted.
            command.env_remove(killpoint::VARIABLE);
        }
        command
            .args(&self.arguments)
            .args(["--segment", segment])
            .args(["--parent", &std::process::id().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // A group of its own: the terminal's Ctrl-C is for the coordinator to act on.
            .process_group(0);
        let spawned = job_control::spawn(&mut command, Signal::SIGSTOP).and_then(|process| {
            let process = self.process.insert(process);
            watch(&self.name, process.id(), self.deaths.clone(), bell.clone())
        });
        spawned.map_err(RunError::cannot(&format!("start {}", self.name)))?;
        self.started = Some(Instant::now());
        self.heartbeat = (0, None);
        (self.was_ready, self.was_killed) = (false, false);
        Ok(())
    }

    /// Is there a process (alive, or dead and not reaped)?
    pub fn is_there(&self) -> bool {
        self.process.is_some()
    }

    /// Reaps the process if it is dead; how it ended.
    pub fn reap(&mut self) -> Option<ExitStatus> {
        let status = job_control::try_wait(self.process.as_mut()?)
            .ok()
            .flatten()?;
        self.process = None;
        // A kill from outside says nothing of the process: there is no reason to wait for the next
        // start.
        let early =
            self.started.is_some_and(|at| at.elapsed() < EARLY) && self.is_own_fault(status);
        self.early_deaths = if early { self.early_deaths + 1 } else { 0 };
        let backoff = match self.early_deaths {
            0 | 1 => Duration::ZERO,
            more => BACKOFF_UNIT * (1 << more.min(6)),
        };
        self.backoff_until = Instant::now() + backoff;
        Some(status)
    }

    /// Is it in no crash loop? Not after two early deaths in a row, until it has lived for longer.
    pub fn is_reliable(&self) -> bool {
        let lives = |at: Instant| self.is_there() && at.elapsed() >= EARLY;
        self.early_deaths < 2 || self.started.is_some_and(lives)
    }

    /// May a process that is gone be restarted? Not at once if it keeps dying: it would only take
    /// processor time from the others.
    pub fn may_restart(&self) -> bool {
        Instant::now() >= self.backoff_until
    }

    /// Kills the process for its own fault; it is then to be reaped.
    pub fn kill(&mut self) {
        self.was_killed = true;
        if let Some(process) = &mut self.process {
            // It may be dead already.
            let _ = process.kill();
        }
    }

    /// Waits for the process to end by itself until `clock` shows `deadline`, then kills it.
    pub fn end(&mut self, clock: &mut ActiveClock, deadline: Duration) {
        while self.process.is_some() && self.reap().is_none() {
            if clock.look() > deadline {
                self.kill();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Did the present process ever get ready?
    pub fn was_ready(&self) -> bool {
        self.was_ready
    }

    /// Takes in, at `now` in active time, whether the process is ready and the count of its
    /// heartbeats. True if that has not changed for too long, unless the
    /// process is killed already and only waits to be reaped.
    pub fn is_hung(
        &mut self,
        ready: bool,
        heartbeat: u64,
        now: Duration,
        timeout: Duration,
    ) -> bool {
        let since = match self.heartbeat {
            (last, Some(since)) if heartbeat == last && ready == self.was_ready => since,
            _ => now,
        };
        self.heartbeat = (heartbeat, Some(since));
        self.was_ready = ready;
        let timeout = if ready { timeout } else { READY_TIMEOUT };
        self.is_there() && !self.was_killed && now.saturating_sub(since) > timeout
    }

    /// Counts a death; how many there have been in a row, without the run getting on in between.
    /// `reached` is what the run has come to.
    pub fn count_death(&mut self, reached: u64) -> usize {
        let (deaths, before) = self.deaths_in_a_row;
        let in_a_row = if before == reached { deaths + 1 } else { 1 };
        self.deaths_in_a_row = (in_a_row, reached);
        in_a_row
    }

    /// Did it end by its own fault? A kill from outside is none.
    pub fn is_own_fault(&self, status: ExitStatus) -> bool {
        let killed = status.signal() == Some(Signal::SIGKILL as i32);
        !status.success() && (!killed || self.was_killed)
    }
}

/// A thread that sleeps until a child is dead, counts that, rings, and ends. It waits as any kernel
/// and container lets it (pidfds are refused in some), and leaves the dead to be reaped.
fn watch(name: &str, pid: u32, deaths: Arc<AtomicU64>, bell: Doorbell) -> std::io::Result<()> {
    let Some(pid) = Pid::from_raw(pid as i32) else {
        return Ok(());
    };
    let watcher = std::thread::Builder::new().name(format!("watch {name}"));
    watcher.spawn(move || {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        // Any other error: no longer known, since it is reaped already.
        while matches!(waitid(WaitId::Pid(pid), options), Err(Errno::INTR)) {}
        deaths.fetch_add(1, Ordering::Release);
        // Not `ring`: the dead process may have set AWAKE and not woken the sleeper.
        bell.wake();
    })?;
    Ok(())
}

/// How a process ended, in words.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => match Signal::try_from(signal) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {signal}"),
        },
        (None, None) => "for no known reason".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hung_process_is_hung_once() {
        let name = "evaluator".to_owned();
        let mut child = ChildProcess::new(name, Vec::new(), Arc::default());
        let sleeping = std::process::Command::new("sleep").arg("60").spawn();
        child.process = Some(sleeping.unwrap());
        let second = Duration::from_secs(1);
        let mut is_hung = |at: u32| child.is_hung(true, 7, at * second, second);
        assert_eq!([0, 1, 2, 3].map(&mut is_hung), [false, false, true, true]);
        child.kill();
        assert!(!child.is_hung(true, 7, 4 * second, second));
        while child.reap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
