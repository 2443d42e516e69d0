//! Compiles and runs the emulated kernels, and makes what they are fed and compared with.

use rand::RngExt;
use rand::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;
use ringmaster::game::{Round, Rules, Standing, Table, TrumpRule, rounds_in_game};
use ringmaster::network::cuda::kernels::{EntryPoint, KernelFamily};
use ringmaster::network::cuda::packing::{OperandType, WeightLayout, pack};
use ringmaster::network::cuda::plan;
use ringmaster::network::{BackendKind, FEATURES, Folded, Limits, Weights, open};
use ringmaster::observation::Position;
use ringmaster::wire::{Evaluation, Reply, Request};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::play_to_choice;

const FEATURES_DEFINE: &str = "-DBLOBNET_FEATURES";

/// Shared memory of `blobnet_features`: a slot of 128 bytes and a row of floats for each of 8
/// warps.
pub const FEATURES_SHARED_BYTES: u32 = 8 * (128 + FEATURES as u32 * 4);

/// A network, packed for the kernels, with the CPU's answers at hand.
pub struct Network {
    weights: Weights,
    layout: WeightLayout,
    name: &'static str,
    packed: OnceLock<Vec<u8>>,
    build: OnceLock<Build>,
}

impl Network {
    pub fn new(weights: Weights, operands: OperandType, name: &'static str) -> Self {
        let layout = WeightLayout::new(weights.shape(), operands).unwrap();
        Network {
            weights,
            layout,
            name,
            packed: OnceLock::new(),
            build: OnceLock::new(),
        }
    }

    pub fn packed(&self) -> &[u8] {
        self.packed.get_or_init(|| {
            let packed = pack(&Folded::new(&self.weights), self.layout.operands()).unwrap();
            assert_eq!(packed.len(), self.layout.bytes());
            packed
        })
    }

    /// What the kernels of these families are compiled with.
    fn defines(&self, families: &[KernelFamily]) -> Vec<String> {
        let f16 = u32::from(self.layout.operands() == OperandType::F16);
        let mut defines = vec![
            format!("-DBLOBNET_WIDTH={}", self.layout.width()),
            format!("-DBLOBNET_F16={f16}"),
        ];
        let family = |family: &KernelFamily| format!("-DBLOBNET_{family:?}").to_uppercase();
        defines.extend(families.iter().map(family));
        defines
    }

    /// The kernels as they are, all entry points.
    pub fn build(&self) -> &Build {
        self.build.get_or_init(|| {
            let mut options = self.defines(&KernelFamily::ALL);
            options.push(FEATURES_DEFINE.into());
            Build::new(self, self.name, &options, "-O2", None)
        })
    }

    /// What the CPU network says.
    pub fn expected(&self, positions: &[Position]) -> Vec<Evaluation> {
        let limits = Limits {
            threads: 1,
            max_batch: positions.len(),
            gpu_memory_mib: 0,
        };
        let mut backend = open(BackendKind::Cpu, &self.weights, limits).unwrap();
        backend.requests(0).copy_from_slice(&requests(positions));
        backend.run(positions.len()).unwrap();
        let replies = backend.replies(0).iter();
        replies.map(|reply| reply.evaluation).collect()
    }
}

/// How to launch.
pub struct Launch {
    entry: EntryPoint,
    order: u32,
}

impl Launch {
    pub fn new(entry: EntryPoint, order: u32) -> Self {
        Launch { entry, order }
    }
}

/// A compiled emulation and the weights it runs with.
pub struct Build {
    folder: PathBuf,
    executable: PathBuf,
    weights: PathBuf,
    shape: [u32; 2],
    runs: AtomicUsize,
}

