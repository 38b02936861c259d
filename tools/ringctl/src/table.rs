//! Every command and every flag, once.
//!
//! Owns: names, kinds and descriptions; parsing and help read nothing else. Touches: nothing. Always: a flag's first
//! name is the one the code asks for.

use crate::flags::{Flag, Kind};
use crate::{Invocation, Outcome, auth, backup, completion, exec_watch, import, keys, member, top};

pub struct Command {
    pub name: &'static str,
    pub summary: &'static str,
    /// The arguments, as help shows them.
    pub arguments: &'static str,
    /// Further text of the command's help; empty for none.
    pub description: &'static str,
    pub flags: &'static [Flag],
    pub action: Action,
}

pub enum Action {
    Run(fn(&Invocation) -> Outcome),
    Group(&'static [Command]),
}

/// The command called `name`.
pub fn find(commands: &'static [Command], name: &str) -> Option<&'static Command> {
    commands.iter().find(|c| c.name == name)
}

const fn flag(names: &'static [&'static str], kind: Kind, help: &'static str) -> Flag {
    Flag { names, kind, help, placeholder: "value", default: "", variable: "" }
}

const TTL: Flag = flag(&["ttl"], Kind::Int, "key time-to-live in seconds").with_default("0");
const SORT: Flag = flag(&["sort"], Kind::Bool, "returns result in sorted order");
/// `--consistent` is what etcd's tutorials call it.
const QUORUM: Flag = flag(&["quorum", "q", "consistent"], Kind::Bool, "require quorum for get request");
const AFTER_INDEX: Flag = flag(&["after-index"], Kind::Uint, "watch after the given index").with_default("0");

pub const GLOBAL_FLAGS: &[Flag] = &[
    flag(&["debug"], Kind::Bool, "output cURL commands which can be used to reproduce the request"),
    flag(&["no-sync"], Kind::Bool, "don't synchronize cluster information before sending request"),
    Flag {
        names: &["output", "o"],
        kind: Kind::Text,
        help: "output response in the given format (simple, `extended` or `json`)",
        placeholder: "simple",
        default: "\"simple\"",
        variable: "",
    },
    flag(&["discovery-srv", "D"], Kind::Text, "domain name to query for SRV records describing cluster endpoints")
        .with_variable("ETCDCTL_DISCOVERY_SRV"),
    flag(&["insecure-discovery"], Kind::Bool, "accept insecure SRV records describing cluster endpoints"),
    flag(&["peers", "C"], Kind::Text, "DEPRECATED - \"--endpoints\" should be used instead")
        .with_variable("ETCDCTL_PEERS"),
    flag(&["endpoint"], Kind::Text, "DEPRECATED - \"--endpoints\" should be used instead")
        .with_variable("ETCDCTL_ENDPOINT"),
    flag(&["endpoints"], Kind::Text, "a comma-delimited list of machine addresses in the cluster")
        .with_default("\"http://127.0.0.1:2379,http://127.0.0.1:4001\"")
        .with_variable("ETCDCTL_ENDPOINTS"),
    flag(&["cert-file"], Kind::Text, "identify HTTPS client using this SSL certificate file")
        .with_variable("ETCDCTL_CERT_FILE"),
    flag(&["key-file"], Kind::Text, "identify HTTPS client using this SSL key file").with_variable("ETCDCTL_KEY_FILE"),
    flag(&["ca-file"], Kind::Text, "verify certificates of HTTPS-enabled servers using this CA bundle")
        .with_variable("ETCDCTL_CA_FILE"),
    flag(&["username", "u"], Kind::Text, "provide username[:password] and prompt if password is not supplied.")
        .with_variable("ETCDCTL_USERNAME"),
    flag(&["timeout"], Kind::Time, "connection timeout per request").with_default("2s"),
    flag(&["total-timeout"], Kind::Time, "timeout for the command execution (except watch)").with_default("5s"),
    flag(&["help", "h"], Kind::Bool, "show help"),
    flag(&["version", "v"], Kind::Bool, "print the version"),
];

const fn command(name: &'static str, summary: &'static str, arguments: &'static str, action: Action) -> Command {
    Command { name, summary, arguments, description: "", flags: &[], action }
}

impl Command {
    const fn with_flags(self, flags: &'static [Flag]) -> Command {
        Command { flags, ..self }
    }

    const fn with_description(self, description: &'static str) -> Command {
        Command { description, ..self }
    }
}

const SET_DESCRIPTION: &str = "Set sets the value of a key.

   When <value> begins with '-', <value> is interpreted as a flag.
   Insert '--' for workaround:

