//! The first start of a member: founding a cluster with others, joining one that runs, or going on alone.
//!
//! Owns: which identity a member takes when its directory is empty, and what its log begins with. Touches: other members
//! over HTTP, the WAL before any node exists.
//!
//! Invariants:
//! 1. Equal flags give equal ids on every member, etcd's ids.
//! 2. A member whose cluster already knows it as started does not found it again with an empty log.
//! 3. Who begins in an empty directory beside others is noted as one who may have forgotten something, before its WAL
//!    exists.

use std::collections::BTreeMap;
use std::time::Duration;

use glommio::timer::Timer;
use ringd_storage::format::Identity;
use ringd_storage::fs::FsMedium;
use ringd_storage::ids::{ClusterId, MemberId};
use ringd_storage::record::Record;
use ringd_storage::recover::{Recovered, note_empty_start};

use super::dial;
use super::start::StartError;
use super::tls_files::Side;
use crate::api::peer_members;
use crate::config::url::{self, Url};
use crate::config::{ClusterState, Config};
use crate::core::entries::Append;
use crate::core::forced;
use crate::core::membership::{self, Member};

/// A running member answers at once; one that has not answered by then is not asked again in this round.
const ASK_LIMIT: Duration = Duration::from_secs(1);
/// Between two rounds of asking who is in the cluster that is to be joined.
const JOIN_PAUSE: Duration = Duration::from_secs(1);
/// One line in so many rounds.
const TELL_EVERY: u32 = 10;

/// How a member with an empty directory begins.
#[derive(Debug)]
pub struct Beginning {
    /// Who it is.
    pub identity: Identity,
    /// Who else there is, as far as is known.
    pub members: Vec<Member>,
}

/// The members that the flags name.
#[must_use]
pub fn initial_members(config: &Config) -> Vec<Member> {
    let token = &config.initial_cluster_token;
    let members = config.initial_cluster.iter().map(|(name, urls)| {
        let peer_urls: Vec<String> = urls.iter().map(ToString::to_string).collect();
        let id = membership::member_id(&peer_urls, token);
        Member { id, name: name.clone(), peer_urls, client_urls: Vec::new() }
    });
    members.collect()
}

/// Who this member is by the flags alone; `None` when they do not name it.
#[must_use]
pub fn founding_identity(config: &Config) -> Option<Identity> {
    let members = initial_members(config);
    let own = members.iter().find(|member| member.name == config.name)?;
    Some(Identity { cluster: membership::cluster_id(members.iter().map(|member| member.id)), member: own.id })
}

/// Decides who this member is. Asks others as far as the flags want it; waits for as long as a cluster that is to be
/// joined does not answer.
///
/// # Errors
/// [`StartError::Config`] in etcd's words.
pub async fn begin(config: &Config, tls: &Side, wal_dir: &FsMedium) -> Result<Beginning, StartError> {
    config.check_bootstrap().map_err(|error| StartError::Config(error.to_string()))?;
    let beginning = match config.initial_cluster_state {
        ClusterState::New => found(config, tls).await?,
        ClusterState::Existing => join(config, tls).await?,
    };
    if beginning.members.len() > 1 {
        note_empty_start(wal_dir)?;
    }
    Ok(beginning)
}

/// The URLs of the other members that the flags name.
fn other_urls(config: &Config) -> Vec<&Url> {
    config.initial_cluster.iter().filter(|(name, _)| **name != config.name).flat_map(|(_, urls)| urls).collect()
}

async fn found(config: &Config, tls: &Side) -> Result<Beginning, StartError> {
    let identity = founding_identity(config).expect("check_bootstrap found this member");
    for url in other_urls(config) {
        let Ok((cluster, members)) = ask(tls, url).await else { continue };
        let known = members.iter().find(|member| member.id == identity.member);
        if cluster == identity.cluster && known.is_some_and(|own| !own.client_urls.is_empty()) {
            return Err(StartError::Config(format!("member {} has already been bootstrapped", identity.member)));
        }
    }
    Ok(Beginning { identity, members: initial_members(config) })
}

async fn join(config: &Config, tls: &Side) -> Result<Beginning, StartError> {
    let urls = other_urls(config);
    if urls.is_empty() {
        return Err(StartError::Config(
            "cannot fetch cluster info from peer urls: --initial-cluster names no other member, and \
             --initial-cluster-state is existing"
                .to_owned(),
        ));
    }
    let mut rounds = 0;
    let (cluster, members) = 'found: loop {
        for url in &urls {
            match ask(tls, url).await {
                Ok(found) => break 'found found,
                Err(error) if rounds % TELL_EVERY == 0 => {
                    tracing::warn!("could not get cluster response from {url}: {error}; trying again");
                }
                Err(_) => {}
            }
        }
        rounds += 1;
        Timer::new(JOIN_PAUSE).await;
    };
    let own = match_members(&config.initial_cluster, &members, &config.name).map_err(StartError::Config)?;
    Ok(Beginning { identity: Identity { cluster, member: own }, members })
}

