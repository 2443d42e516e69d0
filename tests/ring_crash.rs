//! A crash model of the ring, and of the journal: on memory that counts every atomic access, one
//! end of the ring is stopped for good before each of its accesses in turn (after which the other
//! end works on, or is at work in between), and then either a successor takes its place in what was
//! left behind, or the owner clears and reopens the ring under a new epoch. All states of a small
//! ring, all steps, exhaustively. What must hold: no slot is torn or invented, nothing of an
//! earlier epoch is taken in a later one, what was published arrives (a slot the consumer died over
//! arrives again), and the survivor never meets an error or a standstill. Of the journal: whoever
//! takes over an entry finds what was there before the write the writer died in, or after it.
//!
//! Memory is sequentially consistent here: which accesses may be reordered is loom's subject
//! (`handover_loom`, `ring_loom`), and a store that a process has made is seen by others whether it
//! lives on or not.

#![allow(clippy::unwrap_used)]

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::atomic::Ordering;

use ringmaster::shm::{
    Consumer, HANDOVER_WORDS, Handover, Journal, JournalPlace, Party, Producer, PushError, Word,
    Words, clear, journal_entry_words, ring_words,
};

type Slot = [u64; 3];

const CAPACITY: usize = 4;
const LAPS: u64 = 2;

/// What a process is thrown with when its last step has come.
struct Killed;

/// Something another process does in the middle of a step.
type Meanwhile = Box<dyn FnMut()>;

/// Accesses a process may still make, and what happens before one of them.
#[derive(Default)]
struct Fate {
    taken: Cell<usize>,
    last: Cell<Option<usize>>,
    meanwhile: RefCell<Option<(usize, Meanwhile)>>,
}

impl Fate {
    fn step(&self) {
        let taken = self.taken.get();
        let due = self
            .meanwhile
            .borrow()
            .as_ref()
            .is_some_and(|(at, _)| *at == taken);
        if due && let Some((_, mut act)) = self.meanwhile.take() {
            act();
        }
        if self.last.get() == Some(taken) {
            resume_unwind(Box::new(Killed));
        }
        self.taken.set(taken + 1);
    }
}

/// A word as one process sees it.
struct CountedWord {
    cell: Rc<Cell<u64>>,
    fate: Rc<Fate>,
}

impl Word for CountedWord {
    fn load(&self, _: Ordering) -> u64 {
        self.fate.step();
        self.cell.get()
    }
    fn store(&self, value: u64, _: Ordering) {
        self.fate.step();
        self.cell.set(value);
    }
}

/// Memory as one process sees it.
#[derive(Clone)]
struct View {
    words: Rc<[CountedWord]>,
    fate: Rc<Fate>,
}

impl View {
    fn zeroed(count: usize) -> Self {
        View::over((0..count).map(|_| Rc::new(Cell::new(0))))
    }
    /// The same memory, as another process sees it.
    fn of_another(&self) -> Self {
        View::over(self.words.iter().map(|word| Rc::clone(&word.cell)))
    }
    fn over(cells: impl Iterator<Item = Rc<Cell<u64>>>) -> Self {
        let fate = Rc::new(Fate::default());
        let word = |cell| CountedWord {
            cell,
            fate: Rc::clone(&fate),
        };
        View {
            words: cells.map(word).collect(),
            fate,
        }
    }
    /// Runs `act` as this process, killed before its access number `last`; true if it came to the
    /// end.
    fn run(&self, last: usize, act: impl FnOnce()) -> bool {
        self.fate.taken.set(0);
        self.fate.last.set(Some(last));
        let result = catch_unwind(AssertUnwindSafe(act));
        self.fate.last.set(None);
        match result {
            Ok(()) => true,
            Err(thrown) if thrown.is::<Killed>() => false,
            Err(thrown) => resume_unwind(thrown),
        }
    }
    /// Has `act` done before access number `at` of the next `run`.
    fn meanwhile(&self, at: usize, act: impl FnMut() + 'static) {
        *self.fate.meanwhile.borrow_mut() = Some((at, Box::new(act)));
    }
}

impl Words for View {
    type Word = CountedWord;
    fn len(&self) -> usize {
        self.words.len()
    }
    fn words(&self, first: usize, count: usize) -> &[CountedWord] {
        &self.words[first..first + count]
    }
}

fn slot(number: u64) -> Slot {
    [number + 1, !number, number << 32]
}

