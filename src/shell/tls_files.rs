//! From the files of TLS to what handshakes need, again and again.
//!
//! Owns: the settings of one side (clients or members) as they are loaded now, and the certificates of one's own making.
//! Touches: files, on blocking threads once the node runs.
//!
//! Invariants:
//! 1. Files that changed are read within [`LOOK_EVERY`] and count for connections that begin from then on. Files that
//!    cannot be used change nothing: the old ones stay, and the log says why.
//! 2. Certificate and key fit each other, or are not used.
//! 3. Where certificates are asked for no session is resumed: every connection is judged anew.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use glommio::timer::Timer;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite};

use super::tls_handshake::{Told, Worker};
use super::tls_verify::{Guard, Known, Rules};
use crate::config::tls::TlsSettings;
use crate::wire::certificate::revoked_serials;

/// Between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// ALPN: what is spoken here.
const HTTP_1: &[u8] = b"http/1.1";

/// One side's TLS.
pub struct Side {
    settings: TlsSettings,
    /// Members dial each other; clients are only listened to.
    peers: bool,
    server: RefCell<Option<Arc<ServerConfig>>>,
    /// Made when the first member is dialled.
    client: RefCell<Option<Arc<ClientConfig>>>,
    seen: RefCell<Stamp>,
    worker: Rc<Worker>,
    told: Told,
}

/// By what a changed file is known: modification time, size, inode.
type Stamp = Vec<Option<[i64; 6]>>;

impl Side {
    /// Reads what `settings` name; makes the certificate if it is to be made here. Blocking: for the start.
    ///
    /// # Errors
    /// Which file, and why it cannot be used.
    pub fn open(settings: &TlsSettings, hosts: Vec<String>, peers: bool, worker: Rc<Worker>) -> Result<Self, String> {
        let mut settings = settings.clone();
        if let Some(dir) = settings.auto.as_deref().filter(|_| settings.cert.is_none() && settings.key.is_none()) {
            let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
            if !(cert.exists() && key.exists()) {
                make_certificate(dir, hosts).map_err(|why| format!("{}: {why}", dir.display()))?;
            }
            (settings.cert, settings.key) = (Some(cert), Some(key));
        } else {
            settings.auto = None;
        }
        let seen = stamp(&settings);
        let server = if settings.has_certificate() { Some(server_config(&settings)?) } else { None };
        Ok(Self {
            settings,
            peers,
            server: RefCell::new(server),
            client: RefCell::default(),
            seen: RefCell::new(seen),
            worker,
            told: Told::default(),
        })
    }

    /// For a connection that begins now.
    #[must_use]
    pub fn server(&self) -> Option<Arc<ServerConfig>> {
        self.server.borrow().clone()
    }

    /// For a member that is dialled now.
    ///
    /// # Errors
    /// Which file, and why it cannot be used.
    pub async fn client(&self) -> io::Result<Arc<ClientConfig>> {
        if let Some(made) = &*self.client.borrow() {
            return Ok(Arc::clone(made));
        }
        let settings = self.settings.clone();
        let made = glommio::executor().spawn_blocking(move || client_config(&settings)).await;
        let made = made.map_err(|why| io::Error::new(ErrorKind::InvalidInput, why))?;
        *self.client.borrow_mut() = Some(Arc::clone(&made));
        Ok(made)
    }

    /// Where handshakes are worked on.
    #[must_use]
    pub fn worker(&self) -> &Worker {
        &self.worker
    }

    /// What was told of refusals.
    #[must_use]
    pub fn told(&self) -> &Told {
        &self.told
    }

    /// Whether a certificate must be for the address it comes from.
    #[must_use]
    pub fn checks_addresses(&self) -> bool {
        self.peers && !self.settings.any_address
    }

    /// Whether a certificate's common name is a user.
    #[must_use]
    pub fn names_users(&self) -> bool {
        !self.peers && self.settings.cert_auth
    }

