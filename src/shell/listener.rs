//! Listening sockets: one accept task each, one task per connection.
//!
//! Owns: the listening sockets, and the refusal of connections beyond the limit, which each listener has for itself:
//! however many clients there are, members are let in. Must hold: an accept is never cancelled
//! (glommio would leak the accepted descriptor); a panic in one connection ends that connection, not the node, unless it
//! left the node half changed; who is refused is told so, and refusals are bounded too.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::{AsyncWrite as _, FutureExt as _};
use glommio::net::{TcpListener, TcpStream};
use glommio::timer::Timer;

use super::connection::{self, Audience};
use super::driver::{Hub, die};
use super::tls::Stream;
use super::tls_files::Side;
use super::{raw, tls_handshake};
use crate::config::url;
use crate::metrics;
use crate::wire::http_reply::TOO_MANY_CONNECTIONS;

/// Connections the kernel may hold before they are accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// After an accept error (no descriptor left), wait this long: connections must end before the next can begin.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(50);
/// Refused clients that are told why at the same time; more are dropped without a word.
const REFUSING_MAX: usize = 256;

/// Opens a listening socket. A second process on the same port gets an error: `SO_REUSEPORT` is not set. A socket file
/// that is there already is replaced, as in etcd.
///
/// # Errors
/// What the kernel said, with the place.
pub fn open(place: &url::Place) -> io::Result<TcpListener> {
    let opened = match place {
        url::Place::Tcp(address) => open_tcp(*address),
        url::Place::Unix(path) => {
            let _ = std::fs::remove_file(path);
            UnixListener::bind(path).map(OwnedFd::from)
        }
    };
    let opened = opened.map_err(|error| io::Error::new(error.kind(), format!("listen {place}: bind: {error}")))?;
    Ok(raw::adopt_listener(opened))
}

fn open_tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address).and_then(|()| listen(&socket, BACKLOG))?;
    Ok(socket)
}

/// What is spoken on a listening socket.
#[derive(Clone)]
pub enum Spoken {
    /// HTTP.
    Plain,
    /// TLS.
    Tls(Rc<Side>),
    /// Both: a URL of each kind names the place, and the first byte tells.
    Either(Rc<Side>),
}

/// A connection's place among those of its listener, from the accept to the end of its task.
struct Place(Rc<Cell<usize>>);

impl Place {
    fn take(open: &Rc<Cell<usize>>) -> Self {
        open.set(open.get() + 1);
        Self(Rc::clone(open))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Accepts until the process ends.
pub async fn accept(hub: Rc<Hub>, listener: TcpListener, connections_max: usize, audience: Audience, spoken: Spoken) {
    let (open, refusing) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    loop {
        match listener.accept().await {
            Ok(stream) if hub.is_closing(audience) => drop(stream),
            Ok(stream) if open.get() >= connections_max => {
                metrics::add(&hub.metrics.turned_away, 1);
                refuse(&hub, stream, &refusing);
            }
            Ok(stream) => {
                metrics::add(&hub.metrics.accepted, 1);
                let place = Place::take(&open);
                match &spoken {
                    Spoken::Plain => serve(Rc::clone(&hub), Stream::Plain(stream), audience, place),
                    Spoken::Tls(side) => secure(&hub, side, stream, (audience, false), place),
                    Spoken::Either(side) => secure(&hub, side, stream, (audience, true), place),
                }
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                Timer::new(ACCEPT_ERROR_PAUSE).await;
            }
        }
    }
}

/// Begins the task of a connection.
fn serve(hub: Rc<Hub>, stream: Stream, audience: Audience, place: Place) {
    glommio::spawn_local(async move {
        let _place = place;
        if AssertUnwindSafe(connection::serve(Rc::clone(&hub), stream, audience)).catch_unwind().await.is_err() {
            if hub.half_way.is_left() {
                die(
                    "a connection's task panicked while it changed this member's state, which can no longer be trusted",
                );
            }
            tracing::error!("a connection's task panicked; the connection was dropped");
        }
    })
    .detach();
}

/// Begins a handshake, in a task of its own: the connection's task has no room for what a handshake needs.
fn secure(hub: &Rc<Hub>, side: &Rc<Side>, socket: TcpStream, (audience, plain_too): (Audience, bool), place: Place) {
    let (hub, side) = (Rc::clone(hub), Rc::clone(side));
    glommio::spawn_local(async move {
        let _ = socket.set_nodelay(true);
        let accepted = tls_handshake::accept(&side, socket, plain_too).await;
        if let Some(stream) = accepted {
            serve(hub, stream, audience, place);
        }
    })
    .detach();
}

/// Tells a client that there are too many, and closes.
fn refuse(hub: &Rc<Hub>, mut stream: TcpStream, refusing: &Rc<Cell<usize>>) {
    if refusing.get() >= REFUSING_MAX {
        return;
    }
    refusing.set(refusing.get() + 1);
    let (hub, refusing) = (Rc::clone(hub), Rc::clone(refusing));
    glommio::spawn_local(async move {
        // The answer fits into an empty socket buffer; who cannot take it is not waited for.
        let sent = poll_fn(|context| Pin::new(&mut stream).poll_write(context, TOO_MANY_CONNECTIONS)).await;
        if sent.is_ok() {
            let _ = connection::linger(&hub, &mut stream).await;
        }
        refusing.set(refusing.get() - 1);
    })
    .detach();
}
