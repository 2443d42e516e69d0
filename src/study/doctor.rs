//! What this machine offers to a run and what it lacks: each finding with its state, what it means for a run, and the remedy.
//! Looking changes nothing, unless stale segments are to be removed.

use crate::network::cuda::{Cache, CudaError, Probe, probe};
use crate::network::cuda_plan::Plan;
use crate::network::packed_bf16::{self, Operands};
use crate::network::{Shape, instruction_set};
use crate::process::layout::Layout;
use crate::settings::{Settings, cores};
use crate::shm::{stale_segments, sweep_stale};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

const MIB: u64 = 1 << 20;
/// Open files that the largest run needs: some for each process and ring.
const FILES_LEAST: u64 = 1024;

/// How good a finding is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Works, and could be better.
    Note,
    /// Not there; something cannot be used.
    Missing,
}

/// One thing looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub topic: &'static str,
    /// How good it is.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What that means for a run.
    pub effect: String,
    /// What to do about it; none if there is nothing to do.
    pub remedy: Option<String>,
}

/// All findings.
#[derive(Clone, Debug, Serialize)]
pub struct Examination {
    /// In order of topics.
    pub findings: Vec<Finding>,
    /// Segments of dead runs that were removed.
    pub cleaned: Vec<String>,
}

impl Finding {
    fn ok(topic: &'static str, found: impl Into<String>, effect: impl Into<String>) -> Finding {
        Finding {
            topic,
            state: State::Ok,
            found: found.into(),
            effect: effect.into(),
            remedy: None,
        }
    }

    fn with(mut self, state: State, remedy: impl Into<String>) -> Finding {
        self.state = state;
        self.remedy = Some(remedy.into());
        self
    }
}

/// Looks at everything; removes stale segments if `clean`.
pub fn examine(clean: bool) -> Examination {
    let cleaned = if clean { sweep_stale() } else { Vec::new() };
    let mut findings = vec![cores_found(), smt(), numa(), instructions()];
    findings.extend(governor());
    findings.extend([shared_memory(), huge_pages(), open_files(), locked_memory()]);
    findings.extend(cuda(probe()));
    findings.push(stale());
    Examination { findings, cleaned }
}

/// A small file of the kernel's, trimmed.
fn read(path: impl AsRef<Path>) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn cores_found() -> Finding {
    let cores = cores();
    let online = read("/sys/devices/system/cpu/online").unwrap_or_default();
    let found = format!("{cores} usable (online: {online})");
    let effect = format!("{cores} workers by default");
    match cores {
        1 => Finding::ok("cores", found, "workers and network share one core").with(
            State::Note,
            "use a machine with more cores, or let this process have them (taskset, cgroup limits)",
        ),
        _ => Finding::ok("cores", found, effect),
    }
}

fn smt() -> Finding {
    let pairs: BTreeSet<String> = (0..cores())
        .filter_map(|core| {
            read(format!(
                "/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"
            ))
        })
        .collect();
    match read("/sys/devices/system/cpu/smt/active").as_deref() {
        Some("1") => Finding::ok(
            "SMT",
            format!("on, {} physical cores", pairs.len()),
            "two threads share a core's arithmetic",
        )
        .with(
            State::Note,
            format!(
                "for the network on the CPU try --threads {}; workers profit from all threads",
                pairs.len().max(1)
            ),
        ),
        Some(_) => Finding::ok("SMT", "off", "every core is a whole one"),
        None => Finding::ok("SMT", "not told", "no advice on threads"),
    }
}

