//! Memory that processes share, and the limits set on a user's processes.

use super::{Finding, MIB, State, read};
use crate::engine::regions::Regions;
use crate::settings::Settings;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::statvfs::statvfs;

/// Open files that the largest run needs: some for each process and ring.
const FILES_LEAST: u64 = 1024;
/// Processes and threads that the largest run needs: 256 workers, the network's threads, and room
/// for what else runs.
const PROCESSES_LEAST: u64 = 1024;

/// All of these findings.
pub(super) fn findings() -> [Finding; 5] {
    [
        shared_memory(),
        huge_pages(),
        open_files(),
        processes(),
        locked_memory(),
    ]
}

/// Bytes of shared memory that a default run takes.
fn segment_bytes() -> u64 {
    Regions::new(&Settings::default().resolve()).layout.bytes() as u64
}

fn shared_memory() -> Finding {
    let needed = segment_bytes();
    let Ok(space) = statvfs("/dev/shm") else {
        let effect = "only --workers 0 (one process) works";
        let remedy = "mount it: mount -t tmpfs tmpfs /dev/shm";
        return Finding::ok("/dev/shm", "not there", effect).with(State::Missing, remedy);
    };
    let [size, free] =
        [space.blocks(), space.blocks_available()].map(|blocks| blocks * space.fragment_size());
    let found = format!("{} MiB, {} MiB free", size / MIB, free / MIB);
    let needs = format!(
        "a default run takes {} MiB, the finished decisions of its rounds in flight among them",
        needed.div_ceil(MIB)
    );
    let finding = Finding::ok("/dev/shm", found, needs);
    if size == 0 || free >= needed {
        return finding;
    }
    let remedy = "enlarge it (mount -o remount,size=1G /dev/shm; in a container --shm-size=1g), \
                  or use fewer workers";
    finding.with(State::Missing, remedy)
}

fn huge_pages() -> Finding {
    // "always [madvise] never": the one in brackets holds.
    let told = read("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let chosen = told
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    match chosen.map(|(chosen, _)| chosen) {
        Some(chosen @ ("always" | "madvise")) => Finding::ok(
            "huge pages",
            format!("transparent, {chosen}"),
            "the CPU network's weights lie on huge pages",
        ),
        other => Finding::of(
            "huge pages",
            other.unwrap_or("not offered"),
            "the CPU network loses a few percent to address translation",
            "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
        ),
    }
}

fn limit(resource: Resource) -> Option<u64> {
    getrlimit(resource).ok().map(|(soft, _)| soft)
}

const ENOUGH: &str = "enough for 256 workers";
const TOO_FEW: &str = "a run with very many workers may not start";

fn open_files() -> Finding {
    let files = limit(Resource::RLIMIT_NOFILE);
    let found = files.map_or("not told".to_owned(), |files| files.to_string());
    match files {
        Some(FILES_LEAST..) => Finding::ok("open files", found, ENOUGH),
        _ => Finding::of(
            "open files",
            found,
            TOO_FEW,
            format!("ulimit -n {FILES_LEAST}"),
        ),
    }
}

fn locked_memory() -> Finding {
    let (found, is_enough) = match limit(Resource::RLIMIT_MEMLOCK) {
        Some(RLIM_INFINITY) => ("no limit".to_owned(), true),
        Some(bytes) if bytes >= segment_bytes() => (format!("{} MiB", bytes / MIB), true),
        Some(bytes) => (format!("{} KiB", bytes / 1024), false),
        None => ("not told".to_owned(), false),
    };
    let (effect, remedy) = match is_enough {
        true => ("a GPU can read the rings in place", ""),
        false => (
            "a GPU driver that counts pinned memory may refuse to read the rings in place; leaves \
             are copied then",
            "ulimit -l unlimited (in a container: --ulimit memlock=-1)",
        ),
    };
    Finding::of("locked memory", found, effect, remedy)
}

/// Processes and threads of this user, by limit or by container.
fn processes() -> Finding {
    let container = read("/sys/fs/cgroup/pids.max").and_then(|text| text.parse().ok());
    let limits = [limit(Resource::RLIMIT_NPROC), container];
    let (found, effect, remedy) = match limits.into_iter().flatten().min() {
        Some(RLIM_INFINITY) => ("no limit".to_owned(), ENOUGH, String::new()),
        Some(most @ PROCESSES_LEAST..) => (most.to_string(), ENOUGH, String::new()),
        Some(most) => (
            most.to_string(),
            TOO_FEW,
            format!("ulimit -u {PROCESSES_LEAST} (in a container: --pids-limit)"),
        ),
        None => ("not told".to_owned(), "no advice on workers", String::new()),
    };
    Finding::of("processes", found, effect, remedy)
}
