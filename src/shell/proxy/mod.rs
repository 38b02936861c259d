//! Proxy mode: a process that is no member and passes clients' requests on to the members.
//!
//! Owns: the proxy's state, its listeners, the refresh of its endpoints and their file. Touches: peer URLs (who is in the
//! cluster), client URLs (where requests go), `<data-dir>/proxy`.
//!
//! Invariants:
//! 1. The file names the peer URLs of the last list that a member gave; a restart begins with them, whatever the flags say.
//! 2. Connections are bounded by `--ringd-connections-max`, idle ones to members by [`upstream::IDLE_MAX`] per member, and
//!    what is buffered for a client by one read of the member's. Large bodies are bounded over all clients, as a
//!    member's are (`pressure.rs`), and are held once.
//! 3. No borrow is held across an await.

mod serve;
mod upstream;

use std::cell::{Cell, RefCell};
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_lite::FutureExt as _;
use glommio::net::{TcpListener, TcpStream};
use glommio::timer::Timer;

use super::clock::{self, DateHeader};
use super::cors::CorsLayer;
use super::listener::Spoken;
use super::pressure::Pressure;
use super::start::{StartError, open_all, random_u64, spoken_at};
use super::tls::Stream;
use super::tls_files::{self, Side};
use super::tls_handshake::{self, Worker};
use super::{dial, http_client, joining};
use crate::api::peer_members;
use crate::api::proxy::{self, CLUSTER_FILE_BYTES_MAX, Director};
use crate::config::joining::{ProxyMode, ProxySettings};
use crate::config::url::Url;
use crate::config::{Config, Timeouts};
use crate::core::membership::Member;
use crate::metrics::ProxyMetrics;
use crate::wire::http_request::Limits;

/// After an accept error (no descriptor left), wait this long.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(50);
/// Clients beyond the limit that are told so at the same time; more are dropped without a word.
const REFUSING_MAX: usize = 256;
/// A member that has not said who is in the cluster by then is passed over in this round.
const MEMBERS_LIMIT: Duration = Duration::from_secs(3);
/// One read from a client or a member: what is buffered at most between the two.
const READ_BYTES: usize = 64 << 10;
/// Between two lines about requests that cannot be passed on; clients may send thousands a second.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(1);
/// Owner only, as etcd creates it.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// A proxy.
struct Proxy {
    settings: ProxySettings,
    limits: Limits,
    timeouts: Timeouts,
    connections_max: usize,
    pressure: Rc<Pressure>,
    cors: CorsLayer,
    date: DateHeader,
    director: RefCell<Director>,
    pool: upstream::Pool,
    /// How members' client URLs are spoken to, where they want TLS, and how their peer URLs are.
    client_tls: Rc<Side>,
    peer_tls: Rc<Side>,
    metrics: ProxyMetrics,
    peer_urls: RefCell<Vec<String>>,
    file: PathBuf,
    begun: Instant,
    connections: Cell<usize>,
    /// Until when the same complaint is not made again.
    quiet_until: Cell<Duration>,
    scratch: RefCell<Vec<u8>>,
}

impl Proxy {
    /// Since the start.
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Whom to ask, in this order.
    fn endpoints(&self) -> Vec<Rc<str>> {
        let mut director = self.director.borrow_mut();
        for url in director.restore(self.now()) {
            tracing::info!("marked endpoint {url} available, to retest connectivity");
        }
        director.available()
    }

    /// Says why a request was not passed on, but not for each of many.
    fn complain(&self, why: &str) {
        let now = self.now();
        if now >= self.quiet_until.get() {
            self.quiet_until.set(now + COMPLAINT_PAUSE);
            tracing::warn!("{why}");
        }
    }

    fn failed(&self, url: &str) {
        self.pool.forget(url);
        if self.director.borrow_mut().failed(url, self.now()) {
            tracing::warn!("marked endpoint {url} unavailable");
        }
    }
}

