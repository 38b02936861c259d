//! Values by flag name, while they are gathered: from flags, variables, or a file instead of both.
//!
//! Owns: which source counts, etcd's words about it, and what becomes of flags that do nothing here. May touch: the
//! table and Go's value syntax.
//!
//! Must always hold: a value in hand has the syntax of its flag's kind; nothing is set twice.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use super::flags::{self, FLAGS, Kind, Status};
use super::url::Url;
use super::{ConfigError, Notice, file, go_flags, invalid};

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// The environment.
    Variable,
    /// This line of the configuration file.
    File(u64),
}

/// A value that was given, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The flag's name, without dashes.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// Who gave it.
    pub source: Source,
}

/// Everything that was given.
pub(super) struct Values {
    set: BTreeMap<&'static str, Setting>,
    pub(super) notices: Vec<Notice>,
}

impl Values {
    /// What the command line gives.
    pub(super) fn new(given: &go_flags::Given) -> Self {
        let mut values = Self { set: BTreeMap::new(), notices: Vec::new() };
        for flag in FLAGS {
            if let Some(value) = given.get(flag) {
                values.put(flag.name, value.to_owned(), Source::Flag);
            }
        }
        values
    }

    fn put(&mut self, name: &'static str, value: String, source: Source) {
        self.set.insert(name, Setting { name, value, source });
    }

    /// Adds what the environment gives.
    pub(super) fn add_variables(&mut self, mut ours: BTreeMap<String, String>) -> Result<(), ConfigError> {
        for flag in FLAGS {
            let Some(variable) = flag.variable() else { continue };
            // An empty variable counts as unset, as in etcd.
            let Some(value) = ours.remove(&variable).filter(|value| !value.is_empty()) else { continue };
            if self.set.contains_key(flag.name) {
                return Err(ConfigError::Invalid(format!(
                    "conflicting environment variable {variable:?} is shadowed by corresponding command-line flag \
                     (either unset environment variable or disable flag)"
                )));
            }
            go_flags::check(flag.kind, &value)
                .map_err(|why| invalid(&format!("invalid value {value:?} for {variable}: {why}")))?;
            self.notices.push(Notice::Info(format!("recognized and used environment variable {variable}={value}")));
            self.put(flag.name, value, Source::Variable);
        }
        self.notices.extend(
            ours.into_iter()
                .map(|(name, value)| Notice::Warn(format!("unrecognized environment variable {name}={value}"))),
        );
        Ok(())
    }

    /// Puts what the file gives in the place of everything else, which is named as ignored.
    pub(super) fn replace_by_file(
        &mut self,
        path: &Path,
        text: &str,
        variables: &BTreeMap<String, String>,
    ) -> Result<(), ConfigError> {
        let shown = path.display().to_string();
        self.notices.push(Notice::Info(format!(
            "Loading server configuration from {shown:?}. Other configuration command line flags and environment \
             variables will be ignored if provided."
        )));
        let about = |name: &str| flags::find(name).is_some_and(|flag| flag.group == flags::Group::About);
        let mut ignored: Vec<String> =
            self.set.keys().filter(|name| !about(name)).map(|name| format!("--{name}")).collect();
        let config_file = flags::find("config-file").and_then(flags::Flag::variable);
        ignored.extend(
            variables
                .iter()
                .filter(|(name, value)| Some(*name) != config_file.as_ref() && !value.is_empty())
                .map(|(name, _)| name.clone()),
        );
        if !ignored.is_empty() {
            self.notices.push(Notice::Warn(format!("ignored beside {shown:?}: {}", ignored.join(", "))));
        }
        self.set.retain(|name, _| about(name));
        let found = file::read(text, &shown).map_err(|why| invalid(&why))?;
        self.notices.extend(found.notices);
        for setting in found.settings {
            self.set.insert(setting.name, setting);
        }
        Ok(())
    }

    /// Refuses what is not supported and notes what has no effect.
    pub(super) fn check_status(&mut self) -> Result<(), ConfigError> {
        for flag in FLAGS {
            let Some(Setting { value, .. }) = self.set.get(flag.name) else { continue };
            let is_default = match flag.kind {
                Kind::Bool => go_flags::parse_bool(value) == go_flags::parse_bool(flag.default),
                Kind::Uint => go_flags::parse_uint(value) == go_flags::parse_uint(flag.default),
                _ => value == flag.default,
            };
            match flag.status {
                _ if is_default => {}
                Status::Effective => {}
                Status::NoEffect(reason) => {
                    self.notices.push(Notice::Warn(format!("--{} has no effect: {reason}", flag.name)));
                }
                Status::Refused(accepted, _) if accepted.contains(&value.as_str()) => {}
                Status::Refused(_, reason) => {
                    return Err(invalid(&format!("--{} cannot be {value:?}: {reason}", flag.name)));
                }
            }
        }
        Ok(())
    }

    /// Everything given, in the table's order.
    pub(super) fn settings(&self) -> Vec<Setting> {
        FLAGS.iter().filter_map(|flag| self.set.get(flag.name)).cloned().collect()
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        self.set.contains_key(name)
    }

    pub(super) fn text(&self, name: &str) -> &str {
        let flag = flags::find(name).unwrap_or_else(|| panic!("flag {name} is not in the table"));
        self.set.get(name).map_or(flag.default, |setting| setting.value.as_str())
    }

    pub(super) fn bool(&self, name: &str) -> bool {
        go_flags::parse_bool(self.text(name)).expect("bool values are checked when they are set")
    }

    pub(super) fn uint(&self, name: &str) -> u64 {
        go_flags::parse_uint(self.text(name)).expect("numbers are checked when they are set")
    }

    pub(super) fn urls(&self, name: &str) -> Vec<Url> {
        Url::parse_list(self.text(name)).expect("URLs are checked when they are set")
    }
}

/// The variables that are meant for this program.
pub(super) fn ours(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut ours = BTreeMap::new();
    for (name, value) in variables {
        let name = name.to_string_lossy().into_owned();
        if !name.starts_with("ETCD_") && !name.starts_with("RINGD_") {
            continue;
        }
        let value = value
            .into_string()
            .map_err(|value| invalid(&format!("invalid value {:?} for {name}: not UTF-8", value.display())))?;
        ours.insert(name, value);
    }
    Ok(ours)
}
