//! Libraries that pretend: a GPU's driver (tests/fake_cuda), a file system's calls
//! (tests/fake_files).
#![allow(dead_code, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder with the pretended driver, built below `folder`.
pub fn driver(folder: &Path) -> PathBuf {
    build(folder, "fake_cuda/driver", "libcuda.so.1")
}

/// Builds the library `name` from a source here; the new folder below `folder` that holds it alone.
pub fn build(folder: &Path, source: &str, name: &str) -> PathBuf {
    let into = folder.join(source);
    fs::create_dir_all(&into).unwrap();
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-o"])
        .arg(into.join(name))
        .arg(format!("{}/tests/{source}.c", env!("CARGO_MANIFEST_DIR")))
        .output()
        .expect("a C compiler, which linking Rust takes, too");
    let stderr = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{stderr}");
    into
}
