//! The folders of studies. Results go to a folder that is the study's own while it runs; what it
//! needs meanwhile goes to a scratch folder in there, under a name that nothing had before. Nothing
//! is removed that this very study did not make, but for what an earlier one left behind and marked
//! as its own: a user's folders may be called whatever they like.

use super::StudyError;
use crate::disk::{self, Lock};
use crate::settings::check_path;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Scratch folders are called so, and something that makes the name new.
const PREFIX: &str = "ringmaster-scratch-";
/// The file that marks a folder as this program's. In a scratch folder it is locked while the study
/// runs; in a folder of results it holds the names of all files that were made there, one a line.
const MARK: &str = ".ringmaster";

/// Where results are to go.
#[derive(Clone, Debug)]
pub enum Destination {
    /// To the folder that the user named.
    Named(PathBuf),
    /// To a folder of this name; beside it if another study is at work there.
    Default(&'static str),
}

/// A folder for results, in which no other study is at work until this is dropped.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    /// None where the file system knows no locks: then nothing keeps another study out.
    _lock: Option<File>,
}

impl Destination {
    /// Makes the folder and keeps other studies out of it.
    ///
    /// # Errors
    /// When another study is at work in the folder named, its path is no text, or it cannot be
    /// made.
    pub fn claim(&self) -> Result<Claim, StudyError> {
        let name = match self {
            Destination::Named(path) => {
                let taken = "another study is at work in this folder";
                let cause = format!("{}: {taken}", path.display());
                let remedy = "wait for it to end, or choose another --out";
                return claim(path)?.ok_or_else(|| StudyError::usage(cause, remedy));
            }
            Destination::Default(name) => name,
        };
        let mut path = PathBuf::from(name);
        for number in 2_u32.. {
            if let Some(claim) = claim(&path)? {
                return Ok(claim);
            }
            path = PathBuf::from(format!("{name}-{number}"));
        }
        Err(StudyError::usage(
            format!("no folder {name} is free"),
            "name one with --out",
        ))
    }
}

impl Claim {
    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes a folder and locks it; none if another study has it.
fn claim(path: &Path) -> Result<Option<Claim>, StudyError> {
    check_path("out", path)?;
    disk::make_folder(path)?;
    let folder = File::open(path).map_err(StudyError::file("open the folder", path))?;
    let lock = match disk::lock(&folder).map_err(StudyError::file("lock", path))? {
        Lock::Held => Some(folder),
        Lock::Taken => return Ok(None),
        Lock::Impossible => None,
    };
    let path = path.to_owned();
    Ok(Some(Claim { path, _lock: lock }))
}

/// A folder for what a study needs only while it runs; removed when dropped, or, after a kill, by
/// the next study there.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    /// Its lock says that the folder is in use.
    _mark: File,
}

impl Scratch {
    /// Makes a new one in a folder, and removes those that studies which were killed left there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(within: &Path) -> Result<Scratch, StudyError> {
        sweep(within);
        let made = tempfile::Builder::new().prefix(PREFIX).tempdir_in(within);
        let made = made.map_err(StudyError::file("make a scratch folder in", within))?;
        let (mark, unlocked) = (made.path().join(MARK), made.path().join("mark"));
        let file = File::create_new(&unlocked).map_err(StudyError::file("make", &unlocked))?;
        // Where there are no locks, nobody ever removes what a kill leaves: it might be in use.
        disk::lock(&file).map_err(StudyError::file("lock", &unlocked))?;
        // Locked before it has the name that `sweep` goes by.
        fs::rename(&unlocked, &mark).map_err(StudyError::file("make", &mark))?;
        Ok(Scratch {
            path: made.keep(),
            _mark: file,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays has its mark, and goes with the next study's start.
        let _ = remove(&self.path);
    }
}

/// Removes the scratch folders in `within` that nobody uses. Best effort: one that stays costs
/// space, no more.
fn sweep(within: &Path) {
    let entries = fs::read_dir(within).into_iter().flatten().flatten();
    for entry in entries {
        let is_named_so = entry.file_name().as_bytes().starts_with(PREFIX.as_bytes());
        // A link is none of ours, wherever it leads.
        if !is_named_so || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let mark = File::open(entry.path().join(MARK));
        if mark.is_ok_and(|mark| mark.try_lock().is_ok()) {
            let _ = remove(&entry.path());
        }
    }
}

/// Removes a scratch folder, its mark last: killed on the way, it is still known for what it is.
fn remove(scratch: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(scratch)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false if entry.file_name() == MARK => {}
            false => fs::remove_file(entry.path())?,
        }
    }
    fs::remove_file(scratch.join(MARK))?;
    fs::remove_dir(scratch)
}

/// Gives a folder of files that was made here the name `wanted`. The files of an earlier study that
/// go by the mark there make room for it; beside anything else it gets the name with a number.
/// Where it is now.
///
/// # Errors
/// When the folder cannot be marked or renamed.
pub fn put_in_place(made: &Path, wanted: &Path) -> Result<PathBuf, StudyError> {
    const TAKEN: [ErrorKind; 3] = [
        ErrorKind::DirectoryNotEmpty,
        ErrorKind::AlreadyExists,
        ErrorKind::NotADirectory,
    ];
    let failed = |error| StudyError::file("put in place the folder", wanted)(error);
    mark(made).map_err(failed)?;
    let mut target = wanted.to_owned();
    for number in 2_u32.. {
        clear(&target);
        match fs::rename(made, &target) {
            Ok(()) => break,
            // Not empty, or no folder: somebody else's.
            Err(error) if TAKEN.contains(&error.kind()) => {}
            Err(error) => return Err(failed(error)),
        }
        let mut name = wanted.as_os_str().to_owned();
        name.push(format!("-{number}"));
        target = PathBuf::from(name);
    }
    Ok(target)
}

/// Marks a folder of results with the names of the files in it.
fn mark(folder: &Path) -> std::io::Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.extend_from_slice(entry?.file_name().as_bytes());
        names.push(b'\n');
    }
    fs::write(folder.join(MARK), names)
}

/// Removes from a marked folder the files that its mark names, and the mark; anything else stays,
/// and makes the renaming fail.
fn clear(folder: &Path) {
    let is_folder = fs::symlink_metadata(folder).is_ok_and(|data| data.is_dir());
    let mark = is_folder.then(|| fs::read(folder.join(MARK)).ok());
    let Some(names) = mark.flatten() else {
        return;
    };
    for name in names.split(|&byte| byte == b'\n') {
        // Names alone: a mark that somebody edited leads nowhere else.
        if !name.is_empty() && !name.contains(&b'/') {
            let _ = fs::remove_file(folder.join(OsStr::from_bytes(name)));
        }
    }
    let _ = fs::remove_file(folder.join(MARK));
}
