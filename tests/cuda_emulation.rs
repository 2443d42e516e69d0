//! The CUDA kernels without a GPU: kernels/blobnet.cu is compiled by g++ against the emulation of
//! its intrinsics (tests/cuda_emulation/) and compared with the CPU network. The emulation also
//! watches over bounds, alignment, races, barriers and asynchronous copies, and the last test here
//! proves that it notices when the kernel is broken.
#![allow(clippy::unwrap_used)]

#[path = "cuda_emulation/definitions.rs"]
mod definitions;
#[path = "cuda_emulation/harness.rs"]
mod harness;
mod support;

use harness::{Build, Launch, Network, positions};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use ringmaster::network::cuda::kernels::{EntryPoint, KernelFamily};
use ringmaster::network::cuda::packing::{OperandType, WIDTHS};
use ringmaster::network::{FEATURES, Shape, Weights};
use ringmaster::observation::Position;
use ringmaster::wire::Reply;
use std::sync::OnceLock;

/// What the 16-bit operands may cost against the CPU network in f32: (priors, values). What is
/// asked of a GPU is (0.01, 0.02).
const F16_TOLERANCE: (f32, f32) = (0.001, 0.003);
const BF16_TOLERANCE: (f32, f32) = (0.01, 0.025);

const BATCHES: [usize; 7] = [1, 2, 15, 16, 17, 33, 256];
/// Fibers forward, backward, and shuffled by seeds.
const ORDERS: [u32; 4] = [0, 1, 2, 3];

fn entries() -> impl Iterator<Item = EntryPoint> {
    KernelFamily::ALL
        .into_iter()
        .flat_map(|family| family.entries().iter().copied())
}

fn default_network() -> &'static Network {
    static NETWORK: OnceLock<Network> = OnceLock::new();
    NETWORK.get_or_init(|| {
        Network::new(
            Weights::seeded(11, Shape::default()),
            OperandType::F16,
            "default",
        )
    })
}

/// Two layers, and a hidden width that takes each slice two passes.
fn wide_network() -> &'static Network {
    static NETWORK: OnceLock<Network> = OnceLock::new();
    NETWORK.get_or_init(|| {
        let shape = Shape::new(256, 2, 2048).unwrap();
        Network::new(Weights::seeded(12, shape), OperandType::F16, "wide")
    })
}

/// The narrow width, and hidden units that do not fill their passes.
fn narrow_network() -> &'static Network {
    static NETWORK: OnceLock<Network> = OnceLock::new();
    NETWORK.get_or_init(|| {
        let shape = Shape::new(128, 2, 384).unwrap();
        Network::new(Weights::seeded(13, shape), OperandType::F16, "narrow")
    })
}

/// Every entry point, for all batches: near the CPU network, and bit for bit the same answer for a
/// position whatever the entry point, the batch and the place in it.
fn check_network(network: &Network, batches: &[usize], tolerance: (f32, f32)) {
    let positions = positions(256);
    let expected = network.expected(&positions);
    let build = network.build();
    let mut bits: Vec<Option<[u32; 26]>> = vec![None; positions.len()];
    let (mut worst_prior, mut worst_value) = (0.0f32, 0.0f32);
    for entry in entries() {
        for (turn, &rows) in batches.iter().enumerate() {
            // A different part of the positions each time, so that a position meets different
            // neighbours and places.
            let first = turn * 37 % (positions.len() - rows + 1);
            let replies = build.run(&Launch::new(entry, 0), &positions[first..first + rows]);
            for (place, reply) in replies.iter().enumerate() {
                let row = first + place;
                assert_eq!(
                    reply.ticket,
                    harness::ticket(place),
                    "{} row {row}",
                    entry.name
                );
                let seen = *bits[row].get_or_insert(harness::bits(reply));
                assert_eq!(
                    seen,
                    harness::bits(reply),
                    "{} rows {rows} row {row}",
                    entry.name
                );
                let (prior, value) = harness::distance(&reply.evaluation, &expected[row]);
                worst_prior = worst_prior.max(prior);
                worst_value = worst_value.max(value);
            }
        }
    }
    println!("worst prior {worst_prior:.5}, worst value {worst_value:.5}");
    assert!(
        worst_prior <= tolerance.0 && worst_value <= tolerance.1,
        "priors off by {worst_prior}, values by {worst_value}"
    );
}

