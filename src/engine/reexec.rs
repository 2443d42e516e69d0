//! This program once more, as a child: from the image that runs, whatever lies at its path by now.
//! A build or an upgrade may have replaced or removed the file, and another build would lay out the
//! segment in another way.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// A command that runs this program: by the kernel's own name for the image that runs, good even
/// when the file is gone. In the child it means the child's image, which is the same one.
pub fn command() -> Command {
    let mut command = Command::new("/proc/self/exe");
    // For whoever looks at the list of processes.
    if let Some(name) = std::env::args_os().next() {
        command.arg0(name);
    }
    command
}

/// Names this process's main thread, for top, perf and the like; the kernel has named it after the
/// image's name.
pub fn name_process(name: &str) {
    // A process without a name of its own runs as well.
    if let Ok(name) = std::ffi::CString::new(name) {
        let _ = nix::sys::prctl::set_name(&name);
    }
}
