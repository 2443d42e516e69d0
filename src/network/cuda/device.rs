//! The driver's calls, each made once, here, behind types that free what they own: GPUs and what
//! they are, a context, GPU memory, pinned host memory, a registered segment, a module, events, a
//! launch. cudarc supplies the bindings. Everything here belongs to the thread that opened the
//! context, and none of it may outlive that context: `Context` is held by all.

#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ffi::{CString, c_void};
use std::ptr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytemuck::Pod;
use cudarc::driver::{CudaContext, DriverError, result, sys};
use sys::{CUdevice_attribute as Attribute, CUfunction_attribute as FunctionAttribute};

use super::error::CudaError;
use super::kernels::{EntryPoint, THREADS};
use super::plan::{Gpu, Launch, LaunchPlan, ModuleKey};
use crate::fault::Fault;

/// Dynamic shared memory that every kernel may take without asking, bytes.
const SHARED_BYTES_FREE: u32 = 48 * 1024;

/// Turns the driver's refusal into a fault that says what was tried.
pub(super) fn driver_call<T>(
    action: &'static str,
    outcome: Result<T, DriverError>,
) -> Result<T, Fault> {
    outcome.map_err(|error| refusal(action, &name_of(error)))
}

/// The GPU or its driver refuses, or fails.
pub(super) fn refusal(action: &str, reason: &str) -> Fault {
    Fault::new(format!("the GPU cannot {action}: {reason}"), "")
}

/// The driver's name for an error.
fn name_of(error: DriverError) -> String {
    let name = error
        .error_name()
        .map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|_| format!("error {}", error.0 as u32))
}

/// Starts the driver; its CUDA version, major and minor. `check_driver` must have found the
/// library.
///
/// # Errors
/// When it does not start.
pub(super) fn start_driver() -> Result<(u32, u32), CudaError> {
    result::init().map_err(|error| match error.0 {
        sys::cudaError_enum::CUDA_ERROR_NO_DEVICE => CudaError::no_gpu(),
        _ => {
            let cause = format!("the CUDA driver does not start ({})", name_of(error));
            CudaError::with_details(
                Fault::new(
                    cause.clone(),
                    "see whether nvidia-smi works, or use --backend cpu",
                ),
                Fault::new(
                    cause,
                    "see whether nvidia-smi works, whether CUDA_VISIBLE_DEVICES hides the GPU, \
                     and whether driver and kernel module are of one version",
                ),
            )
        }
    })?;
    let mut version = 0;
    // SAFETY: the call writes one int, for which the pointer is valid.
    let told = unsafe { sys::cuDriverGetVersion(&mut version) };
    driver_call("tell the driver's version", told.result())?;
    let version = version.unsigned_abs();
    Ok((version / 1000, version % 1000 / 10))
}

