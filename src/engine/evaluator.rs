//! The evaluator process: gathers whatever leaves are ready into a batch, has the network answer
//! it, hands out the answers. On a GPU the next batch is gathered while one is computed; on the CPU
//! a launch returns with its answers. When to launch is the business of `pace`, what a batch is
//! that of `batch`, and a network with its batches is a `desk`: there are two while new weights
//! take over, each with batches of its own.

use super::batch::Line;
use super::child::Child;
use super::desk::Desk;
use super::error::RunError;
use super::networks;
use super::pace::Turn;
use super::reexec;
use super::regions::{EvaluatorCounter, NetworkWord, store_text};
use crate::killpoint::{self, KillPoint};
use crate::latency::EvaluatorTrace;
use crate::network::{self, BackendKind, Folded, WeightsError};
use crate::say::note;
use crate::shm::{Counters, Parking, liveness};
use crate::wire::parity_of;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Looks around before the idle evaluator of a GPU sleeps: some hundred microseconds, far longer
/// than workers leave it without work while they have any.
const GPU_SPIN: u32 = 4096;
const MIB: u64 = 1 << 20;

/// New weights on their way from the disk.
struct Offer {
    /// The coordinator's word; its lower half is the network's number.
    word: u64,
    reading: JoinHandle<Result<Folded, WeightsError>>,
}

/// The batches between the rings and the networks.
struct Evaluator {
    /// The networks in use, one or two, oldest first.
    desks: Vec<Desk>,
    lines: Vec<Line>,
    /// Rows are read and answered where they lie, or copied. Only one desk can have them in place:
    /// whose a row is stands in it.
    in_place: bool,
    /// The worker whose leaves are taken first, so that each is at times.
    first: usize,
    /// Rings are wanted back: what is gathered from them goes out at once.
    hurry: bool,
    counters: Counters,
    networks: Counters,
    /// The replay's folder, where weights lie.
    replay: PathBuf,
    offer: Option<Offer>,
    /// The last offer taken up.
    offer_seen: u64,
    /// A desk that waits for rows in place to be answered.
    waiting: Option<(u64, Desk)>,
    /// Time stamps; none unless the run is traced.
    trace: Option<EvaluatorTrace>,
}

/// Runs the evaluator until the coordinator says stop.
///
/// # Errors
/// When the segment is broken, the network cannot be loaded or fails, or the coordinator is gone.
pub fn run(segment: &str, replay: &Path, parent: u32) -> Result<(), RunError> {
    killpoint::arm(&["evaluator"]);
    let mut child = Child::attach(segment, parent)?;
    killpoint::pass(KillPoint::EvaluatorAttached);
    reexec::name_process("evaluator");
    let mut evaluator = Evaluator::open(&mut child, replay)?;
    let bell = child.segment.doorbell(child.regions.evaluator_bell)?;
    evaluator.store(EvaluatorCounter::Ready, 1);
    child
        .segment
        .doorbell(child.regions.coordinator_bell)?
        .ring();
    child.wait_for_start()?;

    while !child.is_stopped()? {
        // None while a device keeps its batches: one that never finishes them is as good as dead.
        if !evaluator.desks.iter().any(Desk::is_under_way) {
            beat(&evaluator.counters);
        }
        evaluator.publish_finished()?;
        evaluator.follow(&child)?;
        evaluator.follow_networks(&child);
        evaluator.gather(&child);
        match evaluator.take_turn()? {
            Turn::Launch => {}
            Turn::Poll => std::hint::spin_loop(),
            Turn::Wait(left) => {
                bell.wait(child.parking, left, || evaluator.is_any_ready());
            }
            Turn::Sleep => child.sleep(&bell, || evaluator.is_any_ready())?,
        }
    }
    if let Some(trace) = &evaluator.trace {
        trace.write()?;
    }
    evaluator.store_memory();
    let cpu = liveness::process_cpu_seconds()?;
    evaluator.store(EvaluatorCounter::CpuNs, (cpu * 1e9) as u64);
    Ok(())
}

