//! Tests of the ring within one process: against a queue as model, with indices no peer would
//! write, and between threads.

#![allow(unsafe_code, clippy::unwrap_used)]

use proptest::prelude::*;
use ringmaster::shm::{
    Consumer, Corrupt, HeapWords, Producer, PushError, Word, Words, ring_on_heap, ring_words,
};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

type Slot = [u64; 14];

/// Words of a ring, as src/shm/ring.rs draws them.
const TAIL: usize = 0;
const HEAD: usize = 16;
const SLOTS: usize = 32;
const SLOT_WORDS: usize = 16;

fn slot(number: u64) -> Slot {
    std::array::from_fn(|word| {
        number
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(word as u32)
    })
}

fn fresh(
    capacity: usize,
) -> (
    HeapWords,
    Producer<Slot, HeapWords>,
    Consumer<Slot, HeapWords>,
) {
    let memory = HeapWords::zeroed(ring_words::<Slot>(capacity));
    let producer = Producer::attach(memory.clone(), capacity).unwrap();
    let consumer = Consumer::attach(memory.clone(), capacity).unwrap();
    (memory, producer, consumer)
}

/// A ring of four that six slots have gone through.
fn used() -> (
    HeapWords,
    Producer<Slot, HeapWords>,
    Consumer<Slot, HeapWords>,
) {
    let (memory, mut producer, mut consumer) = fresh(4);
    for number in 0..6 {
        producer.push(&slot(number)).unwrap();
        assert_eq!(consumer.pop(), Ok(Some(slot(number))));
    }
    (memory, producer, consumer)
}

fn write(memory: &HeapWords, word: usize, value: u64) {
    memory.words(word, 1)[0].store(value, Ordering::Release);
}

#[derive(Debug, Clone)]
enum Step {
    Push(u8),
    Pop(u8),
    SwapProducer,
    SwapConsumer,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0u8..12).prop_map(Step::Push),
        8 => (0u8..12).prop_map(Step::Pop),
        1 => Just(Step::SwapProducer),
        1 => Just(Step::SwapConsumer),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    #[test]
    fn behaves_as_a_bounded_queue(exponent in 1u32..5, steps in steps()) {
        let capacity = 1usize << exponent;
        let (memory, mut producer, mut consumer) = fresh(capacity);
        let mut model = VecDeque::new();
        let mut next = 0u64;
        for step in steps {
            match step {
                Step::Push(times) => for _ in 0..times {
                    let pushed = producer.push(&slot(next));
                    prop_assert_eq!(pushed == Ok(()), model.len() < capacity);
                    if pushed.is_ok() {
                        model.push_back(next);
                        next += 1;
                    } else {
                        prop_assert_eq!(pushed, Err(PushError::Full));
                    }
                },
                Step::Pop(times) => for _ in 0..times {
                    prop_assert_eq!(consumer.pop().unwrap(), model.pop_front().map(slot));
                },
                Step::SwapProducer => {
                    producer = Producer::attach(memory.clone(), capacity).unwrap();
                }
                Step::SwapConsumer => {
                    consumer = Consumer::attach(memory.clone(), capacity).unwrap();
                }
            }
            prop_assert_eq!(consumer.is_ready().unwrap(), !model.is_empty());
            prop_assert_eq!(producer.free().unwrap(), capacity - model.len());
            let positions = (producer.position(), consumer.position());
            prop_assert_eq!(positions, (next, next - model.len() as u64));
        }
    }

    #[test]
    fn impossible_values_are_errors_and_never_panics(
        writes in prop::collection::vec(
            (0usize..ring_words::<Slot>(4), prop_oneof![any::<u64>(), 0u64..20]),
            1..8,
        ),
    ) {
        let (memory, mut producer, mut consumer) = used();
        for (word, value) in writes {
            write(&memory, word, value);
            for number in 0..6 {
                let _ = producer.push(&slot(number));
            }
            prop_assert!(producer.free().is_err() || producer.free().unwrap() <= 4);
            for _ in 0..6 {
                let _ = consumer.pop();
            }
            let again = Producer::<Slot, _>::attach(memory.clone(), 4);
            let _ = again.map(|mut again| again.push(&slot(0)));
            let again = Consumer::<Slot, _>::attach(memory.clone(), 4);
            let _ = again.map(|mut again| again.pop());
        }
    }
}

