//! What a message costs: round trips of real slots between two processes on two cores, through a
//! pair of rings (polling, and with parking), against the bare minimum of two atomic words, a pipe
//! and a Unix socket, all in the same run and in turns, so that all see the same machine; and slots
//! per second one way.

mod peer;

pub use peer::{RingBudget, WAYS, serve};

use super::StudyError;
use super::report::{Column, Table};
use super::stats::{quantile_unsorted, short};
use crate::engine::reexec;
use crate::fault::Fault;
use crate::shm::{Segment, liveness};
use crate::wire::{Reply, Request};
use hdrhistogram::Histogram;
use peer::{
    Endpoints, PATIENCE, Streams, failed, io, profile_regions, shm, silent, socket_address,
};
use serde::Serialize;
use std::io::pipe;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

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