#[test]
fn the_default_network_agrees_with_the_cpu_in_every_batch() {
    check_network(default_network(), &BATCHES, F16_TOLERANCE);
}

#[test]
fn a_wider_network_agrees_with_the_cpu() {
    check_network(wide_network(), &[1, 17, 70], F16_TOLERANCE);
}

#[test]
fn a_narrow_network_agrees_with_the_cpu() {
    check_network(narrow_network(), &BATCHES, F16_TOLERANCE);
}

#[test]
fn hidden_units_need_not_fill_their_passes() {
    let shape = Shape::new(256, 1, 1152).unwrap();
    let network = Network::new(Weights::seeded(14, shape), OperandType::F16, "rest");
    check_network(&network, &[17], F16_TOLERANCE);
}

#[test]
fn bf16_operands_agree_too() {
    let network = Network::new(
        Weights::seeded(11, Shape::default()),
        OperandType::Bf16,
        "bf16",
    );
    check_network(&network, &[70], BF16_TOLERANCE);
}

#[test]
fn the_order_of_threads_changes_nothing() {
    let positions = positions(33);
    for (network, entry) in [wide_network(), narrow_network()]
        .into_iter()
        .flat_map(|network| entries().map(move |entry| (network, entry)))
    {
        let run = |order| network.build().run(&Launch::new(entry, order), &positions);
        let forward = run(ORDERS[0]);
        for order in &ORDERS[1..] {
            assert_eq!(forward, run(*order), "{} order {order}", entry.name);
        }
    }
}

#[test]
fn features_are_those_of_the_observation() {
    let mut positions = positions(300);
    // Any bytes expand, and to the same features: the expansion is total on both sides.
    let mut state = 1u64;
    for position in positions.iter_mut().skip(250) {
        let words: &mut [u64; 11] = bytemuck::cast_mut(position);
        for word in words {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            *word = state ^ state >> 29;
        }
    }
    let found = default_network().build().features(&positions);
    let mut expected = [0.0f32; FEATURES];
    for (row, (position, found)) in positions
        .iter()
        .zip(found.chunks_exact(FEATURES))
        .enumerate()
    {
        position.expand(&mut expected);
        for (feature, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found, expected, "row {row} feature {feature}");
        }
    }
}

/// Where rows are read in place nobody looks at what a worker wrote before the kernel does.
/// Whatever that is, the kernel touches only the batch's slots (the emulation ends at any other
/// access, and at a reply byte written twice), and its neighbours' answers are those they would
/// have had without it.
#[test]
fn any_bytes_for_a_position_harm_nobody() {
    let network = wide_network();
    let sound = positions(34);
    let mut mixed = sound.clone();
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(8);
    for (row, position) in mixed.iter_mut().enumerate().skip(1).step_by(2) {
        let bytes = bytemuck::bytes_of_mut(position);
        match row % 10 {
            1 => bytes.fill(0xff),
            3 => bytes.fill(0),
            // All but the legal actions sound: none, and all of them with others beyond.
            5 => position.legal = 0,
            7 => position.legal = u64::MAX,
            _ => rng.fill_bytes(bytes),
        }
    }
    assert!(
        mixed
            .iter()
            .skip(1)
            .step_by(2)
            .filter(|position| !position.is_sound())
            .count()
            >= 13
    );
    let run = |entry, positions| network.build().run(&Launch::new(entry, 0), positions);
    let alone = run(KernelFamily::Block.entries()[0], &sound);
    for entry in entries() {
        let beside = run(entry, &mixed);
        for (row, (alone, beside)) in alone.iter().zip(&beside).enumerate() {
            assert_eq!(
                beside.ticket,
                harness::ticket(row),
                "{} row {row}",
                entry.name
            );
            if row % 2 == 0 {
                assert_eq!(
                    harness::bits(alone),
                    harness::bits(beside),
                    "{} row {row}",
                    entry.name
                );
            }
            let priors = beside.evaluation.priors;
            assert!(
                priors.iter().all(|prior| (0.0..=1.0).contains(prior)),
                "{} row {row}: {priors:?}",
                entry.name
            );
        }
    }
}

