//! The ring and the doorbell under loom, which runs every interleaving and every value a relaxed or
//! acquire load may return: the same code as between processes, on modelled memory. Each property
//! is tested twice, once with the memory weakened, which must fail: so the model is known to be
//! able to see the fault. `cargo test --release --test ring_loom`

#![allow(clippy::unwrap_used)]

#[path = "support/model.rs"]
mod model;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use loom::sync::atomic::AtomicU64;
use loom::thread;
use model::{FOREVER, SLEEP, doorbell};
use ringmaster::shm::{Consumer, Producer, PushError, Word, Words, ring_words};

type Slot = [u64; 2];

const CAPACITY: usize = 2;

/// A modelled word; unless `SOUND`, its release and acquire accesses are relaxed.
struct ModelWord<const SOUND: bool>(AtomicU64);

impl<const SOUND: bool> Word for ModelWord<SOUND> {
    fn load(&self, order: Ordering) -> u64 {
        self.0.load(if SOUND { order } else { Ordering::Relaxed })
    }
    fn store(&self, value: u64, order: Ordering) {
        self.0
            .store(value, if SOUND { order } else { Ordering::Relaxed });
    }
}

#[derive(Clone)]
struct ModelMemory<const SOUND: bool>(Arc<[ModelWord<SOUND>]>);

impl<const SOUND: bool> ModelMemory<SOUND> {
    fn zeroed() -> Self {
        ModelMemory(
            (0..ring_words::<Slot>(CAPACITY))
                .map(|_| ModelWord(AtomicU64::new(0)))
                .collect(),
        )
    }
}

impl<const SOUND: bool> Words for ModelMemory<SOUND> {
    type Word = ModelWord<SOUND>;
    fn len(&self) -> usize {
        self.0.len()
    }
    fn words(&self, first: usize, count: usize) -> &[ModelWord<SOUND>] {
        &self.0[first..first + count]
    }
}

fn slot(number: u64) -> Slot {
    [number + 1, !number]
}

type Ends<const SOUND: bool> = (
    Producer<Slot, ModelMemory<SOUND>>,
    Consumer<Slot, ModelMemory<SOUND>>,
);

fn ring<const SOUND: bool>() -> Ends<SOUND> {
    let memory = ModelMemory::zeroed();
    (
        Producer::attach(memory.clone(), CAPACITY).unwrap(),
        Consumer::attach(memory, CAPACITY).unwrap(),
    )
}

/// Explores every run with at most two preemptions (a lap and a half of the ring without a bound
/// takes many minutes); runs in which one side waits for the other do not count as preempted.
fn check(run: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(2));
    model.check(run);
}

/// Pushes `slots` slots through the ring, one and a half laps at least, and checks each.
fn pass<const SOUND: bool>(slots: u64) {
    let (mut producer, mut consumer) = ring::<SOUND>();
    let producing = thread::spawn(move || {
        for number in 0..slots {
            loop {
                match producer.push(&slot(number)) {
                    Ok(()) => break,
                    Err(PushError::Full) => thread::yield_now(),
                    Err(error) => panic!("{error}"),
                }
            }
        }
    });
    for number in 0..slots {
        let found = loop {
            match consumer.pop().unwrap() {
                Some(found) => break found,
                None => thread::yield_now(),
            }
        };
        assert_eq!(found, slot(number), "a torn or stale slot");
    }
    producing.join().unwrap();
    assert_eq!(consumer.pop(), Ok(None));
}

#[test]
fn every_slot_arrives_once_whole_and_in_order() {
    check(|| pass::<true>(5));
}

#[test]
#[should_panic(expected = "a torn or stale slot")]
fn without_sync_point_p_a_slot_is_torn() {
    loom::model(|| pass::<false>(1));
}

/// One ringer publishes a slot, one waiter sleeps until it is there.
fn one_ringer<const FENCED: bool>() {
    let (mut producer, mut consumer) = ring::<true>();
    let bell = doorbell::<FENCED>();
    let ringer = {
        let bell = bell.clone();
        thread::spawn(move || {
            producer.push(&slot(0)).unwrap();
            bell.ring();
        })
    };
    assert!(
        bell.wait(SLEEP, FOREVER, || consumer.is_ready().unwrap())
            .is_ready()
    );
    assert_eq!(consumer.pop(), Ok(Some(slot(0))));
    ringer.join().unwrap();
}

#[test]
fn one_ringer_always_wakes_the_waiter() {
    loom::model(one_ringer::<true>);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_sync_point_w_a_wake_up_is_lost() {
    loom::model(one_ringer::<false>);
}

#[test]
fn two_ringers_and_a_waiter_that_waits_for_each_in_turn() {
    check(|| {
        let bell = doorbell::<true>();
        let done = Arc::new(AtomicU64::new(0));
        let ringers = [0, 1].map(|_| {
            let (bell, done) = (bell.clone(), Arc::clone(&done));
            thread::spawn(move || {
                done.fetch_add(1, Ordering::Release);
                bell.ring();
            })
        });
        for expected in 1..=2 {
            let ready = || done.load(Ordering::Acquire) >= expected;
            assert!(bell.wait(SLEEP, FOREVER, ready).is_ready());
        }
        for ringer in ringers {
            ringer.join().unwrap();
        }
    });
}
