//! Writes a replay. Rounds finish in any order; they are written in ascending order of their number
//! through a window of those that still wait for a lower one, so that an undisturbed run gives the
//! same files byte for byte whatever the timing. A run that was killed goes on at its last whole
//! round.

use super::error::ReplayError;
use super::folder::check_empty;
use super::format::{
    Digest, FINISHED, FinishedShard, MANIFEST_FILE, Manifest, Network, OpenShard, RoundRecord,
    ShardScan, Status, UNFINISHED, shards, sync_dir,
};
use super::write_lock::WriteLock;
use crate::disk;
use crate::fault::Fault;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What became of a pushed round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushed {
    /// It is new.
    New,
    /// It was there already, byte for byte.
    Repeated,
}

/// The one writer of a replay's folder. Dropping it without `close` is like being killed: what is
/// written stays, what waits in the window is lost, and `resume` goes on from there.
#[derive(Debug)]
pub struct ReplayWriter {
    dir: PathBuf,
    manifest: Manifest,
    /// The shard being written. Full and still here: finishing it failed, and is tried again.
    shard: Option<OpenShard>,
    /// A short last shard, to be gone on with when the first new round is written and no shard is
    /// open.
    short: Option<FinishedShard>,
    /// Rounds that wait for a lower one.
    window: BTreeMap<u64, Vec<u8>>,
    /// Of all rounds on disk.
    written: Digest,
    lock: WriteLock,
    /// What the folder's file system lacks.
    note: Option<String>,
}

impl ReplayWriter {
    /// Starts a replay in a folder that does not exist or is empty.
    ///
    /// # Errors
    /// When the folder holds a replay or anything else, another process writes there, or it cannot
    /// be written.
    pub fn create(dir: &Path, manifest: &Manifest) -> Result<ReplayWriter, ReplayError> {
        disk::make_folder(dir)?;
        check_empty(dir)?;
        let lock = WriteLock::take(dir)?;
        // Once more: another process may have been here first.
        check_empty(dir)?;
        let writer = ReplayWriter::over(dir, manifest, manifest.rounds_per_shard, lock)?;
        writer.manifest.write(dir)?;
        Ok(writer)
    }

    /// Goes on with the replay in a folder, and says which rounds are there already, as ascending
    /// ranges. What determines results must be as in the folder's manifest, the weights as its
    /// newest network's (unless `other_weights` may follow); the number of rounds and the notes
    /// may change, the networks and the shard size stay.
    ///
    /// # Errors
    /// When the folder holds no replay, one of another run, a damaged one, or another process
    /// writes there.
    pub fn resume(
        dir: &Path,
        manifest: &Manifest,
        other_weights: bool,
    ) -> Result<(ReplayWriter, Vec<Range<u64>>), ReplayError> {
        let path = dir.join(MANIFEST_FILE);
        if !path.try_exists().map_err(ReplayError::io("open", &path))? {
            if dir.exists() {
                check_empty(dir)?;
            }
            let (what, remedy) = (
                "holds no replay to resume",
                "leave --resume away to start one",
            );
            return Err(ReplayError::of_path(dir, what, remedy));
        }
        // First without the lock, so that not even that is left in a folder of something else.
        Manifest::read(dir)?;
        let lock = WriteLock::take(dir)?;
        let stored = Manifest::read(dir)?;
        if let Some([field, stored, wanted]) = stored.first_difference(manifest) {
            let what = format!(
                "cannot resume with another {field}: the replay has {stored}, this run has {wanted}"
            );
            let remedy = "use the same, or another --out";
            return Err(ReplayError::of_path(dir, what, remedy));
        }
        let (ours, given) = (stored.newest_weights(), manifest.newest_weights());
        if !other_weights && ours != given {
            let what = format!("its rounds end with other weights ({ours}) than these ({given})");
            let remedy = "use the same, --append to have these play the rounds not yet begun, or \
                          another --out";
            return Err(ReplayError::of_path(dir, what, remedy));
        }
        let mut writer = ReplayWriter::over(dir, manifest, stored.rounds_per_shard, lock)?;
        writer.manifest.networks = stored.networks;
        writer.collect()?;
        // Nothing can be added to a replay that is complete: it stays as it is.
        if stored.status != Status::Complete || !writer.is_complete() {
            writer.manifest.write(dir)?;
        }
        let ranges = ranges(writer.written.rounds());
        Ok((writer, ranges))
    }

