//! The stream to another member: connected again and again for as long as it is a member.
//!
//! Owns: connecting, the handshake's outcome, the back-off between tries, writing what the queue holds. Touches: the
//! hub's node only to ask how it stands. Must hold: one write per turn that has something to send; what is queued leaves
//! in order; the wait between two tries is bounded and differs between members.

use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use futures_lite::future::poll_fn;
use futures_lite::{AsyncRead as _, AsyncWrite as _};
use glommio::timer::Timer;
use ringd_storage::ids::MemberId;

use super::driver::Hub;
use super::peers::Peer;
use super::tls::Stream;
use super::{clock, dial, peers};
use crate::config::url::Url;
use crate::core::event::Input;
use crate::metrics::{self, nanos};
use crate::wire::peer_frame::{Frame, PROTOCOL_VERSION, next_frame};
use crate::wire::peer_handshake::{Handshake, Purpose, Verdict, render_request, verdict};

/// The first wait after a failure.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest wait: a member that comes back is found within half an election timeout.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// A handshake that takes longer has failed.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// A failing peer is told of once in this many tries (about every half minute).
const TELL_EVERY: u32 = 64;
/// A buffer that grew beyond this in a burst is given back.
const BUFFER_KEEP_BYTES: usize = 1 << 20;

/// Waits between tries: doubling, with a jitter from a seed.
struct Pause {
    seed: u64,
    tries: u32,
}

impl Pause {
    fn next(&mut self) -> Duration {
        let base = PAUSE_MIN.saturating_mul(1 << self.tries.min(8)).min(PAUSE_MAX);
        self.tries = self.tries.saturating_add(1);
        // Numerical Recipes' linear congruential step; its upper bits are even enough for a jitter.
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        base / 2 + base.mul_f64((self.seed >> 40) as f64 / (1 << 25) as f64)
    }
}

/// Keeps a stream to `peer` until it is no longer a member.
pub async fn run(hub: Rc<Hub>, peer: Rc<Peer>) {
    let seed = hub.node.borrow().config().seed ^ peer.id.get();
    let mut pause = Pause { seed, tries: 0 };
    let mut number_of_try = 0;
    while !peer.gone.get() {
        let opened = match peer.url(number_of_try) {
            Some(url) => open(&hub, peer.id, &url, Purpose::Messages).await,
            None => Err(io::ErrorKind::AddrNotAvailable.into()),
        };
        match opened {
            Ok((mut stream, rest)) => {
                tracing::info!("peer {} became active", peer.id);
                peer.set_connected(true);
                let error = pump(&hub, &peer, &mut stream, BytesMut::from(&rest[..])).await;
                peer.set_connected(false);
                peers::report_unreachable(&hub, &[peer.id]);
                tracing::info!("peer {} became inactive ({error})", peer.id);
                pause.tries = 0;
            }
            Err(error) => {
                number_of_try += 1;
                if pause.tries.is_multiple_of(TELL_EVERY) {
                    tracing::warn!("cannot reach peer {}: {error}; trying again", peer.id);
                }
            }
        }
        Timer::new(pause.next()).await;
    }
}

