//! Either process of the profile: its ends of all the ways that a message can take, and the process
//! that echoes what the measuring one sends.

use crate::engine::RunError;
use crate::fault::Fault;
use crate::measure::StudyError;
use crate::shm::{
    Consumer, Counters, CountersRegion, Doorbell, DoorbellRegion, GateRegion, Parking, Producer,
    RingRegion, Segment, SegmentLayout, liveness,
};
use crate::wire::{Reply, Request};
use bytemuck::Pod;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::ops::RangeInclusive;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// Slots of either ring.
const CAPACITY: usize = 1024;
/// Longest wait for the other process.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// Polls between looks at the clock.
const POLLS_PER_CLOCK: u32 = 1 << 16;

/// How much is measured.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct RingBudget {
    /// How many of [`WAYS`], from the first.
    pub ways: usize,
    /// Round trips timed per repetition of each way.
    pub trips: u64,
    /// Repetitions, in turns.
    pub repetitions: u64,
    /// Slots sent one way per repetition.
    pub streamed: u64,
}

impl RingBudget {
    /// Round trips that only warm up, per repetition of each way.
    pub(super) fn warm_up(self) -> u64 {
        self.trips / 10 + 1
    }

    /// Numbers of the round trips of a repetition.
    pub(super) fn numbers(self, repetition: u64) -> RangeInclusive<u64> {
        let all = self.warm_up() + self.trips;
        repetition * all + 1..=(repetition + 1) * all
    }
}

/// One process's word and doorbell.
#[derive(Clone, Copy)]
pub(super) struct Side {
    word: CountersRegion,
    bell: DoorbellRegion,
}

pub(super) struct ProfileRegions {
    pub requests: RingRegion<Request>,
    pub replies: RingRegion<Reply>,
    pub measuring: Side,
    pub echoing: Side,
    pub start: GateRegion,
}

pub(super) fn profile_regions() -> (SegmentLayout, ProfileRegions) {
    let mut layout = SegmentLayout::default();
    let (requests, replies) = (layout.ring(CAPACITY), layout.ring(CAPACITY));
    let [measuring, echoing] = [(); 2].map(|()| Side {
        word: layout.counters(1),
        bell: layout.doorbell(),
    });
    let regions = ProfileRegions {
        requests,
        replies,
        measuring,
        echoing,
        start: layout.gate(),
    };
    (layout, regions)
}

pub(super) fn failed(cause: impl Into<String>) -> StudyError {
    Fault::new(cause, "").into()
}

pub(super) fn shm(error: impl Into<RunError>) -> StudyError {
    StudyError::Run(error.into())
}

pub(super) fn io(error: std::io::Error) -> StudyError {
    StudyError::file("use", Path::new("pipe or socket"))(error)
}

pub(super) fn silent() -> StudyError {
    failed(format!(
        "the other process said nothing for {} s",
        PATIENCE.as_secs()
    ))
}

/// Polls until something is there; a look at the clock now and then.
pub(super) fn poll<T>(
    mut look: impl FnMut() -> Result<Option<T>, StudyError>,
) -> Result<T, StudyError> {
    let mut polls = 0_u32;
    let mut since = None;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        std::hint::spin_loop();
        polls = polls.wrapping_add(1);
        if polls.is_multiple_of(POLLS_PER_CLOCK)
            && since.get_or_insert_with(Instant::now).elapsed() > PATIENCE
        {
            return Err(silent());
        }
    }
}

/// The ways, in the order in which they are measured: those that never sleep come first.
pub const WAYS: [&str; 5] = [
    "two atomics",
    "two rings, polling",
    "two rings, parking",
    "two pipes",
    "unix socket",
];

/// What travels through pipe and socket.
const BYTES: [u8; size_of::<Reply>()] = [0; size_of::<Reply>()];

/// One process's ends of all ways; it sends slots of `S` and receives those of `R`.
pub(super) struct Endpoints<S, R> {
    outgoing: Producer<S>,
    incoming: Consumer<R>,
    own_word: Counters,
    other_word: Counters,
    own_bell: Doorbell,
    other_bell: Doorbell,
    streams: Streams,
}

/// The ways outside the segment.
pub(super) struct Streams {
    pub output: Box<dyn Write>,
    pub input: Box<dyn Read>,
    pub socket: UnixStream,
}