impl Build {
    fn new(
        network: &Network,
        name: &str,
        options: &[String],
        level: &str,
        kernels: Option<&[(String, String)]>,
    ) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("cuda-emulation-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let executable = folder.join("emulation");
        let mut command = Command::new("g++");
        command.args(["-x", "c++", "-std=c++17", level, "-Wall", "-Wextra"]);
        // As the GPU's compiler is told: products and sums are not fused.
        command.args(["-ffp-contract=off", "-DRINGMASTER_EMULATE"]);
        let mut sources = root.join("kernels");
        if let Some(kernels) = kernels {
            for (name, text) in kernels {
                std::fs::write(folder.join(name), text).unwrap();
            }
            sources.clone_from(&folder);
            // Mutants may leave something unused.
            command.arg("-w");
        }
        command
            .arg("-I")
            .arg(sources)
            .arg("-I")
            .arg(root.join("tests/cuda_emulation"));
        command
            .args(options)
            .arg(root.join("tests/cuda_emulation/main.cpp"))
            .arg("-o")
            .arg(&executable);
        let output = command.output().unwrap_or_else(|error| {
            panic!("cannot run g++ ({error}), which compiles the kernels: install g++ 9 or later")
        });
        assert!(
            output.status.success(),
            "g++ refuses the kernels:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let weights = folder.join("weights");
        std::fs::write(&weights, network.packed()).unwrap();
        Build {
            folder,
            executable,
            weights,
            shape: [network.layout.depth(), network.layout.ffn_passes()]
                .map(|number| number as u32),
            runs: AtomicUsize::new(0),
        }
    }

    /// One family of entry points, with `change` made to the source `file`.
    pub fn mutant(
        network: &Network,
        number: usize,
        family: KernelFamily,
        file: &str,
        change: impl Fn(&str) -> String,
    ) -> Self {
        let options = network.defines(&[family]);
        let mut sources = sources();
        for (name, text) in &mut sources {
            if name == file {
                *text = change(text);
            }
        }
        let name = format!("mutant-{number}");
        Build::new(network, &name, &options, "-O1", Some(&sources))
    }

    /// The same program with other weights.
    pub fn with_weights(&self, packed: Vec<u8>) -> Build {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let folder = self.folder.join(format!(
            "weights-{}",
            NUMBER.fetch_add(1, Ordering::Relaxed)
        ));
        std::fs::create_dir_all(&folder).unwrap();
        let weights = folder.join("weights");
        std::fs::write(&weights, packed).unwrap();
        Build {
            folder,
            executable: self.executable.clone(),
            weights,
            shape: self.shape,
            runs: AtomicUsize::new(0),
        }
    }

    pub fn run(&self, launch: &Launch, positions: &[Position]) -> Vec<Reply> {
        self.try_run(launch, positions)
            .unwrap_or_else(|complaint| panic!("{}: {complaint}", launch.entry.name))
    }

    /// One launch; the emulation's complaint if it has one.
    pub fn try_run(&self, launch: &Launch, positions: &[Position]) -> Result<Vec<Reply>, String> {
        let bytes = self.launch(launch, positions)?;
        Ok(bytes
            .chunks_exact(size_of::<Reply>())
            .map(bytemuck::pod_read_unaligned)
            .collect())
    }

    /// The features of each position, one after another.
    pub fn features(&self, positions: &[Position]) -> Vec<f32> {
        let mut entry = KernelFamily::Block.entries()[0];
        (entry.name, entry.rows) = ("blobnet_features", 8);
        entry.shared_bytes = FEATURES_SHARED_BYTES;
        let launch = Launch::new(entry, 0);
        let bytes = self.launch(&launch, positions).unwrap();
        bytes
            .chunks_exact(4)
            .map(bytemuck::pod_read_unaligned)
            .collect()
    }

    fn launch(&self, launch: &Launch, positions: &[Position]) -> Result<Vec<u8>, String> {
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        let (asked, answered) = (
            self.folder.join(format!("requests-{run}")),
            self.folder.join(format!("replies-{run}")),
        );
        std::fs::write(&asked, bytemuck::cast_slice(&requests(positions))).unwrap();
        let (rows, entry) = (positions.len() as u32, launch.entry);
        let grid = plan::Launch::of(entry, rows).grid_blocks;
        let numbers = [
            rows,
            grid,
            entry.cluster,
            entry.shared_bytes,
            launch.order,
            self.shape[0],
            self.shape[1],
        ];
        let output = Command::new(&self.executable)
            .arg(entry.name)
            .args(numbers.map(|number| number.to_string()))
            .args([&self.weights, &asked, &answered])
            .output()
            .unwrap();
        if !output.status.success() {
            return Err(format!(
                "{}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            ));
        }
        let bytes = std::fs::read(&answered).unwrap();
        std::fs::remove_file(asked).unwrap();
        std::fs::remove_file(answered).unwrap();
        Ok(bytes)
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The ticket of the request at `place` of a batch: uses all 64 bits.
pub fn ticket(place: usize) -> u64 {
    (place as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn requests(positions: &[Position]) -> Vec<Request> {
    let request = |(place, &position): (usize, &Position)| Request {
        ticket: ticket(place),
        position,
    };
    positions.iter().enumerate().map(request).collect()
}

/// All numbers of a reply, as bits.
pub fn bits(reply: &Reply) -> [u32; 26] {
    let evaluation = reply.evaluation;
    std::array::from_fn(|i| {
        let number = if i < 18 {
            evaluation.priors[i]
        } else {
            evaluation.values[i - 18]
        };
        number.to_bits()
    })
}

/// Largest difference of a prior, and of a value; infinite if a number is none.
pub fn distance(found: &Evaluation, expected: &Evaluation) -> (f32, f32) {
    let worst = |found: &[f32], expected: &[f32]| {
        let difference = |(a, b): (&f32, &f32)| {
            if a.is_finite() {
                (a - b).abs()
            } else {
                f32::INFINITY
            }
        };
        found
            .iter()
            .zip(expected)
            .map(difference)
            .fold(0.0, f32::max)
    };
    (
        worst(&found.priors, &expected.priors),
        worst(&found.values, &expected.values),
    )
}

/// Real positions: all table sizes, bids and plays, independent rounds and rounds of whole games,
/// every way to find trump.
pub fn positions(count: usize) -> Vec<Position> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(5);
    let trumps = [
        TrumpRule::Rotating,
        TrumpRule::Turned,
        TrumpRule::Hearts,
        TrumpRule::None,
    ];
    let mut positions = Vec::new();
    while positions.len() < count {
        let number = positions.len();
        let players = 3 + number % 6;
        let first_cards = (52 / players).min(17);
        let cards = rng.random_range(1..=first_cards);
        let rules = Rules {
            trump: trumps[number / 6 % 4],
            ..Rules::default()
        };
        let table = Table {
            players,
            cards,
            dealer: rng.random_range(0..players),
            trump_turn: number % 5,
        };
        let mut round = Round::deal(table, rules, &mut rng).unwrap();
        let moves = rng.random_range(0..players * (cards + 1));
        if !play_to_choice(&mut round, &mut rng, moves) {
            continue;
        }
        let mut standing = Standing::default();
        if number % 3 == 0 {
            standing.rounds_total = rounds_in_game(players, first_cards) as u8;
            standing.rounds_done = rng.random_range(0..standing.rounds_total);
            standing.first_cards = first_cards as u8;
            for total in &mut standing.totals[..players] {
                *total = rng.random_range(0..200);
            }
        }
        let position = Position::observe(&round, &standing);
        assert!(position.is_sound());
        positions.push(position);
    }
    positions
}

/// The kernels' sources by name, in order of name.
pub fn sources() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let is_source = |name: &String| name.ends_with(".cu") || name.ends_with(".cuh");
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(is_source)
        .collect();
    names.sort_unstable();
    let read = |name: String| {
        let text = std::fs::read_to_string(folder.join(&name)).unwrap();
        (name, text)
    };
    names.into_iter().map(read).collect()
}

/// The hash of a text, as the compile gate writes it.
pub fn hash(text: &str) -> String {
    let bytes = Sha256::digest(text);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
