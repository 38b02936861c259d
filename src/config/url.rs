//! URLs as flags carry them: `scheme://host:port`, nothing behind.
//!
//! Owns: what Go's `url.Parse` and etcd's `types.NewURLs` accept of such URLs, and their messages. May touch: text
//! only; no name is resolved.
//!
//! Must always hold: a `Url` prints as it was written, without surrounding blanks; its host and port are not empty
//! of structure: `host:port` splits in one way.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Where a socket listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A file. `unix://HOST:PORT` is a file named `HOST:PORT` in the working directory, as in etcd.
    Unix(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp {address}"),
            Self::Unix(path) => write!(f, "unix {}", path.display()),
        }
    }
}

/// What may stand before `://`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
    /// HTTP on a Unix socket.
    Unix,
    /// HTTP over TLS on a Unix socket.
    Unixs,
}

/// One URL of a URL list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    text: String,
    scheme: Scheme,
    host: String,
    port: String,
}

impl Url {
    /// Parses one URL; the error is etcd's text for it.
    ///
    /// # Errors
    /// The message that belongs behind `invalid value "..." for flag -x: `.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some(bad) = text.bytes().find(u8::is_ascii_control) {
            return Err(format!("parse {text:?}: net/url: invalid control character in URL ({bad:#04x})"));
        }
        let unknown = || format!("URL scheme must be http, https, unix, or unixs: {text}");
        let Some((scheme, rest)) = text.split_once("://") else {
            let first = text.split('/').next().unwrap_or_default();
            // Go reads `localhost:2379` as scheme `localhost`, but `127.0.0.1:2379` as a bad relative path.
            if first.contains(':') && !first.starts_with(|c: char| c.is_ascii_alphabetic()) {
                return Err(format!("parse {text:?}: first path segment in URL cannot contain colon"));
            }
            return Err(unknown());
        };
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            _ => return Err(unknown()),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let bare = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let no_port = || format!("URL address does not have the form \"host:port\": {text}");
        let (host, port) = split_host_port(bare).ok_or_else(no_port)?;
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("parse {text:?}: invalid port {:?} after host", format!(":{port}")));
        }
        if !path.is_empty() {
            return Err(format!("URL must not contain a path: {text}"));
        }
        Ok(Self { text: text.to_owned(), scheme, host: host.to_owned(), port: port.to_owned() })
    }

    /// Parses a comma-separated list, sorted as etcd sorts it. An empty text is an empty list.
    ///
    /// # Errors
    /// As `parse`, for the first bad URL.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let mut urls = text.split(',').map(Self::parse).collect::<Result<Vec<_>, _>>()?;
        urls.sort();
        Ok(urls)
    }

    /// The URL as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its scheme.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Host without brackets: a name or an address.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port if it is one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port.parse().ok()
    }

    /// Where to listen for this URL. `localhost` is 127.0.0.1, as in etcd.
    ///
    /// # Errors
    /// etcd's text: names cannot be listened on, and a port has 16 bits.
    pub fn bind_place(&self) -> Result<Place, String> {
        if let Some(path) = self.socket_path() {
            return Ok(Place::Unix(path));
        }
        let ip = self.address().ok_or_else(|| format!("expected IP in URL for binding ({self})"))?;
        let port = self.port().ok_or_else(|| format!("listen tcp: address {}: invalid port", self.port))?;
        Ok(Place::Tcp(SocketAddr::new(ip, port)))
    }

    /// Whether TLS is spoken there.
    #[must_use]
    pub const fn is_secure(&self) -> bool {
        matches!(self.scheme, Scheme::Https | Scheme::Unixs)
    }

    /// The socket file of a `unix` or `unixs` URL.
    #[must_use]
    pub fn socket_path(&self) -> Option<PathBuf> {
        matches!(self.scheme, Scheme::Unix | Scheme::Unixs).then(|| PathBuf::from(self.host_port()))
    }

    /// `host:port` as it stands in the URL, for a `Host` header.
    #[must_use]
    pub fn host_port(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Whether two lists name the same places, in any order.
    #[must_use]
    pub fn are_same_places(one: &[Self], other: &[Self]) -> bool {
        let within = |these: &[Self], those: &[Self]| {
            these.iter().all(|url| those.iter().any(|candidate| candidate.is_same_place(url)))
        };
        one.len() == other.len() && within(one, other) && within(other, one)
    }

    /// Whether two URLs name one place, `localhost` being 127.0.0.1.
    #[must_use]
    pub fn is_same_place(&self, other: &Self) -> bool {
        let same_host = match (self.address(), other.address()) {
            (Some(a), Some(b)) => a == b,
            _ => self.host.eq_ignore_ascii_case(&other.host),
        };
        same_host && self.scheme == other.scheme && self.port == other.port
    }

    /// The host if it is an address; `localhost` is 127.0.0.1.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        if self.host == "localhost" { Some(Ipv4Addr::LOCALHOST.into()) } else { self.host.parse().ok() }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// URLs joined by commas, for messages.
#[must_use]
pub fn join(urls: &[Url]) -> String {
    urls.iter().map(Url::as_str).collect::<Vec<_>>().join(",")
}

/// `host:port` or `[v6]:port`, as Go's `net.SplitHostPort`.
fn split_host_port(text: &str) -> Option<(&str, &str)> {
    let (host, port) = text.rsplit_once(':')?;
    match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').map(|host| (host, port)),
        None if host.contains([':', '[', ']']) => None,
        None => Some((host, port)),
    }
}
