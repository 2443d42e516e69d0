//! NVRTC, the compiler in a library, bound by hand: seven functions, loaded from the file that the
//! search found. What it makes is a cubin, machine code for one architecture, which the driver
//! loads without compiling anything itself.

#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int, c_void};
use std::fs;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LAZY};

use super::error::CudaError;
use super::libraries::{loader_word, nvrtc_package};

/// Lines of a compiler's log that go into a message.
const LOG_LINES: usize = 3;

type Code = c_int;
type Program = *mut c_void;

/// A loaded NVRTC.
pub struct Nvrtc {
    library: Library,
    path: PathBuf,
    version: (u32, u32),
    package: &'static str,
}

/// One source file, by the name under which others include it.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// As in `#include "name"`.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

impl Nvrtc {
    /// Loads the library at `path`, for a driver of CUDA version `driver_major`.
    ///
    /// # Errors
    /// When it cannot be loaded or is no NVRTC.
    pub fn load(path: &Path, driver_major: u32) -> Result<Nvrtc, CudaError> {
        let package = nvrtc_package(driver_major);
        preload_builtins(path);
        // SAFETY: loading runs the library's initialisers; NVRTC's only set up its own state.
        let library = unsafe { Library::open(Some(path), RTLD_LAZY) }.map_err(|error| {
            CudaError::BadNvrtc {
                library: path.to_owned(),
                reason: loader_word(&error),
                package,
            }
        })?;
        let mut nvrtc = Nvrtc {
            library,
            path: path.to_owned(),
            version: (0, 0),
            package,
        };
        let version = nvrtc
            .function::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> Code>("nvrtcVersion")?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: nvrtcVersion writes two ints, for which both pointers are valid.
        let code = unsafe { version(&mut major, &mut minor) };
        nvrtc.check("nvrtcVersion", code)?;
        nvrtc.version = (major.unsigned_abs(), minor.unsigned_abs());
        Ok(nvrtc)
    }

    /// Major and minor version.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// The file it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Compiles `main`, which may include any of `headers`, to a cubin.
    ///
    /// # Errors
    /// When the source, the options or the library are at fault; the message holds the log's first
    /// lines.
    pub fn compile(
        &self,
        main: Source,
        headers: &[Source],
        options: &[String],
    ) -> Result<Vec<u8>, CudaError> {
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> Code;
        type Destroy = unsafe extern "C" fn(*mut Program) -> Code;
        type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Code;
        let create = self.function::<Create>("nvrtcCreateProgram")?;
        let destroy = self.function::<Destroy>("nvrtcDestroyProgram")?;
        let compile = self.function::<Compile>("nvrtcCompileProgram")?;
        let texts = self.strings(headers.iter().map(|header| header.text))?;
        let names = self.strings(headers.iter().map(|header| header.name))?;
        let main = self.strings([main.text, main.name])?;
        let flags = self.strings(options.iter().map(String::as_str))?;
        let (texts_at, names_at, flags_at) = (pointers(&texts), pointers(&names), pointers(&flags));
        let mut program: Program = std::ptr::null_mut();
        // SAFETY: all strings are NUL-terminated and outlive the program, and the two arrays hold
        // `headers.len()` each.
        let created = unsafe {
            create(
                &mut program,
                main[0].as_ptr(),
                main[1].as_ptr(),
                texts_at.len() as c_int,
                texts_at.as_ptr(),
                names_at.as_ptr(),
            )
        };
        self.check("nvrtcCreateProgram", created)?;
        // SAFETY: `program` was just created, and the array holds `flags.len()` strings.
        let compiled = unsafe { compile(program, flags_at.len() as c_int, flags_at.as_ptr()) };
        let outcome = if compiled == 0 {
            self.output(program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN")
        } else {
            let log = self.output(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog");
            Err(self.refusal(options, compiled, &log.unwrap_or_default()))
        };
        // SAFETY: `program` was created above and is not used after this.
        unsafe { destroy(&mut program) };
        outcome
    }

    /// One of a program's outputs, whose size and bytes two functions give.
    fn output(
        &self,
        program: Program,
        size_name: &str,
        bytes_name: &str,
    ) -> Result<Vec<u8>, CudaError> {
        let size = self.function::<unsafe extern "C" fn(Program, *mut usize) -> Code>(size_name)?;
        let bytes =
            self.function::<unsafe extern "C" fn(Program, *mut c_char) -> Code>(bytes_name)?;
        let mut length = 0;
        // SAFETY: `program` is alive (both callers), and the pointer is valid for one size.
        self.check(size_name, unsafe { size(program, &mut length) })?;
        let mut output = vec![0u8; length];
        // SAFETY: the buffer has the size that the library asked for.
        self.check(bytes_name, unsafe {
            bytes(program, output.as_mut_ptr().cast())
        })?;
        Ok(output)
    }

    fn function<F: Copy>(&self, name: &str) -> Result<F, CudaError> {
        // SAFETY: every caller names one of NVRTC's functions with the signature of its public
        // header. The copy cannot outlive the library, which `self` keeps loaded, beyond
        // the method that asked for it.
        unsafe { self.library.get::<F>(name.as_bytes()) }
            .map(|symbol| *symbol)
            .map_err(|_| self.bad(format!("it has no function {name}")))
    }

    fn check(&self, name: &str, code: Code) -> Result<(), CudaError> {
        match code {
            0 => Ok(()),
            code => Err(self.bad(format!("{name} fails with code {code}"))),
        }
    }

    fn bad(&self, reason: String) -> CudaError {
        CudaError::BadNvrtc {
            library: self.path.clone(),
            reason,
            package: self.package,
        }
    }

    fn strings<'a>(
        &self,
        texts: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<CString>, CudaError> {
        texts
            .into_iter()
            .map(|text| {
                CString::new(text).map_err(|_| self.bad("a source holds a NUL byte".to_owned()))
            })
            .collect()
    }

    fn refusal(&self, options: &[String], code: Code, log: &[u8]) -> CudaError {
        let log = String::from_utf8_lossy(log);
        let lines: Vec<&str> = log
            .trim_matches(['\0', '\n'])
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .take(LOG_LINES)
            .collect();
        let arch = options
            .iter()
            .find_map(|option| option.split_once("arch")?.1.split_once('='));
        CudaError::Compile {
            version: format!("{}.{}", self.version.0, self.version.1),
            arch: arch.map_or("this GPU", |(_, arch)| arch).to_owned(),
            log: if lines.is_empty() {
                format!("code {code}")
            } else {
                lines.join(" / ")
            },
            package: self.package,
        }
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).collect()
}

/// NVRTC loads libnvrtc-builtins by its bare name, which the loader finds only if it is loaded
/// already or in one of its own folders. So whatever stands beside NVRTC is loaded first, for good.
/// Best effort: NVRTC says what it lacks.
fn preload_builtins(nvrtc: &Path) {
    let beside = nvrtc.parent().and_then(|folder| fs::read_dir(folder).ok());
    for entry in beside.into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("libnvrtc-builtins.so.") {
            // SAFETY: the library holds data that NVRTC reads; its initialisers do nothing else.
            let opened = unsafe { Library::open(Some(entry.path()), RTLD_LAZY | RTLD_GLOBAL) };
            std::mem::forget(opened);
        }
    }
}
