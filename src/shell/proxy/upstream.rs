//! Connections to members: idle ones that are used again, and one exchange at a time.
//!
//! Owns: the pool, sending a request, waiting for bytes of the answer while the client may leave. Must hold: a connection
//! is in the pool only when nothing is owed on it; one that the member has closed meanwhile is not used again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_lite::future::or;
use futures_lite::{AsyncRead as _, AsyncWrite as _};
use glommio::timer::Timer;

use super::super::dial;
use super::super::tls::Stream;
use super::Proxy;
use crate::config::url::Url;

/// Idle connections per member, as in etcd: so many clients at once need no new ones.
pub const IDLE_MAX: usize = 128;
/// Idle connections end after this; well before a member ends them.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// Without a limit of time for a connect the kernel gives up after about this.
const DIAL_LIMIT_MAX: Duration = Duration::from_secs(130);
/// Input of a client that may gather behind a request that is being passed on; more stays in the socket.
const INPUT_MAX: usize = 64 << 10;
/// A client with so much input is not read from, hence not seen to leave. Behind a watch that would be for ever, so it is let
/// go when the member says nothing for so long: longer than members take for anything but a watch.
const CROWDED_LIMIT: Duration = Duration::from_secs(10);

/// An open connection to a member.
pub struct Upstream {
    pub stream: Stream,
    /// It has served a request before.
    pub is_used: bool,
}

struct Idle {
    stream: Stream,
    since: Duration,
}

/// Idle connections by member.
#[derive(Default)]
pub struct Pool {
    idle: RefCell<BTreeMap<Rc<str>, Vec<Idle>>>,
}

impl Pool {
    /// The youngest idle connection that is still open.
    async fn take(&self, url: &str) -> Option<Stream> {
        loop {
            let mut idle = self.idle.borrow_mut().get_mut(url)?.pop()?;
            // A member says nothing unasked: whatever is there to read is the end.
            let silent = poll_fn(|context| {
                let mut byte = [0];
                Poll::Ready(Pin::new(&mut idle.stream).poll_read(context, &mut byte).is_pending())
            });
            if silent.await {
                return Some(idle.stream);
            }
        }
    }

    /// Keeps a connection on which everything was answered.
    pub fn put(&self, url: &Rc<str>, stream: Stream, now: Duration) {
        let mut pool = self.idle.borrow_mut();
        let idle = pool.entry(Rc::clone(url)).or_default();
        if idle.len() < IDLE_MAX {
            idle.push(Idle { stream, since: now });
        }
    }

    /// A member failed: its connections are of no use.
    pub fn forget(&self, url: &str) {
        let forgotten = self.idle.borrow_mut().remove(url);
        drop(forgotten);
    }

    /// Ends connections that have been idle for long.
    pub fn prune(&self, now: Duration) {
        self.idle.borrow_mut().retain(|_, idle| {
            idle.retain(|connection| now.saturating_sub(connection.since) < IDLE_LIMIT);
            !idle.is_empty()
        });
    }
}

/// A connection to a member: an idle one, or a new one.
///
/// # Errors
/// What the resolver, the kernel or TLS said, or `TimedOut`.
pub async fn open(proxy: &Proxy, url: &Rc<str>, may_reuse: bool) -> io::Result<Upstream> {
    if may_reuse && let Some(stream) = proxy.pool.take(url).await {
        return Ok(Upstream { stream, is_used: true });
    }
    let place = Url::parse(url).map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
    let limit = proxy.settings.dial_timeout.unwrap_or(DIAL_LIMIT_MAX);
    let stream = dial::limited(limit, dial::reach_within(&proxy.client_tls, &place, limit)).await?;
    Ok(Upstream { stream, is_used: false })
}

/// Sends all of `bytes`; the other side may take nothing for `limit`.
///
/// # Errors
/// The kernel's, or `TimedOut`.
pub async fn send(stream: &mut Stream, bytes: &[u8], limit: Option<Duration>) -> io::Result<()> {
    let mut sent = 0;
    while sent < bytes.len() {
        let write = poll_fn(|context| Pin::new(&mut *stream).poll_write(context, &bytes[sent..]));
        match within(limit, write).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            more => sent += more,
        }
    }
    Ok(())
}

/// Gives up on `work` after `limit`, if there is one. A timer is made only for work that is not ready at once.
pub async fn within<T>(limit: Option<Duration>, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let Some(limit) = limit else { return work.await };
    let mut work = std::pin::pin!(work);
    let at_once = poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => Poll::Ready(None),
    });
    match at_once.await {
        Some(done) => done,
        None => {
            let tired = async {
                Timer::new(limit).await;
                Err(io::ErrorKind::TimedOut.into())
            };
            or(work, tired).await
        }
    }
}

/// Reads into `into` through the proxy's one large buffer; 0 at the end of the stream.
pub fn poll_receive(
    proxy: &Proxy,
    stream: &mut Stream,
    into: &mut Vec<u8>,
    context: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut scratch = proxy.scratch.borrow_mut();
    let read = ready!(Pin::new(stream).poll_read(context, &mut scratch))?;
    into.extend_from_slice(&scratch[..read]);
    Poll::Ready(Ok(read))
}

/// What came first.
pub enum Arrived {
    /// So many bytes from the member; 0 is its end.
    Bytes(usize),
    /// The client is gone, or cannot be seen to be there.
    ClientGone,
}

/// Waits for bytes of the member while the client may leave, or send its next request, which is kept. A client that sends
/// more than [`INPUT_MAX`] meanwhile is read from again later, or let go after [`CROWDED_LIMIT`].
///
/// # Errors
/// The member's, or `TimedOut`.
pub async fn receive(
    proxy: &Proxy,
    upstream: &mut Stream,
    into: &mut Vec<u8>,
    client: &mut Stream,
    input: &mut Vec<u8>,
) -> io::Result<Arrived> {
    let mut patience: Option<Timer> = None;
    let arrival = poll_fn(|context| {
        if let Poll::Ready(read) = poll_receive(proxy, upstream, into, context) {
            return Poll::Ready(read.map(Arrived::Bytes));
        }
        while input.len() < INPUT_MAX {
            match poll_receive(proxy, client, input, context) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Ok(Arrived::ClientGone)),
                Poll::Pending => return Poll::Pending,
            }
        }
        let patience = patience.get_or_insert_with(|| Timer::new(CROWDED_LIMIT));
        ready!(Pin::new(patience).poll(context));
        proxy.complain("a client that sent much behind a request was let go, for nothing was answered");
        Poll::Ready(Ok(Arrived::ClientGone))
    });
    within(proxy.settings.read_timeout, arrival).await
}
