//! Two of liburing's functions, routed through here by the linker's `--wrap` (see `build.rs`), because glommio has no
//! setting for what they change:
//!
//! * `io_uring_queue_init_params`: sets `IORING_SETUP_COOP_TASKRUN` on glommio's rings. Without the flag the kernel
//!   interrupts the thread for every completion; with it, completions are run when the thread enters the kernel anyway,
//!   which a busy executor does all the time (15 to 30 % less CPU per request). It also asks for [`CQ_ENTRIES`], by
//!   which the kernel sizes the hash table of armed polls: glommio cancels its timers several times a round, and each
//!   time the kernel searches a bucket of all the connections that wait (9 % of the CPU beside 10,000 idle ones).
//! * `io_uring_wait_cqes`: glommio sleeps in it. When its preemption timer fires before a round has run its first task,
//!   it takes the round for an empty one and goes to sleep with tasks that are ready (`LocalExecutor::run`, 0.9.0). A
//!   thread that was not scheduled for a millisecond at that moment then slept until the next completion, and for ever
//!   when the tasks that wait for completions were among those left behind. So a sleep is a nap: it ends after
//!   [`NAP_FIRST`], and after longer naps while nothing happens.
//!
//! Must hold: a kernel that does not know the flag (before 5.19) gets the call as glommio made it, and one that cannot
//! wait with a limit (before 5.11) waits without.
#![allow(unsafe_code, reason = "the linker's --wrap is a C interface; each block argues its safety")]

use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// `IORING_SETUP_IOPOLL` (linux/io_uring.h): polled rings take no task work.
const SETUP_IOPOLL: u32 = 1 << 0;
/// `IORING_SETUP_COOP_TASKRUN` (linux/io_uring.h), since Linux 5.19.
const SETUP_COOP_TASKRUN: u32 = 1 << 8;
/// `IORING_SETUP_CQSIZE` (linux/io_uring.h), since Linux 5.5: the caller sizes the completion queue.
const SETUP_CQSIZE: u32 = 1 << 3;
/// From this many on the kernel's hash table has its most buckets, 256 (`io_ring_ctx_alloc`). 128 KiB a ring.
const CQ_ENTRIES: u32 = 8192;
/// `IORING_FEAT_EXT_ARG` (linux/io_uring.h), since Linux 5.11: a wait can have a time limit.
const FEAT_EXT_ARG: u32 = 1 << 8;
/// `EINVAL`: what a kernel answers to a flag it does not know.
const EINVAL: c_int = 22;
/// `ENOMEM`: also what a kernel that counts rings as locked memory (before 5.12) answers when the limit is too small.
const ENOMEM: c_int = 12;
/// `ETIME`: the limit of a wait is over.
const ETIME: c_int = 62;
/// `EINTR`: what glommio takes for a reason to look again.
const EINTR: c_int = 4;

/// The first sleep after something happened: what is left behind then waits this long at most.
const NAP_FIRST: Duration = Duration::from_millis(2);
/// How much longer each further sleep is while nothing happens: an idle node, which ticks every 100 ms, wakes thrice as
/// often as without.
const NAP_GROWTH: u32 = 8;
/// Naps grow so often: to a second.
const NAP_GROWTHS_MAX: u32 = 3;

/// Off: every ring is set up as glommio asks. Must be set before the executor is built.
pub static ENABLED: AtomicBool = AtomicBool::new(true);
/// Rings that were set up with the flag.
pub static RINGS_WITH_FLAG: AtomicU32 = AtomicU32::new(0);
/// Naps since something happened.
static NAPS: AtomicU32 = AtomicU32::new(0);
/// Some ring of this process cannot wait with a limit.
static NO_LIMITS: AtomicBool = AtomicBool::new(false);

/// The head of `struct io_uring_params`; the rest stays as it is.
#[repr(C)]
struct ParamsHead {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_thread_cpu: u32,
    sq_thread_idle: u32,
    features: u32,
}

/// `struct __kernel_timespec` (linux/time_types.h).
#[repr(C)]
struct KernelTimespec {
    seconds: i64,
    nanoseconds: i64,
}

unsafe extern "C" {
    fn __real_io_uring_queue_init_params(entries: c_uint, ring: *mut c_void, params: *mut ParamsHead) -> c_int;
    fn __real_io_uring_wait_cqes(
        ring: *mut c_void,
        completion: *mut *mut c_void,
        count: c_uint,
        limit: *const KernelTimespec,
        signals: *const c_void,
    ) -> c_int;
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
    // SAFETY: the caller passes a valid `io_uring_params`, whose first members are the ones of `ParamsHead`.
    let head = unsafe { &mut *params };
    let (asked, asked_entries) = (head.flags, head.cq_entries);
    if ENABLED.load(Ordering::Relaxed) && asked & SETUP_IOPOLL == 0 {
        head.flags |= SETUP_COOP_TASKRUN;
        if asked & SETUP_CQSIZE == 0 {
            head.flags |= SETUP_CQSIZE;
            head.cq_entries = CQ_ENTRIES.max(entries);
        }
        // SAFETY: the arguments are the caller's own, but for two bits of `flags` and the member that one is about.
        let result = unsafe { __real_io_uring_queue_init_params(entries, ring, params) };
        if result != -EINVAL && result != -ENOMEM {
            RINGS_WITH_FLAG.fetch_add(1, Ordering::Relaxed);
            // SAFETY: as above; the kernel has filled in what it can do.
            note_features(unsafe { (*params).features });
            return result;
        }
        // SAFETY: as above; the failed call left the caller's struct in place.
        unsafe {
            (*params).flags = asked;
            (*params).cq_entries = asked_entries;
        }
    }
    // SAFETY: the arguments are the caller's own.
    let result = unsafe { __real_io_uring_queue_init_params(entries, ring, params) };
    if result >= 0 {
        // SAFETY: as above.
        note_features(unsafe { (*params).features });
    }
    result
}

fn note_features(features: u32) {
    if features & FEAT_EXT_ARG == 0 {
        NO_LIMITS.store(true, Ordering::Relaxed);
    }
}

/// The length of the next nap, and whether to limit it at all.
fn nap() -> Option<Duration> {
    if NO_LIMITS.load(Ordering::Relaxed) {
        return None;
    }
    let growths = NAPS.load(Ordering::Relaxed).min(NAP_GROWTHS_MAX);
    Some(NAP_FIRST * NAP_GROWTH.pow(growths))
}

/// Called in place of liburing's function: one that was to wait without a limit naps.
///
/// # Safety
/// As liburing's: `ring` is a set-up `struct io_uring`, `completion` is writable, `limit` and `signals` are valid or null.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_io_uring_wait_cqes(
    ring: *mut c_void,
    completion: *mut *mut c_void,
    count: c_uint,
    limit: *const KernelTimespec,
    signals: *const c_void,
) -> c_int {
    let Some(nap) = nap().filter(|_| limit.is_null()) else {
        // SAFETY: the arguments are the caller's own.
        return unsafe { __real_io_uring_wait_cqes(ring, completion, count, limit, signals) };
    };
    let limit = KernelTimespec { seconds: nap.as_secs().cast_signed(), nanoseconds: nap.subsec_nanos().into() };
    // SAFETY: the arguments are the caller's own, and a limit that outlives the call.
    let result = unsafe { __real_io_uring_wait_cqes(ring, completion, count, &raw const limit, signals) };
    if result == -ETIME {
        NAPS.fetch_add(1, Ordering::Relaxed);
        return -EINTR;
    }
    NAPS.store(0, Ordering::Relaxed);
    result
}
