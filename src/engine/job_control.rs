//! Job control: Ctrl-Z stops this process and all that it started, `fg` or `bg` has all of them go
//! on. The terminal tells this process alone, since its children are in groups of their own.

use crate::shm::liveness;
use nix::sys::signal::{Signal, kill, raise};
use nix::unistd::Pid;
use signal_hook::consts::{SIGCHLD, SIGCONT, SIGTSTP};
use signal_hook::{flag, low_level::pipe};
use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const GO_ON: usize = 0;
const STOP: usize = 1;

/// A child, and what stops it: SIGSTOP, or SIGTSTP if it has children of its own to stop.
struct Stoppable {
    pid: Pid,
    stop: Signal,
}

/// All children that run; static, since signals are the whole process's. While the lock is held no
/// number in it is given to another process: only its holder reaps.
static CHILDREN: Mutex<Vec<Stoppable>> = Mutex::new(Vec::new());

fn children() -> MutexGuard<'static, Vec<Stoppable>> {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a child that stops, by the signal `stop`, and goes on with this process. It is to be
/// reaped by `try_wait`.
///
/// # Errors
/// When the system cannot start it.
pub fn spawn(command: &mut Command, stop: Signal) -> io::Result<Child> {
    let mut children = children();
    let child = command.spawn()?;
    let pid = Pid::from_raw(child.id() as i32);
    children.push(Stoppable { pid, stop });
    Ok(child)
}

/// Reaps a child of `spawn` if it is dead; how it ended.
///
/// # Errors
/// When the system does not know it.
pub fn try_wait(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let mut children = children();
    let status = child.try_wait()?;
    if status.is_some() {
        let pid = Pid::from_raw(child.id() as i32);
        children.retain(|running| running.pid != pid);
    }
    Ok(status)
}

/// Sees to it that children can be reaped, and obeys the terminal's stop from now on, unless this
/// process was started to ignore it.
///
/// # Errors
/// When the system lets nobody listen.
pub fn listen() -> io::Result<()> {
    // Started by somebody who ignores it, and so ignoring it, this process would never learn how
    // its children ended.
    flag::register(SIGCHLD, Arc::default())?;
    if liveness::is_ignored(SIGTSTP) {
        return Ok(());
    }
    // Whichever came last.
    let wanted = Arc::new(AtomicUsize::new(GO_ON));
    flag::register_usize(SIGTSTP, wanted.clone(), STOP)?;
    flag::register_usize(SIGCONT, wanted.clone(), GO_ON)?;
    let (mut stops, writer) = io::pipe()?;
    pipe::register(SIGTSTP, writer)?;
    let obey = move || {
        while stops.read_exact(&mut [0]).is_ok() {
            stop_all(&wanted);
        }
    };
    let thread = std::thread::Builder::new().name("job control".into());
    thread.spawn(obey)?;
    Ok(())
}

/// Stops the children, then this process; returns when it goes on, and they with it.
fn stop_all(wanted: &AtomicUsize) {
    let children = children();
    // To one that is dead and not reaped a signal does nothing.
    for child in children.iter() {
        let _ = kill(child.pid, child.stop);
    }
    if wanted.load(Ordering::SeqCst) == STOP {
        // By this very thread, which so does not get to the next line before it goes on.
        let _ = raise(Signal::SIGSTOP);
    }
    for child in children.iter() {
        let _ = kill(child.pid, Signal::SIGCONT);
    }
}
