//! What a message costs: round trips of real slots between two processes on two cores, through a
//! pair of rings (polling, and with parking), against the bare minimum of two atomic words, a pipe
//! and a Unix socket, all in the same run and in turns, so that all see the same machine; and slots
//! per second one way.

use super::StudyError;
use super::report::{Column, Table};
use super::stats::{quantile_unsorted, short};
use crate::engine::{RunError, reexec};
use crate::fault::Fault;
use crate::shm::{
    Consumer, Counters, CountersRegion, Doorbell, DoorbellRegion, GateRegion, Parking, Producer,
    RingRegion, Segment, SegmentLayout, liveness,
};
use crate::wire::{Reply, Request};
use bytemuck::Pod;
use hdrhistogram::Histogram;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write, pipe};
use std::ops::RangeInclusive;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Slots of either ring.
const CAPACITY: usize = 1024;
/// Longest wait for the other process.
const PATIENCE: Duration = Duration::from_secs(20);
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
    fn warm_up(self) -> u64 {
        self.trips / 10 + 1
    }

    /// Numbers of the round trips of a repetition.
    fn numbers(self, repetition: u64) -> RangeInclusive<u64> {
        let all = self.warm_up() + self.trips;
        repetition * all + 1..=(repetition + 1) * all
    }
}

/// Round trip times of one way, in nanoseconds.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct RoundTrip {
    pub way: &'static str,
    pub p50_ns: u64,
    pub p90_ns: u64,
    pub p99_ns: u64,
    pub p99_9_ns: u64,
    pub max_ns: u64,
    /// p50 over that of the bare atomics.
    pub times_atomics: f64,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct RingProfile {
    /// The two cores.
    pub cores: [usize; 2],
    /// By way.
    pub round_trips: Vec<RoundTrip>,
    /// One way through a ring, polling, slots per second: median of the repetitions.
    pub slots_per_s: f64,
    /// The best of them: what other work on the machine did not hold up.
    pub slots_per_s_best: f64,
    /// Bytes of a request's slot.
    pub slot_bytes: usize,
}

/// One process's word and doorbell.
#[derive(Clone, Copy)]
struct Side {
    word: CountersRegion,
    bell: DoorbellRegion,
}

struct ProfileRegions {
    requests: RingRegion<Request>,
    replies: RingRegion<Reply>,
    measuring: Side,
    echoing: Side,
    start: GateRegion,
}