/// Logits far apart, infinite or not a number: priors stay finite and sum to 1, as those of the CPU
/// do.
#[test]
fn the_softmax_survives_any_logits() {
    let network = default_network();
    let positions = positions(16);
    let extremes = [
        f32::MAX,
        f32::MIN,
        1e30,
        -1e30,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        0.0,
        90.0,
    ];
    for shift in 0..3 {
        let mut packed = network.packed().to_vec();
        let offset = packed.len() - 64 * 4;
        for action in 0..52 {
            let extreme = extremes[(action * 5 + shift) % extremes.len()];
            packed[offset + action * 4..][..4].copy_from_slice(&extreme.to_le_bytes());
        }
        let build = network.build().with_weights(packed);
        for entry in KernelFamily::ALL.map(|family| family.entries()[0]) {
            for (reply, position) in build
                .run(&Launch::new(entry, 0), &positions)
                .iter()
                .zip(&positions)
            {
                let count = position.legal.count_ones() as usize;
                let priors = &reply.evaluation.priors;
                assert!(
                    priors.iter().all(|p| p.is_finite() && *p >= 0.0),
                    "{priors:?}"
                );
                assert!(
                    (priors[..count].iter().sum::<f32>() - 1.0).abs() < 1e-5,
                    "{priors:?}"
                );
                assert!(
                    priors[count..].iter().all(|p| p.to_bits() == 0),
                    "{priors:?}"
                );
            }
        }
    }
}

/// Each number that Rust and the kernels share has its place in Rust. `UPDATE_GOLDEN=1` writes them
/// down.
#[test]
fn the_kernels_have_the_definitions_of_the_program() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/definitions.cuh");
    let current = definitions::text();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &current).unwrap();
    }
    let stored = std::fs::read_to_string(path).unwrap();
    assert_eq!(stored, current, "run the tests with UPDATE_GOLDEN=1");
}

/// `scripts/compile_gate.sh` sees that the PTX is what the sources give; here, with nothing to
/// install, that it is of these sources, and that the program makes of it for bf16 what NVRTC did.
#[test]
fn the_ptx_is_of_these_sources() {
    let sources = harness::sources();
    let sources: String = sources
        .iter()
        .map(|(name, text)| format!("{name}\0{text}\0"))
        .collect();
    for (family, width) in KernelFamily::ALL
        .into_iter()
        .flat_map(|f| WIDTHS.map(|w| (f, w)))
    {
        let [f16, bf16] = [OperandType::F16, OperandType::Bf16].map(|operands| {
            let text = family.ptx(width, operands).into_owned();
            let (head, body) = text.split_once("\n.version").unwrap();
            (head.to_owned(), harness::hash(body))
        });
        let head = format!(
            "// sources {}\n// f16 {}\n// bf16 {}",
            harness::hash(&sources),
            f16.1,
            bf16.1
        );
        assert!(
            f16.0.starts_with(&head),
            "{family:?} {width}: run scripts/compile_gate.sh --write"
        );
        let text = family.ptx(width, OperandType::F16);
        for entry in family.entries() {
            assert!(text.contains(&format!(".entry {}(", entry.name)));
        }
    }
}

/// A kernel broken in one place: what to replace (its `nth` occurrence, from 0), by what, and the
/// family of entry points that shows it.
struct Mutant {
    what: &'static str,
    find: &'static str,
    nth: usize,
    replace: &'static str,
    family: KernelFamily,
    /// Part of the emulation's complaint; empty where only the numbers betray the mutant.
    complaint: &'static str,
}

impl Mutant {
    /// The source that is broken.
    fn file(&self) -> &'static str {
        let has = |name: &&str| {
            let sources = harness::sources();
            let (_, text) = sources.iter().find(|(source, _)| source == name).unwrap();
            text.contains(self.find)
        };
        ["tiles.cuh", "rows.cuh"]
            .into_iter()
            .find(has)
            .unwrap_or_else(|| panic!("the kernels have no `{}` any more", self.find))
    }
}

