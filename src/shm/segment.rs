//! One shared-memory segment: made by the coordinator under an unguessable name with its memory
//! reserved beforehand, opened by its children, checked against the layout both derive from the
//! same settings, and removed again in whatever order the processes die.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::linux::fs::MetadataExt;
use std::process;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytemuck::Pod;
use nix::unistd::getuid;
use shared_memory::ShmemConf;

use super::error::ShmError;
use super::file::{
    DIRECTORY, check_name, check_private, check_room, make_private, new_name, not_opened, path_of,
    pid_in_name, reserve, unlink_by_name,
};
use super::gate::{Counters, Gate};
use super::handover::{Handover, clear};
use super::journal::Journal;
use super::layout::{
    CONFIG_CAPACITY, CountersRegion, DoorbellRegion, FIELDS_BYTES, GateRegion, HEADER_BYTES,
    HandoverRegion, JournalRegion, PROTOCOL_VERSION, RingRegion, SegmentLayout,
};
use super::liveness::{pid_namespace, process_alive, process_start_time};
use super::mapping::{MappedFutex, MappedWords, Mapping};
use super::memory::{Region, Word, Words};
use super::parking::Doorbell;
use super::ring::{Consumer, Producer};

const MAGIC: u64 = u64::from_le_bytes(*b"RINGMSTR");
/// A segment without a finished header is left alone this long: its creator may be at work in
/// another container.
const UNFINISHED_GRACE: Duration = Duration::from_secs(60);

/// Words of the header, in their order.
#[derive(Clone, Copy)]
enum Field {
    Magic,
    Version,
    LayoutHash,
    Size,
    OwnerPid,
    OwnerStart,
    PidNamespace,
    ConfigLength,
}

/// Removes the name from the file system when the creator's last handle goes.
struct Name {
    name: String,
    /// The process to remove it, so that a forked child does not; `None` in processes that only
    /// opened it.
    creator: Option<u32>,
}

impl Drop for Name {
    fn drop(&mut self) {
        if self.creator == Some(process::id()) {
            // A child may have been first. There is nobody to report another failure to.
            let _ = unlink_by_name(&self.name);
        }
    }
}

/// A segment of shared memory, created or opened by this process. Clones share it.
#[derive(Clone)]
pub struct Segment {
    name: Arc<Name>,
    mapping: Arc<Mapping>,
    header: MappedWords,
}

impl Segment {
    /// Makes a segment of this layout that carries `config` (at most 64 KiB) to whoever opens it.
    /// Its memory is reserved at once, so that later use cannot fail. Its name goes when the last
    /// clone is dropped.
    pub fn create(layout: &SegmentLayout, config: &[u8]) -> Result<Self, ShmError> {
        if config.len() > CONFIG_CAPACITY {
            return Err(config_too_long(config.len()));
        }
        let size = layout.bytes();
        check_room(size as u64)?;
        let name = new_name()?;
        let made = ShmemConf::new().os_id(&name).size(size).create();
        let shmem =
            made.map_err(|e| ShmError::refused(format_args!("create the segment {name}"), e))?;
        // From here on an early return removes the name again.
        let name = Arc::new(Name {
            name,
            creator: Some(process::id()),
        });
        let mapping = Mapping::new(shmem);
        make_private(&name.name)?;
        reserve(&name.name, size as u64)?;
        check_private(&name.name)?;
        mapping.populate();
        let segment = Segment::over(name, mapping)?;
        for gate in layout.gates() {
            Gate::create(segment.mapping.words(gate.region)?)?;
        }
        segment.write_config(config);
        let start = process_start_time(process::id()).unwrap_or(0);
        for (field, value) in [
            (Field::Version, PROTOCOL_VERSION),
            (Field::LayoutHash, layout.layout_hash()),
            (Field::Size, size as u64),
            (Field::OwnerPid, process::id().into()),
            (Field::OwnerStart, start),
            (Field::PidNamespace, pid_namespace()),
        ] {
            segment.write(field, value);
        }
        // The magic number comes last and marks the rest as complete (pairs with the acquire load
        // in `open`).
        segment.field(Field::Magic).store(MAGIC, Ordering::Release);
        Ok(segment)
    }

