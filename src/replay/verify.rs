//! Checks a whole replay: that every byte is as it was written, that every round obeys the rules of
//! the game and belongs to the manifest's run, and that every round is there once.

use super::error::ReplayError;
use super::format::Digest;
use super::format::{MANIFEST_FILE, Manifest, Status};
use super::reader::{ReplayReader, Stored};
use crate::game::most_points;
use crate::plural::counted;
use serde::Serialize;
use std::path::Path;

/// Points that rounding may carry a value beyond what a seat can score.
const VALUE_SLACK: f32 = 1e-3;

/// What a sound replay holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Summary {
    /// Rounds.
    pub rounds: u64,
    /// Searched decisions.
    pub decisions: u64,
    /// Simulations: visits of all decisions added.
    pub simulations: u64,
    /// The digest of all rounds.
    pub digest: String,
    /// How far the run came, by its manifest.
    pub status: Status,
    /// Unfinished shards, whose rounds are not counted here.
    pub unfinished_shards: u64,
}

/// Checks the replay in a folder.
///
/// # Errors
/// At the first thing that is wrong, with its file and place.
pub fn verify(dir: &Path) -> Result<Summary, ReplayError> {
    let reader = ReplayReader::open(dir)?;
    let manifest = reader.manifest();
    let mut digest = Digest::new();
    let mut summary = Summary {
        rounds: 0,
        decisions: 0,
        simulations: 0,
        digest: String::new(),
        status: manifest.status,
        unfinished_shards: reader.unfinished().len() as u64,
    };
    for stored in reader.records() {
        let stored = stored?;
        summary.simulations += check(&stored, manifest)?;
        digest
            .push(stored.record.round, &stored.bytes)
            .map_err(|_| stored.damaged("is there a second time"))?;
        summary.rounds += 1;
        summary.decisions += stored.record.decisions() as u64;
    }
    let next = digest.next();
    let complete = !digest.has_gap() && next == manifest.rounds;
    summary.digest = digest.finish();
    check_all(dir, &summary, manifest, (!complete).then_some(next))?;
    Ok(summary)
}

/// Checks the whole against what the manifest says is there; `missing` is the lowest round that is
/// not.
fn check_all(
    dir: &Path,
    summary: &Summary,
    manifest: &Manifest,
    missing: Option<u64>,
) -> Result<(), ReplayError> {
    let (kept, found) = (manifest.rounds_kept, summary.rounds);
    let what = match (manifest.status, missing) {
        (Status::Running, _) => return Ok(()),
        (Status::Complete, Some(missing)) => {
            format!("the run is complete, but round {missing} is missing")
        }
        _ if kept != found => {
            let kept = counted(kept, "round");
            format!("the run kept {kept}, but the folder holds {found}")
        }
        _ if manifest.digest != summary.digest => {
            return Err(ReplayError::Manifest {
                path: dir.join(MANIFEST_FILE),
                what: "has another digest than the rounds: a shard was replaced".into(),
            });
        }
        _ => return Ok(()),
    };
    Err(ReplayError::Incomplete {
        path: dir.to_path_buf(),
        what,
    })
}

/// Checks one round; returns its visits, all decisions added.
fn check(stored: &Stored, manifest: &Manifest) -> Result<u64, ReplayError> {
    let record = &stored.record;
    if record.seed != manifest.seed {
        return Err(stored.damaged(format!("of seed {}, not {}", record.seed, manifest.seed)));
    }
    if record.round >= manifest.rounds {
        let what = format!("the run has only {}", counted(manifest.rounds, "round"));
        return Err(stored.damaged(what));
    }
    let network = manifest.network_of(record.round);
    if record.network != network {
        let what = format!("played by network {}, not {network}", record.network);
        return Err(stored.damaged(what));
    }
    let played = record.replay().map_err(|error| match error {
        ReplayError::Round { what, .. } => stored.damaged(what),
        error => error,
    })?;
    let most = most_points(record.cards) as f32 + VALUE_SLACK;
    let mut simulations = 0;
    for (number, decision) in played.decisions.iter().enumerate() {
        let visits = record.visits_of(decision);
        let sum = visits.iter().map(|&count| u64::from(count)).sum::<u64>();
        if sum != manifest.visits_per_decision {
            let wanted = manifest.visits_per_decision;
            let what = format!("decision {number} has {sum} visits, not {wanted}");
            return Err(stored.damaged(what));
        }
        let values = record.values_of(decision);
        if let Some(value) = values.iter().find(|&v| !(-VALUE_SLACK..=most).contains(v)) {
            let what = format!("decision {number} expects {value} points: no seat can score that");
            return Err(stored.damaged(what));
        }
        simulations += sum;
    }
    Ok(simulations)
}