const fn mutant(
    what: &'static str,
    (find, nth): (&'static str, usize),
    replace: &'static str,
    family: KernelFamily,
    complaint: &'static str,
) -> Mutant {
    Mutant {
        what,
        find,
        nth,
        replace,
        family,
        complaint,
    }
}

const BARRIER: &str = "cluster_barrier<T::CLUSTER>();";
const MUTANTS: &[Mutant] = &[
    mutant(
        "copies never waited for",
        ("wait_copies<T::STAGES - 2>();", 0),
        "",
        KernelFamily::Block,
        "asynchronous copy",
    ),
    mutant(
        "one stage too few waited for",
        ("wait_copies<T::STAGES - 2>();", 0),
        "wait_copies<T::STAGES - 1>();",
        KernelFamily::Cluster,
        "asynchronous copy",
    ),
    mutant(
        "a stage refilled before it is read",
        ("wait_copies<T::STAGES - 2>();", 0),
        "request(); request(); wait_copies<T::STAGES - 2>();",
        KernelFamily::Block,
        "asynchronous copy",
    ),
    mutant(
        "no barrier before the peers' memory is written",
        (BARRIER, 2),
        "",
        KernelFamily::Cluster,
        "nobody has written",
    ),
    mutant(
        "no barrier after the features",
        (BARRIER, 3),
        "",
        KernelFamily::Cluster,
        "nobody has written",
    ),
    mutant(
        "no barrier before the sums are read",
        (BARRIER, 0),
        "",
        KernelFamily::Cluster,
        "nobody has written",
    ),
    mutant(
        "no barrier after a norm",
        (BARRIER, 1),
        "",
        KernelFamily::Cluster,
        "races",
    ),
    mutant(
        "no barrier after a norm, one block",
        (BARRIER, 1),
        "",
        KernelFamily::Block,
        "races",
    ),
    mutant(
        "no barrier before the reply",
        (BARRIER, 4),
        "",
        KernelFamily::Cluster,
        "races",
    ),
    mutant(
        "no barrier after the hidden units",
        ("block_barrier();\n            contract<T>", 0),
        "contract<T>",
        KernelFamily::Block,
        "nobody has written",
    ),
    mutant(
        "no barrier before the second pass's hidden units",
        (
            "if (T::HIDDEN_BUFFERS == 1 && unit > 0) block_barrier();",
            0,
        ),
        "",
        KernelFamily::Cluster,
        "races",
    ),
    mutant(
        "one buffer of hidden units for two",
        ("pass % T::HIDDEN_BUFFERS", 0),
        "0",
        KernelFamily::Block,
        "races",
    ),
    mutant(
        "no barrier between the heads",
        ("block_barrier();\n        if (place.warp < HEAD_WARPS)", 0),
        "if (place.warp < HEAD_WARPS)",
        KernelFamily::Cluster,
        "races",
    ),
    mutant(
        "no warp barrier after a request",
        (
            "    warp_barrier();\n    const unsigned word = lane % 4;",
            0,
        ),
        "    const unsigned word = lane % 4;",
        KernelFamily::Block,
        "nobody has written",
    ),
    mutant(
        "a block barrier that half the warps skip",
        ("            block_barrier();\n            contract<T>", 0),
        "if (place.warp < 4) block_barrier();\n contract<T>",
        KernelFamily::Block,
        "",
    ),
    mutant(
        "a warp that sits out a matrix load",
        (
            "load_matrices4(inputs + column * 8 * pitch + (first + i) * 32, rows);",
            0,
        ),
        "if (thread_index() % 32 < 31) load_matrices4(inputs, rows); else warp_barrier();",
        KernelFamily::Block,
        "collective",
    ),
    mutant(
        "rows past the batch fetched",
        ("row < owned && first + row < args.rows)\n", 0),
        "row < owned)\n",
        KernelFamily::Block,
        "may not read",
    ),
    mutant(
        "rows past the batch answered",
        ("lane < REPLY_WORDS && row < args.rows", 0),
        "lane < REPLY_WORDS",
        KernelFamily::Cluster,
        "may not write",
    ),
    mutant(
        "a reply too short",
        ("if (lane < REPLY_WORDS && row", 0),
        "if (lane < REPLY_WORDS - 1 && row",
        KernelFamily::Block,
        "written 0 times",
    ),
    mutant(
        "weights past the end",
        ("(stream() * fragments", 0),
        "((stream() + 8) * fragments",
        KernelFamily::Cluster,
        "global access",
    ),
    mutant(
        "the inputs' halves swapped",
        ("lane / 8 % 2 * 16", 0),
        "(1 - lane / 8 % 2) * 16",
        KernelFamily::Block,
        "",
    ),
    mutant(
        "a fragment off by one tile of inputs",
        ("(first + i) / 2 * 32", 0),
        "((first + i) / 2 ^ 1) * 32",
        KernelFamily::Cluster,
        "",
    ),
    mutant(
        "neighbouring rows swapped",
        (
            "owner, sums[column][0],\n                                       sums[column][2]",
            0,
        ),
        "owner, sums[column][1], sums[column][3]",
        KernelFamily::Cluster,
        "",
    ),
    mutant(
        "sums to the wrong owner",
        ("owner = row / T::OWNED;\n        UNROLL", 0),
        "owner = row / T::OWNED ^ 1;\n        UNROLL",
        KernelFamily::Cluster,
        "",
    ),
    mutant(
        "no residual",
        ("if (RESIDUAL) x[i] += residual[turn][i];", 0),
        "",
        KernelFamily::Block,
        "",
    ),
    mutant(
        "one slice's sums left out",
        ("partial < PARTIALS", 0),
        "partial < PARTIALS - 1",
        KernelFamily::Cluster,
        "",
    ),
    mutant(
        "no bias of the hidden units",
        ("sums[column][odd] + bias[0]", 0),
        "sums[column][odd]",
        KernelFamily::Block,
        "",
    ),
    mutant(
        "one legal action too many",
        ("(legal >> action & 1)", 0),
        "(legal >> (action ^ 1) & 1)",
        KernelFamily::Block,
        "",
    ),
    mutant(
        "the offset of another row's reply",
        ("shuffle_long(header.reply, turn * 4)", 0),
        "shuffle_long(header.reply, turn * 4 ^ 4)",
        KernelFamily::Block,
        "may not write",
    ),
];

/// The checks can fail: each broken kernel is refused by the emulation with the right complaint, or
/// its numbers are wrong.
#[test]
fn broken_kernels_are_noticed() {
    let network = wide_network();
    let positions: Vec<Position> = positions(19);
    let expected = network.expected(&positions);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let unnoticed = std::sync::Mutex::new(Vec::new());
    let work = || {
        loop {
            let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(mutant) = MUTANTS.get(number) else {
                break;
            };
            // The second tile of the family: more rows than one mma has.
            let entry = mutant.family.entries()[1];
            let build = Build::mutant(network, number, mutant.family, mutant.file(), |source| {
                replace_nth(source, mutant.find, mutant.nth, mutant.replace)
            });
            let run = |order| build.try_run(&Launch::new(entry, order), &positions);
            let is_noticed = |outcome: &Result<Vec<Reply>, String>| match outcome {
                Err(complaint) => complaint.contains(mutant.complaint),
                Ok(replies) => {
                    mutant.complaint.is_empty()
                        && replies.iter().zip(&expected).any(|(reply, expected)| {
                            let (prior, value) = harness::distance(&reply.evaluation, expected);
                            !(prior <= F16_TOLERANCE.0 && value <= F16_TOLERANCE.1)
                        })
                }
            };
            if !ORDERS.iter().any(|&order| is_noticed(&run(order))) {
                let outcome = run(ORDERS[0]).map(|_| "ran through");
                unnoticed
                    .lock()
                    .unwrap()
                    .push(format!("{}: {outcome:?}", mutant.what));
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let unnoticed = unnoticed.into_inner().unwrap();
    assert!(
        unnoticed.is_empty(),
        "not noticed as they should be: {unnoticed:#?}"
    );
}

fn replace_nth(source: &str, find: &str, nth: usize, replace: &str) -> String {
    let (at, _) = source
        .match_indices(find)
        .nth(nth)
        .unwrap_or_else(|| panic!("the kernel has no `{find}` number {nth} any more"));
    format!("{}{replace}{}", &source[..at], &source[at + find.len()..])
}