/// The visible GPUs. The driver must have been started.
pub(super) fn gpus() -> Result<Vec<Gpu>, Fault> {
    let count = driver_call("count GPUs", result::device::get_count())?;
    (0..count)
        .map(|ordinal| {
            let device = driver_call("name a GPU", result::device::get(ordinal))?;
            let number = |attribute| {
                // SAFETY: `device` came from the driver just now.
                let number = unsafe { result::device::get_attribute(device, attribute) };
                driver_call("describe a GPU", number).map(i32::unsigned_abs)
            };
            Ok(Gpu {
                ordinal: ordinal as usize,
                name: driver_call("name a GPU", result::device::get_name(device))?,
                major: number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                minor: number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
                multiprocessors: number(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
                // SAFETY: as above.
                memory_bytes: driver_call("describe a GPU", unsafe {
                    result::device::total_mem(device)
                })? as u64,
                l2_bytes: number(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.into(),
                shared_bytes_per_block: number(
                    Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
                )?,
            })
        })
        .collect()
}

/// A GPU's primary context, current on the thread that opened it.
pub(super) struct Context {
    inner: Arc<CudaContext>,
}

impl Context {
    pub(super) fn open(ordinal: usize) -> Result<Arc<Context>, Fault> {
        let inner = driver_call("be opened", CudaContext::new(ordinal))?;
        Ok(Arc::new(Context { inner }))
    }

    /// Waits until everything that was started is finished.
    pub(super) fn synchronize(&self) -> Result<(), Fault> {
        driver_call("finish its work", self.inner.synchronize())
    }

    /// Free and all memory, bytes.
    pub(super) fn memory(&self) -> Result<(usize, usize), Fault> {
        driver_call("tell its free memory", self.inner.mem_get_info())
    }
}

thread_local! {
    /// Kernels of the first GPU that a network of this thread holds. Where the driver has no cache
    /// it takes seconds to load them.
    static LOADED: RefCell<Vec<(ModuleKey, Weak<Module>)>> = const { RefCell::new(Vec::new()) };
}

/// Loaded kernels.
pub(super) struct Module {
    handle: sys::CUmodule,
    _context: Arc<Context>,
}

/// One kernel of a module that its holder keeps loaded.
#[derive(Clone, Copy)]
pub(super) struct Function(sys::CUfunction);

impl Module {
    /// The plan's kernels, from a network of this thread that has them, too, or loaded.
    pub(super) fn shared(context: &Arc<Context>, plan: &LaunchPlan) -> Result<Rc<Module>, Fault> {
        LOADED.with_borrow_mut(|loaded| {
            loaded.retain(|(_, module)| module.strong_count() > 0);
            let same = loaded.iter().find(|(key, _)| *key == plan.module());
            if let Some(module) = same.and_then(|(_, module)| module.upgrade()) {
                return Ok(module);
            }
            let module = Rc::new(Module::load(context, plan)?);
            loaded.push((plan.module(), Rc::downgrade(&module)));
            Ok(module)
        })
    }

    pub(super) fn load(context: &Arc<Context>, plan: &LaunchPlan) -> Result<Module, Fault> {
        let ptx = CString::new(&*plan.ptx()).unwrap_or_default();
        // SAFETY: PTX is a text with a NUL at its end, which the driver checks and compiles.
        let handle = unsafe { result::module::load_data(ptx.as_ptr().cast()) };
        let handle = driver_call("load its kernels", handle).map_err(|fault| {
            let remedy = "update or complete the NVIDIA driver, or use --backend cpu";
            Fault::new(fault.cause, remedy)
        })?;
        Ok(Module {
            handle,
            _context: Arc::clone(context),
        })
    }

    /// A kernel, prepared for the shared memory it takes.
    pub(super) fn function(&self, entry: &EntryPoint) -> Result<Function, Fault> {
        let name = CString::new(entry.name).unwrap_or_default();
        // SAFETY: the module is loaded.
        let function = unsafe { result::module::get_function(self.handle, name) };
        let function = driver_call("find a kernel", function)?;
        if entry.shared_bytes > SHARED_BYTES_FREE {
            let attribute = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = entry.shared_bytes as i32;
            // SAFETY: `function` belongs to the loaded module.
            let set =
                unsafe { result::function::set_function_attribute(function, attribute, bytes) };
            driver_call("give a kernel its shared memory", set)?;
        }
        Ok(Function(function))
    }

    /// How many clusters of a kernel run at once; none if the driver does not say.
    pub(super) fn resident_clusters(&self, function: Function, entry: &EntryPoint) -> Option<u32> {
        let mut cluster = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { pad: [0; 64] },
        };
        cluster.value.clusterDim.x = entry.cluster;
        cluster.value.clusterDim.y = 1;
        cluster.value.clusterDim.z = 1;
        let config = sys::CUlaunchConfig {
            gridDimX: entry.cluster,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: THREADS,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: entry.shared_bytes,
            hStream: ptr::null_mut(),
            attrs: &mut cluster,
            numAttrs: 1,
        };
        let mut clusters = 0;
        // SAFETY: `function` belongs to the loaded module; config and attribute are alive during
        // the call.
        let asked =
            unsafe { sys::cuOccupancyMaxActiveClusters(&mut clusters, function.0, &config) };
        asked.result().ok()?;
        u32::try_from(clusters)
            .ok()
            .filter(|&clusters| clusters > 0)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: loaded by `load`, unloaded once, after the last backend with it has waited for
        // the GPU.
        let _ = unsafe { result::module::unload(self.handle) };
    }
}

/// A point in a stream's work, with its time.
pub(super) struct Event {
    handle: sys::CUevent,
    _context: Arc<Context>,
}

impl Event {
    pub(super) fn new(context: &Arc<Context>) -> Result<Event, Fault> {
        let handle = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT);
        Ok(Event {
            handle: driver_call("keep time", handle)?,
            _context: Arc::clone(context),
        })
    }

    /// Has the GPU come past it? Never waits.
    pub(super) fn is_past(&self) -> Result<bool, Fault> {
        // SAFETY: the event is alive.
        match unsafe { sys::cuEventQuery(self.handle) } {
            sys::cudaError_enum::CUDA_SUCCESS => Ok(true),
            sys::cudaError_enum::CUDA_ERROR_NOT_READY => Ok(false),
            error => driver_call("finish a batch", Err(DriverError(error))),
        }
    }

    /// GPU time from this event to a later one; both must be past.
    pub(super) fn until(&self, later: &Event) -> Result<Duration, Fault> {
        // SAFETY: both events are alive and were recorded in one stream.
        let milliseconds = driver_call("tell a batch's time", unsafe {
            result::event::elapsed(self.handle, later.handle)
        })?;
        Ok(Duration::from_secs_f64(
            f64::from(milliseconds).max(0.0) * 1e-3,
        ))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: created by `new`, destroyed once.
        let _ = unsafe { result::event::destroy(self.handle) };
    }
}

/// Work that the GPU does in order.
pub(super) struct Stream {
    handle: sys::CUstream,
    _context: Arc<Context>,
}

impl Stream {
    pub(super) fn new(context: &Arc<Context>) -> Result<Stream, Fault> {
        let handle = result::stream::create(result::stream::StreamKind::NonBlocking);
        Ok(Stream {
            handle: driver_call("open a stream", handle)?,
            _context: Arc::clone(context),
        })
    }

    pub(super) fn record(&self, event: &Event) -> Result<(), Fault> {
        // SAFETY: event and stream are alive and of one context.
        driver_call("keep time", unsafe {
            result::event::record(event.handle, self.handle)
        })
    }

    /// Starts a kernel whose only argument is `argument`, by value.
    ///
    /// # Safety
    /// The kernel takes exactly a `P`, stays within the memory that `argument` describes, and that
    /// memory stays allocated, and untouched by the host, until an event recorded after this
    /// launch is past.
    pub(super) unsafe fn launch<P: Pod>(
        &self,
        function: Function,
        launch: &Launch,
        argument: &P,
    ) -> Result<(), Fault> {
        let mut argument = *argument;
        let mut arguments = [ptr::from_mut(&mut argument).cast::<c_void>()];
        let (grid, block) = ((launch.grid_blocks, 1, 1), (THREADS, 1, 1));
        let shared_bytes = launch.entry.shared_bytes;
        // SAFETY: the driver copies the argument during the call; the caller guarantees the rest. A
        // cluster's size is fixed in the kernel.
        driver_call("start a batch", unsafe {
            result::launch_kernel(
                function.0,
                grid,
                block,
                shared_bytes,
                self.handle,
                &mut arguments,
            )
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: created by `new`, destroyed once.
        let _ = unsafe { result::stream::destroy(self.handle) };
    }
}
