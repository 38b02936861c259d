//! `--discovery-srv`: the members of a cluster out of a domain's SRV records, with hickory's resolver.
//!
//! Owns: the look-ups, on a thread of their own that ends with them, and which record is this member. Must hold: the
//! executor's thread never waits for a name server; equal records give equal clusters on every member, but for the names,
//! which members announce themselves once they run.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::{Resolver, TokioResolver};

use crate::config::joining::Srv;
use crate::config::url::Url;

/// Why the records do not make a cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SrvError {
    /// Neither kind of record was found.
    #[error("{0}")]
    NotFound(String),
    /// This member's own record has another scheme than its URL.
    #[error("bootstrap at {record} from DNS for {service} has scheme mismatch with expected peer {expected}")]
    SchemeMismatch {
        /// The record's URL.
        record: String,
        /// The service it belongs to.
        service: String,
        /// What this member advertises.
        expected: String,
    },
    /// No resolver, or no thread for it.
    #[error("{0}")]
    NoResolver(String),
}

/// One record with the addresses of its target.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    scheme: &'static str,
    target: String,
    port: u16,
    addresses: Vec<IpAddr>,
}

/// The cluster that the records describe: name to peer URLs. This member, `name`, is the one whose record leads to an
/// address it advertises.
///
/// # Errors
/// [`SrvError`].
pub async fn resolve(srv: &Srv, name: &str, advertised: &[Url]) -> Result<BTreeMap<String, Vec<Url>>, SrvError> {
    let (sender, receiver) = futures_channel::oneshot::channel();
    let (asked, hosts) = (srv.clone(), advertised.iter().map(|url| url.host().to_owned()).collect::<Vec<_>>());
    let started = std::thread::Builder::new().name("resolve".to_owned()).spawn(move || {
        let _ = sender.send(ask(&asked, &hosts));
    });
    started.map_err(|error| SrvError::NoResolver(error.to_string()))?;
    let answer = receiver.await.map_err(|_| SrvError::NoResolver("the resolver ended".to_owned()))?;
    let (found, own_hosts) = answer?;
    let own = advertised.iter().zip(own_hosts).flat_map(|(url, addresses)| {
        addresses.into_iter().filter_map(move |ip| Some((SocketAddr::new(ip, url.port()?), url)))
    });
    cluster(&found, name, &own.collect::<Vec<_>>(), srv)
}

/// Records and the addresses of this member's own hosts.
type Answer = (Vec<Found>, Vec<Vec<IpAddr>>);

fn ask(srv: &Srv, hosts: &[String]) -> Result<Answer, SrvError> {
    let failed = |error: &dyn std::fmt::Display| SrvError::NoResolver(error.to_string());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| failed(&error))?;
    runtime.block_on(async {
        let builder = match srv.server {
            None => Resolver::builder_tokio().map_err(|error| failed(&error))?,
            Some(server) => {
                let mut asked = NameServerConfig::udp_and_tcp(server.ip());
                asked.connections.iter_mut().for_each(|connection| connection.port = server.port());
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![asked]);
                Resolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        let resolver = builder.build().map_err(|error| failed(&error))?;
        let mut found = Vec::new();
        let mut failures = Vec::new();
        for (scheme, service) in services(srv) {
            match records(&resolver, scheme, &service, &srv.domain).await {
                Ok(records) => found.extend(records),
                Err(error) => failures.push(format!("error querying DNS SRV records for _{service} {error}")),
            }
        }
        if found.is_empty() && !failures.is_empty() {
            return Err(SrvError::NotFound(failures.join("; ")));
        }
        let mut own = Vec::new();
        for host in hosts {
            own.push(addresses(&resolver, host).await);
        }
        Ok((found, own))
    })
}

