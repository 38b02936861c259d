//! The commands on members, and the health of the cluster.
//!
//! Owns: their texts, which are etcdctl's. Touches: the cluster. Always: arguments are checked before the cluster is
//! asked; refusals by the server are repeated in its own words.

use std::thread;
use std::time::Duration;

use ringd_client::{Client, Endpoint, Member};

use crate::terminal::{Paint, paint};
use crate::{Exit, Invocation, Outcome, connect, exec_watch, output};

/// Between two rounds of `cluster-health --forever`.
const HEALTH_PAUSE: Duration = Duration::from_secs(10);

/// What etcdctl points to when a name is given for an id.
const REMOVAL_PAGE: &str =
    "https://github.com/etcd-io/etcd/blob/master/Documentation/runtime-configuration.md#remove-a-member";

fn client(call: &Invocation) -> Result<Client, Exit> {
    connect::client(&call.globals)
}

pub fn list(call: &Invocation) -> Outcome {
    output::no_arguments(call)?;
    let mut client = client(call)?;
    let members = client.members().map_err(|e| output::say(&e))?;
    let leader = client.leader().map_err(|e| output::say(&format!("Failed to get leader:  {e}")))?;
    let lines: String = members.iter().map(|member| line(member, &leader)).collect();
    output::print(&lines);
    Ok(())
}

fn line(member: &Member, leader: &Member) -> String {
    let Member { id, name, .. } = member;
    let (peers, clients) = (member.peer_urls.join(","), member.client_urls.join(","));
    if name.is_empty() {
        format!("{id}[unstarted]: peerURLs={peers}\n")
    } else {
        let leads = *id == leader.id;
        format!("{id}: name={name} peerURLs={peers} clientURLs={clients} isLeader={leads}\n")
    }
}

pub fn add(call: &Invocation) -> Outcome {
    let [name, url] = call.args.as_slice() else {
        return Err(output::say("Provide a name and a single member peerURL"));
    };
    let mut client = client(call)?;
    check_peer_url(url).map_err(|why| output::say(&why))?;
    let added = client.add_member(url.trim()).map_err(|e| output::say_failed(&e, &e))?;
    output::print(&format!("Added member named {name} with ID {} to cluster\n", added.id));
    let members = client.members().map_err(|e| output::say(&e))?;
    let mut cluster = Vec::new();
    for member in &members {
        let shown = if member.id == added.id { name } else { &member.name };
        cluster.extend(member.peer_urls.iter().map(|url| format!("{shown}={url}")));
    }
    let cluster = cluster.join(",");
    output::print(&format!(
        "\nETCD_NAME={name:?}\nETCD_INITIAL_CLUSTER={cluster:?}\nETCD_INITIAL_CLUSTER_STATE=\"existing\"\n"
    ));
    Ok(())
}

pub fn remove(call: &Invocation) -> Outcome {
    let [id] = call.args.as_slice() else {
        return Err(output::say("Provide a single member ID"));
    };
    let mut client = client(call)?;
    let members =
        client.members().map_err(|e| output::say(&format!("Error while verifying ID against known members: {e}")))?;
    for namesake in members.iter().filter(|member| member.name == *id) {
        let (name, id) = (&namesake.name, &namesake.id);
        eprintln!(
            "Found a member named {name}; if this is correct, please use its ID, eg:\n\tringctl member remove {id}"
        );
        eprintln!("For more details, read the documentation at {REMOVAL_PAGE}\n");
    }
    if !members.iter().any(|member| member.id == *id) {
        return Err(output::say(&format!("Couldn't find a member in the cluster with an ID of {id}.")));
    }
    let removed = client.remove_member(id);
    removed.map_err(|e| {
        let text = format!("Received an error trying to remove member {id}: {e}");
        output::say_failed(text.trim_end(), &e)
    })?;
    output::print(&format!("Removed member {id} from cluster\n"));
    Ok(())
}

pub fn update(call: &Invocation) -> Outcome {
    let [id, urls] = call.args.as_slice() else {
        return Err(output::say(
            "Provide an ID and a list of comma separated peerURL (0xabcd http://example.com,http://example1.com)",
        ));
    };
    let mut client = client(call)?;
    let urls: Vec<String> = urls.split(',').map(|url| url.trim().to_owned()).collect();
    urls.iter().try_for_each(|url| check_peer_url(url)).map_err(|why| output::say(&why))?;
    client.update_member(id, &urls).map_err(|e| output::say_failed(&e, &e))?;
    output::print(&format!("Updated member with ID {id} in cluster\n"));
    Ok(())
}

