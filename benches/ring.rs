//! What a ring costs: the round trip of a 112-byte slot through two rings between two processes
//! pinned to two cores, beside the bare minimum, a ping-pong of two atomic words between the same
//! two cores. The two take turns, so that both see the same machine. `cargo bench --bench ring [--
//! CORE CORE]` (cores 0 and 1 unless told).
#![allow(missing_docs)]

use std::env;
use std::hint::spin_loop;
use std::process::{self, Command, ExitCode};
use std::time::{Duration, Instant};

use ringmaster::shm::{
    Consumer, Counters, CountersRegion, GateRegion, Producer, RingRegion, Segment, SegmentLayout,
    ShmError, liveness,
};

type Slot = [u64; 14];

const CAPACITY: usize = 1024;
const REPETITIONS: usize = 20;
const ROUND_TRIPS: u64 = 50_000;
const WARM_UP: u64 = 2_000;
const STREAMED: u64 = 2_000_000;

struct Regions {
    requests: RingRegion<Slot>,
    replies: RingRegion<Slot>,
    ping: CountersRegion,
    pong: CountersRegion,
    start: GateRegion,
}

fn lay_out() -> (SegmentLayout, Regions) {
    let mut layout = SegmentLayout::default();
    let regions = Regions {
        requests: layout.ring(CAPACITY),
        replies: layout.ring(CAPACITY),
        ping: layout.counters(1),
        pong: layout.counters(1),
        start: layout.gate(),
    };
    (layout, regions)
}

fn pop(ring: &mut Consumer<Slot>) -> Slot {
    loop {
        match ring.pop() {
            Ok(Some(slot)) => return slot,
            Ok(None) => spin_loop(),
            Err(error) => panic!("{error}"),
        }
    }
}

fn push(ring: &mut Producer<Slot>, slot: &Slot) {
    while ring.push(slot).is_err() {
        spin_loop();
    }
}

fn await_value(counters: &Counters, value: u64) {
    while counters.load(0) != value {
        spin_loop();
    }
}

/// The echoing side.
fn serve(name: &str, parent: u32, core: usize) -> Result<(), ShmError> {
    liveness::signal_on_parent_end(parent, nix::sys::signal::Signal::SIGKILL)?;
    liveness::pin_to_core(core)?;
    let (layout, regions) = lay_out();
    let segment = Segment::open(name)?;
    segment.check(&layout)?;
    let mut requests = segment.consumer(regions.requests)?;
    let mut replies = segment.producer(regions.replies)?;
    let (ping, pong) = (
        segment.counters(regions.ping)?,
        segment.counters(regions.pong)?,
    );
    let start = segment.gate(regions.start)?;
    while !start.is_open() {
        spin_loop();
    }
    let trips = WARM_UP + ROUND_TRIPS;
    for repetition in 0..REPETITIONS as u64 {
        for trip in 1..=trips {
            await_value(&ping, repetition * trips + trip);
            pong.store(0, repetition * trips + trip);
        }
        for _ in 0..trips {
            let mut slot = pop(&mut requests);
            slot[13] ^= slot[0];
            push(&mut replies, &slot);
        }
    }
    for number in 0..STREAMED {
        assert_eq!(pop(&mut requests)[13], number);
    }
    push(&mut replies, &[0; 14]);
    Ok(())
}

/// Times every round trip, after some that only warm up.
fn round_trips(times: &mut Vec<Duration>, mut once: impl FnMut(u64)) {
    for trip in 1..=WARM_UP {
        once(trip);
    }
    for trip in WARM_UP + 1..=WARM_UP + ROUND_TRIPS {
        let start = Instant::now();
        once(trip);
        times.push(start.elapsed());
    }
}

struct Quantiles([u128; 5]);

fn quantiles(times: &[Duration]) -> Quantiles {
    let mut sorted: Vec<u128> = times.iter().map(Duration::as_nanos).collect();
    sorted.sort_unstable();
    let at = |permille: usize| sorted[(sorted.len() - 1) * permille / 1000];
    Quantiles([at(500), at(900), at(990), at(999), at(1000)])
}

fn print(name: &str, times: &[Duration]) {
    let Quantiles([p50, p90, p99, p999, max]) = quantiles(times);
    println!("{name:<22} {p50:>8} {p90:>8} {p99:>8} {p999:>8} {max:>10}");
}

fn measure(cores: [usize; 2]) -> Result<(), Box<dyn std::error::Error>> {
    let (layout, regions) = lay_out();
    let segment = Segment::create(&layout, b"")?;
    let arguments = [
        "serve",
        segment.name(),
        &process::id().to_string(),
        &cores[1].to_string(),
    ]
    .map(str::to_owned);
    let mut child = Command::new(env::current_exe()?).args(arguments).spawn()?;
    liveness::pin_to_core(cores[0])?;
    let mut requests = segment.producer(regions.requests)?;
    let mut replies = segment.consumer(regions.replies)?;
    let (ping, pong) = (
        segment.counters(regions.ping)?,
        segment.counters(regions.pong)?,
    );
    segment.gate(regions.start)?.open()?;

    let (mut bare, mut ring) = (Vec::new(), Vec::new());
    let mut ratios = Vec::new();
    for repetition in 0..REPETITIONS {
        let before = repetition as u64 * (WARM_UP + ROUND_TRIPS);
        round_trips(&mut bare, |trip| {
            ping.store(0, before + trip);
            await_value(&pong, before + trip);
        });
        round_trips(&mut ring, |trip| {
            push(&mut requests, &[trip; 14]);
            let reply = pop(&mut replies);
            assert!(reply[12] == trip && reply[13] == 0);
        });
        let last = repetition * ROUND_TRIPS as usize;
        ratios.push(quantiles(&ring[last..]).0[0] as f64 / quantiles(&bare[last..]).0[0] as f64);
    }
    let start = Instant::now();
    for number in 0..STREAMED {
        push(&mut requests, &[number; 14]);
    }
    pop(&mut replies);
    let streamed = start.elapsed().as_secs_f64();
    assert!(child.wait()?.success());

    println!("round trip, ns              p50      p90      p99    p99.9        max");
    print("two atomics", &bare);
    print("two rings, 112 bytes", &ring);
    ratios.sort_by(f64::total_cmp);
    println!(
        "ratio of the p50: {:.2} (each repetition by itself: {:.2} to {:.2}, median {:.2})",
        quantiles(&ring).0[0] as f64 / quantiles(&bare).0[0] as f64,
        ratios[0],
        ratios[ratios.len() - 1],
        ratios[ratios.len() / 2],
    );
    println!(
        "one way: {:.1} million slots/s, {:.2} GB/s of payload",
        STREAMED as f64 / streamed / 1e6,
        STREAMED as f64 * 0.112 / streamed / 1e6
    );
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", name, parent, core] => {
            serve(name, parent.parse().unwrap_or(0), core.parse().unwrap_or(0))
                .map_err(|error| error.to_string())
        }
        ["--test"] => Ok(()),
        [] => measure([0, 1]).map_err(|error| error.to_string()),
        [first, second] => match (first.parse(), second.parse()) {
            (Ok(first), Ok(second)) => measure([first, second]).map_err(|error| error.to_string()),
            _ => Err("usage: ring [CORE CORE]".to_owned()),
        },
        _ => Err("usage: ring [CORE CORE]".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
