//! The executor: one thread, one ring, and clear words when the kernel does not allow it.
//!
//! Owns: the executor's settings. Must hold: nothing else in ringd builds one.

use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use glommio::{LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Beside a runnable task, timers and completions wait up to this long. glommio's default of 100 ms would show in
/// every tail latency.
const PREEMPT_TIMER: Duration = Duration::from_millis(1);
/// Registered buffer memory. ringd's files are mapped and its sockets use their own buffers, so the least will do;
/// glommio's default pins about 30 MB.
const IO_MEMORY_BYTES: usize = 64 << 10;
/// Completions in flight before submissions wait: an accept or a read per connection, many thousands of them.
const RING_DEPTH: usize = 1024;
/// Threads for what blocks. Seconds at a time and all at once: a spare being filled, a snapshot being written, one that a
/// leader sent being read, a password being hashed. The WAL's own jobs and the short ones must not wait behind them.
const BLOCKING_THREADS: usize = 6;
/// Below this the kernel refuses rings that are accounted to `RLIMIT_MEMLOCK`.
const MEMLOCK_MIN_BYTES: u64 = 512 << 10;

/// Why there is no executor.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// The kernel, or a container's policy, has no io_uring for us.
    #[error(
        "io_uring is not available: {reason}. ringd needs Linux 5.11 or newer with io_uring allowed \
         (sysctl kernel.io_uring_disabled=0, and a container policy that permits io_uring_setup)"
    )]
    NoIoUring {
        /// What the kernel or the sysctl said.
        reason: String,
    },
    /// `RLIMIT_MEMLOCK` is too small.
    #[error(
        "the limit on locked memory is {limit} bytes and io_uring needs at least {MEMLOCK_MIN_BYTES}: raise it with \
         `ulimit -l 8192` or `LimitMEMLOCK=8M` in the unit file"
    )]
    Memlock {
        /// The soft limit.
        limit: u64,
    },
}

/// Builds the executor on this thread.
///
/// # Errors
/// [`ExecutorError`] with the remedy when the kernel does not provide a ring.
pub fn build(spin_before_park: Duration) -> Result<LocalExecutor, ExecutorError> {
    raise_descriptor_limit();
    let built = quietly(|| {
        LocalExecutorBuilder::new(Placement::Unbound)
            .name("ringd")
            .io_memory(IO_MEMORY_BYTES)
            .ring_depth(RING_DEPTH)
            .preempt_timer(PREEMPT_TIMER)
            .spin_before_park(spin_before_park)
            .blocking_thread_pool_placement(PoolPlacement::Unbound(BLOCKING_THREADS))
            .make()
    });
    match built {
        Ok(Ok(executor)) => Ok(executor),
        Ok(Err(error)) => Err(explain(error.to_string())),
        Err(panicked) => Err(explain(panicked)),
    }
}

/// Chooses the likelier cause and says it.
fn explain(reason: String) -> ExecutorError {
    if let Some(limit) = getrlimit(Resource::Memlock).current
        && limit < MEMLOCK_MIN_BYTES
    {
        return ExecutorError::Memlock { limit };
    }
    let switched_off = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .ok()
        .filter(|value| value.trim() != "0")
        .map(|value| format!("kernel.io_uring_disabled is {}", value.trim()));
    ExecutorError::NoIoUring { reason: switched_off.unwrap_or(reason) }
}

/// Runs `build`, turning a panic into its message: glommio panics where the kernel has no io_uring.
fn quietly<T>(build: impl FnOnce() -> T) -> Result<T, String> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let result = panic::catch_unwind(AssertUnwindSafe(build));
    panic::set_hook(hook);
    result.map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("the executor panicked").to_owned()
    })
}

/// Takes all the descriptors the hard limit allows: each connection is one.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
