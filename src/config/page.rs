//! The table as a manual page, as a Markdown page and as shell completions.
//!
//! Owns: how the table is told to people. May touch: the table, and clap's generators. `tools/packaging/CONFIGURATION.md`
//! is what [`markdown`] returns; a test compares them.

use std::fmt::Write as _;

use super::flags::{FLAGS, Kind, Status};
use super::go_flags;

/// What the table does not say.
const MAN_END: &str = "\
.SH CONFIGURATION FILES
YAML with the flags\\(aq names as keys, or etcd\\(aqs own files. With \\-\\-config\\-file or ETCD_CONFIG_FILE, flags and
variables are ignored. A flag together with its variable is an error.
.SH SIGNALS
SIGTERM and SIGINT stop cleanly, a second one at once. SIGHUP opens the files of \\-\\-log\\-outputs again; without such
files it ends the process.
.SH EXIT STATUS
0 after \\-\\-help and the like, or when the member was removed; 1 for any failure; 2 for a bad flag. A process that was
stopped by a signal ends by that signal.
.SH SEE ALSO
.BR ringctl (1)
";

/// The manual page, in roff.
#[must_use]
pub fn man() -> String {
    let mut page = Vec::new();
    let command = go_flags::command().version(env!("CARGO_PKG_VERSION"));
    // Writing to memory does not fail.
    clap_mangen::Man::new(command).render(&mut page).expect("writing to memory cannot fail");
    String::from_utf8_lossy(&page).into_owned() + MAN_END
}

/// The completion script of a shell.
///
/// # Errors
/// The shells there are.
pub fn completion(shell: &str) -> Result<String, String> {
    let shell = match shell {
        "bash" => clap_complete::Shell::Bash,
        "zsh" => clap_complete::Shell::Zsh,
        "fish" => clap_complete::Shell::Fish,
        _ => return Err("--completion must be one of bash, zsh, fish".to_owned()),
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut go_flags::command().no_binary_name(false), "ringd", &mut script);
    Ok(String::from_utf8_lossy(&script).into_owned())
}

/// The reference page.
#[must_use]
pub fn markdown() -> String {
    let mut page = String::from(
        "# Every setting of ringd\n\n\
         Made by `cargo run -- --markdown > tools/packaging/CONFIGURATION.md` from the table in `src/config/flags.rs`.\n\n\
         A setting is a flag (`--name x`, one dash or two), a variable (`ETCD_NAME=x`) or a line of a YAML file \
         (`name: x`), which\n`--config-file` or `ETCD_CONFIG_FILE` names. With a file, flags and variables are ignored. \
         A flag together with its\nvariable is an error. `ringd --check-config` says what would be used.\n",
    );
    let mut heading = None;
    for flag in FLAGS {
        if heading != Some(flag.group) {
            heading = Some(flag.group);
            let _ = write!(
                page,
                "\n## {}\n\n| flag | variable | default | what it does |\n|---|---|---|---|\n",
                flag.group.heading()
            );
        }
        let variable = flag.variable().map_or_else(String::new, |name| format!("`{name}`"));
        let default = if flag.default.is_empty() { String::new() } else { format!("`{}`", flag.default) };
        let choices = match flag.kind {
            Kind::Choice(choices) => {
                format!(" One of {}.", choices.iter().map(|c| format!("`{c}`")).collect::<Vec<_>>().join(", "))
            }
            _ => String::new(),
        };
        let note = match flag.status {
            Status::Effective => String::new(),
            Status::NoEffect(reason) => format!(" **No effect**: {reason}."),
            Status::Refused(accepted, reason) => {
                let accepted: Vec<String> = std::iter::once(&flag.default)
                    .chain(accepted)
                    .filter(|text| !text.is_empty())
                    .map(|text| format!("`{text}`"))
                    .collect();
                let only = if accepted.is_empty() {
                    "**Refused**".to_owned()
                } else {
                    format!("**Refused** unless {}", accepted.join(" or "))
                };
                format!(" {only}: {reason}.")
            }
        };
        let told = format!("{}{choices}{note}", flag.help).replace('|', "\\|");
        let _ = writeln!(page, "| `--{}` | {variable} | {default} | {told} |", flag.name);
    }
    page.push_str(
        "\n## Configuration files\n\n\
         Keys are the flags' names; `_` counts as `-`. Lists may be YAML lists or text with commas. A key without a value \
         says\nnothing. etcd's sections are read: `client-transport-security` (`cert-file`, `key-file`, `client-cert-auth`, \
         `trusted-ca-file`,\n`auto-tls`, `crl-file`, `cert-allowed-hostname`) and `peer-transport-security` (the same, and \
         `allowed-cn`). Unknown keys are\nwarned of; a bad value ends the start with file, line, key and what to write \
         instead.\n\n\
         ## Packages\n\n\
         `--log-package-levels PACKAGE=LEVEL,...` takes etcd's packages, paths of modules of ringd (`shell::peers`), and `*` \
         for all.\nLevels are `DEBUG`, `INFO`, `WARNING`, `ERROR` and their first letters. `PUT /config/local/log` at run time \
         sets one level for\neverything.\n\n| package | modules |\n|---|---|\n",
    );
    for (package, modules) in super::log::PACKAGES {
        let modules: Vec<String> = modules.iter().map(|module| format!("`{module}`")).collect();
        let _ = writeln!(page, "| `{package}` | {} |", modules.join(", "));
    }
    page
}
