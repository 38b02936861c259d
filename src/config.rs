//! Settings: from flags and variables to one checked `Config`.
//!
//! Owns: defaults, the rules between settings, etcd's messages for broken ones, exit codes. May touch: the flag
//! table (`config/flags.rs`), Go's grammar (`config/go_flags.rs`), files (`config/file.rs`) and URLs (`config/url.rs`). The
//! environment and a file's text come in as arguments; nothing here reads either, or a clock.
//!
//! Must always hold:
//! - Equal arguments and variables give equal results.
//! - A setting given twice, as flag and as variable, is fatal; an unknown `ETCD_*` or `RINGD_*` variable only warns. A
//!   configuration file makes both ignored.
//! - A `Config` in hand has passed every rule that needs no disk and no network.

pub mod file;
pub mod flags;
pub mod gather;
mod go_flags;
pub mod joining;
pub mod log;
mod page;
#[cfg(test)]
mod tests;
pub mod tls;
pub mod url;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gather::{Setting, Values};
use joining::{Fallback, Joining, ProxyMode, ProxySettings, ServiceUrl, Srv};
use log::{LogFormat, LogSettings};
use tls::TlsSettings;
use url::{Place, Url};

use crate::wire::http_request::Limits;

/// The etcd release whose v2 API is spoken; what `/version` reports.
pub const ETCD_LEVEL: &str = "3.4.23";
/// The name a member has when it is given none.
pub const DEFAULT_NAME: &str = "default";
/// etcd's `maxElectionMs`: longer waits are taken for a slip of the unit.
const ELECTION_MS_MAX: u64 = 50_000;
/// etcd's rule of thumb: an election must not start because four heartbeats were late.
const HEARTBEATS_PER_ELECTION: u64 = 5;
/// The smallest request head a client could use at all.
const HEADER_BYTES_MIN: u64 = 1024;
/// What `--quota-backend-bytes 0` means, as in etcd.
const QUOTA_DEFAULT_BYTES: u64 = 2 << 30;
/// The longest timeout of a client; a longer one is a slip of the unit. Zero is for those who want none.
const SECONDS_MAX: u64 = 86_400;

/// Everything that was decided before the node starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This member's name.
    pub name: String,
    /// Where everything is kept; `NAME.etcd` unless given.
    pub data_dir: PathBuf,
    /// Where the WAL is kept when it is not under `data_dir`.
    pub wal_dir: Option<PathBuf>,
    /// Client listeners as URLs.
    pub listen_client_urls: Vec<Url>,
    /// Where to bind for clients, one per URL, duplicates removed.
    pub listen_client_addresses: Vec<Place>,
    /// Peer listeners as URLs.
    pub listen_peer_urls: Vec<Url>,
    /// Where to bind for peers, one per URL, duplicates removed.
    pub listen_peer_addresses: Vec<Place>,
    /// Listeners for metrics and health only, as URLs.
    pub listen_metrics_urls: Vec<Url>,
    /// Where to bind for them, one per URL, duplicates removed.
    pub listen_metrics_addresses: Vec<Place>,
    /// Whether `/metrics` shows what costs more.
    pub metrics_extensive: bool,
    /// Whether CPU profiles are served.
    pub pprof: bool,
    /// What members and machines answers tell clients.
    pub advertise_client_urls: Vec<Url>,
    /// What other members are told at bootstrap.
    pub initial_advertise_peer_urls: Vec<Url>,
    /// Name to peer URLs at bootstrap. See `check_bootstrap`.
    pub initial_cluster: BTreeMap<String, Vec<Url>>,
    /// Whether the cluster exists already.
    pub initial_cluster_state: ClusterState,
    /// TLS for clients.
    pub client_tls: TlsSettings,
    /// TLS between members.
    pub peer_tls: TlsSettings,
    /// Goes into the cluster id.
    pub initial_cluster_token: String,
    /// Other ways to learn of the cluster.
    pub joining: Joining,
    /// Whether and how to be a proxy instead of a member.
    pub proxy: ProxySettings,
    /// Make a cluster of this member alone out of what it has.
    pub force_new_cluster: bool,
    /// Refuse membership changes that would lose the quorum.
    pub strict_reconfig_check: bool,
    /// Applied entries between two snapshots.
    pub snapshot_count: u64,
    /// Snapshot files kept, `None` for all.
    pub max_snapshots: Option<u64>,
    /// WAL segments kept, `None` for all.
    pub max_wals: Option<u64>,
    /// Leader heartbeat.
    pub heartbeat_interval: Duration,
    /// Election timeout, at least five heartbeats.
    pub election_timeout: Duration,
    /// The log.
    pub log: LogSettings,
    /// Who may call from a browser.
    pub cors: Cors,
    /// Client connections held at once.
    pub connections_max: u64,
    /// What one request may cost.
    pub limits: Limits,
    /// What all of them together may cost.
    pub ceilings: Ceilings,
    /// How long a client may take.
    pub timeouts: Timeouts,
    /// Events kept for watches that begin in the past.
    pub history_events: usize,
    /// Bytes those events may keep alive.
    pub history_bytes: usize,
    /// How long to poll for completions before sleeping.
    pub spin_before_park: Duration,
    /// Whether to set IORING_SETUP_COOP_TASKRUN.
    pub coop_taskrun: bool,
    /// Everything that was given, in the table's order.
    pub settings: Vec<Setting>,
    /// Whether the settings are to be checked, and nothing else.
    pub check_only: bool,
    /// Lines for the log, once there is one.
    pub notices: Vec<Notice>,
}

