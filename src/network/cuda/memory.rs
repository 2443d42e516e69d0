//! Memory that the GPU uses: its own, host memory pinned for it, and the shared segment as it sees
//! it. Each frees or gives back what it took, and none outlives the context.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use bytemuck::Pod;
use cudarc::driver::{result, sys};

use super::device::{Context, driver_call, refusal};
use crate::fault::Fault;
use crate::shm::Segment;

/// GPU memory.
pub(super) struct DeviceBuffer {
    address: u64,
    _context: Arc<Context>,
}

impl DeviceBuffer {
    /// Takes GPU memory and fills it with `bytes`.
    pub(super) fn upload(context: &Arc<Context>, bytes: &[u8]) -> Result<DeviceBuffer, Fault> {
        // SAFETY: the context is current on this thread; whatever comes back is owned by the value
        // below.
        let address = driver_call("hold the network", unsafe {
            result::malloc_sync(bytes.len().max(1))
        })?;
        let memory = DeviceBuffer {
            address,
            _context: Arc::clone(context),
        };
        // SAFETY: the allocation holds `bytes.len()` bytes; `bytes` has been read when the call
        // returns (the copy itself may still be on its way then: `synchronize` before a
        // stream that waits for nothing uses it).
        driver_call("take in the network", unsafe {
            result::memcpy_htod_sync(address, bytes)
        })?;
        Ok(memory)
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated by `upload`, freed once. A refusal leaves nothing to be done.
        let _ = unsafe { result::free_sync(self.address) };
    }
}

/// Host memory that the GPU reads and writes in place, `T` after `T`.
pub(super) struct PinnedBuffer<T> {
    host: NonNull<T>,
    device: u64,
    length: usize,
    _context: Arc<Context>,
}

impl<T: Pod> PinnedBuffer<T> {
    /// All zero. `write_combined`: for memory that the host only writes; reading it back would be
    /// very slow.
    pub(super) fn zeroed(
        context: &Arc<Context>,
        length: usize,
        write_combined: bool,
    ) -> Result<Self, Fault> {
        let mut flags = sys::CU_MEMHOSTALLOC_DEVICEMAP;
        if write_combined {
            flags |= sys::CU_MEMHOSTALLOC_WRITECOMBINED;
        }
        let bytes = length.max(1) * size_of::<T>();
        // SAFETY: the context is current; the memory is owned by the value below, or freed.
        let address = driver_call("pin host memory", unsafe {
            result::malloc_host(bytes, flags)
        })?;
        let Some(host) = NonNull::new(address.cast::<T>()) else {
            return Err(refusal("pin host memory", "no address"));
        };
        // SAFETY: fresh memory of that many bytes, page aligned.
        unsafe { ptr::write_bytes(host.as_ptr().cast::<u8>(), 0, bytes) };
        let mut pinned = PinnedBuffer {
            host,
            device: 0,
            length,
            _context: Arc::clone(context),
        };
        pinned.device = device_address(host.as_ptr().cast())?;
        Ok(pinned)
    }

    /// Where the GPU sees it.
    pub(super) fn device(&self) -> u64 {
        self.device
    }

    /// The host's view. The caller sees to it that the GPU is not writing it.
    pub(super) fn slice(&self) -> &[T] {
        // SAFETY: `length` initialised values of plain data that this value owns; the GPU works
        // only on batches under way, whose lanes the backend does not hand out.
        unsafe { std::slice::from_raw_parts(self.host.as_ptr(), self.length) }
    }

    /// The host's view, to write. The caller sees to it that the GPU is at work on none of it.
    pub(super) fn slice_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.host.as_ptr(), self.length) }
    }
}

impl<T> Drop for PinnedBuffer<T> {
    fn drop(&mut self) {
        // SAFETY: allocated by `zeroed`, freed once; the backend waits for the GPU before it drops
        // its lanes.
        let _ = unsafe { result::free_host(self.host.as_ptr().cast()) };
    }
}

/// The shared segment as the GPU sees it.
pub(super) struct RegisteredSegment {
    device: u64,
    segment: Segment,
    _context: Arc<Context>,
}

impl RegisteredSegment {
    /// Makes the whole segment accessible to the GPU, in place.
    ///
    /// # Errors
    /// When the driver refuses (a memory limit, a virtual machine): requests are copied then.
    pub(super) fn new(
        context: &Arc<Context>,
        segment: &Segment,
    ) -> Result<RegisteredSegment, Fault> {
        let host: *mut c_void = segment.address().as_ptr().cast();
        let flags = sys::CU_MEMHOSTREGISTER_DEVICEMAP;
        // SAFETY: the range is exactly the mapping that `segment`, kept below, keeps mapped.
        driver_call("use the shared segment in place", unsafe {
            sys::cuMemHostRegister_v2(host, segment.bytes(), flags).result()
        })?;
        let mut registered = RegisteredSegment {
            device: 0,
            segment: segment.clone(),
            _context: Arc::clone(context),
        };
        registered.device = device_address(host)?;
        Ok(registered)
    }

    /// Where the GPU sees the segment's first byte.
    pub(super) fn device(&self) -> u64 {
        self.device
    }

    /// Size in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.segment.bytes()
    }
}

impl Drop for RegisteredSegment {
    fn drop(&mut self) {
        // SAFETY: registered by `new`, taken back once, before the segment can be unmapped.
        let _ =
            unsafe { sys::cuMemHostUnregister(self.segment.address().as_ptr().cast()).result() };
    }
}

fn device_address(host: *mut c_void) -> Result<u64, Fault> {
    let mut address = 0;
    // SAFETY: `host` was allocated or registered as mapped by the caller; the call writes one
    // address.
    driver_call("map host memory", unsafe {
        sys::cuMemHostGetDevicePointer_v2(&mut address, host, 0).result()
    })?;
    Ok(address)
}
