//! The batch loop against a pretended device: whose replies go where, which network has its turn,
//! when a batch is launched, and how networks come and go while batches are under way.
#![allow(clippy::unwrap_used)]

use bytemuck::Zeroable;
use ringmaster::engine::evaluator::{Batcher, Finished, Next, Pacer, QueuePort, RequestPort};
use ringmaster::latency::tag_of;
use ringmaster::network::{Backend, BackendError, CostModel, Limits, Memory};
use ringmaster::shm::{Segment, SegmentLayout};
use ringmaster::wire::{Reply, Request, job_and_entry_of, network_of, ticket};
use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::{Duration, Instant};

const US: Duration = Duration::from_micros(1);
const MAX_BATCH: usize = 4;
const LANES: usize = 2;

/// What a device was told, and what it may do.
#[derive(Default)]
struct Device {
    /// Network and rows of each launch.
    launches: Vec<(u32, usize)>,
    /// Offsets of requests and replies of the last batch in place.
    offsets: (Vec<u64>, Vec<u64>),
    /// Batches under way may end.
    finishes: bool,
    /// What every batch takes.
    cost: CostModel,
    reads_segment: bool,
}

/// One network on it; its number is the value of every reply's first seat.
struct Fake {
    number: u32,
    cost: CostModel,
    device: Rc<RefCell<Device>>,
    requests: Vec<Vec<Request>>,
    replies: Vec<Vec<Reply>>,
}

impl Backend for Fake {
    fn lanes(&self) -> usize {
        LANES
    }

    fn requests(&mut self, lane: usize) -> &mut [Request] {
        &mut self.requests[lane]
    }

    fn launch(&mut self, lane: usize, rows: usize) -> Result<(), BackendError> {
        self.device.borrow_mut().launches.push((self.number, rows));
        for (request, reply) in self.requests[lane].iter().zip(&mut self.replies[lane]) {
            reply.ticket = request.ticket;
            reply.evaluation.values[0] = self.number as f32;
        }
        Ok(())
    }

    fn poll(&mut self, _lane: usize) -> Result<Option<Duration>, BackendError> {
        Ok(self.device.borrow().finishes.then_some(US))
    }

    fn replies(&self, lane: usize) -> &[Reply] {
        &self.replies[lane]
    }

    fn share(&mut self, _segment: &Segment) -> Result<(), BackendError> {
        match self.device.borrow().reads_segment {
            true => Ok(()),
            false => Err(BackendError::NotShared),
        }
    }

    fn launch_in_place(
        &mut self,
        _lane: usize,
        requests: &[u64],
        replies: &[u64],
    ) -> Result<(), BackendError> {
        let mut device = self.device.borrow_mut();
        device.launches.push((self.number, requests.len()));
        device.offsets = (requests.to_vec(), replies.to_vec());
        Ok(())
    }

    fn cost(&self) -> Option<&CostModel> {
        Some(&self.cost)
    }

    fn memory(&self) -> Memory {
        Memory {
            own_bytes: 3 << 20,
            device_used_bytes: 100 << 20,
        }
    }

    fn device(&self) -> String {
        format!("fake {}", self.number)
    }
}

/// A port that keeps count.
#[derive(Default)]
struct Port {
    queue: QueuePort,
    rejected: usize,
    claimed: u64,
    published: Vec<usize>,
}

impl Port {
    fn ask(&mut self, network: u32, entries: std::ops::Range<u32>) {
        let request = |entry| Request {
            ticket: ticket(network, 0, entry),
            ..Request::zeroed()
        };
        self.queue.requests.extend(entries.map(request));
    }

    /// Takes the replies out: network that answered, and ticket.
    fn replies(&mut self) -> Vec<(u32, u64)> {
        let replies = self.queue.replies.drain(..);
        replies
            .map(|reply| (reply.evaluation.values[0] as u32, reply.ticket))
            .collect()
    }
}

impl RequestPort for Port {
    fn take(&mut self) -> Option<Request> {
        self.queue.take()
    }

    fn reject(&mut self) {
        self.rejected += 1;
    }

    fn answer(&mut self, reply: &Reply) {
        self.queue.answer(reply);
    }

    fn claim(&mut self) -> Option<(u64, u64)> {
        self.queue.requests.pop_front()?;
        self.claimed += 1;
        Some((100 + self.claimed, 200 + self.claimed))
    }

    fn publish(&mut self, count: usize) {
        self.published.push(count);
    }
}

/// A batcher with networks of these numbers on one device.
fn batcher(numbers: &[u32], max_wait: Duration) -> (Batcher, Rc<RefCell<Device>>) {
    let device = Rc::new(RefCell::new(Device::default()));
    let mut batcher = Batcher::new(MAX_BATCH, max_wait, None);
    for &number in numbers {
        batcher.add(number, fake(number, &device));
    }
    (batcher, device)
}