/// What all clients together may cost, in bytes; see `shell/pressure.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ceilings {
    /// Of the key space (`Store::bytes`).
    pub quota: u64,
    /// Of writes under way.
    pub writes_pending: u64,
    /// Of large request bodies that are gathered.
    pub bodies: u64,
    /// Of the log in memory, while a snapshot fails or is not finished.
    pub log: u64,
    /// Of large answers that wait for their clients to read them.
    pub answers: u64,
}

/// How long a client may take, in whole seconds; `None` is for ever. etcd waits for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Between two requests.
    pub idle: Option<NonZeroU32>,
    /// From the first byte of a request to the end of its head.
    pub head: Option<NonZeroU32>,
    /// From the end of the head to the end of the body.
    pub body: Option<NonZeroU32>,
    /// Without taking a byte of what is sent to it.
    pub write: Option<NonZeroU32>,
}

/// Whether this member starts a cluster or joins one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// All members of `initial_cluster` start together.
    New,
    /// The cluster runs; this member was added to it.
    Existing,
}

/// Log levels under etcd's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What an operator may want to know.
    Info,
    /// What may need attention.
    Warn,
    /// What does. `panic` and `fatal` of etcd are this level: such lines are always written.
    Error,
}

/// Allowed origins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cors {
    /// `*`: every answer allows every origin.
    Any,
    /// Only these, byte for byte; the answer echoes the origin.
    Only(Vec<String>),
}

/// Something to log at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// For the record.
    Info(String),
    /// For the operator.
    Warn(String),
}

/// Why there is no `Config`: print `text` to where it belongs and exit with `exit_code`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Asked for the help, the version or a page: stdout, 0.
    #[error("{0}")]
    Asked(String),
    /// A bad flag: message and usage on stderr, 2.
    #[error("{0}")]
    Usage(String),
    /// Settings that contradict each other, a bad variable, something unsupported: stderr, 1.
    #[error("{0}")]
    Invalid(String),
}

impl ConfigError {
    /// The exit code, as etcd's.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Asked(_) => 0,
            Self::Invalid(_) => 1,
            Self::Usage(_) => 2,
        }
    }

    /// Whether the text is an answer (stdout) rather than a complaint (stderr).
    #[must_use]
    pub const fn is_for_stdout(&self) -> bool {
        matches!(self, Self::Asked(_))
    }
}

impl Config {
    /// Reads `args` (without the program's name) and `variables`. `main` calls it with `args_os().skip(1)` and
    /// `vars_os()`. `read` gives the text of a configuration file, of at most [`file::FILE_BYTES_MAX`], or says why it
    /// cannot be had.
    ///
    /// # Errors
    /// `ConfigError`, whose text is what etcd 3.4.23 prints, with `ringd` in place of `etcd`, line end included.
    pub fn parse(
        args: impl IntoIterator<Item = OsString>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        read: impl FnOnce(&Path) -> Result<String, String>,
    ) -> Result<Self, ConfigError> {
        Self::parse_checked(args, variables, read).map_err(|error| match error {
            ConfigError::Invalid(text) => ConfigError::Invalid(text + "\n"),
            whole_lines => whole_lines,
        })
    }

