//! `manifest.json`: what made the rounds of this folder, and whether all of them are there. Its
//! last line is a checksum of everything before it, so that a flipped bit in a setting is noticed
//! as surely as one in a round. Written to a temporary name and renamed: there is always a whole
//! one.

use crate::disk;
use crate::game::Schedule;
use crate::input;
use crate::killpoint::{self, KillPoint};
use crate::replay::error::ReplayError;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Write};
use std::ops::RangeInclusive;
use std::path::Path;

/// Name of the manifest within the folder.
pub const MANIFEST_FILE: &str = "manifest.json";
/// Its name while it is being written.
pub const PART_FILE: &str = "manifest.json.part";
/// Says that a JSON file is a manifest of this program.
const FORMAT: &str = "ringmaster-replay";
/// Versions of manifests, shards and records: 2, and 3 where rounds may hold more.
pub const VERSIONS: RangeInclusive<u32> = 2..=3;
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

/// What rounds may hold that those of version 2 cannot, by the settings of their run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MayHold {
    /// The schedule of whole games; none: Blob's, or no games.
    pub schedule: Option<Schedule>,
    /// Visits of a decision that is searched, but not in full; none: there is no such decision.
    pub fast_visits: Option<u64>,
    /// Decisions without a search.
    pub unsearched: bool,
    /// Policy targets besides the visits.
    pub policies: bool,
}

impl MayHold {
    fn is_nothing(&self) -> bool {
        *self == MayHold::default()
    }

    fn version(&self) -> u32 {
        if self.is_nothing() { 2 } else { 3 }
    }
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
    /// Visits of each decision that is searched in full, as the settings have it.
    pub visits_per_decision: u64,
    #[serde(default, skip_serializing_if = "MayHold::is_nothing")]
    may_hold: MayHold,
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
            version: *VERSIONS.start(),
            program: env!("CARGO_PKG_VERSION").into(),
            seed,
            backend: backend.into(),
            networks: vec![Network {
                weights: weights.into(),
                from_round: 0,
            }],
            visits_per_decision,
            may_hold: MayHold::default(),
            settings,
            notes: Value::Null,
            rounds,
            rounds_per_shard: ROUNDS_PER_SHARD,
            rounds_kept: 0,
            digest: String::new(),
            status: Status::Running,
        }
    }

    /// Of a run whose rounds may hold this besides, in a manifest of the version that it takes.
    pub fn holding(mut self, may_hold: MayHold) -> Manifest {
        self.version = may_hold.version();
        self.may_hold = may_hold;
        self
    }

    /// What rounds may hold besides what version 2 can say.
    pub fn may_hold(&self) -> &MayHold {
        &self.may_hold
    }

    /// Version of the format, of the shards and at most of the records.
    pub fn version(&self) -> u32 {
        self.version
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
        let file = match input::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && dir.is_dir() => {
                return Err(no_replay(dir, "no replay (it has no manifest.json)"));
            }
            opened => opened.map_err(ReplayError::io("open", &path))?,
        };
        let mut text = String::new();
        file.take(MAX_MANIFEST_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(ReplayError::io("read", &path))?;
        let broken = |what: String| ReplayError::manifest(&path, what);
        if text.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(broken("larger than any manifest".into()));
        }
        let mut fields: Value = serde_json::from_str(&text)
            .map_err(|error| broken(format!("damaged: not JSON ({error})")))?;
        if fields.get("format").and_then(Value::as_str) != Some(FORMAT) {
            return Err(no_replay(&path, "not a replay's manifest"));
        }
        let version = fields.get("version").and_then(Value::as_u64);
        check_version(&path, version.unwrap_or(0))?;
        let body = text.len().checked_sub(check_line("").len() + 8);
        let body = body.and_then(|length| text.get(..length));
        if !body.is_some_and(|body| text.ends_with(&check_line(&checksum(body)))) {
            return Err(broken("damaged or edited: its checksum is wrong".into()));
        }
        if let Some(object) = fields.as_object_mut() {
            object.remove("check");
        }
        let manifest: Manifest =
            serde_json::from_value(fields).map_err(|error| broken(format!("damaged: {error}")))?;
        match manifest.contradiction() {
            Some(what) => Err(broken(format!("damaged: {what}"))),
            None => Ok(manifest),
        }
    }

    /// What in it cannot be.
    fn contradiction(&self) -> Option<&'static str> {
        let firsts = self.networks.iter().map(|network| network.from_round);
        if firsts.clone().next() != Some(0) || !firsts.is_sorted() {
            return Some("its networks do not follow each other");
        }
        if self.rounds_per_shard == 0 {
            return Some("shards of 0 rounds");
        }
        let is_other = self.version != self.may_hold.version();
        is_other.then_some("what its rounds may hold is not of its version")
    }

    /// Writes the manifest into a folder, in place of the one there.
    ///
    /// # Errors
    /// When the folder cannot be written; an older manifest is then left as it was.
    pub fn write(&self, dir: &Path) -> Result<(), ReplayError> {
        let path = dir.join(MANIFEST_FILE);
        let temporary = dir.join(PART_FILE);
        let text = self.text().map_err(|error| {
            let what = format!("settings cannot be written as JSON: {error}");
            ReplayError::manifest(&path, what)
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
    /// value, the other's. Settings come before what follows from them.
    pub fn first_difference(&self, other: &Manifest) -> Option<[String; 3]> {
        let fields = |of: &Manifest| {
            [
                ("program", json!(of.program)),
                ("seed", json!(of.seed)),
                ("backend", json!(of.backend)),
                // As it is after a way through a file, where a number may lose its last bit.
                (
                    "settings",
                    serde_json::from_str(&of.settings.to_string()).unwrap_or_default(),
                ),
                ("visits_per_decision", json!(of.visits_per_decision)),
                ("may_hold", json!(of.may_hold)),
            ]
        };
        let mut both = fields(self).into_iter().zip(fields(other));
        both.find_map(|((name, ours), (_, theirs))| difference(name, &ours, &theirs))
    }
}

fn no_replay(path: &Path, what: &str) -> ReplayError {
    ReplayError::of_path(path, what, "give the folder that --out named")
}

/// Refuses a file of a version that this program does not read.
pub fn check_version(path: &Path, found: u64) -> Result<(), ReplayError> {
    if VERSIONS.map(u64::from).any(|version| version == found) {
        return Ok(());
    }
    let (from, to) = (VERSIONS.start(), VERSIONS.end());
    let what = format!("replay format {found}, this program reads formats {from} to {to}");
    let remedy = "use the version that wrote it";
    Err(ReplayError::of_path(path, what, remedy))
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

fn difference(path: &str, ours: &Value, theirs: &Value) -> Option<[String; 3]> {
    if ours == theirs {
        return None;
    }
    let (Value::Object(left), Value::Object(right)) = (ours, theirs) else {
        return Some([path.into(), ours.to_string(), theirs.to_string()]);
    };
    left.keys().chain(right.keys()).find_map(|key| {
        let [left, right] = [left, right].map(|side| side.get(key).unwrap_or(&Value::Null));
        let path = format!("{path}.{key}");
        difference(path.trim_start_matches('.'), left, right)
    })
}