impl Evaluator {
    /// Loads the networks in use, finds the rings.
    fn open(child: &mut Child, replay: &Path) -> Result<Evaluator, RunError> {
        let networks = child.segment.counters(child.regions.networks)?;
        let in_use = [NetworkWord::Oldest, NetworkWord::Newest]
            .map(|word| networks.load(word as usize) as u32);
        let mut evaluator = Evaluator {
            desks: Vec::with_capacity(2),
            lines: Line::all(child)?,
            in_place: false,
            first: 0,
            hurry: false,
            counters: child.segment.counters(child.regions.evaluator_counters)?,
            replay: replay.to_path_buf(),
            offer: None,
            offer_seen: 0,
            waiting: None,
            trace: child.settings.trace.as_deref().map(EvaluatorTrace::new),
            networks,
        };
        for network in in_use[0]..=in_use[1] {
            let weights = networks::load(&child.settings, replay, network)?;
            let desk = evaluator.set_up(child, network, Folded::new(&weights))?;
            evaluator.desks.push(desk);
        }
        if let Some(desk) = evaluator.desks.last() {
            if desk.backend.cost().is_some()
                && let Parking::Park { spin } = &mut child.parking
            {
                // A device that computes by itself is to be kept busy, at the price of a core.
                *spin = GPU_SPIN.max(*spin);
            }
            let device = child.segment.counters(child.regions.device)?;
            store_text(&device, &desk.backend.device());
        }
        evaluator.store_memory();
        Ok(evaluator)
    }

    /// Brings a network to the device.
    fn set_up(&self, child: &Child, network: u32, folded: Folded) -> Result<Desk, RunError> {
        let settings = &child.settings;
        // The coordinator has settled the choice: one for the run.
        let kind = BackendKind::try_from(settings.backend)?;
        let mut limits = settings.limits();
        if limits.gpu_memory_mib > 0 {
            // The cap is for all networks together; 0 would be none.
            let taken = self.own_bytes().div_ceil(MIB) as usize;
            limits.gpu_memory_mib = limits.gpu_memory_mib.saturating_sub(taken).max(1);
        }
        let mut backend = network::open_folded(kind, folded, limits)?;
        let counters = child.segment.counters(child.regions.evaluator_counters)?;
        backend.on_progress(Arc::new(move || beat(&counters)));
        Ok(Desk::new(
            network,
            backend,
            settings.max_batch,
            settings.workers,
            Duration::from_micros(settings.max_wait_us),
            settings.trace.is_some(),
        ))
    }

    /// Lets go of rings that are wanted back, takes up new ones.
    fn follow(&mut self, child: &Child) -> Result<(), RunError> {
        self.hurry = false;
        for line in &mut self.lines {
            self.hurry |= line.follow(child)?;
        }
        Ok(())
    }

    /// Lets go of a network that is not used any more, takes up one that is offered.
    fn follow_networks(&mut self, child: &Child) {
        let word = |word: NetworkWord| self.networks.load(word as usize);
        let (oldest, offered) = (word(NetworkWord::Oldest), word(NetworkWord::Offer));
        if self.desks.len() > 1
            && u64::from(self.desks[0].network) < oldest
            && self.desks[0].is_idle()
        {
            self.desks.remove(0);
            self.store_memory();
            killpoint::pass(KillPoint::EvaluatorDropped);
        }
        if offered != self.offer_seen {
            self.offer_seen = offered;
            let newest = self.desks.last().map_or(0, |desk| desk.network);
            // One that plays already was loaded at the start.
            if offered as u32 > newest {
                killpoint::pass(KillPoint::EvaluatorOffered);
                let (settings, replay) = (child.settings.clone(), self.replay.clone());
                let read = move || {
                    let weights = networks::load(&settings, &replay, offered as u32)?;
                    Ok(Folded::new(&weights))
                };
                // Beside the play: it takes a tenth of a second.
                self.offer = Some(Offer {
                    word: offered,
                    reading: std::thread::spawn(read),
                });
            }
        }
        if let Some(offer) = self.offer.take_if(|offer| offer.reading.is_finished()) {
            let folded = offer
                .reading
                .join()
                .map_err(|_| "reading them died".to_owned());
            let desk = folded
                .and_then(|folded| folded.map_err(|error| error.to_string()))
                .and_then(|folded| {
                    self.set_up(child, offer.word as u32, folded)
                        .map_err(|error| error.to_string())
                });
            match desk {
                Ok(desk) => self.waiting = Some((offer.word, desk)),
                Err(why) => {
                    note!("new weights: {why}");
                    self.networks
                        .store(NetworkWord::Refused as usize, offer.word);
                }
            }
        }
        if !self.in_place
            && let Some((word, desk)) = self.waiting.take()
        {
            self.desks.push(desk);
            self.store_memory();
            killpoint::pass(KillPoint::EvaluatorLoaded);
            self.networks.store(NetworkWord::Loaded as usize, word);
        }
    }