fn profile_regions() -> (SegmentLayout, ProfileRegions) {
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

fn failed(cause: impl Into<String>) -> StudyError {
    Fault::new(cause, "").into()
}

fn shm(error: impl Into<RunError>) -> StudyError {
    StudyError::Run(error.into())
}

fn io(error: std::io::Error) -> StudyError {
    StudyError::file("use", Path::new("pipe or socket"))(error)
}

fn silent() -> StudyError {
    failed(format!(
        "the other process said nothing for {} s",
        PATIENCE.as_secs()
    ))
}

/// Polls until something is there; a look at the clock now and then.
fn poll<T>(mut look: impl FnMut() -> Result<Option<T>, StudyError>) -> Result<T, StudyError> {
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
struct Endpoints<S, R> {
    outgoing: Producer<S>,
    incoming: Consumer<R>,
    own_word: Counters,
    other_word: Counters,
    own_bell: Doorbell,
    other_bell: Doorbell,
    streams: Streams,
}

/// The ways outside the segment.
struct Streams {
    output: Box<dyn Write>,
    input: Box<dyn Read>,
    socket: UnixStream,
}

impl<S: Pod, R: Pod> Endpoints<S, R> {
    fn open(
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

    fn push(&mut self) -> Result<(), StudyError> {
        poll(|| Ok(self.outgoing.push(&S::zeroed()).is_ok().then_some(())))
    }

    fn pop(&mut self) -> Result<(), StudyError> {
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
    fn send(&mut self, way: usize, number: u64) -> Result<(), StudyError> {
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
    fn receive(&mut self, way: usize, number: u64) -> Result<(), StudyError> {
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

fn socket_address(segment: &str) -> Result<SocketAddr, StudyError> {
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

/// Measures between two cores.
///
/// # Errors
/// When the cores are not to be had, or the other process fails.
pub fn run(cores: [usize; 2], budget: RingBudget) -> Result<RingProfile, StudyError> {
    if cores[0] == cores[1] {
        let what = "profile ring needs two different cores: --cores 0,1 (see nproc, taskset)";
        return Err(StudyError::usage(what, ""));
    }
    let (layout, regions) = profile_regions();
    let config = serde_json::to_vec(&budget).unwrap_or_default();
    let segment = Segment::create(&layout, &config).map_err(shm)?;
    let listener = UnixListener::bind_addr(&socket_address(segment.name())?).map_err(io)?;
    let (peer_input, output) = pipe().map_err(io)?;
    let (input, peer_output) = pipe().map_err(io)?;
    let mut peer = reexec::command()
        .args(["ring-peer", "--segment", segment.name()])
        .args(["--parent", &std::process::id().to_string()])
        .args(["--core", &cores[1].to_string()])
        .stdin(Stdio::from(peer_input))
        .stdout(Stdio::from(peer_output))
        .spawn()
        .map_err(io)?;
    liveness::pin_to_core(cores[0]).map_err(shm)?;
    listener.set_nonblocking(true).map_err(io)?;
    let streams = Streams {
        output: Box::new(output),
        input: Box::new(input),
        socket: accept(&listener, &mut peer)?,
    };
    let (rings, sides) = (
        (regions.requests, regions.replies),
        [regions.measuring, regions.echoing],
    );
    let mut ends = Endpoints::open(&segment, rings, sides, streams)?;
    let start = segment.gate(regions.start).map_err(shm)?;
    start.open().map_err(shm)?;
    let measured = measure(&mut ends, budget);
    // A peer without its measurer would poll on.
    if measured.is_err() {
        let _ = peer.kill();
    }
    let _ = peer.wait();
    let (histograms, rates) = measured?;
    let base = histograms[0].value_at_quantile(0.5).max(1);
    let trip = |(way, times): (&'static str, &Histogram<u64>)| RoundTrip {
        way,
        p50_ns: times.value_at_quantile(0.5),
        p90_ns: times.value_at_quantile(0.9),
        p99_ns: times.value_at_quantile(0.99),
        p99_9_ns: times.value_at_quantile(0.999),
        max_ns: times.max(),
        times_atomics: times.value_at_quantile(0.5) as f64 / base as f64,
    };
    Ok(RingProfile {
        cores,
        round_trips: WAYS.into_iter().zip(&histograms).map(trip).collect(),
        slots_per_s: quantile_unsorted(&rates, 0.5),
        slots_per_s_best: quantile_unsorted(&rates, 1.0),
        slot_bytes: size_of::<Request>() + 8,
    })
}

/// Waits for the peer's connection, or its end.
fn accept(listener: &UnixListener, peer: &mut Child) -> Result<UnixStream, StudyError> {
    let since = Instant::now();
    loop {
        match listener.accept() {
            Ok((socket, _)) => {
                socket.set_nonblocking(false).map_err(io)?;
                return Ok(socket);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(io(error)),
        }
        if let Ok(Some(status)) = peer.try_wait() {
            let what = format!("the echoing process ended ({status})");
            return Err(Fault::new(what, "see its message above").into());
        }
        if since.elapsed() > PATIENCE {
            return Err(silent());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Round trip times by way, and slots per second one way of each repetition.
fn measure(
    ends: &mut Endpoints<Request, Reply>,
    budget: RingBudget,
) -> Result<(Vec<Histogram<u64>>, Vec<f64>), StudyError> {
    // Up to a minute, three figures: `new` would start small, and saturate there.
    let histogram = Histogram::new_with_max(60_000_000_000, 3);
    let histogram = histogram.map_err(|error| failed(error.to_string()))?;
    let mut histograms = vec![histogram; budget.ways];
    for repetition in 0..budget.repetitions {
        for (way, histogram) in histograms.iter_mut().enumerate() {
            for (trip, number) in (0..).zip(budget.numbers(repetition)) {
                let start = Instant::now();
                ends.send(way, number)?;
                ends.receive(way, number)?;
                if trip >= budget.warm_up() {
                    histogram.saturating_record(start.elapsed().as_nanos() as u64);
                }
            }
        }
    }
    let mut rates = Vec::new();
    for _ in 0..budget.repetitions {
        let start = Instant::now();
        for _ in 0..budget.streamed {
            ends.push()?;
        }
        ends.pop()?;
        rates.push(budget.streamed as f64 / start.elapsed().as_secs_f64());
    }
    Ok((histograms, rates))
}

impl RingProfile {
    /// The table for the terminal.
    pub fn table(&self) -> String {
        let [first, second] = self.cores;
        let columns = ["p50", "p90", "p99", "p99.9", "max", "x atomics"];
        let columns = columns.map(|name| Column::number(name, ""));
        let row = |trip: &RoundTrip| {
            let times = [
                trip.p50_ns,
                trip.p90_ns,
                trip.p99_ns,
                trip.p99_9_ns,
                trip.max_ns,
            ];
            let ratio = format!("{:.2}", trip.times_atomics);
            let cells = times.iter().map(u64::to_string);
            [trip.way.to_owned()]
                .into_iter()
                .chain(cells)
                .chain([ratio])
                .collect()
        };
        let table = Table {
            columns: [Column::text("")].into_iter().chain(columns).collect(),
            rows: self.round_trips.iter().map(row).collect(),
        };
        format!(
            "round trip between cores {first} and {second}, ns\n{}\
             one way, polling: {} slots of {} bytes per second (best repetition {})",
            table.to_text(),
            short(self.slots_per_s),
            self.slot_bytes,
            short(self.slots_per_s_best)
        )
    }
}

/// The first two cores this process may use.
pub fn default_cores() -> Option<[usize; 2]> {
    let allowed = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).ok()?;
    let mut cores =
        (0..nix::sched::CpuSet::count()).filter(|&core| allowed.is_set(core).unwrap_or(false));
    Some([cores.next()?, cores.next()?])
}
