//! How a new member learns of its cluster without `--initial-cluster`, and the settings of proxy mode.
//!
//! Owns: what `--discovery*` and `--proxy*` mean, and their messages. May touch: URLs and text; nothing is asked or
//! resolved here.
//!
//! Must always hold: a `ServiceUrl` has a host, a port and a path without doubled slashes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::url::Url;

/// What a URL without a port means.
const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;
/// Where name servers listen unless told otherwise.
const DNS_PORT: u16 = 53;

/// Ways to the cluster; at most one of `discovery` and `srv` is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joining {
    /// `--discovery`.
    pub discovery: Option<ServiceUrl>,
    /// `--discovery-fallback`.
    pub fallback: Fallback,
    /// `--discovery-proxy`.
    pub discovery_proxy: Option<ServiceUrl>,
    /// `--discovery-srv` and `--discovery-srv-name`.
    pub srv: Option<Srv>,
}

/// What becomes of a member that finds the discovered cluster full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    /// It serves as a proxy.
    #[default]
    Proxy,
    /// It ends.
    Exit,
}

/// A domain whose SRV records name the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Srv {
    /// The domain.
    pub domain: String,
    /// What stands behind `_etcd-server` and a dash; may be empty.
    pub suffix: String,
    /// Who is asked, if not the servers of `/etc/resolv.conf`.
    pub server: Option<SocketAddr>,
}

/// An HTTP URL with a path: a discovery token's, or a proxy's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceUrl {
    /// As given.
    pub text: String,
    /// Where to connect.
    pub endpoint: Url,
    /// `/a/b`, escaped as given, or empty.
    pub path: String,
}

impl ServiceUrl {
    /// Reads `http://HOST[:PORT][/PATH]`, or `https`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("{text:?} {why}");
        let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("is not http://HOST[:PORT][/PATH]"))?;
        let (scheme, port) = match scheme.to_ascii_lowercase().as_str() {
            "http" => ("http", HTTP_PORT),
            "https" => ("https", HTTPS_PORT),
            _ => return Err(bad("is not http://HOST[:PORT][/PATH]")),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let path = path.split(['?', '#']).next().unwrap_or_default();
        if authority.is_empty() || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(bad("is not http://HOST[:PORT][/PATH]"));
        }
        let port_given = authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let with_port = if port_given { authority.to_owned() } else { format!("{authority}:{port}") };
        let endpoint = Url::parse(&format!("{scheme}://{with_port}"))?;
        if endpoint.host().is_empty() || endpoint.port().is_none() {
            return Err(bad("has no host, or no proper port"));
        }
        let path = path.split('/').filter(|part| !part.is_empty()).fold(String::new(), |path, part| path + "/" + part);
        Ok(Self { text: text.to_owned(), endpoint, path })
    }
}

impl Srv {
    /// Reads `--ringd-dns-server`: `IP` or `IP:PORT`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_server(text: &str) -> Result<SocketAddr, String> {
        let address = text.parse().or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT)));
        address.map_err(|_| format!("{text:?} is not IP or IP:PORT"))
    }
}

/// Whether this process serves as a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyMode {
    /// It is a member.
    #[default]
    Off,
    /// A proxy that lets only reads through.
    ReadOnly,
    /// A proxy.
    On,
}

/// Settings of proxy mode, which may also begin by discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxySettings {
    /// Whether.
    pub mode: ProxyMode,
    /// How long a failed endpoint is left out.
    pub failure_wait: Duration,
    /// How often the members are asked who they are.
    pub refresh_interval: Duration,
    /// How long a connect may take; `None` is as long as the kernel tries.
    pub dial_timeout: Option<Duration>,
    /// How long a member may take nothing of a request.
    pub write_timeout: Option<Duration>,
    /// How long a member may send nothing of an answer. Watches wait for ever unless this is `None`.
    pub read_timeout: Option<Duration>,
}

/// `NAME=URL,...`: each name with its URLs, sorted.
///
/// # Errors
/// The text for the first bad URL.
pub fn parse_cluster(text: &str) -> Result<BTreeMap<String, Vec<Url>>, String> {
    let mut cluster: BTreeMap<String, Vec<Url>> = BTreeMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, url) = pair.split_once('=').unwrap_or((pair, ""));
        cluster.entry(name.to_owned()).or_default().push(Url::parse(url)?);
    }
    cluster.values_mut().for_each(|urls| urls.sort());
    Ok(cluster)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_urls_are_cut_into_place_and_path() {
        let parse = |text| ServiceUrl::parse(text).map(|url| (url.endpoint.to_string(), url.path));
        let ok = |endpoint: &str, path: &str| Ok((endpoint.to_owned(), path.to_owned()));
        assert_eq!(parse("http://h:1/v2/keys//tok/"), ok("http://h:1", "/v2/keys/tok"));
        assert_eq!(parse("HTTP://h"), ok("http://h:80", ""));
        assert_eq!(parse("http://[::1]/t?x=1#y"), ok("http://[::1]:80", "/t"));
        assert_eq!(parse("http://[::1]:7/"), ok("http://[::1]:7", ""));
        for bad in ["foo", "ftp://h/t", "http:///t", "http://h:x/t", "http://h:99999/t", "http://h/a b", "http://:1/t"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(parse("https://h/t"), ok("https://h:443", "/t"));
    }

    #[test]
    fn name_servers_are_addresses() {
        assert_eq!(Srv::parse_server("10.0.0.1"), Ok("10.0.0.1:53".parse().unwrap()));
        assert_eq!(Srv::parse_server("[::1]:8600"), Ok("[::1]:8600".parse().unwrap()));
        assert!(Srv::parse_server("ns.example").is_err());
    }
}
