//! BlobNet on the CPU: a batch is cut into chunks of rows, and each thread takes a chunk through
//! the whole network in its own workspace, so threads meet only at the end of the batch. A row's
//! logits and values do not depend, in a single bit, on the batch around the row, its place, or the
//! number of threads (`product` says why); replays rest on this.

use std::sync::{Arc, Mutex, PoisonError};

use pulp::Arch;
use rayon::iter::{IndexedParallelIterator, IntoParallelRefMutIterator, ParallelIterator};

mod product;

use super::{ACTIONS, FEATURES, Folded, FoldedLayer, Linear, Norm, SEATS};
use product::{Arena, Finish, Packed, Rows, norm, product};

/// Rows of a chunk at most: activations (of the default shape some 0.5 MB) then stay in the
/// second-level cache, and a chunk is long enough to read each weight once for very many products.
/// By measurement, `benches/network.rs`.
const CHUNK_ROWS_MAX: usize = 64;
/// Rows of a chunk at least: below this, reading the weights takes longer than multiplying by them,
/// and a second thread would only read them again.
const CHUNK_ROWS_MIN: usize = 4;

/// Why a CPU network could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// No thread or no row.
    #[error(
        "the CPU network needs at least one thread and one row, got {threads} threads and {max_rows} rows"
    )]
    Empty {
        /// Threads asked for.
        threads: usize,
        /// Rows asked for.
        max_rows: usize,
    },
    /// The system gave no threads.
    #[error("cannot start {threads} network threads ({source}); ask for fewer threads")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// The pool's reason.
        source: rayon::ThreadPoolBuildError,
    },
    /// The system gave no memory for the packed weights.
    #[error("cannot map memory for the packed weights ({0}); free some, or use a smaller network")]
    Memory(std::io::Error),
}

/// A network with its weights packed for this CPU, its threads, and all memory that a batch needs.
pub struct CpuNetwork {
    model: Model,
    /// None with one thread: batches then run on the caller's.
    pool: Option<rayon::ThreadPool>,
    workspaces: Vec<Workspace>,
    rows: usize,
    max_rows: usize,
    logits: Vec<f32>,
    values: Vec<f32>,
}

/// The folded chain with packed matrices.
struct Model {
    arch: Arch,
    folded: Arc<Folded>,
    arena: Arena,
    embed: Packed,
    layers: Vec<PackedLayer>,
    policy_hidden: Packed,
    policy_out: Packed,
    value_hidden: Packed,
    value_out: Packed,
}

struct PackedLayer {
    mix: Packed,
    expand: Packed,
    contract: Packed,
}

/// Activations of one chunk.
struct Workspace {
    features: Rows,
    stream: Rows,
    mixed: Rows,
    hidden: Rows,
    out: Rows,
}

/// A chunk's number, and where its logits and values go.
type Chunk<'a> = (usize, (&'a mut [f32], &'a mut [f32]));

impl CpuNetwork {
    /// Packs the network and allocates everything for batches of up to `max_rows` rows on exactly
    /// `threads` threads (with 1, the caller's own).
    ///
    /// # Errors
    /// [`CpuError`] if either number is 0 or the threads cannot be started.
    pub fn new(folded: Arc<Folded>, threads: usize, max_rows: usize) -> Result<Self, CpuError> {
        if threads == 0 || max_rows == 0 {
            return Err(CpuError::Empty { threads, max_rows });
        }
        let pool = match threads {
            1 => None,
            _ => Some(
                rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .thread_name(|index| format!("network-{index}"))
                    .build()
                    .map_err(|source| CpuError::Threads { threads, source })?,
            ),
        };
        let chunk = CHUNK_ROWS_MAX.min(max_rows);
        let workspaces = (0..threads)
            .map(|_| Workspace::new(&folded, chunk))
            .collect();
        Ok(Self {
            model: Model::new(folded)?,
            pool,
            workspaces,
            rows: 0,
            max_rows,
            logits: vec![0.0; max_rows * ACTIONS],
            values: vec![0.0; max_rows * SEATS],
        })
    }

