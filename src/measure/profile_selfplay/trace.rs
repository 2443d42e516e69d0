//! The stamps as a trace in Chrome's event format, which ui.perfetto.dev and chrome://tracing open:
//! each process with its tracks, slices for what it did, asynchronous slices for requests and
//! replies lying in rings (they overlap), and flow arrows that follow a request from worker to
//! network and back.

use super::join::{JoinedStamps, StampedRequest};
use serde_json::{Value, json};

/// Process number of the evaluator's tracks; workers have 1 and up.
const EVALUATOR: usize = 1000;

/// Tracks of a worker.
const PLAY: usize = 1;
const SEND: usize = 2;
const TAKE: usize = 3;
/// Tracks of the evaluator.
const GATHER: usize = 1;
const NETWORK: usize = 2;
const REPLY: usize = 3;

/// Turns nanoseconds into the trace's microseconds from its beginning.
struct Clock {
    from: u64,
    to: u64,
}

impl Clock {
    fn us(&self, ns: u64) -> f64 {
        ns.saturating_sub(self.from) as f64 / 1000.0
    }

    /// Does something from `start` to `end` lie within the trace?
    fn holds(&self, start: u64, end: u64) -> bool {
        start >= self.from && end <= self.to && start <= end
    }

    fn slice(
        &self,
        name: &str,
        pid: usize,
        tid: usize,
        start: u64,
        end: u64,
        args: Value,
    ) -> Value {
        json!({"ph": "X", "cat": "ringmaster", "name": name, "pid": pid, "tid": tid,
            "ts": self.us(start), "dur": self.us(end) - self.us(start), "args": args})
    }
}

/// The trace of `window_s` seconds from the middle of what was stamped.
pub fn json(stamps: &JoinedStamps, window_s: f64) -> Value {
    let first = stamps.batches.first().map_or(0, |batch| batch.opened_ns);
    let last = stamps.batches.last().map_or(0, |batch| batch.published_ns);
    let middle = first + (last.saturating_sub(first)) / 2;
    let half = (window_s.max(0.0) * 5e8) as u64;
    let clock = Clock {
        from: middle.saturating_sub(half).max(first),
        to: middle.saturating_add(half),
    };
    let mut events = names(stamps.spans.len());
    for (worker, spans) in stamps.spans.iter().enumerate() {
        for span in spans
            .iter()
            .filter(|span| clock.holds(span.from_ns, span.to_ns))
        {
            let (from, to) = (span.from_ns, span.to_ns);
            events.push(clock.slice("play", worker + 1, PLAY, from, to, json!({})));
        }
    }
    for batch in &stamps.batches {
        if !clock.holds(batch.opened_ns, batch.published_ns) {
            continue;
        }
        let args = json!({"batch": batch.batch, "leaves": batch.size});
        let slice =
            |name, tid, start, end| clock.slice(name, EVALUATOR, tid, start, end, args.clone());
        events.push(slice("gather", GATHER, batch.opened_ns, batch.sealed_ns));
        events.push(slice("network", NETWORK, batch.started_ns, batch.ended_ns));
        events.push(slice("reply", REPLY, batch.ended_ns, batch.published_ns));
    }
    let mut taken = vec![0; stamps.spans.len()];
    for (number, request) in stamps.requests.iter().enumerate() {
        let inside = clock.holds(request.stamps[0], request.stamps[7] + TAKE_NS)
            && clock.holds(request.batch.opened_ns, request.batch.published_ns);
        if inside {
            follow(&mut events, &clock, number, request, &mut taken);
        }
    }
    json!({"traceEvents": events, "displayTimeUnit": "ns"})
}

/// Taking a reply is a moment; a slice needs some length to be seen.
const TAKE_NS: u64 = 100;

/// The names of processes and tracks.
fn names(workers: usize) -> Vec<Value> {
    let mut events = Vec::new();
    let mut name = |pid: usize, process: &str, tracks: [&str; 3]| {
        let meta = |name: &str, tid: usize, args: Value| {
            json!({"ph": "M", "name": name,
            "pid": pid, "tid": tid, "ts": 0, "args": args})
        };
        events.push(meta("process_name", 0, json!({"name": process})));
        events.push(meta("process_sort_index", 0, json!({"sort_index": pid})));
        for (tid, track) in tracks.iter().enumerate() {
            events.push(meta("thread_name", tid + 1, json!({"name": track})));
        }
    };
    for worker in 0..workers {
        name(
            worker + 1,
            &format!("worker {worker}"),
            ["play", "send (sampled)", "take (sampled)"],
        );
    }
    name(EVALUATOR, "evaluator", ["batches", "network", "replies"]);
    events
}

/// One request: its own slices, its time in both rings, and the arrows.
fn follow(
    events: &mut Vec<Value>,
    clock: &Clock,
    number: usize,
    request: &StampedRequest,
    taken: &mut [u64],
) {
    let [
        selected,
        published,
        seen,
        _sealed,
        started,
        _ended,
        replied,
        consumed,
    ] = request.stamps;
    let (pid, id) = (request.worker + 1, format!("{number:x}"));
    let args = json!({"request": number, "batch": request.batch.batch});
    events.push(clock.slice("send", pid, SEND, selected, published, args.clone()));
    // Replies taken together follow one another: slices of one track must not overlap.
    let take = consumed.max(taken[request.worker]);
    taken[request.worker] = take + TAKE_NS;
    events.push(clock.slice("take", pid, TAKE, take, take + TAKE_NS, args));
    for (name, from, to) in [
        ("request ring", published, seen),
        ("reply ring", replied, consumed),
    ] {
        for (ph, at) in [("b", from), ("e", to)] {
            events.push(
                json!({"ph": ph, "cat": name, "name": name, "id": id, "pid": pid,
                "tid": SEND, "ts": clock.us(at)}),
            );
        }
    }
    let stops = [
        ("s", pid, SEND, selected),
        ("t", EVALUATOR, GATHER, seen),
        ("t", EVALUATOR, NETWORK, started),
        ("t", EVALUATOR, REPLY, replied),
        ("f", pid, TAKE, take),
    ];
    for (ph, pid, tid, at) in stops {
        let mut event = json!({"ph": ph, "cat": "request", "name": "request", "id": id,
            "pid": pid, "tid": tid, "ts": clock.us(at)});
        if ph == "f" {
            // The arrow ends at the slice that holds this moment, not at the next one.
            event["bp"] = json!("e");
        }
        events.push(event);
    }
}
