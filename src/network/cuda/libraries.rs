//! Where the driver and NVRTC are looked for. NVRTC comes in many ways (a CUDA toolkit, a
//! distribution's package, a Python wheel that no loader knows), so the search names every place it
//! has been to, for the message when there is none.

#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libloading::Library;

use super::error::CudaError;

/// Names NVRTC's library, or the folder it is in, ahead of all searching.
pub const NVRTC_VARIABLE: &str = "RINGMASTER_NVRTC";

/// Names of the driver's library, the one that drivers install first.
const DRIVER_NAMES: [&str; 2] = ["libcuda.so.1", "libcuda.so"];

/// Driver functions that this program calls. cudarc looks each up when it is first called and
/// panics when it is missing, so all are looked up beforehand.
const DRIVER_SYMBOLS: [&str; 32] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuCtxGetCurrent",
    "cuCtxSynchronize",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemcpyHtoD_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemHostGetDevicePointer_v2",
    "cuMemHostRegister_v2",
    "cuMemHostUnregister",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuFuncSetAttribute",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuEventElapsedTime",
    "cuLaunchKernel",
];

/// Checks that the driver's library is there and complete. Calls nothing in it.
///
/// # Errors
/// When it is missing, or too old.
pub fn check_driver() -> Result<String, CudaError> {
    let mut refusals = Vec::new();
    for name in DRIVER_NAMES {
        // SAFETY: loading runs the library's initialisers; the driver's only set up its own state.
        let library = match unsafe { Library::new(name) } {
            Ok(library) => library,
            Err(error) => {
                refusals.push(loader_word(&error));
                continue;
            }
        };
        for symbol in DRIVER_SYMBOLS.iter().chain(&[
            "cuEventQuery",
            "cuGetErrorName",
            "cuOccupancyMaxActiveClusters",
        ]) {
            // SAFETY: the symbol is only looked up, never called, under this type.
            if unsafe { library.get::<*const ()>(symbol.as_bytes()) }.is_err() {
                return Err(CudaError::OldDriver {
                    library: name.to_owned(),
                    symbol: (*symbol).to_owned(),
                });
            }
        }
        // The driver does not survive being unloaded and loaded again; cudarc keeps it loaded, too.
        std::mem::forget(library);
        return Ok(name.to_owned());
    }
    let path = env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let looked = format!(
        "{} (LD_LIBRARY_PATH is {})",
        refusals.join(", "),
        if path.is_empty() { "not set" } else { &path }
    );
    Err(CudaError::NoDriver { looked })
}

/// The wheel with the NVRTC that fits a driver of CUDA version `driver_major`.
pub fn nvrtc_package(driver_major: u32) -> &'static str {
    if driver_major >= 13 {
        "nvidia-cuda-nvrtc"
    } else {
        "nvidia-cuda-nvrtc-cu12"
    }
}

/// A candidate for NVRTC.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NvrtcFile {
    /// Major version by its name; 0 if the name does not say.
    pub major: u32,
    /// The file.
    pub path: PathBuf,
}

/// What a search for NVRTC found.
#[derive(Debug, Clone, Default)]
pub struct NvrtcSearch {
    /// Candidates, in the order of the search.
    pub found: Vec<NvrtcFile>,
    /// Where it looked, for people.
    pub looked: String,
}

impl NvrtcSearch {
    /// The newest candidate that a driver of CUDA version `driver_major` can use the programs of.
    ///
    /// # Errors
    /// When there is none, or only ones that are too new.
    pub fn best(&self, driver_major: u32) -> Result<&NvrtcFile, CudaError> {
        let package = nvrtc_package(driver_major);
        let fits = |file: &&NvrtcFile| file.major <= driver_major;
        // The first of the newest: `max_by_key` would take the last.
        let best = self
            .found
            .iter()
            .rev()
            .filter(fits)
            .max_by_key(|file| file.major);
        best.ok_or_else(|| match self.found.first() {
            Some(file) => CudaError::NewNvrtc {
                library: file.path.clone(),
                nvrtc_major: file.major,
                driver_major,
                package,
            },
            None => CudaError::NoNvrtc {
                looked: self.looked.clone(),
                package,
            },
        })
    }
}

