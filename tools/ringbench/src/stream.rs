//! A connection to the target: its socket, or TLS over it.
//!
//! Owns: TLS records on their way. Touches: the socket, never waiting for it. Always: what was written is sent by later
//! calls if not at once; a read that says `WouldBlock` is followed by a new edge of the socket.

use std::io::{self, Read, Write};
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

/// rustls asks the socket for at least this much, so that less is all there was.
const READ_MIN: usize = 4096;

/// How the target is spoken to.
#[derive(Clone)]
pub struct Secure {
    config: Arc<ClientConfig>,
    host: ServerName<'static>,
}

impl Secure {
    /// Full handshakes only: a resumed session would measure something else.
    ///
    /// # Errors
    /// When `host` is neither a name nor an address.
    pub fn new(config: &ClientConfig, host: &str) -> Result<Self, String> {
        let mut config = config.clone();
        config.resumption = Resumption::disabled();
        let host = ServerName::try_from(host.to_owned()).map_err(|_| format!("{host:?} is no host"))?;
        Ok(Self { config: Arc::new(config), host })
    }
}

pub enum Stream {
    Plain(TcpStream),
    Secured(Box<Secured>),
}

pub struct Secured {
    socket: TcpStream,
    tls: ClientConnection,
    /// The last read took all there was; until the next event more need not be asked for.
    is_drained: bool,
}

impl Stream {
    /// Over a connected socket, which from then on is never waited for. The handshake begins with the first write.
    pub fn new(socket: std::net::TcpStream, secure: Option<&Secure>) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let socket = TcpStream::from_std(socket);
        let Some(secure) = secure else { return Ok(Self::Plain(socket)) };
        let tls = ClientConnection::new(Arc::clone(&secure.config), secure.host.clone()).map_err(io::Error::other)?;
        Ok(Self::Secured(Box::new(Secured { socket, tls, is_drained: false })))
    }

    /// For the epoll.
    pub fn socket(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Secured(secured) => &mut secured.socket,
        }
    }

    /// An event came: tries to send what a full socket left, and more may be there to read.
    pub fn stir(&mut self) -> io::Result<()> {
        if let Self::Secured(secured) = self {
            secured.is_drained = false;
            secured.send()?;
        }
        Ok(())
    }

    /// Whether a read that does not fill its buffer has emptied the socket.
    pub fn short_read_empties(&self) -> bool {
        matches!(self, Self::Plain(_))
    }
}

impl Secured {
    fn send(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.tls.reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            if self.is_drained {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let arrived = self.tls.read_tls(&mut self.socket)?;
            if arrived == 0 {
                return Ok(0);
            }
            self.is_drained = arrived < READ_MIN;
            self.tls.process_new_packets().map_err(io::Error::other)?;
            self.send()?;
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(into),
            Self::Secured(secured) => secured.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Secured(secured) => {
                let taken = secured.tls.writer().write(bytes)?;
                secured.send()?;
                Ok(taken)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
