//! The processor and what the kernel makes of it: cores, instructions, clocks.

use super::{Finding, read};
use crate::network::instruction_set;
use crate::plural::counted;
use crate::settings::cores;
use std::collections::BTreeSet;
use std::fs;

/// All of these findings.
pub(super) fn findings() -> [Finding; 7] {
    [
        cores_found(),
        smt(),
        numa(),
        instructions(),
        governor(),
        clock(),
        perf(),
    ]
}

fn cores_found() -> Finding {
    let cores = cores();
    let online = read("/sys/devices/system/cpu/online").unwrap_or_default();
    let model = model().map_or(String::new(), |model| format!(", {model}"));
    let found = format!("{cores} usable (online: {online}){model}");
    if cores > 1 {
        return Finding::ok("cores", found, format!("{cores} workers by default"));
    }
    let remedy =
        "use a machine with more cores, or let this process have them (taskset, cgroup limits)";
    Finding::of("cores", found, "workers and network share one core", remedy)
}

/// What the processor calls itself.
fn model() -> Option<String> {
    let told = read("/proc/cpuinfo")?;
    let line = told.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn smt() -> Finding {
    let siblings = |core| {
        read(format!(
            "/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"
        ))
    };
    let pairs: BTreeSet<String> = (0..cores()).filter_map(siblings).collect();
    let whole = pairs.len();
    match read("/sys/devices/system/cpu/smt/active").as_deref() {
        Some("1") => Finding::of(
            "SMT",
            format!("on, {}", counted(whole, "physical core")),
            "two threads share a core's arithmetic",
            format!(
                "for the network on the CPU try --threads {}; workers profit from all threads",
                whole.max(1)
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
    let names = entries.map(|entry| entry.file_name());
    let nodes = names
        .filter(|name| is_node(&name.to_string_lossy()))
        .count();
    if nodes <= 1 {
        return Finding::ok("NUMA", "one node", "all memory is equally near");
    }
    let remedy = "keep a run on one node, the GPU's if there is one: \
                  numactl --cpunodebind=0 --membind=0 ringmaster ...";
    let found = format!("{nodes} nodes");
    Finding::of("NUMA", found, "rings between nodes are slower", remedy)
}

fn instructions() -> Finding {
    let set = instruction_set();
    let (effect, remedy) = match set {
        "scalar" => (
            "the network on the CPU is some hundred times slower",
            "use a processor with AVX2 and FMA (in a virtual machine: pass the host's CPU model \
             through), or a GPU",
        ),
        _ => ("the network on the CPU runs at full width", ""),
    };
    Finding::of(
        "CPU features",
        format!("network kernels for {set}"),
        effect,
        remedy,
    )
}

fn governor() -> Finding {
    let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    let (found, effect, remedy) = match governor.as_deref() {
        Some("performance") => ("performance", "full clock at once", ""),
        Some(other) => (
            other,
            "clocks follow the load; short measurements scatter",
            "for measurements: sudo cpupower frequency-set -g performance",
        ),
        None => (
            "not told, as in most virtual machines",
            "the host sets the clock",
            "",
        ),
    };
    Finding::of("governor", found, effect, remedy)
}

/// Stamps read the clock twice per sampled request: a system call each, unless the processor's
/// counter serves.
fn clock() -> Finding {
    let source = read("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let (effect, remedy) = match source.as_deref() {
        Some("tsc" | "arch_sys_counter" | "kvm-clock" | "hyperv_clocksource_tsc_page") => {
            ("read without a system call", "")
        }
        Some(_) => (
            "each reading is a system call; profile selfplay costs more and sees less",
            "boot with clocksource=tsc if dmesg does not call the TSC unstable",
        ),
        None => ("no advice on stamps", ""),
    };
    Finding::of(
        "clock",
        source.as_deref().unwrap_or("not told"),
        effect,
        remedy,
    )
}

/// What perf may look at; above 2 some distributions allow it nothing.
fn perf() -> Finding {
    let level = read("/proc/sys/kernel/perf_event_paranoid");
    let Some(level) = level.and_then(|text| text.parse::<i32>().ok()) else {
        let found = "not offered by this kernel";
        return Finding::ok("perf", found, "profile selfplay works without it");
    };
    let (effect, remedy) = match level {
        level if level <= 1 || nix::unistd::geteuid().is_root() => {
            ("can profile ringmaster and the kernel below it", "")
        }
        2 => (
            "can profile ringmaster, not the kernel below it",
            "sudo sysctl kernel.perf_event_paranoid=1",
        ),
        _ => (
            "may not profile anything",
            "sudo sysctl kernel.perf_event_paranoid=1",
        ),
    };
    Finding::of(
        "perf",
        format!("kernel.perf_event_paranoid = {level}"),
        effect,
        remedy,
    )
}
