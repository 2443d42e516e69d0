//! Processes: the coordinator owns the segment, starts everyone and keeps the replay; workers play;
//! the evaluator runs the network. Wiring only: what is wired lives in the modules below this one.

mod active_clock;
mod child;
mod coordinator;
mod error;
pub mod evaluator;
pub mod job_control;
mod local;
mod networks;
mod oom;
mod process;
mod progress;
pub mod reexec;
pub mod regions;
mod report;
mod run;
mod signals;
mod starting_weights;
pub mod unfinished;
mod weights_watcher;
pub mod worker;

pub use active_clock::ActiveClock;
pub use error::RunError;
pub use report::Report;
pub use signals::INTERRUPTED;
pub use starting_weights::{Start, prefix_note};

use crate::network::{
    self, Backend, BackendKind, Folded, Shape, Weights, WeightsError, weights_file,
};
use crate::settings::Settings;
use starting_weights::StartingWeights;

/// Seed of the network that is used when no weights file is given.
pub const BUILT_IN_WEIGHTS_SEED: u64 = 20;

/// The weights the settings name; without a file, the built-in seeded network.
///
/// # Errors
/// When the file is missing, is no BlobNet, or one that overflows.
pub fn weights_of(settings: &Settings) -> Result<Weights, WeightsError> {
    match &settings.weights {
        Some(path) => {
            let file = weights_file(path)?;
            let weights = Weights::load(&file)?;
            weights.check_outputs(&file)?;
            Ok(weights)
        }
        None => Ok(Weights::seeded(BUILT_IN_WEIGHTS_SEED, Shape::default())),
    }
}

/// Opens the network that the settings name, on the device that they choose, for batches of up to
/// `max_batch`.
///
/// # Errors
/// When weights or device are not to be had.
pub fn open_network(settings: &Settings, max_batch: usize) -> Result<Box<dyn Backend>, RunError> {
    let weights = weights_of(settings)?;
    let chosen = network::choose(settings.backend, weights.shape())?;
    let limits = network::Limits {
        max_batch,
        ..settings.limits()
    };
    Ok(network::open(chosen.kind, &weights, limits)?)
}

/// Plays a run to its end or to the user's interruption, and reports on it.
///
/// # Errors
/// When settings, weights, folder or machine do not allow it, or a process fails; finished rounds
/// are kept.
pub fn selfplay(settings: Settings, start: Start) -> Result<Report, RunError> {
    settings.check()?;
    let mut starting = StartingWeights::find(&settings, start)?;
    let settings = settle(settings, &mut starting)?.resolve();
    if settings.workers == 0 {
        local::play(settings, start, starting)
    } else {
        coordinator::play(settings, start, starting)
    }
}

/// Settles what depends on network and machine, once for all processes of the run and for whoever
/// resumes it: what `auto` means, and the largest batch. What was taken and why, to be said, is
/// added to the notes.
fn settle(mut settings: Settings, starting: &mut StartingWeights) -> Result<Settings, RunError> {
    let shape = starting.weights.shape();
    let chosen = network::choose(settings.backend, shape)?;
    settings.backend = chosen.kind.into();
    starting.notes.extend(chosen.reason);
    starting.notes.extend(settings.notes());
    if chosen.kind == BackendKind::Cpu {
        settings = settings.choose_batch(Folded::multiply_adds_of(shape));
    }
    Ok(settings)
}
