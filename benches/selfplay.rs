//! Real self-play through the program, held against the best f32 matrix rate of the `gemm` crate on
//! all cores and against the sequential baseline (one process, one round at a time), in one run
//! with interleaved repetitions, since the machine is shared: medians, and in brackets the smallest
//! and the largest. FLOP/s in self-play are unique evaluations per second of wall clock
//! times two times the folded network's multiply-adds; the share of processor time is that of
//! workers and coordinator in all processor time of the run, their start included. `cargo bench
//! --bench selfplay -- [REPETITIONS [ROUNDS]]`

use std::process::{Command, ExitCode, Stdio};

use ringmaster::network::{Folded, Shape, Weights};
use ringmaster::settings::cores;
use serde_json::Value;
use yardstick::{Product, SIZES};

mod yardstick;

/// Slices per size before and after each run of self-play.
const SLICES: usize = 3;
const BASELINE_ROUNDS: usize = 10;
/// What the design asks for.
const LEAST_OF_GEMM: f64 = 0.6;
const MOST_OF_PROCESSOR: f64 = 0.15;

/// One figure of all repetitions.
struct Samples(Vec<f64>);

impl Samples {
    fn of(reports: &[Value], figure: impl Fn(&Value) -> f64) -> Samples {
        Samples(reports.iter().map(figure).collect())
    }

    fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn line(&self, name: &str, scale: f64, digits: usize, note: &str) {
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        println!(
            "  {name:<38} {:>9.digits$}  [{:.digits$} to {:.digits$}]  {note}",
            self.median() * scale,
            least * scale,
            most * scale
        );
    }
}

/// Plays a run of the program; its report.
fn play(arguments: &[&str]) -> Result<Value, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let output = Command::new(env!("CARGO_BIN_EXE_ringmaster"))
        .args(["selfplay", "--json"])
        .args(arguments)
        .arg("--out")
        .arg(folder.path().join("replay"))
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("selfplay ended with {}", output.status));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
}

fn number(report: &Value, name: &str) -> f64 {
    report[name].as_f64().unwrap_or(f64::NAN)
}

fn share_of_processor(report: &Value) -> f64 {
    let spent = |who: &str| number(&report["cpu_s"], who);
    let engine = spent("workers") + spent("coordinator");
    engine / (engine + spent("evaluator"))
}

/// All that was measured, an entry per repetition.
#[derive(Default)]
struct Measured {
    /// FLOP/s by size, all slices.
    gemm: Vec<Vec<f64>>,
    runs: Vec<Value>,
    baselines: Vec<Value>,
    /// Runnable processes of the last minute, before each repetition: what else the machine did.
    loads: Vec<String>,
}

fn measure(repetitions: usize, rounds: &str) -> Result<Measured, String> {
    let mut products: Vec<_> = SIZES
        .iter()
        .map(|&size| Product::new(size, cores()))
        .collect();
    let mut measured = Measured {
        gemm: vec![Vec::new(); SIZES.len()],
        ..Measured::default()
    };
    let baseline_rounds = BASELINE_ROUNDS.to_string();
    for repetition in 0..repetitions {
        eprintln!("repetition {} of {repetitions}", repetition + 1);
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().unwrap_or("").to_owned();
        measured.loads.push(load);
        let slices = |products: &mut Vec<Product>, rates: &mut Vec<Vec<f64>>| {
            for _ in 0..SLICES {
                for (product, rates) in products.iter_mut().zip(rates.iter_mut()) {
                    rates.push(product.rate());
                }
            }
        };
        slices(&mut products, &mut measured.gemm);
        let run = play(&["--workers", "4", "--rounds", rounds])?;
        measured.runs.push(run);
        slices(&mut products, &mut measured.gemm);
        let sequential = [
            "--workers",
            "0",
            "--in-flight",
            "1",
            "--worlds",
            "3",
            "--rounds",
            &baseline_rounds,
        ];
        measured.baselines.push(play(&sequential)?);
    }
    Ok(measured)
}

fn main() -> ExitCode {
    let given: Vec<usize> = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let repetitions = given.first().copied().unwrap_or(5).max(1);
    let rounds = given.get(1).copied().unwrap_or(300).to_string();
    match measure(repetitions, &rounds) {
        Ok(measured) => {
            report(measured, repetitions);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn report(measured: Measured, repetitions: usize) {
    let folded = Folded::new(&Weights::seeded(1, Shape::default()));
    let flop = 2.0 * folded.multiply_adds() as f64;
    let Measured {
        gemm,
        runs,
        baselines,
        loads,
    } = measured;
    let gemm: Vec<Samples> = gemm.into_iter().map(Samples).collect();
    let yardstick = gemm.iter().map(Samples::median).fold(0.0, f64::max);
    let of = |name: &'static str| Samples::of(&runs, move |run| number(run, name));
    let verdict = |met: bool| if met { "met" } else { "missed" };

    println!(
        "self-play against gemm, {} cores, {repetitions} repetitions, load before each: {}",
        cores(),
        loads.join(" ")
    );
    for (size, samples) in SIZES.iter().zip(&gemm) {
        samples.line(&format!("gemm {size}^3, GFLOP/s"), 1e-9, 1, "");
    }
    println!();
    of("rounds_per_min").line("self-play, rounds/min", 1.0, 0, "");
    of("evaluations_per_s").line("unique evaluations/s", 1.0, 0, "");
    let rate = Samples::of(&runs, |run| number(run, "evaluations_per_s") * flop);
    rate.line("network in self-play, GFLOP/s", 1e-9, 1, "");
    let ratio = Samples(rate.0.iter().map(|rate| rate / yardstick).collect());
    let met = verdict(ratio.median() >= LEAST_OF_GEMM);
    ratio.line(
        "of gemm",
        1.0,
        2,
        &format!("at least {LEAST_OF_GEMM}: {met}"),
    );
    let share = Samples::of(&runs, share_of_processor);
    let met = verdict(share.median() <= MOST_OF_PROCESSOR);
    let note = format!("at most {MOST_OF_PROCESSOR}: {met}");
    share.line("workers and coordinator, of processor", 1.0, 3, &note);
    let by = |who: &'static str| Samples::of(&runs, move |run| number(&run["cpu_s"], who));
    by("evaluator").line("  evaluator, processor s", 1.0, 2, "");
    by("workers").line("  workers, processor s", 1.0, 2, "");
    by("coordinator").line("  coordinator, processor s", 1.0, 2, "");
    of("elapsed_s").line("  wall clock s", 1.0, 2, "");
    of("batch_mean").line("batch, mean", 1.0, 0, "");
    of("batch_p50").line("batch, median", 1.0, 0, "");
    of("evaluator_busy").line("evaluator busy, of wall clock", 1.0, 3, "");
    println!();
    let baseline = Samples::of(&baselines, |run| number(run, "rounds_per_min"));
    baseline.line("sequential baseline, rounds/min", 1.0, 1, "");
    let batch = Samples::of(&baselines, |run| number(run, "batch_mean"));
    batch.line("  batch, mean", 1.0, 2, "");
    let pairs = runs.iter().zip(&baselines);
    let gain =
        pairs.map(|(run, base)| number(run, "rounds_per_min") / number(base, "rounds_per_min"));
    Samples(gain.collect()).line("self-play over baseline", 1.0, 2, "");
    let digests: Vec<_> = runs.iter().map(|run| &run["digest"]).collect();
    let same = digests.windows(2).all(|pair| pair[0] == pair[1]);
    println!("  all runs of self-play alike, byte for byte: {same}");
}