fn numa() -> Finding {
    let entries = fs::read_dir("/sys/devices/system/node")
        .into_iter()
        .flatten()
        .flatten();
    let is_node = |name: &str| {
        name.strip_prefix("node")
            .is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let nodes = entries
        .filter(|entry| is_node(&entry.file_name().to_string_lossy()))
        .count();
    if nodes <= 1 {
        return Finding::ok("NUMA", "one node", "all memory is equally near");
    }
    Finding::ok("NUMA", format!("{nodes} nodes"), "rings between nodes are slower").with(
        State::Note,
        "keep a run on one node, the GPU's if there is one: numactl --cpunodebind=0 --membind=0 ringmaster ...",
    )
}

fn instructions() -> Finding {
    let set = instruction_set();
    let found = format!("network kernels for {set}");
    if set == "scalar" {
        return Finding::ok("CPU features", found, "the network on the CPU is some hundred times slower").with(
            State::Note,
            "use a processor with AVX2 and FMA (in a virtual machine: pass the host's CPU model through), or a GPU",
        );
    }
    Finding::ok(
        "CPU features",
        found,
        "the network on the CPU runs at full width",
    )
}

fn governor() -> Option<Finding> {
    let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")?;
    let found = governor.clone();
    Some(match governor.as_str() {
        "performance" => Finding::ok("governor", found, "full clock at once"),
        _ => Finding::ok(
            "governor",
            found,
            "clocks follow the load; short measurements scatter",
        )
        .with(
            State::Note,
            "for measurements: sudo cpupower frequency-set -g performance",
        ),
    })
}

fn shared_memory() -> Finding {
    let needed = Layout::new(&Settings::default().resolve()).plan.bytes() as u64;
    let Ok(space) = statvfs("/dev/shm") else {
        return Finding::ok(
            "/dev/shm",
            "not there",
            "only --workers 0 (one process) works",
        )
        .with(State::Missing, "mount it: mount -t tmpfs tmpfs /dev/shm");
    };
    let (size, free) = (
        space.blocks() * space.fragment_size(),
        space.blocks_available() * space.fragment_size(),
    );
    let found = format!("{} MiB, {} MiB free", size / MIB, free / MIB);
    let needs = format!("a default run takes {} MiB", needed.div_ceil(MIB));
    if size > 0 && free < needed {
        return Finding::ok("/dev/shm", found, needs).with(
            State::Missing,
            "enlarge it (mount -o remount,size=1G /dev/shm; in a container --shm-size=1g), or use fewer workers",
        );
    }
    Finding::ok("/dev/shm", found, needs)
}

fn huge_pages() -> Finding {
    // "always [madvise] never": the one in brackets holds.
    let chosen = read("/sys/kernel/mm/transparent_hugepage/enabled").and_then(|text| {
        let (_, rest) = text.split_once('[')?;
        Some(rest.split_once(']')?.0.to_owned())
    });
    match chosen.as_deref() {
        Some(chosen @ ("always" | "madvise")) => Finding::ok(
            "huge pages",
            format!("transparent, {chosen}"),
            "the CPU network's weights lie on huge pages",
        ),
        other => Finding::ok(
            "huge pages",
            other.unwrap_or("not offered").to_owned(),
            "the CPU network loses a few percent to address translation",
        )
        .with(
            State::Note,
            "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
        ),
    }
}

fn limit(resource: Resource) -> Option<u64> {
    getrlimit(resource).ok().map(|(soft, _)| soft)
}

fn open_files() -> Finding {
    match limit(Resource::RLIMIT_NOFILE) {
        Some(files) if files >= FILES_LEAST => {
            Finding::ok("open files", files.to_string(), "enough for 256 workers")
        }
        files => Finding::ok(
            "open files",
            files.map_or("not told".to_owned(), |files| files.to_string()),
            "a run with very many workers may not start",
        )
        .with(State::Note, format!("ulimit -n {FILES_LEAST}")),
    }
}

fn locked_memory() -> Finding {
    let needed = Layout::new(&Settings::default().resolve()).plan.bytes() as u64;
    match limit(Resource::RLIMIT_MEMLOCK) {
        Some(bytes) if bytes >= needed => {
            let found = if bytes == nix::sys::resource::RLIM_INFINITY {
                "no limit".to_owned()
            } else {
                format!("{} MiB", bytes / MIB)
            };
            Finding::ok("locked memory", found, "a GPU can read the rings in place")
        }
        bytes => Finding::ok(
            "locked memory",
            bytes.map_or("not told".to_owned(), |bytes| format!("{} KiB", bytes / 1024)),
            "a GPU driver that counts pinned memory may refuse to read the rings in place; leaves are copied then",
        )
        .with(State::Note, "ulimit -l unlimited (in a container: --ulimit memlock=-1)"),
    }
}

fn missing(topic: &'static str, error: &CudaError) -> Finding {
    let message = error.to_string();
    let (found, remedy) = message.split_once("; ").unwrap_or((&message, ""));
    Finding::ok(topic, found, "the network runs on the CPU").with(State::Missing, remedy)
}

fn cuda(probe: Probe) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.push(match &probe.driver {
        Ok(driver) => Finding::ok(
            "CUDA driver",
            format!("{}, CUDA {}.{}", driver.library, driver.major, driver.minor),
            "GPUs can be used",
        ),
        Err(error) => missing("CUDA driver", error),
    });
    match (&probe.driver, &probe.gpus) {
        (Ok(_), Ok(gpus)) => findings.extend(gpus.iter().map(|gpu| {
            let found = format!(
                "{}: {} (sm_{}{}), {} multiprocessors, {} MiB",
                gpu.ordinal,
                gpu.name,
                gpu.major,
                gpu.minor,
                gpu.multiprocessors,
                gpu.memory_bytes / MIB
            );
            let plan = packed_bf16::Layout::new(Shape::default(), Operands::F16)
                .map_err(CudaError::from)
                .and_then(|layout| Ok(Plan::new(gpu.properties(), layout)?));
            match plan {
                Ok(plan) => {
                    let rows = plan.rows_at_once();
                    Finding::ok("GPU", found, format!("{rows} rows are computed at once"))
                }
                Err(error) => Finding::ok("GPU", found, error.to_string())
                    .with(State::Missing, "use --backend cpu, or another GPU"),
            }
        })),
        (Ok(_), Err(error)) => findings.push(missing("GPU", error)),
        // Without a driver nothing can be said of GPUs.
        (Err(_), _) => findings.push(
            Finding::ok(
                "GPU",
                "not looked for, without a driver",
                "the network runs on the CPU",
            )
            .with(State::Missing, "install the driver first"),
        ),
    }
    findings.push(match &probe.nvrtc {
        Ok(nvrtc) => Finding::ok(
            "NVRTC",
            format!("{} (CUDA {})", nvrtc.path.display(), nvrtc.major),
            match Cache::of_user().folder() {
                Some(folder) => format!("compiles the GPU's kernels; kept in {}", folder.display()),
                None => {
                    "compiles the GPU's kernels at each start (no HOME to keep them in)".to_owned()
                }
            },
        ),
        Err(error) => missing("NVRTC", error),
    });
    findings
}

fn stale() -> Finding {
    let stale = stale_segments();
    if stale.is_empty() {
        return Finding::ok("stale segments", "none", "no dead run holds memory");
    }
    Finding::ok(
        "stale segments",
        format!("{}: {}", stale.len(), stale.join(" ")),
        "dead runs hold shared memory; the next run removes them",
    )
    .with(State::Note, "ringmaster doctor --clean")
}

impl fmt::Display for Examination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.cleaned {
            writeln!(f, "removed {name}")?;
        }
        let width = self
            .findings
            .iter()
            .map(|finding| finding.topic.len())
            .max()
            .unwrap_or(0);
        for (index, finding) in self.findings.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            let state = match finding.state {
                State::Ok => "ok",
                State::Note => "note",
                State::Missing => "missing",
            };
            write!(
                f,
                "{state:<8} {:<width$}  {}; {}",
                finding.topic, finding.found, finding.effect
            )?;
            if let Some(remedy) = finding
                .remedy
                .as_deref()
                .filter(|remedy| !remedy.is_empty())
            {
                write!(f, "\n{:9}{:width$}  -> {remedy}", "", "")?;
            }
        }
        Ok(())
    }
}