fn fake(number: u32, device: &Rc<RefCell<Device>>) -> Box<dyn Backend> {
    Box::new(Fake {
        number,
        cost: device.borrow().cost.clone(),
        device: device.clone(),
        requests: vec![vec![Request::zeroed(); MAX_BATCH]; LANES],
        replies: vec![vec![Reply::zeroed(); MAX_BATCH]; LANES],
    })
}

#[test]
fn a_ticket_names_network_table_and_entry() {
    for network in [0, 1, 2, 255, 256, 1000] {
        for (table, entry) in [(0, 0), (4095, 1_000_000), (0xffff, 0xff_ffff)] {
            let ticket = ticket(network, table, entry);
            assert_eq!(job_and_entry_of(ticket), (table, entry));
            assert_eq!(u32::from(network_of(ticket)), network % 256);
            assert_eq!(tag_of(ticket), 0);
        }
    }
}

#[test]
fn every_reply_goes_to_its_port_in_order() {
    let (mut batcher, device) = batcher(&[0], Duration::ZERO);
    let mut ports: [Port; 3] = Default::default();
    for port in &mut ports {
        port.ask(0, 0..3);
    }
    device.borrow_mut().finishes = true;
    for rows in [4, 4, 1] {
        batcher.gather(&mut ports, None);
        assert_eq!(batcher.launch_due(false).unwrap(), Next::Launch);
        let finished = batcher.answer(&mut ports).unwrap();
        assert_eq!(finished, Some(Finished { rows, busy: US }));
    }
    assert_eq!(batcher.launch_due(false).unwrap(), Next::Sleep);
    assert_eq!(batcher.answer(&mut ports).unwrap(), None);
    for port in &mut ports {
        assert_eq!(
            port.replies(),
            [0, 1, 2].map(|entry| (0, ticket(0, 0, entry)))
        );
    }
}

#[test]
fn networks_answer_what_names_them_and_have_their_launches_in_turns() {
    let numbers = [3, 4, 5];
    let (mut batcher, device) = batcher(&numbers, Duration::ZERO);
    device.borrow_mut().finishes = true;
    let mut port = Port::default();
    for entry in 0..40 {
        for network in numbers {
            port.ask(network, entry..entry + 1);
        }
    }
    while batcher.run(&mut port).unwrap().is_some() {}
    let replies = port.replies();
    assert_eq!(replies.len(), 120);
    assert!(
        replies
            .iter()
            .all(|&(network, name)| name >> 40 == u64::from(network))
    );
    let launches = &device.borrow().launches;
    let in_turn = |pair: &[(u32, usize)]| pair[0].0 % 3 == (pair[1].0 + 2) % 3;
    assert!(launches.windows(2).all(in_turn), "{launches:?}");
    assert!(
        launches
            .iter()
            .filter(|launch| launch.1 == MAX_BATCH)
            .count()
            > 20
    );
}

#[test]
fn a_number_is_told_by_its_last_eight_bits() {
    let (mut batcher, device) = batcher(&[511, 512], Duration::ZERO);
    device.borrow_mut().finishes = true;
    let mut port = Port::default();
    port.ask(512, 0..1);
    port.ask(511, 1..2);
    while batcher.run(&mut port).unwrap().is_some() {}
    let answered = port
        .replies()
        .iter()
        .map(|reply| reply.0)
        .collect::<Vec<_>>();
    assert_eq!(answered, [511, 512]);
}

#[test]
fn a_request_for_no_network_is_its_askers_fault_alone() {
    let (mut batcher, device) = batcher(&[7], Duration::ZERO);
    device.borrow_mut().finishes = true;
    let mut ports: [Port; 2] = Default::default();
    ports[0].ask(8, 0..1);
    ports[1].ask(7, 0..2);
    batcher.gather(&mut ports, None);
    assert_eq!((ports[0].rejected, ports[1].rejected), (1, 0));
    assert_eq!(batcher.launch_due(false).unwrap(), Next::Launch);
    assert!(batcher.answer(&mut ports).unwrap().is_some());
    assert_eq!((ports[0].replies().len(), ports[1].replies().len()), (0, 2));
}

