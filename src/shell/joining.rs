//! Member or proxy, and of which cluster: what is decided before anything is opened.
//!
//! Owns: the look at the data directory, SRV records and discovery at a first start, the fallback to a proxy. Touches: the
//! data directory, reading only.
//!
//! Must hold: a directory that has been a member's or a proxy's stays that, whatever the flags say; a token and records
//! are looked at only when there is no log yet.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::start::StartError;
use super::{bootstrap, discovery, srv};
use crate::api::discovery::{Discovery, DiscoveryError};
use crate::config::joining::{Fallback, Joining, ProxyMode, ServiceUrl};
use crate::config::url::{self, Url};
use crate::config::{ClusterState, Config};

/// What this process is to be.
#[derive(Debug)]
pub enum Role {
    /// A member with these settings.
    Member(Box<Config>),
    /// A proxy.
    Proxy,
}

/// What a data directory has been used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Used {
    Member,
    Proxy,
    Not,
}

/// Decides. Waits for others where discovery does.
///
/// # Errors
/// [`StartError::Config`] in etcd's words.
pub async fn decide(config: &Config) -> Result<Role, StartError> {
    let used = identify(&config.data_dir)?;
    if let Some(as_what) = match used {
        Used::Member => Some("member"),
        Used::Proxy => Some("proxy"),
        Used::Not => None,
    } {
        tracing::info!("the server is already initialized as {as_what} before, starting as etcd {as_what}...");
    }
    if used == Used::Proxy || (used == Used::Not && config.proxy.mode != ProxyMode::Off) {
        return Ok(Role::Proxy);
    }
    let wal_dir = config.wal_dir.clone().unwrap_or_else(|| config.data_dir.join("member").join("wal"));
    if holds_log(&wal_dir)? {
        if config.joining.discovery.is_some() {
            tracing::warn!(
                "discovery token ignored since a cluster has already been initialized. Valid log found at {:?}",
                wal_dir.display()
            );
        }
        return Ok(Role::Member(Box::new(config.clone())));
    }
    match &config.joining {
        Joining { srv: Some(_), .. } => {
            let initial_cluster = by_srv(config).await?;
            if !initial_cluster.contains_key(&config.name) {
                let text = format!("cannot find local etcd member {:?} in SRV records", config.name);
                return Err(StartError::Config(format!("error setting up initial cluster: {text}")));
            }
            // Its record leads to where it is, maybe under another name than it was given.
            let mut initial_advertise_peer_urls = config.initial_advertise_peer_urls.clone();
            if initial_cluster[&config.name].len() == initial_advertise_peer_urls.len() {
                initial_advertise_peer_urls.clone_from(&initial_cluster[&config.name]);
            }
            Ok(Role::Member(Box::new(Config { initial_cluster, initial_advertise_peer_urls, ..config.clone() })))
        }
        Joining { discovery: Some(url), .. } => join(config, url).await,
        _ => Ok(Role::Member(Box::new(config.clone()))),
    }
}

async fn join(config: &Config, service: &ServiceUrl) -> Result<Role, StartError> {
    if config.initial_cluster_state == ClusterState::Existing {
        let text = "discovery URL should not be set when joining existing initial cluster";
        return Err(StartError::Config(text.to_owned()));
    }
    config.check_bootstrap().map_err(|error| StartError::Config(error.to_string()))?;
    let own = bootstrap::founding_identity(config).expect("the own name was just found").member;
    tracing::info!("discovery URL= {}", service.text);
    let discovery = Discovery::join(&service.path, &own.to_string(), &config.initial_cluster_text());
    match discovery::run(service, config.joining.discovery_proxy.as_ref(), discovery).await {
        Ok(initial_cluster) => {
            let all: Vec<&Url> = initial_cluster.values().flatten().collect();
            if all.iter().enumerate().any(|(at, url)| all[..at].iter().any(|other| other.is_same_place(url))) {
                let urls = all.into_iter().cloned().collect::<Vec<_>>();
                return Err(StartError::Config(format!("discovery cluster {} has duplicate url", url::join(&urls))));
            }
            Ok(Role::Member(Box::new(Config { initial_cluster, ..config.clone() })))
        }
        Err(DiscoveryError::Full) if config.joining.fallback == Fallback::Proxy => {
            tracing::info!("discovery cluster full, falling back to proxy");
            Ok(Role::Proxy)
        }
        Err(error) => Err(StartError::Config(explain(config, service, &error))),
    }
}