/// Looks for NVRTC: what `RINGMASTER_NVRTC` names (and then nowhere else); LD_LIBRARY_PATH;
/// toolkits and distributions' folders; the wheels of a virtual environment and of conda; and, if
/// nothing there fits a driver of CUDA version `driver_major`, the wheels of the `python3` on the
/// path.
pub fn find_nvrtc(driver_major: u32) -> NvrtcSearch {
    if let Some(named) = env::var_os(NVRTC_VARIABLE).filter(|named| !named.is_empty()) {
        return named_nvrtc(Path::new(&named));
    }
    let mut folders: Vec<PathBuf> = Vec::new();
    folders.extend(
        env::var_os("LD_LIBRARY_PATH")
            .iter()
            .flat_map(env::split_paths),
    );
    folders.extend(toolkit_folders(Path::new("/")));
    for variable in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        if let Some(prefix) = env::var_os(variable) {
            folders.push(Path::new(&prefix).join("lib"));
            for python in folders_like(&Path::new(&prefix).join("lib"), "python3") {
                folders.extend(wheel_folders(&python.join("site-packages")));
            }
        }
    }
    let mut search = search_in(&folders);
    if !search.found.iter().any(|file| file.major <= driver_major) {
        // Only now: it starts a process.
        let packages = python_packages();
        folders.extend(packages.iter().flat_map(|folder| wheel_folders(folder)));
        search = search_in(&folders);
        let python = match packages.len() {
            0 => "no python3 to ask".to_owned(),
            _ => "the wheels of python3".to_owned(),
        };
        search.looked = format!(
            "libnvrtc.so.* in LD_LIBRARY_PATH, /usr/local/cuda*/lib64, /opt/cuda/lib64, /usr/lib*, $VIRTUAL_ENV, $CONDA_PREFIX, \
             {python}"
        );
    }
    search
}

fn named_nvrtc(named: &Path) -> NvrtcSearch {
    let found = if named.is_dir() {
        nvrtc_in(named)
    } else if named.is_file() {
        let major = named.file_name().and_then(nvrtc_major).unwrap_or(0);
        vec![NvrtcFile {
            major,
            path: named.to_owned(),
        }]
    } else {
        Vec::new()
    };
    let looked = format!("{} ({NVRTC_VARIABLE})", named.display());
    NvrtcSearch { found, looked }
}

fn search_in(folders: &[PathBuf]) -> NvrtcSearch {
    let mut seen = BTreeSet::new();
    let found = folders
        .iter()
        .filter(|folder| seen.insert((*folder).clone()))
        .flat_map(|folder| nvrtc_in(folder))
        .collect();
    NvrtcSearch {
        found,
        looked: String::new(),
    }
}

/// Folders of toolkits and distributions below `root`.
fn toolkit_folders(root: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for toolkit in folders_like(&root.join("usr/local"), "cuda") {
        folders.push(toolkit.join("lib64"));
        folders.push(toolkit.join("targets/x86_64-linux/lib"));
    }
    let others = [
        "opt/cuda/lib64",
        "usr/lib/x86_64-linux-gnu",
        "usr/lib64",
        "usr/lib",
        "usr/lib/wsl/lib",
    ];
    folders.extend(others.map(|folder| root.join(folder)));
    folders
}

/// Where wheels put NVRTC below a folder of packages: nvidia-cuda-nvrtc-cu12 in a folder of its
/// own, CUDA 13's nvidia-cuda-nvrtc in one that all its wheels share.
fn wheel_folders(packages: &Path) -> Vec<PathBuf> {
    let nvidia = packages.join("nvidia");
    let mut folders: Vec<PathBuf> = folders_like(&nvidia, "cu")
        .into_iter()
        .map(|folder| folder.join("lib"))
        .collect();
    folders.sort_unstable_by(|a, b| b.cmp(a));
    folders
}

/// Folders in `parent` whose name begins with `prefix`.
fn folders_like(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort_unstable();
    folders
}