    /// Opens a segment by name, as a child does with the name its parent gave it. Refuses one that
    /// is not private to this user, not finished, of another version or not of the size it
    /// claims. Follow with [`config`](Self::config) and [`check`](Self::check).
    pub fn open(name: &str) -> Result<Self, ShmError> {
        check_name(name)?;
        // /dev/shm is sticky: a file of ours cannot be exchanged by another user between this look
        // and the opening.
        check_private(name)?;
        let opened = ShmemConf::new().os_id(name).open();
        let mapping = Mapping::new(opened.map_err(|error| not_opened(name, error))?);
        let expect = |what, found: u64, expected: u64| {
            if found == expected {
                return Ok(());
            }
            Err(ShmError::new(
                format!(
                    "{name} is not a finished segment: {what} is {found:#x}, expected {expected:#x}"
                ),
                "let the coordinator make a new one",
            ))
        };
        let size = mapping.len() as u64;
        if mapping.len() < HEADER_BYTES {
            expect("its size", size, HEADER_BYTES as u64)?;
        }
        let owned = Name {
            name: name.to_owned(),
            creator: None,
        };
        let segment = Segment::over(Arc::new(owned), mapping)?;
        let magic = segment.field(Field::Magic).load(Ordering::Acquire);
        expect("the magic number", magic, MAGIC)?;
        let version = segment.read(Field::Version);
        expect("the protocol version", version, PROTOCOL_VERSION)?;
        expect("the size", segment.read(Field::Size), size)?;
        segment.mapping.populate();
        Ok(segment)
    }

    fn over(name: Arc<Name>, mapping: Arc<Mapping>) -> Result<Self, ShmError> {
        let header = mapping.words(Region {
            offset: 0,
            bytes: HEADER_BYTES,
        })?;
        Ok(Segment {
            name,
            mapping,
            header,
        })
    }

    /// Its name, to be handed to children: `/ringmaster-PID-` and 16 hex digits.
    pub fn name(&self) -> &str {
        &self.name.name
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.mapping.len()
    }

    /// Where its first byte is mapped in this process, for a device that is to see the same memory.
    /// Whoever uses it keeps a clone of the segment.
    pub fn address(&self) -> NonNull<u8> {
        self.mapping.address()
    }

    /// The settings the creator put in.
    pub fn config(&self) -> Result<Vec<u8>, ShmError> {
        let length = self.read(Field::ConfigLength);
        if length > CONFIG_CAPACITY as u64 {
            return Err(config_too_long(length));
        }
        let words = self.header.words(FIELDS_BYTES / 8, CONFIG_CAPACITY / 8);
        let bytes = words
            .iter()
            .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes());
        Ok(bytes.take(length as usize).collect())
    }

    /// Checks that the segment has this layout. Regions of the layout may be used here only after
    /// that.
    pub fn check(&self, layout: &SegmentLayout) -> Result<(), ShmError> {
        let (found, expected) = (self.read(Field::LayoutHash), layout.layout_hash());
        if found == expected && layout.bytes() == self.bytes() {
            return Ok(());
        }
        Err(ShmError::new(
            format!(
                "the segment is laid out differently: hash {found:#018x}, expected {expected:#018x}"
            ),
            "all processes must run the same binary with the same settings",
        ))
    }

    /// The producing end of a ring. One process at a time may hold it.
    pub fn producer<T: Pod>(&self, ring: RingRegion<T>) -> Result<Producer<T>, ShmError> {
        let memory = self.mapping.words(ring.region)?;
        Ok(Producer::attach(memory, ring.capacity)?)
    }

    /// The consuming end of a ring. One process at a time may hold it.
    pub fn consumer<T: Pod>(&self, ring: RingRegion<T>) -> Result<Consumer<T>, ShmError> {
        let memory = self.mapping.words(ring.region)?;
        Ok(Consumer::attach(memory, ring.capacity)?)
    }

    /// Clears a ring, so that it is as new. Only while no process holds an end of it.
    pub fn clear_ring<T: Pod>(&self, ring: RingRegion<T>) -> Result<(), ShmError> {
        clear(&self.mapping.words(ring.region)?);
        Ok(())
    }

    /// A handover.
    pub fn handover(&self, handover: HandoverRegion) -> Result<Handover, ShmError> {
        Ok(Handover::new(self.mapping.words(handover.region)?))
    }

    /// A doorbell. One process at a time may wait on it.
    pub fn doorbell(&self, doorbell: DoorbellRegion) -> Result<Doorbell<MappedFutex>, ShmError> {
        let memory = self.mapping.words(doorbell.region)?;
        Ok(Doorbell::new(memory.into_futex()))
    }

    /// A row of counters.
    pub fn counters(&self, counters: CountersRegion) -> Result<Counters, ShmError> {
        let memory = self.mapping.words(counters.region)?;
        Ok(Counters::new(memory, counters.count))
    }

    /// A journal. One process at a time may write to an entry of it.
    pub fn journal(&self, journal: JournalRegion) -> Result<Journal, ShmError> {
        let memory = self.mapping.words(journal.region)?;
        let JournalRegion { entries, room, .. } = journal;
        Ok(Journal::new(memory, entries, room, journal.sides))
    }

    /// A gate.
    pub fn gate(&self, gate: GateRegion) -> Result<Gate, ShmError> {
        Gate::attach(self.mapping.words(gate.region)?)
    }

    fn field(&self, field: Field) -> &AtomicU64 {
        &self.header.words(field as usize, 1)[0]
    }

    fn read(&self, field: Field) -> u64 {
        self.field(field).load(Ordering::Relaxed)
    }

    fn write(&self, field: Field, value: u64) {
        self.field(field).store(value, Ordering::Relaxed);
    }

    fn write_config(&self, config: &[u8]) {
        let words = self.header.words(FIELDS_BYTES / 8, CONFIG_CAPACITY / 8);
        for (word, bytes) in words.iter().zip(config.chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            Word::store(word, u64::from_le_bytes(padded), Ordering::Relaxed);
        }
        self.write(Field::ConfigLength, config.len() as u64);
    }
}