async fn ask(tls: &Side, url: &Url) -> Result<(ClusterId, Vec<Member>), String> {
    let (answer, body) = dial::get(tls, url, "/members", ASK_LIMIT).await.map_err(|error| error.to_string())?;
    let cluster = answer.cluster.filter(|_| answer.status == 200);
    let members = peer_members::parse(&body)?;
    match cluster {
        Some(cluster) if !members.is_empty() => Ok((cluster, members)),
        _ => Err(format!("it answered with status {} and {} members", answer.status, members.len())),
    }
}

/// Finds each configured member in the list of a running cluster by its peer URLs; the id of the one named `name`.
fn match_members(configured: &BTreeMap<String, Vec<Url>>, members: &[Member], name: &str) -> Result<MemberId, String> {
    let fail = |why: String| Err(format!("error validating peerURLs: {why}"));
    if configured.len() != members.len() {
        return fail(format!(
            "member count is unequal: --initial-cluster names {}, the cluster has {}",
            configured.len(),
            members.len()
        ));
    }
    let mut own = None;
    for (configured_name, urls) in configured {
        let found = members.iter().find(|member| {
            let theirs: Vec<Url> = member.peer_urls.iter().filter_map(|url| Url::parse(url).ok()).collect();
            Url::are_same_places(urls, &theirs)
        });
        let Some(found) = found else {
            return fail(format!("unmatched member while checking PeerURLs ({configured_name}={})", url::join(urls)));
        };
        if configured_name == name {
            own = Some(found.id);
        }
    }
    own.ok_or_else(|| format!("couldn't find local name {name:?} in the initial cluster configuration"))
}

/// Writes the log that a new cluster begins with.
///
/// # Errors
/// [`StartError::Bootstrap`].
pub fn write_first_log(members: &[Member], recovered: &mut Recovered<FsMedium>) -> Result<(), StartError> {
    write_synced(&membership::bootstrap_log(members), recovered)
}

/// Continues the log so that this member is alone (`--force-new-cluster`).
///
/// # Errors
/// [`StartError::Bootstrap`].
pub fn go_on_alone(recovered: &mut Recovered<FsMedium>) -> Result<(), StartError> {
    let Identity { cluster, member } = recovered.identity;
    let (voters, learners) =
        recovered.snapshot.as_ref().map_or((&[][..], &[][..]), |(meta, _)| (&meta.voters, &meta.learners));
    let append = forced::append_alone(member, voters, learners, &recovered.entries, &recovered.hard_state)
        .map_err(StartError::Bootstrap)?;
    let last = recovered.entries.last().map_or(recovered.hard_state.commit, |entry| entry.index);
    tracing::warn!("forcing restart of member {member} in cluster {cluster} at commit index {last}");
    write_synced(&append, recovered)
}

/// Appends to a WAL that no node uses yet, syncs it, and leaves `recovered` as if it had been read back.
fn write_synced(append: &Append, recovered: &mut Recovered<FsMedium>) -> Result<(), StartError> {
    let failed = |error: &dyn std::fmt::Display| StartError::Bootstrap(error.to_string());
    let mut frame = recovered.wal.begin();
    for record in append.records() {
        match record {
            Record::Entry(entry) => {
                frame.push_entry(&entry);
                recovered.entries.push(entry.into());
            }
            Record::HardState(state) => {
                frame.push_hard_state(&state);
                recovered.hard_state = state;
            }
            Record::SnapshotMarker { .. } => unreachable!("no snapshot is made before a node runs"),
        }
    }
    frame.finish().map_err(|error| failed(&error))?;
    if let Some(ticket) = recovered.wal.begin_sync().map_err(|error| failed(&error))? {
        ticket.run().map_err(|error| failed(&error))?;
        recovered.wal.finish_sync(ticket);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, urls: &[&str]) -> Member {
        let peer_urls = urls.iter().map(|&url| url.to_owned()).collect();
        Member { id: MemberId::new(id), name: String::new(), peer_urls, client_urls: Vec::new() }
    }

    #[test]
    fn members_are_matched_by_their_urls() {
        let url = |text: &str| Url::parse(text).unwrap();
        let configured = BTreeMap::from([
            ("a".to_owned(), vec![url("http://10.0.0.1:1"), url("http://10.0.0.1:2")]),
            ("b".to_owned(), vec![url("http://localhost:3")]),
        ]);
        let running = [member(7, &["http://127.0.0.1:3"]), member(8, &["http://10.0.0.1:2", "http://10.0.0.1:1"])];
        assert_eq!(match_members(&configured, &running, "b"), Ok(MemberId::new(7)));
        assert_eq!(match_members(&configured, &running, "a"), Ok(MemberId::new(8)));
        assert!(match_members(&configured, &running[..1], "a").unwrap_err().contains("member count is unequal"));
        let other = [member(7, &["http://127.0.0.1:3"]), member(8, &["http://10.0.0.1:2"])];
        assert!(match_members(&configured, &other, "a").unwrap_err().contains("unmatched member"));
    }
}
