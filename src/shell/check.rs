//! `--check-config`: would this start, and with what?
//!
//! Owns: what can be told without starting: files and directories beside the settings, which were checked before.
//! May touch: the disk, for reading only. Blocking; nothing runs yet.
//!
//! Must always hold: nothing is written, bound or made; what is found good here is what [`super::start`] reads.

use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use ringd_storage::fs::FsMedium;
use ringd_storage::recover::holds_wal;
use rustix::fs::{Access, access};

use super::tls_files;
use crate::config::gather::Source;
use crate::config::joining::ProxyMode;
use crate::config::log::LogOutput;
use crate::config::{Config, Notice, url};

/// The text for the operator, and whether the settings are good.
#[must_use]
pub fn report(config: &Config) -> (String, bool) {
    let mut text = String::from("settings given:\n");
    for setting in config.settings.iter().filter(|setting| setting.name != "check-config") {
        let source = match setting.source {
            Source::Flag => "flag".to_owned(),
            Source::Variable => "variable".to_owned(),
            Source::File(line) => format!("file, line {line}"),
        };
        let _ = writeln!(text, "  --{}={}  ({source})", setting.name, setting.value);
    }
    text.push_str("would be used:\n");
    for (name, value) in facts(config) {
        let _ = writeln!(text, "  {name:<12} {value}");
    }
    for notice in &config.notices {
        match notice {
            Notice::Info(told) => drop(writeln!(text, "note: {told}")),
            Notice::Warn(told) => drop(writeln!(text, "warning: {told}")),
        }
    }
    let problems = problems(config);
    for problem in &problems {
        let _ = writeln!(text, "error: {problem}");
    }
    text.push_str(if problems.is_empty() {
        "the configuration is good\n"
    } else {
        "the configuration cannot be used\n"
    });
    (text, problems.is_empty())
}

/// What follows from the settings.
fn facts(config: &Config) -> Vec<(&'static str, String)> {
    let beginning = match (config.proxy.mode, &config.joining.discovery, &config.joining.srv) {
        (ProxyMode::On, ..) => "a proxy".to_owned(),
        (ProxyMode::ReadOnly, ..) => "a proxy that lets only reads through".to_owned(),
        (_, Some(url), _) => format!("a member that meets the others at {}", url.text),
        (_, _, Some(srv)) => format!("a member that finds the others in the DNS under {}", srv.domain),
        _ if is_begun(config) => "a member that has been started before; the initial cluster does not count".to_owned(),
        _ => format!("a member of {}", config.initial_cluster_text()),
    };
    let log = config.log.outputs.iter().map(|output| match output {
        LogOutput::Stderr => "stderr".to_owned(),
        LogOutput::Stdout => "stdout".to_owned(),
        LogOutput::Journal => "systemd/journal".to_owned(),
        LogOutput::File(path) => path.display().to_string(),
    });
    vec![
        ("name", config.name.clone()),
        ("as", beginning),
        ("data", config.data_dir.display().to_string()),
        ("log (WAL)", wal_dir(config).display().to_string()),
        (
            "clients",
            format!("{}, told as {}", url::join(&config.listen_client_urls), url::join(&config.advertise_client_urls)),
        ),
        (
            "peers",
            format!(
                "{}, told as {}",
                url::join(&config.listen_peer_urls),
                url::join(&config.initial_advertise_peer_urls)
            ),
        ),
        (
            "timing",
            format!(
                "heartbeat {} ms, election {} ms",
                config.heartbeat_interval.as_millis(),
                config.election_timeout.as_millis()
            ),
        ),
        ("log", format!("{} from level {:?}", log.collect::<Vec<_>>().join(", "), config.log.level)),
    ]
}

fn problems(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    for dir in std::iter::once(&config.data_dir).chain(&config.wal_dir) {
        problems.extend(usable_directory(dir).err());
    }
    for settings in [&config.client_tls, &config.peer_tls] {
        problems.extend(tls_files::check(settings).err());
    }
    for output in &config.log.outputs {
        let LogOutput::File(path) = output else { continue };
        let is_there = path.exists();
        let usable = if is_there { access(path, Access::WRITE_OK).map_err(io::Error::from) } else { Ok(()) };
        problems.extend(usable.err().map(|error| format!("cannot log to {}: {}", path.display(), why(&error))));
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !is_there && let Err(error) = access(parent, Access::WRITE_OK | Access::EXEC_OK).map_err(io::Error::from) {
            problems.push(format!("cannot log to {}: {}: {}", path.display(), parent.display(), why(&error)));
        }
    }
    let is_listed = config.joining.discovery.is_some() || config.joining.srv.is_some();
    if config.proxy.mode == ProxyMode::Off && !is_listed && !is_begun(config) {
        problems.extend(config.check_bootstrap().err().map(|error| error.to_string()));
    }
    problems
}

/// Whether the directory can be used or made.
fn usable_directory(dir: &Path) -> Result<(), String> {
    let mut at = dir;
    loop {
        let here = if at.as_os_str().is_empty() { Path::new(".") } else { at };
        let told =
            |error: &io::Error| format!("cannot use directory {}: {}: {}", dir.display(), here.display(), why(error));
        match std::fs::metadata(here) {
            Ok(found) if !found.is_dir() => return Err(told(&io::Error::from(ErrorKind::NotADirectory))),
            Ok(_) => {
                let wanted = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
                return access(here, wanted).map_err(|error| told(&io::Error::from(error)));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => match at.parent() {
                Some(parent) => at = parent,
                None => return Err(told(&error)),
            },
            Err(error) => return Err(told(&error)),
        }
    }
}

fn wal_dir(config: &Config) -> PathBuf {
    config.wal_dir.clone().unwrap_or_else(|| config.data_dir.join("member").join("wal"))
}

/// Whether there is a log already. What cannot be read is told as a directory that cannot be used.
fn is_begun(config: &Config) -> bool {
    let dir = wal_dir(config);
    dir.is_dir() && FsMedium::open(&dir).is_ok_and(|medium| holds_wal(&medium).unwrap_or(false))
}

/// An error in the words of Go's programs.
#[must_use]
pub fn why(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "no such file or directory".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        ErrorKind::IsADirectory => "is a directory".to_owned(),
        ErrorKind::NotADirectory => "not a directory".to_owned(),
        ErrorKind::ReadOnlyFilesystem => "read-only file system".to_owned(),
        _ => error.to_string(),
    }
}
