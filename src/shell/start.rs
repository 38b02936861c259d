//! From settings to a serving node, and from a stop signal to the end.
//!
//! Owns: the order of a start and of a stop. Must hold: nothing is served before everything acknowledged earlier is
//! applied again; nothing acknowledged is lost by a stop.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_lite::future::or;
use glommio::net::TcpListener;
use glommio::timer::Timer;
use ringd_storage::datadir::DataDir;
use ringd_storage::format::Identity;
use ringd_storage::fs::FsMedium;
use ringd_storage::ids::{MemberId, RaftIndex, Term};
use ringd_storage::recover::{TAIL_CUT_NAME, clear_tail_cut, holds_wal, recover};
use ringd_storage::snapshot::{SnapshotError, SnapshotMeta, SnapshotReader};
use ringd_storage::wal::{Wal, WalOptions};

use super::connection::Audience;
use super::credentials::Credentials;
use super::disk::{self, Disk};
use super::driver::{self, Hub, Services};
use super::joining::Role;
use super::listener::Spoken;
use super::profile::Profiler;
use super::tls_files::{self, Side};
use super::tls_handshake::Worker;
use super::{
    bootstrap, clock, executor, fan_out, install, joining, listener, pace, peer_snapshot, peers, process, proxy, raw,
    signals, snapshot, supervisor,
};
use crate::api::admin::ETCD_CLUSTER_VERSION;
use crate::config::url::{Place, Url};
use crate::config::{ClusterState, Config};
use crate::core::event::Input;
use crate::core::install::{State, StateLoader};
use crate::core::membership::Member;
use crate::core::node::{Node, NodeConfig, NodeStart};
use crate::core::raft_log::RaftLog;
use crate::core::replica::entry_from_record;
use crate::core::store::StoreOptions;
use crate::metrics::nanos;

/// etcd gives a request 5 s and two election timeouts.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// A snapshot is due after so many bytes of entries, also when `--snapshot-count` is far: four segments, so that a restart
/// replays seconds, and a store of this size is written about as often as its log. 100 000 entries of 2.6 KiB are as many.
const SNAPSHOT_BYTES: u64 = 256 << 20;
/// Entries kept in memory behind a snapshot for slow followers, as etcd keeps them.
const CATCH_UP_ENTRIES: u64 = 5000;
/// Kept in memory for followers that lag: a few seconds of large writes or half a minute of small ones, the time that the
/// snapshot of a few gigabytes takes on its way.
const LAGGING_BYTES_MAX: u64 = 256 << 20;
/// A stop waits this long for connections to end; whoever is still reading then is cut off.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// The kernel takes a ring apart after its process has ended, and with it the accept that holds the old listening
/// socket; a process that is restarted at once finds its port in use for a moment, on a busy machine for seconds.
const BIND_TRIES: u32 = 100;
/// Between two tries: five seconds in all.
const BIND_PAUSE: Duration = Duration::from_millis(50);
/// Connections to one listener for monitors: they are few, and clients that come to the wrong port must not be many.
const MONITORS_MAX: usize = 256;
/// A member that waits for its cluster says so this often.
const WAITING_TOLD_EVERY: Duration = Duration::from_secs(5);
/// Leadership is handed over within a round trip or two; after this the stop goes on without.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(1);
/// Descriptors that clients leave to the streams of members, to files and to the ring.
const DESCRIPTORS_KEPT: u64 = 128;
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
        let stop = async { Ended::Signal(stop.await) };
        let mut stop = pin!(stop);
        // A start may wait for others; a signal ends it.
        let started = or(async { Some(begin(config, services).await) }, async {
            if let Ended::Signal(signal) = stop.as_mut().await {
                tracing::info!("received signal {signal} before the start was complete");
                signals::end_by(signal);
            }
            None
        });
        let Some(hub) = started.await.expect("a signal ends the process")? else {
            // A proxy keeps nothing that could be lost.
            if let Ended::Signal(signal) = stop.await {
                tracing::info!("received signal {signal}; the proxy ends");
                supervisor::stopping().await;
                signals::end_by(signal);
            }
            return Ok(());
        };
        let removed = async {
            hub.may_leave.wait().await;
            Ended::Removed
        };
        match or(stop, removed).await {
            Ended::Signal(signal) => {
                stop_cleanly(&hub, &format!("received signal {signal}")).await;
                signals::end_by(signal)
            }
            Ended::Removed => {
                stop_cleanly(&hub, "this member was removed").await;
                Ok(())
            }
        }
    })
}