/// Both services, etcd's names.
fn services(srv: &Srv) -> [(&'static str, String); 2] {
    let suffix = if srv.suffix.is_empty() { String::new() } else { format!("-{}", srv.suffix) };
    [("https", format!("etcd-server-ssl{suffix}")), ("http", format!("etcd-server{suffix}"))]
}

async fn records(
    resolver: &TokioResolver,
    scheme: &'static str,
    service: &str,
    domain: &str,
) -> Result<Vec<Found>, String> {
    // With a dot at its end the name is complete: no search domain is appended.
    let name = format!("_{service}._tcp.{}.", domain.trim_end_matches('.'));
    let answer = resolver.srv_lookup(name.as_str()).await.map_err(|error| format!("lookup {name}: {error}"))?;
    let mut found = Vec::new();
    for record in answer.answers() {
        let RData::SRV(srv) = &record.data else { continue };
        let (full, port) = (srv.target.to_utf8(), srv.port);
        let addresses = addresses(resolver, &full).await;
        let target = full.trim_end_matches('.').to_owned();
        if addresses.is_empty() {
            tracing::warn!("{target}:{port} from DNS for {service} has no address; it is left out");
        } else {
            found.push(Found { scheme, target, port, addresses });
        }
    }
    found.sort();
    Ok(found)
}

async fn addresses(resolver: &TokioResolver, host: &str) -> Vec<IpAddr> {
    if let Ok(ip) = host.trim_end_matches('.').parse() {
        return vec![ip];
    }
    match resolver.lookup_ip(host).await {
        Ok(found) => found.iter().collect(),
        Err(error) => {
            tracing::warn!("lookup {host}: {error}");
            Vec::new()
        }
    }
}

/// Names the records: this member's by its name, the others by number, as etcd does.
fn cluster(
    found: &[Found],
    name: &str,
    own: &[(SocketAddr, &Url)],
    srv: &Srv,
) -> Result<BTreeMap<String, Vec<Url>>, SrvError> {
    let mut cluster: BTreeMap<String, Vec<Url>> = BTreeMap::new();
    let mut others = 0;
    for record in found {
        let is_own = |address: &SocketAddr| {
            address.port() == record.port && record.addresses.iter().any(|&ip| ip == address.ip())
        };
        let text = format!("{}://{}:{}", record.scheme, record.target, record.port);
        let expected = own.iter().find(|(address, _)| is_own(address)).map(|(_, url)| *url);
        let member = match expected {
            Some(expected) if expected.as_str().split("://").next() != Some(record.scheme) => {
                let service = services(srv).into_iter().find(|(scheme, _)| *scheme == record.scheme);
                let service = service.map(|(_, service)| service).unwrap_or_default();
                return Err(SrvError::SchemeMismatch { record: text, service, expected: expected.to_string() });
            }
            Some(_) => name.to_owned(),
            None => {
                others += 1;
                (others - 1).to_string()
            }
        };
        tracing::info!("got bootstrap from DNS for etcd-server at {member}={text}");
        let url = Url::parse(&text).map_err(SrvError::NotFound)?;
        cluster.entry(member).or_default().push(url);
    }
    cluster.values_mut().for_each(|urls| urls.sort());
    Ok(cluster)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(scheme: &'static str, target: &str, port: u16, ip: [u8; 4]) -> Found {
        Found { scheme, target: target.to_owned(), port, addresses: vec![ip.into()] }
    }

    #[test]
    fn the_own_record_is_known_by_its_address() {
        let srv = Srv { domain: "d".to_owned(), suffix: String::new(), server: None };
        let own_url = Url::parse("http://b.d:2380").unwrap();
        let own = [(SocketAddr::from(([10, 0, 0, 2], 2380)), &own_url)];
        let found = [record("http", "a.d", 2380, [10, 0, 0, 1]), record("http", "b.d", 2380, [10, 0, 0, 2])];
        let named = cluster(&found, "me", &own, &srv).unwrap();
        let shown: Vec<String> = named.iter().map(|(name, urls)| format!("{name}={}", urls[0])).collect();
        assert_eq!(shown, ["0=http://a.d:2380", "me=http://b.d:2380"]);
        let other_port = [(SocketAddr::from(([10, 0, 0, 2], 2381)), &own_url)];
        assert!(!cluster(&found, "me", &other_port, &srv).unwrap().contains_key("me"));
        let mismatch = cluster(&[record("https", "b.d", 2380, [10, 0, 0, 2])], "me", &own, &srv).unwrap_err();
        assert!(mismatch.to_string().contains("scheme mismatch with expected peer http://b.d:2380"), "{mismatch}");
    }

    #[test]
    fn services_carry_the_suffix() {
        let srv = Srv { domain: "d".to_owned(), suffix: "x".to_owned(), server: None };
        assert_eq!(services(&srv).map(|(_, service)| service), ["etcd-server-ssl-x", "etcd-server-x"]);
    }
}
