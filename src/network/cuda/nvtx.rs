//! Named ranges on the timeline of a profiler that reads NVIDIA's tools extension, such as nsys. The extension's library is
//! loaded only when such a profiler runs this process or when it is named; without it a range costs one branch.

#![allow(unsafe_code)]

use std::env;
use std::ffi::{CStr, OsString, c_char};
use std::path::{Path, PathBuf};

use libloading::Library;

use super::libraries::{loader_word, toolkit_folders};

/// Names the extension's library, and switches ranges on even without a profiler.
pub const NVTX_VARIABLE: &str = "RINGMASTER_NVTX";
/// Here profilers name what the extension's library is to tell of ranges.
const PROFILER_VARIABLE: &str = "NVTX_INJECTION64_PATH";
/// Today's library by both its names, and that of toolkits before.
const NAMES: [&str; 3] = [
    "libnvtx3interop.so.1",
    "libnvtx3interop.so",
    "libnvToolsExt.so.1",
];

/// `nvtxRangeStartA` of nvToolsExt.h: what the range is called; its number.
type Start = unsafe extern "C" fn(*const c_char) -> u64;
/// `nvtxRangeEnd` of nvToolsExt.h: the range's number.
type End = unsafe extern "C" fn(u64);

/// Marks ranges, if anybody wants them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nvtx {
    functions: Option<(Start, End)>,
}

/// A range; it ends when this is dropped. Ranges may overlap.
#[derive(Debug)]
pub struct Range {
    end: End,
    number: u64,
}

/// There is no library to mark ranges with.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "no NVTX, which marks ranges for nsys: {looked}; install it (pip install nvidia-nvtx) and name its libnvtx3interop.so.1 in \
     {NVTX_VARIABLE}"
)]
pub struct NoNvtx {
    /// Where it was looked for, or why what was named does not serve.
    looked: String,
}

impl Nvtx {
    /// On if [`NVTX_VARIABLE`] is set or a profiler wants ranges, otherwise off.
    ///
    /// # Errors
    /// When ranges are wanted and there is no library to mark them with.
    pub fn open() -> Result<Nvtx, NoNvtx> {
        if set(NVTX_VARIABLE).or(set(PROFILER_VARIABLE)).is_none() {
            return Ok(Nvtx::default());
        }
        let (_, functions) = find()?;
        Ok(Nvtx {
            functions: Some(functions),
        })
    }

    /// Begins a range; none while they are off.
    #[inline]
    pub fn range(&self, name: &'static CStr) -> Option<Range> {
        let (start, end) = self.functions?;
        // SAFETY: `load` took the function by its name, with the signature of nvToolsExt.h, from a library that is never
        // unloaded. The text ends with a NUL and lives for good.
        let number = unsafe { start(name.as_ptr()) };
        Some(Range { end, number })
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        // SAFETY: as for the start; the number is a start's, and is ended once.
        unsafe { (self.end)(self.number) };
    }
}

/// The library that ranges would be marked with.
///
/// # Errors
/// When there is none.
pub fn nvtx_library() -> Result<PathBuf, NoNvtx> {
    find().map(|(file, _)| file)
}

fn set(variable: &str) -> Option<OsString> {
    env::var_os(variable).filter(|value| !value.is_empty())
}

/// The library named, or the first of those that the loader and CUDA's toolkits have.
fn find() -> Result<(PathBuf, (Start, End)), NoNvtx> {
    if let Some(named) = set(NVTX_VARIABLE).map(PathBuf::from) {
        return match load(&named) {
            Ok(functions) => Ok((named, functions)),
            Err(looked) => Err(NoNvtx { looked }),
        };
    }
    let placed = toolkit_folders(Path::new("/"))
        .into_iter()
        .flat_map(|folder| NAMES.map(|name| folder.join(name)));
    NAMES
        .map(PathBuf::from)
        .into_iter()
        .chain(placed.filter(|file| file.is_file()))
        .find_map(|file| load(&file).ok().map(|functions| (file, functions)))
        .ok_or_else(|| NoNvtx {
            looked: "looked for libnvtx3interop.so and libnvToolsExt.so.1 in LD_LIBRARY_PATH and CUDA toolkits".to_owned(),
        })
}

/// Loads one library, for good; the loader's word if it refuses.
fn load(file: &Path) -> Result<(Start, End), String> {
    // SAFETY: loading runs the library's initialisers; the extension's only set up its own state.
    let library = unsafe { Library::new(file) }.map_err(|error| loader_word(&error))?;
    // SAFETY: the types are those of nvToolsExt.h, and the copies stay valid because the library is never unloaded, below.
    let functions = unsafe {
        library
            .get::<Start>(b"nvtxRangeStartA")
            .and_then(|start| Ok((*start, *library.get::<End>(b"nvtxRangeEnd")?)))
    };
    let functions = functions.map_err(|error| loader_word(&error))?;
    std::mem::forget(library);
    Ok(functions)
}