#[test]
fn geometry() {
    assert_eq!(ring_words::<[u64; 1]>(2), 32 + 2 * 16);
    assert_eq!(
        ring_words::<[u64; 14]>(8),
        32 + 8 * 16,
        "112 bytes of payload travel in 128"
    );
    assert_eq!(ring_words::<[u64; 15]>(8), 32 + 8 * 16);
    assert_eq!(ring_words::<[u64; 16]>(8), 32 + 8 * 32);
    assert_eq!(ring_words::<[u64; 16]>(usize::MAX), usize::MAX);
    let (mut producer, mut consumer) = ring_on_heap::<[u32; 4]>(2);
    producer.push(&[1, 2, 3, 4]).unwrap();
    assert_eq!(consumer.pop().unwrap(), Some([1, 2, 3, 4]));
}

#[test]
#[should_panic(expected = "power of two")]
fn other_capacities_are_refused() {
    ring_on_heap::<Slot>(3);
}

#[test]
#[should_panic(expected = "too small")]
fn short_memory_is_refused() {
    let _ = Producer::<Slot, _>::attach(HeapWords::zeroed(ring_words::<Slot>(2)), 4);
}

#[test]
fn a_head_that_goes_back_or_passes_the_tail_is_corrupt() {
    for bad in [1, 7, 1000, u64::MAX] {
        let (memory, mut producer, _consumer) = used();
        producer.free().unwrap();
        write(&memory, HEAD, bad);
        let corrupt = Corrupt {
            what: "the ring's head",
            found: bad,
            low: 6,
            high: 6,
        };
        assert_eq!(producer.free(), Err(corrupt));
        for number in 6..10 {
            producer.push(&slot(number)).unwrap();
        }
        if bad != 7 {
            assert!(
                matches!(producer.push(&slot(10)), Err(PushError::Corrupt(_))),
                "{bad}"
            );
        }
    }
}

#[test]
fn a_sequence_of_another_lap_is_corrupt() {
    let (memory, _producer, mut consumer) = used();
    let first = SLOTS + 6 % 4 * SLOT_WORDS;
    for honest in [3, 7] {
        write(&memory, first, honest);
        assert_eq!(consumer.is_ready(), Ok(honest == 7));
    }
    for bad in [0, 2, 4, 6, 8, 11, u64::MAX] {
        write(&memory, first, bad);
        let corrupt = Corrupt {
            what: "a slot's sequence number",
            found: bad,
            low: 3,
            high: 7,
        };
        assert_eq!(consumer.is_ready(), Err(corrupt));
        assert_eq!(consumer.pop(), Err(corrupt));
    }
    assert_eq!(consumer.position(), 6);
}

#[test]
fn a_producer_killed_before_it_stored_the_tail_is_taken_up() {
    for popped in [false, true] {
        let (memory, mut producer, mut consumer) = used();
        producer.push(&slot(6)).unwrap();
        write(&memory, TAIL, 6);
        if popped {
            assert_eq!(consumer.pop(), Ok(Some(slot(6))));
        }
        let mut successor = Producer::attach(memory.clone(), 4).unwrap();
        assert_eq!(successor.position(), 7);
        successor.push(&slot(7)).unwrap();
        if !popped {
            assert_eq!(consumer.pop(), Ok(Some(slot(6))));
        }
        assert_eq!(consumer.pop(), Ok(Some(slot(7))));
        assert_eq!(consumer.pop(), Ok(None));
    }
}

