//! From settings to a serving node, and from a stop signal to the end.
//!
//! Owns: the order of a start and of a stop. Must hold: nothing is served before everything acknowledged earlier is
//! applied again; nothing acknowledged is lost by a stop.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use glommio::net::TcpListener;
use glommio::timer::Timer;
use ringd_storage::datadir::DataDir;
use ringd_storage::format::Identity;
use ringd_storage::fs::FsMedium;
use ringd_storage::ids::{RaftIndex, Term};
use ringd_storage::recover::{clear_tail_cut, holds_wal, recover};
use ringd_storage::snapshot::{SnapshotError, SnapshotMeta, SnapshotReader};
use ringd_storage::wal::{Wal, WalOptions};

use super::credentials::Credentials;
use super::disk::{self, Disk};
use super::driver::{self, Hub, Services};
use super::{clock, executor, fan_out, listener, pace, raw, signals, snapshot};
use crate::api::admin::ETCD_CLUSTER_VERSION;
use crate::config::Config;
use crate::core::event::Input;
use crate::core::install::{State, StateLoader};
use crate::core::membership::{self, Member};
use crate::core::node::{Node, NodeConfig, NodeStart};
use crate::core::raft_log::RaftLog;
use crate::core::replica::entry_from_record;
use crate::core::store::StoreOptions;
use crate::metrics::nanos;

/// etcd gives a request 5 s and two election timeouts.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Entries kept in memory behind a snapshot for slow followers, as etcd keeps them.
const CATCH_UP_ENTRIES: u64 = 5000;
/// A stop waits this long for connections to end; whoever is still reading then is cut off.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// The kernel takes a ring apart after its process has ended, and with it the accept that holds the old listening
/// socket; a process that is restarted at once finds its port in use for a moment.
const BIND_TRIES: u32 = 20;
/// Between two tries: a second in all.
const BIND_PAUSE: Duration = Duration::from_millis(50);
/// How often a stop looks again.
const STOP_STEP: Duration = Duration::from_millis(5);

