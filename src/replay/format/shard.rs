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

fn header(version: u32) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..].copy_from_slice(&version.to_le_bytes());
    bytes
}

fn path_of(dir: &Path, number: u32, extension: &str) -> PathBuf {
    dir.join(format!("rounds-{number:06}.{extension}"))
}

/// All shards of a folder with this extension, by number.
pub fn shards(dir: &Path, extension: &str) -> Result<Vec<(u32, PathBuf)>, ReplayError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(ReplayError::io("list", dir))? {
        let name = entry.map_err(ReplayError::io("list", dir))?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix("rounds-"))
            .and_then(|name| name.strip_suffix(extension)?.strip_suffix('.'))
            .and_then(|number| number.parse::<u32>().ok());
        if let Some(number) = number.filter(|&number| name == *path_name(number, extension)) {
            found.push((number, dir.join(&name)));
        }
    }
    found.sort();
    Ok(found)
}

fn path_name(number: u32, extension: &str) -> std::ffi::OsString {
    path_of(Path::new(""), number, extension).into_os_string()
}

/// Makes a rename in this folder last.
pub fn sync_dir(dir: &Path) -> Result<(), ReplayError> {
    let synced = disk::flush_folder(dir).map(|_| ());
    synced.map_err(ReplayError::io("sync", dir))
}

/// Reads a shard's frames one after the other, checking everything.
pub struct ShardScan {
    path: PathBuf,
    reader: BufReader<File>,
    /// Bytes read so far, all of them whole and sound.
    offset: u64,
    /// CRC-32 of those bytes.
    running: Hasher,
    rounds: u32,
    frame: Vec<u8>,
}

impl ShardScan {
    /// Opens a shard and checks its header.
    pub fn open(path: &Path) -> Result<ShardScan, ReplayError> {
        let file = input::open(path).map_err(ReplayError::io("open", path))?;
        let mut scan = ShardScan {
            path: path.to_path_buf(),
            reader: BufReader::with_capacity(1 << 16, file),
            offset: 0,
            running: Hasher::new(),
            rounds: 0,
            frame: Vec::with_capacity(FRAME_HEAD_BYTES + MAX_RECORD_BYTES),
        };
        let mut bytes = [0; HEADER_BYTES];
        let got = scan.fill(&mut bytes)?;
        if got == HEADER_BYTES && bytes == [0; HEADER_BYTES] {
            // The file grew before its bytes were on the disk: what the loss of power leaves.
            return Err(scan.damaged("there is nothing but zeros where its header should be"));
        }
        if bytes[..got.min(8)] != MAGIC[..got.min(8)] {
            let what = "not a shard of replay (its first bytes, from byte 0, are not RMREPLAY)";
            return Err(ReplayError::of_path(path, what, "move it away"));
        }
        if got < HEADER_BYTES {
            return Err(scan.damaged("the file ends within its header"));
        }
        let [.., a, b, c, d] = bytes;
        check_version(path, u32::from_le_bytes([a, b, c, d]).into())?;
        scan.running.update(&bytes);
        scan.offset += bytes.len() as u64;
        Ok(scan)
    }

    /// The next record's bytes and the place of its frame; none at the end mark.
    pub fn next(&mut self) -> Result<Option<(u64, &[u8])>, ReplayError> {
        let mut head = [0; FRAME_HEAD_BYTES];
        if self.fill(&mut head)? < FRAME_HEAD_BYTES {
            return Err(self.damaged("the file ends without its end mark"));
        }
        let [a, b, c, d, e, f, g, h] = head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let check = u32::from_le_bytes([e, f, g, h]);
        if length == 0 {
            self.end(&head, check)?;
            return Ok(None);
        }
        if length > MAX_RECORD_BYTES {
            return Err(self.damaged(format!("a record of {length} bytes cannot be")));
        }
        let mut frame = std::mem::take(&mut self.frame);
        frame.resize(FRAME_HEAD_BYTES + length, 0);
        frame[..FRAME_HEAD_BYTES].copy_from_slice(&head);
        let got = self.fill(&mut frame[FRAME_HEAD_BYTES..])?;
        self.frame = frame;
        if got < length {
            return Err(self.damaged("the file ends within a record"));
        }
        if frame_check(&self.frame) != check {
            return Err(self.damaged("the record's checksum is wrong"));
        }
        let place = self.offset;
        self.running.update(&self.frame);
        self.offset += self.frame.len() as u64;
        self.rounds += 1;
        Ok(Some((place, &self.frame[FRAME_HEAD_BYTES..])))
    }

    fn end(&mut self, head: &[u8; FRAME_HEAD_BYTES], rounds: u32) -> Result<(), ReplayError> {
        let mut check = [0; 5];
        // One byte more than there may be.
        if self.fill(&mut check)? != END_BYTES - FRAME_HEAD_BYTES {
            return Err(self.damaged("the file does not end with its end mark"));
        }
        let mut running = self.running.clone();
        running.update(head);
        let [a, b, c, d, _] = check;
        if running.finalize() != u32::from_le_bytes([a, b, c, d]) {
            return Err(self.damaged("the end mark's checksum is wrong"));
        }
        if rounds != self.rounds {
            let what = format!(
                "the end mark counts {}, the shard holds {}",
                counted(rounds, "round"),
                self.rounds
            );
            return Err(self.damaged(what));
        }
        Ok(())
    }