    fn whose(&self) -> &'static str {
        if self.peers { "peer" } else { "client" }
    }
}

/// Looks at the files, if there are any, for as long as the process lives.
pub async fn watch(side: Rc<Side>) {
    if side.seen.borrow().is_empty() {
        return;
    }
    let mut told = Stamp::new();
    loop {
        Timer::new(LOOK_EVERY).await;
        let (settings, seen) = (side.settings.clone(), side.seen.borrow().clone());
        let dials = side.client.borrow().is_some();
        let changed = glommio::executor()
            .spawn_blocking(move || {
                let now = stamp(&settings);
                (now != seen).then(|| {
                    let server = settings.has_certificate().then(|| server_config(&settings)).transpose();
                    let client = if dials { client_config(&settings).map(Some) } else { Ok(None) };
                    (now, server.and_then(|server| client.map(|client| (server, client))))
                })
            })
            .await;
        let Some((stamp, loaded)) = changed else { continue };
        match loaded {
            Ok((server, client)) => {
                *side.seen.borrow_mut() = stamp;
                *side.server.borrow_mut() = server;
                *side.client.borrow_mut() = client;
                tracing::info!("reloaded the {} TLS files", side.whose());
            }
            // Tried again: it may have been the lack of a descriptor, or the half of a change.
            Err(why) if told != stamp => {
                tracing::warn!("the {} TLS files changed and cannot be used ({why}); the old ones stay", side.whose());
                told = stamp;
            }
            Err(_) => {}
        }
    }
}

/// Whether the files that are there can be used. Blocking; nothing is made.
///
/// # Errors
/// Which file, and why it cannot be used.
pub fn check(settings: &TlsSettings) -> Result<(), String> {
    if settings.cert.is_some() || settings.key.is_some() {
        server_config(settings)?;
    }
    if settings.trusted_ca.is_some() {
        roots(settings)?;
    }
    rules(settings).map(drop)
}

fn stamp(settings: &TlsSettings) -> Stamp {
    let files = [&settings.cert, &settings.key, &settings.trusted_ca, &settings.crl];
    let stamps = files.into_iter().flatten().map(|path| {
        let found = std::fs::metadata(path).ok()?;
        let [size, inode] = [found.size(), found.ino()].map(u64::cast_signed);
        // A change of owner or rights shows in the last two only.
        Some([found.mtime(), found.mtime_nsec(), size, inode, found.ctime(), found.ctime_nsec()])
    });
    stamps.collect()
}

fn server_config(settings: &TlsSettings) -> Result<Arc<ServerConfig>, String> {
    let (chain, key) = identity(settings)?.ok_or_else(|| incomplete(settings))?;
    let provider = provider(settings);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if settings.wants_certificates() {
        let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(settings)?), provider)
            .build()
            .map_err(|error| error.to_string())?;
        let inner: Arc<dyn ClientCertVerifier> = Arc::new(Known::new(inner));
        builder.with_client_cert_verifier(Arc::new(Guard { inner, rules: Some(rules(settings)?) }))
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| format!("tls: {error}"))?;
    config.alpn_protocols = vec![HTTP_1.to_vec()];
    // etcd's order counts, not the client's.
    config.ignore_client_order = true;
    if settings.wants_certificates() {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Arc::new(config))
}

