//! The whole protocol between worker, evaluator and coordinator under loom, with a death in it:
//! requests and replies in their rings, the rings taken back and given out again under a new epoch,
//! everybody asleep in the kernel whenever there is nothing to do, and no timeout anywhere (the
//! program has some; they hide no lost wake-up here). One party dies at a named point,
//! somebody takes its place. What must hold: everybody gets on to the end, and no request or reply
//! of an earlier epoch is taken in a later one. Each rule is tested a second time with that rule
//! broken, which must fail. `ring_loom` has the ring and the doorbell by themselves,
//! `handover_loom` the order of memory accesses around the clearing.

#![allow(clippy::unwrap_used)]

#[path = "support/model.rs"]
mod model;

use loom::thread;
use model::{Agreement, CAPACITY, FOREVER, Handle, RingMemory, SLEEP, Slot};
use ringmaster::shm::{Consumer, Doorbell, Futex, Handover, Party, Producer, clear};
use std::time::Duration;

/// The epoch in which the model ends.
const LAST: u64 = 2;

/// Where a process dies.
#[derive(Clone, Copy, PartialEq)]
enum Death {
    Never,
    /// Before it did anything.
    AtOnce,
    /// A request taken and not answered.
    Taken,
    /// A slot published, and nobody told.
    Published,
    /// The sleeper's announcement taken, the sleeper not woken.
    Waking,
    /// All done that was to be done in its epoch.
    Done,
}

/// What is wrong with the protocol.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// The owner does not wake the survivor when it closes.
    Silent,
    /// The owner rings where it must wake.
    Rings,
    /// A party does not tell the owner that it has let go.
    Mute,
    /// The owner opens without clearing.
    Unclean,
}

type Bell = Doorbell<Handle<true>>;

/// The futex of one who dies before the last step of waking.
struct Dying(Handle<true>);

impl Futex for Dying {
    fn load(&self) -> u32 {
        self.0.load()
    }
    fn swap(&self, value: u32) -> u32 {
        self.0.swap(value)
    }
    fn fence(&self) {
        self.0.fence();
    }
    fn wait(&self, expected: u32, timeout: Duration) {
        self.0.wait(expected, timeout);
    }
    fn wake(&self) {}
}

#[derive(Clone)]
struct Shared {
    handover: Handover<Agreement>,
    requests: RingMemory,
    replies: RingMemory,
    /// Of worker, evaluator, owner: a futex, and the doorbell on it.
    futexes: [Handle<true>; 3],
    fault: Fault,
}

const WORKER: usize = 0;
const EVALUATOR: usize = 1;
const OWNER: usize = 2;

impl Shared {
    fn new(fault: Fault) -> Shared {
        Shared {
            handover: Handover::new(Agreement::new(false, false)),
            requests: RingMemory::new(),
            replies: RingMemory::new(),
            futexes: std::array::from_fn(|_| Handle::new()),
            fault,
        }
    }

    fn bell(&self, whose: usize) -> Bell {
        Doorbell::new(self.futexes[whose].clone())
    }

    /// Rings after something was published; false if this was the end.
    fn tell(&self, whose: usize, death: Death) -> bool {
        match death {
            Death::Published => return false,
            Death::Waking => Doorbell::new(Dying(self.futexes[whose].clone())).ring(),
            _ => self.bell(whose).ring(),
        }
        death != Death::Waking
    }

    /// What `engine::child::Link` does in a closed epoch.
    fn let_go(&self, party: Party, epoch: u64) {
        self.handover.acknowledge(party, epoch);
        if self.fault != Fault::Mute {
            self.bell(OWNER).ring();
        }
    }
}

/// The one request of an epoch, and its reply.
fn slot(epoch: u64) -> Slot {
    [100 + epoch]
}

/// A worker: asks once in each open epoch, and is done with its answer in the last.
fn work(shared: &Shared, death: Death) {
    if death == Death::AtOnce {
        return;
    }
    let mut replies: Option<Consumer<Slot, RingMemory>> = None;
    let mut seen = None;
    loop {
        let epoch = shared.handover.epoch();
        if seen != Some(epoch) {
            (seen, replies) = (Some(epoch), None);
            if epoch.is_multiple_of(2) {
                let mut requests = Producer::attach(shared.requests.clone(), CAPACITY).unwrap();
                replies = Some(Consumer::attach(shared.replies.clone(), CAPACITY).unwrap());
                requests.push(&slot(epoch)).unwrap();
                if !shared.tell(EVALUATOR, death) {
                    return;
                }
            } else {
                shared.let_go(Party::Worker, epoch);
            }
        }
        if let Some(replies) = &mut replies
            && let Some(reply) = replies.pop().unwrap()
        {
            assert_eq!(reply, slot(epoch), "a stale reply");
            if epoch == LAST || death == Death::Done {
                return;
            }
        }
        shared.bell(WORKER).wait(SLEEP, FOREVER, || {
            let ready = |replies: &Consumer<_, _>| replies.is_ready().unwrap();
            seen != Some(shared.handover.epoch()) || replies.as_ref().is_some_and(ready)
        });
    }
}