    /// Runs a batch of `rows` rows. `fill(row, features)` is called once per row, from any of the
    /// network's threads, and must write all 256 features (the slice holds an earlier row's).
    ///
    /// Nothing is allocated, but that waking the threads may make rayon's job queue grow by a block
    /// now and then.
    ///
    /// # Panics
    /// If `rows` exceeds `max_rows`, or `fill` panics.
    pub fn run(&mut self, rows: usize, fill: impl Fn(usize, &mut [f32]) + Sync) {
        assert!(
            rows <= self.max_rows,
            "a batch of {rows} rows exceeds max_rows = {}",
            self.max_rows
        );
        self.rows = rows;
        let chunk = chunk_rows(rows, self.workspaces.len());
        let logits = self.logits[..rows * ACTIONS].chunks_mut(chunk * ACTIONS);
        let values = self.values[..rows * SEATS].chunks_mut(chunk * SEATS);
        let mut chunks = logits.zip(values).enumerate();
        let model = &self.model;
        let run_chunk = |workspace: &mut Workspace, (index, (logits, values)): Chunk<'_>| {
            model.run_chunk(workspace, logits, values, |row, features| {
                fill(index * chunk + row, features)
            });
        };
        let pool = self.pool.as_ref().filter(|_| chunk < rows);
        let Some(pool) = pool else {
            chunks.for_each(|chunk| run_chunk(&mut self.workspaces[0], chunk));
            return;
        };
        // One short lock per chunk of some milliseconds; a thread that wakes late just finds less
        // to do.
        let queue = Mutex::new(&mut chunks);
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        pool.install(|| {
            self.workspaces
                .par_iter_mut()
                .with_max_len(1)
                .for_each(|workspace| {
                    while let Some(chunk) = next() {
                        run_chunk(workspace, chunk);
                    }
                });
        });
    }

    /// The 52 policy logits of a row of the last batch.
    ///
    /// # Panics
    /// If the last batch had no such row.
    pub fn logits(&self, row: usize) -> &[f32] {
        assert!(row < self.rows, "row {row} of a batch of {}", self.rows);
        &self.logits[row * ACTIONS..][..ACTIONS]
    }

    /// The 8 values of a row of the last batch, in -1..=1, seats relative to the mover.
    ///
    /// # Panics
    /// If the last batch had no such row.
    pub fn values(&self, row: usize) -> &[f32] {
        assert!(row < self.rows, "row {row} of a batch of {}", self.rows);
        &self.values[row * SEATS..][..SEATS]
    }

    /// Largest batch.
    pub fn max_rows(&self) -> usize {
        self.max_rows
    }

    /// Threads that a batch may use.
    pub fn threads(&self) -> usize {
        self.workspaces.len()
    }

    /// The instruction set in use, for reports: `avx512`, `avx2`, `neon`, `scalar`. It changes the
    /// speed, not a bit of the results; `scalar` (no fused multiply-add in hardware) is some
    /// hundred times slower.
    pub fn instruction_set(&self) -> &'static str {
        instruction_set_of(self.model.arch)
    }
}

/// The instruction set that a network gets on this machine.
pub fn instruction_set() -> &'static str {
    instruction_set_of(Arch::new())
}

fn instruction_set_of(arch: Arch) -> &'static str {
    match format!("{arch:?}") {
        name if name.starts_with("V4") => "avx512",
        name if name.starts_with("V3") => "avx2",
        name if name.starts_with("Neon") => "neon",
        _ => "scalar",
    }
}

/// Rows per chunk: all threads busy, chunks of nearly equal size, none above the maximum.
fn chunk_rows(rows: usize, threads: usize) -> usize {
    let rounds = rows.div_ceil(threads * CHUNK_ROWS_MAX).max(1);
    rows.div_ceil(threads * rounds).max(CHUNK_ROWS_MIN)
}

impl Workspace {
    fn new(folded: &Folded, rows: usize) -> Self {
        let width = folded.shape.width();
        Self {
            features: Rows::zeroed(rows, FEATURES),
            stream: Rows::zeroed(rows, width),
            mixed: Rows::zeroed(rows, width),
            hidden: Rows::zeroed(rows, folded.shape.ffn().max(width)),
            out: Rows::zeroed(rows, ACTIONS.max(SEATS)),
        }
    }
}

