//! Who is refused, on the clients' side and on the members', and in which words.
//!
//! Must hold: the words are etcd's: the same table is held against a real etcd 3.4 where one is installed.

use std::path::PathBuf;
use std::process::Command;

use regex::Regex;
use ringd_client::{ClientError, GetOptions};

use crate::authority::Files;
use crate::raw::fake_server;
use crate::support::{self, Server, Site, free_port};
use crate::{certificate_flags, client, logs, mutual_flags, tls, wait_for};

/// Which side of a member is knocked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Client,
    Peer,
}

/// Who knocks, with which certificate; further flags of the member; what etcd 3.4.23 (built with Go 1.19.8) logs, with
/// `TIME` for times and `ADDR` for the other side's address.
const REFUSALS: &[(Door, Option<&str>, &[&str], &str)] = &[
    (Door::Client, Some("expired"), &[], EXPIRED),
    (Door::Client, Some("foreign"), &[], FOREIGN),
    (Door::Client, Some("revoked"), &[], REVOKED),
    (Door::Client, Some("server-only"), &[], SERVER_ONLY),
    (Door::Client, None, &[], NONE),
    (Door::Client, Some("elsewhere"), &["--client-cert-allowed-hostname=127.0.0.1"], NOT_ALLOWED),
    (Door::Peer, Some("expired"), &[], EXPIRED),
    (Door::Peer, Some("foreign"), &[], FOREIGN),
    (Door::Peer, Some("revoked"), &[], REVOKED),
    (Door::Peer, Some("server-only"), &[], SERVER_ONLY),
    (Door::Peer, None, &[], NONE),
    (Door::Peer, Some("elsewhere"), &[], ELSEWHERE),
    (Door::Peer, Some("elsewhere"), &["--peer-cert-allowed-hostname=127.0.0.1"], NOT_ALLOWED),
    (Door::Peer, Some("other-name"), &["--peer-cert-allowed-cn=ringd"], OTHER_NAME),
];

const EXPIRED: &str = "rejected connection from \"ADDR\" (error \"tls: failed to verify client certificate: x509: \
                       certificate has expired or is not yet valid: current time TIME is after TIME\", ServerName \"\")";
const FOREIGN: &str = "rejected connection from \"ADDR\" (error \"tls: failed to verify client certificate: x509: \
                       certificate signed by unknown authority\", ServerName \"\")";
const REVOKED: &str = "rejected connection from \"ADDR\" (error \"transport: certificate serial 03 revoked\", ServerName \
                       \"\", IPAddresses [\"127.0.0.1\"], DNSNames [])";
const SERVER_ONLY: &str = "rejected connection from \"ADDR\" (error \"tls: failed to verify client certificate: x509: \
                           certificate specifies an incompatible key usage\", ServerName \"\")";
const NONE: &str =
    "rejected connection from \"ADDR\" (error \"tls: client didn't provide a certificate\", ServerName \"\")";
const NOT_ALLOWED: &str = "rejected connection from \"ADDR\" (error \"client certificate authentication failed\", \
                           ServerName \"\", IPAddresses [\"10.9.9.9\"], DNSNames [])";
const ELSEWHERE: &str = "rejected connection from \"ADDR\" (error \"x509: certificate is valid for 10.9.9.9, not \
                         127.0.0.1\", ServerName \"\", IPAddresses [\"10.9.9.9\"], DNSNames [])";
const OTHER_NAME: &str = "rejected connection from \"ADDR\" (error \"client certificate authentication failed\", \
                          ServerName \"\", IPAddresses [\"127.0.0.1\"], DNSNames [])";
/// A client that does not believe the server's certificate.
const SUSPICIOUS: &str =
    "rejected connection from \"ADDR\" (error \"remote error: tls: bad certificate\", ServerName \"\")";