#[test]
fn while_all_lanes_are_under_way_nothing_is_taken() {
    let (mut batcher, device) = batcher(&[0], Duration::ZERO);
    let mut ports = [Port::default()];
    ports[0].ask(0, 0..20);
    for left in [16, 12, 12] {
        batcher.gather(&mut ports, None);
        let _ = batcher.launch_due(false).unwrap();
        assert_eq!(ports[0].queue.requests.len(), left);
        assert!(batcher.is_under_way() && batcher.answer(&mut ports).unwrap().is_none());
    }
    assert_eq!(device.borrow().launches.len(), LANES);
    assert_eq!(batcher.launch_due(true).unwrap(), Next::Poll);
    device.borrow_mut().finishes = true;
    assert!(batcher.answer(&mut ports).unwrap().is_some());
    let entries = ports[0]
        .replies()
        .iter()
        .map(|reply| reply.1)
        .collect::<Vec<_>>();
    assert_eq!(entries, [0, 1, 2, 3]);
}

#[test]
fn a_batch_waits_for_more_unless_it_is_flushed() {
    let (mut batcher, device) = batcher(&[0], Duration::from_secs(3600));
    let mut ports = [Port::default()];
    ports[0].ask(0, 0..1);
    batcher.gather(&mut ports, None);
    assert!(matches!(batcher.launch_due(false).unwrap(), Next::Wait(_)));
    assert_eq!(batcher.launch_due(true).unwrap(), Next::Launch);
    ports[0].ask(0, 1..5);
    batcher.gather(&mut ports, None);
    assert_eq!(batcher.launch_due(false).unwrap(), Next::Launch);
    assert_eq!(device.borrow().launches, [(0, 1), (0, 4)]);
}

#[test]
fn a_device_at_work_for_one_network_is_not_given_a_few_rows_of_another() {
    let (mut batcher, device) = batcher(&[], Duration::ZERO);
    device.borrow_mut().cost = CostModel::from_points([(1, 3600.0)].into_iter());
    for number in [0, 1] {
        batcher.add(number, fake(number, &device));
    }
    let mut ports = [Port::default()];
    ports[0].ask(0, 0..1);
    batcher.gather(&mut ports, None);
    assert_eq!(batcher.launch_due(false).unwrap(), Next::Launch);
    ports[0].ask(1, 1..2);
    batcher.gather(&mut ports, None);
    assert_eq!(batcher.launch_due(false).unwrap(), Next::Poll);
    device.borrow_mut().finishes = true;
    assert!(batcher.answer(&mut ports).unwrap().is_some());
    assert_eq!(batcher.launch_due(false).unwrap(), Next::Launch);
    assert_eq!(device.borrow().launches, [(0, 1), (1, 1)]);
}

#[test]
fn a_full_batch_of_one_network_is_launched_before_more_is_taken_for_any() {
    let (mut batcher, _device) = batcher(&[0, 1], Duration::ZERO);
    let mut ports: [Port; 2] = Default::default();
    ports[0].ask(0, 0..MAX_BATCH as u32 + 1);
    ports[1].ask(1, 0..1);
    batcher.gather(&mut ports[..1], None);
    batcher.gather(&mut ports, None);
    let left = |ports: &[Port; 2]| [0, 1].map(|port| ports[port].queue.requests.len());
    assert_eq!(left(&ports), [1, 1]);
    assert_eq!(batcher.launch_due(false).unwrap(), Next::Launch);
    batcher.gather(&mut ports, None);
    assert_eq!(left(&ports), [0, 0]);
}

#[test]
fn networks_come_and_go() {
    let (mut batcher, device) = batcher(&[0, 1], Duration::ZERO);
    let mut ports = [Port::default()];
    ports[0].ask(0, 0..1);
    batcher.gather(&mut ports, None);
    assert!(!batcher.drop_before(1), "it has a row");
    assert_eq!(batcher.launch_due(false).unwrap(), Next::Launch);
    assert!(!batcher.drop_before(1), "it is under way");
    device.borrow_mut().finishes = true;
    assert!(batcher.answer(&mut ports).unwrap().is_some());
    assert!(batcher.drop_before(1));
    assert!(!batcher.drop_before(9), "the newest stays");
    batcher.add(2, fake(2, &device));
    let (newest, backend) = batcher.newest().unwrap();
    assert_eq!((newest, backend.device()), (2, "fake 2".to_owned()));
    assert_eq!(batcher.memory().own_bytes, 6 << 20);
    let limits = |gpu_memory_mib| Limits {
        threads: 1,
        max_batch: MAX_BATCH,
        gpu_memory_mib,
    };
    for (cap, left) in [(0, 0), (100, 94), (6, 1), (1, 1)] {
        assert_eq!(batcher.limits_left(limits(cap)).gpu_memory_mib, left);
    }
}

