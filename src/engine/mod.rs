//! Processes: the coordinator owns the segment, starts everyone and keeps the replay; workers play;
//! the evaluator runs the network. Wiring only: what is wired lives in the modules below this one.

mod awake;
mod child;
mod coordinator;
pub mod evaluator;
mod given;
pub mod image;
pub mod in_hand;
mod interrupts;
pub mod job_control;
pub mod layout;
mod local;
mod networks;
mod oom;
mod progress;
mod report;
mod run;
mod staff;
mod weights_watcher;
pub mod worker;

pub use awake::AwakeClock;
pub use child::ChildError;
pub use given::prefix_note;
pub use interrupts::INTERRUPTED;
pub use report::Report;
pub use run::{RunError, Start};

use crate::network::{
    self, Backend, BackendKind, Folded, Shape, Weights, WeightsError, weights_file,
};
use crate::settings::Settings;
use given::Given;

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
    let mut given = Given::find(&settings, start)?;
    let settings = settle(settings, &mut given)?.resolve();
    if settings.workers == 0 {
        local::play(settings, start, given)
    } else {
        coordinator::play(settings, start, given)
    }
}

/// Settles what depends on network and machine, once for all processes of the run and for whoever
/// resumes it: what `auto` means, and the largest batch. What was taken and why, to be said, is
/// added to the notes.
fn settle(mut settings: Settings, given: &mut Given) -> Result<Settings, RunError> {
    let shape = given.weights.shape();
    let chosen = network::choose(settings.backend, shape)?;
    settings.backend = chosen.kind.into();
    given.notes.extend(chosen.reason);
    given.notes.extend(settings.notes());
    if chosen.kind == BackendKind::Cpu {
        settings = settings.choose_batch(Folded::multiply_adds_of(shape));
    }
    Ok(settings)
}