fn client_config(settings: &TlsSettings) -> Result<Arc<ClientConfig>, String> {
    let provider = provider(settings);
    let roots = if settings.auto.is_some() { own_roots(settings)? } else { roots(settings)? };
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| error.to_string())?;
    let rules = if settings.auto.is_some() { None } else { Some(Rules { revoked: Vec::new(), ..rules(settings)? }) };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Guard::<dyn ServerCertVerifier> { inner, rules }));
    let mut config = match identity(settings)? {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| format!("tls: {error}"))?,
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// rustls' defaults, less what `--cipher-suites` leaves out of TLS 1.2. AES-128 goes first, as in etcd: its SHA-256 has
/// instructions of its own where SHA-384 has none, which a handshake feels.
fn provider(settings: &TlsSettings) -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    let wanted = &settings.cipher_suites;
    provider.cipher_suites.retain(|suite| {
        let name = format!("{:?}", suite.suite());
        let is_named = || wanted.iter().any(|wanted| *wanted == name || format!("{wanted}_SHA256") == name);
        matches!(suite, SupportedCipherSuite::Tls13(_)) || wanted.is_empty() || is_named()
    });
    provider.cipher_suites.sort_by_key(|suite| !format!("{:?}", suite.suite()).contains("AES_128"));
    Arc::new(provider)
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(settings: &TlsSettings) -> Result<Option<Identity>, String> {
    match (&settings.cert, &settings.key) {
        (None, None) => Ok(None),
        (Some(cert), Some(key)) => {
            let chain = certificates(cert)?;
            let key = PrivateKeyDer::from_pem_slice(&read(key)?)
                .map_err(|_| format!("tls: {}: failed to find any PEM data in key input", key.display()))?;
            Ok(Some((chain, key)))
        }
        _ => Err(incomplete(settings)),
    }
}

fn incomplete(settings: &TlsSettings) -> String {
    let text = |path: &Option<std::path::PathBuf>| path.as_ref().map_or_else(String::new, |p| p.display().to_string());
    format!("KeyFile and CertFile must both be present[key: {}, cert: {}]", text(&settings.key), text(&settings.cert))
}

fn roots(settings: &TlsSettings) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match &settings.trusted_ca {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    Ok(roots)
}

/// A verifier needs some authority even if it is never asked.
fn own_roots(settings: &TlsSettings) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let (chain, _) = identity(settings)?.ok_or_else(|| incomplete(settings))?;
    roots.add_parsable_certificates(chain);
    Ok(roots)
}

fn rules(settings: &TlsSettings) -> Result<Rules, String> {
    let revoked = match &settings.crl {
        None => Vec::new(),
        Some(path) => {
            let bytes = read(path)?;
            let list = CertificateRevocationListDer::from_pem_slice(&bytes);
            let list = list.as_ref().map_or(&bytes[..], |list| list);
            revoked_serials(list).map_err(|why| format!("{}: {why}", path.display()))?
        }
    };
    Ok(Rules { allowed_cn: settings.allowed_cn.clone(), allowed_hostname: settings.allowed_hostname.clone(), revoked })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(path)?;
    match CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(format!("tls: {}: failed to find any PEM data in certificate input", path.display())),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| {
        let why = match error.kind() {
            ErrorKind::NotFound => "no such file or directory".to_owned(),
            ErrorKind::PermissionDenied => "permission denied".to_owned(),
            _ => error.to_string(),
        };
        format!("open {}: {why}", path.display())
    })
}

/// Writes a certificate that vouches for itself, for `hosts`; only this user may read the key.
fn make_certificate(dir: &Path, hosts: Vec<String>) -> Result<(), String> {
    let key = rcgen::KeyPair::generate().map_err(|error| error.to_string())?;
    let mut params = rcgen::CertificateParams::new(hosts).map_err(|error| error.to_string())?;
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "ringd");
    params.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.self_signed(&key).map_err(|error| error.to_string())?;
    let write = || {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let put = |name: &str, text: String| {
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(dir.join(name))?;
            io::Write::write_all(&mut file, text.as_bytes())?;
            file.sync_all()
        };
        put("key.pem", key.serialize_pem())?;
        put("cert.pem", certificate.pem())
    };
    write().map_err(|error: io::Error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn files_whose_rights_alone_change_are_looked_at_again() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("server.key");
        std::fs::write(&key, "not for everybody").unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o000)).unwrap();
        let settings = TlsSettings { key: Some(key.clone()), ..TlsSettings::default() };
        let before = stamp(&settings);
        assert_eq!(stamp(&settings), before);
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_ne!(stamp(&settings), before);
    }
}
