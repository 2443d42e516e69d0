//! One writer per replay: a file lock, which the system lets go of even after a kill. Where the
//! file system has no locks, whoever begins to write leaves a mark, and whoever finds another's
//! mark stops: two at once do not go unnoticed.

use super::error::ReplayError;
use crate::disk::{self, Lock};
use crate::fault::Fault;
use crate::input;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The file that is locked, or marked.
pub(super) const LOCK_FILE: &str = "lock";

/// The right to write to a replay's folder.
#[derive(Debug)]
pub(super) struct WriteLock {
    dir: PathBuf,
    /// Its lock goes when it is closed.
    file: File,
    /// Our mark, where there are no locks.
    mark: Option<String>,
}

impl WriteLock {
    /// Takes it.
    ///
    /// # Errors
    /// When another process has it, or the disk refuses.
    pub(super) fn take(dir: &Path) -> Result<WriteLock, ReplayError> {
        let path = dir.join(LOCK_FILE);
        let mut options = File::options();
        options.write(true).create(true).truncate(false);
        let file =
            input::open_with(&path, &mut options).map_err(ReplayError::io("create", &path))?;
        let mark = match disk::lock(&file).map_err(ReplayError::io("lock", &path))? {
            Lock::Held => None,
            Lock::Taken => {
                let what = "another run is writing to this replay";
                let remedy = "wait for it to end, or choose another --out";
                return Err(ReplayError::of_path(dir, what, remedy));
            }
            Lock::Impossible => Some(new_mark()),
        };
        if let Some(mark) = &mark {
            file.set_len(0)
                .and_then(|()| file.write_all_at(mark.as_bytes(), 0))
                .map_err(ReplayError::io("write", &path))?;
        }
        Ok(WriteLock {
            dir: dir.to_path_buf(),
            file,
            mark,
        })
    }

    /// Before anything is written: has another process begun to write here? Costs nothing under a
    /// lock.
    ///
    /// # Errors
    /// When it has.
    pub(super) fn check(&self) -> Result<(), ReplayError> {
        let Some(mark) = &self.mark else {
            return Ok(());
        };
        let path = self.dir.join(LOCK_FILE);
        // Opened anew: only then does a network file system ask its server.
        let found = std::fs::read(&path).map_err(ReplayError::io("read", &path))?;
        if found == mark.as_bytes() {
            return Ok(());
        }
        let what = format!(
            "{}: another run has begun to write to this replay, and this file system has no locks \
             to keep the two apart: what this run had written is left to the other",
            self.dir.display()
        );
        Err(ReplayError::Overtaken(Fault::new(what, "")))
    }

    /// What the file system does not do and the user is to know, one line.
    ///
    /// # Errors
    /// When the disk fails.
    pub(super) fn note(&self) -> Result<Option<String>, ReplayError> {
        let flushes = disk::flush(&self.file)
            .and_then(|can| Ok(can & disk::flush_folder(&self.dir)?))
            .map_err(ReplayError::io("sync", &self.dir))?;
        let lacks = match (self.mark.is_some(), flushes) {
            (false, true) => return Ok(None),
            (true, true) => "no file locks: nothing keeps a second run out of this folder",
            (false, false) => "no flushing of folders: a loss of power may cost the newest rounds",
            (true, false) => {
                "neither file locks nor flushing of folders: nothing keeps a second run out, and \
                 a loss of power may cost the newest rounds"
            }
        };
        let dir = self.dir.display();
        Ok(Some(format!("{dir}: its file system has {lacks}")))
    }
}

/// No other start's.
fn new_mark() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanoseconds = since.map_or(0, |since| since.as_nanos());
    format!("{} {nanoseconds}\n", std::process::id())
}