/// A ring after `popped` slots have gone through and `held` more were pushed; both ends.
struct State {
    memory: View,
    producer: Producer<Slot, View>,
    consumer: Rc<RefCell<Taking>>,
    /// The memory as the two ends see it.
    views: [View; 2],
}

/// The consuming end and the number of the slot it must get next.
struct Taking {
    consumer: Consumer<Slot, View>,
    next: u64,
}

impl Taking {
    /// Takes up to `most` slots, each whole and in order; how many.
    fn take(&mut self, most: usize) -> usize {
        for taken in 0..most {
            match self.consumer.pop().unwrap() {
                Some(found) => assert_eq!(found, slot(self.next), "torn, stale or out of order"),
                None => return taken,
            }
            self.next += 1;
        }
        most
    }
}

fn state(popped: u64, held: u64) -> State {
    let memory = View::zeroed(ring_words::<Slot>(CAPACITY));
    let views = [memory.of_another(), memory.of_another()];
    let mut producer = Producer::attach(views[0].clone(), CAPACITY).unwrap();
    let consumer = Consumer::attach(views[1].clone(), CAPACITY).unwrap();
    let mut taking = Taking { consumer, next: 0 };
    for number in 0..popped {
        producer.push(&slot(number)).unwrap();
        assert_eq!(taking.take(2), 1);
    }
    for number in popped..popped + held {
        producer.push(&slot(number)).unwrap();
    }
    State {
        memory,
        producer,
        consumer: Rc::new(RefCell::new(taking)),
        views,
    }
}

/// Every state of the ring over two laps: `(popped, held)`.
fn states() -> impl Iterator<Item = (u64, u64)> {
    let capacity = CAPACITY as u64;
    (0..=LAPS * capacity).flat_map(move |popped| (0..=capacity).map(move |held| (popped, held)))
}

/// Calls `case` with 0, 1, 2, ... until it returns true: an operation has been ended before each of
/// its accesses.
fn at_every_step(mut case: impl FnMut(usize) -> bool) -> usize {
    let mut step = 0;
    while !case(step) {
        step += 1;
        assert!(step < 1000, "an operation of one slot does not end");
    }
    step
}

/// Pushes `number` and those after it until all of a lap more have gone through: the ring is in
/// order.
fn goes_on(producer: &mut Producer<Slot, View>, consumer: &RefCell<Taking>) {
    let mut number = producer.position();
    let end = number + 2 * CAPACITY as u64;
    while number < end {
        match producer.push(&slot(number)) {
            Ok(()) => number += 1,
            Err(PushError::Full) => assert!(consumer.borrow_mut().take(1) == 1, "a standstill"),
            Err(error) => panic!("{error}"),
        }
    }
    consumer.borrow_mut().take(CAPACITY + 1);
    assert_eq!(consumer.borrow().next, end, "a slot is lost");
}

/// A successor attaches as `attach` says, itself killed at every step before one lives; the
/// consumer may take `between` slots.
fn producer_succeeds(state: &State, between: usize) {
    let taking = Rc::clone(&state.consumer);
    at_every_step(|step| {
        let view = state.memory.of_another();
        view.run(step, || {
            Producer::<Slot, _>::attach(view.clone(), CAPACITY).unwrap();
        })
    });
    taking.borrow_mut().take(between);
    let mut successor = Producer::attach(state.memory.of_another(), CAPACITY).unwrap();
    goes_on(&mut successor, &taking);
}

#[test]
fn a_producer_dies_at_every_step_and_another_takes_its_place() {
    let mut cases = 0;
    for (popped, held) in states() {
        // What the consumer takes in the middle of the push, after it, and between two successors.
        for take in 0..27 {
            let [middle, after, between] = [take % 3, take / 3 % 3, take / 9];
            for at in 0..8 {
                at_every_step(|step| {
                    cases += 1;
                    let mut state = state(popped, held);
                    let number = state.producer.position();
                    let taking = Rc::clone(&state.consumer);
                    state.views[0].meanwhile(at, move || {
                        taking.borrow_mut().take(middle);
                    });
                    let done =
                        state.views[0].run(step, || match state.producer.push(&slot(number)) {
                            Ok(()) | Err(PushError::Full) => {}
                            Err(error) => panic!("{error}"),
                        });
                    state.consumer.borrow_mut().take(after);
                    producer_succeeds(&state, between);
                    done
                });
                if middle == 0 {
                    break;
                }
            }
        }
    }
    println!("{cases} cases");
}

