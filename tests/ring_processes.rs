//! Two real processes and one small ring: ten million slots of 112 bytes, each checked, with both
//! sides asleep whenever they would wait. The test runs itself again as the producer. It has a
//! deadline, so that a hang is a failure.

use std::env;
use std::process::{self, Child, Command, ExitCode};
use std::time::{Duration, Instant};

use ringmaster::shm::{
    DoorbellRegion, Parking, PushError, RingRegion, Segment, SegmentLayout, ShmError, liveness,
};

type Slot = [u64; 14];

const CAPACITY: usize = 64;
const SLOTS: u64 = 10_000_000;
const DEADLINE: Duration = Duration::from_secs(240);
/// A wait this long means that a wake-up was lost: the other side never pauses that long while it
/// lives.
const PATIENCE: Duration = Duration::from_secs(30);

struct Regions {
    ring: RingRegion<Slot>,
    filled: DoorbellRegion,
    emptied: DoorbellRegion,
}

fn lay_out() -> (SegmentLayout, Regions) {
    let mut layout = SegmentLayout::default();
    let regions = Regions {
        ring: layout.ring(CAPACITY),
        filled: layout.doorbell(),
        emptied: layout.doorbell(),
    };
    (layout, regions)
}

/// Every word depends on the number and on its own place.
fn slot(number: u64) -> Slot {
    std::array::from_fn(|word| {
        (number + 1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(5 * word as u32)
            ^ word as u64
    })
}

/// Sleeps at once or after some polls, in turns, so that both ways of waiting are met on every
/// side.
fn policy(number: u64) -> Parking {
    Parking::Park {
        spin: if number.is_multiple_of(3) { 0 } else { 200 },
    }
}

fn produce(name: &str, parent: u32) -> Result<(), ShmError> {
    liveness::signal_on_parent_end(parent, nix::sys::signal::Signal::SIGKILL)?;
    let segment = Segment::open(name)?;
    let config = segment.config()?;
    let (layout, regions) = lay_out();
    segment.check(&layout)?;
    assert_eq!(config, SLOTS.to_le_bytes());
    let mut ring = segment.producer(regions.ring)?;
    let (filled, emptied) = (
        segment.doorbell(regions.filled)?,
        segment.doorbell(regions.emptied)?,
    );
    for number in 0..SLOTS {
        loop {
            match ring.push(&slot(number)) {
                Ok(()) => break,
                Err(PushError::Full) => {
                    let woken = emptied.wait(policy(number), PATIENCE, || {
                        ring.free().is_ok_and(|free| free > 0)
                    });
                    assert!(
                        woken.is_ready(),
                        "no room for slot {number} in {PATIENCE:?}"
                    );
                }
                Err(PushError::Corrupt(error)) => return Err(error.into()),
            }
        }
        filled.ring();
    }
    Ok(())
}

/// The producing process, killed if the test ends before it does.
struct Producing(Child);

impl Drop for Producing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn consume() -> Result<(), Box<dyn std::error::Error>> {
    let (layout, regions) = lay_out();
    let segment = Segment::create(&layout, &SLOTS.to_le_bytes())?;
    let mut ring = segment.consumer(regions.ring)?;
    let (filled, emptied) = (
        segment.doorbell(regions.filled)?,
        segment.doorbell(regions.emptied)?,
    );
    let arguments = [
        "produce".to_owned(),
        segment.name().to_owned(),
        process::id().to_string(),
    ];
    let mut child = Producing(Command::new(env::current_exe()?).args(arguments).spawn()?);
    let start = Instant::now();
    let mut parked = 0u64;
    for number in 0..SLOTS {
        let found = loop {
            if let Some(found) = ring.pop()? {
                break found;
            }
            let woken = filled.wait(policy(number), PATIENCE, || ring.is_ready().unwrap_or(true));
            if !woken.is_ready() || start.elapsed() > DEADLINE {
                return Err(
                    format!("slot {number} has not come after {:?}", start.elapsed()).into(),
                );
            }
            parked += u64::from(woken == ringmaster::shm::WaitResult::Parked);
        };
        if found != slot(number) {
            return Err(format!("slot {number} holds {found:x?}").into());
        }
        emptied.ring();
    }
    if ring.pop()?.is_some() {
        return Err("more slots came than were sent".into());
    }
    if !child.0.wait()?.success() {
        return Err("the producing process failed".into());
    }
    println!(
        "{SLOTS} slots in {:.1} s, {parked} times asleep",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["produce", name, parent] => {
            produce(name, parent.parse().unwrap_or(0)).map_err(|error| error.to_string())
        }
        // Asked what tests there are, as test runners do.
        _ if arguments.contains(&"--list") => {
            println!("ring_processes: test");
            return ExitCode::SUCCESS;
        }
        _ => consume().map_err(|error| error.to_string()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("ring_processes: {message}");
            ExitCode::FAILURE
        }
    }
}