    /// Takes all that is ready into the open lanes, up to the limit.
    fn gather(&mut self, child: &Child) {
        let alone = self.desks.len() == 1 && self.waiting.is_none();
        let in_place = alone && self.desks[0].share(&child.segment);
        if in_place != self.in_place {
            // Only when nothing is under way in the other manner.
            if !self.desks.iter().all(Desk::is_idle) {
                return;
            }
            self.in_place = in_place;
        }
        let workers = self.lines.len();
        for worker in (self.first..workers).chain(0..self.first) {
            let line = &mut self.lines[worker];
            if in_place {
                self.desks[0].claim(line, worker);
                continue;
            }
            // Whose the next leaf is shows only once it is taken.
            while self.desks.iter().all(Desk::has_room)
                && let Some(request) = line.take()
            {
                let desk = match &mut self.desks[..] {
                    [only] => only,
                    desks => {
                        let parity = parity_of(request.ticket);
                        let newest = desks.len() - 1;
                        let is_newest = desks[newest].network as usize % 2 == parity;
                        &mut desks[if is_newest { newest } else { 0 }]
                    }
                };
                desk.add(worker, &request);
            }
        }
    }

    /// Launches a batch if one is due; else says what to do until one is.
    fn take_turn(&mut self) -> Result<Turn, RunError> {
        let mut next = Turn::Sleep;
        for at in 0..self.desks.len() {
            // Not always the same one first.
            let at = (at + self.first) % self.desks.len();
            let turn = self.desks[at].turn(self.hurry);
            if turn == Turn::Launch {
                self.desks[at].launch(self.in_place)?;
                self.first = (self.first + 1) % self.lines.len().max(2);
                return Ok(turn);
            }
            next = next.sooner(turn);
        }
        Ok(next)
    }

    /// Hands out the answers of all batches that are finished.
    fn publish_finished(&mut self) -> Result<(), RunError> {
        for desk in &mut self.desks {
            while let Some((batch, rows, busy)) = desk.answer(&mut self.lines, self.in_place)? {
                count_batch(&self.counters, rows, busy);
                killpoint::pass(KillPoint::EvaluatorWakes);
                self.lines.iter_mut().for_each(Line::ring);
                if let Some(trace) = &mut self.trace {
                    batch.hand_over_stamps(trace);
                }
            }
        }
        Ok(())
    }

    fn is_any_ready(&self) -> bool {
        self.lines.iter().any(Line::is_ready)
            || self.networks.load(NetworkWord::Offer as usize) != self.offer_seen
    }

    fn store(&self, counter: EvaluatorCounter, value: u64) {
        self.counters.store(counter as usize, value);
    }

    /// GPU memory that all networks take.
    fn own_bytes(&self) -> u64 {
        let own = |desk: &Desk| desk.backend.memory().own_bytes;
        self.desks.iter().map(own).sum()
    }

    fn store_memory(&self) {
        self.store(EvaluatorCounter::GpuBytes, self.own_bytes());
        if let Some(desk) = self.desks.last() {
            let used = desk.backend.memory().device_used_bytes;
            self.store(EvaluatorCounter::GpuBytesUsed, used);
        }
    }
}

/// A sign of life.
fn beat(counters: &Counters) {
    counters.add(EvaluatorCounter::Beat as usize, 1);
}

fn count_batch(counters: &Counters, size: usize, busy: Duration) {
    beat(counters);
    counters.add(EvaluatorCounter::BusyNs as usize, busy.as_nanos() as u64);
    counters.add(EvaluatorCounter::Batches as usize, 1);
    counters.add(EvaluatorCounter::Evaluations as usize, size as u64);
    counters.add(EvaluatorCounter::Sizes as usize + size, 1);
}
