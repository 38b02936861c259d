//! TLS as bytes: connections of rustls' own, for what the client crate does not do.
//!
//! Must hold: every wait has an end.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ringd_client::Tls;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned};

use crate::authority::Files;

/// The longest one read may take.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// A secured connection, and what arrived on it.
pub struct Secured<S: io::Read + io::Write> {
    pub stream: StreamOwned<ClientConnection, S>,
    arrived: String,
}

/// Connects; the handshake is done with the first write.
pub fn connect(port: u16, config: &ClientConfig) -> Secured<TcpStream> {
    let socket = TcpStream::connect(("127.0.0.1", port)).expect("the listener");
    socket.set_read_timeout(Some(READ_LIMIT)).expect("a socket");
    Secured::new(socket, config)
}

/// Connects to a socket file.
pub fn connect_unix(path: &Path, config: &ClientConfig) -> Secured<UnixStream> {
    let socket = UnixStream::connect(path).expect("the listener");
    socket.set_read_timeout(Some(READ_LIMIT)).expect("a socket");
    Secured::new(socket, config)
}

impl<S: io::Read + io::Write> Secured<S> {
    fn new(socket: S, config: &ClientConfig) -> Self {
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        let tls = ClientConnection::new(Arc::new(config.clone()), name).expect("settings that fit");
        Self { stream: StreamOwned::new(tls, socket), arrived: String::new() }
    }

    pub fn send(&mut self, text: &str) -> io::Result<()> {
        self.stream.write_all(text.as_bytes())?;
        self.stream.flush()
    }

    /// Reads until `ending` has arrived; everything up to it.
    pub fn until(&mut self, ending: &str) -> io::Result<String> {
        loop {
            if let Some(at) = self.arrived.find(ending) {
                let rest = self.arrived.split_off(at + ending.len());
                return Ok(std::mem::replace(&mut self.arrived, rest));
            }
            let mut chunk = [0; 16 << 10];
            match self.stream.read(&mut chunk)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self.arrived.push_str(&String::from_utf8_lossy(&chunk[..read])),
            }
        }
    }
}

/// The client's settings, as the client crate makes them.
pub fn settings(tls: &Tls) -> ClientConfig {
    ClientConfig::clone(&tls.config().expect("settings that fit"))
}

/// A server that shows the certificate of this name to whoever connects, and asks for none. Its port.
pub fn fake_server(files: &Files, name: &str) -> u16 {
    let chain = CertificateDer::pem_file_iter(files.path(&format!("{name}.crt"))).expect("a file");
    let chain = chain.collect::<Result<Vec<_>, _>>().expect("PEM");
    let key = PrivateKeyDer::from_pem_file(files.path(&format!("{name}.key"))).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("they fit");
    let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0").expect("a port"));
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let mut tls = ServerConnection::new(Arc::clone(&config)).expect("settings that fit");
            let _ = tls.complete_io(&mut socket);
        }
    });
    port
}

/// An HTTP proxy that leads where CONNECT says. Its port.
pub fn connect_proxy() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            std::thread::spawn(move || -> io::Result<()> {
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") {
                    client.read_exact(&mut byte)?;
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let place = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
                let mut server = TcpStream::connect(place.ok_or(io::ErrorKind::InvalidData)?)?;
                client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
                let (mut from_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
                std::thread::spawn(move || io::copy(&mut from_server, &mut to_client));
                io::copy(&mut client, &mut server)?;
                Ok(())
            });
        }
    });
    port
}