#[test]
fn a_producer_that_dies_has_published_all_or_nothing() {
    for (popped, held) in states().filter(|&(_, held)| held < CAPACITY as u64) {
        let mut published = Vec::new();
        at_every_step(|step| {
            let mut state = state(popped, held);
            let number = state.producer.position();
            let done = state.views[0].run(step, || state.producer.push(&slot(number)).unwrap());
            let taken = state.consumer.borrow_mut().take(CAPACITY + 1) as u64;
            published.push(taken - held);
            done
        });
        // Not there up to some step, there from then on, and there when the push returned.
        assert!(published.is_sorted() && published[0] == 0 && published.last() == Some(&1));
    }
}

#[test]
fn a_consumer_dies_at_every_step_and_another_takes_its_place() {
    for (popped, held) in states() {
        for pushes in 0..3 {
            at_every_step(|step| {
                let mut state = state(popped, held);
                let got = Rc::new(Cell::new(false));
                let done = state.views[1].run(step, || {
                    got.set(state.consumer.borrow_mut().take(1) == 1);
                });
                for _ in 0..pushes {
                    let number = state.producer.position();
                    match state.producer.push(&slot(number)) {
                        Ok(()) | Err(PushError::Full) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                at_every_step(|step| {
                    let view = state.memory.of_another();
                    view.run(step, || {
                        Consumer::<Slot, _>::attach(view.clone(), CAPACITY).unwrap();
                    })
                });
                let consumer = Consumer::attach(state.memory.of_another(), CAPACITY).unwrap();
                // The slot it died over comes again, unless it had said that it was done with it.
                let next = popped + u64::from(got.get());
                assert_eq!(consumer.position(), next);
                let taking = RefCell::new(Taking { consumer, next });
                goes_on(&mut state.producer, &taking);
                done
            });
        }
    }
}

/// What `engine::child::Link` does when it looks at the handover.
fn follow(handover: &Handover<View>, party: Party, seen: &mut Option<u64>) -> Option<bool> {
    let epoch = handover.epoch();
    if *seen == Some(epoch) {
        return None;
    }
    *seen = Some(epoch);
    if !epoch.is_multiple_of(2) {
        handover.acknowledge(party, epoch);
    }
    Some(epoch.is_multiple_of(2))
}

/// Slots carry their epoch, so that a stale one shows.
fn of_epoch(epoch: u64, number: u64) -> Slot {
    slot((epoch << 32) + number)
}

/// One party works, dies before its access number `step` (in the ring or in the handover, itself
/// closed or not), and the owner clears the ring for its successor and the survivor. True if the
/// party came to the end alive.
fn taken_back(popped: u64, held: u64, victim: Party, step: usize, closed: bool) -> bool {
    let mut state = state(popped, held);
    let agreement = View::zeroed(HANDOVER_WORDS);
    let owner = Handover::new(agreement.clone());
    let view = agreement.of_another();
    let (number, mut seen) = (state.producer.position(), Some(0));
    if closed {
        owner.close();
    }
    // One process, two regions: both count for its fate.
    let ring_view = &state.views[usize::from(victim == Party::Evaluator)];
    let ring_steps = Cell::new(usize::MAX);
    let lived = ring_view.run(step, || {
        if victim == Party::Worker {
            let _ = state.producer.push(&of_epoch(0, number));
        } else {
            let _ = state.consumer.borrow_mut().consumer.pop();
        }
        ring_steps.set(ring_view.fate.taken.get());
    }) && view.run(step - ring_steps.get(), || {
        follow(&Handover::new(view.clone()), victim, &mut seen);
    });

    // The owner: closes, hears the survivor, clears, reopens.
    owner.close();
    let survivor = [Party::Worker, Party::Evaluator][usize::from(victim == Party::Worker)];
    let other = Handover::new(agreement.of_another());
    let mut seen_by_other = Some(0);
    assert_eq!(follow(&other, survivor, &mut seen_by_other), Some(false));
    assert!(owner.is_acknowledged(survivor));
    assert_eq!(
        owner.is_acknowledged(victim),
        lived && closed,
        "an acknowledgement is of its own epoch"
    );
    clear(&state.memory);
    owner.reopen();
    assert_eq!(follow(&other, survivor, &mut seen_by_other), Some(true));
    let epoch = owner.epoch();

    // Both ends anew, in either order: empty, and then as good as any.
    let mut consumer = Consumer::<Slot, _>::attach(state.memory.of_another(), CAPACITY).unwrap();
    assert_eq!(consumer.pop(), Ok(None), "something of an earlier epoch");
    let mut producer = Producer::attach(state.memory.of_another(), CAPACITY).unwrap();
    for number in 0..2 * CAPACITY as u64 {
        producer.push(&of_epoch(epoch, number)).unwrap();
        assert_eq!(consumer.pop(), Ok(Some(of_epoch(epoch, number))));
    }
    lived
}

#[test]
fn a_party_dies_at_every_step_and_the_ring_is_taken_back() {
    for (popped, held) in states() {
        for victim in [Party::Worker, Party::Evaluator] {
            for closed in [false, true] {
                at_every_step(|step| taken_back(popped, held, victim, step, closed));
            }
        }
    }
}

#[test]
fn the_model_sees_a_ring_that_is_not_cleared() {
    let state = state(1, 2);
    let mut consumer = Consumer::<Slot, _>::attach(state.memory.of_another(), CAPACITY).unwrap();
    assert!(consumer.pop().unwrap().is_some());
}

/// What is kept in the only entry of a journal, as somebody finds it who looks at `memory`; and the
/// place to go on at.
fn kept(memory: &View, sides: usize) -> (Vec<u64>, JournalPlace) {
    let mut words = Vec::new();
    let journal = Journal::new(memory.of_another(), 1, JOURNAL_ROOM, sides);
    let place = journal.read(0, &mut words);
    (words, place)
}

const JOURNAL_ROOM: usize = 12;

/// What a writer may do next to an entry: begin anew, or add so many words.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Write {
    Begin(u64),
    Add(u64),
}

impl Write {
    fn words(self) -> Vec<u64> {
        let (Write::Begin(count) | Write::Add(count)) = self;
        (0..count).map(|number| !number << 20).collect()
    }

    fn make(self, journal: &Journal<View>, place: &mut JournalPlace) {
        let done = match self {
            Write::Begin(_) => journal.begin(0, place, &self.words()),
            Write::Add(_) => journal.add(0, place, &self.words()),
        };
        assert!(done, "there is room");
    }

    /// What is kept after it, if `before` was kept until then.
    fn after(self, before: &[u64]) -> Vec<u64> {
        match self {
            Write::Begin(_) => self.words(),
            Write::Add(_) => [before, &self.words()].concat(),
        }
    }
}

#[test]
fn a_writer_of_the_journal_dies_at_every_step_and_another_goes_on() {
    const WRITES: [Write; 6] = [
        Write::Begin(0),
        Write::Begin(1),
        Write::Begin(4),
        Write::Add(0),
        Write::Add(1),
        Write::Add(3),
    ];
    let pairs = WRITES
        .into_iter()
        .flat_map(|first| WRITES.map(|last| (first, last)));
    for (sides, (first, last)) in [1, 2]
        .into_iter()
        .flat_map(|n| pairs.clone().map(move |p| (n, p)))
    {
        let mut found = Vec::new();
        at_every_step(|step| {
            let memory = View::zeroed(journal_entry_words(JOURNAL_ROOM, sides));
            let view = memory.of_another();
            let journal = Journal::new(view.clone(), 1, JOURNAL_ROOM, sides);
            let mut place = JournalPlace::default();
            Write::Begin(2).make(&journal, &mut place);
            first.make(&journal, &mut place);
            let (before, _) = kept(&memory, sides);
            assert_eq!(before, first.after(&Write::Begin(2).words()));
            let lived = view.run(step, || last.make(&journal, &mut place));
            let (words, mut place) = kept(&memory, sides);
            let after = last.after(&before);
            found.push(words == after);
            // On one side, beginning anew overwrites: then nothing is kept, at the worst.
            let is_lost = words.is_empty() && sides == 1 && matches!(last, Write::Begin(_));
            assert!(
                words == after || words == before || is_lost,
                "{first:?} {last:?} {words:?}"
            );
            // Whatever was found, a successor goes on with it.
            let journal = Journal::new(memory.of_another(), 1, JOURNAL_ROOM, sides);
            Write::Add(2).make(&journal, &mut place);
            assert_eq!(kept(&memory, sides).0, Write::Add(2).after(&words));
            lived
        });
        assert!(
            found.is_sorted() && found.last() == Some(&true),
            "{first:?} {last:?} {found:?}"
        );
    }
}
