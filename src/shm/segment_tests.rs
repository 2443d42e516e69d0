//! Tests of segments: made, opened, checked, refused, removed and swept, in the real /dev/shm.

use super::super::Parking;
use super::super::file::{PREFIX, free_bytes};
use super::*;
use nix::sys::statvfs::statvfs;
use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::process::Command;
use std::thread;
use std::time::SystemTime;

type Slot = [u64; 14];

fn exists(name: &str) -> bool {
    path_of(name).exists()
}

/// A file in /dev/shm that goes with the test.
struct Planted(String);

impl Planted {
    fn new(pid: u32, bytes: &[u8]) -> Self {
        let name = format!(
            "{PREFIX}{pid}-{}",
            &new_name().unwrap().rsplit('-').next().unwrap()
        );
        fs::write(path_of(&name), bytes).unwrap();
        fs::set_permissions(path_of(&name), fs::Permissions::from_mode(0o600)).unwrap();
        Planted(name)
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        let _ = fs::remove_file(path_of(&self.0));
    }
}

/// The number of a process that has ended.
fn dead_pid() -> u32 {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    child.id()
}

fn header(fields: &[(Field, u64)]) -> Vec<u8> {
    let mut words = vec![0u64; HEADER_BYTES / 8];
    for &(field, value) in fields {
        words[field as usize] = value;
    }
    bytemuck::cast_slice(&words).to_vec()
}

#[test]
fn made_opened_used_and_removed() {
    let mut plan = Plan::new();
    let ring = plan.ring::<Slot>(8);
    let bell = plan.doorbell();
    let counters = plan.counters(3);
    let gate = plan.gate();
    let made = Segment::create(&plan, b"settings").unwrap();
    let data = fs::metadata(path_of(made.name())).unwrap();
    assert_eq!(data.mode() & 0o7777, 0o600);
    assert_eq!(data.len(), plan.bytes() as u64);
    assert!(
        data.blocks() * 512 >= plan.bytes() as u64,
        "the memory is reserved"
    );

    let opened = Segment::open(made.name()).unwrap();
    opened.check(&plan).unwrap();
    assert_eq!(opened.config().unwrap(), b"settings");
    assert_eq!((opened.bytes(), opened.name()), (plan.bytes(), made.name()));
    assert!(opened.owner_alive());

    let mut producer = made.producer(ring).unwrap();
    let mut consumer = opened.consumer(ring).unwrap();
    producer.push(&[7; 14]).unwrap();
    made.doorbell(bell).unwrap().ring();
    let woken = opened.doorbell(bell).unwrap().wait(
        Parking::Park { spin: 1 },
        Duration::from_secs(9),
        || consumer.is_ready().unwrap(),
    );
    assert!(woken.is_ready());
    assert_eq!(consumer.pop().unwrap(), Some([7; 14]));

    made.counters(counters).unwrap().store(2, 40);
    let counters = opened.counters(counters).unwrap();
    assert_eq!(
        (
            counters.add(2, 2),
            counters.load(2),
            counters.load(0),
            counters.len()
        ),
        (40, 42, 0, 3)
    );
    assert!(!counters.is_empty());

    let (here, there) = (made.gate(gate).unwrap(), opened.gate(gate).unwrap());
    assert!(!there.is_open());
    here.open().unwrap();
    assert!(there.is_open() && here.is_open());

    let name = made.name().to_owned();
    let clone = made.clone();
    drop(made);
    assert!(exists(&name));
    drop(clone);
    assert!(
        !exists(&name),
        "the creator's last handle takes the name along, whatever still uses the memory"
    );
    producer.push(&[8; 14]).unwrap();
    drop(opened);
    assert_eq!(
        consumer.pop().unwrap(),
        Some([8; 14]),
        "the ends keep the memory"
    );
}

