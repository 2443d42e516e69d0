//! What worker and evaluator have in common: they attach to the coordinator's segment, start when
//! told to, end when told to, and end with the coordinator.

use super::error::RunError;
use super::regions::Regions;
use crate::killpoint::{self, KillPoint};
use crate::settings::Settings;
use crate::shm::{
    Doorbell, Gate, Handover, HandoverRegion, Parking, Party, Segment, liveness, unlink_by_name,
};
use nix::sys::signal::Signal;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Longest sleep before a look at whether the coordinator still lives.
const PARENT_CHECK_EVERY: Duration = Duration::from_millis(200);
/// Sleep between two looks at whether the run has started: half a millisecond does not matter
/// there.
const START_NAP: Duration = Duration::from_micros(500);
/// Longest wait for the common start.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// An attached child.
pub struct Child {
    /// The shared segment.
    pub segment: Segment,
    /// The run's settings, resolved.
    pub settings: Settings,
    /// Where everything lies in it.
    pub regions: Regions,
    /// How it waits; the settings' way at first.
    pub parking: Parking,
    stop: Gate,
    start: Gate,
    /// Set by SIGTERM.
    terminated: Arc<AtomicBool>,
    /// Set by SIGCONT, which the kernel sends when the coordinator dies, and any process may send.
    continued: Arc<AtomicBool>,
    parent: u32,
}

impl Child {
    /// Attaches to the segment of the coordinator, process `parent`.
    ///
    /// # Errors
    /// When the segment cannot be opened or is of another layout, or the parent is gone already.
    pub fn attach(name: &str, parent: u32) -> Result<Child, RunError> {
        let terminated = Arc::new(AtomicBool::new(false));
        flag::register(SIGTERM, terminated.clone()).map_err(RunError::cannot("catch signals"))?;
        // A Ctrl-C or a hang-up that reaches all processes of a job is the coordinator's to act on.
        // And a stopped orphan may be sent SIGHUP by the kernel, when it still has the
        // segment to remove.
        for signal in [SIGINT, SIGHUP] {
            flag::register(signal, Arc::default()).map_err(RunError::cannot("catch signals"))?;
        }
        // Of the coordinator's death by SIGCONT: the one signal to catch that reaches a stopped
        // process.
        let continued = Arc::new(AtomicBool::new(false));
        flag::register(SIGCONT, continued.clone()).map_err(RunError::cannot("catch signals"))?;
        liveness::signal_on_parent_end(parent, Signal::SIGCONT).inspect_err(|_| {
            if !liveness::is_child_of(parent) {
                // Nobody else may have got as far as this; or another child was first.
                let _ = unlink_by_name(name);
            }
        })?;
        let segment = Segment::open(name)?;
        let settings = serde_json::from_slice(&segment.config()?);
        let settings: Settings = settings.map_err(|error| {
            RunError::new(format!("the segment's settings do not parse: {error}"))
        })?;
        let regions = Regions::new(&settings);
        segment.check(&regions.layout)?;
        Ok(Child {
            stop: segment.gate(regions.stop)?,
            start: segment.gate(regions.start)?,
            parking: settings.parking(),
            terminated,
            continued,
            parent,
            segment,
            settings,
            regions,
        })
    }

    /// Waits for the common start.
    ///
    /// # Errors
    /// When it does not come, or the coordinator dies before.
    pub fn wait_for_start(&self) -> Result<(), RunError> {
        let mut waited = Duration::ZERO;
        while !self.start.is_open() {
            if self.is_stopped()? {
                return Ok(());
            }
            if waited > START_TIMEOUT {
                let seconds = START_TIMEOUT.as_secs();
                return Err(RunError::new(format!(
                    "the coordinator did not start the run within {seconds} s"
                )));
            }
            // Naps are counted, not time: a process that was stopped has not waited.
            thread::sleep(START_NAP);
            waited += START_NAP;
        }
        Ok(())
    }

    /// Is this process to end?
    ///
    /// # Errors
    /// When the coordinator is dead; the segment's name is removed, since nobody else is left to do
    /// it.
    pub fn is_stopped(&self) -> Result<bool, RunError> {
        if self.continued.load(Ordering::Relaxed) {
            self.check_parent()?;
        }
        Ok(self.is_told_to_end())
    }

    fn is_told_to_end(&self) -> bool {
        self.stop.is_open() || self.terminated.load(Ordering::Relaxed)
    }

    fn check_parent(&self) -> Result<(), RunError> {
        // Before the look: the kernel tells once for each thread of the coordinator that was this
        // process's parent, and only with the last is it an orphan.
        self.continued.store(false, Ordering::SeqCst);
        if liveness::is_child_of(self.parent) {
            return Ok(());
        }
        // Another child may have been first.
        let _ = unlink_by_name(self.segment.name());
        Err(RunError::new("the coordinator is gone"))
    }

    /// Sleeps on `bell` until `ready`, the end, or a moment has passed.
    ///
    /// # Errors
    /// When the coordinator is dead.
    pub fn sleep(&self, bell: &Doorbell, mut ready: impl FnMut() -> bool) -> Result<(), RunError> {
        let is_woken =
            || ready() || self.is_told_to_end() || self.continued.load(Ordering::Relaxed);
        if bell
            .wait(self.parking, PARENT_CHECK_EVERY, is_woken)
            .is_ready()
        {
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
    /// Without ends; `follow_epoch` attaches them.
    ///
    /// # Errors
    /// When the layout is of another segment.
    pub fn new(child: &Child, region: HandoverRegion, party: Party) -> Result<Link<E>, RunError> {
        Ok(Link {
            handover: child.segment.handover(region)?,
            party,
            coordinator: child.segment.doorbell(child.regions.coordinator_bell)?,
            epoch: None,
            ends: None,
        })
    }

    /// Has the coordinator closed or reopened the rings since the last `follow_epoch`?
    #[inline]
    pub fn has_new_epoch(&self) -> bool {
        self.epoch != Some(self.handover.epoch())
    }

    /// Does what the coordinator wants: lets go of the ends, or attaches new ones. True if they are
    /// new: whatever was under way before is lost.
    ///
    /// # Errors
    /// When the new ends cannot be attached.
    pub fn follow_epoch(
        &mut self,
        attach: impl FnOnce() -> Result<E, RunError>,
    ) -> Result<bool, RunError> {
        if !self.has_new_epoch() {
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
            Party::Worker => [KillPoint::WorkerLetsGo, KillPoint::WorkerLetGo],
            Party::Evaluator => [KillPoint::EvaluatorLetsGo, KillPoint::EvaluatorLetGo],
        };
        killpoint::pass(before);
        self.handover.acknowledge(self.party, epoch);
        killpoint::pass(after);
        self.coordinator.ring();
        Ok(false)
    }

    /// Cuts the peer off: it did what no correct process does.
    pub fn report_violation(&mut self) {
        self.ends = None;
        self.handover.report_violation(self.epoch.unwrap_or(0));
        self.coordinator.ring();
    }
}
