//! BlobNet on the CPU: a batch is cut into chunks of rows, and each thread takes a chunk through
//! the whole network in its own workspace, so threads meet only at the end of the batch. A row's
//! logits and values do not depend, in a single bit, on the batch around the row, its place, or the
//! number of threads (`gemm` says why); replays rest on this.

use std::sync::{Arc, Mutex, PoisonError};

use pulp::Arch;
use rayon::iter::{IndexedParallelIterator, IntoParallelRefMutIterator, ParallelIterator};

mod gemm;

use super::{ACTIONS, FEATURES, Folded, FoldedLayer, Linear, Norm, SEATS};
use crate::fault::Fault;
use gemm::{Activations, Epilogue, GemmPanels, WeightArena, gemm, norm};

/// Rows of a chunk at most: activations (of the default shape some 0.5 MB) then stay in the
/// second-level cache, and a chunk is long enough to read each weight once for very many products.
/// By measurement, `benches/network.rs`.
const CHUNK_ROWS_MAX: usize = 64;
/// Rows of a chunk at least: below this, reading the weights takes longer than multiplying by them,
/// and a second thread would only read them again.
const CHUNK_ROWS_MIN: usize = 4;

/// A network with its weights packed for this CPU, its threads, and all memory that a batch needs.
pub struct CpuNetwork {
    packed: PackedNetwork,
    /// None with one thread: batches then run on the caller's.
    pool: Option<rayon::ThreadPool>,
    workspaces: Vec<Workspace>,
    rows: usize,
    max_rows: usize,
    logits: Vec<f32>,
    values: Vec<f32>,
}

/// The folded chain with packed matrices.
struct PackedNetwork {
    arch: Arch,
    folded: Arc<Folded>,
    arena: WeightArena,
    embed: GemmPanels,
    layers: Vec<LayerPanels>,
    policy_hidden: GemmPanels,
    policy_out: GemmPanels,
    value_hidden: GemmPanels,
    value_out: GemmPanels,
}

struct LayerPanels {
    mix: GemmPanels,
    expand: GemmPanels,
    contract: GemmPanels,
}

/// Activations of one chunk.
struct Workspace {
    features: Activations,
    stream: Activations,
    mixed: Activations,
    hidden: Activations,
    out: Activations,
}

/// A chunk's number, and where its logits and values go.
type Chunk<'a> = (usize, (&'a mut [f32], &'a mut [f32]));

impl CpuNetwork {
    /// Packs the network and allocates everything for batches of up to `max_rows` rows on exactly
    /// `threads` threads (with 1, the caller's own).
    ///
    /// # Errors
    /// When either number is 0, or threads or memory are not to be had.
    pub fn new(folded: Arc<Folded>, threads: usize, max_rows: usize) -> Result<Self, Fault> {
        if threads == 0 || max_rows == 0 {
            return Err(Fault::new(
                format!("a CPU network of {threads} threads for {max_rows} rows"),
                "give it at least one of each",
            ));
        }
        let pool = match threads {
            1 => None,
            _ => Some(
                rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .thread_name(|index| format!("network-{index}"))
                    .build()
                    .map_err(|error| {
                        Fault::new(
                            format!("cannot start {threads} network threads ({error})"),
                            "ask for fewer threads",
                        )
                    })?,
            ),
        };
        let chunk = CHUNK_ROWS_MAX.min(max_rows);
        let workspaces = (0..threads)
            .map(|_| Workspace::new(&folded, chunk))
            .collect();
        Ok(Self {
            packed: PackedNetwork::new(folded)?,
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
        let packed = &self.packed;
        let run_chunk = |workspace: &mut Workspace, (index, (logits, values)): Chunk<'_>| {
            packed.run_chunk(workspace, logits, values, |row, features| {
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
        instruction_set_of(self.packed.arch)
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
            features: Activations::zeroed(rows, FEATURES),
            stream: Activations::zeroed(rows, width),
            mixed: Activations::zeroed(rows, width),
            hidden: Activations::zeroed(rows, folded.shape.ffn().max(width)),
            out: Activations::zeroed(rows, ACTIONS.max(SEATS)),
        }
    }
}

impl PackedNetwork {
    fn new(folded: Arc<Folded>) -> Result<Self, Fault> {
        let arch = Arch::new();
        let floats = folded
            .matrices()
            .map(|linear| GemmPanels::floats(arch, linear))
            .sum();
        let mut arena = WeightArena::new(floats).map_err(|error| {
            Fault::new(
                format!("cannot map memory for the packed weights ({error})"),
                "free some, or use a smaller network",
            )
        })?;
        let mut pack = |linear: &Linear| GemmPanels::new(arch, linear, &mut arena);
        // In the order of use, so that a batch reads the arena from front to back.
        let embed = pack(&folded.embed);
        let mut pack_layer = |layer: &FoldedLayer| LayerPanels {
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
        let multiply = |matrix, x: &Activations, y: &mut Activations, epilogue: Epilogue| {
            gemm(self.arch, (matrix, &self.arena), rows, x, y, epilogue)
        };
        let normalise =
            |parameters: &Norm, y: &mut Activations| norm(self.arch, parameters, rows, y);

        multiply(&self.embed, features, stream, Epilogue::Plain);
        normalise(&self.folded.input_norm, stream);
        for (panels, layer) in self.layers.iter().zip(&self.folded.layers) {
            multiply(&panels.mix, stream, mixed, Epilogue::Plain);
            normalise(&layer.norm1, mixed);
            multiply(&panels.expand, mixed, hidden, Epilogue::Relu);
            multiply(&panels.contract, hidden, mixed, Epilogue::Residual);
            normalise(&layer.norm2, mixed);
            std::mem::swap(stream, mixed);
        }
        multiply(&self.policy_hidden, stream, hidden, Epilogue::Relu);
        multiply(&self.policy_out, hidden, out, Epilogue::Plain);
        for (row, logits) in logits.chunks_exact_mut(ACTIONS).enumerate() {
            logits.copy_from_slice(&out.row(row)[..ACTIONS]);
        }
        multiply(&self.value_hidden, stream, hidden, Epilogue::Relu);
        multiply(&self.value_out, hidden, out, Epilogue::Plain);
        for (row, values) in values.chunks_exact_mut(SEATS).enumerate() {
            for (value, raw) in values.iter_mut().zip(out.row(row)) {
                *value = libm::tanhf(*raw);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
