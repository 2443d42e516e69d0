//! `manifest.json`: what made the rounds of this folder, and whether all of them are there. Its
//! last line is a checksum of everything before it, so that a flipped bit in a setting is noticed
//! as surely as one in a round. Written to a temporary name and renamed: there is always a whole
//! one.

use crate::disk;
use crate::input;
use crate::killpoint::{self, KillPoint};
use crate::replay::error::ReplayError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

/// Name of the manifest within the folder.
pub const MANIFEST_FILE: &str = "manifest.json";
/// Its name while it is being written.
pub const PART_FILE: &str = "manifest.json.part";
/// Says that a JSON file is a manifest of this program.
const FORMAT: &str = "ringmaster-replay";
/// Version of the manifest, the shards and the records.
pub const FORMAT_VERSION: u32 = 2;
/// A manifest larger than this is none; its settings are a few hundred bytes, each network about
/// 120.
const MAX_MANIFEST_BYTES: u64 = 1 << 24;
/// Rounds of a full shard unless the manifest is told otherwise.
const ROUNDS_PER_SHARD: u32 = 1000;

/// How far a run came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being written, or killed while it was.
    Running,
    /// Ended before all rounds were played; every finished one is there.
    Interrupted,
    /// Rounds 0 to `rounds` - 1 are there.
    Complete,
}

/// One network of a run: weights may be replaced while it plays.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Hash of its weights, hexadecimal.
    pub weights: String,
    /// The first round it plays; it plays all up to the next network's first.
    pub from_round: u64,
}

/// What made the rounds of a folder.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: String,
    version: u32,
    /// Version of the program.
    pub program: String,
    /// Seed of the run.
    pub seed: u64,
    /// "cpu", "cuda", ...: whatever decides on the network's rounding.
    pub backend: String,
    /// The networks that played the rounds, numbered from 0, by ascending first round.
    pub networks: Vec<Network>,
    /// Visits of each searched decision: worlds times simulations.
    pub visits_per_decision: u64,
    /// All settings that determine results. Compared on resume: what does not determine them
    /// (workers, rounds in flight) belongs into `notes`.
    pub settings: Value,
    /// Whatever else is worth keeping; never compared.
    pub notes: Value,
    /// Rounds of the whole run: numbers 0 to `rounds` - 1. May be raised on resume.
    pub rounds: u64,
    /// Rounds of a full shard.
    pub rounds_per_shard: u32,
    /// Rounds in the finished shards when the run ended; 0 while it runs.
    pub rounds_kept: u64,
    /// Their digest; empty while the run runs.
    pub digest: String,
    /// How far the run came.
    pub status: Status,
}

impl Manifest {
    /// Of a new run by this version of the program; `weights` is the hash of its first network's.
    pub fn new(
        seed: u64,
        settings: Value,
        weights: impl Into<String>,
        backend: impl Into<String>,
        visits_per_decision: u64,
        rounds: u64,
    ) -> Manifest {
        Manifest {
            format: FORMAT.into(),
            version: FORMAT_VERSION,
            program: env!("CARGO_PKG_VERSION").into(),
            seed,
            backend: backend.into(),
            networks: vec![Network {
                weights: weights.into(),
                from_round: 0,
            }],
            visits_per_decision,
            settings,
            notes: Value::Null,
            rounds,
            rounds_per_shard: ROUNDS_PER_SHARD,
            rounds_kept: 0,
            digest: String::new(),
            status: Status::Running,
        }
    }

    /// The number of the network that plays a round.
    pub fn network_of(&self, round: u64) -> u32 {
        let begun = self.networks.partition_point(|n| n.from_round <= round);
        begun.saturating_sub(1) as u32
    }

    /// Hash of the newest network's weights.
    pub fn newest_weights(&self) -> &str {
        self.networks.last().map_or("", |newest| &newest.weights)
    }