    fn over(
        dir: &Path,
        manifest: &Manifest,
        rounds_per_shard: u32,
        lock: WriteLock,
    ) -> Result<ReplayWriter, ReplayError> {
        let mut manifest = manifest.clone();
        manifest.status = Status::Running;
        manifest.rounds_kept = 0;
        manifest.digest.clear();
        manifest.rounds_per_shard = rounds_per_shard;
        Ok(ReplayWriter {
            dir: dir.to_path_buf(),
            manifest,
            shard: None,
            short: None,
            window: BTreeMap::new(),
            written: Digest::new(),
            note: lock.note()?,
            lock,
        })
    }

    /// Takes stock of all shards, and finds the one to go on with: the unfinished one, which is
    /// opened, or else the last if it is short and no round is missing before its end, which is
    /// left alone until there is a round to add. So a run that was ended with nothing in hand
    /// goes on to the very same files.
    fn collect(&mut self) -> Result<(), ReplayError> {
        let dir = self.dir.clone();
        let mut last = None;
        for (_, path) in shards(&dir, FINISHED)? {
            let mut scan = ShardScan::open(&path)?;
            while let Some((offset, bytes)) = scan.next()? {
                self.count(bytes).map_err(|error| error.at(&path, offset))?;
            }
            last = Some(scan.into_finished());
        }
        for (_, path) in shards(&dir, UNFINISHED)? {
            // There is more than one only if somebody copied them here.
            finish(&dir, &mut self.shard, 0)?;
            let version = self.manifest.version();
            let shard = OpenShard::recover(&path, version, |bytes| self.count(bytes))?;
            self.shard = Some(shard);
        }
        let (has_gap, most) = (self.written.has_gap(), self.manifest.rounds_per_shard);
        self.short = last.filter(|last| self.shard.is_none() && last.rounds() < most && !has_gap);
        self.finish_full_shard()
    }

    /// Takes note of a round that is on disk.
    fn count(&mut self, bytes: &[u8]) -> Result<(), ReplayError> {
        let record = RoundRecord::decode(bytes)?;
        self.check_run(&record)?;
        self.written.push(record.round, bytes).map_err(|_| {
            let what = format!("is in {} twice", self.dir.display());
            ReplayError::twice(record.round, &what, "move one shard away")
        })
    }

    /// Adds a finished round: its record, and the bytes that encode it. It is on disk as soon as
    /// all lower ones are.
    ///
    /// # Errors
    /// When it is no round of this run, when it is there already with other bytes, or when the disk
    /// refuses it: then it waits on, and the next push tries again.
    pub fn push(&mut self, record: &RoundRecord, bytes: &[u8]) -> Result<Pushed, ReplayError> {
        debug_assert_eq!(RoundRecord::decode(bytes).ok().as_ref(), Some(record));
        self.check_run(record)?;
        let round = record.round;
        let waiting = self.window.get(&round).map(|waiting| waiting == bytes);
        let same = waiting.or_else(|| self.written.has_same(round, bytes));
        if same == Some(false) {
            let what = "was played twice with different results";
            let remedy = "this is a fault of the program, please report it";
            return Err(ReplayError::twice(round, what, remedy));
        }
        if same.is_none() {
            self.window.insert(round, bytes.to_vec());
        }
        // Those that no longer wait for a lower one.
        while self.window.contains_key(&self.written.next()) {
            self.write(self.written.next())?;
            self.finish_full_shard()?;
        }
        Ok(same.map_or(Pushed::New, |_| Pushed::Repeated))
    }

