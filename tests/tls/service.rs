//! What clients do over TLS: watches, the command line, suites, socket files.
//!
//! Must hold: every server is a member of its own; what passes is compared byte by byte where its size matters.

use std::process::{Command, Output};
use std::sync::Arc;

use rustls::SupportedCipherSuite;

use crate::authority::Files;
use crate::raw::{connect, connect_unix, settings};
use crate::support::{self, Site, tool};
use crate::{certificate_flags, member, mutual_flags, tls, wait_for};

#[test]
fn watches_wait_and_stream_over_tls() {
    let files = Files::new();
    let member = member(&mutual_flags(&files, "", "good"));
    let config = settings(&tls(&files, Some("good"), "ca.crt"));
    let mut plain = support::Client::open(member.plain).expect("the plain listener");
    let mut set = |key: &str, value: &str| {
        assert!(
            plain.request("PUT", &format!("/v2/keys{key}"), &format!("value={value}")).expect("an answer").status < 300
        )
    };

    let mut waiting = connect(member.secure, &config);
    waiting.send("GET /v2/keys/w?wait=true HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    // The head comes at once, the event when there is one; then the connection serves on.
    let head = waiting.until("\r\n\r\n").expect("the head");
    assert!(head.contains("Transfer-Encoding: chunked"), "{head}");
    set("/w", "first");
    assert!(waiting.until("\r\n0\r\n\r\n").expect("the event").contains(r#""value":"first""#));
    waiting.send("GET /v2/keys/w HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    assert!(waiting.until("}}\n").expect("an answer").contains(r#""value":"first""#));

    let mut streaming = connect(member.secure, &config);
    streaming.send("GET /v2/keys/s?wait=true&stream=true&recursive=true HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    streaming.until("\r\n\r\n").expect("the head");
    for round in 0..5 {
        // Larger than a record, and than what a socket takes at once.
        let value = format!("{round}{}", "x".repeat(200_000 * round));
        set(&format!("/s/{round}"), &value);
        let event = streaming.until("}\n").expect("an event");
        assert!(event.contains(&value), "event {round} is cut");
    }
    let suite = streaming.stream.conn.negotiated_cipher_suite().map(|suite| suite.suite());
    assert_eq!(suite, Some(rustls::CipherSuite::TLS13_AES_128_GCM_SHA256), "as etcd chooses");
}

/// Runs `ringctl` against a member, with flags before the command.
fn ringctl(flags: &[String], command: &[&str]) -> Output {
    let mut program = Command::new(tool("ringctl"));
    for name in std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("ETCDCTL_")) {
        program.env_remove(name);
    }
    // By itself it has little patience with a server on a busy machine.
    program.args(["--timeout", "60s", "--total-timeout", "120s"]);
    program.args(flags).args(command).output().expect("ringctl runs")
}

#[test]
fn ringctl_speaks_tls() {
    let files = Files::new();
    let mut flags = mutual_flags(&files, "", "good");
    let mut site = Site::new();
    let secure = support::free_port();
    let url = format!("https://127.0.0.1:{secure}");
    flags.push(format!("--listen-client-urls=http://127.0.0.1:{},{url}", site.client_port));
    flags.push(format!("--advertise-client-urls={url}"));
    site.extra = flags;
    let server = site.start();
    let with = |name: &str| {
        vec![
            format!("--endpoints={url}"),
            format!("--cert-file={}", files.text(&format!("{name}.crt"))),
            format!("--key-file={}", files.text(&format!("{name}.key"))),
            format!("--ca-file={}", files.text("ca.crt")),
        ]
    };
    let ask = |command: &[&str]| {
        let output = ringctl(&with("good"), command);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{command:?}: {told} {}", server.stderr());
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(ask(&["set", "/a", "1"]), "1\n");
    assert_eq!(ask(&["get", "/a"]), "1\n");
    assert_eq!(ask(&["watch", "--after-index", "1", "/a"]), "1\n");
    assert!(ask(&["member", "list"]).contains(&format!("clientURLs={url} isLeader=true")));
    let health = ask(&["cluster-health"]);
    assert!(health.contains(&format!("got healthy result from {url}\ncluster is healthy")), "{health}");

    // Refused, with the reason; and the same without a certificate, or with the system's authorities.
    let refused = |flags: &[String], words: &str| {
        let output = ringctl(flags, &["get", "/a"]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(4), "{told}");
        assert!(told.contains("client: etcd cluster is unavailable or misconfigured"), "{told}");
        assert!(told.contains(words), "{words}: {told}");
    };
    refused(&with("foreign"), "remote error: tls: unknown certificate authority");
    refused(&with("expired"), "remote error: tls: expired certificate");
    refused(
        &[format!("--endpoints={url}"), format!("--ca-file={}", files.text("ca.crt"))],
        "remote error: tls: certificate required",
    );
    refused(&[format!("--endpoints={url}")], "x509: certificate signed by unknown authority");
    let plain = format!("--endpoints=http://127.0.0.1:{secure}");
    assert_eq!(ringctl(&[plain], &["get", "/a"]).status.code(), Some(4), "plain HTTP to the secure port");
}

#[test]
fn only_the_named_suites_are_offered() {
    const OFFERED: &str = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384";
    let files = Files::new();
    let mut flags = certificate_flags(&files, "", "good");
    flags.push(format!("--cipher-suites={OFFERED}"));
    let member = member(&flags);
    let only = |name: &str| {
        let mut provider = rustls::crypto::ring::default_provider();
        provider.cipher_suites.retain(|suite| format!("{:?}", suite.suite()) == name);
        assert!(matches!(provider.cipher_suites[..], [SupportedCipherSuite::Tls12(_)]));
        let mut roots = rustls::RootCertStore::empty();
        let ca = std::fs::read(files.path("ca.crt")).expect("a file");
        roots.add(rustls::pki_types::pem::PemObject::from_pem_slice(&ca).expect("PEM")).expect("a CA");
        rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS12])
            .expect("TLS 1.2")
            .with_root_certificates(roots)
            .with_no_client_auth()
    };
    let ask = |name: &str| {
        let mut connection = connect(member.secure, &only(name));
        connection.send("GET /version HTTP/1.1\r\nHost: x\r\n\r\n")?;
        connection.until("\r\n\r\n")
    };
    assert!(ask(OFFERED).expect("the suite that is offered").starts_with("HTTP/1.1 200 OK"));
    assert!(ask("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256").is_err());
    let words = "error \"tls: no cipher suite supported by both client and server\"";
    wait_for(|| member.server.stderr(), || member.server.stderr().contains(words).then_some(()));
}

#[test]
fn tls_is_spoken_on_socket_files() {
    let files = Files::new();
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let mut site = Site::new();
    site.extra = mutual_flags(&files, "", "good");
    // The file's name has the form HOST:PORT, as in etcd, and lies where the process runs.
    site.extra.push(format!("--listen-client-urls=http://127.0.0.1:{},unixs://ringd.sock:1", site.client_port));
    let mut command = site.command();
    command.current_dir(scratch.path());
    let server = support::Server::spawn(command);
    let path = scratch.path().join("ringd.sock:1");
    let ask = |name: Option<&str>| {
        let mut connection = connect_unix(&path, &settings(&tls(&files, name, "ca.crt")));
        connection.send("GET /v2/keys/ HTTP/1.1\r\nHost: x\r\n\r\n")?;
        connection.until("\r\n\r\n")
    };
    wait_for(|| server.stderr(), || (path.exists() && server.stderr().contains("ready to serve")).then_some(()));
    assert!(ask(Some("good")).expect("an answer").starts_with("HTTP/1.1 200 OK"));
    assert!(ask(None).is_err());
    let words = "rejected connection from";
    wait_for(|| server.stderr(), || server.stderr().contains(words).then_some(()));
}
