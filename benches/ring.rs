//! What a ring costs: `ringmaster profile ring`, with more round trips. `cargo bench --bench ring
//! [-- CORE CORE]` (the first two cores it may use unless told).
#![allow(missing_docs)]

use ringmaster::measure::profile_ring::{Budget, default_cores, run, serve};
use std::error::Error;

const BUDGET: Budget = Budget {
    trips: 50_000,
    repetitions: 20,
    streamed: 1_000_000,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let usage = "usage: ring [CORE CORE]";
    let cores = match arguments[..] {
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
        ["--test", ..] => return Ok(()),
        ["--bench"] | [] => default_cores().ok_or("it needs two cores")?,
        [first, second, ..] => [first.parse()?, second.parse()?],
        _ => return Err(usage.into()),
    };
    println!("{}", run(cores, BUDGET)?.table());
    Ok(())
}