/// Times and addresses differ between two runs.
fn without_particulars(log: &str) -> String {
    let time = Regex::new(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ").expect("a pattern");
    let address = Regex::new(r"127\.0\.0\.1:\d+").expect("a pattern");
    address.replace_all(&time.replace_all(log, "TIME"), "ADDR").into_owned()
}

fn wait_for_refusal(server: &Server, words: &str) {
    wait_for(
        || format!("{words}\n{}", server.stderr()),
        || without_particulars(&server.stderr()).contains(words).then_some(()),
    );
}

/// A member of `program` whose doors both want certificates.
struct Guarded {
    server: Server,
    client: u16,
    peer: u16,
    _site: Site,
}

fn guarded(program: Option<&PathBuf>, files: &Files, flags: &[&str]) -> Guarded {
    let mut site = Site::new();
    let secure = free_port();
    let peer = format!("https://127.0.0.1:{}", site.peer_port);
    site.extra = mutual_flags(files, "", "good");
    site.extra.extend(mutual_flags(files, "peer-", "good"));
    site.extra.push(format!("--listen-client-urls=http://127.0.0.1:{},https://127.0.0.1:{secure}", site.client_port));
    site.extra.push(format!("--listen-peer-urls={peer}"));
    site.extra.push(format!("--initial-advertise-peer-urls={peer}"));
    site.extra.push(format!("--initial-cluster=default={peer}"));
    site.extra.extend(flags.iter().map(|&flag| flag.to_owned()));
    let server = match program {
        None => site.start(),
        Some(program) => {
            let mut command = Command::new(program);
            command.args(site.command().get_args()).args(["--enable-v2", "--log-outputs=stderr"]);
            let server = Server::spawn(command);
            let port = site.client_port;
            let served = || support::Client::open(port).ok()?.request("GET", "/v2/keys/", "").ok();
            wait_for(|| server.stderr(), || served().filter(|answer| answer.status == 200));
            server
        }
    };
    Guarded { server, client: secure, peer: site.peer_port, _site: site }
}

fn the_table_holds_for(program: Option<&PathBuf>) {
    let files = Files::new();
    let mut flag_sets: Vec<&[&str]> = REFUSALS.iter().map(|(_, _, flags, _)| *flags).collect();
    flag_sets.sort();
    flag_sets.dedup();
    for flags in flag_sets {
        let member = guarded(program, &files, flags);
        for (door, name, _, words) in REFUSALS.iter().filter(|(_, _, of, _)| *of == flags) {
            let port = if *door == Door::Client { member.client } else { member.peer };
            let refused = client(port, tls(&files, *name, "ca.crt")).get("/a", GetOptions::default());
            assert!(matches!(refused, Err(ClientError::Unavailable(_))), "{door:?} {name:?}: {refused:?}");
            wait_for_refusal(&member.server, words);
        }
        if flags.is_empty() {
            let mut suspicious = client(member.client, tls(&files, Some("good"), "other-ca.crt"));
            assert!(suspicious.get("/a", GetOptions::default()).is_err());
            // Go cannot read this client's alert, which is encrypted otherwise than Go expects.
            if program.is_none() {
                wait_for_refusal(&member.server, SUSPICIOUS);
            }
        }
        // The door is not simply shut.
        if !flags.iter().any(|flag| flag.starts_with("--client")) {
            let mut good = client(member.client, tls(&files, Some("good"), "ca.crt"));
            good.get("/", GetOptions::default()).expect("a good certificate");
        }
    }
}

#[test]
fn whoever_has_no_good_certificate_is_refused_in_etcds_words() {
    the_table_holds_for(None);
}

#[test]
fn the_words_are_those_of_a_real_etcd() {
    match support::etcd_program() {
        Some(etcd) => the_table_holds_for(Some(&etcd)),
        None => support::skip("the_words_are_those_of_a_real_etcd", "there is no etcd 3.4 on PATH"),
    }
}

#[test]
fn a_member_that_dials_says_in_etcds_words_whom_it_does_not_believe() {
    const DIALLED: &[(&str, &str)] = &[
        ("expired", "x509: certificate has expired or is not yet valid: current time TIME is after TIME"),
        ("foreign", "x509: certificate signed by unknown authority"),
        ("other-name", "client certificate authentication failed"),
        ("elsewhere", "x509: certificate is valid for 10.9.9.9, not 127.0.0.1"),
        ("named", "x509: cannot validate certificate for 127.0.0.1 because it doesn't contain any IP SANs"),
    ];
    let files = Files::new();
    let mut site = Site::new();
    let mut urls = vec![format!("default=https://127.0.0.1:{}", site.peer_port)];
    urls.extend(DIALLED.iter().map(|(name, _)| format!("{name}=https://127.0.0.1:{}", fake_server(&files, name))));
    let own = format!("https://127.0.0.1:{}", site.peer_port);
    site.extra = mutual_flags(&files, "peer-", "good");
    site.extra.push("--peer-cert-allowed-cn=ringd".to_owned());
    site.extra.push(format!("--listen-peer-urls={own}"));
    site.extra.push(format!("--initial-advertise-peer-urls={own}"));
    site.extra.push(format!("--initial-cluster={}", urls.join(",")));
    let server = site.spawn();
    for (name, words) in DIALLED {
        wait_for(
            || format!("{name}: {words}\n{}", server.stderr()),
            || {
                let log = without_particulars(&server.stderr());
                log.lines().any(|line| line.contains("reach peer") && line.contains(words)).then_some(())
            },
        );
    }
}

#[test]
fn a_member_with_a_bad_certificate_is_kept_out() {
    let files = Files::new();
    for (name, words) in [("foreign", FOREIGN), ("other-name", OTHER_NAME)] {
        let rules = ["--peer-cert-allowed-cn=ringd".to_owned()];
        let members = crate::cluster(&files, ["good", "good", name], &rules);
        for (site, _) in &members[..2] {
            wait_for(|| logs(&members), || crate::put(site));
        }
        wait_for(
            || format!("{words}: {}", logs(&members)),
            || members[..2].iter().any(|(_, one)| without_particulars(&one.stderr()).contains(words)).then_some(()),
        );
        // It hears that it is refused.
        let heard = "remote error: tls: bad certificate";
        wait_for(|| members[2].1.stderr(), || members[2].1.stderr().contains(heard).then_some(()));
        assert!(crate::put(&members[2].0).is_none(), "{name} serves: {}", logs(&members));
    }
}

#[test]
fn clients_say_in_etcds_words_which_server_they_do_not_believe() {
    let files = Files::new();
    for (name, words) in [
        ("expired", "x509: certificate has expired or is not yet valid"),
        ("foreign", "x509: certificate signed by unknown authority"),
        ("elsewhere", "x509: certificate is valid for 10.9.9.9, not 127.0.0.1"),
        ("named", "x509: cannot validate certificate for 127.0.0.1 because it doesn't contain any IP SANs"),
    ] {
        let member = crate::member(&certificate_flags(&files, "", name));
        let refused = client(member.secure, tls(&files, None, "ca.crt")).get("/a", GetOptions::default());
        let told = refused.expect_err("a bad certificate").to_string();
        assert!(told.contains(words), "{name}: {told}");
    }
}
