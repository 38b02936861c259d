//! What is done before the process ends, wherever it ends.
//!
//! Owns: the one hook, set by the program. Must hold: it takes a bounded time.

use std::sync::OnceLock;

static FLUSH_LOG: OnceLock<fn()> = OnceLock::new();

/// Says how the log is flushed. Counts once.
pub fn flush_log_with(flush: fn()) {
    let _ = FLUSH_LOG.set(flush);
}

/// Flushes the log.
pub fn flush_log() {
    if let Some(flush) = FLUSH_LOG.get() {
        flush();
    }
}
