//! From the global flags and the environment to a client.
//!
//! Owns: endpoints, timeouts, credentials, the first sync. Touches: environment variables, the cluster.
//! Always: a flag wins over its variable; the newer name of a setting wins over the older ones.

use std::path::PathBuf;
use std::time::Duration;

use ringd_client::{Client, ClientError, Endpoint, Options, Tls};

use crate::flags::Values;
use crate::table::GLOBAL_FLAGS;
use crate::{Exit, discover, output, terminal};

const DEFAULT_ENDPOINTS: &str = "http://127.0.0.1:2379,http://127.0.0.1:4001";
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);
const DEFAULT_TOTAL_TIMEOUT: Duration = Duration::from_secs(5);

/// A global flag, or else its variable in the table.
fn setting(globals: &Values, name: &str) -> Option<String> {
    let variable = GLOBAL_FLAGS.iter().find(|f| f.names[0] == name).map_or("", |f| f.variable);
    let from_env = || std::env::var(variable).ok().filter(|v| !v.is_empty());
    globals.text(name).map(str::to_owned).or_else(from_env)
}

fn endpoints(globals: &Values) -> Result<Vec<Endpoint>, Exit> {
    let parse = |text: &str| text.parse().map_err(|error: ringd_client::BadEndpoint| output::say(&error));
    if let Some(domain) = setting(globals, "discovery-srv") {
        let found = discover::endpoints(&domain, globals.is_set("insecure-discovery"))?;
        // Without usable records the endpoints that are given or known count.
        if !found.is_empty() {
            return found.iter().map(|text| parse(text)).collect();
        }
    }
    let list = ["endpoints", "endpoint", "peers"].iter().find_map(|name| setting(globals, name));
    list.as_deref().unwrap_or(DEFAULT_ENDPOINTS).split(',').map(parse).collect()
}

/// TLS settings are looked at before anything else, as in etcdctl.
fn tls(globals: &Values) -> Result<Tls, Exit> {
    let [cert, key, ca] = ["cert-file", "key-file", "ca-file"].map(|name| setting(globals, name).map(PathBuf::from));
    Tls::load(cert.as_deref(), key.as_deref(), ca.as_deref()).map_err(|e| output::say(&e))
}

fn credentials(globals: &Values) -> Result<Option<String>, Exit> {
    match setting(globals, "username") {
        Some(user) if !user.contains(':') => {
            let password = terminal::password("Password: ")?;
            Ok(Some(format!("{user}:{password}")))
        }
        other => Ok(other),
    }
}

/// A client that uses the endpoints as they are given.
pub fn unsynced_client(globals: &Values) -> Result<Client, Exit> {
    let tls = tls(globals)?;
    let endpoints = endpoints(globals)?;
    let options = Options {
        request_timeout: globals.time("timeout", DEFAULT_TIMEOUT).max(Duration::from_nanos(1)),
        total_timeout: Some(globals.time("total-timeout", DEFAULT_TOTAL_TIMEOUT)),
        credentials: credentials(globals)?,
        tls,
    };
    let mut client = Client::new(endpoints, options);
    if globals.is_set("debug") {
        client.set_trace(Box::new(|command| eprintln!("cURL Command: {command}")));
    }
    Ok(client)
}

/// A client for the cluster, synced with its members unless `--no-sync` is given.
pub fn client(globals: &Values) -> Result<Client, Exit> {
    let mut client = unsynced_client(globals)?;
    let debug = globals.is_set("debug");
    if !globals.is_set("no-sync") {
        sync(&mut client, debug)?;
    }
    show_endpoints(globals, &client);
    Ok(client)
}

/// With `--debug`: which endpoints are used.
pub fn show_endpoints(globals: &Values, client: &Client) {
    if globals.is_set("debug") {
        eprintln!("Cluster-Endpoints: {}", list(client, ", "));
    }
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
        Err(error) if error.is_connection_error() => return Err(output::error(&error, Exit::NoConnection)),
        Err(error @ ClientError::NoEndpoints) => {
            eprintln!("etcd cluster has no published client endpoints.");
            let endpoints = list(client, ",");
            eprintln!("Try '--no-sync' if you want to access non-published client endpoints({endpoints}).");
            return Err(output::error(&error, Exit::Server));
        }
        // A server that can be reached but does not tell its members is used as it was given.
        Err(_) => {}
    }
    if debug {
        eprintln!("got endpoints({}) after sync", list(client, ","));
    }
    Ok(())
}
