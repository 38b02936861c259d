//! The shell's `unsafe`: descriptors handed to the executor, and the SIGBUS handler.
//!
//! Owns: nothing. Must hold: a descriptor has exactly one owner after each call.
#![allow(unsafe_code, reason = "glommio takes sockets and files only as raw descriptors; each block argues its safety")]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::time::Duration;

use glommio::io::BufferedFile;
use glommio::net::{TcpListener, TcpStream};

/// Hands a listening socket to the executor. glommio's own `bind` sets `SO_REUSEPORT`, so a second process would bind
/// the same port without an error.
#[must_use]
pub fn adopt_listener(listener: OwnedFd) -> TcpListener {
    // SAFETY: `into_raw_fd` gives up the only owner of an open listening socket, and the new owner closes it.
    unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) }
}

/// Hands a connected stream socket of any family to the executor: glommio only reads, writes and closes it.
#[must_use]
pub fn adopt_stream(stream: OwnedFd) -> TcpStream {
    // SAFETY: `into_raw_fd` gives up the only owner of an open socket, and the new owner closes it.
    unsafe { TcpStream::from_raw_fd(stream.into_raw_fd()) }
}

/// Makes the kernel notice a peer that is gone: probes when idle, and an end when nothing is acknowledged for `limit`.
/// Sockets of other families than TCP refuse, and need no such thing.
pub fn watch_peer(stream: &TcpStream, limit: Duration) {
    // SAFETY: the stream owns the open descriptor and is borrowed for as long as the descriptor is.
    let socket = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    let _ = rustix::net::sockopt::set_socket_keepalive(socket, true);
    let _ = rustix::net::sockopt::set_tcp_keepidle(socket, limit);
    let _ = rustix::net::sockopt::set_tcp_keepintvl(socket, Duration::from_secs(1));
    let milliseconds = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(socket, milliseconds);
}

/// The address at the other end; `None` for sockets without one.
#[must_use]
pub fn peer_ip(stream: &TcpStream) -> Option<IpAddr> {
    // SAFETY: the stream owns the open descriptor and is borrowed for as long as the descriptor is.
    let socket = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    let address = rustix::net::getpeername(socket).ok()??;
    SocketAddr::try_from(address).ok().map(|address| address.ip())
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
