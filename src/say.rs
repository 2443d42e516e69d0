//! What the program says. stderr has progress, notes and errors: what cannot be written there is
//! dropped, and the run goes on (a full disk under the log, a reader who has left, a terminal that
//! is gone). stdout has data: that these did not get out is an error. Everything is written whole
//! lines at a time, since several processes share one stderr.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write, stderr, stdout};

/// Data that could not be written to stdout.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to stdout: {0}")]
pub struct NotWritten(#[from] io::Error);

impl NotWritten {
    /// Has whoever reads stdout had enough (`| head`)? That is no failure.
    pub fn is_unwanted(&self) -> bool {
        self.0.kind() == ErrorKind::BrokenPipe
    }
}

/// A line on stderr, if it can be written.
pub fn to_stderr(line: Arguments<'_>) {
    let _ = stderr().write_all(format!("{line}\n").as_bytes());
}

/// A line on stdout.
///
/// # Errors
/// When it cannot be written.
pub fn to_stdout(line: Arguments<'_>) -> Result<(), NotWritten> {
    let mut out = stdout().lock();
    out.write_all(format!("{line}\n").as_bytes())?;
    Ok(out.flush()?)
}

/// `eprintln!` that no stderr can make panic.
macro_rules! note {
    ($($words:tt)*) => { $crate::say::to_stderr(format_args!($($words)*)) };
}

/// `println!` whose failure is an error.
macro_rules! data {
    ($($words:tt)*) => { $crate::say::to_stdout(format_args!($($words)*)) };
}

pub(crate) use {data, note};
