//! Discovery: the members of a new cluster find each other in a directory of a running ringd or etcd.
//!
//! Owns: etcd's v2 discovery protocol. `_config/size` in the directory says how many members there will be; each writes
//! `NAME=URL` under its own id, once; the first so many by creation are the cluster. Touches: the service over HTTP.
//!
//! Must hold: who is one too many never becomes a member; a service that does not answer is asked again, for ever.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use glommio::timer::Timer;
use ringd_storage::ids::MemberId;
use serde_json::Value;

use super::bootstrap;
use super::dial::{self, Request};
use crate::config::Config;
use crate::config::discovery::Discovery;
use crate::config::url::{self, Url};

/// One question to the service.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at who has come, and after a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// A failing service is told of once in so many tries.
const TELL_EVERY: u32 = 10;

/// Why there is no cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// All places are taken.
    #[error("discovery: cluster is full")]
    Full,
    /// This member has registered before, and its data is gone.
    #[error(
        "member {name:?} has previously registered with discovery service token ({token}), but no cluster configuration \
         was found in the data dir; check its path, or use a new discovery token"
    )]
    DuplicateId {
        /// The member.
        name: String,
        /// The token.
        token: String,
    },
    /// Two members have one name.
    #[error(
        "member with duplicated name has registered with discovery service token ({0}); generate a new token to bootstrap \
         the cluster"
    )]
    DuplicateName(String),
    /// The directory is not one.
    #[error("{0}; discovery token {1} was used, but failed to bootstrap the cluster; generate a new one and try again")]
    Broken(String, String),
}

/// A member that has registered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Registered {
    key: String,
    value: String,
    created: u64,
}

/// Registers this member, waits for the others, and returns the settings with the cluster in them.
///
/// # Errors
/// [`DiscoveryError`].
pub async fn discover(config: &Config, discovery: &Discovery) -> Result<Config, DiscoveryError> {
    let mut founding = config.clone();
    founding.initial_cluster_token.clone_from(&discovery.text);
    founding.initial_cluster = BTreeMap::from([(config.name.clone(), config.initial_advertise_peer_urls.clone())]);
    let own = bootstrap::founding_identity(&founding).expect("the list names this member alone").member;
    let broken = |why: &str| DiscoveryError::Broken(format!("discovery: {why}"), discovery.text.clone());
    let size = read_size(discovery).await.map_err(|why| broken(&why))?;
    let first = until_answered(discovery, list_of).await.map_err(|why| broken(&why))?;
    chosen(&first, own, size)?;
    let text = founding.initial_cluster_text();
    let created = until_answered(discovery, |discovery| register(discovery, own, text.clone())).await;
    if !created.map_err(|why| broken(&why))? {
        return Err(DiscoveryError::DuplicateId { name: config.name.clone(), token: discovery.text.clone() });
    }
    let mut told = usize::MAX;
    let members = loop {
        let list = until_answered(discovery, list_of).await.map_err(|why| broken(&why))?;
        let members = chosen(&list, own, size)?;
        if members.len() >= size {
            break members;
        }
        if told != members.len() {
            told = members.len();
            tracing::info!("discovery: found {told} peer(s), waiting for {} more", size - told);
        }
        Timer::new(PAUSE).await;
    };
    tracing::info!("discovery: found {} needed peer(s)", members.len());
    let text = members.iter().map(|member| member.value.as_str()).collect::<Vec<_>>().join(",");
    founding.initial_cluster = cluster_of(&text).map_err(|why| broken(&why))?;
    if founding.initial_cluster.len() < size {
        return Err(DiscoveryError::DuplicateName(discovery.text.clone()));
    }
    Ok(founding)
}

fn is(member: &Registered, id: MemberId) -> bool {
    member.key.rsplit('/').next() == Some(id.to_string().as_str())
}

/// The first `size` members by creation, `own` among them unless there is room for it yet.
fn chosen(list: &[Registered], own: MemberId, size: usize) -> Result<Vec<Registered>, DiscoveryError> {
    let mut members = list.to_vec();
    members.sort_by_key(|member| member.created);
    let place = members.iter().position(|member| is(member, own)).unwrap_or(members.len());
    if place >= size {
        return Err(DiscoveryError::Full);
    }
    members.truncate(size);
    Ok(members)
}

/// `name=url,name=url`.
fn cluster_of(text: &str) -> Result<BTreeMap<String, Vec<Url>>, String> {
    let mut cluster: BTreeMap<String, Vec<Url>> = BTreeMap::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (name, url) = pair.split_once('=').ok_or_else(|| format!("a member registered as {pair:?}"))?;
        let url = Url::parse(url)?;
        cluster.entry(name.to_owned()).or_default().push(url);
    }
    cluster.values_mut().for_each(|urls| urls.sort());
    let all: Vec<&Url> = cluster.values().flatten().collect();
    if all.iter().enumerate().any(|(place, url)| all[..place].iter().any(|other| other.is_same_place(url))) {
        let owned: Vec<Url> = all.into_iter().cloned().collect();
        return Err(format!("two members registered the same URL ({})", url::join(&owned)));
    }
    Ok(cluster)
}

/// What the service said, or that it must be asked again.
enum Said<T> {
    Answer(T),
    Again(String),
    /// It will not become better.
    Never(String),
}

