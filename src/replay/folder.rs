//! Folders for replays: new ones, and which ones a replay may be begun in.

use super::error::ReplayError;
use super::format::{MANIFEST_FILE, PART_FILE, is_part};
use super::write_lock::LOCK_FILE;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Makes a folder for a replay in `replays`: `0001`, or the first number that is not there yet. It
/// is then the caller's alone, however many runs start at once.
///
/// # Errors
/// When it cannot be made.
pub fn new_folder(replays: &Path) -> Result<PathBuf, ReplayError> {
    std::fs::create_dir_all(replays).map_err(ReplayError::io("create folder", replays))?;
    let mut number = 1_u64;
    loop {
        let folder = replays.join(format!("{number:04}"));
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(ReplayError::io("create folder", &folder)(error)),
        }
    }
}

/// What systems put into folders by themselves, no user's files: at the root of a file system, on
/// shared and network disks, from file managers.
fn is_of_system(name: &OsStr) -> bool {
    const NAMES: [&str; 11] = [
        "lost+found",
        ".DS_Store",
        ".Spotlight-V100",
        ".Trashes",
        ".fseventsd",
        "Thumbs.db",
        "desktop.ini",
        "System Volume Information",
        "$RECYCLE.BIN",
        ".snapshot",
        ".directory",
    ];
    const BEGINNINGS: [&[u8]; 3] = [b".nfs", b".Trash-", b"._"];
    let begins = |with: &&[u8]| name.as_bytes().starts_with(with);
    NAMES.iter().any(|known| name == *known) || BEGINNINGS.iter().any(begins)
}

/// Refuses a folder with anything in it but a lock, what a killed start may have left, and what is
/// no user's.
pub(super) fn check_empty(dir: &Path) -> Result<(), ReplayError> {
    let mut first = None;
    for entry in std::fs::read_dir(dir).map_err(ReplayError::io("list", dir))? {
        let name = entry.map_err(ReplayError::io("list", dir))?.file_name();
        if name == MANIFEST_FILE {
            let what = "already holds a replay";
            let remedy = "add --resume to go on with it, or choose another --out";
            return Err(ReplayError::of_path(dir, what, remedy));
        }
        let is_left = name == LOCK_FILE || name == PART_FILE && is_part(&dir.join(PART_FILE));
        if !is_left && !is_of_system(&name) {
            first = first.max(Some(name));
        }
    }
    let Some(name) = first else {
        return Ok(());
    };
    let what = format!("no replay, but it is not empty ({})", name.display());
    Err(ReplayError::of_path(dir, what, "choose another --out"))
}
