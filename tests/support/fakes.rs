//! A driver and a compiler that pretend (tests/fake_cuda), built for the tests that need a GPU's host side.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders with the pretended libraries: the driver alone, and the compiler alone.
pub struct Libraries {
    pub driver: PathBuf,
    pub nvrtc: PathBuf,
}

/// Builds them below `folder`.
pub fn libraries(folder: &Path) -> Libraries {
    Libraries {
        driver: build(folder, "driver", "libcuda.so.1"),
        nvrtc: build(folder, "nvrtc", "libnvrtc.so.13"),
    }
}

/// Builds the library `name` from a source here; the new folder below `folder` that holds it alone.
pub fn build(folder: &Path, source: &str, name: &str) -> PathBuf {
    let into = folder.join(source);
    fs::create_dir(&into).unwrap();
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-o"])
        .arg(into.join(name))
        .arg(format!(
            "{}/tests/fake_cuda/{source}.c",
            env!("CARGO_MANIFEST_DIR")
        ))
        .output()
        .expect("a C compiler, which linking Rust takes, too");
    let stderr = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{stderr}");
    into
}
