//! What all files stand on: what a file system refused and the remedy that fits, files that are
//! written whole or not at all, and what file systems differ in: locks, and flushing on demand.

use crate::fault::Fault;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::{Builder, NamedTempFile};

/// Something that the system refused to do with a file or folder.
#[derive(Debug, thiserror::Error)]
#[error("{fault}")]
pub struct Refusal {
    /// Which file, what was tried, what the system said; and what to do about it.
    pub fault: Fault,
    /// What the system said.
    pub source: io::Error,
}

impl Refusal {
    /// For `map_err`: what was tried ("open", "write", ...), and on which path.
    pub fn of(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Refusal {
        move |source| Refusal {
            fault: Fault::new(
                format!("{}: cannot {action}: {source}", path.display()),
                remedy(path, &source),
            ),
            source,
        }
    }

    /// What to do once that is done.
    pub fn then(mut self, next: &str) -> Refusal {
        self.fault.remedy += &format!(", then {next}");
        self
    }
}

/// What to do about an error met on `path`.
pub fn remedy(path: &Path, error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::AlreadyExists if let Some(broken) = broken_link(path) => {
            match broken.kind() {
                ErrorKind::NotFound => {
                    "a link there points to what does not exist: make that, or name another place"
                }
                _ => "a link there leads nowhere: name another place",
            }
        }
        ErrorKind::StorageFull => "free some space there",
        ErrorKind::QuotaExceeded => "your quota there is used up: free some of it",
        ErrorKind::FileTooLarge => "raise the limit on the size of files (ulimit -f)",
        ErrorKind::ReadOnlyFilesystem => {
            "that file system is read-only: mount it for writing, or name another place"
        }
        ErrorKind::PermissionDenied => "see who may do that there, or name another place",
        ErrorKind::NotFound if path.parent().is_some_and(is_absent) => {
            "the folder above it does not exist: check the path"
        }
        ErrorKind::NotFound => "check the path",
        ErrorKind::AlreadyExists => {
            "something else has this name: move that away, or name another place"
        }
        ErrorKind::NotADirectory => {
            "something in the path that should be a folder is none: check the path"
        }
        ErrorKind::IsADirectory => "that is a folder: name a file",
        ErrorKind::InvalidFilename => "choose a shorter name",
        ErrorKind::InvalidInput => "name another file",
        ErrorKind::Unsupported => "that cannot be done there: name another place",
        ErrorKind::ResourceBusy | ErrorKind::ExecutableFileBusy => {
            "something else is using it: end that, or name another place"
        }
        ErrorKind::StaleNetworkFileHandle
        | ErrorKind::TimedOut
        | ErrorKind::NotConnected
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable => "see whether that file system's server answers",
        _ => match error.raw_os_error() {
            Some(libc::ELOOP) => "a link there leads nowhere: name another place",
            Some(libc::EMFILE | libc::ENFILE) => "raise the limit on open files (ulimit -n)",
            _ => "check the disk: the system's log may say more",
        },
    }
}

/// Does a path name nothing? The empty one is that of the folder we are in.
fn is_absent(path: &Path) -> bool {
    !path.as_os_str().is_empty() && !path.exists()
}

/// What is wrong with a link in the path that cannot be followed.
fn broken_link(path: &Path) -> Option<io::Error> {
    let mut links = path.ancestors().filter(|part| part.is_symlink());
    links.find_map(|link| fs::metadata(link).err())
}

/// Makes a folder and those above it; one that is there is as good.
///
/// # Errors
/// When that is refused.
pub fn make_folder(path: &Path) -> Result<(), Refusal> {
    fs::create_dir_all(path).map_err(Refusal::of("create folder", path))
}

