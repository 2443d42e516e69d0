//! The file behind a segment: its name, who may open it, the memory reserved for it, and its
//! removal.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process;

use nix::errno::Errno;
use nix::fcntl::posix_fallocate;
use nix::sys::statvfs::statvfs;
use nix::unistd::getuid;

use super::error::ShmError;

/// Where the system keeps shared memory.
pub(super) const DIRECTORY: &str = "/dev/shm";
/// How the names of our segments begin.
pub(super) const PREFIX: &str = "/ringmaster-";
const MIB: u64 = 1 << 20;

/// An unguessable name that tells whose it is.
pub(super) fn new_name() -> Result<String, ShmError> {
    let mut random = [0; 8];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut random))
        .map_err(|error| ShmError::system("read /dev/urandom", error))?;
    Ok(format!(
        "{PREFIX}{}-{:016x}",
        process::id(),
        u64::from_le_bytes(random)
    ))
}

/// The process number in a name, or `None` if it is not a name of ours.
pub(super) fn pid_in_name(name: &str) -> Option<u32> {
    let (pid, random) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let hex = random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hex { pid.parse().ok() } else { None }
}

pub(super) fn check_name(name: &str) -> Result<(), ShmError> {
    match pid_in_name(name) {
        Some(_) => Ok(()),
        None => Err(ShmError::new(
            format!("{name:?} is not the name of a segment (/ringmaster-PID-16 hex digits)"),
            "",
        )),
    }
}

pub(super) fn path_of(name: &str) -> PathBuf {
    PathBuf::from(format!("{DIRECTORY}{name}"))
}

/// Gives a file of ours the mode of a private one, whatever a umask has left of it.
pub(super) fn make_private(name: &str) -> Result<(), ShmError> {
    let path = path_of(name);
    let made = fs::set_permissions(&path, Permissions::from_mode(0o600));
    made.map_err(|error| ShmError::refused(format!("set the mode of {}", path.display()), error))
}

/// The error of a segment that cannot be opened: what the system said.
pub(super) fn not_opened(name: &str, reason: impl Display) -> ShmError {
    ShmError::new(
        format!("cannot open the shared-memory segment {name}: {reason}"),
        "it is made by a running coordinator and removed when that ends",
    )
}

/// Checks that the file belongs to this user and that nobody else may open it.
pub(super) fn check_private(name: &str) -> Result<(), ShmError> {
    let data = fs::symlink_metadata(path_of(name)).map_err(|error| not_opened(name, error))?;
    let (uid, mode) = (data.st_uid(), data.permissions().mode() & 0o7777);
    let expected_uid = getuid().as_raw();
    if data.is_file() && uid == expected_uid && mode & 0o077 == 0 {
        return Ok(());
    }
    Err(ShmError::new(
        format!(
            "the shared-memory segment {name} is not private: owner uid {uid}, mode {mode:o}, \
             expected uid {expected_uid} and no rights for others"
        ),
        "do not use it",
    ))
}

/// Free space of the memory file system in bytes; `None` if it has no limit of its own.
pub(super) fn free_bytes() -> Result<Option<u64>, ShmError> {
    let space = statvfs(DIRECTORY)
        .map_err(|error| ShmError::refused(format!("look at {DIRECTORY}"), error))?;
    Ok((space.blocks() > 0).then(|| space.blocks_available() * space.fragment_size()))
}

fn too_small(bytes: u64, free: u64) -> ShmError {
    let (needed_mib, free_mib) = (bytes.div_ceil(MIB), free / MIB);
    ShmError::new(
        format!("/dev/shm is too small: {needed_mib} MiB needed, {free_mib} MiB free"),
        "use fewer workers, rounds in flight or smaller rings, or enlarge it (mount -o \
         remount,size=... /dev/shm; in a container --shm-size=...)",
    )
}

/// A first look, so that a hopeless request does not fill the memory before it fails.
pub(super) fn check_room(bytes: u64) -> Result<(), ShmError> {
    match free_bytes()? {
        Some(free) if bytes > free => Err(too_small(bytes, free)),
        _ if bytes > i64::MAX as u64 => Err(too_small(bytes, 0)),
        _ => Ok(()),
    }
}

/// Reserves the memory behind the file. Without that, the first touch of a page that is not to be
/// had is a SIGBUS.
pub(super) fn reserve(name: &str, bytes: u64) -> Result<(), ShmError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path_of(name))
        .map_err(|error| ShmError::refused(format!("open {}", path_of(name).display()), error))?;
    loop {
        return match posix_fallocate(&file, 0, bytes as i64) {
            Ok(()) => Ok(()),
            Err(Errno::EINTR) => continue,
            // ENOMEM: the limit is that of the control group, not of the file system.
            Err(Errno::ENOSPC | Errno::ENOMEM) => Err(too_small(bytes, free_bytes()?.unwrap_or(0))),
            Err(error) => Err(ShmError::refused(
                format!("reserve {bytes} bytes in {DIRECTORY}"),
                error,
            )),
        };
    }
}

/// Removes the name of a segment; the memory goes when the last process unmaps it. For a child that
/// finds its parent dead, too. True if it was there.
pub fn unlink_by_name(name: &str) -> Result<bool, ShmError> {
    check_name(name)?;
    match fs::remove_file(path_of(name)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(ShmError::system(
            format!("remove {}", path_of(name).display()),
            error,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_that_fails_says_that_there_is_no_room() {
        let space = statvfs(DIRECTORY).unwrap();
        if space.blocks() == 0 {
            return;
        }
        // So much that the file system refuses it at once.
        let total = space.blocks() * space.fragment_size();
        let name = new_name().unwrap();
        File::create_new(path_of(&name)).unwrap();
        let refused = reserve(&name, 2 * total).unwrap_err().to_string();
        unlink_by_name(&name).unwrap();
        assert!(refused.contains("is too small"), "{refused}");
    }
}
