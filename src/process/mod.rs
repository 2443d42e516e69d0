//! Processes: the coordinator owns the segment, starts everyone and keeps the replay; workers play;
//! the evaluator runs the network. Wiring only: what is wired lives in the modules below this one.

mod batch;
mod child;
mod coordinator;
mod desk;
pub mod evaluator;
mod interrupts;
pub mod layout;
mod local;
mod networks;
mod pace;
mod progress;
mod report;
mod run;
mod staff;
pub mod worker;

pub use child::ChildError;
pub use interrupts::INTERRUPTED;
pub use report::Report;
pub use run::{RunError, Start};

use crate::network::{self, BackendChoice, Shape, Weights, WeightsError};
use crate::settings::Settings;

/// Seed of the network that is used when no weights file is given.
pub const BUILT_IN_WEIGHTS_SEED: u64 = 20;

/// The weights the settings name; without a file, the built-in seeded network.
///
/// # Errors
/// When the file is missing or is no BlobNet.
pub fn weights_of(settings: &Settings) -> Result<Weights, WeightsError> {
    match &settings.weights {
        Some(path) => Weights::load(path),
        None => Ok(Weights::seeded(BUILT_IN_WEIGHTS_SEED, Shape::default())),
    }
}

/// Plays a run to its end or to the user's interruption, and reports on it.
///
/// # Errors
/// When settings, weights, folder or machine do not allow it, or a process fails; finished rounds are
/// kept.
pub fn selfplay(settings: Settings, start: Start) -> Result<Report, RunError> {
    settings.check()?;
    let mut settings = settings.resolve();
    let note = settle_backend(&mut settings)?;
    if settings.workers == 0 {
        local::play(settings, start, note)
    } else {
        coordinator::play(settings, start, note)
    }
}

/// Settles what `auto` means, once for all processes of the run and for whoever resumes it; what was taken and why, to be said.
fn settle_backend(settings: &mut Settings) -> Result<Option<String>, RunError> {
    let shape = match (&settings.weights, settings.backend) {
        (None, _) | (_, BackendChoice::Cpu) => Shape::default(),
        (Some(path), _) => Weights::load(path)?.shape(),
    };
    let chosen = network::choose(settings.backend, shape)?;
    settings.backend = chosen.kind.into();
    Ok(chosen.reason)
}