fn config_too_long(length: impl Display) -> ShmError {
    let what =
        format!("the settings take {length} bytes in the segment, at most {CONFIG_CAPACITY} fit");
    ShmError::new(what, "")
}

/// Removes this user's segments in /dev/shm whose owner has died, and returns their names. Best
/// effort: what cannot be judged or removed stays.
pub fn sweep_stale() -> Vec<String> {
    let mut names = stale_segments();
    names.retain(|name| matches!(unlink_by_name(name), Ok(true)));
    names
}

/// Names of this user's segments in /dev/shm whose owner is known to be dead.
pub fn stale_segments() -> Vec<String> {
    let Ok(entries) = fs::read_dir(DIRECTORY) else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .filter_map(|entry| Some(format!("/{}", entry.file_name().to_str()?)));
    names
        .filter(|name| pid_in_name(name).is_some() && is_stale(name).unwrap_or(false))
        .collect()
}

/// True if the segment is ours and its owner is known to be dead.
fn is_stale(name: &str) -> io::Result<bool> {
    let path = path_of(name);
    let data = fs::symlink_metadata(&path)?;
    if !data.is_file() || data.st_uid() != getuid().as_raw() {
        return Ok(false);
    }
    // Read as a file, not mapped: a file cut short is then an error, not a SIGBUS.
    let mut bytes = [0; 64];
    let mut words = [0; 8];
    if File::open(&path)?.read_exact(&mut bytes).is_ok() {
        words = bytemuck::cast::<[u8; 64], [u64; 8]>(bytes);
    }
    if words[Field::Magic as usize] == MAGIC {
        let owner = u32::try_from(words[Field::OwnerPid as usize]);
        // A number from another space of process numbers says nothing about ours.
        let ours = words[Field::PidNamespace as usize] == pid_namespace();
        return Ok(
            ours && owner.is_ok_and(|pid| !process_alive(pid, words[Field::OwnerStart as usize]))
        );
    }
    // Its creator died before the header was finished, or is at it right now.
    let gone = pid_in_name(name).is_some_and(|pid| process_start_time(pid).is_none());
    let old = data
        .modified()?
        .elapsed()
        .is_ok_and(|age| age > UNFINISHED_GRACE);
    Ok(gone && old)
}