#[test]
fn one_network_alone_has_its_rows_in_place() {
    let segment = Segment::create(&SegmentLayout::default(), b"").unwrap();
    let (mut batcher, device) = batcher(&[0], Duration::ZERO);
    device.borrow_mut().reads_segment = true;
    let mut ports: [Port; 2] = Default::default();
    ports[0].ask(0, 0..2);
    ports[1].ask(0, 0..3);
    batcher.gather(&mut ports, Some(&segment));
    assert_eq!(batcher.launch_due(false).unwrap(), Next::Launch);
    let offsets = (vec![101, 102, 101, 102], vec![201, 202, 201, 202]);
    assert_eq!(device.borrow().offsets, offsets);
    // Another one can come when nothing is left in place, and nothing is taken until then.
    batcher.gather(&mut ports, None);
    assert!(batcher.is_in_place() && ports[1].queue.requests.len() == 1);
    device.borrow_mut().finishes = true;
    assert!(batcher.answer(&mut ports).unwrap().is_some());
    assert_eq!(
        (&ports[0].published[..], &ports[1].published[..]),
        (&[2][..], &[2][..])
    );
    batcher.gather(&mut ports, None);
    assert!(!batcher.is_in_place());
    batcher.add(1, fake(1, &device));
    ports[0].ask(1, 7..8);
    batcher.gather(&mut ports, Some(&segment));
    for _ in 0..2 {
        assert_eq!(batcher.launch_due(false).unwrap(), Next::Launch);
        assert!(batcher.answer(&mut ports).unwrap().is_some());
    }
    assert_eq!(ports[0].replies(), [(1, ticket(1, 0, 7))]);
    assert_eq!(ports[1].replies(), [(0, ticket(0, 0, 2))]);
    // Alone again, it has them in place.
    assert!(batcher.drop_before(1));
    ports[0].ask(1, 8..9);
    batcher.gather(&mut ports, Some(&segment));
    assert_eq!(batcher.launch_due(false).unwrap(), Next::Launch);
    assert!(batcher.answer(&mut ports).unwrap().is_some());
    assert_eq!(ports[0].published, [2, 1]);
}

/// Launches cost 100 us on the device, and 10 us more.
#[test]
fn a_launch_is_due_when_the_device_is_idle_or_about_to_be() {
    let cost: Result<_, Infallible> = CostModel::measure([512], 1, |_| Ok(100 * US));
    let cost = cost.unwrap().time(300);
    let start = Instant::now();
    let pacer = |max_wait: u32, launches_us: &[u32]| {
        let mut pacer = Pacer::new(max_wait * US);
        pacer.allow(10 * US);
        for &at in launches_us {
            pacer.launched(start + at * US, cost);
        }
        pacer
    };
    let mut idle = pacer(50, &[0]);
    idle.idle();
    let (once, twice) = (pacer(50, &[0]), pacer(50, &[0, 91]));
    // What, now, rows, full, busy, then.
    let wait = |us: u32| Next::Wait(us * US);
    let cases = [
        ("nothing to do", &idle, 0, 0, false, false, Next::Sleep),
        (
            "busy with all there is",
            &once,
            0,
            0,
            false,
            true,
            Next::Poll,
        ),
        ("an idle one waits", &idle, 0, 1, false, false, wait(50)),
        (
            "from the first row on",
            &idle,
            20,
            9,
            false,
            false,
            wait(30),
        ),
        ("so long", &idle, 50, 9, false, false, Next::Launch),
        (
            "or until it is full",
            &idle,
            20,
            512,
            true,
            false,
            Next::Launch,
        ),
        (
            "a busy one gathers on",
            &once,
            89,
            5,
            false,
            true,
            Next::Poll,
        ),
        (
            "until just before the end",
            &once,
            90,
            5,
            false,
            true,
            Next::Launch,
        ),
        ("or until full", &once, 1, 512, true, true, Next::Launch),
        (
            "the second stands behind",
            &twice,
            150,
            5,
            false,
            true,
            Next::Poll,
        ),
        ("and ends at 200", &twice, 190, 5, false, true, Next::Launch),
    ];
    for (what, pacer, now, rows, full, busy, then) in cases {
        let found = pacer.next(start + now * US, rows, full, start, busy);
        assert_eq!(found, then, "{what}");
    }
    // No time for more, or no cost: at once.
    assert_eq!(
        Pacer::default().next(start, 1, false, start, false),
        Next::Launch
    );
    assert_eq!(
        Pacer::default().next(start, 1, false, start, true),
        Next::Launch
    );
    let wishes = [Next::Sleep, wait(5), Next::Poll, wait(3)];
    assert_eq!(wishes.into_iter().min(), Some(Next::Poll));
    assert!(wait(3) < wait(5) && Next::Launch < Next::Poll);
}
