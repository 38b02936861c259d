//! SIGTERM and SIGINT: a first one asks for a clean stop, a second one ends the process at once.
//!
//! Owns: the signal thread. Must hold: no handler touches the node; the thread only completes a future.

use std::io;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::ending;

/// Waits for the first stop signal and returns its number.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn stop_signal() -> io::Result<impl Future<Output = i32>> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let (sender, receiver) = futures_channel::oneshot::channel();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut arrived = signals.forever();
        if let Some(first) = arrived.next() {
            let _ = sender.send(first);
        }
        if let Some(second) = arrived.next() {
            end_by(second);
        }
    })?;
    Ok(async move {
        match receiver.await {
            Ok(signal) => signal,
            // The thread ended without a signal: nothing will ever ask for a stop.
            Err(_) => std::future::pending().await,
        }
    })
}

/// Ends the process as the signal would have: supervisors see 130 or 143, as with etcd. As PID 1, where the kernel
/// ignores the default action, it exits with 0.
pub fn end_by(signal: i32) -> ! {
    ending::flush_log();
    if std::process::id() != 1 {
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
    std::process::exit(0)
}
