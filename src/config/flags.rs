//! The table of every flag: name, value, default, whether it does something, and its help line.
//!
//! Owns: the names. May touch: nothing. `config.rs` reads values by the names given here; a name that is not in the
//! table cannot be read or set.
//!
//! Must always hold: names are unique; every default passes its own kind's check; each flag of etcd 3.4.23 is here,
//! so that no unit file or script of etcd's fails on an unknown flag. A flag that would silently mean less than it
//! says is `Refused`, not ignored.

/// What values a flag takes, and so which of Go's messages a bad one gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// Go's `ParseBool`; the value may be left out.
    Bool,
    /// Go's `ParseUint` with base 0.
    Uint,
    /// Comma-separated URLs, `scheme://host:port`.
    Urls,
    /// One of these.
    Choice(&'static [&'static str]),
}

/// What ringd does with a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// As it says.
    Effective,
    /// Accepted; the reason why nothing changes is logged when it is set.
    NoEffect(&'static str),
    /// Only the default and the values listed are accepted; the reason is given for any other.
    Refused(&'static [&'static str], &'static str),
}

/// Heading in the help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// This member.
    Member,
    /// Its cluster.
    Clustering,
    /// TLS and origins.
    Security,
    /// v3 authentication.
    Auth,
    /// Logs, metrics, profiles.
    Observing,
    /// v2 proxy mode.
    Proxy,
    /// etcd's experiments.
    Experimental,
    /// Unsafe and old.
    Unsafe,
    /// What etcd does not have.
    Ringd,
    /// `--help` and friends.
    About,
}

impl Group {
    /// The heading's text.
    #[must_use]
    pub const fn heading(self) -> &'static str {
        match self {
            Self::Member => "Member",
            Self::Clustering => "Clustering",
            Self::Security => "Security",
            Self::Auth => "Auth",
            Self::Observing => "Profiling, monitoring, logging",
            Self::Proxy => "v2 Proxy",
            Self::Experimental => "Experimental",
            Self::Unsafe => "Unsafe and deprecated",
            Self::Ringd => "ringd only",
            Self::About => "About",
        }
    }
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Name without dashes.
    pub name: &'static str,
    /// Value syntax.
    pub kind: Kind,
    /// Default as text; empty for unset.
    pub default: &'static str,
    /// Heading.
    pub group: Group,
    /// What it does here.
    pub status: Status,
    /// Help line.
    pub help: &'static str,
}

impl Flag {
    /// `ETCD_A_B` for `a-b`, `RINGD_A_B` for `ringd-a-b`; none for flags about the program itself, but the file.
    #[must_use]
    pub fn variable(&self) -> Option<String> {
        if self.group == Group::About && self.name != "config-file" {
            return None;
        }
        let upper = self.name.to_ascii_uppercase().replace('-', "_");
        Some(if self.group == Group::Ringd { upper } else { format!("ETCD_{upper}") })
    }
}

/// The flag of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

const fn flag(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    group: Group,
    status: Status,
    help: &'static str,
) -> Flag {
    Flag { name, kind, default, group, status, help }
}

use Group::{About, Auth, Clustering, Experimental, Member, Observing, Proxy, Ringd, Security, Unsafe};
use Kind::{Bool, Choice, Text, Uint, Urls};
use Status::{Effective, NoEffect, Refused};

const NO_V3: Status = NoEffect("it concerns the v3 API, which ringd does not serve");