/// Why a node stops.
enum Ended {
    Signal(i32),
    Removed,
}

/// Starts a member, or a proxy, which has no hub.
async fn begin(config: &Config, services: Services) -> Result<Option<Rc<Hub>>, StartError> {
    match joining::decide(config).await? {
        Role::Member(config) => start(&config, services).await.map(Some),
        Role::Proxy => {
            proxy::start(config).await?;
            supervisor::ready().await;
            Ok(None)
        }
    }
}

/// Starts everything. Clients are served as soon as the cluster allows.
async fn start(config: &Config, services: Services) -> Result<Rc<Hub>, StartError> {
    let begun = clock::monotonic();
    let client_listeners = open_all(&config.listen_client_addresses).await?;
    let peer_listeners = open_all(&config.listen_peer_addresses).await?;
    let monitor_listeners = open_all(&config.listen_metrics_addresses).await?;
    supervisor::recovering().await;
    let directory = DataDir::open(&config.data_dir, config.wal_dir.as_deref())?;
    let worker = Rc::new(Worker::default());
    let open_side = |settings, urls: &[Url], peers| {
        let hosts = urls.iter().map(|url| url.host().to_owned()).collect();
        Side::open(settings, hosts, peers, Rc::clone(&worker)).map(Rc::new).map_err(StartError::Config)
    };
    let client_urls = [&config.listen_client_urls[..], &config.listen_metrics_urls[..]].concat();
    let client_tls = open_side(&config.client_tls, &client_urls, false)?;
    let peer_tls = open_side(&config.peer_tls, &config.listen_peer_urls, true)?;
    let recovery_begun = clock::monotonic();
    let Opened { node, wal, identity, strangers } = open_node(config, &peer_tls, &directory).await?;
    let recovered_in = recovery_begun.elapsed();
    tracing::info!(
        member = %identity.member,
        cluster = %identity.cluster,
        nodes = node.store().nodes(),
        milliseconds = begun.elapsed().as_millis(),
        "recovered {}",
        config.data_dir.display()
    );
    let (profiler, bounds) = (Profiler::new(config.pprof), (config.limits, config.ceilings));
    let hub = Hub::new(node, Disk::new(wal), bounds, &config.cors, services, Credentials::new()?, profiler);
    if config.metrics_extensive {
        hub.metrics.extend();
    }
    hub.metrics.recovery.set(nanos(recovered_in));
    let keep = config.max_snapshots.map_or(usize::MAX, |keep| usize::try_from(keep).unwrap_or(usize::MAX));
    let (snap, wal_dir) = (directory.snap().clone(), directory.wal().clone());
    hub.keep(directory);
    hub.election_timeout.set(config.election_timeout);
    assert!(hub.peers.tls.set(Rc::clone(&peer_tls)).is_ok(), "a hub starts once");
    glommio::spawn_local(tls_files::watch(Rc::clone(&client_tls))).detach();
    glommio::spawn_local(tls_files::watch(Rc::clone(&peer_tls))).detach();
    glommio::spawn_local(driver::drive(Rc::clone(&hub))).detach();
    glommio::spawn_local(driver::deliver(Rc::clone(&hub))).detach();
    glommio::spawn_local(fan_out::run(Rc::clone(&hub))).detach();
    glommio::spawn_local(pace::sweep(Rc::clone(&hub), config.timeouts)).detach();
    glommio::spawn_local(disk::sync(Rc::clone(&hub))).detach();
    glommio::spawn_local(disk::prepare(Rc::clone(&hub))).detach();
    glommio::spawn_local(snapshot::run(Rc::clone(&hub), snap.clone(), identity, keep)).detach();
    glommio::spawn_local(install::run(Rc::clone(&hub), snap.clone())).detach();
    glommio::spawn_local(peers::keep_book(Rc::clone(&hub))).detach();
    glommio::spawn_local(peers::probe(Rc::clone(&hub))).detach();
    glommio::spawn_local(peer_snapshot::send_all(Rc::clone(&hub), snap)).detach();
    glommio::spawn_local(clear_note(Rc::clone(&hub), wal_dir.clone())).detach();
    let note = wal_dir.path().join(TAIL_CUT_NAME);
    *hub.peers.own_urls.borrow_mut() = config.initial_advertise_peer_urls.iter().map(ToString::to_string).collect();
    // The first turn applies the bootstrap entries, which name the voters.
    hub.turn();
    let is_alone = hub.node.borrow().is_only_voter();
    if is_alone {
        // One voter has nobody to catch up with after a cut tail. With others the note stays.
        clear_tail_cut(&wal_dir)?;
        hub.input(Input::Campaign);
    } else {
        peers::update(&hub);
        strangers.iter().for_each(|member| peers::introduce(&hub, member.id, &member.peer_urls));
    }
    glommio::spawn_local(driver::tick(Rc::clone(&hub), config.heartbeat_interval)).detach();
    let of_clients = client_connections_max(config.connections_max, client_listeners.len());
    let of_peers = usize::try_from(config.connections_max).unwrap_or(usize::MAX);
    let (peer_places, client_places) = (&config.listen_peer_addresses, &config.listen_client_addresses);
    let (monitor_places, monitor_urls) = (&config.listen_metrics_addresses, &config.listen_metrics_urls);
    for (listeners, places, urls, side, audience) in [
        (peer_listeners, peer_places, &config.listen_peer_urls, peer_tls, Audience::Members),
        (monitor_listeners, monitor_places, monitor_urls, Rc::clone(&client_tls), Audience::Monitors),
        (client_listeners, client_places, &config.listen_client_urls, client_tls, Audience::Clients),
    ] {
        for (listening, place) in listeners.into_iter().zip(places) {
            let spoken = spoken_at(place, urls, &side);
            let most = match audience {
                Audience::Clients => of_clients,
                Audience::Members => of_peers,
                Audience::Monitors => of_peers.min(MONITORS_MAX),
            };
            let accept = listener::accept(Rc::clone(&hub), listening, most, audience, spoken);
            glommio::spawn_local(accept).detach();
        }
    }
    for url in &config.listen_metrics_urls {
        tracing::info!("listening for metrics on {url}");
    }
    glommio::spawn_local(serve_when_known(Rc::clone(&hub), note, config.listen_client_urls.clone(), begun)).detach();
    Ok(hub)
}