    fn parse_checked(
        args: impl IntoIterator<Item = OsString>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        read: impl FnOnce(&Path) -> Result<String, String>,
    ) -> Result<Self, ConfigError> {
        let args = args
            .into_iter()
            .map(|arg| arg.into_string().map_err(|arg| usage(&format!("argument is not UTF-8: {}", arg.display()))));
        let given = go_flags::parse(args.collect::<Result<_, _>>()?).map_err(|problem| match problem {
            go_flags::Problem::Flag(text) => usage(&text),
            go_flags::Problem::Word(word) => invalid(&format!("'{word}' is not a valid flag")),
        })?;
        let mut values = Values::new(&given);
        if values.bool("help") {
            return Err(ConfigError::Asked(go_flags::command().render_long_help().to_string()));
        }
        if values.bool("version") {
            return Err(ConfigError::Asked(version_text()));
        }
        if values.bool("man") {
            return Err(ConfigError::Asked(page::man()));
        }
        if values.bool("markdown") {
            return Err(ConfigError::Asked(page::markdown()));
        }
        if values.is_set("completion") {
            let script = page::completion(values.text("completion")).map_err(|text| usage(&text))?;
            return Err(ConfigError::Asked(script));
        }
        let ours = gather::ours(variables)?;
        let by_variable = flags::find("config-file").and_then(flags::Flag::variable).and_then(|name| ours.get(&name));
        let path = match values.text("config-file") {
            "" => by_variable.cloned().unwrap_or_default(),
            given => given.to_owned(),
        };
        if path.is_empty() {
            values.add_variables(ours)?;
        } else {
            let path = Path::new(&path);
            let text = read(path).map_err(|why| invalid(&why))?;
            values.replace_by_file(path, &text, &ours)?;
        }
        values.check_status()?;
        values.build()
    }

    /// The rules for a first start, when the data dir holds nothing: this member must be part of the cluster it is to
    /// found or join, under the URLs it advertises. etcd skips them on later starts, and so should the caller.
    ///
    /// # Errors
    /// etcd's text, exit code 1.
    pub fn check_bootstrap(&self) -> Result<(), ConfigError> {
        let fail = |text: String| Err(ConfigError::Invalid(text));
        let all: Vec<&Url> = self.initial_cluster.values().flatten().collect();
        if all.iter().enumerate().any(|(at, url)| all[..at].iter().any(|other| other.is_same_place(url))) {
            return fail(format!("initial cluster {} has duplicate url", self.initial_cluster_text()));
        }
        let Some(listed) = self.initial_cluster.get(&self.name) else {
            return fail(format!("couldn't find local name {:?} in the initial cluster configuration", self.name));
        };
        let advertised = &self.initial_advertise_peer_urls;
        let missing = |these: &[Url], from: &[Url]| {
            these.iter().filter(|url| !from.iter().any(|other| other.is_same_place(url))).cloned().collect::<Vec<_>>()
        };
        let named = |urls: &[Url]| urls.iter().map(|url| format!("{}={url}", self.name)).collect::<Vec<_>>().join(",");
        let unlisted = missing(advertised, listed);
        let unadvertised = missing(listed, advertised);
        if !unadvertised.is_empty() {
            return fail(format!(
                "--initial-cluster has {} but missing from --initial-advertise-peer-urls={}",
                named(&unadvertised),
                url::join(advertised)
            ));
        }
        if !unlisted.is_empty() {
            return fail(format!(
                "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
                url::join(&unlisted),
                named(listed)
            ));
        }
        Ok(())
    }

    /// `NAME=URL,...`, sorted by name.
    #[must_use]
    pub fn initial_cluster_text(&self) -> String {
        let pairs = self.initial_cluster.iter().flat_map(|(name, urls)| urls.iter().map(move |url| (name, url)));
        pairs.map(|(name, url)| format!("{name}={url}")).collect::<Vec<_>>().join(",")
    }
}

/// What `--version` prints.
#[must_use]
pub fn version_text() -> String {
    format!("ringd Version: {}\netcd API level: {ETCD_LEVEL} (v2)\n", env!("CARGO_PKG_VERSION"))
}

fn usage(text: &str) -> ConfigError {
    ConfigError::Usage(format!(
        "{text}\nUsage:\n\n  ringd [flags]\n    Start a ringd server.\n\n  ringd --version\n    Show the version of ringd.\n\n  \
         ringd -h | --help\n    Show all flags.\n"
    ))
}

