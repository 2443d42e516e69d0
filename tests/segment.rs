//! Segments made, opened, checked, refused, removed and swept, in the real /dev/shm.
#![allow(clippy::unwrap_used)]

use nix::sys::statvfs::statvfs;
use ringmaster::shm::{
    Parking, Segment, SegmentLayout, ShmError, liveness, sweep_stale, unlink_by_name,
};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{self, Command};
use std::thread;
use std::time::{Duration, SystemTime};

type Slot = [u64; 14];

/// Words of the header, and its room for settings, as src/shm/layout.rs draws them.
const VERSION: usize = 1;
const SIZE: usize = 3;
const PID: usize = 4;
const START: usize = 5;
const NAMESPACE: usize = 6;
const CONFIG_LENGTH: usize = 7;
const CONFIG_CAPACITY: usize = 64 * 1024;
const HEADER_BYTES: usize = 256 + CONFIG_CAPACITY;

fn path_of(name: &str) -> PathBuf {
    PathBuf::from(format!("/dev/shm{name}"))
}

fn exists(name: &str) -> bool {
    path_of(name).exists()
}

fn empty() -> Segment {
    Segment::create(&SegmentLayout::default(), b"").unwrap()
}

fn says<T>(result: Result<T, ShmError>, what: &str) {
    let error = result.err().unwrap().to_string();
    assert!(error.contains(what), "{error}");
}

/// A file in /dev/shm that goes with the test.
struct Planted(String);

