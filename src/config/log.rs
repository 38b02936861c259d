//! What the flags say about the log: format, outputs, levels, and what etcd's packages are here.
//!
//! Owns: the grammar of `--log-outputs` and `--log-package-levels`, and the table of packages. May touch: text only;
//! no file is opened.

use std::path::PathBuf;

use super::LogLevel;

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `2026-01-02T03:04:05.678901Z  INFO message key=value`.
    #[default]
    Text,
    /// `2026-01-02 03:04:05.678901 I | package: message key=value`, as etcd up to 3.4.
    Capnslog,
    /// One JSON object a line, with etcd's names.
    Json,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// journald's own socket.
    Journal,
    /// A file, which is appended to and opened again on SIGHUP.
    File(PathBuf),
}

/// Everything about the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// How a line looks.
    pub format: LogFormat,
    /// Where lines go; at least one place.
    pub outputs: Vec<LogOutput>,
    /// The least important level that is logged.
    pub level: LogLevel,
    /// Levels of module paths that differ from it.
    pub modules: Vec<(String, LogLevel)>,
}

/// etcd's packages, and the modules that do their work here. `*` is everything.
pub const PACKAGES: &[(&str, &[&str])] = &[
    ("auth", &["ringd::shell::credentials"]),
    ("discovery", &["ringd::shell::discovery", "ringd::shell::joining", "ringd::shell::srv"]),
    ("embed", &["ringd::shell::start"]),
    ("etcdmain", &["ringd"]),
    ("etcdserver", &["ringd::shell", "ringd::core"]),
    ("httpproxy", &["ringd::shell::proxy"]),
    ("membership", &["ringd::shell::manage", "ringd::shell::bootstrap"]),
    ("raft", &["ringd::shell::driver", "ringd::core"]),
    ("rafthttp", &["ringd::shell::peer", "ringd::shell::dial"]),
    ("snap", &["ringd::shell::snapshot", "ringd::shell::install"]),
    ("transport", &["ringd::shell::tls"]),
    ("v2http", &["ringd::shell::connection", "ringd::shell::listener", "ringd::shell::respond"]),
    ("wal", &["ringd::shell::disk", "ringd_storage"]),
];

/// Reads `--log-outputs`.
///
/// # Errors
/// etcd's text, or what is wrong with an output.
pub fn parse_outputs(text: &str) -> Result<Vec<LogOutput>, String> {
    let mut outputs = Vec::new();
    let names: Vec<&str> = text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    if names.len() > 1 && names.contains(&"default") {
        return Err("multi logoutput for \"default\" is not supported yet".to_owned());
    }
    for name in names {
        let output = match name {
            "default" | "stderr" => LogOutput::Stderr,
            "stdout" => LogOutput::Stdout,
            "systemd/journal" => LogOutput::Journal,
            path => LogOutput::File(PathBuf::from(path)),
        };
        if !outputs.contains(&output) {
            outputs.push(output);
        }
    }
    if outputs.is_empty() {
        return Err(
            "--log-outputs must name at least one of default, stderr, stdout, systemd/journal, or a file".to_owned()
        );
    }
    Ok(outputs)
}

/// What `--log-package-levels` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packages {
    /// The level of `*`, if it is given.
    pub all: Option<LogLevel>,
    /// Levels of module paths.
    pub modules: Vec<(String, LogLevel)>,
    /// Packages that nobody knows.
    pub unknown: Vec<String>,
}

/// Reads `--log-package-levels`: `PACKAGE=LEVEL,...`.
///
/// # Errors
/// etcd's text, with which it goes on without.
pub fn parse_packages(text: &str) -> Result<Packages, String> {
    let mut packages = Packages::default();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let Some((package, level)) = pair.split_once('=').filter(|(_, level)| !level.contains('=')) else {
            return Err(format!("oddly structured `pkg=level` option: {pair}"));
        };
        let level = parse_level(level).ok_or_else(|| format!("couldn't parse log level {level}"))?;
        if package == "*" {
            packages.all = Some(level);
            continue;
        }
        // etcd's packages have paths: `etcdserver/api/rafthttp`.
        let short = package.rsplit('/').next().unwrap_or(package);
        if let Some((_, known)) = PACKAGES.iter().find(|(name, _)| *name == short) {
            packages.modules.extend(known.iter().map(|module| ((*module).to_owned(), level)));
        } else if package.starts_with("ringd") {
            packages.modules.push((package.to_owned(), level));
        } else if package.contains("::") {
            packages.modules.push((format!("ringd::{package}"), level));
        } else {
            packages.unknown.push(package.to_owned());
        }
    }
    Ok(packages)
}

/// capnslog's names and letters, and zap's. What is asked for is always shown.
#[must_use]
pub fn parse_level(text: &str) -> Option<LogLevel> {
    Some(match text.to_ascii_uppercase().as_str() {
        "CRITICAL" | "C" | "ERROR" | "0" | "E" | "PANIC" | "FATAL" => LogLevel::Error,
        "WARNING" | "1" | "W" | "NOTICE" | "2" | "N" | "WARN" => LogLevel::Warn,
        "INFO" | "3" | "I" => LogLevel::Info,
        "DEBUG" | "4" | "D" | "TRACE" | "5" | "T" => LogLevel::Debug,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_names_or_files() {
        let file = |path: &str| LogOutput::File(PathBuf::from(path));
        assert_eq!(parse_outputs("default"), Ok(vec![LogOutput::Stderr]));
        assert_eq!(
            parse_outputs("stdout,/var/log/x, stderr,stdout"),
            Ok(vec![LogOutput::Stdout, file("/var/log/x"), LogOutput::Stderr])
        );
        assert_eq!(parse_outputs("systemd/journal"), Ok(vec![LogOutput::Journal]));
        assert!(parse_outputs("default,stdout").unwrap_err().contains("is not supported yet"));
        assert!(parse_outputs(",").is_err());
    }

    #[test]
    fn packages_are_modules_here() {
        let Packages { all, modules, unknown } = parse_packages("etcdserver/api/snap=DEBUG,*=WARNING,nope=I").unwrap();
        assert_eq!((all, unknown), (Some(LogLevel::Warn), vec!["nope".to_owned()]));
        let debug = |module: &str| (module.to_owned(), LogLevel::Debug);
        assert_eq!(modules, [debug("ringd::shell::snapshot"), debug("ringd::shell::install")]);
        let modules = parse_packages("shell::peers=D,ringd_storage::wal=T").unwrap().modules;
        assert_eq!(modules, [debug("ringd::shell::peers"), debug("ringd_storage::wal")]);
        for (bad, why) in [
            ("foo", "oddly structured `pkg=level` option: foo"),
            ("a=b=c", "oddly structured `pkg=level` option: a=b=c"),
            ("raft=LOUD", "couldn't parse log level LOUD"),
        ] {
            assert_eq!(parse_packages(bad).unwrap_err(), why);
        }
    }
}