    /// Writes one round of the window; if that fails it stays there.
    fn write(&mut self, round: u64) -> Result<(), ReplayError> {
        self.lock.check()?;
        self.finish_full_shard()?;
        let shard = match (&mut self.shard, &mut self.short) {
            (Some(shard), _) => shard,
            (none, Some(short)) => none.insert(short.reopen(&self.dir)?),
            (none, None) => none.insert(OpenShard::create(&self.dir, self.manifest.version())?),
        };
        self.short = None;
        if let Some(bytes) = self.window.get(&round) {
            shard.append(bytes)?;
            self.written.push(round, bytes)?;
        }
        self.window.remove(&round);
        Ok(())
    }

    /// Writes what waits in the window, finishes the last shard, and notes in the manifest what is
    /// there: number of rounds, digest, and whether these are all. Returns the manifest.
    ///
    /// # Errors
    /// When the disk refuses; what was written stays, and can be resumed.
    pub fn close(mut self) -> Result<Manifest, ReplayError> {
        while let Some((&round, _)) = self.window.first_key_value() {
            self.write(round)?;
        }
        self.lock.check()?;
        finish(&self.dir, &mut self.shard, 0)?;
        self.manifest.status = if self.is_complete() {
            Status::Complete
        } else {
            Status::Interrupted
        };
        self.manifest.rounds_kept = self.written();
        self.manifest.digest = self.written.finish();
        self.manifest.write(&self.dir)?;
        Ok(self.manifest)
    }

    /// Notes, durably, that `network` plays the rounds from its first one on, none of which is
    /// there yet. Rounds written so far are flushed before: once this returns, no earlier
    /// network than the present one is needed again.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn add_network(&mut self, network: Network) -> Result<(), ReplayError> {
        self.lock.check()?;
        if let Some(shard) = &self.shard {
            shard.sync()?;
            sync_dir(&self.dir)?;
        }
        let mut manifest = self.manifest.clone();
        manifest.networks.push(network);
        manifest.write(&self.dir)?;
        self.manifest = manifest;
        Ok(())
    }

    /// What the user is to know of the folder's file system, one line.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// What made the rounds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The lowest round that is not on disk.
    pub fn next(&self) -> u64 {
        self.written.next()
    }

    /// Is this round there, written or waiting?
    pub fn contains(&self, round: u64) -> bool {
        self.written.contains(round) || self.window.contains_key(&round)
    }

    /// Rounds that wait for a lower one: bounded by how far ahead rounds are handed out.
    pub fn waiting(&self) -> usize {
        self.window.len()
    }

    /// Rounds on disk.
    pub fn written(&self) -> u64 {
        self.written.count()
    }

    /// Are all rounds of the run on disk?
    fn is_complete(&self) -> bool {
        self.written.next() == self.manifest.rounds
    }

    /// Can this be a round of the run?
    fn check_run(&self, record: &RoundRecord) -> Result<(), ReplayError> {
        let (manifest, version) = (&self.manifest, record.version());
        let round = record.round;
        if record.seed != manifest.seed {
            let what = format!("of seed {}, not {}", record.seed, manifest.seed);
            Err(ReplayError::round(round, what))
        } else if round >= manifest.rounds {
            let last = manifest.rounds.saturating_sub(1);
            let what = format!("round {round}: the run has only rounds 0 to {last}");
            Err(Fault::new(what, "ask for more rounds").into())
        } else if version > manifest.version() {
            let what = format!("of version {version}, which is not the replay's");
            Err(ReplayError::round(round, what))
        } else {
            Ok(())
        }
    }

    fn finish_full_shard(&mut self) -> Result<(), ReplayError> {
        finish(&self.dir, &mut self.shard, self.manifest.rounds_per_shard)
    }
}

/// Finishes the open shard if it has this many rounds. If that fails it stays open.
fn finish(dir: &Path, shard: &mut Option<OpenShard>, rounds: u32) -> Result<(), ReplayError> {
    if let Some(open) = shard.as_ref().filter(|open| open.rounds() >= rounds) {
        open.finish(dir)?;
        *shard = None;
        sync_dir(dir)?;
    }
    Ok(())
}

/// Ascending numbers as ranges.
fn ranges(rounds: impl Iterator<Item = u64>) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for round in rounds {
        match ranges.last_mut() {
            Some(range) if range.end == round => range.end += 1,
            _ => ranges.push(round..round + 1),
        }
    }
    ranges
}