/// Tells the operator what etcd tells; returns what the process ends with.
fn explain(config: &Config, service: &ServiceUrl, error: &DiscoveryError) -> String {
    let token = &service.text;
    match error {
        DiscoveryError::DuplicateId => {
            tracing::error!(
                "member {:?} has previously registered with discovery service token ({token}).",
                config.name
            );
            tracing::error!(
                "But ringd could not find valid cluster configuration in the given data dir ({}).",
                config.data_dir.display()
            );
            tracing::info!("Please check the given data dir path if the previous bootstrap succeeded");
            tracing::info!("or use a new discovery token if the previous bootstrap failed.");
        }
        DiscoveryError::DuplicateName => {
            tracing::error!("member with duplicated name has registered with discovery service token({token}).");
            tracing::error!("please check (cURL) the discovery token for more information.");
            tracing::error!("please do not reuse the discovery token and generate a new one to bootstrap the cluster.");
        }
        _ => {
            tracing::info!("discovery token {token} was used, but failed to bootstrap the cluster.");
            tracing::info!("please generate a new discovery token and try to bootstrap again.");
        }
    }
    format!("failed to join discovery cluster ({error})")
}

/// Where the members of a cluster are, for a proxy that has no file yet.
///
/// # Errors
/// [`StartError::Config`].
pub async fn peers_for_proxy(config: &Config) -> Result<Vec<String>, StartError> {
    let cluster = match &config.joining {
        Joining { srv: Some(_), .. } => by_srv(config).await?,
        Joining { discovery: Some(service), discovery_proxy, .. } => {
            let looked = discovery::run(service, discovery_proxy.as_ref(), Discovery::look(&service.path)).await;
            looked.map_err(|error| StartError::Config(error.to_string()))?
        }
        _ => config.initial_cluster.clone(),
    };
    let mut urls: Vec<String> = cluster.values().flatten().map(ToString::to_string).collect();
    urls.sort();
    Ok(urls)
}

async fn by_srv(config: &Config) -> Result<BTreeMap<String, Vec<Url>>, StartError> {
    let srv = config.joining.srv.as_ref().expect("asked only when it is given");
    let found = srv::resolve(srv, &config.name, &config.initial_advertise_peer_urls).await;
    found.map_err(|error| {
        tracing::error!("couldn't resolve during SRV discovery ({error})");
        StartError::Config(format!("error setting up initial cluster: {error}"))
    })
}

/// The names in a directory; none when it does not exist.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    match std::fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io::Error::new(error.kind(), format!("cannot list {}: {error}", dir.display()))),
    }
}

fn identify(data_dir: &Path) -> Result<Used, StartError> {
    let mut used = Used::Not;
    for name in names(data_dir)? {
        used = match (name.as_str(), used) {
            ("member", Used::Not | Used::Member) => Used::Member,
            ("proxy", Used::Not | Used::Proxy) => Used::Proxy,
            ("member" | "proxy", _) => {
                let text = "invalid datadir. Both member and proxy directories exist.";
                return Err(StartError::Config(text.to_owned()));
            }
            _ => {
                tracing::warn!(
                    "found invalid file/dir {name} under data dir {} (Ignore this if you are upgrading etcd)",
                    data_dir.display()
                );
                used
            }
        };
    }
    Ok(used)
}

fn holds_log(wal_dir: &Path) -> io::Result<bool> {
    Ok(names(wal_dir)?.iter().any(|name| name.ends_with(".wal")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_stays_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert_eq!(identify(&root.join("nothing")).unwrap(), Used::Not);
        std::fs::write(root.join("lost+found"), b"").unwrap();
        assert_eq!(identify(root).unwrap(), Used::Not);
        std::fs::create_dir(root.join("proxy")).unwrap();
        assert_eq!(identify(root).unwrap(), Used::Proxy);
        std::fs::create_dir_all(root.join("member/wal")).unwrap();
        let both = identify(root).unwrap_err().to_string();
        assert_eq!(both, "invalid datadir. Both member and proxy directories exist.");
        let wal = root.join("member/wal");
        assert!(!holds_log(&wal).unwrap());
        std::fs::write(wal.join("0000000000000001-0000000000000001.wal"), b"").unwrap();
        assert!(holds_log(&wal).unwrap());
    }
}
