//! One shared-memory segment: made by the coordinator under an unguessable name with its memory
//! reserved beforehand, opened by its children, checked against the plan both derive from the same
//! settings, and removed again whoever dies in which order.
//!
//! ```text
//! words  0 magic | 1 protocol version | 2 layout hash | 3 size | 4 owner pid | 5 owner start time | 6 pid namespace | 7 length of config
//! bytes 256.. config, 64 KiB
//! bytes 65792.. the regions of the plan, each aligned to 128 bytes
//! ```

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::linux::fs::MetadataExt;
use std::process;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytemuck::Pod;
use nix::unistd::getuid;
use shared_memory::ShmemConf;

use super::error::ShmError;
use super::file::{
    DIRECTORY, check_name, check_private, check_room, make_private, new_name, path_of, pid_in_name,
    reserve, unlink_by_name,
};
use super::gate::{Counters, Gate};
use super::handover::{HANDOVER_WORDS, Handover, clear};
use super::journal::Journal;
use super::liveness::{pid_namespace, process_alive, process_start_time};
use super::mapping::{MappedFutex, MappedWords, Mapping};
use super::memory::{Word, Words};
use super::parking::Doorbell;
use super::plan::{
    CountersRegion, DoorbellRegion, GateRegion, HandoverRegion, JournalRegion, PROTOCOL_VERSION,
    Plan, REGION_ALIGN, RingRegion,
};
use super::ring::{Consumer, Producer};

/// Room for the settings in the header, bytes.
pub const CONFIG_CAPACITY: usize = 64 * 1024;

const FIELDS_BYTES: usize = 256;
/// Size of the header with its settings, bytes.
pub(crate) const HEADER_BYTES: usize = FIELDS_BYTES + CONFIG_CAPACITY;

const MAGIC: u64 = u64::from_le_bytes(*b"RINGMSTR");
/// A segment without a finished header is left alone this long: its creator may be at work in
/// another container.
const UNFINISHED_GRACE: Duration = Duration::from_secs(60);

/// Words of the header.
#[derive(Clone, Copy)]
enum Field {
    Magic = 0,
    Version = 1,
    LayoutHash = 2,
    Size = 3,
    OwnerPid = 4,
    OwnerStart = 5,
    PidNamespace = 6,
    ConfigLength = 7,
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
    /// Makes a segment laid out by `plan` that carries `config` (at most [`CONFIG_CAPACITY`] bytes)
    /// to whoever opens it. Its memory is reserved at once, so that later use cannot fail. Its
    /// name goes when the last clone is dropped.
    pub fn create(plan: &Plan, config: &[u8]) -> Result<Self, ShmError> {
        if config.len() > CONFIG_CAPACITY {
            return Err(ShmError::ConfigTooLong {
                length: config.len() as u64,
                capacity: CONFIG_CAPACITY as u64,
            });
        }
        check_room(plan.bytes() as u64)?;
        let name = new_name()?;
        let shmem = ShmemConf::new()
            .os_id(&name)
            .size(plan.bytes())
            .create()
            .map_err(|error| {
                ShmError::refused(
                    format!("create the segment {name}"),
                    io::Error::other(error),
                )
            })?;
        // From here on an early return removes the name again.
        let name = Arc::new(Name {
            name,
            creator: Some(process::id()),
        });
        let mapping = Mapping::new(shmem);
        make_private(&name.name)?;
        reserve(&name.name, plan.bytes() as u64)?;
        check_private(&name.name)?;
        mapping.populate();
        let segment = Segment::over(name, mapping)?;
        for gate in plan.gates() {
            Gate::create(
                segment.mapping.words(gate.offset, REGION_ALIGN)?,
                gate.offset,
            )?;
        }
        segment.write_config(config);
        segment.write(Field::Version, PROTOCOL_VERSION);
        segment.write(Field::LayoutHash, plan.layout_hash());
        segment.write(Field::Size, plan.bytes() as u64);
        segment.write(Field::OwnerPid, process::id().into());
        segment.write(
            Field::OwnerStart,
            process_start_time(process::id()).unwrap_or(0),
        );
        segment.write(Field::PidNamespace, pid_namespace());
        // The magic number comes last and vouches for the rest (pairs with the acquire load in
        // `open`).
        segment.header.words(Field::Magic as usize, 1)[0].store(MAGIC, Ordering::Release);
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
        let shmem = ShmemConf::new()
            .os_id(name)
            .open()
            .map_err(|error| ShmError::Open {
                name: name.to_owned(),
                source: io::Error::other(error),
            })?;
        let mapping = Mapping::new(shmem);
        let name = Arc::new(Name {
            name: name.to_owned(),
            creator: None,
        });
        let expect = |what, found: u64, expected: u64| {
            if found == expected {
                return Ok(());
            }
            Err(ShmError::BadHeader {
                name: name.name.clone(),
                what,
                found,
                expected,
            })
        };
        if mapping.len() < HEADER_BYTES {
            expect("its size", mapping.len() as u64, HEADER_BYTES as u64)?;
        }
        let segment = Segment::over(Arc::clone(&name), mapping)?;
        expect(
            "the magic number",
            segment.header.words(Field::Magic as usize, 1)[0].load(Ordering::Acquire),
            MAGIC,
        )?;
        expect(
            "the protocol version",
            segment.read(Field::Version),
            PROTOCOL_VERSION,
        )?;
        expect(
            "the size",
            segment.read(Field::Size),
            segment.mapping.len() as u64,
        )?;
        segment.mapping.populate();
        Ok(segment)
    }

