//! What worker and evaluator have in common: they attach to the coordinator's segment, start when
//! told to, end when told to, and end with the coordinator.

use super::layout::Layout;
use crate::disk::Refusal;
use crate::killpoint::{self, KillPoint};
use crate::network::{BackendError, WeightsError};
use crate::play::SelfplayError;
use crate::replay::ReplayError;
use crate::settings::Settings;
use crate::shm::{
    Corrupt, Doorbell, Gate, Handover, HandoverRegion, Parking, Party, Segment, ShmError, liveness,
    unlink_by_name,
};
use nix::sys::signal::Signal;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Longest sleep before a look at whether the coordinator still lives.
const LOOK_AROUND: Duration = Duration::from_millis(200);
/// Sleep between two looks at whether the run has started: nobody misses half a millisecond.
const START_NAP: Duration = Duration::from_micros(500);
/// Longest wait for the common start.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// What can end a child process.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// The segment.
    #[error(transparent)]
    Shm(#[from] ShmError),
    /// A ring.
    #[error(transparent)]
    Ring(#[from] Corrupt),
    /// The settings in the segment.
    #[error("the segment's settings do not parse: {0}")]
    Settings(#[from] serde_json::Error),
    /// Not in the layout.
    #[error("there is no worker {0}")]
    NoSuchWorker(usize),
    /// A job came with an entry that the journal does not have.
    #[error("a job was handed out with no entry of the journal")]
    NoSuchEntry,
    /// The coordinator never opened the gate.
    #[error("the coordinator did not start the run within {} s", START_TIMEOUT.as_secs())]
    NoStart,
    /// The coordinator died.
    #[error("the coordinator is gone")]
    Orphaned,
    /// Self-play.
    #[error(transparent)]
    Selfplay(#[from] SelfplayError),
    /// A record too large for its slot, or the like.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The network's device.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The network's weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The time stamps could not be written.
    #[error(transparent)]
    Trace(#[from] Refusal),
    /// Signals could not be caught.
    #[error("cannot catch signals: {0}")]
    Signals(std::io::Error),
}

/// An attached child.
pub struct Child {
    /// The shared segment.
    pub segment: Segment,
    /// The run's settings, resolved.
    pub settings: Settings,
    /// Where everything lies.
    pub layout: Layout,
    /// How it waits; the settings' way at first.
    pub parking: Parking,
    stop: Gate,
    start: Gate,
    /// Set by SIGTERM.
    terminated: Arc<AtomicBool>,
    /// Set by SIGCONT, which the kernel sends when the coordinator dies, and anybody may send.
    continued: Arc<AtomicBool>,
    parent: u32,
}

impl Child {
    /// Attaches to the segment of the coordinator, process `parent`.
    ///
    /// # Errors
    /// When the segment cannot be opened or is of another layout, or the parent is gone already.
    pub fn attach(name: &str, parent: u32) -> Result<Child, ChildError> {
        let terminated = Arc::new(AtomicBool::new(false));
        flag::register(SIGTERM, terminated.clone()).map_err(ChildError::Signals)?;
        // A Ctrl-C or a hang-up that reaches all processes of a job is the coordinator's to act on.
        // And a stopped orphan may be sent SIGHUP by the kernel, when it still has the
        // segment to remove.
        for signal in [SIGINT, SIGHUP] {
            flag::register(signal, Arc::default()).map_err(ChildError::Signals)?;
        }
        // Of the coordinator's death by SIGCONT: the one signal to catch that reaches a stopped
        // process.
        let continued = Arc::new(AtomicBool::new(false));
        flag::register(SIGCONT, continued.clone()).map_err(ChildError::Signals)?;
        liveness::signal_on_parent_end(parent, Signal::SIGCONT).inspect_err(|_| {
            if !liveness::is_child_of(parent) {
                // Nobody else may have got as far as this; or another child was first.
                let _ = unlink_by_name(name);
            }
        })?;
        let segment = Segment::open(name)?;
        let settings: Settings = serde_json::from_slice(&segment.config()?)?;
        let layout = Layout::new(&settings);
        segment.check(&layout.plan)?;
        Ok(Child {
            stop: segment.gate(layout.stop)?,
            start: segment.gate(layout.start)?,
            parking: settings.parking(),
            terminated,
            continued,
            parent,
            segment,
            settings,
            layout,
        })
    }

    /// Waits for the common start.
    ///
    /// # Errors
    /// When it does not come, or the coordinator dies before.
    pub fn wait_for_start(&self) -> Result<(), ChildError> {
        let mut waited = Duration::ZERO;
        while !self.start.is_open() {
            if self.is_stopped()? {
                return Ok(());
            }
            if waited > START_TIMEOUT {
                return Err(ChildError::NoStart);
            }
            // Naps are counted, not time: a process that was stopped has not waited.
            thread::sleep(START_NAP);
            waited += START_NAP;
        }
        Ok(())
    }

    /// Has the end been called?
    ///
    /// # Errors
    /// When the coordinator is dead; the segment's name is removed, since nobody else is left to do
    /// it.
    pub fn is_stopped(&self) -> Result<bool, ChildError> {
        if self.continued.load(Ordering::Relaxed) {
            self.check_parent()?;
        }
        Ok(self.is_told_to_end())
    }

    fn is_told_to_end(&self) -> bool {
        self.stop.is_open() || self.terminated.load(Ordering::Relaxed)
    }

    fn check_parent(&self) -> Result<(), ChildError> {
        // Before the look: the kernel tells once for each thread of the coordinator that was this
        // process's parent, and only with the last is it an orphan.
        self.continued.store(false, Ordering::SeqCst);
        if liveness::is_child_of(self.parent) {
            return Ok(());
        }
        // Another child may have been first.
        let _ = unlink_by_name(self.segment.name());
        Err(ChildError::Orphaned)
    }

    /// Sleeps on `bell` until `ready`, the end, or a moment has passed.
    ///
    /// # Errors
    /// When the coordinator is dead.
    pub fn sleep(
        &self,
        bell: &Doorbell,
        mut ready: impl FnMut() -> bool,
    ) -> Result<(), ChildError> {
        let awake = || ready() || self.is_told_to_end() || self.continued.load(Ordering::Relaxed);
        if bell.wait(self.parking, LOOK_AROUND, awake).is_ready() {
            return Ok(());
        }
        self.check_parent()
    }
}

/// A child's ends of the rings between one worker and the evaluator: there while the coordinator
/// leaves them open, and new each time it has cleared them.
pub struct Link<E> {
    handover: Handover,
    party: Party,
    coordinator: Doorbell,
    /// The epoch last seen; none yet.
    epoch: Option<u64>,
    /// The ends; none while the rings are closed, or the peer is cut off.
    pub ends: Option<E>,
}

impl<E> Link<E> {
    /// Without ends; `follow` attaches them.
    ///
    /// # Errors
    /// When the layout is of another segment.
    pub fn new(child: &Child, region: HandoverRegion, party: Party) -> Result<Link<E>, ChildError> {
        Ok(Link {
            handover: child.segment.handover(region)?,
            party,
            coordinator: child.segment.doorbell(child.layout.coordinator_bell)?,
            epoch: None,
            ends: None,
        })
    }

    /// Has the coordinator closed or reopened the rings since the last `follow`?
    #[inline]
    pub fn has_news(&self) -> bool {
        self.epoch != Some(self.handover.epoch())
    }

    /// Does what the coordinator wants: lets go of the ends, or attaches new ones. True if they are
    /// new: whatever was under way before is lost.
    ///
    /// # Errors
    /// When the new ends cannot be attached.
    pub fn follow(
        &mut self,
        attach: impl FnOnce() -> Result<E, ChildError>,
    ) -> Result<bool, ChildError> {
        if !self.has_news() {
            return Ok(false);
        }
        let epoch = self.handover.epoch();
        self.epoch = Some(epoch);
        self.ends = None;
        if epoch.is_multiple_of(2) {
            self.ends = Some(attach()?);
            return Ok(true);
        }
        let [before, after] = match self.party {
            Party::First => [KillPoint::WorkerLetsGo, KillPoint::WorkerLetGo],
            Party::Second => [KillPoint::EvaluatorLetsGo, KillPoint::EvaluatorLetGo],
        };
        killpoint::pass(before);
        self.handover.acknowledge(self.party, epoch);
        killpoint::pass(after);
        self.coordinator.ring();
        Ok(false)
    }

    /// Cuts the peer off: it did what no correct process does.
    pub fn complain(&mut self) {
        self.ends = None;
        self.handover.complain(self.epoch.unwrap_or(0));
        self.coordinator.ring();
    }
}