async fn until_answered<T, F, A>(discovery: &Discovery, ask: F) -> Result<T, String>
where
    F: Fn(Discovery) -> A,
    A: Future<Output = Said<T>>,
{
    let mut tries: u32 = 0;
    loop {
        match ask(discovery.clone()).await {
            Said::Answer(answer) => return Ok(answer),
            Said::Never(why) => return Err(why),
            Said::Again(why) if tries.is_multiple_of(TELL_EVERY) => {
                tracing::warn!("discovery: cannot ask {}: {why}; trying again", discovery.text);
            }
            Said::Again(_) => {}
        }
        tries = tries.wrapping_add(1);
        Timer::new(PAUSE).await;
    }
}

/// One request below the directory: status and body.
async fn ask(discovery: &Discovery, method: &str, below: &str, form: &str) -> io::Result<(u16, Value)> {
    let (service, path) = (&discovery.service, &discovery.path);
    let host = service.host_port();
    let target = match &discovery.proxy {
        None => format!("{path}{below}"),
        Some(_) => format!("http://{host}{path}{below}"),
    };
    let request = Request { method, target: &target, host: &host, form };
    let (answer, body) = dial::exchange(discovery.proxy.as_ref().unwrap_or(service), &request, ASK_LIMIT).await?;
    let json = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Ok((answer.status, json))
}

async fn read_size(discovery: &Discovery) -> Result<usize, String> {
    until_answered(discovery, |discovery| async move {
        match ask(&discovery, "GET", "/_config/size", "").await {
            Ok((200, json)) => match json["node"]["value"].as_str().and_then(|text| text.parse::<usize>().ok()) {
                Some(size) if size > 0 => Said::Answer(size),
                _ => Said::Never("size key is bad".to_owned()),
            },
            Ok((404, _)) => Said::Never("size key not found".to_owned()),
            Ok((status, _)) => Said::Again(format!("it answered with status {status}")),
            Err(error) => Said::Again(error.to_string()),
        }
    })
    .await
}

async fn list_of(discovery: Discovery) -> Said<Vec<Registered>> {
    match ask(&discovery, "GET", "", "").await {
        Ok((200, json)) => match registered(&json) {
            Some(list) => Said::Answer(list),
            None => Said::Never("the directory holds what no member wrote".to_owned()),
        },
        Ok((404, _)) => Said::Never("size key not found".to_owned()),
        Ok((status, _)) => Said::Again(format!("it answered with status {status}")),
        Err(error) => Said::Again(error.to_string()),
    }
}

fn registered(json: &Value) -> Option<Vec<Registered>> {
    let nodes = json["node"]["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    let members = nodes.iter().filter(|node| node["dir"] != true).map(|node| {
        Some(Registered {
            key: node["key"].as_str()?.to_owned(),
            value: node["value"].as_str()?.to_owned(),
            created: node["createdIndex"].as_u64()?,
        })
    });
    members.collect()
}

/// Whether this member's key was made now; false when it is there already.
async fn register(discovery: Discovery, own: MemberId, text: String) -> Said<bool> {
    let escape = |text: &str| -> String {
        text.bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
                _ => format!("%{byte:02X}"),
            })
            .collect()
    };
    let form = format!("value={}", escape(&text));
    match ask(&discovery, "PUT", &format!("/{own}?prevExist=false"), &form).await {
        Ok((201, _)) => Said::Answer(true),
        Ok((412, _)) => Said::Answer(false),
        Ok((status, _)) => Said::Again(format!("it answered with status {status}")),
        Err(error) => Said::Again(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, created: u64) -> Registered {
        Registered { key: format!("/t/{id:x}"), value: format!("m{id}=http://h{id}:1"), created }
    }

    #[test]
    fn the_first_by_creation_are_the_cluster() {
        let list = [member(3, 30), member(1, 10), member(2, 20)];
        let ids = |own| {
            chosen(&list, MemberId::new(own), 2).map(|members| members.iter().map(|m| m.created).collect::<Vec<_>>())
        };
        assert_eq!(ids(1), Ok(vec![10, 20]));
        assert_eq!(ids(3), Err(DiscoveryError::Full));
        assert_eq!(ids(9), Err(DiscoveryError::Full), "not registered, and no room");
        assert!(chosen(&list, MemberId::new(9), 4).is_ok());
    }

    #[test]
    fn registrations_are_read_as_the_service_shows_them() {
        let json = serde_json::json!({"node": {"key": "/t", "dir": true, "nodes": [
            {"key": "/t/_config", "dir": true}, {"key": "/t/ab", "value": "a=http://h:1", "createdIndex": 7},
        ]}});
        let list = registered(&json).unwrap();
        assert_eq!(list.len(), 1);
        assert!(is(&list[0], MemberId::new(0xab)));
        assert_eq!(registered(&serde_json::json!({"node": {"nodes": [{"key": "/t/x"}]}})), None);
    }

    #[test]
    fn members_are_put_together() {
        let cluster = cluster_of("b=http://h2:1,a=http://h1:2,a=http://h1:1").unwrap();
        assert_eq!((cluster.len(), url::join(&cluster["a"])), (2, "http://h1:1,http://h1:2".to_owned()));
        assert!(cluster_of("a=http://h:1,b=http://h:1").is_err() && cluster_of("nonsense").is_err());
    }
}
