//! TLS against a real etcd, with a CA of the test's own.
//!
//! Owns: an etcd process on loopback, when one is installed. Touches: a temporary directory. Always: etcd is killed by
//! its id and its data removed.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use ringd_client::{Client, ClientError, Endpoint, Failure, GetOptions, Options, SetOptions, Tls, TlsError};

/// The longest etcd may take to start on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA")
}

/// Writes `NAME.crt` and `NAME.key` for `host`.
fn issue(ca: &Authority, dir: &Path, name: &str, host: &str, usage: ExtendedKeyUsagePurpose) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a host name");
    params.extended_key_usages = vec![usage];
    let certificate = params.signed_by(&key, ca).expect("signed");
    std::fs::write(dir.join(format!("{name}.crt")), certificate.pem()).expect("a scratch file");
    std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).expect("a scratch file");
}

struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    /// A CA with a certificate for 127.0.0.1, one for another host, a client's, and a CA nobody here uses.
    fn new() -> Files {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let (ca, other) = (authority("ours"), authority("other"));
        issue(&ca, dir.path(), "server", "127.0.0.1", ExtendedKeyUsagePurpose::ServerAuth);
        issue(&ca, dir.path(), "elsewhere", "elsewhere.example", ExtendedKeyUsagePurpose::ServerAuth);
        issue(&ca, dir.path(), "client", "client.example", ExtendedKeyUsagePurpose::ClientAuth);
        std::fs::write(dir.path().join("ca.crt"), ca.pem()).expect("a scratch file");
        std::fs::write(dir.path().join("other.crt"), other.pem()).expect("a scratch file");
        Files { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

struct Etcd {
    child: Child,
    endpoint: Endpoint,
    _data: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It has ended or is ours to kill.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

/// An etcd that asks clients for certificates; `None`, with a line that says so, when no etcd 3.4 is installed.
fn etcd(files: &Files, certificate: &str, test: &str) -> Option<Etcd> {
    let version = Command::new("etcd").arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    if !String::from_utf8_lossy(&version).contains("etcd Version: 3.4.") {
        eprintln!("skipped {test}: there is no etcd 3.4 on PATH");
        return None;
    }
    let data = tempfile::tempdir().expect("a scratch directory");
    let (client, peer) = (format!("https://127.0.0.1:{}", free_port()), format!("http://127.0.0.1:{}", free_port()));
    let mut command = Command::new("etcd");
    command.arg("--enable-v2").arg("--data-dir").arg(data.path().join("d"));
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("default={peer}")]);
    command.arg("--cert-file").arg(files.path(&format!("{certificate}.crt")));
    command.arg("--key-file").arg(files.path(&format!("{certificate}.key")));
    command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(files.path("ca.crt"));
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("etcd runs");
    let port = client.rsplit(':').next().and_then(|p| p.parse().ok()).expect("a port");
    let begun = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(begun.elapsed() < START_LIMIT, "etcd did not listen in time");
        thread::sleep(Duration::from_millis(20));
    }
    Some(Etcd { child, endpoint: client.parse().expect("an endpoint"), _data: data })
}

fn client(endpoint: &Endpoint, tls: Tls) -> Client {
    let patient = Duration::from_secs(60);
    let options = Options { request_timeout: patient, total_timeout: Some(patient), credentials: None, tls };
    Client::new(vec![endpoint.clone()], options)
}

fn load(files: &Files, identity: bool, ca: Option<&str>) -> Tls {
    let [certificate, key] = ["client.crt", "client.key"].map(|name| identity.then(|| files.path(name)));
    let ca = ca.map(|name| files.path(name));
    Tls::load(certificate.as_deref(), key.as_deref(), ca.as_deref()).expect("readable files")
}

/// What the only endpoint failed with.
fn why(result: Result<impl std::fmt::Debug, ClientError>) -> String {
    match result {
        Err(ClientError::Unavailable(failures)) => match &failures[..] {
            [Failure::Broken { why, .. }] => why.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn certificates_of_both_sides_are_checked() {
    let files = Files::new();
    let Some(etcd) = etcd(&files, "server", "certificates_of_both_sides_are_checked") else { return };
    let mut good = client(&etcd.endpoint, load(&files, true, Some("ca.crt")));
    let set = good.set("/a", "1", &SetOptions::default()).expect("both sides believe each other");
    assert_eq!(set.action, "set");
    let large = "x".repeat(100_000);
    good.set("/b", &large, &SetOptions::default()).expect("more than one record");
    let got = good.get("/b", GetOptions::default()).expect("on the same connection");
    assert_eq!(got.node.map(|n| n.value), Some(large));
    assert_eq!(good.health(&etcd.endpoint), Ok(true));
    good.sync().expect("the published URL has TLS too");

    let get = |tls| client(&etcd.endpoint, tls).get("/a", GetOptions::default());
    assert_eq!(why(get(load(&files, true, Some("other.crt")))), "x509: certificate signed by unknown authority");
    assert_eq!(why(get(load(&files, true, None))), "x509: certificate signed by unknown authority", "the system's");
    // With TLS 1.3 the refusal comes after the handshake.
    let unknown = why(get(load(&files, false, Some("ca.crt"))));
    assert!(unknown.starts_with("remote error: tls: "), "{unknown}");
}

#[test]
fn a_certificate_for_another_host_is_refused() {
    let files = Files::new();
    let Some(etcd) = etcd(&files, "elsewhere", "a_certificate_for_another_host_is_refused") else { return };
    let refused = why(client(&etcd.endpoint, load(&files, true, Some("ca.crt"))).get("/a", GetOptions::default()));
    assert_eq!(refused, "x509: cannot validate certificate for 127.0.0.1 because it doesn't contain any IP SANs");
}

#[test]
fn files_are_read_at_once() {
    let files = Files::new();
    let (certificate, key, ca) = (files.path("client.crt"), files.path("client.key"), files.path("ca.crt"));
    assert!(Tls::load(Some(&certificate), Some(&key), Some(&ca)).is_ok());
    let missing = files.path("nowhere");
    let error = Tls::load(Some(&missing), Some(&key), None).expect_err("missing");
    assert_eq!(error.to_string(), format!("open {}: no such file or directory", missing.display()));
    assert!(matches!(Tls::load(Some(&certificate), None, None), Err(TlsError::Incomplete { .. })));
    assert!(matches!(Tls::load(Some(&key), Some(&key), None), Err(TlsError::Content { .. })));
    assert!(matches!(Tls::load(Some(&certificate), Some(&ca), None), Err(TlsError::Content { .. })));
}

#[test]
fn a_server_without_tls_is_named_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint: Endpoint = format!("https://{}", listener.local_addr().expect("bound")).parse().expect("an endpoint");
    let server = thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().expect("a client");
        let mut hello = [0; 4096];
        assert!(stream.read(&mut hello).expect("a hello") > 0);
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").expect("the client reads");
    });
    let refused = why(client(&endpoint, Tls::default()).get("/a", GetOptions::default()));
    assert_eq!(refused, "http: server gave HTTP response to HTTPS client");
    server.join().expect("the server ends");
}