impl<S: Pod, R: Pod> Endpoints<S, R> {
    pub(super) fn open(
        segment: &Segment,
        (outgoing, incoming): (RingRegion<S>, RingRegion<R>),
        [own, other]: [Side; 2],
        streams: Streams,
    ) -> Result<Endpoints<S, R>, StudyError> {
        Ok(Endpoints {
            outgoing: segment.producer(outgoing).map_err(shm)?,
            incoming: segment.consumer(incoming).map_err(shm)?,
            own_word: segment.counters(own.word).map_err(shm)?,
            other_word: segment.counters(other.word).map_err(shm)?,
            own_bell: segment.doorbell(own.bell).map_err(shm)?,
            other_bell: segment.doorbell(other.bell).map_err(shm)?,
            streams,
        })
    }

    pub(super) fn push(&mut self) -> Result<(), StudyError> {
        poll(|| Ok(self.outgoing.push(&S::zeroed()).is_ok().then_some(())))
    }

    pub(super) fn pop(&mut self) -> Result<(), StudyError> {
        poll(|| Ok(self.incoming.pop().map_err(shm)?.map(drop)))
    }

    /// Takes a slot out of the ring, asleep until it is there.
    fn pop_parked(&mut self) -> Result<(), StudyError> {
        let ring = &mut self.incoming;
        while ring.pop().map_err(shm)?.is_none() {
            let is_there = || ring.is_ready().unwrap_or(true);
            let woken = self.own_bell.wait(Parking::PARK, PATIENCE, is_there);
            if !woken.is_ready() {
                return Err(silent());
            }
        }
        Ok(())
    }

    /// Half a round trip.
    pub(super) fn send(&mut self, way: usize, number: u64) -> Result<(), StudyError> {
        match way {
            0 => self.own_word.store(0, number),
            1 => self.push()?,
            2 => {
                self.push()?;
                self.other_bell.ring();
            }
            3 => {
                self.streams.output.write_all(&BYTES).map_err(io)?;
                self.streams.output.flush().map_err(io)?;
            }
            _ => self.streams.socket.write_all(&BYTES).map_err(io)?,
        }
        Ok(())
    }

    /// The other half.
    pub(super) fn receive(&mut self, way: usize, number: u64) -> Result<(), StudyError> {
        match way {
            0 => poll(|| Ok((self.other_word.load(0) == number).then_some(()))),
            1 => self.pop(),
            2 => self.pop_parked(),
            3 => self
                .streams
                .input
                .read_exact(&mut BYTES.clone())
                .map_err(io),
            _ => self
                .streams
                .socket
                .read_exact(&mut BYTES.clone())
                .map_err(io),
        }
    }
}

pub(super) fn socket_address(segment: &str) -> Result<SocketAddr, StudyError> {
    SocketAddr::from_abstract_name(format!("ringmaster-profile{segment}")).map_err(io)
}

/// The echoing process. Its stdin and stdout are the pipes.
///
/// # Errors
/// When the segment is not to be had or the other process falls silent.
pub fn serve(name: &str, parent: u32, core: usize) -> Result<(), StudyError> {
    liveness::signal_on_parent_end(parent, Signal::SIGKILL).map_err(shm)?;
    liveness::pin_to_core(core).map_err(shm)?;
    let (layout, regions) = profile_regions();
    let segment = Segment::open(name).map_err(shm)?;
    segment.check(&layout).map_err(shm)?;
    let config = segment.config().map_err(shm)?;
    let budget: RingBudget = serde_json::from_slice(&config)
        .map_err(|error| failed(format!("the segment's settings: {error}")))?;
    let streams = Streams {
        output: Box::new(std::io::stdout().lock()),
        input: Box::new(std::io::stdin().lock()),
        socket: UnixStream::connect_addr(&socket_address(name)?).map_err(io)?,
    };
    let (rings, sides) = (
        (regions.replies, regions.requests),
        [regions.echoing, regions.measuring],
    );
    let mut ends = Endpoints::open(&segment, rings, sides, streams)?;
    let start = segment.gate(regions.start).map_err(shm)?;
    poll(|| Ok(start.is_open().then_some(())))?;
    for repetition in 0..budget.repetitions {
        for way in 0..budget.ways {
            for number in budget.numbers(repetition) {
                ends.receive(way, number)?;
                ends.send(way, number)?;
            }
        }
    }
    for _ in 0..budget.repetitions {
        for _ in 0..budget.streamed {
            ends.pop()?;
        }
        ends.push()?;
    }
    Ok(())
}