#[test]
fn impossible_indices_are_refused_when_attaching() {
    for (head, tail) in [
        (9, 6),
        (8, 6),
        (7, 6),
        (0, 6),
        (u64::MAX, 6),
        (6, u64::MAX),
        (u64::MAX, u64::MAX),
    ] {
        let (memory, _producer, _consumer) = used();
        write(&memory, HEAD, head);
        write(&memory, TAIL, tail);
        assert!(
            Producer::<Slot, _>::attach(memory.clone(), 4).is_err(),
            "{head} {tail}"
        );
        // A consumer cannot tell (7, 6) from a tail that lags by the slot it has taken.
        assert_eq!(
            Consumer::<Slot, _>::attach(memory, 4).is_err(),
            (head, tail) != (7, 6),
            "{head} {tail}"
        );
    }
}

/// A word whose relaxed accesses, those of the payload, are not atomic at all: sound if and only if
/// the sync points order them, which is what ThreadSanitizer then checks (scripts/tsan.sh).
struct PlainWord(AtomicU64);

impl Word for PlainWord {
    fn load(&self, order: Ordering) -> u64 {
        if order == Ordering::Relaxed {
            // SAFETY: the word lives; sync point P orders the producer's write before this read, R
            // this read before the next.
            unsafe { self.0.as_ptr().read() }
        } else {
            self.0.load(order)
        }
    }
    fn store(&self, value: u64, order: Ordering) {
        if order == Ordering::Relaxed {
            // SAFETY: as above.
            unsafe { self.0.as_ptr().write(value) }
        } else {
            self.0.store(value, order);
        }
    }
}

#[derive(Clone)]
struct PlainWords(Arc<[PlainWord]>);

impl Words for PlainWords {
    type Word = PlainWord;
    fn len(&self) -> usize {
        self.0.len()
    }
    fn words(&self, first: usize, count: usize) -> &[PlainWord] {
        &self.0[first..first + count]
    }
}

fn pass_between_threads<M: Words + Clone + Send>(memory: impl Fn(usize) -> M) {
    const SLOTS: u64 = if cfg!(debug_assertions) {
        50_000
    } else {
        1_000_000
    };
    for capacity in [2, 16, 1024] {
        let memory = memory(ring_words::<Slot>(capacity));
        let mut producer = Producer::<Slot, M>::attach(memory.clone(), capacity).unwrap();
        let mut consumer = Consumer::<Slot, M>::attach(memory, capacity).unwrap();
        thread::scope(|scope| {
            scope.spawn(move || {
                for number in 0..SLOTS {
                    while producer.push(&slot(number)).is_err() {
                        thread::yield_now();
                    }
                    assert!(producer.free().unwrap() <= capacity);
                }
            });
            scope.spawn(move || {
                for number in 0..SLOTS {
                    let found = loop {
                        match consumer.pop().unwrap() {
                            Some(found) => break found,
                            None => thread::yield_now(),
                        }
                    };
                    assert_eq!(found, slot(number));
                }
                assert_eq!(consumer.pop(), Ok(None));
            });
        });
    }
}

#[test]
fn between_threads_every_slot_arrives_once_and_in_order() {
    pass_between_threads(HeapWords::zeroed);
}

#[test]
fn between_threads_the_sync_points_alone_order_the_payload() {
    pass_between_threads(|count| {
        PlainWords((0..count).map(|_| PlainWord(AtomicU64::new(0))).collect())
    });
}

/// Writes a payload where `reserve` said, as a device would.
fn fill(memory: &HeapWords, offset: usize, payload: &Slot) {
    assert!(offset.is_multiple_of(8));
    for (index, &word) in payload.iter().enumerate() {
        memory.words(offset / 8 + index, 1)[0].store(word, Ordering::Relaxed);
    }
}

/// Reads a payload where `look` said.
fn peek(memory: &HeapWords, offset: usize) -> Slot {
    std::array::from_fn(|index| memory.words(offset / 8 + index, 1)[0].load(Ordering::Relaxed))
}

