//! Listening sockets: one accept task each, one task per connection.
//!
//! Owns: the listening sockets. Must hold: an accept is never cancelled (glommio would leak the accepted descriptor);
//! a panic in one connection ends that connection, not the node.

use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::FutureExt as _;
use glommio::net::TcpListener;
use glommio::timer::Timer;

use super::connection;
use super::driver::Hub;
use super::raw;
use crate::metrics;

/// Connections the kernel may hold before they are accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// After an accept error (no descriptor left), wait this long: connections must end before the next can begin.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(50);

/// Opens a listening socket. A second process on the same port gets an error: `SO_REUSEPORT` is not set.
///
/// # Errors
/// What the kernel said, with the address.
pub fn open(address: SocketAddr) -> io::Result<TcpListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)
        .and_then(|()| listen(&socket, BACKLOG))
        .map_err(|error| io::Error::new(error.kind(), format!("listen tcp {address}: bind: {error}")))?;
    Ok(raw::adopt_listener(socket.into()))
}

/// Accepts until the process ends. `peer` listeners serve only what members ask each other over plain HTTP.
pub async fn accept(hub: Rc<Hub>, listener: TcpListener, connections_max: usize, peer: bool) {
    loop {
        match listener.accept().await {
            Ok(stream) if hub.is_stopping() || hub.connections.borrow().len() >= connections_max => {
                metrics::add(&hub.metrics.turned_away, 1);
                drop(stream);
            }
            Ok(stream) => {
                metrics::add(&hub.metrics.accepted, 1);
                let hub = Rc::clone(&hub);
                glommio::spawn_local(async move {
                    if AssertUnwindSafe(connection::serve(hub, stream, peer)).catch_unwind().await.is_err() {
                        tracing::error!("a connection's task panicked; the connection was dropped");
                    }
                })
                .detach();
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                Timer::new(ACCEPT_ERROR_PAUSE).await;
            }
        }
    }
}