impl Model {
    fn new(folded: Arc<Folded>) -> Result<Self, CpuError> {
        let arch = Arch::new();
        let floats = folded
            .matrices()
            .map(|linear| Packed::floats(arch, linear))
            .sum();
        let mut arena = Arena::new(floats).map_err(CpuError::Memory)?;
        let mut pack = |linear: &Linear| Packed::new(arch, linear, &mut arena);
        // In the order of use, so that a batch reads the arena from front to back.
        let embed = pack(&folded.embed);
        let mut pack_layer = |layer: &FoldedLayer| PackedLayer {
            mix: pack(&layer.mix),
            expand: pack(&layer.expand),
            contract: pack(&layer.contract),
        };
        let layers = folded.layers.iter().map(&mut pack_layer).collect();
        let policy_hidden = pack(&folded.policy_hidden);
        let policy_out = pack(&folded.policy_out);
        let value_hidden = pack(&folded.value_hidden);
        let value_out = pack(&folded.value_out);
        Ok(Self {
            arch,
            embed,
            layers,
            policy_hidden,
            policy_out,
            value_hidden,
            value_out,
            folded,
            arena,
        })
    }

    /// The whole network on one chunk, whose length is that of the outputs.
    fn run_chunk(
        &self,
        space: &mut Workspace,
        logits: &mut [f32],
        values: &mut [f32],
        fill: impl Fn(usize, &mut [f32]),
    ) {
        let rows = logits.len() / ACTIONS;
        for row in 0..rows {
            fill(row, &mut space.features.row_mut(row)[..FEATURES]);
        }
        let Workspace {
            features,
            stream,
            mixed,
            hidden,
            out,
        } = space;
        let multiply = |matrix, x: &Rows, y: &mut Rows, finish: Finish| {
            product(self.arch, (matrix, &self.arena), rows, x, y, finish)
        };
        let normalise = |parameters: &Norm, y: &mut Rows| norm(self.arch, parameters, rows, y);

        multiply(&self.embed, features, stream, Finish::Plain);
        normalise(&self.folded.input_norm, stream);
        for (packed, layer) in self.layers.iter().zip(&self.folded.layers) {
            multiply(&packed.mix, stream, mixed, Finish::Plain);
            normalise(&layer.norm1, mixed);
            multiply(&packed.expand, mixed, hidden, Finish::Relu);
            multiply(&packed.contract, hidden, mixed, Finish::Residual);
            normalise(&layer.norm2, mixed);
            std::mem::swap(stream, mixed);
        }
        multiply(&self.policy_hidden, stream, hidden, Finish::Relu);
        multiply(&self.policy_out, hidden, out, Finish::Plain);
        for (row, logits) in logits.chunks_exact_mut(ACTIONS).enumerate() {
            logits.copy_from_slice(&out.row(row)[..ACTIONS]);
        }
        multiply(&self.value_hidden, stream, hidden, Finish::Relu);
        multiply(&self.value_out, hidden, out, Finish::Plain);
        for (row, values) in values.chunks_exact_mut(SEATS).enumerate() {
            for (value, raw) in values.iter_mut().zip(out.row(row)) {
                *value = libm::tanhf(*raw);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Shape, Weights};
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_xoshiro::Xoshiro256PlusPlus;

    /// Rows of zeros, ones and fractions, as an observation has.
    fn random_rows(seed: u64, rows: usize) -> Vec<f32> {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut draw = || match random.random_range(0..8) {
            0 | 1 => 1.0,
            2 => random.random::<f32>(),
            _ => 0.0,
        };
        (0..rows * FEATURES).map(|_| draw()).collect()
    }

    fn network(shape: Shape, threads: usize, max_rows: usize) -> (Weights, CpuNetwork) {
        let weights = Weights::seeded(11, shape);
        let folded = Arc::new(Folded::new(&weights));
        (
            weights,
            CpuNetwork::new(folded, threads, max_rows).expect("threads start"),
        )
    }

    fn run_rows(network: &mut CpuNetwork, rows: &[f32]) {
        network.run(rows.len() / FEATURES, |row, x| {
            x.copy_from_slice(&rows[row * FEATURES..][..FEATURES]);
        });
    }

    fn bits(network: &CpuNetwork, row: usize) -> Vec<u32> {
        network
            .logits(row)
            .iter()
            .chain(network.values(row))
            .map(|x| x.to_bits())
            .collect()
    }

    #[test]
    fn a_row_has_the_same_bits_in_every_batch_place_and_thread() {
        // An odd shape, so that padding and the norm's tail take part; the default shape runs the
        // same code.
        let shape = Shape::new(72, 2, 100).expect("in range");
        let special = random_rows(5, 1);
        let (_, mut alone) = network(shape, 1, 1);
        run_rows(&mut alone, &special);
        let expected = bits(&alone, 0);
        for threads in [1, 2, 3] {
            let (_, mut network) = network(shape, threads, 513);
            for batch in [1, 2, 5, 6, 7, 64, 97, 513] {
                for place in [0, batch / 3, batch / 2, batch - 1] {
                    let mut rows = random_rows(batch as u64, batch);
                    rows[place * FEATURES..][..FEATURES].copy_from_slice(&special);
                    run_rows(&mut network, &rows);
                    assert_eq!(
                        bits(&network, place),
                        expected,
                        "threads {threads} batch {batch} place {place}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_default_shape_has_the_same_bits_too() {
        let rows = random_rows(6, 70);
        let (_, mut one) = network(Shape::default(), 1, 70);
        let (_, mut two) = network(Shape::default(), 2, 70);
        run_rows(&mut two, &rows);
        for row in [0, 33, 69] {
            run_rows(&mut one, &rows[row * FEATURES..][..FEATURES]);
            assert_eq!(bits(&one, 0), bits(&two, row), "row {row}");
        }
    }

    #[test]
    fn a_seeded_network_tells_actions_and_positions_apart() {
        for seed in 0..3 {
            let folded = Arc::new(Folded::new(&Weights::seeded(seed, Shape::default())));
            let mut network = CpuNetwork::new(folded, 1, 64).expect("one thread");
            run_rows(&mut network, &random_rows(9, 64));
            let spread = |x: &[f32]| {
                let mean = x.iter().sum::<f32>() / x.len() as f32;
                (x.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / x.len() as f32).sqrt()
            };
            let logits = (0..64).map(|row| spread(network.logits(row))).sum::<f32>() / 64.0;
            let value: Vec<f32> = (0..64).map(|row| network.values(row)[0]).collect();
            println!("seed {seed}: logits {logits}, value {}", spread(&value));
            assert!(
                (0.5..3.0).contains(&logits),
                "seed {seed}: spread of logits {logits}"
            );
            assert!(
                spread(&value) > 0.1,
                "seed {seed}: spread of values {}",
                spread(&value)
            );
        }
    }

    #[test]
    fn chunks_cover_a_batch_and_stay_in_bounds() {
        for threads in 1..5 {
            for rows in 0..1200 {
                let chunk = chunk_rows(rows, threads);
                assert!(
                    (CHUNK_ROWS_MIN..=CHUNK_ROWS_MAX).contains(&chunk),
                    "{rows} rows on {threads}"
                );
            }
        }
    }

    #[test]
    fn an_empty_batch_and_impossible_sizes() {
        let shape = Shape::new(4, 1, 4).expect("in range");
        let (weights, mut network) = network(shape, 2, 3);
        run_rows(&mut network, &[]);
        let folded = Arc::new(Folded::new(&weights));
        assert!(CpuNetwork::new(folded.clone(), 0, 1).is_err());
        assert!(CpuNetwork::new(folded, 1, 0).is_err());
    }

    #[test]
    fn a_fill_that_panics_does_not_lock_the_network() {
        let shape = Shape::new(4, 1, 4).expect("in range");
        let (_, mut network) = network(shape, 2, 64);
        let rows = random_rows(1, 64);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            network.run(64, |row, _| assert_ne!(row, 40));
        }));
        assert!(panicked.is_err());
        run_rows(&mut network, &rows);
        assert!(network.logits(63).iter().all(|x| x.is_finite()));
    }
}