#[derive(Debug, Clone)]
enum PlaceStep {
    Push(u8),
    Reserve(u8),
    Publish(u8),
    Pop(u8),
    Look(u8),
    Release(u8),
}

fn place_steps() -> impl Strategy<Value = Vec<PlaceStep>> {
    let step = prop_oneof![
        (0u8..6).prop_map(PlaceStep::Push),
        (0u8..6).prop_map(PlaceStep::Reserve),
        (0u8..6).prop_map(PlaceStep::Publish),
        (0u8..6).prop_map(PlaceStep::Pop),
        (0u8..6).prop_map(PlaceStep::Look),
        (0u8..6).prop_map(PlaceStep::Release),
    ];
    prop::collection::vec(step, 0..300)
}

proptest! {
    #[test]
    fn in_place_and_by_copy_are_one_queue(exponent in 1u32..5, steps in place_steps()) {
        let capacity = 1usize << exponent;
        let (memory, mut producer, mut consumer) = fresh(capacity);
        let mut model: VecDeque<u64> = VecDeque::new();
        let (mut next, mut reserved, mut looked) = (0u64, 0usize, 0usize);
        for step in steps {
            match step {
                // Nothing is pushed between `reserve` and `publish`, nothing popped between `look`
                // and `release`.
                PlaceStep::Push(count) if reserved == 0 => for _ in 0..count {
                    match producer.push(&slot(next)) {
                        Ok(()) => { model.push_back(next); next += 1; }
                        Err(error) => {
                            prop_assert_eq!(error, PushError::Full);
                            prop_assert_eq!(model.len(), capacity);
                        }
                    }
                },
                PlaceStep::Reserve(count) => for _ in 0..count {
                    match producer.reserve(reserved) {
                        Ok(offset) => {
                            fill(&memory, offset, &slot(next + reserved as u64));
                            reserved += 1;
                        }
                        Err(error) => {
                            prop_assert_eq!(error, PushError::Full);
                            prop_assert_eq!(model.len() + reserved, capacity);
                        }
                    }
                },
                PlaceStep::Publish(count) => {
                    let count = reserved.min(count.into());
                    producer.publish(count);
                    for _ in 0..count { model.push_back(next); next += 1; }
                    reserved -= count;
                }
                PlaceStep::Pop(count) if looked == 0 => for _ in 0..count {
                    prop_assert_eq!(consumer.pop().unwrap(), model.pop_front().map(slot));
                },
                PlaceStep::Look(count) => for _ in 0..count {
                    match consumer.look(looked).unwrap() {
                        Some(offset) => {
                            prop_assert_eq!(peek(&memory, offset), slot(model[looked]));
                            looked += 1;
                        }
                        None => prop_assert_eq!(looked, model.len()),
                    }
                },
                PlaceStep::Release(count) => {
                    let count = looked.min(count.into());
                    consumer.release(count);
                    model.drain(..count);
                    looked -= count;
                }
                PlaceStep::Push(_) | PlaceStep::Pop(_) => {}
            }
            prop_assert_eq!(producer.position(), next);
        }
    }
}

#[test]
#[should_panic(expected = "only reserved slots")]
fn more_than_the_ring_holds_cannot_be_published() {
    let (_, mut producer, _consumer) = fresh(4);
    producer.publish(5);
}

#[test]
fn in_place_access_finds_what_no_peer_would_write() {
    let (memory, mut producer, consumer) = fresh(4);
    write(&memory, SLOTS, 77);
    assert!(consumer.look(0).is_err());
    // A head beyond the tail.
    write(&memory, HEAD, 9);
    for ahead in 0..4 {
        assert!(
            producer.reserve(ahead).is_ok(),
            "the head is looked at only when the ring seems full"
        );
    }
    assert!(matches!(producer.reserve(4), Err(PushError::Corrupt(_))));
}
