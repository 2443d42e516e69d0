//! Jobs that a run leaves unfinished when it is ended: their finished decisions, as the journal
//! kept them, in a file beside the replay. `--resume` goes on in the middle of those rounds. They
//! follow from seed, weights and numbers like everything else, so a file that is gone, damaged or
//! old costs time and changes nothing.
//!
//! ```text
//! words of 64 bits, little-endian:
//! mark | for each job: its number | how many words | the words ... | CRC-32 of all before
//! ```

use crate::disk::{self, Refusal};
use crate::input;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const FILE: &str = "in-hand";
const MARK: u64 = u64::from_le_bytes(*b"RINGHND1");
/// More than the largest run has in flight.
const BYTES_MAX: u64 = 1 << 30;

/// Finished decisions by job.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UnfinishedJobs(BTreeMap<u64, Vec<u64>>);

impl UnfinishedJobs {
    /// What lies in a replay's folder; nothing, if that is nothing sound.
    pub fn load(dir: &Path) -> UnfinishedJobs {
        let bytes = input::read(&path_in(dir), BYTES_MAX).unwrap_or_default();
        UnfinishedJobs::parse(&bytes).unwrap_or_default()
    }

    /// What these bytes hold; none if they are damaged.
    pub fn parse(bytes: &[u8]) -> Option<UnfinishedJobs> {
        let (body, check) = bytes.split_last_chunk::<8>()?;
        if !body.len().is_multiple_of(8)
            || u64::from_le_bytes(*check) != u64::from(crc32fast::hash(body))
        {
            return None;
        }
        let mut words = body
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(std::array::from_fn(|byte| word[byte])));
        if words.next() != Some(MARK) {
            return None;
        }
        let mut jobs = BTreeMap::new();
        while let Some(job) = words.next() {
            let count = usize::try_from(words.next()?).ok()?;
            if count > words.len() {
                return None;
            }
            jobs.insert(job, words.by_ref().take(count).collect());
        }
        Some(UnfinishedJobs(jobs))
    }

    /// The bytes that hold this.
    pub fn to_bytes(&self) -> Vec<u8> {
        let head = [MARK];
        let jobs = self.0.iter().flat_map(|(&job, words)| {
            let head = [job, words.len() as u64];
            head.into_iter().chain(words.iter().copied())
        });
        let words = head.into_iter().chain(jobs);
        let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        bytes.extend(u64::from(crc32fast::hash(&bytes)).to_le_bytes());
        bytes
    }

    /// Adds what is kept of a job, unless that is nothing.
    pub fn add(&mut self, job: u64, words: &[u64]) {
        if !words.is_empty() {
            self.0.insert(job, words.to_vec());
        }
    }

    /// Takes out what is kept of a job.
    pub fn take(&mut self, job: u64) -> Option<Vec<u64>> {
        self.0.remove(&job)
    }

    /// Leaves this in a replay's folder instead of what is there; no file, if it is nothing.
    ///
    /// # Errors
    /// When the disk refuses; what was there stays.
    pub fn save(&self, dir: &Path) -> Result<(), Refusal> {
        let path = path_in(dir);
        if !self.0.is_empty() {
            return disk::write(&path, &self.to_bytes());
        }
        // Only what carries the mark is ours to remove.
        match input::read(&path, BYTES_MAX) {
            Ok(bytes) if bytes.starts_with(&MARK.to_le_bytes()) => {
                std::fs::remove_file(&path).map_err(Refusal::of("remove", &path))
            }
            _ => Ok(()),
        }
    }
}

fn path_in(dir: &Path) -> PathBuf {
    dir.join(FILE)
}