    fn over(name: Arc<Name>, mapping: Arc<Mapping>) -> Result<Self, ShmError> {
        let header = mapping.words(0, HEADER_BYTES)?;
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
            return Err(ShmError::ConfigTooLong {
                length,
                capacity: CONFIG_CAPACITY as u64,
            });
        }
        let words = self.header.words(FIELDS_BYTES / 8, CONFIG_CAPACITY / 8);
        let bytes = words
            .iter()
            .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes());
        Ok(bytes.take(length as usize).collect())
    }

    /// Checks that the segment was laid out by the same plan. Handles of the plan may be used here
    /// only after that.
    pub fn check(&self, plan: &Plan) -> Result<(), ShmError> {
        let found = self.read(Field::LayoutHash);
        if found == plan.layout_hash() && plan.bytes() == self.bytes() {
            return Ok(());
        }
        Err(ShmError::LayoutMismatch {
            found,
            expected: plan.layout_hash(),
        })
    }

    /// True if the process that created the segment still runs; only meaningful in the creator's
    /// space of process numbers.
    pub fn owner_alive(&self) -> bool {
        u32::try_from(self.read(Field::OwnerPid))
            .is_ok_and(|pid| process_alive(pid, self.read(Field::OwnerStart)))
    }

    /// The producing end of a ring. One process at a time may hold it.
    pub fn producer<T: Pod>(&self, region: RingRegion<T>) -> Result<Producer<T>, ShmError> {
        Ok(Producer::attach(
            self.mapping.words(region.offset, region.bytes)?,
            region.capacity(),
        )?)
    }

    /// The consuming end of a ring. One process at a time may hold it.
    pub fn consumer<T: Pod>(&self, region: RingRegion<T>) -> Result<Consumer<T>, ShmError> {
        Ok(Consumer::attach(
            self.mapping.words(region.offset, region.bytes)?,
            region.capacity(),
        )?)
    }

    /// Clears a ring, so that it is as new. Only while no process holds an end of it.
    pub fn clear_ring<T: Pod>(&self, region: RingRegion<T>) -> Result<(), ShmError> {
        clear(&self.mapping.words(region.offset, region.bytes)?);
        Ok(())
    }

    /// A handover.
    pub fn handover(&self, region: HandoverRegion) -> Result<Handover, ShmError> {
        let bytes = HANDOVER_WORDS * size_of::<u64>();
        Ok(Handover::new(self.mapping.words(region.offset, bytes)?))
    }

    /// A doorbell. One process at a time may wait on it.
    pub fn doorbell(&self, region: DoorbellRegion) -> Result<Doorbell<MappedFutex>, ShmError> {
        Ok(Doorbell::new(
            self.mapping
                .words(region.offset, REGION_ALIGN)?
                .into_futex(),
        ))
    }

    /// A row of counters.
    pub fn counters(&self, region: CountersRegion) -> Result<Counters, ShmError> {
        Ok(Counters::new(
            self.mapping.words(region.offset, region.bytes)?,
            region.count,
        ))
    }

    /// A journal. One process at a time may write to an entry of it.
    pub fn journal(&self, region: JournalRegion) -> Result<Journal, ShmError> {
        let memory = self.mapping.words(region.offset, region.bytes)?;
        Ok(Journal::new(
            memory,
            region.entries,
            region.room,
            region.sides,
        ))
    }

    /// A gate.
    pub fn gate(&self, region: GateRegion) -> Result<Gate, ShmError> {
        Gate::attach(
            self.mapping.words(region.offset, REGION_ALIGN)?,
            region.offset,
        )
    }

    fn read(&self, field: Field) -> u64 {
        self.header.words(field as usize, 1)[0].load(Ordering::Relaxed)
    }

    fn write(&self, field: Field, value: u64) {
        self.header.words(field as usize, 1)[0].store(value, Ordering::Relaxed);
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

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
