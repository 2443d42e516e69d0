//! Processes: the coordinator owns the segment, starts everyone and keeps the replay; workers play;
//! the evaluator runs the network. Wiring only: what is wired lives in the modules below this one.

mod awake;
mod batch;
mod child;
mod coordinator;
mod desk;
pub mod evaluator;
pub mod image;
mod interrupts;
pub mod job_control;
pub mod layout;
mod local;
mod networks;
mod oom;
mod pace;
mod progress;
mod report;
mod run;
mod staff;
pub mod worker;

pub use awake::AwakeClock;
pub use child::ChildError;
pub use interrupts::INTERRUPTED;
pub use report::Report;
pub use run::{RunError, Start};

use crate::network::{self, BackendKind, Folded, Shape, Weights, WeightsError};
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
    let (settings, notes) = settle(settings)?;
    let settings = settings.resolve();
    if settings.workers == 0 {
        local::play(settings, start, notes)
    } else {
        coordinator::play(settings, start, notes)
    }
}

/// Settles what depends on network and machine, once for all processes of the run and for whoever resumes it: what `auto` means,
/// and the largest batch. What was taken and why, to be said.
fn settle(mut settings: Settings) -> Result<(Settings, Vec<String>), RunError> {
    let shape = match &settings.weights {
        None => Shape::default(),
        Some(path) => Weights::load(path)?.shape(),
    };
    let chosen = network::choose(settings.backend, shape)?;
    settings.backend = chosen.kind.into();
    let notes = chosen.reason.into_iter().chain(settings.notes()).collect();
    if chosen.kind == BackendKind::Cpu {
        settings = settings.choose_batch(Folded::multiply_adds_of(shape));
    }
    Ok((settings, notes))
}
