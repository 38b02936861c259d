//! A connection's bytes, with TLS or without.
//!
//! Owns: the one stream type of the shell. Touches: its socket. Must hold: a plain stream costs one predictable branch
//! and no byte more than its socket, whatever TLS needs is behind a box; what was accepted for writing is reported only
//! when the socket has taken all of its records; nothing here runs a handshake (`tls_handshake.rs` does).

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;

use crate::wire::tls::{Session, Taken, words};

/// Read from the socket at once: one record of the largest size, more or less.
const RECEIVE_BYTES: usize = 16 << 10;

/// A connection to a client or a member.
pub enum Stream {
    /// As it is.
    Plain(TcpStream),
    /// Under TLS; the handshake is done.
    Tls(Box<Secured>),
}

const _: () = assert!(size_of::<Stream>() == size_of::<TcpStream>(), "a plain stream is no larger than its socket");

/// A socket and its TLS.
pub struct Secured {
    socket: TcpStream,
    session: Session,
    /// Plaintext whose records the socket has not all taken: a write that is still to be reported.
    accepted: usize,
    closing: bool,
    serves: bool,
    user: Option<Rc<str>>,
}

impl Secured {
    /// A stream whose handshake is done. `serves` is for the side that accepted; `user` is who the certificate names.
    #[must_use]
    pub fn new(socket: TcpStream, session: Session, serves: bool, user: Option<Rc<str>>) -> Self {
        Self { socket, session, accepted: 0, closing: false, serves, user }
    }

    fn failed(&self, error: &rustls::Error) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, words(error, self.serves))
    }

    /// Sends what the session has for the other side.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let outgoing = self.session.outgoing();
            if outgoing.is_empty() {
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut self.socket).poll_write(context, outgoing))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                bytes => self.session.sent(bytes),
            }
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.session.read(into) {
                Ok(Taken::Bytes(bytes)) => return Poll::Ready(Ok(bytes)),
                Ok(Taken::End) => return Poll::Ready(Ok(0)),
                Ok(Taken::NeedMore) => {}
                Err(error) => return Poll::Ready(Err(self.failed(&error))),
            }
            // What arrives passes through the caller's buffer: a connection that waits holds none of its own.
            let room = into.len().min(RECEIVE_BYTES);
            let bytes = ready!(Pin::new(&mut self.socket).poll_read(context, &mut into[..room]))?;
            if bytes == 0 {
                return Poll::Ready(Ok(0));
            }
            let digested = self.session.digest(&into[..bytes]);
            // Alerts and new keys go out when they can; a socket that is full gets them with the next write.
            if let Poll::Ready(Err(error)) = self.poll_drain(context)
                && digested.is_ok()
            {
                return Poll::Ready(Err(error));
            }
            if let Err(error) = digested {
                return Poll::Ready(Err(self.failed(&error)));
            }
        }
    }

    /// After `Pending` the same bytes must be given again: they are under way already.
    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(context))?;
        if self.accepted == 0 {
            self.accepted = self.session.write(bytes);
            ready!(self.poll_drain(context))?;
        }
        Poll::Ready(Ok(std::mem::take(&mut self.accepted)))
    }

    fn poll_close(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closing {
            self.closing = true;
            self.session.close();
        }
        ready!(self.poll_drain(context))?;
        Pin::new(&mut self.socket).poll_close(context)
    }
}

impl Stream {
    /// The socket below, for its options.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(secured) => &secured.socket,
        }
    }

    /// Whom a verified client certificate names, where certificates name users.
    #[must_use]
    pub fn user(&self) -> Option<&Rc<str>> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(secured) => secured.user.as_ref(),
        }
    }
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(context, into),
            Self::Tls(secured) => secured.poll_read(context, into),
        }
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Tls(secured) => secured.poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(context),
            Self::Tls(secured) => secured.poll_drain(context),
        }
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_close(context),
            Self::Tls(secured) => secured.poll_close(context),
        }
    }
}