/// Every flag, in the order of the help.
#[rustfmt::skip]
pub const FLAGS: &[Flag] = &[
    flag("name", Text, "default", Member, Effective, "Name of this member."),
    flag("data-dir", Text, "", Member, Effective, "Directory for all data [default: ${name}.etcd]."),
    flag("wal-dir", Text, "", Member, Effective, "Separate directory for the write-ahead log."),
    flag("snapshot-count", Uint, "100000", Member, Effective, "Applied entries between two snapshots."),
    flag("heartbeat-interval", Uint, "100", Member, Effective, "Leader heartbeat, in milliseconds."),
    flag("election-timeout", Uint, "1000", Member, Effective, "Election timeout, in milliseconds; at least 5 heartbeats, at most 50000."),
    flag("initial-election-tick-advance", Bool, "true", Member, NoEffect("a member that boots alone campaigns at once"), "Skip ahead in the first election wait."),
    flag("listen-peer-urls", Urls, "http://localhost:2380", Member, Effective, "URLs to listen on for peers."),
    flag("listen-client-urls", Urls, "http://localhost:2379", Member, Effective, "URLs to listen on for clients."),
    flag("max-snapshots", Uint, "5", Member, Effective, "Snapshot files kept; 0 keeps all."),
    flag("max-wals", Uint, "5", Member, Effective, "WAL files kept beyond those a snapshot still needs; 0 keeps all."),
    flag("quota-backend-bytes", Uint, "0", Member, Effective, "Bytes of keys, values and their overhead beyond which writes that add are refused; 0 is 2 GiB."),
    flag("backend-batch-interval", Text, "", Member, NO_V3, "Longest time before the v3 backend commits."),
    flag("backend-batch-limit", Uint, "0", Member, NO_V3, "Most operations before the v3 backend commits."),
    flag("max-txn-ops", Uint, "128", Member, NO_V3, "Operations allowed in one v3 transaction."),
    flag("max-request-bytes", Uint, "1572864", Member, Effective, "Largest v3 request; given explicitly, also the largest v2 body (see --ringd-request-body-max)."),
    flag("max-concurrent-streams", Text, "math.MaxUint32", Member, NO_V3, "gRPC streams per client."),
    flag("grpc-keepalive-min-time", Text, "5s", Member, NO_V3, "Shortest gRPC ping interval accepted."),
    flag("grpc-keepalive-interval", Text, "2h", Member, NO_V3, "gRPC server ping interval."),
    flag("grpc-keepalive-timeout", Text, "20s", Member, NO_V3, "Wait after a gRPC ping."),

    flag("initial-advertise-peer-urls", Urls, "http://localhost:2380", Clustering, Effective, "Peer URLs told to the cluster."),
    flag("initial-cluster", Text, "", Clustering, Effective, "NAME=URL,... to start with [default: this member alone]."),
    flag("initial-cluster-state", Choice(&["new", "existing"]), "new", Clustering, Effective, "'new' or 'existing'."),
    flag("initial-cluster-token", Text, "etcd-cluster", Clustering, Effective, "Keeps clusters apart at bootstrap."),
    flag("advertise-client-urls", Urls, "http://localhost:2379", Clustering, Effective, "Client URLs told to the public; required with --listen-client-urls."),
    flag("discovery", Text, "", Clustering, Effective, "URL of a token in a discovery service: http://HOST[:PORT]/v2/keys/TOKEN on any ringd or etcd."),
    flag("discovery-fallback", Choice(&["proxy", "exit"]), "proxy", Clustering, Effective, "When the discovered cluster is full: serve as a proxy, or exit."),
    flag("discovery-proxy", Text, "", Clustering, Effective, "HTTP proxy on the way to the discovery service."),
    flag("discovery-srv", Text, "", Clustering, Effective, "DNS domain whose SRV records name the members."),
    flag("discovery-srv-name", Text, "", Clustering, Effective, "Suffix of the SRV name: _etcd-server-SUFFIX._tcp.DOMAIN."),
    flag("strict-reconfig-check", Bool, "true", Clustering, Effective, "Refuse membership changes that would lose the quorum."),
    flag("pre-vote", Bool, "false", Clustering, NoEffect("pre-vote is always on"), "An election phase that spares a healthy leader."),
    flag("auto-compaction-retention", Text, "0", Clustering, NO_V3, "v3 history kept."),
    flag("auto-compaction-mode", Choice(&["periodic", "revision"]), "periodic", Clustering, NO_V3, "What the retention counts."),
    flag("enable-v2", Bool, "true", Clustering, NoEffect("the v2 API is always on"), "Serve the v2 API."),
    flag("enable-grpc-gateway", Bool, "true", Clustering, NO_V3, "JSON gateway to the v3 API."),

    flag("cert-file", Text, "", Security, Effective, "Certificate shown to clients, PEM; read again when it changes."),
    flag("key-file", Text, "", Security, Effective, "Its key."),
    flag("client-cert-auth", Bool, "false", Security, Effective, "Require client certificates; their CN is the user of the v2 API."),
    flag("client-crl-file", Text, "", Security, Effective, "Client certificates that are refused: a revocation list, PEM or DER."),
    flag("client-cert-allowed-hostname", Text, "", Security, Effective, "Host name a client certificate must carry."),
    flag("trusted-ca-file", Text, "", Security, Effective, "Authorities of client certificates, PEM; asks for client certificates by itself."),
    flag("auto-tls", Bool, "false", Security, Effective, "Make the certificate for clients, in DATA-DIR/fixtures/client."),
    flag("peer-cert-file", Text, "", Security, Effective, "Certificate shown to other members, PEM; read again when it changes."),
    flag("peer-key-file", Text, "", Security, Effective, "Its key."),
    flag("peer-client-cert-auth", Bool, "false", Security, Effective, "Require peer certificates."),
    flag("peer-trusted-ca-file", Text, "", Security, Effective, "Authorities of peer certificates, PEM."),
    flag("peer-cert-allowed-cn", Text, "", Security, Effective, "CN that peers must carry."),
    flag("peer-cert-allowed-hostname", Text, "", Security, Effective, "Host name that peers must carry."),
    flag("peer-auto-tls", Bool, "false", Security, Effective, "Make the peer certificate, in DATA-DIR/fixtures/peer; members then believe any."),
    flag("peer-crl-file", Text, "", Security, Effective, "Peer certificates that are refused: a revocation list, PEM or DER."),
    flag("cipher-suites", Text, "", Security, Effective, "Cipher suites of TLS 1.2 under Go's names; those of 1.3 are always offered."),
    flag("cors", Text, "*", Security, Effective, "Origins that browsers may call from: '*' or URLs."),
    flag("host-whitelist", Text, "*", Security, Refused(&[], "host filtering is not supported; filter in front of the server"), "Host headers accepted without TLS."),

    flag("auth-token", Text, "simple", Auth, NO_V3, "v3 token type."),
    flag("bcrypt-cost", Uint, "10", Auth, NO_V3, "Cost of hashing a v3 password."),
    flag("auth-token-ttl", Uint, "300", Auth, NO_V3, "Life of a v3 token, in seconds."),

    flag("enable-pprof", Bool, "false", Observing, Effective, "Serve CPU profiles at /debug/pprof/profile on client URLs."),
    flag("metrics", Choice(&["basic", "extensive"]), "basic", Observing, Effective, "Detail of /metrics: extensive adds request durations in fine buckets."),
    flag("listen-metrics-urls", Urls, "", Observing, Effective, "Further URLs to listen on, for /metrics, /health, /livez and /readyz only; https with the certificate for clients. A proxy opens none, as in etcd."),
    flag("logger", Choice(&["text", "capnslog", "zap"]), "text", Observing, Effective, "Form of the log: text, capnslog (lines as etcd's up to 3.4) or zap (JSON, as etcd's)."),
    flag("log-outputs", Text, "default", Observing, Effective, "Where the log goes, with commas: default (stderr), stderr, stdout, systemd/journal, or files, which are opened again on SIGHUP."),
    flag("log-level", Choice(&["debug", "info", "warn", "error", "panic", "fatal"]), "info", Observing, Effective, "debug, info, warn, error, panic or fatal."),

    flag("proxy", Choice(&["off", "readonly", "on"]), "off", Proxy, Effective, "Serve as a proxy of the cluster instead of a member: off, readonly or on."),
    flag("proxy-failure-wait", Uint, "5000", Proxy, Effective, "How long a failed endpoint is left out, in milliseconds."),
    flag("proxy-refresh-interval", Uint, "30000", Proxy, Effective, "Endpoint refresh, in milliseconds."),
    flag("proxy-dial-timeout", Uint, "1000", Proxy, Effective, "How long a connect to a member may take, in milliseconds; 0 is as long as the kernel tries."),
    flag("proxy-write-timeout", Uint, "5000", Proxy, Effective, "How long a member may take nothing of a request, in milliseconds; 0 is for ever."),
    flag("proxy-read-timeout", Uint, "0", Proxy, Effective, "How long a member may send nothing, in milliseconds; 0 is for ever, which watches need."),

    flag("experimental-initial-corrupt-check", Bool, "false", Experimental, NoEffect("every start verifies every record"), "Check data before serving."),
    flag("experimental-corrupt-check-time", Text, "0s", Experimental, NO_V3, "Interval of corruption checks."),
    flag("experimental-enable-v2v3", Text, "", Experimental, Refused(&[], "the v2 API has its own store"), "Serve v2 from the v3 store under this prefix."),
    flag("experimental-backend-bbolt-freelist-type", Text, "array", Experimental, NO_V3, "array or map."),
    flag("experimental-enable-lease-checkpoint", Bool, "false", Experimental, NO_V3, "Keep lease times over leader changes."),
    flag("experimental-enable-lease-checkpoint-persist", Bool, "false", Experimental, NO_V3, "Store lease checkpoints."),
    flag("experimental-compaction-batch-limit", Uint, "1000", Experimental, NO_V3, "Revisions per compaction batch."),
    flag("experimental-peer-skip-client-san-verification", Bool, "false", Experimental, Effective, "Do not compare peer certificates with the addresses peers come from."),
    flag("experimental-watch-progress-notify-interval", Text, "10m", Experimental, NO_V3, "v3 watch progress interval."),
    flag("experimental-warning-apply-duration", Text, "100ms", Experimental, NO_V3, "Slow request warning."),

    flag("force-new-cluster", Bool, "false", Unsafe, Effective, "Turn this member into a new one-member cluster."),
    flag("unsafe-no-fsync", Bool, "false", Unsafe, Refused(&[], "ringd answers nothing that is not on disk"), "Do not wait for the disk."),
    flag("debug", Bool, "false", Unsafe, Effective, "Same as --log-level debug."),
    flag("log-package-levels", Text, "", Unsafe, Effective, "Log level per package: PACKAGE=LEVEL,... with etcd's packages or ringd's modules."),

    flag("ringd-connections-max", Uint, "65536", Ringd, Effective, "Connections held at once by each listener; more are answered 503 and closed."),
    flag("ringd-idle-timeout", Uint, "300", Ringd, Effective, "Seconds a connection may be silent between requests; 0 is for ever. Watches are exempt."),
    flag("ringd-header-timeout", Uint, "60", Ringd, Effective, "Seconds from a request's first byte to the end of its head, else 408; 0 is for ever."),
    flag("ringd-body-timeout", Uint, "300", Ringd, Effective, "Seconds from the end of a request's head to the end of its body, else 408; 0 is for ever."),
    flag("ringd-write-timeout", Uint, "60", Ringd, Effective, "Seconds a client may take nothing of its answer before it is cut off; 0 is for ever."),
    flag("ringd-history-events", Uint, "1000", Ringd, Effective, "Events kept for watches that begin in the past."),
    flag("ringd-history-bytes", Uint, "67108864", Ringd, Effective, "Bytes those events may keep alive; the newest is always kept."),
    flag("ringd-writes-pending-bytes", Uint, "67108864", Ringd, Effective, "Bytes of writes under way beyond which new ones are answered 503."),
    flag("ringd-log-bytes", Uint, "2147483648", Ringd, Effective, "Bytes of the log in memory beyond which writes are answered 503 while a snapshot fails or is not finished."),
    flag("ringd-bodies-bytes", Uint, "268435456", Ringd, Effective, "Bytes of large request bodies held at once, over all connections; more are answered 503."),
    flag("ringd-answers-bytes", Uint, "268435456", Ringd, Effective, "Bytes of large answers held for clients that have not read them yet, over all connections; beyond it large GETs are answered 503."),
    flag("ringd-request-body-max", Uint, "10485760", Ringd, Effective, "Largest request body, in bytes."),
    flag("ringd-request-header-max", Uint, "65536", Ringd, Effective, "Largest request head, in bytes."),
    flag("ringd-dns-server", Text, "", Ringd, Effective, "IP[:PORT] of the name server that --discovery-srv asks [default: those of /etc/resolv.conf]."),
    flag("ringd-spin-before-park-us", Uint, "20", Ringd, Effective, "How long to poll for completions before sleeping, in microseconds; 0 sleeps at once."),
    flag("ringd-coop-taskrun", Bool, "true", Ringd, Effective, "Ask io_uring not to interrupt the thread for completions (IORING_SETUP_COOP_TASKRUN)."),

    flag("config-file", Text, "", About, Effective, "YAML file with settings; flags and variables are then ignored."),
    flag("check-config", Bool, "false", About, Effective, "Check the settings and the files they name, say what would be used, and exit with 0, or 1 if something is wrong."),
    flag("man", Bool, "false", About, Effective, "Print the manual page, in roff, and exit."),
    flag("markdown", Bool, "false", About, Effective, "Print the reference page, in Markdown, and exit."),
    flag("completion", Choice(&["", "bash", "zsh", "fish"]), "", About, Effective, "Print the completions for bash, zsh or fish, and exit."),
    flag("version", Bool, "false", About, Effective, "Print the version and exit."),
    flag("help", Bool, "false", About, Effective, "Print this help and exit."),
];
