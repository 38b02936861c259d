//! The command line of `ringbench`.
//!
//! Owns: flags, their defaults and their checks. Touches: nothing. Always: a value that gets past here is usable.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::engine::BenchError;

/// More connections than this need more file descriptors than a process usually may open.
const MAX_CLIENTS: u64 = 20_000;
/// Key names have this many digits at most.
const MAX_KEYS: u64 = 100_000_000;
/// The server takes form bodies of up to 10 MB.
const MAX_VALUE: u64 = 8 * 1024 * 1024;

/// Measures a v2 keys server, and the disk under a write-ahead log.
#[derive(Debug, Parser)]
#[command(name = "ringbench", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write random keys of a key space and measure rate and latency
    Put(LoadOptions),
    /// Read random keys of a key space and measure rate and latency
    Get(LoadOptions),
    /// Measure how fast a directory's disk makes log appends durable
    ///
    /// Writes files below DIR (about 8 MB per sample: 400 MB by default, 1 GB at most) and removes them again.
    /// First the raw floor of the disk: one 4 KiB O_DIRECT write and fdatasync. Then appends through each writer, for
    /// several record and group sizes, on zero-filled, recycled and merely allocated files; all in interleaved rounds.
    Wal(WalOptions),
}

/// Samples per figure; disk usage grows with them.
const MAX_SAMPLES: u64 = 125;
pub const QUICK_SAMPLES: usize = 30;

#[derive(Clone, Debug, Args)]
pub struct WalOptions {
    /// A directory on the disk to measure; it must exist
    pub dir: PathBuf,
    /// How often each combination is measured
    #[arg(long, default_value_t = 50, value_parser = count(MAX_SAMPLES))]
    pub samples: usize,
    /// Fewer samples, and only the way a node writes
    #[arg(long)]
    pub quick: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, Args)]
pub struct LoadOptions {
    /// The server, as http://HOST:PORT or https://HOST:PORT
    #[arg(long, default_value = "http://127.0.0.1:2379")]
    pub target: Target,
    /// Connections; each has one request under way at any time
    #[arg(long, default_value_t = 64, value_parser = count(MAX_CLIENTS))]
    pub clients: usize,
    /// How long to measure (`10s`, `500ms`, `1m`, or a number of seconds)
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub duration: Duration,
    /// How long to run before measuring
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub warmup: Duration,
    /// Bytes per value
    #[arg(long, default_value_t = 128, value_parser = count(MAX_VALUE))]
    pub value_size: usize,
    /// How many different keys to use
    #[arg(long, default_value_t = 10_000, value_parser = count(MAX_KEYS))]
    pub key_space: usize,
    /// The directory the keys live in
    #[arg(long, default_value = "/ringbench", value_parser = prefix)]
    pub prefix: String,
    /// Seed of the random choice of keys
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Send this user's name and password with every request
    #[arg(long, value_name = "NAME:PASSWORD", value_parser = user)]
    pub user: Option<String>,
    /// The authorities whose certificates are believed (PEM); the system's without
    #[arg(long, value_name = "FILE")]
    pub cacert: Option<PathBuf>,
    /// The certificate to show (PEM)
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Make a connection, with a full handshake under https, for every request
    #[arg(long)]
    pub new_connections: bool,
    /// Requests per second in all, as far as connections are free, instead of as many as are answered
    #[arg(long, value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,
    /// Do not write the key space before reading from it
    #[arg(long)]
    pub no_fill: bool,
    /// Never sleep while waiting for answers: takes a whole core, and no server pays for waking this process up
    #[arg(long)]
    pub spin: bool,
    /// Also report the CPU time this process spends per request (the server, on this machine)
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    is_secure: bool,
    host: String,
    port: u16,
}

impl Target {
    pub fn host_port(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Whether TLS is spoken there.
    pub fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// Without brackets.
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The first address the host name stands for.
    pub fn address(&self) -> Result<SocketAddr, BenchError> {
        let unknown = |why: String| BenchError::UnknownHost { host: self.host_port(), why };
        let mut all = (self.host(), self.port).to_socket_addrs().map_err(|e| unknown(e.to_string()))?;
        all.next().ok_or_else(|| unknown("the name has no address".into()))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", if self.is_secure { "https" } else { "http" }, self.host, self.port)
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(url: &str) -> Result<Target, String> {
        let (is_secure, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err("must start with http:// or https://".into()),
        };
        let rest = rest.trim_end_matches('/');
        let (host, port) = rest.rsplit_once(':').ok_or("must name a port: http://HOST:PORT")?;
        let port = port.parse().map_err(|_| format!("{port:?} is not a port"))?;
        if host.is_empty() || host.contains(['/', '@', ' ']) {
            return Err(format!("{host:?} is not a host"));
        }
        Ok(Target { is_secure, host: host.to_owned(), port })
    }
}

fn count(max: u64) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text| match text.parse::<u64>() {
        Ok(n) if (1..=max).contains(&n) => Ok(n as usize),
        _ => Err(format!("must be a number from 1 to {max}")),
    }
}

/// More than a thread can send would only measure the thread.
fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.1..=1e6).contains(&rate) => Ok(rate),
        _ => Err("must be a number from 0.1 to 1000000".into()),
    }
}

fn user(text: &str) -> Result<String, String> {
    match text.split_once(':') {
        Some((name, _)) if !name.is_empty() => Ok(text.to_owned()),
        _ => Err("must be NAME:PASSWORD".into()),
    }
}

fn prefix(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-_.".contains(&b);
    let clean = text.trim_end_matches('/');
    if !clean.starts_with('/') || clean.contains("//") || clean.contains("/.") || !clean.bytes().all(plain) {
        return Err("must be an absolute key of letters, digits, `-`, `_` and `.`".into());
    }
    Ok(clean.to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let unit = match &text[at..] {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "m" => 60.0,
        other => return Err(format!("unknown unit {other:?}: use ms, s or m")),
    };
    let seconds: f64 = text[..at].parse().map_err(|_| format!("{text:?} is not a duration"))?;
    Duration::try_from_secs_f64(seconds * unit).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn targets() {
        assert_eq!("http://h:80/".parse::<Target>().map(|t| t.to_string()), Ok("http://h:80".into()));
        assert_eq!("http://[::1]:80".parse::<Target>().map(|t| t.host_port()), Ok("[::1]:80".into()));
        assert_eq!("https://h:80".parse::<Target>().map(|t| t.to_string()), Ok("https://h:80".into()));
        for bad in ["h:80", "ftp://h:80", "http://h", "http://:80", "http://h:x", "http://a/b:80"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_and_prefixes() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("1h").is_err() && duration("").is_err() && duration("-1s").is_err());
        assert_eq!(prefix("/a/b/"), Ok("/a/b".into()));
        assert!(user("u:p:q").is_ok() && user("u").is_err() && user(":p").is_err());
        assert!(prefix("a").is_err() && prefix("/a b").is_err() && prefix("/a/../b").is_err());
    }
}
