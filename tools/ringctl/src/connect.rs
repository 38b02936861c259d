//! From the global flags and the environment to a client.
//!
//! Owns: endpoints, timeouts, credentials, the first sync. Touches: environment variables, the cluster.
//! Always: a flag wins over its variable; the newer name of a setting wins over the older ones.

use std::time::Duration;

use ringd_client::{Client, ClientError, Endpoint, Options};

use crate::flags::Values;
use crate::{Exit, output};

const DEFAULT_ENDPOINTS: &str = "http://127.0.0.1:2379,http://127.0.0.1:4001";
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);
const DEFAULT_TOTAL_TIMEOUT: Duration = Duration::from_secs(5);

fn flag_or_variable(globals: &Values, flag: &str, variable: &str) -> Option<String> {
    let from_env = || std::env::var(variable).ok().filter(|v| !v.is_empty());
    globals.text(flag).map(str::to_owned).or_else(from_env)
}

fn endpoints(globals: &Values) -> Result<Vec<Endpoint>, Exit> {
    let names = [("endpoints", "ETCDCTL_ENDPOINTS"), ("endpoint", "ETCDCTL_ENDPOINT"), ("peers", "ETCDCTL_PEERS")];
    let list = names.iter().find_map(|(flag, variable)| flag_or_variable(globals, flag, variable));
    let list = list.unwrap_or_else(|| DEFAULT_ENDPOINTS.to_owned());
    let parse = |text: &str| {
        text.parse().map_err(|error| {
            eprintln!("{error}");
            Exit::BadArguments
        })
    };
    list.split(',').map(parse).collect()
}

/// TLS settings are looked at before anything else, as in etcdctl; a missing file is reported with its words.
fn check_tls(globals: &Values) -> Result<(), Exit> {
    let settings =
        [("cert-file", "ETCDCTL_CERT_FILE"), ("key-file", "ETCDCTL_KEY_FILE"), ("ca-file", "ETCDCTL_CA_FILE")];
    let mut paths = settings.iter().filter_map(|(flag, variable)| flag_or_variable(globals, flag, variable));
    if let Some(path) = paths.next() {
        if std::path::Path::new(&path).exists() {
            eprintln!("ringctl: {path}: TLS is not available in this version");
        } else {
            eprintln!("open {path}: no such file or directory");
        }
        return Err(Exit::BadArguments);
    }
    Ok(())
}

fn credentials(globals: &Values) -> Result<Option<String>, Exit> {
    match flag_or_variable(globals, "username", "ETCDCTL_USERNAME") {
        Some(user) if !user.contains(':') => {
            eprintln!("ringctl: give the password as well: --username {user}:PASSWORD");
            Err(Exit::BadArguments)
        }
        other => Ok(other),
    }
}

/// A client for the cluster, synced with its members unless `--no-sync` is given.
pub fn client(globals: &Values) -> Result<Client, Exit> {
    check_tls(globals)?;
    if globals.text("discovery-srv").is_some() || std::env::var_os("ETCDCTL_DISCOVERY_SRV").is_some() {
        eprintln!("ringctl: discovery by SRV records is not available in this version; use --endpoints");
        return Err(Exit::BadArguments);
    }
    let options = Options {
        request_timeout: globals.time("timeout", DEFAULT_TIMEOUT).max(Duration::from_nanos(1)),
        total_timeout: Some(globals.time("total-timeout", DEFAULT_TOTAL_TIMEOUT)),
        credentials: credentials(globals)?,
    };
    let debug = globals.is_set("debug");
    let mut client = Client::new(endpoints(globals)?, options);
    if debug {
        client.set_trace(Box::new(|command| eprintln!("cURL Command: {command}")));
    }
    if !globals.is_set("no-sync") {
        sync(&mut client, debug)?;
    }
    if debug {
        eprintln!("Cluster-Endpoints: {}", list(&client, ", "));
    }
    Ok(client)
}

fn list(client: &Client, separator: &str) -> String {
    client.endpoints().iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
}

fn sync(client: &mut Client, debug: bool) -> Result<(), Exit> {
    if debug {
        eprintln!("start to sync cluster using endpoints({})", list(client, ","));
    }
    match client.sync() {
        Ok(()) => {}
        Err(error @ (ClientError::Unavailable(_) | ClientError::Deadline)) => {
            return Err(output::error(&error, Exit::NoConnection));
        }
        Err(error @ ClientError::NoEndpoints) => {
            eprintln!("etcd cluster has no published client endpoints.");
            let endpoints = list(client, ",");
            eprintln!("Try '--no-sync' if you want to access non-published client endpoints({endpoints}).");
            return Err(output::error(&error, Exit::Server));
        }
        // A server that answers but does not tell its members is used as it was given.
        Err(_) => {}
    }
    if debug {
        eprintln!("got endpoints({}) after sync", list(client, ","));
    }
    Ok(())
}
