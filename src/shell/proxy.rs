//! Proxy mode (`--proxy on|readonly`): no member, only a door to a cluster's members.
//!
//! Owns: the endpoints: read from the members again and again, kept on disk for the next start, left out for a while
//! when they fail. What happens on a client's connection is `proxy_conn.rs`.
//!
//! Must hold: a proxy holds no data of the cluster; what it cannot reach it says, in etcd's words.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_lite::FutureExt as _;
use glommio::timer::Timer;

use super::start::{StartError, open_all};
use super::{clock, dial, discovery, proxy_conn};
use crate::api::peer_members;
use crate::config::url::Url;
use crate::config::{Config, ProxyMode};

/// One question to one member.
const ASK_LIMIT: Duration = Duration::from_secs(1);
/// While no endpoint is known, members are asked this often.
const HURRY: Duration = Duration::from_secs(1);
/// After an accept error, as for members.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(50);

/// A client URL of a member.
struct Endpoint {
    url: Url,
    /// It failed and is left out until then.
    out_until: Option<Instant>,
}

/// The proxy's state.
pub struct Proxy {
    /// The settings.
    pub config: Config,
    endpoints: RefCell<Vec<Endpoint>>,
    /// Where members are asked for the list.
    peer_urls: RefCell<Vec<Url>>,
    /// Rendered dates for answers of its own.
    pub date: clock::DateHeader,
    /// Clients connected.
    pub clients: Cell<u64>,
    /// Which endpoint is tried first: they take turns.
    turn: Cell<usize>,
}

fn directory(config: &Config) -> PathBuf {
    config.data_dir.join("proxy")
}

/// Whether this process is to be a proxy: asked for by flag, or one before; never if its directory holds a member.
#[must_use]
pub fn is_wanted(config: &Config) -> bool {
    let wal = config.wal_dir.clone().unwrap_or_else(|| config.data_dir.join("member/wal"));
    let is_member = std::fs::read_dir(wal).is_ok_and(|mut entries| entries.next().is_some());
    let was_proxy = directory(config).is_dir();
    let wanted = config.proxy.mode != ProxyMode::Off;
    if is_member && wanted {
        tracing::info!("the server is already initialized as member before, starting as ringd member...");
    } else if was_proxy && !is_member {
        tracing::info!("the server is already initialized as proxy before, starting as ringd proxy...");
    }
    !is_member && (wanted || was_proxy)
}

/// Runs until the process is stopped.
///
/// # Errors
/// A listener or the directory.
pub async fn run(config: &Config) -> Result<(), StartError> {
    let listeners = open_all(&config.listen_client_addresses).await?;
    let file = directory(config).join("cluster");
    std::fs::create_dir_all(directory(config))?;
    let peer_urls = match read_cluster(&file) {
        Some(urls) => {
            tracing::info!("proxy: using peer urls {urls:?} from cluster file {}", file.display());
            urls
        }
        None => match &config.discovery {
            Some(discovery) => discovery::peer_urls(discovery).await?,
            None => config.initial_cluster.values().flatten().cloned().collect(),
        },
    };
    let proxy = Rc::new(Proxy {
        config: config.clone(),
        endpoints: RefCell::default(),
        peer_urls: RefCell::new(peer_urls),
        date: clock::DateHeader::default(),
        clients: Cell::default(),
        turn: Cell::default(),
    });
    for listener in listeners {
        let proxy = Rc::clone(&proxy);
        glommio::spawn_local(async move {
            loop {
                match listener.accept().await {
                    Ok(_) if proxy.clients.get() >= proxy.config.connections_max => {}
                    Ok(stream) => {
                        let client = stream.peer_addr().map_or_else(|_| String::new(), |address| ip_of(&address));
                        let proxy = Rc::clone(&proxy);
                        glommio::spawn_local(async move {
                            proxy.clients.set(proxy.clients.get() + 1);
                            let served = std::panic::AssertUnwindSafe(proxy_conn::serve(&proxy, stream, &client));
                            if served.catch_unwind().await.is_err() {
                                tracing::error!("a connection's task panicked; the connection was dropped");
                            }
                            proxy.clients.set(proxy.clients.get() - 1);
                        })
                        .detach();
                    }
                    Err(error) => {
                        tracing::warn!(%error, "accept failed");
                        Timer::new(ACCEPT_ERROR_PAUSE).await;
                    }
                }
            }
        })
        .detach();
    }
    for url in &config.listen_client_urls {
        tracing::info!("proxy: listening for client requests on {url}");
    }
    loop {
        proxy.refresh(&file).await;
        let pause =
            if proxy.endpoints.borrow().is_empty() { HURRY.min(config.proxy.refresh) } else { config.proxy.refresh };
        Timer::new(pause).await;
    }
}