/// An evaluator: answers what it is asked.
fn evaluate(shared: &Shared, death: Death) {
    if death == Death::AtOnce {
        return;
    }
    let mut ends: Option<(Consumer<Slot, RingMemory>, Producer<Slot, RingMemory>)> = None;
    let mut seen = None;
    loop {
        let epoch = shared.handover.epoch();
        if seen != Some(epoch) {
            (seen, ends) = (Some(epoch), None);
            if epoch.is_multiple_of(2) {
                ends = Some((
                    Consumer::attach(shared.requests.clone(), CAPACITY).unwrap(),
                    Producer::attach(shared.replies.clone(), CAPACITY).unwrap(),
                ));
            } else {
                shared.let_go(Party::Evaluator, epoch);
            }
        }
        if let Some((requests, replies)) = &mut ends
            && let Some(request) = requests.pop().unwrap()
        {
            assert_eq!(request, slot(epoch), "a stale request");
            if death == Death::Taken {
                return;
            }
            replies.push(&request).unwrap();
            if !shared.tell(WORKER, death) || epoch == LAST || death == Death::Done {
                return;
            }
        }
        shared.bell(EVALUATOR).wait(SLEEP, FOREVER, || {
            let ready = |(requests, _): &(Consumer<_, _>, _)| requests.is_ready().unwrap();
            seen != Some(shared.handover.epoch()) || ends.as_ref().is_some_and(ready)
        });
    }
}

/// What one party does until its end.
type Part = fn(&Shared, Death);

/// The owner: sees one party dead, takes the rings back, clears them, gives them to the other and
/// to a successor, whose part its own thread plays.
fn one_dies(victim: Party, death: Death, fault: Fault) {
    let shared = Shared::new(fault);
    let (live, die, survivor, bell): (Part, Part, Party, usize) = match victim {
        Party::Worker => (evaluate, work, Party::Evaluator, EVALUATOR),
        Party::Evaluator => (work, evaluate, Party::Worker, WORKER),
    };
    let [living, dying] = [(live, Death::Never), (die, death)].map(|(part, death)| {
        let shared = shared.clone();
        thread::spawn(move || part(&shared, death))
    });
    // Dead and reaped.
    dying.join().unwrap();
    shared.handover.close();
    match fault {
        Fault::Silent => {}
        Fault::Rings => shared.bell(bell).ring(),
        _ => shared.bell(bell).wake(),
    }
    shared
        .bell(OWNER)
        .wait(SLEEP, FOREVER, || shared.handover.is_acknowledged(survivor));
    if fault != Fault::Unclean {
        clear(&shared.requests.of_owner());
        clear(&shared.replies.of_owner());
    }
    shared.handover.reopen();
    shared.bell(bell).ring();
    die(&shared, Death::Never);
    living.join().unwrap();
}

/// Explores every run with at most two preemptions.
fn check(victim: Party, death: Death, fault: Fault) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(2));
    model.check(move || one_dies(victim, death, fault));
}

#[test]
fn a_dead_worker_is_followed_by_another() {
    for death in [Death::AtOnce, Death::Published, Death::Waking, Death::Done] {
        check(Party::Worker, death, Fault::None);
    }
}

#[test]
fn a_dead_evaluator_is_followed_by_another() {
    for death in [
        Death::AtOnce,
        Death::Taken,
        Death::Published,
        Death::Waking,
        Death::Done,
    ] {
        check(Party::Evaluator, death, Fault::None);
    }
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_survivor_that_is_not_woken_sleeps_on() {
    check(Party::Evaluator, Death::AtOnce, Fault::Silent);
}

#[test]
#[should_panic(expected = "deadlock")]
fn ringing_does_not_wake_a_worker_whose_waker_died() {
    check(Party::Evaluator, Death::Waking, Fault::Rings);
}

#[test]
#[should_panic(expected = "deadlock")]
fn ringing_does_not_wake_an_evaluator_whose_waker_died() {
    check(Party::Worker, Death::Waking, Fault::Rings);
}

#[test]
#[should_panic(expected = "deadlock")]
fn an_owner_that_is_not_told_sleeps_on() {
    check(Party::Worker, Death::AtOnce, Fault::Mute);
}

#[test]
#[should_panic(expected = "a stale request")]
fn a_ring_that_is_not_cleared_brings_a_stale_request() {
    check(Party::Worker, Death::Published, Fault::Unclean);
}

#[test]
#[should_panic(expected = "a stale reply")]
fn a_ring_that_is_not_cleared_brings_a_stale_reply() {
    check(Party::Evaluator, Death::Published, Fault::Unclean);
}
