//! The processor and what the kernel makes of it: cores, instructions, clocks.

use super::{Finding, State, read};
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
    let effect = format!("{cores} workers by default");
    match cores {
        1 => Finding::ok("cores", found, "workers and network share one core").with(
            State::Note,
            "use a machine with more cores, or let this process have them (taskset, cgroup limits)",
        ),
        _ => Finding::ok("cores", found, effect),
    }
}

/// What the processor calls itself.
fn model() -> Option<String> {
    let told = read("/proc/cpuinfo")?;
    let line = told.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
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
            format!("on, {}", counted(pairs.len(), "physical core")),
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

fn governor() -> Finding {
    match read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").as_deref() {
        Some("performance") => Finding::ok("governor", "performance", "full clock at once"),
        Some(other) => Finding::ok(
            "governor",
            other,
            "clocks follow the load; short measurements scatter",
        )
        .with(
            State::Note,
            "for measurements: sudo cpupower frequency-set -g performance",
        ),
        None => Finding::ok(
            "governor",
            "not told, as in most virtual machines",
            "the host sets the clock",
        ),
    }
}

/// Stamps read the clock twice per sampled request: a system call each, unless the processor's
/// counter serves.
fn clock() -> Finding {
    match read("/sys/devices/system/clocksource/clocksource0/current_clocksource").as_deref() {
        Some(
            source @ ("tsc" | "arch_sys_counter" | "kvm-clock" | "hyperv_clocksource_tsc_page"),
        ) => Finding::ok("clock", source, "read without a system call"),
        Some(source) => Finding::ok(
            "clock",
            source,
            "each reading is a system call; profile selfplay costs more and sees less",
        )
        .with(
            State::Note,
            "boot with clocksource=tsc if dmesg does not call the TSC unstable",
        ),
        None => Finding::ok("clock", "not told", "no advice on stamps"),
    }
}

/// What perf may look at; above 2 some distributions allow it nothing.
fn perf() -> Finding {
    let level = read("/proc/sys/kernel/perf_event_paranoid").and_then(|text| text.parse().ok());
    let found = |level: i32| format!("kernel.perf_event_paranoid = {level}");
    match level {
        Some(level) if level <= 1 || nix::unistd::geteuid().is_root() => Finding::ok(
            "perf",
            found(level),
            "can profile ringmaster and the kernel below it",
        ),
        Some(level) => Finding::ok(
            "perf",
            found(level),
            match level {
                2 => "can profile ringmaster, not the kernel below it",
                _ => "may not profile anything",
            },
        )
        .with(State::Note, "sudo sysctl kernel.perf_event_paranoid=1"),
        None => Finding::ok(
            "perf",
            "not offered by this kernel",
            "profile selfplay works without it",
        ),
    }
}