impl Planted {
    fn new(pid: u32, bytes: &[u8]) -> Self {
        // Nobody else has this number.
        let name = empty().name().to_owned();
        let name = format!("/ringmaster-{pid}-{}", name.rsplit('-').next().unwrap());
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

/// The header of a sound segment of this process, with some words changed.
fn header(changed: &[(usize, u64)]) -> Vec<u8> {
    let segment = empty();
    let mut bytes = vec![0; HEADER_BYTES];
    let file = File::open(path_of(segment.name())).unwrap();
    file.read_exact_at(&mut bytes, 0).unwrap();
    for &(word, value) in changed {
        bytes[8 * word..][..8].copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

#[test]
fn made_opened_used_and_removed() {
    let mut layout = SegmentLayout::default();
    let ring = layout.ring::<Slot>(8);
    let bell = layout.doorbell();
    let counters = layout.counters(3);
    let gate = layout.gate();
    let made = Segment::create(&layout, b"settings").unwrap();
    let data = fs::metadata(path_of(made.name())).unwrap();
    let bytes = layout.bytes() as u64;
    assert_eq!((data.mode() & 0o7777, data.len()), (0o600, bytes));
    assert!(data.blocks() * 512 >= bytes, "the memory is reserved");

    let opened = Segment::open(made.name()).unwrap();
    opened.check(&layout).unwrap();
    assert_eq!(opened.config().unwrap(), b"settings");
    assert_eq!((opened.bytes() as u64, opened.name()), (bytes, made.name()));

    let mut producer = made.producer(ring).unwrap();
    let mut consumer = opened.consumer(ring).unwrap();
    producer.push(&[7; 14]).unwrap();
    made.doorbell(bell).unwrap().ring();
    let (park, limit) = (Parking::Park { spin: 1 }, Duration::from_secs(9));
    let ready = || consumer.is_ready().unwrap();
    let woken = opened.doorbell(bell).unwrap().wait(park, limit, ready);
    assert!(woken.is_ready());
    assert_eq!(consumer.pop().unwrap(), Some([7; 14]));

    made.counters(counters).unwrap().store(2, 40);
    let counters = opened.counters(counters).unwrap();
    assert_eq!(counters.add(2, 2), 40);
    assert_eq!((counters.load(2), counters.load(0)), (42, 0));

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
    let kept = consumer.pop().unwrap();
    assert_eq!(kept, Some([8; 14]), "the ends keep the memory");
}

#[test]
fn names_cannot_be_guessed() {
    // Every bit of every name's number is drawn anew: with 64 names one that is not would stand
    // out.
    let own = format!("/ringmaster-{}-", process::id());
    let number = |_| {
        let segment = empty();
        let random = segment.name().strip_prefix(&own).unwrap();
        assert_eq!(random.len(), 16);
        u64::from_str_radix(random, 16).unwrap()
    };
    let numbers: Vec<u64> = (0..64).map(number).collect();
    assert_eq!(numbers.iter().fold(0, |seen, n| seen | n), u64::MAX);
    assert_eq!(numbers.iter().fold(u64::MAX, |seen, n| seen & n), 0);
    let steps = numbers.windows(2).map(|two| two[1].wrapping_sub(two[0]));
    let steps: Vec<u64> = steps.collect();
    let apart = steps.windows(2).all(|two| two[0] != two[1]);
    assert!(apart, "they count up");
}

#[test]
fn a_gate_lets_threads_through_when_opened() {
    let mut layout = SegmentLayout::default();
    let region = layout.gate();
    let segment = Segment::create(&layout, b"").unwrap();
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
    let mut layout = SegmentLayout::default();
    let region = layout.counters(3);
    let segment = Segment::create(&layout, b"").unwrap();
    segment.counters(region).unwrap().load(3);
}

#[test]
fn another_layout_is_refused() {
    let mut layout = SegmentLayout::default();
    layout.ring::<Slot>(8);
    let segment = Segment::create(&layout, b"").unwrap();
    segment.check(&layout).unwrap();
    let mut other = layout.clone();
    let (foreign, bell) = (other.ring::<Slot>(1024), other.doorbell());
    says(segment.check(&other), "laid out differently");
    says(segment.producer(foreign), "belongs to another layout");
    says(segment.consumer(foreign), "belongs to another layout");
    says(segment.doorbell(bell), "belongs to another layout");
}

#[test]
fn settings_of_every_length_up_to_the_limit() {
    let made = |config: &[u8]| Segment::create(&SegmentLayout::default(), config);
    for length in [0, 1, 7, 8, 9, 1000, CONFIG_CAPACITY] {
        let config: Vec<u8> = (0..length).map(|byte| (byte % 251) as u8).collect();
        let segment = made(&config).unwrap();
        let opened = Segment::open(segment.name()).unwrap();
        assert_eq!(opened.config().unwrap(), config);
    }
    let too_long = "the settings take 65537 bytes in the segment, at most 65536 fit";
    says(made(&[0; CONFIG_CAPACITY + 1]), too_long);
    let lying = Planted::new(process::id(), &header(&[(CONFIG_LENGTH, u64::MAX)]));
    let file = OpenOptions::new().write(true).open(path_of(&lying.0));
    let bytes = SegmentLayout::default().bytes() as u64;
    file.unwrap().set_len(bytes).unwrap();
    says(Segment::open(&lying.0).unwrap().config(), "at most 65536");
}

#[test]
fn too_small_a_file_system_is_an_error_that_names_the_sizes() {
    let space = statvfs("/dev/shm").unwrap();
    if space.blocks() == 0 {
        // It has no limit of its own.
        return;
    }
    let free = space.blocks_available() * space.fragment_size();
    let mut layout = SegmentLayout::default();
    layout.counters((free / 8) as usize + (64 << 20) / 8);
    let needed = layout.bytes().div_ceil(1 << 20);
    let told = format!("/dev/shm is too small: {needed} MiB needed");
    says(Segment::create(&layout, b""), &told);
    let mut absurd = SegmentLayout::default();
    absurd.ring::<Slot>(usize::MAX);
    says(Segment::create(&absurd, b""), "/dev/shm is too small");
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
        says(Segment::open(name), "is not the name of a segment");
        says(unlink_by_name(name), "is not the name of a segment");
    }
    let missing = "/ringmaster-1-0123456789abcdef";
    says(Segment::open(missing), "cannot open");
    assert!(!unlink_by_name(missing).unwrap());

    let file = |bytes: &[u8]| Planted::new(process::id(), bytes);
    for (bytes, what) in [
        (vec![], "cannot open"),
        (b"RINGMSTR".to_vec(), "its size"),
        (header(&[(0, 0)]), "magic number"),
        (header(&[(VERSION, 99)]), "protocol version is 0x63"),
        (header(&[(SIZE, 1 << 40)]), "the size is 0x10000000000"),
    ] {
        says(Segment::open(&file(&bytes).0), what);
    }
    let open = file(&header(&[]));
    fs::set_permissions(path_of(&open.0), fs::Permissions::from_mode(0o644)).unwrap();
    says(Segment::open(&open.0), "is not private: owner uid");
    says(Segment::open(&open.0), "mode 644");
}

#[test]
fn only_segments_of_the_dead_are_swept() {
    let living = empty();
    let own = header(&[]);
    let word = |index: usize| u64::from_le_bytes(own[8 * index..][..8].try_into().unwrap());
    let start = liveness::process_start_time(process::id()).unwrap();
    assert_eq!(
        (word(PID), word(START)),
        (process::id().into(), start),
        "a segment says whose it is"
    );
    let owned = |pid: u32, start: u64, namespace: u64| {
        let changed = [(PID, pid.into()), (START, start), (NAMESPACE, namespace)];
        Planted::new(pid, &header(&changed))
    };
    let here = word(NAMESPACE);
    let dead = owned(dead_pid(), 1, here);
    let reused = owned(process::id(), start - 1, here);
    let elsewhere = owned(dead_pid(), 1, here + 1);
    let anothers = owned(dead_pid(), 1, here);
    // Only root can give a file away; for others the system itself keeps what is not theirs.
    let is_given = chown(path_of(&anothers.0), Some(65534), None).is_ok();
    // Without a header: its creator may be at it right now, but not for minutes.
    let fresh = Planted::new(dead_pid(), b"");
    let old = Planted::new(dead_pid(), b"");
    let file = OpenOptions::new().write(true).open(path_of(&old.0));
    let long_ago = SystemTime::now() - Duration::from_secs(120);
    file.unwrap().set_modified(long_ago).unwrap();

    // Tests beside this one may sweep too; what counts is what is left.
    let swept = sweep_stale();
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
    let segment = empty();
    assert!(unlink_by_name(segment.name()).unwrap());
    assert!(!unlink_by_name(segment.name()).unwrap());
}