   $ set -- <key> <value>";

const IMPORT_DESCRIPTION: &str = "The snapshot is one of

   - what etcd 0.4 gives at /v2/migration/snapshot, or the store inside a later snapshot (JSON),
   - the answer to a recursive read (curl http://HOST:2379/v2/keys/?recursive=true),
   - a snapshot of ringd (<data-dir>/member/snap/*.snap).

   Keys that are there already are overwritten. A time to live below 300 seconds is set to 300 seconds.";

const TOP_DESCRIPTION: &str =
    "Members, leader, indexes, requests per second, entries per batch, time of a sync, watchers and the
   prefixes that are asked for most. q or Ctrl-C leaves, up and down choose a member.";

const COMPLETION_DESCRIPTION: &str = "bash: source <(ringctl completion bash)
   zsh:  ringctl completion zsh > \"${fpath[1]}/_ringctl\"
   fish: ringctl completion fish > ~/.config/fish/completions/ringctl.fish";

pub const COMMANDS: &[Command] = &[
    command("backup", "backup an etcd directory", "", Action::Run(backup::run)).with_flags(&[
        flag(&["data-dir"], Kind::Text, "Path to the etcd data dir"),
        flag(&["wal-dir"], Kind::Text, "Path to the etcd wal dir"),
        flag(&["backup-dir"], Kind::Text, "Path to the backup dir"),
        flag(&["backup-wal-dir"], Kind::Text, "Path to the backup wal dir"),
        flag(&["with-v3"], Kind::Bool, "Backup v3 backend data"),
    ]),
    command("cluster-health", "check the health of the etcd cluster", "", Action::Run(member::health))
        .with_flags(&[flag(&["forever", "f"], Kind::Bool, "forever check the health every 10 second until CTRL+C")]),
    command("mk", "make a new key with a given value", "<key> <value>", Action::Run(keys::mk))
        .with_flags(&[flag(&["in-order"], Kind::Bool, "create in-order key under directory <key>"), TTL]),
    command("mkdir", "make a new directory", "<key>", Action::Run(keys::mkdir)).with_flags(&[TTL]),
    command("rm", "remove a key or a directory", "<key>", Action::Run(keys::rm)).with_flags(&[
        flag(&["dir"], Kind::Bool, "removes the key if it is an empty directory or a key-value pair"),
        flag(&["recursive", "r"], Kind::Bool, "removes the key and all child keys(if it is a directory)"),
        flag(&["with-value"], Kind::Text, "previous value"),
        flag(&["with-index"], Kind::Uint, "previous index").with_default("0"),
    ]),
    command(
        "rmdir",
        "removes the key if it is an empty directory or a key-value pair",
        "<key>",
        Action::Run(keys::rmdir),
    ),
    command("get", "retrieve the value of a key", "<key>", Action::Run(keys::get)).with_flags(&[SORT, QUORUM]),
    command("ls", "retrieve a directory", "[key]", Action::Run(keys::ls)).with_flags(&[
        SORT,
        flag(&["recursive", "r"], Kind::Bool, "returns all key names recursively for the given path"),
        flag(&["p"], Kind::Bool, "append slash (/) to directories"),
        QUORUM,
    ]),
    command("set", "set the value of a key", "<key> <value>", Action::Run(keys::set))
        .with_flags(&[
            TTL,
            flag(&["swap-with-value"], Kind::Text, "previous value"),
            flag(&["swap-with-index"], Kind::Uint, "previous index").with_default("0"),
        ])
        .with_description(SET_DESCRIPTION),
    command("setdir", "create a new directory or update an existing directory TTL", "<key>", Action::Run(keys::setdir))
        .with_flags(&[TTL]),
    command("update", "update an existing key with a given value", "<key> <value>", Action::Run(keys::update))
        .with_flags(&[TTL]),
    command("updatedir", "update an existing directory", "<key> <value>", Action::Run(keys::updatedir))
        .with_flags(&[TTL]),
    command("watch", "watch a key for changes", "<key>", Action::Run(keys::watch)).with_flags(&[
        flag(&["forever", "f"], Kind::Bool, "forever watch a key until CTRL+C"),
        AFTER_INDEX,
        flag(&["recursive", "r"], Kind::Bool, "returns all values for key and child keys"),
    ]),
    command(
        "exec-watch",
        "watch a key for changes and exec an executable",
        "<key> <command> [args...]",
        Action::Run(exec_watch::run),
    )
    .with_flags(&[AFTER_INDEX, flag(&["recursive", "r"], Kind::Bool, "watch all values for key and child keys")]),
    command("top", "show what the members are doing, every second", "", Action::Run(top::run))
        .with_flags(&[
            flag(&["once"], Kind::Bool, "print a table of one second and end"),
            flag(&["json"], Kind::Bool, "with --once: print a JSON object"),
        ])
        .with_description(TOP_DESCRIPTION),
    command("member", "member add, remove and list subcommands", "", Action::Group(MEMBER)),
    command("user", "user add, grant and revoke subcommands", "", Action::Group(USER)),
    command("role", "role add, grant and revoke subcommands", "", Action::Group(ROLE)),
    command("auth", "overall auth controls", "", Action::Group(AUTH)),
    command("import", "import a snapshot to a cluster", "", Action::Run(import::run))
        .with_flags(&[
            flag(&["snap"], Kind::Text, "Path to the snapshot"),
            flag(&["hidden"], Kind::List, "Hidden key spaces to import from snapshot"),
            flag(&["c"], Kind::Int, "Number of concurrent clients to import the data").with_default("10"),
        ])
        .with_description(IMPORT_DESCRIPTION),
    command(
        "completion",
        "print a script that completes commands and flags",
        "<bash|zsh|fish>",
        Action::Run(completion::completion),
    )
    .with_description(COMPLETION_DESCRIPTION),
    command("man", "print the manual page", "", Action::Run(completion::man)),
];

const MEMBER: &[Command] = &[
    command("list", "enumerate existing cluster members", "", Action::Run(member::list)),
    command("add", "add a new member to the etcd cluster", "<name> <peerURL>", Action::Run(member::add)),
    command("remove", "remove an existing member from the etcd cluster", "<memberID>", Action::Run(member::remove)),
    command(
        "update",
        "update an existing member in the etcd cluster",
        "<memberID> <peerURLs>",
        Action::Run(member::update),
    ),
];

const ROLES: Flag = flag(&["roles"], Kind::Text, "List of roles to grant or revoke");

const USER: &[Command] = &[
    command("add", "add a new user for the etcd cluster", "<user>", Action::Run(auth::user_add)),
    command("get", "get details for a user", "<user>", Action::Run(auth::user_get)),
    command("list", "list all current users", "", Action::Run(auth::user_list)),
    command("remove", "remove a user for the etcd cluster", "<user>", Action::Run(auth::user_remove)),
    command("grant", "grant roles to an etcd user", "<user>", Action::Run(auth::user_grant)).with_flags(&[ROLES]),
    command("revoke", "revoke roles for an etcd user", "<user>", Action::Run(auth::user_revoke)).with_flags(&[ROLES]),
    command("passwd", "change password for a user", "<user>", Action::Run(auth::user_passwd)),
];

const PERMISSIONS: &[Flag] = &[
    flag(&["path"], Kind::Text, "Path granted for the role to access"),
    flag(&["read"], Kind::Bool, "Grant read-only access"),
    flag(&["write"], Kind::Bool, "Grant write-only access"),
    flag(&["readwrite", "rw"], Kind::Bool, "Grant read-write access"),
];

const ROLE: &[Command] = &[
    command("add", "add a new role for the etcd cluster", "<role>", Action::Run(auth::role_add)),
    command("get", "get details for a role", "<role>", Action::Run(auth::role_get)),
    command("list", "list all roles", "", Action::Run(auth::role_list)),
    command("remove", "remove a role from the etcd cluster", "<role>", Action::Run(auth::role_remove)),
    command("grant", "grant path matches to an etcd role", "<role>", Action::Run(auth::role_grant))
        .with_flags(PERMISSIONS),
    command("revoke", "revoke path matches for an etcd role", "<role>", Action::Run(auth::role_revoke))
        .with_flags(PERMISSIONS),
];

const AUTH: &[Command] = &[
    command("enable", "enable auth access controls", "", Action::Run(auth::enable)),
    command("disable", "disable auth access controls", "", Action::Run(auth::disable)),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn check(commands: &[Command]) {
        for (i, command) in commands.iter().enumerate() {
            assert!(commands[..i].iter().all(|c| c.name != command.name), "{} twice", command.name);
            let names: Vec<_> = command.flags.iter().flat_map(|f| f.names).collect();
            assert!(!names.iter().any(|n| **n == "help" || **n == "h"), "{}: help is every command's", command.name);
            for (i, name) in names.iter().enumerate() {
                assert!(!names[..i].contains(name), "{}: --{name} twice", command.name);
            }
            if let Action::Group(inner) = &command.action {
                check(inner);
            }
        }
    }

    #[test]
    fn no_command_and_no_flag_is_declared_twice() {
        check(COMMANDS);
    }
}