/// The folder that a file lies in.
pub fn folder_of(file: &Path) -> &Path {
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// Longest name of a file that file systems commonly take, bytes.
const NAME_BYTES_MAX: usize = 255;
/// What follows a file's name while it is being written: a dot, six letters, an ending.
const DRAFT_ENDING: &str = ".tmp";
const DRAFT_BYTES: usize = 1 + 6 + DRAFT_ENDING.len();

/// A file being written under a temporary name beside its own, to take the place of an older one
/// when it is whole. A link to a file stays a link. Dropped before that, nothing of it stays.
#[derive(Debug)]
pub struct Replacement {
    target: PathBuf,
    draft: NamedTempFile,
}

impl Replacement {
    /// Begins a file.
    ///
    /// # Errors
    /// When it cannot be made, or something is at `path` that is no file.
    pub fn begin(path: &Path) -> Result<Replacement, Refusal> {
        let begin = || {
            let target = target_of(path)?;
            let draft = draft_of(&target)?;
            Ok(Replacement { target, draft })
        };
        begin().map_err(Refusal::of("create", path))
    }

    /// What is written to.
    pub fn file(&self) -> &File {
        self.draft.as_file()
    }

    /// Flushes what was written, to be put in place.
    ///
    /// # Errors
    /// When the disk refuses it.
    pub fn flush(&self) -> Result<(), Refusal> {
        let flushed = flush(self.file()).map(|_| ());
        flushed.map_err(Refusal::of("write", &self.target))
    }

    /// Puts the file, flushed before, in its place.
    ///
    /// # Errors
    /// When that is refused; an older file stays.
    pub fn put(self) -> Result<(), Refusal> {
        let put = self.draft.persist(&self.target).map(drop);
        put.map_err(|error| Refusal::of("write", &self.target)(error.error))
    }
}

/// Where a file of this name is written: what a link points to. Nothing but a file may be replaced
/// there.
fn target_of(path: &Path) -> io::Result<PathBuf> {
    let target = match fs::symlink_metadata(path) {
        Ok(data) if data.is_symlink() => fs::canonicalize(path)?,
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => path.to_owned(),
    };
    match fs::metadata(&target) {
        Ok(data) if data.is_dir() => Err(io::Error::from_raw_os_error(libc::EISDIR)),
        Ok(data) if !data.is_file() => {
            let what = "a device, pipe or socket is there";
            Err(io::Error::new(ErrorKind::InvalidInput, what))
        }
        _ => Ok(target),
    }
}

/// A new file beside `target`, under a name that nothing has and no longer than names may be.
fn draft_of(target: &Path) -> io::Result<NamedTempFile> {
    let name = target.file_name().map(OsStr::as_bytes);
    let name = name.ok_or_else(|| io::Error::from(ErrorKind::NotFound))?;
    let kept = &name[..name.len().min(NAME_BYTES_MAX - DRAFT_BYTES)];
    Builder::new()
        .prefix(&OsString::from_vec([kept, b"."].concat()))
        .suffix(DRAFT_ENDING)
        // Not `tempfile_in`: as any new file, of the user's umask, and with the system's own error.
        .make_in(folder_of(target), |path| File::create_new(path))
}

/// Checks that a file can be written at `path` later, after hours of work perhaps.
///
/// # Errors
/// When it cannot.
pub fn check_writable(path: &Path) -> Result<(), Refusal> {
    Replacement::begin(path).map(drop)
}

/// Writes a file whole or not at all.
///
/// # Errors
/// When that is refused; an older file of that name is then as it was.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Refusal> {
    let replacement = Replacement::begin(path)?;
    let written = replacement.file().write_all(bytes);
    written.map_err(Refusal::of("write", path))?;
    replacement.flush()?;
    replacement.put()
}

/// Flushes a file to the disk; false if its file system does not do that on demand.
///
/// # Errors
/// When the disk fails.
pub fn flush(file: &File) -> io::Result<bool> {
    where_possible(file.sync_all())
}

/// Makes names in a folder last; false if its file system does not do that on demand (CIFS, some of
/// FUSE).
///
/// # Errors
/// When the disk fails.
pub fn flush_folder(path: &Path) -> io::Result<bool> {
    where_possible(File::open(path)?.sync_all())
}