fn ip_of(address: &SocketAddr) -> String {
    address.ip().to_string()
}

impl Proxy {
    /// The endpoints to try, those that failed lately left out.
    pub fn available(&self) -> Vec<Url> {
        let now = clock::monotonic();
        let endpoints = self.endpoints.borrow();
        let mut urls: Vec<Url> = endpoints
            .iter()
            .filter(|endpoint| endpoint.out_until.is_none_or(|until| until <= now))
            .map(|endpoint| endpoint.url.clone())
            .collect();
        if !urls.is_empty() {
            let turn = self.turn.get();
            self.turn.set(turn.wrapping_add(1));
            let places = urls.len();
            urls.rotate_left(turn % places);
        }
        urls
    }

    /// Leaves an endpoint out for the failure wait.
    pub fn failed(&self, url: &Url) {
        let until = clock::monotonic() + self.config.proxy.failure_wait;
        if let Some(endpoint) = self.endpoints.borrow_mut().iter_mut().find(|endpoint| endpoint.url == *url) {
            tracing::warn!("proxy: marked endpoint {url} unavailable");
            endpoint.out_until = Some(until);
        }
    }

    async fn refresh(&self, file: &Path) {
        let asked = self.peer_urls.borrow().clone();
        for url in &asked {
            let Ok((answer, body)) = dial::get(url, "/members", ASK_LIMIT).await else { continue };
            let Some(members) =
                Some(body).filter(|_| answer.status == 200).and_then(|body| peer_members::parse(&body).ok())
            else {
                continue;
            };
            let parse =
                |urls: Vec<&String>| -> Vec<Url> { urls.into_iter().filter_map(|url| Url::parse(url).ok()).collect() };
            let clients = parse(members.iter().flat_map(|member| &member.client_urls).collect());
            let peers = parse(members.iter().flat_map(|member| &member.peer_urls).collect());
            self.take(clients);
            if !peers.is_empty() && *self.peer_urls.borrow() != peers {
                let (path, text) = (file.to_owned(), render_cluster(&peers));
                tracing::info!("proxy: updated peer urls in cluster file from {asked:?} to {peers:?}");
                *self.peer_urls.borrow_mut() = peers;
                let written = glommio::executor().spawn_blocking(move || write_cluster(&path, &text)).await;
                if let Err(error) = written {
                    tracing::warn!("proxy: cannot write {}: {error}", file.display());
                }
            }
            return;
        }
        tracing::warn!("proxy: could not retrieve cluster information from the given urls");
    }

    /// Takes a list of endpoints; what failed among them stays left out.
    fn take(&self, urls: Vec<Url>) {
        let mut endpoints = self.endpoints.borrow_mut();
        let known = std::mem::take(&mut *endpoints);
        if !known.iter().map(|endpoint| &endpoint.url).eq(&urls) {
            tracing::info!("proxy: endpoints found {:?}", urls.iter().map(Url::as_str).collect::<Vec<_>>());
        }
        let out_until =
            |url: &Url| known.iter().find(|endpoint| endpoint.url == *url).and_then(|known| known.out_until);
        *endpoints = urls.into_iter().map(|url| Endpoint { out_until: out_until(&url), url }).collect();
    }
}

fn render_cluster(urls: &[Url]) -> String {
    serde_json::json!({ "PeerURLs": urls.iter().map(Url::as_str).collect::<Vec<_>>() }).to_string()
}

/// The file as etcd writes it; `None` when there is none or it cannot be read.
fn read_cluster(file: &Path) -> Option<Vec<Url>> {
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    let urls: Option<Vec<Url>> =
        json["PeerURLs"].as_array()?.iter().map(|url| Url::parse(url.as_str()?).ok()).collect();
    urls.filter(|urls| !urls.is_empty())
}

fn write_cluster(file: &Path, text: &str) -> io::Result<()> {
    let temporary = file.with_extension("bak");
    std::fs::write(&temporary, text)?;
    std::fs::rename(temporary, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_file_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cluster");
        assert!(read_cluster(&file).is_none());
        let urls = Url::parse_list("http://a:1,http://b:2").unwrap();
        write_cluster(&file, &render_cluster(&urls)).unwrap();
        assert_eq!(read_cluster(&file), Some(urls));
        std::fs::write(&file, "{\"PeerURLs\":[]}").unwrap();
        assert!(read_cluster(&file).is_none());
    }
}
