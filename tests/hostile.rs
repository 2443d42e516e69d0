//! A worker gone mad: while a run is under way, another process of this test opens its segment and
//! writes garbage, seeded, into every word that one worker writes by the protocol (its requests
//! with their indices and sequence numbers, the head of its replies and of its jobs, its records,
//! counters and acknowledgement, the doorbells it rings), and pushes unsound positions, requests
//! for networks that are not there and illegal rounds in the proper way. Only that worker may be
//! lost, and replaced; evaluator and coordinator live through it, the others play on, and the
//! replay is that of an undisturbed run. All this with requests copied and looked at (the CPU), and
//! with requests that nobody looks at because they are evaluated where they lie (a pretended GPU,
//! which ends its process when it is sent outside its memory).
//!
//! What this does not cover, and nothing can between processes of one user: a worker that means it
//! can kill its peers outright, spoil the others' rings (all map one segment), keep its rounds to
//! itself for as long as it beats, flood the evaluator with sound requests (which are answered in
//! turn with those of the others), or deliver rounds whose play and visits are legal but invented.
#![allow(clippy::unwrap_used)]

#[path = "support/fakes.rs"]
mod fakes;
#[path = "support/run.rs"]
mod run;

use bytemuck::Zeroable;
use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
use rand::{Rng, RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use ringmaster::engine::regions::{RecordSlot, WorkerRegions};
use ringmaster::game::Standing;
use ringmaster::observation::Position;
use ringmaster::play;
use ringmaster::replay::{RoundRecord, SearchKind};
use ringmaster::settings::Settings;
use ringmaster::shm::Segment;
use ringmaster::wire::{Request, ticket};
use run::*;
use serde_json::Value;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::time::Duration;

const FLAGS: &str = "--rounds 1200 --worlds 2 --simulations 40 --in-flight 6 --workers 3 --seed 31";
/// The worker that goes mad; the others must not notice.
const MAD: usize = 1;

/// A look into the segment of a run.
struct Intruder {
    segment: Segment,
    settings: Settings,
    regions: WorkerRegions,
    /// Where those of evaluator and coordinator begin.
    bells: [usize; 2],
    /// What is kept of a job: not always the worker's own, since nothing keeps it from the
    /// others'.
    entry: Range<usize>,
    file: File,
    rng: Xoshiro256PlusPlus,
}

impl Intruder {
    fn new(running: &Running, seed: u64) -> Intruder {
        running.wait_for_children(4);
        let (segment, settings, regions) = segment_of(running);
        let mut options = File::options();
        let path = format!("/dev/shm{}", segment.name());
        Intruder {
            regions: regions.workers[MAD],
            bells: [regions.evaluator_bell, regions.coordinator_bell]
                .map(|bell| bell.region.offset),
            entry: regions.journal.entry(MAD).range(),
            file: options.read(true).write(true).open(path).unwrap(),
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            segment,
            settings,
        }
    }

    /// Every word the worker writes: one at a time, the indices by themselves.
    fn places(&self) -> Vec<Range<usize>> {
        let regions = &self.regions;
        let (requests, replies) = (
            regions.requests.region.range(),
            regions.replies.region.range(),
        );
        let (jobs, records) = (regions.jobs.region.range(), regions.records.region.range());
        let handover = regions.handover.region.range();
        vec![
            // Tail and head: lines 0 and 1 of a ring.
            requests.start..requests.start + 8,
            requests.start + 128..requests.start + 136,
            requests.start + 256..requests.end,
            requests,
            replies.start + 128..replies.start + 136,
            jobs.start + 128..jobs.start + 136,
            records.start..records.start + 8,
            records.start + 256..records.end,
            // The worker's acknowledgement.
            handover.start + 128..handover.start + 136,
            regions.counters.region.range(),
            // The states of doorbells: its own, and those of evaluator and coordinator.
            regions.bell.region.offset..regions.bell.region.offset + 8,
            self.bells[0]..self.bells[0] + 8,
            self.bells[1]..self.bells[1] + 8,
            // What is kept of a job in flight: its head, and all of it.
            self.entry.start..self.entry.start + 8,
            self.entry.clone(),
        ]
    }

    /// A word as an adversary would choose it.
    fn word(&mut self) -> u64 {
        let any = self.rng.next_u64();
        match any % 6 {
            0 => 0,
            1 => u64::MAX - (any >> 60),
            2 => 1 << (any >> 58),
            3 => any >> 32 & 0xff,
            4 => (u64::MAX / 2).wrapping_add(any >> 62),
            _ => any,
        }
    }

    /// Writes garbage into `place`: a few words of it, or a stretch.
    fn spoil(&mut self, place: &Range<usize>) {
        let words = place.len() / 8;
        let count = if self.rng.random_range(0..4) == 0 {
            words.min(4096)
        } else {
            words.min(4)
        };
        let first = self.rng.random_range(0..=words - count);
        let bytes: Vec<u8> = (0..count).flat_map(|_| self.word().to_le_bytes()).collect();
        self.file
            .write_all_at(&bytes, (place.start + first * 8) as u64)
            .unwrap();
    }

    /// Pushes a request as the worker would: sound in all but what it says, or sound and for a
    /// network that is not there.
    fn push_request(&mut self) {
        let mut request = Request::zeroed();
        if self.rng.random() {
            self.rng.fill_bytes(bytemuck::bytes_of_mut(&mut request));
        } else {
            request.ticket = ticket(self.rng.random_range(1..=255), 0, 0);
            let round = play::deal(&self.settings, 0).unwrap();
            request.position = Position::observe(&round, &Standing::default());
        }
        if let Ok(mut ring) = self.segment.producer(self.regions.requests) {
            let _ = ring.push(&request);
        }
    }

    /// Pushes a record: noise, a round of another run, or one of this run that was never dealt so.
    fn push_record(&mut self, round: u64) {
        let mut slot = Box::new(RecordSlot::zeroed());
        let kind = self.rng.random_range(0..4);
        if kind == 0 {
            self.rng.fill_bytes(&mut slot.bytes);
            slot.length = self.word();
        } else {
            // Dealt as round `round + kind` or with another seed, bid and played as it comes.
            let mut settings = self.settings.clone();
            settings.seed += u64::from(kind == 1);
            let mut state = play::deal(&settings, round + u64::from(kind == 2)).unwrap();
            let mut record = RoundRecord::new();
            record.begin(round, settings.seed, 0, None, &state);
            while state.phase() != ringmaster::game::Phase::Over {
                let legal = state.legal().count_ones() as usize;
                if legal > 1 {
                    record.searched(SearchKind::Full, &vec![3; legal], &[0.0; 4], &[]);
                }
                let action = state.legal().trailing_zeros() as u8;
                record.action(action);
                state.play(action);
            }
            slot.length = record.encode_into(&mut slot.bytes).unwrap() as u64;
        }
        if let Ok(mut ring) = self.segment.producer(self.regions.records) {
            let _ = ring.push(&slot);
        }
    }
}

/// A place and the digest of its undisturbed run.
fn undisturbed(device: Device) -> &'static (Place, Value) {
    static UNDISTURBED: [OnceLock<(Place, Value)>; 2] = [OnceLock::new(), OnceLock::new()];
    UNDISTURBED[device as usize].get_or_init(|| {
        let place = match device {
            Device::Cpu => Place::new(),
            Device::Gpu => {
                let mut place = Place::with_network("--depth 1");
                let driver = fakes::driver(place.folder.path());
                place.environment = vec![("LD_LIBRARY_PATH", driver)];
                place
            }
        };
        let report = place.play(&place.out("undisturbed"), &device.flags());
        (place, report["digest"].clone())
    })
}

