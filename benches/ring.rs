//! What a ring costs: the ways of `ringmaster profile ring` that never sleep.
//! `cargo bench --bench ring [-- CORE CORE]` (the first two cores it may use unless told).
#![allow(missing_docs)]

use ringmaster::measure::profile_ring::{RingBudget, default_cores, run, serve};
use std::error::Error;
use std::process::ExitCode;

/// Of two atomics and two rings that are polled: nothing that sleeps.
const BUDGET: RingBudget = RingBudget {
    ways: 2,
    trips: 50_000,
    repetitions: 20,
    streamed: 1_000_000,
};

fn measure(arguments: &[&str]) -> Result<(), Box<dyn Error>> {
    let usage = "usage: ring [CORE CORE]";
    let cores = match *arguments {
        // The other process.
        [
            "ring-peer",
            "--segment",
            name,
            "--parent",
            parent,
            "--core",
            core,
        ] => {
            return Ok(serve(name, parent.parse()?, core.parse()?)?);
        }
        ["--test"] => return Ok(()),
        [] => default_cores().ok_or("it needs two cores")?,
        [first, second] => [first.parse()?, second.parse()?],
        _ => return Err(usage.into()),
    };
    println!("{}", run(cores, BUDGET)?.table());
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments = arguments.iter().map(String::as_str);
    let arguments: Vec<&str> = arguments
        .filter(|argument| *argument != "--bench")
        .collect();
    match measure(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
