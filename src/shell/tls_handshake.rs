//! Handshakes: run on a thread of their own, judged and told of here.
//!
//! Owns: the thread that does their arithmetic (0.1 to 1 ms each), who is let in, and the log line of who is not.
//! Touches: sockets before anybody else reads them.
//!
//! Invariants:
//! 1. No private or public key is used on the executor's thread; it only moves bytes. A session is with the thread or
//!    with its connection, never with both.
//! 2. A handshake ends within [`HANDSHAKE_LIMIT`]; those under way count among the connections.
//! 3. Refusals are told in etcd's words, [`TOLD_PER_SECOND`] at most: who knocks must not fill the log.

use std::cell::{Cell, OnceCell};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use futures_channel::oneshot;
use futures_lite::AsyncWrite as _;
use futures_lite::future::poll_fn;
use glommio::net::TcpStream;
use rustls::Error;

use super::clock;
use super::dial;
use super::tls::{Secured, Stream};
use super::tls_files::Side;
use crate::config::url::Url;
use crate::wire::certificate::{self, Refusal};
use crate::wire::tls::{PLAIN_HTTP, Session, begins_handshake, words};

/// A handshake takes a few round trips; one that takes longer than this is nobody's.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Of a client that speaks plain HTTP so much is read after the answer, and for so long: more than a request's head.
const LINGER_BYTES_MAX: usize = 64 << 10;
const LINGER_TIME: Duration = Duration::from_secs(2);
/// Log lines about refused connections within one second.
const TOLD_PER_SECOND: u32 = 20;

/// Bytes for a session to digest, and where it goes back to.
struct Job {
    session: Session,
    bytes: Vec<u8>,
    done: oneshot::Sender<(Session, Result<(), Error>)>,
}

/// The thread for the arithmetic of handshakes; it begins with the first.
#[derive(Default)]
pub struct Worker {
    /// As many jobs as there are handshakes under way wait here at most.
    jobs: OnceCell<mpsc::Sender<Job>>,
}

impl Worker {
    async fn digest(&self, session: Session, bytes: Vec<u8>) -> io::Result<(Session, Result<(), Error>)> {
        let gone = || io::Error::other("the thread for handshakes is gone");
        let (done, back) = oneshot::channel();
        if self.jobs.get().is_none() {
            let (sender, jobs) = mpsc::channel();
            std::thread::Builder::new().name("handshakes".to_owned()).spawn(move || work(&jobs))?;
            self.jobs.set(sender).map_err(|_| gone())?;
        }
        self.jobs.get().ok_or_else(gone)?.send(Job { session, bytes, done }).map_err(|_| gone())?;
        back.await.map_err(|_| gone())
    }
}

fn work(jobs: &mpsc::Receiver<Job>) {
    for Job { mut session, bytes, done } in jobs {
        // A panic ends its connection only: the other end of `done` hears that nothing comes.
        let _ = catch_unwind(AssertUnwindSafe(move || {
            let digested = session.digest(&bytes);
            // Who waited may have given up.
            let _ = done.send((session, digested));
        }));
    }
}

/// Why there is no session.
enum Failure {
    /// The connection ended.
    Io(io::Error),
    /// TLS says no; the name is the one the client asked for.
    Tls(Error, String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Does the handshake; `bytes` have arrived already.
async fn shake(
    worker: &Worker,
    socket: &mut TcpStream,
    mut session: Session,
    mut bytes: Vec<u8>,
) -> Result<Session, Failure> {
    loop {
        let mut digested = Ok(());
        if !bytes.is_empty() {
            (session, digested) = worker.digest(session, bytes).await?;
        }
        let sent = send_outgoing(socket, &mut session).await;
        if let Err(error) = digested {
            return Err(Failure::Tls(error, session.server_name().to_owned()));
        }
        sent?;
        if !session.is_handshaking() {
            return Ok(session);
        }
        bytes = Vec::new();
        if dial::receive(socket, &mut bytes).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "EOF").into());
        }
    }
}

async fn send_outgoing(socket: &mut TcpStream, session: &mut Session) -> io::Result<()> {
    let bytes = session.outgoing().len();
    if bytes > 0 {
        dial::send(socket, session.outgoing()).await?;
        session.sent(bytes);
    }
    Ok(())
}

/// Ends our side and throws away what still comes: closing while the other side sends would reset the connection, and the
/// reset can overtake the answer.
async fn linger(socket: &mut TcpStream) -> io::Result<()> {
    poll_fn(|context| Pin::new(&mut *socket).poll_close(context)).await?;
    let mut bytes = Vec::new();
    let discarded = async {
        while bytes.len() < LINGER_BYTES_MAX && dial::receive(socket, &mut bytes).await? > 0 {}
        Ok(())
    };
    let _ = dial::limited(LINGER_TIME, discarded).await;
    Ok(())
}

/// Counts lines about refused connections.
#[derive(Default)]
pub struct Told {
    second: Cell<u64>,
    lines: Cell<u32>,
}

impl Told {
    fn may_tell(&self, second: u64) -> bool {
        if self.second.replace(second) != second {
            self.lines.set(0);
        }
        self.lines.set(self.lines.get().saturating_add(1));
        self.lines.get() <= TOLD_PER_SECOND
    }
}

