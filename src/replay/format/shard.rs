//! One shard file: a header, frames of one record each, an end mark. Every byte is under a checksum
//! and the end mark counts the rounds, so that no flipped bit and no cut goes unnoticed. A shard
//! grows as `.part` and gets its final name once it is whole and on the disk. A short last one
//! becomes a `.part` again when a run that goes on has a round to add to it, and is one until it is
//! finished anew.

use super::bounds::MAX_RECORD_BYTES;
use super::manifest::check_version;
use crate::disk;
use crate::input;
use crate::killpoint::{self, KillPoint};
use crate::plural::counted;
use crate::replay::error::ReplayError;
use crc32fast::Hasher;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"RMREPLAY";
const HEADER_BYTES: usize = 12;
const FRAME_HEAD_BYTES: usize = 8;
const END_BYTES: usize = 12;
/// Extension of a finished shard.
pub const FINISHED: &str = "shard";
/// Extension of a shard being written.
pub const UNFINISHED: &str = "part";

fn path_of(dir: &Path, number: u32, extension: &str) -> PathBuf {
    dir.join(format!("rounds-{number:06}.{extension}"))
}

/// All shards of a folder with this extension, by number.
pub fn shards(dir: &Path, extension: &str) -> Result<Vec<(u32, PathBuf)>, ReplayError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(ReplayError::io("list", dir))? {
        let path = entry.map_err(ReplayError::io("list", dir))?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let number = name
            .strip_prefix("rounds-")
            .and_then(|rest| rest.split('.').next());
        let number = number.and_then(|number| number.parse::<u32>().ok());
        if let Some(number) = number.filter(|&number| path == path_of(dir, number, extension)) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Makes a rename in this folder last.
pub fn sync_dir(dir: &Path) -> Result<(), ReplayError> {
    let synced = disk::flush_folder(dir).map(|_| ());
    synced.map_err(ReplayError::io("sync", dir))
}

/// The beginning of a shard, all of it whole and sound.
#[derive(Clone, Debug, Default)]
struct Extent {
    /// In bytes.
    length: u64,
    /// CRC-32 of those bytes.
    crc: Hasher,
    rounds: u32,
}

impl Extent {
    fn add(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// What follows when no round does.
    fn end_mark(&self) -> [u8; END_BYTES] {
        let mut mark = [0; END_BYTES];
        mark[4..FRAME_HEAD_BYTES].copy_from_slice(&self.rounds.to_le_bytes());
        let mut crc = self.crc.clone();
        crc.update(&mark[..FRAME_HEAD_BYTES]);
        mark[FRAME_HEAD_BYTES..].copy_from_slice(&crc.finalize().to_le_bytes());
        mark
    }
}

/// Reads a shard's frames one after the other, checking everything.
pub struct ShardScan {
    path: PathBuf,
    reader: BufReader<File>,
    /// What was read so far.
    whole: Extent,
    frame: Vec<u8>,
}

impl ShardScan {
    /// Opens a shard and checks its header.
    pub fn open(path: &Path) -> Result<ShardScan, ReplayError> {
        let file = input::open(path).map_err(ReplayError::io("open", path))?;
        let mut scan = ShardScan {
            path: path.to_path_buf(),
            reader: BufReader::with_capacity(1 << 16, file),
            whole: Extent::default(),
            frame: Vec::with_capacity(FRAME_HEAD_BYTES + MAX_RECORD_BYTES),
        };
        let is_whole = scan.read(HEADER_BYTES)?;
        let (magic, version) = scan.frame.split_at(scan.frame.len().min(MAGIC.len()));
        if scan.frame == [0; HEADER_BYTES] {
            // The file grew before its bytes were on the disk: what the loss of power leaves.
            return Err(scan.damaged("there is nothing but zeros where its header should be"));
        }
        if !MAGIC.starts_with(magic) {
            let what = "not a shard of replay (its first bytes, from byte 0, are not RMREPLAY)";
            return Err(ReplayError::of_path(path, what, "move it away"));
        }
        if !is_whole {
            return Err(scan.damaged("the file ends within its header"));
        }
        check_version(path, number(version).into())?;
        scan.whole.add(&scan.frame);
        Ok(scan)
    }

    /// The next record's bytes and the place of its frame; none at the end mark.
    pub fn next(&mut self) -> Result<Option<(u64, &[u8])>, ReplayError> {
        self.frame.clear();
        if !self.read(FRAME_HEAD_BYTES)? {
            return Err(self.damaged("the file ends without its end mark"));
        }
        let length = number(&self.frame[..4]) as usize;
        if length == 0 {
            // One byte more than there may be.
            self.read(END_BYTES - FRAME_HEAD_BYTES + 1)?;
            if self.frame != self.whole.end_mark() {
                let rounds = counted(self.whole.rounds, "round");
                return Err(self.damaged(format!("it does not end as one of {rounds} does")));
            }
            return Ok(None);
        }
        if length > MAX_RECORD_BYTES {
            return Err(self.damaged(format!("a record of {length} bytes cannot be")));
        }
        if !self.read(length)? {
            return Err(self.damaged("the file ends within a record"));
        }
        if frame_check(&self.frame) != number(&self.frame[4..FRAME_HEAD_BYTES]) {
            return Err(self.damaged("the record's checksum is wrong"));
        }
        let place = self.whole.length;
        self.whole.add(&self.frame);
        self.whole.rounds += 1;
        Ok(Some((place, &self.frame[FRAME_HEAD_BYTES..])))
    }

    /// Reads so many bytes more of the frame, or as many as there are: were there enough?
    fn read(&mut self, bytes: usize) -> Result<bool, ReplayError> {
        let mut reader = (&mut self.reader).take(bytes as u64);
        let read = reader.read_to_end(&mut self.frame);
        Ok(read.map_err(ReplayError::io("read", &self.path))? == bytes)
    }

    fn damaged(&self, what: impl AsRef<str>) -> ReplayError {
        ReplayError::damaged(&self.path, self.whole.length, what)
    }

    /// The shard, read to its end mark, as one that may be gone on with.
    pub fn into_finished(self) -> FinishedShard {
        FinishedShard {
            path: self.path,
            whole: self.whole,
        }
    }
}

/// What was read of a finished shard: enough to go on with it without trusting a second look.
#[derive(Debug)]
pub struct FinishedShard {
    path: PathBuf,
    /// All before the end mark.
    whole: Extent,
}

impl FinishedShard {
    /// Rounds in it.
    pub fn rounds(&self) -> u32 {
        self.whole.rounds
    }

    /// Opens it to be gone on with: from now on it is unfinished, and nothing but its end mark is
    /// gone. After an error it can be tried again, whatever name the file has by then.
    pub fn reopen(&mut self, dir: &Path) -> Result<OpenShard, ReplayError> {
        let mut shard = OpenShard::open(&self.path, File::options().write(true))?;
        let found = shard.file.metadata();
        let found = found.map_err(ReplayError::io("look at", &self.path))?.len();
        let length = self.whole.length;
        if found != length + END_BYTES as u64 {
            let what = "it has changed since it was read";
            return Err(ReplayError::damaged(&self.path, length, what));
        }
        let unfinished = self.path.with_extension(UNFINISHED);
        if self.path != unfinished {
            std::fs::rename(&self.path, &unfinished)
                .map_err(ReplayError::io("rename", &self.path))?;
            self.path.clone_from(&unfinished);
        }
        killpoint::pass(KillPoint::ShardReopened);
        // Before the end mark goes: whatever happens then, it is an unfinished shard.
        sync_dir(dir)?;
        let cut = shard.file.set_len(length);
        cut.map_err(ReplayError::io("truncate", &self.path))?;
        shard.path = unfinished;
        shard.whole.clone_from(&self.whole);
        Ok(shard)
    }
}

/// CRC-32 of a frame's length and record: all but the checksum itself.
fn frame_check(frame: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&frame[..4]);
    hasher.update(&frame[FRAME_HEAD_BYTES..]);
    hasher.finalize()
}

/// A little-endian number.
fn number(bytes: &[u8]) -> u32 {
    let more = |number, &byte: &u8| number << 8 | u32::from(byte);
    bytes.iter().rev().fold(0, more)
}

/// A shard being written.
#[derive(Debug)]
pub struct OpenShard {
    path: PathBuf,
    file: File,
    /// What is written: the next frame goes behind it, over whatever a failed write left.
    whole: Extent,
    frame: Vec<u8>,
}

impl OpenShard {
    /// Begins the folder's next shard, of this version of the format.
    pub fn create(dir: &Path, version: u32) -> Result<OpenShard, ReplayError> {
        OpenShard::create_at(&path_of(dir, free_number(dir)?, UNFINISHED), version)
    }

    fn create_at(path: &Path, version: u32) -> Result<OpenShard, ReplayError> {
        // Never over an existing file: its rounds may be nowhere else.
        let mut shard = OpenShard::open(path, File::options().write(true).create_new(true))?;
        let header = [&MAGIC[..], &version.to_le_bytes()].concat();
        if let Err(error) = shard.write(&header) {
            // It holds nothing; out of the way of the next try. Should that fail, resume copes with
            // it.
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        killpoint::pass(KillPoint::HeaderWritten);
        Ok(shard)
    }

    /// Goes on with a shard that was left unfinished: `each` is given every whole record, the torn
    /// rest is dropped.
    pub fn recover(
        path: &Path,
        version: u32,
        mut each: impl FnMut(&[u8]) -> Result<(), ReplayError>,
    ) -> Result<OpenShard, ReplayError> {
        let mut scan = match ShardScan::open(path) {
            Err(ReplayError::Damaged(_)) => {
                // Killed before the header was whole, or the power was lost before it was on the
                // disk.
                std::fs::remove_file(path).map_err(ReplayError::io("remove", path))?;
                return OpenShard::create_at(path, version);
            }
            scan => scan?,
        };
        loop {
            match scan.next() {
                Ok(Some((offset, record))) => {
                    each(record).map_err(|error| error.at(path, offset))?;
                }
                Ok(None) | Err(ReplayError::Damaged(_)) => break,
                Err(error) => return Err(error),
            }
        }
        let mut shard = OpenShard::open(path, File::options().write(true))?;
        shard.whole = scan.whole;
        let cut = shard.file.set_len(shard.whole.length);
        cut.map_err(ReplayError::io("truncate", path))?;
        Ok(shard)
    }

    fn open(path: &Path, options: &mut std::fs::OpenOptions) -> Result<OpenShard, ReplayError> {
        let file = input::open_with(path, options).map_err(ReplayError::io("create", path))?;
        Ok(OpenShard {
            path: path.to_path_buf(),
            file,
            whole: Extent::default(),
            frame: Vec::with_capacity(FRAME_HEAD_BYTES + MAX_RECORD_BYTES),
        })
    }

    /// Rounds in it.
    pub fn rounds(&self) -> u32 {
        self.whole.rounds
    }

    /// Appends one record. After an error the shard is as before, and can be appended to again.
    pub fn append(&mut self, record: &[u8]) -> Result<(), ReplayError> {
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        frame.extend_from_slice(&(record.len() as u32).to_le_bytes());
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(record);
        let check = frame_check(&frame);
        frame[4..FRAME_HEAD_BYTES].copy_from_slice(&check.to_le_bytes());
        if killpoint::is_armed(KillPoint::MidFrame) {
            // Half of it, to be written over.
            let half = &frame[..frame.len() / 2];
            let _ = self.file.write_all_at(half, self.whole.length);
            killpoint::pass(KillPoint::MidFrame);
        }
        let written = self.write(&frame);
        self.frame = frame;
        written?;
        self.whole.rounds += 1;
        Ok(())
    }

    /// Flushes what was appended so far to the disk.
    pub fn sync(&self) -> Result<(), ReplayError> {
        let synced = disk::flush(&self.file).map(|_| ());
        synced.map_err(ReplayError::io("sync", &self.path))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ReplayError> {
        let written = self.file.write_all_at(bytes, self.whole.length);
        written.map_err(ReplayError::io("write", &self.path))?;
        self.whole.add(bytes);
        Ok(())
    }

    /// Writes the end mark and gives the shard its final name; an empty one is removed. After an
    /// error the shard is as before: it can be finished again, or left as it is to be resumed.
    /// For the new name to last, `sync_dir`.
    pub fn finish(&self, dir: &Path) -> Result<(), ReplayError> {
        if self.whole.rounds == 0 {
            return std::fs::remove_file(&self.path).map_err(ReplayError::io("remove", &self.path));
        }
        let target = path_of(dir, free_number(dir)?, FINISHED);
        let finish = || {
            let length = self.whole.length;
            self.file.write_all_at(&self.whole.end_mark(), length)?;
            self.file.set_len(length + END_BYTES as u64)?;
            killpoint::pass(KillPoint::ShardSyncs);
            disk::flush(&self.file)?;
            killpoint::pass(KillPoint::ShardRenames);
            std::fs::rename(&self.path, &target)?;
            killpoint::pass(KillPoint::ShardRenamed);
            Ok(())
        };
        finish().map_err(ReplayError::io("finish", &self.path))
    }
}

/// The lowest number that no finished shard has: the next one, or that of one which was moved away.
fn free_number(dir: &Path) -> Result<u32, ReplayError> {
    let mut free = 0;
    for (number, _) in shards(dir, FINISHED)? {
        if number == free {
            free += 1;
        }
    }
    Ok(free)
}
