//! Streams that other members open: the verdict on their handshake, and their messages on the way to the node.
//!
//! Owns: who is let in. Touches: the hub's node (inputs), the connection the request came on.
//!
//! Invariants:
//! 1. A message reaches the node only when its cluster, its sender and its addressee were checked.
//! 2. A batch becomes inputs of one turn.
//! 3. A member that was removed is told so, and nothing of it is heard.

use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use bytes::BytesMut;
use futures_lite::AsyncRead as _;
use futures_lite::future::poll_fn;

use super::connection::{self, Conn};
use super::connections::Turn;
use super::dial::SILENCE_LIMIT;
use super::driver::Hub;
use super::peers::{self, Incoming};
use super::tls::Stream;
use super::{clock, peer_snapshot, raw};
use crate::core::event::Input;
use crate::core::replica::PeerMessage;
use crate::metrics;
use crate::wire::peer_frame::{Class, Frame, PROTOCOL_VERSION, addressee, append_pong, classify, next_frame, sender};
use crate::wire::peer_handshake::{Handshake, Purpose, Verdict, render_verdict};

/// Serves a stream whose request is `handshake`; `rest` is what arrived behind it.
///
/// # Errors
/// What ended the connection.
pub async fn serve(
    hub: &Rc<Hub>,
    conn: &Rc<Conn>,
    stream: &mut Stream,
    handshake: Handshake,
    rest: &[u8],
) -> io::Result<()> {
    let verdict = judge(hub, &handshake);
    let (own, standing) = {
        let node = hub.node.borrow();
        ((node.config().cluster, node.config().id), node.standing(handshake.from))
    };
    render_verdict(&mut conn.out(), &verdict, own, &standing);
    if verdict != Verdict::Accepted {
        return connection::finish(hub, conn, stream).await;
    }
    // Before anything is awaited: a second snapshot is busy from here on.
    let _receiving = (handshake.purpose != Purpose::Messages).then(|| Turn::take(&hub.peers.receiving));
    raw::watch_peer(stream.socket(), SILENCE_LIMIT);
    peers::introduce(hub, handshake.from, &handshake.peer_urls);
    hub.input(Input::PeerStanding { member: handshake.from, standing: handshake.standing });
    connection::flush(hub, conn, stream).await?;
    let inbox = BytesMut::from(rest);
    match handshake.purpose {
        Purpose::Messages => {
            let arrival = Arrival { hub, incoming: hub.peers.arrived(handshake.from, conn) };
            let ended = listen(hub, &arrival.incoming, stream, inbox).await;
            drop(arrival);
            tracing::debug!(?ended, "the stream from peer {} ended", handshake.from);
            Ok(())
        }
        Purpose::Snapshot { bytes } => peer_snapshot::receive(hub, conn, stream, handshake.from, (inbox, bytes)).await,
    }
}

/// A stream in the book, also until a panic ends it.
struct Arrival<'a> {
    hub: &'a Hub,
    incoming: Rc<Incoming>,
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        self.hub.peers.left(&self.incoming);
    }
}

fn judge(hub: &Hub, handshake: &Handshake) -> Verdict {
    let node = hub.node.borrow();
    let (own, cluster) = (node.config().id, node.config().cluster);
    let from = handshake.from;
    if handshake.cluster != cluster {
        tracing::error!("request cluster ID mismatch (got {} want {cluster}) from {from}", handshake.cluster);
        Verdict::ForeignCluster(cluster)
    } else if node.members().is_removed(from) {
        tracing::warn!("rejected the stream from peer {from}: it was removed from the cluster");
        Verdict::Removed
    } else if handshake.to != own {
        tracing::error!("streaming request ignored (member ID mismatch got {} want {own})", handshake.to);
        Verdict::OtherMember(own)
    } else if from == own {
        tracing::error!("another process says it is this member ({own})");
        Verdict::OtherMember(own)
    } else if handshake.protocol != PROTOCOL_VERSION {
        tracing::error!("peer {from} speaks protocol {}, this member {PROTOCOL_VERSION}", handshake.protocol);
        Verdict::OtherProtocol(PROTOCOL_VERSION)
    } else if hub.is_stopping() || (handshake.purpose != Purpose::Messages && hub.peers.receiving.get()) {
        Verdict::Busy
    } else {
        Verdict::Accepted
    }
}

