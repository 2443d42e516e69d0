//! Files that are written whole or not at all: as a draft beside the file it is to become, under a name that nothing had, so that
//! nothing is written over until all is there.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::{Builder, NamedTempFile};

/// A new file beside `path`; `persist` puts it in its place, and it is removed if that does not happen. Its name is that of
/// `path`, some letters, and `.tmp`.
///
/// # Errors
/// When the folder cannot be written.
pub fn beside(path: &Path) -> io::Result<NamedTempFile> {
    let mut prefix = path.file_name().unwrap_or_default().to_owned();
    prefix.push(".");
    Builder::new()
        .prefix(&prefix)
        .suffix(".tmp")
        // As any new file: the user's umask has its say.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder_of(path))
}

/// The folder that a file lies in.
pub fn folder_of(file: &Path) -> &Path {
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;

    #[test]
    fn a_draft_replaces_its_file_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        let others = ["a.npy.part", "a.npy.tmp"].map(|name| folder.path().join(name));
        others
            .iter()
            .for_each(|other| fs::write(other, "x").unwrap());
        drop(beside(&path).unwrap());
        let mut draft = beside(&path).unwrap();
        draft.write_all(b"y").unwrap();
        draft.persist(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"y");
        assert!(others.iter().all(|other| fs::read(other).unwrap() == b"x"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
        let plain = folder.path().join("plain");
        fs::write(&plain, "").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&plain));
    }
}
