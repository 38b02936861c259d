//! TLS for `https` endpoints, with rustls.
//!
//! Owns: which certificates are shown and believed. Touches: the files it is told of, and the system's store of
//! certificates when no CA file is given. Always: nothing is set up before the first `https` connection, so that
//! others pay nothing for it; a server whose name or issuer is not verified is not spoken to.

use std::io::{self, Read};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// A connection whose handshake may be under way.
pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// Settings that cannot be used; the texts are those of etcd's tools.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// The file is not there or may not be read.
    #[error("open {path}: {why}")]
    Open { path: PathBuf, why: String },
    /// One of certificate and key was given without the other.
    #[error("KeyFile and CertFile must both be present[key: {key}, cert: {cert}]")]
    Incomplete { key: String, cert: String },
    /// The file does not hold what it should.
    #[error("tls: {path}: {why}")]
    Content { path: PathBuf, why: String },
}

/// Files as they were read.
#[derive(Debug, Default)]
struct Material {
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// `None`: the system's.
    roots: Option<Vec<CertificateDer<'static>>>,
    config: OnceLock<Result<Arc<ClientConfig>, String>>,
}

/// Which certificates a client shows and believes. The default shows none and believes what the system does.
#[derive(Clone, Debug, Default)]
pub struct Tls(Arc<Material>);

impl Tls {
    /// Reads PEM files: a client certificate with its key, and the authorities to believe.
    ///
    /// # Errors
    /// [`TlsError`] when a file is missing or holds something else.
    pub fn load(cert: Option<&Path>, key: Option<&Path>, ca: Option<&Path>) -> Result<Tls, TlsError> {
        let identity = match (cert, key) {
            (None, None) => None,
            (Some(cert), Some(key)) => {
                let chain = certificates(cert)?;
                let content = |why: &str| TlsError::Content { path: key.to_owned(), why: why.to_owned() };
                let key = PrivateKeyDer::from_pem_slice(&read(key)?)
                    .map_err(|_| content("failed to find any PEM data in key input"))?;
                Some((chain, key))
            }
            (cert, key) => {
                let text = |path: Option<&Path>| path.map_or_else(String::new, |p| p.display().to_string());
                return Err(TlsError::Incomplete { key: text(key), cert: text(cert) });
            }
        };
        let roots = ca.map(certificates).transpose()?;
        Ok(Tls(Arc::new(Material { identity, roots, config: OnceLock::new() })))
    }

    /// The settings for rustls, for programs that move the bytes themselves.
    ///
    /// # Errors
    /// What is wrong with the authorities, or with the certificate and its key.
    pub fn config(&self) -> Result<Arc<ClientConfig>, String> {
        self.0.config.get_or_init(|| self.0.configure()).clone()
    }

    /// A connection to `host` over `socket`, before its handshake.
    pub(crate) fn begin(&self, host: &str, socket: TcpStream) -> Result<TlsStream, String> {
        let config = self.config()?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| format!("{host:?} is no host name"))?;
        let connection = ClientConnection::new(config, name).map_err(|e| e.to_string())?;
        Ok(StreamOwned::new(connection, socket))
    }
}

impl Material {
    fn configure(&self) -> Result<Arc<ClientConfig>, String> {
        let mut roots = RootCertStore::empty();
        match &self.roots {
            Some(given) => {
                for certificate in given {
                    roots.add(certificate.clone()).map_err(|e| format!("the CA file: {e}"))?;
                }
            }
            // What cannot be read is missing; a server that needs it is refused as unknown.
            None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots);
        let config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder
                .with_client_auth_cert(chain.clone(), key.clone_key())
                .map_err(|e| format!("tls: the client certificate and its key: {e}"))?,
        };
        Ok(Arc::new(config))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|e| {
        let why = match e.kind() {
            io::ErrorKind::NotFound => "no such file or directory".to_owned(),
            io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
            _ => e.to_string(),
        };
        TlsError::Open { path: path.to_owned(), why }
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(list) if !list.is_empty() => Ok(list),
        _ => Err(TlsError::Content {
            path: path.to_owned(),
            why: "failed to find any PEM data in certificate input".into(),
        }),
    }
}

/// One step of a handshake: sends what is ready, else waits for the server.
pub fn step(stream: &mut TlsStream) -> io::Result<()> {
    if stream.conn.wants_write() {
        return stream.conn.write_tls(&mut stream.sock).map(drop);
    }
    if stream.conn.read_tls(&mut stream.sock as &mut dyn Read)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let processed = stream.conn.process_new_packets();
    // An alert tells the server why; whether it hears it changes nothing here.
    processed.map(drop).map_err(|e| {
        stream.conn.write_tls(&mut stream.sock).ok();
        io::Error::new(io::ErrorKind::InvalidData, e)
    })
}

/// A failed exchange in Go's words where it has its own.
pub fn words(error: &io::Error) -> String {
    use rustls::{CertificateError, Error, InvalidMessage};
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "http: server gave HTTP response to HTTPS client".into()
        }
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "x509: certificate signed by unknown authority".into()
        }
        Some(Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. })) => {
            "x509: certificate has expired or is not yet valid".into()
        }
        Some(Error::InvalidCertificate(CertificateError::NotValidForNameContext { expected, presented })) => {
            not_for(&expected.to_str(), presented)
        }
        Some(Error::AlertReceived(alert)) => format!("remote error: tls: {}", alert_words(*alert)),
        Some(other) => other.to_string(),
        None if error.kind() == io::ErrorKind::UnexpectedEof => "EOF".into(),
        None => error.to_string(),
    }
}

/// Go's words for a certificate of other hosts; `presented` are its names as rustls prints them: `DnsName("a")`,
/// `IpAddress(10.0.0.1)`.
fn not_for(host: &str, presented: &[String]) -> String {
    let wanted = if host.parse::<std::net::IpAddr>().is_ok() { "IpAddress(" } else { "DnsName(" };
    let of_kind = presented.iter().filter_map(|name| name.strip_prefix(wanted));
    let valid: Vec<&str> = of_kind.map(|name| name.trim_matches(['"', '(', ')'])).collect();
    match (valid.is_empty(), wanted) {
        (true, "IpAddress(") => {
            format!("x509: cannot validate certificate for {host} because it doesn't contain any IP SANs")
        }
        (true, _) => format!("x509: certificate is not valid for any names, but wanted to match {host}"),
        (false, _) => format!("x509: certificate is valid for {}, not {host}", valid.join(", ")),
    }
}

/// Go's words for an alert.
fn alert_words(alert: AlertDescription) -> String {
    let words = match alert {
        AlertDescription::UnsupportedCertificate => "unsupported certificate",
        AlertDescription::CertificateRevoked => "revoked certificate",
        AlertDescription::CertificateExpired => "expired certificate",
        AlertDescription::CertificateUnknown => "unknown certificate",
        AlertDescription::UnknownCA => "unknown certificate authority",
        AlertDescription::ProtocolVersion => "protocol version not supported",
        AlertDescription::InsufficientSecurity => "insufficient security level",
        other => return spaced(&format!("{other:?}")),
    };
    words.to_owned()
}

/// `BadCertificate` as `bad certificate`.
fn spaced(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push(' ');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
