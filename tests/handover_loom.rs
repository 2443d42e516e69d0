//! The taking back of a ring under loom: an owner closes it, waits until who lives has let go,
//! clears it and opens it again under a new epoch, while producer and consumer work in it. What
//! must hold: nothing of an earlier epoch is taken in a later one, no party touches the ring once
//! it has acknowledged, and both go on. Each rule of the protocol is tested a second time with that
//! rule broken, which must fail. `cargo test --release --test handover_loom`

#![allow(clippy::unwrap_used)]

#[path = "support/model.rs"]
mod model;

use loom::thread;
use model::{Agreement, CAPACITY, RingMemory, Slot};
use ringmaster::shm::{Consumer, Handover, Party, Producer, PushError, clear};

/// The epoch in which the model ends.
const LAST: u64 = 2;
/// Slots that are passed on in each epoch: a lap and one more.
const SLOTS: u64 = 3;

/// What is wrong with the protocol.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Acknowledgements do not publish what was done before.
    WeakAcknowledgement,
    /// The epoch does not publish the clearing.
    WeakEpoch,
    /// The owner clears without waiting for the parties.
    Impatient,
    /// The owner opens without clearing.
    Unclean,
}

#[derive(Clone)]
struct Shared {
    handover: Handover<Agreement>,
    ring: RingMemory,
}

/// Which slot of which epoch.
fn slot(epoch: u64, number: u64) -> Slot {
    [100 * (epoch + 1) + number]
}

/// A party: works in open epochs, lets go in closed ones, until `work` says in the last epoch that
/// it is done. What `engine::child::Link` does.
fn follow<E>(
    shared: &Shared,
    party: Party,
    attach: impl Fn(RingMemory) -> E,
    work: impl Fn(&mut E, u64, u64) -> bool,
) {
    let mut ends: Option<E> = None;
    let (mut seen, mut done) = (None, 0);
    loop {
        let epoch = shared.handover.epoch();
        if seen != Some(epoch) {
            // Let go of the old ends before anything else.
            (seen, done, ends) = (Some(epoch), 0, None);
            if epoch.is_multiple_of(2) {
                ends = Some(attach(shared.ring.clone()));
            } else {
                shared.handover.acknowledge(party, epoch);
            }
        }
        if let Some(ends) = &mut ends
            && done < SLOTS
        {
            done += u64::from(work(ends, epoch, done));
        }
        if epoch == LAST && done == SLOTS {
            return;
        }
        thread::yield_now();
    }
}

fn attach_producer(ring: RingMemory) -> Producer<Slot, RingMemory> {
    Producer::attach(ring, CAPACITY).unwrap()
}

fn attach_consumer(ring: RingMemory) -> Consumer<Slot, RingMemory> {
    Consumer::attach(ring, CAPACITY).unwrap()
}

fn produce(shared: &Shared) {
    let attach = attach_producer;
    follow(
        shared,
        Party::Worker,
        attach,
        |producer, epoch, number| match producer.push(&slot(epoch, number)) {
            Ok(()) => true,
            Err(PushError::Full) => false,
            Err(error) => panic!("{error}"),
        },
    );
}

fn consume(shared: &Shared) {
    let attach = attach_consumer;
    follow(
        shared,
        Party::Evaluator,
        attach,
        |consumer, epoch, number| {
            let found = consumer.pop().unwrap();
            if let Some(found) = found {
                assert_eq!(found, slot(epoch, number), "a torn or stale slot");
            }
            found.is_some()
        },
    );
}

/// What one party does from its start to its end.
type Part = fn(&Shared);

/// One party works, then dies without a word and is reaped; the other lives through the handover; a
/// successor follows in the cleared ring. The owner's own thread plays the victim and the
/// successor: more than two that wait for each other starve one another in loom, whose yielding is
/// not fair.
fn one_dies(victim: Party, fault: Fault) {
    let shared = Shared {
        handover: Handover::new(Agreement::new(
            fault == Fault::WeakEpoch,
            fault == Fault::WeakAcknowledgement,
        )),
        ring: RingMemory::new(),
    };
    let ring = shared.ring.clone();
    let (survivor, live, succeed): (Party, Part, Part) = match victim {
        Party::Worker => (Party::Evaluator, consume, produce),
        Party::Evaluator => (Party::Worker, produce, consume),
    };
    let living = {
        let shared = shared.clone();
        thread::spawn(move || live(&shared))
    };
    if victim == Party::Worker {
        attach_producer(ring).push(&slot(0, 0)).unwrap();
    } else if let Some(found) = attach_consumer(ring).pop().unwrap() {
        assert_eq!(found, slot(0, 0), "a torn or stale slot");
    }
    shared.handover.close();
    while fault != Fault::Impatient && !shared.handover.is_acknowledged(survivor) {
        thread::yield_now();
    }
    if fault != Fault::Unclean {
        clear(&shared.ring.of_owner());
    }
    shared.handover.reopen();
    succeed(&shared);
    living.join().unwrap();
}

/// Explores every run with at most three preemptions.
fn check(run: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(3));
    model.check(run);
}

#[test]
fn a_dead_producer_is_followed_by_another() {
    check(|| one_dies(Party::Worker, Fault::None));
}

#[test]
fn a_dead_consumer_is_followed_by_another() {
    check(|| one_dies(Party::Evaluator, Fault::None));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_sync_point_a_the_consumer_may_still_be_at_work() {
    check(|| one_dies(Party::Worker, Fault::WeakAcknowledgement));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_sync_point_a_the_producer_may_still_be_at_work() {
    check(|| one_dies(Party::Evaluator, Fault::WeakAcknowledgement));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_sync_point_e_the_consumer_may_meet_what_was_there() {
    check(|| one_dies(Party::Worker, Fault::WeakEpoch));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_sync_point_e_the_producer_may_meet_what_was_there() {
    check(|| one_dies(Party::Evaluator, Fault::WeakEpoch));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn an_owner_that_does_not_wait_is_found_out() {
    check(|| one_dies(Party::Worker, Fault::Impatient));
}

#[test]
#[should_panic(expected = "a torn or stale slot")]
fn a_ring_that_is_not_cleared_brings_stale_slots() {
    check(|| one_dies(Party::Worker, Fault::Unclean));
}
