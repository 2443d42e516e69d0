//! What a message costs: round trips of real slots between two processes on two cores, through a
//! pair of rings (polling, and with parking), against the bare minimum of two atomic words, a pipe
//! and a Unix socket, all in the same run and in turns, so that all see the same machine; and slots
//! per second one way.

use super::StudyError;
use super::stats::{quantile_unsorted, short};
use crate::engine::reexec;
use crate::shm::{
    Consumer, Counters, CountersRegion, Doorbell, DoorbellRegion, GateRegion, Parking, Producer,
    RingRegion, Segment, SegmentLayout, liveness,
};
use crate::wire::{Reply, Request};
use bytemuck::Zeroable;
use hdrhistogram::Histogram;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::OwnedFd;
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
const LOOK_EVERY: u32 = 1 << 16;
/// As in the engine: a look around before sleeping.
const PARKING: Parking = Parking::Park { spin: 32 };

/// How much is measured.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Effort {
    /// Round trips timed per repetition of each way.
    pub trips: u64,
    /// Repetitions, in turns.
    pub repetitions: u64,
    /// Slots sent one way per repetition.
    pub streamed: u64,
}

impl Effort {
    /// Round trips that only warm up, per repetition of each way.
    fn warm_up(self) -> u64 {
        self.trips / 10 + 1
    }

    fn all(self) -> u64 {
        self.warm_up() + self.trips
    }
}

/// Round trip times of one way, in nanoseconds.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Trip {
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
    pub round_trips: Vec<Trip>,
    /// One way through a ring, polling, slots per second: median of the repetitions.
    pub slots_per_s: f64,
    /// The best of them: what other work on the machine did not hold up.
    pub slots_per_s_best: f64,
    /// Bytes of a request's slot.
    pub slot_bytes: usize,
}

struct Regions {
    requests: RingRegion<Request>,
    replies: RingRegion<Reply>,
    ping: CountersRegion,
    pong: CountersRegion,
    bells: [DoorbellRegion; 2],
    start: GateRegion,
}

fn lay_out() -> (SegmentLayout, Regions) {
    let mut layout = SegmentLayout::default();
    let regions = Regions {
        requests: layout.ring(CAPACITY),
        replies: layout.ring(CAPACITY),
        ping: layout.counters(1),
        pong: layout.counters(1),
        bells: [layout.doorbell(), layout.doorbell()],
        start: layout.gate(),
    };
    (layout, regions)
}

fn silent() -> StudyError {
    let seconds = PATIENCE.as_secs();
    StudyError::Usage(format!("the other process said nothing for {seconds} s"))
}

fn shm(error: impl Into<crate::engine::RunError>) -> StudyError {
    StudyError::Run(error.into())
}

fn io(error: std::io::Error) -> StudyError {
    StudyError::file("use", Path::new("pipe or socket"))(error)
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
        if polls.is_multiple_of(LOOK_EVERY)
            && since.get_or_insert_with(Instant::now).elapsed() > PATIENCE
        {
            return Err(silent());
        }
    }
}

fn pop<T: bytemuck::Pod>(ring: &mut Consumer<T>) -> Result<T, StudyError> {
    poll(|| ring.pop().map_err(shm))
}

fn push<T: bytemuck::Pod>(ring: &mut Producer<T>, slot: &T) -> Result<(), StudyError> {
    poll(|| Ok(ring.push(slot).is_ok().then_some(())))
}

fn reach(word: &Counters, value: u64) -> Result<(), StudyError> {
    poll(|| Ok((word.load(0) == value).then_some(())))
}

