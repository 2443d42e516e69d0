//! Checks a whole replay: that every byte is as it was written, that every round obeys the rules of
//! the game and belongs to the manifest's run, and that every round is there once.

use super::error::ReplayError;
use super::format::{Digest, MANIFEST_FILE, Manifest, RoundRecord, SearchKind, Status};
use super::played::{Decision, Played};
use super::reader::ReplayReader;
use crate::game::{Schedule, most_points};
use crate::plural::counted;
use serde::Serialize;
use std::path::Path;

/// Points that rounding may carry a value beyond what a seat can score.
const VALUE_SLACK: f32 = 1e-3;
/// How far rounding may carry the sum of a policy from 1.
const POLICY_SLACK: f32 = 1e-3;

/// What a sound replay holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct VerifiedReplay {
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
pub fn verify(dir: &Path) -> Result<VerifiedReplay, ReplayError> {
    let reader = ReplayReader::open(dir)?;
    let manifest = reader.manifest();
    let mut digest = Digest::new();
    let (mut decisions, mut simulations) = (0, 0);
    for stored in reader.records() {
        let stored = stored?;
        let record = &stored.record;
        let checked = record.check_run(manifest).and_then(|_| {
            let pushed = digest.push(record.round, &stored.bytes);
            pushed.map_err(|_| ReplayError::round(record.round, "is there a second time"))
        });
        checked.map_err(|error| stored.place(error))?;
        decisions += record.decisions() as u64;
        simulations += record
            .visits
            .iter()
            .map(|&count| u64::from(count))
            .sum::<u64>();
    }
    let next = digest.next();
    let is_complete = !digest.has_gap() && next == manifest.rounds;
    let summary = VerifiedReplay {
        rounds: digest.count(),
        decisions,
        simulations,
        digest: digest.finish(),
        status: manifest.status,
        unfinished_shards: reader.unfinished().len() as u64,
    };
    check_all(dir, &summary, manifest, (!is_complete).then_some(next))?;
    Ok(summary)
}

/// Checks the whole against what the manifest says is there; `missing` is the lowest round that is
/// not.
fn check_all(
    dir: &Path,
    summary: &VerifiedReplay,
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
            let what = "has another digest than the rounds: a shard was replaced";
            return Err(ReplayError::manifest(&dir.join(MANIFEST_FILE), what));
        }
        _ => return Ok(()),
    };
    let remedy = "restore the shard, or have them played again: selfplay --resume";
    Err(ReplayError::of_path(dir, what, remedy))
}

impl RoundRecord {
    /// Checks that this is a round of the manifest's run, played by the rules, with the searches
    /// that the run's settings ask for. Plays it again for that, and returns what it found.
    ///
    /// # Errors
    /// At the first thing that is not so.
    pub fn check_run(&self, manifest: &Manifest) -> Result<Played<'_>, ReplayError> {
        let fail = |what: String| Err(ReplayError::round(self.round, what));
        if self.seed != manifest.seed {
            return fail(format!("of seed {}, not {}", self.seed, manifest.seed));
        }
        if self.round >= manifest.rounds {
            let rounds = counted(manifest.rounds, "round");
            return fail(format!("the run has only {rounds}"));
        }
        let network = manifest.network_of(self.round);
        if self.network != network {
            return fail(format!("played by network {}, not {network}", self.network));
        }
        let (version, most) = (self.version(), manifest.version());
        if version > most {
            return fail(format!(
                "of version {version} in a replay of version {most}"
            ));
        }
        if !self.is_in_place(manifest) {
            return fail("not at its place in the game and the game's schedule".into());
        }
        let played = self.replay()?;
        for (number, decision) in played.decisions.iter().enumerate() {
            if let Err(what) = self.check_search(decision, manifest) {
                return fail(format!("decision {number} {what}"));
            }
        }
        Ok(played)
    }

    /// Is it where its number says in a game on the run's schedule? Without a schedule games are
    /// Blob's.
    fn is_in_place(&self, manifest: &Manifest) -> bool {
        let schedule = manifest.may_hold().schedule.as_ref();
        let Some(game) = self.game else {
            return schedule.is_none();
        };
        let standing = game.standing;
        let blob = Schedule::Blob(standing.first_cards);
        let rounds = u64::from(standing.rounds_total);
        self.is_on(schedule.unwrap_or(&blob))
            && (self.round / rounds, self.round % rounds)
                == (game.number, standing.rounds_done.into())
    }

    /// Is a decision searched as the run's settings ask? This is where visits are held to them.
    fn check_search(&self, decision: &Decision, manifest: &Manifest) -> Result<(), String> {
        let may_hold = manifest.may_hold();
        let wanted = match decision.search {
            SearchKind::None if may_hold.unsearched => 0,
            SearchKind::None => return Err("is not searched".into()),
            SearchKind::Fast => may_hold.fast_visits.ok_or("is not searched in full")?,
            SearchKind::Full | SearchKind::FullWithPolicy => manifest.visits_per_decision,
        };
        let sum: u64 = decision.visits.iter().map(|&count| u64::from(count)).sum();
        if sum != wanted {
            return Err(format!("has {sum} visits, not {wanted}"));
        }
        let points = -VALUE_SLACK..=most_points(self.cards) as f32 + VALUE_SLACK;
        if let Some(value) = decision
            .values
            .iter()
            .find(|&value| !points.contains(value))
        {
            return Err(format!("expects {value} points: no seat can score that"));
        }
        if decision.search != SearchKind::FullWithPolicy {
            return Ok(());
        }
        if !may_hold.policies {
            return Err("has a policy besides its visits".into());
        }
        let (policy, all) = (decision.policy.iter(), decision.policy.iter().sum::<f32>());
        if (all - 1.0).abs() > POLICY_SLACK || policy.copied().any(|share| share < 0.0) {
            return Err("has a policy whose shares do not add up to 1".into());
        }
        Ok(())
    }
}