/// Opens a stream for a purpose. Bytes that arrived behind the answer come with it.
///
/// # Errors
/// The kernel's, or the other side's refusal in words.
pub async fn open(hub: &Rc<Hub>, to: MemberId, url: &Url, purpose: Purpose) -> io::Result<(Stream, Vec<u8>)> {
    let sent = {
        let node = hub.node.borrow();
        let own = node.members().get(node.config().id).map(|own| own.peer_urls.clone());
        Handshake {
            cluster: node.config().cluster,
            from: node.config().id,
            to,
            protocol: PROTOCOL_VERSION,
            peer_urls: own.unwrap_or_else(|| hub.peers.own_urls.borrow().clone()),
            standing: node.standing(to),
            purpose,
        }
    };
    let exchange = async {
        let mut stream = dial::reach(hub.peers.tls(), url).await?;
        let mut bytes = Vec::new();
        render_request(&mut bytes, &url.host_port(), &sent);
        dial::send(&mut stream, &bytes).await?;
        bytes.clear();
        let answer = dial::answer(&mut stream, &mut bytes).await?;
        bytes.drain(..answer.head_bytes);
        Ok((stream, answer, bytes))
    };
    let (stream, answer, rest) = dial::limited(HANDSHAKE_LIMIT, exchange).await?;
    let refused = |text: String| Err(io::Error::new(io::ErrorKind::ConnectionRefused, text));
    if let Some(standing) = answer.standing.clone().filter(|_| answer.cluster == Some(sent.cluster)) {
        hub.input(Input::PeerStanding { member: to, standing });
    }
    match verdict(&answer, &sent) {
        Some(Verdict::Accepted) => Ok((stream, rest)),
        Some(Verdict::ForeignCluster(theirs)) => {
            tracing::error!(
                "request sent was ignored (cluster ID mismatch: peer[{to}]={theirs}, local={})",
                sent.cluster
            );
            refused("cluster ID mismatch".to_owned())
        }
        Some(Verdict::OtherMember(theirs)) => refused(format!("member ID mismatch: {url} is {theirs}")),
        Some(Verdict::OtherProtocol(theirs)) => {
            refused(format!("protocol version mismatch: it speaks {theirs}, this member {PROTOCOL_VERSION}"))
        }
        Some(Verdict::Removed) => refused("the member has been permanently removed from the cluster".to_owned()),
        Some(Verdict::Busy) => refused("it is busy".to_owned()),
        None => refused(format!("it answered with status {}", answer.status)),
    }
}

/// Writes what is queued and reads the answers to probes, until the stream is over.
async fn pump(hub: &Rc<Hub>, peer: &Rc<Peer>, stream: &mut Stream, mut inbox: BytesMut) -> io::Error {
    let (mut sending, mut sent) = (Vec::new(), 0);
    loop {
        let mut woken = pin!(peer.wake.wait());
        let outcome = poll_fn(|context| {
            loop {
                if sent == sending.len() {
                    if sending.capacity() > BUFFER_KEEP_BYTES {
                        sending = Vec::new();
                    }
                    peer.outbox.borrow_mut().take(&mut sending);
                    sent = 0;
                }
                if sending.is_empty() {
                    break;
                }
                match Pin::new(&mut *stream).poll_write(context, &sending[sent..]) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(bytes)) => {
                        sent += bytes;
                        metrics::add(&peer.metrics.sent_bytes, bytes as u64);
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => break,
                }
            }
            loop {
                let mut scratch = hub.scratch.borrow_mut();
                match Pin::new(&mut *stream).poll_read(context, &mut scratch) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                    Poll::Ready(Ok(bytes)) => inbox.extend_from_slice(&scratch[..bytes]),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => break,
                }
            }
            if let Err(error) = take_answers(hub, peer, &mut inbox) {
                return Poll::Ready(Err(error));
            }
            woken.as_mut().poll(context).map(Ok)
        })
        .await;
        match outcome {
            Err(error) => return error,
            Ok(()) if peer.gone.get() => return io::Error::other("it is no longer needed"),
            Ok(()) if peer.silent.get() => return io::ErrorKind::TimedOut.into(),
            Ok(()) => {}
        }
    }
}

fn take_answers(hub: &Hub, peer: &Peer, inbox: &mut BytesMut) -> io::Result<()> {
    while let Some(frame) = next_frame(inbox).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
        let now = clock::monotonic();
        peer.unanswered.set(0);
        if let Frame::Pong(asked) = frame {
            let took = nanos(now.saturating_duration_since(hub.begun.0)).saturating_sub(asked);
            peer.metrics.round_trip.observe(took);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_become_rarer_up_to_a_limit_and_differ_between_members() {
        let waits = |seed: u64| {
            let mut pause = Pause { seed, tries: 0 };
            (0..20).map(|_| pause.next()).collect::<Vec<_>>()
        };
        for seed in 0..50 {
            let waits = waits(seed);
            for (number, wait) in waits.iter().enumerate() {
                let base = PAUSE_MIN.saturating_mul(1 << number.min(8)).min(PAUSE_MAX);
                assert!((base / 2..base * 3 / 2).contains(wait), "seed {seed}, try {number}: {wait:?}");
            }
            assert!(waits[8..].iter().any(|wait| *wait != waits[8]), "seed {seed} has no jitter");
        }
        assert_ne!(waits(1), waits(2));
        let mut pause = Pause { seed: 1, tries: u32::MAX };
        assert!(pause.next() <= PAUSE_MAX * 3 / 2, "it never overflows");
    }
}
