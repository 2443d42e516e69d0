//! A child process as the coordinator sees it: started, watched for death (by pidfd, so that it is
//! noticed at once) and for signs of life, killed, reaped, started again.

use super::run::RunError;
use crate::killpoint;
use crate::shm::Doorbell;
use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longest time a child may take to get ready (a large network takes seconds to load).
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// A process that dies sooner than this after its start died early.
const EARLY: Duration = Duration::from_secs(1);
/// Rest before the start after two early deaths in a row: four of these; doubled with every further one, up to 64.
const FIRST_REST: Duration = Duration::from_millis(15);

/// One child process and what is known of it.
pub struct Member {
    /// What to call it.
    pub name: String,
    arguments: Vec<String>,
    process: Option<Child>,
    /// The last sign of life, and when it was seen first.
    beat: (u64, Instant),
    /// Was it ever seen ready?
    was_ready: bool,
    /// Was it last seen hung?
    was_hung: bool,
    deaths: Arc<AtomicU64>,
    /// When it was started last; never yet.
    started: Option<Instant>,
    /// Deaths in a row soon after the start.
    early_deaths: u32,
    /// Not to be started again before.
    rests_until: Instant,
}

impl Member {
    /// A member that is not started yet. `deaths` is counted up when it dies.
    pub fn new(name: String, arguments: Vec<String>, deaths: Arc<AtomicU64>) -> Member {
        Member {
            name,
            arguments,
            process: None,
            beat: (0, Instant::now()),
            was_ready: false,
            was_hung: false,
            deaths,
            started: None,
            early_deaths: 0,
            rests_until: Instant::now(),
        }
    }

    /// Starts the process on segment `segment`; `bell` wakes its waiter when it dies. Must be called from a thread
    /// that lives as long as the coordinator: the kernel ends children with the thread that made them.
    ///
    /// # Errors
    /// When the system cannot start it.
    pub fn start(&mut self, segment: &str, bell: &Doorbell) -> Result<(), RunError> {
        let spawned = std::env::current_exe().and_then(|program| {
            let mut command = Command::new(program);
            if self.started.is_some() {
                // A test that stopped the process at some point has had what it wanted.
                command.env_remove(killpoint::VARIABLE);
            }
            let process = command
                .args(&self.arguments)
                .args(["--segment", segment])
                .args(["--parent", &std::process::id().to_string()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                // A group of its own: the terminal's Ctrl-C is for the coordinator to act on.
                .process_group(0)
                .spawn()?;
            self.watch(&process, bell)?;
            Ok(process)
        });
        let process = spawned.map_err(|source| RunError::Spawn {
            what: self.name.clone(),
            source,
        })?;
        self.process = Some(process);
        self.started = Some(Instant::now());
        self.beat = (0, Instant::now());
        (self.was_ready, self.was_hung) = (false, false);
        Ok(())
    }

    /// A thread that sleeps until the process is dead, tells, and ends.
    fn watch(&self, process: &Child, bell: &Doorbell) -> std::io::Result<()> {
        let Some(pid) = Pid::from_raw(process.id() as i32) else {
            return Ok(());
        };
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let (bell, deaths) = (bell.clone(), self.deaths.clone());
        let watcher = std::thread::Builder::new().name(format!("watch {}", self.name));
        watcher.spawn(move || {
            // Interrupted by a signal: look again.
            while poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).is_err() {}
            deaths.fetch_add(1, Ordering::Release);
            // Not `ring`: the dead may have taken the sleeper's announcement and not woken it.
            bell.wake();
        })?;
        Ok(())
    }

    /// Is there a process (alive, or dead and not reaped)?
    pub fn is_there(&self) -> bool {
        self.process.is_some()
    }

    /// Reaps the process if it is dead; how it ended.
    pub fn reap(&mut self) -> Option<ExitStatus> {
        let status = self.process.as_mut()?.try_wait().ok().flatten()?;
        self.process = None;
        let early = self.started.is_some_and(|at| at.elapsed() < EARLY);
        self.early_deaths = if early { self.early_deaths + 1 } else { 0 };
        let rest = match self.early_deaths {
            0 | 1 => Duration::ZERO,
            more => FIRST_REST.saturating_mul(1 << more.min(6)),
        };
        self.rests_until = Instant::now() + rest;
        Some(status)
    }

    /// Can it be expected to finish what it is given? Not if it died early twice in a row, until it has lived for longer.
    pub fn is_trusted(&self) -> bool {
        let lives = |at: Instant| self.is_there() && at.elapsed() >= EARLY;
        self.early_deaths < 2 || self.started.is_some_and(lives)
    }

    /// May a process that is gone be started again? Not at once if it keeps dying: it would only keep the others from work.
    pub fn is_rested(&self) -> bool {
        Instant::now() >= self.rests_until
    }

    /// Kills the process; it is then to be reaped.
    pub fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            // It may be dead already.
            let _ = process.kill();
        }
    }

    /// Waits for the process to end by itself until `deadline`, then kills it.
    pub fn end(&mut self, deadline: Instant) {
        while self.process.is_some() && self.reap().is_none() {
            if Instant::now() > deadline {
                self.kill();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Did the present process ever get ready?
    pub fn was_ready(&self) -> bool {
        self.was_ready
    }

    /// Takes in whether the process is ready and how far its heart has beaten. True if it has given no
    /// sign of life for too long.
    pub fn is_hung(&mut self, ready: bool, beat: u64, timeout: Duration) -> bool {
        let now = Instant::now();
        if beat != self.beat.0 || ready != self.was_ready {
            self.beat = (beat, now);
            self.was_ready = ready;
        }
        let timeout = if ready { timeout } else { READY_TIMEOUT };
        self.was_hung = self.is_there() && now.duration_since(self.beat.1) > timeout;
        self.was_hung
    }

    /// Did it end by its own fault? A kill from outside is none, unless it hung.
    pub fn is_to_blame(&self, status: ExitStatus) -> bool {
        let killed = status.signal() == Some(Signal::SIGKILL as i32);
        !status.success() && (!killed || self.was_hung)
    }
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