/// After so many bytes of a member's others get their turn: some milliseconds of decoding.
const HEARD_IN_A_ROW_BYTES: usize = 4 << 20;

/// Hands a member's messages to the node until its stream is over.
async fn listen(hub: &Rc<Hub>, incoming: &Rc<Incoming>, stream: &mut Stream, mut inbox: BytesMut) -> io::Result<()> {
    let mut heard = 0;
    loop {
        let mut asked = None;
        loop {
            match next_frame(&mut inbox) {
                Ok(None) => break,
                Ok(Some(Frame::Messages(messages))) => deliver(hub, incoming, messages),
                Ok(Some(Frame::Ping(number))) => asked = Some(number),
                Ok(Some(_)) => return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame of another stream")),
                Err(error) => {
                    tracing::error!("the stream from peer {} cannot be read on: {error}", incoming.from);
                    if let Some(peer) = hub.peers.get(incoming.from) {
                        metrics::add(&peer.metrics.received_failures, 1);
                    }
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
        }
        if let Some(number) = asked {
            append_pong(&mut incoming.conn.out(), number);
            connection::flush(hub, &incoming.conn, stream).await?;
        }
        let before = inbox.len();
        if !receive_or_poked(hub, &incoming.conn, stream, &mut inbox).await? {
            return Ok(());
        }
        if incoming.over.get() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        incoming.unanswered.set(0);
        if let Some(peer) = hub.peers.get(incoming.from) {
            metrics::add(&peer.metrics.received_bytes, (inbox.len() - before) as u64);
        }
        // A member goes before clients, whose writes wait for it. But a leader that sends a whole log is always quicker than
        // this loop.
        heard += inbox.len().saturating_sub(before);
        if heard >= HEARD_IN_A_ROW_BYTES {
            heard = 0;
            glommio::yield_if_needed().await;
        }
    }
}

/// Waits for bytes or a poke. False at the end of the stream.
pub(super) async fn receive_or_poked(
    hub: &Hub,
    conn: &Conn,
    stream: &mut Stream,
    inbox: &mut BytesMut,
) -> io::Result<bool> {
    let mut woken = pin!(conn.wake.wait());
    poll_fn(|context| {
        let mut scratch = hub.scratch.borrow_mut();
        match Pin::new(&mut *stream).poll_read(context, &mut scratch) {
            Poll::Ready(Ok(0)) => Poll::Ready(Ok(false)),
            Poll::Ready(Ok(bytes)) => {
                inbox.extend_from_slice(&scratch[..bytes]);
                Poll::Ready(Ok(true))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => woken.as_mut().poll(context).map(|()| Ok(true)),
        }
    })
    .await
}

fn deliver(hub: &Hub, incoming: &Incoming, messages: Vec<PeerMessage>) {
    let own = hub.node.borrow().config().id;
    let peer = hub.peers.get(incoming.from);
    let now = clock::monotonic();
    let fit = messages.into_iter().filter(|message| {
        // A snapshot's description comes only with its file.
        let class = classify(message);
        match class {
            Class::Append { .. } => metrics::add(&hub.metrics.appends_received, 1),
            Class::AppendResponse { upto } => {
                if let Some(peer) = &peer {
                    peer.acknowledged(upto, now);
                }
            }
            _ => {}
        }
        addressee(message) == own && sender(message) == incoming.from && !matches!(class, Class::Snapshot { .. })
    });
    hub.hear(fit);
}