/// A node that could not be started. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No executor.
    #[error(transparent)]
    Executor(#[from] executor::ExecutorError),
    /// The data directory is in use or cannot be made.
    #[error(transparent)]
    DataDir(#[from] ringd_storage::datadir::DataDirError),
    /// The WAL is damaged or cannot be read.
    #[error(transparent)]
    Recover(#[from] ringd_storage::walk::WalkError),
    /// A new WAL cannot be begun.
    #[error(transparent)]
    Create(#[from] ringd_storage::wal::CreateError),
    /// The first records cannot be written.
    #[error("cannot write the first records: {0}")]
    Bootstrap(String),
    /// The snapshot does not make a store.
    #[error(transparent)]
    Load(#[from] LoadSnapshotError),
    /// The settings do not make a cluster.
    #[error("{0}")]
    Config(String),
    /// A listener, a signal handler, or another resource of the system.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A snapshot that cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadSnapshotError {
    /// The file is damaged.
    #[error(transparent)]
    File(#[from] SnapshotError),
    /// Its items are.
    #[error("{file}: {reason}; look at it with `ringwal verify`")]
    Items {
        /// The snapshot.
        file: String,
        /// What is wrong.
        reason: String,
    },
}

/// Runs a node until a signal asks for its end; the process ends with it.
///
/// # Errors
/// [`StartError`] when it cannot start.
pub fn run(config: &Config, services: Services) -> Result<(), StartError> {
    let stop = signals::stop_signal()?;
    raw::die_on_sigbus()?;
    let executor = executor::build(config.spin_before_park)?;
    executor.run(async move {
        let hub = start(config, services).await?;
        let signal = stop.await;
        stop_cleanly(&hub, signal).await;
        signals::end_by(signal)
    })
}

/// Starts everything and returns when clients are served.
async fn start(config: &Config, services: Services) -> Result<Rc<Hub>, StartError> {
    let begun = clock::monotonic();
    let clients = open_all(&config.listen_client_addresses).await?;
    let peers = open_all(&config.listen_peer_addresses).await?;
    let directory = DataDir::open(&config.data_dir, config.wal_dir.as_deref())?;
    let recovery_begun = clock::monotonic();
    let (node, wal, identity) = open_node(config, &directory)?;
    let recovered_in = recovery_begun.elapsed();
    tracing::info!(
        member = %identity.member,
        cluster = %identity.cluster,
        nodes = node.store().nodes(),
        milliseconds = begun.elapsed().as_millis(),
        "recovered {}",
        config.data_dir.display()
    );
    let hub = Hub::new(node, Disk::new(wal), config.limits, &config.cors, services, Credentials::new()?);
    hub.metrics.recovery.set(nanos(recovered_in));
    let keep = config.max_snapshots.map_or(usize::MAX, |keep| usize::try_from(keep).unwrap_or(usize::MAX));
    glommio::spawn_local(driver::drive(Rc::clone(&hub))).detach();
    glommio::spawn_local(driver::deliver(Rc::clone(&hub))).detach();
    glommio::spawn_local(fan_out::run(Rc::clone(&hub))).detach();
    glommio::spawn_local(pace::sweep(Rc::clone(&hub), config.timeouts)).detach();
    glommio::spawn_local(disk::sync(Rc::clone(&hub))).detach();
    glommio::spawn_local(disk::prepare(Rc::clone(&hub))).detach();
    glommio::spawn_local(snapshot::run(Rc::clone(&hub), directory.snap().clone(), identity, keep)).detach();
    // The first turn applies the bootstrap entries, which name the voters.
    hub.turn();
    if hub.node.borrow().is_only_voter() {
        // One voter has nobody to catch up with after a cut tail. With others the note stays.
        clear_tail_cut(directory.wal())?;
        hub.input(Input::Campaign);
    }
    glommio::spawn_local(driver::tick(Rc::clone(&hub), config.heartbeat_interval)).detach();
    hub.published.wait().await;
    hub.keep(directory);
    let connections_max = usize::try_from(config.connections_max).unwrap_or(usize::MAX);
    for listening in clients {
        glommio::spawn_local(listener::accept(Rc::clone(&hub), listening, connections_max, false)).detach();
    }
    for listening in peers {
        glommio::spawn_local(listener::accept(Rc::clone(&hub), listening, connections_max, true)).detach();
    }
    for url in &config.listen_client_urls {
        tracing::info!("serving client requests on {url}");
    }
    hub.metrics.ready_after.set(nanos(begun.elapsed()));
    tracing::info!(milliseconds = begun.elapsed().as_millis(), "ready to serve client requests");
    Ok(hub)
}

async fn open_all(addresses: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let mut opened = Vec::new();
    for &address in addresses {
        let mut tries = 1;
        opened.push(loop {
            match listener::open(address) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < BIND_TRIES => {
                    tries += 1;
                    Timer::new(BIND_PAUSE).await;
                }
                result => break result?,
            }
        });
    }
    Ok(opened)
}

/// Lets begun requests end, writes what is left, and syncs it.
async fn stop_cleanly(hub: &Rc<Hub>, signal: i32) {
    tracing::info!("received signal {signal}; stopping");
    hub.begin_stop();
    let deadline = clock::monotonic() + STOP_PATIENCE;
    while !hub.connections.borrow().is_empty() && clock::monotonic() < deadline {
        Timer::new(STOP_STEP).await;
    }
    let rest = hub.node.borrow_mut().take_pending_hard_state();
    if let Some(append) = rest
        && let Err(error) = hub.disk.append(&append)
    {
        tracing::warn!("the last commit index was not written, which costs nothing but a replay: {error}");
    }
    hub.disk.kick();
    while !hub.disk.is_clean() {
        Timer::new(STOP_STEP).await;
    }
    tracing::info!("stopped");
}

/// Random bits for what must differ between starts: segment epochs and hash seeds.
fn random_u64() -> io::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(bytes))
}

fn open_node(config: &Config, directory: &DataDir) -> Result<(Node, Wal<FsMedium>, Identity), StartError> {
    let store_options = StoreOptions {
        hash_seed: random_u64()?,
        history_events_max: config.history_events,
        history_bytes_max: config.history_bytes,
    };
    let options = WalOptions { epoch_seed: random_u64()?, ..WalOptions::default() };
    let wal_dir = directory.wal().clone();
    let mut recovered = if holds_wal(&wal_dir)? {
        recover(wal_dir, directory.snap(), options)?
    } else {
        config.check_bootstrap().map_err(|error| StartError::Config(error.to_string()))?;
        Wal::create(wal_dir.clone(), bootstrap_identity(config), options)?;
        recover(wal_dir, directory.snap(), options)?
    };
    for reason in &recovered.passed_over {
        tracing::warn!("a snapshot was passed over: {reason}");
    }
    if let Some(cut) = &recovered.tail {
        tracing::warn!(
            file = cut.file,
            offset = cut.offset,
            bytes = cut.bytes,
            "the torn end of the write-ahead log was cut: what it held was never acknowledged"
        );
    }
    if recovered.entries.is_empty() && recovered.snapshot.is_none() {
        // A new WAL, or one whose first start was interrupted before it wrote anything.
        bootstrap(config, &mut recovered)?;
    }
    let (loaded, base) = match &recovered.snapshot {
        Some((meta, name)) => (load(directory.snap(), name, &store_options)?, Some(meta.clone())),
        None => (State::empty(&store_options), None),
    };
    let node = build_node(config, &recovered, loaded, &store_options, base.as_ref()).map_err(StartError::Config)?;
    Ok((node, recovered.wal, recovered.identity))
}

fn initial_members(config: &Config) -> Vec<Member> {
    let token = &config.initial_cluster_token;
    config
        .initial_cluster
        .iter()
        .map(|(name, urls)| {
            let peer_urls: Vec<String> = urls.iter().map(ToString::to_string).collect();
            let id = membership::member_id(&peer_urls, token);
            Member { id, name: name.clone(), peer_urls, client_urls: Vec::new() }
        })
        .collect()
}

fn bootstrap_identity(config: &Config) -> Identity {
    let members = initial_members(config);
    let own = members.iter().find(|member| member.name == config.name).expect("checked by check_bootstrap");
    Identity { cluster: membership::cluster_id(members.iter().map(|member| member.id)), member: own.id }
}

/// Writes the log that a new cluster begins with, and reads it back as recovery would.
fn bootstrap(config: &Config, recovered: &mut ringd_storage::recover::Recovered<FsMedium>) -> Result<(), StartError> {
    let members = initial_members(config);
    if members.len() > 1 {
        return Err(StartError::Config(
            "--initial-cluster names several members, and this version of ringd runs clusters of one; \
             leave only this member in it"
                .to_owned(),
        ));
    }
    let append = membership::bootstrap_log(&members);
    let failed = |error: &dyn std::fmt::Display| StartError::Bootstrap(error.to_string());
    let mut frame = recovered.wal.begin();
    for record in append.records() {
        match record {
            ringd_storage::record::Record::Entry(entry) => {
                frame.push_entry(&entry);
                recovered.entries.push(entry.into());
            }
            ringd_storage::record::Record::HardState(state) => {
                frame.push_hard_state(&state);
                recovered.hard_state = state;
            }
            ringd_storage::record::Record::SnapshotMarker { .. } => unreachable!("a new log has no snapshot"),
        }
    }
    frame.finish().map_err(|error| failed(&error))?;
    if let Some(ticket) = recovered.wal.begin_sync().map_err(|error| failed(&error))? {
        ticket.run().map_err(|error| failed(&error))?;
        recovered.wal.finish_sync(ticket);
    }
    Ok(())
}

fn load(snap_dir: &FsMedium, name: &str, options: &StoreOptions) -> Result<State, LoadSnapshotError> {
    let reader = SnapshotReader::open(snap_dir, name)?;
    let items =
        |reason: String| LoadSnapshotError::Items { file: snap_dir.path().join(name).display().to_string(), reason };
    let mut loader = StateLoader::new(options);
    reader.for_each(|key, value| -> Result<(), LoadSnapshotError> { loader.item(key, value).map_err(items) })?;
    loader.finish().map_err(items)
}

fn build_node(
    config: &Config,
    recovered: &ringd_storage::recover::Recovered<FsMedium>,
    state: State,
    store_options: &StoreOptions,
    base: Option<&SnapshotMeta>,
) -> Result<Node, String> {
    let (applied, applied_term) =
        base.map_or((RaftIndex::ZERO, Term::ZERO), |meta| (meta.marker.index, meta.marker.term));
    let (voters, learners) = base.map_or((&[][..], &[][..]), |meta| (&meta.voters, &meta.learners));
    let entries = recovered.entries.iter().map(|entry| entry_from_record(entry.as_ref())).collect();
    let log = RaftLog::recovered(&recovered.hard_state, voters, learners, applied, applied_term, entries);
    let heartbeat = config.heartbeat_interval.as_millis().max(1);
    let ticks = |duration: Duration| usize::try_from(duration.as_millis().div_ceil(heartbeat)).unwrap_or(usize::MAX);
    let now = clock::now();
    let node_config = NodeConfig {
        id: recovered.identity.member,
        cluster: recovered.identity.cluster,
        name: config.name.clone(),
        client_urls: config.advertise_client_urls.iter().map(ToString::to_string).collect(),
        election_ticks: ticks(config.election_timeout),
        request_timeout_ticks: ticks(REQUEST_TIMEOUT + 2 * config.election_timeout) as u64,
        snapshot_entries: config.snapshot_count,
        catch_up_entries: CATCH_UP_ENTRIES,
        strict_reconfig_check: config.strict_reconfig_check,
        cluster_version: ETCD_CLUSTER_VERSION,
        seed: now.get(),
    };
    Node::new(
        node_config,
        NodeStart {
            log,
            applied,
            applied_term,
            state,
            store_options: store_options.clone(),
            now,
            may_have_forgotten: false,
        },
    )
}