/// What each listener for clients takes: no more than the setting, nor than leaves descriptors to everything else.
fn client_connections_max(setting: u64, listeners: usize) -> usize {
    let most = process::max_fds().saturating_sub(DESCRIPTORS_KEPT) / listeners.max(1) as u64;
    if setting > most {
        tracing::info!("each listener takes at most {} clients: the limit of descriptors allows no more", most.max(1));
    }
    usize::try_from(setting.min(most.max(1))).unwrap_or(usize::MAX)
}

/// Serves clients once the cluster knows this member and everything acknowledged earlier is applied again.
async fn serve_when_known(hub: Rc<Hub>, note: PathBuf, urls: Vec<Url>, begun: Instant) {
    or(hub.published.wait(), tell_why_it_waits(&hub, &note)).await;
    hub.begin_service();
    for url in urls {
        tracing::info!("serving client requests on {url}");
    }
    hub.metrics.ready_after.set(nanos(begun.elapsed()));
    tracing::info!(milliseconds = begun.elapsed().as_millis(), "ready to serve client requests");
    supervisor::ready().await;
}

/// Says now and then why clients are not served yet. `note` is the file that says that this member may have forgotten
/// something. Never ends.
async fn tell_why_it_waits(hub: &Rc<Hub>, note: &Path) {
    loop {
        Timer::new(WAITING_TOLD_EVERY).await;
        supervisor::waiting().await;
        let (reached, others) = hub.peers.reached();
        let (leader, is_gated) = {
            let node = hub.node.borrow();
            (node.leader(), node.may_have_forgotten())
        };
        let why = if leader == MemberId::default() { "no leader yet".to_owned() } else { format!("leader {leader}") };
        tracing::warn!(
            "waiting for the cluster before clients are served: {why}, {reached} of {others} other members reached"
        );
        if is_gated && leader == MemberId::default() && reached < others {
            tracing::warn!(
                "this member may have forgotten what it acknowledged ({}): it votes only when all other members were \
                 reached; README.md, \"When members do not come back\", says what to do if one is gone for good",
                note.display()
            );
        }
    }
}