#[test]
fn names_cannot_be_guessed() {
    // Every bit of every name's number is drawn anew: with 64 names one that is not would stand
    // out.
    let numbers: Vec<u64> = (0..64)
        .map(|_| {
            let name = new_name().unwrap();
            assert_eq!(pid_in_name(&name), Some(process::id()));
            u64::from_str_radix(name.rsplit('-').next().unwrap(), 16).unwrap()
        })
        .collect();
    assert_eq!(
        numbers.iter().fold(0, |seen, number| seen | number),
        u64::MAX
    );
    assert_eq!(
        numbers.iter().fold(u64::MAX, |seen, number| seen & number),
        0
    );
    let steps: Vec<u64> = numbers
        .windows(2)
        .map(|two| two[1].wrapping_sub(two[0]))
        .collect();
    assert!(
        steps.windows(2).all(|two| two[0] != two[1]),
        "they count up"
    );
}

#[test]
fn a_gate_lets_threads_through_when_opened() {
    let mut plan = Plan::new();
    let region = plan.gate();
    let segment = Segment::create(&plan, b"").unwrap();
    let gate = segment.gate(region).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let gate = segment.gate(region).unwrap();
            while !gate.is_open() {
                thread::yield_now();
            }
        });
        gate.open().unwrap();
    });
}

#[test]
#[should_panic(expected = "index out of bounds")]
fn counters_are_bounded() {
    let mut plan = Plan::new();
    let region = plan.counters(3);
    let segment = Segment::create(&plan, b"").unwrap();
    segment.counters(region).unwrap().load(3);
}

#[test]
fn another_plan_is_refused() {
    let mut plan = Plan::new();
    plan.ring::<Slot>(8);
    let segment = Segment::create(&plan, b"").unwrap();
    segment.check(&plan).unwrap();
    let mut other = plan.clone();
    let foreign = other.ring::<Slot>(1024);
    let bell = other.doorbell();
    assert!(matches!(
        segment.check(&other),
        Err(ShmError::LayoutMismatch { .. })
    ));
    assert!(matches!(
        segment.producer(foreign),
        Err(ShmError::ForeignRegion { .. })
    ));
    assert!(matches!(
        segment.consumer(foreign),
        Err(ShmError::ForeignRegion { .. })
    ));
    assert!(matches!(
        segment.doorbell(bell),
        Err(ShmError::ForeignRegion { .. })
    ));
}

#[test]
fn settings_of_every_length_up_to_the_limit() {
    for length in [0, 1, 7, 8, 9, 1000, CONFIG_CAPACITY] {
        let config: Vec<u8> = (0..length).map(|byte| (byte % 251) as u8).collect();
        let segment = Segment::create(&Plan::new(), &config).unwrap();
        assert_eq!(
            Segment::open(segment.name()).unwrap().config().unwrap(),
            config
        );
    }
    let error = Segment::create(&Plan::new(), &vec![0; CONFIG_CAPACITY + 1])
        .err()
        .unwrap();
    assert!(matches!(
        error,
        ShmError::ConfigTooLong {
            length: 65_537,
            capacity: 65_536
        }
    ));
    let segment = Segment::create(&Plan::new(), b"x").unwrap();
    segment.write(Field::ConfigLength, u64::MAX);
    assert!(matches!(
        segment.config(),
        Err(ShmError::ConfigTooLong { .. })
    ));
}

#[test]
fn too_small_a_file_system_is_an_error_that_names_the_sizes() {
    let Some(free) = free_bytes().unwrap() else {
        return;
    };
    let mut plan = Plan::new();
    plan.counters((free / 8) as usize + (64 << 20) / 8);
    let error = Segment::create(&plan, b"").err().unwrap();
    assert!(
        matches!(error, ShmError::TooSmall { needed_mib, free_mib } if needed_mib > free_mib),
        "{error}"
    );
    assert!(error.to_string().contains("MiB needed"), "{error}");
    // The same verdict from the reservation itself, which must not be reached with so much memory
    // at stake but for a size that the file system refuses at once.
    let planted = Planted::new(process::id(), b"");
    let blocks = statvfs(DIRECTORY).unwrap();
    let total = blocks.blocks() * blocks.fragment_size();
    assert!(matches!(
        reserve(&planted.0, 2 * total),
        Err(ShmError::TooSmall { .. })
    ));
    let mut absurd = Plan::new();
    absurd.ring::<Slot>(usize::MAX);
    assert!(matches!(
        Segment::create(&absurd, b""),
        Err(ShmError::TooSmall { .. })
    ));
}