fn where_possible(done: io::Result<()>) -> io::Result<bool> {
    match done {
        Err(error) if is_beyond(&error) => Ok(false),
        done => done.map(|()| true),
    }
}

/// Does the file system not have what was asked for? The arguments being right, EINVAL and EBADF
/// say that, too.
fn is_beyond(error: &io::Error) -> bool {
    let beyond = [libc::ENOSYS, libc::EOPNOTSUPP, libc::EINVAL, libc::EBADF];
    error
        .raw_os_error()
        .is_some_and(|raw| beyond.contains(&raw))
}

/// What came of asking for a file's lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lock {
    /// This process has it, until the file is closed.
    Held,
    /// Another has it.
    Taken,
    /// The file system has no locks (Lustre without `flock`, NFS without its lock service).
    Impossible,
}

/// Asks for a file's lock, for a fifth of a second if need be: a process that is being started by
/// this one holds copies of all open files for a moment, locks among them.
///
/// # Errors
/// When the disk fails.
pub fn lock(file: &File) -> io::Result<Lock> {
    for _ in 0..40 {
        match file.try_lock() {
            Ok(()) => return Ok(Lock::Held),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
            Err(TryLockError::Error(error)) if has_no_locks(&error) => return Ok(Lock::Impossible),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(Lock::Taken)
}

fn has_no_locks(error: &io::Error) -> bool {
    is_beyond(error) || error.raw_os_error() == Some(libc::ENOLCK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn each_cause_has_its_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let told = |errno| remedy(&path, &io::Error::from_raw_os_error(errno));
        for (errno, says) in [
            (libc::ENOSPC, "free some space"),
            (libc::EDQUOT, "quota"),
            (libc::EFBIG, "ulimit -f"),
            (libc::EROFS, "read-only"),
            (libc::EACCES, "who may do that"),
            (libc::EPERM, "who may do that"),
            (libc::ENAMETOOLONG, "shorter name"),
            (libc::ENOTDIR, "should be a folder"),
            (libc::EISDIR, "name a file"),
            (libc::ELOOP, "leads nowhere"),
            (libc::ENOENT, "check the path"),
            (libc::EEXIST, "something else has this name"),
            (libc::EMFILE, "ulimit -n"),
            (libc::ESTALE, "server answers"),
            (libc::EIO, "check the disk"),
        ] {
            assert!(told(errno).contains(says), "{errno}: {}", told(errno));
        }
        let below = io::Error::from_raw_os_error(libc::ENOENT);
        let told_below = remedy(&path.join("below"), &below);
        assert!(told_below.contains("folder above it"), "{told_below}");
        assert_eq!(remedy(Path::new("file"), &below), "check the path");
        symlink("nowhere", &path).unwrap();
        for errno in [libc::ENOENT, libc::EEXIST] {
            assert!(told(errno).contains("does not exist"), "{}", told(errno));
        }
    }

    #[test]
    fn a_file_is_replaced_whole_through_links_and_under_the_longest_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("elsewhere")).unwrap();
        fs::write(at("elsewhere/file"), "old").unwrap();
        symlink(at("elsewhere/file"), at("link")).unwrap();
        write(&at("link"), b"new").unwrap();
        assert!(at("link").is_symlink());
        assert_eq!(fs::read(at("elsewhere/file")).unwrap(), b"new");
        let long = at(&"x".repeat(NAME_BYTES_MAX));
        write(&long, b"long").unwrap();
        assert_eq!(fs::read(&long).unwrap(), b"long");
        drop(Replacement::begin(&long).unwrap());
        assert_eq!(fs::read(&long).unwrap(), b"long");
        check_writable(&at("new")).unwrap();
        let others = ["link.part", "link.tmp"].map(at);
        for other in &others {
            fs::write(other, "another's").unwrap();
        }
        write(&at("link"), b"newer").unwrap();
        for other in &others {
            assert_eq!(fs::read(other).unwrap(), b"another's");
        }
        let names = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 5, "something temporary, or unwritten, is there");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&long), mode(&others[0]), "as any new file");
    }
}