    /// Reads until the buffer is full or the file ends.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, ReplayError> {
        let mut got = 0;
        while got < buffer.len() {
            match self.reader.read(&mut buffer[got..]) {
                Ok(0) => break,
                Ok(read) => got += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReplayError::io("read", &self.path)(error)),
            }
        }
        Ok(got)
    }

    fn damaged(&self, what: impl AsRef<str>) -> ReplayError {
        ReplayError::damaged(&self.path, self.offset, what)
    }

    /// The shard, read to its end mark, as one that may be gone on with.
    pub fn into_finished(self) -> FinishedShard {
        FinishedShard {
            path: self.path,
            length: self.offset,
            running: self.running,
            rounds: self.rounds,
        }
    }
}

/// What was read of a finished shard: enough to go on with it without trusting a second look.
#[derive(Debug)]
pub struct FinishedShard {
    path: PathBuf,
    /// Bytes before the end mark.
    length: u64,
    /// CRC-32 of those bytes.
    running: Hasher,
    rounds: u32,
}

impl FinishedShard {
    /// Rounds in it.
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    /// Opens it to be gone on with: from now on it is unfinished, and nothing but its end mark is
    /// gone. After an error it can be tried again, whatever name the file has by then.
    pub fn reopen(&mut self, dir: &Path) -> Result<OpenShard, ReplayError> {
        let mut shard = OpenShard::open(&self.path, File::options().write(true))?;
        let found = shard.file.metadata();
        let found = found.map_err(ReplayError::io("look at", &self.path))?.len();
        if found != self.length + END_BYTES as u64 {
            let what = "it has changed since it was read";
            return Err(ReplayError::damaged(&self.path, self.length, what));
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
        shard
            .file
            .set_len(self.length)
            .map_err(ReplayError::io("truncate", &self.path))?;
        shard.path = unfinished;
        (shard.length, shard.rounds) = (self.length, self.rounds);
        shard.running.clone_from(&self.running);
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

/// A shard being written.
#[derive(Debug)]
pub struct OpenShard {
    path: PathBuf,
    file: File,
    /// Bytes that are whole: the next frame goes here, over whatever a failed write left.
    length: u64,
    /// CRC-32 of those bytes.
    running: Hasher,
    rounds: u32,
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
        if let Err(error) = shard.write(&header(version)) {
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
                Ok(Some((_, record))) => each(record)?,
                Ok(None) | Err(ReplayError::Damaged(_)) => break,
                Err(error) => return Err(error),
            }
        }
        let shard = OpenShard {
            length: scan.offset,
            running: scan.running,
            rounds: scan.rounds,
            ..OpenShard::open(path, File::options().write(true))?
        };
        shard
            .file
            .set_len(shard.length)
            .map_err(ReplayError::io("truncate", path))?;
        Ok(shard)
    }

    fn open(path: &Path, options: &mut std::fs::OpenOptions) -> Result<OpenShard, ReplayError> {
        let file = input::open_with(path, options).map_err(ReplayError::io("create", path))?;
        Ok(OpenShard {
            path: path.to_path_buf(),
            file,
            length: 0,
            running: Hasher::new(),
            rounds: 0,
            frame: Vec::with_capacity(FRAME_HEAD_BYTES + MAX_RECORD_BYTES),
        })
    }

    /// Rounds in it.
    pub fn rounds(&self) -> u32 {
        self.rounds
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
            let _ = self.file.write_all_at(half, self.length);
            killpoint::pass(KillPoint::MidFrame);
        }
        let written = self.write(&frame);
        self.frame = frame;
        written?;
        self.rounds += 1;
        Ok(())
    }

    /// Flushes what was appended so far to the disk.
    pub fn sync(&self) -> Result<(), ReplayError> {
        let synced = disk::flush(&self.file).map(|_| ());
        synced.map_err(ReplayError::io("sync", &self.path))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ReplayError> {
        self.file
            .write_all_at(bytes, self.length)
            .map_err(ReplayError::io("write", &self.path))?;
        self.running.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Writes the end mark and gives the shard its final name; an empty one is removed. After an
    /// error the shard is as before: it can be finished again, or left as it is to be resumed.
    /// For the new name to last, `sync_dir`.
    pub fn finish(&self, dir: &Path) -> Result<(), ReplayError> {
        if self.rounds == 0 {
            return std::fs::remove_file(&self.path).map_err(ReplayError::io("remove", &self.path));
        }
        let mut end = [0; END_BYTES];
        end[4..FRAME_HEAD_BYTES].copy_from_slice(&self.rounds.to_le_bytes());
        let mut running = self.running.clone();
        running.update(&end[..FRAME_HEAD_BYTES]);
        end[FRAME_HEAD_BYTES..].copy_from_slice(&running.finalize().to_le_bytes());
        let target = path_of(dir, free_number(dir)?, FINISHED);
        let finish = || {
            self.file.write_all_at(&end, self.length)?;
            self.file.set_len(self.length + END_BYTES as u64)?;
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