/// Asks the `python3` on the path where its packages are; nothing if there is none.
fn python_packages() -> Vec<PathBuf> {
    let asked = Command::new("python3")
        .args(["-c", "import sys; print('\\n'.join(sys.path))"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let Ok(output) = asked else {
        return Vec::new();
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .filter(|line| !line.is_empty())
        .map(PathBuf::from)
        .filter(|path| path.is_dir())
        .collect()
}

/// The NVRTC libraries in a folder; of each version one name.
fn nvrtc_in(folder: &Path) -> Vec<NvrtcFile> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<NvrtcFile> = entries
        .filter_map(|entry| {
            Some(NvrtcFile {
                major: nvrtc_major(&entry.file_name())?,
                path: entry.path(),
            })
        })
        .collect();
    // Newest first; of a version the shortest name (libnvrtc.so.12 before libnvrtc.so.12.8.93).
    files.sort_unstable_by_key(|file| (std::cmp::Reverse(file.major), file.path.as_os_str().len()));
    files.dedup_by_key(|file| file.major);
    files
}

/// 12 for `libnvrtc.so.12` and `libnvrtc.so.12.8.93`; nothing for `libnvrtc-builtins.so.12.8`,
/// `libnvrtc.alt.so.12` or the plain `libnvrtc.so`, which stands beside a versioned one.
fn nvrtc_major(name: &OsStr) -> Option<u32> {
    let version = name.to_str()?.strip_prefix("libnvrtc.so.")?;
    version.split('.').next()?.parse().ok()
}

/// What the loader said: it is the last cause of the error.
pub(super) fn loader_word(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"").unwrap();
    }

    #[test]
    fn names_tell_the_version() {
        for (name, major) in [
            ("libnvrtc.so.12", Some(12)),
            ("libnvrtc.so.13.0.88", Some(13)),
            ("libnvrtc.so", None),
            ("libnvrtc.so.", None),
            ("libnvrtc.alt.so.12", None),
            ("libnvrtc-builtins.so.12.8", None),
        ] {
            assert_eq!(nvrtc_major(OsStr::new(name)), major, "{name}");
        }
    }

    #[test]
    fn toolkits_and_wheels_are_found() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        touch(&at("usr/local/cuda-12.4/lib64/libnvrtc.so.12"));
        touch(&at("usr/local/cuda-12.4/lib64/libnvrtc.so.12.4.127"));
        touch(&at("usr/local/cuda-12.4/lib64/libnvrtc-builtins.so.12.4"));
        touch(&at("py/nvidia/cuda_nvrtc/lib/libnvrtc.so.12"));
        touch(&at("py/nvidia/cu13/lib/libnvrtc.so.13"));
        let mut folders = toolkit_folders(root.path());
        folders.extend(wheel_folders(&at("py")));
        let search = search_in(&folders);
        let found: Vec<_> = search
            .found
            .iter()
            .map(|file| {
                (
                    file.major,
                    file.path.strip_prefix(root.path()).unwrap().to_owned(),
                )
            })
            .collect();
        assert_eq!(
            found[0],
            (12, "usr/local/cuda-12.4/lib64/libnvrtc.so.12".into())
        );
        assert_eq!(found.len(), 3, "{found:?}");

        assert_eq!(
            search.best(13).unwrap().path,
            at("py/nvidia/cu13/lib/libnvrtc.so.13")
        );
        // Of equals the first of the search.
        assert_eq!(
            search.best(12).unwrap().path,
            at("usr/local/cuda-12.4/lib64/libnvrtc.so.12")
        );
        let error = search.best(11).unwrap_err().to_string();
        assert!(error.contains("newer than the driver (CUDA 11)"), "{error}");
    }

    #[test]
    fn a_named_file_or_folder_is_all_that_is_looked_at() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("libnvrtc.so.12.6.77");
        touch(&file);
        for named in [file.as_path(), root.path()] {
            assert_eq!(
                named_nvrtc(named).found,
                [NvrtcFile {
                    major: 12,
                    path: file.clone()
                }]
            );
        }
        let odd = root.path().join("mine.so");
        touch(&odd);
        assert_eq!(named_nvrtc(&odd).found[0].major, 0);
        let missing = named_nvrtc(&root.path().join("gone"));
        let error = missing.best(13).unwrap_err();
        let (found, remedy) = error.at_length();
        assert!(found.contains("gone (RINGMASTER_NVRTC)"), "{found}");
        for text in [remedy, error.to_string()] {
            assert!(text.contains("pip install nvidia-cuda-nvrtc,"), "{text}");
        }
    }
}