/// What evaluates.
#[derive(Clone, Copy)]
enum Device {
    /// Copies requests out of the rings, and looks at them.
    Cpu,
    /// A pretended one that reads them where they lie.
    Gpu,
}

impl Device {
    fn flags(self) -> String {
        let backend = ["cpu", "cuda"][self as usize];
        format!("{FLAGS} --backend {backend}")
    }
}

/// Lets `harm` do its worst at intervals until the run has ended; what must hold then.
fn harmed(device: Device, name: &str, blows: u64, mut harm: impl FnMut(&mut Intruder, u64)) -> u64 {
    let (place, digest) = undisturbed(device);
    let out = place.out(name);
    // The bound on restarts in a row is as users have it.
    let mut running = place.start(&out, &device.flags(), "");
    let pid = running.pid();
    let mut intruder = Intruder::new(&running, 7);
    let evaluator = running.children()[0];
    let mut struck = 0;
    // Most of the run, and then an end in peace: its last rounds are the mad worker's too.
    wait_until("rounds", || {
        out.join("rounds-000000.part").exists() || running.has_ended()
    });
    while struck < blows && !running.has_ended() {
        // Nobody is hurt by what is written while the worker is gone: it is cleared before the next
        // one.
        if intruder.worker().is_some() {
            harm(&mut intruder, struck);
            struck += 1;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let survived = running.has_ended() || running.children().first() == Some(&evaluator);
    let ended = running.finish();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    for line in ended.stderr.lines() {
        let mine =
            line.starts_with(&format!("worker {MAD}")) || line.starts_with("ringmaster: worker");
        assert!(
            mine || line.contains("/min"),
            "somebody else was hurt: {line}"
        );
    }
    assert!(survived, "the evaluator was lost: {}", ended.stderr);
    let report = ended.report();
    assert_eq!(&report["digest"], digest, "{}", ended.stderr);
    nothing_is_left(&out, &[pid], digest, name);
    println!("{name}: {struck} blows, {} restarts", report["restarts"]);
    report["restarts"].as_u64().unwrap()
}

/// Every word in turn.
fn spoil_any(intruder: &mut Intruder, blow: u64) {
    let places = intruder.places();
    let at = blow as usize % places.len();
    intruder.spoil(&places[at]);
}

/// What the worker would never send, sent as it would.
fn push_any(intruder: &mut Intruder, blow: u64) {
    // Its worker pauses meanwhile: a ring has one producer.
    let worker = intruder.worker();
    if let Some(worker) = worker {
        send(worker, SIGSTOP);
    }
    match blow % 2 {
        0 => intruder.push_request(),
        _ => intruder.push_record(blow * 11),
    }
    if let Some(worker) = worker {
        send(worker, SIGCONT);
    }
}

#[test]
fn garbage_in_every_word_of_one_worker() {
    assert!(harmed(Device::Cpu, "garbage", 100, spoil_any) > 0);
}

#[test]
fn garbage_before_anybody_looks() {
    // Again and again, so that a ring is often spoilt between its clearing and the evaluator's
    // first look.
    let restarts = harmed(Device::Cpu, "early", 40, |intruder, _| {
        let requests = intruder.regions.requests.region.range();
        let deadline = std::time::Instant::now() + Duration::from_millis(100);
        while std::time::Instant::now() < deadline {
            intruder.spoil(&(requests.start..requests.start + 256));
        }
    });
    assert!(restarts > 0);
}

#[test]
fn unsound_positions_and_foreign_rounds() {
    assert!(harmed(Device::Cpu, "pushes", 60, push_any) > 0);
}

#[test]
fn garbage_that_a_gpu_reads_where_it_lies() {
    let restarts = harmed(Device::Gpu, "in-place", 120, |intruder, blow| {
        match blow % 3 {
            0 => push_any(intruder, 0),
            _ => spoil_any(intruder, blow),
        }
    });
    assert!(restarts > 0);
}

impl Intruder {
    /// The mad worker's process.
    fn worker(&self) -> Option<u32> {
        let owner: u32 = self.segment.name().split('-').nth(1)?.parse().ok()?;
        worker_of(owner, MAD)
    }
}