/// Removes the note that this member may have forgotten something, when the node says that it is past.
async fn clear_note(hub: Rc<Hub>, wal_dir: FsMedium) {
    loop {
        hub.note_obsolete.wait().await;
        let medium = wal_dir.clone();
        match glommio::executor().spawn_blocking(move || clear_tail_cut(&medium)).await {
            Ok(()) => hub.input(Input::NoteCleared),
            Err(error) => driver::die(&format!("cannot remove the note on a cut tail: {error}")),
        }
    }
}

/// What the URLs of a place want to be spoken there.
pub(super) fn spoken_at(place: &Place, urls: &[Url], side: &Rc<Side>) -> Spoken {
    let mut here = urls.iter().filter(|url| url.bind_place().as_ref() == Ok(place)).map(Url::is_secure);
    let first = here.next().unwrap_or(false);
    match (first, here.all(|other| other == first)) {
        (_, false) => Spoken::Either(Rc::clone(side)),
        (true, true) => Spoken::Tls(Rc::clone(side)),
        (false, true) => Spoken::Plain,
    }
}

pub(super) async fn open_all(places: &[Place]) -> io::Result<Vec<TcpListener>> {
    let mut opened = Vec::new();
    for place in places {
        let mut tries = 1;
        opened.push(loop {
            match listener::open(place) {
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
async fn stop_cleanly(hub: &Rc<Hub>, why: &str) {
    tracing::info!("{why}; stopping");
    supervisor::stopping().await;
    hub.not_leading.take();
    hub.input(Input::TransferLeadership);
    let tired = async {
        Timer::new(HAND_OVER_PATIENCE).await;
    };
    or(hub.not_leading.wait(), tired).await;
    hub.begin_stop();
    let deadline = clock::monotonic() + STOP_PATIENCE;
    // Requests that have begun may need the others to end; their streams go last.
    while hub.connections.borrow().len() > hub.peers.incoming() && clock::monotonic() < deadline {
        Timer::new(STOP_STEP).await;
    }
    hub.peers.close_all();
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
pub(super) fn random_u64() -> io::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(bytes))
}

/// What was found or made in the data directory.
struct Opened {
    node: Node,
    wal: Wal<FsMedium>,
    identity: Identity,
    /// Members that are known before the log tells of any.
    strangers: Vec<Member>,
}

async fn open_node(config: &Config, tls: &Side, directory: &DataDir) -> Result<Opened, StartError> {
    let store_options = StoreOptions {
        hash_seed: random_u64()?,
        history_events_max: config.history_events,
        history_bytes_max: config.history_bytes,
    };
    let options = WalOptions { epoch_seed: random_u64()?, ..WalOptions::default() };
    let wal_dir = directory.wal().clone();
    let mut strangers = Vec::new();
    if !holds_wal(&wal_dir)? {
        let beginning = bootstrap::begin(config, tls, &wal_dir).await?;
        Wal::create(wal_dir.clone(), beginning.identity, options)?;
        strangers = beginning.members;
    }
    let mut recovered = recover(wal_dir, directory.snap(), options)?;
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
        // A new WAL, or one whose first start was interrupted before it wrote anything. Who joins begins with nothing and
        // gets everything from the leader.
        let founds = config.initial_cluster_state == ClusterState::New
            && bootstrap::founding_identity(config).is_some_and(|identity| identity == recovered.identity);
        if founds {
            bootstrap::write_first_log(&bootstrap::initial_members(config), &mut recovered)?;
        }
    } else if config.force_new_cluster {
        bootstrap::go_on_alone(&mut recovered)?;
    }
    let (loaded, base) = match &recovered.snapshot {
        Some((meta, name)) => (load(directory.snap(), name, &store_options)?, Some(meta.clone())),
        None => (State::empty(&store_options), None),
    };
    let node = build_node(config, &recovered, loaded, &store_options, base.as_ref()).map_err(StartError::Config)?;
    Ok(Opened { node, wal: recovered.wal, identity: recovered.identity, strangers })
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
        snapshot_bytes: SNAPSHOT_BYTES,
        catch_up_entries: CATCH_UP_ENTRIES,
        lagging_bytes: LAGGING_BYTES_MAX,
        log_bytes: config.ceilings.log,
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
            may_have_forgotten: recovered.must_catch_up,
        },
    )
}
