//! What a run's surroundings let it do besides: keep its folder for itself, flush it, use memory.

use super::{Finding, MIB, read};
use crate::disk::{self, Lock};
use std::io;

/// All of these findings.
pub(super) fn findings() -> [Finding; 2] {
    [this_folder(), memory_limit()]
}

/// Locks and flushing of the file system we are in, tried on a file that is gone again at once.
fn this_folder() -> Finding {
    let topic = "this folder";
    let tried = || -> io::Result<(bool, bool)> {
        let file = tempfile::Builder::new()
            .prefix(".ringmaster-doctor-")
            .tempfile_in(".")?;
        let locks = disk::lock(file.as_file())? != Lock::Impossible;
        let flushes = disk::flush(file.as_file())? & disk::flush_folder(".".as_ref())?;
        Ok((locks, flushes))
    };
    let lacks = match tried() {
        Ok((true, true)) => {
            let good = "one run at a time writes to a replay here, and what it wrote outlives a \
                        loss of power";
            return Finding::ok(topic, "file locks and flushing work", good);
        }
        Ok((false, true)) => "no file locks",
        Ok((true, false)) => "no flushing of folders",
        Ok((false, false)) => "neither file locks nor flushing of folders",
        Err(error) => {
            let (found, remedy) = (
                format!("not writable: {error}"),
                disk::remedy(".".as_ref(), &error),
            );
            return Finding::of(topic, found, "no replay can be kept here", remedy);
        }
    };
    let effect = "runs go on with a note; two at once in one folder, or a loss of power, can cost \
                  rounds";
    Finding::of(topic, lacks, effect, "keep replays on a local disk")
}

/// The memory limit of the control group we are in, version 2 or 1.
fn memory_limit() -> Finding {
    const FILES: [&str; 2] = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let limits = FILES
        .iter()
        .filter_map(|file| read(file)?.parse::<u64>().ok());
    // Version 1 says "no limit" by a number that no machine reaches.
    let limit = limits.filter(|&bytes| bytes < 1 << 60).min();
    let effect = "kills for want of memory are told as such";
    Finding::ok(
        "memory limit",
        limit.map_or("none".to_owned(), |bytes| format!("{} MiB", bytes / MIB)),
        effect,
    )
}