#[test]
fn what_is_not_a_segment_of_ours_is_refused() {
    for name in [
        "",
        "/etc/passwd",
        "/ringmaster-1-00",
        "/ringmaster-x-0123456789abcdef",
        "/ringmaster-1-../456789abcdef",
    ] {
        assert!(
            matches!(Segment::open(name), Err(ShmError::BadName { .. })),
            "{name}"
        );
        assert!(
            matches!(unlink_by_name(name), Err(ShmError::BadName { .. })),
            "{name}"
        );
    }
    let missing = "/ringmaster-1-0123456789abcdef";
    assert!(matches!(Segment::open(missing), Err(ShmError::Open { .. })));
    assert!(!unlink_by_name(missing).unwrap());

    let bad = |bytes: &[u8], what: &str| {
        let planted = Planted::new(process::id(), bytes);
        let error = Segment::open(&planted.0).err().unwrap().to_string();
        assert!(error.contains(what), "{error}");
    };
    bad(b"", "cannot open");
    bad(b"RINGMSTR", "its size");
    bad(&header(&[]), "magic number");
    bad(
        &header(&[(Field::Magic, MAGIC), (Field::Version, 99)]),
        "protocol version",
    );
    bad(
        &header(&[
            (Field::Magic, MAGIC),
            (Field::Version, PROTOCOL_VERSION),
            (Field::Size, 1 << 40),
        ]),
        "the size is 0x10000000000",
    );

    let planted = Planted::new(process::id(), &header(&[]));
    fs::set_permissions(path_of(&planted.0), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(
        Segment::open(&planted.0),
        Err(ShmError::NotPrivate { mode: 0o644, .. })
    ));
}

#[test]
fn only_segments_of_the_dead_are_swept() {
    let living = Segment::create(&Plan::new(), b"").unwrap();
    let start = process_start_time(process::id()).unwrap();
    let owned = |pid: u32, start: u64, namespace: u64| {
        let fields = [
            (Field::Magic, MAGIC),
            (Field::OwnerPid, pid.into()),
            (Field::OwnerStart, start),
            (Field::PidNamespace, namespace),
        ];
        Planted::new(pid, &header(&fields))
    };
    let dead = owned(dead_pid(), 1, pid_namespace());
    let reused = owned(process::id(), start - 1, pid_namespace());
    let elsewhere = owned(dead_pid(), 1, pid_namespace() + 1);
    let anothers = owned(dead_pid(), 1, pid_namespace());
    // Only root can give a file away; for others the system itself keeps what is not theirs.
    let is_given = std::os::unix::fs::chown(path_of(&anothers.0), Some(65534), None).is_ok();
    let fresh = Planted::new(dead_pid(), b"");
    let old = Planted::new(dead_pid(), b"");
    let file = OpenOptions::new()
        .write(true)
        .open(path_of(&old.0))
        .unwrap();
    file.set_modified(SystemTime::now() - 2 * UNFINISHED_GRACE)
        .unwrap();

    let mut swept = Vec::new();
    // Tests beside this one may sweep too; what counts is what is left.
    swept.extend(sweep_stale());
    for (planted, stays) in [
        (&dead, false),
        (&reused, false),
        (&elsewhere, true),
        (&anothers, is_given),
        (&fresh, true),
        (&old, false),
    ] {
        assert_eq!(exists(&planted.0), stays, "{}", planted.0);
        assert_eq!(swept.contains(&planted.0), !stays);
    }
    assert!(exists(living.name()));
}

#[test]
fn a_child_may_remove_the_name_first() {
    let segment = Segment::create(&Plan::new(), b"").unwrap();
    assert!(unlink_by_name(segment.name()).unwrap());
    assert!(!unlink_by_name(segment.name()).unwrap());
}
