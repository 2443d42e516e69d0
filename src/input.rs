//! Files that are read come from anywhere. This is how all of them are opened: only regular files,
//! since a named pipe would block the opener until another process writes to it; a pipe only where
//! it was handed over (`<(…)`, `/dev/stdin`) and reading once is enough; and never more than a
//! bound that the caller sets.

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Opens a regular file for reading.
///
/// # Errors
/// The system's, or in words what is there instead of a file.
pub fn open(path: &Path) -> Result<File> {
    open_with(path, OpenOptions::new().read(true))
}

/// Opens a regular file, which `options` may let be created.
///
/// # Errors
/// As [`open`].
pub fn open_with(path: &Path, options: &mut OpenOptions) -> Result<File> {
    // Looked at before, since to open a device or a pipe may do something by itself.
    if let Ok(metadata) = path.metadata() {
        check_regular(&metadata)?;
    }
    // And after, in case it was replaced in between: then this keeps a pipe from waiting for its
    // other end.
    let file = options.custom_flags(libc::O_NONBLOCK).open(path)?;
    check_regular(&file.metadata()?)?;
    Ok(file)
}

/// The bytes of a regular file.
///
/// # Errors
/// As [`open`]; [`ErrorKind::FileTooLarge`] if there are more than `most`.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    read_up_to(&open(path)?, most)
}

/// The bytes of a regular file, or of a pipe that this process was handed: `-` is the standard
/// input.
///
/// # Errors
/// As [`read`].
pub fn read_once(path: &Path, most: u64) -> Result<Vec<u8>> {
    let path = match path.to_str() {
        Some("-") => Path::new("/dev/stdin"),
        _ => path,
    };
    let kind = path.metadata()?.file_type();
    // A device, too: `/dev/null` is a file without anything in it.
    if kind.is_char_device() || kind.is_fifo() && is_handed_over(path) {
        return read_up_to(&File::open(path)?, most);
    }
    read(path, most)
}

/// The folder that relative paths in this file start from: its own, or the working folder if it is
/// one that was handed over.
pub fn base_folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !is_handed_over(path) => folder,
        _ => Path::new(""),
    }
}

/// Was this opened by whoever started the program?
fn is_handed_over(path: &Path) -> bool {
    ["/dev/fd", "/dev/stdin", "/proc/self/fd"]
        .iter()
        .any(|place| path.starts_with(place))
}

/// All that is left to read of a file, which may grow, or never end.
pub fn read_up_to(file: &File, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let what =
            format!("it is larger than {most} bytes, which is more than is read of such a file");
        return Err(Error::new(ErrorKind::FileTooLarge, what));
    }
    Ok(bytes)
}

fn check_regular(metadata: &Metadata) -> Result<()> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    let (is, error) = match kind {
        kind if kind.is_dir() => ("a folder", ErrorKind::IsADirectory),
        kind => (name_of(kind), ErrorKind::InvalidInput),
    };
    Err(Error::new(error, format!("it is {is}, not a regular file")))
}

fn name_of(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixListener;

    /// What is refused, and how.
    fn refusal(path: &Path) -> String {
        let refusals = [
            open(path).expect_err("refused"),
            open_with(path, OpenOptions::new().read(true).write(true)).expect_err("refused"),
            open_with(path, OpenOptions::new().write(true).create(true)).expect_err("refused"),
            read_once(path, 9).expect_err("refused"),
        ]
        .map(|error| error.to_string());
        assert!(refusals.iter().all(|other| *other == refusals[0]));
        refusals[0].clone()
    }

    #[test]
    fn only_regular_files_are_opened_and_nothing_waits() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        mkfifo(&at("pipe"), Mode::S_IRWXU).expect("a pipe");
        let _socket = UnixListener::bind(at("socket")).expect("a socket");
        std::os::unix::fs::symlink(at("pipe"), at("link")).expect("a link");
        assert_eq!(refusal(&at("pipe")), "it is a pipe, not a regular file");
        assert_eq!(refusal(&at("link")), "it is a pipe, not a regular file");
        assert_eq!(refusal(&at("socket")), "it is a socket, not a regular file");
        assert_eq!(refusal(folder.path()), "it is a folder, not a regular file");
        let device = open(Path::new("/dev/zero")).expect_err("refused");
        assert_eq!(device.to_string(), "it is a device, not a regular file");
        std::fs::write(at("file"), "nine more").expect("writes");
        assert_eq!(read(&at("file"), 9).expect("reads"), b"nine more");
        assert_eq!(read_once(&at("file"), 9).expect("reads"), b"nine more");
        let large = read(&at("file"), 8).expect_err("refused");
        assert_eq!(large.kind(), ErrorKind::FileTooLarge);
        assert!(open_with(&at("new"), OpenOptions::new().write(true).create(true)).is_ok());
    }

    #[test]
    fn a_pipe_that_was_handed_over_is_read_once_and_not_without_end() {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        writer.write_all(b"key = 1").expect("writes");
        drop(writer);
        let path = format!("/dev/fd/{}", reader.as_raw_fd());
        assert_eq!(read_once(Path::new(&path), 99).expect("reads"), b"key = 1");
        assert!(open(Path::new(&path)).is_err());
        let endless = read_once(Path::new("/dev/zero"), 1 << 20).expect_err("refused");
        assert_eq!(endless.kind(), ErrorKind::FileTooLarge);
        assert_eq!(read_once(Path::new("/dev/null"), 9).expect("reads"), b"");
        let base_folder = |path: &'static str| base_folder(Path::new(path)).to_str();
        assert_eq!(base_folder("/dev/fd/63"), Some(""));
        assert_eq!(base_folder("a/b.toml"), Some("a"));
        assert_eq!(base_folder("b.toml"), Some(""));
    }
}