/// What etcd's client refuses before it asks a server.
fn check_peer_url(url: &str) -> Result<(), String> {
    let url = url.trim();
    let scheme = url.split_once("://").filter(|(s, _)| matches!(*s, "http" | "https" | "unix" | "unixs"));
    let Some((_, rest)) = scheme else {
        return Err(format!("URL scheme must be http, https, unix, or unixs: {url}"));
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if authority.contains(' ') {
        return Err(format!("parse {url:?}: invalid character \" \" in host name"));
    }
    if !authority.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']')) {
        return Err(format!("URL address does not have the form \"host:port\": {url}"));
    }
    if let Some((_, port)) = authority.rsplit_once(':')
        && port.parse::<u16>().is_err()
    {
        return Err(format!("parse {url:?}: invalid port \":{port}\" after host"));
    }
    if !path.is_empty() {
        return Err(format!("URL must not contain a path: {url}"));
    }
    Ok(())
}

pub fn health(call: &Invocation) -> Outcome {
    let forever = call.flags.is_set("forever");
    if forever {
        exec_watch::interrupt_is_success()?;
    }
    let mut client = connect::unsynced_client(&call.globals)?;
    connect::show_endpoints(&call.globals, &client);
    let members = client.members().map_err(|e| {
        output::print("cluster may be unhealthy: failed to list members\n");
        output::error(&e, Exit::Server)
    })?;
    loop {
        let healthy = members.iter().filter(|member| check(&mut client, member)).count();
        let (verdict, color) = match healthy {
            n if n == members.len() => ("cluster is healthy", Paint::Good),
            0 => ("cluster is unavailable", Paint::Bad),
            _ => ("cluster is degraded", Paint::Bad),
        };
        output::print(&format!("{}\n", paint(verdict, color)));
        if !forever {
            return if healthy == members.len() { Ok(()) } else { Err(Exit::NotHealthy) };
        }
        output::print("\nnext check after 10 second...\n\n");
        thread::sleep(HEALTH_PAUSE);
    }
}

/// Asks a member at its client URLs in turn, until one answers; prints what came of it.
fn check(client: &mut Client, member: &Member) -> bool {
    let id = &member.id;
    if member.client_urls.is_empty() {
        let text = format!("member {id} is unreachable: no available published client urls");
        output::print(&format!("{}\n", paint(&text, Paint::Bad)));
        return false;
    }
    for url in &member.client_urls {
        let failed = |why: &dyn std::fmt::Display| {
            output::print(&format!("failed to check the health of member {id} on {url}: {why}\n"));
        };
        let endpoint: Endpoint = match url.parse() {
            Ok(endpoint) => endpoint,
            Err(error) => {
                failed(&error);
                continue;
            }
        };
        match client.health(&endpoint) {
            Ok(true) => {
                let text = format!("member {id} is healthy: got healthy result from {url}");
                output::print(&format!("{}\n", paint(&text, Paint::Good)));
                return true;
            }
            Ok(false) => {
                let text = format!("member {id} is unhealthy: got unhealthy result from {url}");
                output::print(&format!("{}\n", paint(&text, Paint::Bad)));
                return false;
            }
            Err(error) => failed(&format!("Get {:?}: {error}", format!("{url}/health"))),
        }
    }
    let text = format!("member {id} is unreachable: [{}] are all unreachable", member.client_urls.join(" "));
    output::print(&format!("{}\n", paint(&text, Paint::Bad)));
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_urls_are_refused_as_etcd_refuses_them() {
        for (url, wanted) in [
            ("http://127.0.0.1:2380", None),
            ("https://[::1]:2380", None),
            ("x", Some("URL scheme must be http, https, unix, or unixs: x")),
            ("http://h", Some("URL address does not have the form \"host:port\": http://h")),
            ("http://::1", Some("URL address does not have the form \"host:port\": http://::1")),
            ("http://h:x", Some("parse \"http://h:x\": invalid port \":x\" after host")),
            ("http://h:1/", Some("URL must not contain a path: http://h:1/")),
            ("http://a b", Some("parse \"http://a b\": invalid character \" \" in host name")),
        ] {
            assert_eq!(check_peer_url(url).err().as_deref(), wanted, "{url}");
        }
    }

    #[test]
    fn a_member_that_never_started_has_no_name_and_no_client_urls() {
        let leader = Member { id: "a".into(), name: "n".into(), ..Member::default() };
        let fresh = Member { id: "b".into(), peer_urls: vec!["http://h:1".into()], ..Member::default() };
        assert_eq!(line(&fresh, &leader), "b[unstarted]: peerURLs=http://h:1\n");
        assert_eq!(line(&leader, &leader), "a: name=n peerURLs= clientURLs= isLeader=true\n");
    }
}
