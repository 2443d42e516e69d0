//! Reads a replay as a stream of rounds, one in memory at a time. Only finished shards are read:
//! one that is being written or added to, or was when its run was killed, is listed; it is read
//! once a run has finished it.

use super::error::ReplayError;
use super::format::{FINISHED, Manifest, RoundRecord, ShardScan, UNFINISHED, shards};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An opened replay.
#[derive(Clone, Debug)]
pub struct ReplayReader {
    manifest: Manifest,
    shards: Vec<PathBuf>,
    unfinished: Vec<PathBuf>,
}

/// One round as it lies in a shard.
#[derive(Clone, PartialEq, Debug)]
pub struct Stored {
    /// The decoded record.
    pub record: RoundRecord,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The shard.
    pub file: Arc<Path>,
    /// Where its frame begins in the shard, in bytes.
    pub offset: u64,
}

impl Stored {
    /// An error about this round with its place; others as they are.
    pub(super) fn place(&self, error: ReplayError) -> ReplayError {
        error.at(&self.file, self.offset)
    }
}

impl ReplayReader {
    /// Opens the replay in a folder.
    ///
    /// # Errors
    /// When the folder holds none, or its manifest is damaged.
    pub fn open(dir: &Path) -> Result<ReplayReader, ReplayError> {
        let manifest = Manifest::read(dir)?;
        let paths = |extension| -> Result<Vec<PathBuf>, ReplayError> {
            let found = shards(dir, extension)?.into_iter();
            Ok(found.map(|(_, path)| path).collect())
        };
        Ok(ReplayReader {
            manifest,
            shards: paths(FINISHED)?,
            unfinished: paths(UNFINISHED)?,
        })
    }

    /// What made the rounds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Shards that are not finished: their rounds are not read.
    pub fn unfinished(&self) -> &[PathBuf] {
        &self.unfinished
    }

    /// All rounds of all finished shards, shard by shard: ascending numbers unless the run was
    /// interrupted. After an error there is nothing more.
    pub fn records(&self) -> impl Iterator<Item = Result<Stored, ReplayError>> {
        let mut records = Records {
            shards: self.shards.clone().into_iter(),
            current: None,
        };
        let mut failed = false;
        std::iter::from_fn(move || {
            let next = if failed { Ok(None) } else { records.next() };
            failed |= next.is_err();
            next.transpose()
        })
    }
}

/// Where the reading of a replay's rounds has come to.
struct Records {
    shards: std::vec::IntoIter<PathBuf>,
    current: Option<(Arc<Path>, ShardScan)>,
}

impl Records {
    fn next(&mut self) -> Result<Option<Stored>, ReplayError> {
        loop {
            if let Some((file, scan)) = &mut self.current
                && let Some((offset, bytes)) = scan.next()?
            {
                let record = RoundRecord::decode(bytes).map_err(|error| error.at(file, offset))?;
                return Ok(Some(Stored {
                    record,
                    bytes: bytes.to_vec(),
                    file: Arc::clone(file),
                    offset,
                }));
            }
            // It is at its end, which is read only once.
            self.current = None;
            let Some(path) = self.shards.next() else {
                return Ok(None);
            };
            let scan = ShardScan::open(&path)?;
            self.current = Some((path.into(), scan));
        }
    }
}
