//! The doorbell within one process: between threads, by the kernel's futex.
#![allow(clippy::unwrap_used)]

use ringmaster::shm::{Doorbell, Parking, WaitResult};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(30);

/// States of the word, as src/shm/parking.rs draws them.
const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;

fn doorbell() -> Doorbell<Arc<AtomicU32>> {
    Doorbell::new(Arc::default())
}

#[test]
fn work_that_is_there_needs_no_sleep() {
    for policy in [Parking::Poll, Parking::Park { spin: 0 }] {
        assert_eq!(
            doorbell().wait(policy, Duration::ZERO, || true),
            WaitResult::Polling
        );
    }
    let mut asked = 0;
    let woken = doorbell().wait(Parking::Park { spin: 10 }, LONG, || {
        asked += 1;
        asked == 5
    });
    assert_eq!((woken, asked), (WaitResult::Polling, 5));
}

#[test]
fn time_runs_out() {
    for policy in [
        Parking::Poll,
        Parking::Park { spin: 0 },
        Parking::Park { spin: 100 },
    ] {
        let start = Instant::now();
        let limit = Duration::from_millis(20);
        let word = Arc::new(AtomicU32::new(AWAKE));
        let bell = Doorbell::new(word.clone());
        assert_eq!(bell.wait(policy, limit, || false), WaitResult::TimedOut);
        assert!(start.elapsed() >= limit, "{policy:?} gave up early");
        assert_eq!(word.load(Ordering::Relaxed), AWAKE);
    }
}

#[test]
fn a_sleeper_is_woken_by_any_of_several_ringers() {
    let bell = doorbell();
    let done = AtomicU64::new(0);
    const ROUNDS: u64 = 2_000;
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    done.fetch_add(1, Ordering::Release);
                    bell.ring();
                    if round % 64 == 0 {
                        thread::yield_now();
                    }
                }
            });
        }
        for expected in 1..=2 * ROUNDS {
            let woken = bell.wait(Parking::Park { spin: 0 }, LONG, || {
                done.load(Ordering::Acquire) >= expected
            });
            assert!(woken.is_ready());
        }
    });
}

#[test]
fn ping_pong_asleep_loses_no_wake_up() {
    let bells = [doorbell(), doorbell()];
    let turn = AtomicU64::new(0);
    const TURNS: u64 = 4_000;
    thread::scope(|scope| {
        for me in 0..2u64 {
            let (bells, turn) = (&bells, &turn);
            scope.spawn(move || {
                for round in 0..TURNS {
                    let mine = 2 * round + me;
                    let ready = || turn.load(Ordering::Acquire) == mine;
                    assert!(
                        bells[me as usize]
                            .wait(Parking::Park { spin: 0 }, LONG, ready)
                            .is_ready()
                    );
                    turn.store(mine + 1, Ordering::Release);
                    bells[1 - me as usize].ring();
                }
            });
        }
    });
    assert_eq!(turn.load(Ordering::Relaxed), 2 * TURNS);
}

#[test]
fn wake_makes_a_sleeper_look_again() {
    let word = Arc::new(AtomicU32::new(AWAKE));
    let bell = Doorbell::new(word.clone());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            bell.wait(Parking::Park { spin: 0 }, LONG, || {
                stop.load(Ordering::Acquire)
            })
        });
        while word.load(Ordering::Relaxed) != ASLEEP {
            thread::yield_now();
        }
        stop.store(true, Ordering::Release);
        bell.wake();
        assert!(waiter.join().unwrap().is_ready());
    });
}
