//! Memory that processes share, and the limits set on a user's processes.

use super::{Finding, MIB, State, read};
use crate::engine::regions::Regions;
use crate::settings::Settings;
use nix::sys::resource::{Resource, getrlimit};
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

fn shared_memory() -> Finding {
    let needed = Regions::new(&Settings::default().resolve()).layout.bytes() as u64;
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
    let needs = format!(
        "a default run takes {} MiB, the finished decisions of its rounds in flight among them",
        needed.div_ceil(MIB)
    );
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
    let needed = Regions::new(&Settings::default().resolve()).layout.bytes() as u64;
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

/// Processes and threads of this user, by limit or by container.
fn processes() -> Finding {
    let container = read("/sys/fs/cgroup/pids.max").and_then(|text| text.parse().ok());
    let limits = [limit(Resource::RLIMIT_NPROC), container];
    match limits.into_iter().flatten().min() {
        Some(most) if most < PROCESSES_LEAST => Finding::ok(
            "processes",
            most.to_string(),
            "a run with very many workers may not start",
        )
        .with(
            State::Note,
            format!("ulimit -u {PROCESSES_LEAST} (in a container: --pids-limit)"),
        ),
        Some(nix::sys::resource::RLIM_INFINITY) => {
            Finding::ok("processes", "no limit", "enough for 256 workers")
        }
        Some(most) => Finding::ok("processes", most.to_string(), "enough for 256 workers"),
        None => Finding::ok("processes", "not told", "no advice on workers"),
    }
}