fn invalid(text: &str) -> ConfigError {
    ConfigError::Invalid(verifying(text))
}

/// Who listens with TLS needs a certificate.
fn require_certificate(urls: &[Url], settings: &TlsSettings) -> Result<(), ConfigError> {
    match urls.iter().find(|url| url.is_secure() && !settings.has_certificate()) {
        Some(url) => Err(invalid(&format!("cannot listen on TLS for {url}: KeyFile and CertFile are not presented"))),
        None => Ok(()),
    }
}

fn verifying(text: &str) -> String {
    format!("error verifying flags, {text}. See 'ringd --help'.")
}

impl Values {
    /// Everything etcd's `Validate` does, in its order, then ringd's own rules.
    fn build(mut self) -> Result<Config, ConfigError> {
        let (listen_peer_urls, listen_peer_addresses) = self.listeners("listen-peer-urls")?;
        let (listen_client_urls, listen_client_addresses) = self.listeners("listen-client-urls")?;
        let (listen_metrics_urls, listen_metrics_addresses) = self.places("listen-metrics-urls")?;
        let initial_advertise_peer_urls = self.advertised("initial-advertise-peer-urls")?;
        let advertise_client_urls = self.advertised("advertise-client-urls")?;
        let joining = self.joining()?;
        let (heartbeat_interval, election_timeout) = self.timing()?;
        let proxy = self.proxy()?;
        // A proxy advertises nothing.
        let may_be_proxy =
            proxy.mode != ProxyMode::Off || (joining.discovery.is_some() && joining.fallback == Fallback::Proxy);
        if self.is_set("listen-client-urls") && !self.is_set("advertise-client-urls") && !may_be_proxy {
            let first = verifying("--advertise-client-urls is required when --listen-client-urls is set explicitly");
            return Err(ConfigError::Invalid(format!(
                "{first}\nWhen listening on specific address(es), this ringd process must advertise accessible url(s) \
                 to each connected client."
            )));
        }
        if self.text("name").is_empty() {
            return Err(invalid("--name must not be empty"));
        }
        let name = self.text("name").to_owned();
        let data_dir = match self.text("data-dir") {
            "" => {
                let text = format!("no data-dir provided, using default data-dir ./{name}.etcd");
                self.notices.push(Notice::Warn(text));
                PathBuf::from(format!("{name}.etcd"))
            }
            given => PathBuf::from(given),
        };
        let initial_cluster = self.initial_cluster(&name, &initial_advertise_peer_urls)?;
        let limits = self.limits()?;
        let log = self.log()?;
        let client_tls = self.tls("", &data_dir, "client", &listen_client_urls)?;
        let peer_tls = self.tls("peer-", &data_dir, "peer", &listen_peer_urls)?;
        require_certificate(&listen_metrics_urls, &client_tls)?;
        Ok(Config {
            data_dir,
            client_tls,
            peer_tls,
            wal_dir: Some(self.text("wal-dir")).filter(|dir| !dir.is_empty()).map(PathBuf::from),
            listen_client_urls,
            listen_client_addresses,
            listen_peer_urls,
            listen_peer_addresses,
            listen_metrics_urls,
            listen_metrics_addresses,
            metrics_extensive: self.text("metrics") == "extensive",
            pprof: self.bool("enable-pprof"),
            advertise_client_urls,
            initial_advertise_peer_urls,
            initial_cluster,
            initial_cluster_state: match self.text("initial-cluster-state") {
                "existing" => ClusterState::Existing,
                _ => ClusterState::New,
            },
            // Discovered members belong together because of where they met.
            initial_cluster_token: match &joining.discovery {
                Some(url) => url.text.clone(),
                None => self.text("initial-cluster-token").to_owned(),
            },
            joining,
            proxy,
            force_new_cluster: self.bool("force-new-cluster"),
            strict_reconfig_check: self.bool("strict-reconfig-check"),
            snapshot_count: self.at_least("snapshot-count", 1)?,
            max_snapshots: Some(self.uint("max-snapshots")).filter(|&count| count > 0),
            max_wals: Some(self.uint("max-wals")).filter(|&count| count > 0),
            heartbeat_interval,
            election_timeout,
            log,
            cors: self.cors()?,
            connections_max: self.at_least("ringd-connections-max", 1)?,
            limits,
            ceilings: Ceilings {
                quota: Some(self.uint("quota-backend-bytes")).filter(|&bytes| bytes > 0).unwrap_or(QUOTA_DEFAULT_BYTES),
                writes_pending: self.at_least("ringd-writes-pending-bytes", 1)?,
                bodies: self.at_least("ringd-bodies-bytes", 1)?,
                log: self.at_least("ringd-log-bytes", 1)?,
                answers: self.at_least("ringd-answers-bytes", 1)?,
            },
            timeouts: Timeouts {
                idle: self.seconds("ringd-idle-timeout")?,
                head: self.seconds("ringd-header-timeout")?,
                body: self.seconds("ringd-body-timeout")?,
                write: self.seconds("ringd-write-timeout")?,
            },
            history_events: usize::try_from(self.at_least("ringd-history-events", 1)?).unwrap_or(usize::MAX),
            history_bytes: usize::try_from(self.uint("ringd-history-bytes")).unwrap_or(usize::MAX),
            spin_before_park: Duration::from_micros(self.uint("ringd-spin-before-park-us")),
            coop_taskrun: self.bool("ringd-coop-taskrun"),
            settings: self.settings(),
            check_only: self.bool("check-config"),
            notices: self.notices,
            name,
        })
    }