/// Starts a proxy; it serves when this returns.
///
/// # Errors
/// [`StartError`]: no cluster to be a proxy of, no directory, a port in use.
pub async fn start(config: &Config) -> Result<(), StartError> {
    tracing::info!("proxy: this proxy supports v2 API only!");
    let dir = config.data_dir.join("proxy");
    make_directory(&dir)?;
    let file = dir.join("cluster");
    let peer_urls = match read_file(&file)? {
        Some(bytes) => {
            let ignored = |what| {
                tracing::warn!(
                    "{what} ignored since the proxy has already been initialized. Valid cluster file found at {:?}",
                    file.display()
                );
            };
            if config.joining.discovery.is_some() {
                ignored("discovery token");
            }
            if config.joining.srv.is_some() {
                ignored("DNS SRV discovery");
            }
            let urls = proxy::parse_cluster_file(&bytes)
                .map_err(|why| StartError::Config(format!("{}: {why}; remove it to begin anew", file.display())))?;
            tracing::info!("proxy: using peer urls {urls:?} from cluster file {:?}", file.display());
            urls
        }
        None => {
            let urls = joining::peers_for_proxy(config).await?;
            tracing::info!("proxy: using peer urls {urls:?}");
            urls
        }
    };
    let [listening_tls, client_tls, peer_tls] = open_sides(config)?;
    let listeners = open_all(&config.listen_client_addresses).await?;
    let proxy = Rc::new(Proxy {
        settings: config.proxy,
        limits: config.limits,
        timeouts: config.timeouts,
        connections_max: usize::try_from(config.connections_max).unwrap_or(usize::MAX),
        pressure: Rc::new(Pressure::new(config.ceilings)),
        cors: CorsLayer::new(&config.cors),
        date: DateHeader::default(),
        director: RefCell::new(Director::new(config.proxy.failure_wait)),
        pool: upstream::Pool::default(),
        client_tls,
        peer_tls,
        metrics: ProxyMetrics::default(),
        peer_urls: RefCell::new(peer_urls),
        file,
        begun: clock::monotonic(),
        connections: Cell::new(0),
        quiet_until: Cell::new(Duration::ZERO),
        scratch: RefCell::new(vec![0; READ_BYTES]),
    });
    refresh(&proxy).await?;
    glommio::spawn_local(keep_fresh(Rc::clone(&proxy))).detach();
    for side in [&listening_tls, &proxy.client_tls, &proxy.peer_tls] {
        glommio::spawn_local(tls_files::watch(Rc::clone(side))).detach();
    }
    for (listener, place) in listeners.into_iter().zip(&config.listen_client_addresses) {
        let spoken = spoken_at(place, &config.listen_client_urls, &listening_tls);
        glommio::spawn_local(accept(Rc::clone(&proxy), listener, spoken)).detach();
    }
    for url in &config.listen_client_urls {
        tracing::info!("v2 proxy started listening on client requests on \"{url}\"");
    }
    if !config.listen_metrics_urls.is_empty() {
        tracing::warn!("proxy: --listen-metrics-urls has no effect, as in etcd: /metrics is served on client URLs");
    }
    if config.proxy.mode == ProxyMode::ReadOnly {
        tracing::info!("proxy: only reads are let through");
    }
    Ok(())
}

/// TLS for those who connect, for members' client URLs, and for their peer URLs. As in etcd, members' client URLs see
/// the certificate of `--cert-file`, or that of `--peer-cert-file` when no flag of the clients' side is given.
fn open_sides(config: &Config) -> Result<[Rc<Side>; 3], StartError> {
    let worker = Rc::new(Worker::default());
    let hosts = || config.listen_client_urls.iter().map(|url| url.host().to_owned()).collect();
    let open =
        |settings| Side::open(settings, hosts(), false, Rc::clone(&worker)).map(Rc::new).map_err(StartError::Config);
    let (listening, peers) = (open(&config.client_tls)?, open(&config.peer_tls)?);
    let asks_as_client = config.client_tls.has_certificate() || config.client_tls.trusted_ca.is_some();
    let members = Rc::clone(if asks_as_client { &listening } else { &peers });
    Ok([listening, members, peers])
}

fn make_directory(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(dir)
}

/// A file's bytes; `None` when there is none.
fn read_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Ok(found) if found.len() > CLUSTER_FILE_BYTES_MAX => {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is too large", path.display())))
        }
        _ => std::fs::read(path).map(Some),
    }
}

/// Replaces the file, or leaves it: after a crash it is the old one or the new one.
fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let draft = path.with_extension("bak");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(FILE_MODE).open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    std::fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

async fn keep_fresh(proxy: Rc<Proxy>) {
    let mut told = false;
    loop {
        let found = proxy.endpoints();
        if !told && !found.is_empty() {
            tracing::info!("endpoints found {found:?}");
            told = true;
        }
        let pause = proxy.director.borrow().refresh_after(proxy.settings.refresh_interval);
        Timer::new(pause).await;
        proxy.pool.prune(proxy.now());
        if let Err(error) = refresh(&proxy).await {
            tracing::warn!("proxy: {error}");
        }
    }
}