    /// Reads a folder's manifest.
    ///
    /// # Errors
    /// When there is none, it is damaged, of another program or of another version.
    pub fn read(dir: &Path) -> Result<Manifest, ReplayError> {
        let path = dir.join(MANIFEST_FILE);
        let broken = |what: String| ReplayError::Manifest {
            path: path.clone(),
            what,
        };
        let file = match input::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && dir.is_dir() => {
                return Err(ReplayError::foreign(
                    dir,
                    "no replay (it has no manifest.json); give the folder that --out named",
                ));
            }
            opened => opened.map_err(ReplayError::io("open", &path))?,
        };
        let mut text = String::new();
        file.take(MAX_MANIFEST_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(ReplayError::io("read", &path))?;
        if text.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(broken("larger than any manifest".into()));
        }
        let mut fields: Value = serde_json::from_str(&text)
            .map_err(|error| broken(format!("damaged: not JSON ({error})")))?;
        if fields.get("format").and_then(Value::as_str) != Some(FORMAT) {
            let what = "not a replay's manifest; give the folder that --out named";
            return Err(ReplayError::foreign(&path, what));
        }
        let found = fields.get("version").and_then(Value::as_u64).unwrap_or(0);
        if found != u64::from(FORMAT_VERSION) {
            return Err(ReplayError::Version {
                path,
                found,
                wanted: FORMAT_VERSION,
            });
        }
        let body = text
            .len()
            .checked_sub(check_line("").len() + 8)
            .and_then(|length| text.get(..length))
            .filter(|body| text.ends_with(&check_line(&checksum(body))));
        if body.is_none() {
            return Err(broken("damaged or edited: its checksum is wrong".into()));
        }
        if let Some(object) = fields.as_object_mut() {
            object.remove("check");
        }
        let manifest: Manifest =
            serde_json::from_value(fields).map_err(|error| broken(format!("damaged: {error}")))?;
        let firsts = manifest.networks.iter().map(|network| network.from_round);
        if manifest.networks.is_empty()
            || !firsts.is_sorted()
            || manifest.networks[0].from_round > 0
        {
            return Err(broken(
                "damaged: its networks do not follow each other".into(),
            ));
        }
        Ok(manifest)
    }

    /// Writes the manifest into a folder, in place of the one there.
    ///
    /// # Errors
    /// When the folder cannot be written; an older manifest is then left as it was.
    pub fn write(&self, dir: &Path) -> Result<(), ReplayError> {
        let path = dir.join(MANIFEST_FILE);
        let temporary = dir.join(PART_FILE);
        let text = self.text().map_err(|error| ReplayError::Manifest {
            path: path.clone(),
            what: format!("settings cannot be written as JSON: {error}"),
        })?;
        let write = || {
            killpoint::pass(KillPoint::ManifestWrites);
            let mut file = File::create(&temporary)?;
            file.write_all(text.as_bytes())?;
            disk::flush(&file)?;
            killpoint::pass(KillPoint::ManifestRenames);
            std::fs::rename(&temporary, &path)?;
            disk::flush_folder(dir).map(|_| ())
        };
        write().map_err(|error| {
            // What there is of it would only take up room on a full disk.
            let _ = std::fs::remove_file(&temporary);
            ReplayError::io("write", &path)(error)
        })
    }

    fn text(&self) -> serde_json::Result<String> {
        let pretty = serde_json::to_string_pretty(self)?;
        let body = pretty.trim_end_matches(['}', '\n']).to_string();
        let line = check_line(&checksum(&body));
        Ok(body + &line)
    }

    /// The first field that determines results and differs, the networks aside: its path, our
    /// value, the other's.
    pub fn first_difference(&self, other: &Manifest) -> Option<[String; 3]> {
        let fields = |of: &Manifest| {
            [
                ("program", Value::from(of.program.as_str())),
                ("seed", of.seed.into()),
                ("backend", of.backend.as_str().into()),
                ("settings", reread(&of.settings)),
                ("visits_per_decision", of.visits_per_decision.into()),
            ]
        };
        fields(self)
            .into_iter()
            .zip(fields(other))
            .find_map(|((name, ours), (_, theirs))| difference(name, &ours, &theirs))
    }
}

/// Is this file what a kill, or a loss of power, left of a manifest being written?
pub fn is_part(path: &Path) -> bool {
    let begins = format!("{{\n  \"format\": \"{FORMAT}\"");
    let mut found = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(begins.len() as u64).read_to_end(&mut found));
    let is_cut = begins.as_bytes().starts_with(&found);
    read.is_ok() && (is_cut || found.iter().all(|&byte| byte == 0))
}

/// The end of a manifest: the checksum, over all text before this comma, and the closing brace.
fn check_line(checksum: &str) -> String {
    format!(",\n  \"check\": \"{checksum}\"\n}}\n")
}

fn checksum(body: &str) -> String {
    format!("{:08x}", crc32fast::hash(body.as_bytes()))
}

/// The value as it is after a way through a file, where a number may lose its last bit.
fn reread(value: &Value) -> Value {
    serde_json::from_str(&value.to_string()).unwrap_or(Value::Null)
}

fn difference(path: &str, ours: &Value, theirs: &Value) -> Option<[String; 3]> {
    if ours == theirs {
        return None;
    }
    if let (Value::Object(left), Value::Object(right)) = (ours, theirs) {
        let missing = Value::Null;
        return left.keys().chain(right.keys()).find_map(|key| {
            let left = left.get(key).unwrap_or(&missing);
            let right = right.get(key).unwrap_or(&missing);
            difference(&format!("{path}.{key}"), left, right)
        });
    }
    Some([path.into(), ours.to_string(), theirs.to_string()])
}