    fn listeners(&self, name: &str) -> Result<(Vec<Url>, Vec<Place>), ConfigError> {
        let found = self.places(name)?;
        if found.0.is_empty() {
            return Err(invalid(&format!("--{name} must name at least one URL")));
        }
        Ok(found)
    }

    /// URLs to listen on, and their places without duplicates.
    fn places(&self, name: &str) -> Result<(Vec<Url>, Vec<Place>), ConfigError> {
        let urls = self.urls(name);
        let mut addresses = Vec::with_capacity(urls.len());
        for url in &urls {
            let address = url.bind_place().map_err(|text| invalid(&text))?;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok((urls, addresses))
    }

    fn log(&mut self) -> Result<LogSettings, ConfigError> {
        let mut level = match self.text("log-level") {
            _ if self.bool("debug") => LogLevel::Debug,
            name => log::parse_level(name).expect("a choice of the table"),
        };
        let mut modules = Vec::new();
        // etcd goes on without package levels that it cannot read.
        match log::parse_packages(self.text("log-package-levels")) {
            Ok(found) => {
                level = found.all.unwrap_or(level);
                modules = found.modules;
                self.notices.extend(found.unknown.into_iter().map(|package| {
                    Notice::Warn(format!(
                        "--log-package-levels: there is no package {package:?}; CONFIGURATION.md lists them"
                    ))
                }));
            }
            Err(why) => self
                .notices
                .push(Notice::Warn(format!("couldn't parse log level string: {why}, continuing with default levels"))),
        }
        Ok(LogSettings {
            format: match self.text("logger") {
                "zap" => LogFormat::Json,
                "capnslog" => LogFormat::Capnslog,
                _ => LogFormat::Text,
            },
            outputs: log::parse_outputs(self.text("log-outputs")).map_err(|text| invalid(&text))?,
            level,
            modules,
        })
    }

    /// The TLS of one side: flags that begin with `prefix`, listeners at `urls`.
    fn tls(&mut self, prefix: &str, data_dir: &Path, side: &str, urls: &[Url]) -> Result<TlsSettings, ConfigError> {
        let cert_auth = format!("{prefix}client-cert-auth");
        let (crl, hostname) = match prefix {
            "" => ("client-crl-file", "client-cert-allowed-hostname"),
            _ => ("peer-crl-file", "peer-cert-allowed-hostname"),
        };
        let given = |name: &str| Some(self.text(name).to_owned()).filter(|text| !text.is_empty());
        let path = |name: &str| given(name).map(PathBuf::from);
        let settings = TlsSettings {
            cert: path(&format!("{prefix}cert-file")),
            key: path(&format!("{prefix}key-file")),
            trusted_ca: path(&format!("{prefix}trusted-ca-file")),
            crl: path(crl),
            cert_auth: self.bool(&cert_auth),
            auto: self.bool(&format!("{prefix}auto-tls")).then(|| data_dir.join("fixtures").join(side)),
            allowed_cn: given("peer-cert-allowed-cn").filter(|_| side == "peer"),
            allowed_hostname: given(hostname),
            any_address: side == "peer" && self.bool("experimental-peer-skip-client-san-verification"),
            cipher_suites: self.cipher_suites(side)?,
        };
        if let (Some(cn), Some(host)) = (&settings.allowed_cn, &settings.allowed_hostname) {
            return Err(invalid(&format!(
                "AllowedCN and AllowedHostname are mutually exclusive (cn={cn:?}, hostname={host:?})"
            )));
        }
        let has_files = settings.cert.is_some() || settings.key.is_some();
        if has_files && (settings.cert.is_none() || settings.key.is_none()) {
            let text =
                |path: &Option<PathBuf>| path.as_ref().map_or_else(String::new, |path| path.display().to_string());
            return Err(invalid(&format!(
                "KeyFile and CertFile must both be present[key: {}, cert: {}]",
                text(&settings.key),
                text(&settings.cert)
            )));
        }
        if has_files && settings.auto.is_some() {
            self.notices.push(Notice::Warn(format!("ignoring {side} auto TLS since certs given")));
        }
        require_certificate(urls, &settings)?;
        for url in urls {
            if !url.is_secure() && has_files {
                self.notices.push(Notice::Warn(format!(
                    "The scheme of {side} url {url} is HTTP while {side} key/cert files are presented. Ignored {side} \
                     key/cert files."
                )));
            }
            if !url.is_secure() && settings.cert_auth {
                self.notices.push(Notice::Warn(format!(
                    "The scheme of {side} url {url} is HTTP while client cert auth (--{cert_auth}) is enabled. Ignored \
                     client cert auth for this url."
                )));
            }
        }
        Ok(settings)
    }

    /// Go's names of suites; those that nobody should use are told of once and left out.
    fn cipher_suites(&mut self, side: &str) -> Result<Vec<String>, ConfigError> {
        let names: Vec<String> =
            self.text("cipher-suites").split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        for name in &names {
            let short = name.strip_suffix("_SHA256").unwrap_or(name);
            if tls::WEAK_SUITES.contains(&name.as_str()) {
                if side == "client" {
                    self.notices.push(Notice::Warn(format!("--cipher-suites: {name} is weak and is not offered")));
                }
            } else if !tls::OFFERED_SUITES
                .iter()
                .any(|offered| offered.strip_suffix("_SHA256").unwrap_or(offered) == short)
            {
                return Err(invalid(&format!("unexpected TLS cipher suite {name:?}")));
            }
        }
        Ok(names)
    }

    fn advertised(&self, name: &str) -> Result<Vec<Url>, ConfigError> {
        let urls = self.urls(name);
        match urls.iter().find(|url| url.host().is_empty()) {
            Some(url) => Err(invalid(&format!(
                "--{name} {:?} must be \"host:port\" (unexpected empty host ({url}))",
                url::join(&urls)
            ))),
            None => Ok(urls),
        }
    }

    fn timing(&self) -> Result<(Duration, Duration), ConfigError> {
        let (heartbeat, election) = (self.uint("heartbeat-interval"), self.uint("election-timeout"));
        for (name, value) in [("heartbeat-interval", heartbeat), ("election-timeout", election)] {
            if value == 0 {
                return Err(invalid(&format!("--{name} must be >0 (set to {value}ms)")));
            }
        }
        if heartbeat.saturating_mul(HEARTBEATS_PER_ELECTION) > election {
            return Err(invalid(&format!(
                "--election-timeout[{election}ms] should be at least as {HEARTBEATS_PER_ELECTION} times as \
                 --heartbeat-interval[{heartbeat}ms]"
            )));
        }
        if election > ELECTION_MS_MAX {
            return Err(invalid(&format!(
                "--election-timeout[{election}ms] is too long, and should be set less than {ELECTION_MS_MAX}ms"
            )));
        }
        Ok((Duration::from_millis(heartbeat), Duration::from_millis(election)))
    }

    fn initial_cluster(&self, name: &str, advertised: &[Url]) -> Result<BTreeMap<String, Vec<Url>>, ConfigError> {
        // An empty one says nothing beside another way to the cluster.
        let is_elsewhere = ["discovery", "discovery-srv"].iter().any(|flag| !self.text(flag).is_empty());
        if !self.is_set("initial-cluster") || is_elsewhere {
            return Ok(BTreeMap::from([(name.to_owned(), advertised.to_vec())]));
        }
        joining::parse_cluster(self.text("initial-cluster"))
            .map_err(|text| ConfigError::Invalid(format!("error setting up initial cluster: {text}")))
    }

    fn joining(&self) -> Result<Joining, ConfigError> {
        let ways = ["initial-cluster", "discovery", "discovery-srv"];
        if ways.iter().filter(|way| self.is_set(way) && !self.text(way).is_empty()).count() > 1 {
            return Err(invalid(
                "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery\" or \
                 \"discovery-srv\"",
            ));
        }
        let bad = |flag: &str, why: String| invalid(&format!("--{flag}: {why}"));
        let url = |flag: &str, text: &str| match text {
            "" => Ok(None),
            given => ServiceUrl::parse(given).map(Some).map_err(|why| bad(flag, why)),
        };
        let proxy = self.text("discovery-proxy");
        // etcd takes a proxy without a scheme.
        let proxy =
            if proxy.is_empty() || proxy.contains("://") { proxy.to_owned() } else { format!("http://{proxy}") };
        let server = match self.text("ringd-dns-server") {
            "" => None,
            text => Some(Srv::parse_server(text).map_err(|why| bad("ringd-dns-server", why))?),
        };
        let domain = self.text("discovery-srv").to_owned();
        let suffix = self.text("discovery-srv-name").to_owned();
        Ok(Joining {
            discovery: url("discovery", self.text("discovery"))?,
            fallback: if self.text("discovery-fallback") == "exit" { Fallback::Exit } else { Fallback::Proxy },
            discovery_proxy: url("discovery-proxy", &proxy)?,
            srv: (!domain.is_empty()).then_some(Srv { domain, suffix, server }),
        })
    }

    fn proxy(&self) -> Result<ProxySettings, ConfigError> {
        let limit = |flag: &str| Some(self.uint(flag)).filter(|&ms| ms > 0).map(Duration::from_millis);
        Ok(ProxySettings {
            mode: match self.text("proxy") {
                "on" => ProxyMode::On,
                "readonly" => ProxyMode::ReadOnly,
                _ => ProxyMode::Off,
            },
            failure_wait: Duration::from_millis(self.uint("proxy-failure-wait")),
            refresh_interval: Duration::from_millis(self.at_least("proxy-refresh-interval", 1)?),
            dial_timeout: limit("proxy-dial-timeout"),
            write_timeout: limit("proxy-write-timeout"),
            read_timeout: limit("proxy-read-timeout"),
        })
    }

    fn cors(&self) -> Result<Cors, ConfigError> {
        let text = self.text("cors");
        if text.split(',').any(|origin| origin == "*") {
            return Ok(Cors::Any);
        }
        // Not `parse_list`, to which nothing is an empty list: etcd refuses an empty --cors.
        let urls = text.split(',').map(Url::parse).collect::<Result<Vec<_>, _>>();
        let urls = urls.map_err(|why| usage(&format!("invalid value {text:?} for flag -cors: {why}")))?;
        Ok(Cors::Only(urls.iter().map(|url| url.as_str().to_owned()).collect()))
    }

    fn limits(&self) -> Result<Limits, ConfigError> {
        let header = self.at_least("ringd-request-header-max", HEADER_BYTES_MIN)?;
        // In etcd the flag bounds v3 requests, so that its default leaves v2 forms their 10 MiB.
        let whole = if self.is_set("max-request-bytes") { self.at_least("max-request-bytes", 1)? } else { u64::MAX };
        Ok(Limits {
            header_bytes_max: usize::try_from(header).unwrap_or(usize::MAX),
            body_bytes_max: self.uint("ringd-request-body-max").min(whole),
            ..Limits::default()
        })
    }

    /// Zero is for ever.
    fn seconds(&self, name: &str) -> Result<Option<NonZeroU32>, ConfigError> {
        match self.uint(name) {
            value if value > SECONDS_MAX => {
                Err(invalid(&format!("--{name} must be at most {SECONDS_MAX} (set to {value})")))
            }
            value => Ok(NonZeroU32::new(u32::try_from(value).expect("at most a day"))),
        }
    }

    fn at_least(&self, name: &str, least: u64) -> Result<u64, ConfigError> {
        match self.uint(name) {
            value if value < least => Err(invalid(&format!("--{name} must be at least {least} (set to {value})"))),
            value => Ok(value),
        }
    }
}