/// Asks the members who they are, and keeps what they say.
async fn refresh(proxy: &Proxy) -> io::Result<()> {
    let known = proxy.peer_urls.borrow().clone();
    let Some(members) = ask_members(&proxy.peer_tls, &known).await else {
        tracing::warn!("proxy: could not retrieve cluster information from the given URLs");
        // As in etcd: a cluster of which nobody answers has no endpoints.
        proxy.director.borrow_mut().replace(&[], 0);
        return Ok(());
    };
    proxy.director.borrow_mut().replace(&proxy::client_urls(&members), random_u64()?);
    let found = proxy::peer_urls(&members);
    let (path, bytes) = (proxy.file.clone(), proxy::render_cluster_file(&found));
    let kept = glommio::executor().spawn_blocking(move || {
        if read_file(&path)?.as_deref() == Some(bytes.as_slice()) { Ok(()) } else { write_file(&path, &bytes) }
    });
    if let Err(error) = kept.await {
        tracing::warn!("proxy: error on writing urls to {}: {error}", proxy.file.display());
        return Ok(());
    }
    if found != known {
        tracing::info!("proxy: updated peer urls in cluster file from {known:?} to {found:?}");
        *proxy.peer_urls.borrow_mut() = found;
    }
    Ok(())
}

async fn ask_members(tls: &Side, peer_urls: &[String]) -> Option<Vec<Member>> {
    for text in peer_urls {
        let asked = async {
            let url = Url::parse(text)?;
            let asked = dial::limited(MEMBERS_LIMIT, http_client::get(tls, &url, "/members")).await;
            let (head, body) = asked.map_err(|error| error.to_string())?;
            if head.status != 200 {
                return Err(format!("it answered with status {}", head.status));
            }
            peer_members::parse(&body)
        };
        match asked.await {
            Ok(members) if !members.is_empty() => return Some(members),
            Ok(_) => tracing::warn!("could not get cluster response from {text}: it knows no members"),
            Err(error) => tracing::warn!("could not get cluster response from {text}: {error}"),
        }
    }
    None
}

/// Accepts until the process ends.
async fn accept(proxy: Rc<Proxy>, listener: TcpListener, spoken: Spoken) {
    loop {
        match listener.accept().await {
            Ok(stream) => {
                let open = proxy.connections.get();
                if open >= proxy.connections_max.saturating_add(REFUSING_MAX) {
                    continue;
                }
                let refuse = open >= proxy.connections_max;
                let (proxy, spoken) = (Rc::clone(&proxy), spoken.clone());
                proxy.connections.set(open + 1);
                glommio::spawn_local(async move {
                    let serving = async {
                        // Those who are refused are told in plain words; their handshakes would cost as much as service.
                        let secured = if refuse { Some(Stream::Plain(stream)) } else { secure(&spoken, stream).await };
                        if let Some(stream) = secured {
                            serve::serve(&proxy, stream, refuse).await;
                        }
                    };
                    let served = AssertUnwindSafe(serving).catch_unwind().await;
                    if served.is_err() {
                        tracing::error!("a connection's task panicked; the connection was dropped");
                    }
                    proxy.connections.set(proxy.connections.get() - 1);
                })
                .detach();
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                Timer::new(ACCEPT_ERROR_PAUSE).await;
            }
        }
    }
}

/// `None` for who was refused.
async fn secure(spoken: &Spoken, socket: TcpStream) -> Option<Stream> {
    match spoken {
        Spoken::Plain => Some(Stream::Plain(socket)),
        Spoken::Tls(side) => tls_handshake::accept(side, socket, false).await,
        Spoken::Either(side) => tls_handshake::accept(side, socket, true).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_replaced_as_a_whole() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let proxy_dir = dir.path().join("data/proxy");
        make_directory(&proxy_dir).unwrap();
        make_directory(&proxy_dir).unwrap();
        let file = proxy_dir.join("cluster");
        assert_eq!(read_file(&file).unwrap(), None);
        for bytes in [&b"first and longer"[..], b"second"] {
            write_file(&file, bytes).unwrap();
            assert_eq!(read_file(&file).unwrap().as_deref(), Some(bytes));
        }
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&file, vec![b' '; usize::try_from(CLUSTER_FILE_BYTES_MAX).unwrap() + 1]).unwrap();
        assert!(read_file(&file).is_err());
    }
}
