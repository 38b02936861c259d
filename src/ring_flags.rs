//! Sets `IORING_SETUP_COOP_TASKRUN` on glommio's rings.
//!
//! Without the flag the kernel interrupts the thread for every completion; with it, completions are run when the
//! thread enters the kernel anyway, which a busy executor does all the time (15 to 30 % less CPU per request).
//! glommio has no setting for it, so the linker's `--wrap` (see `build.rs`) routes the one call here.
//!
//! Must hold: a kernel that does not know the flag (before 5.19) gets the same call without it.
#![allow(unsafe_code, reason = "the linker's --wrap is a C interface; each block argues its safety")]

use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// `IORING_SETUP_IOPOLL` (linux/io_uring.h): polled rings take no task work.
const SETUP_IOPOLL: u32 = 1 << 0;
/// `IORING_SETUP_COOP_TASKRUN` (linux/io_uring.h), since Linux 5.19.
const SETUP_COOP_TASKRUN: u32 = 1 << 8;
/// `EINVAL`: what a kernel answers to a flag it does not know.
const EINVAL: c_int = 22;

/// Off: every ring is set up as glommio asks. Must be set before the executor is built.
pub static ENABLED: AtomicBool = AtomicBool::new(true);
/// Rings that were set up with the flag.
pub static RINGS_WITH_FLAG: AtomicU32 = AtomicU32::new(0);

/// The head of `struct io_uring_params`; the rest stays as it is.
#[repr(C)]
struct ParamsHead {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
}

unsafe extern "C" {
    fn __real_io_uring_queue_init_params(entries: c_uint, ring: *mut c_void, params: *mut ParamsHead) -> c_int;
}

/// Called in place of liburing's function.
///
/// # Safety
/// As liburing's: `ring` and `params` point to a writable `struct io_uring` and `struct io_uring_params`.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_io_uring_queue_init_params(
    entries: c_uint,
    ring: *mut c_void,
    params: *mut ParamsHead,
) -> c_int {
    // SAFETY: the caller passes a valid `io_uring_params`, whose first three members are the ones of `ParamsHead`.
    let flags = unsafe { &mut (*params).flags };
    let asked = *flags;
    if ENABLED.load(Ordering::Relaxed) && asked & SETUP_IOPOLL == 0 {
        *flags = asked | SETUP_COOP_TASKRUN;
        // SAFETY: the arguments are the caller's own, but for one bit of `flags`.
        let result = unsafe { __real_io_uring_queue_init_params(entries, ring, params) };
        if result != -EINVAL {
            RINGS_WITH_FLAG.fetch_add(1, Ordering::Relaxed);
            return result;
        }
        // SAFETY: as above; the failed call left the caller's struct in place.
        unsafe { (*params).flags = asked };
    }
    // SAFETY: the arguments are the caller's own.
    unsafe { __real_io_uring_queue_init_params(entries, ring, params) }
}