/// Makes a stream of an accepted socket: TLS, or what it is when `plain_too` and it does not begin with a handshake.
/// `None` when it was refused, which has been told.
pub async fn accept(side: &Side, mut socket: TcpStream, plain_too: bool) -> Option<Stream> {
    let remote = socket.peer_addr().ok();
    let work = async {
        if plain_too {
            let mut first = [0];
            let peeked = socket.peek(&mut first).await.map_err(io::Error::from)?;
            if begins_handshake(&first[..peeked]) != Some(true) {
                return Ok(None);
            }
        }
        let mut bytes = Vec::new();
        if dial::receive(&mut socket, &mut bytes).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "EOF").into());
        }
        if begins_handshake(&bytes) == Some(false) {
            if bytes[0].is_ascii_uppercase() {
                dial::send(&mut socket, PLAIN_HTTP).await?;
            }
            return Err(Failure::Tls(rustls::InvalidMessage::InvalidContentType.into(), String::new()));
        }
        let config = side.server().ok_or_else(|| io::Error::other("there is no certificate"))?;
        let session = Session::accept(config).map_err(|error| Failure::Tls(error, String::new()))?;
        let session = shake(side.worker(), &mut socket, session, bytes).await?;
        if let (Some(certificate), Some(remote)) = (session.peer_certificates().first(), remote)
            && side.checks_addresses()
        {
            let refused = |why| Failure::Tls(Refusal::of(certificate, why), session.server_name().to_owned());
            comes_from_its_host(certificate, remote.ip()).await.map_err(refused)?;
        }
        Ok(Some(session))
    };
    let failure = match limited(work).await {
        Ok(None) => return Some(Stream::Plain(socket)),
        Ok(Some(session)) => {
            let user = session.peer_certificates().first().filter(|_| side.names_users());
            let user = user.and_then(certificate::common_name).map(Rc::from);
            return Some(Stream::Tls(Box::new(Secured::new(socket, session, true, user))));
        }
        Err(failure) => failure,
    };
    if side.told().may_tell(clock::now().get() / 1_000_000_000) {
        let from = remote.map_or_else(String::new, |remote| remote.to_string());
        tell(&from, &failure);
    }
    if let Failure::Tls(..) = failure {
        // With TLS 1.3 its request is on the way already: the alert would be lost to a reset.
        let _ = linger(&mut socket).await;
    }
    None
}

/// etcd's line about a connection that was refused. What the other side's alert was exactly comes behind it.
fn tell(from: &str, failure: &Failure) {
    match failure {
        Failure::Io(error) => {
            tracing::warn!("rejected connection from {from:?} (error {:?}, ServerName \"\")", error.to_string());
        }
        Failure::Tls(error, name) => {
            let alert = match error {
                Error::AlertReceived(alert) => Some(tracing::field::debug(alert)),
                _ => None,
            };
            let hosts = Refusal::within(error).map_or_else(String::new, |refusal| format!(", {}", refusal.hosts));
            let why = words(error, true);
            tracing::warn!(alert, "rejected connection from {from:?} (error {why:?}, ServerName {name:?}{hosts})");
        }
    }
}

/// Does the client's side of a handshake with `url` on a connected socket.
///
/// # Errors
/// The connection's, or `InvalidData` with Go's words for what TLS says.
pub async fn dial(side: &Side, url: &Url, mut socket: TcpStream) -> io::Result<Stream> {
    let config = side.client().await?;
    let failed = |error: &Error| io::Error::new(io::ErrorKind::InvalidData, words(error, false));
    let session = Session::dial(Arc::clone(&config), url.host()).map_err(|error| failed(&error))?;
    match limited(shake(side.worker(), &mut socket, session, Vec::new())).await {
        Ok(session) => Ok(Stream::Tls(Box::new(Secured::new(socket, session, false, None)))),
        Err(Failure::Io(error)) => Err(error),
        Err(Failure::Tls(error, _)) => Err(failed(&error)),
    }
}

async fn limited<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let tired = async {
        glommio::timer::Timer::new(HANDSHAKE_LIMIT).await;
        Err(Failure::Io(io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long")))
    };
    futures_lite::future::or(work, tired).await
}

/// Whether a member's certificate is for the address it comes from: etcd's rule for certificates that name hosts.
async fn comes_from_its_host(
    certificate: &rustls::pki_types::CertificateDer<'_>,
    remote: std::net::IpAddr,
) -> Result<(), String> {
    let hosts = certificate::hosts(certificate);
    let remote = remote.to_canonical();
    if (hosts.addresses.is_empty() && hosts.names.is_empty()) || hosts.addresses.contains(&remote) {
        return Ok(());
    }
    if hosts.names.is_empty() {
        return Err(hosts.not_for(&remote.to_string()));
    }
    for name in hosts.names.iter().filter(|name| !name.starts_with("*.")) {
        let found = dial::look_up(name.clone(), 0).await.unwrap_or_default();
        if found.iter().any(|address| address.ip().to_canonical() == remote) {
            return Ok(());
        }
    }
    Err(format!("tls: {:?} does not match any of DNSNames {:?}", remote.to_string(), hosts.names))
}