/// Takes a slot out of a ring, asleep until it is there.
fn pop_parked<T: bytemuck::Pod>(ring: &mut Consumer<T>, bell: &Doorbell) -> Result<T, StudyError> {
    loop {
        if let Some(slot) = ring.pop().map_err(shm)? {
            return Ok(slot);
        }
        let woken = bell.wait(PARKING, PATIENCE, || ring.is_ready().unwrap_or(true));
        if !woken.is_ready() {
            return Err(silent());
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
    let (layout, regions) = lay_out();
    let segment = Segment::open(name).map_err(shm)?;
    segment.check(&layout).map_err(shm)?;
    let config = segment.config().map_err(shm)?;
    let effort: Effort = serde_json::from_slice(&config)
        .map_err(|error| StudyError::Usage(format!("the segment's settings: {error}")))?;
    let mut requests = segment.consumer(regions.requests).map_err(shm)?;
    let mut replies = segment.producer(regions.replies).map_err(shm)?;
    let ping = segment.counters(regions.ping).map_err(shm)?;
    let pong = segment.counters(regions.pong).map_err(shm)?;
    let mine = segment.doorbell(regions.bells[1]).map_err(shm)?;
    let theirs = segment.doorbell(regions.bells[0]).map_err(shm)?;
    let mut socket = UnixStream::connect_addr(&socket_address(name)?).map_err(io)?;
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    let start = segment.gate(regions.start).map_err(shm)?;
    poll(|| Ok(start.is_open().then_some(())))?;
    let mut bytes = [0; size_of::<Reply>()];
    let reply = |request: Request| Reply {
        ticket: request.ticket,
        ..Reply::zeroed()
    };
    for repetition in 0..effort.repetitions {
        for trip in 1..=effort.all() {
            reach(&ping, repetition * effort.all() + trip)?;
            pong.store(0, repetition * effort.all() + trip);
        }
        for _ in 0..effort.all() {
            let request = pop(&mut requests)?;
            push(&mut replies, &reply(request))?;
        }
        for _ in 0..effort.all() {
            let request = pop_parked(&mut requests, &mine)?;
            push(&mut replies, &reply(request))?;
            theirs.ring();
        }
        for _ in 0..effort.all() {
            input.read_exact(&mut bytes).map_err(io)?;
            output.write_all(&bytes).map_err(io)?;
            output.flush().map_err(io)?;
        }
        for _ in 0..effort.all() {
            socket.read_exact(&mut bytes).map_err(io)?;
            socket.write_all(&bytes).map_err(io)?;
        }
    }
    for _ in 0..effort.repetitions {
        for _ in 0..effort.streamed {
            pop(&mut requests)?;
        }
        push(&mut replies, &Reply::zeroed())?;
    }
    Ok(())
}

/// The measuring process's ends.
struct Ends {
    requests: Producer<Request>,
    replies: Consumer<Reply>,
    ping: Counters,
    pong: Counters,
    mine: Doorbell,
    theirs: Doorbell,
    to_pipe: PipeWriter,
    from_pipe: PipeReader,
    socket: UnixStream,
}

/// The ways, in the order in which they are measured.
const WAYS: [&str; 5] = [
    "two atomics",
    "two rings, polling",
    "two rings, parking",
    "two pipes",
    "unix socket",
];

impl Ends {
    /// One round trip.
    fn once(&mut self, way: usize, number: u64) -> Result<(), StudyError> {
        let request = Request {
            ticket: number,
            ..Request::zeroed()
        };
        let mut bytes = [0; size_of::<Reply>()];
        match way {
            0 => {
                self.ping.store(0, number);
                return reach(&self.pong, number);
            }
            1 => {
                push(&mut self.requests, &request)?;
                pop(&mut self.replies)?;
            }
            2 => {
                push(&mut self.requests, &request)?;
                self.theirs.ring();
                pop_parked(&mut self.replies, &self.mine)?;
            }
            3 => {
                self.to_pipe.write_all(&bytes).map_err(io)?;
                self.from_pipe.read_exact(&mut bytes).map_err(io)?;
            }
            _ => {
                self.socket.write_all(&bytes).map_err(io)?;
                self.socket.read_exact(&mut bytes).map_err(io)?;
            }
        }
        Ok(())
    }
}

/// Measures between two cores.
///
/// # Errors
/// When the cores are not to be had, or the other process fails.
pub fn run(cores: [usize; 2], effort: Effort) -> Result<RingProfile, StudyError> {
    if cores[0] == cores[1] {
        let what = "profile ring needs two different cores: --cores 0,1 (see nproc, taskset)";
        return Err(StudyError::Usage(what.into()));
    }
    let (layout, regions) = lay_out();
    let config = serde_json::to_vec(&effort).unwrap_or_default();
    let segment = Segment::create(&layout, &config).map_err(shm)?;
    let listener = UnixListener::bind_addr(&socket_address(segment.name())?).map_err(io)?;
    let (peer_input, to_pipe) = pipe().map_err(io)?;
    let (from_pipe, peer_output) = pipe().map_err(io)?;
    let mut peer = start_peer(&segment, cores[1], peer_input.into(), peer_output.into())?;
    liveness::pin_to_core(cores[0]).map_err(shm)?;
    listener.set_nonblocking(true).map_err(io)?;
    let socket = accept(&listener, &mut peer)?;
    let mut ends = Ends {
        requests: segment.producer(regions.requests).map_err(shm)?,
        replies: segment.consumer(regions.replies).map_err(shm)?,
        ping: segment.counters(regions.ping).map_err(shm)?,
        pong: segment.counters(regions.pong).map_err(shm)?,
        mine: segment.doorbell(regions.bells[0]).map_err(shm)?,
        theirs: segment.doorbell(regions.bells[1]).map_err(shm)?,
        to_pipe,
        from_pipe,
        socket,
    };
    let start = segment.gate(regions.start).map_err(shm)?;
    start.open().map_err(shm)?;
    let measured = measure(&mut ends, effort);
    // A peer without its measurer would poll on.
    if measured.is_err() {
        let _ = peer.kill();
    }
    let _ = peer.wait();
    let (histograms, rates) = measured?;
    let base = histograms[0].value_at_quantile(0.5).max(1);
    let trip = |(way, times): (&'static str, &Histogram<u64>)| Trip {
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

fn start_peer(
    segment: &Segment,
    core: usize,
    input: OwnedFd,
    output: OwnedFd,
) -> Result<Child, StudyError> {
    reexec::command()
        .args(["ring-peer", "--segment", segment.name()])
        .args(["--parent", &std::process::id().to_string()])
        .args(["--core", &core.to_string()])
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(output))
        .spawn()
        .map_err(io)
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
            let what = format!("the echoing process ended ({status}): see its message above");
            return Err(StudyError::Usage(what));
        }
        if since.elapsed() > PATIENCE {
            return Err(silent());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn measure(ends: &mut Ends, effort: Effort) -> Result<(Vec<Histogram<u64>>, Vec<f64>), StudyError> {
    // Up to a minute, three figures: `new` would start small, and saturate there.
    let histogram = || {
        Histogram::new_with_max(60_000_000_000, 3)
            .map_err(|error| StudyError::Usage(error.to_string()))
    };
    let mut histograms: Vec<Histogram<u64>> =
        WAYS.iter().map(|_| histogram()).collect::<Result<_, _>>()?;
    for repetition in 0..effort.repetitions {
        for (way, histogram) in histograms.iter_mut().enumerate() {
            for trip in 1..=effort.all() {
                let number = repetition * effort.all() + trip;
                let start = Instant::now();
                ends.once(way, number)?;
                if trip > effort.warm_up() {
                    histogram.saturating_record(start.elapsed().as_nanos() as u64);
                }
            }
        }
    }
    let mut rates = Vec::new();
    for _ in 0..effort.repetitions {
        let start = Instant::now();
        for number in 0..effort.streamed {
            let request = Request {
                ticket: number,
                ..Request::zeroed()
            };
            push(&mut ends.requests, &request)?;
        }
        pop(&mut ends.replies)?;
        rates.push(effort.streamed as f64 / start.elapsed().as_secs_f64());
    }
    Ok((histograms, rates))
}

impl RingProfile {
    /// The table for the terminal.
    pub fn table(&self) -> String {
        let [first, second] = self.cores;
        let mut text = format!(
            "round trip between cores {first} and {second}, ns\n{:<20}{:>9}{:>9}{:>9}{:>10}{:>11}{:>13}\n",
            "", "p50", "p90", "p99", "p99.9", "max", "x atomics"
        );
        for trip in &self.round_trips {
            let _ = writeln!(
                text,
                "{:<20}{:>9}{:>9}{:>9}{:>10}{:>11}{:>13.2}",
                trip.way,
                trip.p50_ns,
                trip.p90_ns,
                trip.p99_ns,
                trip.p99_9_ns,
                trip.max_ns,
                trip.times_atomics
            );
        }
        let _ = write!(
            text,
            "one way, polling: {} slots of {} bytes per second (best repetition {})",
            short(self.slots_per_s),
            self.slot_bytes,
            short(self.slots_per_s_best)
        );
        text
    }
}

/// The first two cores this process may use.
pub fn default_cores() -> Option<[usize; 2]> {
    let allowed = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).ok()?;
    let mut cores =
        (0..nix::sched::CpuSet::count()).filter(|&core| allowed.is_set(core).unwrap_or(false));
    Some([cores.next()?, cores.next()?])
}
