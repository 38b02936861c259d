//! The shell's `unsafe`: descriptors handed to the executor, and the SIGBUS handler.
//!
//! Owns: nothing. Must hold: a descriptor has exactly one owner after each call.
#![allow(unsafe_code, reason = "glommio takes sockets and files only as raw descriptors; each block argues its safety")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd};
use std::time::Duration;

use glommio::io::BufferedFile;
use glommio::net::{TcpListener, TcpStream};

/// Hands a listening socket to the executor. glommio's own `bind` sets `SO_REUSEPORT`, so a second process would bind
/// the same port without an error.
#[must_use]
pub fn adopt_listener(listener: std::net::TcpListener) -> TcpListener {
    // SAFETY: `into_raw_fd` gives up the only owner of an open listening socket, and the new owner closes it.
    unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) }
}

/// Hands a file to the executor; the caller keeps its own handle and this is a duplicate.
///
/// # Errors
/// When the process has no descriptor left.
pub fn adopt_file(file: BorrowedFd<'_>) -> io::Result<BufferedFile> {
    let duplicate = file.try_clone_to_owned()?;
    // SAFETY: `into_raw_fd` gives up the only owner of the duplicate, and the new owner closes it.
    Ok(unsafe { BufferedFile::from_raw_fd(duplicate.into_raw_fd()) })
}

/// Makes the close of this connection a reset, which frees what it had still to send.
pub fn reset_on_close(stream: &TcpStream) {
    // SAFETY: the stream owns the open descriptor and is borrowed for as long as the descriptor is.
    let socket = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

/// Makes SIGBUS (a truncated file or a bad sector below a mapping) end the process with a message: the state of the
/// mapping is unknown, and recovery will judge the file by reading it.
///
/// # Errors
/// When the handler cannot be installed.
pub fn die_on_sigbus() -> io::Result<()> {
    const MESSAGE: &[u8] = b"ringd: SIGBUS: a mapped WAL segment was truncated or its disk failed under it; \
        check the disk, then look at the data directory with `ringwal verify`\n";
    let handler = || {
        let _ = rustix::io::write(rustix::stdio::stderr(), MESSAGE);
        std::process::abort();
    };
    // SAFETY: the handler calls only write(2) and abort(3), both async-signal-safe, and touches no shared state.
    unsafe { signal_hook::low_level::register(signal_hook::consts::SIGBUS, handler) }.map(|_| ())
}
